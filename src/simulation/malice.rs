//! A malicious realm. The other realms have listed it as a peer. It follows the protocol of links
//! and no other rule. It sends any requests in any order, repeats and replays recorded ones, and
//! answers falsely. What the others acknowledge to each other must still hold, and what it makes
//! them store and send must be bounded.

use std::{net::SocketAddr, time::Duration};

use rand::{Rng as _, RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::time::Instant;

use super::{greedy::Target, machine::Machine, network::Socket, user::GROUP_PASSWORD};
use crate::{
    crypto::{PublicKey, SecretKey},
    endpoint::{Config, EarlyData, Endpoint, Event, LinkId},
    link::Time,
    wire::{
        Answer, Body, Entry, ErrorCode, GroupName, Life, Offset, OperationNumber, Page, Password,
        PeerRequest, PeeringNumbers, Port, Position, Protection, RealmId, Refusal, Sender, Sent,
        Text, Username, peer,
    },
};

/// The name by which the others have listed it.
pub const NAME: &str = "mallory";
/// The name of its group.
pub const GROUP: &str = "den";
/// The address of the realm, and an address that it claims although no realm is there.
pub const ADDRESS: SocketAddr = address(9, 6377);
pub const BYSTANDER: SocketAddr = address(77, 53);
/// After this many requests it only answers, so that a run ends.
const ASKED_MAX: usize = 600;
/// The number of its requests and datagrams that are recorded for a repeat.
const RECORDED_MAX: usize = 64;
/// The share of the malicious realms that answer about their group like an honest realm, but with
/// false content.
const GROWING: f64 = 0.5;
/// It gives a request up after this time.
const PATIENCE: Duration = Duration::from_mins(2);

/// The most Inits that may be sent for one introduction (PEER-23).
pub const DIALS_AN_INTRODUCTION: u64 = 3;
/// An address is tried this often at once, and then once an hour.
const TRIES_AT_ONCE: u64 = 4;

const fn address(net: u8, port: u16) -> SocketAddr {
    let ip = std::net::Ipv4Addr::new(10, net, 0, 9);
    SocketAddr::new(std::net::IpAddr::V4(ip), port)
}

/// Its answer to a delivered message.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    NumberReused,
    Delivered,
    Transient,
    Refused,
    Silence,
    Anything,
}

/// What it knows about the others.
#[derive(Debug)]
pub struct Surroundings {
    pub targets: Vec<Target>,
    pub realms: Vec<RealmId>,
    pub people: Vec<Username>,
    pub groups: Vec<GroupName>,
}

/// The state of a malicious realm.
struct Liar {
    socket: Socket,
    endpoint: Endpoint,
    started: Instant,
    own: PublicKey,
    known: Surroundings,
    rng: StdRng,
    verdict: Verdict,
    /// Its group grows, and a user who joins the group stays in it.
    is_growing: bool,
    /// The authors and texts of the posts to its group.
    posted: Vec<(Username, Vec<u8>)>,
    /// The links on which it sends requests, whichever side has opened them.
    links: Vec<LinkId>,
    epochs: Vec<u64>,
    requests: Vec<Vec<u8>>,
    datagrams: Vec<(Vec<u8>, SocketAddr)>,
    asked: usize,
    introductions: u64,
}

/// Returns the most datagrams that may arrive at an address that asked for none, from a realm that
/// has started this often and has run for this long (PEER-23).
pub fn may_have_come(introductions: u64, starts: u64, lasted: Duration) -> u64 {
    let tries = TRIES_AT_ONCE * starts + lasted.as_secs().div_ceil(3600);
    said(introductions, starts).min(tries) * DIALS_AN_INTRODUCTION
}

/// Returns how often a claimed address may be tried: once for each introduction, and once at each
/// start, if there was an introduction at all.
pub fn said(introductions: u64, starts: u64) -> u64 {
    match introductions {
        0 => 0,
        _ => introductions + starts,
    }
}

/// Runs the malicious realm without end. Passes to `introduced` the number of its introductions.
pub async fn lie(machine: &Machine, key: SecretKey, known: Surroundings, introduced: impl Fn(u64)) {
    let Ok(socket) = machine.bind(ADDRESS) else {
        return;
    };
    let mut rng = machine.rng();
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let config = Config {
        accept: Some(Protection::Sealed),
        early_data: true,
        links_max: 100,
        shared_idle: Duration::from_mins(1),
        ..Config::default()
    };
    let own = key.public();
    let verdicts = [
        Verdict::NumberReused,
        Verdict::Delivered,
        Verdict::Transient,
        Verdict::Refused,
        Verdict::Silence,
        Verdict::Anything,
        Verdict::Anything,
    ];
    let liar = Liar {
        socket,
        endpoint: Endpoint::new(config, &key.into(), seed),
        started: Instant::now(),
        own,
        known,
        verdict: *verdicts.choose(&mut rng).unwrap(),
        is_growing: rng.random_bool(GROWING),
        posted: Vec::new(),
        rng,
        links: Vec::new(),
        epochs: Vec::new(),
        requests: Vec::new(),
        datagrams: Vec::new(),
        asked: 0,
        introductions: 0,
    };
    machine.note(|| {
        format!(
            "lies: {:?}, its group grows: {}",
            liar.verdict, liar.is_growing
        )
    });
    liar.live(introduced).await;
}

impl Liar {
    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap())
    }

    async fn live(mut self, introduced: impl Fn(u64)) {
        let mut next = Instant::now();
        let mut buffer = vec![0; 2000];
        loop {
            if next <= Instant::now() {
                let pause = if self.asked < ASKED_MAX {
                    self.ask();
                    introduced(self.introductions);
                    self.rng.random_range(1..1500)
                } else {
                    3_600_000
                };
                next = Instant::now() + Duration::from_millis(pause);
            }
            self.transmit().await;
            let due = self.endpoint.poll_timeout();
            let due = due.map(|at| self.started + Duration::from_micros(at.0));
            let due = due.map_or(next, |due| due.min(next));
            let due = due.max(Instant::now() + Duration::from_millis(1));
            tokio::select! {
                biased;
                _ = self.socket.readable() => {
                    while let Ok((len, from)) = self.socket.try_recv_from(&mut buffer) {
                        let now = self.now();
                        let _ = self.endpoint.handle_datagram(now, from, &buffer[..len]);
                    }
                }
                () = tokio::time::sleep_until(due) => {}
            }
            let now = self.now();
            self.endpoint.handle_timeout(now);
            self.take_events();
        }
    }

    async fn transmit(&mut self) {
        let mut out = Vec::new();
        loop {
            let now = self.now();
            let Some(path) = self.endpoint.poll_transmit(now, &mut out) else {
                return;
            };
            // A failed send counts as loss on the path.
            let _ = self.socket.send_to(&out, path.remote).await;
            record(
                &mut self.datagrams,
                (out.clone(), path.remote),
                &mut self.rng,
            );
            if self.asked < ASKED_MAX && self.rng.random_bool(0.02) {
                // The datagram may be a first packet with early data.
                let again = self.datagrams.choose(&mut self.rng).cloned();
                if let Some((bytes, to)) = again {
                    let _ = self.socket.send_to(&bytes, to).await;
                }
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            let now = self.now();
            match event {
                Event::Incoming { link, .. } => {
                    let highest = OperationNumber(self.rng.random_range(0..5));
                    self.endpoint.welcome(now, link, None, highest);
                    self.links.push(link);
                }
                Event::Request {
                    link,
                    number,
                    bytes,
                    ..
                } => {
                    if let Some(answer) = self.answer(&bytes) {
                        self.endpoint.reply(now, link, number, answer);
                    }
                }
                Event::Closed { link, .. } => self.links.retain(|other| *other != link),
                _ => {}
            }
        }
    }

    /// Sends a request to some realm.
    fn ask(&mut self) {
        self.asked += 1;
        let now = self.now();
        let bytes = match self.requests.choose(&mut self.rng) {
            Some(again) if self.rng.random_bool(0.2) => again.clone(),
            _ => self.request(),
        };
        record(&mut self.requests, bytes.clone(), &mut self.rng);
        let theirs = self.links.choose(&mut self.rng).copied();
        let link = match theirs.filter(|_| self.rng.random_bool(0.3)) {
            Some(link) => link,
            None => {
                let Some(to) = self.known.targets.choose(&mut self.rng).copied() else {
                    return;
                };
                if self.rng.random_bool(0.1) {
                    // Opens another link, even if there is one.
                    self.endpoint.connect(now, to.address, to.key, None)
                } else {
                    let own = self.own;
                    self.endpoint
                        .link_for_requests(now, &own, to.key, to.address)
                }
            }
        };
        let early = EarlyData::allowed_if(self.rng.random_bool(0.5));
        self.endpoint
            .request(now, link, bytes, now + PATIENCE, early);
    }

    fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> Option<T> {
        from.choose(rng).copied()
    }

    fn epoch(&mut self) -> u64 {
        match Self::pick(&mut self.rng, &self.epochs) {
            Some(epoch) if self.rng.random_bool(0.7) => epoch,
            _ => {
                let epoch = self.rng.next_u64();
                record(&mut self.epochs, epoch, &mut self.rng);
                epoch
            }
        }
    }

    /// Returns a random request.
    fn request(&mut self) -> Vec<u8> {
        let (epoch, place) = (self.epoch(), self.rng.random_range(0..40));
        let sequence = OperationNumber(if self.rng.random_bool(0.05) {
            self.rng.next_u64() >> 1
        } else {
            place
        });
        let rng = &mut self.rng;
        let nobody: Username = "mal".parse().expect("a name");
        let unknown: GroupName = GROUP.parse().expect("a name");
        let from = Self::pick(rng, &self.known.people).unwrap_or(nobody);
        let from = if rng.random_bool(0.3) { nobody } else { from };
        let to = Self::pick(rng, &self.known.people).unwrap_or(nobody);
        let group = Self::pick(rng, &self.known.groups).unwrap_or(unknown);
        let group = if rng.random_bool(0.2) { unknown } else { group };
        let membership = if rng.random_bool(0.5) {
            0
        } else {
            rng.next_u64()
        };
        let content = *[0, 0, 0, 1, 2, 3, 127, 255].choose(rng).unwrap();
        // A text like one of another user's, or like a notice of their realm about a returned
        // message.
        let number = rng.random_range(0..30);
        let text = if rng.random_bool(0.5) {
            format!("{to} writes {number} ")
        } else {
            format!("not delivered ({from}@beta): {to} writes {number} ")
        };
        let message = Body(text.as_bytes());
        let request = match rng.random_range(0..18) {
            16.. => PeerRequest::Grown(peer::Grown { group: unknown }),
            0..4 => PeerRequest::Deliver(peer::Deliver {
                epoch,
                sequence,
                content,
                from,
                to,
                message,
            }),
            4..6 => PeerRequest::Post(peer::Post {
                epoch,
                sequence,
                content,
                from,
                group,
                message,
            }),
            6 | 7 => return self.introduction(),
            8 => PeerRequest::Join(peer::Join {
                group,
                user: from,
                password: Password(if rng.random_bool(0.5) {
                    GROUP_PASSWORD
                } else {
                    b"guessed"
                }),
            }),
            9 => PeerRequest::Leave(peer::Leave {
                group,
                user: from,
                membership,
            }),
            10 => PeerRequest::Grown(peer::Grown { group }),
            11 => PeerRequest::Read(peer::Read {
                group,
                group_epoch: membership,
                after: Position(rng.random_range(0..20)),
                offset: Offset(rng.random_range(0..100)),
                life: rng.random::<bool>().then(|| Life(rng.random())),
            }),
            12 => {
                let mut proof = [0; 16];
                rng.fill_bytes(&mut proof);
                let other = self.known.targets.choose(rng);
                PeerRequest::Rotate(peer::Rotate {
                    key: other.map_or([7; 32], |other| other.key.0),
                    proof,
                })
            }
            13 => PeerRequest::Withdraw(peer::Withdraw { epoch, sequence }),
            14 if rng.random_bool(0.5) => PeerRequest::Ended(peer::Ended {
                epoch,
                sequence,
                group,
                group_epoch: membership,
            }),
            14 => PeerRequest::Expelled(peer::Expelled {
                epoch,
                sequence,
                group,
                user: to,
                membership,
            }),
            _ => {
                let mut noise = vec![0; rng.random_range(1..60)];
                rng.fill_bytes(&mut noise);
                noise[0] = rng.random_range(0x5e..0x80);
                return noise;
            }
        };
        request.to_bytes()
    }

    /// Returns an introduction by some name, at some address.
    fn introduction(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let other = Self::pick(rng, &self.known.realms);
        let own: RealmId = NAME.parse().expect("a name");
        let realm = other.filter(|_| rng.random_bool(0.5)).unwrap_or(own);
        let ip = ADDRESS.ip().to_string();
        let bystander = BYSTANDER.ip().to_string();
        let (address, port) = match rng.random_range(0..4) {
            0 => (bystander, BYSTANDER.port()),
            1 => (String::new(), 0),
            2 => match self.known.targets.choose(rng) {
                Some(other) => (other.address.ip().to_string(), other.address.port()),
                None => (ip, ADDRESS.port()),
            },
            _ => (ip, ADDRESS.port()),
        };
        let numbers = match rng.random_range(0..3) {
            // Another peering would end all memberships.
            _ if self.is_growing => None,
            0 => None,
            1 => Some(PeeringNumbers { own: 7, other: 0 }),
            _ => Some(PeeringNumbers {
                own: rng.next_u64(),
                other: rng.next_u64(),
            }),
        };
        self.introductions += 1;
        PeerRequest::Introduce(peer::Introduce {
            realm,
            address: Text(&address),
            port: Port(port),
            numbers,
        })
        .to_bytes()
    }

    /// Returns its answer to a request, or None if it does not answer.
    fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let refused = |code: ErrorCode| Answer::Refused(code.into());
        let highest = OperationNumber(self.rng.random_range(0..100));
        let reused = Answer::Refused(Refusal::number(ErrorCode::NumberReused, highest));
        let is_message = matches!(
            PeerRequest::parse(request),
            Ok(PeerRequest::Deliver(_) | PeerRequest::Post(_))
        );
        let grown = self.is_growing.then(|| self.grown(request)).flatten();
        if let Some(answer) = grown {
            return Some(answer.to_bytes());
        }
        let answer = match (self.verdict, is_message) {
            (Verdict::NumberReused, true) => reused,
            (Verdict::Delivered, true) => Answer::Sent(Sent::Delivered),
            (Verdict::Transient, true) => Answer::Refused(Refusal::busy(1)),
            (Verdict::Refused, true) => refused(ErrorCode::NoSuchUser),
            (Verdict::Silence, true) => return None,
            _ => match self.rng.random_range(0..15) {
                0..3 => Answer::Done,
                3 => Answer::Sent(Sent::Stored),
                4 => reused,
                5 => Answer::Refused(Refusal::busy(u64::MAX)),
                6 => refused(ErrorCode::Internal),
                7 => refused(ErrorCode::NoSuchGroup),
                8 => refused(ErrorCode::PeerRefused),
                9 => Answer::Joined {
                    group_epoch: self.rng.random_range(0..3),
                    membership: self.rng.next_u64(),
                    known_as: *self.known.realms.choose(&mut self.rng)?,
                },
                10 | 11 => Answer::Page(self.page()),
                12 => return Some(vec![0xff, 1, 2]),
                // This includes refusals that only a user's own realm may give (PEER-6).
                13 => Answer::Refused(Refusal {
                    code: *ErrorCode::ALL.choose(&mut self.rng)?,
                    detail: self.rng.random_bool(0.5).then(|| self.rng.next_u64()),
                }),
                _ => return None,
            },
        };
        Some(answer.to_bytes())
    }

    /// Returns the answer about its growing group. Introductions are accepted, because otherwise no
    /// user could join the group.
    fn grown(&mut self, request: &[u8]) -> Option<Answer> {
        let known_as = *self.known.realms.choose(&mut self.rng)?;
        match PeerRequest::parse(request).ok()? {
            PeerRequest::Introduce(_) => Some(Answer::Done),
            PeerRequest::Join(_) => Some(Answer::Joined {
                // Sometimes another group with the name begins.
                group_epoch: 1 + u64::from(self.rng.random_bool(0.1)),
                membership: self.rng.random_range(1..4),
                known_as,
            }),
            PeerRequest::Read(peer::Read { after, .. }) => Some(Answer::Page(self.growth(after))),
            PeerRequest::Post(peer::Post { from, message, .. }) => {
                record(&mut self.posted, (from, message.0.to_vec()), &mut self.rng);
                Some(Answer::Sent(Sent::Stored))
            }
            _ => None,
        }
    }

    /// Returns new entries of its group: posts, once or repeatedly, and false ones in any user's
    /// name.
    fn growth(&mut self, after: Position) -> Page {
        let rng = &mut self.rng;
        let mut position = after.0;
        let mut entries = Vec::new();
        for _ in 0..rng.random_range(0..4) {
            position = position.saturating_add(rng.random_range(1..3));
            let posted = self
                .posted
                .choose(rng)
                .filter(|_| !position.is_multiple_of(3));
            let (user, body) = match posted.cloned() {
                Some(posted) => posted,
                None => match self.known.people.choose(rng) {
                    Some(user) => (*user, b"never said".to_vec()),
                    None => continue,
                },
            };
            let realm = self.known.realms.choose(rng).copied();
            entries.push(Entry {
                position: Position(position),
                time: 0,
                content: *[0, 0, 0, 1, 2, 64].choose(rng).unwrap(),
                fragment: None,
                from: Sender { user, realm },
                read: false,
                body,
            });
        }
        Page {
            more: rng.random_bool(0.3),
            entries,
        }
    }

    /// Returns a page whose positions decrease, or repeat, or that has no end.
    fn page(&mut self) -> Page {
        let rng = &mut self.rng;
        let count = rng.random_range(0..3);
        let entries = (0..count).filter_map(|_| {
            let user = *self.known.people.choose(rng)?;
            let realm = self.known.realms.choose(rng).copied();
            let realm = realm.filter(|_| rng.random_bool(0.7));
            Some(Entry {
                position: Position(rng.random_range(0..10)),
                time: rng.random(),
                content: rng.random_range(0..128),
                fragment: None,
                from: Sender { user, realm },
                read: false,
                body: b"never said".to_vec(),
            })
        });
        let entries = entries.collect();
        let more = rng.random_bool(0.9);
        Page { more, entries }
    }
}

/// Records a value. If the record is full, the value replaces a random one.
fn record<T>(all: &mut Vec<T>, one: T, rng: &mut StdRng) {
    if all.len() < RECORDED_MAX {
        all.push(one);
    } else {
        let at = rng.random_range(0..all.len());
        all[at] = one;
    }
}
