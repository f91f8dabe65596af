//! A run: a storm, in which everything may go wrong, and the calm after it, in which everything must come right.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    REALM_PORT,
    disk::Disk,
    history::{Gone, History, Message, To},
    machine::{Machine, WallClock},
    network::Network,
    person::{Person, Population, Progress},
    plan::Plan,
    site::{IDLE, Neighbour, Site},
    trace::Trace,
};
use crate::{
    client::{Client, Memory, Traits},
    crypto::SecretKey,
    wire::{CONTENT_GONE, CONTENT_NOTICE, CONTENT_TEXT, Entry, Mailbox, parse_varint},
};

/// In the calm everybody comes to an end of what they do within this time.
const PATIENCE: Duration = Duration::from_hours(48);
/// When to look whether everything has come right, after the last look.
const LOOKS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_mins(2),
    Duration::from_mins(20),
    Duration::from_hours(2),
    Duration::from_hours(8),
];
/// When nothing new has been shown for so long, nothing is to come: queues rest for less. Where a round trip takes most of a
/// minute, realms may miss each other several times.
const QUIET: Duration = Duration::from_mins(45);
const QUIET_AND_SLOW: Duration = Duration::from_hours(6);
const NAMES: [&str; 4] = ["ann", "bob", "cho", "dia"];
const REALMS: [&str; 2] = ["alpha", "beta"];

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was wrong; nothing, if all is well.
    pub wrong: Vec<String>,
    pub simulated: Duration,
    pub messages: usize,
    pub datagrams: u64,
    pub deaths: u64,
}

/// Something of which one process after another runs.
#[derive(Debug)]
struct Life {
    name: String,
    wall: Arc<WallClock>,
    rng: Mutex<StdRng>,
    machine: Mutex<Option<Machine>>,
    stop: watch::Sender<bool>,
    look: Notify,
    is_looked_at: Mutex<bool>,
}

impl Life {
    fn new(name: &str, rng: &mut StdRng) -> Self {
        Self {
            name: name.into(),
            wall: Arc::new(WallClock::new()),
            rng: Mutex::new(fork(rng)),
            machine: Mutex::new(None),
            stop: watch::Sender::new(false),
            look: Notify::new(),
            is_looked_at: Mutex::new(false),
        }
    }
}

fn fork(rng: &mut StdRng) -> StdRng {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    StdRng::from_seed(seed)
}

struct World {
    plan: Plan,
    network: Network,
    trace: Trace,
    history: History,
    is_calm: watch::Sender<bool>,
    deaths: Mutex<u64>,
    sites: Vec<(Site, Life)>,
    lives: Vec<Life>,
    population: Arc<Population>,
}

/// Runs the world of a seed. Needs a runtime whose clock stands still.
pub async fn run(seed: u64, trace: Trace) -> Outcome {
    let started = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let plan = Plan::draw(&mut rng);
    trace.note("seed", || format!("{seed}: {plan:#?}"));
    let network = Network::new(fork(&mut rng), plan.path, trace.clone());
    let sites = sites(&plan, &mut rng);
    let population = Arc::new(population(&plan, &sites));
    let names = population.people.iter().map(|(name, _)| name.as_str());
    let lives = names.map(|name| Life::new(name, &mut rng)).collect();
    let world = Arc::new(World {
        sites,
        network,
        trace,
        history: History::default(),
        is_calm: watch::Sender::new(false),
        deaths: Mutex::new(0),
        lives,
        population,
        plan,
    });
    let mut outcome = world.tell(&mut rng).await;
    outcome.simulated = started.elapsed();
    outcome.messages = world.history.messages();
    outcome.datagrams = world.network.sent();
    outcome.deaths = *world.deaths.lock().unwrap();
    outcome
}

fn sites(plan: &Plan, rng: &mut StdRng) -> Vec<(Site, Life)> {
    let keys: Vec<SecretKey> = REALMS.iter().map(|_| SecretKey::generate(rng)).collect();
    let neighbours: Vec<Neighbour> = (0_u8..)
        .zip(REALMS.iter().zip(&keys))
        .take(plan.realms.len())
        .map(|(number, (name, key))| Neighbour {
            realm: name.parse().expect("a name"),
            key: key.public(),
            address: SocketAddr::from(([10, 0, 0, number + 1], REALM_PORT)),
        })
        .collect();
    let sites = neighbours.iter().zip(keys).map(|(own, key)| {
        let mut others = neighbours.clone();
        others.retain(|other| other.realm != own.realm);
        let site = Site {
            id: own.realm,
            address: own.address,
            key,
            disk: Disk::new(fork(rng)),
            neighbours: others,
            early_data: plan.early_data,
            lifetime: plan.lifetime,
            kept: plan.kept,
        };
        site.disk.set_health(plan.good_health());
        (site, Life::new(own.realm.as_str(), rng))
    });
    sites.collect()
}

fn population(plan: &Plan, sites: &[(Site, Life)]) -> Population {
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
    fn is_calm(&self) -> bool {
        *self.is_calm.borrow()
    }

    /// The next process of a life.
    fn start(&self, life: &Life, most: i64) -> Machine {
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
        *life.machine.lock().unwrap() = Some(machine.clone());
        machine
    }

    async fn lie_dead(&self, life: &Life) {
        *self.deaths.lock().unwrap() += 1;
        let pause = life.rng.lock().unwrap().random_range(0..20_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// A realm's life; what its last process held.
    async fn keep_site(self: Arc<Self>, number: usize) -> Vec<String> {
        let (site, life) = &self.sites[number];
        loop {
            let machine = self.start(life, 4000);
            life.stop.send_replace(false);
            let serving = site.serve(machine.clone(), life.stop.subscribe(), life.look.notified());
            let leftovers = tokio::select! {
                biased;
                () = machine.died() => Vec::new(),
                leftovers = serving => leftovers,
            };
            machine.kill();
            site.disk.power_off();
            if *life.is_looked_at.lock().unwrap() {
                return leftovers;
            }
            self.lie_dead(life).await;
        }
    }

    /// A person's life, until they have done what they wanted to do.
    async fn keep_person(self: Arc<Self>, mut person: Person) -> Person {
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

    async fn tell(self: &Arc<Self>, rng: &mut StdRng) -> Outcome {
        let sites: Vec<JoinHandle<_>> = (0..self.sites.len())
            .map(|number| tokio::spawn(Arc::clone(self).keep_site(number)))
            .collect();
        let people: Vec<JoinHandle<Person>> = (0..self.lives.len())
            .map(|number| {
                let person = self.person(number, rng);
                tokio::spawn(Arc::clone(self).keep_person(person))
            })
            .collect();
        self.storm(rng).await;
        self.calm();
        let mut outcome = Outcome::default();
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
        if outcome.wrong.is_empty() {
            self.trace.note("world", || "everybody is done".into());
            outcome.wrong = self.judge(&mut ready).await;
        }
        if outcome.wrong.is_empty() {
            tokio::time::sleep(IDLE * 3).await;
            for ((_, life), site) in self.sites.iter().zip(sites) {
                *life.is_looked_at.lock().unwrap() = true;
                life.look.notify_one();
                let left = tokio::time::timeout(PATIENCE, site).await;
                let left = left.map_err(|_| ()).and_then(|left| left.map_err(|_| ()));
                match left {
                    Ok(left) => outcome
                        .wrong
                        .extend(left.iter().map(|left| format!("{}: {left}", life.name))),
                    Err(()) => outcome
                        .wrong
                        .push(format!("{} cannot be looked at", life.name)),
                }
            }
        }
        outcome.wrong.extend(crate::crypto::audit::reused());
        outcome
    }

    fn person(&self, number: usize, rng: &mut StdRng) -> Person {
        let rate = self.plan.path.rate.filter(|_| self.plan.is_rate_known);
        Person {
            number,
            population: Arc::clone(&self.population),
            key: SecretKey::generate(rng),
            memory: Memory::default(),
            backup: None,
            traits: Traits {
                rate,
                ..Traits::default()
            },
            early_data: self.plan.early_data,
            lifetime: self.plan.lifetime,
            deadline: self.plan.deadline,
            is_patient: false,
            history: self.history.clone(),
            rng: fork(rng),
            done: Progress::default(),
            turns: self.plan.turns,
        }
    }

    /// Things go wrong, one after another.
    async fn storm(&self, rng: &mut StdRng) {
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

    fn calm(&self) {
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

    /// What is wrong, once everything has had the time to come right.
    async fn judge(&self, people: &mut [Person]) -> Vec<String> {
        let machines: Vec<Machine> = people
            .iter()
            .map(|person| self.start(&self.lives[person.number], 2))
            .collect();
        let mut clients = Vec::new();
        for person in people.iter_mut() {
            person.is_patient = true;
        }
        for (person, machine) in people.iter().zip(&machines) {
            let client = person.client(machine);
            // Whatever was cut off is finished first.
            let outcome = client.whoami().await;
            if let Err(error) = outcome {
                return vec![format!("{} cannot say whoami: {error}", person.name())];
            }
            match client.outbox_wait().await {
                Ok(true) => {}
                outcome => {
                    let left = client.outbox();
                    return vec![format!(
                        "{}'s outbox stays: {outcome:?} {left:?}",
                        person.name()
                    )];
                }
            }
            person.hear_notices(&client, machine);
            clients.push(client);
        }
        let watching = people
            .iter()
            .zip(&clients)
            .zip(&machines)
            .map(|((person, client), machine)| self.watch_all(person, client, machine));
        let left: Vec<String> = join_all(watching).await.into_iter().flatten().collect();
        if !left.is_empty() {
            return left;
        }
        // Another device looks at all of it, after this one: what one device confirms, another may never be shown.
        let mut others = Vec::new();
        for (person, machine) in people.iter().zip(&machines) {
            match person.other_device(machine).await {
                Ok(client) => others.push(client),
                Err(error) => return vec![format!("{} cannot auth: {error}", person.name())],
            }
        }
        let mut wrong = Vec::new();
        let mut views = Vec::new();
        for wait in LOOKS {
            tokio::time::sleep(wait).await;
            views.clear();
            for (person, client) in people.iter().zip(&others) {
                for mailbox in person.mailboxes() {
                    match person.read_all(client, mailbox).await {
                        Ok(entries) => views.push((person.number, mailbox, entries)),
                        Err(error) => {
                            let name = person.name();
                            return vec![format!("{name} cannot read {mailbox}: {error}")];
                        }
                    }
                }
            }
            wrong = self.wrong_with(&views);
            if wrong.is_empty() {
                break;
            }
        }
        for (number, mailbox, entries) in &views {
            // A message from another realm is pushed once, as one of the private ones.
            if !matches!(mailbox, Mailbox::Realm(_)) {
                wrong.extend(self.history.not_shown(*number, mailbox, entries));
            }
        }
        wrong.extend(self.history.wrong_with_shown());
        for machine in machines {
            machine.kill();
        }
        wrong
    }

    /// Watches until nothing new has come for longer than anything takes to come. What is wrong, if `unread` then counts
    /// something.
    async fn watch_all(
        &self,
        person: &Person,
        client: &Client,
        machine: &Machine,
    ) -> Option<String> {
        let is_slow = self.plan.path.delay >= Duration::from_secs(10);
        let wait = if is_slow { QUIET_AND_SLOW } else { QUIET };
        let quiet = async {
            loop {
                let before = self.history.count_shown(person.number);
                tokio::time::sleep(wait).await;
                if self.history.count_shown(person.number) == before {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = quiet => {}
            () = person.watch(client, machine) => {}
        }
        match client.unread_counts().await {
            Ok(counts) if counts.is_empty() => None,
            counts => {
                let name = person.name();
                Some(format!("{name} has read all, and unread says {counts:?}"))
            }
        }
    }

    fn wrong_with(&self, views: &[(usize, Mailbox, Vec<Entry>)]) -> Vec<String> {
        let people = &self.population.people;
        let mut wrong = Vec::new();
        let all = views.iter().flat_map(|(_, _, entries)| entries);
        let returned: Vec<String> = all
            .filter(|entry| entry.content == CONTENT_NOTICE)
            .map(|entry| String::from_utf8_lossy(&entry.body).into_owned())
            .collect();
        for (number, mailbox, entries) in views {
            let home = people[*number].1;
            let group_at = |realm: usize| move |message: &Message| message.to == To::Group(realm);
            let to_me = |message: &Message| message.to == To::Person(*number);
            let to_me_from = |realm: usize| {
                move |message: &Message| to_me(message) && people[message.from].1 == realm
            };
            let realm_named = |id| self.population.realms.iter().position(|realm| *realm == id);
            let reach: Box<dyn Fn(&Message) -> bool> = match mailbox {
                Mailbox::Private => Box::new(to_me),
                Mailbox::Group(_) => Box::new(group_at(home)),
                Mailbox::Realm(realm) => {
                    Box::new(to_me_from(realm_named(*realm).unwrap_or(usize::MAX)))
                }
                Mailbox::RealmGroup(realm, _) => {
                    Box::new(group_at(realm_named(*realm).unwrap_or(usize::MAX)))
                }
            };
            let name = format!("{}'s {mailbox}", people[*number].0);
            let gone = Gone {
                count: entries.iter().filter_map(gone).sum(),
                // What is in a mailbox from one realm is among the private messages too, and read there.
                of: matches!(mailbox, Mailbox::Private).then_some(*number),
            };
            let texts = entries.iter().filter(|entry| entry.content == CONTENT_TEXT);
            let texts: Vec<&[u8]> = texts.map(|entry| entry.body.as_slice()).collect();
            let history = &self.history;
            wrong.extend(history.wrong_with(&name, &texts, (&returned, gone), reach));
        }
        let is_kept = |message: &Message| {
            views
                .iter()
                .any(|(_, _, entries)| entries.iter().any(|entry| entry.body == message.body))
        };
        if self.plan.kept.is_none() {
            wrong.extend(self.history.wrong_with_finished(&returned, is_kept));
        }
        wrong
    }
}

/// How many entries the realm says are not kept any more.
fn gone(entry: &Entry) -> Option<u64> {
    let (_, count) = parse_varint(&entry.body).ok()?;
    (entry.content == CONTENT_GONE).then_some(count)
}

/// Waits for all of them.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_ready = true;
        for (future, done) in &mut waiting {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}
