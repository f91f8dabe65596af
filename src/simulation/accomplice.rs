//! The realm that lies in a run: how it comes in, who of an honest realm has to do with it, and what must hold all the same.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    greedy::Target,
    judging::View,
    machine::{Machine, WallClock},
    malice::{self, Known},
    person::{GROUP_PASSWORD, PASSWORD},
    site::Neighbour,
    world::World,
};
use crate::{
    client::{CallError, Client, Memory, Options, Profile},
    crypto::{ConnectionString, SecretKey},
    host::Host,
    wire::{CONTENT_TEXT, GroupName, Mailbox, RealmId, Username},
};

/// Who has to do with it.
const ACCOMPLICE: &str = "zed";
/// What they ask of it, one after another.
const TURNS: u32 = 16;
/// How long they wait for an answer.
const DEADLINE: Duration = Duration::from_secs(40);
/// The longest look at what a realm has queued.
const LOOK: Duration = Duration::from_mins(1);

/// The key of the realm that lies in the world of a seed.
fn key(seed: u64) -> SecretKey {
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed ^ 0x6c69_6172).fill_bytes(&mut bytes);
    SecretKey::from_bytes(bytes)
}

/// The realm that lies, as an operator who does not know that lists it.
pub fn liar(seed: u64) -> Neighbour {
    Neighbour {
        realm: malice::NAME.parse().expect("a name"),
        key: key(seed).public(),
        address: Some(malice::ADDRESS),
    }
}

impl World {
    /// It comes, and so does its accomplice; both stay until their machines are killed.
    pub(super) fn let_liar_in(self: &Arc<Self>, seed: u64, rng: &mut StdRng) -> Vec<Machine> {
        let targets = self.sites.iter().map(|(site, _)| Target {
            address: site.address(),
            key: site.key.public(),
        });
        let people = &self.population.people;
        let known = Known {
            targets: targets.collect(),
            realms: self.population.realms.clone(),
            people: people.iter().map(|(name, _)| *name).collect(),
            groups: self.population.groups.clone(),
        };
        let lies = self.beginner(malice::NAME, rng);
        let (machine, world) = (lies.clone(), Arc::clone(self));
        tokio::spawn(async move {
            let introduced = |count| world.introduced.store(count, Ordering::Relaxed);
            tokio::select! {
                biased;
                () = machine.died() => {}
                () = malice::lie(&machine, key(seed), known, introduced) => {}
            }
        });
        let helps = self.beginner(ACCOMPLICE, rng);
        let machine = helps.clone();
        let (site, _) = &self.sites[0];
        let connection = site.connection_string();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = machine.died() => {}
                () = help(&machine, connection) => {}
            }
        });
        vec![lies, helps]
    }

    /// Somebody's machine, on which nothing is kept.
    pub(super) fn beginner(&self, name: &str, rng: &mut StdRng) -> Machine {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let (network, trace) = (self.network.clone(), self.trace.clone());
        let wall = Arc::new(WallClock::new());
        Machine::start(name, network, wall, trace, StdRng::from_seed(seed), None)
    }

    /// What has come to where nobody had asked for anything.
    pub(super) fn wrong_with_dials(&self) -> Option<String> {
        let sent = self.network.sent_to_nobody(malice::BYSTANDER);
        let introductions = self.introduced.load(Ordering::Relaxed);
        let most = malice::may_have_come(introductions);
        (sent > most).then(|| {
            format!("{sent} datagrams have come to a bystander, for {introductions} introductions")
        })
    }

    /// What honest realms still have for each other: nothing, in the end.
    pub(super) async fn wrong_with_queues(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (site, _) in &self.sites {
            let realm = site.standing.lock().unwrap().realm.clone();
            let Some(realm) = realm else {
                wrong.push(format!("{} does not serve", site.id));
                continue;
            };
            for (other, _) in self.sites.iter().filter(|(other, _)| other.id != site.id) {
                let looking = tokio::time::timeout(LOOK, realm.look(other.id, false));
                match looking.await {
                    Ok(Ok(Some(glance))) if matches!(glance.next, Ok(None)) => {}
                    _ => wrong.push(format!("{} has something for {}", site.id, other.id)),
                }
            }
        }
        wrong
    }

    /// Who seems to have written what they have not: of what stands in the mailboxes of honest realms, and was written by somebody of one,
    /// each has the name and the realm of who wrote it.
    pub(super) fn impersonations(&self, views: &[View]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (reader, mailbox, entries) in views {
            let home = self.population.people[*reader].1;
            for entry in entries.iter().filter(|entry| entry.content == CONTENT_TEXT) {
                let Some(author) = self.history.author(&entry.body) else {
                    continue;
                };
                let (name, realm) = self.population.people[author];
                let realm = (realm != home).then(|| self.population.realms[realm]);
                if (entry.from.user, entry.from.realm) != (name, realm) {
                    let from = &entry.from;
                    wrong.push(format!("{mailbox} has something of {name} as of {from}"));
                }
            }
        }
        wrong
    }
}

/// Leaves out what the realm that lies has said in its own name.
pub fn honest(views: &[View]) -> Vec<View> {
    let liar: RealmId = malice::NAME.parse().expect("a name");
    let honest = |(reader, mailbox, entries): &View| {
        let entries = entries.iter();
        let entries = entries.filter(|entry| entry.from.realm != Some(liar));
        (*reader, *mailbox, entries.cloned().collect())
    };
    views.iter().map(honest).collect()
}

/// Writes to the realm that lies, and to its group.
async fn help(machine: &Machine, connection: ConnectionString) {
    let mut rng = machine.rng();
    let profile = Profile::in_memory(SecretKey::generate(&mut rng), Memory::default());
    let options = Options {
        server: Some(connection),
        deadline: DEADLINE,
        ..Options::default()
    };
    let client = Client::open_on(Host::Simulated(machine.clone()), profile, options);
    let client = client.expect("memory");
    let own: Username = ACCOMPLICE.parse().expect("a name");
    loop {
        match client.register("Zed", "id", own, PASSWORD).await {
            Ok(_) => break,
            Err(CallError::Refused(_)) => return,
            Err(_) => tokio::time::sleep(Duration::from_secs(5)).await,
        }
    }
    let realm: RealmId = malice::NAME.parse().expect("a name");
    let group: GroupName = "den".parse().expect("a name");
    let to: Username = "mal".parse().expect("a name");
    for turn in 0..TURNS {
        let text = format!("{own} asks {turn}");
        match turn % 4 {
            0 => drop(
                client
                    .sendrealm(None, realm, own, to, text.as_bytes())
                    .await,
            ),
            1 => drop(
                client
                    .joingrouprealm(None, realm, group, GROUP_PASSWORD)
                    .await,
            ),
            2 => drop(
                client
                    .sendgrouprealm(None, realm, group, text.as_bytes())
                    .await,
            ),
            _ => drop(
                client
                    .read_whole(Mailbox::RealmGroup(realm, group), None, 10)
                    .await,
            ),
        }
        let pause = rng.random_range(1..20);
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }
}
