//! The bounds on what others can make a listener hold. Each bound is enforced where its resource is
//! used.

use crate::link::limits::PUSHES_AT_ONCE;

/// The number of slots in which links are counted.
pub const LINKS_COUNTED: usize = 16_384;
/// The number of slots in which subnets are counted.
pub const SUBNETS_COUNTED: usize = 4096;
/// The longest answer, in bytes, to a receiver that can reassemble it (LINK-13).
pub const LONGEST_ANSWER: usize = 65 << 10;
/// The largest number of unacknowledged pushes of each kind per link.
pub const WATCHED_AT_ONCE: usize = PUSHES_AT_ONCE / 2;
/// The largest number of requests to other realms that may wait for one worker.
pub const REQUESTS_MAX: usize = 256;
/// The largest number of handed-off datagrams that may wait for one worker.
pub const HANDED_MAX: usize = 256;
/// The largest number of workers of one listener.
pub const WORKERS_MAX: usize = 64;
/// The kernel's socket buffer for a worker in each direction, in bytes. A burst must not be lost
/// while the worker is busy.
pub const SOCKET_BUFFER_BYTES: usize = 1 << 20;
