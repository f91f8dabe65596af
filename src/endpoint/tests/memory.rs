//! Path memory: what one process measures of a path, and the next one starts with (LINK-25).

use super::{resume::Returning, tickets::ticket_of, *};
use crate::link::{Losses, PathMemory};

/// LINK-25: a process uses the path memory of the one before. Its first retransmission leaves after
/// one round trip. Where loss was high, its first packet leaves twice.
#[test]
fn path_memory_is_used_by_next_process() {
    let mut returning = Returning::new();
    let mut memory = None;
    // In most processes both copies of the first packet are lost.
    for round in 0..8 {
        let link = returning.open();
        if let Some(memory) = &memory {
            returning.pair.client.start_from(link, memory);
        }
        returning.pair.ask(link, true);
        let mut sent = 0;
        let events = returning.go_on(link, |_| {
            sent += 1;
            round % 3 > 0 && sent <= 2
        });
        assert_eq!(replies(&events), 1);
        memory = returning
            .pair
            .client
            .link(link)
            .map(LinkStatus::path_memory);
        let (rtt, _) = memory.unwrap().rtt.unwrap();
        assert!(rtt <= RTT * 5 / 4, "{rtt:?}");
    }
    assert!(memory.unwrap().losses.each_way() > 154, "{memory:?}");
    let link = returning.open();
    let begun = returning.pair.now;
    returning
        .pair
        .client
        .start_from(link, memory.as_ref().unwrap());
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

/// Runs a process that begins from `memory`, sends one request over a path with round-trip time
/// `rtt`, and ends when it has the reply. Returns its path memory and the number of packets that it
/// sent. `lose` decides which of them are lost.
fn process(
    returning: &mut Returning,
    memory: &PathMemory,
    rtt: Duration,
    mut lose: impl FnMut(usize) -> bool,
) -> (PathMemory, usize) {
    let link = returning.open();
    let pair = &mut returning.pair;
    pair.client.start_from(link, memory);
    let deadline = pair.now + Duration::from_mins(10);
    let ask = b"ask".to_vec();
    let asked = pair
        .client
        .request(pair.now, link, ask, deadline, EarlyData::Allowed);
    assert!(asked.is_some());
    let (mut left, mut out, mut events) = (0, Vec::new(), Vec::new());
    let mut arriving = std::collections::VecDeque::new();
    while replies(&events) == 0 {
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            left += 1;
            if lose(left) {
                continue;
            }
            pair.server.handle_datagram(pair.now, pair.from, &out);
            pair.serve(&mut Vec::new());
            pair.serve(&mut Vec::new());
            while pair.server.poll_transmit(pair.now, &mut out).is_some() {
                arriving.push_back((pair.now + rtt, out.clone()));
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
        events.extend(core::iter::from_fn(|| pair.client.poll_event()));
    }
    let memory = pair.client.link(link).unwrap().path_memory();
    returning.ticket = ticket_of(&pair.client, link);
    (memory, left)
}

/// LINK-25: a path that has become longer than remembered is measured again, though each packet is
/// at first retransmitted before its answer can arrive. Packets that are not lost do not count as
/// lost.
#[test]
fn path_memory_of_path_that_became_longer_is_measured_again() {
    let mut returning = Returning::new();
    let mut memory = PathMemory {
        rtt: Some((RTT / 4, RTT / 40)),
        losses: Losses::default(),
        datagram: 1200,
        unsure: 0,
    };
    let mut sent = Vec::new();
    for _ in 0..16 {
        let (found, left) = process(&mut returning, &memory, RTT, |_| false);
        memory = found;
        sent.push(left);
    }
    assert!(sent[0] > 1 && sent[15] == 1, "{sent:?}");
    assert!(memory.rtt.unwrap().0 >= RTT, "{memory:?}");
    assert!(memory.losses.each_way() < 154, "{memory:?}");
}

const LOSSY: PathMemory = PathMemory {
    rtt: Some((RTT, Duration::from_millis(6))),
    losses: Losses { lost: 16, of: 32 },
    datagram: 1200,
    unsure: 0,
};

/// LINK-25, LINK-19: a packet with a redundant copy that is answered once does not count as lost.
/// On a path that has become good, packets soon leave once.
#[test]
fn path_memory_of_path_that_became_good_ends_redundant_copies() {
    let mut returning = Returning::new();
    let mut memory = LOSSY;
    let mut sent = Vec::new();
    for _ in 0..40 {
        let (found, left) = process(&mut returning, &memory, RTT, |_| false);
        memory = found;
        sent.push(left);
    }
    assert_eq!((sent[0], sent[39]), (2, 1), "{sent:?}");
    assert!(memory.losses.each_way() < 51, "{memory:?}");
}

/// LINK-25: redundant copies go on if both copies of a packet are lost every fourth time. That is
/// the case on a path that loses 30 % each way.
#[test]
fn path_memory_of_path_that_stays_bad_keeps_redundant_copies() {
    let mut returning = Returning::new();
    let mut memory = LOSSY;
    for round in 0..40 {
        let is_bad = round % 4 == 0;
        let (found, left) = process(&mut returning, &memory, RTT, |left| is_bad && left <= 2);
        assert!(left >= 2, "{round}: {memory:?}");
        memory = found;
    }
}

/// LINK-25: if a realm answers slowly, the packet is retransmitted meanwhile, and it does not count
/// as a loss.
#[test]
fn path_memory_does_not_count_slow_answer_as_loss() {
    let mut returning = Returning::new();
    let short = Duration::from_millis(30);
    let memory = PathMemory {
        rtt: Some((short, Duration::from_millis(1))),
        losses: Losses::default(),
        ..LOSSY
    };
    let slow = short + Duration::from_millis(48);
    let (found, left) = process(&mut returning, &memory, slow, |_| false);
    assert_eq!(left, 2);
    assert_eq!(found.losses.lost, 0, "{found:?}");
}

/// LINK-25: a handshake that loses many packets in a row counts as one loss, because it was one
/// outage. This also holds for more packets than are counted.
#[test]
fn path_memory_counts_outage_as_one_loss() {
    for lost in [1, 5, 20] {
        let mut returning = Returning::new();
        let good = PathMemory {
            losses: Losses::default(),
            ..LOSSY
        };
        let (found, left) = process(&mut returning, &good, RTT, |left| left <= lost);
        assert_eq!(left, lost + 1);
        let losses = found.losses;
        assert_eq!((losses.lost, losses.of), (1, 1), "{lost} lost");
        assert!(losses.each_way() < 154, "{losses:?}");
    }
}
