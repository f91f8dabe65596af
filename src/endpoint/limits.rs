//! All that others can make an endpoint hold, at most. Each bound is enforced in the file whose business it is.

use std::time::Duration;

pub use super::{
    link_entry::{HANDSHAKE_BYTES, LINK_BYTES},
    memory::WORTH_ENDING,
};

/// Inits remembered.
pub const ACCEPTS_MAX: usize = 4096;
/// How long an Init is remembered: a repeat of it may be on its way for a minute, and have left late.
pub const ACCEPT_LIFETIME: Duration = Duration::from_mins(3);
/// Half-open links, of which no cookie has shown that their opener receives where they say they are.
pub const HALF_OPEN_MAX: usize = 512;
/// Links that were resumed from the places of their tickets and are not proven.
pub const RETURNED_MAX: usize = 512;
/// How long a link may take to show that the other side is where it says it is.
/// Round trips take up to a minute, and some are lost.
pub const UNPROVEN_LIFETIME: Duration = Duration::from_mins(3);
/// Proven links of devices without a session that are kept from one subnet; the oldest makes room for another.
pub const STRANGERS_PER_SUBNET: usize = 64;
/// Of several workers each keeps so many of these at least: two who log in at once do not end each other's.
pub const STRANGERS_PER_WORKER: usize = 8;
/// One in so many places is for whoever is not logged in yet: links of accounts beyond the others make room for each other.
pub const NEWCOMERS_PART: usize = 16;
/// How long a silent link of such a device is kept.
pub const STRANGER_IDLE: Duration = Duration::from_mins(5);
/// Links of one device key that are kept; the one least recently heard makes room for another.
pub const LINKS_PER_KEY_MAX: usize = 8;
/// Datagrams to an address for which nobody vouches but who is said to be there.
pub const DIALS_ONCE: u32 = 3;
/// How long the answer to the last of them is waited for: a round trip may take a minute.
pub const DIALS_ONCE_PATIENCE: Duration = Duration::from_secs(75);
/// Tickets looked up elsewhere at once.
pub const TICKETS_LOOKED_UP: usize = 1024;
/// Links resumed by one ticket that are kept and are not proven; the oldest makes room for another.
pub const RESUMED_PER_TICKET: usize = 8;
/// Tickets remembered of links that have ended and have never been proven.
pub const TICKETS_UNPROVEN: usize = 1024;
/// Questions on their way at once.
pub const ASKING_MAX: usize = 16;
/// Bytes of messages in reassembly, on all links of accounts and those that this side opened (LINK-13).
pub const ASSEMBLING_MAX: usize = 16 << 20;
/// The same on all other links, in addition.
pub const STRANGERS_ASSEMBLING_MAX: usize = ASSEMBLING_MAX / 4;
/// Places in which the subnets that begin handshakes are counted.
pub const HANDSHAKE_SUBNETS: usize = 4096;
/// Places in which the subnets that are sent Resets are counted.
pub const RESET_SUBNETS: usize = 1024;
/// Answers to strangers' datagrams that wait to leave; what comes while there are more is not answered.
pub const ANSWERS_MAX: usize = 4096;
