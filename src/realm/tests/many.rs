//! Groups with more members than are read at once.

use super::{
    held::{Held, add_peer, give, realm_of},
    *,
};
use crate::{
    store::{Key, Prefix},
    wire::{GroupName, Role, command},
};

/// More than twice the number of members that are read at once.
const MANY: usize = 2100;
const BETA: u8 = 50;
const SESSION: SessionRef = SessionRef::Bound;

fn crowd() -> GroupName {
    "crowd".parse().unwrap()
}

async fn done(realm: &Realm<Held>, n: u8, command: Command<'_>) {
    let answer = give(realm, n, &Request::from(command.clone()).to_bytes()).await;
    assert_eq!(answer, Answer::Done, "{command:?}");
}

fn foreign(number: usize) -> Username {
    // These names sort before all local ones.
    format!("a{number:05}").parse().unwrap()
}

/// Returns a realm with a group that ann owns and mo moderates. zed has been a member for longer
/// than mo. Many users of beta are members.
async fn crowded() -> (Held, Realm<Held>) {
    let store = Held::default();
    let realm = realm_of(&store);
    for (n, who) in [(1, "ann"), (2, "zed"), (3, "mo")] {
        let answer = give(&realm, n, &Request::from(register(1, who)).to_bytes()).await;
        assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    }
    add_peer(&realm, BETA, "beta").await;
    let (group, password) = (crowd(), Password(b""));
    done(
        &realm,
        1,
        Command::AddGroup(command::AddGroup {
            operation: op(2),
            session: SESSION,
            group,
            password,
        }),
    )
    .await;
    for n in [2, 3] {
        done(
            &realm,
            n,
            Command::JoinGroup(command::JoinGroup {
                operation: op(2),
                session: SESSION,
                group,
                password,
            }),
        )
        .await;
    }
    for number in 0..MANY {
        let join = PeerRequest::Join(peer::Join {
            group,
            user: foreign(number),
            password,
        });
        let answer = give(&realm, BETA, &join.to_bytes()).await;
        assert!(matches!(answer, Answer::Joined { .. }), "{answer:?}");
    }
    done(
        &realm,
        1,
        Command::SetRole(command::SetRole {
            operation: op(3),
            session: SESSION,
            group,
            user: "mo".parse().unwrap(),
            role: Role::Moderator,
        }),
    )
    .await;
    (store, realm)
}

fn leave(number: u64) -> Command<'static> {
    Command::LeaveGroup(command::LeaveGroup {
        operation: op(number),
        session: SESSION,
        group: crowd(),
    })
}

/// True if `n` owns the group: only the owner can set its password.
async fn owns(realm: &Realm<Held>, n: u8) -> bool {
    let command = Command::GroupPasswd(command::GroupPasswd {
        operation: op(100),
        session: SESSION,
        group: crowd(),
        password: Password(b""),
    });
    give(realm, n, &Request::from(command).to_bytes()).await == Answer::Done
}

/// GRP-7: the moderator becomes the owner, however many members the group has.
#[tokio::test]
async fn group_owner_of_large_group_is_succeeded_by_moderator() {
    let (_, realm) = crowded().await;
    done(&realm, 1, leave(4)).await;
    assert!(owns(&realm, 3).await);
    done(&realm, 3, leave(4)).await;
    assert!(owns(&realm, 2).await);
}

/// GRP-7: this also holds for a group from before members were indexed by seniority.
#[tokio::test]
async fn group_owner_of_unindexed_group_is_succeeded_by_moderator() {
    let (store, realm) = crowded().await;
    let of_kind = |kind: &[u8]| {
        let prefix = Prefix(kind.into());
        store.memory().list(&prefix, None, usize::MAX)
    };
    let mut batch = Batch::new();
    for (key, _) in [of_kind(b"w/"), of_kind(b"n/"), of_kind(b"i/")].concat() {
        batch.delete(key);
    }
    store.memory().apply(batch).unwrap();
    done(&realm, 1, leave(4)).await;
    assert!(owns(&realm, 3).await);
    done(&realm, 3, leave(4)).await;
    assert!(owns(&realm, 2).await);
}

/// PEER-10: a realm is told of a group until its last user has left, also if its users were not
/// counted at first.
#[tokio::test]
async fn group_messages_are_told_to_realm_until_its_last_user_leaves() {
    for is_counted in [true, false] {
        let (store, realm) = crowded().await;
        if !is_counted {
            let prefix = Prefix(b"i/"[..].into());
            let keys = store.memory().list(&prefix, None, usize::MAX);
            let mut batch = Batch::new();
            for (key, _) in keys {
                batch.delete(key);
            }
            store.memory().apply(batch).unwrap();
        }
        for number in 0..MANY {
            assert!(is_told(&store), "after {number}");
            let leave = PeerRequest::Leave(peer::Leave {
                group: crowd(),
                user: foreign(number),
                membership: 0,
            });
            assert_eq!(give(&realm, BETA, &leave.to_bytes()).await, Answer::Done);
        }
        assert!(!is_told(&store));
    }
}

fn is_told(store: &Held) -> bool {
    let key = Key(b"g/crowd"[..].into());
    let group = store.memory().get(&key).unwrap();
    let record = <records::GroupRecord as records::Record>::from_value(&group.value).unwrap();
    record.realms == ["beta"]
}
