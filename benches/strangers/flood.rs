//! Floods of datagrams at a given rate, from many addresses.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use merpati::{
    client::system_rng,
    crypto::{ConnectionString, Initiator, SecretKey, mac1},
    wire::{ConnectionId, Frame, HandshakeId, Init, Open, PacketNumber, Protection, link_header},
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::support::Realm;

/// Addresses that the flood comes from, each in a subnet of its own.
const MACHINES: u64 = 1000;
/// The interval at which due datagrams are sent.
const TICK: Duration = Duration::from_millis(1);

/// Makes the datagrams of a flood.
pub type Make = Box<dyn FnMut(&mut Vec<u8>) + Send>;

pub struct Flood {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    /// Sends `count` datagrams, `a_second` of them a second.
    pub fn start(realm: &Realm, a_second: u64, count: u64, mut make: Make) -> Self {
        let to = realm.address;
        let is_over = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (ends, counts) = (Arc::clone(&is_over), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let sockets: Vec<UdpSocket> = (0..MACHINES).map(machine).collect();
            let started = Instant::now();
            let mut datagram = Vec::new();
            let mut sent = 0;
            while sent < count && !ends.load(Ordering::Relaxed) {
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap();
                let due = (micros * a_second / 1_000_000).min(count);
                for n in sent..due {
                    make(&mut datagram);
                    send(&sockets[(n % MACHINES) as usize], &datagram, to);
                }
                sent = due;
                counts.store(sent, Ordering::Relaxed);
                thread::sleep(TICK);
            }
            ends.store(true, Ordering::Relaxed);
        });
        Self {
            is_over,
            sent,
            thread,
        }
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends the flood and returns the number of datagrams.
    pub fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

fn machine(n: u64) -> UdpSocket {
    let [.., a, b] = (n + 256).to_be_bytes();
    UdpSocket::bind((Ipv4Addr::new(127, a, b, 7), 0)).unwrap()
}

fn send(socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    // A datagram that does not fit the queue counts as lost.
    let _ = socket.send_to(datagram, to);
}

/// Makes Inits of devices that never answer. They share one handshake. Each has an id of its own,
/// and so a MAC of its own. Without the elliptic curve nobody can tell that they share it.
pub fn spoofed(realm: &Realm) -> Make {
    let string: ConnectionString = realm.connect.parse().unwrap();
    let key = string.key.unwrap();
    let mut rng = system_rng().unwrap();
    let mut payload = Vec::new();
    let open = Open {
        max_datagram: 1200,
        name: None,
        resumes: false,
    };
    for _ in 0..8 {
        Frame::Padding.emit_inner(&mut payload);
    }
    Frame::Open(open).emit_last(&mut payload);
    let device = SecretKey::generate(&mut rng);
    let (_, noise) = Initiator::start(&mut rng, &device, &key, &payload).unwrap();
    let mut handshake = 0;
    Box::new(move |out| {
        handshake += 1;
        out.clear();
        Init::emit_without_cookie(HandshakeId(handshake), &noise, out);
        let mac = mac1(&key, out);
        out.extend_from_slice(&mac);
    })
}

/// Makes packets of links that do not exist, invalid Inits, and noise.
pub fn junk(_: &Realm) -> Make {
    let mut rng = StdRng::seed_from_u64(3);
    Box::new(move |out| {
        out.clear();
        match rng.random_range(0..3) {
            0 => {
                let connection = Some(ConnectionId(rng.next_u32()));
                let number = PacketNumber(rng.random_range(0..1000));
                link_header(Protection::Sealed, connection, number, None, out);
                out.resize(60, 9);
            }
            1 => {
                Init::emit_without_cookie(HandshakeId(rng.next_u32()), &[7; 120], out);
                out.extend_from_slice(&[1; 8]);
            }
            _ => {
                out.resize(rng.random_range(1..200), 0);
                rng.fill_bytes(out);
            }
        }
    })
}
