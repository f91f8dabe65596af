//! Tests of several users of one profile. A command that was typed as one user is never executed as
//! another one, whatever is lost or killed.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    network::Weather,
    routes::{LIVE, PASSWORD, Setting},
};
use crate::{
    client::{CallError, Client, Memory},
    wire::{Entry, Mailbox, Position, Role, Username},
};

/// The number of worlds that each test tries.
const WORLDS: u64 = 250;

const LOSSY: Weather = Weather {
    loss: 0.4,
    delay: Duration::from_millis(20),
    ..Weather::CALM
};
const CALM: Weather = Weather {
    delay: Duration::from_millis(20),
    ..Weather::CALM
};

fn name(name: &str) -> Username {
    name.parse().expect("a name")
}

/// Creates a realm with two users. Ann is logged in on the profile.
async fn ann_and_bob(seed: u64) -> Setting {
    let setting = Setting::seeded(&[LIVE], seed);
    setting.registered().await;
    let others = setting.client_of([9; 32], &Memory::default());
    let registered = others.register("B", "id", name("bob"), PASSWORD).await;
    registered.expect("bob is registered");
    setting
}

/// Lets another process of the profile log bob in over a lossy path, and kills it at some moment.
async fn bob_logs_in(setting: &Setting, rng: &mut StdRng) {
    let (client, machine) = setting.process();
    let moment = Duration::from_millis(rng.random_range(1..1500));
    let logs_in = client.auth(name("bob"), PASSWORD);
    let _ = tokio::time::timeout(moment, logs_in).await;
    machine.kill();
}

async fn mailbox_of(setting: &Setting, user: &str) -> Vec<Entry> {
    let device = setting.client_of([10; 32], &Memory::default());
    let logged_in = device.auth(name(user), PASSWORD).await;
    logged_in.expect("the password is right");
    let all = device.read_whole(Mailbox::Private, Some(Position(0)), usize::MAX);
    let all = all.await.expect("a mailbox can be read");
    all.into_iter().map(|delivery| delivery.entry).collect()
}

/// Sends the profile's outbox, first as the logged-in user, then as ann.
async fn everything_goes(setting: &Setting) -> Client {
    let client = setting.client();
    let _ = client.whoami().await;
    // The result is false if it turns out that another user is logged in.
    let _ = client.outbox_wait().await.expect("the outbox can be read");
    client
        .auth(name("ann"), PASSWORD)
        .await
        .expect("the password is right");
    assert!(client.outbox_wait().await.expect("the outbox can be read"));
    client
}

/// EXACT-7: a message in the outbox is sent by the user who typed it, even if another user logs in
/// before it is sent.
#[tokio::test(start_paused = true)]
async fn outbox_message_is_sent_by_user_who_typed_it() {
    for seed in 0..WORLDS {
        let setting = ann_and_bob(seed).await;
        let mut rng = StdRng::seed_from_u64(seed);
        setting.stop();
        let ann = setting.client();
        let kept = ann.send(name("bob"), b"from ann").await;
        assert!(matches!(kept, Err(CallError::Kept { .. })), "{kept:?}");
        drop(ann);
        setting.serve_at(LIVE);
        setting.network.set_weather(LOSSY);
        bob_logs_in(&setting, &mut rng).await;
        setting.network.set_weather(CALM);
        everything_goes(&setting).await;
        let entries = mailbox_of(&setting, "bob").await;
        let from: Vec<Username> = entries.iter().map(|entry| entry.from.user).collect();
        assert_eq!(from, [name("ann")], "world {seed}");
    }
}

/// EXACT-7: the same holds for a command with a password, which its caller repeats while another
/// process logs in.
#[tokio::test(start_paused = true)]
async fn group_created_during_other_login_belongs_to_creator() {
    for seed in 0..WORLDS {
        let setting = ann_and_bob(seed).await;
        let mut rng = StdRng::seed_from_u64(seed);
        let (ann, _machine) = setting.process();
        let group = "crew".parse().expect("a name");
        setting.network.set_weather(LOSSY);
        let (made, ()) = tokio::join!(
            ann.addgroup(group, b"battery staple"),
            bob_logs_in(&setting, &mut rng)
        );
        drop(ann);
        setting.network.set_weather(CALM);
        let ann = everything_goes(&setting).await;
        let members = ann.members(group).await;
        match (&made, &members) {
            (Ok(()), Ok(members)) => {
                let owner = members.iter().find(|member| member.role == Role::Owner);
                let owner = owner.map(|owner| owner.who.user);
                assert_eq!(owner, Some(name("ann")), "world {seed}");
            }
            (Ok(()), Err(error)) => panic!("world {seed}: {error}"),
            (Err(_), Ok(_)) => {}
            (Err(_), Err(_)) => {
                let device = setting.client_of([10; 32], &Memory::default());
                device
                    .auth(name("bob"), PASSWORD)
                    .await
                    .expect("the password is right");
                let bobs = device.members(group).await;
                assert!(bobs.is_err(), "world {seed}: bob owns it: {made:?}");
            }
        }
    }
}

/// EXACT-8: an old copy of a profile that resumes by its ticket learns only later, or by a refusal,
/// that it is a copy. It does not send what its original has sent.
#[tokio::test(start_paused = true)]
async fn outbox_of_copied_profile_sends_nothing_twice() {
    for seed in 0..WORLDS / 12 {
        let setting = ann_and_bob(seed).await;
        setting.stop();
        let (ann, machine) = setting.process();
        for text in ["one", "two"] {
            let kept = ann.send(name("bob"), text.as_bytes()).await;
            assert!(matches!(kept, Err(CallError::Kept { .. })), "{kept:?}");
        }
        machine.kill();
        let copy = setting.copied_profile();
        setting.serve_at(LIVE);
        let original = setting.client();
        assert!(original.outbox_wait().await.expect("it can be read"));
        // These are more commands than the realm has idempotency records for.
        for number in 0..300 {
            let text = number.to_string();
            let sent = original.send(name("ann"), text.as_bytes()).await;
            sent.expect("it is stored");
        }
        drop(original);
        setting.network.set_weather(LOSSY);
        let copy = setting.client_of([8; 32], &copy);
        let _ = copy.outbox_wait().await.expect("it can be read");
        setting.network.set_weather(CALM);
        let entries = mailbox_of(&setting, "bob").await;
        let texts: Vec<_> = entries.iter().map(|entry| entry.body.as_slice()).collect();
        assert_eq!(texts, [b"one", b"two"], "world {seed}");
    }
}

/// READ-2, READ-3, EXACT-7: an entry is shown and confirmed for the user whose mailbox it is in,
/// even while it is not known who is logged in.
#[tokio::test(start_paused = true)]
async fn mailbox_entries_are_shown_to_their_user_only() {
    const MESSAGES: u32 = 4;
    for seed in 0..WORLDS {
        let setting = ann_and_bob(seed).await;
        let mut rng = StdRng::seed_from_u64(seed);
        let writer = setting.client_of([11; 32], &Memory::default());
        let registered = writer.register("C", "id", name("cid"), PASSWORD).await;
        registered.expect("cid is registered");
        let mut shown: Vec<String> = Vec::new();
        for number in 0..MESSAGES {
            for to in ["ann", "bob"] {
                let text = format!("{to} {number}");
                let sent = writer.send(name(to), text.as_bytes()).await;
                sent.expect("it is stored");
            }
            // Ann has been shown more than bob.
            if number < MESSAGES / 2 {
                let (ann, machine) = setting.process();
                let texts = read(&ann).await;
                shown.extend(texts.unwrap_or_else(|error| panic!("world {seed}: {error}")));
                machine.kill();
            }
        }
        setting.network.set_weather(LOSSY);
        bob_logs_in(&setting, &mut rng).await;
        for _ in 0..2 {
            let (somebody, machine) = setting.process();
            let waits = Duration::from_millis(rng.random_range(1..20_000));
            if let Ok(Ok(texts)) = tokio::time::timeout(waits, read(&somebody)).await {
                shown.extend(texts);
            }
            machine.kill();
        }
        setting.network.set_weather(CALM);
        for user in ["ann", "bob"] {
            let client = setting.client();
            let logged_in = client.auth(name(user), PASSWORD).await;
            logged_in.expect("the password is right");
            let texts = read(&client).await.expect("a mailbox can be read");
            assert!(
                texts.iter().all(|text| text.starts_with(user)),
                "world {seed}: {user} is shown {texts:?}"
            );
            shown.extend(texts);
        }
        for user in ["ann", "bob"] {
            let own = shown.iter().filter(|text| text.starts_with(user));
            let own: Vec<&String> = own.collect();
            let all: Vec<String> = (0..MESSAGES)
                .map(|number| format!("{user} {number}"))
                .collect();
            assert_eq!(own, all.iter().collect::<Vec<_>>(), "world {seed}");
        }
    }
}

/// Reads and shows the unread entries of whichever user is logged in.
async fn read(client: &Client) -> Result<Vec<String>, CallError> {
    let entries = client.unread(Mailbox::Private).await?;
    let mut texts = Vec::new();
    for entry in entries {
        client.shown(&entry)?;
        texts.push(String::from_utf8_lossy(&entry.body).into_owned());
    }
    Ok(texts)
}

/// EXACT-7, EXACT-8: if a copy has assigned more numbers than its original has used, no handshake
/// tells it that it is a copy. Its messages are sent by the user who typed them, each once.
#[tokio::test(start_paused = true)]
async fn outbox_of_copied_profile_sends_as_user_who_typed() {
    for waiting in 1..8_usize {
        let setting = ann_and_bob(1).await;
        let writer = setting.client_of([11; 32], &Memory::default());
        let registered = writer.register("C", "id", name("cid"), PASSWORD).await;
        registered.expect("cid is registered");
        let copied = setting.copied_profile();
        let logged_in = setting.client().auth(name("bob"), PASSWORD).await;
        logged_in.expect("the password is right");
        setting.stop();
        for number in 0..waiting {
            let to = name(["cid", "bob", "ann"][number % 3]);
            let copy = setting.client_of([8; 32], &copied);
            let kept = copy.send(to, b"from a copy").await;
            assert!(matches!(kept, Err(CallError::Kept { .. })), "{kept:?}");
        }
        setting.serve_at(LIVE);
        let copy = setting.client_of([8; 32], &copied);
        let _ = copy.outbox_wait().await;
        let logged_in = copy.auth(name("ann"), PASSWORD).await;
        logged_in.expect("the password is right");
        assert!(copy.outbox_wait().await.expect("the outbox can be read"));
        let mut count = 0;
        for user in ["ann", "bob", "cid"] {
            let entries = mailbox_of(&setting, user).await;
            count += entries.len();
            let is_anns = |entry: &Entry| entry.from.user == name("ann");
            assert!(entries.iter().all(is_anns), "{waiting}: {entries:?}");
        }
        assert_eq!(count, waiting);
    }
}
