//! Packet numbers, of which only the low 1, 2 or 4 bytes are sent (WIRE-5, after RFC 9000 §17.1 and
//! appendix A): enough for the receiver, which knows the largest number it has seen, to restore the
//! full number.

/// How many of the low bytes of a packet number are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberLen {
    One,
    Two,
    Four,
}

impl NumberLen {
    /// Returns the number of bytes.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Returns its code in the first byte of a packet.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::One => 0,
            Self::Two => 1,
            Self::Four => 2,
        }
    }

    /// The inverse of [`NumberLen::code`]; `None` for an unknown code.
    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::One),
            1 => Some(Self::Two),
            2 => Some(Self::Four),
            _ => None,
        }
    }
}

/// The full number of a packet on a link. It increases by one per packet, and is never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketNumber(pub u64);

impl PacketNumber {
    /// Returns how much of this number must be sent if the peer is known to have seen all up
    /// to `acknowledged`: twice the distance must fit.
    pub(super) const fn wire_len(self, acknowledged: Option<Self>) -> NumberLen {
        let distance = match acknowledged {
            Some(acknowledged) => self.0.saturating_sub(acknowledged.0),
            None => self.0 + 1,
        };
        match distance {
            0..=0x7f => NumberLen::One,
            0x80..=0x7fff => NumberLen::Two,
            0x8000.. => NumberLen::Four,
        }
    }

    /// Returns the full number for its low bytes `truncated`, given the largest number received so
    /// far: the candidate closest to the next expected one.
    pub(super) const fn expand(truncated: u32, len: NumberLen, largest: Option<Self>) -> Self {
        let expected = match largest {
            Some(largest) => largest.0.saturating_add(1),
            None => 0,
        };
        let window = match len {
            NumberLen::One => 1u64 << 8,
            NumberLen::Two => 1 << 16,
            NumberLen::Four => 1 << 32,
        };
        let candidate = (expected & !(window - 1)) | truncated as u64;
        if candidate.saturating_add(window / 2) <= expected {
            Self(candidate.saturating_add(window))
        } else if candidate > expected.saturating_add(window / 2) && candidate >= window {
            Self(candidate - window)
        } else {
            Self(candidate)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 9000 appendix A.3.
    #[test]
    fn packet_number_expands_rfc_9000_example() {
        assert_eq!(
            PacketNumber::expand(0x9b32, NumberLen::Two, Some(PacketNumber(0xa82f_30ea))),
            PacketNumber(0xa82f_9b32)
        );
    }

    proptest! {
        /// WIRE-5: the receiver restores the number, whatever it has seen since the acknowledged
        /// one.
        #[test]
        fn packet_number_truncated_is_restored(
            acknowledged in proptest::option::of(0u64..1 << 40), ahead in 1u64..1 << 30, seen in 0.0..1.0f64,
        ) {
            let number = PacketNumber(acknowledged.map_or(ahead - 1, |a| a + ahead));
            let len = number.wire_len(acknowledged.map(PacketNumber));
            let mask = (1u64 << (8 * len.bytes())) - 1;
            let truncated = u32::try_from(number.0 & mask).unwrap();
            // The receiver's largest number is anywhere from the acknowledged one to just before
            // this one.
            let base = acknowledged.unwrap_or(0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let largest = base + ((number.0 - base) as f64 * seen) as u64;
            let largest = (number.0 > 0).then(|| PacketNumber(largest.min(number.0 - 1)));
            prop_assert_eq!(PacketNumber::expand(truncated, len, largest.or(acknowledged.map(PacketNumber))), number);
        }
    }
}
