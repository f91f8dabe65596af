//! Flag files beside the store. Their existence tells the next start what this process may not live
//! to report.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::mark::sync_directory;

/// A flag for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// The store differs from the one that others remember: it was restored, or damage to it was
    /// accepted. Positions that were used may be used again.
    Restored,
    /// A write has failed: data that is read from the store may not be on the disk.
    Distrusted,
}

impl Flag {
    fn file(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::Restored => "store.restored",
            Self::Distrusted => "store.distrusted",
        })
    }

    /// Returns the file that is renamed to raise the flag: a rename takes no space, and the disk
    /// may have none at that moment.
    fn spare(self, directory: &Path) -> Option<PathBuf> {
        match self {
            Self::Restored => None,
            Self::Distrusted => Some(directory.join("store.distrusted.spare")),
        }
    }

    /// True if the flag is raised in a data directory.
    pub fn is_raised(self, directory: &Path) -> io::Result<bool> {
        self.file(directory).try_exists()
    }

    /// Creates the file that is needed to raise the flag on a full disk.
    pub fn prepare(self, directory: &Path) -> io::Result<()> {
        match self.spare(directory) {
            Some(spare) if !spare.try_exists()? => {
                File::create(spare)?.sync_all()?;
                sync_directory(directory)
            }
            _ => Ok(()),
        }
    }

    /// Raises the flag. It is durable when this returns.
    pub fn raise(self, directory: &Path) -> io::Result<()> {
        let file = self.file(directory);
        let spare = self.spare(directory);
        let is_there = self.is_raised(directory)?
            || spare.is_some_and(|spare| fs::rename(spare, &file).is_ok());
        if !is_there {
            File::create(&file)?.sync_all()?;
        }
        // Sync also if the file exists: an earlier sync may have failed.
        sync_directory(directory)
    }

    /// Lowers the flag.
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

    /// The flag can be raised on a full disk, which may be the reason for the failed write.
    #[test]
    fn distrust_is_recorded_when_no_file_can_be_created() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let file = Flag::Distrusted.file(data);
        // No file can be created under this name, even by root.
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
            // Raising it again has the same result.
            Flag::Distrusted.raise(data).unwrap();
            Flag::Distrusted.lower(data).unwrap();
            assert!(!Flag::Distrusted.is_raised(data).unwrap());
            block();
        }
    }
}
