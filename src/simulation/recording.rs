//! An attacker on the path between realms, who knows no key. The attacker records whole datagrams
//! and replays them once or many times, soon or much later, from the same or another address, to
//! the same address or a realm's present one. Meanwhile realms restart and move. First packets
//! matter most: they open links and carry early data.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{machine::Machine, nat::is_realm, world::World};
use crate::wire::Packet;

/// The name of the attacker's machine.
const NAME: &str = "tap";
/// The number of recorded datagrams, for first packets and for others.
const KEPT_MAX: usize = 128;
/// The most replays of one datagram in a round.
const TIMES_MAX: usize = 12;
/// The number of datagrams after which the attacker stops, so that a run ends.
const SENT_MAX: usize = 400;
/// The longest time between two rounds.
const PAUSE: Duration = Duration::from_secs(15);

/// A datagram as it was on the path.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// The recorded datagrams.
#[derive(Debug)]
pub struct Recorder {
    rng: StdRng,
    /// Inits and Accepts, and all other packets.
    firsts: Kept,
    others: Kept,
}

/// A uniform random sample of the datagrams.
#[derive(Debug, Default)]
struct Kept {
    seen: usize,
    datagrams: Vec<Recorded>,
}

impl Kept {
    fn add(&mut self, recorded: Recorded, rng: &mut StdRng) {
        self.seen += 1;
        if self.datagrams.len() < KEPT_MAX {
            self.datagrams.push(recorded);
            return;
        }
        let at = rng.random_range(0..self.seen);
        if let Some(place) = self.datagrams.get_mut(at) {
            *place = recorded;
        }
    }
}

impl Recorder {
    pub fn new(rng: StdRng) -> Self {
        Self {
            rng,
            firsts: Kept::default(),
            others: Kept::default(),
        }
    }

    /// Records a datagram that passes.
    pub fn see(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if !is_realm(from) || !is_realm(to) {
            return;
        }
        let kept = match Packet::parse(bytes) {
            Ok(Packet::Init(_) | Packet::Accept { .. }) => &mut self.firsts,
            _ => &mut self.others,
        };
        let bytes = bytes.to_vec();
        kept.add(Recorded { from, to, bytes }, &mut self.rng);
    }

    /// Chooses a recorded datagram, three times in four a first packet.
    fn choose(&mut self) -> Option<Recorded> {
        let kept = [&self.firsts, &self.firsts, &self.firsts, &self.others];
        let kept = kept.choose(&mut self.rng)?;
        kept.datagrams.choose(&mut self.rng).cloned()
    }

    /// Chooses the next datagram to replay, and how often. `there` are the present addresses of
    /// realms, and `elsewhere` is an unused address.
    pub fn next(
        &mut self,
        there: &[SocketAddr],
        elsewhere: SocketAddr,
    ) -> Option<(Recorded, usize)> {
        let mut recorded = self.choose()?;
        let rng = &mut self.rng;
        if rng.random_bool(0.3) {
            recorded.from = elsewhere;
        }
        if rng.random_bool(0.3)
            && let Some(to) = there.choose(rng)
        {
            recorded.to = *to;
        }
        let times = match rng.random_range(0..4) {
            0 => rng.random_range(2..=TIMES_MAX),
            _ => 1,
        };
        Some((recorded, times))
    }
}

impl World {
    /// Starts the attacker, who stays until its machine is killed.
    pub(super) fn let_recorder_in(self: &Arc<Self>, rng: &mut StdRng) -> Machine {
        let machine = self.beginner(NAME, rng);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        self.network.record(StdRng::from_seed(seed));
        let (theirs, world) = (machine.clone(), Arc::clone(self));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = theirs.died() => {}
                () = world.play_back(&theirs) => {}
            }
        });
        machine
    }

    async fn play_back(&self, machine: &Machine) {
        let mut rng = machine.rng();
        let mut sent = 0;
        while sent < SENT_MAX {
            tokio::time::sleep(PAUSE.mul_f64(rng.random())).await;
            let there: Vec<SocketAddr> = self.sites.iter().map(|(s, _)| s.address()).collect();
            sent += self.network.play_back(&there);
        }
        machine.note(|| "has played back enough".into());
    }
}
