//! Users of other realms who are removed from a group here, and join it again.

use super::{
    acts::{BOUND, group, user},
    ended::{BETA, add, done, joins, with_users},
    held::{Held, add_peer, give},
    *,
};
use crate::store::Prefix;

/// PEER-15, EXACT-13: who was removed joins again once their realm has heard of it, and is then in the group on both sides.
#[tokio::test(start_paused = true)]
async fn expelled_user_joins_again_behind_the_word_of_it() {
    let store = Held::default();
    let mut realm = with_users(&store, &["ann"]).await;
    let (network, mut errands) = Network::new();
    realm.network = network;
    done(&realm, 1, add(2, "crew")).await;
    joins(&realm, BETA, "crew", "zoe").await;
    let kick = |number| Command::Kick {
        operation: op(number),
        session: BOUND,
        group: group("crew"),
        user: "zoe@beta".parse().unwrap(),
    };
    done(&realm, 1, kick(3)).await;
    let join = PeerRequest::Join {
        group: group("crew"),
        user: user("zoe"),
        password: Password(b""),
    };
    let answer = give(&realm, BETA, &join.to_bytes()).await;
    assert!(
        matches!(answer, Answer::Refused(refusal) if refusal.code == ErrorCode::Busy),
        "{answer:?}"
    );
    // Others are not kept waiting.
    joins(&realm, BETA, "crew", "yan").await;
    let beta = realm.peers().await.0.remove(0);
    let next = realm.next_outgoing(beta.realm).await.unwrap().unwrap();
    let heard = async {
        match errands.recv().await {
            Some(Errand::Ask { answer, .. }) => answer.send(STORED.to_bytes()).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let (carried, ()) = tokio::join!(realm.deliver_outgoing(&beta, &next, 0, MOMENT), heard);
    assert_eq!(carried, Carried::Settled);
    joins(&realm, BETA, "crew", "zoe").await;
    // A peer that was removed with the word of it, and is there again, is not kept waiting for good.
    done(&realm, 1, kick(4)).await;
    let claim = Command::Claim {
        operation: op(5),
        session: BOUND,
        code: Password(b"open sesame"),
    };
    done(&realm, 1, claim).await;
    let remove = Command::RemoveRealm {
        operation: op(6),
        session: BOUND,
        realm: "beta".parse().unwrap(),
    };
    done(&realm, 1, remove).await;
    add_peer(&realm, BETA, "beta").await;
    joins(&realm, BETA, "crew", "zoe").await;
    let left = store.memory().list(&Prefix(b"f/"[..].into()), None, 9);
    assert_eq!(left, []);
}
