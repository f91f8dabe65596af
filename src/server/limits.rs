//! All that others can make a listener hold, at most. Each bound is enforced in the file whose business it is.

use crate::link::limits::PUSHES_AT_ONCE;

/// Places in which links are counted.
pub const LINKS_COUNTED: usize = 16_384;
/// Places in which subnets are counted.
pub const SUBNETS_COUNTED: usize = 4096;
/// The longest answer, in bytes, to who can put one together (LINK-13).
pub const LONGEST_ANSWER: usize = 65 << 10;
/// What one link may have on its way, of each kind.
pub const WATCHED_AT_ONCE: usize = PUSHES_AT_ONCE / 2;
/// Questions to other realms that may wait for one worker.
pub const CALLS_MAX: usize = 256;
/// Datagrams that may wait for the worker that they belong to.
pub const HANDED_MAX: usize = 256;
/// Workers of one listener, at most.
pub const WORKERS_MAX: usize = 64;
/// Bytes the kernel may hold for a worker in each direction: a burst must not be lost while a
/// worker is busy.
pub const SOCKET_BUFFER_BYTES: usize = 1 << 20;
