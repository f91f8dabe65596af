//! What the tasks of a listener tell it.

use crate::{
    endpoint::{LinkId, Path},
    realm::{Account, FoundTicket, Greeting, Push, Watch, Watcher},
    wire::{ConnectionId, OperationNumber, RequestId},
};

/// What a task has found out.
pub enum Completion<S> {
    Greeting(LinkId, Greeting),
    Answer(LinkId, RequestId, Answered<S>),
    /// The answer is too long for a link that is not proven.
    Unproven(LinkId, RequestId, Vec<u8>),
    /// What is kept of the device whose Resume has come over that path.
    Ticket(Path, Vec<u8>, FoundTicket),
    Push(LinkId, Push),
    /// These were watched before this start.
    Watchers(Vec<(ConnectionId, Watcher)>),
    /// The session that was watched over a link has ended.
    Unwatched(LinkId),
}

/// The answer to a command.
pub struct Answered<S> {
    pub answer: Vec<u8>,
    pub then: Then<S>,
    /// For whom it was carried out, if that was not known of the link.
    pub account: Option<Account>,
    /// Its operation number, if it came early.
    pub operation: Option<OperationNumber>,
}

/// What follows an answer.
pub enum Then<S> {
    Nothing,
    /// What was asked for could not begin, though it was let.
    Failed,
    /// Entries are pushed from now on.
    Watch(Box<Watch<S>>),
    /// They are no more.
    Unwatch,
}
