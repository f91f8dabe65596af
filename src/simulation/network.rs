//! A simulated network. It loses, duplicates, delays, corrupts and reorders datagrams, limits their
//! size and rate, partitions, and changes addresses.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt as _, rngs::StdRng};
use tokio::{sync::Notify, time::Instant};

use super::{
    machine::Machine,
    nat::Nats,
    path::{self, Node, Rate},
    recording::{Recorded, Recorder},
    single_loss::Sieve,
    trace::Trace,
};

/// A machine's bottleneck before it has a rate. The IP and UDP headers of datagrams take 28 bytes.
const BOTTLENECK: Rate = Rate::new(0)
    .with_headers(28)
    .with_queue(Duration::from_secs(3));
/// The number of datagrams that an eavesdropper keeps.
const OVERHEARD_MAX: usize = 64;
/// A run that sends more datagrams is in an endless loop.
const DATAGRAMS_MAX: u64 = 3_000_000;

/// The network conditions.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The share of datagrams that are lost, in each direction.
    pub loss: f64,
    pub doubled: f64,
    pub bent: f64,
    /// The share of datagrams upon which an eavesdropper replays one from another address.
    pub replayed: f64,
    /// The one-way delay.
    pub delay: Duration,
    /// The most additional delay. It causes reordering.
    pub spread: Duration,
    /// The longest datagram, in bytes.
    pub mtu: usize,
    /// The rate at which each machine sends, in bytes a second.
    pub rate: Option<u64>,
}

impl Weather {
    /// No fault occurs, and there is no delay.
    pub const CALM: Self = Self {
        loss: 0.0,
        doubled: 0.0,
        bent: 0.0,
        replayed: 0.0,
        delay: Duration::ZERO,
        spread: Duration::ZERO,
        mtu: 1200,
        rate: None,
    };

    /// No fault occurs. The delay and the rate of the path stay.
    pub const fn calm(self) -> Self {
        Self {
            loss: 0.0,
            doubled: 0.0,
            bent: 0.0,
            replayed: 0.0,
            ..self
        }
    }

    /// Returns the path behind a machine's bottleneck. The worlds of all seeds rely on its order.
    const fn path(self) -> [Node; 5] {
        [
            Node::Loss(self.loss),
            Node::Duplicate(self.doubled),
            Node::Delay(self.delay),
            Node::Jitter(self.spread),
            Node::Corrupt(self.bent),
        ]
    }
}

/// An arriving datagram: its time, and a number that orders datagrams of the same time.
type Arriving = Reverse<(Instant, u64, SocketAddr, SocketAddr, Vec<u8>)>;

#[derive(Debug)]
struct Inbox {
    machine: String,
    address: Mutex<SocketAddr>,
    arriving: Mutex<BinaryHeap<Arriving>>,
    refused: Mutex<bool>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    weather: Weather,
    /// Sockets by address. The workers of a realm share an address.
    open: BTreeMap<SocketAddr, Vec<Arc<Inbox>>>,
    nats: Nats,
    /// The number of datagrams that were sent to each unbound address.
    to_nobody: BTreeMap<SocketAddr, u64>,
    /// Pairs of machines that are partitioned.
    cut: BTreeSet<(String, String)>,
    bottlenecks: BTreeMap<String, Rate>,
    /// When a bottleneck was first used. Their times count from it.
    began: Option<Instant>,
    overheard: VecDeque<(SocketAddr, Vec<u8>)>,
    /// The attacker on the path between realms.
    recorder: Option<Recorder>,
    sieve: Option<Sieve>,
    addresses: u32,
    salts: u16,
    sent: u64,
    names: BTreeMap<String, Vec<SocketAddr>>,
    /// No machine has a route to anywhere.
    is_down: bool,
}

/// The network.
#[derive(Clone, Debug)]
pub struct Network {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

impl Network {
    pub fn new(rng: StdRng, weather: Weather, trace: Trace) -> Self {
        let state = State {
            rng,
            weather,
            open: BTreeMap::new(),
            nats: Nats::default(),
            to_nobody: BTreeMap::new(),
            cut: BTreeSet::new(),
            bottlenecks: BTreeMap::new(),
            began: None,
            overheard: VecDeque::new(),
            recorder: None,
            sieve: None,
            addresses: 0,
            salts: 0,
            sent: 0,
            names: BTreeMap::new(),
            is_down: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            trace,
        }
    }

    pub fn set_weather(&self, weather: Weather) {
        self.trace.note("network", || format!("{weather:?}"));
        self.state.lock().unwrap().weather = weather;
    }

    /// Partitions two machines, or connects them again.
    pub fn cut(&self, a: &str, b: &str, is_cut: bool) {
        let pair = (a.min(b).to_string(), a.max(b).to_string());
        let mut state = self.state.lock().unwrap();
        if is_cut {
            state.cut.insert(pair);
        } else {
            state.cut.remove(&pair);
        }
    }

    /// Moves the machine's client sockets to other addresses.
    pub fn rebind(&self, machine: &str) {
        let mut state = self.state.lock().unwrap();
        let open = std::mem::take(&mut state.open);
        for (address, inboxes) in open {
            let mut moved = address;
            for inbox in &inboxes {
                if inbox.machine == machine && is_client(address) {
                    moved = state.fresh_address();
                    self.trace
                        .note(machine, || format!("is at {moved}, no more at {address}"));
                    *inbox.address.lock().unwrap() = moved;
                }
            }
            state.open.insert(moved, inboxes);
        }
        state.nats.forget_all(machine);
    }

    /// Lets the sieve choose the lost datagrams. Returns the sieve before it.
    pub fn sift(&self, sieve: Option<Sieve>) -> Option<Sieve> {
        std::mem::replace(&mut self.state.lock().unwrap().sieve, sieve)
    }

    /// Opens all later client sockets in another network.
    pub fn move_on(&self) {
        self.state.lock().unwrap().addresses |= 0xff;
    }

    /// Closes all sockets of the machine.
    pub fn forget(&self, machine: &str) {
        let mut state = self.state.lock().unwrap();
        state.open.retain(|_, inboxes| {
            inboxes.retain(|inbox| inbox.machine != machine);
            !inboxes.is_empty()
        });
    }

    /// Returns an unused salt. One pair of random salts in 65,536 is equal (EXACT-10). That is
    /// known, and the simulator would report it.
    pub fn salt(&self) -> [u8; 2] {
        let mut state = self.state.lock().unwrap();
        state.salts = state.salts.wrapping_add(1);
        state.salts.to_be_bytes()
    }

    /// Returns the number of datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.state.lock().unwrap().sent
    }

    /// Opens this many sockets that share an address.
    pub(super) fn bind(
        &self,
        machine: &Machine,
        address: SocketAddr,
        count: usize,
    ) -> io::Result<Vec<Socket>> {
        let mut state = self.state.lock().unwrap();
        if state.open.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let each = (0..count)
            .map(|_| Socket::open(self, &mut state, machine.clone(), address, None))
            .collect();
        Ok(each)
    }

    /// Puts the machine behind an address translator or a firewall, which forgets a mapping after
    /// this time without traffic.
    pub fn translate(&self, machine: &str, forgets: Duration, is_firewall: bool) {
        let nats = &mut self.state.lock().unwrap().nats;
        nats.begin(machine, forgets, is_firewall);
    }

    /// Starts to record the traffic between realms.
    pub fn record(&self, rng: StdRng) {
        self.state.lock().unwrap().recorder = Some(Recorder::new(rng));
    }

    /// Replays a recorded datagram. Returns how often. `there` are the addresses of realms.
    pub fn play_back(&self, there: &[SocketAddr]) -> usize {
        let mut state = self.state.lock().unwrap();
        let elsewhere = state.fresh_address();
        let next = state.recorder.as_mut();
        let Some((recorded, times)) = next.and_then(|own| own.next(there, elsewhere)) else {
            return 0;
        };
        let Recorded { from, to, bytes } = recorded;
        self.trace.note("network", || {
            format!(
                "{times} times again, as from {from} → {to}  {} bytes",
                bytes.len()
            )
        });
        // A machine behind a translator is reached only through it.
        let to = state.nats.enter(from, to).unwrap_or(to);
        for _ in 0..times {
            let after = state.weather.delay;
            state.deliver(from, to, bytes.clone(), after);
        }
        times
    }

    /// Returns the number of datagrams that were sent to an unbound address.
    pub fn sent_to_nobody(&self, address: SocketAddr) -> u64 {
        let state = self.state.lock().unwrap();
        state.to_nobody.get(&address).copied().unwrap_or_default()
    }

    pub(super) fn connect(&self, machine: Machine, peer: SocketAddr) -> io::Result<Socket> {
        let mut state = self.state.lock().unwrap();
        if state.is_down {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let address = state.fresh_address();
        Ok(Socket::open(self, &mut state, machine, address, Some(peer)))
    }

    /// Sets the addresses of a name.
    pub fn set_name(&self, name: &str, addresses: &[SocketAddr]) {
        let mut state = self.state.lock().unwrap();
        state.names.insert(name.into(), addresses.to_vec());
    }

    /// Removes all routes, or restores them.
    pub fn set_down(&self, is_down: bool) {
        self.state.lock().unwrap().is_down = is_down;
    }

    pub(super) fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let state = self.state.lock().unwrap();
        let found = state.names.get(name).cloned();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name"))
    }

    fn send(&self, from: &Inbox, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.is_down {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        state.sent += 1;
        assert!(
            state.sent < DATAGRAMS_MAX,
            "the run sends without end: {} datagrams",
            state.sent
        );
        let inside = *from.address.lock().unwrap();
        let address = state.nats.leave(&from.machine, inside, to);
        let told = to;
        if let Some(recorder) = &mut state.recorder {
            recorder.see(address, told, bytes);
        }
        let entered = state.nats.enter(address, told);
        let to = entered.unwrap_or(told);
        // Without a mapping, a realm behind a translator gets nothing from realms at its own
        // address.
        let outside = address.ip() != to.ip() && entered.is_none();
        let fates = state.fates(from, (outside.then_some(address), to), bytes);
        if matches!(fates[..], [Fate::NobodyThere]) {
            *state.to_nobody.entry(told).or_default() += 1;
        }
        self.trace.note(&from.machine, || {
            let fates: Vec<String> = fates.iter().map(ToString::to_string).collect();
            format!(
                "{address} → {told}  {} bytes, {}",
                bytes.len(),
                fates.join(" and ")
            )
        });
        for fate in fates {
            match fate {
                Fate::Path(fate) => {
                    if let Some((after, bytes)) = fate.arrival(bytes) {
                        state.deliver(address, to, bytes, after);
                    }
                }
                Fate::Replayed { from } => {
                    let count = state.overheard.len();
                    let which = state.rng.random_range(0..count);
                    if let Some((to, bytes)) = state.overheard.get(which).cloned() {
                        let after = state.weather.delay;
                        state.deliver(from, to, bytes, after);
                    }
                }
                Fate::NobodyThere => {
                    if state.rng.random_bool(0.5) {
                        *from.refused.lock().unwrap() = true;
                        from.wake.notify_one();
                    }
                }
                Fate::Cut => {}
            }
        }
        if state.overheard.len() >= OVERHEARD_MAX {
            state.overheard.pop_front();
        }
        state.overheard.push_back((to, bytes.to_vec()));
        Ok(())
    }
}

/// The fate of a datagram.
#[derive(Debug)]
enum Fate {
    /// Its times count from when the datagram was sent.
    Path(path::Fate),
    Replayed {
        from: SocketAddr,
    },
    Cut,
    NobodyThere,
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use path::Fate::{Arrives, Lost, QueueFull, TooLong};
        match self {
            Self::Path(Arrives { at, flipped: None }) => write!(f, "arrives after {at:?}"),
            Self::Path(Arrives { at, flipped }) => {
                write!(f, "arrives after {at:?}, bent {flipped:?}")
            }
            Self::Path(Lost) => f.write_str("lost"),
            Self::Path(TooLong) => f.write_str("too long for the path"),
            Self::Path(QueueFull) => f.write_str("the queue is full"),
            Self::Replayed { from } => write!(f, "an older one comes again from {from}"),
            Self::Cut => f.write_str("there is no way"),
            Self::NobodyThere => f.write_str("nobody is there"),
        }
    }
}

impl State {
    fn fresh_address(&mut self) -> SocketAddr {
        self.addresses += 1;
        let [_, b, c, d] = self.addresses.to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(100, b, c, d), 40_000))
    }

    fn fates(
        &mut self,
        from: &Inbox,
        (outside, to): (Option<SocketAddr>, SocketAddr),
        bytes: &[u8],
    ) -> Vec<Fate> {
        let weather = self.weather;
        if bytes.len() > weather.mtu {
            return vec![Fate::Path(path::Fate::TooLong)];
        }
        let Some(there) = self.open.get(&to).and_then(|inboxes| inboxes.first()) else {
            return vec![Fate::NobodyThere];
        };
        let (a, b) = (&from.machine, &there.machine);
        if outside.is_some_and(|from| self.nats.shuts_out(b, from)) {
            return vec![Fate::Cut];
        }
        if self.cut.contains(&(a.min(b).clone(), a.max(b).clone())) {
            return vec![Fate::Cut];
        }
        let mut waits = Duration::ZERO;
        if let Some(rate) = weather.rate {
            let now = self.began.get_or_insert_with(Instant::now).elapsed();
            let bottleneck = self.bottlenecks.entry(a.clone()).or_insert(BOTTLENECK);
            bottleneck.bits_per_second = rate * 8;
            match bottleneck.pass(now, bytes.len()) {
                Some(through) => waits = through.saturating_sub(now),
                None => return vec![Fate::Path(path::Fate::QueueFull)],
            }
        }
        if self.sieve.as_mut().is_some_and(|sieve| sieve.picks(a, b)) {
            return vec![Fate::Path(path::Fate::Lost)];
        }
        let fates = path::carry(&mut weather.path(), waits, bytes.len(), &mut self.rng);
        let mut fates: Vec<Fate> = fates.into_iter().map(Fate::Path).collect();
        if matches!(fates[..], [Fate::Path(path::Fate::Lost)]) {
            return fates;
        }
        if !self.overheard.is_empty() && self.rng.random_bool(weather.replayed) {
            let from = self.fresh_address();
            fates.push(Fate::Replayed { from });
        }
        fates
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, after: Duration) {
        if let Some(inboxes) = self.open.get(&to) {
            // Like a kernel, this spreads datagrams over the sockets of an address.
            let inbox = &inboxes[spread(from) % inboxes.len()];
            let at = Instant::now() + after;
            let mut arriving = inbox.arriving.lock().unwrap();
            arriving.push(Reverse((at, self.sent, from, to, bytes)));
            inbox.wake.notify_one();
        }
    }
}

/// True for an address of a client. Realms are in another network.
const fn is_client(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[0] == 100)
}

/// Returns the index of the socket that gets a datagram, by its source address.
fn spread(from: SocketAddr) -> usize {
    let octets = match from.ip() {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(_) => 0,
    };
    let mixed = (octets ^ u32::from(from.port()).rotate_left(16)).wrapping_mul(0x9e37_79b1);
    usize::try_from(mixed >> 16).unwrap()
}

/// A socket on the network.
#[derive(Debug)]
pub struct Socket {
    network: Network,
    machine: Machine,
    inbox: Arc<Inbox>,
    peer: Option<SocketAddr>,
}

impl Socket {
    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        *self.inbox.address.lock().unwrap()
    }

    fn open(
        network: &Network,
        state: &mut State,
        machine: Machine,
        address: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Self {
        let inbox = Arc::new(Inbox {
            machine: machine.name().into(),
            address: Mutex::new(address),
            arriving: Mutex::default(),
            refused: Mutex::new(false),
            wake: Notify::new(),
        });
        let there = state.open.entry(address).or_default();
        there.push(Arc::clone(&inbox));
        Self {
            network: network.clone(),
            machine,
            inbox,
            peer,
        }
    }

    pub async fn readable(&self) -> io::Result<()> {
        self.machine.moment().await;
        loop {
            let next = {
                let arriving = self.inbox.arriving.lock().unwrap();
                arriving.peek().map(|Reverse((at, ..))| *at)
            };
            if *self.inbox.refused.lock().unwrap() {
                return Ok(());
            }
            match next {
                Some(at) if at <= Instant::now() => return Ok(()),
                Some(at) => tokio::select! {
                    biased;
                    () = self.inbox.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.inbox.wake.notified().await,
            }
        }
    }

    pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.machine.spin();
        if self.machine.is_dead() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if std::mem::take(&mut *self.inbox.refused.lock().unwrap()) && self.peer.is_some() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let mut arriving = self.inbox.arriving.lock().unwrap();
        loop {
            let now = Instant::now();
            match arriving.peek() {
                Some(Reverse((at, ..))) if *at <= now => {}
                _ => return Err(io::ErrorKind::WouldBlock.into()),
            }
            let Some(Reverse((_, _, from, to, bytes))) = arriving.pop() else {
                continue;
            };
            let is_for_us = to == *self.inbox.address.lock().unwrap();
            if !is_for_us || self.peer.is_some_and(|peer| peer != from) {
                continue;
            }
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            return Ok((len, from));
        }
    }

    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.machine.moment().await;
        self.network.send(&self.inbox, to, datagram)
    }

    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self.peer {
            Some(peer) => self.send_to(datagram, peer).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.network.state.lock().unwrap();
        state.open.retain(|_, inboxes| {
            inboxes.retain(|inbox| !Arc::ptr_eq(inbox, &self.inbox));
            !inboxes.is_empty()
        });
    }
}
