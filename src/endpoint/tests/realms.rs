//! Two realms and the network between them: both send requests on a link that either opened
//! (PEER-12).

use rand::RngExt as _;

use super::*;

const IDLE: Duration = Duration::from_mins(5);
const LIFETIME: Duration = Duration::from_mins(20);

struct Side {
    endpoint: Endpoint,
    address: SocketAddr,
    key: PublicKey,
    /// The requests that are not answered yet.
    asked: BTreeSet<(LinkId, RequestId)>,
    answered: usize,
    closed: usize,
}

struct Realms {
    now: Time,
    sides: [Side; 2],
    rng: StdRng,
    loss: f64,
    sealed: usize,
}

fn endpoint(n: u8, seed: u64) -> Endpoint {
    let config = Config {
        worker: WorkerId::ALONE,
        accept: Some(Protection::Sealed),
        hello: None,
        early_data: true,
        resumes: false,
        max_datagram: 1200,
        max_message: 20_000,
        rate: None,
        redundancy: Redundancy::Auto,
        lifetime: LIFETIME,
        links_max: 100,
        memory_max: 1 << 26,
        handshakes: Handshakes::default(),
        idle: Duration::from_hours(1),
        shared_idle: IDLE,
    };
    let mut bytes = [n; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Endpoint::new(config, &SecretKey::from_bytes([n; 32]).into(), bytes)
}

impl Side {
    fn new(n: u8, seed: u64) -> Self {
        Self {
            endpoint: endpoint(n, seed),
            address: SocketAddr::from(([10, 0, 0, n], 6377)),
            key: SecretKey::from_bytes([n; 32]).public(),
            asked: BTreeSet::new(),
            answered: 0,
            closed: 0,
        }
    }

    /// Answers requests, and counts replies and closed links.
    fn take_events(&mut self, now: Time) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Incoming { link, .. } => {
                    self.endpoint.welcome(now, link, None, OperationNumber(0));
                }
                Event::Request { link, number, .. } => {
                    self.endpoint.reply(now, link, number, b"ok".to_vec());
                }
                Event::Reply { link, number, .. } => {
                    assert!(self.asked.remove(&(link, number)), "answered twice");
                    self.answered += 1;
                }
                Event::Moved {
                    link,
                    number,
                    to,
                    as_number,
                } => {
                    assert!(self.asked.remove(&(link, number)));
                    self.asked.insert((to, as_number));
                }
                Event::Closed { link, .. } => {
                    self.closed += 1;
                    self.asked.retain(|(asked, _)| *asked != link);
                }
                Event::Expired { .. } => panic!("a question was given up"),
                _ => {}
            }
        }
    }
}

impl Realms {
    fn new(seed: u64, loss: f64) -> Self {
        Self {
            now: Time(1_000_000),
            sides: [Side::new(1, seed), Side::new(2, seed)],
            rng: StdRng::seed_from_u64(seed),
            loss,
            sealed: 0,
        }
    }

    /// Sends a request from side `from` to the other.
    fn ask(&mut self, from: usize) {
        let (key, address) = (self.sides[1 - from].key, self.sides[1 - from].address);
        let side = &mut self.sides[from];
        let link = side
            .endpoint
            .link_for_requests(self.now, &side.key, key, address);
        let deadline = self.now + Duration::from_hours(1);
        let number = side.endpoint.request(
            self.now,
            link,
            b"ask".to_vec(),
            deadline,
            EarlyData::Allowed,
        );
        side.asked.insert((link, number.unwrap()));
    }

    /// Carries the datagrams of both sides in half a round trip. Returns false if there were none.
    fn carry(&mut self) -> bool {
        let mut on_the_way = vec![];
        for (from, side) in self.sides.iter_mut().enumerate() {
            let mut out = vec![];
            while let Some(Path { remote: to, .. }) =
                side.endpoint.poll_transmit(self.now, &mut out)
            {
                on_the_way.push((from, to, out.clone()));
            }
            side.take_events(self.now);
        }
        let is_quiet = on_the_way.is_empty();
        self.now = self.now + RTT / 2;
        for (from, to, datagram) in on_the_way {
            if let Ok(Packet::Link(packet)) = Packet::parse(&datagram) {
                assert!(packet.connection.is_some(), "realms name their links");
                self.sealed += 1;
            }
            if self.rng.random_bool(self.loss) || self.sides[1 - from].address != to {
                continue;
            }
            let source = self.sides[from].address;
            let side = &mut self.sides[1 - from];
            side.endpoint.handle_datagram(self.now, source, &datagram);
            side.take_events(self.now);
        }
        !is_quiet
    }

    /// Goes on until no request and no datagram is pending.
    fn drive(&mut self) {
        for _ in 0..10_000 {
            if self.carry() {
                continue;
            }
            if self.sides.iter().all(|side| side.asked.is_empty()) {
                return;
            }
            self.wait();
        }
        panic!("it does not settle");
    }

    /// Lets time pass up to the next timer.
    fn wait(&mut self) {
        let timers = self
            .sides
            .iter()
            .filter_map(|side| side.endpoint.poll_timeout());
        self.now = timers.min().unwrap().max(self.now);
        for side in &mut self.sides {
            side.endpoint.handle_timeout(self.now);
            side.take_events(self.now);
        }
    }

    fn links(&self) -> [usize; 2] {
        [0, 1].map(|n| self.sides[n].endpoint.links())
    }

    /// True if both sides would send a request on the same link.
    fn agree(&mut self) -> bool {
        let [a, b] = [0, 1].map(|n| {
            let (key, address) = (self.sides[1 - n].key, self.sides[1 - n].address);
            let side = &mut self.sides[n];
            side.endpoint
                .link_for_requests(self.now, &side.key, key, address)
        });
        let remote = |n: usize, link| self.sides[n].endpoint.links[link].remote();
        remote(0, a) == Some(ConnectionId(b.0)) && remote(1, b) == Some(ConnectionId(a.0))
    }

    fn answered(&self) -> [usize; 2] {
        [0, 1].map(|n| self.sides[n].answered)
    }
}

/// PEER-12: both sides send requests on the link that one has opened.
#[test]
fn peer_link_opened_by_one_side_carries_requests_of_both() {
    let mut realms = Realms::new(1, 0.0);
    for from in [0, 0, 1, 1, 0] {
        realms.ask(from);
        realms.drive();
    }
    assert_eq!((realms.links(), realms.answered()), ([1, 1], [3, 2]));
    assert_eq!(
        realms.sealed, 10,
        "the link is proven once, which is acknowledged; every exchange after that is two packets"
    );
}

/// PEER-12: links that both sides open at the same time become one, whatever is lost, and whichever
/// side is first.
#[test]
fn peer_links_opened_at_same_time_become_one() {
    for seed in 0..300 {
        let loss = if seed < 100 { 0.0 } else { 0.3 };
        let mut realms = Realms::new(seed, loss);
        let mut asked = [0, 0];
        // The sides start together, or one or two steps apart.
        for from in [0, 1, 0, 1] {
            realms.ask(from);
            asked[from] += 1;
            for _ in 0..seed % 3 {
                realms.carry();
            }
        }
        realms.drive();
        for from in [0, 1, 0, 1] {
            realms.ask(from);
            asked[from] += 1;
            realms.drive();
        }
        assert_eq!(realms.answered(), asked, "seed {seed}");
        assert!(realms.agree(), "seed {seed}");
        if loss == 0.0 {
            // An unproven link is not used for requests, and ends by itself.
            for side in &realms.sides {
                let proven = side.endpoint.links.values();
                let proven = proven.filter(|entry| entry.link.is_proven()).count();
                assert_eq!(proven, 1, "seed {seed}");
            }
        }
    }
}

/// PEER-12: the side that opened an idle link closes it, and it is opened again when it is needed.
#[test]
fn peer_link_idle_is_closed_and_opened_again_when_needed() {
    let mut realms = Realms::new(1, 0.0);
    realms.ask(0);
    realms.drive();
    let opened = realms.now;
    while realms.links() != [0, 0] {
        realms.wait();
        realms.drive();
    }
    let lasted = realms.now - opened;
    assert!(lasted.abs_diff(IDLE) <= RTT, "{lasted:?}");
    realms.ask(1);
    realms.drive();
    assert_eq!((realms.links(), realms.answered()), ([1, 1], [1, 1]));
}

/// PEER-12, HS-8: either side may restart. The other notices with its next packet.
#[test]
fn peer_restart_is_noticed_by_either_side() {
    for restarted in [0, 1] {
        let mut realms = Realms::new(1, 0.0);
        realms.ask(0);
        realms.drive();
        realms.ask(1);
        realms.drive();
        realms.sides[restarted].endpoint = endpoint(u8::try_from(restarted + 1).unwrap(), 7);
        let other = 1 - restarted;
        let before = realms.now;
        realms.ask(other);
        realms.drive();
        if realms.sides[other].closed > 0 {
            // A side cannot reopen a link that the other opened. A further request opens another.
            realms.ask(other);
            realms.drive();
        }
        assert_eq!(realms.sides[other].answered, 2);
        assert!(realms.now <= before + RTT * 4, "a few round trips");
    }
}

/// PEER-12: a realm that has moved gets requests at its new address.
#[test]
fn peer_with_new_address_gets_requests_there() {
    let mut realms = Realms::new(1, 0.0);
    realms.ask(0);
    realms.drive();
    realms.sides[1].endpoint = endpoint(2, 7);
    realms.sides[1].address = SocketAddr::from(([10, 0, 0, 3], 6377));
    realms.ask(0);
    realms.drive();
    assert_eq!(realms.answered(), [2, 0]);
    assert_eq!(realms.links(), [1, 1]);
}

/// LINK-21, PEER-12: a link that both sides send requests on is replaced meanwhile, and each
/// request is answered once.
#[test]
fn rekey_of_peer_link_in_use_by_both_sides_loses_no_request() {
    for seed in 0..50 {
        let mut realms = Realms::new(seed, if seed < 10 { 0.0 } else { 0.2 });
        let end = realms.now + LIFETIME * 3;
        let mut asked = [0, 0];
        while realms.now < end {
            for from in [0, 1] {
                realms.ask(from);
                asked[from] += 1;
            }
            realms.drive();
            realms.now = realms.now + Duration::from_mins(1);
        }
        assert_eq!(realms.answered(), asked, "seed {seed}");
        assert!(realms.agree(), "seed {seed}");
        let closed = realms.sides.iter().map(|side| side.closed).max();
        // A lost handshake is repeated an hour later.
        let least = if seed < 10 { 2 } else { 1 };
        assert!(closed >= Some(least), "seed {seed}: {closed:?} replaced");
    }
}

/// PEER-12: a request that waits on a link that its opener has forgotten moves to the next link
/// that it opens. Before, it waited for minutes, though the peer was heard. Behind a changed
/// address nothing can tell the other side that its link is gone.
#[test]
fn peer_link_forgotten_by_opener_moves_requests_to_next() {
    let mut realms = Realms::new(1, 0.0);
    realms.ask(0);
    realms.drive();
    realms.sides[0].endpoint = endpoint(1, 7);
    realms.sides[0].address = SocketAddr::from(([10, 0, 0, 3], 6377));
    realms.ask(1);
    for _ in 0..20 {
        realms.carry();
    }
    assert_eq!(realms.answered(), [1, 0]);
    let before = realms.now;
    realms.ask(0);
    realms.drive();
    assert_eq!(realms.answered(), [2, 1]);
    assert!(realms.now <= before + RTT * 5, "a few round trips");
}

/// PEER-12: an event that waits for a long request leaves when the request moves to another link,
/// and not at the next timeout.
#[test]
fn peer_link_event_behind_moved_long_request_leaves_at_once() {
    let mut realms = Realms::new(1, 0.0);
    realms.ask(0);
    realms.drive();
    let other = SocketAddr::from(([10, 0, 0, 9], 6377));
    let (now, side) = (realms.now, &mut realms.sides[0]);
    let [from] = side.endpoint.links.ids()[..] else {
        panic!("one link");
    };
    let to = side.endpoint.link_for_requests(
        now,
        &side.key,
        SecretKey::from_bytes([9; 32]).public(),
        other,
    );
    let deadline = now + Duration::from_hours(1);
    let request = side
        .endpoint
        .request(now, from, vec![1; 2000], deadline, EarlyData::Forbidden);
    let event = side
        .endpoint
        .push(now, from, vec![2; 2000], Urgency::Backlog);
    assert!(request.is_some() && event.is_some());
    let mut out = vec![];
    while side.endpoint.poll_transmit(now, &mut out).is_some() {}
    assert!(!side.endpoint.schedule.is_ready(from));
    side.endpoint.move_requests(now, from, to);
    assert!(side.endpoint.schedule.is_ready(from));
}

/// Returns an address where no realm is.
fn nowhere() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 99], 6377))
}

impl Realms {
    /// Sends a request from side `from` to the other, at an address for which nobody vouches.
    fn ask_once(&mut self, from: usize, address: SocketAddr) -> LinkId {
        let key = self.sides[1 - from].key;
        let side = &mut self.sides[from];
        let (now, source) = (self.now, AddressSource::Claimed);
        let link = side.endpoint.dial(now, &side.key, key, address, source);
        let deadline = self.now + Duration::from_hours(1);
        let asked = side.endpoint.request(
            self.now,
            link,
            b"ask".to_vec(),
            deadline,
            EarlyData::Forbidden,
        );
        side.asked.insert((link, asked.unwrap()));
        link
    }

    /// Lets time pass. Returns the number of datagrams that side `from` has sent to `address`
    /// meanwhile.
    fn sent_to(&mut self, from: usize, address: SocketAddr, during: Duration) -> usize {
        let (end, mut sent) = (self.now + during, 0);
        while self.now < end {
            let side = &mut self.sides[from];
            let mut out = vec![];
            while let Some(path) = side.endpoint.poll_transmit(self.now, &mut out) {
                sent += usize::from(path.remote == address);
            }
            side.take_events(self.now);
            let next = side.endpoint.poll_timeout().unwrap_or(end);
            self.now = next.max(self.now).min(end);
            side.endpoint.handle_timeout(self.now);
            side.take_events(self.now);
        }
        sent
    }
}

/// PEER-23: an address for which nobody vouches gets three datagrams, whatever waits to be sent
/// there, and whatever comes back.
#[test]
fn claim_trial_of_unvouched_address_gets_three_datagrams() {
    for answers in [false, true] {
        let mut realms = Realms::new(1, 0.0);
        let link = realms.ask_once(0, nowhere());
        realms.ask_once(0, nowhere());
        let mut out = vec![];
        let endpoint = &mut realms.sides[0].endpoint;
        assert!(endpoint.poll_transmit(realms.now, &mut out).is_some());
        if answers {
            // Anybody at that address may repeat Retries without end.
            let Ok(Packet::Init(init)) = Packet::parse(&out) else {
                panic!("it dials")
            };
            let handshake = init.handshake;
            for n in 0..5 {
                let mut retry = vec![];
                Packet::emit_retry(handshake, &[n; 16], &mut retry);
                let endpoint = &mut realms.sides[0].endpoint;
                endpoint.handle_datagram(realms.now, nowhere(), &retry);
                realms.sent_to(0, nowhere(), Duration::from_millis(10));
            }
            assert!(realms.sides[0].endpoint.link(link).is_none(), "it is over");
            continue;
        }
        let sent = realms.sent_to(0, nowhere(), Duration::from_hours(2));
        assert_eq!(sent, 2, "after the first");
        assert!(realms.sides[0].endpoint.link(link).is_none());
        assert!(realms.sides[0].asked.is_empty(), "whoever asked is told");
    }
}

/// PEER-23: an address that has answered is dialed like any other from then on, also after a
/// restart.
#[test]
fn claim_trial_answered_makes_address_dialed_like_any_other() {
    let mut realms = Realms::new(1, 0.0);
    let address = realms.sides[1].address;
    let link = realms.ask_once(0, address);
    realms.drive();
    assert_eq!(realms.answered(), [1, 0]);
    realms.sides[1].endpoint = endpoint(2, 7);
    realms.ask(0);
    assert!(realms.carry());
    // The peer has forgotten the link. The link is opened again, and its Init is repeated as long
    // as a request waits.
    realms.carry();
    assert!(
        realms.sides[0]
            .endpoint
            .link(link)
            .is_some_and(LinkStatus::is_dialing)
    );
    let sent = realms.sent_to(0, address, Duration::from_mins(2));
    assert!(sent > 3, "{sent}");
    // An address that somebody vouches for meanwhile is dialed like any other at once.
    let mut realms = Realms::new(1, 0.0);
    realms.sides[1].address = nowhere();
    realms.ask_once(0, nowhere());
    realms.ask(0);
    assert!(realms.sent_to(0, nowhere(), Duration::from_mins(2)) > 3);
}

/// PEER-23: while a realm is tried at an address for which nobody vouches, it gets requests at its
/// known address, and the trial goes on. Before, the existing link was given up for one that leads
/// nowhere.
#[test]
fn claim_trial_takes_nothing_from_existing_link() {
    let mut realms = Realms::new(1, 0.0);
    realms.ask(0);
    realms.drive();
    let key = realms.sides[1].key;
    let ours = |realms: &Realms| realms.sides[0].endpoint.links_with(&key).dialed;
    let before = ours(&realms).unwrap();
    let trial = realms.ask_once(0, nowhere());
    assert_eq!(realms.ask_once(0, nowhere()), trial, "it is one trial");
    for answered in [2, 3] {
        realms.ask(0);
        realms.carry();
        realms.carry();
        assert_eq!(
            (realms.answered()[0], ours(&realms)),
            (answered, Some(before))
        );
        assert!(
            realms.sides[0]
                .endpoint
                .link(trial)
                .is_some_and(LinkStatus::is_dialing)
        );
    }
    realms.drive();
    assert!(realms.sides[0].endpoint.link(trial).is_none());
    // A trial that is answered replaces the other link and takes over what waits on it.
    let address = SocketAddr::from(([10, 0, 0, 7], 6377));
    let trial = realms.ask_once(0, address);
    realms.sides[1].address = address;
    realms.drive();
    assert_eq!(ours(&realms), Some(trial));
    assert_eq!(realms.links()[0], 1, "the other is closed");
}

/// PEER-24: a realm that was dialed dials back to check that this works. If nobody answers, it
/// sends its requests on the other's link.
#[test]
fn dial_back_unanswered_sends_requests_on_link_of_peer() {
    let mut realms = Realms::new(1, 0.0);
    realms.ask(0);
    realms.drive();
    realms.ask_once(1, nowhere());
    realms.drive();
    assert_eq!((realms.links(), realms.answered()), ([1, 1], [1, 1]));
    // It is one link for both directions, although the address is another.
    let (key, address) = (realms.sides[0].key, realms.sides[0].address);
    let side = &mut realms.sides[1];
    let there = side.endpoint.find_open_link(&side.key, &key);
    assert!(there.is_some());
    // A realm that can be dialed is dialed.
    let (now, source) = (realms.now, AddressSource::Claimed);
    let link = side.endpoint.dial(now, &side.key, key, address, source);
    assert_ne!(Some(link), there);
    realms.drive();
    let tried = realms.sides[1].endpoint.link(link);
    assert!(tried.is_none_or(LinkStatus::is_open));
}

/// PEER-24: the link of a realm that cannot be dialed is kept open, because nothing else leads to
/// it.
#[test]
fn keepalive_of_peer_link_keeps_it_open_when_requested() {
    let mut realms = Realms::new(1, 0.0);
    realms.ask(0);
    realms.drive();
    let key = realms.sides[1].key;
    let ours = realms.sides[0].endpoint.links_with(&key).dialed.unwrap();
    let silence = Silence::fixed(Duration::from_secs(30));
    let now = realms.now;
    let endpoint = &mut realms.sides[0].endpoint;
    endpoint.keep_alive(now, ours, Some(silence));
    let (end, before) = (now + IDLE * 3, realms.sealed);
    while realms.now < end {
        realms.wait();
        while realms.carry() {}
    }
    assert_eq!(realms.links(), [1, 1]);
    let signs = realms.sealed - before;
    assert!((50..=66).contains(&signs), "two packets in 30 s: {signs}");
    realms.ask(1);
    realms.drive();
    assert_eq!(realms.answered(), [1, 1]);
    let now = realms.now;
    realms.sides[0].endpoint.keep_alive(now, ours, None);
    while realms.links() != [0, 0] {
        realms.wait();
        realms.drive();
    }
}
