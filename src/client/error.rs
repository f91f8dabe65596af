//! Why a call returned no answer, and what to do about it.
//!
//! Each error says one of four things: refused; certainly not done and not kept; kept; or not known and not kept. Only
//! what is certainly not done may be repeated without looking first.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    EntryId,
    outbox::{OUTBOX_BYTES_MAX, TOKENS_MAX},
};
use crate::{
    crypto::{IdentityError, PublicKey},
    wire::{PROTOCOL_VERSION, Refusal},
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The realm refused the command; it has changed nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// Nothing was heard from the realm and nothing of the command has left: it is certainly not done, and not kept.
    #[error("{}", unreachable(.address, .waited, *.refused))]
    Unreachable {
        /// Where the realm should be.
        address: SocketAddr,
        /// How long it was tried.
        waited: Duration,
        /// The machine there says that nothing listens on the port.
        refused: bool,
    },
    /// A command with a password had to wait for an entry of the outbox about the same thing until its deadline: it is
    /// certainly not done, and not kept.
    #[error(
        "not done: something begun before it is not finished, and was not within {waited:?}; `merpati outbox` shows it"
    )]
    Behind {
        /// How long it was tried.
        waited: Duration,
    },
    /// What changes nothing has no answer at its deadline, though the realm was heard meanwhile.
    #[error(
        "no answer within {waited:?}, though the realm was heard meanwhile; it changes nothing, and may be asked again"
    )]
    NoAnswer {
        /// How long it was tried.
        waited: Duration,
    },
    /// Nothing of the command has left before its deadline: it is certainly not done, and not kept.
    #[error("not done within {waited:?}, and not kept")]
    NotDone {
        /// How long it was tried.
        waited: Duration,
    },
    /// It has no answer at its deadline. It is kept in the outbox and sent again whenever a client of the profile runs: it
    /// must not be repeated.
    #[error("{}", kept(*.id, *.is_unknown, .waited, .why.as_deref()))]
    Kept {
        /// Its entry.
        id: EntryId,
        /// Some of it may have left: it may have been done. Otherwise it is certainly not done so far.
        is_unknown: bool,
        /// How long it was tried.
        waited: Duration,
        /// What is known of the reason.
        why: Option<String>,
    },
    /// Some of the command has left and no answer came: it may have been done. It is not kept, because it carried a password
    /// or [`Sending::keep`](super::Sending::keep) was unset; its number is used up when the realm is reached (EXACT-11).
    #[error(
        "no answer within {waited:?}: whether it was done is not known. It is not kept: it carried a password, or was not \
         to be. Look before you repeat it"
    )]
    OutcomeUnknown {
        /// How long it was tried.
        waited: Duration,
    },
    /// The realm asked to come again later than the deadline. A command that changes something is not kept here.
    #[error("{0} There was no time left to wait")]
    Busy(Refusal),
    /// Another call has taken it back: it is certainly not done.
    #[error("it was taken back, and has not been done")]
    Cancelled,
    /// In another window of the profile somebody else has logged in.
    #[error(
        "another user has logged in with this profile meanwhile; begin anew to go on as that user"
    )]
    AnotherUser,
    /// The token was used for another command: nothing was sent.
    #[error("this --id was used for another command before; give each command an --id of its own")]
    TokenReused,
    /// The outbox remembers as many tokens as fit: nothing was sent.
    #[error(
        "the outbox remembers {TOKENS_MAX} --id tokens, and the oldest is not 30 days old yet; send without --id"
    )]
    TokensFull,
    /// It cannot be written down, so that nothing of it has left: certainly not done, and not kept.
    #[error("not done, and not kept: {0}")]
    NotWritten(ProfileError),
    /// The commands in the outbox take as many bytes as it holds: not done, and not kept.
    #[error(
        "the outbox holds {bytes} bytes of {OUTBOX_BYTES_MAX} that wait for their realm: not done, and not kept. `merpati \
         outbox` lists them, `outbox wait` waits, `outbox cancel` takes one back"
    )]
    OutboxFull {
        /// Bytes in it.
        bytes: u64,
    },
    /// The realm's address cannot be found.
    #[error(
        "cannot find {host}: {source}; check the name in the connection string, and the network"
    )]
    Resolve {
        /// The name.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever answers at the realm's address has another key.
    #[error(
        "the realm at {address} is not the one this profile knows: its key is {found}, not {pinned}.\n\
         Either someone stands in between, or its operator made a new key. Ask the operator; if the \
         new key is right, give --server with the new connection string"
    )]
    KeyChanged {
        /// Where.
        address: SocketAddr,
        /// The key the profile knows.
        pinned: PublicKey,
        /// The key that is there now.
        found: PublicKey,
    },
    /// Whoever answers at the realm's address speaks these versions of the protocol, and not that of this program.
    #[error(
        "the realm speaks versions {0:?} of the protocol, and this program version {PROTOCOL_VERSION}; use another \
         release of merpati"
    )]
    OtherVersion(Vec<u8>),
    /// The connection string names no key, and nobody said to take the realm's word for it.
    #[error(
        "the connection string names no key: add the # and the key that `merpati serve` prints, or \
         pass --trust to accept the key of whoever answers first"
    )]
    NoKey,
    /// The profile knows no realm yet.
    #[error(
        "this profile knows no realm yet: pass --server with the connection string that `merpati serve` prints"
    )]
    NoServer,
    /// A plain link names its session in full, and the profile has none.
    #[error("nobody is logged in: use `auth` or `register` first")]
    NotLoggedIn,
    /// The answer makes no sense to this version.
    #[error(
        "the realm's answer makes no sense to this version: {what}; one of the two is too old{}",
        if *.may_be_done { ". It may have been done: look before you repeat it" } else { "" }
    )]
    Misunderstood {
        /// What is wrong with it.
        what: String,
        /// The command changes something, and may have been done; it is not kept.
        may_be_done: bool,
    },
    /// The profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The system gives no socket or no randomness.
    #[error("the system refuses what a client needs: {0}")]
    System(#[from] io::Error),
}

impl CallError {
    /// True when bytes of the command itself may have left this machine.
    pub(super) const fn may_have_left(&self) -> bool {
        !matches!(
            self,
            Self::Unreachable { .. }
                | Self::Resolve { .. }
                | Self::NoKey
                | Self::NoServer
                | Self::NotLoggedIn
                | Self::NoAnswer { .. }
                | Self::NotWritten(_)
                | Self::Behind { .. }
                | Self::NotDone { .. }
        )
    }

    /// True when it says of a command that waits more than that it waits.
    pub(super) const fn says_why(&self) -> bool {
        !matches!(
            self,
            Self::OutcomeUnknown { .. } | Self::NoAnswer { .. } | Self::NotDone { .. }
        )
    }

    /// True when trying on is of no use.
    pub(super) const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::KeyChanged { .. } | Self::OtherVersion(_) | Self::NoKey | Self::NoServer
        )
    }
}

fn kept(id: EntryId, is_unknown: bool, waited: &Duration, why: Option<&str>) -> String {
    let what = if is_unknown {
        format!("no answer within {waited:?}: whether it was done is not known yet")
    } else {
        format!("not done within {waited:?}")
    };
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    format!(
        "{what}{why}. It is kept as number {} of the outbox and goes on whenever merpati runs: do not repeat it. `merpati \
         outbox wait {0}` waits for it, `merpati outbox cancel {0}` takes it back",
        id.0
    )
}

fn unreachable(address: &SocketAddr, waited: &Duration, refused: bool) -> String {
    let why = if refused {
        "nothing listens there"
    } else {
        "nothing was heard from there"
    };
    format!(
        "cannot reach the realm at {address}: {why} in {waited:?}; is it running, and is the address right?"
    )
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file system said no.
    #[error("cannot use the profile file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The state is not what this or an older version wrote.
    #[error(
        "the profile file {} is damaged, or was written by a newer merpati; restore it from a backup, \
         or remove it and log in again", .0.display()
    )]
    Damaged(PathBuf),
    /// The device's key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is no home directory.
    #[error("cannot tell where your home directory is; pass --home or set MERPATI_HOME")]
    NoHome,
    /// Not a name for a profile.
    #[error("{0:?} is not a name for a profile: {1}")]
    Name(String, crate::wire::InvalidName),
}
