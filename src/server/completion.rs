//! Messages from a listener's tasks to its worker.

use crate::{
    endpoint::{LinkId, Path},
    realm::{FoundTicket, Greeting, Handled, Push, Watcher},
    wire::{ConnectionId, RequestId},
};

/// The result of a task.
pub enum Completion<S> {
    Greeting(LinkId, Greeting),
    /// A command was executed or refused.
    Answer {
        link: LinkId,
        number: RequestId,
        /// It was early data.
        is_early: bool,
        handled: Handled<S>,
    },
    /// The answer is too long for a link whose path is not proven.
    Unproven(LinkId, RequestId, Vec<u8>),
    /// The stored ticket of the device whose Resume arrived over that path.
    Ticket(Path, Vec<u8>, FoundTicket),
    Push(LinkId, Push),
    /// These devices had a watch before this start.
    Watchers(Vec<(ConnectionId, Watcher)>),
    /// The session that was watched over a link has ended.
    Unwatched(LinkId),
}
