//! A simulated machine and its one process. The process may die at each call to the machine. From
//! then on no call returns, until the process is dropped.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::Notify, time::Instant};

use super::{
    network::{Network, Socket, Weather},
    trace::Trace,
};

/// The time of day at which a run begins.
const DAWN: Duration = Duration::from_hours(500_000);

/// A process that makes this many calls while time stands still is in an endless loop.
const SPINS_MAX: u32 = 100_000;

/// The wall clock of a machine. It may jump.
#[derive(Debug)]
pub struct WallClock {
    started: Instant,
    /// The error of the clock, in seconds.
    off: AtomicI64,
}

impl WallClock {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            off: AtomicI64::new(0),
        }
    }

    /// Sets the error of the clock, in seconds.
    pub fn jump(&self, seconds: i64) {
        self.off.store(seconds, Ordering::Relaxed);
    }

    fn now(&self) -> Duration {
        let seconds = DAWN.as_secs().cast_signed() + self.off.load(Ordering::Relaxed);
        Duration::from_secs(seconds.max(0).cast_unsigned()) + self.started.elapsed()
    }
}

/// A machine with one process.
#[derive(Clone, Debug)]
pub struct Machine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    network: Network,
    wall: Arc<WallClock>,
    trace: Trace,
    rng: Mutex<StdRng>,
    /// The number of calls until the process dies.
    fuse: AtomicI64,
    is_dead: AtomicBool,
    died: Notify,
    /// The number of calls since time last advanced.
    spins: Mutex<(Instant, u32)>,
    /// This is another process of the machine. The sockets of the machine outlive it.
    is_beside: bool,
}

impl Machine {
    /// Starts a process. It dies after `fuse` calls, or not by itself if there is no `fuse`.
    pub fn start(
        name: &str,
        network: Network,
        wall: Arc<WallClock>,
        trace: Trace,
        rng: StdRng,
        fuse: Option<i64>,
    ) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            network,
            wall,
            trace,
            rng: Mutex::new(rng),
            fuse: AtomicI64::new(fuse.unwrap_or(i64::MAX)),
            is_dead: AtomicBool::new(false),
            died: Notify::new(),
            spins: Mutex::new((Instant::now(), 0)),
            is_beside: false,
        }))
    }

    /// Starts another process on the same machine. It dies after `fuse` calls, or not by itself if
    /// there is no `fuse`.
    pub fn beside(&self, fuse: Option<i64>) -> Self {
        let inner = &self.0;
        Self(Arc::new(Inner {
            name: inner.name.clone(),
            network: inner.network.clone(),
            wall: Arc::clone(&inner.wall),
            trace: inner.trace.clone(),
            rng: Mutex::new(self.rng()),
            fuse: AtomicI64::new(fuse.unwrap_or(i64::MAX)),
            is_dead: AtomicBool::new(false),
            died: Notify::new(),
            spins: Mutex::new((Instant::now(), 0)),
            is_beside: true,
        }))
    }

    /// Creates a machine in a world of its own, without events.
    pub fn alone() -> Self {
        let trace = Trace::start(false);
        let rng = || StdRng::seed_from_u64(1);
        let network = Network::new(rng(), Weather::CALM, trace.clone());
        let wall = Arc::new(WallClock::new());
        Self::start("alone", network, wall, trace, rng(), None)
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Marks a call to the machine, at which the process may die.
    pub async fn moment(&self) {
        if self.0.fuse.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.kill();
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        self.spin();
    }

    /// Counts a call that takes no time. Panics after too many of them in a row.
    pub fn spin(&self) {
        let now = Instant::now();
        let spins = {
            let mut spins = self.0.spins.lock().unwrap();
            *spins = if spins.0 == now {
                (now, spins.1 + 1)
            } else {
                (now, 0)
            };
            spins.1
        };
        assert!(spins < SPINS_MAX, "{} spins", self.0.name);
    }

    /// Lets the process die after this many more calls.
    pub fn light(&self, fuse: i64) {
        self.0.fuse.store(fuse, Ordering::Relaxed);
    }

    /// Kills the process now.
    pub fn kill(&self) {
        if !self.0.is_dead.swap(true, Ordering::Relaxed) {
            self.0.trace.note(&self.0.name, || "DIES".into());
            if !self.0.is_beside {
                self.0.network.forget(&self.0.name);
            }
            self.0.died.notify_one();
        }
    }

    pub fn is_dead(&self) -> bool {
        self.0.is_dead.load(Ordering::Relaxed)
    }

    /// Waits until the process dies.
    pub async fn died(&self) {
        self.0.died.notified().await;
    }

    /// Opens a socket that others reach at `address`.
    pub fn bind(&self, address: SocketAddr) -> io::Result<Socket> {
        let mut sockets = self.bind_all(address, 1)?;
        sockets.pop().ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Opens this many sockets, over which the datagrams for `address` are spread.
    pub fn bind_all(&self, address: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
        self.0.network.bind(self, address, count)
    }

    /// Opens a socket at an address of the machine's for traffic with `address`.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        self.moment().await;
        self.0.network.connect(self.clone(), address)
    }

    /// Resolves a name to its addresses.
    pub async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.moment().await;
        self.0.network.resolve(name, port)
    }

    pub fn rng(&self) -> StdRng {
        let mut seed = [0; 32];
        self.0.rng.lock().unwrap().fill_bytes(&mut seed);
        StdRng::from_seed(seed)
    }

    pub fn salt(&self) -> [u8; 2] {
        self.0.network.salt()
    }

    pub fn time_of_day(&self) -> Duration {
        self.0.wall.now()
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        self.0.trace.note(&self.0.name, what);
    }
}
