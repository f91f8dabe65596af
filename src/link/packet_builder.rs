//! Outgoing packets: which frames go into the next packet, in which order (LINK-4), and sealing.

use alloc::vec::Vec;
use core::{ops::Range, time::Duration};

use smallvec::SmallVec;

use super::{
    Carried, Item, Keys, Link, Redundancy, SentPacket, State, Time,
    queue::{Body, Entry, Lossy},
    sorted_map::sorted,
    trace::{FrameList, Trace, trace, trace_early},
};
use crate::{
    crypto::TAG_LEN,
    wire::{
        AckFrame, CloseReason, Frame, MessageId, Open, PADDING, PacketNumber, Protection,
        RequestId, Update, Welcome, append_crc, link_header,
    },
};

/// The longest clear header in bytes: form, connection id, packet number.
const HEADER_MAX: usize = 9;
/// The least bytes of frames in a plain packet that opens a link, so that the answer fits the
/// credit that it brings (LINK-11).
const OPENING_MIN: usize = 64;
/// The least bytes of frames in a plain packet with requests. It is then longer than the Reset that
/// a realm sends if it has forgotten the link (HS-8).
const ASKING_MIN: usize = 12;
/// The least bytes in a handshake's first message, so that the answer fits its credit (HS-2).
pub const INIT_PAYLOAD_MIN: usize = 8;
/// The least bytes in a Resume, so that its answer may report another life (HS-19).
const RESUME_PAYLOAD_MIN: usize = 2;
/// The largest overhead of a fragment frame in bytes: kind, message kind, number, total, offset.
const FRAGMENT_FRAME_MAX: usize = 1 + 1 + 8 + 4 + 4;
/// The loss, in 1/1024, above which small packets are sent twice: about 15 %.
pub(super) const REDUNDANT_LOSS: u32 = 154;
/// The largest packet that is sent twice, in bytes of frames.
const COPIED_MAX: usize = 256;
/// The least room for a fragment, in bytes.
const FRAGMENT_MIN: usize = 48;
/// The least room for a WELCOME, in bytes.
const WELCOME_ROOM: usize = 32;
/// The largest overhead of a message frame, and of other repeated frames, in bytes: kind, number.
const FRAME_MAX: usize = 1 + 8;

/// The largest message that always fits a datagram of `datagram_max` bytes.
pub const fn message_max(datagram_max: usize) -> usize {
    datagram_max.saturating_sub(HEADER_MAX + FRAME_MAX + TAG_LEN)
}

/// The contents of control frames. The repeated ones are in the retransmission queue.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    /// Repeated in every packet of a plain link until it is answered.
    pub open: Option<Open>,
    pub welcome: Option<Welcome>,
    pub update: Update,
    /// The data that the other side must return.
    pub challenge: Option<[u8; 8]>,
    /// The data that this side must return.
    pub response: Option<[u8; 8]>,
    pub close: Option<CloseReason>,
}

impl Controls {
    /// True if `data` answers the challenge.
    pub fn is_answered_by(&self, data: &[u8; 8]) -> bool {
        self.challenge.is_some_and(|challenge| challenge == *data)
    }

    /// True if a control frame is pending that is not in the retransmission queue.
    pub const fn has_queued(&self) -> bool {
        self.welcome.is_some() || self.close.is_some()
    }
}

/// The kind of message that carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// The first message of a handshake.
    Init,
    /// The second message of a handshake.
    Accept,
    /// The first message of a resumption.
    Resume,
    /// A packet of an open link.
    Packet,
    /// A packet of an open link that may carry fragments of long messages.
    Bulk,
}

/// The contents of a packet.
#[derive(Default)]
struct Packed {
    items: SmallVec<[Item; 8]>,
    fragments: Vec<(MessageId, Range<u64>)>,
    /// Its acknowledgement measures the round trip.
    measures: bool,
}

impl Packed {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.fragments.is_empty()
    }
}

/// Writes frames one after another into bounded space; the last frame has no length field.
struct PacketBuilder<'a, 'out> {
    /// Initially empty.
    out: &'out mut Vec<u8>,
    room: usize,
    last: Option<(usize, Frame<'a>)>,
}

impl<'a, 'out> PacketBuilder<'a, 'out> {
    fn new(room: usize, out: &'out mut Vec<u8>) -> Self {
        out.clear();
        Self {
            out,
            room,
            last: None,
        }
    }

    /// The least room for another frame in bytes, after the last frame gets its length field.
    const fn room_left(&self) -> usize {
        self.room.saturating_sub(self.out.len() + 2)
    }

    /// Adds a frame if it fits; the frame before it then gets its length field.
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
    /// The payload of a handshake's first message: OPEN, and the requests allowed as early data.
    pub fn init_payload(&mut self, now: Time, room: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        self.pack(now, room, Carrier::Init, &mut payload);
        trace_early(self.trace_id, &payload);
        payload
    }

    /// The payload of a handshake's second message: WELCOME, and the available replies.
    pub fn accept_payload(&mut self, now: Time, room: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        self.pack(now, room, Carrier::Accept, &mut payload);
        payload
    }

    /// The payload of a Resume: the requests allowed as early data.
    pub fn resume_payload(&mut self, now: Time, room: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        self.pack(now, room, Carrier::Resume, &mut payload);
        trace_early(self.trace_id, &payload);
        payload
    }

    /// Writes the next datagram into `out`, which is cleared first. False if there is none.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> bool {
        out.clear();
        let State::Open(keys) = &self.state else {
            return false;
        };
        let (protection, overhead) = match keys {
            Keys::Sealed(_) => (Protection::Sealed, HEADER_MAX + TAG_LEN),
            Keys::Plain => (Protection::Plain, HEADER_MAX + 4),
        };
        if self.credit.is_none() {
            // A message longer than a datagram is fragmented once the address is proven.
            let max = message_max(self.path.size(self.datagram_max()));
            self.queue.fragment(max.saturating_sub(self.beside_len()));
        }
        let bulk = self.may_send_paced(now);
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
        if bulk
            && self.queue.next_fragmented_len() > size as u64
            && let max = max.min(self.pace.probe_max(size))
            && let waiting = self.queue.fragments_queued_len()
            && let Some(probe) = self.path.next_probe(now, max, waiting)
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
            self.check_unpacked(bulk);
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
        // The header's length depends on the packet number: it is written last, then moved.
        let header_len = out.len() - frames_len;
        out.rotate_right(header_len);
        trace(self.trace_id, || Trace::Sent {
            number,
            bytes: out.len() + overhead - HEADER_MAX,
            frames: FrameList(out.get(header_len..).unwrap_or_default()),
        });
        match &self.state {
            State::Open(Keys::Sealed(keys)) => keys.seal.seal(number.0, header_len, out),
            _ => append_crc(out),
        }
        debug_assert!(out.len() <= size.min(credit), "it is longer than it may be");
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_sub(out.len());
        }
        self.counters.sent.add(out.len());
        self.note_sent(now, number, out.len(), items);
        if let Some(reason) = self.controls.close.take() {
            self.has_closed(reason);
        }
        self.check();
        true
    }

    /// Bytes of frames beside the message: a repeated OPEN, and a PING.
    fn beside_len(&self) -> usize {
        let mut opening = Vec::new();
        if let Some(open) = self.controls.open {
            Frame::Open(open).emit(false, &mut opening);
        }
        opening.len() + 1
    }

    /// Records the contents of a packet that are sent again until they arrive.
    fn note_sent(&mut self, now: Time, number: PacketNumber, len: usize, items: Vec<Carried>) {
        let is_paced = |carried: &Carried| match carried {
            Carried::Fragment(..) => true,
            Carried::Whole(item) => item.is_paced(),
            Carried::Measure => false,
        };
        let stamp = if items.iter().any(is_paced) {
            if len > self.path.size(self.datagram_max()) {
                self.path.probed();
            }
            let limited = !self.queue.has_paced();
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
        if stamp.is_some() {
            self.paced_due = Some(now + self.paced_wait());
        }
    }

    /// The wait for an acknowledgement of fragments and backlog.
    pub(super) fn paced_wait(&mut self) -> Duration {
        let is_known = self.pace.knows_rate();
        let unpaced = (!is_known).then(|| self.sent.in_flight());
        self.rtt
            .paced_repeat_after(self.queue.timeouts(), unpaced, &mut self.jitter)
    }

    /// True if a fragment or backlog may be sent now.
    fn may_send_paced(&self, now: Time) -> bool {
        let size = self.path.size(self.datagram_max());
        self.queue.has_paced()
            && !self.queue.is_silent()
            && self.pace.allows(now, self.sent.in_flight(), size)
    }

    /// When a fragment or backlog may be sent, if only the time is missing.
    pub(super) fn pace_timeout(&self) -> Option<Time> {
        if !self.queue.has_paced() || self.queue.is_silent() {
            return None;
        }
        let size = self.path.size(self.datagram_max());
        self.pace.timeout(self.sent.in_flight(), size)
    }

    fn wants_to_send(&self, now: Time) -> bool {
        self.controls.has_queued()
            || self.queue.has_prompt()
            || self.received.due().is_some_and(|due| due <= now)
    }

    /// True if the first pending frame fits the room that the credit allows. (A frame that does not
    /// fit waits until the address is proven; packing would treat it as unsendable.)
    fn fits_credit(&self, room: usize) -> bool {
        let needed = match self.queue.queued().next() {
            _ if self.controls.has_queued() => WELCOME_ROOM,
            Some(first) if first.is_reply() => first.len() + FRAME_MAX,
            _ => FRAME_MAX,
        };
        needed <= room
    }

    /// Packs frames into `out` by urgency. Returns those that are sent again until they arrive.
    fn pack(
        &mut self,
        now: Time,
        room: usize,
        carrier: Carrier,
        out: &mut Vec<u8>,
    ) -> Vec<Carried> {
        let is_packet = matches!(carrier, Carrier::Packet | Carrier::Bulk);
        let ack = is_packet.then(|| self.acknowledgement(now)).flatten();
        let mut packer = PacketBuilder::new(room, out);
        let opens = !matches!(carrier, Carrier::Accept | Carrier::Resume);
        let opening = self.controls.open.filter(|_| opens);
        let abouts = [
            opening.map(Frame::Open),
            ack.map(Frame::Ack),
            self.controls.welcome.map(Frame::Welcome),
            self.controls.close.map(Frame::Close),
        ];
        for about in abouts.into_iter().flatten() {
            packer.push(about);
        }
        let mut packed = Packed {
            // The reply to a repeated request cannot measure the round trip; its packet number can.
            measures: is_packet && self.queue.has_repeated_requests(),
            ..Packed::default()
        };
        let is_pinging = |entry: &Entry| match entry.item {
            Item::Ping => true,
            // On a plain link the challenge is repeated until its response arrives, which suffices.
            Item::Response => self.is_sealed(),
            Item::Update => true,
            Item::Challenge => false,
            Item::Message(_) => entry.is_announced(),
        };
        if packed.measures || (is_packet && self.queue.queued().any(is_pinging)) {
            packer.push(Frame::Ping);
        }
        // Live events are sent before backlog; their ids are interleaved.
        let (backlog, prompt) = (
            self.queue.queued().filter(|entry| entry.item.is_paced()),
            self.queue.queued().filter(|entry| !entry.item.is_paced()),
        );
        for entry in prompt.chain(backlog) {
            if leaves_with(entry, carrier)
                && self.frame(entry).is_none_or(|frame| packer.push(frame))
            {
                packed.items.push(entry.item);
            }
        }
        if carrier == Carrier::Bulk {
            self.pack_fragments(&mut packer, &mut packed);
        }
        let is_about_itself =
            ack.is_none() && self.controls.welcome.is_none() && self.controls.close.is_none();
        let frames = packer.out;
        if is_packet && is_about_itself && packed.is_empty() {
            // An OPEN or a PING is never sent alone. It would be sent again at once, endlessly.
            frames.clear();
            return Vec::new();
        }
        let asks = |item: &Item| matches!(item, Item::Message(MessageId::Request(_)));
        let least = match carrier {
            Carrier::Packet | Carrier::Bulk => self.frames_min(packed.items.iter().any(asks)),
            Carrier::Init => INIT_PAYLOAD_MIN,
            Carrier::Resume => RESUME_PAYLOAD_MIN,
            Carrier::Accept => 0,
        };
        let missing = least.min(room).saturating_sub(frames.len());
        frames.splice(0..0, core::iter::repeat_n(PADDING, missing));
        let carried = self.carried(&packed);
        self.note_packed(now, carrier, &packed, frames.len());
        carried
    }

    /// Returns the frame of an item; `None` for a PING, which is written separately.
    fn frame<'a>(&self, entry: &'a Entry) -> Option<Frame<'a>> {
        let bytes = match &entry.body {
            Body::Whole(bytes) => bytes.as_slice(),
            Body::Fragments(_) => return None,
        };
        match entry.item {
            Item::Update => Some(Frame::Update(self.controls.update)),
            Item::Challenge => self.controls.challenge.map(Frame::PathChallenge),
            Item::Response => self.controls.response.map(Frame::PathResponse),
            Item::Ping => None,
            Item::Message(MessageId::Reply(number)) => Some(Frame::Reply {
                number,
                answer: bytes,
            }),
            Item::Message(MessageId::Request(number)) => Some(Frame::Request {
                number,
                command: bytes,
            }),
            Item::Message(MessageId::Event(number)) => Some(Frame::Event {
                number,
                event: bytes,
            }),
        }
    }

    /// Returns the acknowledgement that is owed, if any.
    fn acknowledgement(&mut self, now: Time) -> Option<AckFrame> {
        if !self.received.is_owing() {
            return None;
        }
        // Looked up once: many packets may be checked, and each may hold many requests.
        let unmissable = self.replies.unmissable(&self.queue);
        let may_be_missed = |request: &RequestId| unmissable.binary_search(request).is_err();
        let asking = self.asking.iter();
        let answered = asking.filter(|(_, requests)| requests.iter().all(may_be_missed));
        let answered = sorted(answered.map(|(number, _)| *number));
        let is_answered = |number| answered.binary_search(&number).is_ok();
        let ack = self.received.acknowledge(now, is_answered)?;
        self.replies.announce();
        Some(ack)
    }

    /// Returns the contents of a packet that are sent again until they arrive.
    fn carried(&self, packed: &Packed) -> Vec<Carried> {
        let is_tracked = |item: &&Item| match item {
            // Its response proves its arrival.
            Item::Challenge => false,
            Item::Response => self.is_sealed(),
            Item::Message(MessageId::Reply(_)) => {
                let entry = self.queue.get(**item);
                entry.is_some_and(Entry::is_announced)
            }
            Item::Update | Item::Ping | Item::Message(_) => true,
        };
        let items = packed.items.iter().filter(is_tracked);
        let fragments = packed.fragments.iter();
        items
            .map(|item| Carried::Whole(*item))
            .chain(fragments.map(|(id, part)| Carried::Fragment(*id, part.start, part.end)))
            .chain(packed.measures.then_some(Carried::Measure))
            .collect()
    }

    /// Notes that `packed` is sent in `len` bytes of frames.
    fn note_packed(&mut self, now: Time, carrier: Carrier, packed: &Packed, len: usize) {
        for (message, part) in &packed.fragments {
            self.queue.fragment_sent(*message, part);
        }
        if matches!(carrier, Carrier::Init | Carrier::Resume) {
            self.queue.carry_early(&packed.items);
        } else {
            let small = len <= COPIED_MAX;
            let lossy = self.is_redundant().then_some(Lossy { small });
            self.queue
                .sent(now, &packed.items, &self.rtt, &mut self.jitter, lossy);
            let forgotten = self.replies.settle(&mut self.queue);
            self.forget_assembled(&forgotten);
        }
        if !self.is_sealed() {
            self.queue.remove(Item::Response);
        }
        if carrier == Carrier::Accept && packed.items.contains(&Item::Update) {
            // The Accept delivers the UPDATE.
            self.queue.remove(Item::Update);
        }
        self.controls.welcome = None;
    }

    /// Fills the remaining room with fragments of long messages. If the other side has no room for
    /// one fragment, the whole packet counts as lost. A fragment that it may refuse is sent alone.
    fn pack_fragments<'a>(&'a self, packer: &mut PacketBuilder<'a, '_>, packed: &mut Packed) {
        for (message, fragments) in self.queue.fragments_queued() {
            let is_doubtful = fragments.is_doubtful();
            if is_doubtful && !packed.is_empty() {
                continue;
            }
            let room = packer.room_left().saturating_sub(FRAGMENT_FRAME_MAX);
            if room < FRAGMENT_MIN {
                break;
            }
            let Some((offset, bytes)) = fragments.next_part(room) else {
                break;
            };
            let ends = offset + bytes.len() as u64;
            let pushed = packer.push(Frame::Fragment {
                message,
                total: fragments.total(),
                offset,
                bytes,
            });
            if !pushed {
                break;
            }
            packed.fragments.push((message, offset..ends));
            if is_doubtful {
                break;
            }
        }
    }

    /// True if packets are sealed.
    const fn is_sealed(&self) -> bool {
        !matches!(self.state, State::Open(Keys::Plain))
    }

    /// True if small packets are sent twice: at such loss a wait costs more (LINK-19).
    pub(super) fn is_redundant(&self) -> bool {
        match self.config.redundancy {
            Redundancy::On => true,
            Redundancy::Off => false,
            Redundancy::Auto => {
                self.config.rate.is_none() && self.loss() > REDUNDANT_LOSS && !self.rtt.is_filling()
            }
        }
    }

    /// The least bytes of frames in a packet, so that the other side can answer it.
    const fn frames_min(&self, asks: bool) -> usize {
        match &self.state {
            State::Open(Keys::Plain) if self.controls.open.is_some() => OPENING_MIN,
            State::Open(Keys::Plain) if asks => ASKING_MIN,
            _ => 0,
        }
    }

    /// Notes that the handshake is complete, so that its first message has arrived.
    pub fn early_arrived(&mut self, now: Time) {
        let is_lossy = self.is_redundant();
        self.queue
            .early_arrived(now, (&self.rtt, is_lossy), &mut self.jitter);
    }

    /// True if a request may not be sent as early data (HS-7).
    pub fn asks_in_secret(&self) -> bool {
        self.queue.asks_in_secret()
    }

    /// True if a request sent as early data has no reply yet.
    pub fn awaits_early(&self) -> bool {
        self.queue.awaits_early()
    }
}

/// True if a queued item may be sent with this carrier.
fn leaves_with(entry: &Entry, carrier: Carrier) -> bool {
    let is_early = entry.ask().is_some_and(|ask| ask.early);
    match (entry.item, carrier) {
        (Item::Message(MessageId::Reply(_)), Carrier::Accept) => true,
        (Item::Update, Carrier::Accept) => true,
        (Item::Message(MessageId::Request(_)), Carrier::Init | Carrier::Resume) => is_early,
        (_, Carrier::Init | Carrier::Resume | Carrier::Accept) => false,
        (_, Carrier::Bulk) => true,
        (item, Carrier::Packet) => !item.is_paced(),
    }
}
