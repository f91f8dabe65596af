//! A simulated machine, and the one process on it. Whatever the process asks of the machine is a moment at which
//! it may die: from then on nothing it asks for ever comes, until it is forgotten.

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

/// The time of day when a run begins.
const DAWN: Duration = Duration::from_hours(500_000);

/// A process that asks for more without letting time go on spins.
const SPINS_MAX: u32 = 100_000;

/// The clock on the wall of a machine, which may jump.
#[derive(Debug)]
pub struct WallClock {
    started: Instant,
    /// What it is off by, in seconds.
    off: AtomicI64,
}

impl WallClock {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            off: AtomicI64::new(0),
        }
    }

    /// Sets it wrong by so many seconds.
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
    /// After how many moments the process dies.
    fuse: AtomicI64,
    is_dead: AtomicBool,
    died: Notify,
    /// How many moments there were since time last went on.
    spins: Mutex<(Instant, u32)>,
    /// Another process of the machine: its end does not end what the machine has on the network.
    is_beside: bool,
}

impl Machine {
    /// A process that has just begun. It dies at the moment `fuse`, if it is told to.
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

    /// Another process on the same machine, which dies by itself after so many moments, if it is told to.
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

    /// A machine in a world of its own, where nothing happens.
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

    /// A moment at which the process may die.
    pub async fn moment(&self) {
        if self.0.fuse.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.kill();
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        self.spin();
    }

    /// Something is done without letting time go on.
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

    /// Lets the process die after so many moments more.
    pub fn light(&self, fuse: i64) {
        self.0.fuse.store(fuse, Ordering::Relaxed);
    }

    /// The process dies now.
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

    /// Waits for the process to die.
    pub async fn died(&self) {
        self.0.died.notified().await;
    }

    /// A socket that others find at `address`.
    pub fn bind(&self, address: SocketAddr) -> io::Result<Socket> {
        let mut sockets = self.bind_all(address, 1)?;
        sockets.pop().ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// So many sockets, over which what comes to `address` is spread.
    pub fn bind_all(&self, address: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
        self.0.network.bind(self, address, count)
    }

    /// A socket of the machine's, somewhere, for a conversation with `address`.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        self.moment().await;
        self.0.network.connect(self.clone(), address)
    }

    /// The addresses of a name.
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
