//! What leaves: which frames go into the next packet, in which order (LINK-4), and how the packet is
//! closed up.

use alloc::vec::Vec;

use super::{Event, Keys, Link, State, Time, sent::Item};
use crate::{
    crypto::TAG_LEN,
    wire::{CloseReason, Frame, Open, PADDING, Protection, Welcome, append_crc, link_header},
};

/// Bytes of the longest clear header: form, connection id, packet number.
const HEADER_MAX: usize = 9;
/// A plain packet that opens a link carries at least so many bytes of frames, so that the answer
/// fits what it brought (LINK-11).
const OPENING_MIN: usize = 64;
/// A plain packet that asks carries at least so many bytes of frames: it is then longer than a
/// Reset, which a realm that has forgotten the link can answer (HS-8).
const ASKING_MIN: usize = 12;
/// A handshake's first message carries at least so many bytes, so that its answer fits what it brought (HS-2).
pub const INIT_PAYLOAD_MIN: usize = 8;
/// Bytes around a message in its frame at most: kind, number.
const FRAME_MAX: usize = 1 + 8;

/// The largest message that is certain to fit a datagram of `datagram_max` bytes.
pub const fn message_max(datagram_max: usize) -> usize {
    datagram_max.saturating_sub(HEADER_MAX + FRAME_MAX + TAG_LEN)
}

/// Frames about the link itself that wait to leave.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    /// Repeated in every packet of a plain link until it is answered.
    pub open: Option<Open>,
    pub welcome: Option<Welcome>,
    pub response: Option<[u8; 8]>,
    pub close: Option<CloseReason>,
    /// A packet should leave, whatever it carries.
    pub confirm: bool,
    challenge: Option<[u8; 8]>,
    challenge_queued: bool,
}

impl Controls {
    /// Asks the other side to return `data`.
    pub const fn challenge(&mut self, data: [u8; 8]) {
        self.challenge = Some(data);
        self.challenge_queued = true;
    }

    /// True when `data` is what was asked to be returned.
    pub fn is_answered_by(&self, data: &[u8; 8]) -> bool {
        self.challenge.is_some_and(|challenge| challenge == *data)
    }

    const fn has_queued(&self) -> bool {
        self.welcome.is_some()
            || self.response.is_some()
            || self.close.is_some()
            || self.challenge_queued
            || self.confirm
    }
}

/// What carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// The first message of a handshake.
    Init,
    /// The second.
    Accept,
    /// A packet of an open link.
    Packet,
}

/// Frames written one after another into a bounded space; the last loses its length.
struct Packer<'a> {
    out: Vec<u8>,
    room: usize,
    last: Option<(usize, Frame<'a>)>,
}

impl<'a> Packer<'a> {
    const fn new(room: usize) -> Self {
        Self {
            out: Vec::new(),
            room,
            last: None,
        }
    }

    /// Adds a frame if it fits; the one before it then gets its length.
    fn push(&mut self, frame: Frame<'a>) -> bool {
        let undo = self.out.len();
        let start = match self.last {
            None => undo,
            Some((start, last)) => {
                self.out.truncate(start);
                last.emit(false, &mut self.out);
                self.out.len()
            }
        };
        frame.emit(true, &mut self.out);
        if self.out.len() <= self.room {
            self.last = Some((start, frame));
            return true;
        }
        match self.last {
            None => self.out.truncate(undo),
            Some((start, last)) => {
                self.out.truncate(start);
                last.emit(true, &mut self.out);
            }
        }
        false
    }
}

impl Link {
    /// The payload of a handshake's first message: the opening, and the requests that may travel
    /// there.
    pub fn init_payload(&mut self, now: Time, room: usize) -> Vec<u8> {
        self.pack(now, room, Carrier::Init).0
    }

    /// The payload of a handshake's second message: the welcome, and the replies there are.
    pub fn accept_payload(&mut self, now: Time, room: usize) -> Vec<u8> {
        self.pack(now, room, Carrier::Accept).0
    }

    /// Writes the next datagram into `out`, which is emptied first. False when there is none.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> bool {
        out.clear();
        let State::Open(keys) = &self.state else {
            return false;
        };
        if !self.wants_to_send(now) {
            return false;
        }
        let (protection, overhead) = match keys {
            Keys::Sealed(_) => (Protection::Sealed, HEADER_MAX + TAG_LEN),
            Keys::Plain => (Protection::Plain, HEADER_MAX + 4),
        };
        let credit = self.credit.unwrap_or(usize::MAX);
        let room = self.datagram_max().min(credit).saturating_sub(overhead);
        if credit != usize::MAX && !self.fits_credit(room) {
            return false;
        }
        let (frames, items) = self.pack(now, room, Carrier::Packet);
        if frames.is_empty() {
            return false;
        }
        let Some(number) = self.take_number() else {
            return false;
        };
        link_header(
            protection,
            self.remote,
            number,
            self.sent.acknowledged(),
            out,
        );
        let header_len = out.len();
        out.extend_from_slice(&frames);
        match &self.state {
            State::Open(Keys::Sealed(keys)) => keys.seal.seal(number.0, header_len, out),
            _ => append_crc(out),
        }
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_sub(out.len());
        }
        if !items.is_empty() {
            self.sent.record(now, number, items);
        }
        if self.controls.close.take().is_some() {
            self.state = State::Closed;
        }
        true
    }

    fn wants_to_send(&self, now: Time) -> bool {
        self.controls.has_queued()
            || self.replies.has_queued()
            || self.requests.has_queued()
            || self.received.due().is_some_and(|due| due <= now)
    }

    /// True when the first thing that wants to leave fits the room that credit gives. (What does
    /// not fit waits until the address is proven; packing would call it unsendable.)
    fn fits_credit(&self, room: usize) -> bool {
        let longest_control = 32;
        let reply = self
            .replies
            .queued()
            .next()
            .map_or(0, |(_, bytes)| bytes.len());
        let needed = if self.controls.has_queued() {
            longest_control
        } else {
            reply + FRAME_MAX
        };
        needed <= room
    }

    /// Packs frames in the order of their urgency; gives them, and what among them is sent again until it
    /// has arrived.
    fn pack(&mut self, now: Time, room: usize, carrier: Carrier) -> (Vec<u8>, Vec<Item>) {
        let ack = if carrier == Carrier::Packet && self.received.is_owing() {
            self.replies.announce();
            self.received.acknowledge(now)
        } else {
            None
        };
        let mut packer = Packer::new(room);
        if let Some(open) = self.controls.open.filter(|_| carrier != Carrier::Accept) {
            packer.push(Frame::Open(open));
        }
        if let Some(ack) = ack {
            packer.push(Frame::Ack(ack));
        }
        let controls = [
            self.controls.welcome.map(Frame::Welcome),
            self.controls
                .challenge
                .filter(|_| self.controls.challenge_queued)
                .map(Frame::PathChallenge),
            self.controls.response.map(Frame::PathResponse),
            self.controls.close.map(Frame::Close),
        ];
        for control in controls.into_iter().flatten() {
            packer.push(control);
        }
        let mut replies = Vec::new();
        if carrier == Carrier::Packet && self.replies.has_announced() {
            packer.push(Frame::Ping);
        }
        for (number, answer) in self.replies.queued() {
            if packer.push(Frame::Reply { number, answer }) {
                replies.push(number);
            }
        }
        let mut requests = Vec::new();
        let mut unsendable = None;
        if carrier != Carrier::Accept {
            for (number, command) in self.requests.queued(carrier == Carrier::Init) {
                if packer.push(Frame::Request { number, command }) {
                    requests.push(number);
                } else if carrier == Carrier::Packet
                    && self.credit.is_none()
                    && command.len() > self.message_max()
                {
                    unsendable = Some(number);
                }
            }
        }
        if carrier == Carrier::Packet
            && core::mem::take(&mut self.controls.confirm)
            && packer.out.is_empty()
        {
            packer.push(Frame::Padding);
        }
        let mut frames = packer.out;
        let least = match carrier {
            Carrier::Packet => self.frames_min(!requests.is_empty()),
            Carrier::Init => INIT_PAYLOAD_MIN,
            Carrier::Accept => 0,
        };
        let missing = least.min(room).saturating_sub(frames.len());
        frames.splice(0..0, core::iter::repeat_n(PADDING, missing));
        let announced = replies
            .iter()
            .filter(|reply| self.replies.is_announced(**reply));
        let items = announced
            .map(|reply| Item::Reply(*reply))
            .chain(requests.iter().map(|request| Item::Request(*request)))
            .collect();
        self.replies
            .sent(now, &replies, &self.rtt, &mut self.jitter);
        match carrier {
            Carrier::Packet => self
                .requests
                .sent(now, &requests, &self.rtt, &mut self.jitter),
            Carrier::Init => self.requests.carry_early(&requests),
            Carrier::Accept => {}
        }
        self.controls.welcome = None;
        self.controls.challenge_queued = false;
        self.controls.response = None;
        if let Some(number) = unsendable {
            self.requests.answer(number);
            self.events.push_back(Event::Unsendable {
                number,
                limit: self.message_max(),
            });
        }
        (frames, items)
    }

    /// Bytes of frames that a packet must have, so that the other side can answer it.
    const fn frames_min(&self, asks: bool) -> usize {
        match &self.state {
            State::Open(Keys::Plain) if self.controls.open.is_some() => OPENING_MIN,
            State::Open(Keys::Plain) if asks => ASKING_MIN,
            _ => 0,
        }
    }

    /// The handshake is over: what its first message carried has arrived.
    pub fn early_arrived(&mut self, now: Time) {
        self.requests.early_arrived(now, &self.rtt);
    }

    /// True when a request that a handshake's first message carried has no reply yet.
    pub fn awaits_early(&self) -> bool {
        self.requests.awaits_early()
    }
}
