use rand::{SeedableRng as _, rngs::ChaCha20Rng};

use super::*;
use crate::{
    client::{
        Memory, Notice, Options, Profile,
        outbox::{AddedUnnamed, New, Waiting},
    },
    crypto::SecretKey,
    host::Host,
    wire::Body,
};

/// Returns a client of a plain listener, which nothing here reaches.
fn client() -> Client {
    let key = SecretKey::generate(&mut ChaCha20Rng::seed_from_u64(1));
    let options = Options {
        server: Some("merpati://127.0.0.1:9".parse().unwrap()),
        plain: true,
        ..Options::default()
    };
    let profile = Profile::in_memory(key, Memory::default());
    Client::open_on(Host::Real, profile, options).unwrap()
}

/// Adds a message to the outbox and picks it, with a command that cannot be parsed.
fn pick_unreadable(shared: &Shared) -> Picked {
    let request = Request::from(Command::Send(command::Send {
        operation: Operation::UNNUMBERED,
        session: SessionRef::Bound,
        to: "bob".parse().unwrap(),
        message: Body(b"hello"),
    }));
    let now = Duration::from_secs(1_000_000);
    let new = New {
        account: shared.account().unwrap(),
        request: &request,
        waiting: Waiting::new(now, Duration::from_secs(10)),
        now,
    };
    let picked = shared.profile.write(|records| {
        let AddedUnnamed::Entry(id) = Outbox::of(records).add_unnamed(&new)? else {
            return Ok(None);
        };
        Outbox::of(records).begin_now(id, now)
    });
    Picked {
        body: Some(b"no command".into()),
        ..picked.unwrap().unwrap()
    }
}

fn outcome(shared: &Shared, id: EntryId) -> Option<Outcome> {
    let done = shared
        .profile
        .read(|records| OutboxView::of(records).done(id));
    done.unwrap()
}

/// Found by a review: the entry was tried for 28 days, and came to count as sent.
#[tokio::test]
async fn carrier_entry_with_unreadable_command_is_not_tried_again() {
    let client = client();
    let shared = &*client.shared;
    let unsent = pick_unreadable(shared);
    shared.attempt(&unsent).await.unwrap();
    let not_done = Outcome::NotDone(Reason::Damaged);
    assert_eq!(outcome(shared, unsent.id), Some(not_done));
    assert!(lock(&shared.notices).is_empty(), "the outcome says it");
    let sent = Picked {
        left: true,
        ..pick_unreadable(shared)
    };
    shared.attempt(&sent).await.unwrap();
    assert_eq!(outcome(shared, sent.id), Some(Outcome::Unknown));
    let told = std::mem::take(&mut *lock(&shared.notices));
    assert!(matches!(&*told, [Notice::Damaged { .. }]), "{told:?}");
    shared.note_damaged_entry(sent.id);
    assert!(lock(&shared.notices).is_empty(), "it is told once");
}

/// On a plain link the command says in which session it was sent. Without it, the entry still ends.
#[tokio::test]
async fn carrier_entry_with_unreadable_command_is_withdrawn_on_plain_link() {
    let client = client();
    for reason in [Reason::Cancelled, Reason::Expired] {
        let picked = Picked {
            aim: Aim::Cancel(reason),
            left: true,
            ..pick_unreadable(&client.shared)
        };
        client.shared.attempt(&picked).await.unwrap();
        assert_eq!(outcome(&client.shared, picked.id), Some(Outcome::Unknown));
    }
}
