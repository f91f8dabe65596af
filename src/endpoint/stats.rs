//! What an endpoint has sent, received and dropped, and how handshakes have ended.

use super::{Endpoint, LinkId};
use crate::link::{Counters, Ignored, LinkStats, Traffic};

/// Why a datagram that came had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It is no packet of this protocol (WIRE-1).
    NotAPacket,
    /// It would open a link, or asks who this is, and nobody is let in here, or nobody any more.
    NotServed,
    /// It is of another version of the protocol (HS-1).
    OtherVersion,
    /// It is shorter than what its answer needs (HS-2).
    TooShort,
    /// It is for another key than this side's, or its ticket is none of this side's (HS-3, HS-20).
    NotForThisSide,
    /// It is a copy of what is being answered (HS-4).
    InWork,
    /// Its seal does not fit: somebody made it up, or it was damaged.
    Forged,
    /// It is genuine, and says what makes no sense.
    Malformed,
    /// There is no room for another link, or for what has to be looked up first.
    Full,
    /// It answers nothing that this side waits for: too late, twice, or made up.
    Unasked,
    /// It is for a link that this side does not know (any more).
    UnknownLink,
    /// It is for a link whose seal or checksum does not fit ([`Ignored::NotAuthentic`]).
    NotAuthentic,
    /// It came before on its link ([`Ignored::Replayed`]).
    Replayed,
    /// There is no room for what it carries ([`Ignored::NoRoom`]).
    NoRoom,
    /// It breaks the protocol, which ends its link ([`Ignored::Violation`]).
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

    /// True when it reached its link, which tells of it by itself.
    pub(super) const fn is_of_link(self) -> bool {
        matches!(
            self,
            Self::NotAuthentic | Self::Replayed | Self::NoRoom | Self::Violation | Self::NotOpen
        )
    }

    /// Its name for programs: lower case, words joined by underscores.
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

/// How often this side has answered those who want in, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Links that others opened with a handshake.
    pub accepts: u64,
    /// Links that others opened by resumption.
    pub resumed: u64,
    /// Those who wanted in and were asked to show where they are (HS-12).
    pub retries: u64,
    /// Tickets that were refused (HS-20).
    pub refused: u64,
    /// Packets for unknown links that were answered with a Reset (HS-8).
    pub resets: u64,
}

/// What has happened at an endpoint since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointStats {
    /// Datagrams that came, whatever they were.
    pub received: Traffic,
    /// Datagrams that left.
    pub sent: Traffic,
    /// Datagrams that had no effect, by reason, in the order of [`Dropped::ALL`].
    pub dropped: [u64; Dropped::ALL.len()],
    /// What those were told who wanted in.
    pub answers: Answers,
    /// What has happened on all links, those that have ended included.
    pub links: Counters,
}

impl EndpointStats {
    /// How many datagrams had no effect for that reason.
    pub fn dropped_for(&self, reason: Dropped) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }
}

impl Endpoint {
    /// What has happened at this endpoint. Goes through all links.
    pub fn stats(&self) -> EndpointStats {
        let mut stats = self.stats;
        for slot in self.slots.values() {
            if !slot.link.is_resting() {
                stats.links += slot.link.counters();
            }
        }
        stats
    }

    /// What has happened on `link`, and what it knows of its path.
    pub fn link_stats(&self, link: LinkId) -> Option<LinkStats> {
        Some(self.slots.get(&link)?.link.stats())
    }

    /// A datagram had no effect.
    pub(super) fn note_dropped(&mut self, reason: Dropped) {
        if let Some(count) = self.stats.dropped.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_reason_has_its_place_and_its_name() {
        for (at, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        let names: BTreeSet<_> = Dropped::ALL.into_iter().map(Dropped::name).collect();
        assert_eq!(names.len(), Dropped::ALL.len());
    }
}
