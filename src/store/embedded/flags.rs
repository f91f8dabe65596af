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

    /// The file that is renamed to raise it: that takes no room, of which the disk may have none just then.
    fn spare(self, directory: &Path) -> Option<PathBuf> {
        match self {
            Self::Restored => None,
            Self::Distrusted => Some(directory.join("store.distrusted.spare")),
        }
    }

    /// True when it is raised in a data directory.
    pub fn is_raised(self, directory: &Path) -> io::Result<bool> {
        self.file(directory).try_exists()
    }

    /// Makes what it takes to raise it on a full disk.
    pub fn prepare(self, directory: &Path) -> io::Result<()> {
        match self.spare(directory) {
            Some(spare) if !spare.try_exists()? => {
                File::create(spare)?.sync_all()?;
                sync_directory(directory)
            }
            _ => Ok(()),
        }
    }

    /// Raises it, for good when this returns.
    pub fn raise(self, directory: &Path) -> io::Result<()> {
        let file = self.file(directory);
        let spare = self.spare(directory);
        let is_there = self.is_raised(directory)?
            || spare.is_some_and(|spare| fs::rename(spare, &file).is_ok());
        if !is_there {
            File::create(&file)?.sync_all()?;
        }
        // Also if it is there: what failed before may have been this.
        sync_directory(directory)
    }

    /// Takes it down.
    pub fn lower(self, directory: &Path) -> io::Result<()> {
        let file = self.file(directory);
        let lowered = match self.spare(directory) {
            Some(spare) => fs::rename(file, spare),
            None => fs::remove_file(file),
        };
        match lowered {
            Ok(()) => sync_directory(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    /// The disk is full when it is to be raised, as that is what the write has failed of.
    #[test]
    fn distrust_is_noted_where_no_file_can_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let file = Flag::Distrusted.file(data);
        // No file can be made under this name, be it by root.
        let block = || symlink(data.join("nowhere/file"), &file).unwrap();
        block();
        File::create(&file).unwrap_err();
        Flag::Distrusted.raise(data).unwrap_err();
        Flag::Distrusted.prepare(data).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let spare = inode(&Flag::Distrusted.spare(data).unwrap());
        for _ in 0..2 {
            Flag::Distrusted.raise(data).unwrap();
            assert!(Flag::Distrusted.is_raised(data).unwrap());
            assert_eq!(inode(&file), spare);
            // Once more is as good.
            Flag::Distrusted.raise(data).unwrap();
            Flag::Distrusted.lower(data).unwrap();
            assert!(!Flag::Distrusted.is_raised(data).unwrap());
            block();
        }
    }
}
