//! Incoming datagrams: which link a packet belongs to, and what its arrival shows of the other
//! side.

use std::net::SocketAddr;

use super::{
    ACCEPTS_LINKS, Dropped, Endpoint, Event, LinkId, Path, WorkerId,
    link_table::{LinkTable, Role},
};
use crate::{
    link::{Ignored, Time, limits::ASSEMBLIES_MAX, trace::trace_stray},
    wire::{
        ConnectionId, Hello, HelloReply, LinkPacket, PROTOCOL_VERSION, Packet, Protection,
        crc_holds,
    },
};

impl Endpoint {
    /// Handles a datagram that arrived over `path`. With a bare address as `path`, the system
    /// chooses the local address of datagrams sent there. An invalid datagram is ignored. Returns
    /// the number of the worker that the datagram belongs to, if that is another worker at the same
    /// address.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        path: impl Into<Path>,
        datagram: &[u8],
    ) -> Option<u32> {
        let path = path.into();
        let outcome = self.handle_packet(now, path, datagram);
        self.check();
        if let Ok(Some(other)) = outcome {
            return Some(other);
        }
        self.stats.received.add(datagram.len());
        if let Err(reason) = outcome {
            self.stats.count_dropped(reason);
            if !reason.is_of_link() {
                trace_stray(&path.remote, datagram.len(), reason.name());
            }
        }
        None
    }

    fn handle_packet(
        &mut self,
        now: Time,
        path: Path,
        datagram: &[u8],
    ) -> Result<Option<u32>, Dropped> {
        // Other datagrams are noise.
        let packet = Packet::parse(datagram).map_err(|_| Dropped::NotAPacket)?;
        let from = path.remote;
        if let Some(other) = other_owner(self.config.worker, &self.links, from, &packet) {
            return Ok(Some(other));
        }
        match packet {
            Packet::Link(packet) => self.handle_link_packet(now, path, &packet, datagram),
            Packet::Init(init) => return self.handle_init(now, path, &init, datagram),
            Packet::Accept { handshake, noise } => self.handle_accept(now, from, handshake, noise),
            Packet::Reset { connection, token } => {
                let is_awaited = self.handle_reset_of_predecessor(now, from, connection, &token)
                    || self.handle_reset_of_ticket(now, from, connection, &token)
                    || self.handle_reset_of_open_link(now, from, connection, &token);
                is_awaited.then_some(()).ok_or(Dropped::Unasked)
            }
            Packet::Hello(hello) => self.handle_hello(path, hello),
            Packet::Resume(resume) => self.handle_resume(now, path, &resume, datagram),
            Packet::Resumed {
                nonce,
                header,
                sealed,
            } => self.handle_resumed(now, from, &nonce, header, sealed),
            Packet::HelloReply(reply) => self.handle_hello_reply(from, reply),
            Packet::Retry { handshake, cookie } => self.handle_retry(now, from, handshake, &cookie),
        }
        .map(|()| None)
    }

    fn handle_hello(&mut self, path: Path, hello: Hello) -> Result<(), Dropped> {
        let realm = self.config.hello.filter(|_| self.admission.is_open());
        let realm = realm.ok_or(Dropped::NotServed)?;
        let reply = HelloReply {
            nonce: hello.nonce,
            versions: vec![PROTOCOL_VERSION],
            realm,
            key: self.keys.current().public.0,
        };
        let mut out = Vec::new();
        reply.emit(&mut out);
        self.outbox.answer(path, out);
        Ok(())
    }

    fn handle_hello_reply(&mut self, from: SocketAddr, reply: HelloReply) -> Result<(), Dropped> {
        if !self.hellos.finish(from, &reply) {
            return Err(Dropped::Unasked);
        }
        self.events.push_back(Event::Hello {
            address: from,
            reply,
        });
        Ok(())
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
                    let entry = self.links.get(*id);
                    entry.is_some_and(|entry| !entry.is_shared())
                };
                let links: Vec<LinkId> = self.links.opened_to(from).filter(is_meant).collect();
                let mut outcome = Err(Dropped::UnknownLink);
                for id in links {
                    let received = self.receive(now, id, packet, datagram);
                    outcome = received.map_err(Dropped::from);
                    if is_theirs(received) {
                        break;
                    }
                }
                outcome
            }
            (Some(connection), Protection::Sealed) => {
                let id = LinkId(connection.0);
                match self.links.get(id) {
                    Some(entry) if entry.path().remote == from => {
                        let outcome = self.receive_on_path(now, id, path, packet, datagram);
                        if is_theirs(outcome)
                            && let Some(entry) = self.links.get_mut(id)
                        {
                            entry.link.path_heard(datagram.len());
                            self.touch(now, id);
                        }
                        Ok(outcome?)
                    }
                    Some(_) => Ok(self.receive_from_new_address(now, id, path, packet, datagram)?),
                    None => {
                        self.answer_with_reset(now, path, connection, datagram.len());
                        Err(Dropped::UnknownLink)
                    }
                }
            }
            (Some(_), Protection::Plain) if self.config.accept != Some(Protection::Plain) => {
                Err(Dropped::NotServed)
            }
            (Some(_), Protection::Plain) if !crc_holds(datagram) => Err(Dropped::NotAuthentic),
            (Some(connection), Protection::Plain) => match self.links.plain(from, connection) {
                Some(id) => Ok(self.receive_on_path(now, id, path, packet, datagram)?),
                None => self.handle_plain_stranger(now, path, connection, packet, datagram),
            },
        }
    }

    /// Handles a packet that comes from the remote address of its link. On a responder's link the
    /// newest packet sets the local address, which the other side sends to. On a link that this
    /// side opened the system keeps choosing the local address, because routes change.
    fn receive_on_path(
        &mut self,
        now: Time,
        id: LinkId,
        path: Path,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Ignored> {
        let entry = self.links.get(id).ok_or(Ignored::NotOpen)?;
        let newest = entry.link.largest_received();
        let outcome = self.receive(now, id, packet, datagram);
        if is_theirs(outcome)
            && let Some(entry) = self.links.get_mut(id)
            && entry.link.largest_received() > newest
            && entry.role() == Role::Responder
        {
            entry.set_local_address(path.local);
        }
        outcome
    }

    /// Handles a packet of the link that it may belong to, at whose remote address it comes from.
    pub(super) fn receive(
        &mut self,
        now: Time,
        id: LinkId,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Ignored> {
        let entry = self.links.get(id).ok_or(Ignored::NotOpen)?;
        let was_proven = entry.link.is_proven();
        let outcome = self.open_packet(now, id, packet, datagram);
        match outcome {
            Ok(()) => {}
            Err(Ignored::NoRoom) => {
                // The content counts as lost, but the arrival proves the path: a proven link may
                // have more room.
                if let Some(entry) = self.links.get_mut(id) {
                    entry.link.show_path();
                }
            }
            Err(Ignored::Violation) => {
                self.touch(now, id);
                return outcome;
            }
            Err(Ignored::Replayed | Ignored::NotAuthentic | Ignored::NotOpen) => return outcome,
        }
        let Some(entry) = self.links.get_mut(id) else {
            return outcome;
        };
        if entry.rekey().replaces().is_some() {
            self.end_replaced(now, id);
        } else if ACCEPTS_LINKS
            && entry.role() == Role::Responder
            && entry.link.is_proven()
            && !was_proven
        {
            if let Some(accepted) = entry.accepted() {
                // An immediate answer to the Accept shows the round-trip time; a later one, an
                // upper bound.
                entry.link.bound_round_trip(now - accepted);
            }
            self.handle_proven(now, id);
        }
        self.touch(now, id);
        outcome
    }

    /// Has a link decrypt and process a packet, and limits its reassembly memory. The link's events
    /// are passed on later, because a migration may have to be finished first.
    pub(super) fn open_packet(
        &mut self,
        now: Time,
        id: LinkId,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Ignored> {
        let entry = self.links.get_mut(id).ok_or(Ignored::NotOpen)?;
        let was_dormant = entry.link.is_dormant();
        let held = entry.link.assembling();
        // Strangers get little reassembly memory.
        let own = if entry.link.opening().is_trusted() {
            ASSEMBLIES_MAX.saturating_mul(self.config.max_message)
        } else {
            entry.link.message_max()
        };
        let holder = entry.holder();
        let limit = held.saturating_add(self.accounting.remaining_reassembly(holder));
        entry.link.set_reassembly_limit(limit.min(own));
        let outcome = entry
            .link
            .handle_packet(now, packet, datagram, &mut self.decrypted);
        self.accounting
            .change_reassembly(holder, held, entry.link.assembling());
        if outcome.is_ok() {
            entry.on_packet(now);
        }
        if was_dormant {
            // It may have woken for nothing, and then becomes dormant again.
            self.schedule.wake(id);
        }
        outcome
    }

    /// Handles a link that was just proven. Only a few older links of the same device stay.
    pub(super) fn handle_proven(&mut self, now: Time, id: LinkId) {
        self.give_proven_slot(id);
        let Some(entry) = self.links.get_mut(id) else {
            // It was itself the oldest of too many strangers' links.
            return;
        };
        let Some(peer) = entry.peer() else { return };
        self.events.push_back(Event::PathProven { link: id });
        if !self.links.add_proven(id, peer) {
            // The link was proven before and has only migrated.
            return;
        }
        self.complete_resumption(id);
        if self.links.is_realm(&peer) {
            self.events.push_back(Event::Proven { link: id, peer });
        }
        if let Some(entry) = self.links.get_mut(id) {
            let held = entry.take_held();
            let requests = held.into_iter().map(|request| Event::Request {
                link: id,
                number: request.number,
                bytes: request.bytes,
                early: false,
            });
            self.events.extend(requests);
        }
        if let Some(surplus) = self.links.surplus_of(&peer) {
            self.end(surplus, None);
        }
        self.keep_one_link(now, id);
    }
}

/// Returns the number of the worker that a packet belongs to, if that is not `worker` but another
/// one at the same address.
fn other_owner(
    worker: WorkerId,
    links: &LinkTable,
    from: SocketAddr,
    packet: &Packet<'_>,
) -> Option<u32> {
    let has_opened = || links.opened_to(from).next().is_some();
    let is_named = |name| links.with_name(from, name).next().is_some();
    let owner = match packet {
        Packet::Link(packet) => match (packet.connection, packet.protection) {
            (Some(ConnectionId(id)), Protection::Sealed) => worker.of_id(id),
            // On plain links the initiator chooses the id.
            (Some(_), Protection::Plain) => worker.own(),
            (None, _) if has_opened() => worker.own(),
            (None, _) => 0,
        },
        // Answers go to the primary worker, the only one that dials and sends Hellos. A link that
        // another realm opened before it was known stays at the worker that it reached.
        Packet::Accept { .. }
        | Packet::Resumed { .. }
        | Packet::Retry { .. }
        | Packet::HelloReply(_) => 0,
        Packet::Resume(resume) => worker.of_id(resume.ticket.0),
        // It may belong to a link of this endpoint.
        Packet::Reset { connection, .. } if is_named(*connection) => worker.own(),
        Packet::Reset { .. } => 0,
        Packet::Init(_) | Packet::Hello(_) => worker.own(),
    };
    (owner != worker.own()).then_some(owner)
}

/// True if a packet belongs to the link that it was handed to, whatever the outcome.
const fn is_theirs(outcome: Result<(), Ignored>) -> bool {
    !matches!(outcome, Err(Ignored::NotAuthentic | Ignored::NotOpen))
}
