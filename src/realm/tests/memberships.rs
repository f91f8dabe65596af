//! The list of a user's groups, and its cost.

use std::sync::atomic::Ordering;

use super::{
    acts::{BOUND, group, user},
    held::{Held, add_peer, give, realm_of},
    *,
};
use crate::{
    store::Prefix,
    wire::{Cursors, Mailbox, command},
};

const BETA: u8 = 50;

/// Returns a realm with two users and a peer.
async fn with_users(store: &Held) -> Realm<Held> {
    let realm = realm_of(store);
    for (n, who) in [(1, "ann"), (2, "bob")] {
        let answer = give(&realm, n, &Request::from(register(1, who)).to_bytes()).await;
        assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    }
    add_peer(&realm, BETA, "beta").await;
    realm
}

/// Adds a user to replicas. `is_listed`: with the index by user that is written now.
fn put_copies(store: &Held, who: &str, first: usize, count: usize, is_listed: bool) {
    let beta = "beta".parse().unwrap();
    let mut batch = Batch::new();
    for number in first..first + count {
        let name = group(&format!("g{number:05}"));
        let copy = records::ReplicaRecord {
            epoch: 7,
            known_as: "alpha".into(),
            position: 1,
            log: 7,
            floor: 0,
            ended: false,
        };
        let member = records::ReplicaMemberRecord {
            joined: 1,
            epoch: Some(7),
            membership: 0,
        };
        batch
            .put(records::replica(beta, name), copy.to_value().unwrap())
            .put(
                records::replica_member(beta, name, user(who)),
                member.to_value().unwrap(),
            )
            .append(records::MailboxLog::replica(beta, name, &copy).log, vec![1]);
        if is_listed {
            batch.put(records::replica_of_user(user(who), beta, name), vec![1]);
        }
    }
    store.memory().apply(batch).unwrap();
}

/// Returns the number of mailboxes with unread entries, and the number of store accesses that it
/// took.
async fn unread(store: &Held, realm: &Realm<Held>, n: u8) -> (usize, usize) {
    const MANY: usize = 1 << 30;
    let command = Command::Unread(command::Unread {
        session: BOUND,
        cursors: Cursors::default(),
    });
    store.hold.left.store(MANY, Ordering::SeqCst);
    let mut caller = caller(device(n), MOMENT);
    caller.answer_limits.total = 1 << 20;
    let command = Request::from(command).to_bytes();
    let bytes = realm.answer(&caller, &command).await;
    let answer = Answer::parse(&bytes).unwrap();
    let looked_up = MANY - store.hold.left.swap(0, Ordering::SeqCst);
    match answer {
        Answer::Unread(counts) => (counts.len(), looked_up),
        other => panic!("{other:?}"),
    }
}

/// WATCH-5: the cost of `unread` depends on the user's own groups, not on those of others.
#[tokio::test]
async fn unread_cost_does_not_grow_when_others_join() {
    let store = Held::default();
    let realm = with_users(&store).await;
    assert!(realm.do_chores(NOW).await);
    put_copies(&store, "ann", 0, 3, true);
    let (counted, few) = unread(&store, &realm, 1).await;
    assert_eq!(counted, 3);
    put_copies(&store, "bob", 1000, 500, true);
    for n in 100..140 {
        add_peer(&realm, n, &format!("realm{n}")).await;
    }
    assert_eq!(unread(&store, &realm, 1).await, (3, few));
    assert_eq!(unread(&store, &realm, 2).await.0, 500);
}

/// WATCH-5: replicas in a store from before the index by user are indexed, a bounded number at a
/// time and across restarts. Until then no replica is left out.
#[tokio::test]
async fn replica_index_of_older_store_is_built_across_restarts() {
    let store = Held::default();
    let mut realm = with_users(&store).await;
    put_copies(&store, "ann", 0, 300, false);
    put_copies(&store, "bob", 300, 300, false);
    let listed = || {
        store
            .memory()
            .list(&Prefix(b"z/"[..].into()), None, 1000)
            .len()
    };
    let mut steps = 0;
    loop {
        let before = listed();
        assert_eq!(
            unread(&store, &realm, 1).await.0,
            300,
            "after {steps} steps"
        );
        if realm.groups.list_replicas().await.unwrap() {
            break;
        }
        assert!(listed() <= before + 257);
        steps += 1;
        drop(realm);
        realm = realm_of(&store);
    }
    assert_eq!(steps, 3);
    assert_eq!(listed(), 601);
    assert_eq!(unread(&store, &realm, 2).await.0, 300);
    // From now on no full scan is needed.
    let (_, costs) = unread(&store, &realm, 1).await;
    put_copies(&store, "bob", 600, 50, true);
    assert_eq!(unread(&store, &realm, 1).await, (300, costs));
}

/// PEER-15: a member who leaves or is expelled while replicas are indexed is not indexed again.
#[tokio::test]
async fn replica_index_being_built_leaves_out_member_who_leaves() {
    for steps in 1.. {
        let store = Held::default();
        let realm = with_users(&store).await;
        put_copies(&store, "ann", 0, 1, false);
        store.hold.left.store(steps, Ordering::SeqCst);
        let mut chores = core::pin::pin!(realm.do_chores(NOW));
        let is_held = tokio::select! {
            biased;
            _ = &mut chores => false,
            () = store.hold.held.notified() => true,
        };
        if !is_held {
            assert!(steps > 3);
            break;
        }
        let expelled = PeerRequest::Expelled(peer::Expelled {
            epoch: 1,
            sequence: OperationNumber(1),
            group: group("g00000"),
            user: user("ann"),
            membership: 0,
        });
        assert_eq!(give(&realm, BETA, &expelled.to_bytes()).await, STORED);
        store.hold.release.notify_one();
        assert!(chores.await);
        let listed = store
            .memory()
            .list(&records::replicas_of_user(user("ann")), None, 9);
        assert_eq!(listed, [], "at step {steps}");
    }
}

/// GRP-8, EXACT-13: a user is in at most 1000 groups, also if two commands run at once.
#[tokio::test]
async fn membership_in_more_than_1000_groups_is_refused() {
    let store = Held::default();
    let realm = with_users(&store).await;
    assert!(realm.do_chores(NOW).await);
    put_copies(&store, "ann", 0, 998, true);
    let add = |number: u64| {
        Command::AddGroup(command::AddGroup {
            operation: op(number),
            session: BOUND,
            group: group(&format!("own{number}")),
            password: Password(b""),
        })
    };
    // A link to a group that no longer exists is not counted.
    let mut batch = Batch::new();
    let trace = records::joined_group(user("ann"), group("gone"));
    batch.put(
        trace.clone(),
        records::GroupLink { epoch: 1 }.to_value().unwrap(),
    );
    store.memory().apply(batch).unwrap();
    let give = async |n, command| give(&realm, n, &Request::from(command).to_bytes()).await;
    assert_eq!(give(1, add(2)).await, Answer::Done);
    // Two commands at once are not both the last one allowed, at whatever step one runs within the
    // other.
    let full = Answer::Refused(Refusal::too_large(1000));
    for step in 1.. {
        let copied = Held::over(store.memory().clone());
        let mut batch = Batch::new();
        batch.delete(trace.clone());
        copied.memory().apply(batch).unwrap();
        let realm = realm_of(&copied);
        copied.hold.left.store(step, Ordering::SeqCst);
        let commands = [3, 4].map(|number| Request::from(add(number)).to_bytes());
        let mut first = core::pin::pin!(super::held::give(&realm, 1, &commands[0]));
        let is_held = tokio::select! {
            biased;
            _ = &mut first => false,
            () = copied.hold.held.notified() => true,
        };
        if !is_held {
            break;
        }
        let second = super::held::give(&realm, 1, &commands[1]).await;
        copied.hold.release.notify_one();
        let answers = [first.await, second];
        let is_one = answers.contains(&Answer::Done) && answers.contains(&full);
        assert!(is_one, "at step {step}: {answers:?}");
    }
    assert_eq!(give(1, add(3)).await, Answer::Done);
    assert_eq!(give(1, add(4)).await, full);
    assert_eq!(give(1, super::acts::join_realm(op(5), "crew")).await, full);
    assert_eq!(give(2, add(20)).await, Answer::Done);
    // All groups are counted, so a watch leaves none out.
    assert_eq!(unread(&store, &realm, 1).await.0, 998);
    let all = realm.groups.mailboxes_of(user("ann")).await.unwrap();
    assert_eq!(all.len(), 1001);
    assert!(all.iter().any(|(mailbox, _)| *mailbox == Mailbox::Private));
    let leave = Command::LeaveGroup(command::LeaveGroup {
        operation: op(6),
        session: BOUND,
        group: group("own2"),
    });
    assert_eq!(give(1, leave).await, Answer::Done);
    assert_eq!(give(1, add(7)).await, Answer::Done);
}

/// PEER-11: a realm that starts continues to read all its replicas of a peer's groups, however
/// many.
#[tokio::test]
async fn replica_reads_continue_for_all_groups_after_start() {
    let store = Held::default();
    let realm = with_users(&store).await;
    put_copies(&store, "ann", 0, 1500, true);
    let beta = "beta".parse().unwrap();
    realm.groups.read_all_replicas(beta).await.unwrap();
    assert_eq!(realm.group_work(beta).await.len(), 1500);
}

/// GRP-5: a damaged link fails only the page of the list of groups that it is on. Fixed fault: it
/// failed all pages before it, too.
#[tokio::test]
async fn groups_page_before_damaged_link_is_listed() {
    let store = Held::default();
    let realm = with_users(&store).await;
    for (number, name) in (2..).zip(["g0", "g1", "g2", "g3"]) {
        let command = Command::AddGroup(command::AddGroup {
            operation: op(number),
            session: BOUND,
            group: group(name),
            password: Password(b""),
        });
        let answer = give(&realm, 1, &Request::from(command).to_bytes()).await;
        assert_eq!(answer, Answer::Done);
    }
    let mut batch = Batch::new();
    batch.put(
        records::joined_group(user("ann"), group("g3")),
        Vec::<u8>::new(),
    );
    store.memory().apply(batch).unwrap();
    let page = async |limit| {
        let options = Options {
            limit: Some(limit),
            ..Options::NONE
        };
        let command = Command::Groups(command::Groups { session: BOUND });
        give(&realm, 1, &Request { options, command }.to_bytes()).await
    };
    let names = ["g0", "g1"].map(String::from).to_vec();
    assert_eq!(page(2).await, Answer::Names { more: true, names });
    assert_eq!(page(4).await, refused(ErrorCode::Internal));
}
