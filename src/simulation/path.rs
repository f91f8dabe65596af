//! A model of one direction of a bad path: a row of small nodes, each of which drops, delays,
//! repeats or corrupts datagrams. The simulator, tests, benchmarks and the demonstration use it.
//! Those outside of the library include this file by its path, so it imports nothing of the crate.
//!
//! It is sans-IO: it takes the time and the length of a datagram, and returns when the copies of
//! the datagram arrive. Times count from any origin that the caller chooses. All randomness is
//! drawn from the caller's generator, so one seed gives the same fates again. It never holds the
//! bytes of a datagram; [`InFlight`] does that for callers that have no queue of their own.

#![allow(dead_code, reason = "each user takes the nodes that it needs")]

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, RngExt as _};

/// A property of a path. Shares are probabilities, from 0 to 1.
///
/// A node that draws does so for every datagram that reaches it, also where its share is 0. Worlds
/// of fixed seeds rely on that: a share that changes leaves the later draws where they were.
#[derive(Clone, Copy, Debug)]
pub enum Node {
    /// Drops datagrams that are longer than this many bytes.
    Mtu(usize),
    /// Sends one datagram after another.
    Rate(Rate),
    /// Drops this share of the datagrams, each independently of the others.
    Loss(f64),
    /// Drops datagrams in bursts.
    Bursts(Bursts),
    /// Doubles this share of the datagrams. The nodes behind it treat the copies independently.
    Duplicate(f64),
    /// Delays each datagram by this time.
    Delay(Duration),
    /// Delays each datagram by a random time below this one, so that later datagrams overtake it.
    Jitter(Duration),
    /// Holds back this share of the datagrams for this time, so that later datagrams overtake them.
    Reorder(f64, Duration),
    /// Flips a random bit in this share of the datagrams.
    Corrupt(f64),
}

/// A bottleneck with a queue in front of it. The queue drops datagrams at its tail.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The rate in bits a second.
    pub bits_per_second: u64,
    /// The bytes of the headers around each datagram, which take time too.
    headers: usize,
    /// A datagram that would wait longer for others is dropped.
    longest_wait: Duration,
    /// When everything in the queue will have been sent.
    busy_until: Duration,
}

impl Rate {
    /// Returns a bottleneck with an unbounded queue that counts no headers.
    pub const fn new(bits_per_second: u64) -> Self {
        Self {
            bits_per_second,
            headers: 0,
            longest_wait: Duration::MAX,
            busy_until: Duration::ZERO,
        }
    }

    /// Counts this many bytes of headers around each datagram.
    pub const fn with_headers(self, headers: usize) -> Self {
        Self { headers, ..self }
    }

    /// Bounds the queue: a datagram that would wait longer is dropped.
    pub const fn with_queue(self, longest_wait: Duration) -> Self {
        Self {
            longest_wait,
            ..self
        }
    }

    /// Returns how long the bottleneck takes for this many bytes, in whole microseconds.
    pub fn takes(&self, bytes: usize) -> Duration {
        Duration::from_micros(bytes as u64 * 8_000_000 / self.bits_per_second.max(1))
    }

    /// Queues a datagram of `len` bytes. Returns when it is through; `None` if the queue is full.
    pub fn pass(&mut self, now: Duration, len: usize) -> Option<Duration> {
        if self.busy_until.saturating_sub(now) > self.longest_wait {
            return None;
        }
        self.busy_until = self.busy_until.max(now) + self.takes(len + self.headers);
        Some(self.busy_until)
    }
}

/// Losses in bursts (the model of Gilbert): the path is good or bad, and loses everything while it
/// is bad. A share of `begins / (begins + ends)` is lost, in bursts of `1 / ends` on average.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    begins: f64,
    ends: f64,
    is_bad: bool,
}

impl Bursts {
    /// Returns a good path that turns bad at a datagram with the probability `begins`, and good
    /// again with the probability `ends`.
    pub const fn new(begins: f64, ends: f64) -> Self {
        Self {
            begins,
            ends,
            is_bad: false,
        }
    }

    /// True if the next datagram is lost.
    fn loses<R: Rng>(&mut self, rng: &mut R) -> bool {
        let turns = if self.is_bad { self.ends } else { self.begins };
        self.is_bad ^= rng.random_bool(turns);
        self.is_bad
    }
}

/// What becomes of a copy of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at this time, with this bit flipped.
    Arrives {
        at: Duration,
        flipped: Option<usize>,
    },
    /// It was longer than the path carries.
    TooLong,
    /// A bottleneck had no room for it.
    QueueFull,
    /// It was lost by chance.
    Lost,
}

impl Fate {
    /// Returns when the datagram `sent` arrives, and what its bytes are then; `None` if it does
    /// not.
    pub fn arrival(self, sent: &[u8]) -> Option<(Duration, Vec<u8>)> {
        let Self::Arrives { at, flipped } = self else {
            return None;
        };
        let mut bytes = sent.to_vec();
        if let Some(bit) = flipped {
            flip(&mut bytes, bit);
        }
        Some((at, bytes))
    }
}

/// Flips a bit. Bits count from the lowest one of the first byte.
pub fn flip(bytes: &mut [u8], bit: usize) {
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// A copy of a datagram between two nodes.
#[derive(Clone, Copy)]
struct Passing {
    len: usize,
    at: Duration,
    flipped: Option<usize>,
}

impl Node {
    /// Changes the datagram. Returns the number of copies that go on, or why none does.
    fn handle<R: Rng>(&mut self, datagram: &mut Passing, rng: &mut R) -> Result<usize, Fate> {
        match self {
            Self::Mtu(longest) if datagram.len > *longest => return Err(Fate::TooLong),
            Self::Mtu(_) => {}
            Self::Rate(rate) => {
                let through = rate.pass(datagram.at, datagram.len);
                datagram.at = through.ok_or(Fate::QueueFull)?;
            }
            Self::Loss(share) => {
                if rng.random_bool(*share) {
                    return Err(Fate::Lost);
                }
            }
            Self::Bursts(bursts) => {
                if bursts.loses(rng) {
                    return Err(Fate::Lost);
                }
            }
            Self::Duplicate(share) => return Ok(1 + usize::from(rng.random_bool(*share))),
            Self::Delay(delay) => datagram.at += *delay,
            Self::Jitter(most) => datagram.at += most.mul_f64(rng.random()),
            Self::Reorder(share, by) => {
                if rng.random_bool(*share) {
                    datagram.at += *by;
                }
            }
            Self::Corrupt(share) => {
                if datagram.len > 0 && rng.random_bool(*share) {
                    datagram.flipped = Some(rng.random_range(0..datagram.len * 8));
                }
            }
        }
        Ok(1)
    }
}

/// Sends a datagram of `len` bytes into the row of nodes, and returns the fate of each copy.
///
/// A copy passes all nodes before the next copy does. Worlds of fixed seeds rely on that order.
pub fn carry<R: Rng>(nodes: &mut [Node], now: Duration, len: usize, rng: &mut R) -> Vec<Fate> {
    let mut fates = Vec::new();
    let datagram = Passing {
        len,
        at: now,
        flipped: None,
    };
    pass(nodes, datagram, rng, &mut fates);
    fates
}

fn pass<R: Rng>(nodes: &mut [Node], mut datagram: Passing, rng: &mut R, fates: &mut Vec<Fate>) {
    let Some((node, rest)) = nodes.split_first_mut() else {
        let Passing { at, flipped, .. } = datagram;
        fates.push(Fate::Arrives { at, flipped });
        return;
    };
    match node.handle(&mut datagram, rng) {
        Ok(copies) => {
            for _ in 0..copies {
                pass(rest, datagram, rng, fates);
            }
        }
        Err(dropped) => fates.push(dropped),
    }
}

/// Datagrams in flight, in the order of their arrival. Of those that arrive at the same time, the
/// one that was sent first is the first.
#[derive(Debug)]
pub struct InFlight<T> {
    datagrams: BTreeMap<(Duration, u64), T>,
    sent: u64,
}

impl<T> InFlight<T> {
    /// Returns an empty queue.
    pub const fn new() -> Self {
        Self {
            datagrams: BTreeMap::new(),
            sent: 0,
        }
    }

    /// Adds a datagram that arrives at `at`.
    pub fn push(&mut self, at: Duration, datagram: T) {
        self.sent += 1;
        self.datagrams.insert((at, self.sent), datagram);
    }

    /// Returns when the next datagram arrives.
    pub fn next_at(&self) -> Option<Duration> {
        self.datagrams.keys().next().map(|(at, _)| *at)
    }

    /// Removes the next datagram that has arrived by `now`.
    pub fn take(&mut self, now: Duration) -> Option<T> {
        let first = self.datagrams.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
