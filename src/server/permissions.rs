//! Makes the data directory private, whatever its permissions were (HS-10): it holds secrets and
//! the messages of all users.

use std::{io, path::Path};

/// Removes all permissions of others in the data directory, and sets the umask so that new files
/// are private. Directories and files of other owners stay as they are.
#[cfg(unix)]
pub fn close(data: &Path) -> io::Result<()> {
    use std::fs;

    use rustix::fs::Mode;

    let mode = Mode::RWXG | Mode::RWXO;
    rustix::process::umask(mode);
    let mut left = vec![data.to_path_buf()];
    let mut opened = 0_usize;
    while let Some(path) = left.pop() {
        // Another server may use the directory and remove files. That is detected later.
        let Ok(at) = fs::symlink_metadata(&path) else {
            continue;
        };
        if at.is_symlink() {
            continue;
        }
        opened += usize::from(close_one(&path, &at)?);
        if at.is_dir() {
            let entries = fs::read_dir(&path)?;
            left.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    if opened > 0 {
        tracing::warn!(
            data = %data.display(), files = opened,
            "access of other users to the data directory was removed. If somebody may have used it: `merpati rotatekey` gives the \
             realm another key, and a new operator-code file another code"
        );
    }
    Ok(())
}

/// Makes one file or directory private. Returns true if others had access to it.
#[cfg(unix)]
fn close_one(path: &Path, at: &std::fs::Metadata) -> io::Result<bool> {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    };

    let mode = at.permissions().mode();
    let is_own = at.uid() == rustix::process::geteuid().as_raw();
    let is_open = mode & 0o077 != 0 && is_own;
    if is_open {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & !0o077))?;
        tracing::debug!(path = %path.display(), "access of other users was removed");
    }
    // An empty file reveals nothing, such as a flag file that an operator has created.
    let is_empty = at.is_file() && at.len() == 0 && mode & 0o022 == 0;
    Ok(is_open && !is_empty)
}

#[cfg(not(unix))]
pub fn close(_: &Path) -> io::Result<()> {
    Ok(())
}
