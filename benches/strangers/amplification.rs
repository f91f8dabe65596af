//! Amplification: the bytes that an endpoint sends for each byte that strangers send. Every kind of
//! datagram is sent, valid and damaged.

use std::{net::SocketAddr, time::Duration};

use merpati::{
    crypto::{Initiator, SecretKey, mac1},
    endpoint::{AccountId, Config, Endpoint, Event, Handshakes, LINK_LIFETIME, WorkerId},
    link::{Redundancy, Time},
    wire::{
        ConnectionId, Frame, HandshakeId, Hello, Init, Open, OperationNumber, Packet, PacketNumber,
        Protection, RequestId, append_crc, link_header,
    },
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::row;

fn realm() -> SecretKey {
    SecretKey::from_bytes([2; 32])
}

fn endpoint(protection: Protection) -> Endpoint {
    let config = Config {
        worker: WorkerId::ALONE,
        accept: Some(protection),
        hello: Some("alpha".parse().unwrap()),
        early_data: true,
        resumes: false,
        max_datagram: 1200,
        max_message: 16 << 10,
        rate: None,
        redundancy: Redundancy::Auto,
        lifetime: LINK_LIFETIME,
        links_max: 100_000,
        memory_max: 64 << 20,
        handshakes: Handshakes::default(),
        idle: Duration::from_hours(24),
        shared_idle: Duration::from_mins(10),
    };
    Endpoint::new(config, &realm().into(), [4; 32])
}

/// Makes datagrams as strangers send them.
struct Strangers {
    rng: StdRng,
    noise: Vec<u8>,
    opening: Vec<u8>,
}

impl Strangers {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(8);
        let open = Frame::Open(Open {
            max_datagram: 1200,
            name: None,
            resumes: false,
        });
        let mut opening = vec![0; 40];
        let ask = Frame::Request {
            number: RequestId(0),
            command: &[1; 20],
        };
        ask.emit_inner(&mut opening);
        open.emit_last(&mut opening);
        let device = SecretKey::from_bytes([1; 32]);
        let (_, noise) = Initiator::start(&mut rng, &device, &realm().public(), &opening).unwrap();
        Self {
            rng,
            noise,
            opening,
        }
    }

    fn make(&mut self, out: &mut Vec<u8>) {
        out.clear();
        let rng = &mut self.rng;
        let id = rng.next_u32();
        match rng.random_range(0..8) {
            0 => Hello {
                nonce: rng.next_u64().to_be_bytes(),
            }
            .emit(out),
            1 => {
                Init::emit_without_cookie(HandshakeId(id), &self.noise, out);
                let mac = mac1(&realm().public(), out);
                out.extend_from_slice(&mac);
            }
            2 => Packet::emit_accept(HandshakeId(id), &[3; 80], out),
            3 => Packet::emit_retry(HandshakeId(id), &[3; 16], out),
            4 => Packet::emit_reset(ConnectionId(id), &[3; 16], out),
            kind => {
                let protection = if kind == 5 {
                    Protection::Sealed
                } else {
                    Protection::Plain
                };
                let number = PacketNumber(rng.random_range(0..1 << 16));
                link_header(protection, Some(ConnectionId(id)), number, None, out);
                if kind == 7 {
                    out.extend_from_slice(&self.opening);
                } else {
                    out.resize(rng.random_range(10..1200), 7);
                }
                append_crc(out);
            }
        }
        match rng.random_range(0..8) {
            0 => {
                let at = rng.random_range(0..out.len());
                out[at] ^= 1 << rng.random_range(0..8);
            }
            1 => out.truncate(rng.random_range(0..out.len())),
            _ => {}
        }
    }
}

/// Measures the bytes that an endpoint sends to each address. No address ever answers it.
pub fn measure(inputs: u64) {
    let (mut came, mut sent, mut answered) = (0_u64, 0_u64, 0_u64);
    let mut worst = 0.0_f64;
    for protection in [Protection::Sealed, Protection::Plain] {
        let mut endpoint = endpoint(protection);
        let mut strangers = Strangers::new();
        let (mut datagram, mut out) = (Vec::new(), Vec::new());
        let mut now = Time(1_000_000);
        for n in 0..inputs / 2 {
            now = now + Duration::from_micros(20);
            strangers.make(&mut datagram);
            let [.., a, b, c] = (n % 60_000 * 7).to_be_bytes();
            let from = SocketAddr::from(([10, a, b, c], 4000));
            endpoint.handle_datagram(now, from, &datagram);
            let mut back = 0;
            loop {
                while let Some(event) = endpoint.poll_event() {
                    match event {
                        Event::Incoming { link, .. } => {
                            endpoint.welcome(
                                now,
                                link,
                                Some(AccountId::new(1)),
                                OperationNumber(7),
                            );
                        }
                        Event::Request { link, number, .. } => {
                            endpoint.reply(now, link, number, vec![2; 900]);
                        }
                        _ => {}
                    }
                }
                if endpoint.poll_timeout().is_some_and(|due| due <= now) {
                    endpoint.handle_timeout(now);
                }
                match endpoint.poll_transmit(now, &mut out) {
                    Some(_) => back += out.len() as u64,
                    None if endpoint.has_events() => {}
                    None => break,
                }
            }
            came += datagram.len() as u64;
            sent += back;
            if back > 0 {
                answered += 1;
                worst = worst.max(back as f64 / datagram.len() as f64);
            }
        }
    }
    row(
        &format!("{inputs} datagrams of every kind, whole and spoilt"),
        &format!(
            "{answered} answered; {:.2} bytes back for each; at most {worst:.2}",
            sent as f64 / came as f64
        ),
        "≤ 1.0",
    );
}
