//! Drives [`Federation`]: takes its steps and carries them out, as reads and writes of the realm
//! and as requests through the listeners.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
};

use super::{clock::Clock, peer_link_table::PeerLinkTable, routes::Routes};
use crate::{
    crypto::PublicKey,
    federation::{Federation, Input, PeerLinkCounters, PeerStatus, Step, StepResult},
    realm::{Peer, PeerCall, Realm, Signals},
    store::{Store, Subscription},
    wire::RealmId,
};

/// How often to check for links to peers that have been kept open for long.
const LINKS_LOOKED_AT: Duration = Duration::from_mins(1);
/// A longer sleep counts as endless.
const LONGEST_SLEEP: Duration = Duration::from_hours(24 * 365);

/// Runs until the realm is gone. When dropped, ends all steps in progress.
pub async fn keep_in_touch<S: Store>(
    realm: Arc<Realm<S>>,
    routes: Routes,
    mut peer_calls: mpsc::Receiver<PeerCall>,
    known: watch::Sender<Vec<PublicKey>>,
    clock: Clock,
    seed: u64,
) {
    let mut federation = Federation::new(realm.own().clone(), seed);
    let routes = Arc::new(routes);
    let mut requests = JoinSet::new();
    let mut steps = JoinSet::new();
    let mut cancellable = BTreeMap::new();
    let mut queues = Queues::default();
    let mut links = PeerLinkEvents::new(routes.links());
    let mut look_at_links = tokio::time::interval(LINKS_LOOKED_AT);
    loop {
        while let Some((id, step)) = federation.poll_step() {
            let (realm, clock, routes) = (Arc::clone(&realm), clock.clone(), Arc::clone(&routes));
            let is_request = matches!(step, Step::Ask { .. } | Step::TryClaim { .. });
            let handle =
                steps.spawn(async move { (id, execute(&realm, &clock, &routes, step).await) });
            if is_request {
                cancellable.insert(id, handle);
            }
        }
        while let Some(id) = federation.poll_cancelled() {
            // Reads and writes end by themselves.
            if let Some(handle) = cancellable.remove(&id) {
                handle.abort();
            }
        }
        while let Some((peer, status)) = federation.poll_status() {
            let network = realm.network();
            match status {
                PeerStatus::Answering => network.answers(peer, clock.now().wall),
                PeerStatus::Silent => network.silent(peer),
                PeerStatus::Refusing(why) => network.refused(peer, why),
                PeerStatus::Waiting(wait) => network.waits(peer, wait),
            }
        }
        let timeout = federation.poll_timeout();
        tokio::select! {
            biased;
            () = sleep_until(timeout, &clock) => federation.handle_timeout(clock.now()),
            Some(done) = steps.join_next() => {
                let (id, done) = match done.map_err(JoinError::try_into_panic) {
                    Ok(done) => done,
                    // If the panic were ignored, the peer's queue would stop for good.
                    Err(Ok(panic)) => std::panic::resume_unwind(panic),
                    // A cancelled step has no owner.
                    Err(Err(_)) => continue,
                };
                cancellable.remove(&id);
                if let StepResult::Peers(peers, are_all) = &done {
                    if *are_all {
                        realm.network().know_only(peers);
                    }
                    publish_keys(&known, &routes, peers, *are_all);
                    links.watch(peers, *are_all);
                    queues.subscribe(&realm, peers, *are_all);
                    for peer in &queues.peers {
                        // The queue may have grown before this watch began.
                        federation.handle(clock.now(), Input::QueueGrown(*peer));
                    }
                }
                federation.handle(clock.now(), Input::StepDone(id, done));
            }
            grown = queues.grown() => {
                let Some(grown) = grown else { return };
                for peer in grown {
                    federation.handle(clock.now(), Input::QueueGrown(peer));
                }
            }
            () = realm.groups.chore_added() => federation.handle(clock.now(), Input::CleanupAdded),
            () = realm.queues.expiry_noted() => {
                let next = realm.queues.next_expiry();
                federation.handle(clock.now(), Input::Expires(next));
            }
            _ = look_at_links.tick() => routes.links().reintroduce(),
            () = links.changed(routes.links()) => {
                for input in links.take(routes.links()) {
                    federation.handle(clock.now(), input);
                }
            }
            signals = realm.network().signals() => {
                for input in inputs_of(signals) {
                    federation.handle(clock.now(), input);
                }
            }
            request = peer_calls.recv() => match request {
                Some(request) => {
                    let routes = Arc::clone(&routes);
                    requests.spawn(async move { routes.run(request).await });
                }
                None => return,
            },
            Some(_) = requests.join_next() => {}
        }
    }
}

/// Converts the realm's signals to inputs of the machine.
fn inputs_of(signals: Signals) -> Vec<Input> {
    let mut inputs = Vec::new();
    if signals.are_peers_changed {
        inputs.push(Input::PeersChanged);
    }
    let work = signals.work.into_iter();
    inputs.extend(work.map(|(peer, work)| Input::GroupWork(peer, work)));
    inputs.extend(signals.claims.into_iter().map(Input::AddressClaimed));
    inputs.extend(signals.introductions.into_iter().map(Input::Reintroduce));
    inputs.extend(signals.heard.into_iter().map(Input::Heard));
    inputs
}

/// Executes a step.
async fn execute<S: Store>(
    realm: &Realm<S>,
    clock: &Clock,
    routes: &Routes,
    step: Step,
) -> StepResult {
    match step {
        Step::ListPeers => {
            let (peers, are_all) = realm.peers.peers().await;
            StepResult::Peers(peers, are_all)
        }
        Step::ListReplicas(peer) => StepResult::Replicas(realm.groups.replicas_of(peer).await.ok()),
        Step::FindExpiries(peers) => {
            let mut searched = Vec::new();
            for peer in peers {
                if realm.queues.find_expiries(peer).await.is_ok() {
                    searched.push(peer);
                }
            }
            StepResult::Searched(searched)
        }
        Step::CleanUp => StepResult::CleanedUp(realm.do_chores(clock.now().wall).await),
        Step::ReturnExpired => {
            realm.queues.return_expired(clock.now()).await;
            StepResult::ExpiredReturned(realm.queues.next_expiry())
        }
        Step::Look { peer, more } => StepResult::Looked(
            realm
                .queues
                .look(peer, more)
                .await
                .map(|looked| looked.map(Box::new)),
        ),
        Step::Ask { peer, bytes } => StepResult::Answered(routes.ask_alone(&peer, bytes).await),
        Step::LookAtReplica(peer, group) => StepResult::Replica(Box::new(
            realm
                .groups
                .look_at_replica(&peer, group, clock.now())
                .await,
        )),
        Step::StoreIntroduction(peer, said) => {
            StepResult::Written(realm.note_introduced(&peer, said, clock.now()).await)
        }
        Step::TryClaim { peer, bytes } => {
            StepResult::Tried(routes.try_at_claim(&peer, bytes).await)
        }
        Step::StoreClaim(peer, at) => StepResult::Written(realm.peers.note_claim(&peer, at).await),
        Step::StoreOutcome(peer, outgoing, settling) => {
            let settled = realm
                .queues
                .settle_outgoing(&peer, &outgoing, &settling, clock.now());
            StepResult::Written(settled.await)
        }
        Step::StoreEntries(peer, group, kept) => {
            StepResult::Written(realm.groups.keep(&peer, group, *kept, clock.now()).await)
        }
    }
}

/// Publishes the keys of all peers to the workers. Links of these keys belong to the first worker.
fn publish_keys(
    known: &watch::Sender<Vec<PublicKey>>,
    routes: &Routes,
    peers: &[Peer],
    are_all: bool,
) {
    known.send_modify(|known| {
        let mut keys: BTreeSet<_> = peers.iter().flat_map(Peer::keys).collect();
        if !are_all {
            keys.extend(known.iter());
        }
        *known = keys.into_iter().collect();
        // Before the workers see the new keys.
        routes.links().keep_only(known);
    });
}

/// The events on the links with peers.
struct PeerLinkEvents {
    changed: watch::Receiver<()>,
    seen: BTreeMap<RealmId, (PublicKey, PeerLinkCounters)>,
}

impl PeerLinkEvents {
    fn new(links: &PeerLinkTable) -> Self {
        Self {
            changed: links.changed(),
            seen: BTreeMap::new(),
        }
    }

    /// Watches the links with these peers from now on.
    fn watch(&mut self, peers: &[Peer], are_all: bool) {
        if are_all {
            let is_there = |realm: &RealmId| peers.iter().any(|peer| peer.realm == *realm);
            self.seen.retain(|realm, _| is_there(realm));
        }
        for peer in peers {
            let (key, before) = (peer.key(), self.seen.get(&peer.realm));
            let seen = before.filter(|(known, _)| *known == key);
            let seen = seen.map_or_else(PeerLinkCounters::default, |(_, seen)| *seen);
            self.seen.insert(peer.realm, (key, seen));
        }
        // Events may have happened before.
        self.changed.mark_changed();
    }

    /// Waits until events may have happened or are due.
    async fn changed(&mut self, links: &PeerLinkTable) {
        let due = links.poll_timeout();
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.changed.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = due => {}
        }
    }

    /// Returns the events since the last call.
    fn take(&mut self, links: &PeerLinkTable) -> Vec<Input> {
        let mut inputs = Vec::new();
        links.handle_timeout();
        for (realm, (key, seen)) in &mut self.seen {
            let counters = links.counters(key);
            if counters.reintroductions > seen.reintroductions {
                inputs.push(Input::Reintroduce(*realm));
            }
            if counters.dial_backs > seen.dial_backs {
                inputs.push(Input::DialBack(*realm));
            }
            *seen = counters;
        }
        inputs
    }
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
        self.growth = Some(realm.queues.queues_grown(&self.peers));
    }

    /// Waits for growth. Returns the peers whose queues have grown, or None when the store is
    /// closed.
    async fn grown(&mut self) -> Option<Vec<RealmId>> {
        let Some(growth) = &mut self.growth else {
            return std::future::pending().await;
        };
        let grown = growth.grown().await?;
        let grown = grown.iter().filter_map(|at| self.peers.get(*at)).copied();
        Some(grown.collect())
    }
}

/// Sleeps until a moment since the start of the clock, or without end.
async fn sleep_until(at: Option<Duration>, clock: &Clock) {
    match at.map(|at| at.saturating_sub(clock.now().since_start())) {
        // Timers are limited to this length.
        Some(left) if left < LONGEST_SLEEP => tokio::time::sleep(left).await,
        Some(_) | None => std::future::pending().await,
    }
}
