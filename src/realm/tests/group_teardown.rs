//! Groups that end while users of other realms are in them.

use super::{
    acts::{BOUND, group, join_realm, user},
    held::{Held, add_peer, give, realm_of},
    *,
};
use crate::store::{Key, PageLimit, Prefix};
use crate::wire::command;

pub const BETA: u8 = 50;
pub const GAMMA: u8 = 51;
const EPOCH: u64 = 7;

pub async fn done(realm: &Realm<Held>, n: u8, command: Command<'_>) {
    let answer = give(realm, n, &Request::from(command.clone()).to_bytes()).await;
    assert_eq!(answer, Answer::Done, "{command:?}");
}

pub async fn with_users(store: &Held, names: &[&str]) -> Realm<Held> {
    let realm = realm_of(store);
    for (n, who) in (1..).zip(names) {
        let answer = give(&realm, n, &Request::from(register(1, who)).to_bytes()).await;
        assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    }
    add_peer(&realm, BETA, "beta").await;
    add_peer(&realm, GAMMA, "gamma").await;
    realm
}

fn leave(number: u64, name: &str) -> Command<'static> {
    Command::LeaveGroup(command::LeaveGroup {
        operation: op(number),
        session: BOUND,
        group: group(name),
    })
}

pub fn add(number: u64, name: &str) -> Command<'static> {
    Command::AddGroup(command::AddGroup {
        operation: op(number),
        session: BOUND,
        group: group(name),
        password: Password(b""),
    })
}

/// Returns the queue to a peer.
pub fn waiting(store: &Held, realm: &str) -> Vec<QueuedRecord> {
    let all = PageLimit {
        entries: usize::MAX,
        bytes: usize::MAX,
    };
    let log = records::queue(realm.parse().unwrap());
    let page = store.memory().read(&log, Position(0), all);
    let records = page.entries.iter();
    records
        .map(|(_, value)| QueuedRecord::from_value(value).unwrap())
        .collect()
}

pub async fn joins(realm: &Realm<Held>, n: u8, name: &str, who: &str) -> u64 {
    let join = PeerRequest::Join(peer::Join {
        group: group(name),
        user: user(who),
        password: Password(b""),
    });
    match give(realm, n, &join.to_bytes()).await {
        Answer::Joined { group_epoch, .. } => group_epoch,
        other => panic!("{other:?}"),
    }
}

/// Answers the next request to a peer.
pub async fn answer_next(calls: &mut tokio::sync::mpsc::Receiver<PeerCall>, reply: Answer) {
    match calls.recv().await {
        Some(PeerCall::Ask { answer, .. }) => answer.send(reply.to_bytes()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// PEER-19, GRP-7: each realm with members is told once, however the group ends and however often
/// the command is repeated.
#[tokio::test]
async fn group_end_is_told_once_to_each_realm_with_members() {
    for is_deleted in [false, true] {
        let store = Held::default();
        let realm = with_users(&store, &["ann"]).await;
        done(&realm, 1, add(2, "crew")).await;
        let epoch = joins(&realm, BETA, "crew", "zoe").await;
        joins(&realm, BETA, "crew", "yan").await;
        joins(&realm, GAMMA, "crew", "xie").await;
        let leaves = PeerRequest::Leave(peer::Leave {
            group: group("crew"),
            user: user("xie"),
            membership: 0,
        });
        let end = if is_deleted {
            Command::DelGroup(command::DelGroup {
                operation: op(3),
                session: BOUND,
                group: group("crew"),
            })
        } else {
            // No user of gamma is in the group any more.
            assert_eq!(give(&realm, GAMMA, &leaves.to_bytes()).await, Answer::Done);
            leave(3, "crew")
        };
        for _ in 0..2 {
            done(&realm, 1, end.clone()).await;
        }
        let told = waiting(&store, "beta");
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].kind, records::QueuedKind::Ended);
        assert_eq!(
            (told[0].to.as_str(), told[0].body.as_slice()),
            ("crew", &epoch.to_be_bytes()[..])
        );
        assert_eq!(waiting(&store, "gamma").len(), usize::from(is_deleted));
        // The name is free, and a group made again under it has another epoch.
        done(&realm, 1, add(4, "crew")).await;
        assert_ne!(joins(&realm, BETA, "crew", "zoe").await, epoch);
    }
}

/// PEER-5, PEER-19: a group ends, and a user is removed, even if a peer's queue is full.
#[tokio::test]
async fn group_end_is_queued_even_if_queue_is_full() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    done(&realm, 1, add(2, "crew")).await;
    joins(&realm, BETA, "crew", "zoe").await;
    let written = QueuedRecord {
        queued: 0,
        content: 0,
        kind: records::QueuedKind::Private,
        from: "ann".into(),
        to: "zoe".into(),
        body: Vec::new(),
        operation: None,
        source: None,
        set_aside: false,
        lifetime: 1000,
        epoch: 1,
        membership: 0,
    };
    let mut batch = Batch::new();
    for _ in 0..4096 {
        let log = records::queue("beta".parse().unwrap());
        batch.append(log, written.to_value().unwrap());
    }
    store.memory().apply(batch).unwrap();
    done(&realm, 1, leave(3, "crew")).await;
    assert_eq!(waiting(&store, "beta").len(), 4097);
}

/// PEER-19: all records of an ended group go, at any size. Members of one made again stay.
#[tokio::test]
async fn group_end_deletes_all_records_and_spares_new_group() {
    let store = Held::default();
    let realm = with_users(&store, &["ann", "bob"]).await;
    done(&realm, 1, add(2, "crew")).await;
    let mut batch = Batch::new();
    let found = store.memory().get(&records::group(group("crew"))).unwrap();
    let record = records::GroupRecord::from_value(&found.value).unwrap();
    let crew = super::super::groups::Group {
        name: group("crew"),
        record,
    };
    let long_ago = Moment { wall: 1, ..MOMENT };
    for number in 0..2500 {
        let who = super::super::groups::local(user(&format!("u{number:05}")));
        crew.put_new_member(&who, 0, long_ago, &mut batch).unwrap();
        let ban = records::ban(group("crew"), crew.record.epoch, &who);
        batch.put(ban, vec![1]);
    }
    store.memory().apply(batch).unwrap();
    let ban = Command::Ban(command::Ban {
        operation: op(3),
        session: BOUND,
        group: group("crew"),
        user: "bob".parse().unwrap(),
    });
    done(&realm, 1, ban).await;
    let end = Command::DelGroup(command::DelGroup {
        operation: op(4),
        session: BOUND,
        group: group("crew"),
    });
    done(&realm, 1, end).await;
    done(&realm, 2, add(2, "crew")).await;
    let join = Command::JoinGroup(command::JoinGroup {
        operation: op(5),
        session: BOUND,
        group: group("crew"),
        password: Password(b""),
    });
    done(&realm, 1, join).await;
    assert!(realm.do_chores(NOW).await);
    let epoch = crew.record.epoch.to_be_bytes();
    for kind in [b"m/", b"b/", b"i/", b"n/", b"w/"] {
        let prefix = Prefix([&kind[..], b"crew/", &epoch].concat().as_slice().into());
        let left = store.memory().list(&prefix, None, usize::MAX);
        assert_eq!(left, [], "{prefix:?}");
    }
    let links = store.memory().list(&Prefix(b"j/"[..].into()), None, 10);
    let links: Vec<_> = links.into_iter().map(|(key, _)| key.0.to_vec()).collect();
    assert_eq!(links, [b"j/ann/crew", b"j/bob/crew"]);
    assert_eq!(store.memory().list(&records::endings(), None, 1), []);
    let read = Command::InboxGroup(command::InboxGroup {
        session: BOUND,
        group: group("crew"),
    });
    let answer = give(&realm, 1, &Request::from(read).to_bytes()).await;
    assert!(matches!(answer, Answer::Page(_)), "{answer:?}");
}

/// Returns a realm whose users are in a group of beta. Its replica has one message.
async fn with_copy(store: &Held, names: &[&str]) -> Realm<Held> {
    let realm = with_users(store, names).await;
    put_copy(store, "beta", EPOCH);
    for who in names {
        put_member(store, "beta", who);
    }
    realm
}

fn put_copy(store: &Held, of: &str, epoch: u64) {
    let (of, crew) = (of.parse().unwrap(), group("crew"));
    let copy = records::ReplicaRecord {
        epoch,
        known_as: "alpha".into(),
        position: 1,
        log: epoch,
        floor: 0,
        ended: false,
    };
    let entry = records::EntryRecord {
        time: NOW,
        content: 0,
        user: "zoe".into(),
        realm: Some("beta".into()),
        body: b"hello".to_vec(),
        alleged: None,
    };
    let log = records::MailboxLog::replica(of, crew, &copy).log;
    let mut batch = Batch::new();
    batch
        .put(records::replica(of, crew), copy.to_value().unwrap())
        .append(log, entry.to_value().unwrap());
    store.memory().apply(batch).unwrap();
}

fn put_member(store: &Held, of: &str, who: &str) {
    let (of, crew) = (of.parse().unwrap(), group("crew"));
    let member = records::ReplicaMemberRecord {
        joined: 1,
        epoch: Some(EPOCH),
        membership: 0,
    };
    let mut batch = Batch::new();
    batch
        .put(
            records::replica_member(of, crew, user(who)),
            member.to_value().unwrap(),
        )
        .put(records::replica_of_user(user(who), of, crew), vec![1]);
    store.memory().apply(batch).unwrap();
}

fn ended(sequence: u64, name: &str, group_epoch: u64) -> PeerRequest<'static> {
    PeerRequest::Ended(peer::Ended {
        epoch: 3,
        sequence: OperationNumber(sequence),
        group: group(name),
        group_epoch,
    })
}

/// Returns the notices of a user.
pub fn notices(store: &Held, who: &str) -> Vec<(String, String)> {
    let all = PageLimit {
        entries: usize::MAX,
        bytes: usize::MAX,
    };
    let log = records::MailboxLog::private(user(who)).log;
    let page = store.memory().read(&log, Position(0), all);
    let entries = page.entries.iter();
    let entries = entries.map(|(_, value)| records::EntryRecord::from_value(value).unwrap());
    let notices = entries.filter(|entry| entry.content == crate::wire::CONTENT_NOTICE);
    notices
        .map(|entry| {
            let from = format!("{}@{}", entry.user, entry.realm.unwrap());
            (from, String::from_utf8(entry.body).unwrap())
        })
        .collect()
}

async fn read_copy(realm: &Realm<Held>, n: u8, of: &str) -> Result<usize, ErrorCode> {
    let command = Command::InboxGroupRealm(command::InboxGroupRealm {
        session: BOUND,
        realm: of.parse().unwrap(),
        group: group("crew"),
    });
    let options = Options {
        after: Some(0),
        ..Options::NONE
    };
    match give(realm, n, &Request { options, command }.to_bytes()).await {
        Answer::Page(page) => Ok(page.entries.len()),
        Answer::Refused(refusal) => Err(refusal.code),
        other => panic!("{other:?}"),
    }
}

/// PEER-19: each member is told once that the group has ended. Members read what is stored, cannot
/// post, and leave without asking the other realm.
#[tokio::test(start_paused = true)]
async fn replica_of_ended_group_is_readable_and_members_are_told_once() {
    let store = Held::default();
    let realm = with_copy(&store, &["ann", "bob"]).await;
    for answer in [STORED, STORED] {
        assert_eq!(
            give(&realm, BETA, &ended(1, "crew", EPOCH).to_bytes()).await,
            answer
        );
        assert!(realm.do_chores(NOW).await);
    }
    // The end is repeated, in another message and by the answer to a read.
    give(&realm, BETA, &ended(2, "crew", EPOCH).to_bytes()).await;
    realm
        .groups
        .replica_is_gone(("beta".parse().unwrap(), group("crew")), EPOCH)
        .await
        .unwrap();
    assert!(realm.do_chores(NOW).await);
    for (n, who) in [(1, "ann"), (2, "bob")] {
        let told = notices(&store, who);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, "crew@beta");
        assert!(told[0].1.contains("has ended"), "{told:?}");
        assert_eq!(read_copy(&realm, n, "beta").await, Ok(1));
    }
    let post = Command::SendGroupRealm(command::SendGroupRealm {
        operation: op(5),
        session: BOUND,
        src_address: Text(""),
        src_port: crate::wire::Port(0),
        realm: "beta".parse().unwrap(),
        group: group("crew"),
        message: Body(b"x"),
    });
    let answer = give(&realm, 1, &Request::from(post).to_bytes()).await;
    assert_eq!(answer, refused(ErrorCode::NoSuchGroup));
    // Nobody answers for beta here.
    let leaves = Command::LeaveGroupRealm(command::LeaveGroupRealm {
        operation: op(6),
        session: BOUND,
        realm: "beta".parse().unwrap(),
        group: group("crew"),
    });
    done(&realm, 1, leaves).await;
    assert_eq!(
        read_copy(&realm, 1, "beta").await,
        Err(ErrorCode::NotAMember)
    );
    assert_eq!(read_copy(&realm, 2, "beta").await, Ok(1));
    let left = store
        .memory()
        .list(&records::replicas_of_user(user("ann")), None, 1);
    assert_eq!(left, []);
}

/// PEER-19: a realm can end only its own groups, and only the group that it names by epoch.
#[tokio::test]
async fn replica_is_not_ended_by_end_of_another_group() {
    let store = Held::default();
    let realm = with_copy(&store, &["ann"]).await;
    done(&realm, 1, add(2, "crew")).await;
    for (n, sequence, name, life) in [
        (GAMMA, 1, "crew", EPOCH),
        (BETA, 1, "crew", EPOCH + 1),
        (BETA, 2, "crowd", EPOCH),
    ] {
        let report = ended(sequence, name, life).to_bytes();
        assert_eq!(give(&realm, n, &report).await, STORED);
    }
    // A realm that is no peer is refused.
    let report = ended(1, "crew", EPOCH).to_bytes();
    assert_eq!(
        give(&realm, 60, &report).await,
        refused(ErrorCode::PeerRefused)
    );
    assert!(realm.do_chores(NOW).await);
    assert_eq!(notices(&store, "ann"), []);
    let copy = store
        .memory()
        .get(&records::replica("beta".parse().unwrap(), group("crew")))
        .unwrap();
    assert!(
        !records::ReplicaRecord::from_value(&copy.value)
            .unwrap()
            .ended
    );
    let found = store.memory().get(&records::group(group("crew")));
    assert!(found.is_some(), "this realm's own of that name goes on");
    // However many groups a peer names, the number of records is bounded.
    for number in 0..600 {
        let report = ended(10 + number, &format!("g{number}"), 1).to_bytes();
        assert_eq!(give(&realm, BETA, &report).await, STORED);
    }
    let reports = store.memory().list(&Prefix(b"q/"[..].into()), None, 1000);
    assert!((200..=257).contains(&reports.len()), "{}", reports.len());
}

/// PEER-19: thousands of members are told, 256 at a time, each once, also across restarts.
#[tokio::test]
async fn replica_end_is_told_to_all_members_across_restarts() {
    let store = Held::default();
    let realm = with_copy(&store, &["ann"]).await;
    let names: Vec<_> = (0..1100).map(|number| format!("u{number:05}")).collect();
    for name in &names {
        put_member(&store, "beta", name);
    }
    let names = [names, vec!["ann".into()]].concat();
    give(&realm, BETA, &ended(1, "crew", EPOCH).to_bytes()).await;
    let step = async |realm: &Realm<Held>| {
        let before = store.memory().clone();
        let first = store.memory().list(&records::endings(), None, 1);
        let is_more = !first.is_empty();
        for (key, found) in first {
            realm.groups.do_ending(&key, found, NOW).await.unwrap();
        }
        let told = names.iter().filter(|who| {
            let log = records::MailboxLog::private(user(who)).log;
            store.memory().last(&log) != before.last(&log)
        });
        let told = told.count();
        assert!(told <= 256, "{told} at once");
        is_more
    };
    let (mut realm, mut steps) = (realm, 0);
    while step(&realm).await {
        steps += 1;
        drop(realm);
        realm = realm_of(&store);
    }
    assert_eq!(steps, 5);
    for who in &names {
        assert_eq!(notices(&store, who).len(), 1, "{who}");
    }
}

/// PEER-19, PEER-10: if *ended* is lost, `no-such-group` to a read ends the replica. A later group
/// of the name is another one. Members of the former one only are told, and read nothing more.
#[tokio::test(start_paused = true)]
async fn replica_end_found_by_read_makes_way_for_later_group() {
    let store = Held::default();
    let realm = with_copy(&store, &["ann", "bob"]).await;
    let mut calls = realm.network.reconnect();
    let beta = realm.peers.peers().await.0.remove(0);
    let (outcome, ()) = tokio::join!(
        realm.read_copy(&beta, group("crew"), MOMENT),
        answer_next(&mut calls, refused(ErrorCode::NoSuchGroup))
    );
    assert_eq!(outcome, ReadOutcome::Gone);
    // No further request is sent.
    assert_eq!(
        realm.read_copy(&beta, group("crew"), MOMENT).await,
        ReadOutcome::Gone
    );
    let command = Request::from(join_realm(op(9), "crew")).to_bytes();
    let known_as = "alpha".parse().unwrap();
    let joined = Answer::Joined {
        group_epoch: EPOCH + 1,
        membership: 1,
        known_as,
    };
    let (answer, ()) = tokio::join!(give(&realm, 1, &command), answer_next(&mut calls, joined));
    assert_eq!(answer, Answer::Done);
    // The *ended* of the former group arrives late.
    give(&realm, BETA, &ended(1, "crew", EPOCH).to_bytes()).await;
    assert!(realm.do_chores(NOW).await);
    assert_eq!(notices(&store, "ann"), [], "she was in the new one before");
    assert_eq!(notices(&store, "bob").len(), 1);
    assert_eq!(read_copy(&realm, 1, "beta").await, Ok(0));
    assert_eq!(
        read_copy(&realm, 2, "beta").await,
        Err(ErrorCode::NotAMember)
    );
    let prefix = records::replica_members("beta".parse().unwrap(), group("crew"));
    let members = store.memory().list(&prefix, None, 9);
    assert_eq!(members.len(), 1, "bob's membership is forgotten");
    assert_eq!(
        store
            .memory()
            .list(&records::replicas_of_user(user("bob")), None, 1),
        []
    );
}

/// PEER-19, PEER-6: messages about memberships do not expire, and let users' messages expire. A
/// peer that is gone for good can be removed. A later realm of its name is not told.
#[tokio::test]
async fn group_end_in_queue_does_not_expire() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    done(&realm, 1, add(2, "crew")).await;
    joins(&realm, BETA, "crew", "zoe").await;
    done(&realm, 1, leave(3, "crew")).await;
    let write = Command::SendRealm(command::SendRealm {
        operation: op(4),
        session: BOUND,
        src_address: Text(""),
        src_port: crate::wire::Port(0),
        realm: "beta".parse().unwrap(),
        from: user("ann"),
        to: user("zoe"),
        message: Body(b"hello"),
    });
    give(&realm, 1, &Request::from(write).to_bytes()).await;
    let beta = realm.peers.peers().await.0.remove(0);
    let late = later(MOMENT, 8 * DAY);
    for _ in 0..2 {
        let next = realm.next_outgoing(beta.realm).await.unwrap().unwrap();
        let carried = realm.deliver_outgoing(&beta, &next, 0, late).await;
        assert_eq!(carried, Carried::Settled);
    }
    assert_eq!(notices(&store, "ann").len(), 1, "the message came back");
    let left = waiting(&store, "beta");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].kind, records::QueuedKind::Ended);
    let next = realm.next_outgoing(beta.realm).await.unwrap().unwrap();
    assert!(!next.is_expired(late), "it waits on");
    let claim = Command::Claim(command::Claim {
        operation: op(5),
        session: BOUND,
        code: Password(b"open sesame"),
    });
    done(&realm, 1, claim).await;
    let remove = Command::RemoveRealm(command::RemoveRealm {
        operation: op(6),
        session: BOUND,
        realm: "beta".parse().unwrap(),
    });
    done(&realm, 1, remove).await;
    assert!(realm.do_chores(NOW).await);
    assert!(realm.next_outgoing(beta.realm).await.unwrap().is_none());
    assert_eq!(realm.queues.queued(beta.realm).await.unwrap(), 0);
}

/// EXACT-13, PEER-19: a group's end and the messages about it are one commit.
#[tokio::test]
async fn group_end_and_its_messages_are_one_commit() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    done(&realm, 1, add(2, "crew")).await;
    joins(&realm, BETA, "crew", "zoe").await;
    let group_key = records::group(group("crew"));
    // The command is interrupted at each step.
    for step in 1.. {
        let copied = Held::over(store.memory().clone());
        let realm = realm_of(&copied);
        copied
            .hold
            .left
            .store(step, std::sync::atomic::Ordering::SeqCst);
        let command = Request::from(leave(3, "crew")).to_bytes();
        let is_held = tokio::select! {
            biased;
            _ = give(&realm, 1, &command) => false,
            () = copied.hold.held.notified() => true,
        };
        let has_ended = copied.memory().get(&group_key).is_none();
        let is_told = waiting(&copied, "beta").len() == 1;
        assert_eq!(has_ended, is_told, "at step {step}");
        if !is_held {
            assert!(has_ended);
            break;
        }
    }
}

/// PEER-19: a record of a group's end names the group by its epoch.
#[test]
fn group_end_record_names_group_by_epoch() {
    let [one, other] = [1, 2].map(|epoch| {
        records::ending(
            records::Ending::Tell,
            Some("beta".parse().unwrap()),
            group("crew"),
            epoch,
        )
    });
    assert_ne!(one, other);
    assert_eq!(records::Ending::of(&one), Some(records::Ending::Tell));
    let unknown = Key([b"e/".as_slice(), &[9]].concat().as_slice().into());
    assert_eq!(records::Ending::of(&unknown), None);
}
