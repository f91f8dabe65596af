//! Upper bounds of what others can make an endpoint hold. Each bound is enforced in the file of its
//! subject.

use std::time::Duration;

/// The largest number of Inits remembered.
pub const ACCEPTS_MAX: usize = 4096;
/// How long an Init is remembered: a repeat may be in transit for a minute, and may have left late.
pub const ACCEPT_LIFETIME: Duration = Duration::from_mins(3);
/// The largest number of half-open links without a cookie, whose initiator's address is unproven.
pub const HALF_OPEN_MAX: usize = 512;
/// The largest number of unproven links resumed from the addresses of their tickets.
pub const RETURNED_MAX: usize = 512;
/// How long a link may take to prove the address of the other side. Round trips take up to a
/// minute, and some packets are lost.
pub const UNPROVEN_LIFETIME: Duration = Duration::from_mins(3);
/// Proven links of devices without a session that are kept per subnet. The oldest is evicted for
/// another.
pub const STRANGERS_PER_SUBNET: usize = 64;
/// The minimum that each of several workers keeps per subnet, so that two devices that log in at
/// once do not evict each other.
pub const STRANGERS_PER_WORKER: usize = 8;
/// One in this many link slots is reserved for devices that are not logged in yet. Links of
/// accounts beyond the rest evict each other.
pub const NEWCOMERS_PART: usize = 16;
/// How long a silent link of a device without a session is kept.
pub const STRANGER_IDLE: Duration = Duration::from_mins(5);
/// Links per device key that are kept. The one least recently heard is evicted for another.
pub const LINKS_PER_KEY_MAX: usize = 8;
/// Datagrams sent to an unverified address at which a peer is said to be.
pub const DIALS_ONCE: u32 = 3;
/// How long the answer to the last of them is awaited: a round trip may take a minute.
pub const DIALS_ONCE_PATIENCE: Duration = Duration::from_secs(75);
/// The largest number of concurrent ticket lookups in the caller's records.
pub const TICKETS_LOOKED_UP: usize = 1024;
/// Unproven links per ticket that are kept. The oldest answered one, or else the oldest, is evicted
/// for another.
pub const RESUMED_PER_TICKET: usize = 8;
/// The largest number of tickets remembered from links that ended unproven.
pub const TICKETS_UNPROVEN: usize = 1024;
/// How long an Accept waits for the answers to early data (HS-5).
pub const ACCEPT_PATIENCE: Duration = Duration::from_millis(50);
/// Links that hold less memory are not worth ending, in bytes.
pub const WORTH_ENDING: usize = 1 << 10;
/// The largest number of Hellos that wait for an answer.
pub const HELLOS_MAX: usize = 16;
/// Bytes of messages in reassembly on all links of accounts and on links that this side opened
/// (LINK-13).
pub const ASSEMBLING_MAX: usize = 16 << 20;
/// The same on all other links, in addition to that.
pub const STRANGERS_ASSEMBLING_MAX: usize = ASSEMBLING_MAX / 4;
/// Table entries that count handshakes and resumptions by subnet.
pub const HANDSHAKE_SUBNETS: usize = 4096;
/// Table entries that count Resets and refused Resumes by subnet.
pub const RESET_SUBNETS: usize = 1024;
/// Answers to strangers that wait to be sent. Further datagrams get no answer.
pub const ANSWERS_MAX: usize = 4096;
