//! Forged datagrams in each other's name, made to let two realms answer one another for ever.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use merpati::{
    crypto::{Initiator, SecretKey, mac1},
    endpoint::{Config, Endpoint, Handshakes, LINK_LIFETIME, WorkerId},
    link::{Redundancy, Time},
    wire::{
        ConnectionId, Frame, HandshakeId, Hello, HelloReply, Init, Open, Packet, PacketNumber,
        Protection, RealmId, append_crc, link_header,
    },
};
use rand::{SeedableRng as _, rngs::StdRng};

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 6377))
}

fn realm(n: u8, protection: Protection) -> Endpoint {
    let config = Config {
        worker: WorkerId::ALONE,
        accept: Some(protection),
        hello: Some("alpha".parse().unwrap()),
        early_data: true,
        resumes: false,
        max_datagram: 1200,
        max_message: 16_384,
        rate: None,
        redundancy: Redundancy::Auto,
        lifetime: LINK_LIFETIME,
        links_max: 100,
        memory_max: 64 << 20,
        handshakes: Handshakes::default(),
        idle: Duration::from_hours(1),
        shared_idle: Duration::from_mins(10),
    };
    Endpoint::new(config, &key(n).into(), [n; 32])
}

/// Returns forgeries of everything that a realm might answer, and of every answer that might be
/// answered in turn.
fn forgeries() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut datagram = Vec::new();
        write(&mut datagram);
        all.push(datagram);
    };
    let realm: RealmId = "alpha".parse().unwrap();
    add(&|out| Hello { nonce: [1; 8] }.emit(out));
    let reply = HelloReply {
        nonce: [1; 8],
        versions: vec![1],
        realm,
        key: key(1).public().0,
    };
    add(&|out| reply.emit(out));
    for to in [1, 2] {
        let mut payload = Vec::new();
        let open = Open {
            max_datagram: 1200,
            name: None,
            resumes: false,
        };
        Frame::Padding.emit_inner(&mut payload);
        Frame::Padding.emit_inner(&mut payload);
        Frame::Open(open).emit_last(&mut payload);
        let mut rng = StdRng::seed_from_u64(3);
        let (_, noise) = Initiator::start(&mut rng, &key(7), &key(to).public(), &payload).unwrap();
        let mut init = Vec::new();
        Init::emit_without_cookie(HandshakeId(5), &noise, &mut init);
        let mac = mac1(&key(to).public(), &init);
        init.extend_from_slice(&mac);
        add(&|out| out.extend_from_slice(&init));
    }
    add(&|out| Packet::emit_accept(HandshakeId(5), &[3; 90], out));
    add(&|out| Packet::emit_retry(HandshakeId(5), &[3; 16], out));
    add(&|out| Packet::emit_reset(ConnectionId(5), &[3; 16], out));
    for protection in [Protection::Sealed, Protection::Plain] {
        for connection in [None, Some(ConnectionId(5))] {
            for len in [24, 64, 1200] {
                add(&|out| {
                    link_header(protection, connection, PacketNumber(1), None, out);
                    out.resize(len - 4, 0);
                    append_crc(out);
                });
            }
        }
    }
    all
}

/// HS-8: no error or Reset loops: an answer is never answered, and no answer is longer than its
/// request.
#[test]
fn reset_for_forged_datagram_is_never_answered() {
    for protections in [
        [Protection::Sealed, Protection::Sealed],
        [Protection::Plain, Protection::Plain],
        [Protection::Sealed, Protection::Plain],
    ] {
        for forgery in forgeries() {
            for victim in [0, 1] {
                let mut realms = [realm(1, protections[0]), realm(2, protections[1])];
                let now = Time(1_000_000);
                let mut on_the_way = VecDeque::from([(victim, forgery.clone())]);
                let (mut carried, mut longest) = (0, forgery.len());
                while let Some((to, datagram)) = on_the_way.pop_front() {
                    let from = address(2 - u8::try_from(to).unwrap());
                    realms[to].handle_datagram(now, from, &datagram);
                    let mut out = Vec::new();
                    while realms[to].poll_transmit(now, &mut out).is_some() {
                        assert!(out.len() <= longest, "{forgery:02x?} brings {out:02x?}");
                        longest = out.len();
                        on_the_way.push_back((1 - to, out.clone()));
                        carried += 1;
                    }
                }
                assert!(carried <= 1, "{forgery:02x?} brings {carried}");
            }
        }
    }
}
