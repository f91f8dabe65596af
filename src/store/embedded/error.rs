//! Why a store cannot be opened, and which of these errors may be temporary.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{super::StoreError, layout};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("cannot use the store directory {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("another merpati serves from the directory {}; stop it first, or give --data another directory", .0.display())]
    Locked(PathBuf),
    /// The lock of the data directory was free, but the engine's lock is not.
    #[error("the engine's files in {} are still locked, by this process or another program: end it and start merpati again", .0.display())]
    Held(PathBuf),
    /// The file system has no space to open or create the store.
    #[error("no room on the file system of {}: {source}; make room there{}", path.display(), if *is_new {
        " and start again: there was no store yet"
    } else {
        ""
    })]
    Full {
        /// The file or directory.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
        /// True if there was no store before.
        is_new: bool,
    },
    /// A newer release wrote it.
    #[error("the store in {} was written by a newer merpati (format {found}, this one knows {}); use that release", path.display(), layout::FORMAT)]
    Newer {
        /// The directory.
        path: PathBuf,
        /// The format number found.
        found: u32,
    },
    /// The engine refused the store.
    #[error("the store in {} cannot be opened: {reason}; restore the whole data directory from a backup, or see docs/disk.md", path.display())]
    Engine {
        /// The directory.
        path: PathBuf,
        /// The engine's error.
        reason: String,
    },
    /// Acknowledged writes are lost. The store can be opened without them.
    #[error("the store has lost writes: {what} ({}). Restore the whole data directory from a backup, or start once with --accept-damage to \
        go on without what is lost: docs/disk.md says what that takes", path.display())]
    Lost {
        /// The file, or the directory of several.
        path: PathBuf,
        /// What was lost.
        what: String,
    },
    /// A file is damaged or missing, and without it the other files are of no use.
    #[error("the store is damaged: {} {what}. --accept-damage is of no use here: restore the whole data directory from a backup. Without one, \
        move `store` and `store.mark` away and start once with --restored: the realm keeps its key, and accounts are made anew (docs/disk.md)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl OpenError {
    /// True if the system refused something that may work later, possibly after somebody frees
    /// space, or if the lock is held: there is no sign of a fault in the store.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Locked(_) | Self::Full { .. } => true,
            Self::Io { source, .. } => may_pass(source),
            _ => false,
        }
    }
}

/// True if the disk is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// True if the system may not refuse the same later: it has no space, memory, thread or file
/// descriptor left, or the file system is read-only.
pub fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, ReadOnlyFilesystem, ResourceBusy, WouldBlock};

    is_full(error)
        || matches!(
            error.kind(),
            OutOfMemory | ReadOnlyFilesystem | ResourceBusy | WouldBlock
        )
        || has_no_files(error)
}

/// True if too many files are open, in this process or on this machine.
#[cfg(unix)]
fn has_no_files(error: &io::Error) -> bool {
    use rustix::io::Errno;

    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS)
    )
}

#[cfg(not(unix))]
const fn has_no_files(_: &io::Error) -> bool {
    false
}

/// Converts an error of the engine. A refusal by the system is reported as such: it says nothing
/// about the store.
pub(super) fn engine_error(directory: &Path, error: fjall::Error) -> OpenError {
    let path = directory.into();
    match error {
        fjall::Error::Locked => OpenError::Held(path),
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source))
            if may_pass(&source) =>
        {
            OpenError::Io { path, source }
        }
        error => OpenError::Engine {
            path,
            reason: error.to_string(),
        },
    }
}

/// Converts the error of a failed read. Data that is unreadable for good or invalid is damaged.
/// Data that the system only failed to read may be intact.
pub(super) fn read_error(error: &fjall::Error) -> StoreError {
    use io::ErrorKind::{InvalidData, UnexpectedEof};

    let what = format!("it cannot be read: {error}");
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source))
            if !matches!(source.kind(), InvalidData | UnexpectedEof) =>
        {
            StoreError::Unread(what)
        }
        _ => StoreError::Damaged(what),
    }
}

/// Converts the error of an invalid record.
pub(super) fn unreadable(directory: &Path, error: &StoreError) -> OpenError {
    OpenError::Engine {
        path: directory.into(),
        reason: error.to_string(),
    }
}
