//! Resumption on the initiator.

use std::net::SocketAddr;

use crate::{
    crypto::same,
    endpoint::{
        Dropped, Endpoint, Event, LinkId, TICKET_SHOWN, Ticket, dial::Dial,
        limits::UNPROVEN_LIFETIME, link_table::Role, ticket::TicketState, trace_handshake,
    },
    link::Time,
    wire::{ConnectionId, OperationNumber, RESET_LEN, ResetToken, ResumeNonce, Welcome},
};

impl Endpoint {
    /// Resumes `link` with a ticket. Call it before anything of the link is transmitted.
    pub fn come_back(&mut self, link: LinkId, ticket: Ticket) {
        let max_datagram = self.config.max_datagram;
        if let Some(entry) = self.links.get_mut(link)
            && ticket.max_datagram == max_datagram
        {
            entry.resumption_mut().resume_with(ticket);
        }
    }

    /// Limits the use of the ticket of `link` to times before `until`.
    pub fn show_ticket_until(&mut self, link: LinkId, until: Time) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.resumption_mut().use_until(until);
        }
    }

    /// Keeps the ticket of a completed handshake.
    pub(in crate::endpoint) fn keep_ticket(&mut self, link: LinkId, welcome: &Welcome) {
        let (resumes, own) = (self.config.resumes, self.config.max_datagram);
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        let until = entry.opened() + TICKET_SHOWN;
        let ticket = entry
            .link
            .initiators_secret()
            .filter(|_| resumes && !entry.is_shared() && entry.role() == Role::Initiator)
            // A ticket of the realm's former key would be refused.
            .filter(|_| welcome.successor.is_none() && !welcome.is_final)
            .zip(entry.remote())
            .map(|(secret, id)| Ticket {
                id,
                token: welcome.token,
                secret,
                max_datagram: own,
                peer_max_datagram: entry.link.opening().peer_max_datagram(),
                until,
            });
        entry.resumption_mut().on_handshake(ticket);
    }

    /// Resumes a link again if it was resumed and has carried nothing since. By now the other side
    /// has forgotten it (HS-5), and a Reset of it is not believed at once (HS-19), so a request on
    /// it would be delayed.
    pub(in crate::endpoint) fn resume_if_forgotten(&mut self, now: Time, link: LinkId) {
        let is_forgotten = self.links.get(link).is_some_and(|entry| {
            entry.resumption().ticket_state() == TicketState::Used
                && entry.reset_token().is_none()
                && entry.stage().is_open()
                && !entry.link.is_waiting()
                && entry
                    .heard()
                    .is_some_and(|at| now - at >= UNPROVEN_LIFETIME)
        });
        if is_forgotten {
            self.dial_again(now, link);
        }
    }

    /// Handles a Resumed. One that belongs to no waiting link is ignored.
    pub(in crate::endpoint) fn handle_resumed(
        &mut self,
        now: Time,
        from: SocketAddr,
        nonce: &ResumeNonce,
        header: &[u8],
        sealed: &[u8],
    ) -> Result<(), Dropped> {
        let mut outcome = Err(Dropped::Unasked);
        let links: Vec<LinkId> = self.links.opened_to(from).collect();
        for id in links {
            let Some(entry) = self.links.get_mut(id) else {
                continue;
            };
            let Some((ticket, device)) = entry.stage().dial().and_then(Dial::resumption) else {
                continue;
            };
            let mut payload = sealed.to_vec();
            let key = ticket.secret.answer_key(device, nonce);
            let Ok(payload) = key.open(0, header, &mut payload) else {
                outcome = Err(Dropped::Forged);
                continue;
            };
            let Some((connection, frames)) = payload.split_first_chunk() else {
                continue;
            };
            let connection = ConnectionId(u32::from_be_bytes(*connection));
            let keys = ticket.secret.initiators_keys(device, nonce);
            let max_datagram = ticket.peer_max_datagram;
            entry.record_dial_answer(now);
            trace_handshake(
                id,
                false,
                ("resumed", header.len() + sealed.len()),
                Some(frames),
            );
            entry.on_resumed(now, connection, keys, max_datagram);
            if entry.link.handle_early(now, frames).is_err() {
                // A repeat with the same ticket would get the same answer.
                self.drop_refused_ticket(now, id);
                return Err(Dropped::Malformed);
            }
            let update = entry.link.take_update().unwrap_or_default();
            let welcome = Welcome {
                token: [0; 16],
                max_datagram: max_datagram as u64,
                known: true,
                highest: OperationNumber(0),
                successor: None,
                life: update.life,
                is_life_unknown: false,
                is_final: false,
            };
            entry.life_mut().learn(&welcome);
            if entry.link.awaits_early() || entry.link.is_kept_alive() {
                entry.link.ping();
            }
            self.events.push_back(Event::Opened {
                link: id,
                welcome,
                is_resumed: true,
            });
            self.touch(now, id);
            return Ok(());
        }
        outcome
    }

    /// Handles a Reset that refuses a ticket: a handshake begins at once. False if no
    /// link here waits.
    pub(in crate::endpoint) fn handle_reset_of_ticket(
        &mut self,
        now: Time,
        from: SocketAddr,
        connection: ConnectionId,
        token: &ResetToken,
    ) -> bool {
        let refused = self.links.opened_to(from).find(|id| {
            self.links.get(*id).is_some_and(|entry| {
                let Some(dial) = entry.stage().dial() else {
                    return false;
                };
                // A Reset that arrives sooner than an answer can belongs to the link before, whose
                // name may be the same.
                let rtt = entry.link.rtt();
                let is_stray = dial.is_unanswerable(now, rtt);
                !is_stray
                    && dial.resumption().is_some_and(|(ticket, _)| {
                        ticket.id == connection && same(&ticket.token, token)
                    })
            })
        });
        if let Some(id) = refused {
            trace_handshake(id, false, ("reset", RESET_LEN), None);
            self.drop_refused_ticket(now, id);
        }
        refused.is_some()
    }

    fn drop_refused_ticket(&mut self, now: Time, id: LinkId) {
        self.events.push_back(Event::TicketRefused { link: id });
        self.forget_ticket(now, id);
    }

    /// Drops the ticket of a link and begins a handshake.
    pub(in crate::endpoint) fn forget_ticket(&mut self, now: Time, id: LinkId) {
        if let Some(entry) = self.links.get_mut(id) {
            entry.resumption_mut().clear();
            self.dial_again(now, id);
        }
    }
}
