//! The life that an Init claims, and the life that WELCOME states (HS-14).

use super::{floods::strict, *};
use crate::{
    crypto::LifeClaim,
    wire::{Life, varint_len},
};

const OLD: Life = Life([1, 2, 3, 4]);
const NEW: Life = Life([5, 6, 7, 8]);

impl Pair {
    /// Carries the client's Init, which the server answers with `life`, `is_unknown` and `highest`.
    /// Returns the claim and the WELCOME.
    fn greet(
        &mut self,
        life: Option<Life>,
        is_unknown: bool,
        highest: u64,
    ) -> (LifeClaim, Welcome) {
        let mut out = vec![];
        self.client.poll_transmit(self.now, &mut out).unwrap();
        let init = out.len();
        self.server.handle_datagram(self.now, self.from, &out);
        let Some(Event::Incoming { link, claim, .. }) = self.server.poll_event() else {
            panic!("no link was opened")
        };
        assert!(
            !self
                .server
                .link(link)
                .is_some_and(LinkStatus::is_life_unknown)
        );
        self.server
            .tell_life(link, life, ClaimedLife::unknown_if(is_unknown));
        assert_eq!(
            self.server
                .link(link)
                .is_some_and(LinkStatus::is_life_unknown),
            is_unknown
        );
        self.server.welcome(
            self.now,
            link,
            Some(AccountId::new(1)),
            OperationNumber(highest),
        );
        let mut events = vec![];
        self.serve(&mut events);
        events.extend(self.drive(|_| false));
        assert!(self.carried[0].1.len() <= init, "WIRE-11");
        self.carried.clear();
        let welcome = events.iter().find_map(|event| match event {
            Event::Opened { welcome, .. } => Some(*welcome),
            _ => None,
        });
        (claim.unwrap(), welcome.unwrap())
    }
}

/// HS-14: an Init claims a life, and WELCOME states the current one and whether the claimed one is
/// unknown.
#[test]
fn life_claimed_in_init_is_answered_in_welcome() {
    let mut pair = Pair::new(Protection::Sealed);
    for (claims, tells, is_unknown) in [
        (None, Some(NEW), false),
        (Some(OLD), Some(NEW), false),
        (Some(OLD), Some(NEW), true),
        (Some(NEW), None, false),
    ] {
        let link = pair.connect();
        pair.client.claim_life(link, claims);
        let (claim, welcome) = pair.greet(tells, is_unknown, 9);
        for life in [Life::NONE, OLD, NEW] {
            assert_eq!(claim.is_for(life), life == claims.unwrap_or(Life::NONE));
        }
        assert_eq!((welcome.life, welcome.is_life_unknown), (tells, is_unknown));
    }
}

/// HS-7: an early request of a client that claims an unknown life waits until the link is proven.
#[test]
fn early_data_with_unknown_life_waits_until_link_is_proven() {
    for is_unknown in [false, true] {
        let mut pair = Pair::new(Protection::Sealed);
        let link = pair.connect();
        pair.client.claim_life(link, Some(OLD));
        pair.ask(link, true);
        let mut out = vec![];
        pair.client.poll_transmit(pair.now, &mut out).unwrap();
        pair.server.handle_datagram(pair.now, pair.from, &out);
        let Some(Event::Incoming { link, .. }) = pair.server.poll_event() else {
            panic!("no link was opened")
        };
        pair.server
            .tell_life(link, Some(NEW), ClaimedLife::unknown_if(is_unknown));
        let Some(Event::Request {
            number,
            bytes,
            early: true,
            ..
        }) = pair.server.poll_event()
        else {
            panic!("nothing was asked early")
        };
        let request = IncomingRequest { number, bytes };
        let given = pair.server.keep_for_proof(pair.now, link, request);
        assert_eq!(given.is_none(), is_unknown);
        if is_unknown {
            let number = OperationNumber(9);
            pair.server
                .welcome(pair.now, link, Some(AccountId::new(1)), number);
            // The Accept waits briefly for an answer.
            let mut events = pair.drive(|_| false);
            while events.is_empty() {
                pair.wait();
                events = pair.drive(|_| false);
            }
            let is_asked = |event: &&Event| matches!(event, Event::Request { early: false, .. });
            let asked = events.iter().filter(is_asked).count();
            assert_eq!(asked, 1);
        }
    }
}

/// HS-14: a later handshake of the link, and one that replaces the link, claim the life that
/// WELCOME stated. If the first claim was unknown, they repeat it, because requests on the link
/// name positions of the life that it has claimed (READ-9).
#[test]
fn life_told_in_welcome_is_claimed_by_later_handshakes() {
    later_handshakes_claim(false, NEW);
    later_handshakes_claim(true, OLD);
}

fn later_handshakes_claim(is_unknown: bool, life: Life) {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.client.claim_life(link, Some(OLD));
    pair.greet(Some(NEW), is_unknown, 9);
    let begun = pair.now;
    pair.server = server(Protection::Sealed);
    let restarted = pair.ask(link, true);
    // The client does not know that the link is lost. Its request is answered with a Reset.
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    pair.server.handle_datagram(pair.now, pair.from, &out);
    pair.server.poll_transmit(pair.now, &mut out).unwrap();
    pair.client
        .handle_datagram(pair.now, server_address(), &out);
    let (claim, welcome) = pair.greet(None, false, 9);
    assert!(claim.is_for(life), "{restarted:?} is asked again");
    assert_eq!((welcome.life, welcome.is_life_unknown), (None, false));

    pair.now = begun + LINK_LIFETIME + RTT;
    pair.ask(link, true);
    let events = pair.drive(|_| false);
    let claims = events.iter().filter_map(|event| match event {
        Event::Incoming { claim, .. } => claim.as_ref(),
        _ => None,
    });
    assert_eq!(claims.filter(|claim| claim.is_for(life)).count(), 1);
}

/// HS-12, HS-14: the Init that shows a cookie has the same handshake id as the one before, so its
/// life claim stays valid.
#[test]
fn life_claim_after_retry_stays_valid() {
    let mut pair = strict(1);
    let mut claimed = 0;
    for _ in 0..6 {
        let begun = pair.now;
        let link = pair.connect();
        pair.client.claim_life(link, Some(OLD));
        pair.ask(link, true);
        for event in pair.drive(|_| false) {
            if let Event::Incoming { claim, .. } = event {
                claimed += usize::from(claim.is_some_and(|claim| claim.is_for(OLD)));
            }
        }
        pair.now = begun;
    }
    let shown = pair.carried.iter().filter(
        |(_, bytes)| matches!(Packet::parse(bytes), Ok(Packet::Init(init)) if init.cookie.is_some()),
    );
    assert_eq!((claimed, shown.count()), (6, 2));
}

/// HS-14: handshakes of one device that claim the same life have different ids.
#[test]
fn life_claims_of_one_device_have_different_handshake_ids() {
    let mut pair = Pair::new(Protection::Sealed);
    for _ in 0..15 {
        let link = pair.connect();
        pair.client.claim_life(link, Some(OLD));
        pair.drive(|_| false);
    }
    let ids = pair
        .carried
        .iter()
        .filter_map(|(_, bytes)| match Packet::parse(bytes) {
            Ok(Packet::Init(init)) => Some(init.handshake.0),
            _ => None,
        });
    let ids: Vec<u32> = ids.collect();
    assert_eq!(ids.len(), 15);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 15);
}

/// HS-14, WIRE-11: WELCOME omits the life if the Accept would be too long: with a successor key and
/// the longest operation number there is no room for it.
#[test]
fn life_is_omitted_when_accept_would_be_too_long() {
    let mut pair = Pair::new(Protection::Sealed);
    let identity = Identity {
        current: SecretKey::from_bytes([9; 32]),
        former: vec![realm_key()],
        lasting: realm_key(),
    };
    pair.server = Endpoint::new(config(Some(Protection::Sealed)), &identity, [4; 32]);
    for (highest, life) in [((1 << 30) - 1, Some(NEW)), (1 << 30, None)] {
        assert_eq!(varint_len(highest) < 8, life.is_some());
        pair.connect();
        let (_, welcome) = pair.greet(Some(NEW), true, highest);
        assert!(welcome.successor.is_some());
        assert_eq!((welcome.life, welcome.is_life_unknown), (life, true));
    }
}

/// HS-14: realms that open links claim no life, and neither do plain links.
#[test]
fn life_is_not_claimed_by_realms_or_plain_links() {
    for protection in [Protection::Sealed, Protection::Plain] {
        let mut pair = Pair::new(protection);
        let own = SecretKey::from_bytes([1; 32]).public();
        let (now, to) = (pair.now, server_address());
        let link = match protection {
            Protection::Sealed => pair.client.link_for_requests(now, &own, pair.realm, to),
            Protection::Plain => pair.client.connect_plain(now, to, None),
        };
        pair.ask(link, true);
        let events = pair.drive(|_| false);
        let claims_none = |event: &Event| matches!(event, Event::Incoming { claim: None, .. });
        assert!(events.iter().any(claims_none), "{events:?}");
    }
}
