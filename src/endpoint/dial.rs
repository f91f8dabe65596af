//! The initiator's side of a handshake: one Init, retransmitted byte for byte until an authentic
//! Accept arrives (HS-3, HS-4).

use std::time::Duration;

use rand_core::CryptoRng;

use super::{
    limits::{ACCEPT_PATIENCE, DIALS_ONCE, DIALS_ONCE_PATIENCE},
    ticket::Ticket,
};
use crate::{
    crypto::{
        HandshakeFailed, Initiator, MESSAGE_1_OVERHEAD, PublicKey, SecretKey, SessionKeys, TAG_LEN,
        mac1, ticket_check,
    },
    faults::{Fault, is_planted},
    link::{Attempts, BEGINNING, Exchange, Link, Time},
    wire::{Cookie, HandshakeId, INIT_OVERHEAD, Init, Life, RESUME_HEADER, Resume, ResumeNonce},
};

/// The largest number of cookies returned in one handshake.
const COOKIES_MAX: u32 = 8;

/// The number of unanswered Resumes after which a handshake begins instead. Also the number of
/// unanswered large packets after which a handshake begins with a smaller one.
const RESUMES_MAX: u32 = 6;

/// The answer to the last Resume is awaited for at least this many timeouts.
const LAST_RESUME_TIMEOUTS: u32 = 3;

/// The first packet of a link.
#[derive(Debug)]
enum Opening {
    /// An Init, with the Noise message that it carries.
    Init(Box<Initiator>, Vec<u8>),
    /// A Resume, with this ticket and this nonce.
    Resume(Box<Ticket>, ResumeNonce),
}

/// A handshake of this side: one packet, retransmitted until it is answered.
#[derive(Debug)]
pub(super) struct Dial {
    handshake: HandshakeId,
    opening: Opening,
    packet: Vec<u8>,
    /// The number of cookies returned.
    shown: u32,
    attempts: Attempts,
    first_sent: Time,
    /// The transmissions since the last answer of the other side.
    tries: Option<Tries>,
}

/// The transmissions of a packet until an answer arrives. A redundant copy (LINK-19) belongs to the
/// try that it follows. A try has failed if neither is answered.
#[derive(Clone, Copy, Debug)]
struct Tries {
    first_at: Time,
    /// The last transmission that was not a copy.
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

    /// Makes an Init with the early data of `link`. Its handshake id claims `life`.
    pub fn begin(
        now: Time,
        rng: &mut impl CryptoRng,
        identity: &SecretKey,
        realm: &PublicKey,
        (link, life): (&mut Link, Life),
        max_datagram: usize,
    ) -> Result<Self, HandshakeFailed> {
        // A cookie has to fit in too. Data that does not fit waits for the link, where it can be
        // fragmented.
        let around = INIT_OVERHEAD + MESSAGE_1_OVERHEAD + size_of::<Cookie>();
        let capacity = max_datagram.saturating_sub(around);
        let payload = link.init_payload(now, capacity);
        let (initiator, noise) = Initiator::start(rng, identity, realm, &payload)?;
        let handshake = initiator.life_key.tag(life);
        let mut init = Vec::with_capacity(INIT_OVERHEAD + noise.len());
        Init::emit_covered(handshake, false, &noise, &mut init);
        let mac = mac1(realm, &init);
        init.extend_from_slice(&mac);
        let opening = Opening::Init(Box::new(initiator), noise);
        Ok(Self::new(now, handshake, opening, init))
    }

    /// Makes a Resume with the early data of `link`, for a device that knows `life`.
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

    /// True if the handshake id is `handshake`.
    pub fn is_for(&self, handshake: HandshakeId) -> bool {
        self.handshake == handshake
    }

    /// Returns the ticket and the nonce of a resumption.
    pub const fn resumption(&self) -> Option<(&Ticket, &ResumeNonce)> {
        match &self.opening {
            Opening::Init(..) => None,
            Opening::Resume(ticket, nonce) => Some((ticket, nonce)),
        }
    }

    /// True if enough Resumes have left, or enough packets that may be too large for the path, and
    /// the last has timed out.
    pub fn is_in_vain(&self, now: Time) -> bool {
        let last = self.attempts.again().filter(|at| *at <= now);
        let is_over = self.attempts.count() >= RESUMES_MAX && last.is_some();
        is_over && (self.resumption().is_some() || self.packet.len() > BEGINNING)
    }

    /// True if the next Resume is the last. If the path has become longer, its answer may take
    /// longer than the known round-trip time.
    const fn is_last_resume(&self) -> bool {
        self.resumption().is_some() && self.attempts.count() + 1 >= RESUMES_MAX
    }

    /// Returns how often the packet has left, and its length in bytes.
    pub const fn sent(&self) -> (u32, usize) {
        (self.attempts.count(), self.packet.len())
    }

    /// Returns when the packet is due; at once if it has not left yet.
    pub fn timeout(&self) -> Time {
        self.attempts.timeout().unwrap_or_default()
    }

    /// True if the packet has left as often as it may to an unverified address.
    pub fn has_tried_often(&self) -> bool {
        // Only realms are told addresses of others; this leaves the check out of light clients.
        cfg!(feature = "server")
            && self.attempts.count() >= DIALS_ONCE
            && !is_planted(Fault::DialWithoutEnd)
    }

    /// Writes the packet into `out` if it is due. `link` says when it is due next; the address of a
    /// trial is unverified. Returns the wait for an answer, if the packet is written.
    pub fn transmit(
        &mut self,
        now: Time,
        link: &mut Link,
        is_trial: bool,
        out: &mut Vec<u8>,
    ) -> Option<Duration> {
        let (repeats, bytes) = self.sent();
        let mut wait = link.repeat_after(now, repeats, bytes);
        // The address is only tried and not verified: it gets no redundant copies (LINK-19).
        let copy = link.copy_after().filter(|_| !is_trial);
        if cfg!(feature = "server") && is_trial && repeats + 1 >= DIALS_ONCE {
            // This is the last try. Its answer may take a long round trip.
            wait = wait.max(DIALS_ONCE_PATIENCE);
        }
        if self.is_last_resume() {
            wait = wait.max(link.timeout() * LAST_RESUME_TIMEOUTS);
        }
        let is_written = self.write_due(now, wait, copy, out);
        if repeats > 0 && self.attempts.count() > repeats {
            link.count_repeated_opening();
        }
        is_written.then_some(wait)
    }

    /// Writes the packet if it is due. The next transmission is due after `wait`, and a redundant
    /// copy after `copy`. True if the packet is written.
    fn write_due(
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

    /// Returns how many packets of the first try, or their answers, were certainly lost, given that
    /// a later one is answered: one, or two if the try had a copy. Returns 0 if the answer did not
    /// arrive about one round trip after the last try: on a path that has become longer the answer
    /// may be to any try. Returns 0 too if it may be a late answer to the first try.
    fn lost(&self, now: Time, rtt: Option<Duration>) -> u32 {
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

    /// Records in `link` what the answer to the packet shows of the path.
    pub fn record_answer(&self, now: Time, link: &mut Link) {
        let lost = self.lost(now, link.rtt());
        link.note_exchange(Exchange {
            lost,
            was_repeated: self.attempts.count() > 1,
        });
        if let Some(round_trip) = self.round_trip(now) {
            link.sample(round_trip);
        }
    }

    /// True if the packet left too recently for any answer to it.
    pub fn is_unanswerable(&self, now: Time, rtt: Option<Duration>) -> bool {
        match (self.tries, rtt) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(tries), Some(rtt)) => (now - tries.first_at) * 2 < rtt,
        }
    }

    /// Adds a cookie to the packet and sends it at once. Forged cookies have no further effect
    /// after [`COOKIES_MAX`] of them.
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
        // The earlier transmissions were answered.
        self.tries = None;
        self.attempts.queue();
    }

    /// Reads Noise message 2. A failure changes nothing: the genuine message may still arrive.
    pub fn finish(&mut self, noise: &[u8]) -> Result<(SessionKeys, Vec<u8>), HandshakeFailed> {
        match &mut self.opening {
            Opening::Init(initiator, _) => initiator.finish(noise),
            Opening::Resume(..) => Err(HandshakeFailed),
        }
    }

    /// Sends the packet again at once.
    pub fn hurry(&mut self) {
        self.tries = None;
        self.attempts.queue();
    }

    /// Returns the round-trip time, if it is certain which Init was answered.
    fn round_trip(&self, now: Time) -> Option<Duration> {
        (self.attempts.count() == 1).then(|| now - self.first_sent)
    }
}
