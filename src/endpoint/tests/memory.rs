//! What one process finds out of a path, and the next one begins with (LINK-25).

use super::{resume::Returning, *};
use crate::link::{Losses, PathMemory};

/// LINK-25: a process goes by what the one before it found out of the path: its first repeat leaves after a round trip, and where much was lost,
/// the first packet leaves twice.
#[test]
fn path_is_remembered_by_the_next_process() {
    let mut returning = Returning::new();
    let mut memory = None;
    // Of most processes the first packet is lost, both times that it leaves.
    for round in 0..8 {
        let link = returning.open();
        if let Some(memory) = &memory {
            returning.pair.client.begin_from(link, memory);
        }
        returning.pair.ask(link, true);
        let mut sent = 0;
        let told = returning.go_on(link, |_| {
            sent += 1;
            round % 3 > 0 && sent <= 2
        });
        assert_eq!(replies(&told), 1);
        memory = returning.pair.client.path_memory(link);
        let (rtt, _) = memory.unwrap().rtt.unwrap();
        assert!(rtt <= RTT * 5 / 4, "{rtt:?}");
    }
    assert!(memory.unwrap().losses.each_way() > 154, "{memory:?}");
    let link = returning.open();
    let begun = returning.pair.now;
    returning
        .pair
        .client
        .begin_from(link, memory.as_ref().unwrap());
    returning.pair.ask(link, true);
    let mut left = Vec::new();
    let mut out = Vec::new();
    while left.len() < 4 {
        let now = returning.pair.now;
        while returning.pair.client.poll_transmit(now, &mut out).is_some() {
            left.push(now - begun);
        }
        returning.pair.now = returning.pair.client.poll_timeout().unwrap().max(now);
        returning.pair.client.handle_timeout(returning.pair.now);
    }
    assert!(left[1] < RTT && left[2] > RTT, "{left:?}");
    assert!(left[2] < RTT * 4, "{left:?}");
}

/// LINK-25: a path that is longer than is remembered is found out, though at first each packet leaves again before its answer can be there, and what
/// is not lost does not count as lost.
#[test]
fn path_that_has_become_longer_is_measured_again() {
    let mut returning = Returning::new();
    let mut memory = PathMemory {
        rtt: Some((RTT / 4, RTT / 40)),
        losses: Losses::default(),
        datagram: 1200,
        unsure: 0,
    };
    let mut sent = Vec::new();
    for _ in 0..16 {
        let link = returning.open();
        let pair = &mut returning.pair;
        pair.client.begin_from(link, &memory);
        pair.ask(link, true);
        let (mut left, mut out, mut told) = (0, Vec::new(), Vec::new());
        let mut arriving = std::collections::VecDeque::new();
        while replies(&told) == 0 {
            while pair.client.poll_transmit(pair.now, &mut out).is_some() {
                left += 1;
                pair.server.handle_datagram(pair.now, pair.from, &out);
                pair.serve(&mut Vec::new());
                pair.serve(&mut Vec::new());
                while pair.server.poll_transmit(pair.now, &mut out).is_some() {
                    arriving.push_back((pair.now + RTT, out.clone()));
                }
            }
            let next = earliest(
                pair.client.poll_timeout(),
                arriving.front().map(|(at, _)| *at),
            );
            pair.now = next.unwrap().max(pair.now);
            pair.client.handle_timeout(pair.now);
            while let Some((_, bytes)) = arriving.pop_front_if(|(at, _)| *at <= pair.now) {
                pair.client
                    .handle_datagram(pair.now, server_address(), &bytes);
            }
            told.extend(core::iter::from_fn(|| pair.client.poll_event()));
        }
        memory = pair.client.path_memory(link).unwrap();
        let ticket = pair.client.ticket(link).cloned();
        returning.ticket = ticket;
        sent.push(left);
    }
    assert!(sent[0] > 1 && sent[15] == 1, "{sent:?}");
    assert!(memory.rtt.unwrap().0 >= RTT, "{memory:?}");
    assert!(memory.losses.each_way() < 154, "{memory:?}");
}
