//! Identity files: a secret key as one line of text that only its owner can read (HS-10).

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::SecretKey;

/// Why an identity file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file system refused access.
    #[error("cannot use the key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// Other users could read the secret.
    #[error("the key file {} can be read by others; run: chmod 600 {}", .0.display(), .0.display())]
    Exposed(PathBuf),
    /// The content is not a key.
    #[error("the key file {} is damaged: it should hold one line of 43 characters; restore it from a backup", .0.display())]
    Damaged(PathBuf),
}

/// Loads the key in `path`, or creates one there if there is no such file.
pub fn load_or_create_identity(
    path: &Path,
    rng: &mut impl CryptoRng,
) -> Result<SecretKey, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            refuse_exposed(path)?;
            SecretKey::from_text(text.trim()).map_err(|_| IdentityError::Damaged(path.into()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = SecretKey::generate(rng);
            let mut line = Zeroizing::new(secret.to_text().to_string());
            line.push('\n');
            write_private(path, line.as_bytes()).map_err(|source| IdentityError::Io {
                path: path.into(),
                source,
            })?;
            Ok(secret)
        }
        Err(source) => Err(IdentityError::Io {
            path: path.into(),
            source,
        }),
    }
}

/// Refuses a secret file that users other than its owner can read.
///
/// # Errors
/// If others can read it, or the file system does not tell.
#[cfg(unix)]
pub fn refuse_exposed(path: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).map_err(|source| IdentityError::Io {
        path: path.into(),
        source,
    })?;
    if metadata.permissions().mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(IdentityError::Exposed(path.into()))
    }
}

/// Accepts every file: this system gives no information about its readers.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn refuse_exposed(_: &Path) -> Result<(), IdentityError> {
    Ok(())
}

/// Writes a file that only its owner can read. A crash at any point leaves either the old content
/// or the new: it is written beside, synced, moved into place, and the directory synced.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    // Opened before anything is in place: afterwards only the disk itself can still fail.
    #[cfg(unix)]
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map(fs::File::open)
        .transpose()?;
    let mut file = options.open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    #[cfg(unix)]
    if let Some(directory) = directory {
        directory.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    #[test]
    fn identity_key_is_created_once_and_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let first = load_or_create_identity(&path, &mut rng).unwrap();
        let second = load_or_create_identity(&path, &mut rng).unwrap();
        assert_eq!(first.public(), second.public());
    }

    /// HS-10
    #[cfg(unix)]
    #[test]
    fn identity_key_readable_by_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        load_or_create_identity(&path, &mut rng).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_or_create_identity(&path, &mut rng).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn identity_key_damaged_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private(&path, b"nonsense\n").unwrap();
        let error = load_or_create_identity(&path, &mut ChaCha20Rng::seed_from_u64(1)).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged(_)));
        assert_eq!(fs::read(&path).unwrap(), b"nonsense\n");
    }
}
