//! The plan of a seed: the size of the world, the conditions of its paths, and the severity of its
//! faults.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{disk::Health, kinds::Kinds, network::Weather};
use crate::endpoint::LINK_LIFETIME;

/// What a seed determines.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The number of users of each realm.
    pub realms: Vec<usize>,
    /// The number of turns of each user.
    pub turns: u32,
    /// The length of the storm.
    pub storm: Duration,
    /// The network conditions without faults.
    pub path: Weather,
    /// The worst rate of each fault.
    worst: Weather,
    smallest: usize,
    /// The share of the processes that die at some moment.
    pub deadly: f64,
    disk: Health,
    /// The average interval between changes in the storm.
    pub restless: Duration,
    pub early_data: bool,
    pub deadline: Duration,
    /// The clients know the rate of the path.
    pub is_rate_known: bool,
    /// Links older than this are replaced.
    pub lifetime: Duration,
    /// Read entries are kept for this time. None if they are kept for ever.
    pub kept: Option<Duration>,
    /// A greedy account uses the first realm.
    pub is_greedy: bool,
    pub kinds: Kinds,
}

/// The share of the worlds with a greedy account.
const GREEDY: f64 = 0.05;

impl Plan {
    /// Draws a plan. `greed` decides whether there is a greedy account, and `seed` the kinds of the
    /// world. The rest of the plan does not depend on them.
    pub fn draw(seed: u64, rng: &mut StdRng, greed: &mut StdRng) -> Self {
        let realms: &[&[usize]] = &[&[1], &[2], &[2], &[3], &[1, 1], &[1, 1], &[2, 1], &[2, 2]];
        let delay_ms = match rng.random_range(0..100) {
            0..60 => rng.random_range(1..100),
            60..85 => rng.random_range(100..1000),
            85..96 => rng.random_range(1000..5000),
            // The longest supported round trip is a minute. The paths must not exceed it.
            _ => 20_000,
        };
        let rates = [37, 120, 1200, 12_000, 125_000];
        let rate = rng.random_bool(0.15).then(|| *rates.choose(rng).unwrap());
        // The queue before a narrow path must not make it longer either.
        let rate = rate.filter(|rate| delay_ms < 20_000 || *rate >= 1200);
        let is_slow = delay_ms >= 1000 || rate.is_some_and(|rate| rate < 1000);
        let losses = [0.0, 0.05, 0.1, 0.3, 0.5, 0.6];
        let mtus = [1200, 1200, 1200, 548, 300, 160];
        let path = Weather {
            loss: 0.0,
            doubled: 0.0,
            bent: 0.0,
            replayed: 0.0,
            delay: Duration::from_millis(delay_ms),
            spread: Duration::from_millis(delay_ms * rng.random_range(0..2) / 2),
            mtu: 1200,
            rate,
        };
        let sometimes = |rng: &mut StdRng, worst: f64| {
            if rng.random_bool(0.5) { worst } else { 0.0 }
        };
        let worst = Weather {
            loss: *losses.choose(rng).unwrap(),
            doubled: sometimes(rng, 0.2),
            bent: sometimes(rng, 0.05),
            replayed: sometimes(rng, 0.1),
            ..path
        };
        let seconds = |rng: &mut StdRng, from, to| Duration::from_secs(rng.random_range(from..to));
        let realms = realms.choose(rng).unwrap().to_vec();
        Self {
            kinds: Kinds::draw(seed, realms.len()),
            realms,
            turns: rng.random_range(2..12),
            storm: seconds(rng, 20, if is_slow { 3000 } else { 600 }),
            path,
            worst,
            smallest: *mtus.choose(rng).unwrap(),
            deadly: *[0.0, 0.3, 0.8].choose(rng).unwrap(),
            disk: Health {
                sync: Duration::from_millis(rng.random_range(1..200)),
                failing: sometimes(rng, 0.02),
                is_full: rng.random_bool(0.2),
            },
            restless: seconds(rng, 2, 60),
            early_data: rng.random_bool(0.8),
            deadline: seconds(rng, 20, 120) * if is_slow { 10 } else { 1 },
            is_rate_known: rng.random_bool(0.5),
            // A link must live long enough for the longest message, which would otherwise never
            // arrive.
            lifetime: if rng.random_bool(0.3) {
                seconds(rng, 60, 1200) * if is_slow { 20 } else { 1 }
            } else {
                LINK_LIFETIME
            },
            kept: rng.random_bool(0.3).then(|| seconds(rng, 120, 1800)),
            is_greedy: greed.random_bool(GREEDY),
        }
    }

    /// Draws the next network conditions of the storm.
    pub fn weather(&self, rng: &mut StdRng) -> Weather {
        let mut part = |worst: f64| worst * rng.random::<f64>();
        Weather {
            loss: part(self.worst.loss),
            doubled: part(self.worst.doubled),
            bent: part(self.worst.bent),
            replayed: part(self.worst.replayed),
            mtu: if rng.random_bool(0.5) {
                self.smallest
            } else {
                self.path.mtu
            },
            ..self.path
        }
    }

    /// Draws the next state of a disk in the storm.
    pub fn health(&self, rng: &mut StdRng) -> Health {
        Health {
            is_full: self.disk.is_full && rng.random_bool(0.3),
            ..self.disk
        }
    }

    /// Returns the state of a disk without faults.
    pub const fn good_health(&self) -> Health {
        Health {
            sync: self.disk.sync,
            failing: 0.0,
            is_full: false,
        }
    }

    /// Draws after how many calls to its machine the next process dies. None if it does not.
    pub fn fuse(&self, rng: &mut StdRng, most: i64) -> Option<i64> {
        rng.random_bool(self.deadly)
            .then(|| rng.random_range(1..most))
    }
}
