//! Password hashing (argon2id, RFC 9106; the parameters are OWASP's) on its own threads: as many at
//! once as there are cores, a bounded queue, then `busy`. So a flood of logins costs a known amount
//! of memory, and never delays messages.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::{Output, ParamsString, Salt as EncodedSalt, SaltString},
};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::realm::{
    failure::Failure,
    limits::{PASSWORD_KIB, PASSWORDS_WAITING},
};
use crate::{
    store::StoreError,
    wire::{ErrorCode, Refusal},
};

const PASSES: u32 = 2;
const LANES: u32 = 1;
/// How long a client is asked to wait when the queue is full, in milliseconds: about as long as the
/// queue takes.
const BUSY_MS: u64 = 1000;

/// The niceness of the hashing threads, from 0 to 19.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// A salt, fresh for every password.
pub type Salt = [u8; 16];

enum Work {
    Hash(Salt, oneshot::Sender<Option<String>>),
    /// Without a hash there is nothing to compare with. It takes the same time.
    Verify(Option<String>, oneshot::Sender<Option<bool>>),
}

struct Job {
    password: Zeroizing<Vec<u8>>,
    work: Work,
}

/// The hashing threads. They end when this is dropped.
#[derive(Debug)]
pub struct Passwords {
    queue: Queue,
}

#[derive(Debug)]
enum Queue {
    Threads(SyncSender<Job>),
    /// `None`: passwords are hashed in the caller's thread, and cheaply. A simulated machine has no
    /// threads.
    #[cfg(test)]
    Here,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job(…)")
    }
}

impl Passwords {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The system provides no thread, or the parameters of the hash are invalid.
    pub fn start(threads: usize) -> io::Result<Self> {
        #[cfg(test)]
        if threads == 0 {
            return Ok(Self { queue: Queue::Here });
        }
        let (queue, jobs) = sync_channel(PASSWORDS_WAITING);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..threads.max(1) {
            let jobs = Arc::clone(&jobs);
            let hasher = Hasher::new(PASSWORD_KIB, PASSES).map_err(io::Error::other)?;
            thread::Builder::new()
                .name("passwords".into())
                .spawn(move || work(&jobs, hasher))?;
        }
        Ok(Self {
            queue: Queue::Threads(queue),
        })
    }

    /// Returns the text to store instead of `password`.
    pub async fn hash(&self, password: &[u8], salt: Salt) -> Result<String, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.submit(password, Work::Hash(salt, answer))?;
        answered
            .await
            .ok()
            .flatten()
            .ok_or(ErrorCode::Internal.into())
    }

    /// True if `kept` was made from `password`. Takes the same time if nothing is stored.
    ///
    /// # Errors
    /// The queue is full, or `kept` is no hash: then the record that it is from is damaged.
    pub async fn verify(&self, password: &[u8], kept: Option<String>) -> Result<bool, Failure> {
        let (answer, answered) = oneshot::channel();
        self.submit(password, Work::Verify(kept, answer))?;
        let fits = answered.await.map_err(|_| ErrorCode::Internal)?;
        let damaged = || StoreError::Damaged("the hash of a password".into());
        fits.ok_or_else(damaged).map_err(Failure::from)
    }

    fn submit(&self, password: &[u8], work: Work) -> Result<(), Refusal> {
        let job = Job {
            password: Zeroizing::new(password.to_vec()),
            work,
        };
        #[cfg_attr(
            not(test),
            expect(clippy::infallible_destructuring_match, reason = "tests have more")
        )]
        let queue = match &self.queue {
            Queue::Threads(queue) => queue,
            #[cfg(test)]
            Queue::Here => {
                let hasher = Hasher::new(Params::MIN_M_COST, 1);
                job.run(&mut hasher.map_err(|_| ErrorCode::Internal)?);
                return Ok(());
            }
        };
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::busy(BUSY_MS),
            TrySendError::Disconnected(_) => ErrorCode::Internal.into(),
        })
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, mut hasher: Hasher) {
    stand_back();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job.run(&mut hasher),
            Err(_) => return,
        }
    }
}

/// Lowers the calling thread's priority: a message is worth more than a login.
fn stand_back() {
    // This affects only the calling thread, which is how Linux counts niceness.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

impl Job {
    fn run(self, hasher: &mut Hasher) {
        let Self { password, work } = self;
        // The caller may be gone by now. That is no reason to stop.
        match work {
            Work::Hash(salt, answer) => {
                let _ = answer.send(hasher.hash(&password, salt));
            }
            Work::Verify(Some(kept), answer) => {
                let _ = answer.send(hasher.fits(&password, &kept));
            }
            Work::Verify(None, answer) => {
                hasher.hash(&password, [0; 16]);
                let _ = answer.send(Some(false));
            }
        }
    }
}

/// Hashes one password after another in the same memory. If it were freed and allocated each time,
/// the heap would fragment and grow.
struct Hasher {
    params: Params,
    blocks: Vec<Block>,
}

impl Hasher {
    fn new(memory_kib: u32, passes: u32) -> Result<Self, argon2::Error> {
        Ok(Self {
            params: Params::new(memory_kib, passes, LANES, None)?,
            blocks: Vec::new(),
        })
    }

    /// Returns the text to store.
    fn hash(&mut self, password: &[u8], salt: Salt) -> Option<String> {
        let encoded = SaltString::encode_b64(&salt).ok()?;
        let params = self.params.clone();
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).ok()?,
            salt: Some(encoded.as_salt()),
            hash: Some(self.derive(password, encoded.as_salt(), params)?),
        };
        Some(hash.to_string())
    }

    /// True if `kept` was made from `password`. `None` if `kept` is unreadable.
    fn fits(&mut self, password: &[u8], kept: &str) -> Option<bool> {
        let kept = PasswordHash::new(kept).ok()?;
        let params = Params::try_from(&kept).ok()?;
        let derived = self.derive(password, kept.salt?, params)?;
        // This takes the same time wherever they differ.
        Some(derived == kept.hash?)
    }

    fn derive(&mut self, password: &[u8], salt: EncodedSalt<'_>, params: Params) -> Option<Output> {
        let count = params.block_count();
        if self.blocks.len() < count {
            self.blocks.resize(count, Block::default());
        }
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut buffer = [0; EncodedSalt::MAX_LENGTH];
        let salt = salt.decode_b64(&mut buffer).ok()?;
        let mut out = Zeroizing::new([0; Params::DEFAULT_OUTPUT_LEN]);
        argon
            .hash_password_into_with_memory(password, salt, out.as_mut(), &mut self.blocks)
            .ok()?;
        Output::new(out.as_ref()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn password_is_verified_and_another_is_refused() {
        let passwords = Passwords::start(2).unwrap();
        let kept = passwords.hash(b"correct horse", [7; 16]).await.unwrap();
        assert!(
            kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{kept}"
        );
        let verify = async |password: &[u8], kept| passwords.verify(password, kept).await;
        let fits = verify(b"correct horse", Some(kept.clone())).await;
        assert!(fits.unwrap());
        let fits = verify(b"battery staple", Some(kept)).await;
        assert!(!fits.unwrap());
        assert!(!verify(b"battery staple", None).await.unwrap());
        let spoilt = verify(b"battery staple", Some("spoilt".into())).await;
        assert!(spoilt.unwrap_err().is_damage());
    }

    /// The text is the same as the library's own.
    #[test]
    fn password_hash_equals_hash_of_library() {
        use argon2::{PasswordHasher as _, PasswordVerifier as _};
        let mut hasher = Hasher::new(64, 2).unwrap();
        let params = hasher.params.clone();
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        let theirs = argon.hash_password(b"correct horse", &salt).unwrap();
        let ours = hasher.hash(b"correct horse", [7; 16]).unwrap();
        assert_eq!(ours, theirs.to_string());
        let kept = PasswordHash::new(&ours).unwrap();
        assert!(argon.verify_password(b"correct horse", &kept).is_ok());
        // A text with other parameters, and a spoilt one.
        let mut other = Hasher::new(32, 3).unwrap();
        assert_eq!(other.fits(b"correct horse", &ours), Some(true));
        assert_eq!(other.fits(b"battery staple", &ours), Some(false));
        assert_eq!(other.fits(b"correct horse", "spoilt"), None);
    }

    #[tokio::test]
    async fn password_queue_that_is_full_answers_busy() {
        let passwords = Passwords::start(1).unwrap();
        let attempts: Vec<_> = (0..PASSWORDS_WAITING + 8)
            .map(|_| {
                let (answer, answered) = oneshot::channel();
                (passwords.submit(b"x", Work::Verify(None, answer)), answered)
            })
            .collect();
        let refused = attempts.iter().filter(|(sent, _)| sent.is_err()).count();
        assert!(refused >= 7, "{refused}");
        for (sent, answered) in attempts {
            match sent {
                Ok(()) => assert_eq!(answered.await, Ok(Some(false))),
                Err(refusal) => assert!(refusal.is_transient()),
            }
        }
    }
}
