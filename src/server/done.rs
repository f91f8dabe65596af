//! What the tasks of a listener tell it.

use crate::{
    endpoint::LinkId,
    realm::{Greeting, Push, Watch},
};

/// What a task has found out.
pub enum Done<S> {
    Greeting(LinkId, Greeting),
    Answer(LinkId, u64, Vec<u8>, Then<S>),
    Push(LinkId, Push),
    /// The session that was watched over a link has ended.
    Unwatched(LinkId),
}

/// What follows an answer.
pub enum Then<S> {
    Nothing,
    /// Entries are pushed from now on.
    Watch(Box<Watch<S>>),
    /// They are no more.
    Unwatch,
}
