//! Incoming datagrams: demultiplexing, admission, and answers to strangers.

use std::{net::SocketAddr, sync::Arc};

use rand::Rng as _;

use super::{
    Dropped, Endpoint, Event, LinkId, Path, SERVES,
    accept_cache::{AcceptCache, Known},
    limits::LINKS_PER_KEY_MAX,
    link_entry::{Accepting, Answering, LinkEntry, Role, Stage},
    link_slots::Shown,
    outgoing::CONNECTION_LEN,
};
use crate::{
    crypto::{MESSAGE_1_OVERHEAD, Responder, mac1, same},
    link::{
        Exchange, INIT_PAYLOAD_MIN, Ignored, Link, Time, limits::ASSEMBLIES_MAX, trace::trace_stray,
    },
    wire::{
        ACCEPT_HEADER, CloseReason, ConnectionId, Cookie, HandshakeId, Hello, HelloReply, Init,
        LinkPacket, PROTOCOL_VERSION, Packet, PacketNumber, Protection, RESET_LEN, RETRY_LEN,
        ResetToken, crc_holds,
    },
};

impl Endpoint {
    /// Handles a datagram that arrived over `path`. With a bare address as `path`, the system
    /// chooses the local address of datagrams sent there. An invalid datagram is ignored. Returns
    /// the number of the endpoint that the datagram belongs to if that is another of several
    /// endpoints behind one address.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        path: impl Into<Path>,
        datagram: &[u8],
    ) -> Option<u32> {
        self.handle_datagram_over(now, path.into(), datagram)
    }

    fn handle_datagram_over(&mut self, now: Time, path: Path, datagram: &[u8]) -> Option<u32> {
        let taken = self.take_datagram(now, path, datagram);
        self.check();
        if let Ok(Some(other)) = taken {
            return Some(other);
        }
        self.stats.received.add(datagram.len());
        if let Err(reason) = taken {
            self.note_dropped(reason);
            if !reason.is_of_link() {
                trace_stray(&path.remote, datagram.len(), reason.name());
            }
        }
        None
    }

    fn take_datagram(
        &mut self,
        now: Time,
        path: Path,
        datagram: &[u8],
    ) -> Result<Option<u32>, Dropped> {
        // Other datagrams are noise.
        let packet = Packet::parse(datagram).map_err(|_| Dropped::NotAPacket)?;
        let from = path.remote;
        if let Some(other) = self.elsewhere(from, &packet) {
            return Ok(Some(other));
        }
        match packet {
            Packet::Link(packet) => self.handle_link_packet(now, path, &packet, datagram),
            Packet::Init(init) => return self.handle_init(now, path, &init, datagram),
            Packet::Accept { handshake, noise } => self.handle_accept(now, from, handshake, noise),
            Packet::Reset { connection, token } => {
                let was_waited_for = self.is_back(now, from, connection, &token)
                    || self.ticket_refused(now, path, connection, &token)
                    || self.handle_reset(now, from, connection, &token);
                was_waited_for.then_some(()).ok_or(Dropped::Unasked)
            }
            Packet::Hello(hello) => self.handle_hello(path, hello),
            Packet::Resume(resume) => self.handle_resume(now, path, &resume, datagram),
            Packet::Resumed {
                nonce,
                header,
                sealed,
            } => self.handle_resumed(now, path, &nonce, header, sealed),
            Packet::HelloReply(reply) => self.handle_hello_reply(from, reply),
            Packet::Retry { handshake, cookie } => self.handle_retry(now, from, handshake, &cookie),
        }
        .map(|()| None)
    }

    fn handle_hello(&mut self, path: Path, hello: Hello) -> Result<(), Dropped> {
        let realm = self.config.hello.filter(|_| self.admitting);
        let (realm, current) = realm.zip(self.keys.first()).ok_or(Dropped::NotServed)?;
        let reply = HelloReply {
            nonce: hello.nonce,
            versions: vec![PROTOCOL_VERSION],
            realm,
            key: current.public.0,
        };
        let mut out = Vec::new();
        reply.emit(&mut out);
        self.answer(path, out);
        Ok(())
    }

    fn handle_hello_reply(&mut self, from: SocketAddr, reply: HelloReply) -> Result<(), Dropped> {
        let asked = self.asking.len();
        self.asking
            .retain(|asking| !asking.is_answered_by(from, &reply));
        if self.asking.len() == asked {
            return Err(Dropped::Unasked);
        }
        self.events.push_back(Event::Hello {
            address: from,
            reply,
        });
        Ok(())
    }

    /// HS-3: cheap checks come first: the MAC before the table lookup, the lookup before the
    /// elliptic curve.
    fn handle_init(
        &mut self,
        now: Time,
        path: Path,
        init: &Init<'_>,
        datagram: &[u8],
    ) -> Result<Option<u32>, Dropped> {
        let from = path.remote;
        if !SERVES || !self.admitting || self.config.accept != Some(Protection::Sealed) {
            return Err(Dropped::NotServed);
        }
        if init.version != PROTOCOL_VERSION {
            return Err(Dropped::OtherVersion);
        }
        if init.noise.len() < MESSAGE_1_OVERHEAD + INIT_PAYLOAD_MIN {
            return Err(Dropped::TooShort);
        }
        let own = (0..)
            .zip(&self.keys)
            .find(|(_, key)| same(&mac1(&key.public, init.covered), &init.mac1));
        let (own, secret) = own
            .map(|(own, key)| (own, key.secret.clone()))
            .ok_or(Dropped::NotForThisSide)?;
        let hash = AcceptCache::hash(datagram);
        match self.accepts.look_up(&hash) {
            Known::Answered(accept, link, _) => {
                let accept = accept.to_vec();
                self.answer_again(path, link, accept);
                return Ok(None);
            }
            Known::Awaiting => return Err(Dropped::InWork),
            Known::No => {}
        }
        let counts = Arc::clone(self.counts.as_ref().ok_or(Dropped::NotServed)?);
        // HS-12: the handshake is expensive. A source that begins many has to prove its address.
        let has_shown = init.cookie.is_some_and(|cookie| {
            self.gate
                .admits_with(now, from, (init.handshake, &cookie), &counts)
        });
        // If all link slots are taken, only an initiator with a proven address causes an eviction.
        if !has_shown && (self.is_full() || !self.gate.admits(now, from.ip(), &counts)) {
            let cookie = self.gate.cookie(now, from, init.handshake, &mut self.rng);
            let mut retry = Vec::new();
            Packet::emit_retry(init.handshake, &cookie, &mut retry);
            self.answer(path, retry);
            self.stats.answers.retries += 1;
            return Ok(None);
        }
        let (responder, payload) =
            Responder::read(&mut self.rng, &secret, init.noise).map_err(|_| Dropped::Forged)?;
        if self.config.place.own() > 0 && self.realms.contains(&responder.peer) {
            return Ok(Some(0));
        }
        let mut link = Link::respond(self.link_config(None), 0);
        if link.handle_early(now, &payload).is_err() || !link.opening().is_asked() {
            return Err(Dropped::Malformed);
        }
        if !self.make_room() {
            return Err(Dropped::Full);
        }
        let peer = Some(responder.peer);
        let answering = Answering::Accept(Box::new(responder), init.handshake);
        let accepting = Accepting::new(now, answering, hash, (datagram.len(), 1));
        let stage = Stage::Accepting(Box::new(accepting));
        let mut slot = LinkEntry::new(now, link, Role::Responder, path, peer, stage);
        slot.own = own;
        let id = self.insert(slot);
        Self::trace_handshake(id, false, ("init", datagram.len()), Some(&payload));
        self.stand_half_open(id, Shown::of_init(has_shown));
        if !self.slots.contains_key(&id) {
            return Err(Dropped::Full);
        }
        // Links whose Inits are evicted from the cache stay. A repeat of such an Init opens another
        // link.
        self.accepts.insert(now, (hash, from.ip()), id);
        self.touch(now, id);
        Ok(None)
    }

    /// Answers a repeat of the packet that began `link` with the same answer.
    pub(super) fn answer_again(&mut self, path: Path, link: LinkId, answer: Vec<u8>) {
        if let Some(slot) = self.slots.get_mut(&link)
            && slot.path.remote != path.remote
            && !slot.link.is_proven()
            // A pending challenge was sent nowhere else. With a new challenge for each copy, an
            // attacker who repeats the first packet would keep its sender from ever answering the
            // latest challenge.
            && !slot.link.has_moved()
        {
            // From here on the receiver of the answer need not be at the address of the first
            // packet.
            let mut data = [0; 8];
            self.rng.fill_bytes(&mut data);
            slot.link.doubt_path(data);
        }
        self.answer(path, answer);
    }

    /// Returns the link that dials `address` with the handshake id `handshake`.
    fn dialing(&self, address: SocketAddr, handshake: HandshakeId) -> Option<LinkId> {
        self.opened_to(address).find(|id| {
            self.slots.get(id).is_some_and(
                |slot| matches!(&slot.stage, Stage::Dialing(dial) if dial.is_for(handshake)),
            )
        })
    }

    fn handle_accept(
        &mut self,
        now: Time,
        from: SocketAddr,
        handshake: HandshakeId,
        noise: &[u8],
    ) -> Result<(), Dropped> {
        let id = self.dialing(from, handshake).ok_or(Dropped::Unasked)?;
        let slot = self.slots.get_mut(&id).ok_or(Dropped::Unasked)?;
        let Stage::Dialing(dial) = &mut slot.stage else {
            return Err(Dropped::Unasked);
        };
        let (keys, payload) = dial.finish(noise).map_err(|_| Dropped::Forged)?;
        Self::trace_handshake(
            id,
            false,
            ("accept", ACCEPT_HEADER + noise.len()),
            payload.get(CONNECTION_LEN..),
        );
        let lost = dial.lost(now, slot.link.rtt());
        slot.link.note_exchange(Exchange {
            lost,
            was_repeated: dial.sent().0 > 1,
        });
        if let Some(round_trip) = dial.round_trip(now) {
            slot.link.sample(round_trip);
        }
        let Some((connection, payload)) = payload.split_first_chunk() else {
            // Authentic but malformed.
            self.end(id, Some(CloseReason::Violation));
            return Err(Dropped::Malformed);
        };
        let connection = ConnectionId(u32::from_be_bytes(*connection));
        slot.stage = Stage::Open;
        let was_tried = cfg!(feature = "server") && slot.is_once;
        slot.heard = Some(now);
        slot.remote = Some(connection);
        slot.link.establish(keys, Some(connection));
        slot.link.early_arrived(now);
        let understood = slot.link.handle_early(now, payload).is_ok();
        if !understood || !slot.link.opening().is_welcomed() {
            self.end(id, Some(CloseReason::Violation));
            return Err(Dropped::Malformed);
        }
        if slot.link.awaits_early() || slot.is_shared || slot.link.is_kept_alive() {
            // The answer to early data did not fit the Accept, or is slow. Now it may be sent. A
            // realm may send requests once the link is proven, and it pushes no entries before.
            slot.link.ping();
        }
        if was_tried {
            self.is_there(now, id);
        }
        self.touch(now, id);
        Ok(())
    }

    /// HS-12: handles a Retry: the responder asks for a proof of this side's address.
    fn handle_retry(
        &mut self,
        now: Time,
        from: SocketAddr,
        handshake: HandshakeId,
        cookie: &Cookie,
    ) -> Result<(), Dropped> {
        let id = self.dialing(from, handshake).ok_or(Dropped::Unasked)?;
        if let Some(slot) = self.slots.get_mut(&id)
            && let Stage::Dialing(dial) = &mut slot.stage
            && let Some(realm) = &slot.peer
        {
            // It is not authenticated, so it gives no RTT sample.
            dial.show(realm, cookie);
            Self::trace_handshake(id, false, ("retry", RETRY_LEN), None);
            self.touch(now, id);
        }
        Ok(())
    }

    /// Handles a Reset. True if it belongs to a link of this endpoint.
    fn handle_reset(
        &mut self,
        now: Time,
        from: SocketAddr,
        connection: ConnectionId,
        token: &ResetToken,
    ) -> bool {
        let theirs = self.by_name.get(&(from, connection)).copied();
        let reset = self.opened_to(from).chain(theirs).find(|id| {
            self.slots.get(id).is_some_and(|slot| {
                matches!(slot.stage, Stage::Open)
                    && slot.remote == Some(connection)
                    && slot.believes_reset(token)
            })
        });
        let Some(id) = reset else {
            return false;
        };
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        Self::trace_handshake(id, false, ("reset", RESET_LEN), None);
        slot.heard = Some(now);
        // The token is used up.
        slot.token = None;
        if slot.role == Role::Initiator {
            self.dial_again(now, id);
        } else {
            // The initiator has forgotten the link, and only it can reopen it. It may have opened
            // another.
            if let Some(other) = self.other_link(id) {
                self.move_requests(now, id, other);
            }
            self.end(id, None);
        }
        true
    }

    /// Handles a Reset of the predecessor of a link that this side is dialing: the other side is
    /// reachable again, so the first packet is resent at once, one time (HS-22).
    fn is_back(
        &mut self,
        now: Time,
        from: SocketAddr,
        connection: ConnectionId,
        token: &ResetToken,
    ) -> bool {
        let waits = self.opened_to(from).find(|id| {
            self.slots.get(id).is_some_and(|slot| {
                let is_former = slot.token.as_ref().is_some_and(|known| same(known, token));
                matches!(slot.stage, Stage::Dialing(_))
                    && slot.remote == Some(connection)
                    && is_former
            })
        });
        let Some(id) = waits else {
            return false;
        };
        if let Some(slot) = self.slots.get_mut(&id)
            && let Stage::Dialing(dial) = &mut slot.stage
        {
            slot.token = None;
            dial.hurry();
            Self::trace_handshake(id, false, ("reset", RESET_LEN), None);
        }
        self.touch(now, id);
        true
    }

    /// Returns the links that this side opened to `address`.
    pub(super) fn opened_to(&self, address: SocketAddr) -> impl Iterator<Item = LinkId> {
        self.by_address
            .range((address, LinkId(0))..=(address, LinkId(u32::MAX)))
            .map(|(_, id)| *id)
    }

    fn handle_link_packet(
        &mut self,
        now: Time,
        path: Path,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Dropped> {
        let from = path.remote;
        match (packet.connection, packet.protection) {
            (None, _) => {
                // A client finds its links by the realm's address; the seal tells which one is
                // meant. Links that others opened and shared links are found by id, so that no
                // stranger makes a realm try one seal after another.
                let is_meant = |id: &LinkId| {
                    let slot = self.slots.get(id);
                    slot.is_some_and(|slot| !slot.is_shared)
                };
                let links: Vec<LinkId> = self.opened_to(from).filter(is_meant).collect();
                let mut outcome = Err(Dropped::UnknownLink);
                for id in links {
                    let taken = self.hand_in(now, id, packet, datagram);
                    outcome = taken.map_err(Dropped::from);
                    if is_theirs(taken) {
                        break;
                    }
                }
                outcome
            }
            (Some(connection), Protection::Sealed) => {
                let id = LinkId(connection.0);
                match self.slots.get(&id) {
                    Some(slot) if slot.path.remote == from => {
                        let taken = self.hand_in_over(now, id, path, packet, datagram);
                        if is_theirs(taken)
                            && let Some(slot) = self.slots.get_mut(&id)
                        {
                            slot.link.path_heard(datagram.len());
                            self.touch(now, id);
                        }
                        Ok(taken?)
                    }
                    Some(_) => Ok(self.hand_in_from_elsewhere(now, id, path, packet, datagram)?),
                    None => {
                        self.send_reset(now, path, connection, datagram.len());
                        Err(Dropped::UnknownLink)
                    }
                }
            }
            (Some(_), Protection::Plain) if self.config.accept != Some(Protection::Plain) => {
                Err(Dropped::NotServed)
            }
            (Some(_), Protection::Plain) if !crc_holds(datagram) => Err(Dropped::NotAuthentic),
            (Some(connection), Protection::Plain) => {
                match self.by_plain.get(&(from, connection)).copied() {
                    Some(id) => Ok(self.hand_in_over(now, id, path, packet, datagram)?),
                    None => self.handle_plain_stranger(now, path, connection, packet, datagram),
                }
            }
        }
    }

    /// Hands in a packet that comes from the remote address of its link. On a responder's link the
    /// newest packet sets the local address, which the other side sends to. On a link that this
    /// side opened the system keeps choosing the local address, because routes change.
    fn hand_in_over(
        &mut self,
        now: Time,
        id: LinkId,
        path: Path,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Ignored> {
        let newest = self.largest_received(id);
        let taken = self.hand_in(now, id, packet, datagram);
        if is_theirs(taken)
            && self.largest_received(id) > newest
            && let Some(slot) = self.slots.get_mut(&id)
            && slot.role == Role::Responder
        {
            slot.path.local = path.local;
        }
        taken
    }

    fn largest_received(&self, id: LinkId) -> Option<PacketNumber> {
        self.slots.get(&id)?.link.largest_received()
    }

    /// Hands a packet to the link that it may belong to, at whose remote address it comes from.
    pub(super) fn hand_in(
        &mut self,
        now: Time,
        id: LinkId,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Ignored> {
        let slot = self.slots.get(&id).ok_or(Ignored::NotOpen)?;
        let was_proven = slot.link.is_proven();
        let taken = self.take_in(now, id, packet, datagram);
        match taken {
            Ok(()) => {}
            Err(Ignored::NoRoom) => {
                // The content counts as lost, but the arrival proves the path: a proven link may
                // have more room.
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.link.show_path();
                }
            }
            Err(Ignored::Violation) => {
                self.touch(now, id);
                return taken;
            }
            Err(Ignored::Replayed | Ignored::NotAuthentic | Ignored::NotOpen) => return taken,
        }
        let Some(slot) = self.slots.get_mut(&id) else {
            return taken;
        };
        if slot.renewal.replaces.is_some() {
            self.end_replaced(now, id);
        } else if SERVES && slot.role == Role::Responder && slot.link.is_proven() && !was_proven {
            if let Some(accepted) = slot.accepted {
                // An immediate answer to the Accept shows the round-trip time; a later one, an
                // upper bound.
                slot.link.bound_round_trip(now - accepted);
            }
            self.proven(now, id);
        }
        self.touch(now, id);
        taken
    }

    /// Hands a packet to a link and limits its reassembly memory. The link's events are passed on
    /// later, because its path may have to be settled first.
    pub(super) fn take_in(
        &mut self,
        now: Time,
        id: LinkId,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Ignored> {
        let slot = self.slots.get_mut(&id).ok_or(Ignored::NotOpen)?;
        let was_resting = slot.link.is_resting();
        let held = slot.link.assembling();
        // Strangers get little reassembly memory.
        let own = if slot.link.opening().is_trusted() {
            ASSEMBLIES_MAX.saturating_mul(self.config.max_message)
        } else {
            slot.link.message_max()
        };
        let holder = slot.holder();
        let room = held.saturating_add(self.assembling.room(holder));
        slot.link.set_assembly_room(room.min(own));
        let outcome = slot
            .link
            .handle_packet(now, packet, datagram, &mut self.opened);
        self.assembling.change(holder, held, slot.link.assembling());
        if outcome.is_ok() {
            slot.heard = Some(now);
        }
        if was_resting {
            // It may have woken for nothing, and then becomes dormant again.
            self.schedule.wake(id);
        }
        outcome
    }

    /// Handles a link that was just proven. Only a few older links of the same device stay.
    pub(super) fn proven(&mut self, now: Time, id: LinkId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let peer = slot.peer;
        self.stand_proven(id);
        if !self.slots.contains_key(&id) {
            // It was itself the oldest of too many strangers' links.
            return;
        }
        let Some(peer) = peer else { return };
        self.events.push_back(Event::PathProven { link: id });
        let links = self.by_peer.entry(peer).or_default();
        if links.contains(&id) {
            // The link was proven before and has only migrated.
            return;
        }
        links.push(id);
        self.settle_ticket(id);
        let links = self.by_peer.entry(peer).or_default();
        if self.realms.contains(&peer) {
            self.events.push_back(Event::Proven { link: id, peer });
        }
        if let Some(slot) = self.slots.get_mut(&id) {
            for (number, bytes) in core::mem::take(&mut slot.held) {
                self.events.push_back(Event::Request {
                    link: id,
                    number,
                    bytes,
                    early: false,
                });
            }
        }
        if links.len() > LINKS_PER_KEY_MAX {
            let heard = |link: &&LinkId| self.slots.get(link).and_then(|slot| slot.heard);
            if let Some(oldest) = links.iter().min_by_key(heard).copied() {
                self.end(oldest, None);
            }
        }
        self.settle_for_one(now, id);
    }
}

/// True if a packet belongs to the link that it was handed to, whatever the outcome.
const fn is_theirs(taken: Result<(), Ignored>) -> bool {
    !matches!(taken, Err(Ignored::NotAuthentic | Ignored::NotOpen))
}
