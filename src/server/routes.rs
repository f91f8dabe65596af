//! Routes a request to a peer: over an open link at any worker (PEER-24), or over a new link to its
//! address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::CryptoRng;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{
    host_port::HostPort,
    outbound::{AWAITED, DialPurpose, LinkChoice, OutboundRequest, RequestResult},
    peer_link_table::PeerLinkTable,
};
use crate::{
    crypto::PublicKey,
    federation::SeatSearch,
    rate_limit::{RateLimit, RateLimiter},
    realm::{Dialing, Peer, PeerCall},
    subnet::Subnet,
    wire::PeerRequest,
};

/// How long the search for a listener and an address may take, name resolution included.
const FIND_PATIENCE: Duration = Duration::from_secs(12);
/// How long the addresses of a name with several addresses are probed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a probed address is used before the name is probed again.
const PROBE_AGAIN: Duration = Duration::from_mins(5);
/// The largest number of addresses of a name that are probed. Further ones are ignored.
const CANDIDATES_MAX: usize = 8;
/// The largest number of links that are tried in turn for one request. Few links end in the
/// meantime.
const LINKS_TRIED: usize = 4;

/// How often each claimed address is tried, counted separately for added and uninvited peers.
const CLAIMED: RateLimit = RateLimit::per_hour(1);
/// The number of claimed addresses that are counted.
const CLAIMED_COUNTED: usize = 1 << 12;

/// Which of several addresses of a name is taken.
#[derive(Clone, Copy, Debug)]
enum Candidates {
    /// The first one.
    First,
    /// The first one that answers, preferably with this key.
    Probed(Option<PublicKey>),
}

/// For the host and port of each peer with several addresses: when which address last answered.
type Probed = Mutex<BTreeMap<HostPort, (Instant, SocketAddr)>>;

/// A listener that sends requests to other realms, and the source address of these.
#[derive(Clone, Debug)]
pub struct Route {
    pub source: HostPort,
    /// True if its socket reaches IPv6 addresses, false for IPv4.
    pub is_ipv6: bool,
    /// True if it serves this machine only.
    pub is_local: bool,
    /// The request queues of its workers. The first worker opens links.
    pub workers: Vec<mpsc::Sender<OutboundRequest>>,
}

impl Route {
    /// Sends the request by a worker. Fails if that worker no longer exists.
    async fn send(&self, worker: usize, request: OutboundRequest) -> Result<(), WorkerGone> {
        let worker = self.workers.get(worker).ok_or(WorkerGone)?;
        worker.send(request).await.map_err(|_| WorkerGone)
    }
}

/// The worker has ended: the server stops.
#[derive(Debug)]
struct WorkerGone;

/// The listeners that send requests to peers, by number, and the table of links with peers.
#[derive(Debug)]
pub struct Routes {
    all: Vec<Route>,
    links: Arc<PeerLinkTable>,
    probed: Probed,
    /// The rate limit of tries per claimed address.
    claimed: RateLimiter,
    began: Instant,
}

impl Routes {
    pub fn new(all: Vec<Route>, links: Arc<PeerLinkTable>, rng: &mut impl CryptoRng) -> Self {
        Self {
            all,
            links,
            probed: Probed::default(),
            claimed: RateLimiter::new(CLAIMED_COUNTED, rng),
            began: Instant::now(),
        }
    }

    pub fn links(&self) -> &PeerLinkTable {
        &self.links
    }

    /// Carries out a call to a peer.
    pub async fn run(&self, call: PeerCall) {
        match call {
            PeerCall::Who {
                address,
                port,
                answer,
            } => {
                let name = HostPort {
                    host: address,
                    port,
                };
                let finding = self.find(&name, None, Candidates::Probed(None));
                let found = tokio::time::timeout(FIND_PATIENCE, finding).await;
                if let Ok(Some((route, address))) = found {
                    // After the server has stopped, nobody waits for the answer.
                    let _ = route.send(0, OutboundRequest::Hello(address, answer)).await;
                }
            }
            PeerCall::Ask {
                peer,
                bytes,
                is_awaited,
                dialing,
                answer,
            } => {
                let asking = self.ask(&peer, bytes, is_awaited, dialing);
                // The limit covers all links that are tried in turn.
                let limit = if is_awaited { AWAITED } else { Duration::MAX };
                if let Ok(Some((told, _))) = tokio::time::timeout(limit, asking).await {
                    // The caller may have stopped waiting.
                    let _ = answer.send(told);
                }
            }
        }
    }

    /// Sends a request to a peer when no client waits for the answer. The timeout fits the longest
    /// and slowest path.
    pub async fn ask_alone(&self, peer: &Peer, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let asked = self.ask(peer, bytes, false, peer.dialing()).await;
        asked.map(|(told, _)| told)
    }

    /// Sends a request to a peer at its claimed address only. Returns the answer and its IP
    /// address.
    pub async fn try_at_claim(&self, peer: &Peer, bytes: Vec<u8>) -> Option<(Vec<u8>, IpAddr)> {
        let (told, at) = self.ask(peer, bytes, false, Dialing::Once).await?;
        Some((told, at?))
    }

    /// Sends a request to a peer. Tries the next link if one turns out to have ended. Returns the
    /// answer, if it comes in time, and the address that was dialled for it.
    async fn ask(
        &self,
        peer: &Peer,
        bytes: Vec<u8>,
        is_awaited: bool,
        dialing: Dialing,
    ) -> Option<(Vec<u8>, Option<IpAddr>)> {
        let has_address = !peer.address().0.is_empty() && peer.address().1 > 0;
        let mut dialing = if has_address { dialing } else { Dialing::Never };
        let key = peer.key();
        let _request = self.links.begin_request(&key);
        let listener = self.listener_of(peer);
        // An introduction opens a link if it may, so that the other side sees that it can.
        let is_back = matches!(PeerRequest::parse(&bytes), Ok(PeerRequest::Introduce(_)));
        for _ in 0..LINKS_TRIED {
            let (route, worker, link) = self.route(peer, listener, is_back, dialing).await?;
            let dialed = match link {
                LinkChoice::Dial(address, _) => Some(address.ip()),
                LinkChoice::Open => None,
            };
            let (answer, result) = oneshot::channel();
            let request = OutboundRequest::Ask {
                own: peer.knows(),
                key,
                link,
                bytes: bytes.clone(),
                is_awaited,
                answer,
            };
            route.send(worker, request).await.ok()?;
            match result.await {
                Ok(RequestResult::Answered(answer)) => return Some((answer, dialed)),
                Ok(RequestResult::Reached) => return Some((Vec::new(), dialed)),
                Ok(RequestResult::OtherLink) if dialing == Dialing::Once => return None,
                Ok(RequestResult::OtherLink) if dialed.is_some() => {
                    self.links.not_reached(&key, listener);
                    dialing = Dialing::Never;
                }
                Ok(RequestResult::OtherLink) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Returns the number of the listener whose address the peer is told: the first one if this
    /// realm has that address no more. That happens when the configuration has changed since the
    /// peering began.
    fn listener_of(&self, peer: &Peer) -> usize {
        let source = HostPort::from(peer.source());
        let named = self.all.iter().position(|route| route.source == source);
        named.unwrap_or_else(|| {
            let HostPort { host, port } = source;
            tracing::debug!(peer = %peer.realm, host, port, "source address of peering was not found, and the first listener was used");
            // The first listener.
            0
        })
    }

    /// Returns the listener, the worker and the link that the request takes.
    async fn route(
        &self,
        peer: &Peer,
        listener: usize,
        is_back: bool,
        dialing: Dialing,
    ) -> Option<(&Route, usize, LinkChoice)> {
        let (key, is_once) = (peer.key(), dialing == Dialing::Once);
        let reach = match dialing {
            Dialing::Freely => SeatSearch::Listener,
            Dialing::Once | Dialing::Never => SeatSearch::All,
        };
        let there = self.links.seat(&key, listener, reach);
        // The first worker decides itself how to use its own links.
        let is_first = there.is_none_or(|seat| seat.listener == listener && seat.worker == 0);
        let is_called = match dialing {
            Dialing::Freely => is_back || is_first,
            // The request tests whether the peer is at this address.
            Dialing::Once => true,
            Dialing::Never => false,
        };
        let mut seat = there;
        if is_called {
            // A claimed name may have several addresses; none of them is verified, so they are not
            // probed.
            let (address, source) = (peer.address().into(), peer.source().into());
            let candidates = if is_once {
                Candidates::First
            } else {
                Candidates::Probed(Some(key))
            };
            let finding = self.find(&address, Some(&source), candidates);
            let found = tokio::time::timeout(FIND_PATIENCE, finding).await;
            let found = found.ok().flatten();
            let found = found.filter(|(route, at)| !is_once || self.may_try(peer, route, at.ip()));
            if let Some((route, address)) = found {
                let purpose = if is_once {
                    DialPurpose::AddressTest
                } else if is_back {
                    DialPurpose::DialBack
                } else {
                    DialPurpose::Request
                };
                return Some((route, 0, LinkChoice::Dial(address, purpose)));
            }
            if is_once {
                return None;
            }
            // The name does not resolve now. An open link may still work.
            seat = self.links.seat(&key, listener, SeatSearch::All);
        }
        let seat = seat?;
        let route = self.all.get(seat.listener)?;
        Some((route, seat.worker, LinkChoice::Open))
    }

    /// True if a peer may be tried at its claimed address (PEER-23). Limits how often a third party
    /// at that address receives packets, under however many names.
    fn may_try(&self, peer: &Peer, route: &Route, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is_for_many = match ip {
            IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        let is_here = ip.is_loopback() && !route.is_local;
        if is_for_many || is_here || ip.is_unspecified() {
            tracing::info!(
                peer = %peer.realm, %ip,
                reason = "a realm cannot have this address, or it is of this machine",
                "claimed address of peer was not tried"
            );
            return false;
        }
        // An attacker can have any number of addresses in an IPv6 subnet, so the subnet is counted.
        let counted = match ip {
            IpAddr::V4(ip) => ip.octets().into(),
            IpAddr::V6(_) => Subnet::from(ip).as_bytes().to_vec(),
        };
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let taken = self.claimed.take(now, &(counted, peer.is_added()), CLAIMED);
        if taken.is_err() {
            tracing::info!(
                peer = %peer.realm, %ip,
                limit = %CLAIMED,
                retry = "at a later claim",
                "claimed address of peer was not tried"
            );
        }
        taken.is_ok()
    }

    /// Resolves the host and returns an address with a listener that reaches it: the listener with
    /// the given source, or else the first one of the address's family.
    async fn find(
        &self,
        name: &HostPort,
        source: Option<&HostPort>,
        candidates: Candidates,
    ) -> Option<(&Route, SocketAddr)> {
        let (routes, probed) = (&self.all, &self.probed);
        let host = name.host.as_str();
        let found: Vec<_> = match tokio::net::lookup_host((host, name.port)).await {
            Ok(mut found) => {
                let taken = found.by_ref().take(CANDIDATES_MAX).collect();
                let ignored = found.count();
                if ignored > 0 {
                    tracing::warn!(
                        host,
                        tried = CANDIDATES_MAX,
                        ignored,
                        "addresses of peer's name were ignored"
                    );
                }
                taken
            }
            Err(error) => {
                tracing::warn!(host, %error, "peer's name did not resolve");
                return None;
            }
        };
        let named = routes.iter().filter(|route| Some(&route.source) == source);
        let mut pairs: Vec<(&Route, SocketAddr)> = Vec::new();
        for route in named.chain(routes) {
            for address in &found {
                let is_new = pairs.iter().all(|(_, known)| known != address);
                if is_new && address.is_ipv6() == route.is_ipv6 {
                    pairs.push((route, *address));
                }
            }
        }
        let Some(first) = pairs.first().copied() else {
            tracing::warn!(
                host, addresses = ?found,
                reason = "no [[listen]] address is of the same family (IPv4 or IPv6)",
                "peer was not called"
            );
            return None;
        };
        let key = match candidates {
            Candidates::Probed(key) if pairs.len() > 1 => key,
            Candidates::Probed(_) | Candidates::First => return Some(first),
        };
        let known = {
            let mut probed = probed.lock().unwrap_or_else(PoisonError::into_inner);
            probed.retain(|_, (at, _)| at.elapsed() < PROBE_AGAIN);
            probed.get(name).map(|(_, address)| *address)
        };
        if let Some(pair) = pairs.iter().find(|(_, address)| Some(*address) == known) {
            return Some(*pair);
        }
        let Some(pair) = probe(&pairs, key).await else {
            return Some(first);
        };
        let mut probed = probed.lock().unwrap_or_else(PoisonError::into_inner);
        probed.insert(name.clone(), (Instant::now(), pair.1));
        Some(pair)
    }
}

/// Asks every address for its key. Returns the first with `key`, or else the first that answers.
async fn probe<'a>(
    pairs: &[(&'a Route, SocketAddr)],
    key: Option<PublicKey>,
) -> Option<(&'a Route, SocketAddr)> {
    let mut replies = JoinSet::new();
    for (which, (route, address)) in pairs.iter().enumerate() {
        let (worker, address) = (route.workers.first().cloned(), *address);
        replies.spawn(async move {
            let (answer, answered) = oneshot::channel();
            worker?
                .send(OutboundRequest::Hello(address, answer))
                .await
                .ok()?;
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
            // A peer with a new key answers with that one.
            first.get_or_insert(which);
        }
    };
    let _ = tokio::time::timeout(PROBE_TIMEOUT, collecting).await;
    pairs.get(first?).copied()
}
