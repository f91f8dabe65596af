//! The state of the store after a realm is stopped in the middle of its work, or has no space for
//! it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use super::*;
use crate::store::{Asked, Change, Faulty, Log, PageLimit, Position as At};

/// Keeps everything for a day.
const A_DAY: Retention = Retention {
    age: Some(std::time::Duration::from_hours(24)),
    unread_age: Some(std::time::Duration::from_hours(24)),
    entries: None,
    bytes: None,
};

const ALL: PageLimit = PageLimit {
    entries: usize::MAX,
    bytes: usize::MAX,
};

fn realm_of(store: &Faulty) -> Realm<Faulty> {
    realm_over(store.clone(), |_, limits| {
        limits.password_threads = 0;
        limits.rates = Rates::UNLIMITED;
    })
}

async fn pass<S: Store>(realm: &Realm<S>, now: impl Fn() -> Moment + Sync) {
    let mut next = Some(Pass::BEGIN);
    while let Some(step) = next {
        next = realm.tidy(step, &now).await;
    }
}

fn mailbox() -> Log {
    records::MailboxLog::private("bob".parse().unwrap()).log
}

async fn append(store: &Faulty, count: u32) {
    let mut batch = Batch::new();
    for _ in 0..count {
        batch.append(mailbox(), vec![1; 40]);
    }
    store.commit(batch).await.unwrap();
}

/// Returns the number of entries in the mailbox.
async fn entries(store: &Faulty) -> usize {
    let page = store.read(&mailbox(), At(0), ALL).await.unwrap();
    page.entries.len()
}

/// READ-10: if a realm is stopped while it deletes old messages, it deletes the rest at its next
/// start, and not only after the same time again.
#[tokio::test]
async fn retention_interrupted_by_stop_continues_at_next_start() {
    let store = Faulty::default();
    let realm = realm_of(&store);
    realm.policy.begin_keeping(Some(A_DAY)).await;
    append(&store, 2500).await;
    pass(&realm, || MOMENT).await;
    // The realm is stopped after the first thousand.
    let mut trims = 0;
    store.fail_when(move |asked| {
        let Asked::Commit(batch) = asked else {
            return false;
        };
        let is_trim = |change: &Change| matches!(change, Change::Trim(..));
        trims += u32::from(batch.changes.iter().any(is_trim));
        trims > 1
    });
    let late = later(MOMENT, DAY + 1);
    pass(&realm, || late).await;
    assert_eq!(entries(&store).await, 1500);
    store.mend();
    let realm = realm_of(&store);
    realm.policy.begin_keeping(Some(A_DAY)).await;
    pass(&realm, || later(late, 10)).await;
    assert_eq!(entries(&store).await, 0);
}

/// READ-10: an entry that is added while the realm looks at other mailboxes does not count as older
/// than it is.
#[tokio::test]
async fn retention_does_not_age_new_entry_by_time_before_it() {
    let store = Faulty::default();
    let realm = realm_of(&store);
    realm.policy.begin_keeping(Some(A_DAY)).await;
    append(&store, 1).await;
    // The step begins, and reaches this mailbox an hour later.
    let passed = Arc::new(AtomicU32::new(0));
    let passing = Arc::clone(&passed);
    store.fail_when(move |asked| {
        if matches!(asked, Asked::Logs) {
            passing.store(3600, Ordering::Relaxed);
        }
        false
    });
    let now = || later(MOMENT, passed.load(Ordering::Relaxed));
    pass(&realm, now).await;
    store.mend();
    for (passed, kept) in [(DAY, 1), (DAY + 3599, 1), (DAY + 3600, 1), (DAY + 3601, 0)] {
        pass(&realm, || later(MOMENT, passed)).await;
        assert_eq!(entries(&store).await, kept, "{passed}");
    }
}

/// A store that is begun on a full disk keeps the default once there is space, whatever is written
/// first. Before, at its second start it was taken for one from before retention limits, and kept
/// everything for ever.
#[tokio::test]
async fn disk_full_at_first_start_keeps_default_retention() {
    let default = (Keeping::Default, Retention::DEFAULT);
    for is_life_first in [false, true] {
        let store = Faulty::default();
        let realm = realm_of(&store);
        store.fail_when(|asked| matches!(asked, Asked::Commit(_)));
        assert_eq!(realm.policy.begin_keeping(None).await, default);
        if is_life_first {
            store.mend();
        }
        realm.lives.begin_life(false).await;
        store.mend();
        if !is_life_first {
            let command = Request::from(register(1, "ann")).to_bytes();
            let answer = realm.answer(&caller(device(1), MOMENT), &command).await;
            session_in(&Answer::parse(&answer).unwrap());
        }
        let realm = realm_of(&store);
        assert_eq!(
            realm.policy.begin_keeping(None).await,
            default,
            "{is_life_first}"
        );
    }
}

/// Returns a realm in `directory`, on a disk with half of the reserve left while `is_full` is set.
fn realm_on(directory: &TempDir, is_full: &Arc<AtomicBool>) -> Realm<Embedded> {
    const RESERVE: u64 = 100 << 20;
    let is_full = Arc::clone(is_full);
    let free = move || {
        let is_full = is_full.load(Ordering::SeqCst);
        Ok(if is_full { RESERVE / 2 } else { u64::MAX })
    };
    let store = Embedded::open_on(directory.path(), RESERVE, free).unwrap();
    realm_over(store, |_, limits| {
        limits.password_threads = 0;
        limits.rates = Rates::UNLIMITED;
    })
}

/// SES-7: the running time is also written on a full disk, because it only overwrites the old
/// value. Before, it was refused while the disk was full, and the next start went back by all of
/// that time.
#[tokio::test]
async fn disk_full_still_allows_write_of_running_time() {
    let directory = tempfile::tempdir().unwrap();
    let is_full = Arc::default();
    let realm = realm_on(&directory, &is_full);
    realm.running.note(1000).await;
    is_full.store(true, Ordering::SeqCst);
    let command = Request::from(register(1, "ann")).to_bytes();
    let answer = realm.answer(&caller(device(1), MOMENT), &command).await;
    let answer = Answer::parse(&answer).unwrap();
    assert_eq!(answer, Answer::Refused(Refusal::busy(DISK_FULL_MS)));
    realm.running.note(90_000).await;
    drop(realm);
    let realm = realm_on(&directory, &is_full);
    assert_eq!(realm.running.read().await.unwrap(), 90_000);
}

/// HS-14: a life is also written on a full disk. Before, it was not, and the former life went on:
/// what was assigned afterwards was taken for what an older copy holds.
#[tokio::test]
async fn disk_full_still_allows_write_of_life() {
    let directory = tempfile::tempdir().unwrap();
    let is_full = Arc::new(AtomicBool::new(true));
    let mut named = BTreeSet::new();
    for starts in 1..=3 {
        let realm = realm_on(&directory, &is_full);
        assert!(realm.lives.begin_life(false).await);
        let lives = realm.lives.known.get().unwrap();
        assert_eq!(lives.known.len(), starts);
        named.extend(lives.current().map(|life| life.0));
        drop(realm);
    }
    assert_eq!(named.len(), 3);
}

/// SES-4: a session in use does not expire on a full disk. Before, its use was not recorded there,
/// so it expired while in use. There was no space for another session, and its user could no longer
/// read.
#[tokio::test]
async fn disk_full_does_not_end_session_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let is_full = Arc::default();
    let realm = realm_on(&directory, &is_full);
    let ask = async |now: Moment, command: Command<'_>| {
        let bytes = Request::from(command).to_bytes();
        Answer::parse(&realm.answer(&caller(device(1), now), &bytes).await).unwrap()
    };
    session_in(&ask(MOMENT, register(1, "ann")).await);
    is_full.store(true, Ordering::SeqCst);
    let inbox = || {
        Command::Inbox(command::Inbox {
            session: SessionRef::Bound,
        })
    };
    let written = async || {
        let found = realm.store().list(&records::sessions(), None, 9).await;
        found.unwrap().first().map(|(_, found)| found.version)
    };
    let at_first = written().await;
    for (days, is_written) in [(1, false), (14, false), (20, true), (21, true), (40, true)] {
        let now = later(MOMENT, days * DAY);
        let answer = ask(now, inbox()).await;
        assert!(matches!(answer, Answer::Page(_)), "{days}: {answer:?}");
        // Writes for sessions leave the space for commits that free space.
        assert_eq!(written().await != at_first, is_written, "{days}");
    }
    for days in (40..200).step_by(20) {
        let now = later(MOMENT, days * DAY);
        let answer = ask(now, inbox()).await;
        assert!(matches!(answer, Answer::Page(_)), "{days}: {answer:?}");
        pass(&realm, || now).await;
    }
    // A session that nobody uses expires there as anywhere.
    let late = later(MOMENT, 220 * DAY);
    assert_eq!(ask(late, inbox()).await, refused(ErrorCode::NoSession));
}

/// PEER-19: damaged records of one ended group do not keep a user from being told of another.
/// Before, the damaged one was always tried first.
#[tokio::test]
async fn group_end_with_damaged_records_does_not_block_another() {
    let (crew, bob) = ("crew".parse().unwrap(), "bob".parse().unwrap());
    let realms: [RealmId; 2] = ["beta".parse().unwrap(), "gamma".parse().unwrap()];
    let tell = |realm| records::ending(records::Ending::Tell, Some(realm), crew, 7);
    let member = |realm| records::replica_member(realm, crew, bob);
    let (ending, of_member) = (tell(realms[0]), member(realms[0]));
    for damaged in [ending.clone(), of_member.clone()] {
        for is_block in [false, true] {
            let store = Faulty::default();
            let realm = realm_of(&store);
            let mut batch = Batch::new();
            for of in realms {
                let record = records::ReplicaMemberRecord {
                    joined: 1,
                    epoch: Some(7),
                    membership: 0,
                };
                batch.put(member(of), record.to_value().unwrap());
                let which = (Some(of), crew);
                crate::realm::groups::teardown::put_ending(
                    records::Ending::Tell,
                    which,
                    (7, 7),
                    &mut batch,
                )
                .unwrap();
            }
            store.commit(batch).await.unwrap();
            let kept = store.get(&damaged).await.unwrap().unwrap().value;
            let write = async |value: Vec<u8>| {
                let mut batch = Batch::new();
                batch.put(damaged.clone(), value);
                store.commit(batch).await.unwrap();
            };
            if is_block {
                let damaged = damaged.clone();
                store.fail_when(move |asked| matches!(asked, Asked::Past(key) if *key == damaged));
            } else {
                write(b"nothing".to_vec()).await;
            }
            for _ in 0..2 {
                assert!(!realm.do_chores(NOW).await);
                assert_eq!(entries(&store).await, 1, "{damaged:?}, {is_block}");
            }
            store.mend();
            write(kept.to_vec()).await;
            assert!(realm.do_chores(NOW).await);
            assert_eq!(entries(&store).await, 2);
        }
    }
}

/// SES-8, READ-10: a record that cannot be read does not keep later ones from being deleted.
#[tokio::test]
async fn retention_passes_over_unreadable_records() {
    let store = Faulty::default();
    let realm = realm_of(&store);
    realm.policy.begin_keeping(Some(A_DAY)).await;
    for n in 1..=4 {
        let command = Request::from(register(1, &format!("u{n}"))).to_bytes();
        let answer = realm.answer(&caller(device(n), MOMENT), &command).await;
        session_in(&Answer::parse(&answer).unwrap());
    }
    append(&store, 3).await;
    let broken = Log(b"p/ann"[..].into());
    let mut batch = Batch::new();
    batch.append(broken.clone(), vec![1; 40]);
    store.commit(batch).await.unwrap();
    pass(&realm, || MOMENT).await;
    let sessions = store.list(&records::sessions(), None, 9).await.unwrap();
    assert_eq!(sessions.len(), 4);
    let first = sessions[0].0.clone();
    let damaged = (first.clone(), broken.clone());
    store.fail_when(move |asked| match asked {
        Asked::Past(key) => *key == damaged.0,
        Asked::Read(log) => *log == damaged.1,
        _ => false,
    });
    pass(&realm, || later(MOMENT, 40 * DAY)).await;
    store.mend();
    let left = store.list(&records::sessions(), None, 9).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [first]);
    assert_eq!(entries(&store).await, 0);
    assert_eq!(
        store.read(&broken, At(0), ALL).await.unwrap().entries.len(),
        1
    );
}

fn sendrealm(text: &str) -> Request<'_> {
    let command = Command::SendRealm(command::SendRealm {
        operation: op(2),
        session: SessionRef::Bound,
        src_address: Text(""),
        src_port: crate::wire::Port(0),
        realm: "beta".parse().unwrap(),
        from: "ann".parse().unwrap(),
        to: "bob".parse().unwrap(),
        message: Body(text.as_bytes()),
    });
    let options = Options {
        ttl: Some(60),
        ..Options::NONE
    };
    Request { options, command }
}

/// PEER-17: a message that the disk did not allow to be returned to its sender is returned later.
#[tokio::test(start_paused = true)]
async fn queue_message_not_returned_after_disk_error_is_returned_later() {
    let store = Faulty::default();
    let realm = realm_of(&store);
    let ask = async |bytes: Vec<u8>| {
        let answer = realm.answer(&caller(device(1), MOMENT), &bytes).await;
        Answer::parse(&answer).unwrap()
    };
    session_in(&ask(Request::from(register(1, "ann")).to_bytes()).await);
    let address = ("192.0.2.9".to_string(), 6377);
    let listed = realm
        .peers
        .list_peer("beta".parse().unwrap(), PublicKey([50; 32]), address, None);
    assert!(listed.await.unwrap());
    let queued = ask(sendrealm("hurried").to_bytes()).await;
    assert_eq!(queued, Answer::Sent(Sent::Queued));
    let log = records::MailboxLog::private("ann".parse().unwrap()).log;
    for fails in [
        (|asked| matches!(asked, Asked::Commit(_))) as fn(Asked<'_>) -> bool,
        |asked| matches!(asked, Asked::Get(key) if key.0.starts_with(b"r/")),
    ] {
        store.fail_when(fails);
        let due = realm.queues.next_expiry().unwrap();
        realm
            .queues
            .return_expired(later(MOMENT, due - MOMENT.running))
            .await;
        assert_eq!(store.last(&log).await.unwrap(), At(0));
    }
    store.mend();
    let due = realm.queues.next_expiry().unwrap();
    realm
        .queues
        .return_expired(later(MOMENT, due - MOMENT.running))
        .await;
    assert_eq!(store.last(&log).await.unwrap(), At(1));
    assert_eq!(realm.queues.next_expiry(), None);
}

/// PEER-11: a peer's introduction is accepted only if all replicas of its groups can be read on.
#[tokio::test]
async fn introduction_is_refused_while_replicas_cannot_be_listed() {
    let store = Faulty::default();
    let realm = realm_of(&store);
    let address = ("192.0.2.9".to_string(), 6377);
    let key = PublicKey([50; 32]);
    let listed = realm
        .peers
        .list_peer("beta".parse().unwrap(), key, address, None);
    assert!(listed.await.unwrap());
    let introduce = PeerRequest::Introduce(peer::Introduce {
        realm: "beta".parse().unwrap(),
        address: Text("192.0.2.8"),
        port: crate::wire::Port(7000),
        numbers: None,
    });
    let ask = async || {
        let answer = realm
            .answer(&caller(Some(key), MOMENT), &introduce.to_bytes())
            .await;
        Answer::parse(&answer).unwrap()
    };
    store.fail_when(|asked| matches!(asked, Asked::List(prefix) if prefix.0.starts_with(b"x/")));
    assert_eq!(ask().await, refused(ErrorCode::Internal));
    store.mend();
    assert_eq!(ask().await, Answer::Done);
}
