//! A relay between real processes: it forwards datagrams of clients to the realm, and back. It
//! records every datagram. A rule sets which ones it loses, and it can emulate a bottleneck with a
//! queue.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Interval in which a thread checks whether it should end.
const TICK: Duration = Duration::from_millis(20);

/// The direction of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToRealm,
    ToClient,
}

/// A datagram that the relay has received.
#[derive(Clone, Debug)]
pub struct Carried {
    pub way: Way,
    pub bytes: Vec<u8>,
    pub lost: bool,
}

type Rule = Box<dyn FnMut(Way, &[u8]) -> bool + Send>;

/// The bottleneck of the path.
#[derive(Clone, Copy)]
struct Bottleneck {
    bytes_per_second: u64,
    /// Maximum number of bytes in its queue.
    queue: u64,
    /// When it will have sent its queue, for each direction.
    free_at: [Instant; 2],
}

impl Bottleneck {
    /// Returns when a datagram will be through; `None` if the queue is full.
    fn passes(&mut self, way: Way, len: usize) -> Option<Instant> {
        let now = Instant::now();
        let takes = |bytes: u64| Duration::from_micros(bytes * 1_000_000 / self.bytes_per_second);
        let begins = self.free_at[way as usize].max(now);
        if begins - now > takes(self.queue) {
            return None;
        }
        let through = begins + takes(len as u64);
        self.free_at[way as usize] = through;
        Some(through)
    }
}

struct Shared {
    realm: Mutex<SocketAddr>,
    socket: UdpSocket,
    carried: Mutex<Vec<Carried>>,
    /// True for datagrams to lose.
    loses: Mutex<Rule>,
    bottleneck: Mutex<Option<Bottleneck>>,
    ended: AtomicBool,
    /// How often the clients have moved.
    moves: AtomicU64,
}

pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Starts a relay to `realm` that loses nothing.
    pub fn to(realm: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(TICK)).unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Shared {
            realm: Mutex::new(realm),
            socket,
            carried: Mutex::default(),
            loses: Mutex::new(Box::new(|_, _| false)),
            bottleneck: Mutex::default(),
            ended: AtomicBool::new(false),
            moves: AtomicU64::new(0),
        });
        let at_work = Arc::clone(&shared);
        thread::spawn(move || at_work.carry_to_realm());
        Self { address, shared }
    }

    /// Sets the rule of which datagrams are lost from now on.
    pub fn lose(&self, rule: impl FnMut(Way, &[u8]) -> bool + Send + 'static) {
        *lock(&self.shared.loses) = Box::new(rule);
    }

    /// Limits the rate to this many bytes a second each way from now on, and the queue to this many
    /// bytes. Datagrams beyond them are lost.
    pub fn narrow(&self, bytes_per_second: u64, queue: u64) {
        *lock(&self.shared.bottleneck) = Some(Bottleneck {
            bytes_per_second,
            queue,
            free_at: [Instant::now(); 2],
        });
    }

    /// Moves the clients to other addresses, as behind a NAT that has forgotten them. Datagrams to
    /// the old ones are lost.
    pub fn move_on(&self) {
        self.shared.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the realm's address from now on.
    pub fn point_at(&self, realm: SocketAddr) {
        *lock(&self.shared.realm) = realm;
    }

    /// Returns the datagrams since the last call.
    pub fn take_carried(&self) -> Vec<Carried> {
        std::mem::take(&mut *lock(&self.shared.carried))
    }

    /// Sends a datagram to the realm as if a client had sent it.
    pub fn inject(&self, bytes: &[u8]) {
        self.shared
            .socket
            .send_to(bytes, *lock(&self.shared.realm))
            .unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Carries a datagram one way: at once, or when it has passed the bottleneck.
    fn carry(&self, way: Way, bytes: &[u8], send: impl FnOnce(&[u8]) + Send + 'static) {
        let mut lost = lock(&self.loses)(way, bytes);
        let mut through = None;
        if !lost && let Some(bottleneck) = &mut *lock(&self.bottleneck) {
            through = bottleneck.passes(way, bytes.len());
            lost = through.is_none();
        }
        let bytes = bytes.to_vec();
        lock(&self.carried).push(Carried {
            way,
            bytes: bytes.clone(),
            lost,
        });
        match through {
            _ if lost => {}
            None => send(&bytes),
            Some(at) => {
                thread::spawn(move || {
                    thread::sleep(at.saturating_duration_since(Instant::now()));
                    send(&bytes);
                });
            }
        }
    }

    fn receive(&self, socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return None;
            }
            match socket.recv_from(buffer) {
                Ok(received) => return Some(received),
                // Nothing has come, or the realm is restarting.
                Err(error) => assert!(matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
                )),
            }
        }
    }

    fn carry_to_realm(self: Arc<Self>) {
        let mut buffer = vec![0; 65_535];
        let (mut clients, mut moves) = (HashMap::new(), 0);
        while let Some((len, from)) = self.receive(&self.socket, &mut buffer) {
            let now = self.moves.load(Ordering::Relaxed);
            if now != moves {
                moves = now;
                clients.clear();
            }
            let upstream = clients.entry(from).or_insert_with(|| {
                let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
                upstream.set_read_timeout(Some(TICK)).unwrap();
                let (shared, socket) = (Arc::clone(&self), Arc::clone(&upstream));
                thread::spawn(move || shared.carry_to_client(&socket, from, moves));
                upstream
            });
            let (upstream, realm) = (Arc::clone(upstream), *lock(&self.realm));
            self.carry(Way::ToRealm, &buffer[..len], move |bytes| {
                let _ = upstream.send_to(bytes, realm);
            });
        }
    }

    fn carry_to_client(self: &Arc<Self>, upstream: &UdpSocket, client: SocketAddr, moves: u64) {
        let mut buffer = vec![0; 65_535];
        while let Some((len, _)) = self.receive(upstream, &mut buffer) {
            if self.moves.load(Ordering::Relaxed) != moves {
                return;
            }
            let shared = Arc::clone(self);
            self.carry(Way::ToClient, &buffer[..len], move |bytes| {
                let _ = shared.socket.send_to(bytes, client);
            });
        }
    }
}
