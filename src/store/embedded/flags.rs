//! Small files beside the store that say, by being there, what the next start has to know and this process may not live to do.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::mark::sync_directory;

/// Something that the next start has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// The store is not the one that others remember: it was restored, or damage to it was accepted. Positions that were given
    /// out are given out again.
    Restored,
    /// A write has failed: what is read of the store need not be on the disk.
    Distrusted,
}

impl Flag {
    fn file(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::Restored => "store.restored",
            Self::Distrusted => "store.distrusted",
        })
    }

    /// True when it is raised in a data directory.
    pub fn is_raised(self, directory: &Path) -> io::Result<bool> {
        self.file(directory).try_exists()
    }

    /// Raises it, for good when this returns.
    pub fn raise(self, directory: &Path) -> io::Result<()> {
        File::create(self.file(directory))?.sync_all()?;
        sync_directory(directory)
    }

    /// Takes it down.
    pub fn lower(self, directory: &Path) -> io::Result<()> {
        match fs::remove_file(self.file(directory)) {
            Ok(()) => sync_directory(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}
