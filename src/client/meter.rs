//! The traffic with a realm: datagrams sent and received, counted at the socket.

use std::{
    ops::Add,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

/// The size of the IPv4 and UDP headers of a datagram, in bytes (RFC 791, RFC 768).
const HEADERS: u64 = 20 + 8;

/// The traffic in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The number of datagrams.
    pub datagrams: u64,
    /// Their bytes, without UDP and IP headers.
    pub bytes: u64,
}

impl Traffic {
    /// Adds a datagram of this many bytes.
    pub(super) const fn add_datagram(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            datagrams: self.datagrams + other.datagrams,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// The traffic in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// To the realm.
    pub up: Traffic,
    /// From the realm.
    pub down: Traffic,
}

impl Spent {
    /// Returns all bytes, with IPv4 and UDP headers.
    pub const fn bytes_with_headers(&self) -> u64 {
        let datagrams = self.up.datagrams + self.down.datagrams;
        self.up.bytes + self.down.bytes + datagrams * HEADERS
    }
}

impl Add for Spent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            up: self.up + other.up,
            down: self.down + other.down,
        }
    }
}

/// Counts the traffic of clients. Clones share one counter.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<[AtomicU64; 4]>);

impl Meter {
    /// Returns the traffic so far.
    pub fn spent(&self) -> Spent {
        let [up, up_bytes, down, down_bytes] = &*self.0;
        let traffic = |datagrams: &AtomicU64, bytes: &AtomicU64| Traffic {
            datagrams: datagrams.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        };
        Spent {
            up: traffic(up, up_bytes),
            down: traffic(down, down_bytes),
        }
    }

    pub(super) fn up(&self, bytes: usize) {
        let [datagrams, sum, ..] = &*self.0;
        datagrams.fetch_add(1, Ordering::Relaxed);
        sum.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn down(&self, bytes: usize) {
        let [.., datagrams, sum] = &*self.0;
        datagrams.fetch_add(1, Ordering::Relaxed);
        sum.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The traffic of the runs of a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// The command of the last run.
    pub command: String,
    /// The traffic of the last run.
    pub last: Spent,
    /// The number of runs.
    pub runs: u64,
    /// The traffic of all runs.
    pub total: Spent,
}

impl Spending {
    /// Adds a finished run.
    pub(super) fn add(&mut self, command: &str, spent: Spent) {
        self.command = command.into();
        self.last = spent;
        self.runs += 1;
        self.total = self.total + spent;
    }
}
