//! Building a packet: which frames go into the next one, in which order (LINK-4).

use alloc::vec::Vec;
use core::ops::Range;

use smallvec::SmallVec;

use super::{
    Event, Link, Time,
    protection::HEADER_MAX,
    queue::{Entry, Item, Lossy, Queue},
    sent_packets::Carried,
    trace::{FrameList, Trace, trace, trace_early},
};
use crate::{
    crypto::TAG_LEN,
    wire::{AckFrame, CloseReason, Frame, MessageId, PADDING},
};

/// The least bytes of frames in a plain packet that opens a link, so that the answer fits the
/// credit that it brings (LINK-11).
const OPEN_PAYLOAD_MIN: usize = 64;
/// The least bytes of frames in a plain packet with requests. It is then longer than the Reset that
/// a realm sends if it has forgotten the link (HS-8).
const REQUEST_PAYLOAD_MIN: usize = 12;
/// The least bytes in a handshake's first message, so that the answer fits its credit (HS-2).
pub const INIT_PAYLOAD_MIN: usize = 8;
/// The least bytes in a Resume, so that its answer may report another life (HS-19).
const RESUME_PAYLOAD_MIN: usize = 2;
/// The largest overhead of a fragment frame in bytes: kind, message kind, number, total, offset.
const FRAGMENT_FRAME_MAX: usize = 1 + 1 + 8 + 4 + 4;
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

    /// Fills the remaining room with fragments of long messages. If the other side has no room for
    /// one fragment, the whole packet counts as lost. A fragment that it may refuse is sent alone.
    fn add_fragments<'a>(&mut self, queue: &'a Queue, packer: &mut PacketBuilder<'a, '_>) {
        for (message, fragments) in queue.fragments_queued() {
            let is_doubtful = fragments.is_doubtful();
            if is_doubtful && !self.is_empty() {
                continue;
            }
            let capacity = packer.remaining().saturating_sub(FRAGMENT_FRAME_MAX);
            if capacity < FRAGMENT_MIN {
                break;
            }
            let Some((offset, bytes)) = fragments.next_part(capacity) else {
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
            self.fragments.push((message, offset..ends));
            if is_doubtful {
                break;
            }
        }
    }

    /// Returns the contents that are sent again until they arrive, on a plain link or another one.
    fn carried(&self, queue: &Queue, is_plain: bool) -> Vec<Carried> {
        let is_tracked = |item: &&Item| match item {
            // Its response proves its arrival.
            Item::Challenge => false,
            Item::Response => !is_plain,
            Item::Message(MessageId::Reply(_)) => {
                queue.get(**item).is_some_and(Entry::is_announced)
            }
            Item::Update | Item::Ping | Item::Message(_) => true,
        };
        let items = self.items.iter().filter(is_tracked);
        let fragments = self.fragments.iter();
        items
            .map(|item| Carried::Whole(*item))
            .chain(fragments.map(|(id, part)| Carried::Fragment(*id, part.start, part.end)))
            .chain(self.measures.then_some(Carried::Measure))
            .collect()
    }
}

/// Writes frames one after another into bounded space; the last frame has no length field.
struct PacketBuilder<'a, 'out> {
    /// Initially empty.
    out: &'out mut Vec<u8>,
    capacity: usize,
    last: Option<(usize, Frame<'a>)>,
}

impl<'a, 'out> PacketBuilder<'a, 'out> {
    fn new(capacity: usize, out: &'out mut Vec<u8>) -> Self {
        out.clear();
        Self {
            out,
            capacity,
            last: None,
        }
    }

    /// The least room for another frame in bytes, after the last frame gets its length field.
    const fn remaining(&self) -> usize {
        self.capacity.saturating_sub(self.out.len() + 2)
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
        if self.out.len() <= self.capacity {
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
    pub fn init_payload(&mut self, now: Time, capacity: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        self.pack(now, capacity, Carrier::Init, &mut payload);
        trace_early(self.trace_id, &payload);
        payload
    }

    /// The payload of a handshake's second message: WELCOME, and the available replies.
    pub fn accept_payload(&mut self, now: Time, capacity: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        self.pack(now, capacity, Carrier::Accept, &mut payload);
        payload
    }

    /// The payload of a Resume: the requests allowed as early data.
    pub fn resume_payload(&mut self, now: Time, capacity: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        self.pack(now, capacity, Carrier::Resume, &mut payload);
        trace_early(self.trace_id, &payload);
        payload
    }

    /// Writes the next datagram into `out`, which is cleared first. False if there is none.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> bool {
        out.clear();
        let Some(overhead) = self.protection.overhead() else {
            return false;
        };
        let max = self.opening.datagram_max();
        let mut size = self.recovery.path_size(max);
        if self.is_proven() {
            // A message longer than a datagram is fragmented once the address is proven.
            let len = message_max(size);
            // Beside it there may be an OPEN and a PING.
            let beside = self.opening.open_len() + 1;
            self.queue.fragment(len.saturating_sub(beside));
        }
        let bulk = self.queue.has_paced()
            && !self.queue.is_silent()
            && self.recovery.allows_paced(now, max);
        let is_wanted = bulk
            || self.has_control_queued()
            || self.queue.has_prompt()
            || self.acks.due().is_some_and(|due| due <= now);
        self.recovery.release();
        if !is_wanted || self.recovery.hold_back(now) {
            return false;
        }
        if bulk
            && self.queue.next_fragmented_len() > size as u64
            && let waiting = self.queue.fragments_queued_len()
            && let Some(probe) = self.recovery.next_probe(now, max, waiting)
        {
            size = probe;
        }
        let credit = self.validation.credit();
        let longest = credit.map_or(size, |credit| size.min(credit));
        let capacity = longest.saturating_sub(overhead);
        if credit.is_some() && !self.fits_credit(capacity) {
            return false;
        }
        let carrier = if bulk { Carrier::Bulk } else { Carrier::Packet };
        let items = self.pack(now, capacity, carrier, out);
        if out.is_empty() {
            // Its timer would be due again at once, endlessly.
            debug_assert!(
                !bulk || credit.is_some(),
                "a fragment may leave and cannot be packed"
            );
            return false;
        }
        let Some(number) = self.protection.take_number() else {
            self.protection.end();
            self.events.push_back(Event::Closed(CloseReason::Replaced));
            return false;
        };
        let acknowledged = self.recovery.acknowledged();
        let header_len = self.protection.write_header(number, acknowledged, out);
        trace(self.trace_id, || Trace::Sent {
            number,
            bytes: out.len() + overhead - HEADER_MAX,
            frames: out.get(header_len..).map(FrameList),
        });
        self.protection.seal(number, header_len, out);
        debug_assert!(out.len() <= longest, "it is longer than it may be");
        self.validation.spend(out.len());
        self.counters.sent.add(out.len());
        self.recovery
            .packet_sent(now, number, out.len(), items, &self.queue, max);
        if let Some(reason) = self.protection.close_sent() {
            self.finish_close(reason);
        }
        self.check();
        true
    }

    /// True if a control frame is pending that is not in the queue.
    pub(super) const fn has_control_queued(&self) -> bool {
        self.opening.welcome_queued().is_some() || self.protection.close().is_some()
    }

    /// True if the first pending frame fits the room that the credit allows. (A frame that does not
    /// fit waits until the address is proven; packing would treat it as unsendable.)
    fn fits_credit(&self, capacity: usize) -> bool {
        let needed = if self.has_control_queued() {
            WELCOME_ROOM
        } else {
            let first = self.queue.queued().next();
            let reply = first.filter(|first| first.is_reply());
            reply.map_or(0, Entry::len) + FRAME_MAX
        };
        needed <= capacity
    }

    /// Packs frames into `out` by urgency. Returns those that are sent again until they arrive.
    fn pack(
        &mut self,
        now: Time,
        capacity: usize,
        carrier: Carrier,
        out: &mut Vec<u8>,
    ) -> Vec<Carried> {
        let is_packet = matches!(carrier, Carrier::Packet | Carrier::Bulk);
        let ack = is_packet.then(|| self.acknowledgement(now)).flatten();
        let mut packer = PacketBuilder::new(capacity, out);
        let opens = !matches!(carrier, Carrier::Accept | Carrier::Resume);
        let open = self.opening.open().filter(|_| opens);
        let welcome = self.opening.welcome_queued();
        let close = self.protection.close();
        let abouts = [
            open.map(Frame::Open),
            ack.map(Frame::Ack),
            welcome.map(Frame::Welcome),
            close.map(Frame::Close),
        ];
        for about in abouts.into_iter().flatten() {
            packer.push(about);
        }
        let mut packed = Packed {
            // The reply to a repeated request cannot measure the round trip; its packet number can.
            measures: is_packet && self.queue.has_repeated_requests(),
            ..Packed::default()
        };
        let is_pinging = |entry: &Entry| match entry.item() {
            Item::Ping | Item::Update => true,
            // On a plain link the challenge is repeated until its response arrives, which suffices.
            Item::Response => !self.protection.is_plain(),
            Item::Challenge => false,
            Item::Message(_) => entry.is_announced(),
        };
        if packed.measures || (is_packet && self.queue.queued().any(is_pinging)) {
            packer.push(Frame::Ping);
        }
        // Live events are sent before backlog; their ids are interleaved.
        let (backlog, prompt) = (
            self.queue.queued().filter(|entry| entry.item().is_paced()),
            self.queue.queued().filter(|entry| !entry.item().is_paced()),
        );
        for entry in prompt.chain(backlog) {
            if leaves_with(entry, carrier)
                && self.frame(entry).is_none_or(|frame| packer.push(frame))
            {
                packed.items.push(entry.item());
            }
        }
        if carrier == Carrier::Bulk {
            packed.add_fragments(&self.queue, &mut packer);
        }
        let is_about_itself = ack.is_none() && welcome.is_none() && close.is_none();
        let frames = packer.out;
        if is_packet && is_about_itself && packed.is_empty() {
            // An OPEN or a PING is never sent alone. It would be sent again at once, endlessly.
            frames.clear();
            return Vec::new();
        }
        let asks = |item: &Item| matches!(item, Item::Message(MessageId::Request(_)));
        let least = match carrier {
            Carrier::Packet | Carrier::Bulk => {
                let (is_plain, opens) = (self.protection.is_plain(), open.is_some());
                frames_min(is_plain, opens, packed.items.iter().any(asks))
            }
            Carrier::Init => INIT_PAYLOAD_MIN,
            Carrier::Resume => RESUME_PAYLOAD_MIN,
            Carrier::Accept => 0,
        };
        let missing = least.min(capacity).saturating_sub(frames.len());
        frames.splice(0..0, core::iter::repeat_n(PADDING, missing));
        let carried = packed.carried(&self.queue, self.protection.is_plain());
        self.note_packed(now, carrier, &packed, frames.len());
        carried
    }

    /// Returns the frame of an item; `None` for a PING, which is written separately.
    fn frame<'a>(&self, entry: &'a Entry) -> Option<Frame<'a>> {
        let bytes = entry.whole()?;
        match entry.item() {
            Item::Update => Some(Frame::Update(self.opening.update())),
            Item::Challenge => self.validation.challenge_frame(),
            Item::Response => self.validation.response_frame(),
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
        if !self.acks.is_owing() {
            return None;
        }
        // Looked up once: many packets may be checked, and each may hold many requests.
        let unmissable = self.incoming.unmissable(&self.queue);
        let ack = self.acks.acknowledge(now, &unmissable)?;
        self.incoming.announce();
        Some(ack)
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
            let (rtt, jitter) = self.recovery.timing();
            self.queue.sent(now, &packed.items, rtt, jitter, lossy);
            self.incoming.replies_sent(&mut self.queue);
        }
        if self.protection.is_plain() {
            self.queue.remove(Item::Response);
        }
        if carrier == Carrier::Accept && packed.items.contains(&Item::Update) {
            // The Accept delivers the UPDATE.
            self.queue.remove(Item::Update);
        }
        self.opening.welcome_left();
    }
}

/// True if a queued item may be sent with this carrier.
fn leaves_with(entry: &Entry, carrier: Carrier) -> bool {
    match carrier {
        Carrier::Init | Carrier::Resume => entry.is_early(),
        Carrier::Accept => entry.is_reply() || entry.item() == Item::Update,
        Carrier::Packet => !entry.item().is_paced(),
        Carrier::Bulk => true,
    }
}

/// The least bytes of frames in a packet, so that the other side can answer it.
const fn frames_min(is_plain: bool, opens: bool, asks: bool) -> usize {
    match (is_plain, opens) {
        (true, true) => OPEN_PAYLOAD_MIN,
        (true, false) if asks => REQUEST_PAYLOAD_MIN,
        (true | false, _) => 0,
    }
}
