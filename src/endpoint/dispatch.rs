//! Passes the events of links on as events of the endpoint.

use super::{ACCEPTS_LINKS, Endpoint, Event, IncomingRequest, LinkId, link_table::Role};
use crate::{
    link::{self, Time},
    wire::CloseReason,
};

impl Endpoint {
    /// Passes on the events of one link.
    pub(super) fn pass_on_events(&mut self, now: Time, id: LinkId) {
        self.finish_migration(now, id);
        while let Some(event) = self
            .links
            .get_mut(id)
            .and_then(|entry| entry.link.poll_event())
        {
            self.pass_on_event(now, id, event);
        }
        if self
            .links
            .get(id)
            .is_some_and(|entry| entry.link.is_closed())
        {
            self.end(id, None);
        }
    }

    fn pass_on_event(&mut self, now: Time, link: LinkId, event: link::Event) {
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        let event = match event {
            link::Event::Opened { name, resumes } => {
                // A resumed link has no more forward secrecy than early data.
                if resumes && self.config.early_data {
                    entry.resumption_mut().on_ticket_wanted();
                }
                let claim = entry.stage().life_claim(name.as_ref());
                let (peer, address) = (entry.peer(), entry.path().remote);
                if let Some(name) = name.filter(|_| peer.is_some()) {
                    entry.set_reset_token(name.token);
                    self.links.set_name(link, name.connection);
                }
                Event::Incoming {
                    link,
                    peer,
                    address,
                    claim,
                }
            }
            link::Event::Welcome(welcome) => {
                entry.on_welcomed(&welcome);
                self.keep_ticket(link, &welcome);
                self.events.push_back(Event::Opened {
                    link,
                    welcome,
                    is_resumed: false,
                });
                self.finish_rekey(now, link);
                return;
            }
            link::Event::Update(update) => {
                let Some((token, highest)) = update.standing else {
                    return;
                };
                entry.set_reset_token(token);
                Event::HighestOperation { link, highest }
            }
            link::Event::Request {
                number,
                bytes,
                early,
            } if ACCEPTS_LINKS
                && (entry.waits_for_proof(early && self.config.early_data)
                    || entry.resumption().waits_for_welcome()) =>
            {
                entry.hold(IncomingRequest { number, bytes });
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
                heard: entry.heard().is_some(),
            },
            link::Event::Oversized { number, limit } => Event::Oversized {
                link,
                number,
                limit,
            },
            link::Event::Closed(reason) => {
                let comes_again = matches!(reason, CloseReason::Shutdown | CloseReason::Replaced);
                if entry.role() == Role::Initiator && entry.link.is_waiting() && comes_again {
                    self.dial_again(now, link);
                } else {
                    if reason == CloseReason::Replaced
                        && let Some(other) = self.links.other_than(link)
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
