//! Outgoing datagrams: the order of links, and the packets of the handshake.

use super::{
    Endpoint, LinkId, Path, SERVES,
    dial::{Dial, LAST_RESUME_TIMEOUTS},
    limits::{ANSWERS_MAX, DIALS_ONCE, DIALS_ONCE_PATIENCE},
    link_entry::{Answering, Stage},
    resume::{RESUMED_AROUND, TicketState},
};
use crate::{
    crypto::MESSAGE_2_OVERHEAD,
    link::{
        BEGINNING, Time,
        trace::{Trace, TraceId, trace, trace_answer},
    },
    wire::{ACCEPT_HEADER, CloseReason, Packet},
};

/// Length of the connection id at the start of an Accept's payload, in bytes.
pub(super) const CONNECTION_LEN: usize = 4;

impl Endpoint {
    /// Writes the next datagram into `out` and returns its path. `None` if there is none.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Path> {
        let path = self.next_datagram(now, out)?;
        self.stats.sent.add(out.len());
        Some(path)
    }

    /// Queues a stateless answer to a datagram. When the queue is full the answer is dropped, and
    /// the sender asks again.
    pub(super) fn answer(&mut self, path: Path, datagram: Vec<u8>) {
        if self.outbox.len() < ANSWERS_MAX {
            self.outbox.push_back((path, datagram));
        }
    }

    /// Writes the next datagram into `out`. Alternates between answers to strangers and links, so
    /// that links send however many answers wait.
    fn next_datagram(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Path> {
        if !core::mem::replace(&mut self.has_answered, false)
            && let Some(path) = self.next_answer(out)
        {
            self.has_answered = true;
            return Some(path);
        }
        self.next_of_links(now, out)
            .or_else(|| self.next_answer(out))
    }

    fn next_answer(&mut self, out: &mut Vec<u8>) -> Option<Path> {
        let (path, datagram) = self.outbox.pop_front()?;
        out.clear();
        out.extend_from_slice(&datagram);
        trace_answer(&path.remote, out);
        Some(path)
    }

    fn next_of_links(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Path> {
        for asking in &mut self.asking {
            if let Some((address, datagram)) = asking.ask(now, &mut self.jitter) {
                *out = datagram;
                trace_answer(&address, out);
                return Some(address.into());
            }
        }
        while let Some(id) = self.schedule.next_ready() {
            let path = self.slots.get(&id).map(|slot| slot.path);
            if self.transmit(now, id, out) {
                self.touch(now, id);
                return path;
            }
            self.settle(now, id);
        }
        self.check();
        None
    }

    /// Writes the next datagram of one link into `out`. False if there is none.
    fn transmit(&mut self, now: Time, id: LinkId, out: &mut Vec<u8>) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        if matches!(slot.stage, Stage::Calling)
            && let Some(realm) = &slot.peer
        {
            let max = slot.link.path_size();
            let Some(own) = self.keys.get(usize::from(slot.own)) else {
                return false;
            };
            if self.config.resumes && !slot.is_shared {
                slot.link.opening_mut().ask_for_ticket();
            }
            if slot.ticket().is_some_and(|ticket| ticket.until <= now) {
                slot.resumption = None;
            }
            let ticket = slot.ticket().cloned();
            let link = (&mut *slot.link, slot.life);
            let dial = match ticket {
                Some(ticket) => Ok(Dial::resume(now, &mut self.rng, ticket, link, max)),
                None => Dial::begin(now, &mut self.rng, &own.secret, realm, link, max),
            };
            match dial {
                Ok(dial) => slot.stage = Stage::Dialing(Box::new(dial)),
                // The realm's key is not a point on the curve, so no secret key belongs to it.
                Err(_) => slot.link.close(CloseReason::Violation),
            }
        }
        if SERVES && slot.accept_is_due(now) {
            return self.accept(now, id, out);
        }
        if slot.is_dialled_out() {
            return false;
        }
        if let Stage::Dialing(dial) = &slot.stage
            && dial.is_in_vain(now)
        {
            if dial.sent().1 > BEGINNING {
                slot.link.forget_path_size();
            }
            self.forget_ticket(now, id);
            return self.transmit(now, id, out);
        }
        match &mut slot.stage {
            Stage::Dialing(dial) => {
                let (repeats, bytes) = dial.sent();
                let mut wait = slot.link.repeat_after(now, repeats, bytes);
                // The address is only tried and not verified: it gets no redundant copies
                // (LINK-19).
                let copy = slot.link.copy_after().filter(|_| !slot.is_once);
                if cfg!(feature = "server") && slot.is_once && repeats + 1 >= DIALS_ONCE {
                    // This was the last try. Its answer may take a long round trip.
                    wait = wait.max(DIALS_ONCE_PATIENCE);
                }
                if dial.is_last_resume() {
                    wait = wait.max(slot.link.timeout() * LAST_RESUME_TIMEOUTS);
                }
                let sends = dial.transmit(now, wait, copy, out);
                if repeats > 0 && dial.sent().0 > repeats {
                    slot.link.note_opened_again();
                }
                if sends {
                    let is_resumption = dial.resumption().is_some();
                    let packet = if is_resumption { "resume" } else { "init" };
                    trace(TraceId::new(id.0), || Trace::Handshake {
                        is_sent: true,
                        packet,
                        bytes: out.len(),
                        frames: None,
                        again: Some(wait),
                    });
                }
                sends
            }
            Stage::Open => {
                let sends = slot.link.poll_transmit(now, out);
                if sends && slot.wants_renewal(now, self.config.lifetime) {
                    self.renew(now, id);
                }
                sends
            }
            Stage::Calling | Stage::Accepting(_) => false,
        }
    }

    /// Sends the answer that completes a handshake of the other side.
    fn accept(&mut self, now: Time, id: LinkId, out: &mut Vec<u8>) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        let Stage::Accepting(accepting) = core::mem::replace(&mut slot.stage, Stage::Open) else {
            return false;
        };
        // WIRE-11: a stranger gets no more bytes than it sent.
        let room = self.config.max_datagram.min(accepting.room);
        // LINK-15: the path has carried the first packet. Beyond that, only the known path size is
        // assumed.
        let carried = slot.link.path_size().max(accepting.brought);
        let room = room.min(carried);
        let around = match &accepting.answering {
            Answering::Accept(..) => ACCEPT_HEADER + MESSAGE_2_OVERHEAD + CONNECTION_LEN,
            Answering::Resumed(..) => RESUMED_AROUND,
        };
        let frames = slot.link.accept_payload(now, room.saturating_sub(around));
        let (packet, keys) = match accepting.answering {
            Answering::Accept(responder, handshake) => {
                // The connection id is in the sealed payload, where it cannot be changed in transit
                // (HS-2).
                let payload = [&id.0.to_be_bytes(), frames.as_slice()].concat();
                let finished = responder.finish(&payload).map(|(keys, noise)| {
                    out.clear();
                    Packet::emit_accept(handshake, &noise, out);
                    self.stats.answers.accepts += 1;
                    keys
                });
                ("accept", finished)
            }
            Answering::Resumed(secret, nonce) => {
                self.stats.answers.resumed += 1;
                let keys = self.resumed_answer(id, &frames, &secret, &nonce, out);
                ("resumed", Ok(keys))
            }
        };
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        let Ok(keys) = keys else {
            slot.link.close(CloseReason::Violation);
            return false;
        };
        slot.link.establish(keys, None);
        slot.accepted = Some(now);
        debug_assert!(
            out.len() <= accepting.room,
            "an answer is longer than it may be (WIRE-11)"
        );
        slot.link
            .add_credit(accepting.room.saturating_sub(out.len()));
        self.accepts.answer(&accepting.init, out.clone());
        Self::trace_handshake(id, true, (packet, out.len()), Some(&frames));
        if slot.ticket_state == TicketState::Genuine {
            self.ticket_is_genuine(id);
        }
        true
    }
}
