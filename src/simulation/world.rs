//! A run has two phases: a storm, in which everything may go wrong, and the calm after it, in which
//! everything must become right.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    REALM_PORT, accomplice,
    disk::Disk,
    greedy::{self, Target},
    history::History,
    judging,
    machine::{Machine, WallClock},
    movers, name_takeover,
    network::Network,
    node::{IDLE, Neighbour, Node},
    plan::Plan,
    restoring,
    trace::Trace,
    user::{Population, Progress, SimulatedUser},
};
use crate::{
    client::{LinkParameters, Memory},
    crypto::SecretKey,
};

/// In the calm, all parties finish what they do within this time.
const PATIENCE: Duration = Duration::from_hours(48);
const NAMES: [&str; 4] = ["ann", "bob", "cho", "dia"];
const REALMS: [&str; 2] = ["alpha", "beta"];
/// The hostnames by which the users of moving realms know them.
const HOSTS: [&str; 2] = ["alpha.test", "beta.test"];

/// The outcome of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The violations. Empty if all is well.
    pub wrong: Vec<String>,
    pub simulated: Duration,
    pub messages: usize,
    pub datagrams: u64,
    pub deaths: u64,
}

/// A realm or a device, whose processes run one after another.
#[derive(Debug)]
pub(super) struct Life {
    name: String,
    wall: Arc<WallClock>,
    rng: Mutex<StdRng>,
    machine: Mutex<Option<Machine>>,
    stop: watch::Sender<bool>,
    look: Notify,
    is_looked_at: Mutex<bool>,
    /// The number of processes so far.
    pub(super) starts: AtomicUsize,
}

impl Life {
    pub(super) fn new(name: &str, rng: &mut StdRng) -> Self {
        Self {
            name: name.into(),
            wall: Arc::new(WallClock::new()),
            rng: Mutex::new(fork(rng)),
            machine: Mutex::new(None),
            stop: watch::Sender::new(false),
            look: Notify::new(),
            is_looked_at: Mutex::new(false),
            starts: AtomicUsize::new(0),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Tells the running process to stop.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Kills the running process, if there is one.
    pub(super) fn kill(&self) {
        if let Some(machine) = &*self.machine.lock().unwrap() {
            machine.kill();
        }
    }
}

pub(super) fn fork(rng: &mut StdRng) -> StdRng {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    StdRng::from_seed(seed)
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) network: Network,
    pub(super) trace: Trace,
    /// The number of introductions of the malicious realm.
    pub(super) introduced: AtomicU64,
    /// The user of the malicious realm, whose task returns what is wrong.
    pub(super) accomplice: Mutex<Option<JoinHandle<Vec<String>>>>,
    pub(super) history: History,
    is_calm: watch::Sender<bool>,
    deaths: Mutex<u64>,
    pub(super) sites: Vec<(Node, Life)>,
    pub(super) lives: Vec<Life>,
    pub(super) population: Arc<Population>,
}

/// Runs the world of a seed. Needs a runtime with a paused clock.
pub async fn run(seed: u64, trace: Trace) -> Outcome {
    let started = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut greed = StdRng::seed_from_u64(!seed);
    let mut plan = Plan::draw(seed, &mut rng, &mut greed);
    if plan.kinds.taken {
        (plan.is_greedy, plan.kept) = (false, None);
    }
    let kinds_rng = StdRng::seed_from_u64(seed.rotate_left(16) ^ 1);
    trace.note("seed", || format!("{seed}: {plan:#?}"));
    let network = Network::new(fork(&mut rng), plan.path, trace.clone());
    let mut sites = sites(&plan, &mut rng);
    if plan.kinds.taken {
        name_takeover::add_third(&mut sites, &mut rng);
    }
    let population = Arc::new(population(&plan, &sites));
    let names = population.people.iter().map(|(name, _)| name.as_str());
    let mut lives: Vec<Life> = names.map(|name| Life::new(name, &mut rng)).collect();
    if let (true, Some(last)) = (plan.kinds.taken, lives.last_mut()) {
        last.name.push('2');
    }
    let world = Arc::new(World {
        sites,
        network,
        trace,
        introduced: AtomicU64::new(0),
        accomplice: Mutex::default(),
        history: History::default(),
        is_calm: watch::Sender::new(false),
        deaths: Mutex::new(0),
        lives,
        population,
        plan,
    });
    world.set_out();
    let mut kinds_rng = kinds_rng;
    let greta = world.plan.is_greedy.then(|| world.let_in(greed));
    let mut guests = Vec::from_iter(greta);
    if let Some(seed) = world.plan.kinds.liar {
        guests.extend(accomplice::let_liar_in(&world, seed, &mut kinds_rng));
    }
    if world.plan.kinds.replays {
        guests.push(world.let_recorder_in(&mut kinds_rng));
    }
    let mut outcome = if world.plan.kinds.taken {
        world.tell_of_taken(&mut rng, kinds_rng, guests).await
    } else {
        world.tell(&mut rng, kinds_rng, guests).await
    };
    outcome.simulated = started.elapsed();
    outcome.messages = world.history.messages();
    outcome.datagrams = world.network.sent();
    outcome.deaths = *world.deaths.lock().unwrap();
    outcome
}

fn sites(plan: &Plan, rng: &mut StdRng) -> Vec<(Node, Life)> {
    let keys: Vec<SecretKey> = REALMS.iter().map(|_| SecretKey::generate(rng)).collect();
    let neighbours: Vec<Neighbour> = (0_u8..)
        .zip(REALMS.iter().zip(&keys))
        .take(plan.realms.len())
        .map(|(number, (name, key))| Neighbour {
            realm: name.parse().expect("a name"),
            key: key.public(),
            address: Some(SocketAddr::from(([10, 0, 0, number + 1], REALM_PORT))),
        })
        .collect();
    let kinds = &plan.kinds;
    let each = neighbours.iter().zip(keys).enumerate();
    let sites = each.map(|(number, (own, key))| {
        let mut others = neighbours.clone();
        let silent = kinds.nat.filter(|nat| !nat.tells).map(|nat| nat.realm);
        if let Some(silent) = silent {
            others[silent].address = None;
        }
        others.retain(|other| other.realm != own.realm);
        others.extend(kinds.liar.map(accomplice::liar));
        let site = Node {
            id: own.realm,
            address: Arc::new(Mutex::new(own.address.expect("it has one"))),
            name: kinds.moves.then_some(HOSTS[number]),
            is_told: silent != Some(number),
            workers: kinds.workers[number],
            state: Arc::default(),
            key,
            disk: Disk::new(fork(rng)),
            neighbours: others,
            adds_once: kinds.moves,
            early_data: plan.early_data,
            lifetime: plan.lifetime,
            kept: plan.kept,
            is_greedy: plan.is_greedy,
            is_lied_to: kinds.liar.is_some(),
        };
        site.disk.set_health(plan.good_health());
        (site, Life::new(own.realm.as_str(), rng))
    });
    sites.collect()
}

fn population(plan: &Plan, sites: &[(Node, Life)]) -> Population {
    if plan.kinds.taken {
        return name_takeover::population(sites);
    }
    let homes = plan.realms.iter().enumerate();
    let homes = homes.flat_map(|(realm, people)| std::iter::repeat_n(realm, *people));
    Population {
        people: NAMES
            .iter()
            .zip(homes)
            .map(|(name, realm)| (name.parse().expect("a name"), realm))
            .collect(),
        realms: sites.iter().map(|(site, _)| site.id).collect(),
        connections: sites.iter().map(|(s, _)| s.connection_string()).collect(),
        groups: sites
            .iter()
            .map(|_| "crew".parse().expect("a name"))
            .collect(),
    }
}

impl World {
    pub(super) fn is_calm(&self) -> bool {
        *self.is_calm.borrow()
    }

    /// Returns a receiver that reports when the calm begins.
    pub(super) fn calm_comes(&self) -> watch::Receiver<bool> {
        self.is_calm.subscribe()
    }

    pub(super) fn note(&self, who: &str, what: impl FnOnce() -> String) {
        self.trace.note(who, what);
    }

    /// Configures the hostnames and the translator of realms in the network.
    fn set_out(&self) {
        for (site, _) in &self.sites {
            if let Some(name) = site.name {
                self.network.set_name(name, &[site.address()]);
            }
        }
        if let Some(nat) = self.plan.kinds.nat {
            let (site, _) = &self.sites[nat.realm];
            self.network
                .translate(site.id.as_str(), nat.forgets, nat.is_firewall);
        }
    }

    /// Starts the next process of a life.
    pub(super) fn start(&self, life: &Life, most: i64) -> Machine {
        let mut rng = life.rng.lock().unwrap();
        let fuse = self.plan.fuse(&mut rng, most).filter(|_| !self.is_calm());
        let machine = Machine::start(
            &life.name,
            self.network.clone(),
            Arc::clone(&life.wall),
            self.trace.clone(),
            fork(&mut rng),
            fuse,
        );
        machine.note(|| "starts".into());
        life.starts.fetch_add(1, Ordering::Relaxed);
        *life.machine.lock().unwrap() = Some(machine.clone());
        machine
    }

    /// Starts a machine for a party that keeps no state over a restart.
    pub(super) fn beginner(&self, name: &str, rng: &mut StdRng) -> Machine {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let (network, trace) = (self.network.clone(), self.trace.clone());
        let wall = Arc::new(WallClock::new());
        Machine::start(name, network, wall, trace, StdRng::from_seed(seed), None)
    }

    async fn lie_dead(&self, life: &Life) {
        *self.deaths.lock().unwrap() += 1;
        let pause = life.rng.lock().unwrap().random_range(0..20_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Runs the processes of a realm. Returns what the last one held.
    pub(super) async fn keep_site(self: Arc<Self>, number: usize) -> Vec<String> {
        let (site, life) = &self.sites[number];
        loop {
            restoring::copy_or_restore(&self, number);
            let machine = self.start(life, 4000);
            life.stop.send_replace(false);
            let serving = site.serve(machine.clone(), life.stop.subscribe(), life.look.notified());
            let leftovers = tokio::select! {
                biased;
                () = machine.died() => Vec::new(),
                leftovers = serving => leftovers,
            };
            machine.kill();
            site.state.lock().unwrap().realm = None;
            site.disk.power_off();
            if *life.is_looked_at.lock().unwrap() {
                return leftovers;
            }
            self.lie_dead(life).await;
        }
    }

    /// Runs the processes of a user until the user has finished.
    async fn keep_person(self: Arc<Self>, mut person: SimulatedUser) -> SimulatedUser {
        let life = &self.lives[person.number];
        loop {
            let machine = self.start(life, 600);
            person.back_up(&machine, self.is_calm());
            let client = person.client(&machine);
            let is_done = tokio::select! {
                biased;
                () = machine.died() => false,
                () = person.live(&client, &machine) => true,
            };
            machine.kill();
            drop(client);
            if is_done {
                return person;
            }
            self.lie_dead(life).await;
        }
    }

    /// Starts the greedy account, which stays until its machine is killed.
    fn let_in(self: &Arc<Self>, rng: StdRng) -> Machine {
        let (network, trace) = (self.network.clone(), self.trace.clone());
        let wall = Arc::new(WallClock::new());
        let machine = Machine::start(greedy::NAME, network, wall, trace, rng, None);
        let (site, _) = &self.sites[0];
        let target = Target {
            address: site.address(),
            key: site.key.public(),
        };
        let (victim, _) = self.population.people[0];
        let theirs = machine.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = theirs.died() => {}
                () = greedy::take_all(&theirs, target, victim) => {}
            }
        });
        machine
    }

    async fn tell(
        self: &Arc<Self>,
        rng: &mut StdRng,
        mut kinds_rng: StdRng,
        guests: Vec<Machine>,
    ) -> Outcome {
        let started = Instant::now();
        let sites: Vec<JoinHandle<_>> = (0..self.sites.len())
            .map(|number| tokio::spawn(Arc::clone(self).keep_site(number)))
            .collect();
        let people: Vec<JoinHandle<SimulatedUser>> = (0..self.lives.len())
            .map(|number| {
                let person = self.person(number, rng);
                tokio::spawn(Arc::clone(self).keep_person(person))
            })
            .collect();
        tokio::select! {
            biased;
            () = self.storm(rng) => {}
            () = movers::move_about(self, fork(&mut kinds_rng)), if self.plan.kinds.moves => {}
            () = restoring::restore_one(self, fork(&mut kinds_rng)), if self.plan.kinds.restored.is_some() => {}
        }
        self.calm();
        let mut outcome = Outcome::default();
        if !guests.is_empty() {
            outcome
                .wrong
                .extend(judging::wrong_with_disk(self, started.elapsed()));
        }
        let mut ready = Vec::new();
        let end = Instant::now() + PATIENCE;
        for (life, person) in self.lives.iter().zip(people) {
            match tokio::time::timeout_at(end, person).await {
                Ok(Ok(person)) => ready.push(person),
                Ok(Err(_)) => outcome.wrong.push(format!("{} has panicked", life.name)),
                Err(_) => outcome
                    .wrong
                    .push(format!("{} does not come to an end", life.name)),
            }
        }
        let accomplice = self.accomplice.lock().unwrap().take();
        if let Some(accomplice) = accomplice {
            match tokio::time::timeout_at(end, accomplice).await {
                Ok(Ok(wrong)) => outcome.wrong.extend(wrong),
                Ok(Err(_)) => outcome.wrong.push("the accomplice has panicked".into()),
                Err(_) => outcome
                    .wrong
                    .push("the accomplice does not come to an end".into()),
            }
        }
        for guest in guests {
            guest.kill();
        }
        outcome
            .wrong
            .extend(accomplice::wrong_with_dials(self, started.elapsed()));
        if outcome.wrong.is_empty() {
            self.trace.note("world", || "everybody is done".into());
            outcome.wrong = judging::judge(self, &mut ready).await;
        }
        if outcome.wrong.is_empty() {
            tokio::time::sleep(IDLE * 3).await;
            for ((_, life), site) in self.sites.iter().zip(sites) {
                *life.is_looked_at.lock().unwrap() = true;
                life.look.notify_one();
                let left = tokio::time::timeout(PATIENCE, site).await;
                let left = left.map_err(|_| ()).and_then(|left| left.map_err(|_| ()));
                match left {
                    Ok(left) => {
                        let kinds = &self.plan.kinds;
                        let rate = self.plan.path.rate;
                        let left = left.iter().filter(|left| !kinds.may_be_left(left, rate));
                        let left = left.map(|left| format!("{}: {left}", life.name));
                        outcome.wrong.extend(left);
                    }
                    Err(()) => outcome
                        .wrong
                        .push(format!("{} cannot be looked at", life.name)),
                }
            }
        }
        outcome.wrong.extend(crate::crypto::audit::reused());
        outcome
    }

    fn person(&self, number: usize, rng: &mut StdRng) -> SimulatedUser {
        let rate = self.plan.path.rate.filter(|_| self.plan.is_rate_known);
        SimulatedUser {
            number,
            population: Arc::clone(&self.population),
            key: SecretKey::generate(rng),
            memory: Memory::default(),
            backup: None,
            traits: LinkParameters {
                rate,
                ..LinkParameters::default()
            },
            early_data: self.plan.early_data,
            lifetime: self.plan.lifetime,
            deadline: self.plan.deadline,
            is_patient: false,
            history: self.history.clone(),
            rng: fork(rng),
            done: Progress::default(),
            turns: self.plan.turns + restoring::turns_more(&self.plan),
            blocks: (self.plan.kinds.blocks && number == 0)
                .then(|| self.population.people.len() - 1)
                .filter(|other| *other != number),
            may_be_put_out: self.plan.kinds.restored.is_some(),
        }
    }

    /// Changes conditions and kills processes, one after another.
    pub(super) async fn storm(&self, rng: &mut StdRng) {
        let end = Instant::now() + self.plan.storm;
        while Instant::now() < end {
            let spell = self.plan.restless.mul_f64(rng.random::<f64>() * 2.0);
            tokio::time::sleep(spell.max(Duration::from_millis(1))).await;
            match rng.random_range(0..10) {
                0..5 => self.network.set_weather(self.plan.weather(rng)),
                5 => {
                    let (a, b) = (self.anybody(rng), self.anybody(rng));
                    let is_cut = rng.random_bool(0.5);
                    self.trace
                        .note("network", || format!("{a} and {b}: cut is {is_cut}"));
                    self.network.cut(&a, &b, is_cut);
                }
                6 => {
                    let name = self.anybody(rng);
                    self.network.rebind(&name);
                }
                7 => {
                    let (site, _) = &self.sites[rng.random_range(0..self.sites.len())];
                    let health = self.plan.health(rng);
                    self.trace.note(site.id.as_str(), || format!("{health:?}"));
                    site.disk.set_health(health);
                }
                8 => {
                    let (_, life) = &self.sites[rng.random_range(0..self.sites.len())];
                    if rng.random_bool(0.2) {
                        life.stop.send_replace(true);
                    } else {
                        let years = rng.random_range(-10..10);
                        life.wall.jump(years * 365 * 86_400);
                    }
                }
                _ => {
                    let lives = self.lives.iter().chain(self.sites.iter().map(|(_, l)| l));
                    let lives: Vec<&Life> = lives.collect();
                    let life = lives[rng.random_range(0..lives.len())];
                    if rng.random_bool(self.plan.deadly)
                        && let Some(machine) = &*life.machine.lock().unwrap()
                    {
                        machine.kill();
                    }
                }
            }
        }
    }

    fn anybody(&self, rng: &mut StdRng) -> String {
        let at = rng.random_range(0..self.lives.len() + self.sites.len());
        match self.lives.get(at) {
            Some(life) => life.name.clone(),
            None => self.sites[at - self.lives.len()].1.name.clone(),
        }
    }

    pub(super) fn calm(&self) {
        self.trace.note("world", || "it is calm".into());
        self.is_calm.send_replace(true);
        self.network.set_weather(self.plan.path.calm());
        let sites = self.sites.iter().map(|(_, life)| life);
        let all: Vec<&Life> = self.lives.iter().chain(sites).collect();
        for life in &all {
            for other in &all {
                self.network.cut(&life.name, &other.name, false);
            }
            if let Some(machine) = &*life.machine.lock().unwrap() {
                machine.light(i64::MAX);
            }
        }
        for (site, _) in &self.sites {
            site.disk.set_health(self.plan.good_health());
        }
    }
}
