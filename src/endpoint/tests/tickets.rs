//! What others can make an endpoint do with tickets, and how long it keeps them (HS-20, HS-21).

use crate::{endpoint::TicketFound, rate_limit::RateLimit, wire::Resume};

use super::{
    resume::{Returning, is_resumed},
    *,
};

/// Returns the ticket of a link.
pub fn ticket_of(endpoint: &Endpoint, link: LinkId) -> Option<Ticket> {
    endpoint.link(link)?.ticket().cloned()
}

impl Returning {
    /// Returns the unanswered Resume of a new process.
    fn resume(&mut self) -> Vec<u8> {
        let link = self.open();
        self.pair.ask(link, true);
        let mut out = Vec::new();
        self.pair
            .client
            .poll_transmit(self.pair.now, &mut out)
            .unwrap();
        out
    }

    /// Returns the server's answers to a datagram from `from`.
    fn answers(&mut self, from: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        let (now, mut out) = (self.pair.now, Vec::new());
        self.pair.server.handle_datagram(now, from, datagram);
        for _ in 0..2 {
            let mut events = Vec::new();
            self.pair.serve(&mut events);
            self.keep(&events);
        }
        let mut answers = Vec::new();
        while self.pair.server.poll_transmit(now, &mut out).is_some() {
            answers.push(out.clone());
        }
        answers
    }

    /// Returns the device addresses in the stored tickets.
    fn addresses(&self) -> Vec<Option<std::net::IpAddr>> {
        self.kept.values().map(|issued| issued.address).collect()
    }
}

/// HS-20: senders that are refused often must show a cookie before any ticket is looked up and any
/// link is opened for them, because a ticket's token is in each Reset of its link, which anybody
/// may see. A device with the secret still gets in.
#[test]
fn ticket_refused_often_requires_cookie_before_lookup() {
    let mut returning = Returning::new();
    let genuine = returning.resume();
    // The server knows nothing of the ticket any more but its token.
    returning.pair.server = server(Protection::Sealed);
    let (mut resets, mut retries, mut looked_up) = (0, 0, 0);
    for n in 0_u32..500 {
        let mut forged = genuine.clone();
        let last = forged.len() - 1;
        forged[9..13].copy_from_slice(&n.to_be_bytes());
        forged[last] ^= 1;
        let now = returning.pair.now;
        returning
            .pair
            .server
            .handle_datagram(now, client_address(), &forged);
        let mut events = Vec::new();
        returning.pair.serve(&mut events);
        returning.keep(&events);
        looked_up += events
            .iter()
            .filter(|event| matches!(event, Event::UnknownTicket { .. }))
            .count();
        let mut out = Vec::new();
        while returning.pair.server.poll_transmit(now, &mut out).is_some() {
            match Packet::parse(&out) {
                Ok(Packet::Reset { .. }) => resets += 1,
                Ok(Packet::Retry { .. }) => retries += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((resets, retries, looked_up), (80, 420, 80));
    let events = returning.ask_once(true, |_| false);
    assert_eq!(replies(&events), 1);
    let is_retry = |datagram: &[u8]| matches!(Packet::parse(datagram), Ok(Packet::Retry { .. }));
    let mut carried = returning.pair.carried.iter();
    assert!(carried.any(|(_, datagram)| is_retry(datagram)));
}

/// HS-20: all of a realm's devices may be refused at once, also behind one address. Each is told
/// so.
#[test]
fn ticket_refusal_of_all_devices_at_once_tells_each() {
    let mut returning = Returning::new();
    let config = Config {
        early_data: false,
        handshakes: Handshakes {
            all: RateLimit::UNLIMITED,
            per_subnet: RateLimit::UNLIMITED,
        },
        ..config(Some(Protection::Sealed))
    };
    returning.pair.server = Endpoint::new(config, &realm_key().into(), [4; 32]);
    let ticket = returning.ticket.clone();
    for _ in 0..200 {
        returning.ticket.clone_from(&ticket);
        let before = returning.pair.now;
        let events = returning.ask_once(true, |_| false);
        assert!(!is_resumed(&events) && replies(&events) == 1);
        let took = returning.pair.replied - before;
        assert!(
            took <= RTT * 6,
            "{took:?} {:?}",
            returning
                .pair
                .carried
                .iter()
                .map(|(up, d)| (*up, d[0], d.len()))
                .collect::<Vec<_>>()
        );
        returning.pair.now = before;
    }
}

/// HS-20: one ticket takes few of the slots of unproven links.
#[test]
fn ticket_has_few_slots_of_unproven_links() {
    let mut returning = Returning::new();
    let before = returning.pair.server.links();
    for _ in 0..50 {
        returning.pair.now = returning.pair.now + Duration::from_millis(1);
        let resume = returning.resume();
        assert_eq!(returning.answers(client_address(), &resume).len(), 1);
    }
    assert_eq!(returning.pair.server.links() - before, 8);
}

/// HS-13, HS-21: the address in a ticket proves no more than any address. A sender that forges it
/// takes no slot of initiators that have shown a cookie.
#[test]
fn ticket_address_does_not_count_as_cookie() {
    let mut returning = Returning::new();
    let resume = returning.resume();
    returning.answers(client_address(), &resume);
    let server = &returning.pair.server;
    let resumed = server
        .links
        .values()
        .filter(|entry| entry.resumption().resumed().is_some());
    let slots: Vec<_> = resumed.map(|entry| entry.holding().slot()).collect();
    assert!(matches!(
        slots.first(),
        Some(holder::SlotKind::TicketAddress(_))
    ));
}

/// HS-21: an Init from a forged address, with a copy from the sender's own address, does not make
/// the forged address the place of the ticket.
#[test]
fn ticket_does_not_record_forged_address_of_copied_init() {
    for is_copied in [false, true] {
        let mut returning = Returning::new();
        returning.ticket = None;
        let init = returning.resume();
        assert!(matches!(Packet::parse(&init), Ok(Packet::Init(_))));
        let (now, forged) = (returning.pair.now, SocketAddr::from(([10, 0, 5, 5], 7)));
        assert_eq!(returning.answers(forged, &init).len(), 1);
        // Its command has a new number, so the ticket is stored at once.
        let links = &returning.pair.server.links;
        let (newest, _) = links
            .iter()
            .find(|(_, entry)| entry.path().remote == forged)
            .unwrap();
        returning.pair.server.ticket_is_genuine(newest);
        returning.answers(forged, &[]);
        assert_eq!(returning.addresses(), [None]);
        if is_copied {
            assert_eq!(returning.answers(client_address(), &init).len(), 1);
        }
        returning.pair.now = now + Duration::from_mins(4);
        returning.pair.server.handle_timeout(returning.pair.now);
        returning.answers(forged, &[]);
        let address = (!is_copied).then(|| forged.ip());
        assert_eq!(returning.addresses(), [address], "copied: {is_copied}");
    }
}

/// HS-21: once a device's address is proven, its ticket records it.
#[test]
fn ticket_records_address_once_proven() {
    let mut returning = Returning::new();
    returning.ticket = None;
    returning.ask_once(false, |_| false);
    assert_eq!(returning.addresses(), [Some(client_address().ip())]);
}

/// HS-18: a device, also one that runs for days, does not show a ticket after its lifetime.
#[test]
fn ticket_is_not_shown_after_its_lifetime() {
    let mut returning = Returning::new();
    returning.pair.now = returning.pair.now + Duration::from_hours(23);
    let is_resume = |datagram: &[u8]| matches!(Packet::parse(datagram), Ok(Packet::Resume(_)));
    assert!(is_resume(&returning.resume()));
    returning.pair.now = returning.pair.now + Duration::from_mins(51);
    assert!(!is_resume(&returning.resume()));
}

/// HS-20: a replayed Init does not make a realm forget the tickets of its device.
#[test]
fn ticket_is_not_displaced_by_replayed_init() {
    let mut returning = Returning::new();
    returning.ticket = None;
    let recorded = returning.resume();
    for _ in 0..10 {
        returning.pair.now = returning.pair.now + Duration::from_mins(4);
        returning.pair.server.handle_timeout(returning.pair.now);
        if returning.ticket.is_none() {
            returning.ask_once(true, |_| false);
        } else {
            assert_eq!(returning.answers(client_address(), &recorded).len(), 1);
        }
    }
    assert!(is_resumed(&returning.ask_once(true, |_| false)));
}

/// HS-20: a recorded Resume with another cookie, which anybody can put there, counts as the same
/// one. It gets the same answer, and opens no other link.
#[test]
fn resumption_with_other_cookie_counts_as_same_resume() {
    let mut returning = Returning::new();
    returning.ask_once(true, |_| false);
    let recorded = returning.pair.carried[0].1.clone();
    let first = returning.pair.carried[1].1.clone();
    let Ok(Packet::Resume(resume)) = Packet::parse(&recorded) else {
        panic!("a device comes back with a Resume")
    };
    let (now, links) = (returning.pair.now, returning.pair.server.links());
    for n in 0..20 {
        let mut copy = Vec::new();
        let cookie = [n; 16];
        Resume::emit_header(
            resume.ticket,
            &resume.check,
            &resume.nonce,
            Some(&cookie),
            &mut copy,
        );
        copy.extend_from_slice(resume.sealed);
        let server = &mut returning.pair.server;
        server.handle_datagram(now, client_address(), &copy);
        let mut out = Vec::new();
        server.poll_transmit(now, &mut out).unwrap();
        assert_eq!(out, first);
        assert_eq!(server.links(), links);
    }
}

/// HS-20: a realm that cannot read its store does not refuse a ticket, and looks it up again when
/// the Resume is repeated.
#[test]
fn ticket_with_failed_lookup_is_not_refused() {
    let mut returning = Returning::new();
    returning.ask_once(true, |_| false);
    returning.pair.server = server(Protection::Sealed);
    let link = returning.open();
    returning.pair.ask(link, true);
    let mut looked_up = 0;
    for _ in 0..3 {
        for event in returning.pair.drive(|_| false) {
            if let Event::UnknownTicket { path, datagram, .. } = event {
                looked_up += 1;
                let now = returning.pair.now;
                let server = &mut returning.pair.server;
                server.ticket_found(now, path, &datagram, TicketFound::Unknown);
                assert_eq!(server.poll_transmit(now, &mut Vec::new()), None);
            }
        }
        returning.pair.wait();
    }
    assert_eq!(looked_up, 3);
    assert!(ticket_of(&returning.pair.client, link).is_some());
}

/// HS-20: tickets in memory, whose age is measured in the realm's running time, are forgotten if
/// that and the time of day disagree. Stored tickets, which have a time of day, stay valid.
#[test]
fn ticket_in_memory_is_forgotten_when_clock_stood_still() {
    let mut returning = Returning::new();
    let (server, now) = (&mut returning.pair.server, returning.pair.now);
    server.forget_tickets(now + Duration::from_micros(1));
    returning.pair.wait();
    let events = returning.ask_once(true, |_| false);
    assert!(!is_resumed(&events) && replies(&events) == 1);
    // Newer tickets are remembered.
    assert!(is_resumed(&returning.ask_once(true, |_| false)));
    assert_eq!(returning.kept.len(), 1);
    let (server, now) = (&mut returning.pair.server, returning.pair.now);
    server.forget_tickets(now + Duration::from_micros(1));
    returning.pair.wait();
    assert!(is_resumed(&returning.ask_once(true, |_| false)));
    returning.kept.clear();
    let events = returning.ask_once(true, |_| false);
    assert!(!is_resumed(&events), "the disk has forgotten it, too");
}

/// HS-19: a realm that now accepts only smaller datagrams still accepts the size that it has stated
/// to a device that resumes.
#[test]
fn resumption_keeps_datagram_size_stated_before() {
    let mut returning = Returning::new();
    let larger = returning.pair.server.config.max_datagram;
    returning.pair.server.config.max_datagram = 300;
    let link = returning.open();
    returning.pair.ask(link, true);
    assert!(is_resumed(&returning.go_on(link, |_| false)));
    // The first one travels in two packets, and shows the rate of the path (LINK-15).
    for _ in 0..3 {
        let deadline = returning.pair.now + Duration::from_mins(1);
        let (client, now) = (&mut returning.pair.client, returning.pair.now);
        client.request(now, link, vec![7; 1000], deadline, EarlyData::Forbidden);
        let events = returning.go_on(link, |_| false);
        assert_eq!((requests(&events), replies(&events)), (1, 1));
    }
    let lens = returning.pair.carried.iter().map(|(_, sent)| sent.len());
    assert!((1001..=larger).contains(&lens.max().unwrap()));
}

/// HS-20: a handshake with a key that has a successor gives no ticket.
#[test]
fn ticket_is_not_given_for_key_with_successor() {
    let mut returning = Returning::new();
    let identity = Identity {
        current: SecretKey::from_bytes([9; 32]),
        former: vec![realm_key()],
        lasting: realm_key(),
    };
    returning.pair.server = Endpoint::new(config(Some(Protection::Sealed)), &identity, [4; 32]);
    returning.ticket = None;
    for early in [true, false] {
        let events = returning.ask_once(early, |_| false);
        assert!(replies(&events) == 1 && returning.ticket.is_none());
        assert!(returning.kept.is_empty());
    }
    returning.pair.realm = identity.current.public();
    returning.ask_once(true, |_| false);
    assert!(returning.ticket.is_some());
}

/// HS-18: a ticket is not shown after the time that its holder has set, also on a link that is
/// opened again.
#[test]
fn ticket_is_not_shown_after_time_set_by_holder() {
    for is_over in [false, true] {
        let mut returning = Returning::new();
        let link = returning.open();
        returning.pair.ask(link, true);
        assert!(is_resumed(&returning.go_on(link, |_| false)));
        returning.pair.ask(link, false);
        returning.go_on(link, |_| false);
        let (client, now) = (&mut returning.pair.client, returning.pair.now);
        let left = if is_over { 0 } else { 60 };
        client.show_ticket_until(link, now + Duration::from_secs(left));
        // The realm forgets the link, not the ticket.
        returning.pair.server = server(Protection::Sealed);
        returning.pair.ask(link, true);
        let events = returning.go_on(link, |_| false);
        assert_eq!(replies(&events), 1);
        assert_eq!(is_resumed(&events), !is_over);
    }
}

/// HS-21: a ticket that is stored without an address gets one, once, when its device's address is
/// proven.
#[test]
fn ticket_without_address_gets_one_once_proven() {
    let mut returning = Returning::new();
    returning.ticket = None;
    returning.ask_once(false, |_| false);
    let addresses = |events: &[Event]| {
        let address = |event: &Event| match event {
            Event::TicketAddress { address, .. } => Some(*address),
            _ => None,
        };
        events.iter().filter_map(address).collect::<Vec<_>>()
    };
    for is_known in [false, true] {
        for issued in returning.kept.values_mut() {
            issued.address = issued.address.filter(|_| is_known);
        }
        returning.pair.server = server(Protection::Sealed);
        let link = returning.open();
        returning.pair.ask(link, true);
        let mut events = returning.go_on(link, |_| false);
        assert!(is_resumed(&events) && addresses(&events).is_empty());
        // The next packet proves it.
        returning.pair.ask(link, false);
        events = returning.go_on(link, |_| false);
        let expected = [client_address().ip()];
        assert_eq!(addresses(&events), expected[usize::from(is_known)..]);
        let issued = returning.kept.values_mut().next().unwrap();
        issued.address.get_or_insert(client_address().ip());
    }
}
