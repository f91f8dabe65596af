//! A world in which a name is given to another realm. The operator of alpha removes beta, and adds
//! another realm with another key as beta, with a user of the same name. Later the operator may add
//! the first realm again, as gamma. The second realm gets nothing of the first: no membership, no
//! message, and no text in the name of its user. Nothing that was acknowledged is lost, except
//! messages that the operator dropped.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{
    REALM_PORT,
    disk::Disk,
    machine::Machine,
    namesakes::{Sent, Story},
    node::{Neighbour, Node, host_and_port},
    user::{GROUP_PASSWORD, PASSWORD, Population},
    world::{Life, Outcome, World, fork},
};
use crate::{
    client::{CallError, Client, Memory, Options, Profile, RealmAddress, Receipt},
    crypto::{PublicKey, SecretKey},
    host::Host,
    wire::{ErrorCode, GroupName, RealmId, Username},
};

/// The users, by number: the operator at alpha, and a user with the same name at each of the two
/// realms that are called beta.
pub const ANN: usize = 0;
pub const FIRST: usize = 1;
pub const SECOND: usize = 2;
/// The name under which the first beta is added again.
pub const GAMMA: &str = "gamma";

/// The time that a user waits for an answer.
const PATIENCE: Duration = Duration::from_hours(6);
/// A run must end within this time.
const END: Duration = Duration::from_hours(96);
/// In the calm, everything under way arrives within this time: no peer is left alone for longer
/// than 21 min.
const SETTLES: Duration = Duration::from_hours(3);

/// Adds a realm that calls itself by the name of the second one.
pub fn add_third(sites: &mut Vec<(Node, Life)>, rng: &mut StdRng) {
    for (site, _) in &mut *sites {
        site.adds_once = true;
    }
    let (alpha, _) = &sites[0];
    let at_alpha = Neighbour {
        realm: alpha.id,
        key: alpha.key.public(),
        address: Some(alpha.address()),
    };
    let (beta, _) = &sites[1];
    let address = SocketAddr::from(([10, 0, 0, 3], REALM_PORT));
    let third = Node {
        address: Arc::new(address.into()),
        state: Arc::default(),
        key: SecretKey::generate(rng),
        disk: Disk::new(fork(rng)),
        neighbours: vec![at_alpha],
        ..beta.clone()
    };
    third.disk.set_health(beta.disk.health());
    sites.push((third, Life::new("beta2", rng)));
}

/// Returns one user for each realm.
pub fn population(sites: &[(Node, Life)]) -> Population {
    let people = [("ann", 0), ("bob", 1), ("bob", 2)];
    Population {
        people: people.map(|(own, home)| (name(own), home)).into(),
        realms: sites.iter().map(|(site, _)| site.id).collect(),
        connections: sites.iter().map(|(s, _)| s.connection_string()).collect(),
        groups: vec![crew()],
    }
}

/// A user with a device.
pub struct Actor {
    pub client: Client,
    machine: Machine,
}

fn name<T: core::str::FromStr<Err: core::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name")
}

pub fn crew() -> GroupName {
    name("crew")
}

/// Repeats an action until it succeeds, or is refused for one of these reasons, which mean that it
/// had succeeded before.
async fn persist<T, F: Future<Output = Result<T, CallError>>>(
    machine: &Machine,
    done: &[ErrorCode],
    what: &str,
    act: impl Fn() -> F,
) {
    loop {
        match act().await {
            Ok(_) => break,
            Err(CallError::Refused(refusal)) if done.contains(&refusal.code) => break,
            Err(error) => machine.note(|| format!("{what}: {error}")),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    machine.note(|| format!("{what}: done"));
}

impl Actor {
    async fn persist<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        done: &[ErrorCode],
        what: &str,
        act: impl Fn() -> F,
    ) {
        persist(&self.machine, done, what, act).await;
    }

    /// Joins alpha's group.
    async fn join(&self, alpha: RealmId) {
        let act = || (self.client).joingrouprealm(None, alpha, crew(), GROUP_PASSWORD);
        self.persist(&[], "joins", act).await;
    }
}

impl World {
    /// Runs the world. Returns what is wrong.
    pub(super) async fn tell_of_taken(
        self: &Arc<Self>,
        rng: &mut StdRng,
        mut kinds_rng: StdRng,
        guests: Vec<Machine>,
    ) -> Outcome {
        for number in 0..self.sites.len() {
            tokio::spawn(Arc::clone(self).keep_site(number));
        }
        let mut story = Story::default();
        let script_rng = fork(&mut kinds_rng);
        let told = async {
            let actors = self.actors(&mut kinds_rng);
            let storm = async {
                self.storm(rng).await;
                self.calm();
                for guest in guests {
                    guest.kill();
                }
            };
            tokio::join!(storm, self.play(&actors, &mut story, script_rng));
            self.settle(&actors, &mut story).await;
            self.wrong_with_names(&actors, &story).await
        };
        let wrong = match tokio::time::timeout(END, told).await {
            Ok(wrong) => wrong,
            Err(_) => vec!["the story does not come to an end".into()],
        };
        let mut outcome = Outcome {
            wrong,
            ..Outcome::default()
        };
        outcome.wrong.extend(crate::crypto::audit::reused());
        outcome
    }

    fn actors(&self, rng: &mut StdRng) -> Vec<Actor> {
        let people = self.population.people.iter().zip(&self.lives);
        let each = people.map(|((_, home), life)| {
            let machine = self.beginner(life.name(), rng);
            let key = SecretKey::generate(&mut machine.rng());
            let options = Options {
                server: Some(self.population.connections[*home].clone()),
                deadline: PATIENCE,
                early_data: self.plan.early_data,
                ..Options::default()
            };
            let profile = Profile::in_memory(key, Memory::default());
            let host = Host::Simulated(machine.clone());
            let client = Client::open_on(host, profile, options).expect("memory");
            Actor { client, machine }
        });
        each.collect()
    }

    /// Adds the realm of a node as a peer of alpha.
    async fn add(&self, ann: &Actor, realm: RealmId, which: usize) {
        let (site, _) = &self.sites[which];
        let (host, port) = host_and_port(site.address());
        let key: PublicKey = site.key.public();
        let address = RealmAddress { host: &host, port };
        let act = || (ann.client).addrealm(realm, address, None, Some(key));
        let what = format!("adds {realm}, which is realm {which}");
        ann.persist(&[ErrorCode::RealmExists], &what, act).await;
    }

    async fn play(&self, actors: &[Actor], story: &mut Story, mut rng: StdRng) {
        let [ann, first, second] = actors else {
            return;
        };
        let (alpha, beta) = (self.sites[0].0.id, self.sites[1].0.id);
        let enter = |number: usize| {
            let (own, _): (Username, usize) = self.population.people[number];
            let actor = &actors[number];
            let exists = [ErrorCode::UsernameTaken];
            async move {
                let act = || actor.client.register("Some One", "id", own, PASSWORD);
                actor.persist(&exists, "registers", act).await;
            }
        };
        tokio::join!(enter(ANN), enter(FIRST), enter(SECOND));
        let claim = || ann.client.claim(b"code");
        ann.persist(&[], "claims", claim).await;
        let make = || ann.client.addgroup(crew(), GROUP_PASSWORD);
        ann.persist(&[ErrorCode::GroupExists], "makes the group", make)
            .await;
        first.join(alpha).await;
        self.converse(actors, story, &mut rng).await;
        // From here on, beta is the second realm, or none.
        story.drops = rng.random_bool(0.3);
        let (drops, gone) = (story.drops, [ErrorCode::NoSuchRealm]);
        let act = || self.remove(ann, beta, drops);
        let removed = ann.persist(&gone, "removes beta, or drops it", act);
        if rng.random_bool(0.5) {
            tokio::join!(removed, self.say(actors, story, FIRST, &mut rng));
        } else {
            removed.await;
        }
        story.phase = 1;
        self.add(ann, beta, 2).await;
        story.phase = 2;
        story.check_members(&ann.client, &[]).await;
        self.converse(actors, story, &mut rng).await;
        if rng.random_bool(0.5) {
            second.join(alpha).await;
            story.second_joined = true;
            self.converse(actors, story, &mut rng).await;
        }
        story.comes_again = rng.random_bool(0.7);
        if story.comes_again {
            self.add(ann, name(GAMMA), 1).await;
            story.phase = 3;
            self.converse(actors, story, &mut rng).await;
        }
    }

    async fn remove(&self, ann: &Actor, realm: RealmId, drops: bool) -> Result<(), CallError> {
        if drops {
            ann.client.droprealm(realm).await
        } else {
            ann.client.removerealm(realm).await
        }
    }

    /// Lets users send messages, one after another.
    async fn converse(&self, actors: &[Actor], story: &mut Story, rng: &mut StdRng) {
        for _ in 0..rng.random_range(2..8) {
            let who = *[ANN, ANN, FIRST, SECOND].choose(rng).unwrap();
            self.say(actors, story, who, rng).await;
            let pause = rng.random_range(0..15_000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Lets a user send a message: ann to the user of the realm that is called beta or gamma, or to
    /// the group; the others to ann or to the group.
    async fn say(&self, actors: &[Actor], story: &mut Story, who: usize, rng: &mut StdRng) {
        let to_group = rng.random_bool(0.4);
        let is_again = story.phase == 3 && rng.random_bool(0.5);
        let named = if who == ANN && is_again {
            GAMMA
        } else {
            "beta"
        };
        let (id, text) = story.begin(who, to_group, named);
        let outcome = self.send(&actors[who], who, (to_group, named), &text).await;
        actors[who].machine.note(|| {
            let said = outcome.as_ref().map(|receipt| receipt.state);
            format!(
                "message {id}, group {to_group}, to {named}: {:?}",
                said.map_err(ToString::to_string)
            )
        });
        story.end(id, &outcome);
    }

    async fn send(
        &self,
        actor: &Actor,
        who: usize,
        (to_group, named): (bool, &str),
        text: &str,
    ) -> Result<Receipt, CallError> {
        let (alpha, own) = (self.sites[0].0.id, self.population.people[who].0);
        let text = text.as_bytes();
        let client = &actor.client;
        match (who, to_group) {
            (ANN, true) => client.sendgroup(crew(), text).await,
            (ANN, false) => {
                let bob = self.population.people[FIRST].0;
                client.sendrealm(None, name(named), own, bob, text).await
            }
            (_, true) => client.sendgrouprealm(None, alpha, crew(), text).await,
            (_, false) => {
                let ann = self.population.people[ANN].0;
                client.sendrealm(None, alpha, own, ann, text).await
            }
        }
    }

    /// In the calm, waits until everything has arrived. Then the first realm's user is not a
    /// member, joins, and is a member.
    async fn settle(&self, actors: &[Actor], story: &mut Story) {
        let [ann, first, second] = actors else {
            return;
        };
        let alpha = self.sites[0].0.id;
        tokio::time::sleep(SETTLES).await;
        let mut members = Vec::new();
        if story.comes_again {
            let posted = self.send(first, FIRST, (true, ""), "a former member").await;
            let is_refused = matches!(&posted, Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::NotAMember);
            if !is_refused {
                story.note(format!("who was a member may post: {posted:?}"));
            }
            first.join(alpha).await;
            members.push(GAMMA);
        }
        if !story.second_joined {
            second.join(alpha).await;
            story.second_joined = true;
        }
        members.push("beta");
        let (id, text) = story.begin(ANN, true, "");
        let outcome = self.send(ann, ANN, (true, ""), &text).await;
        story.end(id, &outcome);
        tokio::time::sleep(SETTLES).await;
        story.check_members(&ann.client, &members).await;
    }
}

/// Returns what the sender of a message was told.
pub fn sent(outcome: &Result<Receipt, CallError>) -> Sent {
    match outcome {
        Ok(receipt) if receipt.state == crate::wire::Sent::Queued => Sent::Queued,
        Ok(_) => Sent::Arrived,
        Err(CallError::Refused(_)) => Sent::Refused,
        Err(_) => Sent::Unknown,
    }
}
