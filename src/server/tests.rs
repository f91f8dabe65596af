//! Tests of the clock and of delivery to peers, over a store that fails.

mod carriers;
mod seats;
mod watchers;

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    clock::Clock,
    outbound::{OutboundRequest, RequestResult},
    peer_link_table::PeerLinkTable,
    peering::keep_in_touch,
    routes::{Route, Routes},
    *,
};
use crate::{
    crypto::SecretKey,
    realm::{AnswerLimits, Caller, Limits, Moment, Origin, Peering, Rates, Registration, Secrecy},
    store::{Asked, Batch, Faulty, Key, Prefix, Store, Version},
    subnet::Subnet,
    wire::{
        Answer, Body, Command, ErrorCode, Operation, Password, PeerRequest, Port, Request, Sent,
        SessionRef, Text, command, peer,
    },
};

/// The running time of a realm that is not new, in seconds.
const LONG: u32 = 10_000_000;
const MOMENT: Moment = Moment {
    wall: 1_800_000_000,
    running: LONG,
    micros: 1_000_000,
};
/// A user's device, and a peer.
const DEVICE: PublicKey = PublicKey([1; 32]);
const BETA: PublicKey = PublicKey([50; 32]);

/// Selects the store operations that fail.
type Fails = fn(Asked<'_>) -> bool;

/// Creates a realm over a store. Returns it with its outbound peer requests.
fn realm_over(store: &Faulty) -> (Arc<Realm<Faulty>>, mpsc::Receiver<PeerCall>) {
    let identity = SecretKey::from_bytes([9; 32]);
    let own = RealmIdentity {
        id: "alpha".parse().unwrap(),
        secret: identity.clone(),
        former: Vec::new(),
        peering: Peering::Listed,
        registration: Registration::Open,
        addresses: vec![("192.0.2.1".into(), 6377)],
        operator_code: "open sesame".into(),
    };
    let limits = Limits {
        password_threads: 0,
        rates: Rates::UNLIMITED,
        ..Limits::default()
    };
    let (network, peer_calls) = Network::new();
    let realm = Realm::new(store.clone(), &identity, own, limits, network, [1; 32]).unwrap();
    (Arc::new(realm), peer_calls)
}

async fn ask(realm: &Realm<Faulty>, device: PublicKey, bytes: &[u8]) -> Answer {
    let caller = Caller {
        origin: Origin::Sealed {
            device,
            own: realm.own().key(),
        },
        subnet: Subnet::from(std::net::IpAddr::from([192, 0, 2, 7])),
        secrecy: Secrecy::Forward,
        answer_limits: AnswerLimits {
            inline: 1100,
            total: 1100,
        },
        trusts_cursors: true,
        asks_account: false,
        now: MOMENT,
    };
    Answer::parse(&realm.answer(&caller, bytes).await).unwrap()
}

async fn register(realm: &Realm<Faulty>) {
    let command = Command::Register(command::Register {
        operation: Operation::new(1, *b"qz"),
        full_name: Text("Some One"),
        country: Text("id"),
        username: "ann".parse().unwrap(),
        password: Password(b"correct horse"),
    });
    let answer = ask(realm, DEVICE, &Request::from(command).to_bytes()).await;
    assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
}

fn is_running_time(asked: Asked<'_>) -> bool {
    match asked {
        Asked::Get(Key(name)) => matches!(name.as_slice(), b"t/" | b"T/"),
        _ => false,
    }
}

async fn start(realm: &Realm<Faulty>, accepts_damage: bool) -> Result<Clock, StoreError> {
    Clock::start(Host::Real, realm, accepts_damage).await
}

/// Returns the version of the stored running time.
async fn version(store: &impl Store) -> Option<Version> {
    let found = store.get(&Key(b"t/"[..].into())).await.unwrap();
    found.map(|found| found.version)
}

/// SES-7: an unreadable running time is not taken for 0. It is read again, and then the realm does
/// not start. Fixed fault: the realm took it for 0, and overwrote it some minutes later.
#[tokio::test(start_paused = true)]
async fn running_time_unreadable_is_not_taken_for_zero() {
    let store = Faulty::default();
    let (realm, _peer_calls) = realm_over(&store);
    realm.running.note(LONG).await;
    let written = version(&store).await;
    let mut left = 2;
    store.fail_when(move |asked| {
        let fails = is_running_time(asked) && left > 0;
        left -= u32::from(fails);
        fails
    });
    assert_eq!(start(&realm, false).await.unwrap().now().running, LONG);
    store.fail_when(is_running_time);
    let failure = start(&realm, false).await.unwrap_err();
    assert!(matches!(time_unknown(failure), ServerError::Time(_)));
    store.mend();
    assert_eq!(version(&store).await, written);
    assert_eq!(start(&realm, false).await.unwrap().now().running, LONG);
}

/// SES-7: if an operator accepts that the running time is damaged, the realm goes on from the last
/// use of a session, and not from 0.
#[tokio::test(start_paused = true)]
async fn running_time_damaged_and_accepted_continues_from_last_session() {
    let store = Faulty::default();
    let (realm, _peer_calls) = realm_over(&store);
    register(&realm).await;
    realm.running.note(LONG + 100).await;
    store.fail_when(is_running_time);
    let clock = start(&realm, true).await.unwrap();
    assert_eq!(clock.now().running, LONG);
    store.fail_when(|asked| {
        is_running_time(asked)
            || matches!(asked, Asked::List(Prefix(name)) if name.starts_with(b"s/"))
    });
    start(&realm, true).await.unwrap_err();
    // The value that is written next is readable.
    store.mend();
    clock.stop(&realm).await;
    let written = start(&realm, false).await.unwrap().now().running;
    assert!((LONG..LONG + 100).contains(&written), "{written}");
}

/// SES-7: damage to the running time also hits its neighbours in the store, the sessions. It is met
/// when the sessions are listed. It hides no readable session, and a malformed session is one of
/// many.
#[tokio::test(start_paused = true)]
async fn running_time_damaged_beside_sessions_hides_no_readable_session() {
    let stands = |name: &[u8]| Key([b"s/", name].concat().into());
    let device = Key([b"d/", &DEVICE.0[..]].concat().into());
    let store = Faulty::default();
    let (realm, _peer_calls) = realm_over(&store);
    register(&realm).await;
    realm.running.note(LONG + 100).await;
    let known = store
        .list(&Prefix(b"s/"[..].into()), None, 2)
        .await
        .unwrap();
    let [(of_device, session)] = &*known else {
        panic!("{known:?}")
    };
    assert!(store.get(&device).await.unwrap().is_some());
    let mut batch = Batch::new();
    batch.delete(of_device.clone());
    batch.put(stands(&[7; 16]), b"no session".to_vec());
    batch.put(stands(&[9; 16]), session.value.to_vec());
    for part in [8, 200, 255] {
        batch.put(stands(&[part; 16]), b"no session".to_vec());
    }
    store.commit(batch).await.unwrap();
    // The block with the running time and the keys before it is unreadable.
    store.fail_when(|asked| {
        is_running_time(asked)
            || matches!(asked, Asked::Past(Key(name)) if name.as_slice() > [&b"s/"[..], &[199]].concat().as_slice())
    });
    start(&realm, false).await.unwrap_err();
    assert_eq!(start(&realm, true).await.unwrap().now().running, LONG);
    // The operator accepted that once. The result is stored.
    store.mend();
    assert_eq!(start(&realm, false).await.unwrap().now().running, LONG);
    // A block among the sessions is unreadable.
    store.fail_when(|asked| {
        is_running_time(asked)
            || matches!(asked, Asked::Past(Key(name)) if name.starts_with(b"s/\x07") || name.starts_with(b"s/\x08"))
    });
    assert_eq!(start(&realm, true).await.unwrap().now().running, LONG);
    // Nothing is readable.
    store.fail_when(|asked| is_running_time(asked) || matches!(asked, Asked::Past(_)));
    start(&realm, true).await.unwrap_err();
}

/// SES-7: the running time is stored twice, so it survives damage to one of the two.
#[tokio::test(start_paused = true)]
async fn running_time_damaged_in_one_place_is_read_from_other() {
    let fails: [Fails; 2] = [
        |asked| matches!(asked, Asked::Get(Key(name)) if name.as_slice() == b"t/"),
        |asked| matches!(asked, Asked::Get(Key(name)) if name.as_slice() == b"T/"),
    ];
    for fails in fails {
        let store = Faulty::default();
        let (realm, _peer_calls) = realm_over(&store);
        realm.running.note(LONG).await;
        store.fail_when(fails);
        assert_eq!(start(&realm, false).await.unwrap().now().running, LONG);
    }
    // An earlier release has stored it once.
    let store = Faulty::default();
    let (realm, _peer_calls) = realm_over(&store);
    realm.running.note(LONG).await;
    let mut batch = Batch::new();
    batch.delete(Key(b"T/"[..].into()));
    store.commit(batch).await.unwrap();
    assert_eq!(start(&realm, false).await.unwrap().now().running, LONG);
    store.fail_when(fails[0]);
    start(&realm, false).await.unwrap_err();
}

/// SES-7: a running time of less than ten minutes counts if the realm stops in order.
#[tokio::test(start_paused = true)]
async fn running_time_is_written_at_orderly_stop() {
    let store = Faulty::default();
    for run in 1..=3 {
        let (realm, _peer_calls) = realm_over(&store);
        let clock = start(&realm, false).await.unwrap();
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(clock.now().running, run * 200);
        clock.stop(&realm).await;
    }
    // A disk that takes no writes does not delay a stop.
    let (realm, _peer_calls) = realm_over(&store);
    store.fail_when(|asked| matches!(asked, Asked::Commit(_)));
    start(&realm, false).await.unwrap().stop(&realm).await;
    store.mend();
    assert_eq!(start(&realm, false).await.unwrap().now().running, 600);
}

/// SES-7: if a realm is killed, it loses less than half of its running time since the start, and
/// ten minutes at most.
#[tokio::test(start_paused = true)]
async fn running_time_of_killed_realm_loses_less_than_half() {
    for ran in [100, 200, 359, 449, 500, 809, 1000, 5000] {
        let store = Faulty::default();
        let (realm, _peer_calls) = realm_over(&store);
        let clock = start(&realm, false).await.unwrap();
        let killed = tokio::time::sleep(Duration::from_secs(ran.into()));
        tokio::select! {
            () = clock.tick(&realm) => {}
            () = killed => {}
        }
        let lost = ran - start(&realm, false).await.unwrap().now().running;
        assert!(lost <= 600 && lost < ran / 2, "{lost} of {ran}");
    }
}

/// SES-7: a clock goes on from the clock before it in the same process, whatever the store has
/// taken of that one.
#[tokio::test(start_paused = true)]
async fn running_time_with_failing_disk_does_not_go_back_in_process() {
    let store = Faulty::default();
    let (realm, _peer_calls) = realm_over(&store);
    realm.running.note(LONG).await;
    store.fail_when(|asked| matches!(asked, Asked::Commit(_)));
    let clock = start(&realm, false).await.unwrap();
    tokio::time::advance(Duration::from_hours(1)).await;
    clock.stop(&realm).await;
    let ran = clock.now().running;
    assert_eq!(ran, LONG + 3600);
    let next = start(&realm, false).await.unwrap();
    assert_eq!(next.now().running, LONG);
    assert_eq!(next.clone().not_before(ran).now().running, ran);
    // A clock that knows less does not reset the stored running time.
    assert_eq!(next.not_before(7).now().running, LONG);
}

/// SES-7: a server writes the running time when it is told to stop.
#[tokio::test]
async fn running_time_is_written_when_server_is_told_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::parse("[[listen]]\naddress = \"127.0.0.1:0\"").unwrap();
    config.store.path = directory.path().join("data");
    let mut versions = Vec::new();
    for _ in 0..2 {
        let server = Server::start(&config).unwrap();
        server.run(std::future::ready(())).await.unwrap();
        let store = Embedded::open(&config.store.path).unwrap();
        versions.push(version(&store).await.unwrap());
    }
    assert!(versions[0] < versions[1], "{versions:?}");
}

/// The requests to a peer.
struct Requests {
    sent: mpsc::Receiver<OutboundRequest>,
}

impl Requests {
    /// Accepts every introduction, then takes the next message and returns its text.
    async fn next_message(&mut self) -> String {
        loop {
            let Some(OutboundRequest::Ask { bytes, answer, .. }) = self.sent.recv().await else {
                panic!("nobody asks who is there")
            };
            match PeerRequest::parse(&bytes).unwrap() {
                PeerRequest::Introduce(_) => {
                    answer
                        .send(RequestResult::Answered(Answer::Done.to_bytes()))
                        .unwrap();
                }
                PeerRequest::Deliver(peer::Deliver { message, .. }) => {
                    let text = String::from_utf8(message.0.to_vec()).unwrap();
                    let told = RequestResult::Answered(Answer::Sent(Sent::Stored).to_bytes());
                    answer.send(told).unwrap();
                    return text;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Keeps a realm in touch with its peers while `asked` runs.
async fn in_touch<T>(
    realm: &Arc<Realm<Faulty>>,
    peer_calls: mpsc::Receiver<PeerCall>,
    asked: impl AsyncFnOnce(Requests) -> T,
) -> T {
    let (worker, sent) = mpsc::channel(16);
    let route = Route {
        source: ("192.0.2.1", 6377).into(),
        is_ipv6: false,
        is_local: false,
        workers: vec![worker],
    };
    let mut rng = StdRng::seed_from_u64(1);
    let routes = Routes::new(
        vec![route],
        Arc::new(PeerLinkTable::new(SecretKey::from_bytes([9; 32]).public())),
        &mut rng,
    );
    let (known, _realms) = watch::channel(Vec::new());
    let clock = start(realm, false).await.unwrap();
    let asked = tokio::time::timeout(Duration::from_hours(1), asked(Requests { sent }));
    tokio::select! {
        () = keep_in_touch(Arc::clone(realm), routes, peer_calls, known, clock, 1) => panic!("it ends"),
        answer = asked => answer.expect("nothing is asked for an hour"),
    }
}

async fn list_beta(realm: &Realm<Faulty>) {
    let address = ("192.0.2.9".to_string(), 6377);
    let listed = realm
        .peers
        .list_peer("beta".parse().unwrap(), BETA, address, None);
    assert!(listed.await.unwrap());
}

fn message(number: u64, text: &str) -> Command<'_> {
    Command::SendRealm(command::SendRealm {
        operation: Operation::new(number, *b"qz"),
        session: SessionRef::Bound,
        src_address: Text(""),
        src_port: Port(0),
        realm: "beta".parse().unwrap(),
        from: "ann".parse().unwrap(),
        to: "bob".parse().unwrap(),
        message: Body(text.as_bytes()),
    })
}

async fn sendrealm(realm: &Realm<Faulty>, number: u64, text: &str) {
    let command = Request::from(message(number, text));
    let answer = ask(realm, DEVICE, &command.to_bytes()).await;
    assert!(matches!(answer, Answer::Sent(_)), "{answer:?}");
}

/// PEER-5: a failed read does not stop a queue: it is repeated. Fixed fault: until the next start,
/// delivery ended or took the queue for empty.
#[tokio::test(start_paused = true)]
async fn queue_delivery_continues_after_failed_read() {
    let reads: [(&str, u32, Fails); 4] = [
        (
            "peers",
            300,
            |asked| matches!(asked, Asked::List(Prefix(name)) if name.as_slice() == b"r/"),
        ),
        (
            "the peer",
            3,
            |asked| matches!(asked, Asked::Get(Key(name)) if name.as_slice() == b"r/beta"),
        ),
        (
            "how far the queue is settled",
            3,
            |asked| matches!(asked, Asked::Get(Key(name)) if name.as_slice() == b"v/beta"),
        ),
        (
            "the queue",
            3,
            |asked| matches!(asked, Asked::Read(log) if log.0.as_slice() == b"q/beta"),
        ),
    ];
    for (what, mut left, fails) in reads {
        let store = Faulty::default();
        let (realm, peer_calls) = realm_over(&store);
        register(&realm).await;
        list_beta(&realm).await;
        sendrealm(&realm, 2, "first").await;
        store.fail_when(move |asked| {
            let fails = fails(asked) && left > 0;
            left -= u32::from(fails);
            fails
        });
        in_touch(&realm, peer_calls, async |mut beta| {
            assert_eq!(beta.next_message().await, "first", "{what}");
        })
        .await;
    }
}

/// PEER-11: replicas that cannot be listed at a start are listed later. Messages do not wait for
/// that.
#[tokio::test(start_paused = true)]
async fn replica_list_unreadable_does_not_delay_messages() {
    let store = Faulty::default();
    let (realm, peer_calls) = realm_over(&store);
    register(&realm).await;
    list_beta(&realm).await;
    let tries = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    store.fail_when(move |asked| {
        let fails = matches!(asked, Asked::List(Prefix(name)) if name.as_slice() == b"x/beta/");
        counted.fetch_add(u32::from(fails), std::sync::atomic::Ordering::Relaxed);
        fails
    });
    let sender = Arc::clone(&realm);
    in_touch(&realm, peer_calls, async |mut beta| {
        for (number, text) in [(2, "first"), (3, "second")] {
            let ((), told) = tokio::join!(sendrealm(&sender, number, text), beta.next_message());
            assert_eq!(told, text);
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
    })
    .await;
    assert!(tries.load(std::sync::atomic::Ordering::Relaxed) > 5);
}

/// PEER-5: a peer that was removed and added again within a moment gets its messages. Fixed fault:
/// its delivery had ended, and was never started again.
#[tokio::test(start_paused = true)]
async fn delivery_to_peer_removed_and_added_again_continues() {
    let store = Faulty::default();
    let (realm, peer_calls) = realm_over(&store);
    register(&realm).await;
    list_beta(&realm).await;
    let sender = Arc::clone(&realm);
    in_touch(&realm, peer_calls, async |mut beta| {
        let ((), told) = tokio::join!(sendrealm(&sender, 2, "first"), beta.next_message());
        assert_eq!(told, "first");
        // The peer is removed before anybody is notified. Delivery looks at the store because the
        // queue has grown.
        let keys = [b"r/beta".to_vec(), [b"k/", &BETA.0[..]].concat()];
        let mut batch = Batch::new();
        for key in &keys {
            batch.delete(Key(key.as_slice().into()));
        }
        let queue = crate::store::Log(b"q/beta"[..].into());
        batch.append(queue.clone(), b"x".to_vec());
        store.commit(batch).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut batch = Batch::new();
        batch.trim(queue, crate::store::Position(u64::MAX));
        store.commit(batch).await.unwrap();
        list_beta(&sender).await;
        let introduce = PeerRequest::Introduce(peer::Introduce {
            realm: "beta".parse().unwrap(),
            address: Text("192.0.2.8"),
            port: Port(7000),
            numbers: None,
        });
        let told = ask(&sender, BETA, &introduce.to_bytes()).await;
        assert_eq!(told, Answer::Done);
        let ((), told) = tokio::join!(sendrealm(&sender, 3, "second"), beta.next_message());
        assert_eq!(told, "second");
    })
    .await;
}

/// PEER-17: a queue that cannot be searched at a start is searched later. A message behind another
/// one is returned in time.
#[tokio::test(start_paused = true)]
async fn queue_unreadable_at_start_still_returns_expired_message() {
    let store = Faulty::default();
    let (realm, _peer_calls) = realm_over(&store);
    realm.running.note(LONG).await;
    register(&realm).await;
    list_beta(&realm).await;
    sendrealm(&realm, 2, "first").await;
    let mut hurried = Request::from(message(3, "hurried"));
    hurried.options.ttl = Some(60);
    let answer = ask(&realm, DEVICE, &hurried.to_bytes()).await;
    assert_eq!(answer, Answer::Sent(Sent::Queued));
    let (realm, peer_calls) = realm_over(&store);
    // The first read of the queue is the search for such messages.
    let mut left = 1;
    store.fail_when(move |asked| {
        let fails = left > 0 && matches!(asked, Asked::Read(log) if log.0.as_slice() == b"q/beta");
        left -= u32::from(fails);
        fails
    });
    let inbox = crate::store::Log(b"p/ann"[..].into());
    in_touch(&realm, peer_calls, async |_silent| {
        tokio::time::sleep(Duration::from_mins(5)).await;
    })
    .await;
    assert_eq!(store.last(&inbox).await.unwrap().0, 1);
}

/// A realm over a store of the caller's own serves until told to stop, and creates no file.
#[tokio::test]
async fn server_over_any_store_serves_until_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::parse("[[listen]]\naddress = \"127.0.0.1:0\"").unwrap();
    config.store.path = directory.path().join("data");
    let secrets = Secrets::generate(&config).unwrap();
    let key = secrets.identity.current.public();
    let server = Server::over(Faulty::default(), secrets, &config, Start::default()).unwrap();
    assert_eq!((server.key(), server.addresses().len()), (key, 1));
    let realm = Arc::clone(&server.realm);
    let served = Box::pin(server.run(async { register(&realm).await }));
    served.await.unwrap();
    assert!(!config.store.path.exists());
}
