//! What leaves: which frames go into the next packet, in which order (LINK-4), and how the packet is
//! closed up.

use alloc::vec::Vec;
use core::{ops::Range, time::Duration};

use smallvec::SmallVec;

use super::{
    Keys, Link, Redundancy, State, Time, Urgency,
    backoff::interval,
    parts::Message,
    requests::Lossy,
    sent::{Item, SentPacket},
    sorted::sorted,
};
use crate::{
    crypto::TAG_LEN,
    wire::{
        AckFrame, CloseReason, Frame, Open, PADDING, PacketNumber, PartOf, Protection, Welcome,
        append_crc, link_header,
    },
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
/// Bytes around a part in its frame at most: kind, what it is of, number, total, offset.
const PART_FRAME_MAX: usize = 1 + 1 + 8 + 4 + 4;
/// After so many timeouts in a row the other side counts as silent.
const SILENT_AFTER: u32 = 12;
/// From this loss on, in 1/1024, what is small leaves twice: about 15 %.
const REDUNDANT_LOSS: u32 = 154;
/// The largest packet of which a copy is sent, in bytes of frames.
const COPIED_MAX: usize = 256;
/// A part is not squeezed into less room than this, in bytes.
const PART_MIN: usize = 48;
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
    /// A packet should leave that asks for an acknowledgement.
    pub ping: bool,
    challenge: Option<[u8; 8]>,
    challenge_queued: bool,
}

impl Controls {
    /// Asks the other side to return `data`.
    pub const fn challenge(&mut self, data: [u8; 8]) {
        self.challenge = Some(data);
        self.challenge_queued = true;
    }

    /// Asks again, if anything was asked.
    pub const fn challenge_again(&mut self) {
        self.challenge_queued = self.challenge.is_some();
    }

    /// True when `data` is what was asked to be returned.
    pub fn is_answered_by(&self, data: &[u8; 8]) -> bool {
        self.challenge.is_some_and(|challenge| challenge == *data)
    }

    pub const fn has_queued(&self) -> bool {
        self.welcome.is_some()
            || self.response.is_some()
            || self.close.is_some()
            || self.challenge_queued
            || self.confirm
            || self.ping
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
    /// A packet of an open link that may carry parts of long messages.
    Bulk,
}

/// Numbers of what a packet carries: mostly few.
type Numbers = SmallVec<[u64; 8]>;

/// What a packet carries.
struct Packed {
    /// Its acknowledgement measures the round trip.
    measures: bool,
    replies: Numbers,
    requests: Numbers,
    pushes: Numbers,
    parts: Vec<(Message, Range<u64>)>,
}

/// Frames written one after another into a bounded space; the last loses its length.
struct Packer<'a, 'out> {
    /// Empty at first.
    out: &'out mut Vec<u8>,
    room: usize,
    last: Option<(usize, Frame<'a>)>,
}

impl<'a, 'out> Packer<'a, 'out> {
    fn new(room: usize, out: &'out mut Vec<u8>) -> Self {
        out.clear();
        Self {
            out,
            room,
            last: None,
        }
    }

    /// Bytes that another frame may have at least, with the length that the last one then gets.
    const fn room_left(&self) -> usize {
        self.room.saturating_sub(self.out.len() + 2)
    }

    /// Adds a frame if it fits; the one before it then gets its length.
    fn push(&mut self, frame: Frame<'a>) -> bool {
        let undo = self.out.len();
        let start = match self.last {
            None => undo,
            Some((start, last)) => {
                self.out.truncate(start);
                last.emit(false, self.out);
                self.out.len()
            }
        };
        frame.emit(true, self.out);
        if self.out.len() <= self.room {
            self.last = Some((start, frame));
            return true;
        }
        match self.last {
            None => self.out.truncate(undo),
            Some((start, last)) => {
                self.out.truncate(start);
                last.emit(true, self.out);
            }
        }
        false
    }
}

impl Link {
    /// The payload of a handshake's first message: the opening, and the requests that may travel
    /// there.
    pub fn init_payload(&mut self, now: Time, room: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        self.pack(now, room, Carrier::Init, &mut payload);
        payload
    }

    /// The payload of a handshake's second message: the welcome, and the replies there are.
    pub fn accept_payload(&mut self, now: Time, room: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        self.pack(now, room, Carrier::Accept, &mut payload);
        payload
    }

    /// Writes the next datagram into `out`, which is emptied first. False when there is none.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> bool {
        out.clear();
        let State::Open(keys) = &self.state else {
            return false;
        };
        let (protection, overhead) = match keys {
            Keys::Sealed(_) => (Protection::Sealed, HEADER_MAX + TAG_LEN),
            Keys::Plain => (Protection::Plain, HEADER_MAX + 4),
        };
        self.cut_long();
        let bulk = self.may_send_bulk(now);
        self.held_back = None;
        if !(bulk || self.wants_to_send(now)) {
            return false;
        }
        if let Some(until) = self.pace.holds_back(now) {
            self.held_back = Some(until);
            return false;
        }
        let max = self.datagram_max();
        let mut size = self.path.size(max);
        // Before there is a round trip nothing else may be on its way beside a probe: that it is lost would be noticed late.
        if bulk
            && self.rtt.is_measured()
            && self.parts.next_len() > size as u64
            && let Some(probe) = self.path.next_probe(now, max, self.parts.queued_len())
        {
            size = probe;
        }
        let credit = self.credit.unwrap_or(usize::MAX);
        let room = size.min(credit).saturating_sub(overhead);
        if credit != usize::MAX && !self.fits_credit(room) {
            return false;
        }
        let carrier = if bulk { Carrier::Bulk } else { Carrier::Packet };
        let items = self.pack(now, room, carrier, out);
        if out.is_empty() {
            return false;
        }
        let Some(number) = self.take_number() else {
            return false;
        };
        let frames_len = out.len();
        link_header(
            protection,
            self.remote,
            number,
            self.sent.acknowledged(),
            out,
        );
        // How long the header is, only the packet's number tells: it is written behind the frames, and goes before them.
        let header_len = out.len() - frames_len;
        out.rotate_right(header_len);
        match &self.state {
            State::Open(Keys::Sealed(keys)) => keys.seal.seal(number.0, header_len, out),
            _ => append_crc(out),
        }
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_sub(out.len());
        }
        self.note_sent(now, number, out.len(), items);
        if self.controls.close.take().is_some() {
            self.state = State::Closed;
        }
        true
    }

    /// Remembers what a packet carried, as far as it is sent again until it has arrived.
    fn note_sent(&mut self, now: Time, number: PacketNumber, len: usize, items: Vec<Item>) {
        let is_bulk = |item: &Item| match item {
            Item::Part(..) => true,
            Item::Event(number) => Urgency::of(*number) == Urgency::Backlog,
            Item::Request(_) | Item::Reply(_) | Item::Measure => false,
        };
        let stamp = if items.iter().any(is_bulk) {
            if len > self.path.size(self.datagram_max()) {
                self.path.probed();
            }
            self.bulk_due = Some(now + self.bulk_wait());
            let limited = !self.has_bulk();
            Some(self.pace.sent(now, len, self.sent.in_flight(), limited))
        } else {
            self.pace.spend(now, len);
            None
        };
        if !items.is_empty() {
            self.sent.record(SentPacket {
                number,
                at: now,
                len,
                items,
                stamp,
            });
        }
    }

    /// How long to wait for an acknowledgement of parts: longer each time, and twice as long while nothing is
    /// known of the path, whose queue this side may be filling.
    pub(super) fn bulk_wait(&mut self) -> Duration {
        let timeout = match self.rtt.smoothed() {
            Some(_) => self.rtt.bulk_timeout(),
            None => self.rtt.bulk_timeout() * (1 << self.bulk_repeats.min(6)),
        };
        interval(self.bulk_repeats, timeout, &mut self.jitter).max(timeout)
    }

    /// What is longer than a datagram leaves in parts, once the other side has proven its address.
    fn cut_long(&mut self) {
        if self.credit.is_some() {
            return;
        }
        let max = message_max(self.path.size(self.datagram_max()));
        while let Some((number, bytes)) = self.replies.cut_next(max) {
            self.parts.push((PartOf::Reply, number), bytes);
        }
        while let Some((number, bytes)) = self.pushes.cut_next(max) {
            self.parts.push((PartOf::Event, number), bytes);
        }
        while let Some((number, bytes)) = self.requests.cut_next(max) {
            self.parts.push((PartOf::Request, number), bytes);
        }
    }

    /// True when something waits that has been waiting, or is long.
    fn has_bulk(&self) -> bool {
        self.parts.has_queued() || self.pushes.has_queued(Urgency::Backlog)
    }

    /// True when so little is heard that what nobody here waits for is held back.
    fn is_silent(&self) -> bool {
        self.bulk_repeats >= SILENT_AFTER && self.requests.is_empty()
    }

    /// True when a part may leave now.
    fn may_send_bulk(&self, now: Time) -> bool {
        let size = self.path.size(self.datagram_max());
        self.has_bulk() && !self.is_silent() && self.pace.allows(now, self.sent.in_flight(), size)
    }

    /// When a part may leave, if only time stands against it.
    pub(super) fn bulk_timeout(&self) -> Option<Time> {
        if !self.has_bulk() || self.is_silent() {
            return None;
        }
        let size = self.path.size(self.datagram_max());
        self.pace.timeout(self.sent.in_flight(), size)
    }

    fn wants_to_send(&self, now: Time) -> bool {
        self.controls.has_queued()
            || self.replies.has_queued()
            || self.requests.has_queued()
            || self.pushes.has_queued(Urgency::Live)
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

    /// Packs frames in the order of their urgency into `out`; gives what among them is sent again until it has arrived.
    fn pack(&mut self, now: Time, room: usize, carrier: Carrier, out: &mut Vec<u8>) -> Vec<Item> {
        let is_packet = matches!(carrier, Carrier::Packet | Carrier::Bulk);
        let ack = is_packet.then(|| self.acknowledgement(now)).flatten();
        let mut packer = Packer::new(room, out);
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
        let mut replies = Numbers::new();
        // What is asked again says nothing of the round trip by its reply; the number of its packet does.
        let measures = is_packet && self.requests.has_repeats();
        let pings = is_packet && (self.controls.ping || self.replies.has_announced());
        if pings || measures {
            packer.push(Frame::Ping);
        }
        for (number, answer) in self.replies.queued() {
            if packer.push(Frame::Reply { number, answer }) {
                replies.push(number);
            }
        }
        let mut requests = Numbers::new();
        if carrier != Carrier::Accept {
            for (number, command) in self.requests.queued(carrier == Carrier::Init) {
                if packer.push(Frame::Request { number, command }) {
                    requests.push(number);
                }
            }
        }
        let mut pushes = Numbers::new();
        if is_packet {
            self.pack_pushes(Urgency::Live, &mut packer, &mut pushes);
        }
        if carrier == Carrier::Bulk {
            self.pack_pushes(Urgency::Backlog, &mut packer, &mut pushes);
        }
        let parts = if carrier == Carrier::Bulk {
            self.pack_parts(&mut packer)
        } else {
            Vec::new()
        };
        let confirm = is_packet && self.controls.confirm;
        if confirm && packer.out.is_empty() {
            packer.push(Frame::Padding);
        }
        let frames = packer.out;
        let least = match carrier {
            Carrier::Packet | Carrier::Bulk => self.frames_min(!requests.is_empty()),
            Carrier::Init => INIT_PAYLOAD_MIN,
            Carrier::Accept => 0,
        };
        let missing = least.min(room).saturating_sub(frames.len());
        frames.splice(0..0, core::iter::repeat_n(PADDING, missing));
        let packed = Packed {
            measures,
            replies,
            requests,
            pushes,
            parts,
        };
        let items = self.items(&packed);
        self.note_packed(now, carrier, &packed, frames.len());
        items
    }

    /// The acknowledgement that is owed, if one is.
    fn acknowledgement(&mut self, now: Time) -> Option<AckFrame> {
        if !self.received.is_owing() {
            return None;
        }
        // Looked up once for all packets: many may be asked about, and each may have asked for many replies.
        let unmissable = self.replies.unmissable();
        let may_be_missed = |request: &u64| unmissable.binary_search(request).is_err();
        let asking = self.asking.iter();
        let answered = asking.filter(|(_, requests)| requests.iter().all(may_be_missed));
        let answered = sorted(answered.map(|(number, _)| *number));
        let is_answered = |number| answered.binary_search(&number).is_ok();
        let ack = self.received.acknowledge(now, is_answered)?;
        self.replies.announce();
        Some(ack)
    }

    /// What of a packet is sent again until it has arrived.
    fn items(&self, packed: &Packed) -> Vec<Item> {
        let replies = packed.replies.iter();
        let announced = replies.filter(|reply| self.replies.is_announced(**reply));
        let requests = packed.requests.iter();
        let pushes = packed.pushes.iter();
        let parts = packed.parts.iter();
        announced
            .map(|reply| Item::Reply(*reply))
            .chain(requests.map(|request| Item::Request(*request)))
            .chain(pushes.map(|number| Item::Event(*number)))
            .chain(parts.map(|(message, part)| Item::Part(*message, part.start, part.end)))
            .chain(packed.measures.then_some(Item::Measure))
            .collect()
    }

    /// Notes what leaves in a packet with so many bytes of frames.
    fn note_packed(&mut self, now: Time, carrier: Carrier, packed: &Packed, len: usize) {
        for (message, part) in &packed.parts {
            self.parts.sent(*message, part);
        }
        let lossy = self.is_redundant();
        self.replies
            .sent(now, &packed.replies, &self.rtt, &mut self.jitter, lossy);
        self.pushes
            .sent(now, &packed.pushes, &self.rtt, &mut self.jitter);
        match carrier {
            Carrier::Packet | Carrier::Bulk => {
                let small = len <= COPIED_MAX;
                let loss = self.is_redundant().then_some(Lossy { small });
                self.requests
                    .sent(now, &packed.requests, &self.rtt, &mut self.jitter, loss);
                self.controls.ping = false;
                self.controls.confirm = false;
            }
            Carrier::Init => self.requests.carry_early(&packed.requests),
            Carrier::Accept => {}
        }
        self.controls.welcome = None;
        self.controls.challenge_queued = false;
        self.controls.response = None;
    }

    /// Adds the events of one kind that should leave, as far as they fit.
    fn pack_pushes<'a>(
        &'a self,
        urgency: Urgency,
        packer: &mut Packer<'a, '_>,
        left: &mut Numbers,
    ) {
        for (number, event) in self.pushes.queued(urgency) {
            if !packer.push(Frame::Event { number, event }) {
                return;
            }
            left.push(number);
        }
    }

    /// Fills what room is left with parts of long messages.
    fn pack_parts<'a>(&'a self, packer: &mut Packer<'a, '_>) -> Vec<(Message, Range<u64>)> {
        let mut parts = Vec::new();
        for (message, cut) in self.parts.queued() {
            let room = packer.room_left().saturating_sub(PART_FRAME_MAX);
            if room < PART_MIN {
                break;
            }
            let Some((offset, bytes)) = cut.next_part(room) else {
                break;
            };
            let ends = offset + bytes.len() as u64;
            let (of, number) = message;
            let pushed = packer.push(Frame::Part {
                of,
                number,
                total: cut.total(),
                offset,
                bytes,
            });
            if !pushed {
                break;
            }
            parts.push((message, offset..ends));
        }
        parts
    }

    /// True when what is small leaves twice: so much is lost that waiting for it costs more (LINK-19).
    pub(super) fn is_redundant(&self) -> bool {
        match self.config.redundancy {
            Redundancy::On => true,
            Redundancy::Off => false,
            Redundancy::Auto => {
                self.config.rate.is_none()
                    && self.received.loss() > REDUNDANT_LOSS
                    && !self.rtt.is_filling()
            }
        }
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
