//! Datagrams that leave a listener together.

use std::net::{IpAddr, SocketAddr};

/// Datagrams that are handed to a socket at a time, at most.
pub const SEND_BATCH: usize = 32;
/// Bytes that leave as one for the kernel to segment (GSO), at most: it takes no more than one IP packet holds.
const BURST_BYTES_MAX: usize = 65_000;

/// Where a datagram goes, and from which of this machine's addresses; with none the kernel chooses one.
pub type Way = (SocketAddr, Option<IpAddr>);

/// Datagrams that are to leave together.
#[derive(Debug, Default)]
pub struct SendBatch {
    /// All of them, one behind the other.
    bytes: Vec<u8>,
    /// Where each of them ends, and its way.
    ends: Vec<(usize, Way)>,
    /// Room to write one in.
    datagram: Vec<u8>,
}

/// Datagrams that leave in one call: of the same way and length, but for the last, which may be shorter.
#[derive(Debug, PartialEq, Eq)]
pub struct Burst<'a> {
    /// All of them, one behind the other.
    pub bytes: &'a [u8],
    /// The length of each.
    pub each: usize,
    /// How many there are.
    pub count: usize,
    /// Where they go.
    pub way: Way,
}

impl SendBatch {
    /// True when no more may be added.
    pub const fn is_full(&self) -> bool {
        self.ends.len() == SEND_BATCH
    }

    /// Adds what `write` writes and says where it goes; false when it says nothing.
    pub fn add(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<Way>) -> bool {
        let Some(way) = write(&mut self.datagram) else {
            return false;
        };
        self.bytes.extend_from_slice(&self.datagram);
        self.ends.push((self.bytes.len(), way));
        true
    }

    /// None is to leave any more.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Those from the `first` on that may leave in one call, `most` at most. None when there is no such one.
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
            // Behind a shorter one nothing follows.
            if !fits || count >= most || full < count {
                break;
            }
            count += 1;
            full += usize::from(len == each);
            last = *end;
        }
        if full < 2 {
            // Perhaps one that tries out what the path carries, and the next: they are not to share a fate.
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

    /// How many leave in each call, and the length of each but the last.
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
    fn what_goes_one_way_in_one_length_leaves_in_one_call() {
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
    fn no_burst_is_larger_than_the_kernel_takes() {
        let many = vec![(9000, way(1, 1)); SEND_BATCH];
        assert_eq!(bursts(&many, 64)[..4], [(7, 9000); 4]);
        assert_eq!(bursts(&[(9, way(1, 1)); 5], 2), [(2, 9), (2, 9), (1, 9)]);
        assert_eq!(bursts(&[(9, way(1, 1)); 3], 1), [(1, 9); 3], "without GSO");
    }
}
