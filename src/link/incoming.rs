//! Incoming packets: a packet is decrypted, duplicates are dropped, and its frames take effect.

use alloc::vec::Vec;
use core::time::Duration;

use smallvec::SmallVec;

use super::{
    Asking, Event, Ignored, Item, Keys, Link, NUMBERS_MAX, Opening, ReceivedPackets, State, Time,
    limits::{ASKED_KEPT, ASKING_KEPT, WORKING_MAX},
    reassembly::Begun,
    replies::Arrival,
    rtt::DELAY_MAX,
    trace::{FrameList, Trace, trace},
};
use crate::wire::{
    AckFrame, CloseReason, Frame, Frames, LinkPacket, MessageId, Open, PacketNumber, Protection,
    RequestId, Welcome, crc_holds,
};

/// A client-only build answers no requests and omits the code for that.
const ANSWERS: bool = cfg!(feature = "server");

/// The frames of a packet, without padding. Most packets have few.
type Contained<'a> = SmallVec<[Frame<'a>; 8]>;

/// The summary of a packet before any of its frames takes effect.
struct Contents<'a> {
    frames: Contained<'a>,
    /// There is room for all messages that it begins, and for all its requests.
    has_room: bool,
    has_ping: bool,
    has_challenge: bool,
    /// Its only ack-eliciting frames are requests.
    only_asks: bool,
    requests: Asking,
}

impl Link {
    /// Handles the payload of an authentic handshake message. No frame takes effect if one of them
    /// is not allowed there (WIRE-9).
    pub fn handle_early(&mut self, now: Time, payload: &[u8]) -> Result<(), Ignored> {
        // The responder does not know yet that the initiator receives at its address.
        let is_called = ANSWERS && self.credit.is_some();
        let mut frames = Contained::new();
        for frame in Frames::of(payload) {
            let frame = frame.map_err(|_| Ignored::Violation)?;
            let may_travel = match frame {
                Frame::Padding => continue,
                Frame::Open(_) | Frame::Request { .. } => is_called,
                Frame::Welcome(_) | Frame::Reply { .. } | Frame::Update(_) => !is_called,
                Frame::Ping
                | Frame::Ack(_)
                | Frame::Fragment { .. }
                | Frame::Event { .. }
                | Frame::PathChallenge(_)
                | Frame::PathResponse(_)
                | Frame::Close(_) => false,
            };
            if !may_travel {
                return Err(Ignored::Violation);
            }
            frames.push(frame);
        }
        self.handle_frames(now, frames, true)
    }

    /// Handles a packet of this link. It is decrypted into `opened`, whose contents are
    /// overwritten.
    pub fn handle_packet(
        &mut self,
        now: Time,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
        opened: &mut Vec<u8>,
    ) -> Result<(), Ignored> {
        let outcome = self.take_packet(now, packet, datagram, opened);
        self.check();
        match outcome {
            Ok(()) => self.counters.received.add(datagram.len()),
            Err(reason) => {
                self.counters.dropped.add(reason);
                trace(self.trace_id, || Trace::Dropped {
                    bytes: datagram.len(),
                    reason: reason.name(),
                });
            }
        }
        outcome
    }

    fn take_packet(
        &mut self,
        now: Time,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
        opened: &mut Vec<u8>,
    ) -> Result<(), Ignored> {
        let State::Open(keys) = &self.state else {
            return Err(Ignored::NotOpen);
        };
        let number = packet.number(self.received.largest());
        opened.clear();
        opened.extend_from_slice(packet.body);
        let payload = match (keys, packet.protection) {
            (Keys::Sealed(keys), Protection::Sealed) => keys
                .open
                .open(number.0, packet.header, opened)
                .map_err(|_| Ignored::NotAuthentic)?,
            (Keys::Plain, Protection::Plain) if crc_holds(datagram) => opened
                .split_last_chunk::<4>()
                .map_or(&[][..], |(payload, _)| payload),
            _ => return Err(Ignored::NotAuthentic),
        };
        if !self.received.is_new(number) {
            return Err(Ignored::Replayed);
        }
        if number.0 >= NUMBERS_MAX {
            return Err(self.violate());
        }
        if packet.protection == Protection::Plain {
            self.add_credit(datagram.len());
        }
        let Some(contents) = self.look_through(payload) else {
            self.show_path();
            return Err(self.violate());
        };
        if !contents.has_room {
            // The packet counts as lost: the sender sends it again, and more slowly.
            return Err(Ignored::NoRoom);
        }
        self.show_path();
        trace(self.trace_id, || Trace::ReceivedPackets {
            number,
            bytes: datagram.len(),
            frames: FrameList(payload),
        });
        if self.received.record(now, number) {
            // A packet before this one is missing. The sender should learn that soon, with the next
            // packet.
            self.received.owe(ReceivedPackets::patience(now, &self.rtt));
        }
        if let Some(keepalive) = &mut self.keepalive {
            if contents.has_challenge {
                keepalive.moved();
            }
            let ping = self.queue.get(Item::Ping);
            let asked = ping.map_or(0, |ping| ping.attempts.count());
            keepalive.heard(now, asked);
        }
        self.queue.heard(&self.rtt);
        if contents.has_ping {
            // The reply may soon carry the acknowledgement.
            self.received.owe(if contents.requests.is_empty() {
                now
            } else {
                ReceivedPackets::patience(now, &self.rtt)
            });
        }
        if contents.only_asks {
            self.note_asking(number, contents.requests);
        }
        self.handle_frames(now, contents.frames, false)
    }

    /// Parses all frames of a packet before any takes effect (WIRE-9). Returns `None` if one is
    /// malformed.
    fn look_through<'a>(&self, payload: &'a [u8]) -> Option<Contents<'a>> {
        let mut contents = Contents {
            frames: Contained::new(),
            has_room: true,
            has_ping: false,
            has_challenge: false,
            only_asks: true,
            requests: Asking::new(),
        };
        let mut begun = Begun::default();
        for frame in Frames::of(payload) {
            let frame = frame.ok()?;
            match &frame {
                Frame::Padding => continue,
                Frame::Ping => contents.has_ping = true,
                Frame::PathChallenge(_) => contents.has_challenge = true,
                Frame::Request { number, .. } => contents.requests.push(*number),
                Frame::Fragment { .. } | Frame::Event { .. } | Frame::Reply { .. } => {
                    contents.only_asks = false;
                    contents.has_room &= self.has_room_for(&frame, &mut begun);
                }
                Frame::Ack(_)
                | Frame::PathResponse(_)
                | Frame::Close(_)
                | Frame::Open(_)
                | Frame::Welcome(_)
                | Frame::Update(_) => {}
            }
            contents.frames.push(frame);
        }
        // An acknowledgement of a refused request would say that it is in work (LINK-9).
        contents.has_room &= !ANSWERS || self.replies.has_room_for(&self.queue, &contents.requests);
        Some(contents)
    }

    /// Handles the frames of a packet. A CLOSE takes effect last, wherever it stands (LINK-22).
    fn handle_frames(
        &mut self,
        now: Time,
        frames: Contained<'_>,
        early: bool,
    ) -> Result<(), Ignored> {
        let mut close = None;
        for frame in frames {
            match frame {
                Frame::Close(reason) => close = close.or(Some(reason)),
                frame => self.handle_frame(now, frame, early)?,
            }
        }
        if let Some(reason) = close {
            self.state = State::Closed;
            self.events.push_back(Event::Closed(reason));
        }
        Ok(())
    }

    /// Remembers a packet whose only ack-eliciting frames are these requests.
    fn note_asking(&mut self, number: PacketNumber, mut requests: Asking) {
        // A sender that repeats all its requests in each packet names more than may wait for
        // replies. That packet is acknowledged.
        if requests.is_empty() || requests.len() > WORKING_MAX {
            return;
        }
        if self.asking.len() == ASKING_KEPT {
            self.asking.pop_front();
        }
        if requests.spilled() {
            requests.shrink_to_fit();
            let mut others: usize = self.asking.iter().map(|(_, other)| other.len()).sum();
            while others + requests.len() > ASKED_KEPT
                && let Some((_, oldest)) = self.asking.pop_front()
            {
                others -= oldest.len();
            }
        }
        self.asking.push_back((number, requests));
    }

    /// Memory of the packets remembered for their requests, in bytes.
    pub(super) fn asking_memory(&self) -> usize {
        let spilled = self
            .asking
            .iter()
            .filter(|(_, requests)| requests.spilled());
        let numbers: usize = spilled.map(|(_, requests)| requests.capacity()).sum();
        self.asking.len() * size_of::<(PacketNumber, Asking)>() + numbers * size_of::<RequestId>()
    }

    /// Ends the link, after the other side was told if possible.
    pub(super) fn has_closed(&mut self, reason: CloseReason) {
        self.state = State::Closed;
        if reason == CloseReason::Violation {
            // The opener of another link must wait (LINK-22).
            self.events.push_back(Event::Closed(reason));
        }
    }

    pub(super) fn violate(&mut self) -> Ignored {
        self.close(CloseReason::Violation);
        Ignored::Violation
    }

    fn handle_frame(&mut self, now: Time, frame: Frame<'_>, early: bool) -> Result<(), Ignored> {
        match frame {
            // The packet of a PING is acknowledged.
            Frame::Padding | Frame::Ping => {}
            Frame::Ack(ack) => self.handle_ack(now, &ack)?,
            Frame::Request { number, command } => {
                self.handle_request(now, number, command, early);
            }
            Frame::Reply { number, answer } => self.handle_reply(now, number, answer),
            Frame::Fragment {
                message,
                total,
                offset,
                bytes,
            } => self.handle_part(now, message, total, offset, bytes)?,
            Frame::Event { number, event } => {
                self.received.owe(ReceivedPackets::patience(now, &self.rtt));
                self.handle_event(number, event);
            }
            Frame::PathChallenge(data) => {
                self.controls.response = Some(data);
                self.queue.control(Item::Response);
            }
            Frame::PathResponse(data) => {
                if self.controls.is_answered_by(&data) {
                    self.path_proven();
                }
            }
            Frame::Open(open) => self.handle_open(open),
            Frame::Welcome(welcome) => self.handle_welcome(welcome),
            Frame::Update(update) => self.events.push_back(Event::Update(update)),
            // A CLOSE takes effect last.
            Frame::Close(_) => {}
        }
        Ok(())
    }

    fn handle_ack(&mut self, now: Time, ack: &AckFrame) -> Result<(), Ignored> {
        if ack.largest.0 >= self.next_number {
            return Err(self.violate());
        }
        let told = self.sent.acknowledge(now, ack, &self.rtt);
        // A long-delayed acknowledgement, whose first copy was lost, does not measure the path.
        let delay = Duration::from_millis(ack.delay_ms);
        if let Some(round_trip) = told.round_trip.filter(|_| delay <= DELAY_MAX) {
            self.measured(round_trip, delay);
        }
        for packet in told.arrived {
            self.path.arrived(packet.len);
            if let Some(stamp) = packet.stamp {
                self.pace.arrived(now, stamp, packet.at, packet.len);
            }
            for item in packet.items {
                self.carried_arrived(now, item);
            }
        }
        for packet in told.lost {
            self.packet_lost(now, packet);
        }
        let wait = self.paced_wait();
        self.paced_due = self.sent.last_bulk().map(|at| at + wait);
        Ok(())
    }

    pub(super) fn handle_request(
        &mut self,
        now: Time,
        number: RequestId,
        command: &[u8],
        early: bool,
    ) -> Arrival {
        let arrival = self.replies.arrive(&mut self.queue, number);
        match arrival {
            Arrival::New => {
                self.events.push_back(Event::Request {
                    number,
                    bytes: command.to_vec(),
                    early,
                });
            }
            Arrival::Known => {}
            Arrival::Refused => return arrival,
        }
        if self.replies.is_working() && self.work_due.is_none() {
            self.work_due = Some(ReceivedPackets::patience(now, &self.rtt));
        }
        arrival
    }

    pub(super) fn handle_reply(&mut self, now: Time, number: RequestId, answer: &[u8]) {
        if !self.queue.awaits(number) {
            // No sent packet carries that request.
            return;
        }
        let once = self.queue.was_sent_once(number);
        let (round_trip, lost) = self.sent.answered(now, number, &self.rtt);
        for packet in lost {
            self.packet_lost(now, packet);
        }
        if let Some(round_trip) = round_trip.filter(|_| once) {
            self.measured(round_trip, Duration::ZERO);
        }
        if self.queue.remove(Item::request(number)).is_some() {
            self.assemblies.forget(MessageId::Reply(number));
            self.events.push_back(Event::Reply {
                number,
                bytes: answer.to_vec(),
            });
        }
    }

    fn handle_open(&mut self, open: Open) {
        match self.opening {
            Opening::Unheard => {
                self.opening = Opening::Asked;
                self.peer_max_datagram = usize::try_from(open.max_datagram).unwrap_or(usize::MAX);
                self.remote = open.name.map(|name| name.connection);
                let Open { name, resumes, .. } = open;
                self.events.push_back(Event::Opened { name, resumes });
            }
            Opening::Given(welcome) => self.controls.welcome = Some(welcome),
            Opening::Asked | Opening::Welcomed => {}
        }
    }

    fn handle_welcome(&mut self, welcome: Welcome) {
        if self.opening == Opening::Unheard {
            self.opening = Opening::Welcomed;
            self.controls.open = None;
            self.peer_max_datagram = usize::try_from(welcome.max_datagram).unwrap_or(usize::MAX);
            self.events.push_back(Event::Welcome(welcome));
        }
    }
}
