//! Messages from a listener's tasks to its worker.

use crate::{
    endpoint::{LinkId, Path},
    realm::{Account, FoundTicket, Greeting, Push, Watch, Watcher},
    wire::{ConnectionId, OperationNumber, RequestId},
};

/// The result of a task.
pub enum Completion<S> {
    Greeting(LinkId, Greeting),
    Answer(LinkId, RequestId, Answered<S>),
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

/// The answer to a command.
pub struct Answered<S> {
    pub answer: Vec<u8>,
    pub then: Then<S>,
    /// The account of the command, if the link had none yet.
    pub account: Option<Account>,
    /// The operation number, if the command was early data.
    pub operation: Option<OperationNumber>,
}

/// The follow-up of an answer.
pub enum Then<S> {
    Nothing,
    /// The request was allowed, but its watch could not begin.
    Failed,
    /// Entries are pushed from now on.
    Watch(Box<Watch<S>>),
    /// Entries are no longer pushed.
    Unwatch,
}
