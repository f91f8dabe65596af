//! Resumption (HS-18 … HS-21).

use super::{tickets::ticket_of, *};
use crate::{
    endpoint::{IssuedTicket, TicketFound},
    wire::{ConnectionId, RESUMED_HEADER},
};

/// A pair with a realm's stored tickets and a profile's ticket.
pub struct Returning {
    pub pair: Pair,
    pub ticket: Option<Ticket>,
    pub kept: BTreeMap<ConnectionId, IssuedTicket>,
    /// The number of processes so far. Each has its own random seed.
    runs: u8,
}

pub fn resuming(accept: Option<Protection>) -> Config {
    Config {
        resumes: accept.is_none(),
        ..config(accept)
    }
}

fn client(seed: u8) -> Endpoint {
    let device = SecretKey::from_bytes([1; 32]);
    Endpoint::new(resuming(None), &device.into(), [seed; 32])
}

impl Returning {
    /// Returns a device that has sent one request and got the reply in the Accept.
    pub fn new() -> Self {
        let mut pair = Pair::new(Protection::Sealed);
        pair.client = client(3);
        let mut returning = Self {
            pair,
            ticket: None,
            kept: BTreeMap::new(),
            runs: 0,
        };
        let events = returning.ask_once(true, |_| false);
        assert_eq!(replies(&events), 1);
        returning
    }

    /// Runs a process that sends one request and ends.
    pub fn ask_once(&mut self, early: bool, lose: impl FnMut(usize) -> bool) -> Vec<Event> {
        let link = self.open();
        self.pair.ask(link, early);
        self.go_on(link, lose)
    }

    pub fn open(&mut self) -> LinkId {
        self.runs += 1;
        self.pair.client = client(5 + self.runs);
        self.pair.carried.clear();
        let link = self.pair.connect();
        if let Some(ticket) = self.ticket.clone() {
            self.pair.client.come_back(link, ticket);
        }
        link
    }

    pub fn go_on(&mut self, link: LinkId, mut lose: impl FnMut(usize) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..60 {
            let some = self.pair.drive(&mut lose);
            self.keep(&some);
            let is_asked = |event: &Event| matches!(event, Event::UnknownTicket { .. });
            let is_asked = some.iter().any(is_asked);
            events.extend(some);
            if replies(&events) > 0 {
                break;
            }
            if !is_asked {
                self.pair.wait();
            }
        }
        self.ticket = ticket_of(&self.pair.client, link);
        events
    }

    /// Stores and looks up tickets as a server does.
    pub fn keep(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::TicketDue { ticket, issued, .. } => {
                    self.kept.insert(*ticket, issued.clone());
                }
                Event::UnknownTicket {
                    ticket,
                    path,
                    datagram,
                } => {
                    let issued = self.kept.get(ticket).cloned();
                    let found = issued.map_or(TicketFound::NotGood, TicketFound::Good);
                    let now = self.pair.now;
                    self.pair.server.ticket_found(now, *path, datagram, found);
                }
                _ => {}
            }
        }
    }

    fn lens(&self) -> Vec<usize> {
        self.pair
            .carried
            .iter()
            .map(|(_, datagram)| datagram.len())
            .collect()
    }

    fn first_byte(&self, at: usize) -> u8 {
        self.pair.carried[at].1[0]
    }
}

pub fn is_resumed(events: &[Event]) -> bool {
    events.iter().any(|event| {
        matches!(
            event,
            Event::Opened {
                is_resumed: true,
                ..
            }
        )
    })
}

/// HS-19: a resumed request takes one round trip and two datagrams without a superfluous byte.
#[test]
fn resumption_request_is_answered_in_one_round_trip() {
    let mut returning = Returning::new();
    for _ in 0..3 {
        let before = returning.pair.now;
        let events = returning.ask_once(true, |_| false);
        assert!(is_resumed(&events) && requests(&events) == 1);
        assert_eq!(returning.pair.replied - before, RTT);
        // Form, ticket, check, nonce, request (5), tag; and form, nonce, id, reply (4), tag.
        assert_eq!(
            returning.lens(),
            [1 + 4 + 4 + 8 + 5 + 16, 1 + 8 + 4 + 4 + 16]
        );
    }
}

/// HS-19: a resumed link goes on like any other, and UPDATE tells both sides what WELCOME would.
#[test]
fn resumption_link_goes_on_and_update_tells_standing() {
    let mut returning = Returning::new();
    let link = returning.open();
    returning.pair.ask(link, true);
    returning.go_on(link, |_| false);
    returning.pair.ask(link, false);
    let events = returning.pair.drive(|_| false);
    assert_eq!(replies(&events), 1);
    let standing = events.iter().find_map(|event| match event {
        Event::HighestOperation { highest, .. } => Some(*highest),
        _ => None,
    });
    assert_eq!(standing, Some(OperationNumber(9)));
    // The server forgets everything, and its Reset is accepted.
    returning.pair.server = server(Protection::Sealed);
    returning.pair.ask(link, true);
    let events = returning.go_on(link, |_| false);
    assert_eq!(replies(&events), 1);
}

/// HS-19: a client without the token accepts a Reset of a link just resumed, after a timeout.
#[test]
fn resumption_without_token_accepts_reset_after_timeout() {
    let mut returning = Returning::new();
    let link = returning.open();
    returning.pair.ask(link, true);
    returning.go_on(link, |_| false);
    returning.pair.server = server(Protection::Sealed);
    returning.pair.ask(link, true);
    let events = returning.pair.drive(|_| false);
    assert_eq!(replies(&events), 0, "anybody may have sent it");
    returning.pair.wait();
    let events = returning.go_on(link, |_| false);
    assert_eq!((requests(&events), replies(&events)), (1, 1));
}

/// HS-20: whatever is lost, the request is executed once.
#[test]
fn resumption_with_lost_packets_executes_request_once() {
    for lost in [&[0][..], &[1], &[0, 1, 2], &[1, 3, 5]] {
        let mut returning = Returning::new();
        let events = returning.ask_once(true, |at| lost.contains(&at));
        assert_eq!((requests(&events), replies(&events)), (1, 1), "{lost:?}");
        assert!(is_resumed(&events));
        let first = &returning.pair.carried[0].1;
        let repeats = returning
            .pair
            .carried
            .iter()
            .filter(|(up, d)| *up && d == first);
        assert!(repeats.count() >= 2, "byte for byte");
    }
}

/// HS-20: a realm refuses an unknown ticket at once. A handshake with the same request follows.
#[test]
fn ticket_unknown_is_refused_and_handshake_follows() {
    let mut returning = Returning::new();
    returning.pair.server = server(Protection::Sealed);
    let before = returning.pair.now;
    let events = returning.ask_once(true, |_| false);
    assert!(!is_resumed(&events) && replies(&events) == 1);
    assert_eq!(returning.pair.replied - before, RTT * 2);
    // Its new ticket is valid.
    assert!(is_resumed(&returning.ask_once(true, |_| false)));
}

/// HS-20: a stored ticket is valid after a restart.
#[test]
fn ticket_stored_is_valid_after_restart() {
    let mut returning = Returning::new();
    // A request that is not early proves the link, so that its ticket is stored.
    returning.ticket = None;
    returning.ask_once(false, |_| false);
    assert_eq!(returning.kept.len(), 1);
    returning.pair.server = server(Protection::Sealed);
    let events = returning.ask_once(true, |_| false);
    assert!(is_resumed(&events) && requests(&events) == 1);
}

/// HS-20: no ticket is stored for an Init that may be recorded, until its device resumes by it.
#[test]
fn ticket_of_unproven_link_is_stored_once_used() {
    let mut returning = Returning::new();
    assert!(returning.kept.is_empty());
    // Longer than an unproven link is kept.
    returning.pair.now = returning.pair.now + Duration::from_mins(10);
    returning.pair.server.handle_timeout(returning.pair.now);
    assert_eq!(returning.pair.server.links(), 0);
    assert!(is_resumed(&returning.ask_once(true, |_| false)));
    assert_eq!(returning.kept.len(), 1);
    returning.pair.server = server(Protection::Sealed);
    assert!(is_resumed(&returning.ask_once(true, |_| false)));
}

/// HS-20: a ticket is valid for a day, and for the user whose session the device had.
#[test]
fn ticket_is_valid_for_one_day_and_one_user() {
    let mut returning = Returning::new();
    returning.pair.server.config.idle = Duration::from_hours(100);
    returning.pair.account = AccountId::new(2);
    let events = returning.ask_once(true, |_| false);
    assert!(!is_resumed(&events) && replies(&events) == 1 && requests(&events) == 1);
    assert!(is_resumed(&returning.ask_once(true, |_| false)));
    let ticket = returning.ticket.clone();
    returning.pair.now = returning.pair.now + Duration::from_hours(24);
    // The store checks the age of stored tickets. A device might show its ticket for ever.
    returning.kept.clear();
    returning.ticket.as_mut().unwrap().until = Time(u64::MAX);
    let events = returning.ask_once(true, |_| false);
    assert!(!is_resumed(&events) && replies(&events) == 1);
    assert_ne!(returning.ticket.unwrap().id, ticket.unwrap().id);
}

/// HS-20: a sender without the token gets no answer, and a corrupted packet has no effect.
#[test]
fn resumption_forged_or_corrupted_is_ignored() {
    let mut returning = Returning::new();
    let link = returning.open();
    returning.pair.ask(link, true);
    let mut out = Vec::new();
    returning
        .pair
        .client
        .poll_transmit(returning.pair.now, &mut out)
        .unwrap();
    let genuine = out.clone();
    for at in 0..genuine.len() {
        let mut bent = genuine.clone();
        bent[at] ^= 1;
        returning
            .pair
            .server
            .handle_datagram(returning.pair.now, client_address(), &bent);
        let mut events = Vec::new();
        returning.pair.serve(&mut events);
        assert_eq!(requests(&events), 0, "byte {at}");
        let mut answers = Vec::new();
        while returning
            .pair
            .server
            .poll_transmit(returning.pair.now, &mut out)
            .is_some()
        {
            answers.push(out.clone());
        }
        // A packet with the ticket's id and check may be answered with a Reset.
        assert!(
            answers
                .iter()
                .all(|answer| answer.len() <= bent.len() && at >= 9),
            "byte {at}"
        );
    }
    assert_eq!(returning.pair.server.links(), 1);
}

/// HS-19: a replayed Resume gets an answer under another key once the first answer is forgotten.
#[test]
fn resumption_replayed_is_answered_under_another_key() {
    let mut returning = Returning::new();
    returning.ask_once(true, |_| false);
    let recorded = returning.pair.carried[0].1.clone();
    let first = returning.pair.carried[1].1.clone();
    let answer = |returning: &mut Returning| {
        let now = returning.pair.now;
        returning
            .pair
            .server
            .handle_datagram(now, client_address(), &recorded);
        let mut events = Vec::new();
        for _ in 0..2 {
            let mut some = Vec::new();
            returning.pair.serve(&mut some);
            returning.keep(&some);
            events.extend(some);
        }
        let mut out = Vec::new();
        returning.pair.server.poll_transmit(now, &mut out).unwrap();
        (requests(&events), out)
    };
    assert_eq!(answer(&mut returning), (0, first.clone()));
    returning.pair.now = returning.pair.now + Duration::from_mins(4);
    returning.pair.server.handle_timeout(returning.pair.now);
    let (asked, second) = answer(&mut returning);
    assert_eq!(asked, 1, "its number makes it harmless");
    assert_ne!(second[..9], first[..9], "another nonce");
}

/// HS-21: a device gets three times its bytes at its proven address, and elsewhere no more.
#[test]
fn resumption_long_answer_goes_to_proven_address_only() {
    for (is_there, most) in [(true, 3), (false, 1)] {
        let mut returning = Returning::new();
        if !is_there {
            returning.pair.from = SocketAddr::from(([10, 0, 9, 9], 7));
        }
        let link = returning.open();
        returning.pair.ask(link, true);
        let mut out = Vec::new();
        returning
            .pair
            .client
            .poll_transmit(returning.pair.now, &mut out)
            .unwrap();
        let (brought, resume) = (out.len(), out.clone());
        let (now, from) = (returning.pair.now, returning.pair.from);
        returning.pair.server.handle_datagram(now, from, &out);
        let mut events = Vec::new();
        while let Some(event) = returning.pair.server.poll_event() {
            match &event {
                Event::Incoming { link, .. } => {
                    let account = Some(returning.pair.account);
                    returning
                        .pair
                        .server
                        .welcome(now, *link, account, OperationNumber(9));
                }
                Event::Request { link, number, .. } => {
                    returning
                        .pair
                        .server
                        .reply(now, *link, *number, vec![7; 60]);
                }
                _ => {}
            }
            events.push(event);
        }
        assert_eq!(requests(&events), 1);
        let mut sent = 0;
        while returning.pair.server.poll_transmit(now, &mut out).is_some() {
            sent += out.len();
        }
        assert!(sent <= most * brought, "{sent} of {brought}");
        assert_eq!(sent > brought, is_there);
        // WIRE-11: a copy from elsewhere is answered with no more bytes than it has.
        let elsewhere = SocketAddr::from(([10, 0, 7, 7], 7));
        let server = &mut returning.pair.server;
        server.handle_datagram(now, elsewhere, &resume);
        let mut cookie = None;
        while server.poll_transmit(now, &mut out).is_some() {
            assert!(out.len() <= brought, "{} for {brought}", out.len());
            if let Ok(Packet::Retry { cookie: events, .. }) = Packet::parse(&out) {
                cookie = Some(events);
            }
        }
        // HS-20: if the answer is longer, the sender gets a cookie, and with it the answer.
        assert_eq!(cookie.is_some(), is_there);
        if let Some(cookie) = cookie {
            let (head, sealed) = resume[1..].split_at(16);
            let shown = [&[0x17], head, &cookie, sealed].concat();
            server.handle_datagram(now, elsewhere, &shown);
            let path = server.poll_transmit(now, &mut out).unwrap();
            assert_eq!((path.remote, out[0]), (elsewhere, 0x08));
            assert!(out.len() > brought);
        }
    }
}

/// HS-7, HS-18, HS-20: a realm without early data resumes no link. A device that knows that does
/// not try.
#[test]
fn resumption_without_early_data_does_not_happen() {
    let mut returning = Returning::new();
    returning.pair.server.config.early_data = false;
    let events = returning.ask_once(true, |_| false);
    assert!(!is_resumed(&events) && replies(&events) == 1);
    assert_eq!(returning.first_byte(0), 0x07);
    assert!(returning.ticket.is_none() && returning.kept.is_empty());
    let events = returning.ask_once(true, |_| false);
    assert!(!is_resumed(&events) && replies(&events) == 1);
    assert_eq!(returning.first_byte(0), 0x03);
    assert!(returning.kept.is_empty());
}

/// HS-20: a handshake begins when no Resume is answered, after six of them.
#[test]
fn resumption_unanswered_six_times_becomes_handshake() {
    let mut returning = Returning::new();
    let link = returning.open();
    returning.pair.ask(link, true);
    let is_resume = |datagram: &[u8]| datagram[0] == 0x07;
    let mut events = Vec::new();
    for _ in 0..60 {
        let carried = returning.pair.carried.len();
        // Each Resume is lost.
        let mut out = Vec::new();
        while returning
            .pair
            .client
            .poll_transmit(returning.pair.now, &mut out)
            .is_some()
        {
            returning.pair.carried.push((true, out.clone()));
            if !is_resume(&out) {
                let now = returning.pair.now;
                returning
                    .pair
                    .server
                    .handle_datagram(now, client_address(), &out);
            }
        }
        returning.pair.serve(&mut events);
        events.extend(returning.pair.drive(|_| false));
        if replies(&events) > 0 {
            break;
        }
        assert!(returning.pair.carried.len() <= carried + 1);
        returning.pair.wait();
    }
    assert_eq!((requests(&events), replies(&events)), (1, 1));
    let resumes = returning.pair.carried.iter().filter(|(_, d)| is_resume(d));
    assert_eq!(resumes.count(), 6);
}

/// HS-14, HS-20: a device that knows a former life is told the current one. One that knows none of
/// the store's lives begins anew.
#[test]
fn resumption_with_former_life_is_told_current_one() {
    let lives = [Life([1; 4]), Life([2; 4])];
    for (known, outcome) in [
        (lives[0], Some(None)),
        (lives[1], Some(Some(lives[0]))),
        (Life([3; 4]), None),
    ] {
        // Also without early data, when the answer may not be longer than the Resume.
        for is_early in [true, false] {
            let mut returning = Returning::new();
            returning.pair.server.set_known_lives(lives);
            let link = returning.open();
            returning.pair.client.claim_life(link, Some(known));
            if !is_early {
                returning.pair.from = SocketAddr::from(([10, 0, 9, 9], 7));
            }
            returning.pair.ask(link, is_early);
            let events = returning.go_on(link, |_| false);
            assert_eq!(replies(&events), 1);
            let life = events.iter().find_map(|event| match event {
                Event::Opened {
                    welcome,
                    is_resumed: true,
                    ..
                } => Some(welcome.life),
                _ => None,
            });
            assert_eq!(life, outcome, "{known:?} {is_early}");
            assert_eq!(returning.first_byte(0), 0x07);
        }
    }
}

/// HS-20: a command with a new operation number proves as much as a sealed packet.
#[test]
fn ticket_is_stored_at_once_when_command_number_is_new() {
    for (operation, is_kept) in [(9, false), (10, true)] {
        let mut pair = Pair::new(Protection::Sealed);
        pair.client = client(3);
        let link = pair.connect();
        pair.ask(link, true);
        let mut out = Vec::new();
        pair.client.poll_transmit(pair.now, &mut out).unwrap();
        pair.server
            .handle_datagram(pair.now, client_address(), &out);
        let mut events = Vec::new();
        while let Some(event) = pair.server.poll_event() {
            match &event {
                Event::Incoming { link, .. } => {
                    let account = Some(pair.account);
                    pair.server
                        .welcome(pair.now, *link, account, OperationNumber(9));
                }
                Event::Request { link, number, .. } => {
                    let status = pair.server.link(*link).unwrap();
                    if status.is_fresh(OperationNumber(operation)) {
                        pair.server.ticket_is_genuine(*link);
                    }
                    pair.server.reply(pair.now, *link, *number, b"ok".to_vec());
                }
                _ => {}
            }
        }
        while pair.server.poll_transmit(pair.now, &mut out).is_some() {}
        pair.serve(&mut events);
        let due = |event: &Event| matches!(event, Event::TicketDue { .. });
        assert_eq!(events.iter().any(due), is_kept, "{operation}");
    }
}

/// HS-7, HS-19: a request that may not be early data is sent again after a handshake if its link is
/// opened anew. Before, it was sent on a resumed link.
#[test]
fn resumption_is_not_used_for_request_not_allowed_early() {
    for early in [true, false] {
        let mut returning = Returning::new();
        let link = returning.open();
        returning.pair.ask(link, true);
        assert_eq!(replies(&returning.go_on(link, |_| false)), 1);
        assert!(ticket_of(&returning.pair.client, link).is_some());
        returning.pair.ask(link, early);
        let (now, mut out) = (returning.pair.now, Vec::new());
        returning.pair.client.dial_again(now, link);
        assert!(returning.pair.client.poll_transmit(now, &mut out).is_some());
        let begun = Packet::parse(&out);
        let is_resume = matches!(begun, Ok(Packet::Resume(_)));
        assert!(
            is_resume || matches!(begun, Ok(Packet::Init(_))),
            "{begun:?}"
        );
        assert_eq!(is_resume, early);
    }
}

/// WIRE-9: an authentic but malformed answer to a Resume makes the client forget the ticket and
/// begin a handshake. Before, it showed the same ticket without end.
#[test]
fn ticket_with_malformed_answer_is_forgotten() {
    let mut returning = Returning::new();
    let link = returning.open();
    returning.pair.ask(link, true);
    let (now, mut out) = (returning.pair.now, Vec::new());
    let client = &mut returning.pair.client;
    assert!(client.poll_transmit(now, &mut out).is_some());
    let Ok(Packet::Resume(resume)) = Packet::parse(&out) else {
        panic!("{out:?}");
    };
    let (device, nonce) = (resume.nonce, [9; 8]);
    let secret = &returning.ticket.as_ref().unwrap().secret;
    let mut answer = Vec::new();
    Packet::emit_resumed_header(&nonce, &mut answer);
    answer.extend([0, 0, 0, 1, 0x7f]);
    secret
        .answer_key(&device, &nonce)
        .seal(0, RESUMED_HEADER, &mut answer);
    client.handle_datagram(now, server_address(), &answer);
    assert!(ticket_of(client, link).is_none());
    // The owner of the ticket is notified.
    let is_refused = |event: &Event| matches!(event, Event::TicketRefused { .. });
    assert!(core::iter::from_fn(|| client.poll_event()).any(|event| is_refused(&event)));
    assert!(client.poll_transmit(now, &mut out).is_some());
    assert!(matches!(Packet::parse(&out), Ok(Packet::Init(_))));
    returning
        .pair
        .server
        .handle_datagram(now, client_address(), &out);
    let mut events = Vec::new();
    returning.pair.serve(&mut events);
    events.extend(returning.pair.drive(|_| false));
    assert_eq!((requests(&events), replies(&events)), (1, 1));
    let is_closed = |event: &Event| matches!(event, Event::Closed { .. });
    assert!(!events.iter().any(is_closed) && !is_resumed(&events));
}
