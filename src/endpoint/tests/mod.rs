//! Two endpoints and a network between them.

mod dormant;
mod floods;
mod lifetimes;
mod link_slots;
mod lives;
mod memory;
mod migration;
mod noise;
mod paths;
mod realms;
mod rekey;
mod repeats;
mod resume;
mod sizes;
mod stats;
mod tickets;
mod worker_id;

use std::collections::{BTreeMap, BTreeSet};

use super::{limits::*, *};
use crate::{
    crypto::SecretKey,
    link::Redundancy,
    subnet::Subnet,
    wire::{ANSWER_BYTES_MAX, Life, Packet, Protection},
};

const RTT: Duration = Duration::from_millis(60);

struct Pair {
    now: Time,
    client: Endpoint,
    server: Endpoint,
    realm: PublicKey,
    /// Every datagram that was carried: true if it came from the client, and its bytes.
    carried: Vec<(bool, Vec<u8>)>,
    /// When the client last received a reply.
    replied: Time,
    /// True if the server knows each device that connects.
    is_known: bool,
    account: AccountId,
    /// The client's address.
    from: SocketAddr,
    /// The bytes that were sent to each address.
    sent_to: BTreeMap<SocketAddr, usize>,
}

fn client_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000))
}

fn server_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 6377))
}

fn config(accept: Option<Protection>) -> Config {
    Config {
        accept,
        hello: accept.is_some().then(|| "alpha".parse().unwrap()),
        early_data: true,
        resumes: false,
        worker: WorkerId::ALONE,
        max_datagram: 1200,
        max_message: 20_000,
        rate: None,
        redundancy: Redundancy::Auto,
        lifetime: LINK_LIFETIME,
        links_max: 100,
        memory_max: 1 << 26,
        handshakes: Handshakes::default(),
        idle: Duration::from_hours(1),
        shared_idle: Duration::from_hours(1),
    }
}

fn realm_key() -> SecretKey {
    SecretKey::from_bytes([2; 32])
}

fn server(protection: Protection) -> Endpoint {
    Endpoint::new(config(Some(protection)), &realm_key().into(), [4; 32])
}

impl Pair {
    fn new(protection: Protection) -> Self {
        let device = SecretKey::from_bytes([1; 32]);
        Self {
            now: Time(1_000_000),
            client: Endpoint::new(config(None), &device.into(), [3; 32]),
            server: server(protection),
            realm: realm_key().public(),
            carried: Vec::new(),
            replied: Time(0),
            is_known: true,
            account: AccountId::new(1),
            from: client_address(),
            sent_to: BTreeMap::new(),
        }
    }

    fn connect(&mut self) -> LinkId {
        self.client
            .connect(self.now, server_address(), self.realm, Some(RTT))
    }

    fn ask(&mut self, link: LinkId, early: bool) -> RequestId {
        let (now, early) = (self.now, EarlyData::allowed_if(early));
        let deadline = now + Duration::from_secs(30);
        self.client
            .request(now, link, b"ask".to_vec(), deadline, early)
            .unwrap()
    }

    /// Carries the datagrams of both sides until there are none; `lose` decides which are lost.
    /// Each pass takes half a round trip. The server answers every request at once with `ok`.
    fn drive(&mut self, mut lose: impl FnMut(usize) -> bool) -> Vec<Event> {
        let mut events = vec![];
        for _ in 0..20 {
            let mut out = vec![];
            let mut up = vec![];
            while self.client.poll_transmit(self.now, &mut out).is_some() {
                up.push(out.clone());
            }
            let mut down = vec![];
            while let Some(Path { remote: to, .. }) = self.server.poll_transmit(self.now, &mut out)
            {
                *self.sent_to.entry(to).or_default() += out.len();
                if to == self.from {
                    down.push(out.clone());
                }
            }
            if up.is_empty() && down.is_empty() {
                events.extend(core::iter::from_fn(|| self.client.poll_event()));
                break;
            }
            self.now = self.now + RTT / 2;
            for (from_client, datagram) in up
                .into_iter()
                .map(|d| (true, d))
                .chain(down.into_iter().map(|d| (false, d)))
            {
                let lost = lose(self.carried.len());
                self.carried.push((from_client, datagram.clone()));
                if lost {
                    continue;
                }
                if from_client {
                    self.server.handle_datagram(self.now, self.from, &datagram);
                } else {
                    self.client
                        .handle_datagram(self.now, server_address(), &datagram);
                }
            }
            self.serve(&mut events);
            while let Some(event) = self.client.poll_event() {
                if matches!(event, Event::Reply { .. }) {
                    self.replied = self.now;
                }
                events.push(event);
            }
        }
        events
    }

    fn serve(&mut self, events: &mut Vec<Event>) {
        while let Some(event) = self.server.poll_event() {
            match &event {
                Event::Incoming { link, .. } => {
                    let account = self.is_known.then_some(self.account);
                    self.server
                        .welcome(self.now, *link, account, OperationNumber(9));
                }
                Event::Request { link, number, .. } => {
                    self.server.reply(self.now, *link, *number, b"ok".to_vec());
                }
                _ => {}
            }
            events.push(event);
        }
    }

    /// Lets time pass up to the next timer of either side.
    fn wait(&mut self) {
        let next = earliest(self.client.poll_timeout(), self.server.poll_timeout());
        self.now = next.unwrap().max(self.now);
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
    }
}

fn replies(events: &[Event]) -> usize {
    let is_reply = |event: &&Event| matches!(event, Event::Reply { .. });
    events.iter().filter(is_reply).count()
}

fn requests(events: &[Event]) -> usize {
    let is_request = |event: &&Event| matches!(event, Event::Request { .. });
    events.iter().filter(is_request).count()
}

/// HS-5: a known device has its answer after one round trip and two datagrams.
#[test]
fn early_data_is_answered_in_one_round_trip() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    let events = pair.drive(|_| false);
    assert_eq!((requests(&events), replies(&events)), (1, 1), "{events:?}");
    assert_eq!(pair.carried.len(), 2);
    assert!(
        pair.carried[1].1.len() <= pair.carried[0].1.len(),
        "WIRE-11"
    );
    // On the open link an exchange takes two more datagrams.
    pair.ask(link, true);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    assert_eq!(pair.carried.len(), 4);
}

/// HS-7: a request that may not be early data takes one round trip more.
#[test]
fn early_data_not_allowed_costs_one_round_trip_more() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, false);
    let events = pair.drive(|_| false);
    assert_eq!(replies(&events), 1);
    assert_eq!(pair.carried.len(), 4);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Request { early: false, .. }))
    );
}

/// HS-4: whatever is lost, the handshake completes and the command is executed once.
#[test]
fn handshake_with_lost_packets_completes_and_executes_once() {
    for lost in [&[0][..], &[1], &[0, 1, 2], &[1, 3, 5]] {
        let mut pair = Pair::new(Protection::Sealed);
        let link = pair.connect();
        pair.ask(link, true);
        let mut events = vec![];
        for _ in 0..30 {
            events.extend(pair.drive(|at| lost.contains(&at)));
            if replies(&events) > 0 {
                break;
            }
            pair.wait();
        }
        assert_eq!((requests(&events), replies(&events)), (1, 1), "{lost:?}");
        let init = &pair.carried[0].1;
        let repeats = pair
            .carried
            .iter()
            .filter(|(up, d)| *up && d == init)
            .count();
        assert!(repeats >= 2, "the Init is repeated byte for byte");
    }
}

/// HS-8: a restarted realm is noticed in one round trip, and the command is executed in the next.
#[test]
fn reset_after_server_restart_is_noticed_in_one_round_trip() {
    for protection in [Protection::Sealed, Protection::Plain] {
        let mut pair = Pair::new(protection);
        let link = match protection {
            Protection::Sealed => pair.connect(),
            Protection::Plain => pair
                .client
                .connect_plain(pair.now, server_address(), Some(RTT)),
        };
        pair.ask(link, true);
        assert_eq!(replies(&pair.drive(|_| false)), 1);
        pair.server = server(protection);
        pair.carried.clear();
        let before = pair.now;
        pair.ask(link, true);
        let events = pair.drive(|_| false);
        assert_eq!(
            (requests(&events), replies(&events)),
            (1, 1),
            "{protection:?}: {events:?}"
        );
        assert_eq!(pair.replied - before, RTT * 2, "{protection:?}");
    }
}

/// HS-8: a forged Reset does not end a link.
#[test]
fn reset_forged_does_not_end_link() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    pair.drive(|_| false);
    let remote = pair.client.links[link].remote().unwrap();
    let mut forged = vec![];
    Packet::emit_reset(remote, &[7; 16], &mut forged);
    pair.client
        .handle_datagram(pair.now, server_address(), &forged);
    pair.carried.clear();
    pair.ask(link, true);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    assert_eq!(pair.carried.len(), 2, "the link is still open");
}

/// HS-4: a replay of a whole conversation has no effect on the link and repeats no request.
#[test]
fn replay_of_whole_conversation_has_no_effect() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    for _ in 0..3 {
        pair.ask(link, true);
        pair.drive(|_| false);
    }
    let recorded = pair.carried.clone();
    let stranger = SocketAddr::from(([10, 9, 9, 9], 1));
    for from in [client_address(), stranger] {
        for (up, datagram) in &recorded {
            if *up {
                pair.server.handle_datagram(pair.now, from, datagram);
            }
        }
    }
    let mut events = vec![];
    pair.serve(&mut events);
    assert_eq!(requests(&events), 0, "{events:?}");
    assert_eq!(pair.server.links(), 1);
}

/// HS-3: an initiator that does not know the realm's key gets no answer.
#[test]
fn handshake_with_wrong_realm_key_gets_no_answer() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.realm = SecretKey::from_bytes([77; 32]).public();
    let link = pair.connect();
    pair.ask(link, true);
    assert!(pair.drive(|_| false).is_empty());
    assert_eq!(pair.carried.len(), 1);
    assert_eq!(pair.server.links(), 0);
}

/// LINK-2, LINK-11: a plain link works from its first packet on. It never sends more bytes to an
/// unproven address than came from it.
#[test]
fn plain_link_opens_with_first_packet() {
    let mut pair = Pair::new(Protection::Plain);
    let link = pair.client.connect_plain(pair.now, server_address(), None);
    pair.ask(link, true);
    let events = pair.drive(|_| false);
    assert_eq!((requests(&events), replies(&events)), (1, 1), "{events:?}");
    assert!(pair.carried[1].1.len() <= pair.carried[0].1.len());
    let opened = events
        .iter()
        .filter(|event| matches!(event, Event::Opened { .. }))
        .count();
    assert_eq!(opened, 1);
}

/// A listener is sealed or plain, never both.
#[test]
fn plain_and_sealed_listeners_ignore_packets_of_other_kind() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.client.connect_plain(pair.now, server_address(), None);
    pair.ask(link, true);
    pair.drive(|_| false);
    assert_eq!(pair.server.links(), 0);
    let mut pair = Pair::new(Protection::Plain);
    let link = pair.connect();
    pair.ask(link, true);
    pair.drive(|_| false);
    assert_eq!(pair.server.links(), 0);
}

/// HS-6: a `HelloReply` is no longer than the Hello, and a lost Hello is repeated.
#[test]
fn hello_lost_is_repeated_and_reply_is_no_longer_than_hello() {
    let mut pair = Pair::new(Protection::Sealed);
    assert!(pair.client.ask_hello(pair.now, server_address()));
    // The first Hello is lost and repeated.
    assert!(pair.drive(|at| at == 0).is_empty());
    pair.wait();
    let events = pair.drive(|_| false);
    let [Event::Hello { reply, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(reply.key, pair.realm.0);
    assert!(
        pair.carried
            .iter()
            .all(|(_, datagram)| datagram.len() <= ANSWER_BYTES_MAX)
    );
    pair.server.config.hello = None;
    pair.client.ask_hello(pair.now, server_address());
    assert!(pair.drive(|_| false).is_empty());
}

/// HS-5: an answer longer than the Init waits until the address is proven, which is at once.
#[test]
fn early_data_answer_longer_than_init_follows_accept() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    let before = pair.now;
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out);
    pair.server
        .handle_datagram(pair.now, client_address(), &out);
    while let Some(event) = pair.server.poll_event() {
        match event {
            Event::Incoming { link, .. } => {
                pair.server
                    .welcome(pair.now, link, Some(AccountId::new(1)), OperationNumber(0));
            }
            Event::Request { link, number, .. } => {
                pair.server.reply(pair.now, link, number, vec![0; 900]);
            }
            _ => {}
        }
    }
    let events = pair.drive(|_| false);
    assert_eq!(replies(&events), 1, "{events:?}");
    assert!(pair.now - before <= RTT * 2);
    // Nothing larger than 548 bytes is tried before the rate of the path is known (LINK-15).
    assert_eq!(pair.carried.len(), 4, "Accept, proof, answer in two");
}

/// A link whose address was never proven does not stay, and one device holds only a few links.
#[test]
fn link_slots_of_unproven_links_and_of_one_key_are_bounded() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    pair.drive(|_| false);
    assert_eq!(pair.server.links(), 1);
    pair.now = pair.now + UNPROVEN_LIFETIME;
    pair.server.handle_timeout(pair.now);
    assert_eq!(
        pair.server.links(),
        0,
        "its initiator has sent nothing but its Init"
    );
    for _ in 0..LINKS_PER_KEY_MAX + 5 {
        let link = pair.connect();
        pair.ask(link, false);
        assert_eq!(replies(&pair.drive(|_| false)), 1);
    }
    assert_eq!(pair.server.links(), LINKS_PER_KEY_MAX);
    pair.now = pair.now + Duration::from_hours(2);
    pair.server.handle_timeout(pair.now);
    assert_eq!(pair.server.links(), 0);
    assert_eq!(
        pair.server.links.keys() + pair.server.accept_cache.timeout().iter().count(),
        0
    );
}

/// A server that shuts down closes its links. A client with a request goes on asking.
#[test]
fn close_by_server_is_told_and_request_is_sent_again() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, false);
    pair.drive(|_| false);
    pair.ask(link, false);
    pair.server.close_all(pair.now);
    let events = pair.drive(|at| at == 4);
    assert!(pair.server.links() == 0, "{events:?}");
    pair.server = server(Protection::Sealed);
    let mut events = vec![];
    while replies(&events) == 0 {
        pair.wait();
        events.extend(pair.drive(|_| false));
    }
    assert_eq!((requests(&events), replies(&events)), (1, 1), "{events:?}");
}

/// LINK-10: neither side sends datagrams longer than the smaller of both limits.
#[test]
fn mtu_of_link_is_smaller_limit_of_both_sides() {
    for (ours, theirs) in [(160, 1200), (1200, 160), (160, 160)] {
        let mut pair = Pair::new(Protection::Sealed);
        pair.client.config.max_datagram = ours;
        pair.server.config.max_datagram = theirs;
        let link = pair.connect();
        pair.ask(link, false);
        let events = pair.drive(|_| false);
        assert_eq!(replies(&events), 1, "{ours}, {theirs}");
        let fits = pair.client.link(link).unwrap().message_max();
        let deadline = pair.now + Duration::from_secs(30);
        let bytes = vec![1; fits];
        pair.client
            .request(pair.now, link, bytes, deadline, EarlyData::Forbidden)
            .unwrap();
        assert_eq!(replies(&pair.drive(|_| false)), 1);
        let longest = pair
            .carried
            .iter()
            .map(|(_, datagram)| datagram.len())
            .max();
        assert!(longest <= Some(160), "{longest:?}");
    }
}

/// HS-4: an Init whose link was evicted before it was answered is answered when it is repeated.
#[test]
fn eviction_of_unanswered_init_lets_repeat_be_answered() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.links_max = 1;
    let link = pair.connect();
    pair.ask(link, true);
    let mut init = vec![];
    pair.client.poll_transmit(pair.now, &mut init);
    pair.server
        .handle_datagram(pair.now, client_address(), &init);
    // Another client connects before the realm has said its welcome.
    let mut other = Endpoint::new(
        config(None),
        &SecretKey::from_bytes([5; 32]).into(),
        [6; 32],
    );
    other.connect(pair.now, server_address(), pair.realm, Some(RTT));
    let mut second = vec![];
    other.poll_transmit(pair.now, &mut second);
    let elsewhere = SocketAddr::from(([10, 0, 0, 3], 1000));
    pair.server.handle_datagram(pair.now, elsewhere, &second);
    let mut events = vec![];
    pair.serve(&mut events);
    while pair.server.poll_transmit(pair.now, &mut vec![]).is_some() {}
    for _ in 0..3 {
        pair.wait();
        events.extend(pair.drive(|_| false));
    }
    assert_eq!(replies(&events), 1, "{events:?}");
}

/// HS-11: an initiator that opens a link to a former key gets in, and is told the current key.
#[test]
fn key_rotation_former_key_is_answered_and_names_successor() {
    let mut pair = Pair::new(Protection::Sealed);
    let new = SecretKey::from_bytes([9; 32]);
    let identity = Identity {
        current: new.clone(),
        former: vec![realm_key()],
        lasting: realm_key(),
    };
    pair.server = Endpoint::new(config(Some(Protection::Sealed)), &identity, [4; 32]);
    for (realm, successor) in [
        (realm_key().public(), Some(new.public().0)),
        (new.public(), None),
    ] {
        pair.realm = realm;
        // Without early data the Init has its least length, and the Accept must still fit.
        let link = pair.connect();
        let events = pair.drive(|_| false);
        let Some(Event::Opened { welcome, .. }) = events
            .iter()
            .find(|event| matches!(event, Event::Opened { .. }))
        else {
            panic!("{events:?}")
        };
        assert_eq!(welcome.successor, successor);
        assert_eq!(pair.client.link(link).unwrap().peer(), Some(realm));
    }
    let links = pair.server.links.ids().into_iter();
    let own = links.filter_map(|link| pair.server.link(link)?.own());
    let own: BTreeSet<_> = own.collect();
    assert_eq!(own, BTreeSet::from([realm_key().public(), new.public()]));
}

/// HS-7: a realm without early data executes early requests once the link is proven, not before.
#[test]
fn early_data_turned_off_makes_early_requests_wait_for_proof() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.early_data = false;
    let link = pair.connect();
    pair.ask(link, true);
    let mut events = vec![];
    // Everything that the client sends after its Init is lost at first.
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    pair.server.handle_datagram(pair.now, pair.from, &out);
    pair.serve(&mut events);
    assert_eq!(requests(&events), 0, "it may have been recorded");
    while replies(&events) == 0 {
        pair.wait();
        events.extend(pair.drive(|_| false));
    }
    let early = |event: &&Event| matches!(event, Event::Request { early: true, .. });
    assert_eq!(
        (requests(&events), events.iter().filter(early).count()),
        (1, 0)
    );
}
