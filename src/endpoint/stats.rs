//! What an endpoint has sent, received and dropped, and how handshakes have ended.

use crate::link::{Counters, Ignored, Traffic};

/// Why an incoming datagram had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dropped {
    /// It is no packet of this protocol (WIRE-1).
    NotAPacket,
    /// It would open a link or is a Hello, and no links are accepted here, or not any more.
    NotServed,
    /// It is of another version of the protocol (HS-1).
    OtherVersion,
    /// It is shorter than its answer needs (HS-2).
    TooShort,
    /// It is for a key that is not this side's, or its ticket is not this side's (HS-3, HS-20).
    NotForThisSide,
    /// It is a copy of a packet whose answer is being prepared (HS-4).
    InWork,
    /// Its authentication failed: it is forged or damaged.
    Forged,
    /// It is authentic, but malformed.
    Malformed,
    /// There is no room for another link, or for another lookup.
    Full,
    /// It answers nothing that this side waits for: it is late, a duplicate or forged.
    Unasked,
    /// It is for a link that this side does not know (any more).
    UnknownLink,
    /// Its seal or checksum does not fit its link ([`Ignored::NotAuthentic`]).
    NotAuthentic,
    /// It is a duplicate on its link ([`Ignored::Replayed`]).
    Replayed,
    /// There is no room for its content ([`Ignored::NoRoom`]).
    NoRoom,
    /// It violates the protocol, which ends its link ([`Ignored::Violation`]).
    Violation,
    /// Its link is not open ([`Ignored::NotOpen`]).
    NotOpen,
}

impl Dropped {
    /// All reasons, in the order of [`EndpointStats::dropped`].
    pub const ALL: [Self; 16] = [
        Self::NotAPacket,
        Self::NotServed,
        Self::OtherVersion,
        Self::TooShort,
        Self::NotForThisSide,
        Self::InWork,
        Self::Forged,
        Self::Malformed,
        Self::Full,
        Self::Unasked,
        Self::UnknownLink,
        Self::NotAuthentic,
        Self::Replayed,
        Self::NoRoom,
        Self::Violation,
        Self::NotOpen,
    ];

    /// True if it reached its link, which reports it itself.
    pub(super) const fn is_of_link(self) -> bool {
        matches!(
            self,
            Self::NotAuthentic | Self::Replayed | Self::NoRoom | Self::Violation | Self::NotOpen
        )
    }

    /// Returns its machine-readable name: lower case, words joined by underscores.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAPacket => "not_a_packet",
            Self::NotServed => "not_served",
            Self::OtherVersion => "other_version",
            Self::TooShort => "too_short",
            Self::NotForThisSide => "not_for_this_side",
            Self::InWork => "in_work",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::Full => "full",
            Self::Unasked => "unasked",
            Self::UnknownLink => "unknown_link",
            Self::NotAuthentic => Ignored::NotAuthentic.name(),
            Self::Replayed => Ignored::Replayed.name(),
            Self::NoRoom => Ignored::NoRoom.name(),
            Self::Violation => Ignored::Violation.name(),
            Self::NotOpen => Ignored::NotOpen.name(),
        }
    }
}

impl From<Ignored> for Dropped {
    fn from(reason: Ignored) -> Self {
        match reason {
            Ignored::NotAuthentic => Self::NotAuthentic,
            Ignored::Replayed => Self::Replayed,
            Ignored::NoRoom => Self::NoRoom,
            Ignored::Violation => Self::Violation,
            Ignored::NotOpen => Self::NotOpen,
        }
    }
}

/// The number of answers to initiators, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answers {
    /// Links that others opened with a handshake.
    pub accepts: u64,
    /// Links that others opened by resumption.
    pub resumed: u64,
    /// Initiators that were asked for a cookie (HS-12).
    pub retries: u64,
    /// Tickets that were refused (HS-20).
    pub refused: u64,
    /// Packets for unknown links that were answered with a Reset (HS-8).
    pub resets: u64,
}

/// The counters of an endpoint since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Datagrams received, whatever they were.
    pub received: Traffic,
    /// Datagrams sent.
    pub sent: Traffic,
    /// Datagrams that had no effect, by reason, in the order of [`Dropped::ALL`].
    pub dropped: [u64; Dropped::ALL.len()],
    /// Answers to initiators.
    pub answers: Answers,
    /// The counters of all links, including those that have ended.
    pub links: Counters,
}

impl EndpointStats {
    /// Returns how many datagrams had no effect for that reason.
    pub fn dropped_for(&self, reason: Dropped) -> u64 {
        let count = self.dropped.get(reason as usize).copied();
        debug_assert!(count.is_some(), "a reason has no counter");
        count.unwrap_or(0)
    }

    /// Counts a datagram without effect.
    pub(super) fn count_dropped(&mut self, reason: Dropped) {
        if let Some(count) = self.dropped.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn metrics_drop_reasons_have_distinct_indices_and_names() {
        for (at, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        let names: BTreeSet<_> = Dropped::ALL.into_iter().map(Dropped::name).collect();
        assert_eq!(names.len(), Dropped::ALL.len());
    }
}
