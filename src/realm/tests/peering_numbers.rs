//! Realms that peer again after one has forgotten the other or was restored from a copy. Both agree
//! about memberships.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::mpsc;

use super::{
    acts::{BOUND, group},
    held::Held,
    *,
};
use crate::wire::command;
use crate::{store::Memory, wire::Port};

/// One of two realms, and the device of its one user, who is its operator.
pub struct Side {
    pub name: &'static str,
    pub store: Held,
    pub realm: Arc<Realm<Held>>,
    /// What happens to this side's requests.
    pub way: Arc<Way>,
}

/// What happens to the requests of one side to the other.
#[derive(Default)]
pub struct Way {
    /// The next answer is lost.
    pub loses_one: AtomicBool,
    /// No request arrives.
    pub is_cut: AtomicBool,
}

const DEVICE: u8 = 1;

pub fn secret_of(name: &str) -> SecretKey {
    SecretKey::from_bytes(match name {
        "alpha" => [9; 32],
        _ => [19; 32],
    })
}

fn side(name: &'static str, store: &Held) -> (Realm<Held>, mpsc::Receiver<PeerCall>) {
    let realm = realm_over(store.clone(), |own, limits| {
        own.id = name.parse().unwrap();
        own.secret = secret_of(name);
        limits.password_threads = 0;
        limits.rates = Rates::UNLIMITED;
    });
    let peer_calls = realm.network.reconnect();
    (realm, peer_calls)
}

/// Hands the requests of `from` to `to`.
fn carry(
    from: &'static str,
    mut peer_calls: mpsc::Receiver<PeerCall>,
    to: &Arc<Realm<Held>>,
    way: &Arc<Way>,
) {
    let (to, way) = (Arc::clone(to), Arc::clone(way));
    tokio::spawn(async move {
        while let Some(peer_call) = peer_calls.recv().await {
            let PeerCall::Ask { bytes, answer, .. } = peer_call else {
                continue;
            };
            if way.is_cut.load(Ordering::SeqCst) {
                continue;
            }
            let (device, own) = (secret_of(from).public(), to.own.key());
            let caller = Caller {
                origin: Origin::Sealed { device, own },
                ..caller(Some(device), MOMENT)
            };
            let told = to.answer(&caller, &bytes).await;
            if !way.loses_one.swap(false, Ordering::SeqCst) {
                let _ = answer.send(told);
            }
        }
    });
}

/// Returns the two realms over their stores, connected.
pub fn connected(alpha: &Held, beta: &Held) -> [Side; 2] {
    let (one, from_one) = side("alpha", alpha);
    let (other, from_other) = side("beta", beta);
    let (one, other) = (Arc::new(one), Arc::new(other));
    let ways = [Arc::default(), Arc::default()];
    carry("alpha", from_one, &other, &ways[0]);
    carry("beta", from_other, &one, &ways[1]);
    let [way_one, way_other] = ways;
    let sides = [
        ("alpha", alpha, one, way_one),
        ("beta", beta, other, way_other),
    ];
    sides.map(|(name, store, realm, way)| Side {
        name,
        store: store.clone(),
        realm,
        way,
    })
}

impl Side {
    pub async fn ask(&self, command: impl Into<Request<'_>>) -> Answer {
        let caller = Caller {
            origin: Origin::of_link(device(DEVICE), Some(self.realm.own.key())),
            ..caller(device(DEVICE), MOMENT)
        };
        let bytes = self.realm.answer(&caller, &command.into().to_bytes()).await;
        Answer::parse(&bytes).unwrap()
    }

    pub async fn done(&self, command: impl Into<Request<'_>>) {
        assert_eq!(self.ask(command).await, Answer::Done);
    }

    pub fn user(&self) -> &'static str {
        match self.name {
            "alpha" => "ann",
            _ => "bob",
        }
    }

    pub fn other(&self) -> RealmId {
        match self.name {
            "alpha" => "beta".parse().unwrap(),
            _ => "alpha".parse().unwrap(),
        }
    }

    pub async fn list_other(&self) {
        let key = secret_of(self.other().as_str()).public();
        let address = ("192.0.2.9".to_string(), 6377);
        let listed = self.realm.peers.list_peer(self.other(), key, address, None);
        assert!(listed.await.unwrap());
    }

    /// Introduces this side until that is settled.
    pub async fn introduce(&self) {
        for _ in 0..5 {
            let peer = self.realm.peer_now(self.other()).await.unwrap().unwrap();
            let introduced = self.realm.introduce_again(&peer, MOMENT).await;
            if introduced == Carried::Settled {
                return;
            }
        }
        panic!("{} does not come to terms with the other", self.name);
    }

    pub async fn join_there(&self, number: u64) -> Answer {
        self.ask(Command::JoinGroupRealm(command::JoinGroupRealm {
            operation: op(number),
            session: BOUND,
            src_address: Text(""),
            src_port: Port(0),
            realm: self.other(),
            group: group("crew"),
            password: Password(b""),
        }))
        .await
    }

    /// True if this side's user counts as a member of the other side's group here.
    pub async fn is_in(&self) -> bool {
        let answer = self
            .ask(Command::InboxGroupRealm(command::InboxGroupRealm {
                session: BOUND,
                realm: self.other(),
                group: group("crew"),
            }))
            .await;
        match answer {
            Answer::Page(_) => true,
            answer => {
                assert_eq!(answer, refused(ErrorCode::NotAMember));
                false
            }
        }
    }

    /// Returns the number of the other side's users in this side's group.
    async fn guests(&self) -> usize {
        let members = self
            .ask(Command::Members(command::Members {
                session: BOUND,
                group: group("crew"),
            }))
            .await;
        let Answer::Members { members, .. } = members else {
            panic!("{members:?}")
        };
        members.iter().filter(|one| one.who.realm.is_some()).count()
    }
}

/// Returns two peers, each with a group of which the other's user is a member.
pub async fn peering() -> [Side; 2] {
    let sides = connected(&Held::default(), &Held::default());
    begin_lives(&sides).await;
    peering_of(sides).await
}

pub async fn peering_of(sides: [Side; 2]) -> [Side; 2] {
    for side in &sides {
        let answer = side.ask(register(1, side.user())).await;
        assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
        side.done(Command::Claim(command::Claim {
            operation: op(2),
            session: BOUND,
            code: Password(b"open sesame"),
        }))
        .await;
        side.done(Command::AddGroup(command::AddGroup {
            operation: op(3),
            session: BOUND,
            group: group("crew"),
            password: Password(b""),
        }))
        .await;
        side.list_other().await;
    }
    for side in &sides {
        side.introduce().await;
        assert_eq!(side.join_there(4).await, Answer::Done);
    }
    agree(&sides, true).await;
    sides
}

/// Checks that both sides agree about the memberships of each side's user.
pub async fn agree([alpha, beta]: &[Side; 2], are_in: bool) {
    for (guest, host) in [(alpha, beta), (beta, alpha)] {
        let name = guest.name;
        assert_eq!(guest.is_in().await, are_in, "{name} believes");
        assert_eq!(host.guests().await, usize::from(are_in), "of {name}");
    }
}

pub async fn begin_lives(sides: &[Side; 2]) {
    for side in sides {
        assert!(side.realm.lives.begin_life(false).await);
    }
}

pub async fn do_chores(sides: &[Side; 2]) {
    for side in sides {
        assert!(side.realm.do_chores(NOW).await);
    }
}

/// Makes alpha remove beta and add it again. Beta has heard of neither.
pub async fn peer_again(alpha: &Side) {
    peer_again_as(alpha, Answer::Done).await;
}

pub async fn peer_again_as(alpha: &Side, answer: Answer) {
    alpha
        .done(Command::RemoveRealm(command::RemoveRealm {
            operation: op(5),
            session: BOUND,
            realm: alpha.other(),
        }))
        .await;
    assert!(alpha.realm.do_chores(NOW).await);
    let command = Command::AddRealm(command::AddRealm {
        operation: op(6),
        session: BOUND,
        realm: alpha.other(),
        address: Text("192.0.2.9"),
        port: Port(6377),
        src_address: Text(""),
        src_port: Port(0),
    });
    let options = Options {
        key: Some(secret_of("beta").public().0),
        ..Options::NONE
    };
    assert_eq!(alpha.ask(Request { options, command }).await, answer);
}

/// PEER-27: when two realms peer again after one removed the other, all former memberships across
/// the two have ended, on both sides.
#[tokio::test(start_paused = true)]
async fn peering_begun_again_ends_former_memberships_on_both_sides() {
    let sides = peering().await;
    peer_again(&sides[0]).await;
    do_chores(&sides).await;
    agree(&sides, false).await;
    for side in &sides {
        assert_eq!(side.join_there(7).await, Answer::Done);
    }
    agree(&sides, true).await;
    // Both sides have settled the peering: nothing ends any more.
    for side in &sides {
        side.introduce().await;
    }
    do_chores(&sides).await;
    agree(&sides, true).await;
}

/// PEER-27: the same holds if the other side is the first to introduce itself. Here alpha has
/// removed beta, and beta speaks first.
#[tokio::test(start_paused = true)]
async fn peering_begun_again_is_noticed_if_other_side_speaks_first() {
    let sides = peering().await;
    sides[0]
        .done(Command::RemoveRealm(command::RemoveRealm {
            operation: op(5),
            session: BOUND,
            realm: sides[0].other(),
        }))
        .await;
    do_chores(&sides).await;
    sides[0].list_other().await;
    sides[1].introduce().await;
    do_chores(&sides).await;
    agree(&sides, false).await;
    for side in &sides {
        assert_eq!(side.join_there(7).await, Answer::Done);
    }
    sides[0].introduce().await;
    do_chores(&sides).await;
    agree(&sides, true).await;
}

/// PEER-27: a realm restored from a copy that is older than the current peering has the members of
/// the former peering, and the other side has none. Afterwards both have none, also if the answer
/// that says so is lost.
#[tokio::test(start_paused = true)]
async fn peering_of_realm_restored_from_older_copy_begins_again() {
    for is_lost in [false, true] {
        let sides = peering().await;
        let copy: Memory = sides[1].store.memory().clone();
        peer_again(&sides[0]).await;
        do_chores(&sides).await;
        let sides = connected(&sides[0].store, &Held::over(copy));
        assert!(sides[1].is_in().await, "as before");
        let loses = &sides[1].way.loses_one;
        loses.store(is_lost, Ordering::SeqCst);
        let alpha = sides[1].realm.peer_now(sides[1].other()).await;
        let alpha = alpha.unwrap().unwrap();
        let first = sides[1].realm.introduce_again(&alpha, MOMENT).await;
        if is_lost {
            // Alpha knows already. Until beta does, nobody joins.
            assert_eq!(first, Carried::Silent);
            for side in &sides {
                let busy = side.join_there(8).await;
                let Answer::Refused(busy) = busy else {
                    panic!("{busy:?}")
                };
                assert_eq!(busy.code, ErrorCode::Busy, "from {}", side.name);
                do_chores(&sides).await;
            }
        }
        sides[1].introduce().await;
        do_chores(&sides).await;
        agree(&sides, false).await;
        for side in &sides {
            assert_eq!(side.join_there(9).await, Answer::Done);
        }
        for side in &sides {
            side.introduce().await;
        }
        do_chores(&sides).await;
        agree(&sides, true).await;
    }
}

/// PEER-27: two realms that begin a peering at once agree. Found by real processes: a realm that
/// was called back while it still added the other had two numbers, and nobody ever joined.
#[tokio::test(start_paused = true)]
async fn peering_begun_by_both_at_once_agrees() {
    let stores = [Held::default(), Held::default()];
    let (mut one, from_one) = side("alpha", &stores[0]);
    let (mut other, from_other) = side("beta", &stores[1]);
    set_peering(&mut one, Peering::Open);
    set_peering(&mut other, Peering::Open);
    let (one, other) = (Arc::new(one), Arc::new(other));
    carry("alpha", from_one, &other, &Arc::default());
    carry("beta", from_other, &one, &Arc::default());
    // The request of alpha's first attempt to add beta. Beta calls alpha before the result is
    // stored.
    let introduce = PeerRequest::Introduce(peer::Introduce {
        realm: "alpha".parse().unwrap(),
        address: Text("192.0.2.8"),
        port: Port(7000),
        numbers: Some(PeeringNumbers { own: 77, other: 0 }),
    });
    let caller = caller(Some(secret_of("alpha").public()), MOMENT);
    let answer = other.answer(&caller, &introduce.to_bytes()).await;
    let answer = Answer::parse(&answer).unwrap();
    assert!(
        matches!(answer, Answer::Joined { membership: 0, .. }),
        "{answer:?}"
    );
    let alpha = other.peer_now("alpha".parse().unwrap()).await.unwrap();
    other.try_claim(&alpha.unwrap(), MOMENT).await;
    for (realm, name) in [(&one, "beta"), (&other, "alpha")] {
        let peer = realm
            .peer_now(name.parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        assert!(!peer.record.apart, "{name}");
        assert!(!realm.take_introduction(peer.realm).await);
    }
    let number = async |realm: &Realm<Held>, name: &str| {
        let peer = realm
            .peer_now(name.parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        (peer.record.number, peer.record.theirs)
    };
    let (ours, theirs) = number(&one, "beta").await;
    assert_eq!(number(&other, "alpha").await, (theirs, ours));
}

/// PEER-27: a peer that begins anew lifts no ban of its users, and can do so a few times an hour
/// only.
#[tokio::test(start_paused = true)]
async fn peering_begun_again_lifts_no_ban_and_is_rate_limited() {
    let [alpha, _beta] = peering().await;
    alpha
        .done(Command::Ban(command::Ban {
            operation: op(5),
            session: BOUND,
            group: group("crew"),
            user: "bob@beta".parse().unwrap(),
        }))
        .await;
    let caller = caller(Some(secret_of("beta").public()), MOMENT);
    let ask = async |request: PeerRequest<'_>| {
        let answer = alpha.realm.answer(&caller, &request.to_bytes()).await;
        Answer::parse(&answer).unwrap()
    };
    let say = async |number, theirs| {
        ask(PeerRequest::Introduce(peer::Introduce {
            realm: "beta".parse().unwrap(),
            address: Text(""),
            port: Port(0),
            numbers: Some(PeeringNumbers {
                own: number,
                other: theirs,
            }),
        }))
        .await
    };
    let mut rate_limited = false;
    for number in (1..30).map(|peering: u64| peering << 32) {
        match say(number, 0).await {
            Answer::Joined {
                group_epoch: epoch,
                membership,
                ..
            } => {
                assert_eq!(membership, 1, "it is to say that it knows");
                let told = say(number, epoch).await;
                assert!(matches!(told, Answer::Joined { membership: 0, .. }));
            }
            Answer::Refused(refusal) => {
                assert_eq!(refusal.code, ErrorCode::RateLimited);
                rate_limited = true;
                break;
            }
            other => panic!("{other:?}"),
        }
        assert!(alpha.realm.do_chores(NOW).await);
    }
    assert!(rate_limited);
    let join = PeerRequest::Join(peer::Join {
        group: group("crew"),
        user: "bob".parse().unwrap(),
        password: Password(b""),
    });
    assert_eq!(ask(join).await, refused(ErrorCode::Banned));
    assert_eq!(say(0, 0).await, refused(ErrorCode::BadRequest));
}

/// PEER-27: the queue for a peer that begins anew is still delivered. An introduction of an earlier
/// release, without numbers, ends nothing.
#[tokio::test(start_paused = true)]
async fn peering_begun_again_keeps_queue_and_needs_numbers() {
    let sides = peering().await;
    let (alpha, beta) = (&sides[0], sides[0].other());
    let send = Command::SendRealm(command::SendRealm {
        operation: op(5),
        session: BOUND,
        src_address: Text(""),
        src_port: Port(0),
        realm: beta,
        from: "ann".parse().unwrap(),
        to: "bob".parse().unwrap(),
        message: Body(b"still on its way"),
    });
    assert_eq!(alpha.ask(send).await, Answer::Sent(Sent::Queued));
    let caller = caller(Some(secret_of("beta").public()), MOMENT);
    for numbers in [None, Some(PeeringNumbers { own: 77, other: 0 })] {
        let introduce = PeerRequest::Introduce(peer::Introduce {
            realm: beta,
            address: Text("192.0.2.9"),
            port: Port(6377),
            numbers,
        });
        let answer = alpha.realm.answer(&caller, &introduce.to_bytes()).await;
        let answer = Answer::parse(&answer).unwrap();
        assert_eq!(answer == Answer::Done, numbers.is_none(), "{answer:?}");
        assert!(alpha.realm.do_chores(NOW).await);
        assert_eq!(alpha.guests().await, usize::from(numbers.is_none()));
        assert_eq!(alpha.realm.queues.queued(beta).await.unwrap(), 1);
    }
}

/// PEER-27: a realm of a release before peering numbers is introduced to without them, and nothing
/// ends.
#[tokio::test(start_paused = true)]
async fn peering_with_earlier_release_has_no_numbers() {
    let (realm, mut peer_calls) = side("alpha", &Held::default());
    let address = ("192.0.2.9".to_string(), 6377);
    let key = secret_of("beta").public();
    let listed = realm
        .peers
        .list_peer("beta".parse().unwrap(), key, address, None);
    assert!(listed.await.unwrap());
    let beta = realm.peer_now("beta".parse().unwrap()).await.unwrap();
    let beta = beta.unwrap();
    let earlier = async {
        for says in [refused(ErrorCode::Unsupported), Answer::Done] {
            let Some(PeerCall::Ask { bytes, answer, .. }) = peer_calls.recv().await else {
                panic!("nothing is asked")
            };
            let request = PeerRequest::parse(&bytes).unwrap();
            let PeerRequest::Introduce(peer::Introduce { numbers, .. }) = request else {
                panic!("{request:?}")
            };
            assert_eq!(numbers.is_none(), says == Answer::Done);
            let _ = answer.send(says.to_bytes());
        }
    };
    let (introduced, ()) = tokio::join!(realm.introduce_again(&beta, MOMENT), earlier);
    assert_eq!(introduced, Carried::Settled);
    let beta = realm.peer_now(beta.realm).await.unwrap().unwrap();
    assert!(beta.is_introduced() && beta.record.theirs == 0);
}
