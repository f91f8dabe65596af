//! What users do meanwhile, and how long it takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use merpati::{client::CallError, wire::Username};

use crate::support::{Home, PASSWORD, Realm};

/// How long things took.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Samples {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * part) as usize;
        sorted
            .get(at)
            .or(sorted.last())
            .copied()
            .unwrap_or_default()
    }

    /// The part that took no longer than `limit`.
    pub fn within(&self, limit: Duration) -> f64 {
        let few = self.0.iter().filter(|took| **took <= limit).count();
        few as f64 / self.0.len() as f64
    }
}

/// A runtime of the thread's own.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Logins, one after another, each of a device that has not been there before.
pub fn logins(home: &Home, realm: &Realm, count: usize, name: &str) -> Samples {
    let ann = "ann".parse().unwrap();
    let mut samples = Samples::default();
    for n in 0..count {
        let client = home.client(&format!("{name}-{n}"), &realm.connect);
        let begun = Instant::now();
        runtime()
            .block_on(client.auth(ann, PASSWORD.as_bytes()))
            .unwrap();
        samples.0.push(begun.elapsed());
    }
    samples
}

/// What a user who is logged in does.
#[derive(Clone, Copy, PartialEq)]
pub enum What {
    /// Writes messages, which are stored.
    Write,
    /// Asks something that leaves nothing behind.
    Ask,
}

/// Commands of a user who is logged in, one after another; one that takes longer than `patience` counts as twice that.
pub fn commands(
    home: &Home,
    realm: &Realm,
    span: Duration,
    patience: Duration,
    what: What,
) -> Samples {
    let client = home.client("ann", &realm.connect);
    let ann: Username = "ann".parse().unwrap();
    let mut samples = Samples::default();
    runtime().block_on(async {
        client.send(ann, "the first opens the link").await.unwrap();
        let started = Instant::now();
        while started.elapsed() < span {
            let begun = Instant::now();
            let done = async {
                match what {
                    What::Write => client.send(ann, "a message").await.map(drop),
                    What::Ask => client.whoami().await.map(drop),
                }
            };
            samples
                .0
                .push(match tokio::time::timeout(patience, done).await {
                    Ok(done) => {
                        done.unwrap();
                        begun.elapsed()
                    }
                    Err(_) => patience * 2,
                });
        }
    });
    samples
}

/// A flood of logins with wrong passwords; what the commands of somebody else take meanwhile, and the most memory.
pub fn guesses(home: &Home, realm: &Realm, count: usize) -> (Samples, u64) {
    let is_over = Arc::new(AtomicBool::new(false));
    let most = Arc::new(AtomicU64::new(0));
    let mut samples = Samples::default();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..64)
            .map(|n| home.client(&format!("guesser-{n}"), &realm.connect))
            .collect();
        let over = Arc::clone(&is_over);
        scope.spawn(move || {
            runtime().block_on(async {
                let one = |n: usize| {
                    let client = &clients[n];
                    async move {
                        for round in 0..count / 64 {
                            // No name twice: guesses at one account wait.
                            let user = format!("nobody-{n}-{round}").parse().unwrap();
                            let _ = client.auth(user, b"wrong").await;
                        }
                    }
                };
                let mut all = Vec::new();
                for n in 0..64 {
                    all.push(Box::pin(one(n)));
                }
                join_all(all).await;
            });
            over.store(true, Ordering::Relaxed);
        });
        let (over, highest) = (Arc::clone(&is_over), Arc::clone(&most));
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                highest.fetch_max(realm.memory(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        while !is_over.load(Ordering::Relaxed) {
            let span = Duration::from_millis(200);
            samples.extend(commands(
                home,
                realm,
                span,
                Duration::from_mins(1),
                What::Write,
            ));
        }
    });
    (samples, most.load(Ordering::Relaxed))
}

/// Waits for all of them.
pub async fn join_all<F: Future<Output = ()> + Unpin>(mut all: Vec<F>) {
    std::future::poll_fn(|context| {
        all.retain_mut(|one| std::pin::Pin::new(one).poll(context).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// Three wrong passwords for each of so many users that there are, and as many that there are not, in turn.
pub fn wrong_passwords(home: &Home, realm: &Realm, users: usize) -> (Samples, Samples) {
    for n in 0..users {
        home.register(&format!("user{n}"), &realm.connect);
    }
    let client = home.client("eve", &realm.connect);
    let (mut known, mut unknown) = (Samples::default(), Samples::default());
    runtime().block_on(async {
        for n in 0..users * 3 {
            for (samples, name) in [(&mut known, "user"), (&mut unknown, "none")] {
                let user = format!("{name}{}", n / 3).parse().unwrap();
                let begun = Instant::now();
                let refused = client.auth(user, b"wrong").await;
                samples.0.push(begun.elapsed());
                assert!(matches!(refused, Err(CallError::Refused(_))), "{refused:?}");
            }
        }
    });
    (known, unknown)
}
