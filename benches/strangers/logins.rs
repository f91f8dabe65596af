//! The actions of users under a flood, and how long they take.

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

/// Durations of actions.
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

    /// Returns the share of durations up to `limit`.
    pub fn within(&self, limit: Duration) -> f64 {
        let few = self.0.iter().filter(|took| **took <= limit).count();
        few as f64 / self.0.len() as f64
    }
}

/// Returns a runtime for one thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Measures logins, one after another, each of a new device.
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

/// The action of a user who is logged in.
#[derive(Clone, Copy, PartialEq)]
pub enum What {
    /// Sends messages, which are stored.
    Write,
    /// Sends a query that changes nothing.
    Ask,
}

/// Measures commands of a user who is logged in, one after another. One that takes longer than
/// `patience` counts as twice that.
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

/// Sends a flood of logins with wrong passwords. Returns the durations of another user's commands
/// meanwhile, and the highest memory.
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
                            // No name is used twice, because the login throttle delays guesses at
                            // one account.
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

/// Waits for all futures.
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

/// Measures three wrong passwords for each of `users` existing users and as many users that do not
/// exist, in turn.
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
