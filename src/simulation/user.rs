//! A simulated user with a device. The user registers, joins groups, writes and reads. The device
//! loses its power at any time, and the user goes on.

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
    wire::{
        Answer, Entry, ErrorCode, GroupName, Mailbox, Position, RealmId, Sender, Sent, Username,
    },
};

/// A user tries this often to join a group again.
const COMES_BACK: u32 = 20;
/// The pause between two attempts.
const COMES_BACK_AFTER: Duration = Duration::from_mins(5);

/// The password of all users.
pub const PASSWORD: &[u8] = b"correct horse";
/// The password of all groups.
pub const GROUP_PASSWORD: &[u8] = b"battery staple";

/// The time that a patient user waits.
const PATIENCE: Duration = Duration::from_hours(6);

/// What all users know about each other.
#[derive(Debug)]
pub struct Population {
    /// The name of each user, and the number of the user's realm.
    pub people: Vec<(Username, usize)>,
    pub realms: Vec<RealmId>,
    pub connections: Vec<crate::crypto::ConnectionString>,
    /// The group of each realm.
    pub groups: Vec<GroupName>,
}

/// A user.
#[derive(Debug)]
pub struct SimulatedUser {
    pub number: usize,
    pub population: Arc<Population>,
    pub key: SecretKey,
    pub memory: Memory,
    /// A copy of the profile, and the number of messages that had been written by then.
    pub backup: Option<(Memory, usize)>,
    pub traits: LinkParameters,
    pub early_data: bool,
    pub lifetime: Duration,
    pub deadline: Duration,
    /// In the end all users wait for their answers, however long that takes.
    pub is_patient: bool,
    pub history: History,
    pub rng: StdRng,
    /// The progress of the user.
    pub done: Progress,
    /// The number of turns in all.
    pub turns: u32,
    /// The user blocks this other one in the middle of its turns.
    pub blocks: Option<usize>,
    /// Peerings begin anew in this world, which may end memberships in groups of another realm.
    pub may_be_put_out: bool,
}

/// The progress of a user.
#[derive(Debug, Default)]
pub struct Progress {
    registered: bool,
    /// The numbers of the realms whose groups the user has joined.
    joined: Vec<usize>,
    turn: u32,
    has_blocked: bool,
}

impl SimulatedUser {
    pub fn name(&self) -> Username {
        self.population.people[self.number].0
    }

    fn realm(&self) -> usize {
        self.population.people[self.number].1
    }

    /// Starts the user's device.
    pub fn client(&self, machine: &Machine) -> Client {
        self.client_with(machine, self.key.clone(), &self.memory)
    }

    /// Starts another device of the user, with an empty profile.
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
            link: self.traits,
            ..Options::default()
        };
        let host = Host::Simulated(machine.clone());
        Client::open_on(host, profile, options).expect("memory")
    }

    /// Continues from the user's progress to the end of the last turn.
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
            if self.done.turn > self.turns / 2 {
                self.block(client, machine).await;
            }
            self.take_turn(client, machine).await;
            self.hear_notices(client, machine);
        }
    }

    async fn block(&mut self, client: &Client, machine: &Machine) {
        while let Some(other) = self.blocks.filter(|_| !self.done.has_blocked) {
            let (user, realm) = self.population.people[other];
            let elsewhere = (realm != self.realm()).then(|| self.population.realms[realm]);
            let user = Sender {
                user,
                realm: elsewhere,
            };
            self.history.begin_block(self.number, other);
            let outcome = client.block(user).await;
            machine.note(|| format!("block {user}: {}", told(&outcome)));
            self.done.has_blocked = outcome.is_ok();
            // After any other error the block may still take effect.
            if matches!(outcome, Ok(()) | Err(CallError::Refused(_))) {
                self.history
                    .answer_block((self.number, other), outcome.is_ok());
            }
            self.rest_unless(self.done.has_blocked).await;
        }
    }

    /// Joins all groups again. When a realm is restored, memberships across realms end (PEER-29),
    /// and some members may not know that yet.
    pub async fn come_back(&mut self, client: &Client) {
        for realm in 0..self.population.groups.len() {
            for _ in 0..COMES_BACK {
                if self.enter_group(client, realm).await.is_ok() {
                    break;
                }
                // A realm behind a firewall may be out of reach for an hour (PEER-24).
                tokio::time::sleep(COMES_BACK_AFTER).await;
            }
        }
    }

    async fn rest_unless(&mut self, is_done: bool) {
        if !is_done {
            let seconds = self.rng.random_range(1..10);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    /// Enters the group of a realm. The first user of the realm creates the group, the others join
    /// it.
    async fn enter_group(&self, client: &Client, realm: usize) -> Result<(), CallError> {
        let group = self.population.groups[realm];
        let first = self.population.people.iter().position(|p| p.1 == realm);
        if first == Some(self.number) {
            return match client.addgroup(group, GROUP_PASSWORD).await {
                // The group was created before the device lost its power.
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

    /// Lets another process of the profile write too. The process may die.
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

    /// Lets a copy of the profile write the same text at the same time on another machine.
    async fn write_on_two_machines(&mut self, client: &Client, machine: &Machine) {
        let process = machine.beside(None);
        let copy = self.memory.copy();
        self.history.copy(self.number);
        let other = self.client_with(&process, self.key.clone(), &copy);
        if self.rng.random_bool(0.5) {
            // Both links are open before the text is typed.
            let _ = other.whoami().await;
        }
        let (to, len) = self.compose();
        let (id, again, body) = self.typed_twice(to, len);
        machine
            .note(|| format!("message {id} and {again}, the same, from a copy of the profile too"));
        // Nobody uses the copy later. A message in its outbox stays there.
        self.history.lose(again);
        let copied = self.deliver(&other, &process, (again, to), &body);
        tokio::join!(copied, self.deliver(client, machine, (id, to), &body));
        // A message that was in the outbox when it was copied is in both outboxes.
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

    /// Sends a message and records its outcome.
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
            // It may be lost unless the answer says that it is durable.
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

    /// Returns the lifetime of a message. Only every fifth message has one.
    fn ttl(&self, id: MessageId) -> Option<Duration> {
        is_worth_a_while(id, self.number).then(|| self.deadline / 2)
    }

    /// Returns all mailboxes that the user may have.
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
            // The reader of the output may go away at any entry.
            let taken = match self.rng.random_range(0..4) {
                0 => self.rng.random_range(0..=entries.len()),
                _ => entries.len(),
            };
            for delivery in entries.iter().take(taken) {
                self.show(client, delivery);
            }
        }
    }

    /// Shows an entry. Nothing can happen between showing and recording it.
    fn show(&self, client: &Client, delivery: &Delivery) {
        self.history
            .show(self.number, &delivery.mailbox, &delivery.entry);
        client.shown(delivery).expect("memory");
    }

    /// Copies the profile from time to time, and restores the copy after the device has died. In
    /// the calm the profile is not restored.
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

    /// Watches until the watch fails.
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
        let all = client
            .read_whole(mailbox, Some(Position(0)), usize::MAX)
            .await?;
        Ok(all.into_iter().map(|delivery| delivery.entry).collect())
    }

    /// Records the operations of earlier processes that this one has completed.
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
