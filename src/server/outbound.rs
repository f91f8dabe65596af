//! Requests from a listener to other realms, over a link that the peer has opened or over one that
//! this realm opens.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::sync::oneshot;

use super::peer_link_table::WorkerLinks;
use crate::{
    crypto::PublicKey,
    endpoint::{AddressSource, EarlyData, Endpoint, LinkId, LinkStatus},
    faults::{Fault, is_planted},
    link::Time,
    wire::{HelloReply, PROTOCOL_VERSION, PeerRequest, RequestId},
};

/// The longest silence of a peer while a client waits, in addition to three round trips.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same when no client waits, in addition to six round trips. On a slow path an answer may take
/// longer, and a repeated request would use more of the path.
const PATIENCE_ALONE: Duration = Duration::from_secs(20);
/// The longest time for one request.
const LONGEST: Duration = Duration::from_mins(30);
/// The longest time that a client waits, even if other packets from the peer arrive.
pub const AWAITED: Duration = Duration::from_mins(3);
/// The longest time for a request to a peer that has never answered, to measure its round trip.
const FIRST: Duration = Duration::from_mins(3);

/// The longest time for opening a link while the peer has another one open, in addition to three
/// round trips on that.
const OPENING: Duration = Duration::from_secs(3);

/// The link that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChoice {
    /// An open link.
    Open,
    /// A link to this address, which is opened if needed.
    Dial(SocketAddr, DialPurpose),
}

/// Why a request takes a link to a certain address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialPurpose {
    /// To be answered: any link with the peer will do.
    Request,
    /// The link must be opened by this realm, even if the peer has opened one. It shows the peer
    /// that this works.
    DialBack,
    /// The request tests whether the peer is at this address: the Init is sent only a few times,
    /// and an answer over another link does not count (PEER-23).
    AddressTest,
}

/// The result that the requester receives.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestResult {
    /// The answer.
    Answered(Vec<u8>),
    /// The peer is at the tested address but has not answered: the link to it has opened, which no
    /// other party could have caused.
    Reached,
    /// There is no such link, or another worker has a better one.
    OtherLink,
}

/// A request to another realm.
#[derive(Debug)]
pub enum OutboundRequest {
    /// Asks which key an address has.
    Hello(SocketAddr, oneshot::Sender<PublicKey>),
    /// A request to the realm with that key.
    Ask {
        /// The key of this realm that the peer knows.
        own: PublicKey,
        key: PublicKey,
        link: LinkChoice,
        bytes: Vec<u8>,
        /// True if a client waits for the answer.
        is_awaited: bool,
        answer: oneshot::Sender<RequestResult>,
    },
}

/// The requests in progress. Without an answer the requester receives nothing: the sender is
/// dropped.
#[derive(Debug, Default)]
pub struct OutboundRequests {
    hellos: Vec<(SocketAddr, oneshot::Sender<PublicKey>)>,
    pending: BTreeMap<(LinkId, RequestId), PendingRequest>,
}

#[derive(Debug)]
struct PendingRequest {
    since: Time,
    key: PublicKey,
    /// Why this realm opens the link, if it does. A link that the peer opens in the meantime does
    /// not show that this realm can open one.
    purpose: DialPurpose,
    /// The peer is at this address: the link has opened.
    is_there: bool,
    /// Until when the link may take to open if there is another.
    opens_by: Time,
    /// The time for opening the link is over.
    is_looked_at: bool,
    is_awaited: bool,
    answer: oneshot::Sender<RequestResult>,
}

impl PendingRequest {
    /// Ends the request without an answer.
    fn leave(self) {
        if self.purpose == DialPurpose::AddressTest && self.is_there {
            // The requester may have stopped waiting.
            let _ = self.answer.send(RequestResult::Reached);
        }
    }

    /// Returns when the peer counts as silent. The path may be long or slow, and the request large.
    fn until(&self, endpoint: &Endpoint, link: LinkId) -> Time {
        let link = endpoint.link(link);
        let heard = link
            .and_then(LinkStatus::heard)
            .map_or(self.since, |heard| heard.max(self.since));
        match (self.is_awaited, link.and_then(LinkStatus::rtt)) {
            (true, rtt) => {
                let until = heard + PATIENCE + rtt.unwrap_or_default() * 3;
                until.min(self.since + AWAITED)
            }
            (false, Some(rtt)) => heard + PATIENCE_ALONE + rtt * 6,
            (false, None) => heard + FIRST,
        }
    }
}

impl OutboundRequests {
    pub fn begin(&mut self, now: Time, endpoint: &mut Endpoint, request: OutboundRequest) {
        match request {
            OutboundRequest::Hello(address, answer) => {
                if endpoint.ask_hello(now, address) {
                    self.hellos.push((address, answer));
                }
            }
            OutboundRequest::Ask {
                own,
                key,
                link,
                bytes,
                is_awaited,
                answer,
            } => {
                let (link, purpose) = match link {
                    LinkChoice::Open => (endpoint.find_open_link(&own, &key), DialPurpose::Request),
                    LinkChoice::Dial(address, purpose) => {
                        let link = match purpose {
                            DialPurpose::Request => {
                                endpoint.link_for_requests(now, &own, key, address)
                            }
                            DialPurpose::DialBack => {
                                endpoint.dial(now, &own, key, address, AddressSource::Vouched)
                            }
                            DialPurpose::AddressTest => {
                                endpoint.dial(now, &own, key, address, AddressSource::Claimed)
                            }
                        };
                        (Some(link), purpose)
                    }
                };
                let Some(link) = link else {
                    let _ = answer.send(RequestResult::OtherLink);
                    return;
                };
                let early = EarlyData::allowed_if(
                    PeerRequest::parse(&bytes).is_ok_and(|request| request.may_travel_early()),
                );
                let rtt = endpoint.link(link).and_then(LinkStatus::rtt);
                let deadline = now + rtt.map_or(FIRST, |_| LONGEST);
                // Where the round trip is long, opening a link takes long, too.
                let there = endpoint.find_open_link(&own, &key);
                let rtt = there
                    .and_then(|link| endpoint.link(link))
                    .and_then(LinkStatus::rtt);
                let opens_by = now + OPENING + rtt.unwrap_or_default() * 3;
                if let Some(number) = endpoint.request(now, link, bytes, deadline, early) {
                    let request = PendingRequest {
                        since: now,
                        key,
                        purpose,
                        is_there: false,
                        opens_by,
                        is_looked_at: false,
                        is_awaited,
                        answer,
                    };
                    self.pending.insert((link, number), request);
                }
            }
        }
    }

    /// Ends the requests whose requester has stopped waiting.
    pub fn tidy(&mut self, now: Time, endpoint: &mut Endpoint) {
        let left = self
            .pending
            .extract_if(.., |_, request| request.answer.is_closed());
        for ((link, number), _) in left {
            endpoint.give_up(now, link, number);
            // Otherwise the endpoint would keep sending Inits for the ended request.
            endpoint.end_idle_dial(link);
        }
        self.hellos.retain(|(address, answer)| {
            if answer.is_closed() {
                endpoint.stop_asking(*address);
            }
            !answer.is_closed()
        });
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.hellos.len() + self.pending.len()
    }

    pub fn answered(&mut self, link: LinkId, number: RequestId, answer: Vec<u8>) {
        if let Some(waiting) = self.pending.remove(&(link, number)) {
            // The requester may have stopped waiting.
            let _ = waiting.answer.send(RequestResult::Answered(answer));
        }
    }

    /// Ends requests with [`RequestResult::OtherLink`] if the peer has opened a link at another
    /// worker since, or if the link here does not open in time.
    pub fn look_elsewhere(&mut self, now: Time, endpoint: &mut Endpoint, links: &WorkerLinks) {
        let mut elsewhere = Vec::new();
        let pending = self
            .pending
            .iter()
            .filter(|(_, request)| request.purpose != DialPurpose::AddressTest);
        for ((link, number), request) in pending {
            let is_better = if endpoint.link(*link).is_some_and(LinkStatus::is_dialing) {
                // If the peer opens a link at this worker, the endpoint moves the request to it.
                let latest = links.table().latest(&request.key);
                let is_back = request.purpose == DialPurpose::DialBack;
                let is_elsewhere = |seat| seat != links.seat() && !is_back;
                latest.is_some_and(|seat| request.opens_by <= now || is_elsewhere(seat))
            } else {
                links.is_superseded(&request.key, *link)
            };
            if is_better {
                elsewhere.push((*link, *number));
            }
        }
        for which in elsewhere {
            if let Some(request) = self.pending.remove(&which) {
                let _ = request.answer.send(RequestResult::OtherLink);
            }
            endpoint.give_up(now, which.0, which.1);
        }
    }

    /// Records that a request now waits for its answer on another link.
    pub fn moved(
        &mut self,
        now: Time,
        endpoint: &mut Endpoint,
        from: (LinkId, RequestId),
        to: (LinkId, RequestId),
    ) {
        match self.pending.remove(&from) {
            Some(request)
                if request.purpose == DialPurpose::AddressTest
                    && !is_planted(Fault::BelieveAnyLink) =>
            {
                endpoint.give_up(now, to.0, to.1);
                request.leave();
            }
            Some(request) => {
                self.pending.insert(to, request);
            }
            None => {}
        }
    }

    /// Handles that no answer has come in time.
    pub fn expired(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId, number: RequestId) {
        if let Some(request) = self.pending.remove(&(link, number)) {
            request.leave();
        }
        endpoint.distrust(now, link);
    }

    /// Returns when [`OutboundRequests::handle_timeout`] must be called next.
    pub fn timeout(&self, endpoint: &Endpoint) -> Option<Time> {
        let pending = self.pending.iter();
        pending
            .map(|((link, _), request)| {
                let until = request.until(endpoint, *link);
                let is_looked_at = request.is_looked_at
                    || request.purpose == DialPurpose::AddressTest
                    || !endpoint.link(*link).is_some_and(LinkStatus::is_dialing);
                if is_looked_at {
                    until
                } else {
                    until.min(request.opens_by)
                }
            })
            .min()
    }

    /// Ends the requests to silent peers.
    pub fn handle_timeout(&mut self, now: Time, endpoint: &mut Endpoint, links: &WorkerLinks) {
        self.look_elsewhere(now, endpoint, links);
        for request in self.pending.values_mut() {
            request.is_looked_at |= request.opens_by <= now;
        }
        let silent: Vec<(LinkId, RequestId)> = self
            .pending
            .iter()
            .filter(|((link, _), request)| request.until(endpoint, *link) <= now)
            .map(|(which, _)| *which)
            .collect();
        for (link, number) in silent {
            let request = self.pending.remove(&(link, number));
            let is_sure = request.as_ref().is_some_and(|request| !request.is_awaited);
            if let Some(request) = request {
                request.leave();
            }
            // A peer without a measured round trip may be far away. The request goes on, to measure
            // it.
            if is_sure || endpoint.link(link).and_then(LinkStatus::rtt).is_some() {
                endpoint.give_up(now, link, number);
            }
        }
    }

    /// Handles that a link to a tested address has opened.
    pub fn opened(&mut self, link: LinkId) {
        for ((on, _), request) in &mut self.pending {
            request.is_there |= *on == link;
        }
    }

    pub fn closed(&mut self, link: LinkId) {
        let ended = self.pending.extract_if(.., |(on, _), _| *on == link);
        ended.for_each(|(_, request)| request.leave());
    }

    pub fn introduced(&mut self, address: SocketAddr, reply: &HelloReply) {
        let hellos = std::mem::take(&mut self.hellos);
        let is_understood = reply.versions.contains(&PROTOCOL_VERSION);
        if !is_understood {
            tracing::warn!(%address, versions = ?reply.versions, "peer answered with other versions of the protocol; one of the two needs another release");
        }
        for (at, answer) in hellos {
            if at == address && !is_understood {
                // HS-6: no Init is sent there. The requester gets no answer.
                drop(answer);
            } else if at == address {
                let _ = answer.send(PublicKey(reply.key));
            } else {
                self.hellos.push((at, answer));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        crypto::SecretKey,
        endpoint,
        federation::Seat,
        link::{Redundancy, Silence},
    };

    /// Returns a request to a key over a link to its address, and the receiver of its result.
    fn question(
        n: u8,
        purpose: DialPurpose,
        is_awaited: bool,
    ) -> (OutboundRequest, oneshot::Receiver<RequestResult>) {
        let (answer, result) = oneshot::channel();
        let address = SocketAddr::from(([192, 0, 2, 1], 6377));
        let request = OutboundRequest::Ask {
            own: SecretKey::from_bytes([1; 32]).public(),
            key: SecretKey::from_bytes([n; 32]).public(),
            link: LinkChoice::Dial(address, purpose),
            bytes: vec![1],
            is_awaited,
            answer,
        };
        (request, result)
    }

    /// PEER-5: the wait for a peer covers its round trip. Found by the simulator: realms gave each
    /// other up after ten seconds although a round trip took longer.
    #[test]
    fn peer_request_waits_as_long_as_round_trip_may_take() {
        let identity = SecretKey::from_bytes([1; 32]);
        let config = endpoint::Config {
            accept: None,
            hello: None,
            early_data: true,
            resumes: false,
            worker: endpoint::WorkerId::ALONE,
            max_datagram: 1200,
            max_message: 20_000,
            rate: None,
            redundancy: Redundancy::Auto,
            lifetime: endpoint::LINK_LIFETIME,
            links_max: 10,
            memory_max: usize::MAX,
            handshakes: endpoint::Handshakes::default(),
            idle: Duration::MAX,
            shared_idle: Duration::from_hours(1),
        };
        let mut endpoint = Endpoint::new(config, &identity.clone().into(), [1; 32]);
        let mut requests = OutboundRequests::default();
        let seat = Seat {
            listener: 0,
            worker: 0,
        };
        let silence = Silence::fixed(Duration::from_secs(30));
        let links = WorkerLinks::new(
            &Arc::new(super::super::peer_link_table::PeerLinkTable::new(
                identity.public(),
            )),
            seat,
            silence,
        );
        let begun = Time(1_000_000);
        let mut ask = |is_awaited| {
            let (request, result) = question(2, DialPurpose::Request, is_awaited);
            requests.begin(begun, &mut endpoint, request);
            result
        };
        let (mut awaited, mut alone) = (ask(true), ask(false));
        for (seconds, waiting) in [(9, [true, true]), (10, [false, true]), (179, [false, true])] {
            let now = begun + Duration::from_secs(seconds);
            requests.handle_timeout(now, &mut endpoint, &links);
            let is_waiting = [&mut awaited, &mut alone]
                .map(|result| result.try_recv() == Err(oneshot::error::TryRecvError::Empty));
            assert_eq!(is_waiting, waiting, "after {seconds} s");
        }
        assert_eq!(
            requests.timeout(&endpoint),
            Some(begun + Duration::from_mins(3))
        );
        requests.handle_timeout(begun + Duration::from_mins(3), &mut endpoint, &links);
        assert_eq!(requests.len(), 0);
    }

    /// PEER-23: whether a peer is at its claimed address is tested at that address only. A peer was
    /// believed to be at any claimed address when the request continued over another link.
    #[test]
    fn claim_is_tested_at_claimed_address_only() {
        let identity = SecretKey::from_bytes([1; 32]);
        let mut endpoint = Endpoint::new(
            endpoint::Config::default(),
            &identity.clone().into(),
            [1; 32],
        );
        let mut requests = OutboundRequests::default();
        let now = Time(1_000_000);
        for (purpose, is_told) in [
            (DialPurpose::AddressTest, false),
            (DialPurpose::DialBack, true),
        ] {
            let (request, mut result) = question(2, purpose, false);
            requests.begin(now, &mut endpoint, request);
            let (from, _) = requests.pending.first_key_value().unwrap();
            let (from, to) = (*from, (LinkId(77), RequestId(5)));
            // The peer has opened a link in the meantime.
            requests.moved(now, &mut endpoint, from, to);
            requests.answered(to.0, to.1, vec![2]);
            assert_eq!(result.try_recv().is_ok(), is_told);
        }
        // A peer whose link has opened at the address is there, even if the request fails.
        let (request, mut result) = question(3, DialPurpose::AddressTest, false);
        requests.begin(now, &mut endpoint, request);
        let (from, _) = requests.pending.first_key_value().unwrap();
        let from = *from;
        requests.opened(from.0);
        requests.closed(from.0);
        assert_eq!(result.try_recv(), Ok(RequestResult::Reached));
    }

    /// HS-6: a realm that shares no version with this one is not used as a peer.
    #[test]
    fn introduction_without_common_version_is_ignored() {
        let address = SocketAddr::from(([192, 0, 2, 1], 6377));
        for (versions, is_understood) in [(vec![7, PROTOCOL_VERSION], true), (vec![7], false)] {
            let mut requests = OutboundRequests::default();
            let (answer, mut result) = oneshot::channel();
            requests.hellos.push((address, answer));
            let reply = HelloReply {
                nonce: [0; 8],
                versions,
                realm: "beta".parse().unwrap(),
                key: [1; 32],
            };
            requests.introduced(address, &reply);
            assert_eq!(result.try_recv().is_ok(), is_understood);
            assert_eq!(requests.len(), 0);
        }
    }

    /// PEER-22: a request that nobody waits for is not sent again. A message was delivered to a
    /// removed realm after its sender was told that it would be returned.
    #[test]
    fn peer_request_without_waiter_is_not_sent_again() {
        let identity = SecretKey::from_bytes([1; 32]);
        let mut endpoint = Endpoint::new(
            endpoint::Config::default(),
            &identity.clone().into(),
            [1; 32],
        );
        let mut requests = OutboundRequests::default();
        let now = Time(1_000_000);
        let ask = |requests: &mut OutboundRequests, endpoint: &mut Endpoint| {
            let (request, result) = question(2, DialPurpose::Request, false);
            requests.begin(now, endpoint, request);
            result
        };
        let (first, second) = (
            ask(&mut requests, &mut endpoint),
            ask(&mut requests, &mut endpoint),
        );
        let mut out = Vec::new();
        assert!(endpoint.poll_transmit(now, &mut out).is_some(), "it dials");
        drop(first);
        requests.tidy(now, &mut endpoint);
        assert_eq!(
            (requests.len(), endpoint.links()),
            (1, 1),
            "one still waits"
        );
        drop(second);
        requests.tidy(now, &mut endpoint);
        assert_eq!((requests.len(), endpoint.links()), (0, 0));
        endpoint.handle_timeout(now + Duration::from_mins(1));
        let later = now + Duration::from_mins(1);
        assert!(endpoint.poll_transmit(later, &mut out).is_none());
    }
}
