//! A profile's directory: the device's key, and what is remembered between runs.
//!
//! ```text
//! device.key   the device's secret key
//! profile.db   everything else, in one database; a light client uses a small file, `records`
//! wake         written to after each commit, to notify other processes
//! carrier-N    locked by the carrier, the one process that sends the outbox for realm N
//! lock         locked while a profile is opened
//! history      the lines typed in `merpati shell`, without passwords
//! ```
//!
//! Several processes may use one profile, and a profile may be copied, restored and used on two
//! machines. Sending and showing remain exactly once (EXACT-8, EXACT-10).

use std::{
    fs,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;
use rand_core::CryptoRng;

use super::{
    ProfileError, Spending, Spent,
    files::{adopt, make_directory, open_lock},
    state::{self, State},
    store::{self, Records, Store},
};
use crate::{
    crypto::{SecretKey, load_or_create_identity},
    wire::{OperationNumber, RealmId},
};

/// Returns the default directory of profiles: `merpati` in the user's XDG data directory.
///
/// # Errors
/// [`ProfileError::NoHome`] if the home directory is unknown.
pub fn default_home() -> Result<PathBuf, ProfileError> {
    let strategy = etcetera::choose_base_strategy().map_err(|_| ProfileError::NoHome)?;
    Ok(strategy.data_dir().join("merpati"))
}

/// A profile's directory.
#[derive(Debug)]
pub struct Profile {
    directory: PathBuf,
    store: Box<dyn Store>,
    key: SecretKey,
}

impl Profile {
    /// Opens the profile `name` in `home`. Creates it with a new device key if it does not exist.
    /// `name` is 1 to 32 bytes, by the rules for the name of a realm. Waits while another process
    /// opens the profile.
    ///
    /// # Errors
    /// If the name is invalid, or a file of the profile cannot be used.
    pub fn open(home: &Path, name: &str, rng: &mut impl CryptoRng) -> Result<Self, ProfileError> {
        let name: RealmId = name
            .parse()
            .map_err(|error| ProfileError::Name(name.into(), error))?;
        let directory = home.join(name.as_str());
        let made = [home, &directory].map(|path| !path.exists());
        make_directory(&directory)?;
        for (path, is_made) in [home, &directory].into_iter().zip(made) {
            if is_made {
                adopt(path);
            }
        }
        // If two processes start together, one creates the key and the other finds it.
        let path = directory.join("lock");
        let lock = open_lock(&path)?;
        lock.lock()
            .map_err(|source| ProfileError::Io { path, source })?;
        let key_file = directory.join("device.key");
        let is_new = fs::symlink_metadata(&key_file).is_err();
        let key = load_or_create_identity(&key_file, rng)?;
        if is_new {
            adopt(&key_file);
        }
        let profile = Self {
            store: store::open(&directory)?,
            directory,
            key,
        };
        #[cfg(feature = "sqlite")]
        profile.take_over()?;
        drop(lock);
        Ok(profile)
    }

    /// Returns a profile with records in memory, for a simulated machine.
    #[cfg(test)]
    pub(crate) fn in_memory(key: SecretKey, memory: store::Memory) -> Self {
        Self {
            directory: PathBuf::from("memory"),
            store: Box::new(memory),
            key,
        }
    }

    /// Returns the device's key.
    pub const fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Returns the profile's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the error for a record that makes no sense.
    pub(super) fn damaged(&self) -> ProfileError {
        match self.read(|records| Ok(records.damaged())) {
            Ok(damaged) => damaged,
            Err(error) => error,
        }
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&dyn Records) -> Result<T, ProfileError>,
    ) -> Result<T, ProfileError> {
        store::read(&*self.store, work)
    }

    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&mut dyn Records) -> Result<T, ProfileError>,
    ) -> Result<T, ProfileError> {
        store::write(&*self.store, work)
    }

    /// Returns the state of the realm that commands go to by default. If there is none yet,
    /// nothing is known in it.
    ///
    /// # Errors
    /// If the profile cannot be read.
    pub fn load(&self) -> Result<State, ProfileError> {
        self.read(|records| match state::remembered(records)? {
            Some(realm) => state::load(records, realm),
            None => Ok(State::default()),
        })
    }

    /// Records that operation numbers up to `highest` were used elsewhere with the realm that
    /// commands go to by default, as by a [`Direct`](super::Direct) link.
    ///
    /// # Errors
    /// If the profile cannot be written.
    pub fn note_highest(&self, highest: OperationNumber) -> Result<(), ProfileError> {
        self.write(|records| match state::remembered(records)? {
            Some(realm) => state::update(records, realm, |state| {
                state.highest = state.highest.max(highest.0);
            }),
            None => Ok(()),
        })
    }

    /// Records the traffic of a finished run. `command` names it for people.
    ///
    /// # Errors
    /// If the profile cannot be written.
    pub fn note_spent(&self, command: &str, spent: Spent) -> Result<(), ProfileError> {
        self.write(|records| {
            let mut spending = state::spending(records)?;
            spending.add(command, spent);
            state::save_spending(records, &spending)
        })
    }

    /// Returns the traffic of all runs since the last reset.
    ///
    /// # Errors
    /// If the profile cannot be read.
    pub fn spending(&self) -> Result<Spending, ProfileError> {
        self.read(state::spending)
    }

    /// Resets the recorded traffic.
    ///
    /// # Errors
    /// If the profile cannot be written.
    pub fn forget_spending(&self) -> Result<(), ProfileError> {
        self.write(|records| state::save_spending(records, &Spending::default()))
    }

    /// Imports the state of a version without an outbox.
    #[cfg(feature = "sqlite")]
    fn take_over(&self) -> Result<(), ProfileError> {
        let path = self.directory.join("state");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ProfileError::Io { path, source }),
        };
        let former = super::takeover::Former::parse(&bytes)
            .ok_or_else(|| ProfileError::Damaged(path.clone()))?;
        self.write(|records| former.take_over(records))?;
        // Kept under another name, in case the user returns to the old version.
        let kept = self.directory.join("state.taken-over");
        fs::rename(&path, kept).map_err(|source| ProfileError::Io { path, source })
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;
    #[cfg(feature = "sqlite")]
    use crate::client::state::Account;

    fn open(home: &Path) -> Result<Profile, ProfileError> {
        Profile::open(home, "default", &mut ChaCha20Rng::seed_from_u64(1))
    }

    #[test]
    fn profile_opened_again_keeps_key_and_state() {
        let home = tempfile::tempdir().unwrap();
        let profile = open(home.path()).unwrap();
        let server = "merpati://127.0.0.1:6377".parse().unwrap();
        profile
            .write(|records| {
                let realm = state::find_or_add(records, &server, true)?.realm;
                state::update(records, realm, |state| state.highest = 7)?;
                state::remember(records, realm)
            })
            .unwrap();
        let key = profile.key().public();
        drop(profile);
        let profile = open(home.path()).unwrap();
        assert_eq!(profile.load().unwrap().highest, 7);
        assert_eq!(profile.key().public(), key);
        let error =
            Profile::open(home.path(), "../x", &mut ChaCha20Rng::seed_from_u64(1)).unwrap_err();
        assert!(error.to_string().contains("not a name"), "{error}");
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn profile_in_former_format_is_converted() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("default");
        make_directory(&directory).unwrap();
        let shown = std::collections::BTreeMap::from([
            ("private".to_string(), (12_u64, 3_u64)),
            // It is skipped: it must not keep the profile from being opened.
            ("no mailbox".to_string(), (5, 0)),
        ]);
        let session = Some([5_u8; 16]);
        let unfinished = vec![(9_u64, vec![4_u8, 0, 0], false)];
        let server = "merpati://127.0.0.1:6377#Qn6PtzrA4MTkMefWTqR5ItrFiP3dtbrW9K-6OMuE0xo";
        let former = (
            Some(server),
            false,
            Some("ann"),
            session,
            Some(5_u64),
            9_u64,
            unfinished,
            shown,
            Vec::<[u8; 32]>::new(),
        );
        fs::write(
            directory.join("state"),
            postcard::to_extend(&former, vec![1]).unwrap(),
        )
        .unwrap();
        for _ in 0..2 {
            let profile = open(home.path()).unwrap();
            let state = profile.load().unwrap();
            assert_eq!((state.highest, state.session), (9, session));
            let account = Account {
                realm: state::RealmNumber(0),
                username: "ann".into(),
            };
            let cursor = profile
                .read(|records| state::cursor(records, &account, &crate::wire::Mailbox::Private));
            assert_eq!(
                cursor
                    .unwrap()
                    .map(|cursor| (cursor.position, cursor.offset)),
                Some((12, 3))
            );
        }
        assert!(!directory.join("state").exists());
    }

    #[test]
    fn profile_damaged_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let profile = open(home.path()).unwrap();
        let file = if cfg!(feature = "sqlite") {
            "profile.db"
        } else {
            "records"
        };
        drop(profile);
        let path = home.path().join("default").join(file);
        fs::write(&path, [7; 8192]).unwrap();
        let outcome = open(home.path()).and_then(|profile| profile.load());
        assert!(
            matches!(outcome, Err(ProfileError::Damaged(_))),
            "{outcome:?}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn profile_file_as_symlink_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let profile = open(home.path()).unwrap();
        let victim = home.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, profile.directory().join("carrier-7")).unwrap();
        assert!(profile.store().try_carry(7).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    }

    #[cfg(unix)]
    #[test]
    fn profile_files_are_readable_by_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let profile = open(home.path()).unwrap();
        for file in fs::read_dir(profile.directory()).unwrap() {
            let file = file.unwrap();
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", file.file_name());
        }
        let directory = fs::metadata(profile.directory()).unwrap();
        assert_eq!(directory.permissions().mode() & 0o777, 0o700);
    }
}
