//! The long messages that leave in parts (LINK-13), and when what was sent of them counts as lost because
//! nothing is heard.

use alloc::{collections::VecDeque, vec::Vec};
use core::ops::Range;

use super::{cut::Cut, limits::ASSEMBLIES_MAX};
use crate::wire::PartOf;

/// Names a message among those of one direction.
pub type Message = (PartOf, u64);

/// The long messages on their way, in the order in which they leave.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    messages: VecDeque<(Message, Cut)>,
}

impl Parts {
    /// True when none is on its way.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes a message in: a reply before requests, both before events, which are backlog.
    pub fn push(&mut self, message: Message, bytes: Vec<u8>) {
        let rank = |of: PartOf| match of {
            PartOf::Reply => 0,
            PartOf::Request => 1,
            PartOf::Event => 2,
        };
        let at = self
            .messages
            .partition_point(|((of, _), _)| rank(*of) <= rank(message.0));
        self.messages.insert(at, (message, Cut::new(bytes)));
    }

    /// The messages that the other side puts together at present: it takes no more at once.
    fn current(&self) -> impl Iterator<Item = (Message, &Cut)> {
        self.messages
            .iter()
            .filter(|(_, cut)| !cut.is_arrived())
            .take(ASSEMBLIES_MAX)
            .map(|(message, cut)| (*message, cut))
    }

    /// True when a part should leave.
    pub fn has_queued(&self) -> bool {
        self.queued().next().is_some()
    }

    /// Bytes of the message to be sent next, at least as many as would fill a datagram if there are.
    pub fn next_len(&self) -> u64 {
        self.queued().next().map_or(0, |(_, cut)| cut.total())
    }

    /// Bytes that should leave.
    pub fn queued_len(&self) -> u64 {
        self.queued().map(|(_, cut)| cut.queued_len()).sum()
    }

    /// The messages of which a part should leave.
    pub fn queued(&self) -> impl Iterator<Item = (Message, &Cut)> {
        self.current().filter(|(_, cut)| cut.has_queued())
    }

    fn cut(&mut self, message: Message) -> Option<&mut Cut> {
        self.messages
            .iter_mut()
            .find_map(|(known, cut)| (*known == message).then_some(cut))
    }

    /// Notes that a part has left.
    pub fn sent(&mut self, message: Message, part: &Range<u64>) {
        if let Some(cut) = self.cut(message) {
            cut.sent(part);
        }
    }

    /// Notes that a part has arrived. True when with it all of the message has.
    pub fn arrive(&mut self, message: Message, part: Range<u64>) -> bool {
        self.cut(message).is_some_and(|cut| {
            cut.arrive(part);
            cut.is_arrived()
        })
    }

    /// Notes that a part is lost.
    pub fn lose(&mut self, message: Message, part: Range<u64>) {
        if let Some(cut) = self.cut(message) {
            cut.lose(part);
        }
    }

    /// All of a message is to be sent again.
    pub fn again(&mut self, message: Message) {
        if let Some(cut) = self.cut(message) {
            cut.restart();
        }
    }

    /// Takes a message out, with its bytes.
    pub fn remove(&mut self, message: Message) -> Option<Vec<u8>> {
        let at = self
            .messages
            .iter()
            .position(|(known, _)| *known == message)?;
        self.messages.remove(at).map(|(_, cut)| cut.into_bytes())
    }
}
