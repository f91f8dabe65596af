//! What others can do with a recorded first message, and with many of their own (HS-4, HS-13,
//! HS-20).

use std::net::IpAddr;

use super::{
    resume::{Returning, is_resumed, resuming},
    *,
};
use crate::rate_limit::RateLimit;

const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 7, 7)), 7);

impl Endpoint {
    fn sends(&mut self, now: Time) -> Vec<(SocketAddr, Vec<u8>)> {
        let (mut sent, mut out) = (Vec::new(), Vec::new());
        while let Some(path) = self.poll_transmit(now, &mut out) {
            sent.push((path.remote, out.clone()));
        }
        sent
    }
}

/// HS-4, LINK-18: an attacker who repeats an Init from elsewhere, however often, cannot prevent its
/// link from being proven.
#[test]
fn handshake_init_copies_from_elsewhere_do_not_keep_link_unproven() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    let [(_, init)] = &pair.client.sends(pair.now)[..] else {
        panic!("one Init");
    };
    let init = init.clone();
    pair.server.handle_datagram(pair.now, pair.from, &init);
    pair.serve(&mut Vec::new());
    let id = pair.server.links.any();
    for _ in 0..20 {
        for (to, datagram) in pair.server.sends(pair.now) {
            if to == pair.from {
                let from = server_address();
                pair.client.handle_datagram(pair.now, from, &datagram);
            }
        }
        pair.ask(link, false);
        let answers = pair.client.sends(pair.now);
        // A copy of the client's Init arrives before the client's packet.
        pair.server.handle_datagram(pair.now, ELSEWHERE, &init);
        for (_, datagram) in answers {
            pair.server.handle_datagram(pair.now, pair.from, &datagram);
        }
        pair.serve(&mut Vec::new());
        pair.now = pair.now + RTT;
        pair.server.handle_timeout(pair.now);
        pair.client.handle_timeout(pair.now);
    }
    assert!(pair.server.links[id].link.is_proven());
    assert!(!pair.server.links[id].link.has_moved());
}

/// HS-20, HS-21, WIRE-11: after a link has migrated, a repeated Resume gets no longer answer at the
/// new address than the Resume itself.
#[test]
fn resumption_repeated_gets_long_answer_only_at_first_address() {
    let mut returning = Returning::new();
    let link = returning.open();
    returning.pair.ask(link, true);
    let pair = &mut returning.pair;
    let [(_, resume)] = &pair.client.sends(pair.now)[..] else {
        panic!("one Resume");
    };
    let resume = resume.clone();
    pair.server.handle_datagram(pair.now, pair.from, &resume);
    let mut events = Vec::new();
    while let Some(event) = pair.server.poll_event() {
        match &event {
            Event::Incoming { link, .. } => {
                let account = Some(pair.account);
                pair.server
                    .welcome(pair.now, *link, account, OperationNumber(9));
            }
            Event::Request { link, number, .. } => {
                pair.server.reply(pair.now, *link, *number, vec![7; 60]);
            }
            _ => {}
        }
        events.push(event);
    }
    let answers = pair.server.sends(pair.now);
    assert!(answers[0].1.len() > resume.len());
    for (_, answer) in &answers {
        pair.client
            .handle_datagram(pair.now, server_address(), answer);
    }
    // The client itself sends from another address, or with a forged one.
    pair.ask(link, false);
    for (_, datagram) in pair.client.sends(pair.now) {
        pair.server.handle_datagram(pair.now, ELSEWHERE, &datagram);
    }
    pair.server.sends(pair.now);
    for from in [ELSEWHERE, client_address()] {
        pair.server.handle_datagram(pair.now, from, &resume);
        let sent = pair.server.sends(pair.now);
        let longest = sent.iter().filter(|(to, _)| *to == from);
        let longest = longest.map(|(_, datagram)| datagram.len()).max().unwrap();
        assert_eq!(longest > resume.len(), from == client_address(), "{from}");
    }
}

/// HS-13, HS-20: a device that resumes from the address of its ticket does not count as a
/// handshake. However many tickets devices have, and however often they resume, links with
/// handshakes and links resumed from other networks keep their slots.
#[test]
fn resumption_repeated_often_evicts_no_links_of_others() {
    let mut returning = Returning::new();
    let config = Config {
        links_max: 5000,
        handshakes: Handshakes {
            all: RateLimit::UNLIMITED,
            per_subnet: RateLimit::UNLIMITED,
        },
        ..config(Some(Protection::Sealed))
    };
    let pair = &mut returning.pair;
    pair.server = Endpoint::new(config, &realm_key().into(), [4; 32]);
    let device = |n: u8| {
        let device = SecretKey::from_bytes([n; 32]);
        Endpoint::new(resuming(None), &device.into(), [n; 32])
    };
    // Tickets of many devices at one address, and of one device at another.
    let mut tickets = Vec::new();
    for n in 100..180 {
        pair.from = SocketAddr::from(([192, 0, 2, 1], 1000 + u16::from(n)));
        pair.client = device(n);
        let link = pair.connect();
        pair.ask(link, true);
        pair.drive(|_| false);
        tickets.push((n, pair.client.link(link).unwrap().ticket().unwrap().clone()));
    }
    let (other, stranger) = ([198, 51, 100, 1], [203, 0, 113, 1]);
    pair.from = SocketAddr::from((other, 7));
    pair.client = device(99);
    let link = pair.connect();
    pair.ask(link, true);
    pair.drive(|_| false);
    let ticket = pair.client.link(link).unwrap().ticket().unwrap().clone();
    let comes_back = |pair: &mut Pair, from, endpoint: Endpoint, ticket| {
        pair.from = from;
        pair.client = endpoint;
        let link = pair.connect();
        if let Some(ticket) = ticket {
            pair.client.come_back(link, ticket);
        }
        pair.ask(link, true);
        let known: Vec<LinkId> = pair.server.links.ids();
        let events = pair.drive(|_| false);
        let mut now = pair.server.links.ids().into_iter();
        let new = now.find(|link| !known.contains(link));
        (new, is_resumed(&events))
    };
    let (theirs, is_back) =
        comes_back(pair, SocketAddr::from((other, 8)), device(99), Some(ticket));
    let (strangers, _) = comes_back(pair, SocketAddr::from((stranger, 9)), device(98), None);
    assert!(is_back);
    let mut random = 0;
    let mut back = 0;
    for _ in 0..10 {
        for (n, ticket) in &tickets {
            random += 1;
            let key = SecretKey::from_bytes([*n; 32]);
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&u32::to_be_bytes(random));
            let endpoint = Endpoint::new(resuming(None), &key.into(), seed);
            let from = SocketAddr::from(([192, 0, 2, 1], 9));
            let (_, is_back) = comes_back(pair, from, endpoint, Some(ticket.clone()));
            back += usize::from(is_back);
        }
    }
    assert_eq!(back, 800);
    for link in [theirs.unwrap(), strangers.unwrap()] {
        assert!(pair.server.links.contains(link), "{link:?}");
    }
    // Their own links are bounded.
    assert!(pair.server.links() <= 512 + 90);
}

/// Answers to strangers leave in turns with the packets of links.
#[test]
fn stranger_answers_leave_in_turns_with_link_packets() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    pair.drive(|_| false);
    pair.ask(link, false);
    for (_, datagram) in pair.client.sends(pair.now) {
        pair.server.handle_datagram(pair.now, pair.from, &datagram);
    }
    pair.serve(&mut Vec::new());
    for n in 0..100_u8 {
        let mut hello = Vec::new();
        crate::wire::Hello { nonce: [n; 8] }.emit(&mut hello);
        pair.server.handle_datagram(pair.now, ELSEWHERE, &hello);
    }
    let sent = pair.server.sends(pair.now);
    let at = sent.iter().position(|(to, _)| *to == pair.from);
    assert!(at.unwrap() < 2 && sent.len() > 100, "{at:?}");
}

/// HS-5, HS-19: a realm forgets a link that was resumed and has carried nothing since after three
/// minutes. A later request on it resumes another link at once, and does not wait for a Reset that
/// the client would not accept.
#[test]
fn resumption_after_pause_of_minutes_resumes_again_without_reset() {
    let mut returning = Returning::new();
    let link = returning.open();
    returning.pair.ask(link, true);
    assert!(is_resumed(&returning.go_on(link, |_| false)));
    for _ in 0..3 {
        let pair = &mut returning.pair;
        pair.now = pair.now + Duration::from_mins(4);
        pair.server.handle_timeout(pair.now);
        pair.client.handle_timeout(pair.now);
        assert_eq!(pair.server.links(), 0);
        pair.ask(link, true);
        let events = returning.go_on(link, |_| false);
        assert!(is_resumed(&events) && replies(&events) == 1);
        // Nothing is sent in vain: no packet of the forgotten link, and no Reset.
        let mut firsts = returning.pair.carried.iter().map(|(_, sent)| sent[0]);
        assert!(firsts.all(|first| matches!(first, 0x07 | 0x08)));
    }
}
