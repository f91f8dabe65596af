//! The identity of an endpoint: its key, its former keys, over which the current one is told
//! (HS-11), and the key of its reset tokens (HS-8).

use super::ids::LinkId;
use crate::{
    crypto::{MacKey, PublicKey, SecretKey, mac1, same},
    wire::{ConnectionId, Init, LinkName, Packet, ResetToken},
};

/// The keys of one party.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The current key.
    pub current: SecretKey,
    /// The former keys. Links to these are still accepted, and told the current key.
    pub former: Vec<SecretKey>,
    /// A key that never changes. It makes the reset tokens (HS-8).
    pub lasting: SecretKey,
}

impl From<SecretKey> for Identity {
    fn from(key: SecretKey) -> Self {
        Self {
            lasting: key.clone(),
            current: key,
            former: Vec::new(),
        }
    }
}

/// Which of this side's keys a link is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyIndex(u16);

impl KeyIndex {
    /// The current key.
    pub const CURRENT: Self = Self(0);
}

/// One of the keys of an [`Identity`].
#[derive(Clone, Debug)]
pub(super) struct OwnKey {
    pub secret: SecretKey,
    pub public: PublicKey,
}

impl From<&SecretKey> for OwnKey {
    fn from(secret: &SecretKey) -> Self {
        Self {
            secret: secret.clone(),
            public: secret.public(),
        }
    }
}

/// This side's keys, and the key of its reset tokens.
#[derive(Debug)]
pub(super) struct OwnKeys {
    current: OwnKey,
    former: Vec<OwnKey>,
    /// A reset token is a MAC over the connection id. So it is the same after a restart, and nobody
    /// else can forge one.
    reset_tokens: MacKey,
}

impl OwnKeys {
    pub fn new(identity: &Identity) -> Self {
        Self {
            current: (&identity.current).into(),
            former: identity.former.iter().map(OwnKey::from).collect(),
            reset_tokens: MacKey::derive(&identity.lasting, "reset tokens"),
        }
    }

    /// Returns all keys, the current one first.
    fn all(&self) -> impl Iterator<Item = (KeyIndex, &OwnKey)> {
        let keys = core::iter::once(&self.current).chain(&self.former);
        (0..).map(KeyIndex).zip(keys)
    }

    pub const fn current(&self) -> &OwnKey {
        &self.current
    }

    /// Returns the key of an index; `None` if there is none, which no link has.
    pub fn get(&self, index: KeyIndex) -> Option<&OwnKey> {
        let key = match index.0.checked_sub(1) {
            None => Some(&self.current),
            Some(former) => self.former.get(usize::from(former)),
        };
        debug_assert!(key.is_some(), "a link is with a key that this side has not");
        key
    }

    /// Returns the index of one of this side's keys, or that of the current key if `public` is not
    /// one of them.
    pub fn index_of(&self, public: &PublicKey) -> KeyIndex {
        let mut keys = self.all();
        let found = keys.find(|(_, key)| key.public == *public);
        found.map_or(KeyIndex::CURRENT, |(index, _)| index)
    }

    /// Returns the key that an Init is for, by its first MAC (HS-3).
    pub fn for_init(&self, init: &Init<'_>) -> Option<(KeyIndex, &OwnKey)> {
        let mut keys = self.all();
        keys.find(|(_, key)| same(&mac1(&key.public, init.covered), &init.mac1))
    }

    /// Returns the token of a Reset of `connection`.
    pub fn reset_token(&self, connection: ConnectionId) -> ResetToken {
        self.reset_tokens.mac16(&[&connection.0.to_be_bytes()])
    }

    /// Returns the Reset of a link or of a ticket.
    pub fn reset(&self, connection: ConnectionId) -> Vec<u8> {
        let mut reset = Vec::new();
        Packet::emit_reset(connection, &self.reset_token(connection), &mut reset);
        reset
    }

    /// Returns the name of link `id`, which this side opens to a realm.
    pub fn link_name(&self, id: LinkId) -> LinkName {
        let connection = ConnectionId(id.0);
        LinkName {
            connection,
            token: self.reset_token(connection),
        }
    }

    /// True if, of two links with `peer` that each side has opened, this side's stays: that of the
    /// smaller key.
    pub fn link_stays(&self, own: KeyIndex, peer: &PublicKey) -> bool {
        self.get(own).is_some_and(|key| key.public < *peer)
    }
}
