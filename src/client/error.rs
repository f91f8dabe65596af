//! Why a call did not come back with an answer, and what to do about it.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    crypto::{IdentityError, PublicKey},
    wire::Refusal,
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The realm refused the command; it has changed nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// Nothing was heard from the realm. A command that changes something is kept, and finished by
    /// the next call of this profile.
    #[error("{}", unreachable(.address, .waited, *.refused))]
    Unreachable {
        /// Where the realm should be.
        address: SocketAddr,
        /// How long it was tried.
        waited: Duration,
        /// The machine there says that nothing listens on the port.
        refused: bool,
    },
    /// The realm was heard, but not its answer. Whether the command took effect is not known; it is
    /// kept, and the next call of this profile finds out and finishes it.
    #[error(
        "no answer within {waited:?}; whether the command took effect is not known: run it again, \
         it will not be done twice"
    )]
    OutcomeUnknown {
        /// How long it was tried.
        waited: Duration,
    },
    /// The realm asks to wait for longer than there is time. An answer before that may have been lost, so whether the
    /// command took effect is not known; it is kept, and finished by the next call of this profile.
    #[error("{0} Then run it again: it will not be done twice")]
    Busy(Refusal),
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
    #[error("the realm's answer makes no sense to this version: {0}; one of the two is too old")]
    Misunderstood(String),
    /// The profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The system gives no socket or no randomness.
    #[error("the system refuses what a client needs: {0}")]
    System(#[from] io::Error),
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
