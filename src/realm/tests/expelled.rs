//! Users of one realm in groups of another: they are removed, leave, and join again. A message
//! about a membership that is over has no effect on the next one.

use super::{
    acts::{BOUND, group, join_realm, user},
    group_teardown::{BETA, add, answer_next, done, waiting, with_users},
    held::{Held, give},
    *,
};
use crate::wire::command;

fn join() -> PeerRequest<'static> {
    PeerRequest::Join(peer::Join {
        group: group("crew"),
        user: user("zoe"),
        password: Password(b""),
    })
}

/// PEER-15, PEER-8: a removed user may join again at once, and gets a second membership.
#[tokio::test]
async fn membership_of_expelled_user_can_begin_again_at_once() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    done(&realm, 1, add(2, "crew")).await;
    let joins = async || match give(&realm, BETA, &join().to_bytes()).await {
        Answer::Joined { membership, .. } => membership,
        other => panic!("{other:?}"),
    };
    let first = joins().await;
    assert_eq!(joins().await, first, "asked twice");
    let kick = Command::Kick(command::Kick {
        operation: op(3),
        session: BOUND,
        group: group("crew"),
        user: "zoe@beta".parse().unwrap(),
    });
    done(&realm, 1, kick).await;
    let second = joins().await;
    assert_ne!(first, second);
    let said: Vec<_> = waiting(&store, "beta")
        .into_iter()
        .map(|report| report.body)
        .collect();
    assert_eq!(said, [first.to_be_bytes()]);
    // The request to end the first membership arrives late.
    for (membership, answer) in [
        (first, refused(ErrorCode::NotAMember)),
        (second, Answer::Done),
        (second, refused(ErrorCode::NotAMember)),
    ] {
        let leave = PeerRequest::Leave(peer::Leave {
            group: group("crew"),
            user: user("zoe"),
            membership,
        });
        assert_eq!(give(&realm, BETA, &leave.to_bytes()).await, answer);
    }
}

/// PEER-15: a message about a former membership does not end a later one. Before, `joingrouprealm`
/// was answered with *done*, and then a delayed message about an earlier membership ended the new
/// one. The other realm kept the user among its members for good.
#[tokio::test]
async fn membership_is_not_ended_by_message_about_former_one() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    let mut peer_calls = realm.network.reconnect();
    for (number, membership) in [(2, 11), (3, 12)] {
        let command = Request::from(join_realm(op(number), "crew")).to_bytes();
        let joined = Answer::Joined {
            group_epoch: 7,
            membership,
            known_as: "alpha".parse().unwrap(),
        };
        let (answer, ()) = tokio::join!(
            give(&realm, 1, &command),
            answer_next(&mut peer_calls, joined)
        );
        assert_eq!(answer, Answer::Done);
    }
    let is_member = || {
        let key = records::replica_member("beta".parse().unwrap(), group("crew"), user("ann"));
        store.memory().get(&key).is_some()
    };
    for (sequence, membership, stays) in
        // A message without a membership number comes from a release before such numbers. So it is
        // about an earlier membership.
        [(1, 11, true), (2, 13, true), (3, 0, true), (4, 12, false)]
    {
        let expelled = PeerRequest::Expelled(peer::Expelled {
            epoch: 1,
            sequence: OperationNumber(sequence),
            group: group("crew"),
            user: user("ann"),
            membership,
        });
        assert_eq!(give(&realm, BETA, &expelled.to_bytes()).await, STORED);
        assert_eq!(is_member(), stays, "{membership}");
    }
}

/// PEER-15: any *expelled* ends a membership without a number. Otherwise the realms would disagree
/// for good.
#[tokio::test]
async fn membership_without_number_is_ended_by_any_expelled() {
    for membership in [0, 11] {
        let store = Held::default();
        let realm = with_users(&store, &["ann"]).await;
        let member = records::ReplicaMemberRecord {
            joined: 1,
            epoch: Some(7),
            membership: 0,
        };
        let key = records::replica_member("beta".parse().unwrap(), group("crew"), user("ann"));
        let mut batch = Batch::new();
        batch.put(key.clone(), member.to_value().unwrap());
        store.memory().apply(batch).unwrap();
        let expelled = PeerRequest::Expelled(peer::Expelled {
            epoch: 1,
            sequence: OperationNumber(1),
            group: group("crew"),
            user: user("ann"),
            membership,
        });
        assert_eq!(give(&realm, BETA, &expelled.to_bytes()).await, STORED);
        assert!(store.memory().get(&key).is_none(), "{membership}");
    }
}
