//! The errors of a profile's files and records. They stand below everything that reads or writes a
//! profile; the errors of calls are in `error`.

use std::{io, path::PathBuf};

use crate::{crypto::IdentityError, wire::InvalidName};

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The file system reported an error.
    #[error("cannot use the profile file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// The records were not written by this or an older version.
    #[error(
        "the profile file {} is damaged, or was written by a newer merpati; restore it from a backup, \
         or remove it and log in again", .0.display()
    )]
    Damaged(PathBuf),
    /// The device's key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The home directory is unknown.
    #[error("cannot tell where your home directory is; pass --home or set MERPATI_HOME")]
    NoHome,
    /// A connection string whose fields make a text that does not mean the same. It could not be
    /// read from the profile again.
    #[error(
        "{0} is no connection string: its host is a name or address of ASCII letters, digits and . - _ : %, and its port \
         a number from 1 to 65535; write other names in their ASCII form, as in xn--bcher-kva.example"
    )]
    Server(String),
    /// An invalid profile name.
    #[error("{0:?} is not a name for a profile: {1}")]
    Name(String, InvalidName),
}
