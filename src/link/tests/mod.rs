//! Two links and a network between them.

// They use the simulator's model of a path.
#[cfg(all(feature = "client", feature = "embedded"))]
mod bulk;
#[cfg(all(feature = "client", feature = "embedded"))]
mod congestion;
mod incoming;
#[cfg(all(feature = "client", feature = "embedded"))]
mod mtu;
mod packet_builder;
mod queue;

use alloc::{vec, vec::Vec};

use rand::{SeedableRng, rngs::ChaCha20Rng};

use super::{keepalive::UNANSWERED_MAX, protection::NUMBERS_MAX, rtt::Rtt, *};
use crate::{
    crypto::{Initiator, Responder, SecretKey},
    wire::{OperationNumber, Packet},
};

const END: Time = Time(120_000_000);

struct Pair {
    now: Time,
    client: Link,
    server: Link,
}

/// Returns a link's next datagram.
fn transmit(link: &mut Link, now: Time) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    link.poll_transmit(now, &mut out).then_some(out)
}

fn deliver(link: &mut Link, now: Time, datagram: &[u8]) -> Result<(), Ignored> {
    match Packet::parse(datagram) {
        Ok(Packet::Link(packet)) => link.handle_packet(now, &packet, datagram, &mut Vec::new()),
        other => panic!("not a link's packet: {other:?}"),
    }
}

fn events(link: &mut Link) -> Vec<Event> {
    core::iter::from_fn(|| link.poll_event()).collect()
}

impl Link {
    fn ask(&mut self, bytes: Vec<u8>, deadline: Time, early: bool) -> Option<RequestId> {
        self.request(PendingRequest {
            bytes,
            deadline,
            early,
        })
    }
}

/// The configuration of links that remember a round trip of 60 ms.
const CONFIG: Config = Config {
    max_datagram: 1200,
    max_message: 20_000,
    rate: None,
    redundancy: Redundancy::Auto,
    rtt: Some(Duration::from_millis(60)),
    seed: 7,
};
/// The configuration of links that know nothing of their path.
const UNKNOWN_PATH: Config = Config {
    rtt: None,
    ..CONFIG
};

impl Pair {
    fn new() -> Self {
        Self::with(CONFIG)
    }

    /// Returns two links of this configuration.
    fn with(config: Config) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (device, realm) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let (mut initiator, one) =
            Initiator::start(&mut rng, &device, &realm.public(), b"").unwrap();
        let (responder, _) = Responder::read(&mut rng, &realm, &one).unwrap();
        let (server_keys, two) = responder.finish(b"").unwrap();
        let (client_keys, _) = initiator.finish(&two).unwrap();
        let mut client = Link::initiate(config, None);
        client.establish(client_keys, Some(ConnectionId(9)));
        let mut server = Link::respond(config, 100);
        server.establish(server_keys, None);
        Self {
            now: Time(0),
            client,
            server,
        }
    }

    /// Carries datagrams until there are none, without letting time pass. Returns their lengths.
    fn drive(&mut self) -> Vec<usize> {
        let mut lens = vec![];
        loop {
            let up = transmit(&mut self.client, self.now);
            if let Some(up) = &up {
                deliver(&mut self.server, self.now, up).unwrap();
                lens.push(up.len());
            }
            let down = transmit(&mut self.server, self.now);
            if let Some(down) = &down {
                deliver(&mut self.client, self.now, down).unwrap();
                lens.push(down.len());
            }
            if up.is_none() && down.is_none() {
                return lens;
            }
        }
    }

    fn advance(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
    }
}

/// LINK-4: an isolated exchange takes two datagrams, and nothing follows.
#[test]
fn exchange_isolated_takes_two_datagrams() {
    let mut pair = Pair::new();
    for round in 0..100 {
        let number = pair.client.ask(b"ask".to_vec(), END, false).unwrap();
        let up = transmit(&mut pair.client, pair.now).unwrap();
        // Once in 64 packets an acknowledgement rides along, to keep the other side's packet
        // numbers short.
        let acknowledgement = if round == 64 { 11 } else { 0 };
        let long_number = usize::from(number.0 > 63);
        assert_eq!(
            up.len(),
            6 + 2 + 3 + 16 + long_number + acknowledgement,
            "round {round}"
        );
        deliver(&mut pair.server, pair.now, &up).unwrap();
        assert_eq!(
            events(&mut pair.server),
            [Event::Request {
                number,
                bytes: b"ask".to_vec(),
                early: false
            }]
        );
        pair.server.reply(number, b"ok".to_vec());
        let down = transmit(&mut pair.server, pair.now).unwrap();
        deliver(&mut pair.client, pair.now, &down).unwrap();
        assert_eq!(
            events(&mut pair.client),
            [Event::Reply {
                number,
                bytes: b"ok".to_vec()
            }]
        );
        pair.advance(10);
        assert!(pair.drive().is_empty());
    }
    assert!(pair.client.is_idle() && pair.server.is_idle());
    assert_eq!(
        pair.client.poll_timeout(),
        None,
        "an idle link sends nothing"
    );
}

/// LINK-8, LINK-9: whichever half of the exchange is lost, the request is executed once.
#[test]
fn retransmission_after_loss_executes_request_once() {
    for lose_reply in [false, true] {
        let mut pair = Pair::new();
        let number = pair.client.ask(b"ask".to_vec(), END, false).unwrap();
        let first = transmit(&mut pair.client, pair.now).unwrap();
        let mut done = 0;
        if lose_reply {
            deliver(&mut pair.server, pair.now, &first).unwrap();
            done += events(&mut pair.server).len();
            pair.server.reply(number, b"ok".to_vec());
            transmit(&mut pair.server, pair.now).unwrap();
        }
        let again = pair.client.poll_timeout().unwrap();
        pair.now = again;
        pair.client.handle_timeout(again);
        let second = transmit(&mut pair.client, pair.now).unwrap();
        assert_ne!(first, second, "what is sent again is a new packet");
        deliver(&mut pair.server, pair.now, &second).unwrap();
        done += events(&mut pair.server).len();
        pair.server.reply(number, b"ok".to_vec());
        let down = transmit(&mut pair.server, pair.now).unwrap();
        deliver(&mut pair.client, pair.now, &down).unwrap();
        assert_eq!(
            events(&mut pair.client),
            [Event::Reply {
                number,
                bytes: b"ok".to_vec()
            }]
        );
        assert_eq!(done, 1);
    }
}

/// LINK-3: a packet takes effect once, and a corrupted copy has none.
#[test]
fn replay_of_packet_or_corrupted_copy_has_no_effect() {
    let mut pair = Pair::new();
    pair.client.ask(b"ask".to_vec(), END, false).unwrap();
    let up = transmit(&mut pair.client, pair.now).unwrap();
    assert_eq!(deliver(&mut pair.server, pair.now, &up), Ok(()));
    assert_eq!(
        deliver(&mut pair.server, pair.now, &up),
        Err(Ignored::Replayed)
    );
    let mut bent = up.clone();
    *bent.last_mut().unwrap() ^= 1;
    assert_eq!(
        deliver(&mut pair.server, pair.now, &bent),
        Err(Ignored::NotAuthentic)
    );
    assert_eq!(events(&mut pair.server).len(), 1);
}

/// LINK-5, LINK-7: a request in work is not repeated, on a path of a millisecond to a slow realm.
#[test]
fn retransmission_on_short_path_none_while_request_is_in_work() {
    let mut pair = Pair::new();
    let exchange = |pair: &mut Pair, work: u64| {
        let asked = pair.client.ask(b"ask".to_vec(), END, false).unwrap();
        for passed in 0..=work + 1 {
            while let Some(up) = transmit(&mut pair.client, pair.now) {
                deliver(&mut pair.server, pair.now, &up).unwrap();
            }
            pair.advance(1);
            if passed == work {
                pair.server.reply(asked, b"ok".to_vec());
            }
            while let Some(down) = transmit(&mut pair.server, pair.now) {
                deliver(&mut pair.client, pair.now, &down).unwrap();
            }
        }
        events(&mut pair.server);
        assert_eq!(events(&mut pair.client).len(), 1);
    };
    for _ in 0..20 {
        exchange(&mut pair, 0);
    }
    let rtt = pair.client.stats().rtt.unwrap().0;
    assert!(rtt <= Duration::from_millis(2), "{rtt:?}");
    for work in [10, 24, 26, 45, 200, 900] {
        exchange(&mut pair, work);
        let repeats = pair.client.stats().counters.repeats.requests;
        assert_eq!(repeats, 0, "{work} ms of work");
        exchange(&mut pair, 0);
    }
}

/// LINK-5: a slow request is acknowledged, and its sender does not repeat it soon.
#[test]
fn acknowledgement_of_slow_request_delays_its_repeat() {
    let mut pair = Pair::new();
    pair.client.ask(b"ask".to_vec(), END, false).unwrap();
    assert_eq!(pair.drive().len(), 1);
    pair.advance(30);
    assert_eq!(
        pair.drive(),
        [2 + 3 + 16],
        "an acknowledgement of three bytes"
    );
    pair.advance(500);
    assert!(pair.drive().is_empty());
    pair.advance(1000);
    assert_eq!(pair.drive().len(), 1, "in the end it asks again");
}

/// LINK-6: an acknowledgement of a packet that was never sent closes the link.
#[test]
fn acknowledgement_of_packet_never_sent_closes_link() {
    let mut pair = Pair::new();
    pair.server.challenge([1; 8]);
    let mut forged = pair.server.clone();
    let rtt = Rtt::default();
    forged.acks.record(pair.now, PacketNumber(77), &rtt);
    forged.acks.owe_now(pair.now);
    let down = transmit(&mut forged, pair.now).unwrap();
    assert_eq!(
        deliver(&mut pair.client, pair.now, &down),
        Err(Ignored::Violation)
    );
    transmit(&mut pair.client, pair.now).unwrap();
    assert!(pair.client.is_closed());
}

/// LINK-8: a request whose deadline passes expires, with its outcome unknown.
#[test]
fn deadline_passed_expires_request_with_unknown_outcome() {
    let mut pair = Pair::new();
    let number = pair
        .client
        .ask(b"ask".to_vec(), Time(1_000_000), false)
        .unwrap();
    while pair.now < Time(1_000_000) {
        transmit(&mut pair.client, pair.now);
        pair.now = pair.client.poll_timeout().unwrap();
        pair.client.handle_timeout(pair.now);
    }
    assert_eq!(events(&mut pair.client), [Event::Expired { number }]);
    assert!(pair.client.is_idle());
}

/// A link with a rate limit has no timer in the past. Found by the simulator: a moment long past
/// was returned as the next timeout, so that a client spun.
#[test]
fn congestion_rate_limit_on_idle_link_sets_no_past_timer() {
    let limited = Config {
        rate: Some(1000),
        ..UNKNOWN_PATH
    };
    let mut link = Link::initiate(limited, None);
    link.establish_plain(Some(ConnectionId(9)));
    assert_eq!(link.poll_timeout(), None);
    link.ask(vec![1; 500], END, false);
    link.ask(vec![2; 500], END, false);
    let now = Time(5);
    assert!(transmit(&mut link, now).is_some());
    assert_eq!(transmit(&mut link, now), None);
    let held_until = link.poll_timeout().unwrap();
    assert!(held_until > now && held_until < END);
    assert!(transmit(&mut link, held_until).is_some());
    assert_eq!(transmit(&mut link, held_until), None);
    assert!(link.poll_timeout().is_some_and(|next| next > held_until));
    // An acknowledgement that may not leave yet is not due either.
    let mut other = Link::respond(UNKNOWN_PATH, 1000);
    other.establish_plain(Some(ConnectionId(9)));
    link.establish_plain(None);
    other.ask(vec![3; 9], END, false);
    let asks = transmit(&mut other, held_until).unwrap();
    deliver(&mut link, held_until, &asks).unwrap();
    link.ask(vec![4; 9], END, false);
    let later = held_until + Duration::from_millis(300);
    link.handle_timeout(later);
    assert_eq!(transmit(&mut link, later), None);
    assert!(link.poll_timeout().unwrap() > later);
}

#[test]
fn close_is_told_to_other_side() {
    let mut pair = Pair::new();
    pair.client.close(CloseReason::Done);
    pair.drive();
    assert!(pair.client.is_closed() && pair.server.is_closed());
    assert_eq!(events(&mut pair.server), [Event::Closed(CloseReason::Done)]);
}

/// LINK-22: frames in the packet of a CLOSE take effect before it. Found by fuzzing: their events
/// came after the end of the link.
#[test]
fn close_takes_effect_after_other_frames_of_its_packet() {
    let mut pair = Pair::new();
    let number = pair.client.ask(b"ask".to_vec(), END, false).unwrap();
    let up = transmit(&mut pair.client, pair.now).unwrap();
    deliver(&mut pair.server, pair.now, &up).unwrap();
    pair.server.reply(number, b"done".to_vec());
    pair.server.close(CloseReason::Shutdown);
    let down = transmit(&mut pair.server, pair.now).unwrap();
    deliver(&mut pair.client, pair.now, &down).unwrap();
    let bytes = b"done".to_vec();
    assert_eq!(
        events(&mut pair.client),
        [
            Event::Reply { number, bytes },
            Event::Closed(CloseReason::Shutdown)
        ]
    );
}

/// LINK-11: on a plain link, an unproven address gets no more bytes than came from it.
#[test]
fn plain_link_sends_no_more_than_received_to_unproven_address() {
    let now = Time(0);
    let mut client = Link::initiate(UNKNOWN_PATH, None);
    client.establish_plain(Some(ConnectionId(9)));
    let mut server = Link::respond(UNKNOWN_PATH, 0);
    server.establish_plain(None);
    client.ask(vec![1; 30], END, false).unwrap();
    let up = transmit(&mut client, now).unwrap();
    deliver(&mut server, now, &up).unwrap();
    assert_eq!(events(&mut server).len(), 2);
    let welcome = Welcome {
        token: [0; 16],
        max_datagram: 1200,
        known: false,
        highest: OperationNumber(0),
        successor: None,
        life: None,
        is_life_unknown: false,
        is_final: false,
    };
    server.welcome(welcome);
    server.challenge([3; 8]);
    server.reply(RequestId(0), vec![2; 900]);
    let down = transmit(&mut server, now).unwrap();
    assert!(down.len() <= up.len(), "{} > {}", down.len(), up.len());
    assert!(transmit(&mut server, now).is_none());
    deliver(&mut client, now, &down).unwrap();
    let proof = transmit(&mut client, now).unwrap();
    deliver(&mut server, now, &proof).unwrap();
    // In two fragments, because it is not known yet that the path carries all of it in one packet.
    for _ in 0..2 {
        let reply = transmit(&mut server, now).unwrap();
        deliver(&mut client, now, &reply).unwrap();
    }
    assert_eq!(
        events(&mut client),
        [
            Event::Welcome(welcome),
            Event::Reply {
                number: RequestId(0),
                bytes: vec![2; 900]
            }
        ]
    );
}

/// LINK-1: a packet number is never used twice, so a link ends with its last number.
#[test]
fn packet_number_last_closes_link() {
    let mut pair = Pair::new();
    pair.client.protection.skip_to(NUMBERS_MAX - 1);
    pair.client.ask(b"ask".to_vec(), END, false).unwrap();
    assert!(transmit(&mut pair.client, pair.now).is_some());
    pair.client.ask(b"ask".to_vec(), END, false).unwrap();
    assert!(transmit(&mut pair.client, pair.now).is_none());
    assert!(pair.client.is_closed());
    assert_eq!(
        events(&mut pair.client),
        [Event::Closed(CloseReason::Replaced)]
    );
}

/// LINK-17: a link whose path is challenged after a silence keeps its silences short, because its
/// path did not hold.
#[test]
fn keepalive_silence_stays_short_when_path_is_challenged() {
    for is_challenged in [false, true] {
        let mut pair = Pair::new();
        pair.client.keep_alive(Some(Silence {
            first: Duration::from_secs(30),
            longest: Duration::from_mins(2),
        }));
        pair.advance(0);
        for _ in 0..2 {
            pair.now = pair.client.poll_timeout().unwrap();
            pair.advance(0);
            if is_challenged {
                pair.server.challenge([7; 8]);
            }
            assert!(pair.drive().len() >= 2, "a sign of life, and its answer");
        }
        let silence = pair.client.poll_timeout().unwrap() - pair.now;
        let expected = if is_challenged { 30_000 } else { 67_500 };
        assert_eq!(silence.as_millis(), expected);
    }
}

/// LINK-17: a link whose keepalives are not answered is dead in the end, and a fresh link is not.
#[test]
fn keepalive_unanswered_makes_link_dead() {
    let mut pair = Pair::new();
    pair.client.sample(Duration::from_millis(60));
    pair.client
        .keep_alive(Some(Silence::fixed(Duration::from_secs(30))));
    pair.advance(0);
    let mut pings = 0;
    while !pair.client.is_dead() {
        pair.now = pair.client.poll_timeout().unwrap();
        pair.advance(0);
        if !pair.client.is_dead() {
            pings += u32::from(transmit(&mut pair.client, pair.now).is_some());
            assert!(pair.client.awaits_keepalive());
        }
    }
    assert_eq!(pings, UNANSWERED_MAX);
    // Three waits of one timeout, and then each half as long again.
    let silent = pair.now - Time(30_000_000);
    assert!(silent < pair.client.timeout() * 12, "{silent:?}");
    // Found by the simulator: a link that had been opened anew was dead at once, again and again.
    assert!(!pair.client.restart(None).is_dead());
}

/// LINK-17: a measured round trip may be longer than the wait on an unmeasured path. Before, such a
/// link counted as dead at each silence.
#[test]
fn keepalive_answered_late_on_long_path_is_not_dead() {
    let mut pair = Pair::with(UNKNOWN_PATH);
    pair.client.sample(Duration::from_secs(100));
    pair.client
        .keep_alive(Some(Silence::fixed(Duration::from_secs(30))));
    pair.advance(0);
    pair.advance(30_000);
    let ping = transmit(&mut pair.client, pair.now).unwrap();
    pair.advance(100_000);
    assert!(!pair.client.is_dead());
    deliver(&mut pair.server, pair.now, &ping).unwrap();
    pair.drive();
    pair.advance(1);
    assert!(!pair.client.is_dead() && !pair.client.awaits_keepalive());
}

/// LINK-17: anything that is heard shows that the other side is alive.
#[test]
fn keepalive_counts_anew_once_something_is_heard() {
    let mut pair = Pair::new();
    pair.client.ping();
    pair.drive();
    pair.client
        .keep_alive(Some(Silence::fixed(Duration::from_secs(30))));
    pair.advance(0);
    for _ in 0..3 * UNANSWERED_MAX {
        pair.now = pair.client.poll_timeout().unwrap();
        pair.advance(0);
        // The keepalive is lost, and something else arrives.
        while transmit(&mut pair.client, pair.now).is_some() {}
        pair.server.push(b"event".to_vec(), Urgency::Live);
        let down = transmit(&mut pair.server, pair.now).unwrap();
        deliver(&mut pair.client, pair.now, &down).unwrap();
        assert!(!pair.client.is_dead());
    }
}

/// LINK-18: a lost `PATH_RESPONSE` costs one timeout and no more.
#[test]
fn path_validation_response_lost_costs_one_timeout() {
    let mut pair = Pair::new();
    pair.client.sample(Duration::from_millis(60));
    pair.drive();
    pair.server.path_moved(100, [5; 8]);
    let challenge = transmit(&mut pair.server, pair.now).unwrap();
    deliver(&mut pair.client, pair.now, &challenge).unwrap();
    let lost = transmit(&mut pair.client, pair.now).unwrap();
    assert!(lost.len() <= 6 + 9 + 1 + 3 + 16, "{} bytes", lost.len());
    let timeout = pair.client.timeout();
    let before = pair.now;
    while pair.server.has_moved() {
        pair.now = pair.client.poll_timeout().unwrap();
        pair.client.handle_timeout(pair.now);
        while let Some(up) = transmit(&mut pair.client, pair.now) {
            deliver(&mut pair.server, pair.now, &up).unwrap();
        }
    }
    assert!(pair.now - before <= timeout * 3 / 2);
    pair.drive();
    assert!(pair.client.queue.is_empty() && pair.server.queue.is_empty());
}

/// LINK-24: the counters of a dormant link are small, and none is truncated: a link whose counters
/// are too large does not become dormant.
#[test]
fn dormant_is_refused_to_link_with_too_large_counters() {
    let mut pair = Pair::new();
    pair.client.ask(b"ask".to_vec(), END, false).unwrap();
    pair.drive();
    let Some(Event::Request { number, .. }) = pair.server.poll_event() else {
        panic!("it was asked")
    };
    pair.server.reply(number, b"reply".to_vec());
    pair.drive();
    events(&mut pair.client);
    pair.advance(60_000);
    pair.drive();
    let link = &mut pair.server;
    link.opening.resumption_accepted(1200);
    assert!(link.may_hibernate() && link.hibernate().is_some());
    let last = u64::from(u32::MAX);
    link.protection.skip_to(last);
    let woken = link
        .hibernate()
        .map(|dormant| dormant.wake().protection.next_number());
    assert_eq!(woken, Some(last));
    link.protection.skip_to(last + 1);
    assert!(!link.may_hibernate() && link.hibernate().is_none());
}
