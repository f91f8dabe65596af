//! Passes tickets between an endpoint, which has those of its links, and the realm, which stores
//! them (HS-20).

use std::{net::IpAddr, sync::Arc};

use super::{completion::Completion, worker::Worker};
use crate::{
    endpoint::{IssuedTicket, Path, TicketFound},
    link::Time,
    realm::{FoundTicket, Returning},
    store::Store,
    wire::ConnectionId,
};

impl<S: Store> Worker<S> {
    /// Looks up the ticket of a device whose handshake the endpoint has forgotten.
    pub(super) fn look_ticket_up(&mut self, ticket: ConnectionId, path: Path, datagram: Vec<u8>) {
        let (realm, done, now) = (Arc::clone(&self.realm), self.done.clone(), self.clock.now());
        // The endpoint limits concurrent lookups. Anyone can cause a lookup, so it does not count
        // as a command in progress.
        tokio::spawn(async move {
            let found = realm.sessions.find_ticket(ticket, now).await;
            let _ = done.send(Completion::Ticket(path, datagram, found));
        });
    }

    /// Stores the ticket of a device that can resume its link later.
    pub(super) fn keep_ticket(&self, ticket: ConnectionId, opened: Time, issued: IssuedTicket) {
        let age = self.now() - opened;
        let (realm, now) = (Arc::clone(&self.realm), self.clock.now());
        let returning = Returning {
            device: issued.peer,
            own: issued.own,
            secret: issued.secret,
            max_datagram: u32::try_from(issued.max_datagram).unwrap_or(u32::MAX),
            place: issued.address,
        };
        tokio::spawn(async move {
            realm
                .sessions
                .keep_ticket(ticket, returning, age, now)
                .await;
        });
    }

    /// Stores the proven address of a device that has resumed.
    pub(super) fn note_place(&self, ticket: ConnectionId, place: IpAddr) {
        let realm = Arc::clone(&self.realm);
        tokio::spawn(async move {
            realm.sessions.note_place(ticket, place).await;
        });
    }

    /// Converts a stored ticket for the endpoint.
    pub(super) fn known_by(&self, found: FoundTicket) -> TicketFound {
        match found {
            FoundTicket::Good(found) => {
                let (returning, account) = *found;
                TicketFound::Good(IssuedTicket {
                    peer: returning.device,
                    own: returning.own,
                    secret: returning.secret,
                    max_datagram: usize::try_from(returning.max_datagram).unwrap_or(usize::MAX),
                    account: Some(self.account_id(&account)),
                    address: returning.place,
                })
            }
            FoundTicket::NotGood => TicketFound::NotGood,
            FoundTicket::Unreadable => TicketFound::Unknown,
        }
    }
}
