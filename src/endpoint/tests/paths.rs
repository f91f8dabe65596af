//! The local address that an endpoint answers from (WIRE-16).

use std::net::IpAddr;

use super::{floods::strict, migration::in_use, *};

/// Returns the server's address that ends with `last`.
fn at(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// Returns the path from the client to the server's address that ends with `last`.
fn to(last: u8) -> Path {
    Path {
        remote: client_address(),
        local: Some(at(last)),
    }
}

/// Delivers all datagrams of the client over `path` and returns them.
fn carry_up(pair: &mut Pair, path: Path) -> Vec<Vec<u8>> {
    let (mut out, mut all) = (vec![], vec![]);
    while pair.client.poll_transmit(pair.now, &mut out).is_some() {
        pair.server.handle_datagram(pair.now, path, &out);
        all.push(out.clone());
    }
    all
}

/// Delivers all datagrams of the server. Returns each with the address that it left from.
fn carry_down(pair: &mut Pair) -> Vec<(Option<IpAddr>, Vec<u8>)> {
    pair.serve(&mut vec![]);
    let (mut out, mut all) = (vec![], vec![]);
    while let Some(path) = pair.server.poll_transmit(pair.now, &mut out) {
        assert_eq!(path.remote, client_address());
        pair.client
            .handle_datagram(pair.now, server_address(), &out);
        all.push((path.local, out.clone()));
    }
    all
}

/// Returns the only datagram that the server sends, which leaves from its address that ends with
/// `last`.
fn one_from(pair: &mut Pair, last: u8) -> Vec<u8> {
    let mut all = carry_down(pair);
    assert_eq!(all.len(), 1, "{all:?}");
    let (local, datagram) = all.remove(0);
    assert_eq!(local, Some(at(last)));
    datagram
}

/// HS-12: if strangers ask faster than answers leave, some get no answer, and the answers that wait
/// take bounded memory.
#[test]
fn stranger_answers_waiting_to_leave_are_bounded() {
    let mut pair = strict(1);
    pair.client.ask_hello(pair.now, server_address());
    let hello = carry_up(&mut pair, to(5)).remove(0);
    for _ in 0..2 * ANSWERS_MAX {
        pair.server.handle_datagram(pair.now, to(5), &hello);
    }
    let (mut answers, mut out) = (0, vec![]);
    while pair.server.poll_transmit(pair.now, &mut out).is_some() {
        answers += 1;
    }
    assert_eq!(answers, ANSWERS_MAX);
    pair.server.handle_datagram(pair.now, to(5), &hello);
    assert!(pair.server.poll_transmit(pair.now, &mut out).is_some());
}

/// WIRE-16: a client without a link is answered from the address that it sent to.
#[test]
fn path_of_answer_without_link_leaves_from_address_asked() {
    let mut pair = strict(1);
    pair.client.ask_hello(pair.now, server_address());
    carry_up(&mut pair, to(5));
    let hello = one_from(&mut pair, 5);
    assert!(matches!(Packet::parse(&hello), Ok(Packet::HelloReply(_))));
    // A client may send the same Init to another address.
    pair.connect();
    let init = carry_up(&mut pair, to(6));
    let accept = one_from(&mut pair, 6);
    assert!(matches!(Packet::parse(&accept), Ok(Packet::Accept { .. })));
    pair.server.handle_datagram(pair.now, to(7), &init[0]);
    assert_eq!(one_from(&mut pair, 7), accept);
    // Above the rate limit a cookie is required.
    let mut asked = 8..;
    let is_retry = asked.any(|last| {
        pair.connect();
        carry_up(&mut pair, to(last));
        let answer = one_from(&mut pair, last);
        matches!(Packet::parse(&answer), Ok(Packet::Retry { .. }))
    });
    assert!(is_retry);
}

/// WIRE-16, HS-8: a Reset leaves from the address that the packet was sent to.
#[test]
fn path_of_reset_leaves_from_address_asked() {
    for protection in [Protection::Sealed, Protection::Plain] {
        let mut pair = Pair::new(protection);
        let link = match protection {
            Protection::Sealed => pair.connect(),
            Protection::Plain => pair.client.connect_plain(pair.now, server_address(), None),
        };
        pair.ask(link, true);
        assert_eq!(replies(&pair.drive(|_| false)), 1);
        pair.server = server(protection);
        pair.ask(link, false);
        carry_up(&mut pair, to(5));
        let reset = one_from(&mut pair, 5);
        assert!(matches!(Packet::parse(&reset), Ok(Packet::Reset { .. })));
    }
}

/// WIRE-16: a link sends from the address that its newest packet came to, also much later.
#[test]
fn path_of_link_leaves_from_address_of_newest_packet() {
    for protection in [Protection::Sealed, Protection::Plain] {
        let mut pair = Pair::new(protection);
        let link = match protection {
            Protection::Sealed => pair.connect(),
            Protection::Plain => pair.client.connect_plain(pair.now, server_address(), None),
        };
        let mut older = vec![];
        for last in [5, 5, 6, 7, 6] {
            pair.ask(link, false);
            let mut count = 0;
            for _ in 0..4 {
                older.extend(carry_up(&mut pair, to(last)));
                for (local, _) in carry_down(&mut pair) {
                    assert_eq!(local, Some(at(last)), "{protection:?}");
                    count += 1;
                }
            }
            assert!(count > 0);
        }
        // A repeat of an older packet at another address changes nothing.
        for datagram in &older {
            pair.server.handle_datagram(pair.now, to(9), datagram);
        }
        carry_down(&mut pair);
        pair.now = pair.now + Duration::from_secs(10);
        let at_server = pair.server.links.any();
        pair.server.links.get_mut(at_server).unwrap().link.ping();
        pair.server.schedule.wake(at_server);
        assert!(!one_from(&mut pair, 6).is_empty());
        // The local address of a datagram is not always known.
        pair.ask(link, false);
        carry_up(&mut pair, client_address().into());
        assert!(
            carry_down(&mut pair)
                .iter()
                .all(|(local, _)| local.is_none())
        );
    }
}

/// WIRE-16, LINK-18: a client that returns to its proven address is answered from the address that
/// it sends to there.
#[test]
fn migration_back_is_answered_from_address_asked() {
    let (mut pair, link) = in_use();
    let elsewhere = Path {
        remote: SocketAddr::from(([10, 9, 9, 9], 1001)),
        local: Some(at(5)),
    };
    let sent = |pair: &mut Pair, path: Path| {
        pair.ask(link, false);
        carry_up(pair, path);
        pair.serve(&mut vec![]);
        let mut out = vec![];
        let paths: Vec<Path> =
            core::iter::from_fn(|| pair.server.poll_transmit(pair.now, &mut out)).collect();
        assert!(!paths.is_empty());
        paths
    };
    assert!(sent(&mut pair, to(4)).iter().all(|path| *path == to(4)));
    assert!(
        sent(&mut pair, elsewhere)
            .iter()
            .all(|path| *path == elsewhere)
    );
    // It does not answer there, and the link goes back to the proven address.
    while pair
        .server
        .links
        .values()
        .any(|entry| entry.previous_path().is_some())
    {
        pair.now = pair.now + Duration::from_secs(1);
        pair.server.handle_timeout(pair.now);
        while pair.server.poll_transmit(pair.now, &mut vec![]).is_some() {}
    }
    assert!(
        pair.server
            .links
            .values()
            .all(|entry| entry.path() == to(4))
    );
    assert!(sent(&mut pair, to(6)).iter().all(|path| *path == to(6)));
}

/// WIRE-16: a link that this side opened is not bound to a local address, because routes change.
#[test]
fn path_of_link_opened_here_is_not_bound_to_local_address() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    let from_server = Path {
        remote: server_address(),
        local: Some(at(200)),
    };
    for _ in 0..3 {
        pair.ask(link, false);
        for _ in 0..4 {
            let mut out = vec![];
            while let Some(path) = pair.client.poll_transmit(pair.now, &mut out) {
                assert_eq!(path, server_address().into());
                pair.server.handle_datagram(pair.now, to(5), &out);
            }
            pair.serve(&mut vec![]);
            while pair.server.poll_transmit(pair.now, &mut out).is_some() {
                pair.client.handle_datagram(pair.now, from_server, &out);
            }
        }
    }
    assert!(pair.client.link(link).is_some_and(LinkStatus::is_open));
}
