//! Tickets (HS-20): what a realm stores of handshakes, so that devices can resume after it has
//! restarted. Each ticket is valid for a day, and at most as long as the device's session.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::realm::{
    account::Account,
    failure::Failure,
    records::{self, KeptTicket, NamedTicket, Record as _, TicketRecord, TicketsRecord},
    sessions::Sessions,
    storage::{Outcome, Storage},
    time::Moment,
};
use crate::{
    crypto::{PublicKey, ResumptionSecret},
    store::{Batch, Key, Store, Versioned},
    wire::ConnectionId,
};

/// How long a ticket is valid, in seconds, both by the realm's running time and by the time of day.
/// Thus a realm that was down for days accepts no ticket from before, and a clock that is set back
/// does not extend one.
const LIFETIME_SECONDS: u32 = 86_400;
/// How many attempts are made to write a ticket when others write it at the same time.
const TRIES: usize = 3;
/// The most tickets of one device: each copy of a profile has one.
const PER_DEVICE: usize = 4;
/// The number of devices whose tickets one step of the housekeeping looks at.
const PER_STEP: usize = 32;

/// A device that may resume, and its secret.
#[derive(Clone, Debug)]
pub struct Returning {
    /// Its key.
    pub device: PublicKey,
    /// The key of this realm that its handshake used.
    pub own: PublicKey,
    /// The shared secret.
    pub secret: ResumptionSecret,
    /// The largest datagram that it takes, in bytes.
    pub max_datagram: u32,
    /// The address at which it has been validated.
    pub place: Option<IpAddr>,
}

/// The result of a search for a ticket.
#[derive(Clone, Debug)]
pub enum FoundTicket {
    /// The ticket is valid. Holds the device's secret and its account.
    Good(Box<(Returning, Account)>),
    /// There is none, or it is not valid any more.
    NotGood,
    /// The store could not be read.
    Unreadable,
}

fn is_young(since: u32, now: u32) -> bool {
    now.saturating_sub(since) < LIFETIME_SECONDS
}

/// The tickets by which devices resume.
#[derive(Debug)]
pub struct Tickets<S> {
    storage: Arc<Storage<S>>,
    sessions: Arc<Sessions<S>>,
}

impl<S> Tickets<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) const fn new(
        storage: Arc<Storage<S>>,
        sessions: Arc<Sessions<S>>,
    ) -> Self {
        Self { storage, sessions }
    }
}

impl<S: Store> Tickets<S> {
    /// Stores a ticket for a device that has a session; without a session, nothing is stored.
    /// `age`: the time since its handshake.
    ///
    /// A ticket that cannot be stored only costs the device a handshake.
    pub async fn keep(&self, id: ConnectionId, returning: Returning, age: Duration, now: Moment) {
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        if age >= LIFETIME_SECONDS {
            return;
        }
        for _ in 0..TRIES {
            match self.try_keep(id, &returning, age, now).await {
                // Another ticket of the device, or an older version of this one, was written
                // meanwhile.
                Ok(Outcome::Conflict) => {}
                // The disk is full.
                Ok(Outcome::Durable) | Err(Failure::Refused(_)) => return,
                Err(failure) => return self.storage.log_failure("keep ticket", &failure),
            }
        }
    }

    async fn try_keep(
        &self,
        id: ConnectionId,
        returning: &Returning,
        age: u32,
        now: Moment,
    ) -> Result<Outcome, Failure> {
        let Some(session) = self.sessions.bound_session(&returning.device, now).await? else {
            return Ok(Outcome::Durable);
        };
        let key = records::tickets_of(&returning.device);
        let mut batch = Batch::new();
        let found = self
            .storage
            .noted::<TicketsRecord>(&mut batch, &key)
            .await?;
        let mut tickets = found.map_or_else(Vec::new, |(record, _)| record.tickets);
        let mut place = returning.place.map(records::ip_bytes);
        if place.is_none() && tickets.iter().any(|ticket| ticket.id == id.0) {
            // Its device's address may have been stored before, and is the newer one.
            let known = self
                .storage
                .record::<TicketRecord>(&records::ticket(id.0))
                .await?;
            let kept = known.and_then(|(record, _)| record.kept);
            place = kept.and_then(|kept| kept.place);
        }
        let is_over =
            |ticket: &NamedTicket| ticket.id == id.0 || !is_young(ticket.since, now.running);
        for over in tickets.extract_if(.., |ticket| is_over(ticket)) {
            batch.delete(records::ticket(over.id));
        }
        let surplus = (tickets.len() + 1).saturating_sub(PER_DEVICE);
        for oldest in tickets.drain(..surplus) {
            batch.delete(records::ticket(oldest.id));
        }
        let since = now.running.saturating_sub(age);
        tickets.push(NamedTicket { id: id.0, since });
        let ticket = TicketRecord {
            device: returning.device.0,
            made: now.wall.saturating_sub(age),
            kept: Some(KeptTicket {
                own: returning.own.0,
                secret: *returning.secret.as_bytes(),
                session: session.hash,
                since,
                max_datagram: returning.max_datagram,
                place,
            }),
        };
        batch
            .put(key, TicketsRecord { tickets }.to_value()?)
            .put(records::ticket(id.0), ticket.to_value()?);
        self.storage.commit(batch).await
    }

    /// Stores the address at which a ticket's device was validated, if it is not stored yet.
    ///
    /// A realm that was killed before it learned the address has tickets without one. Each answer
    /// that exceeds the limit for an unvalidated address then costs a round trip.
    pub async fn note_place(&self, id: ConnectionId, place: IpAddr) {
        let noted = async {
            let key = records::ticket(id.0);
            let mut batch = Batch::new();
            let found = self.storage.noted::<TicketRecord>(&mut batch, &key).await?;
            let Some((mut record, _)) = found else {
                return Ok(());
            };
            let Some(kept) = record.kept.as_mut().filter(|kept| kept.place.is_none()) else {
                return Ok(());
            };
            kept.place = Some(records::ip_bytes(place));
            batch.put(key, record.to_value()?);
            // Another write of it meanwhile is as good.
            self.storage.commit(batch).await.map(drop)
        };
        match noted.await {
            Ok(()) | Err(Failure::Refused(_)) => {}
            Err(failure) => self.storage.log_failure("keep ticket", &failure),
        }
    }

    /// Finds a ticket by its name: the device's secret and account.
    pub async fn find(&self, id: ConnectionId, now: Moment) -> FoundTicket {
        let found = async {
            let key = records::ticket(id.0);
            let Some((found, _)) = self.storage.record::<TicketRecord>(&key).await? else {
                return Ok(None);
            };
            let device = PublicKey(found.device);
            let session = self.sessions.bound_session(&device, now).await?;
            let (Some(ticket), Some(session)) = (found.kept, session) else {
                return Ok(None);
            };
            let is_good = is_young(ticket.since, now.running)
                && is_young(found.made, now.wall)
                && ticket.session == session.hash;
            let returning = Returning {
                device,
                own: PublicKey(ticket.own),
                secret: ResumptionSecret::from_bytes(ticket.secret),
                max_datagram: ticket.max_datagram,
                place: ticket.place.map(records::ip_of),
            };
            Ok::<_, Failure>(is_good.then_some((returning, Account::User(session.user))))
        };
        match found.await {
            Ok(Some(found)) => FoundTicket::Good(Box::new(found)),
            Ok(None) => FoundTicket::NotGood,
            Err(failure) => {
                self.storage.log_failure("find ticket", &failure);
                FoundTicket::Unreadable
            }
        }
    }

    /// Removes tickets that are not valid any more.
    pub(in crate::realm) async fn tidy(
        &self,
        after: Option<Key>,
        now: Moment,
    ) -> Result<Option<Key>, Failure> {
        let found = self
            .storage
            .next_readable(records::all_tickets(), after, PER_STEP)
            .await?;
        for (key, found) in &found {
            if let Err(failure) = self.tidy_of(key, found, now).await {
                self.storage.log_failure("tickets", &failure);
            }
        }
        Ok(found.last().map(|(key, _)| key.clone()))
    }

    async fn tidy_of(&self, key: &Key, found: &Versioned, now: Moment) -> Result<(), Failure> {
        let mut record = TicketsRecord::from_value(&found.value)?;
        let (mut over, mut good) = (Vec::new(), Vec::new());
        for ticket in record.tickets {
            let found = self
                .storage
                .record::<TicketRecord>(&records::ticket(ticket.id))
                .await?;
            let is_good = is_young(ticket.since, now.running)
                && found.is_some_and(|(found, _)| is_young(found.made, now.wall));
            if is_good { &mut good } else { &mut over }.push(ticket);
        }
        record.tickets = good;
        if over.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::tidying();
        batch.expect(key.clone(), crate::store::Expected::At(found.version));
        for ticket in over {
            batch.delete(records::ticket(ticket.id));
        }
        if record.tickets.is_empty() {
            batch.delete(key.clone());
        } else {
            batch.put(key.clone(), record.to_value()?);
        }
        // On a conflict another pass looks at it.
        self.storage.commit(batch).await?;
        Ok(())
    }

    /// True if no tickets are stored.
    #[cfg(test)]
    pub(crate) async fn are_none(&self) -> bool {
        let is_empty = self.storage.is_empty(&records::all_tickets()).await;
        matches!(is_empty, Ok(true))
    }
}
