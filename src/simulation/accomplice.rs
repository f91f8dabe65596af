//! The malicious realm in a run: how it starts, which user of an honest realm uses it, and what
//! must hold nevertheless.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::watch;

use super::{
    greedy::Target,
    judging::View,
    machine::Machine,
    malice::{self, Surroundings},
    node::Neighbour,
    user::{GROUP_PASSWORD, PASSWORD},
    world::World,
};
use crate::{
    client::{CallError, Client, Delivery, Memory, Options, Profile},
    crypto::{ConnectionString, SecretKey},
    host::Host,
    wire::{CONTENT_NOTICE, CONTENT_TEXT, GroupName, Mailbox, Position, RealmId, Username},
};

/// The name of the user who uses it.
const ACCOMPLICE: &str = "zed";
/// The number of things that this user asks of it, one after another.
const TURNS: u32 = 40;
/// The time that this user waits for an answer. Other users wait for less.
const DEADLINE: Duration = Duration::from_secs(40);
/// In the calm, everything under way arrives within this time.
const SETTLES: Duration = Duration::from_mins(30);
/// The longest wait for a look at a realm's queue.
const LOOK: Duration = Duration::from_mins(1);

/// Returns the key of the malicious realm in the world of a seed.
fn key(seed: u64) -> SecretKey {
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed ^ 0x6c69_6172).fill_bytes(&mut bytes);
    SecretKey::from_bytes(bytes)
}

/// Returns the malicious realm as an unsuspecting operator lists it.
pub fn liar(seed: u64) -> Neighbour {
    Neighbour {
        realm: malice::NAME.parse().expect("a name"),
        key: key(seed).public(),
        address: Some(malice::ADDRESS),
    }
}

/// Starts the malicious realm and its accomplice. Both stay until their machines are killed.
pub(super) fn let_liar_in(world: &Arc<World>, seed: u64, rng: &mut StdRng) -> Vec<Machine> {
    let targets = world.sites.iter().map(|(site, _)| Target {
        address: site.address(),
        key: site.key.public(),
    });
    let people = &world.population.people;
    let known = Surroundings {
        targets: targets.collect(),
        realms: world.population.realms.clone(),
        people: people.iter().map(|(name, _)| *name).collect(),
        groups: world.population.groups.clone(),
    };
    let lies = world.beginner(malice::NAME, rng);
    let (machine, counting) = (lies.clone(), Arc::clone(world));
    tokio::spawn(async move {
        let introduced = |count| counting.introduced.store(count, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = machine.died() => {}
            () = malice::lie(&machine, key(seed), known, introduced) => {}
        }
    });
    let helps = world.beginner(ACCOMPLICE, rng);
    let machine = helps.clone();
    let (site, _) = &world.sites[0];
    let connection = site.connection_string();
    let calm = world.calm_comes();
    let deadline = world.plan.deadline.max(DEADLINE);
    let helping = tokio::spawn(async move {
        tokio::select! {
            biased;
            () = machine.died() => Vec::new(),
            wrong = help(&machine, (connection, deadline), calm) => wrong,
        }
    });
    *world.accomplice.lock().unwrap() = Some(helping);
    vec![lies, helps]
}

/// Checks how many datagrams have arrived at an address that had asked for none.
pub(super) fn wrong_with_dials(world: &World, lasted: Duration) -> Option<String> {
    let sent = world.network.sent_to_nobody(malice::BYSTANDER);
    let introductions = world.introduced.load(Ordering::Relaxed);
    let starts = world.sites.iter();
    let starts = starts.map(|(_, life)| life.starts.load(Ordering::Relaxed) as u64);
    let each = |starts| malice::may_have_come(introductions, starts, lasted);
    let most: u64 = starts.clone().map(each).sum();
    let all = malice::said(introductions, starts.sum());
    let most = most.min(all * malice::DIALS_AN_INTRODUCTION);
    (sent > most).then(|| {
        format!("{sent} datagrams have come to a bystander, for {introductions} introductions, and {most} may have")
    })
}

/// Checks that the queues between honest realms are empty in the end.
pub(super) async fn wrong_with_queues(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for (site, _) in &world.sites {
        let realm = site.state.lock().unwrap().realm.clone();
        let Some(realm) = realm else {
            wrong.push(format!("{} does not serve", site.id));
            continue;
        };
        for (other, _) in world.sites.iter().filter(|(other, _)| other.id != site.id) {
            let looking = tokio::time::timeout(LOOK, realm.queues.look(other.id, false));
            match looking.await {
                Ok(Ok(Some(glance))) if matches!(glance.next, Ok(None)) => {}
                _ => wrong.push(format!("{} has something for {}", site.id, other.id)),
            }
        }
    }
    wrong
}

/// Checks for impersonation: an entry in a mailbox of an honest realm that a user of an honest
/// realm wrote has the name and the realm of its author.
pub(super) fn impersonations(world: &World, views: &[View]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (reader, mailbox, entries) in views {
        let home = world.population.people[*reader].1;
        for entry in entries.iter().filter(|entry| entry.content == CONTENT_TEXT) {
            let Some(author) = world.history.author(&entry.body) else {
                continue;
            };
            let (name, realm) = world.population.people[author];
            let realm = (realm != home).then(|| world.population.realms[realm]);
            if (entry.from.user, entry.from.realm) != (name, realm) {
                let from = &entry.from;
                wrong.push(format!("{mailbox} has something of {name} as of {from}"));
            }
        }
    }
    wrong
}

/// Leaves out the entries that the malicious realm wrote in its own name.
pub fn honest(views: &[View]) -> Vec<View> {
    let liar: RealmId = malice::NAME.parse().expect("a name");
    let honest = |(reader, mailbox, entries): &View| {
        let entries = entries.iter();
        let entries = entries.filter(|entry| entry.from.realm != Some(liar));
        (*reader, *mailbox, entries.cloned().collect())
    };
    views.iter().map(honest).collect()
}

/// Writes to the malicious realm and to its group, joins the group whenever it is no member, and
/// reads the group's replica in the end. Returns what is wrong with it.
async fn help(
    machine: &Machine,
    (connection, deadline): (ConnectionString, Duration),
    mut calm: watch::Receiver<bool>,
) -> Vec<String> {
    let mut rng = machine.rng();
    let profile = Profile::in_memory(SecretKey::generate(&mut rng), Memory::default());
    let options = Options {
        server: Some(connection),
        deadline,
        ..Options::default()
    };
    let client = Client::open_on(Host::Simulated(machine.clone()), profile, options);
    let client = client.expect("memory");
    let own: Username = ACCOMPLICE.parse().expect("a name");
    loop {
        match client.register("Zed", "id", own, PASSWORD).await {
            Ok(_) => break,
            Err(CallError::Refused(_)) => return Vec::new(),
            Err(_) => tokio::time::sleep(Duration::from_secs(5)).await,
        }
    }
    let realm: RealmId = malice::NAME.parse().expect("a name");
    let group: GroupName = malice::GROUP.parse().expect("a name");
    let to: Username = "mal".parse().expect("a name");
    let mut posted = BTreeMap::new();
    let mut is_member = false;
    for turn in 0..TURNS {
        // Each text is written twice.
        let text = format!("{own} asks {}", turn / 2);
        let outcome = match rng.random_range(0..4) {
            _ if !is_member => (client.joingrouprealm(None, realm, group, GROUP_PASSWORD)).await,
            0 => {
                let sent = client.sendrealm(None, realm, own, to, text.as_bytes());
                sent.await.map(drop)
            }
            _ => {
                *posted.entry(text.clone().into_bytes()).or_insert(0) += 1;
                let sent = client.sendgrouprealm(None, realm, group, text.as_bytes());
                sent.await.map(drop)
            }
        };
        is_member = outcome.is_ok();
        let pause = rng.random_range(1..12_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let _ = calm.wait_for(|is_calm| *is_calm).await;
    // A user who was expelled meanwhile joins again: otherwise the replica cannot be read.
    let joined = client.joingrouprealm(None, realm, group, GROUP_PASSWORD);
    let joined = joined.await;
    machine.note(|| {
        format!(
            "joins again: {:?}",
            joined.map_err(|error| error.to_string())
        )
    });
    tokio::time::sleep(SETTLES).await;
    let mailbox = Mailbox::RealmGroup(realm, group);
    let entries = client
        .read_whole(mailbox, Some(Position(0)), usize::MAX)
        .await;
    let entries = entries.unwrap_or_default();
    machine.note(|| format!("has {} entries in {mailbox}", entries.len()));
    wrong_with_copy(&entries, own, posted)
}

/// Checks a replica for entries in the name of users of the own realm who did not write them, or
/// did not write them as often.
fn wrong_with_copy(
    entries: &[Delivery],
    own: Username,
    mut posted: BTreeMap<Vec<u8>, usize>,
) -> Vec<String> {
    let local = entries.iter().filter(|entry| entry.from.realm.is_none());
    let mut wrong = Vec::new();
    for entry in local.filter(|entry| entry.content != CONTENT_NOTICE) {
        let left = posted.entry(entry.body.clone()).or_default();
        if entry.from.user == own && entry.content == CONTENT_TEXT && *left > 0 {
            *left -= 1;
        } else {
            let (user, text) = (entry.from.user, String::from_utf8_lossy(&entry.body));
            wrong.push(format!(
                "the copy has {text:?} of {user}, who has not said it"
            ));
        }
    }
    wrong
}
