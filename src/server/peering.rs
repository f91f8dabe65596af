//! Keeps a realm in touch with its peers: drives [`Federation`], which says what is to be done and when, and carries that out: reads and
//! writes with the realm, and questions through the listeners.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use super::{calls::Call, clock::Clock};
use crate::{
    crypto::PublicKey,
    federation::{Done, Federation, Input, News, Step},
    realm::{Dialing, Errand, Peer, Realm},
    store::{Store, Subscription},
    wire::RealmId,
};

/// The wait before what could not be done for members of groups is tried again at the earliest.
const CHORES_AGAIN_MIN: Duration = Duration::from_secs(2);
/// How long the wait for a whole errand may take, name look-up included.
const ERRAND_PATIENCE: Duration = Duration::from_secs(12);

/// How long what the store did not take, or could not read, is left alone.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest time for which that which still cannot be read is left alone: it is twice as long each time.
const AGAIN_MAX: Duration = Duration::from_mins(5);
/// A longer sleep is none that ends.
const LONGEST_SLEEP: Duration = Duration::from_hours(24 * 365);
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
    let own = realm.own();
    let mut federation = Federation::new(own.id, own.secret.clone(), seed);
    let asking = Asking {
        ways: ways.into(),
        probed: Probed::default(),
    };
    let mut beside = JoinSet::new();
    beside.spawn(give_back(Arc::clone(&realm), clock.clone()));
    beside.spawn(do_chores(Arc::clone(&realm), clock.clone()));
    let mut steps = JoinSet::new();
    let mut queues = Queues::default();
    loop {
        while let Some((id, step)) = federation.poll_step() {
            let (realm, clock, asking) = (Arc::clone(&realm), clock.clone(), asking.clone());
            steps.spawn(async move { (id, carry_out(&realm, &clock, &asking, step).await) });
        }
        while let Some((peer, news)) = federation.poll_news() {
            let network = realm.network();
            match news {
                News::Answers => network.answers(peer, clock.now().wall),
                News::Silent => network.silent(peer),
                News::Refuses(_) => network.refused(peer),
            }
        }
        let timeout = federation.poll_timeout();
        tokio::select! {
            biased;
            () = sleep_until(timeout, &clock) => federation.handle_timeout(clock.now()),
            Some(done) = steps.join_next() => {
                // One that was ended is nobody's.
                let Ok((id, done)) = done else { continue };
                if let Done::Peers(peers, are_all) = &done {
                    tell_keys(&known, peers, *are_all);
                    queues.subscribe(&realm, peers, *are_all);
                    for peer in &queues.peers {
                        // It may have grown while nobody was told.
                        federation.handle(clock.now(), Input::Grown(*peer));
                    }
                }
                federation.handle(clock.now(), Input::Done(id, done));
            }
            grown = queues.grown() => {
                let Some(grown) = grown else { return };
                for peer in grown {
                    federation.handle(clock.now(), Input::Grown(peer));
                }
            }
            signals = realm.network().signals() => {
                let now = clock.now();
                if signals.are_peers_changed {
                    federation.handle(now, Input::PeersChanged);
                }
                for (peer, work) in signals.work {
                    federation.handle(now, Input::Work(peer, work));
                }
                for peer in signals.heard {
                    federation.handle(now, Input::Heard(peer));
                }
            }
            errand = errands.recv() => match errand {
                Some(errand) => {
                    let asking = asking.clone();
                    beside.spawn(async move { asking.run(errand).await });
                }
                None => return,
            },
            Some(_) = beside.join_next() => {}
        }
    }
}

/// Carries out a step.
async fn carry_out<S: Store>(realm: &Realm<S>, clock: &Clock, asking: &Asking, step: Step) -> Done {
    match step {
        Step::ListPeers => {
            let (peers, are_all) = realm.peers().await;
            Done::Peers(peers, are_all)
        }
        Step::ListCopies(peer) => Done::Copies(realm.copies_of(peer).await.ok()),
        Step::Look { peer, more } => Done::Looked(
            realm
                .look(peer, more)
                .await
                .map(|looked| looked.map(Box::new)),
        ),
        Step::Ask { peer, bytes } => Done::Answered(asking.ask(&peer, bytes).await),
        Step::LookAtCopy(peer, group) => Done::Copy(Box::new(
            realm.look_at_copy(&peer, group, clock.now()).await,
        )),
        Step::Introduced(peer) => Done::Written(realm.note_introduced(&peer).await),
        Step::Settle(peer, outgoing, settling) => {
            let settled = realm.settle_outgoing(&peer, &outgoing, &settling, clock.now());
            Done::Written(settled.await)
        }
        Step::Keep(peer, group, kept) => {
            Done::Written(realm.keep(&peer, group, *kept, clock.now()).await)
        }
    }
}

/// Tells the workers the keys of all peers: links of those are the first worker's.
fn tell_keys(known: &watch::Sender<Vec<PublicKey>>, peers: &[Peer], are_all: bool) {
    known.send_modify(|known| {
        let mut keys: BTreeSet<_> = peers.iter().flat_map(Peer::keys).collect();
        if !are_all {
            keys.extend(known.iter());
        }
        *known = keys.into_iter().collect();
    });
}

/// The queues of all peers.
#[derive(Default)]
struct Queues {
    peers: Vec<RealmId>,
    growth: Option<Subscription>,
}

impl Queues {
    fn subscribe<S: Store>(&mut self, realm: &Realm<S>, peers: &[Peer], are_all: bool) {
        let listed: BTreeSet<RealmId> = peers.iter().map(|peer| peer.realm).collect();
        let before = self.peers.iter().copied();
        let before = before.filter(|peer| !are_all && !listed.contains(peer));
        self.peers = before.chain(listed.iter().copied()).collect();
        self.growth = Some(realm.queues_grown(&self.peers));
    }

    /// The peers whose queues have grown. None when the store is closed.
    async fn grown(&mut self) -> Option<Vec<RealmId>> {
        let Some(growth) = &mut self.growth else {
            return std::future::pending().await;
        };
        let grown = growth.grown().await?;
        let grown = grown.iter().filter_map(|at| self.peers.get(*at)).copied();
        Some(grown.collect())
    }
}

/// Sleeps until a moment since the start of the clock, or for ever.
async fn sleep_until(at: Option<Duration>, clock: &Clock) {
    match at.map(|at| at.saturating_sub(clock.now().since_start())) {
        // No timer reaches further.
        Some(left) if left < LONGEST_SLEEP => tokio::time::sleep(left).await,
        Some(_) | None => std::future::pending().await,
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
                tokio::time::sleep(CHORES_AGAIN_MIN).await;
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

/// What it takes to ask other realms.
#[derive(Clone)]
struct Asking {
    ways: Arc<[Way]>,
    probed: Probed,
}

impl Asking {
    /// Asks a peer when nobody waits: for as long as that may make sense on the longest and narrowest of ways.
    async fn ask(&self, peer: &Peer, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.run(Errand::Ask {
            peer: peer.clone(),
            bytes,
            is_awaited: false,
            dialing: Dialing::Freely,
            answer,
        })
        .await;
        answered.await.ok()
    }

    /// Runs an errand: finds the address, and hands the question to the listener it is to leave by.
    async fn run(&self, errand: Errand) {
        // Whoever asks is told nothing when it takes too long.
        let _ = tokio::time::timeout(ERRAND_PATIENCE, self.hand_over(errand)).await;
    }

    async fn hand_over(&self, errand: Errand) {
        match errand {
            Errand::Who {
                address,
                port,
                answer,
            } => {
                let place = (address.as_str(), port);
                if let Some((way, address)) = self.find(place, (None, None)).await {
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
                let (name, number) = peer.source();
                let source = (name.to_string(), number);
                let wanted = (Some(&source), Some(peer.key()));
                if let Some((way, address)) = self.find(peer.address(), wanted).await {
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

    async fn find(
        &self,
        place: (&str, u16),
        wanted: (Option<&(String, u16)>, Option<PublicKey>),
    ) -> Option<(&Way, SocketAddr)> {
        find(place, &self.ways, wanted, &self.probed).await
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
