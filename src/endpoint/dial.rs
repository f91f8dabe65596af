//! The initiator's side of a handshake: one Init, sent again byte for byte until an authentic Accept
//! comes (HS-3, HS-4).

use std::time::Duration;

use rand::Rng as _;
use rand_core::CryptoRng;

use super::{
    Endpoint, LinkId, Ticket,
    link_entry::{ACCEPT_PATIENCE, Stage},
};
use crate::{
    crypto::{
        HandshakeFailed, Initiator, MESSAGE_1_OVERHEAD, PublicKey, SecretKey, SessionKeys, TAG_LEN,
        mac1, ticket_check,
    },
    link::{Attempts, BEGINNING, Link, Time},
    wire::{
        ConnectionId, Cookie, HandshakeId, INIT_OVERHEAD, Init, Life, RESUME_HEADER, Resume,
        ResumeNonce,
    },
};

/// Cookies shown in one handshake at most.
const COOKIES_MAX: u32 = 8;

/// So many Resumes in a row that bring nothing, and a handshake begins instead; so many packets that are large, and one with a smaller one.
const RESUMES_MAX: u32 = 6;

/// The answer to the last of them is waited for so many timeouts at least.
pub(super) const LAST_RESUME_TIMEOUTS: u32 = 3;

/// What opens a link.
#[derive(Debug)]
enum Opening {
    /// An Init, with the Noise message that it carries.
    Init(Box<Initiator>, Vec<u8>),
    /// A Resume, by this ticket and with this nonce.
    Resume(Box<Ticket>, ResumeNonce),
}

/// What this side has begun to open a link: one packet, sent again until it is answered.
#[derive(Debug)]
pub(super) struct Dial {
    handshake: HandshakeId,
    opening: Opening,
    packet: Vec<u8>,
    /// How often a cookie has been shown.
    shown: u32,
    attempts: Attempts,
    first_sent: Time,
    /// How often it has left since the other side last said anything.
    tries: Option<Tries>,
}

/// A packet that leaves until something is said to it. A copy (LINK-19) belongs to the try that it follows: that one has failed when
/// neither is answered.
#[derive(Clone, Copy, Debug)]
struct Tries {
    first_at: Time,
    /// When it last left, its copy aside.
    last_at: Time,
    count: u32,
    has_copies: bool,
}

impl Dial {
    const fn new(now: Time, handshake: HandshakeId, opening: Opening, packet: Vec<u8>) -> Self {
        Self {
            handshake,
            opening,
            packet,
            shown: 0,
            attempts: Attempts::queued(),
            first_sent: now,
            tries: None,
        }
    }

    /// Makes an Init, with what `link` may send early in it. Its handshake id claims `life`.
    pub fn begin(
        now: Time,
        rng: &mut impl CryptoRng,
        identity: &SecretKey,
        realm: &PublicKey,
        (link, life): (&mut Link, Life),
        max_datagram: usize,
    ) -> Result<Self, HandshakeFailed> {
        // With a cookie it has to fit as well. What does not fit waits for the link, on which it can leave in parts.
        let around = INIT_OVERHEAD + MESSAGE_1_OVERHEAD + size_of::<Cookie>();
        let room = max_datagram.saturating_sub(around);
        let payload = link.init_payload(now, room);
        let (initiator, noise) = Initiator::start(rng, identity, realm, &payload)?;
        let handshake = initiator.life_key.tag(life);
        let mut init = Vec::with_capacity(INIT_OVERHEAD + noise.len());
        Init::emit_covered(handshake, false, &noise, &mut init);
        let mac = mac1(realm, &init);
        init.extend_from_slice(&mac);
        let opening = Opening::Init(Box::new(initiator), noise);
        Ok(Self::new(now, handshake, opening, init))
    }

    /// Makes a Resume, with what `link` may send early in it, of a device that knows `life`.
    pub fn resume(
        now: Time,
        rng: &mut impl CryptoRng,
        ticket: Ticket,
        (link, life): (&mut Link, Life),
        max_datagram: usize,
    ) -> Self {
        let around = RESUME_HEADER + TAG_LEN + size_of::<Cookie>();
        let payload = link.resume_payload(now, max_datagram.saturating_sub(around));
        let mut nonce = ResumeNonce::default();
        rng.fill_bytes(&mut nonce);
        let mut packet = Vec::with_capacity(around + payload.len());
        let check = ticket_check(&ticket.token);
        Resume::emit_header(ticket.id, &check, &nonce, None, &mut packet);
        packet.extend_from_slice(&payload);
        ticket
            .secret
            .resume_key(&nonce, life)
            .seal(0, RESUME_HEADER, &mut packet);
        let opening = Opening::Resume(Box::new(ticket), nonce);
        Self::new(now, Resume::handshake(&nonce), opening, packet)
    }

    /// True for what begins that handshake.
    pub fn is_for(&self, handshake: HandshakeId) -> bool {
        self.handshake == handshake
    }

    /// The ticket and the nonce of a resumption.
    pub const fn resumption(&self) -> Option<(&Ticket, &ResumeNonce)> {
        match &self.opening {
            Opening::Init(..) => None,
            Opening::Resume(ticket, nonce) => Some((ticket, nonce)),
        }
    }

    /// True when enough Resumes have left, or packets that the path may be too narrow for, and the last has had its time.
    pub fn is_in_vain(&self, now: Time) -> bool {
        let last = self.attempts.again().filter(|at| *at <= now);
        let is_over = self.attempts.count() >= RESUMES_MAX && last.is_some();
        is_over && (self.resumption().is_some() || self.packet.len() > BEGINNING)
    }

    /// True when the next Resume is the last: where the path has become longer, the answer to it may take longer than was known.
    pub const fn is_last_resume(&self) -> bool {
        self.resumption().is_some() && self.attempts.count() + 1 >= RESUMES_MAX
    }

    /// How often the packet has left, and how long it is.
    pub const fn sent(&self) -> (u32, usize) {
        (self.attempts.count(), self.packet.len())
    }

    /// When it wants to leave again; at once when it has yet to leave.
    pub fn timeout(&self) -> Time {
        self.attempts.timeout().unwrap_or_default()
    }

    /// The packet, if it is time to send it (again). The next time follows after `wait`, and a copy after `copy`.
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
        let is_copy = !self.attempts.sent();
        if !is_copy {
            let copy = copy.map(|copy| now + copy);
            self.attempts.schedule(Some(now + wait), copy);
        }
        let tries = self.tries.get_or_insert(Tries {
            first_at: now,
            last_at: now,
            count: 0,
            has_copies: false,
        });
        if is_copy {
            tries.has_copies = true;
        } else {
            tries.last_at = now;
            tries.count += 1;
        }
        out.clear();
        out.extend_from_slice(&self.packet);
        true
    }

    /// How many packets of the first try were certainly lost, or their answers, now that a later one is answered: one, or two where it left
    /// twice. None where the answer did not come about a round trip after the last try: on a path that has become longer, it comes sooner
    /// or later than that, and may be to any of them. Nor where it may be a late one to the first.
    pub fn lost(&self, now: Time, rtt: Option<Duration>) -> u32 {
        let Some((tries, rtt)) = self.tries.filter(|tries| tries.count > 1).zip(rtt) else {
            return 0;
        };
        let age = now - tries.last_at;
        let may_be_late = now - tries.first_at <= rtt + rtt / 8 + ACCEPT_PATIENCE;
        if age * 4 >= rtt * 3 && age * 2 <= rtt * 3 && !may_be_late {
            1 + u32::from(tries.has_copies)
        } else {
            0
        }
    }

    /// True when the packet left so lately that nothing can be an answer to it.
    pub fn is_unanswerable(&self, now: Time, rtt: Option<Duration>) -> bool {
        let is_early = |tries: Tries| rtt.is_some_and(|rtt| (now - tries.first_at) * 2 < rtt);
        self.tries.map_or(rtt.is_some(), is_early)
    }

    /// Shows a cookie from here on, and sends the packet with it at once. Who forges many of them gains nothing.
    pub fn show(&mut self, realm: &PublicKey, cookie: &Cookie) {
        if self.shown == COOKIES_MAX {
            return;
        }
        match &self.opening {
            Opening::Init(_, noise) => {
                self.packet.clear();
                Init::emit_covered(self.handshake, true, noise, &mut self.packet);
                let mac = mac1(realm, &self.packet);
                self.packet.extend_from_slice(&mac);
                self.packet.extend_from_slice(cookie);
            }
            Opening::Resume(ticket, nonce) => {
                let before = if self.shown == 0 {
                    RESUME_HEADER
                } else {
                    RESUME_HEADER + cookie.len()
                };
                let sealed = self.packet.split_off(before.min(self.packet.len()));
                self.packet.clear();
                let check = ticket_check(&ticket.token);
                Resume::emit_header(ticket.id, &check, nonce, Some(cookie), &mut self.packet);
                self.packet.extend_from_slice(&sealed);
            }
        }
        self.shown += 1;
        // What came before was answered.
        self.tries = None;
        self.attempts.queue();
    }

    /// Reads Noise message 2. One that fails changes nothing: the genuine one may still come.
    pub fn finish(&mut self, noise: &[u8]) -> Result<(SessionKeys, Vec<u8>), HandshakeFailed> {
        match &mut self.opening {
            Opening::Init(initiator, _) => initiator.finish(noise),
            Opening::Resume(..) => Err(HandshakeFailed),
        }
    }

    /// The packet leaves again at once.
    pub fn hurry(&mut self) {
        self.tries = None;
        self.attempts.queue();
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
        let renewal = self.slots.get(&id).map(|slot| &slot.renewal);
        let new = renewal.and_then(|renewal| renewal.replaced_by);
        let is_opening = |new: &LinkId| {
            let slot = self.slots.get(new);
            slot.is_some_and(|slot| !matches!(slot.stage, Stage::Open))
        };
        if let Some(new) = new.filter(is_opening) {
            // One of them is enough, and what waits is on this one.
            self.end(new, None);
        }
        let Some(mut slot) = self.slots.remove(&id) else {
            return;
        };
        self.assembling
            .change(slot.holder(), slot.link.assembling(), 0);
        let name = slot.is_shared.then(|| self.name_of(id));
        let link = slot.link.into_awake().restart(name);
        if link.asks_in_secret() {
            // HS-7: what carries a password is asked again, and not on a link without forward secrecy.
            slot.resumption = None;
        }
        slot.link = link.into();
        slot.opened = now;
        if slot.is_shared {
            slot.token = None;
        }
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
