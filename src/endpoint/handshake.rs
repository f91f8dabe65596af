//! Handshakes of both sides: Init, Accept and Retry, the first packets of plain links, and links
//! that are opened again.

use std::net::SocketAddr;

use rand::Rng as _;

use super::{
    ACCEPTS_LINKS, Dropped, Endpoint, LinkId, Path,
    accept_cache::{AcceptCache, CachedAccept},
    admission::Sender,
    holder::AddressProof,
    link_table::{Accepting, Answering, LinkEntry, Role, Stage},
    outgoing::CONNECTION_LEN,
    trace_handshake,
};
use crate::{
    crypto::{MESSAGE_1_OVERHEAD, Responder},
    link::{INIT_PAYLOAD_MIN, Link, Time},
    wire::{
        ACCEPT_HEADER, CloseReason, ConnectionId, Cookie, Frame, Frames, HandshakeId, Init,
        LinkPacket, PROTOCOL_VERSION, Packet, Protection, RETRY_LEN,
    },
};

impl Endpoint {
    /// HS-3: cheap checks come first: the MAC before the table lookup, the lookup before the
    /// elliptic curve.
    pub(super) fn handle_init(
        &mut self,
        now: Time,
        path: Path,
        init: &Init<'_>,
        datagram: &[u8],
    ) -> Result<Option<u32>, Dropped> {
        let from = path.remote;
        if !ACCEPTS_LINKS
            || !self.admission.is_open()
            || self.config.accept != Some(Protection::Sealed)
        {
            return Err(Dropped::NotServed);
        }
        if init.version != PROTOCOL_VERSION {
            return Err(Dropped::OtherVersion);
        }
        if init.noise.len() < MESSAGE_1_OVERHEAD + INIT_PAYLOAD_MIN {
            return Err(Dropped::TooShort);
        }
        let (own, key) = self.keys.for_init(init).ok_or(Dropped::NotForThisSide)?;
        let secret = key.secret.clone();
        let hash = AcceptCache::hash(datagram);
        match self.accept_cache.look_up(&hash) {
            CachedAccept::Answered(accept, link, _) => {
                let accept = accept.to_vec();
                self.answer_again(path, link, accept);
                return Ok(None);
            }
            CachedAccept::Awaiting => return Err(Dropped::InWork),
            CachedAccept::No => {}
        }
        // HS-12: the handshake is expensive. A source that begins many has to prove its address.
        let sender = self
            .admission
            .sender(now, from, init.handshake, init.cookie.as_ref());
        // If all link slots are taken, only an initiator with a proven address causes an eviction.
        let is_admitted = sender == Sender::Verified
            || !self.accounting.is_full(&self.config) && self.admission.admits(now, from.ip());
        if !is_admitted {
            self.send_retry(now, path, init.handshake);
            return Ok(None);
        }
        let (responder, payload) =
            Responder::read(&mut self.rng, &secret, init.noise).map_err(|_| Dropped::Forged)?;
        if !self.is_primary_worker() && self.links.is_realm(&responder.peer) {
            return Ok(Some(0));
        }
        let mut link = Link::respond(self.link_config(None), 0);
        if link.handle_early(now, &payload).is_err() || !link.opening().is_asked() {
            return Err(Dropped::Malformed);
        }
        self.evict_for_newcomer()?;
        let peer = Some(responder.peer);
        let answering = Answering::Accept(Box::new(responder), init.handshake);
        let accepting = Accepting::new(now, answering, hash, datagram.len());
        let stage = Stage::Accepting(Box::new(accepting));
        let entry = LinkEntry::new(now, link, Role::Responder, path, peer, stage);
        let id = self.insert(entry.with_key(own));
        trace_handshake(id, false, ("init", datagram.len()), Some(&payload));
        let proof = match sender {
            Sender::Verified => AddressProof::Cookie,
            Sender::Unverified => AddressProof::None,
        };
        self.give_slot(id, proof)?;
        // Links whose Inits are evicted from the cache stay. A repeat of such an Init opens another
        // link.
        self.accept_cache.insert(now, (hash, from.ip()), id);
        self.touch(now, id);
        Ok(None)
    }

    /// Answers a repeat of the packet that began `link` with the same answer.
    pub(super) fn answer_again(&mut self, path: Path, link: LinkId, answer: Vec<u8>) {
        if let Some(entry) = self.links.get_mut(link)
            && entry.path().remote != path.remote
            && !entry.link.is_proven()
            // A pending challenge was sent nowhere else. With a new challenge for each copy, an
            // attacker who repeats the first packet would keep its sender from ever answering the
            // latest challenge.
            && !entry.link.has_moved()
        {
            // From here on the receiver of the answer need not be at the address of the first
            // packet.
            let mut data = [0; 8];
            self.rng.fill_bytes(&mut data);
            entry.link.doubt_path(data);
        }
        self.outbox.answer(path, answer);
    }

    /// HS-12: asks the sender of a first packet to prove its address.
    pub(super) fn send_retry(&mut self, now: Time, path: Path, handshake: HandshakeId) {
        let cookie = self
            .admission
            .cookie(now, path.remote, handshake, &mut self.rng);
        let mut retry = Vec::new();
        Packet::emit_retry(handshake, &cookie, &mut retry);
        self.outbox.answer(path, retry);
        self.stats.answers.retries += 1;
    }

    pub(super) fn handle_accept(
        &mut self,
        now: Time,
        from: SocketAddr,
        handshake: HandshakeId,
        noise: &[u8],
    ) -> Result<(), Dropped> {
        let id = self
            .links
            .dialing(from, handshake)
            .ok_or(Dropped::Unasked)?;
        let entry = self.links.get_mut(id).ok_or(Dropped::Unasked)?;
        let dial = entry.dial_mut().ok_or(Dropped::Unasked)?;
        let (keys, payload) = dial.finish(noise).map_err(|_| Dropped::Forged)?;
        trace_handshake(
            id,
            false,
            ("accept", ACCEPT_HEADER + noise.len()),
            payload.get(CONNECTION_LEN..),
        );
        entry.record_dial_answer(now);
        let Some((connection, payload)) = payload.split_first_chunk() else {
            // Authentic but malformed.
            self.end(id, Some(CloseReason::Violation));
            return Err(Dropped::Malformed);
        };
        let connection = ConnectionId(u32::from_be_bytes(*connection));
        let was_tried = cfg!(feature = "server") && entry.is_trial();
        entry.on_accepted(now, connection, keys);
        let understood = entry.link.handle_early(now, payload).is_ok();
        if !understood || !entry.link.opening().is_welcomed() {
            self.end(id, Some(CloseReason::Violation));
            return Err(Dropped::Malformed);
        }
        if entry.link.awaits_early() || entry.is_shared() || entry.link.is_kept_alive() {
            // The answer to early data did not fit the Accept, or is slow. Now it may be sent. A
            // realm may send requests once the link is proven, and it pushes no entries before.
            entry.link.ping();
        }
        if was_tried {
            self.confirm_address(now, id);
        }
        self.touch(now, id);
        Ok(())
    }

    /// HS-12: handles a Retry: the responder asks for a proof of this side's address.
    pub(super) fn handle_retry(
        &mut self,
        now: Time,
        from: SocketAddr,
        handshake: HandshakeId,
        cookie: &Cookie,
    ) -> Result<(), Dropped> {
        let id = self
            .links
            .dialing(from, handshake)
            .ok_or(Dropped::Unasked)?;
        if let Some(entry) = self.links.get_mut(id)
            && let Some(realm) = entry.peer()
            && let Some(dial) = entry.dial_mut()
        {
            // It is not authenticated, so it gives no RTT sample.
            dial.show(&realm, cookie);
            trace_handshake(id, false, ("retry", RETRY_LEN), None);
            self.touch(now, id);
        }
        Ok(())
    }

    /// Handles a packet of an unknown plain link. A packet with an OPEN begins a link (LINK-11).
    pub(super) fn handle_plain_stranger(
        &mut self,
        now: Time,
        path: Path,
        connection: ConnectionId,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Dropped> {
        if !ACCEPTS_LINKS {
            return Err(Dropped::NotServed);
        }
        // Without the checksum, which holds.
        let payload = packet.body.split_last_chunk::<4>();
        let opens = payload.is_some_and(|(payload, _)| {
            Frames::checked(payload)
                .is_ok_and(|mut frames| frames.any(|frame| matches!(frame, Frame::Open(_))))
        });
        if !opens {
            self.answer_with_reset(now, path, connection, datagram.len());
            return Err(Dropped::UnknownLink);
        }
        if !self.admission.is_open() {
            return Err(Dropped::NotServed);
        }
        self.evict_for_newcomer()?;
        let mut link = Link::respond(self.link_config(None), 0);
        link.establish_plain(None);
        let mut data = [0; 8];
        self.rng.fill_bytes(&mut data);
        link.challenge(data);
        let entry = LinkEntry::new(now, link, Role::Responder, path, None, Stage::Open);
        let id = self.insert(entry.named(connection));
        self.give_slot(id, AddressProof::None)?;
        Ok(self.receive(now, id, packet, datagram)?)
    }

    /// Reopens a link that the other side has forgotten. Requests without a reply are sent again.
    pub(super) fn dial_again(&mut self, now: Time, id: LinkId) {
        let new = self
            .links
            .get(id)
            .and_then(|entry| entry.rekey().replaced_by());
        let is_opening = |new: &LinkId| {
            let entry = self.links.get(*new);
            entry.is_some_and(|entry| !entry.stage().is_open())
        };
        if let Some(new) = new.filter(is_opening) {
            // One of the two is enough, and the requests wait on this one.
            self.end(new, None);
        }
        let Some(entry) = self.links.get(id) else {
            return;
        };
        self.accounting
            .change_reassembly(entry.holder(), entry.link.assembling(), 0);
        let name = entry.is_shared().then(|| self.keys.link_name(id));
        let Some(entry) = self.links.restart(now, id, name) else {
            return;
        };
        if entry.peer().is_none() {
            let remote = ConnectionId(self.rng.next_u32());
            entry.link.establish_plain(Some(remote));
            entry.set_remote(remote);
        }
        self.touch(now, id);
    }
}
