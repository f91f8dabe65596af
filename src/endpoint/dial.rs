//! The initiator's side of a handshake: one Init, sent again byte for byte until an authentic Accept
//! comes (HS-3, HS-4).

use std::time::Duration;

use rand::Rng as _;
use rand_core::CryptoRng;

use super::{Endpoint, LinkId, slot::Stage};
use crate::{
    crypto::{
        HandshakeFailed, Initiator, MESSAGE_1_OVERHEAD, PublicKey, SecretKey, SessionKeys, mac1,
    },
    link::{Attempts, Link, Time},
    wire::{ConnectionId, Cookie, HandshakeId, INIT_OVERHEAD, Init, Life},
};

/// Cookies shown in one handshake at most.
const COOKIES_MAX: u32 = 8;

/// A handshake that this side has begun.
#[derive(Debug)]
pub(super) struct Dial {
    pub handshake: HandshakeId,
    initiator: Initiator,
    noise: Vec<u8>,
    init: Vec<u8>,
    /// How often a cookie has been shown.
    shown: u32,
    attempts: Attempts,
    first_sent: Time,
}

impl Dial {
    /// Makes the Init, with what `link` may send early in it. Its handshake id claims `life`.
    pub fn begin(
        now: Time,
        rng: &mut impl CryptoRng,
        identity: &SecretKey,
        realm: &PublicKey,
        (link, life): (&mut Link, Life),
        max_datagram: usize,
    ) -> Result<Self, HandshakeFailed> {
        // With a cookie it has to fit as well.
        let around = INIT_OVERHEAD + MESSAGE_1_OVERHEAD + size_of::<Cookie>();
        let room = max_datagram.saturating_sub(around);
        let payload = link.init_payload(now, room);
        let (initiator, noise) = Initiator::start(rng, identity, realm, &payload)?;
        let handshake = initiator.life_key.tag(life);
        let mut init = Vec::with_capacity(INIT_OVERHEAD + noise.len());
        Init::emit_covered(handshake, false, &noise, &mut init);
        let mac = mac1(realm, &init);
        init.extend_from_slice(&mac);
        Ok(Self {
            handshake,
            initiator,
            noise,
            init,
            shown: 0,
            attempts: Attempts::queued(),
            first_sent: now,
        })
    }

    /// How often the Init has left, and how long it is.
    pub const fn sent(&self) -> (u32, usize) {
        (self.attempts.count(), self.init.len())
    }

    /// When it wants to leave again; at once when it has yet to leave.
    pub fn timeout(&self) -> Time {
        self.attempts.timeout().unwrap_or_default()
    }

    /// The Init, if it is time to send it (again). The next time follows after `wait`, and a copy after `copy`.
    pub fn transmit(
        &mut self,
        now: Time,
        wait: Duration,
        copy: Option<Duration>,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.attempts.expire(now) {
            self.attempts.queue();
        }
        if !self.attempts.is_queued() {
            return false;
        }
        if self.attempts.count() == 0 {
            self.first_sent = now;
        }
        if self.attempts.sent() {
            let copy = copy.map(|copy| now + copy);
            self.attempts.schedule(Some(now + wait), copy);
        }
        out.clear();
        out.extend_from_slice(&self.init);
        true
    }

    /// Shows a cookie from here on, and sends the Init with it at once. Who forges many of them gains nothing.
    pub fn show(&mut self, realm: &PublicKey, cookie: &Cookie) {
        if self.shown == COOKIES_MAX {
            return;
        }
        self.shown += 1;
        self.init.clear();
        Init::emit_covered(self.handshake, true, &self.noise, &mut self.init);
        let mac = mac1(realm, &self.init);
        self.init.extend_from_slice(&mac);
        self.init.extend_from_slice(cookie);
        self.attempts.queue();
    }

    /// Reads Noise message 2. One that fails changes nothing: the genuine one may still come.
    pub fn finish(&mut self, noise: &[u8]) -> Result<(SessionKeys, Vec<u8>), HandshakeFailed> {
        self.initiator.finish(noise)
    }

    /// How long the round trip took, if it is certain which Init was answered.
    pub fn round_trip(&self, now: Time) -> Option<Duration> {
        (self.attempts.count() == 1).then(|| now - self.first_sent)
    }
}

impl Endpoint {
    /// The other side knows nothing of this link any more: opens it anew. What has no reply yet is
    /// asked again.
    pub(super) fn dial_again(&mut self, now: Time, id: LinkId) {
        let Some(mut slot) = self.slots.remove(&id) else {
            return;
        };
        self.assembling
            .change(slot.holder(), slot.link.assembling(), 0);
        let name = slot.is_shared.then(|| self.name_of(id));
        slot.link = slot.link.into_awake().restart(name).into();
        slot.opened = now;
        slot.token = None;
        if slot.peer.is_some() {
            slot.stage = Stage::Calling;
        } else {
            let remote = ConnectionId(self.rng.next_u32());
            slot.link.establish_plain(Some(remote));
            slot.remote = Some(remote);
        }
        self.slots.insert(id, slot);
        self.touch(now, id);
    }
}
