//! What a seed stands for: how large the world is, what its paths are like, and how bad it gets.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{disk::Health, kinds::Kinds, network::Weather};
use crate::endpoint::LINK_LIFETIME;

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many people each realm has.
    pub realms: Vec<usize>,
    /// Turns that each person takes.
    pub turns: u32,
    /// For how long things go wrong.
    pub storm: Duration,
    /// The path on a good day.
    pub path: Weather,
    /// The worst of each fault.
    worst: Weather,
    smallest: usize,
    /// The part of the processes that are to die at some moment.
    pub deadly: f64,
    disk: Health,
    /// How often something changes.
    pub restless: Duration,
    pub early_data: bool,
    pub deadline: Duration,
    /// The clients know how narrow the path is.
    pub is_rate_known: bool,
    /// Links that are older are replaced.
    pub lifetime: Duration,
    /// What has been read is kept for so long, if it is not kept for ever.
    pub kept: Option<Duration>,
    /// Somebody takes all they can at the first realm.
    pub is_greedy: bool,
    pub kinds: Kinds,
}

/// The part of the worlds in which somebody takes all they can.
const GREEDY: f64 = 0.05;

impl Plan {
    /// `greed` decides whether somebody takes all they can, and `seed` of which kinds the world is: whatever else a seed stands for does
    /// not depend on that.
    pub fn draw(seed: u64, rng: &mut StdRng, greed: &mut StdRng) -> Self {
        let realms: &[&[usize]] = &[&[1], &[2], &[2], &[3], &[1, 1], &[1, 1], &[2, 1], &[2, 2]];
        let delay_ms = match rng.random_range(0..100) {
            0..60 => rng.random_range(1..100),
            60..85 => rng.random_range(100..1000),
            85..96 => rng.random_range(1000..5000),
            // A round trip takes a minute at most, and that is not ours to make longer.
            _ => 20_000,
        };
        let rates = [37, 120, 1200, 12_000, 125_000];
        let rate = rng
            .random_bool(0.15)
            .then(|| *rates.choose(rng).unwrap_or(&1200));
        // Nor may the queue before a narrow path make it longer.
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
            loss: *losses.choose(rng).unwrap_or(&0.1),
            doubled: sometimes(rng, 0.2),
            bent: sometimes(rng, 0.05),
            replayed: sometimes(rng, 0.1),
            ..path
        };
        let seconds = |rng: &mut StdRng, from, to| Duration::from_secs(rng.random_range(from..to));
        let realms = realms.choose(rng).map_or_else(|| vec![1], |r| r.to_vec());
        Self {
            kinds: Kinds::draw(seed, realms.len()),
            realms,
            turns: rng.random_range(2..12),
            storm: seconds(rng, 20, if is_slow { 3000 } else { 600 }),
            path,
            worst,
            smallest: *mtus.choose(rng).unwrap_or(&1200),
            deadly: *[0.0, 0.3, 0.8].choose(rng).unwrap_or(&0.0),
            disk: Health {
                sync: Duration::from_millis(rng.random_range(1..200)),
                failing: sometimes(rng, 0.02),
                is_full: rng.random_bool(0.2),
            },
            restless: seconds(rng, 2, 60),
            early_data: rng.random_bool(0.8),
            deadline: seconds(rng, 20, 120) * if is_slow { 10 } else { 1 },
            is_rate_known: rng.random_bool(0.5),
            // Long enough for the longest message, or it would begin anew for ever.
            lifetime: if rng.random_bool(0.3) {
                seconds(rng, 60, 1200) * if is_slow { 20 } else { 1 }
            } else {
                LINK_LIFETIME
            },
            kept: rng.random_bool(0.3).then(|| seconds(rng, 120, 1800)),
            is_greedy: greed.random_bool(GREEDY),
        }
    }

    /// How the network may be next, while it storms.
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

    /// How a disk may be next, while it storms.
    pub fn health(&self, rng: &mut StdRng) -> Health {
        Health {
            is_full: self.disk.is_full && rng.random_bool(0.3),
            ..self.disk
        }
    }

    /// How a disk is on a good day.
    pub const fn good_health(&self) -> Health {
        Health {
            sync: self.disk.sync,
            failing: 0.0,
            is_full: false,
        }
    }

    /// After how many moments the next process dies, if it does.
    pub fn fuse(&self, rng: &mut StdRng, most: i64) -> Option<i64> {
        rng.random_bool(self.deadly)
            .then(|| rng.random_range(1..most))
    }
}
