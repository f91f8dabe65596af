//! Two links with a bad network between them, or one link and a hostile other side that has the
//! keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use merpati::{
    crypto::{SealKey, SessionKeys},
    link::{
        Config, Event, Link, PendingRequest, Redundancy, Silence, Time, Urgency,
        limits::{REPLY_KEPT_BYTES, REQUEST_SPAN},
    },
    wire::{ConnectionId, Packet, PacketNumber, Protection, RequestId, link_header},
};

use super::frames::{self, Forged};

/// The longest message that a link reassembles.
const MESSAGE_MAX: usize = 4000;
/// Steps of one run.
const STEPS_MAX: usize = 200;
/// Datagrams that a link may send without time passing.
const TRANSMIT_MAX: usize = 1000;

/// The source of messages. It continues differently after each of the first 256 bytes.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let high = (0..MESSAGE_MAX + 400).map(|at| (at / 251) as u8);
    high.enumerate()
        .map(|(at, high)| (at % 251) as u8 ^ high)
        .collect()
});

#[derive(Arbitrary, Debug)]
enum Step {
    /// One side sends a request.
    Ask {
        client: bool,
        len: u16,
        seconds: u8,
    },
    /// One side answers the oldest open request.
    Answer {
        client: bool,
        len: u16,
    },
    /// The server pushes an event.
    Push {
        live: bool,
        len: u16,
    },
    /// The datagrams of one side are carried.
    Carry {
        client: bool,
        fate: Fate,
    },
    /// A datagram is carried again.
    Again {
        client: bool,
        which: u16,
    },
    /// Time passes.
    Wait {
        milliseconds: u16,
    },
    /// A long time passes.
    Sleep {
        seconds: u16,
    },
    /// Turns on or off keeping the path open.
    KeepAlive(bool),
    /// Turns on or off holding back pushed events.
    Hold(bool),
    /// The client has migrated to another address.
    Move,
    /// The other side is hostile: an authentic packet with these frames arrives.
    Forge {
        client: bool,
        frames: Vec<Forged>,
    },
    Close {
        client: bool,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Fate {
    Arrives,
    Twice,
    IsLost,
    IsBent { at: u16, bit: u8 },
    IsLate,
}

struct Side {
    link: Link,
    keys: SessionKeys,
    /// The datagrams that this side has sent.
    sent: Vec<Vec<u8>>,
    late: Vec<Vec<u8>>,
    /// The requests of this side, by number, and whether they were answered.
    asked: BTreeMap<RequestId, (Vec<u8>, bool)>,
    /// Requests that this side has received and not answered.
    open: Vec<(RequestId, Vec<u8>)>,
    /// Requests that this side has received, and those of them whose replies were too long to be
    /// kept.
    heard: BTreeSet<RequestId>,
    redone: BTreeSet<RequestId>,
    /// Events that this side has received: live, and backlog.
    pushed: [Vec<Vec<u8>>; 2],
    is_closed: bool,
}

impl Side {
    fn new(link: Link, keys: SessionKeys) -> Self {
        Self {
            link,
            keys,
            sent: Vec::new(),
            late: Vec::new(),
            asked: BTreeMap::new(),
            open: Vec::new(),
            heard: BTreeSet::new(),
            redone: BTreeSet::new(),
            pushed: [Vec::new(), Vec::new()],
            is_closed: false,
        }
    }
}

struct World {
    now: Time,
    client: Side,
    server: Side,
    /// Events that the server has pushed: live, and backlog.
    pushed: [Vec<Vec<u8>>; 2],
    /// A side has been hostile. From then on only the absence of harm is checked.
    is_hostile: bool,
    forged: u64,
    made: u8,
}

fn keys() -> (SessionKeys, SessionKeys) {
    let (up, down) = (SealKey::new([1; 32]), SealKey::new([2; 32]));
    let client = SessionKeys {
        seal: up.clone(),
        open: down.clone(),
    };
    let server = SessionKeys {
        seal: down,
        open: up,
    };
    (client, server)
}

impl World {
    fn new(seed: u64, redundancy: u8) -> Self {
        let config = Config {
            max_datagram: 1200,
            max_message: MESSAGE_MAX,
            rate: None,
            redundancy: match redundancy % 3 {
                0 => Redundancy::Auto,
                1 => Redundancy::Off,
                _ => Redundancy::On,
            },
            rtt: Some(Duration::from_millis(60)),
            seed,
        };
        let (up, down) = keys();
        let mut client = Link::initiate(config, None);
        client.establish(up.clone(), Some(ConnectionId(9)));
        let mut server = Link::respond(config, 100);
        server.establish(down.clone(), None);
        server.opening_mut().trust();
        server.set_reassembly_limit(2 * MESSAGE_MAX);
        client.set_reassembly_limit(2 * MESSAGE_MAX);
        Self {
            now: Time(1_000_000),
            client: Side::new(client, up),
            server: Side::new(server, down),
            pushed: [Vec::new(), Vec::new()],
            is_hostile: false,
            forged: 0,
            made: 0,
        }
    }

    /// Returns bytes that differ from all others.
    fn bytes(&mut self, len: u16) -> Vec<u8> {
        self.made = self.made.wrapping_add(1);
        let len = usize::from(len) % (MESSAGE_MAX + 100);
        PATTERN[self.made.into()..][..len].to_vec()
    }

    fn sides(&mut self, client: bool) -> (&mut Side, &mut Side) {
        if client {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        }
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Ask {
                client,
                len,
                seconds,
            } => {
                let bytes = self.bytes(len);
                let deadline = now + Duration::from_secs(seconds.into());
                let (side, _) = self.sides(client);
                let request = PendingRequest {
                    bytes: bytes.clone(),
                    deadline,
                    early: false,
                };
                if let Some(number) = side.link.request(request) {
                    side.asked.insert(number, (bytes, false));
                }
            }
            Step::Answer { client, len } => {
                let mut bytes = self.bytes(len);
                let (side, _) = self.sides(client);
                if !side.open.is_empty() {
                    let (number, _) = side.open.remove(0);
                    bytes.extend_from_slice(&number.0.to_be_bytes());
                    if bytes.len() > REPLY_KEPT_BYTES {
                        side.redone.insert(number);
                    }
                    side.link.reply(number, bytes);
                }
            }
            Step::Push { live, len } => {
                let mut bytes = self.bytes(len);
                // The first byte tells the urgency of the event, unless the event is empty.
                if live || !bytes.is_empty() {
                    bytes.insert(0, live.into());
                }
                let urgency = if live {
                    Urgency::Live
                } else {
                    Urgency::Backlog
                };
                if self.server.link.push(bytes.clone(), urgency).is_some() {
                    self.pushed[usize::from(!live)].push(bytes);
                }
            }
            Step::Carry { client, fate } => self.carry(client, fate),
            Step::Again { client, which } => {
                let (side, _) = self.sides(client);
                let datagram = match side.sent.len() {
                    0 => return,
                    len => side.sent[usize::from(which) % len].clone(),
                };
                self.deliver(client, &datagram);
            }
            Step::Wait { milliseconds } => self.wait(Duration::from_millis(milliseconds.into())),
            Step::Sleep { seconds } => self.wait(Duration::from_secs(seconds.into())),
            Step::KeepAlive(on) => {
                let silence = Silence::fixed(Duration::from_secs(30));
                self.client.link.keep_alive(on.then_some(silence));
            }
            Step::Hold(true) => self.client.link.hold_pushes(),
            Step::Hold(false) => self.client.link.accept_pushes(),
            Step::Move => self.server.link.path_moved(100, [3; 8]),
            Step::Forge { client, frames } => self.forge(client, &frames),
            Step::Close { client } => {
                let (side, _) = self.sides(client);
                side.link.close(merpati::wire::CloseReason::Done);
            }
        }
        self.tell(true);
        self.tell(false);
    }

    fn carry(&mut self, client: bool, fate: Fate) {
        let now = self.now;
        let (side, _) = self.sides(client);
        let mut datagrams = std::mem::take(&mut side.late);
        let mut out = Vec::new();
        while side.link.poll_transmit(now, &mut out) {
            assert!(out.len() <= 1200, "{} bytes", out.len());
            datagrams.push(out.clone());
            assert!(datagrams.len() < TRANSMIT_MAX, "it sends without end");
        }
        side.sent.extend(datagrams.iter().cloned());
        for mut datagram in datagrams {
            match fate {
                Fate::Arrives => self.deliver(client, &datagram),
                Fate::Twice => {
                    self.deliver(client, &datagram);
                    self.deliver(client, &datagram);
                }
                Fate::IsLost => {}
                Fate::IsBent { at, bit } => {
                    let at = usize::from(at) % datagram.len();
                    datagram[at] ^= 1 << (bit % 8);
                    self.deliver(client, &datagram);
                }
                Fate::IsLate => {
                    let (side, _) = self.sides(client);
                    side.late.push(datagram);
                }
            }
        }
    }

    /// Hands a datagram of one side to the other.
    fn deliver(&mut self, client: bool, datagram: &[u8]) {
        let now = self.now;
        let (_, other) = self.sides(client);
        if let Ok(Packet::Link(packet)) = Packet::parse(datagram) {
            let _ = other
                .link
                .handle_packet(now, &packet, datagram, &mut Vec::new());
        }
    }

    fn forge(&mut self, client: bool, frames: &[Forged]) {
        self.is_hostile = true;
        self.forged += 1;
        // The number is far from those of the honest party.
        let number = PacketNumber((1 << 20) + self.forged);
        let (side, _) = self.sides(client);
        let connection = client.then_some(ConnectionId(9));
        let mut packet = Vec::new();
        link_header(Protection::Sealed, connection, number, None, &mut packet);
        let header_len = packet.len();
        packet.extend_from_slice(&frames::bytes(frames));
        side.keys.seal.seal(number.0, header_len, &mut packet);
        self.deliver(client, &packet);
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        let now = self.now;
        for side in [&mut self.client, &mut self.server] {
            side.link.handle_timeout(now);
        }
    }

    /// Takes the events of one side and checks them.
    fn tell(&mut self, client: bool) {
        let is_hostile = self.is_hostile;
        let pushed = std::mem::take(&mut self.pushed);
        let (side, other) = self.sides(client);
        assert!(side.link.assembling() <= 2 * MESSAGE_MAX);
        while let Some(event) = side.link.poll_event() {
            // A request that waits for a reply outlives the link: its owner sends it on another
            // link.
            let may_not = !matches!(event, Event::Expired { .. });
            assert!(
                !(side.is_closed && may_not),
                "it tells {event:?} after its end"
            );
            match event {
                Event::Request { number, bytes, .. } => {
                    assert!(side.open.len() <= 2 * REQUEST_SPAN as usize + 2);
                    if !is_hostile {
                        let (asked, _) = &other.asked[&number];
                        assert_eq!(*asked, bytes);
                        // A long reply is not kept: the request is executed again (LINK-9).
                        let is_new = side.heard.insert(number);
                        assert!(
                            is_new || side.redone.contains(&number),
                            "{number:?} came twice"
                        );
                    }
                    side.open.push((number, bytes));
                }
                Event::Reply { number, bytes } => {
                    let asked = side.asked.get_mut(&number);
                    let (_, answered) = asked.expect("a reply to what was asked");
                    assert!(!*answered, "two replies to {number:?}");
                    *answered = true;
                    if !is_hostile {
                        assert!(bytes.ends_with(&number.0.to_be_bytes()));
                    }
                }
                Event::Expired { number } => {
                    assert!(side.asked.contains_key(&number));
                }
                Event::Pushed { bytes } if !is_hostile => {
                    // Events of each urgency arrive in order and once.
                    let kind = usize::from(bytes.first() != Some(&1));
                    let at = side.pushed[kind].len();
                    assert_eq!(
                        pushed[kind].get(at),
                        Some(&bytes),
                        "push {at} of kind {kind}"
                    );
                    side.pushed[kind].push(bytes);
                }
                Event::Oversized { number, .. } => {
                    side.link.reply(number, number.0.to_be_bytes().to_vec());
                }
                Event::Closed(_) => side.is_closed = true,
                Event::Pushed { .. }
                | Event::Opened { .. }
                | Event::Update(_)
                | Event::Welcome(_)
                | Event::Delivered { .. } => {}
                // The link may learn further events.
                _ => {}
            }
        }
        self.pushed = pushed;
    }

    /// Checks that no timer is due again and again at the same moment.
    fn rests(&mut self) {
        let now = self.now;
        for client in [true, false] {
            self.carry(client, Fate::IsLost);
            let (side, _) = self.sides(client);
            for _ in 0..100 {
                if side.link.poll_timeout().is_none_or(|due| due > now) {
                    break;
                }
                side.link.handle_timeout(now);
                let mut out = Vec::new();
                while side.link.poll_transmit(now, &mut out) {}
            }
            let due = side.link.poll_timeout();
            assert!(
                // The owner of a dead link ends it.
                side.link.is_dead() || due.is_none_or(|due| due > now),
                "the {} never rests: {due:?} at {now:?}",
                if client { "client" } else { "server" }
            );
        }
    }
}

/// Tests a sequence of events on two links.
pub fn link(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok((seed, redundancy)) = input.arbitrary() else {
        return;
    };
    let mut world = World::new(seed, redundancy);
    super::steps(&mut input, STEPS_MAX, |step| world.take(step));
    world.rests();
}
