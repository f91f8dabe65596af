//! A person with a device: makes an account, joins groups, writes and reads, loses the device's power in the midst
//! of it and goes on.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{
    history::{History, MessageId, Said, To, is_worth_a_while},
    machine::Machine,
    node::MESSAGE_MAX,
};
use crate::{
    client::{
        CallError, Client, Delivery, End, LinkParameters, Memory, Message, Notice, Options, Profile,
    },
    crypto::SecretKey,
    host::Host,
    wire::{Answer, Entry, ErrorCode, GroupName, Mailbox, RealmId, Sent, Username},
};

/// How often somebody tries to come into a group again.
const COMES_BACK: u32 = 100;

/// The password of everybody.
pub const PASSWORD: &[u8] = b"correct horse";
/// The password of all groups.
pub const GROUP_PASSWORD: &[u8] = b"battery staple";

/// How long somebody waits who waits.
const PATIENCE: Duration = Duration::from_hours(6);

/// What everybody knows of everybody.
#[derive(Debug)]
pub struct Population {
    /// Name and number of the realm.
    pub people: Vec<(Username, usize)>,
    pub realms: Vec<RealmId>,
    pub connections: Vec<crate::crypto::ConnectionString>,
    /// Each realm has one group.
    pub groups: Vec<GroupName>,
}

/// A person.
#[derive(Debug)]
pub struct SimulatedUser {
    pub number: usize,
    pub population: Arc<Population>,
    pub key: SecretKey,
    pub memory: Memory,
    /// A copy of the profile, and how many messages had been written then.
    pub backup: Option<(Memory, usize)>,
    pub traits: LinkParameters,
    pub early_data: bool,
    pub lifetime: Duration,
    pub deadline: Duration,
    /// In the end everybody waits for their answers, however long it takes.
    pub is_patient: bool,
    pub history: History,
    pub rng: StdRng,
    /// How far they are.
    pub done: Progress,
    /// Turns to be taken in all.
    pub turns: u32,
    /// Peerings begin anew in this world: whoever is in a group of another realm may be put out of it.
    pub may_be_put_out: bool,
}

/// How far a person is.
#[derive(Debug, Default)]
pub struct Progress {
    registered: bool,
    /// By the number of the realm.
    joined: Vec<usize>,
    turn: u32,
}

impl SimulatedUser {
    pub fn name(&self) -> Username {
        self.population.people[self.number].0
    }

    fn realm(&self) -> usize {
        self.population.people[self.number].1
    }

    /// The person's device starts.
    pub fn client(&self, machine: &Machine) -> Client {
        self.client_with(machine, self.key.clone(), &self.memory)
    }

    /// Another device of the person's, which knows nothing yet.
    pub async fn other_device(&self, machine: &Machine) -> Result<Client, CallError> {
        let key = SecretKey::generate(&mut machine.rng());
        let client = self.client_with(machine, key, &Memory::default());
        client.auth(self.name(), PASSWORD).await?;
        Ok(client)
    }

    fn client_with(&self, machine: &Machine, key: SecretKey, memory: &Memory) -> Client {
        let process = machine.clone();
        let profile = Profile::in_memory(key, memory.of(move || process.is_dead()));
        let options = Options {
            server: Some(self.population.connections[self.realm()].clone()),
            early_data: self.early_data,
            deadline: if self.is_patient {
                PATIENCE
            } else {
                self.deadline
            },
            lifetime: self.lifetime,
            traits: self.traits,
            ..Options::default()
        };
        let host = Host::Simulated(machine.clone());
        Client::open_on(host, profile, options).expect("memory")
    }

    /// Goes on where the person was, to the end.
    pub async fn live(&mut self, client: &Client, machine: &Machine) {
        while !self.done.registered {
            let name = self.name();
            let outcome = client.register("Some One", "id", name, PASSWORD).await;
            machine.note(|| format!("register: {}", told(&outcome)));
            self.done.registered = outcome.is_ok();
            if self.done.registered {
                self.history.register(self.number);
            }
            self.rest_unless(self.done.registered).await;
        }
        for realm in 0..self.population.groups.len() {
            while !self.done.joined.contains(&realm) {
                let outcome = self.enter_group(client, realm).await;
                machine.note(|| format!("joins the group of realm {realm}: {}", told(&outcome)));
                match outcome {
                    Ok(()) => self.done.joined.push(realm),
                    Err(_) => self.rest_unless(false).await,
                }
            }
        }
        self.history.come_in(self.number);
        while self.done.turn < self.turns {
            self.done.turn += 1;
            self.take_turn(client, machine).await;
            self.hear_notices(client, machine);
        }
    }

    /// Is in all groups again: those across realms of which one was restored have ended for their members (PEER-29), some of whom may not have been
    /// told yet.
    pub async fn come_back(&mut self, client: &Client) {
        for realm in 0..self.population.groups.len() {
            for _ in 0..COMES_BACK {
                let outcome = self.enter_group(client, realm).await;
                self.rest_unless(outcome.is_ok()).await;
                if outcome.is_ok() {
                    break;
                }
            }
        }
    }

    async fn rest_unless(&mut self, is_done: bool) {
        if !is_done {
            let seconds = self.rng.random_range(1..10);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    /// The first person of each realm makes its group, the others join it.
    async fn enter_group(&self, client: &Client, realm: usize) -> Result<(), CallError> {
        let group = self.population.groups[realm];
        let first = self.population.people.iter().position(|p| p.1 == realm);
        if first == Some(self.number) {
            return match client.addgroup(group, GROUP_PASSWORD).await {
                // Made before the device lost its power.
                Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::GroupExists => {
                    Ok(())
                }
                outcome => outcome,
            };
        }
        if realm == self.realm() {
            client.joingroup(group, GROUP_PASSWORD).await
        } else {
            let realm = self.population.realms[realm];
            client
                .joingrouprealm(None, realm, group, GROUP_PASSWORD)
                .await
        }
    }

    async fn take_turn(&mut self, client: &Client, machine: &Machine) {
        match self.rng.random_range(0..100) {
            0..33 => self.write(client, machine).await,
            33..39 => self.write_beside(client, machine).await,
            39..45 => self.write_on_two_machines(client, machine).await,
            45..60 => {
                let (a, b) = (self.compose(), self.compose());
                tokio::join!(self.send(client, machine, a), self.send(client, machine, b));
            }
            60..75 => self.read(client, machine).await,
            75..85 => {
                let spell = Duration::from_secs(self.rng.random_range(1..120));
                let _ = tokio::time::timeout(spell, self.watch(client, machine)).await;
            }
            85..90 => {
                let outcome = client.whoami().await;
                machine.note(|| format!("whoami: {}", told(&outcome)));
            }
            _ => {
                let spell = self.rng.random_range(1..60_000);
                tokio::time::sleep(Duration::from_millis(spell)).await;
            }
        }
    }

    fn compose(&mut self) -> (To, usize) {
        let groups = &self.done.joined;
        let to = match groups.choose(&mut self.rng) {
            Some(group) if self.rng.random_bool(0.4) => To::Group(*group),
            _ => To::SimulatedUser(self.rng.random_range(0..self.population.people.len())),
        };
        let len = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(500..MESSAGE_MAX - 100),
            1..3 => self.rng.random_range(100..600),
            _ => 20,
        };
        (to, len)
    }

    /// Another process of the profile writes, and may die.
    async fn write_beside(&mut self, client: &Client, machine: &Machine) {
        let fuse = self
            .rng
            .random_bool(0.5)
            .then(|| self.rng.random_range(1..60));
        let process = machine.beside(fuse);
        let other = self.client(&process);
        let (a, b) = (self.compose(), self.compose());
        machine.note(|| "another process of the profile writes".into());
        let beside = async {
            tokio::select! {
                biased;
                () = process.died() => {}
                () = self.send(&other, &process, a) => {}
            }
            process.kill();
        };
        tokio::join!(beside, self.send(client, machine, b));
    }

    /// A copy of the profile writes on another machine, the same text at the same time.
    async fn write_on_two_machines(&mut self, client: &Client, machine: &Machine) {
        let process = machine.beside(None);
        let copy = self.memory.copy();
        self.history.copy(self.number);
        let other = self.client_with(&process, self.key.clone(), &copy);
        if self.rng.random_bool(0.5) {
            // Both links are open before anything is typed.
            let _ = other.whoami().await;
        }
        let (to, len) = self.compose();
        let (id, again, body) = self.typed_twice(to, len);
        machine
            .note(|| format!("message {id} and {again}, the same, from a copy of the profile too"));
        // Nobody uses the copy afterwards: what is in its outbox then stays there.
        self.history.lose(again);
        let copied = self.deliver(&other, &process, (again, to), &body);
        tokio::join!(copied, self.deliver(client, machine, (id, to), &body));
        // What was in the outbox when it was copied is in both.
        process.kill();
    }

    fn typed_twice(&self, to: To, len: usize) -> (MessageId, MessageId, Vec<u8>) {
        let name = self.name();
        let (id, body) = self.history.write(
            (self.number, name.as_str()),
            self.reaches(to),
            self.done.turn,
            len,
        );
        (id, self.history.write_again(id), body)
    }

    fn reaches(&self, to: To) -> (To, bool) {
        let realm = match to {
            To::SimulatedUser(other) => self.population.people[other].1,
            To::Group(realm) => realm,
        };
        (to, realm != self.realm())
    }

    async fn write(&mut self, client: &Client, machine: &Machine) {
        let what = self.compose();
        self.send(client, machine, what).await;
    }

    async fn send(&self, client: &Client, machine: &Machine, (to, len): (To, usize)) {
        let name = self.name();
        let from = (self.number, name.as_str());
        let (id, body) = self
            .history
            .write(from, self.reaches(to), self.done.turn, len);
        machine.note(|| format!("message {id} to {to:?}, {} bytes", body.len()));
        self.deliver(client, machine, (id, to), &body).await;
    }

    /// Asks for a message to be sent, and notes what was said of it.
    async fn deliver(
        &self,
        client: &Client,
        machine: &Machine,
        (id, to): (MessageId, To),
        body: &[u8],
    ) {
        let name = self.name();
        let is_across = self.reaches(to).1;
        let is_to_others = is_across && matches!(to, To::Group(_));
        if (self.ttl(id).is_some() && is_across) || (self.may_be_put_out && is_to_others) {
            // Unless it is known to be kept.
            self.history.lose(id);
        }
        let population = &self.population;
        let outcome = match to {
            To::SimulatedUser(other) => {
                let (to, realm) = population.people[other];
                if realm == self.realm() {
                    client.send(to, body).await
                } else {
                    let realm = population.realms[realm];
                    let message = Message {
                        ttl: self.ttl(id),
                        ..Message::from(body)
                    };
                    client.sendrealm(None, realm, name, to, message).await
                }
            }
            To::Group(realm) if realm == self.realm() => {
                client.sendgroup(population.groups[realm], body).await
            }
            To::Group(realm) => {
                let (group, realm) = (population.groups[realm], population.realms[realm]);
                let message = Message {
                    ttl: self.ttl(id),
                    ..Message::from(body)
                };
                client.sendgrouprealm(None, realm, group, message).await
            }
        };
        machine.note(|| format!("message {id}: {}", told(&outcome)));
        match outcome {
            Ok(receipt) => {
                self.history.say(id, Said::Kept);
                if receipt.state != Sent::Queued {
                    self.history.arrive(id);
                }
            }
            Err(CallError::Refused(refusal)) => {
                self.history.say(id, Said::Refused(refusal.code));
            }
            Err(_) => {}
        }
    }

    /// Every fifth message is worth delivering for a while only.
    fn ttl(&self, id: MessageId) -> Option<Duration> {
        is_worth_a_while(id, self.number).then(|| self.deadline / 2)
    }

    /// All mailboxes that the person may have.
    pub fn mailboxes(&self) -> Vec<Mailbox> {
        let population = &self.population;
        let mut all = vec![Mailbox::Private];
        for (number, realm) in population.realms.iter().enumerate() {
            if number != self.realm() {
                all.push(Mailbox::Realm(*realm));
            }
        }
        for number in &self.done.joined {
            let group = population.groups[*number];
            all.push(if *number == self.realm() {
                Mailbox::Group(group)
            } else {
                Mailbox::RealmGroup(population.realms[*number], group)
            });
        }
        all
    }

    async fn read(&mut self, client: &Client, machine: &Machine) {
        let mailboxes = self.mailboxes();
        if let Some(mailbox) = mailboxes.choose(&mut self.rng) {
            let outcome = client.unread(*mailbox).await;
            machine.note(|| format!("reads {mailbox}: {}", told(&outcome)));
            let entries = outcome.unwrap_or_default();
            // The reader of the output may go away in its midst.
            let taken = match self.rng.random_range(0..4) {
                0 => self.rng.random_range(0..=entries.len()),
                _ => entries.len(),
            };
            for delivery in entries.iter().take(taken) {
                self.show(client, delivery);
            }
        }
    }

    /// Nothing comes between: what is shown is noted.
    fn show(&self, client: &Client, delivery: &Delivery) {
        self.history
            .show(self.number, &delivery.mailbox, &delivery.entry);
        client.shown(delivery).expect("memory");
    }

    /// The profile is copied now and then, and a copy put back after the device has died. The calm finds the profile as it
    /// is.
    pub fn back_up(&mut self, machine: &Machine, is_calm: bool) {
        match (self.backup.take(), self.rng.random_range(0..10)) {
            (Some((copy, since)), 0..4) if !is_calm => {
                machine.note(|| {
                    format!("the profile is restored, as it was when {since} messages were written")
                });
                self.memory.restore(&copy);
                self.history.copy(self.number);
                self.history.restore(self.number, since);
            }
            (None, 0..2) => self.backup = Some((self.memory.copy(), self.history.messages())),
            (backup, _) => self.backup = backup,
        }
    }

    /// Watches for ever.
    pub async fn watch(&self, client: &Client, machine: &Machine) {
        let mut watching = match client.watch().await {
            Ok(watching) => watching,
            Err(error) => {
                machine.note(|| format!("watches: {error}"));
                return;
            }
        };
        loop {
            match watching.next().await {
                Ok(delivery) => {
                    machine.note(|| {
                        let text = String::from_utf8_lossy(&delivery.body);
                        let short: String = text.chars().take(24).collect();
                        let (mailbox, position) = (&delivery.mailbox, delivery.position);
                        format!("is shown {short:?} of {mailbox} at {position}")
                    });
                    self.show(client, &delivery);
                }
                Err(error) => {
                    machine.note(|| format!("watches no more: {error}"));
                    return;
                }
            }
        }
    }

    /// Reads a mailbox from its beginning.
    pub async fn read_all(
        &self,
        client: &Client,
        mailbox: Mailbox,
    ) -> Result<Vec<Entry>, CallError> {
        let all = client.read_whole(mailbox, Some(0), usize::MAX).await?;
        Ok(all.into_iter().map(|delivery| delivery.entry).collect())
    }

    /// What earlier runs began and this one has finished.
    pub fn hear_notices(&self, client: &Client, machine: &Machine) {
        for notice in client.take_notices() {
            machine.note(|| format!("{notice:?}"));
            if let Notice::Finished {
                end: End::Done(Answer::Sent(_)),
                ..
            } = notice
            {
                self.history.say_finished(self.number);
            }
        }
    }
}

fn told<T>(outcome: &Result<T, CallError>) -> String {
    match outcome {
        Ok(_) => "done".into(),
        Err(error) => format!("{error}"),
    }
}
