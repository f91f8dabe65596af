//! Statistics of a link: packets sent, received, retransmitted and dropped, and path estimates.

use core::{ops::AddAssign, time::Duration};

use super::Ignored;

/// The traffic in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes: UDP payload.
    pub bytes: u64,
}

impl Traffic {
    /// Counts another datagram of so many bytes.
    pub const fn add(&mut self, bytes: usize) {
        self.datagrams = self.datagrams.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }
}

/// Retransmissions by kind: sent again for lack of an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repeats {
    /// First messages of handshakes, Inits and Resumes, including those sent again with a requested
    /// cookie.
    pub openings: u64,
    /// Requests.
    pub requests: u64,
    /// Replies: those that are retransmitted until they have arrived.
    pub replies: u64,
    /// Events.
    pub events: u64,
    /// Fragments of long messages.
    pub fragments: u64,
    /// Control frames: PING, UPDATE, `PATH_CHALLENGE`, `PATH_RESPONSE`.
    pub controls: u64,
    /// Redundant copies (LINK-19). They do not count as retransmissions: no timeout preceded them.
    pub copies: u64,
}

/// Packets that reached their link and had no effect, by reason: [`Ignored`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drops {
    /// The seal or the checksum was wrong.
    pub not_authentic: u64,
    /// They had been received before.
    pub replayed: u64,
    /// There was no room for what they carried.
    pub no_room: u64,
    /// They violated the protocol.
    pub violations: u64,
    /// The link was not open.
    pub not_open: u64,
}

impl Drops {
    /// Counts another packet.
    pub const fn add(&mut self, reason: Ignored) {
        match reason {
            Ignored::NotAuthentic => self.not_authentic += 1,
            Ignored::Replayed => self.replayed += 1,
            Ignored::NoRoom => self.no_room += 1,
            Ignored::Violation => self.violations += 1,
            Ignored::NotOpen => self.not_open += 1,
        }
    }
}

/// Counters of a link since it was opened. A responder's link starts at zero after it was dormant.
/// Traffic counts packets of an open link, and no handshake messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Packets sent.
    pub sent: Traffic,
    /// Packets received.
    pub received: Traffic,
    /// Retransmissions.
    pub repeats: Repeats,
    /// Packets of this side that were lost (LINK-6): only those that carried something to be
    /// acknowledged.
    pub lost: u64,
    /// Packets of the other side that had no effect.
    pub dropped: Drops,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        // Without `..`, so that the compiler asks for each new counter.
        let Self {
            sent:
                Traffic {
                    datagrams: sent,
                    bytes: bytes_sent,
                },
            received:
                Traffic {
                    datagrams: received,
                    bytes: bytes_received,
                },
            repeats:
                Repeats {
                    openings,
                    requests,
                    replies,
                    events,
                    fragments,
                    controls,
                    copies,
                },
            lost,
            dropped:
                Drops {
                    not_authentic,
                    replayed,
                    no_room,
                    violations,
                    not_open,
                },
        } = other;
        let pairs = [
            (&mut self.sent.datagrams, sent),
            (&mut self.sent.bytes, bytes_sent),
            (&mut self.received.datagrams, received),
            (&mut self.received.bytes, bytes_received),
            (&mut self.repeats.openings, openings),
            (&mut self.repeats.requests, requests),
            (&mut self.repeats.replies, replies),
            (&mut self.repeats.events, events),
            (&mut self.repeats.fragments, fragments),
            (&mut self.repeats.controls, controls),
            (&mut self.repeats.copies, copies),
            (&mut self.lost, lost),
            (&mut self.dropped.not_authentic, not_authentic),
            (&mut self.dropped.replayed, replayed),
            (&mut self.dropped.no_room, no_room),
            (&mut self.dropped.violations, violations),
            (&mut self.dropped.not_open, not_open),
        ];
        for (mine, theirs) in pairs {
            *mine = mine.wrapping_add(theirs);
        }
    }
}

/// The current state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStats {
    /// The counters.
    pub counters: Counters,
    /// The smoothed round-trip time and its variation (LINK-7); `None` without an estimate.
    pub rtt: Option<(Duration, Duration)>,
    /// The retransmission timeout.
    pub timeout: Duration,
    /// The recent loss rate of packets sent to this side, in 1/1024 (LINK-19).
    pub loss: u32,
    /// The largest datagram that the path is known, or assumed, to carry, in bytes.
    pub datagram: usize,
    /// Small packets are currently sent twice.
    pub is_redundant: bool,
}
