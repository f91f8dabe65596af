//! Which datagrams a path carries, and how that is found out (LINK-15).

use super::{
    bulk::{Bulk, HOUR, message},
    *,
};
use crate::link::mtu::PathSize;

/// LINK-15: a path whose size shrinks again and again while messages are in flight is followed.
#[test]
fn mtu_of_path_that_shrinks_in_flight_is_followed() {
    let mut bulk = Bulk::new(1, 100_000, Duration::from_millis(100), 0.0);
    let messages = vec![message(19_000, 1); 6];
    for message in &messages {
        bulk.pair.client.ask(message.clone(), HOUR, false).unwrap();
    }
    let mut whole = 0;
    while whole < messages.len() {
        bulk.step();
        for event in events(&mut bulk.pair.server) {
            let Event::Request { number, bytes, .. } = event else {
                panic!("{event:?}")
            };
            assert_eq!(bytes, messages[0]);
            bulk.pair.server.reply(number, b"ok".to_vec());
            whole += 1;
            bulk.up.set_mtu([1200, 900, 548, 400, 160, 160][whole - 1]);
        }
        assert!(bulk.pair.now < HOUR);
    }
    assert!(bulk.pair.now < Time(120_000_000), "{:?}", bulk.pair.now);
}

/// LINK-15: a path that is narrow from the beginning is soon found out. Found by a test with real
/// processes: a realm that knew no RTT tried larger datagrams first, each with the timeout of an
/// unknown path. 16 KiB took 6 s over a path of 576 bytes.
#[test]
fn mtu_of_path_narrow_from_beginning_is_soon_found() {
    for (size, rtt) in [(548, 1), (548, 60), (700, 1), (1200, 1), (9000, 1)] {
        for seed in 0..10 {
            let mut bulk = Bulk::new(seed, 100_000_000, Duration::from_millis(rtt), 0.0);
            bulk.up.set_mtu(size);
            bulk.down.set_mtu(size);
            bulk.pair.client.ask(message(20, 1), HOUR, false).unwrap();
            let mut reply = None;
            while reply.is_none() {
                bulk.step();
                for event in events(&mut bulk.pair.server) {
                    if let Event::Request { number, .. } = event {
                        bulk.pair.server.reply(number, message(16_384, 2));
                    }
                }
                reply = events(&mut bulk.pair.client).pop();
            }
            let longest = Time(400_000) + Duration::from_millis(rtt) * 30;
            let took = bulk.pair.now;
            assert!(took < longest, "{took:?} where {size} bytes get through");
        }
    }
}

/// LINK-15: a whole message that the path has become too small for shrinks the path size. Before,
/// only fragments did, and such a message was retransmitted at its size for ever.
#[test]
fn mtu_shrinks_on_loss_of_whole_messages() {
    let mut pair = Pair::new();
    pair.server.opening_mut().trust();
    pair.client.start_from(&PathMemory {
        rtt: None,
        losses: Losses::default(),
        datagram: 1200,
        unsure: 0,
    });
    let end = pair.now + Duration::from_mins(2);
    pair.client.ask(vec![1; 1_000], end, false).unwrap();
    let mut got = vec![];
    while pair.now < end && got.is_empty() {
        while let Some(up) = transmit(&mut pair.client, pair.now) {
            if up.len() <= 600 {
                deliver(&mut pair.server, pair.now, &up).unwrap();
            }
        }
        while let Some(down) = transmit(&mut pair.server, pair.now) {
            deliver(&mut pair.client, pair.now, &down).unwrap();
        }
        got.extend(events(&mut pair.server));
        pair.advance(50);
    }
    assert!(matches!(&got[..], [Event::Request { bytes, .. }] if bytes.len() == 1_000));
}

/// LINK-15: lost large packets shrink the path size, also while small ones are acknowledged.
#[test]
fn mtu_shrinks_on_lost_large_packets_beside_small_ones() {
    let mut path = PathSize::proven(1200);
    for lost in 0..24 {
        assert_eq!(path.size(1200), if lost < 12 { 1200 } else { 548 });
        let len = path.size(1200);
        path.arrived(30);
        path.lost(Time(lost), len);
    }
    assert_eq!(path.size(1200), 160);
    let mut path = PathSize::proven(1200);
    for lost in 0..40 {
        path.lost(Time(lost), 1200);
        if lost % 9 == 8 {
            path.arrived(1200);
        }
    }
    assert_eq!(path.size(1200), 1200);
}

/// LINK-15: where both sides take far larger datagrams than the path, the first probe costs little.
/// Found by a test with real processes: a probe filled the window of an unknown path, and its loss
/// showed after 8 s, then 12 and 18 s, at each command. With one of 1,200 bytes it was 5 s in sum.
#[test]
fn mtu_of_both_sides_far_above_path_costs_little() {
    for (size, rtt) in [(548, 1), (1232, 1), (1232, 60), (1452, 200)] {
        for seed in 0..10 {
            let pair = Pair::with(Config {
                max_datagram: 9000,
                ..UNKNOWN_PATH
            });
            let rtt = Duration::from_millis(rtt);
            let mut bulk = Bulk::over(pair, seed, 100_000_000, rtt, 0.0);
            bulk.up.set_mtu(size);
            bulk.down.set_mtu(size);
            let mut took = Time(0);
            for len in [20, 16_000] {
                let begun = bulk.pair.now;
                let request = message(len, 1);
                bulk.pair.client.ask(request, HOUR, false).unwrap();
                let mut reply = None;
                while reply.is_none() {
                    bulk.step();
                    for event in events(&mut bulk.pair.server) {
                        if let Event::Request { number, .. } = event {
                            bulk.pair.server.reply(number, b"ok".to_vec());
                        }
                    }
                    reply = events(&mut bulk.pair.client).pop();
                }
                took = Time(bulk.pair.now.0 - begun.0);
            }
            assert!(
                took < Time(1_500_000) + rtt * 30,
                "{took:?} over {size} bytes"
            );
            let found = bulk.pair.client.recovery.path_size(9000);
            assert!((548..=size).contains(&found), "{found} over {size} bytes");
        }
    }
}
