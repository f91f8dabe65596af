//! Arbitrary datagrams: noise, forgeries, and datagrams that belong to no protocol.

use std::net::Ipv4Addr;

use merpati::{
    crypto::{Responder, SecretKey},
    wire::{
        ConnectionId, Frame, HandshakeId, Hello, Packet, PacketNumber, Protection, append_crc,
        link_header,
    },
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    stranger::{OPEN, Stranger, init, key},
    support::{Home, Realm},
};

/// Number of datagrams sent before the realm's answers to them are collected.
const AT_ONCE: usize = 40;

/// Returns one datagram of each kind that a stranger can make.
fn kinds(realm: &Realm, rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut hello = Vec::new();
    Hello { nonce: [7; 8] }.emit(&mut hello);
    let (_, init) = init(&key(realm), &[OPEN, Frame::Padding, Frame::Padding]);
    let (mut accept, mut retry, mut reset) = (Vec::new(), Vec::new(), Vec::new());
    Packet::emit_accept(HandshakeId(1), &[9; 80], &mut accept);
    Packet::emit_retry(HandshakeId(2), &[9; 16], &mut retry);
    Packet::emit_reset(ConnectionId(3), &[9; 16], &mut reset);
    let mut packets = Vec::new();
    for protection in [Protection::Sealed, Protection::Plain] {
        for connection in [None, Some(ConnectionId(rng.next_u32()))] {
            let mut packet = Vec::new();
            let number = PacketNumber(rng.random_range(0..1 << 20));
            link_header(protection, connection, number, None, &mut packet);
            packet.resize(rng.random_range(20..1200), 5);
            append_crc(&mut packet);
            packets.push(packet);
        }
    }
    packets.extend([hello, init, accept, retry, reset]);
    packets
}

/// HS-8, HS-9, WIRE-9: no reflection and no amplification: whatever a stranger sends, the realm
/// returns no more bytes than it received, and keeps running.
#[test]
fn stranger_never_gets_more_bytes_than_it_sent() {
    let realm = Realm::start();
    let mut rng = StdRng::seed_from_u64(5);
    let mut told = 0;
    for machine in 0..60_u8 {
        let mut stranger = Stranger::at(Ipv4Addr::new(127, 0, machine, 9), &realm);
        for _ in 0..AT_ONCE / 8 {
            for mut datagram in kinds(&realm, &mut rng) {
                match rng.random_range(0..4) {
                    0 => {}
                    1 => {
                        let at = rng.random_range(0..datagram.len());
                        datagram[at] ^= 1 << rng.random_range(0..8);
                    }
                    2 => datagram.truncate(rng.random_range(0..datagram.len())),
                    _ => rng.fill_bytes(&mut datagram[1..]),
                }
                stranger.send(&datagram);
            }
        }
        told += stranger.answers().len();
        assert!(
            stranger.came <= stranger.sent,
            "{} bytes for {}",
            stranger.came,
            stranger.sent
        );
    }
    assert!(told > 100, "some of it is answered: {told}");
    Home::new().register("ann", &realm.connect);
    assert!(!realm.log().contains("panicked"), "{}", realm.log());
}

/// Zero-length datagrams and datagrams of the maximum length are accepted.
#[test]
fn datagram_of_any_length_does_no_harm() {
    let realm = Realm::start();
    let mut stranger = Stranger::at(Ipv4Addr::LOCALHOST, &realm);
    let mut told = 0;
    for _ in 0..20 {
        stranger.send(&[]);
        for first in [0_u8, 0x10, 0x12, 0x40, 0x60, 0x80, 0xc0, 0xff] {
            stranger.send(&[first]);
            stranger.send(&vec![first; 65_507]);
        }
        // A round sends no more than the realm's socket buffer holds at once.
        told += stranger.answers().len();
    }
    assert!(told <= 60, "Resets at most: {told}");
    Home::new().register("ann", &realm.connect);
}

/// HS-3: the realm stays silent to a sender who does not know its key, so that sender learns
/// nothing. A handshake with another realm's key is not answered.
#[test]
fn handshake_with_wrong_realm_key_gets_no_answer() {
    let realm = Realm::start();
    let mut stranger = Stranger::at(Ipv4Addr::LOCALHOST, &realm);
    let other = SecretKey::from_bytes([9; 32]);
    let (_, datagram) = init(&other.public(), &[OPEN, Frame::Padding, Frame::Padding]);
    let Ok(Packet::Init(parsed)) = Packet::parse(&datagram) else {
        panic!("no Init")
    };
    assert!(Responder::read(&mut StdRng::seed_from_u64(1), &other, parsed.noise).is_ok());
    stranger.send(&datagram);
    assert_eq!(stranger.answers(), [[0; 0]; 0]);
}
