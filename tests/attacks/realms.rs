//! What strangers who claim to be realms make a realm send to third parties.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use merpati::{
    client::system_rng,
    crypto::SecretKey,
    wire::{Frame, Packet, PeerRequest, PeeringNumbers, Port, RequestId, Text, peer},
};

use crate::{stranger::Intruder, support::Home};

/// Number of immediate attempts at an address (PEER-23), and the datagrams in each attempt.
const TRIED: usize = 4;
const DATAGRAMS: usize = 3;
/// At most this much time passes between two of these datagrams.
const NO_MORE: Duration = Duration::from_secs(15);

/// PEER-2, PEER-23: however many strangers claim a third party's address, and however often, the
/// third party receives a few datagrams only. It was sent 753 datagrams in half a minute.
#[test]
fn introduction_with_third_party_address_sends_it_few_datagrams() {
    let home = Home::new();
    let realm = home.realm("alpha", "open");
    let third = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = third.local_addr().unwrap().port();
    let mut strangers: Vec<Intruder> = (1..=40)
        .map(|machine| {
            let device = SecretKey::generate(&mut system_rng().unwrap());
            Intruder::of(&device, Ipv4Addr::new(127, 0, machine, 1), &realm)
        })
        .collect();
    for round in 0..3 {
        for (n, stranger) in strangers.iter_mut().enumerate() {
            // Each round writes the same address in a different form.
            let address = ["127.0.0.1", "0x7f000001", "localhost"][round];
            let name = format!("stranger{n}");
            let introduce = PeerRequest::Introduce(peer::Introduce {
                realm: name.parse().unwrap(),
                address: Text(address),
                port: Port(port),
                numbers: Some(PeeringNumbers {
                    own: 1 << 32,
                    other: 0,
                }),
            });
            let command = introduce.to_bytes();
            stranger.send(&[Frame::Request {
                number: RequestId(round as u64),
                command: &command,
            }]);
            stranger.answers();
        }
    }
    third.set_read_timeout(Some(NO_MORE)).unwrap();
    let (mut datagrams, mut bytes, mut buffer) = (0, 0, vec![0; 2000]);
    while let Ok(len) = third.recv(&mut buffer) {
        assert!(matches!(Packet::parse(&buffer[..len]), Ok(Packet::Init(_))));
        (datagrams, bytes) = (datagrams + 1, bytes + len);
    }
    println!("{datagrams} datagrams, {bytes} bytes, for 120 introductions of 40 strangers");
    assert!((1..=TRIED * DATAGRAMS).contains(&datagrams), "{datagrams}");
}
