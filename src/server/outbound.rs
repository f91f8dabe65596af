//! Requests from a listener to other realms, over a link that the peer has opened or over one that
//! this realm opens.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::sync::oneshot;

use super::peer_link_table::Seated;
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
pub enum By {
    /// An open link.
    LinkThere,
    /// A link to this address, which is opened if needed.
    Address {
        address: SocketAddr,
        /// The request tests whether the peer is at this address: the Init is sent only a few
        /// times, and an answer over another link does not count.
        is_once: bool,
        /// The link must be opened by this realm, even if the peer has opened one. It shows the
        /// peer that this works.
        is_back: bool,
    },
}

/// The result that the requester receives.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// The answer.
    Answer(Vec<u8>),
    /// The peer is at the tested address but has not answered: the link to it has opened, which no
    /// other party could have caused.
    There,
    /// There is no such link, or another worker has a better one.
    Elsewhere,
}

/// A request to another realm.
#[derive(Debug)]
pub enum OutboundRequest {
    /// Asks which key an address has.
    Who(SocketAddr, oneshot::Sender<PublicKey>),
    /// A request to the realm with that key.
    Ask {
        /// The key of this realm that the peer knows.
        own: PublicKey,
        key: PublicKey,
        by: By,
        bytes: Vec<u8>,
        /// True if a client waits for the answer.
        is_awaited: bool,
        answer: oneshot::Sender<Told>,
    },
}

/// The requests in progress. Without an answer the requester receives nothing: the sender is
/// dropped.
#[derive(Debug, Default)]
pub struct OutboundRequests {
    who: Vec<(SocketAddr, oneshot::Sender<PublicKey>)>,
    asked: BTreeMap<(LinkId, RequestId), Asked>,
}

#[derive(Debug)]
struct Asked {
    since: Time,
    key: PublicKey,
    /// The link shows the peer that this realm can open one. A link that the peer opens in the
    /// meantime does not show that.
    is_back: bool,
    /// The request tests whether the peer is at this address: an answer over another link does not
    /// count (PEER-23).
    is_only: bool,
    /// The peer is at this address: the link has opened.
    is_there: bool,
    /// Until when the link may take to open if there is another.
    opens_by: Time,
    /// The time for opening the link is over.
    is_looked_at: bool,
    is_awaited: bool,
    answer: oneshot::Sender<Told>,
}

impl Asked {
    /// Ends the request without an answer.
    fn leave(self) {
        if self.is_only && self.is_there {
            // The requester may have stopped waiting.
            let _ = self.answer.send(Told::There);
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
    pub fn begin(&mut self, now: Time, endpoint: &mut Endpoint, call: OutboundRequest) {
        match call {
            OutboundRequest::Who(address, answer) => {
                if endpoint.ask_hello(now, address) {
                    self.who.push((address, answer));
                }
            }
            OutboundRequest::Ask {
                own,
                key,
                by,
                bytes,
                is_awaited,
                answer,
            } => {
                let link = match by {
                    By::LinkThere => endpoint.link_there(&own, &key),
                    By::Address {
                        address,
                        is_once,
                        is_back,
                    } => {
                        if is_once || is_back {
                            let source = if is_once {
                                AddressSource::Claimed
                            } else {
                                AddressSource::Vouched
                            };
                            Some(endpoint.link_to(now, &own, key, address, source))
                        } else {
                            Some(endpoint.link_with(now, &own, key, address))
                        }
                    }
                };
                let Some(link) = link else {
                    let _ = answer.send(Told::Elsewhere);
                    return;
                };
                let is_back = matches!(by, By::Address { is_back: true, .. });
                let is_only = matches!(by, By::Address { is_once: true, .. });
                let early = EarlyData::allowed_if(
                    PeerRequest::parse(&bytes).is_ok_and(|request| request.may_travel_early()),
                );
                let deadline = now
                    + endpoint
                        .link(link)
                        .and_then(LinkStatus::rtt)
                        .map_or(FIRST, |_| LONGEST);
                // Where the round trip is long, opening a link takes long, too.
                let there = endpoint.link_there(&own, &key);
                let rtt = there
                    .and_then(|link| endpoint.link(link))
                    .and_then(LinkStatus::rtt);
                let opens_by = now + OPENING + rtt.unwrap_or_default() * 3;
                if let Some(number) = endpoint.request(now, link, bytes, deadline, early) {
                    let asked = Asked {
                        since: now,
                        key,
                        is_back,
                        is_only,
                        is_there: false,
                        opens_by,
                        is_looked_at: false,
                        is_awaited,
                        answer,
                    };
                    self.asked.insert((link, number), asked);
                }
            }
        }
    }

    /// Ends the requests whose requester has stopped waiting.
    pub fn tidy(&mut self, now: Time, endpoint: &mut Endpoint) {
        let left = self
            .asked
            .extract_if(.., |_, asked| asked.answer.is_closed());
        for ((link, number), _) in left {
            endpoint.give_up(now, link, number);
            // Otherwise the endpoint would keep sending Inits for the ended request.
            endpoint.end_idle_dial(link);
        }
        self.who.retain(|(address, answer)| {
            if answer.is_closed() {
                endpoint.stop_asking(*address);
            }
            !answer.is_closed()
        });
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.who.len() + self.asked.len()
    }

    pub fn answered(&mut self, link: LinkId, number: RequestId, answer: Vec<u8>) {
        if let Some(waiting) = self.asked.remove(&(link, number)) {
            // The requester may have stopped waiting.
            let _ = waiting.answer.send(Told::Answer(answer));
        }
    }

    /// Ends requests with [`Told::Elsewhere`] if the peer has opened a link at another worker
    /// since, or if the link here does not open in time.
    pub fn look_elsewhere(&mut self, now: Time, endpoint: &mut Endpoint, seated: &Seated) {
        let mut elsewhere = Vec::new();
        let asked = self.asked.iter().filter(|(_, asked)| !asked.is_only);
        for ((link, number), asked) in asked {
            let is_better = if endpoint.link(*link).is_some_and(LinkStatus::is_dialing) {
                // If the peer opens a link at this worker, the endpoint moves the request to it.
                let latest = seated.links().latest(&asked.key);
                let is_elsewhere = |seat| seat != seated.seat() && !asked.is_back;
                latest.is_some_and(|seat| asked.opens_by <= now || is_elsewhere(seat))
            } else {
                seated.is_superseded(&asked.key, *link)
            };
            if is_better {
                elsewhere.push((*link, *number));
            }
        }
        for which in elsewhere {
            if let Some(asked) = self.asked.remove(&which) {
                let _ = asked.answer.send(Told::Elsewhere);
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
        match self.asked.remove(&from) {
            Some(asked) if asked.is_only && !is_planted(Fault::BelieveAnyLink) => {
                endpoint.give_up(now, to.0, to.1);
                asked.leave();
            }
            Some(asked) => {
                self.asked.insert(to, asked);
            }
            None => {}
        }
    }

    /// Handles that no answer has come in time.
    pub fn expired(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId, number: RequestId) {
        if let Some(asked) = self.asked.remove(&(link, number)) {
            asked.leave();
        }
        endpoint.distrust(now, link);
    }

    /// Returns when [`OutboundRequests::handle_timeout`] must be called next.
    pub fn timeout(&self, endpoint: &Endpoint) -> Option<Time> {
        let asked = self.asked.iter();
        asked
            .map(|((link, _), asked)| {
                let until = asked.until(endpoint, *link);
                let is_looked_at = asked.is_looked_at
                    || asked.is_only
                    || !endpoint.link(*link).is_some_and(LinkStatus::is_dialing);
                if is_looked_at {
                    until
                } else {
                    until.min(asked.opens_by)
                }
            })
            .min()
    }

    /// Ends the requests to silent peers.
    pub fn handle_timeout(&mut self, now: Time, endpoint: &mut Endpoint, seated: &Seated) {
        self.look_elsewhere(now, endpoint, seated);
        for asked in self.asked.values_mut() {
            asked.is_looked_at |= asked.opens_by <= now;
        }
        let silent: Vec<(LinkId, RequestId)> = self
            .asked
            .iter()
            .filter(|((link, _), asked)| asked.until(endpoint, *link) <= now)
            .map(|(which, _)| *which)
            .collect();
        for (link, number) in silent {
            let asked = self.asked.remove(&(link, number));
            let is_sure = asked.as_ref().is_some_and(|asked| !asked.is_awaited);
            if let Some(asked) = asked {
                asked.leave();
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
        for ((on, _), asked) in &mut self.asked {
            asked.is_there |= *on == link;
        }
    }

    pub fn closed(&mut self, link: LinkId) {
        let ended = self.asked.extract_if(.., |(asked, _), _| *asked == link);
        ended.for_each(|(_, asked)| asked.leave());
    }

    pub fn introduced(&mut self, address: SocketAddr, reply: &HelloReply) {
        let asked = std::mem::take(&mut self.who);
        let is_understood = reply.versions.contains(&PROTOCOL_VERSION);
        if !is_understood {
            tracing::warn!(%address, versions = ?reply.versions, "peer answered with other versions of the protocol; one of the two needs another release");
        }
        for (at, answer) in asked {
            if at == address && !is_understood {
                // HS-6: no Init is sent there. The requester gets no answer.
                drop(answer);
            } else if at == address {
                let _ = answer.send(PublicKey(reply.key));
            } else {
                self.who.push((at, answer));
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

    /// Returns a request to a key over a link to its address, with `is_once` and `is_back`, and the
    /// receiver of its result.
    fn question(
        n: u8,
        (is_once, is_back): (bool, bool),
        is_awaited: bool,
    ) -> (OutboundRequest, oneshot::Receiver<Told>) {
        let (answer, told) = oneshot::channel();
        let call = OutboundRequest::Ask {
            own: SecretKey::from_bytes([1; 32]).public(),
            key: SecretKey::from_bytes([n; 32]).public(),
            by: By::Address {
                address: SocketAddr::from(([192, 0, 2, 1], 6377)),
                is_once,
                is_back,
            },
            bytes: vec![1],
            is_awaited,
            answer,
        };
        (call, told)
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
        let mut calls = OutboundRequests::default();
        let seat = Seat {
            listener: 0,
            worker: 0,
        };
        let silence = Silence::fixed(Duration::from_secs(30));
        let seated = Seated::new(
            &Arc::new(super::super::peer_link_table::Links::new(identity.public())),
            seat,
            silence,
        );
        let begun = Time(1_000_000);
        let mut ask = |is_awaited| {
            let (call, told) = question(2, (false, false), is_awaited);
            calls.begin(begun, &mut endpoint, call);
            told
        };
        let (mut awaited, mut alone) = (ask(true), ask(false));
        for (seconds, waiting) in [(9, [true, true]), (10, [false, true]), (179, [false, true])] {
            let now = begun + Duration::from_secs(seconds);
            calls.handle_timeout(now, &mut endpoint, &seated);
            let is_waiting = [&mut awaited, &mut alone]
                .map(|told| told.try_recv() == Err(oneshot::error::TryRecvError::Empty));
            assert_eq!(is_waiting, waiting, "after {seconds} s");
        }
        assert_eq!(
            calls.timeout(&endpoint),
            Some(begun + Duration::from_mins(3))
        );
        calls.handle_timeout(begun + Duration::from_mins(3), &mut endpoint, &seated);
        assert_eq!(calls.len(), 0);
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
        let mut calls = OutboundRequests::default();
        let now = Time(1_000_000);
        for (is_once, is_told) in [(true, false), (false, true)] {
            let (call, mut told) = question(2, (is_once, true), false);
            calls.begin(now, &mut endpoint, call);
            let (from, _) = calls.asked.first_key_value().unwrap();
            let (from, to) = (*from, (LinkId(77), RequestId(5)));
            // The peer has opened a link in the meantime.
            calls.moved(now, &mut endpoint, from, to);
            calls.answered(to.0, to.1, vec![2]);
            assert_eq!(told.try_recv().is_ok(), is_told);
        }
        // A peer whose link has opened at the address is there, even if the request fails.
        let (call, mut told) = question(3, (true, true), false);
        calls.begin(now, &mut endpoint, call);
        let (from, _) = calls.asked.first_key_value().unwrap();
        let from = *from;
        calls.opened(from.0);
        calls.closed(from.0);
        assert_eq!(told.try_recv(), Ok(Told::There));
    }

    /// HS-6: a realm that shares no version with this one is not used as a peer.
    #[test]
    fn introduction_without_common_version_is_ignored() {
        let address = SocketAddr::from(([192, 0, 2, 1], 6377));
        for (versions, is_understood) in [(vec![7, PROTOCOL_VERSION], true), (vec![7], false)] {
            let mut calls = OutboundRequests::default();
            let (answer, mut told) = oneshot::channel();
            calls.who.push((address, answer));
            let reply = HelloReply {
                nonce: [0; 8],
                versions,
                realm: "beta".parse().unwrap(),
                key: [1; 32],
            };
            calls.introduced(address, &reply);
            assert_eq!(told.try_recv().is_ok(), is_understood);
            assert_eq!(calls.len(), 0);
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
        let mut calls = OutboundRequests::default();
        let now = Time(1_000_000);
        let ask = |calls: &mut OutboundRequests, endpoint: &mut Endpoint| {
            let (call, told) = question(2, (false, false), false);
            calls.begin(now, endpoint, call);
            told
        };
        let (first, second) = (
            ask(&mut calls, &mut endpoint),
            ask(&mut calls, &mut endpoint),
        );
        let mut out = Vec::new();
        assert!(endpoint.poll_transmit(now, &mut out).is_some(), "it dials");
        drop(first);
        calls.tidy(now, &mut endpoint);
        assert_eq!((calls.len(), endpoint.links()), (1, 1), "one still waits");
        drop(second);
        calls.tidy(now, &mut endpoint);
        assert_eq!((calls.len(), endpoint.links()), (0, 0));
        endpoint.handle_timeout(now + Duration::from_mins(1));
        let later = now + Duration::from_mins(1);
        assert!(endpoint.poll_transmit(later, &mut out).is_none());
    }
}
