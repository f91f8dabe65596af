//! Passes the events of links on as events of the endpoint.

use super::{Endpoint, Event, LinkId, SERVES, link_entry::Role, resume::TicketState};
use crate::{
    link::{self, Time},
    wire::CloseReason,
};

impl Endpoint {
    /// Passes on the events of one link.
    pub(super) fn tell(&mut self, now: Time, id: LinkId) {
        self.settle_path(now, id);
        while let Some(event) = self
            .slots
            .get_mut(&id)
            .and_then(|slot| slot.link.poll_event())
        {
            self.pass_on(now, id, event);
        }
        if self
            .slots
            .get(&id)
            .is_some_and(|slot| slot.link.is_closed())
        {
            self.end(id, None);
        }
    }

    fn pass_on(&mut self, now: Time, link: LinkId, event: link::Event) {
        let Some(slot) = self.slots.get_mut(&link) else {
            return;
        };
        let event = match event {
            link::Event::Opened { name, resumes } => {
                // A resumed link has no more forward secrecy than early data.
                if resumes && self.config.early_data {
                    slot.ticket_state = TicketState::Wanted;
                }
                let claim = slot.life_claim(name.as_ref());
                if let Some(name) = name.filter(|_| slot.peer.is_some()) {
                    slot.remote = Some(name.connection);
                    slot.token = Some(name.token);
                    self.by_name
                        .insert((slot.path.remote, name.connection), link);
                }
                Event::Incoming {
                    link,
                    peer: slot.peer,
                    address: slot.path.remote,
                    claim,
                }
            }
            link::Event::Welcome(welcome) => {
                slot.token = Some(welcome.token);
                slot.learn_life(&welcome);
                self.keep_ticket(link, &welcome);
                let is_resumed = false;
                self.events.push_back(Event::Opened {
                    link,
                    welcome,
                    is_resumed,
                });
                self.renewed(now, link);
                return;
            }
            link::Event::Update(update) => {
                let Some((token, highest)) = update.standing else {
                    return;
                };
                slot.token = Some(token);
                Event::Standing { link, highest }
            }
            link::Event::Request {
                number,
                bytes,
                early,
            } if SERVES
                && (slot.waits_for_proof(early && self.config.early_data)
                    || slot.waits_for_welcome()) =>
            {
                slot.held.push((number, bytes));
                return;
            }
            link::Event::Request {
                number,
                bytes,
                early,
            } => Event::Request {
                link,
                number,
                bytes,
                early,
            },
            link::Event::Reply { number, bytes } => Event::Reply {
                link,
                number,
                bytes,
            },
            link::Event::Pushed { bytes } => Event::Pushed { link, bytes },
            link::Event::Delivered { number } => Event::Delivered { link, number },
            link::Event::Expired { number } => Event::Expired {
                link,
                number,
                heard: slot.heard.is_some(),
            },
            link::Event::Oversized { number, limit } => Event::Oversized {
                link,
                number,
                limit,
            },
            link::Event::Closed(reason) => {
                let comes_again = matches!(reason, CloseReason::Shutdown | CloseReason::Replaced);
                if slot.role == Role::Initiator && slot.link.is_waiting() && comes_again {
                    self.dial_again(now, link);
                } else {
                    if reason == CloseReason::Replaced
                        && let Some(other) = self.other_link(link)
                    {
                        self.move_requests(now, link, other);
                    }
                    self.end(link, Some(reason));
                }
                return;
            }
        };
        self.events.push_back(event);
    }
}
