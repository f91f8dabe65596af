//! What the home realm of a group may attribute to users of this realm.

use super::{
    acts::{BOUND, group, join_realm},
    group_teardown::{answer_next, done, with_users},
    held::{Held, give, realm_of},
    *,
};
use crate::{
    realm::records::EntryRecord,
    store::{Key, PageLimit, Prefix},
    wire::{CONTENT_GONE, CONTENT_NOTICE, CONTENT_TEXT, Entry, command},
};

type PeerCalls = tokio::sync::mpsc::Receiver<PeerCall>;

/// Returns a realm with a user in a group of beta. Beta knows this realm under the name "ours".
async fn with_crew(store: &Held) -> (Realm<Held>, PeerCalls) {
    let realm = with_users(store, &["ann"]).await;
    let mut peer_calls = realm.network.reconnect();
    let joined = Answer::Joined {
        group_epoch: 7,
        membership: 1,
        known_as: "ours".parse().unwrap(),
    };
    let join = Request::from(join_realm(op(2), "crew")).to_bytes();
    let (answer, ()) = tokio::join!(give(&realm, 1, &join), answer_next(&mut peer_calls, joined));
    assert_eq!(answer, Answer::Done);
    (realm, peer_calls)
}

/// Posts to the group as ann.
async fn post(realm: &Realm<Held>, number: u64, text: &str) {
    let post = Command::SendGroupRealm(command::SendGroupRealm {
        operation: op(number),
        session: BOUND,
        src_address: Text(""),
        src_port: crate::wire::Port(0),
        realm: "beta".parse().unwrap(),
        group: group("crew"),
        message: Body(text.as_bytes()),
    });
    let answer = give(realm, 1, &Request::from(post).to_bytes()).await;
    assert_eq!(answer, Answer::Sent(Sent::Queued));
}

/// Returns the page of the group that beta answers with, behind the position `after`.
fn said(after: u64, entries: &[(&str, u8, &str)]) -> Answer {
    let entries = entries.iter().zip(after + 1..);
    let entries = entries.map(|((from, content, body), position)| Entry {
        position: Position(position),
        time: 0,
        content: *content,
        fragment: None,
        from: from.parse().unwrap(),
        read: false,
        body: body.as_bytes().to_vec(),
    });
    Answer::Page(Page {
        more: false,
        entries: entries.collect(),
    })
}

async fn read(realm: &Realm<Held>, peer_calls: &mut PeerCalls, answer: Answer) {
    let peers = realm.peers.peers().await.0;
    let beta = peers.iter().find(|peer| peer.realm.as_str() == "beta");
    let (outcome, ()) = tokio::join!(
        realm.read_copy(beta.unwrap(), group("crew"), MOMENT),
        answer_next(peer_calls, answer)
    );
    assert_eq!(outcome, ReadOutcome::Equal);
}

/// Returns the senders, content types and texts of the replica's entries.
fn copied(store: &Held) -> Vec<(String, u8, String)> {
    let beta = "beta".parse().unwrap();
    let key = records::replica(beta, group("crew"));
    let copy = store.memory().get(&key).unwrap();
    let copy = records::ReplicaRecord::from_value(&copy.value).unwrap();
    let all = PageLimit {
        entries: usize::MAX,
        bytes: usize::MAX,
    };
    let log = records::MailboxLog::replica(beta, group("crew"), &copy).log;
    let page = store.memory().read(&log, Position(0), all);
    let entries = page.entries.iter().map(|(_, value)| {
        let entry = EntryRecord::from_value(value).unwrap();
        let realm = entry.realm.map(|realm| format!("@{realm}"));
        let from = entry.user + &realm.unwrap_or_default();
        (from, entry.content, String::from_utf8(entry.body).unwrap())
    });
    entries.collect()
}

fn noted(store: &Held) -> Vec<Key> {
    let all = store.memory().list(&Prefix(b"P/"[..].into()), None, 99);
    all.into_iter().map(|(key, _)| key).collect()
}

fn shown(from: &str, content: u8, body: &str) -> (String, u8, String) {
    (from.into(), content, body.into())
}

/// Returns a notice in the name of the group.
fn unconfirmed(who: &str, text: &str) -> (String, u8, String) {
    let said = format!("beta says that {who} wrote this, which alpha cannot confirm: {text}");
    shown("crew@beta", CONTENT_NOTICE, &said)
}

/// PEER-26: each post of a user here vouches for one entry, also across a restart.
#[tokio::test(start_paused = true)]
async fn replica_confirms_each_post_of_local_user_once() {
    let store = Held::default();
    let (realm, mut peer_calls) = with_crew(&store).await;
    for (number, text) in [(3, "hi"), (4, "hi"), (5, "yo")] {
        post(&realm, number, text).await;
    }
    let page = [
        ("ann@ours", CONTENT_TEXT, "hi"),
        ("ann@ours", CONTENT_TEXT, "hi"),
        // Once more than ann has posted it.
        ("ann@ours", CONTENT_TEXT, "hi"),
        ("bob@ours", CONTENT_TEXT, "hi"),
        // Beta knows another realm under this realm's name.
        ("ann@alpha", CONTENT_TEXT, "yo"),
        ("ann@ours", 64, "yo"),
        ("ann@ours", CONTENT_NOTICE, "yo"),
        ("ann@ours", CONTENT_GONE, "\u{3}"),
        ("zoe", CONTENT_TEXT, "hi"),
        ("ann@gamma", CONTENT_TEXT, "hi"),
    ];
    read(&realm, &mut peer_calls, said(0, &page)).await;
    let mut wanted = vec![
        shown("ann", CONTENT_TEXT, "hi"),
        shown("ann", CONTENT_TEXT, "hi"),
        unconfirmed("ann@ours", "hi"),
        unconfirmed("bob@ours", "hi"),
        unconfirmed("ann@alpha", "yo"),
        shown("crew@beta", 64, "yo"),
        shown("crew@beta", 127, "yo"),
        shown("crew@beta", CONTENT_GONE, "\u{3}"),
        shown("zoe@beta", CONTENT_TEXT, "hi"),
        shown("ann@gamma", CONTENT_TEXT, "hi"),
    ];
    assert_eq!(copied(&store), wanted);
    drop(realm);
    let realm = realm_of(&store);
    let mut peer_calls = realm.network.reconnect();
    for (after, shown) in [
        (10, shown("ann", CONTENT_TEXT, "yo")),
        (11, unconfirmed("ann@ours", "yo")),
    ] {
        let page = [("ann@ours", CONTENT_TEXT, "yo")];
        read(&realm, &mut peer_calls, said(after, &page)).await;
        wanted.push(shown);
        assert_eq!(copied(&store), wanted);
    }
    assert_eq!(noted(&store), []);
}

async fn pass(realm: &Realm<Held>, now: Moment) {
    let mut next = Some(Pass::BEGIN);
    while let Some(step) = next {
        next = realm.tidy(step, &|| now).await;
    }
}

/// PEER-26: the record of a post that is never read back is deleted at last. So are all records of
/// a removed realm.
#[tokio::test(start_paused = true)]
async fn replica_post_record_never_read_back_is_deleted() {
    let store = Held::default();
    let (realm, _peer_calls) = with_crew(&store).await;
    post(&realm, 3, "one").await;
    // A record of a release that noted ended memberships.
    let left = || Key(b"f/beta/crew/zoe"[..].into());
    let mut batch = Batch::new();
    batch.put(left(), vec![1]);
    store.memory().apply(batch).unwrap();
    pass(&realm, later(MOMENT, 29 * DAY)).await;
    assert_eq!(noted(&store).len(), 1);
    assert!(store.memory().get(&left()).is_none());
    pass(&realm, later(MOMENT, 30 * DAY)).await;
    assert_eq!(noted(&store), []);
    let store = Held::default();
    let (realm, _peer_calls) = with_crew(&store).await;
    post(&realm, 4, "two").await;
    assert_eq!(noted(&store).len(), 1);
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
    assert!(realm.departures.do_departures(NOW).await);
    assert_eq!(noted(&store), []);
}
