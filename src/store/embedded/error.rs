//! Why a store cannot be opened, and which of that may pass.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{super::StoreError, layout};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("cannot use the store directory {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("another merpati serves from the directory {}; stop it first, or give --data another directory", .0.display())]
    Locked(PathBuf),
    /// This directory's own lock was free, and the engine's is not.
    #[error("the engine's files in {} are still locked, by this process or another program: end it and start merpati again", .0.display())]
    Held(PathBuf),
    /// The file system has no room to open it, or to make it.
    #[error("no room on the file system of {}: {source}; make room there{}", path.display(), if *is_new {
        " and start again: there was no store yet"
    } else {
        ""
    })]
    Full {
        /// The file or directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
        /// There was none before.
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
    /// The engine refused it.
    #[error("the store in {} cannot be opened: {reason}; restore the whole data directory from a backup, or see docs/disk.md", path.display())]
    Engine {
        /// The directory.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// What was acknowledged is not there any more, and going on without it is possible.
    #[error("the store has lost writes: {what} ({}). Restore the whole data directory from a backup, or start once with --accept-damage to \
        go on without what is lost: docs/disk.md says what that takes", path.display())]
    Lost {
        /// The file, or the directory of several.
        path: PathBuf,
        /// What is lost.
        what: String,
    },
    /// A file is damaged or missing without which nothing can be made of the others.
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
    /// True when it is one of the system's refusals that may end by themselves or once somebody makes room, or when the lock is held:
    /// nothing is known to be wrong with the store.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Locked(_) | Self::Full { .. } => true,
            Self::Io { source, .. } => may_pass(source),
            _ => false,
        }
    }
}

/// True when the disk has no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// True when the system may not refuse the same later: there is no room, no memory, no thread or no file left, or the file system cannot be
/// written to.
pub fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, ReadOnlyFilesystem, ResourceBusy, WouldBlock};

    is_full(error)
        || matches!(
            error.kind(),
            OutOfMemory | ReadOnlyFilesystem | ResourceBusy | WouldBlock
        )
        || has_no_files(error)
}

/// True when too many files are open, in this process or on this machine.
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

/// What the engine has said. What the system has refused it is told as such: it says nothing of the store.
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

/// A read has failed. What can be read no more, or makes no sense, is damaged; what the system has only failed to read may be sound.
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

/// Something that the engine gave cannot be made out.
pub(super) fn unreadable(directory: &Path, error: &StoreError) -> OpenError {
    OpenError::Engine {
        path: directory.into(),
        reason: error.to_string(),
    }
}
