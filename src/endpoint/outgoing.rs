//! Outgoing datagrams: the order of links, and the packets of the handshake.

use super::{
    ACCEPTS_LINKS, Endpoint, LinkId, Path,
    dial::Dial,
    link_table::{Answering, LinkEntry, Stage},
    resume::RESUMED_AROUND,
    ticket::TicketState,
    trace_handshake,
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
        let path = self
            .outbox
            .poll_in_turn(out)
            .or_else(|| self.poll_transmit_links(now, out))
            .or_else(|| self.outbox.poll(out))?;
        self.stats.sent.add(out.len());
        Some(path)
    }

    /// Writes the next Hello or datagram of a link into `out`.
    fn poll_transmit_links(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Path> {
        if let Some(address) = self.hellos.poll_transmit(now, out) {
            trace_answer(&address, out);
            return Some(address.into());
        }
        while let Some(id) = self.schedule.next_ready() {
            let path = self.links.get(id).map(LinkEntry::path);
            if self.transmit(now, id, out) {
                self.touch(now, id);
                return path;
            }
            self.set_timer(now, id);
        }
        self.check();
        None
    }

    /// Writes the next datagram of one link into `out`. False if there is none.
    fn transmit(&mut self, now: Time, id: LinkId, out: &mut Vec<u8>) -> bool {
        let Some(entry) = self.links.get_mut(id) else {
            return false;
        };
        if matches!(entry.stage(), Stage::Calling)
            && let Some(realm) = entry.peer()
        {
            let max = entry.link.path_size();
            let Some(own) = self.keys.get(entry.own()) else {
                return false;
            };
            if self.config.resumes && !entry.is_shared() {
                entry.link.opening_mut().ask_for_ticket();
            }
            entry.resumption_mut().expire(now);
            let ticket = entry.resumption().ticket().cloned();
            let life = entry.life().current();
            let link = (&mut *entry.link, life);
            let dial = match ticket {
                Some(ticket) => Ok(Dial::resume(now, &mut self.rng, ticket, link, max)),
                None => Dial::begin(now, &mut self.rng, &own.secret, &realm, link, max),
            };
            match dial {
                Ok(dial) => entry.begin_dial(dial),
                // The realm's key is not a point on the curve, so no secret key belongs to it.
                Err(_) => entry.link.close(CloseReason::Violation),
            }
        }
        if ACCEPTS_LINKS && entry.accept_is_due(now) {
            return self.accept(now, id, out);
        }
        if entry.is_dialed_out() {
            return false;
        }
        if let Some(dial) = entry.stage().dial()
            && dial.is_in_vain(now)
        {
            if dial.sent().1 > BEGINNING {
                entry.link.forget_path_size();
            }
            self.forget_ticket(now, id);
            return self.transmit(now, id, out);
        }
        match entry.stage() {
            Stage::Dialing(dial) => {
                let packet = if dial.resumption().is_some() {
                    "resume"
                } else {
                    "init"
                };
                let Some(wait) = entry.transmit_dial(now, out) else {
                    return false;
                };
                trace(TraceId::new(id.0), || Trace::Handshake {
                    is_sent: true,
                    packet,
                    bytes: out.len(),
                    frames: None,
                    again: Some(wait),
                });
                true
            }
            Stage::Open => {
                let sends = entry.link.poll_transmit(now, out);
                if sends && entry.wants_rekey(now, self.config.lifetime) {
                    self.begin_rekey(now, id);
                }
                sends
            }
            Stage::Calling | Stage::Accepting(_) => false,
        }
    }

    /// Sends the answer that completes a handshake of the other side.
    fn accept(&mut self, now: Time, id: LinkId, out: &mut Vec<u8>) -> bool {
        let Some(entry) = self.links.get_mut(id) else {
            return false;
        };
        let Some(accepting) = entry.take_accepting() else {
            return false;
        };
        // WIRE-11: a stranger gets no more bytes than it sent.
        let limit = self.config.max_datagram.min(accepting.answer_limit);
        // LINK-15: the path has carried the first packet. Beyond that, only the known path size is
        // assumed.
        let carried = entry.link.path_size().max(accepting.brought);
        let limit = limit.min(carried);
        let around = match &accepting.answering {
            Answering::Accept(..) => ACCEPT_HEADER + MESSAGE_2_OVERHEAD + CONNECTION_LEN,
            Answering::Resumed(..) => RESUMED_AROUND,
        };
        let frames = entry.link.accept_payload(now, limit.saturating_sub(around));
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
        let Some(entry) = self.links.get_mut(id) else {
            return false;
        };
        let Ok(keys) = keys else {
            entry.link.close(CloseReason::Violation);
            return false;
        };
        entry.on_accept_sent(now, keys);
        debug_assert!(
            out.len() <= accepting.answer_limit,
            "an answer is longer than it may be (WIRE-11)"
        );
        entry
            .link
            .add_credit(accepting.answer_limit.saturating_sub(out.len()));
        self.accept_cache.answer(&accepting.init, out.clone());
        trace_handshake(id, true, (packet, out.len()), Some(&frames));
        if entry.resumption().ticket_state() == TicketState::Genuine {
            self.ticket_is_genuine(id);
        }
        true
    }
}
