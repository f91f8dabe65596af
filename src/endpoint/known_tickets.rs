//! What a responder itself knows of tickets (HS-20): tickets of links that ended unproven, tickets
//! that are looked up in the caller's records, and the lives of the store that a Resume may name.

use std::collections::BTreeMap;

use super::{
    accept_cache::InitHash,
    admission::Sender,
    limits::{TICKETS_LOOKED_UP, TICKETS_UNPROVEN},
    ticket::{IssuedTicket, TICKET_LIFETIME, is_valid},
};
use crate::{
    crypto::ResumptionSecret,
    link::Time,
    wire::{ConnectionId, Life, Resume},
};

/// The largest number of tickets of one device remembered from links that were never proven.
const UNPROVEN_PER_DEVICE: usize = 4;
/// The number of former lives of the store that a Resume may name.
const LIVES_TRIED: usize = 8;

/// Whether a ticket is looked up now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Begun,
    /// Another copy of the Resume is looked up.
    InWork,
    /// Too many tickets are looked up.
    Full,
}

/// A decrypted Resume.
#[derive(Debug)]
pub(super) struct OpenedResume {
    pub payload: Vec<u8>,
    /// The current life of the store, if the Resume names another.
    pub life: Option<Life>,
}

/// Pending ticket lookups, the lives of the store that a Resume may name, and tickets of unproven
/// links.
#[derive(Debug)]
pub(super) struct KnownTickets {
    /// The Resumes whose tickets are looked up.
    waiting: BTreeMap<InitHash, Sender>,
    /// The current life of the store.
    life: Life,
    /// Further lives that a Resume may name.
    other_lives: Vec<Life>,
    /// The age of links opened before this is unknown: the clock stopped, or the time of day was
    /// set.
    since: Time,
    /// Tickets of links that ended without a proof that their handshake was genuine. A resumption
    /// by one proves it.
    unproven: BTreeMap<ConnectionId, (Time, IssuedTicket)>,
}

impl Default for KnownTickets {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            life: Life::NONE,
            other_lives: Vec::new(),
            since: Time(0),
            unproven: BTreeMap::new(),
        }
    }
}

impl KnownTickets {
    /// Sets the lives of the store that a Resume may name, the current one first.
    pub fn set_lives(&mut self, lives: impl IntoIterator<Item = Life>) {
        let lives = lives.into_iter().take(LIVES_TRIED + 1);
        let mut lives = lives.chain([Life::NONE]);
        if let Some(current) = lives.next() {
            self.life = current;
            self.other_lives = lives.collect();
        }
    }

    /// Forgets all tickets, and those of all links opened so far.
    pub fn forget_all(&mut self, now: Time) {
        self.since = now;
        self.unproven.clear();
    }

    /// True if the age of a link opened then is known.
    pub fn is_age_known(&self, opened: Time) -> bool {
        opened >= self.since
    }

    /// Remembers the ticket of a link that ends. Keeps few of one device, and the first ones stay,
    /// because an attacker may replay a recorded Init of it. When the table is full the oldest
    /// ticket of all is evicted.
    pub fn remember(&mut self, opened: Time, ticket: ConnectionId, issued: IssuedTicket) {
        let theirs = self.unproven.values();
        let theirs = theirs
            .filter(|(at, other)| other.peer == issued.peer && opened - *at < TICKET_LIFETIME);
        if theirs.count() >= UNPROVEN_PER_DEVICE {
            return;
        }
        if self.unproven.len() >= TICKETS_UNPROVEN
            && let Some(oldest) = self.unproven.iter().min_by_key(|(_, (at, _))| *at)
        {
            let oldest = *oldest.0;
            self.unproven.remove(&oldest);
        }
        self.unproven.insert(ticket, (opened, issued));
    }

    /// Returns a remembered ticket, if it is still valid.
    pub fn remembered(&self, now: Time, ticket: ConnectionId) -> Option<&IssuedTicket> {
        let (opened, issued) = self.unproven.get(&ticket)?;
        is_valid(now, *opened).then_some(issued)
    }

    /// Removes a remembered ticket. Returns when its handshake began.
    pub fn take(&mut self, ticket: ConnectionId) -> Option<Time> {
        self.unproven.remove(&ticket).map(|(opened, _)| opened)
    }

    /// Begins the lookup of a Resume's ticket.
    pub fn begin_lookup(&mut self, resume: InitHash, sender: Sender) -> Lookup {
        if self.waiting.len() >= TICKETS_LOOKED_UP {
            return Lookup::Full;
        }
        if self.waiting.contains_key(&resume) {
            // The cookie of another copy proves nothing about the address of the first copy.
            return Lookup::InWork;
        }
        self.waiting.insert(resume, sender);
        Lookup::Begun
    }

    /// Ends the lookup of a Resume's ticket; `None` if there is none.
    pub fn end_lookup(&mut self, resume: &InitHash) -> Option<Sender> {
        self.waiting.remove(resume)
    }

    /// Decrypts a Resume. `None` if it is not authentic, or names an unknown life.
    pub fn open(&self, resume: &Resume<'_>, secret: &ResumptionSecret) -> Option<OpenedResume> {
        let header = resume.header();
        let mut lives = core::iter::once(&self.life).chain(&self.other_lives);
        lives.find_map(|life| {
            let mut sealed = resume.sealed.to_vec();
            let key = secret.resume_key(&resume.nonce, *life);
            let payload = key.open(0, &header, &mut sealed).ok()?;
            Some(OpenedResume {
                payload: payload.to_vec(),
                life: Some(self.life).filter(|current| current != life),
            })
        })
    }
}
