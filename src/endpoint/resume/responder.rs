//! Resumption on the responder.

use std::collections::btree_map::Entry;

use rand::Rng as _;

use super::{Known, Resumed, Resumption, TICKET_LIFETIME, TicketFound, TicketState};
use crate::{
    crypto::{ResumptionSecret, SessionKeys, same, ticket_check},
    endpoint::{
        Dropped, Endpoint, Event, LinkId, Path, SERVES,
        accept_cache::{AcceptCache, InitHash, Known as Answer},
        limits::TICKETS_LOOKED_UP,
        link_entry::{Accepting, Answering, LinkEntry, Role, Stage},
        link_slots::Shown,
    },
    faults::{Fault, is_planted},
    link::{Link, Time},
    rate_limit::RateLimit,
    subnet::Subnet,
    wire::{
        ConnectionId, Life, OperationNumber, Packet, Protection, RESUMED_HEADER, RequestId, Resume,
        ResumeNonce, Update,
    },
};

/// The answer to a device at its proven address may be this many times as long as its Resume.
const KNOWN_PLACE_FACTOR: usize = 3;
/// The rate of Resumes from one subnet, from the places of their tickets, beyond which a sender has
/// to prove its address.
const RETURNED_PER_SUBNET: RateLimit = RateLimit::per_second(2500);
/// The rate of refused Resumes from one subnet beyond which a sender has to prove its address.
const REFUSALS_PER_SUBNET: RateLimit = RateLimit::per_second(20);
/// The same for all subnets together.
const REFUSALS: RateLimit = RateLimit::per_second(1000);
/// The number of former lives of the store that a Resume may name.
const LIVES_TRIED: usize = 8;

impl Endpoint {
    /// Sets the lives of the store that a Resume may name, the current one first.
    pub fn know_lives(&mut self, lives: impl IntoIterator<Item = Life>) {
        let lives = lives.into_iter().take(LIVES_TRIED + 1);
        self.lookups.lives = lives.chain([Life::NONE]).collect();
    }

    /// Forgets the tickets known here, after the time of day has diverged from the time passed in
    /// here: their age is unknown. Records that the caller stores with the time of day of their
    /// handshakes stay valid.
    pub fn forget_tickets(&mut self, now: Time) {
        self.lookups.since = now;
        self.lookups.unproven.clear();
    }

    /// Returns the record of the handshake of `link` to store, so that its device may resume after
    /// a restart. `None` if the device does not want to, or if the link is itself resumed.
    pub fn known(&self, link: LinkId) -> Option<Known> {
        let slot = self.slots.get(&link)?;
        // An unproven link may turn out to have had its answer elsewhere.
        self.known_of(slot, slot.link.is_proven())
    }

    /// Returns the record of a link. With `is_settled` no later event can show that its device had
    /// the answer at another address.
    fn known_of(&self, slot: &LinkEntry, is_settled: bool) -> Option<Known> {
        let is_ticket = match slot.ticket_state {
            TicketState::Unwanted | TicketState::Used => false,
            TicketState::Wanted | TicketState::Genuine | TicketState::Due => {
                slot.opened >= self.lookups.since
            }
        };
        // A device that used a former key uses the current one next time.
        let own = self.keys.first().filter(|_| slot.own == 0)?.public;
        let (secret, max_datagram) = slot.link.responders_ticket().filter(|_| is_ticket)?;
        Some(Known {
            peer: slot.peer?,
            own,
            secret,
            max_datagram,
            account: slot.account,
            place: (is_settled && !slot.link.has_moved()).then(|| slot.path.remote.ip()),
        })
    }

    /// True if `link` is being accepted and its device is known to have used no number as high as
    /// `operation`. Then the Init is not a replayed recording.
    pub fn is_fresh(&self, link: LinkId, operation: OperationNumber) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| match &slot.stage {
            Stage::Accepting(accepting) => accepting
                .welcomed
                .is_some_and(|highest| operation > highest),
            Stage::Calling | Stage::Dialing(_) | Stage::Open => false,
        })
    }

    /// HS-20: an invalid Resume costs one hash. A Resume with a known ticket costs no more than a
    /// packet of an open link.
    pub(in crate::endpoint) fn handle_resume(
        &mut self,
        now: Time,
        path: Path,
        resume: &Resume<'_>,
        datagram: &[u8],
    ) -> Result<(), Dropped> {
        if !SERVES || !self.admitting || self.config.accept != Some(Protection::Sealed) {
            return Err(Dropped::NotServed);
        }
        let token = self.resets.token(resume.ticket);
        if !same(&ticket_check(&token), &resume.check) {
            return Err(Dropped::NotForThisSide);
        }
        let hash = AcceptCache::hash_of_resume(resume);
        match self.accepts.look_up(&hash) {
            Answer::Answered(answer, link, from) => {
                // WIRE-11: the answer may be longer than the Resume at the address of the first
                // copy. Another copy may come from anywhere, and its link may have migrated there.
                let is_there = from == path.remote.ip();
                let (answer, is_longer) = (answer.to_vec(), answer.len() > datagram.len());
                if is_there || !is_longer || self.has_shown(now, path, resume) {
                    self.answer_again(path, link, answer);
                } else {
                    self.ask_for_cookie(now, path, resume);
                }
                return Ok(());
            }
            Answer::Awaiting => return Err(Dropped::InWork),
            Answer::No => {}
        }
        let has_shown = self.has_shown(now, path, resume);
        // If all link slots are taken, only a sender with a proven address causes an eviction.
        // After many refusals, senders may know a ticket's token from a Reset, and nothing else of
        // it.
        if !has_shown && (self.is_full() || self.is_refused_often(now, path)) {
            self.ask_for_cookie(now, path, resume);
            return Ok(());
        }
        if !self.config.early_data {
            self.refuse_ticket(now, path, resume.ticket, has_shown);
        } else if let Some(known) = self.known_here(now, resume.ticket) {
            return self.take_back(now, path, (hash, datagram), known, has_shown);
        } else if self.lookups.waiting.len() >= TICKETS_LOOKED_UP {
            return Err(Dropped::Full);
        } else if let Entry::Vacant(waits) = self.lookups.waiting.entry(hash) {
            waits.insert(has_shown);
            self.events.push_back(Event::UnknownTicket {
                ticket: resume.ticket,
                path,
                datagram: datagram.to_vec(),
            });
        } else {
            // The cookie of another copy proves nothing about the address of the first copy.
            return Err(Dropped::InWork);
        }
        Ok(())
    }

    /// Returns what this endpoint itself remembers of a ticket.
    fn known_here(&self, now: Time, ticket: ConnectionId) -> Option<Known> {
        let is_young =
            |opened: Time| now - opened < TICKET_LIFETIME || is_planted(Fault::TicketsWithoutEnd);
        let id = LinkId(ticket.0);
        if let Some(slot) = self.slots.get(&id) {
            return self.known_of(slot, true).filter(|_| is_young(slot.opened));
        }
        let (opened, known) = self.lookups.unproven.get(&ticket)?;
        is_young(*opened).then(|| known.clone())
    }

    /// Keeps the ticket of a link that ends unproven, so that its device may still resume. If
    /// nothing has shown that the handshake was not a replay, this endpoint remembers the ticket.
    /// Otherwise the stored record is updated, which may now include the device's address.
    pub(in crate::endpoint) fn remember_ticket(&mut self, id: LinkId, slot: &LinkEntry) {
        let (is_wanted, is_due) = match slot.ticket_state {
            TicketState::Wanted => (slot.account.is_some(), false),
            TicketState::Due => (false, true),
            TicketState::Unwanted | TicketState::Genuine | TicketState::Used => (false, false),
        };
        if !SERVES || slot.link.is_proven() || !(is_wanted || is_due) {
            return;
        }
        // From here on its Accept is sent to no other address.
        self.accepts.forget_link(id);
        let Some(known) = self.known_of(slot, true) else {
            return;
        };
        let ticket = ConnectionId(id.0);
        if is_wanted {
            self.lookups.remember(slot.opened, ticket, known);
        } else if known.place.is_some() {
            self.events.push_back(Event::TicketDue {
                ticket,
                opened: slot.opened,
                known,
            });
        }
    }

    /// Records that the handshake of a ticket was genuine, because its device has resumed with it.
    fn note_genuine(&mut self, ticket: ConnectionId, known: &Known) {
        let of_link = self.slots.get_mut(&LinkId(ticket.0)).and_then(|slot| {
            let state = core::mem::replace(&mut slot.ticket_state, TicketState::Due);
            let is_news = matches!(state, TicketState::Wanted | TicketState::Genuine);
            is_news.then_some(slot.opened)
        });
        let unproven = self.lookups.unproven.remove(&ticket);
        if let Some(opened) = of_link.or(unproven.map(|(opened, _)| opened)) {
            self.events.push_back(Event::TicketDue {
                ticket,
                opened,
                known: known.clone(),
            });
        }
    }

    /// True if a Resume carries a valid cookie: its sender receives at its source address.
    fn has_shown(&self, now: Time, path: Path, resume: &Resume<'_>) -> bool {
        let shown = resume.cookie.zip(self.counts.as_ref());
        shown.is_some_and(|(cookie, counts)| {
            let cookie = (Resume::handshake(&resume.nonce), &cookie);
            self.gate.admits_with(now, path.remote, cookie, counts)
        })
    }

    /// True if another link may be opened from an unproven address. Counts it as a handshake
    /// without a cookie (HS-12).
    fn admits_from_anywhere(&self, now: Time, path: Path) -> bool {
        let counts = self.counts.as_ref();
        counts.is_some_and(|counts| self.gate.admits(now, path.remote.ip(), counts))
    }

    /// True if another link may be resumed from the place of its ticket. Counts it.
    fn admits_from_its_place(&self, now: Time, path: Path) -> bool {
        let subnet = Subnet::from(path.remote);
        self.counts.as_ref().is_some_and(|counts| {
            let returned = &counts.returned;
            returned.take(now.0, &subnet, RETURNED_PER_SUBNET).is_ok()
        })
    }

    /// Answers a Resume with a Retry.
    fn ask_for_cookie(&mut self, now: Time, path: Path, resume: &Resume<'_>) {
        let handshake = Resume::handshake(&resume.nonce);
        let cookie = self.gate.cookie(now, path.remote, handshake, &mut self.rng);
        let mut retry = Vec::new();
        Packet::emit_retry(handshake, &cookie, &mut retry);
        self.answer(path, retry);
        self.stats.answers.retries += 1;
    }

    /// True if many Resumes were refused lately, from that subnet or in all.
    fn is_refused_often(&self, now: Time, path: Path) -> bool {
        self.counts.as_ref().is_none_or(|counts| {
            let subnet = Subnet::from(path.remote);
            let waits = [
                counts.refused.wait(now.0, &subnet, REFUSALS_PER_SUBNET),
                counts.all_refused.wait(now.0, REFUSALS),
            ];
            waits.iter().any(|wait| !wait.is_zero())
        })
    }

    /// Continues a Resume with the result of a lookup ([`Event::UnknownTicket`]): accepts it, or
    /// refuses it. With [`TicketFound::Unknown`] no answer is sent, and the Resume comes again.
    pub fn ticket_found(&mut self, now: Time, path: Path, datagram: &[u8], found: TicketFound) {
        let Ok(Packet::Resume(resume)) = Packet::parse(datagram) else {
            return;
        };
        let hash = AcceptCache::hash_of_resume(&resume);
        let waited = self.lookups.waiting.remove(&hash);
        let Some(has_shown) = waited.filter(|_| self.admitting) else {
            return;
        };
        match found {
            TicketFound::Good(known) => {
                if let Err(reason) = self.take_back(now, path, (hash, datagram), known, has_shown) {
                    self.note_dropped(reason);
                }
            }
            TicketFound::NotGood => self.refuse_ticket(now, path, resume.ticket, has_shown),
            TicketFound::Unknown => {}
        }
    }

    /// Refuses a ticket with a Reset, which is shorter than the Resume. Counts refusals, except
    /// those of senders with a proven address: these were counted by their cookies.
    fn refuse_ticket(&mut self, now: Time, path: Path, ticket: ConnectionId, has_shown: bool) {
        if let Some(counts) = self.counts.as_ref().filter(|_| !has_shown) {
            let subnet = Subnet::from(path.remote);
            counts
                .refused
                .charge(now.0, &subnet, REFUSALS_PER_SUBNET, 1);
            counts.all_refused.charge(now.0, REFUSALS, 1);
        }
        let mut out = Vec::new();
        Packet::emit_reset(ticket, &self.resets.token(ticket), &mut out);
        self.answer(path, out);
        self.stats.answers.refused += 1;
    }

    /// Accepts a resumption by a known ticket.
    fn take_back(
        &mut self,
        now: Time,
        path: Path,
        (hash, datagram): (InitHash, &[u8]),
        known: Known,
        has_shown: bool,
    ) -> Result<(), Dropped> {
        let Ok(Packet::Resume(resume)) = Packet::parse(datagram) else {
            return Err(Dropped::NotAPacket);
        };
        let is_current = self.keys.first().is_some_and(|key| key.public == known.own);
        let opened = self
            .open_resume(&resume, &known.secret)
            .filter(|_| is_current);
        let Some((life, payload)) = opened else {
            self.refuse_ticket(now, path, resume.ticket, has_shown);
            return Ok(());
        };
        let is_there = known.place == Some(path.remote.ip()) || is_planted(Fault::AnyPlaceIsKnown);
        let (shown, is_let_in) = match (has_shown, is_there) {
            (true, _) => (Shown::Cookie, true),
            (false, true) if is_planted(Fault::PushOutOthers) => (Shown::Nothing, true),
            (false, true) => (Shown::WorkerId, self.admits_from_its_place(now, path)),
            // The seal authenticates the sender, not its address, and the cost of its requests
            // would count for that address.
            (false, false) => (Shown::Nothing, self.admits_from_anywhere(now, path)),
        };
        if !is_let_in {
            self.ask_for_cookie(now, path, &resume);
            return Ok(());
        }
        self.note_genuine(resume.ticket, &known);
        let mut link = Link::respond(self.link_config(None), 0);
        link.is_resumed_by(known.max_datagram);
        link.handle_early(now, &payload)
            .map_err(|_| Dropped::Malformed)?;
        if !self.make_room() {
            return Err(Dropped::Full);
        }
        let factor = if is_there { KNOWN_PLACE_FACTOR } else { 1 };
        let answering = Answering::Resumed(known.secret, resume.nonce);
        let room = (datagram.len(), factor);
        let stage = Stage::Accepting(Box::new(Accepting::new(now, answering, hash, room)));
        let peer = Some(known.peer);
        let mut slot = LinkEntry::new(now, link, Role::Responder, path, peer, stage);
        slot.resumption = Some(Box::new(Resumption::Resumed(Resumed {
            account: known.account,
            ticket: resume.ticket,
            has_place: known.place.is_some(),
            life,
            is_welcome: false,
            highest: OperationNumber(0),
        })));
        let id = self.insert(slot);
        Self::trace_handshake(id, false, ("resume", datagram.len()), Some(&payload));
        self.stand_half_open(id, shown);
        self.keep_few_of(resume.ticket);
        if !self.slots.contains_key(&id) {
            return Err(Dropped::Full);
        }
        self.accepts.insert(now, (hash, path.remote.ip()), id);
        self.touch(now, id);
        Ok(())
    }

    /// Decrypts a Resume. Returns its payload, and the current life of the store if the Resume
    /// names another. `None` if it is not authentic, or names an unknown life.
    fn open_resume(
        &self,
        resume: &Resume<'_>,
        secret: &ResumptionSecret,
    ) -> Option<(Option<Life>, Vec<u8>)> {
        let header = resume.header();
        let none = [Life::NONE];
        let lives: &[Life] = match self.lookups.lives.as_slice() {
            [] => &none,
            lives => lives,
        };
        let current = lives.first().copied();
        lives.iter().find_map(|life| {
            let mut sealed = resume.sealed.to_vec();
            let key = secret.resume_key(&resume.nonce, *life);
            let payload = key.open(0, &header, &mut sealed).ok()?;
            let news = current.filter(|current| current != life);
            Some((news, payload.to_vec()))
        })
    }

    /// Refuses a resumed link whose ticket belongs to a former user of the device, which has to
    /// make a handshake.
    pub(in crate::endpoint) fn refuse_resumed(&mut self, now: Time, link: LinkId) {
        let Some(slot) = self.slots.get(&link) else {
            return;
        };
        if let Some(resumed) = slot.resumed() {
            let (path, ticket) = (slot.path, resumed.ticket);
            self.refuse_ticket(now, path, ticket, false);
        }
        self.end(link, None);
    }

    /// Passes on the requests that waited until a resumed link was accepted again.
    pub(in crate::endpoint) fn release_held(&mut self, link: LinkId) {
        let early_data = self.config.early_data;
        let Some(slot) = self.slots.get_mut(&link) else {
            return;
        };
        let Some(resumed) = slot.resumed_mut() else {
            return;
        };
        resumed.is_welcome = true;
        if slot.waits_for_proof(early_data) {
            return;
        }
        let held: Vec<(RequestId, Vec<u8>)> = core::mem::take(&mut slot.held);
        self.events
            .extend(held.into_iter().map(|(number, bytes)| Event::Request {
                link,
                number,
                bytes,
                early: true,
            }));
    }

    /// Completes the resumption state of a link that was just proven. A resumed link is sent in an
    /// UPDATE what its WELCOME would have carried. The ticket of another link may be stored now.
    pub(in crate::endpoint) fn settle_ticket(&mut self, link: LinkId) {
        if !SERVES {
            return;
        }
        let token = self.resets.token(ConnectionId(link.0));
        let Some(slot) = self.slots.get_mut(&link) else {
            return;
        };
        if let Some(resumed) = slot.resumed() {
            let (ticket, has_place) = (resumed.ticket, resumed.has_place);
            let update = Update {
                standing: Some((token, resumed.highest)),
                life: None,
            };
            slot.link.tell_update(update);
            if !has_place {
                let place = slot.path.remote.ip();
                self.events.push_back(Event::TicketPlace { ticket, place });
            }
        } else {
            if slot.ticket_state == TicketState::Due {
                // The record was stored before the device's address was known.
                slot.ticket_state = TicketState::Wanted;
            }
            self.ticket_is_genuine(link);
        }
    }

    /// Stores the ticket of a link again, if allowed, after the session of its device has changed.
    pub fn ticket_is_due_again(&mut self, link: LinkId) {
        if let Some(slot) = self.slots.get_mut(&link)
            && slot.ticket_state == TicketState::Due
        {
            slot.ticket_state = TicketState::Wanted;
            self.ticket_is_genuine(link);
        }
    }

    /// Marks the handshake of a link as genuine, not replayed, after a message on the link has
    /// shown it: its ticket may be stored.
    pub fn ticket_is_genuine(&mut self, link: LinkId) {
        if !SERVES {
            return;
        }
        if let Some(known) = self.known(link) {
            self.note_genuine(ConnectionId(link.0), &known);
        } else if let Some(slot) = self.slots.get_mut(&link)
            && slot.ticket_state == TicketState::Wanted
        {
            slot.ticket_state = TicketState::Genuine;
        }
    }

    /// Writes the datagram that answers a Resume, with its header in the clear and the rest sealed.
    /// Returns the keys of the link.
    pub(in crate::endpoint) fn resumed_answer(
        &mut self,
        id: LinkId,
        frames: &[u8],
        secret: &ResumptionSecret,
        device: &ResumeNonce,
        out: &mut Vec<u8>,
    ) -> SessionKeys {
        let mut nonce = [0; 8];
        if !is_planted(Fault::AnswerUnderKnownNonce) {
            self.rng.fill_bytes(&mut nonce);
        }
        out.clear();
        Packet::emit_resumed_header(&nonce, out);
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(frames);
        secret
            .answer_key(device, &nonce)
            .seal(0, RESUMED_HEADER, out);
        secret.responders_keys(device, &nonce)
    }
}
