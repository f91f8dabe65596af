//! The path memory of a profile for a realm (LINK-25): one record for each network it was used in,
//! under `p/ realm 4`.

use std::time::Duration;

use super::{
    ProfileError,
    state::RealmNumber,
    store::{self, Records},
};
use crate::{
    link::{Losses, PathMemory},
    subnet::Subnet,
};

/// The maximum number of remembered networks. The least recently used one is replaced.
const NETWORKS_MAX: usize = 4;
/// An older record is ignored.
const LIFETIME: Duration = Duration::from_hours(720);
/// The maximum number of exchanges that are counted, and the longest plausible round-trip time.
/// Values read are limited to these.
const EXCHANGES_MAX: u32 = 32;
const LONGEST: Duration = Duration::from_mins(2);

/// The record of one path, in numbers of 8 bytes: the network; when it was last used, in seconds
/// since 1970; the round-trip time and its variation, in microseconds, 0 if unknown; the lost
/// exchanges and out of how many; the largest datagram, in bytes; how many exchanges in a row took
/// several tries.
type PathRecord = [u8; 8 * 8];

fn numbers(record: &PathRecord) -> [u64; 8] {
    let mut numbers = [0; 8];
    for (number, bytes) in numbers.iter_mut().zip(record.as_chunks().0) {
        *number = u64::from_be_bytes(*bytes);
    }
    numbers
}

fn key(realm: RealmNumber) -> Vec<u8> {
    [b"p/".as_slice(), &realm.0.to_be_bytes()].concat()
}

fn is_young(at: u64, now: Duration) -> bool {
    let age = now.as_secs().checked_sub(at);
    age.is_some_and(|age| age < LIFETIME.as_secs())
}

/// The known paths to one realm. The last one was used last.
#[derive(Clone, Debug, Default)]
pub struct Paths(Vec<PathRecord>);

impl Paths {
    /// Loads the known paths. A damaged record counts as none: links measure their paths anew.
    pub fn load(records: &dyn Records, realm: RealmNumber) -> Result<Self, ProfileError> {
        match store::get_bytes(records, &key(realm)) {
            Ok(Some(bytes)) => Ok(Self(bytes.as_chunks().0.to_vec())),
            Ok(None) | Err(ProfileError::Damaged(_)) => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn position(&self, network: Subnet) -> Option<usize> {
        let mut all = self.0.iter();
        all.position(|record| record.starts_with(network.as_bytes()))
    }

    /// Returns the path memory for `network` at the time of day `now`.
    pub fn of(&self, network: Subnet, now: Duration) -> Option<PathMemory> {
        let record = self.0.get(self.position(network)?)?;
        let [_, at, rtt, variation, lost, of, datagram, unsure] = numbers(record);
        let is_known = is_young(at, now);
        // Implausible values in the record are not believed.
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).min(EXCHANGES_MAX);
        let micros = |number: u64| Duration::from_micros(number).min(LONGEST);
        is_known.then(|| PathMemory {
            rtt: (rtt > 0).then(|| (micros(rtt), micros(variation))),
            losses: Losses {
                lost: small(lost.min(of)),
                of: small(of),
            },
            datagram: usize::try_from(datagram).unwrap_or(usize::MAX),
            unsure: small(unsure),
        })
    }

    /// Saves the path memory of a link from `network`.
    pub fn save(
        records: &mut dyn Records,
        realm: RealmNumber,
        network: Subnet,
        now: Duration,
        memory: &PathMemory,
    ) -> Result<(), ProfileError> {
        let mut paths = Self::load(records, realm)?;
        // Records older than a month are deleted for privacy.
        paths.0.retain(|record| is_young(numbers(record)[1], now));
        let is_full = paths.0.len() >= NETWORKS_MAX;
        if let Some(at) = paths.position(network).or(is_full.then_some(0)) {
            paths.0.remove(at);
        }
        let (rtt, variation) = memory.rtt.unwrap_or_default();
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let numbers = [
            u64::from_be_bytes(*network.as_bytes()),
            now.as_secs(),
            micros(rtt),
            micros(variation),
            memory.losses.lost.into(),
            memory.losses.of.into(),
            memory.datagram as u64,
            memory.unsure.into(),
        ];
        let mut bytes = paths.0.as_flattened().to_vec();
        for number in numbers {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        store::put_bytes(records, &key(realm), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::client::store::{Memory, write};

    fn network(n: u8) -> Subnet {
        IpAddr::V4(Ipv4Addr::new(10, 0, n, 7)).into()
    }

    /// LINK-25: a few networks are remembered for a month, and never confused with each other.
    #[test]
    fn path_memory_is_kept_per_network_for_one_month() {
        let (realm, now) = (RealmNumber(0), Duration::from_hours(10_000));
        let memory = |ms| PathMemory {
            rtt: Some((Duration::from_millis(ms), Duration::from_millis(5))),
            losses: Losses { lost: 3, of: 9 },
            datagram: 1200,
            unsure: 2,
        };
        let outcome = write(&Memory::default(), |records| {
            for (n, ms) in [(0, 9), (1, 10), (2, 20), (3, 30), (1, 11), (4, 40)] {
                Paths::save(records, realm, network(n), now, &memory(ms))?;
            }
            let known = Paths::load(records, realm)?;
            let later = now + Duration::from_hours(700);
            let found = [0, 1, 2, 3, 4, 5].map(|n| known.of(network(n), later));
            assert_eq!(
                found,
                [
                    None,
                    Some(memory(11)),
                    Some(memory(20)),
                    Some(memory(30)),
                    Some(memory(40)),
                    None
                ]
            );
            assert_eq!(known.of(network(1), now + LIFETIME), None);
            let before = now.checked_sub(Duration::from_secs(1)).unwrap();
            assert_eq!(known.of(network(1), before), None);
            let other = Paths::load(records, RealmNumber(1))?;
            assert_eq!(other.of(network(1), now), None);
            records.put(&key(realm), b"damaged")?;
            assert_eq!(Paths::load(records, realm)?.of(network(1), now), None);
            Paths::save(records, realm, network(1), now, &memory(10))
        });
        outcome.unwrap();
    }
}
