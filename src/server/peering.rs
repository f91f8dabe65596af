//! Keeps a realm in touch with its peers: carries the realm's errands to the listeners, and each peer's queue
//! to the peer, in order, again and again until it is empty (PEER-5).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::{calls::Call, clock::Clock};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    realm::{Carried, Errand, GroupWork, Moment, Peer, ReadOutcome, Realm},
    store::Store,
    wire::RealmId,
};

/// The wait after the first failure; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_mins(15);
/// The longest wait for a peer that does answer, or for this realm's own store: nothing ends it early.
const BUSY_MAX: Duration = Duration::from_mins(2);
/// How long the wait for a whole errand may take, name look-up included.
const ERRAND_PATIENCE: Duration = Duration::from_secs(12);

/// How long what the store did not take, or could not read, is left alone.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest time for which that which still cannot be read is left alone: it is twice as long each time.
const AGAIN_MAX: Duration = Duration::from_mins(5);
/// How long the addresses of a name that has several are probed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the address that answered a probe is used before it is probed again.
const PROBE_AGAIN: Duration = Duration::from_mins(5);
/// Addresses of a name that are probed; further ones are ignored.
const CANDIDATES_MAX: usize = 8;

/// By host and port of the peers whose name has several addresses: the one that answered last, and when.
type Probed = Arc<Mutex<BTreeMap<(String, u16), (Instant, SocketAddr)>>>;

/// A listener that asks other realms, and how they reach it.
#[derive(Clone, Debug)]
pub struct Way {
    pub source: (String, u16),
    /// Its socket leads to IPv6 addresses, or else to IPv4 ones.
    pub is_ipv6: bool,
    pub calls: mpsc::Sender<Call>,
}

/// Runs until the realm is gone; ends all it has begun when dropped.
pub async fn keep_in_touch<S: Store>(
    realm: Arc<Realm<S>>,
    ways: Vec<Way>,
    mut errands: mpsc::Receiver<Errand>,
    known: watch::Sender<Vec<PublicKey>>,
    clock: Clock,
    seed: u64,
) {
    let mut carriers: BTreeMap<RealmId, Carrier> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let probed = Probed::default();
    let mut is_start = true;
    let mut wait = AGAIN;
    tasks.spawn(give_back(Arc::clone(&realm), clock.clone()));
    tasks.spawn(do_chores(Arc::clone(&realm), clock.clone()));
    loop {
        let (peers, are_all) = realm.peers().await;
        // Those that cannot be read are as they were.
        carriers.retain(|id, carrier| {
            !carrier.has_ended() && (!are_all || peers.iter().any(|peer| peer.realm == *id))
        });
        known.send_modify(|known| {
            let mut keys: BTreeSet<_> = peers.iter().flat_map(Peer::keys).collect();
            if !are_all {
                keys.extend(known.iter());
            }
            *known = keys.into_iter().collect();
        });
        let again = Instant::now() + wait;
        wait = if are_all {
            AGAIN
        } else {
            (wait * 2).min(AGAIN_MAX)
        };
        for peer in &peers {
            let id = peer.realm;
            if is_start {
                // Its last word before the stop may not have been looked into.
                realm.network().claim_to_try(id);
            }
            carriers.entry(id).or_insert_with(|| {
                let realm = Arc::clone(&realm);
                let clock = clock.clone();
                let rng = StdRng::seed_from_u64(seed ^ u64::from(peer.address().1));
                // A start is told to all: what they have waiting then comes at once. Whoever becomes a
                // peer later has just been talked to.
                let is_introduced = peer.is_introduced() && !is_start;
                Carrier(tokio::spawn(carry(realm, id, is_introduced, clock, rng)))
            });
        }
        // Those that can be read later are told then.
        is_start &= !are_all;
        loop {
            tokio::select! {
                biased;
                () = realm.network().wait_for_change() => break,
                () = tokio::time::sleep_until(again), if !are_all => break,
                errand = errands.recv() => match errand {
                    Some(errand) => {
                        let ways = ways.clone();
                        let running = run(errand, ways, Arc::clone(&probed));
                        tasks.spawn(async move {
                            let _ = tokio::time::timeout(ERRAND_PATIENCE, running).await;
                        });
                    }
                    None => return,
                },
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

/// Does what is to be done for the members of groups that have ended, also of those that ended before a start.
async fn do_chores<S: Store>(realm: Arc<Realm<S>>, clock: Clock) {
    let mut wait = AGAIN;
    loop {
        if realm.do_chores(clock.now().wall).await {
            wait = AGAIN;
            realm.chore_added().await;
        } else {
            // What is added need not wait for what cannot be read, but does not have that read again each time.
            let added = async {
                tokio::time::sleep(BACKOFF_MIN).await;
                realm.chore_added().await;
            };
            tokio::select! {
                biased;
                () = added => {}
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(AGAIN_MAX),
            }
        }
    }
}

/// Gives messages back whose time is over before their turn.
async fn give_back<S: Store>(realm: Arc<Realm<S>>, clock: Clock) {
    let mut searched = BTreeSet::new();
    let mut are_found = find_expiries(&realm, &mut searched).await;
    let mut wait = AGAIN;
    let mut again = Instant::now() + wait;
    loop {
        let due = realm.next_expiry();
        let left = due.map(|due| due.saturating_sub(clock.now().running));
        tokio::select! {
            biased;
            () = realm.expiry_noted() => {}
            () = sleep_seconds(left) => realm.return_expired(clock.now()).await,
            () = tokio::time::sleep_until(again), if !are_found => {
                are_found = find_expiries(&realm, &mut searched).await;
                wait = (wait * 2).min(AGAIN_MAX);
                again = Instant::now() + wait;
            }
        }
    }
}

/// Looks through the queues that have not been `searched` for messages whose time will be over. False when one of them cannot be read:
/// only those are looked through again.
async fn find_expiries<S: Store>(realm: &Realm<S>, searched: &mut BTreeSet<RealmId>) -> bool {
    let (peers, mut are_found) = realm.peers().await;
    for peer in peers {
        if searched.contains(&peer.realm) {
            continue;
        }
        if realm.find_expiries(peer.realm).await.is_ok() {
            searched.insert(peer.realm);
        } else {
            are_found = false;
        }
    }
    are_found
}

/// Sleeps for so many seconds, or for ever.
async fn sleep_seconds(seconds: Option<u32>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
        None => std::future::pending().await,
    }
}

/// A peer's task; ended when dropped.
struct Carrier(JoinHandle<()>);

impl Carrier {
    /// True when it has found that its peer is none any more: for one that is known by the same name since, there is to be another.
    fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs an errand: finds the address, and hands the question to the listener it is to leave by.
async fn run(errand: Errand, ways: Vec<Way>, probed: Probed) {
    match errand {
        Errand::Who {
            address,
            port,
            answer,
        } => {
            if let Some((way, address)) = find((&address, port), &ways, (None, None), &probed).await
            {
                let _ = way.calls.send(Call::Who(address, answer)).await;
            }
        }
        Errand::Ask {
            peer,
            bytes,
            is_awaited,
            dialing,
            answer,
        } => {
            let (host, port) = peer.address();
            let (name, number) = peer.source();
            let source = (name.to_string(), number);
            let wanted = (Some(&source), Some(peer.key()));
            if let Some((way, address)) = find((host, port), &ways, wanted, &probed).await {
                let call = Call::Ask {
                    own: peer.knows(),
                    key: peer.key(),
                    address,
                    bytes,
                    is_awaited,
                    dialing,
                    answer,
                };
                let _ = way.calls.send(call).await;
            }
        }
    }
}

/// Finds an address of `host`, and a way there: the one whose source is named, or else the first that leads to an
/// address of that kind. Of several addresses the first that answers is taken, if possible one that goes by `key`.
async fn find<'a>(
    (host, port): (&str, u16),
    ways: &'a [Way],
    (source, key): (Option<&(String, u16)>, Option<PublicKey>),
    probed: &Probed,
) -> Option<(&'a Way, SocketAddr)> {
    let found: Vec<_> = match tokio::net::lookup_host((host, port)).await {
        Ok(mut found) => {
            let taken = found.by_ref().take(CANDIDATES_MAX).collect();
            let ignored = found.count();
            if ignored > 0 {
                tracing::warn!(
                    host,
                    tried = CANDIDATES_MAX,
                    ignored,
                    "a peer's name has more addresses than are tried; give it fewer"
                );
            }
            taken
        }
        Err(error) => {
            tracing::warn!(host, %error, "a peer's name does not resolve; it is tried again");
            return None;
        }
    };
    let named = ways.iter().filter(|way| Some(&way.source) == source);
    let mut pairs: Vec<(&Way, SocketAddr)> = Vec::new();
    for way in named.chain(ways) {
        for address in &found {
            let is_new = pairs.iter().all(|(_, known)| known != address);
            if is_new && address.is_ipv6() == way.is_ipv6 {
                pairs.push((way, *address));
            }
        }
    }
    let Some(first) = pairs.first().copied() else {
        tracing::warn!(host, addresses = ?found, "no listener of this realm leads to a peer's address: give [[listen]] one of its kind");
        return None;
    };
    if pairs.len() == 1 {
        return Some(first);
    }
    let name = (host.to_string(), port);
    let known = {
        let mut probed = probed.lock().unwrap_or_else(PoisonError::into_inner);
        probed.retain(|_, (at, _)| at.elapsed() < PROBE_AGAIN);
        probed.get(&name).map(|(_, address)| *address)
    };
    if let Some(pair) = pairs.iter().find(|(_, address)| Some(*address) == known) {
        return Some(*pair);
    }
    let Some(pair) = probe(&pairs, key).await else {
        return Some(first);
    };
    let mut probed = probed.lock().unwrap_or_else(PoisonError::into_inner);
    probed.insert(name, (Instant::now(), pair.1));
    Some(pair)
}

/// Asks at all addresses who is there. The first that goes by `key` wins, or else the first that answers.
async fn probe<'a>(
    pairs: &[(&'a Way, SocketAddr)],
    key: Option<PublicKey>,
) -> Option<(&'a Way, SocketAddr)> {
    let mut replies = JoinSet::new();
    for (which, (way, address)) in pairs.iter().enumerate() {
        let (calls, address) = (way.calls.clone(), *address);
        replies.spawn(async move {
            let (answer, answered) = oneshot::channel();
            calls.send(Call::Who(address, answer)).await.ok()?;
            Some((which, answered.await.ok()?))
        });
    }
    let mut first = None;
    let collecting = async {
        while let Some(reply) = replies.join_next().await {
            let Ok(Some((which, found))) = reply else {
                continue;
            };
            if key.is_none_or(|key| key == found) {
                first = Some(which);
                return;
            }
            // A peer that has a new key goes by that one in its reply.
            first.get_or_insert(which);
        }
    };
    let _ = tokio::time::timeout(PROBE_TIMEOUT, collecting).await;
    pairs.get(first?).copied()
}

/// Carries one peer's queue.
async fn carry<S: Store>(
    realm: Arc<Realm<S>>,
    id: RealmId,
    mut is_introduced: bool,
    clock: Clock,
    mut rng: StdRng,
) {
    let mut grown = realm.queue_grown(id);
    let mut wait = BACKOFF_MIN;
    // The message that the peer would not take, and how often.
    let mut refused = (0, 0);
    let mut are_copies_listed = false;
    // Beside all else: what waits for the peer need not wait for it.
    let mut trying = JoinSet::new();
    loop {
        let peer = match realm.peer_now(id).await {
            Ok(Some(peer)) => peer,
            Ok(None) => return,
            Err(_) => {
                back_off(&realm, id, Until::Over, &mut wait, &mut rng).await;
                continue;
            }
        };
        while trying.try_join_next().is_some() {}
        if realm.take_claim(&peer) {
            let (realm, peer, now) = (Arc::clone(&realm), peer.clone(), clock.now());
            trying.spawn(async move { realm.try_claim(&peer, now).await });
        }
        if !are_copies_listed {
            are_copies_listed = realm.read_all_copies(id).await.is_ok();
        }
        let mut until = Until::Over;
        is_introduced &= !realm.network().take_introduction(id);
        if !is_introduced {
            let introduced = realm.introduce_again(&peer, clock.now()).await;
            is_introduced = introduced == Carried::Settled;
            until = match introduced {
                // It may have been told meanwhile that it is to accept.
                Carried::Refused => Until::HeardLater,
                carried => Until::after(carried),
            };
        }
        if is_introduced && let Some(work) = realm.network().next_work(id) {
            let carried = work_for_group(&realm, &peer, work, clock.now()).await;
            if carried != Carried::Settled {
                let until = Until::after(carried);
                back_off(&realm, id, until, &mut wait, &mut rng).await;
            }
            continue;
        }
        let next = realm.next_outgoing(id).await;
        let is_well = match next {
            Ok(None) if is_introduced => {
                tokio::select! {
                    biased;
                    some = grown.grown() => if some.is_none() {
                        return;
                    },
                    () = realm.network().wait_for_work(id) => {}
                    () = tokio::time::sleep(AGAIN), if !are_copies_listed => {}
                }
                true
            }
            Ok(Some(outgoing))
                // A peer that has not accepted is given nothing; what is too old is given up all the same.
                if is_introduced || Realm::<S>::is_expired(&outgoing, clock.now()) =>
            {
                let position = outgoing.position();
                if refused.0 != position {
                    refused = (position, 0);
                }
                let now = clock.now();
                let carried = realm.deliver_outgoing(&peer, &outgoing, refused.1, now).await;
                refused.1 += u32::from(carried == Carried::Refused);
                until = Until::after(carried);
                carried == Carried::Settled
            }
            Ok(_) => false,
            Err(_) => {
                until = Until::Over;
                false
            }
        };
        if is_well {
            wait = BACKOFF_MIN;
            continue;
        }
        if is_planted(Fault::GiveUpPeer) {
            return;
        }
        back_off(&realm, id, until, &mut wait, &mut rng).await;
    }
}

/// What ends a wait before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The peer is heard: it was silent.
    Heard,
    /// The same, but not sooner than after the shortest wait.
    HeardLater,
    /// Nothing. The peer has been heard, or what is wrong is wrong here: two realms with full disks would else wake each other.
    Over,
}

impl Until {
    /// For what has not been carried.
    const fn after(carried: Carried) -> Self {
        match carried {
            Carried::Silent => Self::Heard,
            Carried::Settled | Carried::Busy | Carried::Refused | Carried::Failed => Self::Over,
        }
    }
}

/// Waits before a peer is tried again: longer each time, but not once a silent one has been heard.
async fn back_off<S: Store>(
    realm: &Realm<S>,
    id: RealmId,
    until: Until,
    wait: &mut Duration,
    rng: &mut StdRng,
) {
    let (min, max) = match until {
        Until::Heard => (Duration::ZERO, BACKOFF_MAX),
        Until::HeardLater => (BACKOFF_MIN, BACKOFF_MAX),
        Until::Over => (BACKOFF_MIN, BUSY_MAX),
    };
    let spread = (*wait).min(max) * rng.random_range(80..=140) / 100;
    let spread = spread.max(min);
    realm.network().waits(id, spread);
    tracing::debug!(peer = %id, wait = ?spread, "a peer does not take what waits for it");
    let heard = async {
        if until == Until::Over {
            std::future::pending::<()>().await;
        }
        tokio::join!(
            realm.network().wait_for_contact(id),
            tokio::time::sleep(min)
        );
    };
    tokio::select! {
        biased;
        () = tokio::time::sleep(spread) => *wait = (*wait * 2).min(max),
        () = heard => *wait = BACKOFF_MIN,
    }
}

/// Does what is to be done for a group at a peer. Where it is not settled, it is still to be done.
async fn work_for_group<S: Store>(
    realm: &Realm<S>,
    peer: &Peer,
    work: GroupWork,
    now: Moment,
) -> Carried {
    realm.network().begin_work(peer.realm, work);
    let carried = match work {
        GroupWork::Tell(group) => realm.tell_grown(peer, group).await,
        GroupWork::Read(group) => match realm.read_copy(peer, group, now).await {
            ReadOutcome::Equal | ReadOutcome::Gone => Carried::Settled,
            ReadOutcome::Silent => Carried::Silent,
            ReadOutcome::Unread => Carried::Busy,
        },
    };
    if carried != Carried::Settled {
        realm.network().add_work(peer.realm, work);
    }
    carried
}
