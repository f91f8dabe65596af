//! Checks in the calm: what devices are shown, what mailboxes hold, and what the realm stores.

use std::time::Duration;

use super::{
    accomplice::{honest, impersonations, wrong_with_queues},
    greedy,
    history::{Gone, Message, To},
    kinds::AWAY_FOR,
    machine::Machine,
    node::MESSAGE_MAX,
    user::SimulatedUser,
    world::World,
};
use crate::{
    client::Client,
    wire::{CONTENT_GONE, CONTENT_NOTICE, CONTENT_TEXT, Entry, Mailbox, RealmId, parse_varint},
};

/// The pauses before each look at whether all is right.
const LOOKS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_mins(2),
    Duration::from_mins(20),
    Duration::from_hours(2),
    Duration::from_hours(8),
];
/// If no new entry is shown for this long, none will come: queues wait for less. With a round trip
/// of almost a minute, realms may miss each other several times.
const QUIET: Duration = Duration::from_mins(45);
const QUIET_AND_SLOW: Duration = Duration::from_hours(6);

/// The entries that a user has in one mailbox.
pub type View = (usize, Mailbox, Vec<Entry>);

/// Checks that one account or malicious realm has not stored more than it may.
pub(super) fn wrong_with_disk(world: &World, lasted: Duration) -> Vec<String> {
    let each = world.sites.iter().enumerate();
    let each = each.filter(|(number, (site, _))| *number == 0 || site.is_lied_to);
    each.filter_map(|(number, _)| wrong_with_disk_of(world, number, lasted))
        .collect()
}

fn wrong_with_disk_of(world: &World, number: usize, lasted: Duration) -> Option<String> {
    let (site, life) = &world.sites[number];
    let logged = site.disk.logged();
    // The rate limits begin anew at each start.
    let starts = life.starts.load(std::sync::atomic::Ordering::Relaxed);
    let greedy = greedy::may_have_kept(lasted, starts);
    // An upper bound: each message once, at full length, with its overhead.
    let honest = world.history.messages() * (MESSAGE_MAX + 200);
    (logged > greedy + honest).then(|| {
        format!(
            "{} keeps {logged} bytes, and one account may have {greedy}",
            site.id
        )
    })
}

/// Checks the whole world, after everything has had time to become right. Returns what is
/// wrong.
pub(super) async fn judge(world: &World, people: &mut [SimulatedUser]) -> Vec<String> {
    let machines: Vec<Machine> = people
        .iter()
        .map(|person| world.start(&world.lives[person.number], 2))
        .collect();
    if world.plan.kinds.are_away {
        tokio::time::sleep(AWAY_FOR).await;
    }
    let mut clients = Vec::new();
    for person in people.iter_mut() {
        person.is_patient = true;
    }
    for (person, machine) in people.iter_mut().zip(&machines) {
        let client = person.client(machine);
        // First, interrupted commands are finished.
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
        clients.push(client);
    }
    if world.plan.kinds.restored.is_some() {
        // This comes after the two realms have spoken to each other, which ends stale
        // memberships.
        tokio::time::sleep(quiet(world)).await;
        for (person, client) in people.iter_mut().zip(&clients) {
            person.come_back(client).await;
        }
    }
    for ((person, client), machine) in people.iter().zip(&clients).zip(&machines) {
        person.hear_notices(client, machine);
    }
    let watching = people
        .iter()
        .zip(&clients)
        .zip(&machines)
        .map(|((person, client), machine)| watch_all(world, person, client, machine));
    let left: Vec<String> = join_all(watching).await.into_iter().flatten().collect();
    if !left.is_empty() {
        return left;
    }
    // Another device reads everything after this one: what one device confirms, another one may
    // never be shown.
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
        wrong = impersonations(world, &views);
        wrong.extend(wrong_with(world, &honest(&views)));
        wrong.extend(wrong_with_queues(world).await);
        if wrong.is_empty() {
            break;
        }
    }
    for (number, mailbox, entries) in &views {
        // A message from another realm is pushed once, in the private mailbox.
        if !matches!(mailbox, Mailbox::Realm(_)) {
            wrong.extend(world.history.not_shown(*number, mailbox, entries));
        }
    }
    wrong.extend(world.history.wrong_with_shown());
    wrong.extend(world.history.wrong_with_refusals());
    for machine in machines {
        machine.kill();
    }
    wrong
}

fn quiet(world: &World) -> Duration {
    // What waits for a realm behind a firewall may wait for an hour (PEER-24).
    let is_firewall = world.plan.kinds.nat.is_some_and(|nat| nat.is_firewall);
    let is_slow = is_firewall || world.plan.path.delay >= Duration::from_secs(10);
    if is_slow { QUIET_AND_SLOW } else { QUIET }
}

/// Watches until no new entry has come for longer than any delay. Reports an error if `unread`
/// counts anything after that.
async fn watch_all(
    world: &World,
    person: &SimulatedUser,
    client: &Client,
    machine: &Machine,
) -> Option<String> {
    let wait = quiet(world);
    let quiet = async {
        loop {
            let before = world.history.count_shown(person.number);
            tokio::time::sleep(wait).await;
            if world.history.count_shown(person.number) == before {
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
        // Hidden entries that are not kept any more count as gone (READ-11).
        Ok(counts)
            if person.blocks.is_some()
                && world.plan.kept.is_some()
                && counts.iter().all(|one| one.count == 1) =>
        {
            None
        }
        counts => {
            let name = person.name();
            Some(format!("{name} has read all, and unread says {counts:?}"))
        }
    }
}

fn wrong_with(world: &World, views: &[View]) -> Vec<String> {
    let people = &world.population.people;
    let mut wrong = Vec::new();
    let all = views.iter().flat_map(|(_, _, entries)| entries);
    let returned: Vec<String> = all
        .filter(|entry| entry.content == CONTENT_NOTICE)
        .map(|entry| String::from_utf8_lossy(&entry.body).into_owned())
        .collect();
    for (number, mailbox, entries) in views {
        let home = people[*number].1;
        let group_at = |realm: usize| move |message: &Message| message.to == To::Group(realm);
        let to_me = |message: &Message| message.to == To::SimulatedUser(*number);
        let to_me_from = |realm: usize| {
            move |message: &Message| to_me(message) && people[message.from].1 == realm
        };
        let realm_named = |id: &RealmId| {
            let realms = &world.population.realms;
            realms.iter().position(|realm| realm == id)
        };
        let reach: Box<dyn Fn(&Message) -> bool> = match mailbox {
            Mailbox::Private => Box::new(to_me),
            Mailbox::Group(_) => Box::new(group_at(home)),
            // Of a realm that lies there is no history.
            Mailbox::Realm(realm) => match realm_named(realm) {
                Some(realm) => Box::new(to_me_from(realm)),
                None => Box::new(|_| false),
            },
            Mailbox::RealmGroup(realm, _) => match realm_named(realm) {
                Some(realm) => Box::new(group_at(realm)),
                None => Box::new(|_| false),
            },
        };
        let others = 0..people.len();
        let blocked: Vec<usize> = others
            .filter(|other| world.history.blocks(*number, *other))
            .collect();
        let hides = |message: &Message| {
            matches!(message.to, To::Group(_)) && blocked.contains(&message.from)
        };
        let reach = |message: &Message| reach(message) && !hides(message);
        let name = format!("{}'s {mailbox}", people[*number].0);
        let gone = Gone {
            count: entries.iter().filter_map(gone).sum(),
            // Entries of one realm's mailbox are among the private messages too, and are read
            // there.
            of: matches!(mailbox, Mailbox::Private).then_some(*number),
        };
        let texts = entries.iter().filter(|entry| entry.content == CONTENT_TEXT);
        let texts: Vec<&[u8]> = texts.map(|entry| entry.body.as_slice()).collect();
        let history = &world.history;
        wrong.extend(history.wrong_with(&name, &texts, (&returned, gone), reach));
    }
    let is_kept = |message: &Message| {
        views
            .iter()
            .any(|(_, _, entries)| entries.iter().any(|entry| entry.body == message.body))
    };
    if world.plan.kept.is_none() {
        wrong.extend(world.history.wrong_with_finished(&returned, is_kept));
    }
    wrong
}

/// Returns the number of expired entries that an entry reports.
fn gone(entry: &Entry) -> Option<u64> {
    let (_, count) = parse_varint(&entry.body).ok()?;
    (entry.content == CONTENT_GONE).then_some(count)
}

/// Awaits all of these futures.
pub(super) async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
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
