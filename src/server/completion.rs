//! The tasks of a worker: their results come back to it through a queue.

use tokio::sync::mpsc;

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

/// The tasks of a worker.
pub struct Tasks<S> {
    sender: mpsc::UnboundedSender<Completion<S>>,
    completed: mpsc::UnboundedReceiver<Completion<S>>,
    /// The greetings and commands in progress. Other tasks do not delay a stop.
    in_progress: usize,
}

impl<S> Tasks<S> {
    pub fn new() -> Self {
        // Holds at most as many answers as commands may be in progress.
        let (sender, completed) = mpsc::unbounded_channel();
        Self {
            sender,
            completed,
            in_progress: 0,
        }
    }

    /// Returns where a task sends its result. That fails only after the server has stopped.
    pub fn sender(&self) -> mpsc::UnboundedSender<Completion<S>> {
        self.sender.clone()
    }

    /// Counts a greeting or command that begins. Returns where it sends its result.
    pub fn begin(&mut self) -> mpsc::UnboundedSender<Completion<S>> {
        self.in_progress += 1;
        self.sender()
    }

    /// Counts a greeting or command that has ended.
    pub const fn end(&mut self) {
        self.in_progress -= 1;
    }

    /// Returns the number of greetings and commands in progress.
    pub const fn in_progress(&self) -> usize {
        self.in_progress
    }

    /// Waits for the next result.
    pub async fn next(&mut self) -> Option<Completion<S>> {
        self.completed.recv().await
    }

    /// Returns the next result, if there is one already.
    pub fn try_next(&mut self) -> Option<Completion<S>> {
        self.completed.try_recv().ok()
    }
}
