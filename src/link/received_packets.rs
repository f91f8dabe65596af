//! Received packets: the replay window and the acknowledgement built from it (LINK-3, LINK-5).

use super::{
    limits::REPLAY_WINDOW,
    rtt::{DELAY_MAX, Rtt},
    time::Time,
};
use crate::wire::{AckFrame, PacketNumber};

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;
/// The loss rate is estimated over about this many packets.
const LOSS_OVER: u32 = 16;
/// The lasting loss rate, which outlives the link, is estimated over about this many packets: the
/// next link begins with it alone.
const LASTING_OVER: u32 = 64;
/// The unit of the lasting loss rate, fine enough for the value to reach zero.
const LASTING_WHOLE: u32 = 1 << 16;
/// More consecutive missing packets than this add no information.
const LOSS_RUN_MAX: u64 = 64;
/// After this many packets an acknowledgement is piggybacked, so that the peer's numbers stay
/// short.
const UNACKNOWLEDGED_MAX: u32 = 64;
/// After this many packets an acknowledgement is sent at once, if at least one of them has a
/// fragment.
const FRAGMENTS_UNACKNOWLEDGED_MAX: u32 = 8;

/// The packets received on a link.
#[derive(Clone, Debug, Default)]
pub struct ReceivedPackets {
    largest: Option<PacketNumber>,
    largest_at: Time,
    /// Bit `n % 1024` stands for packet `n`, for the window up to the largest.
    seen: [u64; WORDS],
    /// When an acknowledgement must be sent, if one is owed.
    due: Option<Time>,
    since_acknowledgement: u32,
    /// The recent loss rate of packets sent to this side, in 1/1024.
    loss: u32,
    /// The lasting loss rate, over more packets, in 1/65536.
    lasting_loss: u32,
}

/// The received packets of a dormant link.
#[derive(Clone, Copy, Debug)]
pub struct DormantPackets {
    largest: Option<u32>,
    /// Bit `n` of word `m` stands for the packet `64 m + n` before the largest: as far back as an
    /// acknowledgement covers.
    recent: [u64; 2],
    loss: u32,
}

impl ReceivedPackets {
    /// True if no acknowledgement is owed, and no number is too large for the dormant form.
    pub fn may_hibernate(&self) -> bool {
        let largest = self.largest.map(|largest| u32::try_from(largest.0));
        self.due.is_none() && largest.is_none_or(|largest| largest.is_ok())
    }

    /// Returns the compact state for a dormant link.
    pub fn hibernate(&self) -> Option<DormantPackets> {
        let mut dormant = DormantPackets {
            largest: None,
            recent: [0; 2],
            loss: self.loss,
        };
        let Some(PacketNumber(largest)) = self.largest else {
            return Some(dormant);
        };
        dormant.largest = Some(u32::try_from(largest).ok()?);
        for (bits, from) in dormant.recent.iter_mut().zip([0, 64]) {
            for n in 0..64 {
                let number = largest.checked_sub(from + n);
                let has_come = number.is_some_and(|number| self.bit(PacketNumber(number)));
                *bits |= u64::from(has_come) << n;
            }
        }
        Some(dormant)
    }

    /// Restores the state of a dormant link. Packets before the remembered ones count as seen.
    pub fn from_dormant(dormant: DormantPackets) -> Self {
        let mut received = Self {
            loss: dormant.loss,
            lasting_loss: dormant.loss * (LASTING_WHOLE / 1024),
            ..Self::default()
        };
        let Some(largest) = dormant.largest.map(u64::from) else {
            return received;
        };
        received.largest = Some(PacketNumber(largest));
        received.seen = [u64::MAX; WORDS];
        for (bits, from) in dormant.recent.into_iter().zip([0, 64]) {
            for n in 0..64 {
                if let Some(number) = largest.checked_sub(from + n) {
                    received.set_bit(PacketNumber(number), bits >> n & 1 == 1);
                }
            }
        }
        received
    }

    /// The largest packet number received.
    pub const fn largest(&self) -> Option<PacketNumber> {
        self.largest
    }

    /// True if `number` has not been received before. Called after a packet proved authentic and
    /// before it takes effect.
    pub fn is_new(&self, number: PacketNumber) -> bool {
        match self.largest {
            Some(largest) if number <= largest => {
                largest.0 - number.0 < REPLAY_WINDOW && !self.bit(number)
            }
            Some(_) | None => true,
        }
    }

    /// Records a packet that [`ReceivedPackets::is_new`]. True if numbers before it are missing.
    pub fn record(&mut self, now: Time, number: PacketNumber) -> bool {
        let next = self.largest.map_or(0, |largest| largest.0 + 1);
        let is_largest = number.0 >= next;
        if is_largest {
            // The numbers that enter the window have not been seen yet.
            let oldest = number.0.saturating_sub(REPLAY_WINDOW - 1);
            for entering in next.max(oldest)..=number.0 {
                self.set_bit(PacketNumber(entering), false);
            }
            // The estimate adapts fast at first, because a short exchange should detect a bad path
            // too.
            let over = |most: u32, number: u64| {
                let number = u32::try_from(number).unwrap_or(most);
                most.min(number.saturating_add(4))
            };
            for missing in next..number.0.min(next + LOSS_RUN_MAX) {
                self.loss += (1024 - self.loss) / over(LOSS_OVER, missing);
                self.lasting_loss +=
                    (LASTING_WHOLE - self.lasting_loss) / over(LASTING_OVER, missing);
            }
            self.loss -= self.loss / over(LOSS_OVER, number.0);
            self.lasting_loss -= self.lasting_loss / over(LASTING_OVER, number.0);
            self.largest = Some(number);
            self.largest_at = now;
        } else {
            // The packet was late, not lost.
            self.loss -= self.loss / LOSS_OVER;
            self.lasting_loss -= self.lasting_loss / LASTING_OVER;
        }
        self.set_bit(number, true);
        self.since_acknowledgement = self.since_acknowledgement.saturating_add(1);
        is_largest && number.0 > next
    }

    /// The recent loss rate of packets sent to this side, in 1/1024.
    pub const fn loss(&self) -> u32 {
        self.loss
    }

    /// The lasting loss rate, over about four times as many packets, in 1/1024.
    pub const fn lasting_loss(&self) -> u32 {
        self.lasting_loss / (LASTING_WHOLE / 1024)
    }

    /// Owes an acknowledgement by `by` at the latest.
    pub fn owe(&mut self, by: Time) {
        self.due = Some(self.due.map_or(by, |due| due.min(by)));
    }

    /// Owes an acknowledgement of a packet with a fragment: now, if several packets have arrived
    /// since the last one.
    pub fn owe_for_fragment(&mut self, now: Time, rtt: &Rtt) {
        let several = self.since_acknowledgement >= FRAGMENTS_UNACKNOWLEDGED_MAX;
        self.owe(if several {
            now
        } else {
            Self::patience(now, rtt)
        });
    }

    /// When an acknowledgement must be sent, if one is owed.
    pub const fn due(&self) -> Option<Time> {
        self.due
    }

    /// True if an acknowledgement should share the next packet.
    pub const fn is_owing(&self) -> bool {
        self.due.is_some() || self.since_acknowledgement >= UNACKNOWLEDGED_MAX
    }

    /// Returns the acknowledgement of the received packets, without those that `is_answered`,
    /// because their replies acknowledge them. A requester that misses such a reply should repeat
    /// the request and not wait. Returns `None` if nothing else is to be acknowledged. Afterwards
    /// no acknowledgement is owed.
    pub fn acknowledge(
        &mut self,
        now: Time,
        is_answered: impl Fn(PacketNumber) -> bool,
    ) -> Option<AckFrame> {
        let newest = self.largest?;
        let is_due = self.since_acknowledgement >= UNACKNOWLEDGED_MAX;
        self.due = None;
        let tells = |number: PacketNumber| self.bit(number) && !is_answered(number);
        let below = |from: u64| (1..=64u64).filter_map(move |distance| from.checked_sub(distance));
        let largest = if tells(newest) || is_due {
            newest
        } else {
            PacketNumber(below(newest.0).find(|number| tells(PacketNumber(*number)))?)
        };
        let mut bitmap = 0;
        for (bit, number) in below(largest.0).enumerate() {
            bitmap |= u64::from(tells(PacketNumber(number))) << bit;
        }
        self.since_acknowledgement = 0;
        let held = now - self.largest_at;
        // The arrival time of an older packet is unknown, so it does not measure the path.
        let delay = if largest == newest {
            held
        } else {
            held + DELAY_MAX * 2
        };
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Some(AckFrame {
            largest,
            delay_ms,
            bitmap,
        })
    }

    /// The latest time for the acknowledgement of a packet that arrives now.
    pub fn patience(now: Time, rtt: &Rtt) -> Time {
        now + rtt.acknowledgement_delay()
    }

    /// Returns the number's word of the window.
    fn word(number: PacketNumber) -> Option<usize> {
        usize::try_from(number.0 % REPLAY_WINDOW / 64).ok()
    }

    /// Returns the number's bit in that word.
    const fn mask(number: PacketNumber) -> u64 {
        1 << (number.0 % 64)
    }

    fn bit(&self, number: PacketNumber) -> bool {
        let word = Self::word(number).and_then(|word| self.seen.get(word));
        word.is_some_and(|bits| bits & Self::mask(number) != 0)
    }

    fn set_bit(&mut self, number: PacketNumber, value: bool) {
        let mask = Self::mask(number);
        if let Some(bits) = Self::word(number).and_then(|word| self.seen.get_mut(word)) {
            *bits = if value { *bits | mask } else { *bits & !mask };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// LINK-3: a number is new exactly once. Compared with a set that forgets nothing.
        #[test]
        fn replay_window_takes_each_packet_number_once(numbers in prop::collection::vec(0u64..3000, 1..100)) {
            let (mut received, mut model) = (ReceivedPackets::default(), BTreeSet::new());
            for number in numbers {
                let largest = model.last().copied();
                let old = largest.is_some_and(|largest: u64| largest >= number + REPLAY_WINDOW);
                prop_assert_eq!(received.is_new(PacketNumber(number)), !old && !model.contains(&number));
                if received.is_new(PacketNumber(number)) {
                    let gap = received.record(Time(0), PacketNumber(number));
                    prop_assert_eq!(gap, number > largest.map_or(0, |largest| largest + 1));
                    model.insert(number);
                }
                let ack = received.acknowledge(Time(0), |_| false).unwrap();
                for number in (0..3000).step_by(7) {
                    let near = ack.largest.0 <= number + 64;
                    prop_assert_eq!(ack.covers(PacketNumber(number)), near && model.contains(&number));
                }
            }
        }
    }

    proptest! {
        /// LINK-24, LINK-3, LINK-5: hibernation changes nothing but old packets. Compared with a
        /// link that never hibernates.
        #[test]
        fn dormant_replay_window_forgets_only_old_packets(steps in prop::collection::vec((0u64..2000, any::<bool>()), 1..100)) {
            let (mut woken, mut other) = (ReceivedPackets::default(), ReceivedPackets::default());
            for (number, hibernates) in steps {
                if hibernates {
                    woken = ReceivedPackets::from_dormant(woken.hibernate().unwrap());
                }
                let number = PacketNumber(number);
                prop_assert!(other.is_new(number) || !woken.is_new(number));
                let largest = other.largest().map_or(0, |largest| largest.0);
                if largest < number.0 + 128 {
                    prop_assert_eq!(woken.is_new(number), other.is_new(number));
                }
                if woken.is_new(number) {
                    woken.record(Time(0), number);
                    other.record(Time(0), number);
                    let acks = [&mut woken, &mut other].map(|one| one.acknowledge(Time(0), |_| false));
                    prop_assert_eq!(acks[0].as_ref(), acks[1].as_ref());
                }
            }
        }
    }

    /// LINK-25: the remembered loss of a path does not depend on its last few packets.
    #[test]
    fn path_memory_loss_does_not_depend_on_last_few_packets() {
        let mut received = ReceivedPackets::default();
        let mut jitter = crate::link::Jitter::new(1);
        let mut number = 0;
        let mut lose = |received: &mut ReceivedPackets, percent: u128| {
            let drawn = jitter.spread(core::time::Duration::from_secs(1), 0, 99);
            if drawn.as_millis() / 10 >= percent {
                received.record(Time(0), PacketNumber(number));
            }
            number += 1;
        };
        for _ in 0..200 {
            lose(&mut received, 30);
        }
        let mut quick = (1024, 0);
        for _ in 0..1000 {
            lose(&mut received, 30);
            let lasting = received.lasting_loss();
            assert!((154..=460).contains(&lasting), "{lasting}");
            quick = (quick.0.min(received.loss()), quick.1.max(received.loss()));
        }
        assert!(quick.0 < 154, "{quick:?}");
        for _ in 0..600 {
            lose(&mut received, 0);
        }
        assert!(received.lasting_loss() < 3, "{}", received.lasting_loss());
    }

    #[test]
    fn replay_window_leap_to_last_packet_number_does_not_hang() {
        let mut received = ReceivedPackets::default();
        received.record(Time(0), PacketNumber(0));
        received.record(Time(0), PacketNumber(u64::MAX - 1));
        assert!(!received.is_new(PacketNumber(0)));
        assert!(received.is_new(PacketNumber(u64::MAX - 2)));
    }

    /// LINK-1: any first packet number is recorded. Found by reading: as the first number of a
    /// link, four of these numbers stopped a realm.
    #[test]
    fn replay_window_records_any_first_packet_number() {
        for number in (0..=1100).chain(u64::from(u32::MAX) - 1100..=u64::from(u32::MAX) + 2) {
            let mut received = ReceivedPackets::default();
            received.record(Time(0), PacketNumber(number));
            assert_eq!(received.largest(), Some(PacketNumber(number)));
            assert!(!received.is_new(PacketNumber(number)) && received.loss() <= 1024);
            received.record(Time(1), PacketNumber(number + 1));
        }
    }
}
