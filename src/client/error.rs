//! The errors of calls, and what they say of the command ([`Effect`]).

use std::{io, net::SocketAddr, time::Duration};

use super::{
    EntryId, ProfileError,
    outbox::{OUTBOX_BYTES_MAX, TOKENS_MAX},
};
use crate::{
    crypto::PublicKey,
    wire::{PROTOCOL_VERSION, Refusal},
};

/// What a failed call says of its command. It does not matter for a read, which may always be
/// repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The command has certainly not taken effect, and never will. It may be repeated.
    None,
    /// The command is in the outbox and is sent again whenever a client of the profile runs. It
    /// must not be repeated: [`Client::outbox_wait_for`](super::Client::outbox_wait_for) waits for
    /// it.
    Kept(EntryId),
    /// The command may have taken effect or not, and is not sent again. Look before repeating it.
    Unknown,
}

/// Why a call failed. [`CallError::effect`] says whether the command may be repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The realm refused the command. It has changed nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// Nothing was heard from the realm, and nothing of the command was sent. It was certainly not
    /// executed, and is not kept.
    #[error("{}", unreachable(.address, .waited, *.refused))]
    Unreachable {
        /// The realm's expected address.
        address: SocketAddr,
        /// How long it was tried.
        waited: Duration,
        /// The host reports that nothing listens on the port.
        refused: bool,
    },
    /// A command with a password had to wait until its deadline for an outbox entry about the same
    /// subject. It was certainly not executed, and is not kept.
    #[error(
        "not done in {waited:?}, and not kept: an earlier command of the outbox has no outcome yet; `merpati outbox` shows it"
    )]
    Behind {
        /// How long it was tried.
        waited: Duration,
    },
    /// A read has no answer at its deadline, though the realm was heard in the meantime.
    #[error(
        "no answer in {waited:?}, though the realm was heard meanwhile; the command changes nothing and may be repeated"
    )]
    NoAnswer {
        /// How long it was tried.
        waited: Duration,
    },
    /// Nothing of the command was sent before its deadline. It was certainly not executed, and is
    /// not kept.
    #[error("not done in {waited:?}, and not kept; it may be repeated")]
    NotDone {
        /// How long it was tried.
        waited: Duration,
    },
    /// The command has no answer at its deadline. It is kept in the outbox and sent again whenever
    /// a client of the profile runs. Do not repeat it.
    #[error("{}", kept(*.id, *.is_unknown, .waited, .why.as_deref()))]
    Kept {
        /// The id of its entry.
        id: EntryId,
        /// Some of it may have been sent, so it may have been executed. Otherwise it has certainly
        /// not been executed so far.
        is_unknown: bool,
        /// How long it was tried.
        waited: Duration,
        /// The reason, as far as it is known.
        why: Option<String>,
    },
    /// Some of the command was sent and no answer came, so it may have been executed. It is not
    /// kept, because it carried a password or [`Sending::keep`](super::Sending::keep) was unset.
    /// Its number is used up when the realm is reached (EXACT-11).
    #[error(
        "no answer in {waited:?}: it may have been done or not. It is not kept: it carried a password, or was not to be \
         kept. Check before you repeat it"
    )]
    OutcomeUnknown {
        /// How long it was tried.
        waited: Duration,
    },
    /// The realm asked for a retry later than the deadline. A command that changes something is not
    /// kept here.
    #[error("{0} The deadline comes before that; --deadline sets a later one")]
    Busy(Refusal),
    /// Another call has cancelled it. It was certainly not executed.
    #[error("cancelled: it was not done, and will not be")]
    Cancelled,
    /// Another user has logged in, in another process of the profile.
    #[error(
        "another user has logged in with this profile meanwhile; repeat the command to run it as that user"
    )]
    AnotherUser,
    /// The token was used for another command. Nothing was sent.
    #[error("this --id was used for another command before; give each command an --id of its own")]
    TokenReused,
    /// The outbox remembers the maximum number of tokens. Nothing was sent.
    #[error(
        "the outbox remembers {TOKENS_MAX} --id tokens, and the oldest is not 30 days old yet; send without --id"
    )]
    TokensFull,
    /// The command cannot be written to disk, so nothing of it was sent. It was certainly not
    /// executed, and is not kept.
    #[error("not done, and not kept: {0}")]
    NotWritten(ProfileError),
    /// The outbox has reached its size limit. The command was not executed, and is not kept.
    #[error(
        "the outbox is full: {bytes} of {OUTBOX_BYTES_MAX} bytes wait for their realm. Not done, and not kept. `merpati \
         outbox` lists the entries, `outbox wait` waits for them, `outbox cancel` cancels one"
    )]
    OutboxFull {
        /// The size of the entries in it, in bytes.
        bytes: u64,
    },
    /// The realm's address cannot be resolved.
    #[error(
        "cannot find {host}: {source}; check the name in the connection string, and the network"
    )]
    Resolve {
        /// The host name.
        host: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The server at the realm's address has another key.
    #[error(
        "the realm at {address} is not the one this profile knows: its key is {found}, not {pinned}.\n\
         Either someone stands in between, or its operator made a new key. Ask the operator; if the \
         new key is right, give --server with the new connection string"
    )]
    KeyChanged {
        /// The address.
        address: SocketAddr,
        /// The key that the profile knows.
        pinned: PublicKey,
        /// The key of the server there now.
        found: PublicKey,
    },
    /// The server at the realm's address speaks only these versions of the protocol, and not this
    /// program's.
    #[error(
        "the realm speaks versions {0:?} of the protocol, and this program version {PROTOCOL_VERSION}; use another \
         release of merpati"
    )]
    OtherVersion(Vec<u8>),
    /// The connection string names no key, and trust on first use was not requested.
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
    /// The answer cannot be parsed by this version.
    #[error(
        "this version cannot read the realm's answer: {what}; another release of merpati may{}",
        if *.may_be_done { ". The command may have been done: check before you repeat it" } else { "" }
    )]
    Misunderstood {
        /// What is wrong with it.
        what: String,
        /// The command changes something, and may have been executed. It is not kept.
        may_be_done: bool,
    },
    /// The profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The system provides no socket or no randomness.
    #[error("the system provides no socket or no randomness: {0}")]
    System(#[from] io::Error),
}

impl CallError {
    /// Returns what the error says of the command.
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Kept { id, .. } => Effect::Kept(*id),
            Self::OutcomeUnknown { .. }
            | Self::Busy(_)
            | Self::Misunderstood {
                may_be_done: true, ..
            }
            // The command may have been executed before the profile failed.
            | Self::Profile(_) => Effect::Unknown,
            Self::Refused(_)
            | Self::Unreachable { .. }
            | Self::Behind { .. }
            | Self::NoAnswer { .. }
            | Self::NotDone { .. }
            | Self::Cancelled
            | Self::AnotherUser
            | Self::TokenReused
            | Self::TokensFull
            | Self::NotWritten(_)
            | Self::OutboxFull { .. }
            | Self::Resolve { .. }
            | Self::KeyChanged { .. }
            | Self::OtherVersion(_)
            | Self::NoKey
            | Self::NoServer
            | Self::NotLoggedIn
            | Self::Misunderstood {
                may_be_done: false, ..
            }
            | Self::System(_) => Effect::None,
        }
    }

    /// True if bytes of the command itself may have been sent.
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

    /// True if the error gives a reason, not only that a command is waiting.
    pub(super) const fn says_why(&self) -> bool {
        !matches!(
            self,
            Self::OutcomeUnknown { .. } | Self::NoAnswer { .. } | Self::NotDone { .. }
        )
    }

    /// True if further attempts are pointless.
    pub(super) const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::KeyChanged { .. } | Self::OtherVersion(_) | Self::NoKey | Self::NoServer
        )
    }
}

fn kept(id: EntryId, is_unknown: bool, waited: &Duration, why: Option<&str>) -> String {
    let what = if is_unknown {
        format!("no answer in {waited:?}: it may have been done or not")
    } else {
        format!("not done in {waited:?}")
    };
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    format!(
        "{what}{why}. It is kept as entry {} of the outbox and sent again whenever merpati runs: do not repeat it. `merpati \
         outbox wait {0}` waits for it, `merpati outbox cancel {0}` cancels it",
        id.0
    )
}

fn unreachable(address: &SocketAddr, waited: &Duration, refused: bool) -> String {
    let why = if refused {
        ", and its host says that nothing listens there"
    } else {
        ""
    };
    format!(
        "cannot reach the realm at {address}: no answer in {waited:?}{why}; is it running, and is the address right?"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXACT-7: a program may repeat a command only if it has certainly not taken effect.
    #[test]
    fn call_error_tells_whether_command_may_be_repeated() {
        let waited = Duration::from_secs(1);
        let kept = |is_unknown| CallError::Kept {
            id: EntryId(7),
            is_unknown,
            waited,
            why: None,
        };
        for (error, effect) in [
            (CallError::NotDone { waited }, Effect::None),
            (CallError::Cancelled, Effect::None),
            (kept(false), Effect::Kept(EntryId(7))),
            (kept(true), Effect::Kept(EntryId(7))),
            (CallError::OutcomeUnknown { waited }, Effect::Unknown),
        ] {
            assert_eq!(error.effect(), effect, "{error}");
        }
    }
}
