//! The files of a profile's directory: creates them for their owner alone. The profile and its
//! store call this, and decide what the files hold.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use super::ProfileError;

/// Creates a directory that only its owner can read, with those above it.
pub fn make_directory(path: &Path) -> Result<(), ProfileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).map_err(|source| ProfileError::Io {
        path: path.into(),
        source,
    })
}

/// Opens a file of the profile that only its owner can read. Creates it if it does not exist.
/// Refuses anything but a plain file, such as a link to another user's file.
pub fn open_lock(path: &Path) -> Result<File, ProfileError> {
    let io = |source| ProfileError::Io {
        path: path.into(),
        source,
    };
    let mut options = fs::OpenOptions::new();
    options.write(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    match fs::symlink_metadata(path) {
        Ok(known) if known.is_file() => options.open(path).map_err(io),
        Ok(_) => Err(io(io::Error::other("it is no plain file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match options.create_new(true).open(path) {
                Ok(file) => {
                    adopt(path);
                    Ok(file)
                }
                // Another process has created it in the meantime.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_lock(path),
                Err(error) => Err(io(error)),
            }
        }
        Err(error) => Err(io(error)),
    }
}

/// Creates a file of the profile like [`open_lock`], if it does not exist. Does not open an
/// existing file: this process may have it open, and POSIX releases its locks on a file when any
/// descriptor of it is closed. Then another process could take the lock too.
#[cfg(feature = "sqlite")]
pub fn make(path: &Path) -> Result<(), ProfileError> {
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = super::lock(&MAKING);
    match fs::symlink_metadata(path) {
        Ok(known) if known.is_file() => Ok(()),
        _ => open_lock(path).map(drop),
    }
}

/// Gives a file that the superuser created to the owner of its directory. Otherwise one command run
/// as superuser would lock the owner out of the profile. Only for files just created: anything else
/// may be a link to somebody else's file.
pub fn adopt(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, lchown};
        let Some(parent) = path.parent() else {
            return;
        };
        if let (Ok(own), Ok(parent)) = (fs::symlink_metadata(path), fs::symlink_metadata(parent))
            && own.uid() == 0
            && parent.uid() != 0
            && (own.is_dir() || own.nlink() == 1)
            && !own.is_symlink()
        {
            // Without the right to change the owner, there is nothing to give away.
            let _ = lchown(path, Some(parent.uid()), Some(parent.gid()));
        }
    }
}
