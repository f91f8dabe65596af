//! How a question reaches a peer: over a link that is there, wherever that is (PEER-24), or over one to its address.

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
    outbound::{AWAITED, By, OutboundRequest, Told},
    peer_link_table::Links,
};
use crate::{
    crypto::PublicKey,
    rate_limit::{RateLimit, RateLimiter},
    realm::{Dialing, Peer, PeerCall},
    subnet::Subnet,
    wire::PeerRequest,
};

/// How long the wait for a listener for a question may take, name look-up included.
const ERRAND_PATIENCE: Duration = Duration::from_secs(12);
/// How long the addresses of a name that has several are probed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the address that answered a probe is used before it is probed again.
const PROBE_AGAIN: Duration = Duration::from_mins(5);
/// Addresses of a name that are probed; further ones are ignored.
const CANDIDATES_MAX: usize = 8;
/// Links by which one question is tried, one after another. Those that end meanwhile are few.
const LINKS_TRIED: usize = 4;

/// How often an address is tried that peers say of themselves: by those that were added, and by those that were not.
const CLAIMED: RateLimit = RateLimit::per_hour(1);
/// Such addresses that are counted.
const CLAIMED_COUNTED: usize = 1 << 12;

/// By host and port of the peers whose name has several addresses: the one that answered last, and when.
type Probed = Mutex<BTreeMap<(String, u16), (Instant, SocketAddr)>>;

/// A listener that asks other realms, and how they reach it.
#[derive(Clone, Debug)]
pub struct Route {
    pub source: (String, u16),
    /// Its socket leads to IPv6 addresses, or else to IPv4 ones.
    pub is_ipv6: bool,
    /// It is for this machine alone.
    pub is_local: bool,
    /// Those of its workers, the first of which opens links.
    pub calls: Vec<mpsc::Sender<OutboundRequest>>,
}

impl Route {
    /// Has one of its workers ask. False when there is no such worker any more.
    async fn call(&self, worker: usize, call: OutboundRequest) -> bool {
        match self.calls.get(worker) {
            Some(calls) => calls.send(call).await.is_ok(),
            None => false,
        }
    }
}

/// The listeners by which this realm asks others, by their numbers, and what is known of the links with them.
#[derive(Debug)]
pub struct Routes {
    all: Vec<Route>,
    links: Arc<Links>,
    probed: Probed,
    /// How often each address is tried that peers say of themselves.
    claimed: RateLimiter,
    began: Instant,
}

impl Routes {
    pub fn new(all: Vec<Route>, links: Arc<Links>, rng: &mut impl CryptoRng) -> Self {
        Self {
            all,
            links,
            probed: Probed::default(),
            claimed: RateLimiter::new(CLAIMED_COUNTED, rng),
            began: Instant::now(),
        }
    }

    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Runs an errand.
    pub async fn run(&self, errand: PeerCall) {
        match errand {
            PeerCall::Who {
                address,
                port,
                answer,
            } => {
                let finding = self.find((&address, port), (None, None), true);
                let found = tokio::time::timeout(ERRAND_PATIENCE, finding).await;
                if let Ok(Some((way, address))) = found {
                    way.call(0, OutboundRequest::Who(address, answer)).await;
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
                // Over however many links, one after the other.
                let limit = if is_awaited { AWAITED } else { Duration::MAX };
                if let Ok(Some((told, _))) = tokio::time::timeout(limit, asking).await {
                    // Whoever asked may have stopped waiting.
                    let _ = answer.send(told);
                }
            }
        }
    }

    /// Asks a peer when nobody waits: for as long as that may make sense on the longest and narrowest of ways.
    pub async fn ask_alone(&self, peer: &Peer, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let asked = self.ask(peer, bytes, false, peer.dialing()).await;
        asked.map(|(told, _)| told)
    }

    /// Asks a peer at the address that it says of itself, and nowhere else; its answer, and from where.
    pub async fn try_at_claim(&self, peer: &Peer, bytes: Vec<u8>) -> Option<(Vec<u8>, IpAddr)> {
        let (told, at) = self.ask(peer, bytes, false, Dialing::Once).await?;
        Some((told, at?))
    }

    /// Asks a peer, over one link after another while they turn out to be none; its answer, if it gives one in time, and the address that was called
    /// for it.
    async fn ask(
        &self,
        peer: &Peer,
        bytes: Vec<u8>,
        is_awaited: bool,
        dialing: Dialing,
    ) -> Option<(Vec<u8>, Option<IpAddr>)> {
        let has_address = !peer.address().0.is_empty() && peer.address().1 > 0;
        let mut dialing = if has_address { dialing } else { Dialing::Never };
        let (key, (name, number)) = (peer.key(), peer.source());
        let source = (name.to_string(), number);
        let listener = self.all.iter().position(|way| way.source == source);
        let listener = listener.unwrap_or(0);
        // Who introduces itself calls, if it may: so the other sees that it can be called.
        let is_back = matches!(
            PeerRequest::parse(&bytes),
            Ok(PeerRequest::Introduce { .. })
        );
        for _ in 0..LINKS_TRIED {
            let (way, worker, by) = self.route(peer, listener, is_back, dialing).await?;
            let called = match by {
                By::Address { address, .. } => Some(address.ip()),
                By::LinkThere => None,
            };
            let (answer, told) = oneshot::channel();
            let call = OutboundRequest::Ask {
                own: peer.knows(),
                key,
                by,
                bytes: bytes.clone(),
                is_awaited,
                answer,
            };
            if !way.call(worker, call).await {
                return None;
            }
            match told.await {
                Ok(Told::Answer(answer)) => return Some((answer, called)),
                Ok(Told::There) => return Some((Vec::new(), called)),
                Ok(Told::Elsewhere) if dialing == Dialing::Once => return None,
                Ok(Told::Elsewhere) if called.is_some() => {
                    self.links.not_reached(&key, listener);
                    dialing = Dialing::Never;
                }
                Ok(Told::Elsewhere) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// By which worker of which listener a peer is asked, and over which link.
    async fn route(
        &self,
        peer: &Peer,
        listener: usize,
        is_back: bool,
        dialing: Dialing,
    ) -> Option<(&Route, usize, By)> {
        let (key, is_once) = (peer.key(), dialing == Dialing::Once);
        let there = self.links.seat(&key, listener, dialing != Dialing::Freely);
        // The first worker knows best what to do with the links that it has itself.
        let is_first = there.is_none_or(|seat| seat.listener == listener && seat.worker == 0);
        let is_called = match dialing {
            Dialing::Freely => is_back || is_first,
            // The question is whether it is there.
            Dialing::Once => true,
            Dialing::Never => false,
        };
        let mut seat = there;
        if is_called {
            // Nobody vouches for several addresses either.
            let (name, number) = peer.source();
            let source = (name.to_string(), number);
            let finding = self.find(peer.address(), (Some(&source), Some(key)), !is_once);
            let found = tokio::time::timeout(ERRAND_PATIENCE, finding).await;
            let found = found.ok().flatten();
            let found = found.filter(|(way, at)| !is_once || self.may_try(peer, way, at.ip()));
            if let Some((way, address)) = found {
                let by = By::Address {
                    address,
                    is_once,
                    is_back,
                };
                return Some((way, 0, by));
            }
            if is_once {
                return None;
            }
            // Its name leads nowhere now, which says nothing of a link that is open.
            seat = self.links.seat(&key, listener, true);
        }
        let seat = seat?;
        Some((self.all.get(seat.listener)?, seat.worker, By::LinkThere))
    }

    /// Whether a peer may be looked for at an address that it says of itself (PEER-23): nobody else is to hear of that often, under however
    /// many names.
    fn may_try(&self, peer: &Peer, way: &Route, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is_for_many = match ip {
            IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        let is_here = ip.is_loopback() && !way.is_local;
        if is_for_many || is_here || ip.is_unspecified() {
            tracing::info!(peer = %peer.realm, %ip, "a peer says that it is at an address that no realm is called at, or at one of this machine; it is not tried there");
            return false;
        }
        // In an IPv6 subnet there are as many as anybody likes.
        let place = match ip {
            IpAddr::V4(ip) => ip.octets().into(),
            IpAddr::V6(_) => Subnet::from(ip).as_bytes().to_vec(),
        };
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let taken = self.claimed.take(now, &(place, peer.is_added()), CLAIMED);
        if taken.is_err() {
            tracing::info!(peer = %peer.realm, %ip, "a peer says that it is at an address that was tried often lately; it is not tried there before it says so again later");
        }
        taken.is_ok()
    }

    /// Finds an address of `host`, and a way there: the one whose source is named, or else the first that leads to an
    /// address of that kind. Of several addresses the first that answers is taken, if possible one that goes by `key`.
    async fn find(
        &self,
        (host, port): (&str, u16),
        (source, key): (Option<&(String, u16)>, Option<PublicKey>),
        may_probe: bool,
    ) -> Option<(&Route, SocketAddr)> {
        let (ways, probed) = (&self.all, &self.probed);
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
        let mut pairs: Vec<(&Route, SocketAddr)> = Vec::new();
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
        if pairs.len() == 1 || !may_probe {
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
}

/// Asks at all addresses who is there. The first that goes by `key` wins, or else the first that answers.
async fn probe<'a>(
    pairs: &[(&'a Route, SocketAddr)],
    key: Option<PublicKey>,
) -> Option<(&'a Route, SocketAddr)> {
    let mut replies = JoinSet::new();
    for (which, (way, address)) in pairs.iter().enumerate() {
        let (calls, address) = (way.calls.first().cloned(), *address);
        replies.spawn(async move {
            let (answer, answered) = oneshot::channel();
            calls?
                .send(OutboundRequest::Who(address, answer))
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
            // A peer that has a new key goes by that one in its reply.
            first.get_or_insert(which);
        }
    };
    let _ = tokio::time::timeout(PROBE_TIMEOUT, collecting).await;
    pairs.get(first?).copied()
}
