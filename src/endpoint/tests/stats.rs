//! Statistics.

use super::{
    resume::{Returning, is_resumed},
    *,
};
use crate::wire::Init;

/// Returns what the server has dropped since `before`.
fn dropped(pair: &Pair, before: &EndpointStats) -> Vec<(Dropped, u64)> {
    let now = pair.server.stats();
    let each = Dropped::ALL
        .into_iter()
        .map(|reason| (reason, now.dropped_for(reason) - before.dropped_for(reason)));
    each.filter(|(_, count)| *count > 0).collect()
}

impl Pair {
    /// Returns the reason for which the server drops a datagram, if it does.
    fn drops(&mut self, datagram: &[u8]) -> Option<Dropped> {
        let before = self.server.stats();
        self.server.handle_datagram(self.now, self.from, datagram);
        let now = self.server.stats();
        assert_eq!(now.received.datagrams, before.received.datagrams + 1);
        let reasons = dropped(self, &before);
        assert!(reasons.iter().map(|(_, count)| count).sum::<u64>() <= 1);
        reasons.first().map(|(reason, _)| *reason)
    }
}

/// WIRE-9, HS-3, HS-4, HS-8, LINK-3: each datagram without effect is counted once, with its reason.
#[test]
fn metrics_count_each_datagram_without_effect_with_its_reason() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    let mut init = vec![];
    pair.client.poll_transmit(pair.now, &mut init).unwrap();

    assert_eq!(pair.drops(&[]), Some(Dropped::NotAPacket));
    let short = &init[..init.len() - 40];
    assert_eq!(pair.drops(short), Some(Dropped::TooShort));
    // A cookie does not count toward the least length of an Init.
    let Ok(Packet::Init(whole)) = Packet::parse(&init) else {
        panic!("it is an Init")
    };
    let mut shown = vec![];
    Init::emit_covered(whole.handshake, true, &whole.noise[..103], &mut shown);
    shown.extend_from_slice(&[0; 24]);
    assert_eq!(pair.drops(&shown), Some(Dropped::TooShort));
    let mut bent = init.clone();
    *bent.last_mut().unwrap() ^= 1;
    assert_eq!(pair.drops(&bent), Some(Dropped::NotForThisSide));
    assert_eq!(pair.drops(&init), None);
    assert_eq!(pair.drops(&init), Some(Dropped::InWork));

    pair.serve(&mut vec![]);
    pair.drive(|_| false);
    assert_eq!(pair.drops(&init), None, "it is answered again");
    init[1] += 1;
    assert_eq!(pair.drops(&init), Some(Dropped::OtherVersion));
    init[1] -= 1;
    pair.ask(link, true);
    pair.drive(|_| false);
    let up = |(up, datagram): &(bool, Vec<u8>)| up.then(|| datagram.clone());
    let packet = pair.carried.iter().filter_map(up).next_back().unwrap();
    assert_eq!(pair.drops(&packet), Some(Dropped::Replayed));
    let mut bent = packet.clone();
    *bent.last_mut().unwrap() ^= 1;
    assert_eq!(pair.drops(&bent), Some(Dropped::NotAuthentic));
    let accept = pair.carried[0].1.clone();
    assert_eq!(pair.drops(&accept), Some(Dropped::Unasked));
    let mut reset = vec![];
    Packet::emit_reset(ConnectionId(7), &[7; 16], &mut reset);
    assert_eq!(pair.drops(&reset), Some(Dropped::Unasked));

    pair.server = server(Protection::Sealed);
    assert_eq!(pair.drops(&packet), Some(Dropped::UnknownLink));
    assert_eq!(pair.server.stats().answers.resets, 1);
    let client = pair.client.stats();
    pair.client
        .handle_datagram(pair.now, server_address(), &init);
    assert_eq!(
        pair.client.stats().dropped_for(Dropped::NotServed),
        client.dropped_for(Dropped::NotServed) + 1
    );
}

/// Both sides count the same datagrams, and retransmissions are counted where something is lost.
#[test]
fn metrics_count_datagrams_and_retransmissions_on_both_sides() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    for _ in 0..5 {
        pair.ask(link, false);
        pair.drive(|_| false);
    }
    let (client, server) = (pair.client.stats(), pair.server.stats());
    assert_eq!(client.sent, server.received);
    assert_eq!(client.received, server.sent);
    assert_eq!(server.answers.accepts, 1);
    // All but the Init and the Accept are packets of the link.
    assert_eq!(client.links.sent.datagrams, client.sent.datagrams - 1);
    assert_eq!(client.links.received, server.links.sent);
    assert_eq!(client.links.repeats, link::Repeats::default());
    let of_link = pair.client.link(link).unwrap().stats();
    assert_eq!(of_link.counters, client.links);
    assert_eq!(of_link.rtt.unwrap().0, RTT);

    // The next datagram is lost.
    let lost = pair.carried.len();
    pair.ask(link, false);
    pair.drive(|at| at == lost);
    pair.wait();
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    let of_link = pair.client.link(link).unwrap().stats();
    assert_eq!(of_link.counters.repeats.requests, 1);

    // The counts of closed links stay.
    let before = pair.client.stats();
    pair.client.close(pair.now, link, CloseReason::Done);
    pair.drive(|_| false);
    assert_eq!(pair.client.links(), 0);
    let after = pair.client.stats();
    assert_eq!(
        after.links.sent.datagrams,
        before.links.sent.datagrams + 1,
        "the CLOSE"
    );
    assert_eq!(after.links.repeats, before.links.repeats);
}

/// The first packet of a handshake is counted when it is sent again: an Init, and a Resume.
#[test]
fn metrics_count_repeated_inits_and_resumes() {
    let mut returning = Returning::new();
    let openings = |returning: &Returning| returning.pair.client.stats().links.repeats.openings;
    assert_eq!(openings(&returning), 0);
    // Without a ticket the next process begins with an Init, and with its ticket the one after
    // with a Resume.
    returning.ticket = None;
    for is_resumption in [false, true] {
        let events = returning.ask_once(true, |at| at == 0);
        assert_eq!(replies(&events), 1);
        assert_eq!(is_resumed(&events), is_resumption);
        assert_eq!(openings(&returning), 1, "resumption: {is_resumption}");
    }
}

/// The counts of a link are kept while it is dormant, and are not counted twice when it wakes.
#[test]
fn metrics_of_dormant_link_are_kept_and_not_counted_twice() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, false);
    pair.drive(|_| false);
    let before = pair.server.stats();
    pair.now = pair.now + Duration::from_mins(10);
    pair.server.handle_timeout(pair.now);
    assert!(
        pair.server
            .links
            .values()
            .all(|entry| entry.link.is_dormant())
    );
    assert_eq!(pair.server.stats().links, before.links);
    pair.ask(link, false);
    pair.drive(|_| false);
    let after = pair.server.stats().links;
    assert!(after.received.datagrams > before.links.received.datagrams);
    assert_eq!(after.received, pair.client.stats().links.sent);
}
