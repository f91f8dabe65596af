//! Resumption on the responder.

use rand::Rng as _;

use crate::{
    crypto::{ResumptionSecret, SessionKeys, same, ticket_check},
    endpoint::{
        ACCEPTS_LINKS, Dropped, Endpoint, Event, IssuedTicket, LinkId, Path, TicketFound,
        accept_cache::{AcceptCache, CachedAccept, InitHash},
        admission::Sender,
        holder::AddressProof,
        known_tickets::{Lookup, OpenedResume},
        link_table::{Accepting, Answering, LinkEntry, Role, Stage},
        ticket::{Resumed, TicketState, is_valid},
        trace_handshake,
    },
    faults::{Fault, is_planted},
    link::{Link, Time},
    wire::{ConnectionId, Life, Packet, Protection, RESUMED_HEADER, Resume, ResumeNonce},
};

/// The answer to a device at its proven address may be this many times as long as its Resume.
const PROVEN_ADDRESS_FACTOR: usize = 3;

impl Endpoint {
    /// Sets the lives of the store that a Resume may name, the current one first.
    pub fn set_known_lives(&mut self, lives: impl IntoIterator<Item = Life>) {
        self.tickets.set_lives(lives);
    }

    /// Forgets the tickets known here, after the time of day has diverged from the time passed in
    /// here: their age is unknown. Records that the caller stores with the time of day of their
    /// handshakes stay valid.
    pub fn forget_tickets(&mut self, now: Time) {
        self.tickets.forget_all(now);
    }

    /// Returns the ticket of the handshake of `link` to store, so that its device may resume after
    /// a restart. `None` if the device does not want to, or if the link is itself resumed.
    pub fn issued_ticket(&self, link: LinkId) -> Option<IssuedTicket> {
        let entry = self.links.get(link)?;
        // An unproven link may turn out to have had its answer elsewhere.
        self.issued_for(entry, entry.link.is_proven())
    }

    /// Returns the ticket of a link. With `is_address_final` no later event can show that its
    /// device had the answer at another address.
    fn issued_for(&self, entry: &LinkEntry, is_address_final: bool) -> Option<IssuedTicket> {
        if !self.tickets.is_age_known(entry.opened()) {
            return None;
        }
        entry.issued_ticket(self.keys.current().public, is_address_final)
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
        if !ACCEPTS_LINKS
            || !self.admission.is_open()
            || self.config.accept != Some(Protection::Sealed)
        {
            return Err(Dropped::NotServed);
        }
        let token = self.keys.reset_token(resume.ticket);
        if !same(&ticket_check(&token), &resume.check) {
            return Err(Dropped::NotForThisSide);
        }
        let (handshake, cookie) = (Resume::handshake(&resume.nonce), resume.cookie.as_ref());
        let hash = AcceptCache::hash_of_resume(resume);
        match self.accept_cache.look_up(&hash) {
            CachedAccept::Answered(answer, link, from) => {
                // WIRE-11: the answer may be longer than the Resume at the address of the first
                // copy. Another copy may come from anywhere, and its link may have migrated there.
                let is_there = from == path.remote.ip();
                let (answer, is_longer) = (answer.to_vec(), answer.len() > datagram.len());
                if is_there
                    || !is_longer
                    || self.admission.sender(now, path.remote, handshake, cookie)
                        == Sender::Verified
                {
                    self.answer_again(path, link, answer);
                } else {
                    self.send_retry(now, path, handshake);
                }
                return Ok(());
            }
            CachedAccept::Awaiting => return Err(Dropped::InWork),
            CachedAccept::No => {}
        }
        let sender = self.admission.sender(now, path.remote, handshake, cookie);
        // If all link slots are taken, only a sender with a proven address causes an eviction.
        if sender == Sender::Unverified
            && (self.accounting.is_full(&self.config)
                || self.admission.has_refused_often(now, path.remote.ip()))
        {
            self.send_retry(now, path, handshake);
            return Ok(());
        }
        if !self.config.early_data {
            self.refuse_ticket(now, path, resume.ticket, sender);
            return Ok(());
        }
        if let Some(issued) = self.ticket_known_here(now, resume.ticket) {
            return self.accept_resume(now, path, (hash, datagram), issued, sender);
        }
        match self.tickets.begin_lookup(hash, sender) {
            Lookup::Begun => {
                self.events.push_back(Event::UnknownTicket {
                    ticket: resume.ticket,
                    path,
                    datagram: datagram.to_vec(),
                });
                Ok(())
            }
            Lookup::InWork => Err(Dropped::InWork),
            Lookup::Full => Err(Dropped::Full),
        }
    }

    /// Returns what this endpoint itself knows of a ticket.
    fn ticket_known_here(&self, now: Time, ticket: ConnectionId) -> Option<IssuedTicket> {
        if let Some(entry) = self.links.get(LinkId(ticket.0)) {
            let issued = self.issued_for(entry, true);
            return issued.filter(|_| is_valid(now, entry.opened()));
        }
        self.tickets.remembered(now, ticket).cloned()
    }

    /// Keeps the ticket of a link that ends unproven, so that its device may still resume. If
    /// nothing has shown that the handshake was not a replay, this endpoint remembers the ticket.
    /// Otherwise the stored record is updated, which may now include the device's address.
    pub(in crate::endpoint) fn remember_ticket(&mut self, id: LinkId, entry: &LinkEntry) {
        let (is_wanted, is_due) = match entry.resumption().ticket_state() {
            TicketState::Wanted => (entry.holding().account().is_some(), false),
            TicketState::Due => (false, true),
            TicketState::Unwanted | TicketState::Genuine | TicketState::Used => (false, false),
        };
        if !ACCEPTS_LINKS || entry.link.is_proven() || !(is_wanted || is_due) {
            return;
        }
        // From here on its Accept is sent to no other address.
        self.accept_cache.forget_link(id);
        let Some(issued) = self.issued_for(entry, true) else {
            return;
        };
        let ticket = ConnectionId(id.0);
        if is_wanted {
            self.tickets.remember(entry.opened(), ticket, issued);
        } else if issued.address.is_some() {
            self.events.push_back(Event::TicketDue {
                ticket,
                opened: entry.opened(),
                issued,
            });
        }
    }

    /// Records that the handshake of a ticket was genuine, because its device has resumed with it.
    fn record_genuine(&mut self, ticket: ConnectionId, issued: &IssuedTicket) {
        let of_link = self.links.get_mut(LinkId(ticket.0)).and_then(|entry| {
            let is_news = entry.resumption_mut().pass_on();
            is_news.then_some(entry.opened())
        });
        let remembered = self.tickets.take(ticket);
        if let Some(opened) = of_link.or(remembered) {
            self.events.push_back(Event::TicketDue {
                ticket,
                opened,
                issued: issued.clone(),
            });
        }
    }

    /// Continues a Resume with the result of a lookup ([`Event::UnknownTicket`]): accepts it, or
    /// refuses it. With [`TicketFound::Unknown`] no answer is sent, and the Resume comes again.
    pub fn ticket_found(&mut self, now: Time, path: Path, datagram: &[u8], found: TicketFound) {
        let Ok(Packet::Resume(resume)) = Packet::parse(datagram) else {
            return;
        };
        let hash = AcceptCache::hash_of_resume(&resume);
        let waited = self.tickets.end_lookup(&hash);
        let Some(sender) = waited.filter(|_| self.admission.is_open()) else {
            return;
        };
        match found {
            TicketFound::Good(issued) => {
                let accepted = self.accept_resume(now, path, (hash, datagram), issued, sender);
                if let Err(reason) = accepted {
                    self.stats.count_dropped(reason);
                }
            }
            TicketFound::NotGood => self.refuse_ticket(now, path, resume.ticket, sender),
            TicketFound::Unknown => {}
        }
    }

    /// Refuses a ticket with a Reset, which is shorter than the Resume. Counts refusals, except
    /// those of senders with a proven address: these were counted by their cookies.
    fn refuse_ticket(&mut self, now: Time, path: Path, ticket: ConnectionId, sender: Sender) {
        if sender == Sender::Unverified {
            self.admission.count_refusal(now, path.remote.ip());
        }
        self.outbox.answer(path, self.keys.reset(ticket));
        self.stats.answers.refused += 1;
    }

    /// Accepts a resumption by a known ticket.
    fn accept_resume(
        &mut self,
        now: Time,
        path: Path,
        (hash, datagram): (InitHash, &[u8]),
        issued: IssuedTicket,
        sender: Sender,
    ) -> Result<(), Dropped> {
        let Ok(Packet::Resume(resume)) = Packet::parse(datagram) else {
            return Err(Dropped::NotAPacket);
        };
        let is_current = self.keys.current().public == issued.own;
        let opened = self.tickets.open(&resume, &issued.secret);
        let Some(OpenedResume { payload, life }) = opened.filter(|_| is_current) else {
            self.refuse_ticket(now, path, resume.ticket, sender);
            return Ok(());
        };
        let source = path.remote.ip();
        let is_there = issued.address == Some(source) || is_planted(Fault::AnyPlaceIsKnown);
        let (proof, is_admitted) = match (sender, is_there) {
            (Sender::Verified, _) => (AddressProof::Cookie, true),
            (Sender::Unverified, true) if is_planted(Fault::PushOutOthers) => {
                (AddressProof::None, true)
            }
            (Sender::Unverified, true) => (
                AddressProof::TicketAddress,
                self.admission.admits_at_ticket_address(now, source),
            ),
            // The seal authenticates the sender, not its address, and the cost of its requests
            // would count for that address. It counts as a handshake without a cookie (HS-12).
            (Sender::Unverified, false) => (AddressProof::None, self.admission.admits(now, source)),
        };
        if !is_admitted {
            self.send_retry(now, path, Resume::handshake(&resume.nonce));
            return Ok(());
        }
        self.record_genuine(resume.ticket, &issued);
        let mut link = Link::respond(self.link_config(None), 0);
        link.begin_resumption(issued.max_datagram);
        link.handle_early(now, &payload)
            .map_err(|_| Dropped::Malformed)?;
        self.evict_for_newcomer()?;
        let resumed = Resumed::new(resume.ticket, &issued, life);
        let factor = if is_there { PROVEN_ADDRESS_FACTOR } else { 1 };
        let answering = Answering::Resumed(issued.secret, resume.nonce);
        let accepting = Accepting::new(now, answering, hash, datagram.len());
        let stage = Stage::Accepting(Box::new(accepting.amplified(factor)));
        let peer = Some(issued.peer);
        let entry = LinkEntry::new(now, link, Role::Responder, path, peer, stage);
        let id = self.insert(entry.resumed_by(resumed));
        trace_handshake(id, false, ("resume", datagram.len()), Some(&payload));
        self.give_slot(id, proof)?;
        self.accept_cache.insert(now, (hash, source), id);
        self.touch(now, id);
        Ok(())
    }

    /// Refuses a resumed link whose ticket belongs to a former user of the device, which has to
    /// make a handshake.
    pub(in crate::endpoint) fn refuse_resumed(&mut self, now: Time, link: LinkId) {
        let Some(entry) = self.links.get(link) else {
            return;
        };
        if let Some(resumed) = entry.resumption().resumed() {
            let (path, ticket) = (entry.path(), resumed.ticket());
            self.refuse_ticket(now, path, ticket, Sender::Unverified);
        }
        self.end(link, None);
    }

    /// Passes on the requests that waited until a resumed link was accepted again.
    pub(in crate::endpoint) fn release_held(&mut self, link: LinkId) {
        let early_data = self.config.early_data;
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        let Some(resumed) = entry.resumption_mut().resumed_mut() else {
            return;
        };
        resumed.admit();
        if entry.waits_for_proof(early_data) {
            return;
        }
        let held = entry.take_held();
        let requests = held.into_iter().map(|request| Event::Request {
            link,
            number: request.number,
            bytes: request.bytes,
            early: true,
        });
        self.events.extend(requests);
    }

    /// Completes the resumption state of a link that was just proven. A resumed link is sent in an
    /// UPDATE what its WELCOME would have carried. The ticket of another link may be stored now.
    pub(in crate::endpoint) fn complete_resumption(&mut self, link: LinkId) {
        if !ACCEPTS_LINKS {
            return;
        }
        let token = self.keys.reset_token(ConnectionId(link.0));
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        if let Some(resumed) = entry.resumption().resumed() {
            let (ticket, has_address) = (resumed.ticket(), resumed.has_address());
            let update = resumed.update(token);
            entry.link.send_update(update);
            if !has_address {
                let address = entry.path().remote.ip();
                self.events
                    .push_back(Event::TicketAddress { ticket, address });
            }
        } else {
            // A record that is stored already was stored before the device's address was known.
            entry.resumption_mut().renew();
            self.ticket_is_genuine(link);
        }
    }

    /// Stores the ticket of a link again, if allowed, after the session of its device has changed.
    pub fn ticket_is_due_again(&mut self, link: LinkId) {
        if let Some(entry) = self.links.get_mut(link)
            && entry.resumption_mut().renew()
        {
            self.ticket_is_genuine(link);
        }
    }

    /// Marks the handshake of a link as genuine, not replayed, after a message on the link has
    /// shown it: its ticket may be stored.
    pub fn ticket_is_genuine(&mut self, link: LinkId) {
        if !ACCEPTS_LINKS {
            return;
        }
        if let Some(issued) = self.issued_ticket(link) {
            self.record_genuine(ConnectionId(link.0), &issued);
        } else if let Some(entry) = self.links.get_mut(link) {
            entry.resumption_mut().on_genuine();
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
