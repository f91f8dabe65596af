//! A relay that loses datagrams as a bad link does. All datagrams of the demonstration pass through
//! such relays.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rand::rngs::StdRng;
use tokio::net::UdpSocket;

use super::path::{self, Node};
use crate::output::print_line;

/// The longest possible datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// The traffic that a link has carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    pub datagrams: u64,
    pub lost: u64,
    pub bytes: u64,
}

/// The state that all relays share: the quality of the link, and the traffic so far.
#[derive(Debug)]
pub struct Air {
    pub delay: Duration,
    pub began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    /// Both directions lose and delay alike.
    nodes: [Node; 2],
    carried: Carried,
    /// Each datagram is printed as it is sent.
    is_shown: bool,
}

impl Air {
    pub fn new(loss: f64, delay: Duration, is_shown: bool, rng: StdRng) -> Self {
        let state = State {
            rng,
            nodes: [Node::Loss(loss), Node::Delay(delay)],
            carried: Carried::default(),
            is_shown,
        };
        Self {
            delay,
            began: Instant::now(),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn carried(&self) -> Carried {
        self.state().carried
    }

    /// True while each datagram is printed.
    pub fn is_shown(&self) -> bool {
        self.state().is_shown
    }

    /// Stops printing datagrams. They are still counted.
    pub fn hide(&self) {
        self.state().is_shown = false;
    }

    /// Decides whether a datagram arrives, and counts it. Returns how long it takes and what
    /// arrives.
    fn carry(&self, way: &str, datagram: &[u8]) -> Option<(Duration, Vec<u8>)> {
        let mut state = self.state();
        let State { rng, nodes, .. } = &mut *state;
        let fates = path::carry(nodes, Duration::ZERO, datagram.len(), rng);
        let arrival = fates.iter().find_map(|fate| fate.arrival(datagram));
        let is_lost = arrival.is_none();
        state.carried.datagrams += 1;
        state.carried.lost += u64::from(is_lost);
        state.carried.bytes += datagram.len() as u64;
        if state.is_shown {
            let kind = match datagram.first() {
                Some(0x03 | 0x13) => "Init",
                Some(0x04) => "Accept",
                Some(0x06) => "Reset",
                Some(0x01 | 0x02) => "Hello",
                _ => "sealed",
            };
            let fate = if is_lost { "  ✗ lost" } else { "" };
            let at = self.began.elapsed().as_secs_f64();
            let line = format!(
                "{at:>9.3}      {way:<11} {kind:<7} {:>4} bytes{fate}",
                datagram.len()
            );
            // The next step notices if the reader of the output has gone.
            let _ = print_line(&line);
        }
        arrival
    }
}

/// A relay in front of a realm.
#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    front: Arc<UdpSocket>,
}

impl Relay {
    pub async fn bind() -> io::Result<Self> {
        let front = UdpSocket::bind("127.0.0.1:0").await?;
        Ok(Self {
            address: front.local_addr()?,
            front: Arc::new(front),
        })
    }

    /// Starts to relay between the clients and the realm `name`.
    pub fn carry_to(&self, realm: SocketAddr, name: &'static str, air: &Arc<Air>) {
        tokio::spawn(carry(Arc::clone(&self.front), realm, name, Arc::clone(air)));
    }
}

/// Relays until the end of the demonstration. A datagram that cannot be sent counts as lost.
async fn carry(front: Arc<UdpSocket>, realm: SocketAddr, name: &'static str, air: Arc<Air>) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let (there, back) = (format!("→ {name}"), format!("← {name}"));
    loop {
        let Ok((len, from)) = front.recv_from(&mut buffer).await else {
            continue;
        };
        let upstream = match clients.get(&from) {
            Some(upstream) => Arc::clone(upstream),
            None => {
                let Ok(upstream) = UdpSocket::bind("127.0.0.1:0").await else {
                    continue;
                };
                let upstream = Arc::new(upstream);
                clients.insert(from, Arc::clone(&upstream));
                let answers = (Arc::clone(&upstream), Arc::clone(&front));
                tokio::spawn(carry_back(answers, from, back.clone(), Arc::clone(&air)));
                upstream
            }
        };
        let datagram = buffer.get(..len);
        if let Some(arrival) = datagram.and_then(|datagram| air.carry(&there, datagram)) {
            send_later(upstream, realm, arrival);
        }
    }
}

async fn carry_back(
    (upstream, front): (Arc<UdpSocket>, Arc<UdpSocket>),
    client: SocketAddr,
    back: String,
    air: Arc<Air>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((len, _)) = upstream.recv_from(&mut buffer).await else {
            continue;
        };
        let datagram = buffer.get(..len);
        if let Some(arrival) = datagram.and_then(|datagram| air.carry(&back, datagram)) {
            send_later(Arc::clone(&front), client, arrival);
        }
    }
}

fn send_later(socket: Arc<UdpSocket>, to: SocketAddr, (delay, datagram): (Duration, Vec<u8>)) {
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let _ = socket.send_to(&datagram, to).await;
    });
}
