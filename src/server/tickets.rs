//! Passes tickets between an endpoint, which has those of its links, and the realm, which stores
//! them (HS-20).

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{clock::Clock, completion::Completion};
use crate::{
    endpoint::{AccountId, IssuedTicket, Path, TicketFound},
    realm::{Account, FoundTicket, Realm, Returning},
    store::Store,
    wire::ConnectionId,
};

/// The stored tickets of one worker's links.
pub struct Tickets<S> {
    realm: Arc<Realm<S>>,
    clock: Clock,
    completions: mpsc::UnboundedSender<Completion<S>>,
}

impl<S: Store> Tickets<S> {
    pub fn new(
        realm: &Arc<Realm<S>>,
        clock: &Clock,
        completions: mpsc::UnboundedSender<Completion<S>>,
    ) -> Self {
        Self {
            realm: Arc::clone(realm),
            clock: clock.clone(),
            completions,
        }
    }

    /// Looks up the ticket of a device whose handshake the endpoint has forgotten.
    pub fn look_up(&self, ticket: ConnectionId, path: Path, datagram: Vec<u8>) {
        let (realm, completions) = (Arc::clone(&self.realm), self.completions.clone());
        let now = self.clock.now();
        // The endpoint limits concurrent lookups. Anyone can cause a lookup, so it does not count
        // as a command in progress.
        tokio::spawn(async move {
            let found = realm.tickets.find(ticket, now).await;
            let _ = completions.send(Completion::Ticket(path, datagram, found));
        });
    }

    /// Stores the ticket, of that age, of a device that can resume its link later.
    pub fn store(&self, ticket: ConnectionId, age: Duration, issued: IssuedTicket) {
        let (realm, now) = (Arc::clone(&self.realm), self.clock.now());
        let returning = Returning {
            device: issued.peer,
            own: issued.own,
            secret: issued.secret,
            max_datagram: u32::try_from(issued.max_datagram).unwrap_or(u32::MAX),
            place: issued.address,
        };
        tokio::spawn(async move {
            realm.tickets.keep(ticket, returning, age, now).await;
        });
    }

    /// Stores the proven address of a device that has resumed.
    pub fn store_address(&self, ticket: ConnectionId, address: IpAddr) {
        let realm = Arc::clone(&self.realm);
        tokio::spawn(async move {
            realm.tickets.note_place(ticket, address).await;
        });
    }
}

/// Converts a stored ticket for the endpoint, which knows accounts by their ids.
pub fn for_endpoint(
    found: FoundTicket,
    account_id: impl FnOnce(&Account) -> AccountId,
) -> TicketFound {
    match found {
        FoundTicket::Good(found) => {
            let (returning, account) = *found;
            TicketFound::Good(IssuedTicket {
                peer: returning.device,
                own: returning.own,
                secret: returning.secret,
                max_datagram: usize::try_from(returning.max_datagram).unwrap_or(usize::MAX),
                account: Some(account_id(&account)),
                address: returning.place,
            })
        }
        FoundTicket::NotGood => TicketFound::NotGood,
        FoundTicket::Unreadable => TicketFound::Unknown,
    }
}
