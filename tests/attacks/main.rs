//! What strangers and intruders try against a realm on the open internet, one test for each attack.
//! Where it shows more, the test runs the real program in a process of its own.

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod datagrams;
mod links;
mod loops;
mod memory;
mod realms;
mod replay;
mod secrets;
mod storage;
mod stranger;
