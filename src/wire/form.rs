//! The forms of commands that do one of several things: their optional fields say which. The table
//! of commands (`command.rs`) names the type of each.

use super::Options;

/// The optional fields ask for a form that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the command has no form of these optional fields")]
pub struct UnknownForm;

/// What `realms` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerListing {
    /// The peers.
    Peers,
    /// The peers with all details of each (PEER-28).
    Details,
    /// The realms that have introduced themselves and wait for a decision.
    Pending,
}

impl PeerListing {
    const DETAILS: u8 = 1;
    const PENDING: u8 = 2;
}

impl TryFrom<&Options> for PeerListing {
    type Error = UnknownForm;

    fn try_from(options: &Options) -> Result<Self, UnknownForm> {
        match options.form {
            None => Ok(Self::Peers),
            Some(Self::DETAILS) => Ok(Self::Details),
            Some(Self::PENDING) => Ok(Self::Pending),
            Some(_) => Err(UnknownForm),
        }
    }
}

impl From<PeerListing> for Options {
    fn from(listing: PeerListing) -> Self {
        Self {
            form: match listing {
                PeerListing::Peers => None,
                PeerListing::Details => Some(PeerListing::DETAILS),
                PeerListing::Pending => Some(PeerListing::PENDING),
            },
            ..Self::NONE
        }
    }
}

/// What `addrealm` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddition {
    /// It adds a peer, which has this key, if one is given. A command with a key and without an
    /// address accepts a realm that waits for a decision.
    Add {
        /// The peer's public key.
        key: Option<[u8; 32]>,
    },
    /// It gives an existing peer a new address, if the peer has this key or none is given.
    Move {
        /// The peer's public key.
        key: Option<[u8; 32]>,
    },
}

impl PeerAddition {
    const MOVE: u8 = 1;
}

impl TryFrom<&Options> for PeerAddition {
    type Error = UnknownForm;

    fn try_from(options: &Options) -> Result<Self, UnknownForm> {
        let key = options.key;
        match options.form {
            None => Ok(Self::Add { key }),
            Some(Self::MOVE) => Ok(Self::Move { key }),
            Some(_) => Err(UnknownForm),
        }
    }
}

impl From<PeerAddition> for Options {
    fn from(addition: PeerAddition) -> Self {
        let (form, key) = match addition {
            PeerAddition::Add { key } => (None, key),
            PeerAddition::Move { key } => (Some(PeerAddition::MOVE), key),
        };
        Self {
            key,
            form,
            ..Self::NONE
        }
    }
}

/// What `removerealm` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRemoval {
    /// It ends a peering, and returns the messages that wait for the peer to their senders.
    Return,
    /// It ends a peering, and drops the messages that wait for the peer.
    Drop,
    /// It refuses a realm that waits for a decision.
    Refuse {
        /// The realm's public key.
        key: [u8; 32],
    },
}

impl PeerRemoval {
    const DROP: u8 = 1;
}

impl TryFrom<&Options> for PeerRemoval {
    type Error = UnknownForm;

    fn try_from(options: &Options) -> Result<Self, UnknownForm> {
        match (options.form, options.key) {
            (None, None) => Ok(Self::Return),
            (Some(Self::DROP), None) => Ok(Self::Drop),
            (None, Some(key)) => Ok(Self::Refuse { key }),
            (Some(_), _) => Err(UnknownForm),
        }
    }
}

impl From<PeerRemoval> for Options {
    fn from(removal: PeerRemoval) -> Self {
        let (form, key) = match removal {
            PeerRemoval::Return => (None, None),
            PeerRemoval::Drop => (Some(PeerRemoval::DROP), None),
            PeerRemoval::Refuse { key } => (None, Some(key)),
        };
        Self {
            key,
            form,
            ..Self::NONE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PEER-28
    #[test]
    fn form_written_as_options_is_read_back() {
        use PeerAddition::{Add, Move};
        let key = [7; 32];
        for listing in [
            PeerListing::Peers,
            PeerListing::Details,
            PeerListing::Pending,
        ] {
            assert_eq!(PeerListing::try_from(&listing.into()), Ok(listing));
        }
        for key in [None, Some(key)] {
            for addition in [Add { key }, Move { key }] {
                assert_eq!(PeerAddition::try_from(&addition.into()), Ok(addition));
            }
        }
        for removal in [
            PeerRemoval::Return,
            PeerRemoval::Drop,
            PeerRemoval::Refuse { key },
        ] {
            assert_eq!(PeerRemoval::try_from(&removal.into()), Ok(removal));
        }
    }

    /// PEER-28
    #[test]
    fn form_of_newer_version_is_unknown() {
        let options = |form, key| Options {
            key,
            form: Some(form),
            ..Options::NONE
        };
        assert_eq!(PeerListing::try_from(&options(3, None)), Err(UnknownForm));
        assert_eq!(PeerAddition::try_from(&options(2, None)), Err(UnknownForm));
        for (form, key) in [(2, None), (1, Some([7; 32]))] {
            assert_eq!(PeerRemoval::try_from(&options(form, key)), Err(UnknownForm));
        }
    }
}
