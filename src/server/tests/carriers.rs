//! Tests of delivery to peers where something cannot be read, or is refused.

use super::*;
use crate::wire::peer;

const GAMMA: PublicKey = PublicKey([51; 32]);

/// Adds beta and gamma as peers.
async fn list_both(realm: &Realm<Faulty>) {
    list_beta(realm).await;
    let address = ("192.0.2.9".to_string(), 6377);
    let listed = realm
        .peers
        .list_peer("gamma".parse().unwrap(), GAMMA, address, None);
    assert!(listed.await.unwrap());
}

impl Requests {
    /// Accepts the next introduction. Returns the key of the peer that it is for.
    async fn next_introduction(&mut self) -> PublicKey {
        let Some(OutboundRequest::Ask {
            key, bytes, answer, ..
        }) = self.sent.recv().await
        else {
            panic!("nobody asks who is there")
        };
        let request = PeerRequest::parse(&bytes).unwrap();
        assert!(matches!(request, PeerRequest::Introduce(_)), "{request:?}");
        answer
            .send(RequestResult::Answered(Answer::Done.to_bytes()))
            .unwrap();
        key
    }
}

/// PEER-5: an unreadable peer does not delay the others. It gets its own introduction once it can
/// be read again.
#[tokio::test(start_paused = true)]
async fn peer_unreadable_does_not_delay_other_peers() {
    let beta = Key(b"r/beta"[..].into());
    for is_block in [false, true] {
        let store = Faulty::default();
        let (realm, peer_calls) = realm_over(&store);
        list_both(&realm).await;
        let kept = store.get(&beta).await.unwrap().unwrap().value.to_vec();
        if is_block {
            store.fail_when(
                |asked| matches!(asked, Asked::Past(Key(name)) if name.as_slice() == b"r/beta"),
            );
        } else {
            let mut batch = Batch::new();
            batch.put(beta.clone(), b"no peer".to_vec());
            store.commit(batch).await.unwrap();
        }
        in_touch(&realm, peer_calls, async |mut asking| {
            assert_eq!(asking.next_introduction().await, GAMMA);
            store.mend();
            let mut batch = Batch::new();
            batch.put(beta.clone(), kept);
            store.commit(batch).await.unwrap();
            assert_eq!(asking.next_introduction().await, BETA);
        })
        .await;
    }
}

/// PEER-17: an unreadable queue is searched again after growing waits. The other queues are not.
#[tokio::test(start_paused = true)]
async fn queue_unreadable_is_searched_again_without_other_queues() {
    let store = Faulty::default();
    let (realm, peer_calls) = realm_over(&store);
    list_both(&realm).await;
    let reads = Arc::new(std::sync::Mutex::new((0, 0)));
    let counted = Arc::clone(&reads);
    store.fail_when(move |asked| {
        let mut counted = counted.lock().unwrap();
        match asked {
            Asked::Read(log) if log.0.as_slice() == b"q/beta" => counted.0 += 1,
            Asked::Read(log) if log.0.as_slice() == b"q/gamma" => counted.1 += 1,
            _ => return false,
        }
        matches!(asked, Asked::Read(log) if log.0.as_slice() == b"q/beta")
    });
    in_touch(&realm, peer_calls, async |mut asking| {
        let mut introduced = [
            asking.next_introduction().await,
            asking.next_introduction().await,
        ];
        introduced.sort_unstable();
        assert_eq!(introduced, [BETA, GAMMA]);
        tokio::time::sleep(Duration::from_mins(55)).await;
    })
    .await;
    let (of_beta, of_gamma) = *reads.lock().unwrap();
    assert!((10..120).contains(&of_beta), "{of_beta}");
    assert!((1..6).contains(&of_gamma), "{of_gamma}");
}

/// PEER-17: a message behind a malformed entry is returned in time.
#[tokio::test(start_paused = true)]
async fn queue_malformed_entry_does_not_hide_next_message() {
    let store = Faulty::default();
    let (realm, _peer_calls) = realm_over(&store);
    realm.running.note(LONG).await;
    register(&realm).await;
    list_beta(&realm).await;
    let mut batch = Batch::new();
    batch.append(crate::store::Log(b"q/beta"[..].into()), b"nothing".to_vec());
    store.commit(batch).await.unwrap();
    let mut hurried = Request::from(message(3, "hurried"));
    hurried.options.ttl = Some(60);
    let answer = ask(&realm, DEVICE, &hurried.to_bytes()).await;
    assert_eq!(answer, Answer::Sent(Sent::Queued));
    let (realm, peer_calls) = realm_over(&store);
    in_touch(&realm, peer_calls, async |_silent| {
        tokio::time::sleep(Duration::from_mins(5)).await;
    })
    .await;
    let inbox = crate::store::Log(b"p/ann"[..].into());
    assert_eq!(store.last(&inbox).await.unwrap().0, 1);
}

/// Returns how often beta is asked within a minute to take a message, while a packet from it
/// arrives each second. Beta answers `says`, or nothing.
async fn deliveries(
    realm: &Arc<Realm<Faulty>>,
    peer_calls: mpsc::Receiver<PeerCall>,
    says: Option<Answer>,
) -> u32 {
    let heard = Arc::clone(realm);
    in_touch(realm, peer_calls, async |mut beta| {
        let introduce = PeerRequest::Introduce(peer::Introduce {
            realm: "beta".parse().unwrap(),
            address: Text("192.0.2.9"),
            port: Port(6377),
            numbers: None,
        });
        let mut count = 0;
        let mut seconds = 0;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        while seconds < 60 {
            tokio::select! {
                biased;
                call = beta.sent.recv() => {
                    let Some(OutboundRequest::Ask { bytes, answer, .. }) = call else {
                        panic!("nobody asks who is there")
                    };
                    let says = match PeerRequest::parse(&bytes).unwrap() {
                        PeerRequest::Introduce(_) => Some(Answer::Done),
                        _ => {
                            count += 1;
                            says.clone()
                        }
                    };
                    if let Some(says) = says {
                        answer.send(RequestResult::Answered(says.to_bytes())).unwrap();
                    }
                }
                _ = second.tick() => {
                    seconds += 1;
                    let told = ask(&heard, BETA, &introduce.to_bytes()).await;
                    assert_eq!(told, Answer::Done);
                }
            }
        }
        count
    })
    .await
}

/// PEER-5: a silent peer is asked again at once when a packet from it arrives. If the peer cannot
/// take anything now, or if this realm cannot record the outcome, the waits grow, however often a
/// packet arrives. Otherwise two realms with full disks would wake each other.
#[tokio::test(start_paused = true)]
async fn delivery_wait_ends_on_contact_from_silent_peer_only() {
    type Range = std::ops::Range<u32>;
    let busy = Answer::Refused(crate::wire::Refusal::busy(10));
    let cases: [(Option<Answer>, bool, Range); 4] = [
        (None, false, 30..100),
        (Some(busy), false, 3..8),
        (
            Some(Answer::Refused(ErrorCode::Internal.into())),
            false,
            3..8,
        ),
        // The disk of this realm is full.
        (Some(Answer::Sent(Sent::Stored)), true, 3..8),
    ];
    for (says, is_full, expected) in cases {
        let store = Faulty::default();
        let (realm, peer_calls) = realm_over(&store);
        register(&realm).await;
        list_beta(&realm).await;
        sendrealm(&realm, 2, "first").await;
        let settles = Key(b"v/beta"[..].into());
        store.fail_when(move |asked| {
            let Asked::Commit(batch) = asked else {
                return false;
            };
            let is_settled = |change: &crate::store::Change| matches!(change, crate::store::Change::Put(key, _) if *key == settles);
            is_full && batch.changes.iter().any(is_settled)
        });
        let what = format!("{says:?}");
        let count = deliveries(&realm, peer_calls, says).await;
        assert!(expected.contains(&count), "{what}: {count}");
    }
}
