//! Upper bounds on everything that the other side of a link can make this side hold. The file that
//! holds each resource enforces its bound.

use core::time::Duration;

/// The smallest limit on datagrams that a party may set, in bytes (LINK-10).
pub const DATAGRAM_MIN: usize = 160;
/// The limit on datagrams unless a party sets another, in bytes.
pub const DATAGRAM_DEFAULT: usize = 1200;
/// Messages of one link that are reassembled at once.
pub const ASSEMBLIES_MAX: usize = 2;
/// Separate ranges of an incomplete message.
pub const PIECES_MAX: usize = 64;
/// An incomplete request without further fragments is forgotten after this time. If it is still
/// wanted, its sender sends all of it again. An event or a reply is never forgotten, because its
/// sender counts acknowledged fragments as arrived.
pub const ASSEMBLY_PATIENCE: Duration = Duration::from_mins(15);
/// Reassembled messages that are remembered.
pub const ASSEMBLED_KEPT: usize = 32;
/// The newest request may be at most this far ahead of the oldest unanswered one: as far as the
/// other side remembers replies (LINK-9).
pub const REQUEST_SPAN: u64 = 128;
/// Requests of one link in work at once; the sender must repeat further ones.
pub const WORKING_MAX: usize = 128;
/// Sent replies that this side retransmits. Of more it retransmits the youngest, and the other side
/// requests the others again.
pub const LEAVING_MAX: usize = 2 * WORKING_MAX;
/// Replies that are unsent or unacknowledged; at this number further requests count as lost.
pub const LEAVING_ALL_MAX: usize = 4 * WORKING_MAX;
/// Sent replies kept for repeated requests.
pub const REPLIES_KEPT: usize = 128;
/// Sent replies kept for a stranger.
pub const STRANGER_REPLIES_KEPT: usize = 8;
/// Bytes of unacknowledged long replies; above this further requests count as lost.
pub const REPLIES_HELD_MAX: usize = 256 << 10;
/// Longer replies are not kept, in bytes: they come from reads, which can be executed again.
pub const REPLY_KEPT_BYTES: usize = 64;
/// Events of one kind in flight at once.
pub const PUSHES_AT_ONCE: usize = 32;
/// Packet numbers remembered below the largest; older ones count as seen.
pub const REPLAY_WINDOW: u64 = 1024;
/// Packets remembered for their requests: as many as an acknowledgement covers.
pub const REQUEST_PACKETS_KEPT: usize = 64;
/// Request numbers remembered for these packets, if packets carry many.
pub const REQUESTS_REMEMBERED: usize = 2 * WORKING_MAX;
/// Sent packets remembered. The oldest is forgotten for a newer one, and its items then wait for
/// their own timeouts.
pub const SENT_MAX: usize = 256;
/// Packets declared lost that are remembered.
pub const GIVEN_UP_MAX: usize = 64;
