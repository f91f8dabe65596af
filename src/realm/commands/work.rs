//! A command that is being executed: what it has read, decided and leaves to be done.

use crate::realm::{
    Caller, credentials::Hashed, peer::Peer, queues::shares::Arriving, records::QueuedRecord,
};
use crate::{
    crypto::PublicKey,
    store::Batch,
    wire::{Answer, GroupName, OperationNumber, RealmId, Request, Username, command::Change},
};

/// A command that is being executed.
pub(in crate::realm) struct Work<'a> {
    pub caller: &'a Caller,
    pub request: &'a Request<'a>,
    pub change: Change<'a, 'a>,
    pub batch: Batch,
    pub hashed: Hashed,
    /// The realms to tell that a group has grown, after the commit.
    pub hints: Vec<(RealmId, GroupName)>,
    /// The group of another realm that is to be read, after the commit.
    pub replica: Option<(RealmId, GroupName)>,
    /// The message that it queues for another realm.
    pub queued: Option<(RealmId, QueuedRecord, Arriving)>,
    /// The user whose groups or sessions it changes.
    pub affected: Option<Username>,
    /// The user for whom it makes the store larger, if it does.
    pub adds_for: Option<Username>,
    /// Its decision about another realm.
    pub decision: Option<Decision>,
    /// True if it ends a group: its members then need work.
    pub ends: bool,
    /// True if its number is not recorded, because nothing can be done under that number any more.
    pub is_unrecorded: bool,
    /// True if it has been counted among its user's commands.
    pub is_counted: bool,
    /// The questions that other realms were asked for it, with their answers.
    pub answered: Vec<AnsweredQuestion>,
    /// The peering number that was drawn for a peering that it begins.
    pub drawn: Option<u64>,
}

impl Work<'_> {
    /// Returns the command's operation number.
    pub const fn number(&self) -> OperationNumber {
        self.change.operation().number
    }

    /// Discards all changes and effects. The expectations stay, because the refusal depends on them
    /// too.
    pub(super) fn forget(&mut self) {
        self.batch.changes.clear();
        self.hints.clear();
        self.replica = None;
        (self.queued, self.affected, self.decision) = (None, None, None);
        self.ends = false;
    }
}

impl<'a> Work<'a> {
    /// Returns the work for a command before it is decided.
    pub(super) fn new(
        caller: &'a Caller,
        request: &'a Request<'a>,
        change: Change<'a, 'a>,
    ) -> Self {
        Self {
            caller,
            request,
            change,
            batch: Batch::new(),
            hashed: Hashed::default(),
            hints: Vec::new(),
            replica: None,
            queued: None,
            affected: None,
            adds_for: None,
            decision: None,
            ends: false,
            is_unrecorded: false,
            is_counted: false,
            answered: Vec::new(),
            drawn: None,
        }
    }
}

/// A question to another realm.
#[derive(Debug)]
pub(in crate::realm) enum Question {
    /// Asks for the key of the realm at a host and port.
    Who(String, u16),
    /// A request to a peer, in its bytes on the wire.
    Peer(Box<Peer>, Vec<u8>),
}

impl Question {
    /// True if both ask the same of the same realm.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Who(host, port), Self::Who(asked_host, asked_port)) => {
                (host, port) == (asked_host, asked_port)
            }
            (Self::Peer(peer, bytes), Self::Peer(asked, asked_bytes)) => {
                let to = |peer: &Peer| (peer.key(), peer.knows());
                to(peer) == to(asked) && peer.address() == asked.address() && bytes == asked_bytes
            }
            (Self::Who(..), Self::Peer(..)) | (Self::Peer(..), Self::Who(..)) => false,
        }
    }
}

/// Another realm's answer.
#[derive(Debug)]
pub(super) enum Said {
    Who(Option<PublicKey>),
    Peer(Option<Answer>),
}

/// A question that a command has asked, its answer, and the values that it relied on before.
#[derive(Debug)]
pub(in crate::realm) struct AnsweredQuestion {
    pub(super) question: Question,
    pub(super) said: Said,
    pub(super) relied: Batch,
}

/// An operator's decision about another realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::realm) enum Act {
    Added,
    Accepted,
    Moved,
    Removed,
    /// Removed, and its queue dropped.
    Dropped,
    Refused,
}

/// A decision, with the realm that it is about and the operator that made it.
#[derive(Clone, Debug)]
pub(in crate::realm) struct Decision {
    pub act: Act,
    pub peer: RealmId,
    pub key: PublicKey,
    /// The realm's new address, if the operator gave one.
    pub address: String,
    pub who: Username,
}
