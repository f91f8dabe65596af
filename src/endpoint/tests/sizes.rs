//! The sizes of a handshake's packets (LINK-15).

use super::{resume::Returning, *};
use crate::link::{Losses, PathMemory};

/// The bytes of a command that does not fit a small datagram.
const LONG: usize = 800;
/// The largest datagram that the narrow path of these tests carries.
const NARROW: usize = 576;

fn ask_long(pair: &mut Pair, link: LinkId) {
    let deadline = pair.now + Duration::from_mins(2);
    let asked = pair
        .client
        .request(pair.now, link, vec![1; LONG], deadline, EarlyData::Allowed);
    assert!(asked.is_some());
}

/// Waits for the reply over a path that carries datagrams of up to `most` bytes. Returns the
/// lengths of the client's datagrams.
fn exchange(pair: &mut Pair, most: usize) -> Vec<usize> {
    let (begun, mut out, mut events, mut sent) = (pair.now, vec![], vec![], vec![]);
    while replies(&events) == 0 {
        let waited = pair.now - begun;
        assert!(waited < Duration::from_secs(30), "{sent:?}");
        let left = sent.len();
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            sent.push(out.len());
            if out.len() <= most {
                pair.server.handle_datagram(pair.now, pair.from, &out);
            }
        }
        let mut served = vec![];
        pair.serve(&mut served);
        pair.now = pair.now + RTT;
        while pair.server.poll_transmit(pair.now, &mut out).is_some() {
            if out.len() <= most {
                pair.client
                    .handle_datagram(pair.now, server_address(), &out);
            }
        }
        events.extend(core::iter::from_fn(|| pair.client.poll_event()));
        if sent.len() == left {
            pair.wait();
        }
    }
    sent
}

const fn remembered(datagram: usize) -> PathMemory {
    PathMemory {
        rtt: Some((RTT, RTT)),
        losses: Losses { lost: 0, of: 0 },
        datagram,
        unsure: 0,
    }
}

/// LINK-15: a command that is too long for a small Init waits for the link. Before, where the path
/// carries 576 bytes, the Init with such a command never arrived.
#[test]
fn mtu_unknown_makes_long_command_wait_for_link() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    ask_long(&mut pair, link);
    let sent = exchange(&mut pair, NARROW);
    assert!(sent[0] < 548, "{sent:?}");
    let mut returning = Returning::new();
    let link = returning.open();
    ask_long(&mut returning.pair, link);
    let sent = exchange(&mut returning.pair, NARROW);
    assert!(sent[0] < 548, "{sent:?}");
}

/// LINK-15, LINK-25: where the path memory has a larger datagram size, a longer command is early
/// data.
#[test]
fn mtu_remembered_lets_long_command_travel_early() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.client.start_from(link, &remembered(1200));
    ask_long(&mut pair, link);
    assert_eq!(exchange(&mut pair, 1200).len(), 1);
}

/// LINK-25: a link that is opened anew after a restart of its realm keeps the datagram size,
/// because it uses the same path.
#[test]
fn mtu_is_kept_when_link_is_opened_again() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.client.start_from(link, &remembered(1200));
    pair.client.dial_again(pair.now, link);
    assert_eq!(pair.client.link(link).unwrap().path_memory().datagram, 1200);
}

/// LINK-15: if the path has become narrower than remembered, a short handshake follows six long
/// ones.
#[test]
fn mtu_remembered_too_large_makes_handshake_short_after_six() {
    for is_resumed in [false, true] {
        let mut returning = Returning::new();
        if !is_resumed {
            returning.ticket = None;
        }
        let link = returning.open();
        let pair = &mut returning.pair;
        pair.client.start_from(link, &remembered(1200));
        ask_long(pair, link);
        let sent = exchange(pair, NARROW);
        assert!(sent[..6].iter().all(|len| *len > LONG), "{sent:?}");
        assert!(sent[6] < 548, "{sent:?}");
    }
}

/// LINK-15, HS-21: the answer to a Resume is no longer than any path carries, or than the Resume.
/// The rest follows.
#[test]
fn mtu_bounds_answer_to_resume() {
    let mut returning = Returning::new();
    let link = returning.open();
    let pair = &mut returning.pair;
    for _ in 0..20 {
        let deadline = pair.now + Duration::from_mins(2);
        let asked = pair
            .client
            .request(pair.now, link, vec![1; 20], deadline, EarlyData::Allowed);
        assert!(asked.is_some());
    }
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    pair.server.handle_datagram(pair.now, pair.from, &out);
    while let Some(event) = pair.server.poll_event() {
        match event {
            Event::Incoming { link, .. } => {
                let account = Some(pair.account);
                pair.server
                    .welcome(pair.now, link, account, OperationNumber(9));
            }
            Event::Request { link, number, .. } => {
                pair.server.reply(pair.now, link, number, vec![2; 60]);
            }
            _ => {}
        }
    }
    let brought = out.len();
    pair.server.poll_transmit(pair.now, &mut out).unwrap();
    assert!(matches!(Packet::parse(&out), Ok(Packet::Resumed { .. })));
    let most = brought.max(548);
    assert!(out.len() <= most && out.len() > most - 70, "{}", out.len());
}
