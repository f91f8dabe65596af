//! Receiving a packet: it is opened, duplicates are dropped, and its frames take effect.

use alloc::vec::Vec;
use core::time::Duration;

use smallvec::SmallVec;

use super::{
    Event, Ignored, Link, Time,
    ack_tracker::CarriedRequests,
    incoming_messages::FragmentTaken,
    protection::{NUMBERS_MAX, Opened},
    queue::Item,
    reassembly::{Begun, Fragment},
    replies::Arrival,
    trace::{FrameList, Trace, trace},
};
use crate::wire::{
    AckFrame, CloseReason, EventId, Frame, Frames, LinkPacket, MessageId, Open, Protection,
    RequestId,
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
    has_only_requests: bool,
    requests: CarriedRequests,
}

impl Link {
    /// Handles the payload of an authentic handshake message. No frame takes effect if one of them
    /// is not allowed there (WIRE-9).
    pub fn handle_early(&mut self, now: Time, payload: &[u8]) -> Result<(), Ignored> {
        // The responder does not know yet that the initiator receives at its address.
        let is_called = ANSWERS && !self.is_proven();
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
        let outcome = self.receive(now, packet, datagram, opened);
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

    fn receive(
        &mut self,
        now: Time,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
        opened: &mut Vec<u8>,
    ) -> Result<(), Ignored> {
        let largest = self.acks.largest();
        let Opened { number, payload } = self.protection.open(packet, datagram, largest, opened)?;
        if !self.acks.packets().is_new(number) {
            return Err(Ignored::Replayed);
        }
        if number.0 >= NUMBERS_MAX {
            return Err(self.violate());
        }
        if packet.protection == Protection::Plain {
            self.validation.add_credit(datagram.len());
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
        trace(self.trace_id, || Trace::Received {
            number,
            bytes: datagram.len(),
            frames: FrameList(payload),
        });
        self.acks.record(now, number, self.recovery.rtt());
        if let Some(keepalive) = &mut self.keepalive {
            if contents.has_challenge {
                keepalive.moved();
            }
            keepalive.heard(now, self.queue.count(Item::Ping));
        }
        self.queue.heard(self.recovery.rtt());
        if contents.has_ping {
            if contents.requests.is_empty() {
                self.acks.owe_now(now);
            } else {
                // The reply may soon carry the acknowledgement.
                self.acks.owe(now, self.recovery.rtt());
            }
        }
        if contents.has_only_requests {
            self.acks.remember_requests(number, contents.requests);
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
            has_only_requests: true,
            requests: CarriedRequests::new(),
        };
        let mut begun = Begun::default();
        let longest = self.longest_message();
        for frame in Frames::of(payload) {
            let frame = frame.ok()?;
            match &frame {
                Frame::Padding => continue,
                Frame::Ping => contents.has_ping = true,
                Frame::PathChallenge(_) => contents.has_challenge = true,
                Frame::Request { number, .. } => contents.requests.push(*number),
                Frame::Fragment { .. } | Frame::Event { .. } | Frame::Reply { .. } => {
                    contents.has_only_requests = false;
                    contents.has_room &=
                        self.incoming
                            .has_room_for(&self.queue, &frame, &mut begun, longest);
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
        contents.has_room &= !ANSWERS
            || self
                .incoming
                .has_room_for_requests(&self.queue, &contents.requests);
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
            self.protection.end();
            self.events.push_back(Event::Closed(reason));
        }
        Ok(())
    }

    /// Closes the link, because the other side violates the protocol.
    fn violate(&mut self) -> Ignored {
        self.close(CloseReason::Violation);
        Ignored::Violation
    }

    fn handle_frame(&mut self, now: Time, frame: Frame<'_>, early: bool) -> Result<(), Ignored> {
        match frame {
            // The packet of a PING is acknowledged.
            Frame::Padding | Frame::Ping => {}
            Frame::Ack(ack) => self.handle_ack(now, &ack)?,
            Frame::Request { number, command } => {
                let arrival = self.incoming.request_arrived(&mut self.queue, number);
                self.handle_request(now, number, arrival, command, early);
            }
            Frame::Reply { number, answer } => self.handle_reply(now, number, answer),
            Frame::Fragment {
                message,
                total,
                offset,
                bytes,
            } => {
                let fragment = Fragment {
                    message,
                    total,
                    offset,
                    bytes,
                };
                self.handle_fragment(now, &fragment)?;
            }
            Frame::Event { number, event } => {
                self.acks.owe(now, self.recovery.rtt());
                self.handle_event(number, event);
            }
            Frame::PathChallenge(data) => self.validation.respond(&mut self.queue, data),
            Frame::PathResponse(data) => self.validation.response_arrived(&mut self.queue, data),
            Frame::Open(open) => {
                if self.opening.open_arrived(open) {
                    let Open { name, resumes, .. } = open;
                    let remote = name.map(|name| name.connection);
                    self.protection.set_remote(remote);
                    self.events.push_back(Event::Opened { name, resumes });
                }
            }
            Frame::Welcome(welcome) => {
                if self.opening.welcome_arrived(welcome) {
                    self.events.push_back(Event::Welcome(welcome));
                }
            }
            Frame::Update(update) => self.events.push_back(Event::Update(update)),
            // A CLOSE takes effect last.
            Frame::Close(_) => {}
        }
        Ok(())
    }

    fn handle_ack(&mut self, now: Time, ack: &AckFrame) -> Result<(), Ignored> {
        if ack.largest.0 >= self.protection.next_number() {
            return Err(self.violate());
        }
        let acknowledged = self.recovery.acknowledge(now, ack);
        if let Some(round_trip) = acknowledged.round_trip {
            self.measured(round_trip, Duration::from_millis(ack.delay_ms));
        }
        for packet in acknowledged.arrived {
            self.packet_arrived(now, packet);
        }
        for packet in acknowledged.lost {
            self.packet_lost(now, packet);
        }
        self.recovery.acknowledgement_handled(self.queue.timeouts());
        Ok(())
    }

    /// Handles a request, whose arrival has been recorded.
    fn handle_request(
        &mut self,
        now: Time,
        number: RequestId,
        arrival: Arrival,
        command: &[u8],
        early: bool,
    ) {
        match arrival {
            Arrival::New => {
                self.events.push_back(Event::Request {
                    number,
                    bytes: command.to_vec(),
                    early,
                });
            }
            Arrival::Known => {}
            Arrival::Refused => return,
        }
        if self.incoming.is_working() {
            self.acks.work_begins(now, self.recovery.rtt());
        }
    }

    fn handle_reply(&mut self, now: Time, number: RequestId, answer: &[u8]) {
        if !self.queue.awaits(number) {
            // No sent packet carries that request.
            return;
        }
        let once = self.queue.was_sent_once(number);
        let answered = self.recovery.answered(now, number);
        for packet in answered.lost {
            self.packet_lost(now, packet);
        }
        if let Some(round_trip) = answered.round_trip.filter(|_| once) {
            self.measured(round_trip, Duration::ZERO);
        }
        if self.queue.remove(Item::request(number)).is_some() {
            self.incoming.forget_reply(number);
            self.events.push_back(Event::Reply {
                number,
                bytes: answer.to_vec(),
            });
        }
    }

    /// Handles an event that the other side has pushed.
    fn handle_event(&mut self, id: EventId, event: &[u8]) {
        if self.opening.is_trusted() {
            for bytes in self.incoming.event_arrived(id, event) {
                self.events.push_back(Event::Pushed { bytes });
            }
        }
    }

    /// The longest message that is reassembled for the other side, in bytes. A stranger's message
    /// must fit a datagram. It came in fragments because the path is not known to carry that size,
    /// and it deserves an answer.
    fn longest_message(&self) -> usize {
        if self.opening.is_trusted() {
            self.incoming.max_message()
        } else {
            self.message_max()
        }
    }

    fn handle_fragment(&mut self, now: Time, fragment: &Fragment<'_>) -> Result<(), Ignored> {
        let limit = self.longest_message();
        let is_event = matches!(fragment.message, MessageId::Event(_));
        if is_event && self.opening.is_trusted() && fragment.total > limit as u64 {
            // An acknowledged event is never sent again, so it would be lost silently. An event has
            // no answer that could report the error.
            return Err(self.violate());
        }
        self.acks.owe_for_fragment(now, self.recovery.rtt());
        let taken = self
            .incoming
            .take_fragment(now, &mut self.queue, fragment, limit);
        let bytes = match taken {
            FragmentTaken::Needless => return Ok(()),
            FragmentTaken::Oversized(number) => {
                self.events.push_back(Event::Oversized { number, limit });
                return Ok(());
            }
            FragmentTaken::Partly => None,
            FragmentTaken::Whole(bytes) => Some(bytes),
        };
        if let MessageId::Reply(id) = fragment.message {
            // The rest of the reply arrives without another request.
            self.request_acknowledged(now, id);
        }
        let Some(bytes) = bytes else {
            return Ok(());
        };
        match fragment.message {
            MessageId::Request(id) => {
                let queue = &mut self.queue;
                let arrival = self.incoming.reassembled_request_arrived(queue, id);
                self.handle_request(now, id, arrival, &bytes, false);
            }
            MessageId::Reply(id) => self.handle_reply(now, id, &bytes),
            MessageId::Event(id) => self.handle_event(id, &bytes),
        }
        Ok(())
    }
}
