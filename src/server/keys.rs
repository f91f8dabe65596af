//! The secrets in the data directory: the realm's key, its former keys, and secrets that stay when
//! the key changes. Only the owner can read them (HS-10).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::{RotatedKey, ServerError};
use crate::{
    crypto::{
        IdentityError, PublicKey, SecretKey, load_or_create_identity, refuse_exposed, write_private,
    },
    endpoint::Identity,
    wire::{RealmId, RegistrationCode},
};

/// The realm's key.
const KEY_FILE: &str = "realm.key";
/// The former keys, one per line, the latest first.
const FORMER_FILE: &str = "realm.key.former";
/// The name of a realm without a configured name, after a key rotation. It is derived from the
/// first key.
const NAME_FILE: &str = "realm.id";
/// The secret for session ids and reset tokens. It stays when the key changes.
const LASTING_FILE: &str = "realm.secret";
/// The operator's code.
const CODE_FILE: &str = "operator-code";
/// The code that registration requires, where the realm asks for one.
const REGISTRATION_FILE: &str = "registration-code";
/// The largest number of former keys that a realm still answers to. Each costs one MAC for every
/// Init from a stranger.
const FORMER_MAX: usize = 8;

/// The shortest operator's code, in characters.
pub const CODE_MIN: usize = 16;

/// Refuses to serve from a store whose secrets are missing. Secrets are created before the store.
#[cfg(feature = "embedded")]
pub fn refuse_missing(data: &Path) -> Result<(), ServerError> {
    for file in [KEY_FILE, LASTING_FILE] {
        if !data.join(file).exists() {
            let data = data.into();
            return Err(ServerError::Missing { data, file });
        }
    }
    Ok(())
}

/// Reads the realm's secrets, or creates them at the first start.
pub fn load(data: &Path, rng: &mut impl CryptoRng) -> Result<Identity, ServerError> {
    let current = load_or_create_identity(&data.join(KEY_FILE), rng)?;
    let mut former = load_former(&data.join(FORMER_FILE))?;
    // An interrupted rotation may have recorded the current key as a former one.
    former.retain(|key| key.public() != current.public());
    Ok(Identity {
        current,
        former,
        lasting: load_or_create_identity(&data.join(LASTING_FILE), rng)?,
    })
}

/// Gives the realm in `data` a new key, which takes effect at the next start. The old key is kept
/// beside it and vouches for it.
///
/// # Errors
/// Fails if there is no key yet, if the realm has too many former keys, or if a file cannot be
/// used.
pub fn rotate(data: &Path, rng: &mut impl CryptoRng) -> Result<RotatedKey, ServerError> {
    let path = data.join(KEY_FILE);
    if !path.exists() {
        return Err(ServerError::NoKey(path));
    }
    let old = load_or_create_identity(&path, rng)?;
    let former_file = data.join(FORMER_FILE);
    let mut former = load_former(&former_file)?;
    former.retain(|key| key.public() != old.public());
    // The name may be derived from a former key, so it is stored before any of those is deleted.
    keep_id(data, default_id(&former.last().unwrap_or(&old).public()))?;
    if former.len() >= FORMER_MAX {
        return Err(ServerError::ManyFormer(former_file));
    }
    former.insert(0, old.clone());
    let mut lines = Zeroizing::new(String::new());
    for key in &former {
        lines.push_str(&key.to_text());
        lines.push('\n');
    }
    let io = |path: &Path| {
        let path = path.into();
        move |source| IdentityError::Io { path, source }
    };
    // The old key is written first: a crash between the two writes loses neither.
    write_private(&former_file, lines.as_bytes()).map_err(io(&former_file))?;
    let new = SecretKey::generate(rng);
    let mut line = Zeroizing::new(new.to_text().to_string());
    line.push('\n');
    write_private(&path, line.as_bytes()).map_err(io(&path))?;
    Ok(RotatedKey {
        old: old.public(),
        new: new.public(),
    })
}

/// Returns the name of a realm without a configured name. It stays when the key changes, because
/// others know the realm, its users and its groups by it.
///
/// # Errors
/// Fails if the file with the name cannot be read or holds no name.
pub fn own_id(data: &Path, identity: &Identity) -> Result<RealmId, ServerError> {
    if let Some(id) = kept_id(data)? {
        return Ok(id);
    }
    let first = identity.former.last().unwrap_or(&identity.current);
    Ok(default_id(&first.public()))
}

fn kept_id(data: &Path) -> Result<Option<RealmId>, ServerError> {
    let path = data.join(NAME_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(ServerError::RealmName(path)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(&path)(error)),
    }
}

/// Stores the realm's name, unless one is stored already.
fn keep_id(data: &Path, id: RealmId) -> Result<(), ServerError> {
    if kept_id(data)?.is_none() {
        let path = data.join(NAME_FILE);
        write_private(&path, format!("{id}\n").as_bytes()).map_err(unusable(&path))?;
    }
    Ok(())
}

/// Returns `r-` and the first characters of the key's fingerprint, which is always a valid name.
pub fn default_id(key: &PublicKey) -> RealmId {
    let text = format!("r-{}", key.short());
    #[expect(
        clippy::expect_used,
        reason = "it is made of small letters and digits, which every name may have"
    )]
    text.parse().expect("a fingerprint makes a name")
}

fn load_former(path: &Path) -> Result<Vec<SecretKey>, IdentityError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            let path = path.into();
            return Err(IdentityError::Io { path, source });
        }
    };
    refuse_exposed(path)?;
    let keys = text.lines().map(|line| SecretKey::from_text(line.trim()));
    keys.collect::<Result<Vec<_>, _>>()
        .map_err(|_| IdentityError::Damaged(path.into()))
}

/// Converts an I/O error of a file.
fn unusable(path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.into();
    move |source| ServerError::File { path, source }
}

/// Draws a code that makes a session an operator's.
pub fn new_operator_code(rng: &mut impl CryptoRng) -> String {
    let mut bytes = [0; 15];
    rng.fill_bytes(&mut bytes);
    data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase()
}

/// Draws a registration code.
pub fn new_registration_code(rng: &mut impl CryptoRng) -> RegistrationCode {
    let mut code = RegistrationCode([0; 10]);
    rng.fill_bytes(&mut code.0);
    code
}

/// Returns the code that makes a session an operator's. Reads it from its file, or creates it at
/// the first start.
pub fn operator_code(data: &Path, rng: &mut impl CryptoRng) -> Result<String, ServerError> {
    let path: PathBuf = data.join(CODE_FILE);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().len() < CODE_MIN => Err(ServerError::OperatorCode(path)),
        Ok(text) => Ok(text.trim().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let code = new_operator_code(rng);
            write_private(&path, format!("{code}\n").as_bytes()).map_err(unusable(&path))?;
            Ok(code)
        }
        Err(error) => Err(unusable(&path)(error)),
    }
}

/// Returns the registration code. Reads it from its file, or creates it when it is first needed.
pub fn registration_code(
    data: &Path,
    rng: &mut impl CryptoRng,
) -> Result<RegistrationCode, ServerError> {
    let path = data.join(REGISTRATION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| ServerError::RegistrationCode(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let code = new_registration_code(rng);
            write_private(&path, format!("{code}\n").as_bytes()).map_err(unusable(&path))?;
            Ok(code)
        }
        Err(error) => Err(unusable(&path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    /// HS-11: a rotation that is interrupted at any point leaves the old key or the new one, and
    /// loses neither.
    #[test]
    fn key_rotation_interrupted_anywhere_loses_no_key() {
        let data = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let error = rotate(data.path(), &mut rng).unwrap_err();
        assert!(error.to_string().contains("no key"), "{error}");
        let first = load(data.path(), &mut rng).unwrap();
        let RotatedKey { old, new } = rotate(data.path(), &mut rng).unwrap();
        assert_eq!(old, first.current.public());
        let second = load(data.path(), &mut rng).unwrap();
        assert_eq!(second.current.public(), new);
        assert_eq!(second.lasting.public(), first.lasting.public());
        let former: Vec<_> = second.former.iter().map(SecretKey::public).collect();
        assert_eq!(former, [old]);
        // The state after a crash between the two writes.
        let line = first.current.to_text().to_string();
        fs::write(data.path().join(KEY_FILE), line).unwrap();
        let third = load(data.path(), &mut rng).unwrap();
        assert_eq!((third.current.public(), third.former.len()), (old, 0));
        for _ in 0..FORMER_MAX {
            rotate(data.path(), &mut rng).unwrap();
        }
        let error = rotate(data.path(), &mut rng).unwrap_err();
        assert!(error.to_string().contains("delete"), "{error}");
    }

    /// HS-11: a realm without a configured name keeps its name, also when its former keys are
    /// deleted.
    #[test]
    fn key_rotation_without_former_keys_keeps_realm_name() {
        let data = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(2);
        let own = |rng: &mut StdRng| own_id(data.path(), &load(data.path(), rng).unwrap()).unwrap();
        let first = own(&mut rng);
        for _ in 0..2 {
            rotate(data.path(), &mut rng).unwrap();
            assert_eq!(own(&mut rng), first);
            fs::remove_file(data.path().join(FORMER_FILE)).unwrap();
            assert_eq!(own(&mut rng), first);
        }
        fs::write(data.path().join(NAME_FILE), "No Name\n").unwrap();
        let identity = load(data.path(), &mut rng).unwrap();
        let error = own_id(data.path(), &identity).unwrap_err();
        assert!(error.to_string().contains("realm.id"), "{error}");
    }
}
