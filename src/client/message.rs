//! A message to send.

use core::time::Duration;

use super::EntryId;
use crate::wire::{Options, Sent};

/// The result of sending a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where it is now.
    pub state: Sent,
    /// The id of its outbox entry.
    pub id: EntryId,
}

impl Receipt {
    /// Returns the state's name, as scripts see it.
    pub const fn name(&self) -> &'static str {
        self.state.name()
    }
}

/// A message and its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// UTF-8 text.
    pub body: &'a [u8],
    /// Its time to live, from one second to seven days; a fraction of a second is left out. `None`
    /// for no limit. A
    /// message to another realm that expires comes back as a notice (PEER-17). In its own realm a
    /// message is in the mailbox as soon as it is sent.
    pub ttl: Option<Duration>,
}

impl Message<'_> {
    /// Returns the options that carry these fields.
    pub(super) fn options(&self) -> Options {
        Options {
            ttl: self.ttl.map(|ttl| ttl.as_secs()),
            ..Options::NONE
        }
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(body: &'a [u8]) -> Self {
        Self { body, ttl: None }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Message<'a> {
    fn from(body: &'a [u8; N]) -> Self {
        body.as_slice().into()
    }
}

impl<'a> From<&'a Vec<u8>> for Message<'a> {
    fn from(body: &'a Vec<u8>) -> Self {
        body.as_slice().into()
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Self {
        text.as_bytes().into()
    }
}
