//! Resumption on the initiator.

use super::{Resumption, TICKET_SHOWN, Ticket, TicketState};
use crate::{
    crypto::same,
    endpoint::{
        Dropped, Endpoint, Event, LinkId, Path,
        limits::UNPROVEN_LIFETIME,
        link_entry::{Role, Stage},
    },
    link::{Exchange, Time},
    wire::{ConnectionId, OperationNumber, RESET_LEN, ResetToken, ResumeNonce, Welcome},
};

impl Endpoint {
    /// Resumes `link` with a ticket. Call it before anything of the link is transmitted.
    pub fn come_back(&mut self, link: LinkId, ticket: Ticket) {
        let max_datagram = self.config.max_datagram;
        if let Some(slot) = self.slots.get_mut(&link)
            && ticket.max_datagrams.0 == max_datagram
        {
            slot.resumption = Some(Box::new(Resumption::Ticket(ticket)));
        }
    }

    /// Limits the use of the ticket of `link` to times before `until`.
    pub fn show_ticket_until(&mut self, link: LinkId, until: Time) {
        let slot = self.slots.get_mut(&link);
        let resumption = slot.and_then(|slot| slot.resumption.as_deref_mut());
        if let Some(Resumption::Ticket(ticket)) = resumption {
            ticket.until = ticket.until.min(until);
        }
    }

    /// Returns the ticket for the other side of `link`; `None` if there is none, or if it was
    /// refused.
    pub fn ticket(&self, link: LinkId) -> Option<&Ticket> {
        self.slots.get(&link)?.ticket()
    }

    /// Keeps the ticket of a completed handshake.
    pub(in crate::endpoint) fn keep_ticket(&mut self, link: LinkId, welcome: &Welcome) {
        let (resumes, own) = (self.config.resumes, self.config.max_datagram);
        let Some(slot) = self.slots.get_mut(&link) else {
            return;
        };
        slot.ticket_state = TicketState::Unwanted;
        let until = slot.opened + TICKET_SHOWN;
        slot.resumption = slot
            .link
            .initiators_secret()
            .filter(|_| resumes && !slot.is_shared && slot.role == Role::Initiator)
            // A ticket of the realm's former key would be refused.
            .filter(|_| welcome.successor.is_none() && !welcome.is_final)
            .zip(slot.remote)
            .map(|(secret, id)| {
                let max_datagrams = (own, slot.link.opening().peer_max_datagram());
                Box::new(Resumption::Ticket(Ticket {
                    id,
                    token: welcome.token,
                    secret,
                    max_datagrams,
                    until,
                }))
            });
    }

    /// Resumes a link again if it was resumed and has carried nothing since. By now the other side
    /// has forgotten it (HS-5), and a Reset of it is not believed at once (HS-19), so a request on
    /// it would be delayed.
    pub(in crate::endpoint) fn come_back_again(&mut self, now: Time, link: LinkId) {
        let is_forgotten = self.slots.get(&link).is_some_and(|slot| {
            slot.ticket_state == TicketState::Used
                && slot.token.is_none()
                && matches!(slot.stage, Stage::Open)
                && !slot.link.is_waiting()
                && slot.heard.is_some_and(|at| now - at >= UNPROVEN_LIFETIME)
        });
        if is_forgotten {
            self.dial_again(now, link);
        }
    }

    /// True if `link` was resumed or is about to be: its contents have no forward secrecy (HS-19).
    pub fn is_resumed(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| match &slot.stage {
            Stage::Calling => slot.ticket().is_some(),
            Stage::Dialing(dial) => dial.resumption().is_some(),
            Stage::Accepting(_) | Stage::Open => {
                slot.resumed().is_some() || slot.ticket_state == TicketState::Used
            }
        })
    }

    /// Handles a Resumed. One that belongs to no waiting link is ignored.
    pub(in crate::endpoint) fn handle_resumed(
        &mut self,
        now: Time,
        path: Path,
        nonce: &ResumeNonce,
        header: &[u8],
        sealed: &[u8],
    ) -> Result<(), Dropped> {
        let mut outcome = Err(Dropped::Unasked);
        let links: Vec<LinkId> = self.opened_to(path.remote).collect();
        for id in links {
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            let Stage::Dialing(dial) = &slot.stage else {
                continue;
            };
            let Some((ticket, device)) = dial.resumption() else {
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
            let max_datagram = ticket.max_datagrams.1;
            let lost = dial.lost(now, slot.link.rtt());
            slot.link.note_exchange(Exchange {
                lost,
                was_repeated: dial.sent().0 > 1,
            });
            if let Some(round_trip) = dial.round_trip(now) {
                slot.link.sample(round_trip);
            }
            Self::trace_handshake(
                id,
                false,
                ("resumed", header.len() + sealed.len()),
                Some(frames),
            );
            slot.stage = Stage::Open;
            slot.ticket_state = TicketState::Used;
            // The first UPDATE carries the new token.
            slot.token = None;
            slot.heard = Some(now);
            slot.remote = Some(connection);
            slot.link.establish(keys, Some(connection));
            slot.link.opening_mut().resumption_accepted(max_datagram);
            slot.link.early_arrived(now);
            if slot.link.handle_early(now, frames).is_err() {
                // A repeat with the same ticket would get the same answer.
                self.ticket_is_refused(now, id);
                return Err(Dropped::Malformed);
            }
            let update = slot.link.take_update().unwrap_or_default();
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
            slot.learn_life(&welcome);
            if slot.link.awaits_early() || slot.link.is_kept_alive() {
                slot.link.ping();
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

    /// Handles a Reset that refuses a ticket: a handshake begins at once. True if it belongs to a
    /// link that waits.
    pub(in crate::endpoint) fn ticket_refused(
        &mut self,
        now: Time,
        path: Path,
        connection: ConnectionId,
        token: &ResetToken,
    ) -> bool {
        let refused = self.opened_to(path.remote).find(|id| {
            self.slots.get(id).is_some_and(|slot| {
                let Stage::Dialing(dial) = &slot.stage else {
                    return false;
                };
                // A Reset that arrives sooner than an answer can belongs to the link before, whose
                // name may be the same.
                let rtt = slot.link.rtt();
                let is_stray = dial.is_unanswerable(now, rtt);
                !is_stray
                    && dial.resumption().is_some_and(|(ticket, _)| {
                        ticket.id == connection && same(&ticket.token, token)
                    })
            })
        });
        if let Some(id) = refused {
            Self::trace_handshake(id, false, ("reset", RESET_LEN), None);
            self.ticket_is_refused(now, id);
        }
        refused.is_some()
    }

    fn ticket_is_refused(&mut self, now: Time, id: LinkId) {
        self.events.push_back(Event::TicketRefused { link: id });
        self.forget_ticket(now, id);
    }

    /// Drops the ticket of a link and begins a handshake.
    pub(in crate::endpoint) fn forget_ticket(&mut self, now: Time, id: LinkId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.resumption = None;
            self.dial_again(now, id);
        }
    }
}
