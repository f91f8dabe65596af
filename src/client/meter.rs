//! What talking to a realm has cost: the datagrams that have left and come, counted where they do.

use std::{
    ops::Add,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

/// Bytes of the headers of IPv4 and UDP around each datagram (RFC 791, RFC 768).
const HEADERS: u64 = 20 + 8;

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// How many datagrams.
    pub datagrams: u64,
    /// Their bytes, without the headers of UDP and IP.
    pub bytes: u64,
}

impl Traffic {
    /// Another datagram of so many bytes.
    pub const fn add_datagram(&mut self, bytes: usize) {
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

/// What went both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// To the realm.
    pub up: Traffic,
    /// From it.
    pub down: Traffic,
}

impl Spent {
    /// All bytes, with the headers of IPv4 and UDP.
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

/// Counts what clients spend. Its clones count together.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<[AtomicU64; 4]>);

impl Meter {
    /// What has been spent so far.
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

/// What the runs of a profile have spent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// What the last run did.
    pub command: String,
    /// What it spent.
    pub last: Spent,
    /// How many runs there were.
    pub runs: u64,
    /// What all of them have spent.
    pub total: Spent,
}

impl Spending {
    /// Another run is over.
    pub fn add(&mut self, command: &str, spent: Spent) {
        self.command = command.into();
        self.last = spent;
        self.runs += 1;
        self.total = self.total + spent;
    }
}
