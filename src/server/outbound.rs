//! What a listener asks of other realms: over a link that the other has opened, or over one of its own.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::sync::oneshot;

use super::peer_link_table::Seated;
use crate::{
    crypto::PublicKey,
    endpoint::{Endpoint, LinkId},
    faults::{Fault, is_planted},
    link::Time,
    wire::{HelloReply, PROTOCOL_VERSION, PeerRequest, RequestId},
};

/// For how long nothing may be heard of a peer while somebody waits, beyond three round trips.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where nobody does, beyond six: an answer may take longer, where the way is narrow, and asking again takes more of it.
const PATIENCE_ALONE: Duration = Duration::from_secs(20);
/// How long a question is asked at most.
const LONGEST: Duration = Duration::from_mins(30);
/// How long somebody waits at most, however much else is heard of the peer.
pub const AWAITED: Duration = Duration::from_mins(3);
/// How long a peer that was never heard is asked on, to learn how far away it is.
const FIRST: Duration = Duration::from_mins(3);

/// How long a link may take to open while there is another that the peer has opened, beyond three round trips on that.
const OPENING: Duration = Duration::from_secs(3);

/// By which link a realm is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// One that is there.
    LinkThere,
    /// One to this address, be it opened for that.
    Address {
        address: SocketAddr,
        /// The Init leaves a few times at most, and what is answered over another link is no answer: the question is whether the peer is there.
        is_once: bool,
        /// One that this realm opens, though the other may have opened one: it is to see that it can be called.
        is_back: bool,
    },
}

/// What whoever asks is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// The answer.
    Answer(Vec<u8>),
    /// The peer is where it was tried, and has not answered: its link from there is open, which nobody else could have opened.
    There,
    /// There is no such link, or there is a better one elsewhere.
    Elsewhere,
}

/// A question to another realm.
#[derive(Debug)]
pub enum OutboundRequest {
    /// Who is at an address?
    Who(SocketAddr, oneshot::Sender<PublicKey>),
    /// A request to the realm with that key.
    Ask {
        /// By which of this realm's keys the other knows it.
        own: PublicKey,
        key: PublicKey,
        by: By,
        bytes: Vec<u8>,
        /// Somebody waits for it.
        is_awaited: bool,
        answer: oneshot::Sender<Told>,
    },
}

/// The questions on their way. Whoever asked is told nothing when there is no answer: the sender is
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
    /// The peer is to see that it can be called: a link that it opens itself meanwhile shows nothing.
    is_back: bool,
    /// The question is whether the peer is at that address: what it answers over another link is no answer to it (PEER-23).
    is_only: bool,
    /// It is there: the link has opened.
    is_there: bool,
    /// Until when the link may take to open if there is another.
    opens_by: Time,
    /// The link has had its time to open.
    is_looked_at: bool,
    is_awaited: bool,
    answer: oneshot::Sender<Told>,
}

impl Asked {
    /// It is asked no more, and was not answered.
    fn leave(self) {
        if self.is_only && self.is_there {
            // Whoever asked may have stopped waiting.
            let _ = self.answer.send(Told::There);
        }
    }

    /// When whoever asked is told that the peer is silent: its way may be long, or the question, and narrow.
    fn until(&self, endpoint: &Endpoint, link: LinkId) -> Time {
        let heard = endpoint
            .heard(link)
            .map_or(self.since, |heard| heard.max(self.since));
        match (self.is_awaited, endpoint.rtt(link)) {
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
                            Some(endpoint.link_to(now, &own, (key, address), is_once))
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
                let early =
                    PeerRequest::parse(&bytes).is_ok_and(|request| request.may_travel_early());
                let deadline = now + endpoint.rtt(link).map_or(FIRST, |_| LONGEST);
                // Where a round trip takes long, so does opening a link.
                let there = endpoint.link_there(&own, &key);
                let rtt = there.and_then(|link| endpoint.rtt(link));
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

    /// Stops asking for whoever has stopped waiting.
    pub fn tidy(&mut self, now: Time, endpoint: &mut Endpoint) {
        let left = self
            .asked
            .extract_if(.., |_, asked| asked.answer.is_closed());
        for ((link, number), _) in left {
            endpoint.give_up(now, link, number);
            // Else what it would have brought leaves again and again.
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
            // Whoever asked may have stopped waiting.
            let _ = waiting.answer.send(Told::Answer(answer));
        }
    }

    /// Has what waits here asked elsewhere where the peer has opened a link elsewhere since, or one here does not open.
    pub fn look_elsewhere(&mut self, now: Time, endpoint: &mut Endpoint, seated: &Seated) {
        let mut elsewhere = Vec::new();
        let asked = self.asked.iter().filter(|(_, asked)| !asked.is_only);
        for ((link, number), asked) in asked {
            let is_better = if endpoint.is_dialing(*link) {
                // Here the endpoint has what waits asked on it.
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

    /// A question waits for its answer on another link now.
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

    /// No answer has come in time.
    pub fn expired(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId, number: RequestId) {
        if let Some(asked) = self.asked.remove(&(link, number)) {
            asked.leave();
        }
        endpoint.distrust(now, link);
    }

    /// When [`OutboundRequests::handle_timeout`] wants to be called next.
    pub fn timeout(&self, endpoint: &Endpoint) -> Option<Time> {
        let asked = self.asked.iter();
        asked
            .map(|((link, _), asked)| {
                let until = asked.until(endpoint, *link);
                let is_looked_at =
                    asked.is_looked_at || asked.is_only || !endpoint.is_dialing(*link);
                if is_looked_at {
                    until
                } else {
                    until.min(asked.opens_by)
                }
            })
            .min()
    }

    /// Stops waiting for peers that are silent.
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
            // Whoever may only be far away is asked on, to learn how far.
            if is_sure || endpoint.rtt(link).is_some() {
                endpoint.give_up(now, link, number);
            }
        }
    }

    /// A link is open to where a peer was tried.
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
            tracing::warn!(%address, versions = ?reply.versions, "peer speaks other versions of the protocol; one of the two needs another release");
        }
        for (at, answer) in asked {
            if at == address && !is_understood {
                // HS-6: no Init is sent there. Whoever asked is told that there is no answer.
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

    use super::{super::peer_link_table::Seat, *};
    use crate::{
        crypto::SecretKey,
        endpoint,
        link::{Redundancy, Silence},
    };

    /// A question to the holder of a key, by a link to its address, `is_once` and `is_back`; and what is told of it.
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

    /// PEER-5. Found by the simulator: realms gave each other up after ten seconds, although a round trip took longer.
    #[test]
    fn a_peer_is_given_as_long_as_its_way_may_take() {
        let identity = SecretKey::from_bytes([1; 32]);
        let config = endpoint::Config {
            accept: None,
            hello: None,
            early_data: true,
            resumes: false,
            place: endpoint::WorkerId::ALONE,
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
        let seated = Seated::new(&Arc::default(), seat, silence);
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

    /// PEER-23: whether a peer is at the address that it says of itself is asked there alone. A peer behind whose link the question went on
    /// was believed to be wherever it said.
    #[test]
    fn whether_a_peer_is_somewhere_is_asked_nowhere_else() {
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
            // The peer has opened a link meanwhile.
            calls.moved(now, &mut endpoint, from, to);
            calls.answered(to.0, to.1, vec![2]);
            assert_eq!(told.try_recv().is_ok(), is_told);
        }
        // One whose link has opened there is there, whatever becomes of the question.
        let (call, mut told) = question(3, (true, true), false);
        calls.begin(now, &mut endpoint, call);
        let (from, _) = calls.asked.first_key_value().unwrap();
        let from = *from;
        calls.opened(from.0);
        calls.closed(from.0);
        assert_eq!(told.try_recv(), Ok(Told::There));
    }

    /// HS-6: whoever speaks no version of this realm's is no peer.
    #[test]
    fn peer_of_other_versions_is_not_introduced() {
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

    /// PEER-22: what nobody wants answered any more does not leave again. A message was brought to a realm that had been removed, after its sender was told that it
    /// comes back.
    #[test]
    fn what_nobody_waits_for_is_not_sent_again() {
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
