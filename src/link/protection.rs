//! Packet protection: the keys of a link, from its opening to its end, and its packet numbers
//! (LINK-1). It seals the packets of this side and opens those of the other side.

use alloc::vec::Vec;

use super::event::Ignored;
use crate::{
    crypto::{ResumptionSecret, SessionKeys, TAG_LEN},
    faults::{Fault, is_planted},
    wire::{
        CloseReason, ConnectionId, LinkPacket, PacketNumber, Protection, append_crc, crc_holds,
        link_header,
    },
};

/// A link ends after this many packet numbers (LINK-1).
pub const NUMBERS_MAX: u64 = 1 << 32;
/// When no more than this many packet numbers are left, a new link should replace this one.
const NUMBERS_SPARE: u64 = 1 << 24;
/// The longest clear header in bytes: form, connection id, packet number.
pub const HEADER_MAX: usize = 9;
/// The length of the checksum of a plain packet, in bytes.
const CRC_LEN: usize = 4;

/// The keys of an open link.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Each packet is encrypted and authenticated.
    Sealed(SessionKeys),
    /// Each packet carries a checksum only.
    Plain,
}

/// The state of a link.
#[derive(Clone, Debug)]
enum State {
    /// No keys yet.
    Opening,
    Open(Keys),
    Closed,
}

/// A packet that has been opened.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Its number.
    pub number: PacketNumber,
    /// Its frames.
    pub payload: &'a [u8],
}

/// The keys and packet numbers of a link.
#[derive(Clone, Debug)]
pub struct PacketProtection {
    state: State,
    /// The connection id that packets to the other side carry.
    remote: Option<ConnectionId>,
    next_number: u64,
    /// The reason of the CLOSE that is to be sent.
    close: Option<CloseReason>,
}

impl PacketProtection {
    /// Creates the state of a link without keys.
    pub const fn new() -> Self {
        Self {
            state: State::Opening,
            remote: None,
            next_number: 0,
            close: None,
        }
    }

    /// Restores the state of a dormant link.
    pub const fn from_dormant(keys: Keys, remote: Option<ConnectionId>, next_number: u64) -> Self {
        Self {
            state: State::Open(keys),
            remote,
            next_number,
            close: None,
        }
    }

    /// Opens the link with the keys of a handshake.
    pub fn establish(&mut self, keys: SessionKeys, remote: Option<ConnectionId>) {
        self.state = State::Open(Keys::Sealed(keys));
        self.remote = remote.or(self.remote);
    }

    /// Opens the link without keys.
    pub fn establish_plain(&mut self, remote: Option<ConnectionId>) {
        self.state = State::Open(Keys::Plain);
        self.remote = remote;
    }

    /// Sets the connection id that packets to the other side carry.
    pub const fn set_remote(&mut self, remote: Option<ConnectionId>) {
        self.remote = remote;
    }

    /// The connection id that packets to the other side carry.
    pub const fn remote(&self) -> Option<ConnectionId> {
        self.remote
    }

    /// The keys of an open link.
    pub const fn keys(&self) -> Option<&Keys> {
        match &self.state {
            State::Open(keys) => Some(keys),
            State::Opening | State::Closed => None,
        }
    }

    const fn session_keys(&self) -> Option<&SessionKeys> {
        match self.keys() {
            Some(Keys::Sealed(keys)) => Some(keys),
            Some(Keys::Plain) | None => None,
        }
    }

    /// True if packets can be exchanged.
    pub const fn is_open(&self) -> bool {
        self.keys().is_some()
    }

    /// True if the link has ended.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// True if packets are exchanged, and sealed.
    pub const fn is_sealed(&self) -> bool {
        self.session_keys().is_some()
    }

    /// True if packets are exchanged, and have a checksum only.
    pub const fn is_plain(&self) -> bool {
        matches!(self.state, State::Open(Keys::Plain))
    }

    /// Sets the reason of the CLOSE that is to be sent.
    pub const fn send_close(&mut self, reason: CloseReason) {
        self.close = Some(reason);
    }

    /// The reason of the CLOSE that is to be sent.
    pub const fn close(&self) -> Option<CloseReason> {
        self.close
    }

    /// Notes that the CLOSE has been sent, and returns its reason.
    pub const fn close_sent(&mut self) -> Option<CloseReason> {
        self.close.take()
    }

    /// Ends the link.
    pub fn end(&mut self) {
        self.state = State::Closed;
    }

    /// True if this side or the other one, whose largest number is `theirs`, has used so many
    /// packet numbers that a new link should follow soon.
    pub fn needs_rekey(&self, theirs: Option<PacketNumber>) -> bool {
        let theirs = theirs.map_or(0, |largest| largest.0);
        self.next_number.max(theirs) >= NUMBERS_MAX - NUMBERS_SPARE
    }

    /// The number of the next packet.
    pub const fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Continues with a later packet number.
    #[cfg(test)]
    pub const fn skip_to(&mut self, number: u64) {
        self.next_number = number;
    }

    /// Uses the next packet number. Returns `None` if all are used.
    pub fn take_number(&mut self) -> Option<PacketNumber> {
        if self.next_number >= NUMBERS_MAX {
            return None;
        }
        let is_reused = is_planted(Fault::ReusePacketNumber) && self.next_number % 8 == 7;
        let number = PacketNumber(self.next_number - u64::from(is_reused));
        self.next_number += 1;
        Some(number)
    }

    /// Opens a packet, whose body is decrypted into `opened`. `largest`: the largest number
    /// received.
    pub fn open<'a>(
        &self,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
        largest: Option<PacketNumber>,
        opened: &'a mut Vec<u8>,
    ) -> Result<Opened<'a>, Ignored> {
        let keys = self.keys().ok_or(Ignored::NotOpen)?;
        let number = packet.number(largest);
        opened.clear();
        opened.extend_from_slice(packet.body);
        let payload = match (keys, packet.protection) {
            (Keys::Sealed(keys), Protection::Sealed) => keys
                .open
                .open(number.0, packet.header, opened)
                .map_err(|_| Ignored::NotAuthentic)?,
            (Keys::Plain, Protection::Plain) if crc_holds(datagram) => {
                // The checksum of a forged packet may reach into its header: it then has no frames.
                let split = opened.split_last_chunk::<CRC_LEN>();
                split.map_or(&[][..], |(payload, _)| payload)
            }
            (Keys::Sealed(_) | Keys::Plain, Protection::Sealed | Protection::Plain) => {
                return Err(Ignored::NotAuthentic);
            }
        };
        Ok(Opened { number, payload })
    }

    /// The bytes of an open link's packet beside its frames, with the longest header.
    pub const fn overhead(&self) -> Option<usize> {
        match self.keys() {
            Some(Keys::Sealed(_)) => Some(HEADER_MAX + TAG_LEN),
            Some(Keys::Plain) => Some(HEADER_MAX + CRC_LEN),
            None => None,
        }
    }

    /// Puts the header of a packet before its frames. Returns the header's length.
    pub fn write_header(
        &self,
        number: PacketNumber,
        acknowledged: Option<PacketNumber>,
        frames: &mut Vec<u8>,
    ) -> usize {
        let protection = if self.is_plain() {
            Protection::Plain
        } else {
            Protection::Sealed
        };
        let frames_len = frames.len();
        link_header(protection, self.remote, number, acknowledged, frames);
        // The header's length depends on the packet number: it is written last, then moved.
        let header_len = frames.len() - frames_len;
        frames.rotate_right(header_len);
        header_len
    }

    /// Seals a packet with a header of `header_len` bytes.
    pub fn seal(&self, number: PacketNumber, header_len: usize, packet: &mut Vec<u8>) {
        match self.keys() {
            Some(Keys::Sealed(keys)) => keys.seal.seal(number.0, header_len, packet),
            Some(Keys::Plain) => append_crc(packet),
            None => {
                debug_assert!(false, "a packet of a link that is not open");
                // It must not leave in clear.
                packet.clear();
            }
        }
    }

    /// Returns the initiator's resumption secret, once the link has keys.
    pub fn initiators_secret(&self) -> Option<ResumptionSecret> {
        self.session_keys().map(ResumptionSecret::of_initiator)
    }

    /// Returns the initiator's resumption secret, computed as the responder.
    pub fn responders_secret(&self) -> Option<ResumptionSecret> {
        self.session_keys().map(ResumptionSecret::of_responder)
    }
}
