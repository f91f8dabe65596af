//! A message, as it is given to be sent.

use core::time::Duration;

use super::EntryId;
use crate::wire::{Options, Sent};

/// What a message has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where it is.
    pub state: Sent,
    /// Its entry in the outbox, by which it was sent.
    pub id: EntryId,
}

impl Receipt {
    /// The state's name, as scripts see it.
    pub const fn name(&self) -> &'static str {
        self.state.name()
    }
}

/// A message, and what is to be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// UTF-8 text.
    pub body: &'a [u8],
    /// For how long it is worth delivering, in whole seconds, at least one and at most seven days; for as long as any
    /// without it. One that goes to another realm and outlives that comes back as a notice (PEER-17); in a mailbox of
    /// its own realm it is as soon as it is sent.
    pub ttl: Option<Duration>,
}

impl Message<'_> {
    /// The optional fields that say so.
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
