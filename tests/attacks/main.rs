//! What strangers, and worse, try with a realm that stands on the open internet: one test a trap, against the real
//! program in a process of its own wherever that says more.

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
