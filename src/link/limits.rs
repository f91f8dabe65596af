//! All that the other side of a link can make this side hold, at most. Each bound is enforced in the file whose
//! business it is.

use core::time::Duration;

/// Messages of one link that are put together at once.
pub const ASSEMBLIES_MAX: usize = 2;
/// Pieces in which a message may lie here before it is whole.
pub const PIECES_MAX: usize = 64;
/// A request of which no more comes for so long is forgotten; if it is still wanted, its sender asks it anew as a
/// whole. An event or a reply never is: its sender takes for arrived what was acknowledged.
pub const ASSEMBLY_PATIENCE: Duration = Duration::from_mins(15);
/// Messages that were put together and are remembered.
pub const ASSEMBLED_KEPT: usize = 32;
/// The newest request may be so far ahead of the oldest unanswered one: as far as the other side
/// remembers replies (LINK-9).
pub const REQUEST_SPAN: u64 = 128;
/// Requests of one link worked on at once; further ones are left for the sender to repeat.
pub const WORKING_MAX: usize = 128;
/// Replies that have left and whose arrival this side sees to; of more it sees to the youngest, and its other side asks for the others.
pub const LEAVING_MAX: usize = 2 * WORKING_MAX;
/// Replies that have yet to leave or to arrive; while there are so many, further requests count as lost.
pub const LEAVING_ALL_MAX: usize = 4 * WORKING_MAX;
/// Replies kept to be sent again.
pub const REPLIES_KEPT: usize = 128;
/// Replies kept for somebody of whom nothing is known.
pub const STRANGER_REPLIES_KEPT: usize = 8;
/// Bytes of longer replies that have not arrived yet; while there are more, further requests count as lost.
pub const REPLIES_HELD_MAX: usize = 256 << 10;
/// Replies longer than this are not kept: they come from reads, which may as well be done again.
pub const REPLY_KEPT_BYTES: usize = 64;
/// Events of one kind that may be on their way at once.
pub const PUSHES_AT_ONCE: usize = 32;
/// Packet numbers remembered behind the largest; whatever is older counts as seen.
pub const REPLAY_WINDOW: u64 = 1024;
/// Packets remembered for what they ask: as many as an acknowledgement tells of.
pub const ASKING_KEPT: usize = 64;
/// Numbers of requests that are remembered with these, where packets ask much.
pub const ASKED_KEPT: usize = 2 * WORKING_MAX;
/// Packets remembered; the oldest is forgotten for a newer one, and what it carried then waits for
/// its own timeout.
pub const SENT_MAX: usize = 256;
/// Packets given up that are remembered.
pub const GIVEN_UP_MAX: usize = 64;
