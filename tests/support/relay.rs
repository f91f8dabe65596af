//! A relay between real processes: it forwards datagrams of clients to the realm, and back. It
//! records every datagram. A rule sets which ones it loses, and it can emulate a bad path
//! ([`path`]).

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::StdRng};

use super::path::{self, InFlight, Node, Rate};

/// Interval in which a thread checks whether it should end. There is a thread for each client, and
/// a benchmark has hundreds.
const TICK: Duration = Duration::from_millis(100);

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

/// The path of each direction, from the relay on. Without nodes it delivers at once.
struct Conditions {
    rng: StdRng,
    nodes: [Vec<Node>; 2],
}

/// A datagram on its way.
struct Datagram {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// Sends each datagram when it arrives, counted from `begun`.
fn send_arrived(begun: Instant, queue: &mpsc::Receiver<(Duration, Datagram)>) {
    let mut in_flight = InFlight::new();
    loop {
        let next = in_flight.next_at();
        let wait = next.map_or(TICK, |at| at.saturating_sub(begun.elapsed()));
        match queue.recv_timeout(wait) {
            Ok((at, datagram)) => in_flight.push(at, datagram),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        while let Some(datagram) = in_flight.take(begun.elapsed()) {
            let Datagram { socket, to, bytes } = datagram;
            // The receiver may be gone.
            let _ = socket.send_to(&bytes, to);
        }
    }
}

struct Shared {
    realm: Mutex<SocketAddr>,
    socket: Arc<UdpSocket>,
    carried: Mutex<Vec<Carried>>,
    /// True for datagrams to lose.
    loses: Mutex<Rule>,
    conditions: Mutex<Conditions>,
    /// The origin of the path's times.
    begun: Instant,
    /// To the thread that sends what the path has delayed.
    delayed: mpsc::Sender<(Duration, Datagram)>,
    /// A client is forgotten after this time without a datagram to it.
    forgets_after: Mutex<Duration>,
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
        let (begun, (delayed, queue)) = (Instant::now(), mpsc::channel());
        thread::spawn(move || send_arrived(begun, &queue));
        let shared = Arc::new(Shared {
            realm: Mutex::new(realm),
            socket: Arc::new(socket),
            carried: Mutex::default(),
            loses: Mutex::new(Box::new(|_, _| false)),
            conditions: Mutex::new(Conditions {
                rng: StdRng::seed_from_u64(0),
                nodes: [vec![], vec![]],
            }),
            begun,
            delayed,
            forgets_after: Mutex::new(Duration::MAX),
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

    /// Puts these nodes into the path of each direction from now on. They see the datagrams that
    /// the rule leaves. Their randomness is drawn from this seed.
    pub fn set_path(&self, seed: u64, nodes: &[Node]) {
        *lock(&self.shared.conditions) = Conditions {
            rng: StdRng::seed_from_u64(seed),
            nodes: [nodes.to_vec(), nodes.to_vec()],
        };
    }

    /// Limits the rate to this many bytes a second each way from now on, and the queue to this many
    /// bytes. Datagrams beyond them are lost.
    pub fn narrow(&self, bytes_per_second: u64, queue: usize) {
        let rate = Rate::new(bytes_per_second * 8);
        self.set_path(0, &[Node::Rate(rate.with_queue(rate.takes(queue)))]);
    }

    /// Forgets a client after this time without a datagram to it. Its port may then be another
    /// client's.
    pub fn forget_after(&self, silence: Duration) {
        *lock(&self.shared.forgets_after) = silence;
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
    /// Carries a datagram one way: at once, or as the path does.
    fn carry(&self, way: Way, bytes: &[u8], socket: &Arc<UdpSocket>, to: SocketAddr) {
        let is_picked = lock(&self.loses)(way, bytes);
        let (mut arrivals, mut is_at_once) = (vec![], true);
        if !is_picked {
            let Conditions { rng, nodes } = &mut *lock(&self.conditions);
            let nodes = &mut nodes[way as usize];
            is_at_once = nodes.is_empty();
            let fates = path::carry(nodes, self.begun.elapsed(), bytes.len(), rng);
            arrivals.extend(fates.iter().filter_map(|fate| fate.arrival(bytes)));
        }
        lock(&self.carried).push(Carried {
            way,
            bytes: bytes.to_vec(),
            lost: arrivals.is_empty(),
        });
        for (at, bytes) in arrivals {
            if is_at_once {
                let _ = socket.send_to(&bytes, to);
            } else {
                let socket = Arc::clone(socket);
                let _ = self.delayed.send((at, Datagram { socket, to, bytes }));
            }
        }
    }

    /// Returns the next datagram; `None` if the relay has ended, or nothing came for so long.
    fn receive(
        &self,
        socket: &UdpSocket,
        patience: Duration,
        buffer: &mut [u8],
    ) -> Option<(usize, SocketAddr)> {
        let begun = Instant::now();
        while !self.ended.load(Ordering::Relaxed) && begun.elapsed() < patience {
            match socket.recv_from(buffer) {
                Ok(received) => return Some(received),
                // Nothing has come, or the realm is restarting.
                Err(error) => assert!(matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
                )),
            }
        }
        None
    }

    fn carry_to_realm(self: Arc<Self>) {
        let mut buffer = vec![0; 65_535];
        let (mut clients, mut moves) = (HashMap::<SocketAddr, Arc<UdpSocket>>::new(), 0);
        while let Some((len, from)) = self.receive(&self.socket, Duration::MAX, &mut buffer) {
            let now = self.moves.load(Ordering::Relaxed);
            if now != moves {
                moves = now;
                clients.clear();
            }
            // If the thread of a client has ended, the client is forgotten, and another one may
            // have its port now.
            clients.retain(|_, upstream| Arc::strong_count(upstream) > 1);
            let upstream = clients.entry(from).or_insert_with(|| {
                let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
                upstream.set_read_timeout(Some(TICK)).unwrap();
                let (shared, socket) = (Arc::clone(&self), Arc::clone(&upstream));
                thread::spawn(move || shared.carry_to_client(&socket, from, moves));
                upstream
            });
            let realm = *lock(&self.realm);
            self.carry(Way::ToRealm, &buffer[..len], upstream, realm);
        }
    }

    fn carry_to_client(&self, upstream: &UdpSocket, client: SocketAddr, moves: u64) {
        let mut buffer = vec![0; 65_535];
        loop {
            let patience = *lock(&self.forgets_after);
            let Some((len, _)) = self.receive(upstream, patience, &mut buffer) else {
                return;
            };
            if self.moves.load(Ordering::Relaxed) != moves {
                return;
            }
            self.carry(Way::ToClient, &buffer[..len], &self.socket, client);
        }
    }
}
