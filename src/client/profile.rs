//! What a client remembers between runs: one account on one realm, in a directory of its own.
//!
//! ```text
//! device.key   the device's secret key
//! state        where and who the realm is, the session, the operation counter, what is unfinished
//! spent        what its runs have spent
//! lock         held while the state is being changed
//! in-use       held, shared, by every process that uses the profile
//! ```
//!
//! The state is changed by reading, changing and replacing the file under the lock, so several
//! processes may use one profile. Whoever holds `in-use` alone knows that what is unfinished there was
//! cut off, and is nobody's work any more.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::{ProfileError, Spending, Spent};
use crate::{
    crypto::{SecretKey, load_or_create_identity, write_private},
    wire::{Entry, Fragment, Life, Mailbox, Options, RealmId},
};

/// The format of the state file so far.
const FORMAT: u8 = 1;

/// The directory in which profiles are kept by default: `merpati` in the user's XDG data directory.
pub fn default_home() -> Result<PathBuf, ProfileError> {
    let strategy = etcetera::choose_base_strategy().map_err(|_| ProfileError::NoHome)?;
    Ok(strategy.data_dir().join("merpati"))
}

/// A command that was begun and whose answer has not been seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Its operation number.
    pub number: u64,
    /// The command without its passwords and its number.
    pub command: Vec<u8>,
    /// A password is missing in it: it can be finished only by whoever gives it again.
    pub needs_password: bool,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The realm's connection string.
    pub server: Option<String>,
    /// The link is not protected.
    pub plain: bool,
    /// The user who is logged in, or was last.
    pub username: Option<String>,
    /// The session.
    pub session: Option<[u8; 16]>,
    /// The round-trip time, in microseconds.
    pub rtt_us: Option<u64>,
    /// The highest operation number used.
    pub highest: u64,
    /// Commands whose answer has not been seen.
    pub unfinished: Vec<Unfinished>,
    /// How far each mailbox has been shown.
    pub shown: BTreeMap<String, Shown>,
    /// Keys that the realm had before, each of which has vouched for the next.
    pub former: Vec<[u8; 32]>,
    /// The life of the realm's store that was heard of last (HS-14).
    pub life: Option<[u8; 4]>,
}

/// How far a mailbox has been shown to its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The last message shown whole.
    pub position: u64,
    /// Bytes shown of the one after it.
    pub offset: u64,
}

impl State {
    /// Where reading goes on in `mailbox`: after what was shown last.
    pub fn reading(&self, mailbox: &Mailbox) -> Options {
        let Some(shown) = self.shown.get(&mailbox.to_string()) else {
            return Options::NONE;
        };
        Options {
            after: Some(shown.position),
            offset: (shown.offset > 0).then_some(shown.offset),
            ..Options::NONE
        }
    }

    /// Notes that nothing after `position` has been shown yet, unless it is known what has.
    pub(super) fn note_beginning(&mut self, mailbox: &Mailbox, position: u64) {
        let shown = Shown {
            position,
            offset: 0,
        };
        self.shown.entry(mailbox.to_string()).or_insert(shown);
    }

    /// Notes that `entry`, or the piece of one that it is, has been shown.
    pub fn note_shown(&mut self, mailbox: &Mailbox, entry: &Entry) {
        let shown = self.shown.entry(mailbox.to_string()).or_default();
        let position = entry.position.0;
        match entry.fragment {
            Some(Fragment { offset, total }) if offset + (entry.body.len() as u64) < total => {
                let before = position.saturating_sub(1);
                if before >= shown.position {
                    *shown = Shown {
                        position: before,
                        offset: offset + entry.body.len() as u64,
                    };
                }
            }
            _ if position > shown.position => {
                *shown = Shown {
                    position,
                    offset: 0,
                }
            }
            _ => {}
        }
    }

    /// Notes the life that the realm has told. If the realm did not know the one that was claimed, it was restored from
    /// a backup, and what has been shown is known by positions of a store that is lost (READ-7).
    pub(super) fn learn_life(&mut self, life: Option<Life>, is_life_unknown: bool) {
        let life = life.map(|life| life.0);
        if self.life == life {
            // Another process of this profile was told before.
            return;
        }
        self.life = life;
        if is_life_unknown {
            self.shown.clear();
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&FORMAT, state)) => postcard::from_bytes(state)
                // As it was written before there were lives.
                .or_else(|_| postcard::from_bytes(&[state, &[0]].concat()))
                .ok(),
            _ => None,
        }
    }
}

/// What a simulated machine keeps of a profile's state.
#[cfg(test)]
pub(crate) type Memory = std::sync::Arc<std::sync::Mutex<Vec<u8>>>;

/// A profile's directory.
#[derive(Debug)]
pub struct Profile {
    directory: PathBuf,
    /// Held as long as the profile is in use.
    in_use: Option<File>,
    /// What would be the state file, on a simulated machine.
    #[cfg(test)]
    memory: Option<Memory>,
    orphans: Vec<Unfinished>,
    key: SecretKey,
}

impl Profile {
    /// Opens the profile `name` in `home`; makes it, with a fresh device key, if it is not there.
    pub fn open(home: &Path, name: &str, rng: &mut impl CryptoRng) -> Result<Self, ProfileError> {
        let name: RealmId = name
            .parse()
            .map_err(|error| ProfileError::Name(name.into(), error))?;
        let directory = home.join(name.as_str());
        make_directory(&directory)?;
        // One of two processes that start together makes the key, and the other finds it.
        let lock = lock(&directory)?;
        let key = load_or_create_identity(&directory.join("device.key"), rng)?;
        let in_use = open_file(&directory.join("in-use"))?;
        let mut profile = Self {
            in_use: None,
            #[cfg(test)]
            memory: None,
            directory,
            orphans: Vec::new(),
            key,
        };
        if in_use.try_lock().is_ok() {
            profile.orphans = profile.load()?.unfinished;
        }
        in_use
            .lock_shared()
            .map_err(|source| profile.io("in-use", source))?;
        profile.in_use = Some(in_use);
        drop(lock);
        Ok(profile)
    }

    /// A profile whose state is kept in memory, by whoever runs a simulated machine.
    #[cfg(test)]
    pub(crate) fn in_memory(key: SecretKey, memory: Memory) -> Result<Self, ProfileError> {
        let mut profile = Self {
            directory: PathBuf::from("memory"),
            in_use: None,
            memory: Some(memory),
            orphans: Vec::new(),
            key,
        };
        profile.orphans = profile.load()?.unfinished;
        Ok(profile)
    }

    /// The device's key.
    pub const fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Where the profile is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Commands that an earlier run began and did not finish.
    pub fn take_orphans(&mut self) -> Vec<Unfinished> {
        std::mem::take(&mut self.orphans)
    }

    /// The state as it is now.
    pub fn load(&self) -> Result<State, ProfileError> {
        #[cfg(test)]
        if let Some(memory) = &self.memory {
            let bytes = memory.lock().unwrap();
            return Ok(State::parse(&bytes).unwrap_or_default());
        }
        let path = self.directory.join("state");
        match fs::read(&path) {
            Ok(bytes) => State::parse(&bytes).ok_or(ProfileError::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(source) => Err(self.io("state", source)),
        }
    }

    /// Changes the state; on the disk when it returns.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, ProfileError> {
        let _lock = match self.in_use {
            Some(_) => Some(lock(&self.directory)?),
            None => None,
        };
        let before = self.load()?;
        let mut state = before.clone();
        let result = change(&mut state);
        if state != before {
            let bytes = postcard::to_extend(&state, vec![FORMAT])
                .map_err(|_| ProfileError::Damaged(self.directory.join("state")))?;
            self.store(&bytes)?;
        }
        Ok(result)
    }

    /// Notes what a run that is over has spent.
    pub fn note_spent(&self, command: &str, spent: Spent) -> Result<(), ProfileError> {
        let _lock = lock(&self.directory)?;
        let mut spending = self.spending()?;
        spending.add(command, spent);
        let bytes = postcard::to_extend(&spending, vec![FORMAT])
            .map_err(|_| ProfileError::Damaged(self.directory.join("spent")))?;
        write_private(&self.directory.join("spent"), &bytes)
            .map_err(|source| self.io("spent", source))
    }

    /// What all runs have spent, since that was last forgotten.
    pub fn spending(&self) -> Result<Spending, ProfileError> {
        let path = self.directory.join("spent");
        match fs::read(&path) {
            Ok(bytes) => match bytes.split_first() {
                Some((&FORMAT, spending)) => postcard::from_bytes(spending).ok(),
                _ => None,
            }
            .ok_or(ProfileError::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Spending::default()),
            Err(source) => Err(self.io("spent", source)),
        }
    }

    /// Forgets what has been spent.
    pub fn forget_spending(&self) -> Result<(), ProfileError> {
        match fs::remove_file(self.directory.join("spent")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io("spent", error)),
            _ => Ok(()),
        }
    }

    fn store(&self, bytes: &[u8]) -> Result<(), ProfileError> {
        #[cfg(test)]
        if let Some(memory) = &self.memory {
            *memory.lock().unwrap() = bytes.to_vec();
            return Ok(());
        }
        write_private(&self.directory.join("state"), bytes)
            .map_err(|source| self.io("state", source))
    }

    fn io(&self, file: &str, source: io::Error) -> ProfileError {
        ProfileError::Io {
            path: self.directory.join(file),
            source,
        }
    }
}

fn make_directory(path: &Path) -> Result<(), ProfileError> {
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

fn open_file(path: &Path) -> Result<File, ProfileError> {
    File::create(path).map_err(|source| ProfileError::Io {
        path: path.into(),
        source,
    })
}

/// The lock on the state; held only while a file of a few hundred bytes is replaced.
fn lock(directory: &Path) -> Result<File, ProfileError> {
    let path = directory.join("lock");
    let file = open_file(&path)?;
    file.lock()
        .map_err(|source| ProfileError::Io { path, source })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    fn open(home: &Path) -> Profile {
        Profile::open(home, "default", &mut ChaCha20Rng::seed_from_u64(1)).unwrap()
    }

    fn unfinished(number: u64) -> Unfinished {
        Unfinished {
            number,
            command: vec![4],
            needs_password: false,
        }
    }

    #[test]
    fn what_is_changed_is_found_by_the_next_run() {
        let home = tempfile::tempdir().unwrap();
        let profile = open(home.path());
        profile.update(|state| state.highest = 7).unwrap();
        let key = profile.key().public();
        drop(profile);
        let profile = open(home.path());
        assert_eq!(profile.load().unwrap().highest, 7);
        assert_eq!(profile.key().public(), key);
    }

    /// Only what nobody is working on any more is taken up.
    #[test]
    fn what_another_process_has_under_way_is_left_to_it() {
        let home = tempfile::tempdir().unwrap();
        let first = open(home.path());
        first
            .update(|state| state.unfinished.push(unfinished(1)))
            .unwrap();
        let mut second = open(home.path());
        assert!(second.take_orphans().is_empty());
        drop((first, second));
        assert_eq!(open(home.path()).take_orphans(), [unfinished(1)]);
    }

    /// READ-7: what was shown is forgotten once for each restore, whichever process hears of it first.
    #[test]
    fn life_unknown_forgets_what_was_shown_once() {
        let mut state = State::default();
        let (first, second) = (Some(Life([1; 4])), Some(Life([2; 4])));
        state.learn_life(first, false);
        state.note_beginning(&Mailbox::Private, 10);
        // Told again, and an ordinary restart.
        state.learn_life(first, true);
        state.learn_life(second, false);
        assert_eq!(state.reading(&Mailbox::Private).after, Some(10));
        state.learn_life(first, true);
        assert_eq!(state.reading(&Mailbox::Private).after, None);
        state.note_beginning(&Mailbox::Private, 3);
        state.learn_life(first, true);
        assert_eq!(state.reading(&Mailbox::Private).after, Some(3));
        state.learn_life(None, true);
        assert_eq!((state.life, state.shown.len()), (None, 0));
    }

    #[test]
    fn state_from_before_lives_is_read() {
        let state = State {
            highest: 7,
            ..State::default()
        };
        let mut bytes = postcard::to_extend(&state, vec![FORMAT]).unwrap();
        assert_eq!(bytes.pop(), Some(0), "no life");
        assert_eq!(State::parse(&bytes), Some(state));
    }

    #[test]
    fn a_damaged_state_is_not_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let profile = open(home.path());
        fs::write(profile.directory().join("state"), b"\x07what").unwrap();
        assert!(matches!(
            profile.update(|state| state.highest = 1),
            Err(ProfileError::Damaged(_))
        ));
        let error =
            Profile::open(home.path(), "../x", &mut ChaCha20Rng::seed_from_u64(1)).unwrap_err();
        assert!(error.to_string().contains("not a name"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_a_profile() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let profile = open(home.path());
        profile.update(|state| state.highest = 1).unwrap();
        for (file, mode) in [("device.key", 0o600), ("state", 0o600), (".", 0o700)] {
            let metadata = fs::metadata(profile.directory().join(file)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
        }
    }
}
