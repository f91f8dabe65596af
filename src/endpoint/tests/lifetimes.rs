//! How long state is kept, and that it is freed in the end.

use super::{migration::in_use, *};

/// Lets time pass for the server alone. What it sends is lost.
fn wait(pair: &mut Pair, seconds: u64) {
    let mut lost = vec![];
    while pair.server.poll_transmit(pair.now, &mut lost).is_some() {}
    pair.now = pair.now + Duration::from_secs(seconds);
    pair.server.handle_timeout(pair.now);
}

/// HS-4, HS-5: an unproven link is kept for minutes. Found by the simulator: with a round trip of
/// nearly a minute and losses, each new link was forgotten before it could be proven, and each
/// repeated Init opened another.
#[test]
fn handshake_on_slow_path_may_take_minutes_to_prove_link() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, false);
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    let init = out.clone();
    let (from, mut events) = (pair.from, vec![]);
    pair.server.handle_datagram(pair.now, from, &init);
    pair.serve(&mut events);
    let mut accept = vec![];
    pair.server.poll_transmit(pair.now, &mut accept).unwrap();
    wait(&mut pair, 100);
    pair.server.handle_datagram(pair.now, from, &init);
    let mut again = vec![];
    pair.server.poll_transmit(pair.now, &mut again).unwrap();
    assert_eq!(accept, again, "it is the same handshake");
    wait(&mut pair, 70);
    pair.client
        .handle_datagram(pair.now, server_address(), &again);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    let resets = pair
        .carried
        .iter()
        .filter(|(_, bytes)| matches!(Packet::parse(bytes), Ok(Packet::Reset { .. })));
    assert_eq!(resets.count(), 0);
    assert_eq!(pair.server.links(), 1);
}

/// LINK-13: reassembly memory is freed with its link. Found by the simulator: the bytes of an
/// incomplete message counted for ever when its link was opened anew, until no message was
/// reassembled any more.
#[test]
fn reassembly_memory_is_freed_when_its_link_ends() {
    for ends in ["by itself", "with its link", "with a fresh link"] {
        let (mut pair, link) = in_use();
        let deadline = pair.now + Duration::from_hours(2);
        pair.client
            .request(
                pair.now,
                link,
                vec![7; 5000],
                deadline,
                EarlyData::Forbidden,
            )
            .unwrap();
        let mut out = vec![];
        pair.client.poll_transmit(pair.now, &mut out).unwrap();
        pair.server.handle_datagram(pair.now, pair.from, &out);
        let held = |server: &Endpoint| server.accounting.reassembly();
        assert!(held(&pair.server) > 0, "{ends}");
        match ends {
            "by itself" => wait(&mut pair, 16 * 60),
            "with its link" => {
                let link = pair.server.links.any();
                pair.server.close(pair.now, link, CloseReason::Done);
                while pair.server.poll_transmit(pair.now, &mut out).is_some() {}
            }
            _ => {
                let link = pair.server.links.any();
                pair.server.dial_again(pair.now, link);
            }
        }
        assert_eq!(held(&pair.server), 0, "{ends}");
    }
}

/// LINK-23: a client that requests much and never receives it loses its links before any client
/// that does receive.
#[test]
fn eviction_when_memory_is_short_takes_links_that_hold_most() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.memory_max = 100_000;
    let small = pair.connect();
    pair.ask(small, false);
    pair.drive(|_| false);
    let known: Vec<_> = pair.server.links.ids();
    let mut hogs = vec![];
    for _ in 0..4 {
        let hog = pair.connect();
        pair.ask(hog, false);
        pair.drive(|_| false);
        let ids = pair.server.links.ids().into_iter();
        let mut new = ids.filter(|id| !known.contains(id) && hogs.iter().all(|(_, hog)| hog != id));
        let id = new.next().unwrap();
        pair.server.trust(id, AccountId::new(1));
        hogs.push((hog, id));
    }
    // Answers of 30,000 bytes each, which never arrive.
    for _ in 0..2 {
        for (hog, id) in &hogs {
            let number = pair.ask(*hog, false);
            let mut out = vec![];
            while pair.client.poll_transmit(pair.now, &mut out).is_some() {
                let from = client_address();
                pair.server.handle_datagram(pair.now, from, &out);
            }
            pair.server.reply(pair.now, *id, number, vec![7; 30_000]);
            assert!(pair.server.accounting.memory() <= 100_000);
        }
    }
    assert!(pair.server.links() < 5, "{}", pair.server.links());
    pair.ask(small, false);
    assert!(replies(&pair.drive(|_| false)) > 0);
    pair.now = pair.now + Duration::from_hours(3);
    pair.server.handle_timeout(pair.now);
    assert_eq!(
        (pair.server.links(), pair.server.accounting.memory()),
        (0, 0)
    );
}
