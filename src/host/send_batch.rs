//! A batch of datagrams that leave a listener together.

use std::net::{IpAddr, SocketAddr};

/// The maximum number of datagrams that are passed to a socket at a time.
pub const SEND_BATCH: usize = 32;
/// The maximum number of bytes that the kernel segments (GSO): no more than fit one IP packet.
const BURST_BYTES_MAX: usize = 65_000;

/// A datagram's destination, and its source address on this machine; if there is none, the kernel
/// chooses one.
pub type Way = (SocketAddr, Option<IpAddr>);

/// Datagrams to send together.
#[derive(Debug, Default)]
pub struct SendBatch {
    /// The contents of all datagrams, concatenated.
    bytes: Vec<u8>,
    /// The end and the way of each datagram.
    ends: Vec<(usize, Way)>,
    /// The buffer in which a datagram is written.
    datagram: Vec<u8>,
}

/// Datagrams that leave in one call: they have the same way and length, except for the last, which
/// may be shorter.
#[derive(Debug, PartialEq, Eq)]
pub struct Burst<'a> {
    /// The contents of all datagrams, concatenated.
    pub bytes: &'a [u8],
    /// The length of each.
    pub each: usize,
    /// The number of datagrams.
    pub count: usize,
    /// Their destination and source address.
    pub way: Way,
}

impl SendBatch {
    /// True if no more may be added.
    pub const fn is_full(&self) -> bool {
        self.ends.len() == SEND_BATCH
    }

    /// Adds the datagram that `write` writes, to the way that it returns. False if it returns none.
    pub fn add(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<Way>) -> bool {
        let Some(way) = write(&mut self.datagram) else {
            return false;
        };
        self.bytes.extend_from_slice(&self.datagram);
        self.ends.push((self.bytes.len(), way));
        true
    }

    /// Removes all datagrams.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Returns the datagrams from `first` on that may leave in one call, at most `most`. None if
    /// there are none.
    pub fn burst(&self, first: usize, most: usize) -> Option<Burst<'_>> {
        let before = first
            .checked_sub(1)
            .and_then(|before| self.ends.get(before));
        let begin = before.map_or(0, |(end, _)| *end);
        let (first_end, way) = *self.ends.get(first)?;
        let each = first_end - begin;
        let (mut count, mut full, mut last) = (1, 1, first_end);
        for (end, other) in self.ends.iter().skip(first + 1) {
            let len = end - last;
            let fits = *other == way && len <= each && end - begin <= BURST_BYTES_MAX;
            // No datagram follows a shorter one.
            if !fits || count >= most || full < count {
                break;
            }
            count += 1;
            full += usize::from(len == each);
            last = *end;
        }
        if full < 2 {
            // The longer one may be a probe of MTU discovery: it must not be lost together with the
            // next.
            (count, last) = (1, first_end);
        }
        Some(Burst {
            bytes: self.bytes.get(begin..last)?,
            each,
            count,
            way,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(to: u8, from: u8) -> Way {
        let from = (from > 0).then(|| IpAddr::from([10, 0, 1, from]));
        (SocketAddr::from(([10, 0, 0, to], 6377)), from)
    }

    /// Returns the number of datagrams in each call, and the length of each but the last.
    fn bursts(datagrams: &[(usize, Way)], most: usize) -> Vec<(usize, usize)> {
        let mut leaving = SendBatch::default();
        for (number, (len, way)) in (0..).zip(datagrams) {
            let written = leaving.add(|out| {
                *out = vec![number; *len];
                Some(*way)
            });
            assert!(written);
        }
        let (mut sent, mut bursts) = (0, Vec::new());
        let mut bytes = Vec::new();
        while let Some(burst) = leaving.burst(sent, most) {
            assert_eq!(burst.way, datagrams[sent].1);
            sent += burst.count;
            bytes.extend_from_slice(burst.bytes);
            bursts.push((burst.count, burst.each));
        }
        assert_eq!(sent, datagrams.len());
        let wanted = (0..)
            .zip(datagrams)
            .flat_map(|(number, (len, _))| vec![number; *len]);
        assert_eq!(bytes, wanted.collect::<Vec<u8>>());
        bursts
    }

    #[test]
    fn send_batch_of_one_path_and_length_leaves_in_one_call() {
        let (a, b) = (way(1, 1), way(2, 1));
        assert_eq!(bursts(&[], 64), []);
        assert_eq!(
            bursts(&[(1200, a), (1200, a), (300, a), (1200, a)], 64),
            [(3, 1200), (1, 1200)],
            "behind a shorter one nothing follows"
        );
        assert_eq!(bursts(&[(9, a), (9, b), (9, a)], 64), [(1, 9); 3]);
        assert_eq!(bursts(&[(9, a), (9, way(1, 2))], 64), [(1, 9); 2]);
        assert_eq!(bursts(&[(9, a), (9, way(1, 0))], 64), [(1, 9); 2]);
        assert_eq!(bursts(&[(548, a), (1200, a)], 64), [(1, 548), (1, 1200)]);
        assert_eq!(
            bursts(&[(1200, a), (548, a), (548, a)], 64),
            [(1, 1200), (2, 548)],
            "a probe is alone"
        );
    }

    #[test]
    fn send_batch_burst_is_no_larger_than_kernel_accepts() {
        let many = vec![(9000, way(1, 1)); SEND_BATCH];
        assert_eq!(bursts(&many, 64)[..4], [(7, 9000); 4]);
        assert_eq!(bursts(&[(9, way(1, 1)); 5], 2), [(2, 9), (2, 9), (1, 9)]);
        assert_eq!(bursts(&[(9, way(1, 1)); 3], 1), [(1, 9); 3], "without GSO");
    }
}
