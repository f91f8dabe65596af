//! An endpoint, an honest client of it, and strangers who send it arbitrary datagrams.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use merpati::{
    crypto::{SecretKey, mac1},
    endpoint::{
        AccountId, Config, EarlyData, Endpoint, Event, Handshakes, IssuedTicket, LINK_LIFETIME,
        LinkId, LinkStatus, Path, Ticket, TicketFound, WorkerId,
    },
    link::{Redundancy, Time},
    wire::{
        CloseReason, ConnectionId, HandshakeId, Hello, Init, OperationNumber, PacketNumber,
        Protection, RequestId, append_crc, link_header,
    },
};

use super::frames::{self, Forged};

/// Steps of one run.
const STEPS_MAX: usize = 100;
/// Links that the server accepts.
const LINKS_MAX: usize = 8;
/// Bytes that links may hold. The limit is so low that some links are evicted.
const MEMORY_MAX: usize = 20_000;
/// The longest message that is reassembled.
const MESSAGE_MAX: usize = 4000;
/// Datagrams that an endpoint may send without time passing.
const TRANSMIT_MAX: usize = 2000;

#[derive(Arbitrary, Debug)]
enum Step {
    /// The client opens a link.
    Connect,
    /// The client sends a request on its latest link.
    Ask {
        early: bool,
        len: u16,
    },
    /// The server answers the oldest request.
    Answer {
        len: u16,
    },
    /// The datagrams of one side are carried.
    Carry {
        up: bool,
        fate: Fate,
    },
    /// The client moves to another address.
    Rebind(u8),
    Wait {
        milliseconds: u16,
    },
    Sleep {
        minutes: u8,
    },
    /// The server forgets everything but its key.
    Restart,
    Close,
    /// A stranger sends arbitrary bytes.
    Raw {
        from: u8,
        bytes: Vec<u8>,
    },
    /// A stranger sends arbitrary bytes with a valid checksum.
    Summed {
        from: u8,
        bytes: Vec<u8>,
    },
    /// A stranger sends a Hello.
    Hello {
        from: u8,
        padding: u8,
    },
    /// A stranger who knows the realm's key begins a handshake with noise.
    Init {
        from: u8,
        cookie: bool,
        len: u16,
        filling: u8,
    },
    /// A stranger sends a packet to a link.
    Junk {
        from: u8,
        connection: Connection,
        number: u32,
        len: u16,
    },
    /// A stranger sends a plain packet with these frames.
    Plain {
        from: u8,
        connection: u8,
        number: u16,
        frames: Vec<Forged>,
    },
    /// A stranger replays a datagram, changed or not.
    Replay {
        from: u8,
        which: u16,
        bend: Option<(u16, u8)>,
        cut: Option<u16>,
    },
    /// A stranger answers the client in the server's name.
    Impersonate {
        bytes: Vec<u8>,
        summed: bool,
    },
    ImpersonateReplay {
        which: u16,
        bend: Option<(u16, u8)>,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Fate {
    Arrives,
    Twice,
    IsLost,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Connection {
    /// The id of a link that exists or has existed.
    Known(u8),
    Any(u32),
}

struct World {
    now: Time,
    protection: Protection,
    client: Endpoint,
    server: Endpoint,
    at: SocketAddr,
    link: Option<LinkId>,
    known: Vec<LinkId>,
    waiting: Vec<(LinkId, RequestId)>,
    /// Datagrams that arrived, by direction.
    carried: [Vec<Vec<u8>>; 2],
    /// Bytes that each stranger has sent, and bytes that were sent to it.
    strangers: BTreeMap<SocketAddr, (usize, usize)>,
    restarts: u8,
    /// The client's ticket for resumption, and the server's records for it, which survive a
    /// restart.
    ticket: Option<Ticket>,
    kept: BTreeMap<ConnectionId, IssuedTicket>,
}

fn realm() -> SecretKey {
    SecretKey::from_bytes([2; 32])
}

fn config(accept: Option<Protection>) -> Config {
    Config {
        accept,
        hello: accept.is_some().then(|| "alpha".parse().expect("a name")),
        early_data: true,
        resumes: accept.is_none(),
        worker: WorkerId::ALONE,
        max_datagram: 1200,
        max_message: MESSAGE_MAX,
        rate: None,
        redundancy: Redundancy::Auto,
        lifetime: LINK_LIFETIME,
        links_max: LINKS_MAX,
        memory_max: MEMORY_MAX,
        handshakes: Handshakes::default(),
        idle: Duration::from_hours(1),
        shared_idle: Duration::from_hours(1),
    }
}

const SERVER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
    6377,
);

fn client_at(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, n], 1000))
}

/// Returns the address of a stranger. Strangers are in subnets of their own, and never at the
/// client's address.
fn stranger_at(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, n % 8, 1], 4000 + u16::from(n)))
}

impl World {
    fn new(protection: Protection) -> Self {
        Self {
            now: Time(1_000_000),
            protection,
            client: Endpoint::new(
                config(None),
                &SecretKey::from_bytes([1; 32]).into(),
                [3; 32],
            ),
            server: Endpoint::new(config(Some(protection)), &realm().into(), [4; 32]),
            at: client_at(0),
            link: None,
            known: Vec::new(),
            waiting: Vec::new(),
            carried: [Vec::new(), Vec::new()],
            strangers: BTreeMap::new(),
            restarts: 0,
            ticket: None,
            kept: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Connect => {
                let rtt = Some(Duration::from_millis(60));
                let link = match self.protection {
                    Protection::Sealed => self.client.connect(now, SERVER, realm().public(), rtt),
                    Protection::Plain => self.client.connect_plain(now, SERVER, rtt),
                };
                if let Some(ticket) = self.ticket.clone() {
                    self.client.come_back(link, ticket);
                }
                self.link = Some(link);
            }
            Step::Ask { early, len } => {
                if let Some(link) = self.link {
                    let bytes = vec![1; usize::from(len) % (MESSAGE_MAX + 100)];
                    let deadline = now + Duration::from_mins(1);
                    let early = EarlyData::allowed_if(early);
                    self.client.request(now, link, bytes, deadline, early);
                }
            }
            Step::Answer { len } => {
                if !self.waiting.is_empty() {
                    let (link, number) = self.waiting.remove(0);
                    let bytes = vec![2; usize::from(len) % 3000];
                    self.server.reply(now, link, number, bytes);
                }
            }
            Step::Carry { up, fate } => self.carry(up, fate),
            Step::Rebind(n) => self.at = client_at(n),
            Step::Wait { milliseconds } => self.wait(Duration::from_millis(milliseconds.into())),
            Step::Sleep { minutes } => self.wait(Duration::from_mins(minutes.into())),
            Step::Restart => {
                self.restarts = self.restarts.wrapping_add(1);
                let seed = [5 ^ self.restarts; 32];
                let config = config(Some(self.protection));
                self.server = Endpoint::new(config, &realm().into(), seed);
                self.waiting.clear();
            }
            Step::Close => {
                if let Some(link) = self.link.take() {
                    self.client.close(now, link, CloseReason::Done);
                }
            }
            Step::Impersonate { mut bytes, summed } => {
                if summed {
                    append_crc(&mut bytes);
                }
                self.client.handle_datagram(now, SERVER, &bytes);
            }
            Step::ImpersonateReplay { which, bend } => {
                if let Some(datagram) = self.replayed(which, bend, None) {
                    self.client.handle_datagram(now, SERVER, &datagram);
                }
            }
            by_stranger => self.take_from_stranger(by_stranger),
        }
        self.tell();
    }

    fn take_from_stranger(&mut self, step: Step) {
        match step {
            Step::Raw { from, bytes } => self.arrive(from, &bytes),
            Step::Summed { from, mut bytes } => {
                append_crc(&mut bytes);
                self.arrive(from, &bytes);
            }
            Step::Hello { from, padding } => {
                let mut out = Vec::new();
                Hello { nonce: [from; 8] }.emit(&mut out);
                out.truncate(out.len() - 4);
                out.resize(out.len() + usize::from(padding), 0);
                append_crc(&mut out);
                self.arrive(from, &out);
            }
            Step::Init {
                from,
                cookie,
                len,
                filling,
            } => {
                let noise = vec![filling; usize::from(len) % 1100];
                let cookie = cookie.then_some([filling; 16]);
                let handshake = HandshakeId(from.into());
                let mut out = Vec::new();
                if cookie.is_some() {
                    Init::emit_with_cookie(handshake, &noise, &mut out);
                } else {
                    Init::emit_without_cookie(handshake, &noise, &mut out);
                }
                let mac = mac1(&realm().public(), &out);
                out.extend_from_slice(&mac);
                out.extend(cookie.into_iter().flatten());
                self.arrive(from, &out);
            }
            Step::Junk {
                from,
                connection,
                number,
                len,
            } => {
                let connection = match connection {
                    Connection::Known(n) if !self.known.is_empty() => {
                        self.known[usize::from(n) % self.known.len()].0
                    }
                    Connection::Known(n) => n.into(),
                    Connection::Any(n) => n,
                };
                let mut out = Vec::new();
                link_header(
                    Protection::Sealed,
                    Some(ConnectionId(connection)),
                    PacketNumber(number.into()),
                    None,
                    &mut out,
                );
                out.resize(out.len() + usize::from(len) % 1200, 7);
                self.arrive(from, &out);
            }
            Step::Plain {
                from,
                connection,
                number,
                frames,
            } => {
                let mut out = Vec::new();
                link_header(
                    Protection::Plain,
                    Some(ConnectionId(connection.into())),
                    PacketNumber(number.into()),
                    None,
                    &mut out,
                );
                out.extend_from_slice(&frames::bytes(&frames));
                append_crc(&mut out);
                self.arrive(from, &out);
            }
            Step::Replay {
                from,
                which,
                bend,
                cut,
            } => {
                if let Some(datagram) = self.replayed(which, bend, cut) {
                    self.arrive(from, &datagram);
                }
            }
            _ => {}
        }
    }

    /// Returns a datagram that has arrived before.
    fn replayed(&self, which: u16, bend: Option<(u16, u8)>, cut: Option<u16>) -> Option<Vec<u8>> {
        let all = self.carried.iter().flatten();
        let count = all.clone().count().max(1);
        let mut datagram = all.clone().nth(usize::from(which) % count)?.clone();
        if let Some((at, with)) = bend {
            let at = usize::from(at) % datagram.len().max(1);
            if let Some(byte) = datagram.get_mut(at) {
                *byte ^= with;
            }
        }
        if let Some(len) = cut {
            datagram.truncate(len.into());
        }
        Some(datagram)
    }

    /// Delivers a stranger's datagram.
    fn arrive(&mut self, from: u8, datagram: &[u8]) {
        let from = stranger_at(from);
        self.strangers.entry(from).or_default().0 += datagram.len();
        self.server.handle_datagram(self.now, from, datagram);
    }

    fn carry(&mut self, up: bool, fate: Fate) {
        let (now, at) = (self.now, self.at);
        let mut datagrams = Vec::new();
        let mut out = Vec::new();
        let side = if up {
            &mut self.client
        } else {
            &mut self.server
        };
        while let Some(Path { remote: to, .. }) = side.poll_transmit(now, &mut out) {
            assert!(out.len() <= 1200);
            if up {
                datagrams.push(out.clone());
            } else if let Some((came, sent)) = self.strangers.get_mut(&to) {
                *sent += out.len();
                // On a plain link a party that returns a challenge has proven its address, so the
                // limit does not apply.
                if self.protection == Protection::Sealed {
                    assert!(sent <= came, "{sent} bytes for {came}");
                }
            } else if to == at {
                datagrams.push(out.clone());
            }
            assert!(datagrams.len() < TRANSMIT_MAX, "it sends without end");
        }
        for datagram in datagrams {
            let times = match fate {
                Fate::Arrives => 1,
                Fate::Twice => 2,
                Fate::IsLost => 0,
            };
            for _ in 0..times {
                if up {
                    self.server.handle_datagram(now, at, &datagram);
                } else {
                    self.client.handle_datagram(now, SERVER, &datagram);
                }
            }
            if times > 0 {
                self.carried[usize::from(up)].push(datagram);
            }
        }
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
    }

    fn tell(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Incoming { link, .. } => {
                    self.known.push(link);
                    self.server.welcome(
                        self.now,
                        link,
                        Some(AccountId::new(1)),
                        OperationNumber(3),
                    );
                }
                Event::Request { link, number, .. } => self.waiting.push((link, number)),
                Event::Oversized { link, number, .. } => {
                    self.server.reply(self.now, link, number, vec![0x50]);
                }
                Event::TicketDue { ticket, issued, .. } => {
                    self.kept.insert(ticket, issued);
                }
                Event::UnknownTicket {
                    ticket,
                    path,
                    datagram,
                } => {
                    let issued = self.kept.get(&ticket).cloned();
                    let found = issued.map_or(TicketFound::NotGood, TicketFound::Good);
                    self.server.ticket_found(self.now, path, &datagram, found);
                }
                _ => {}
            }
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Closed { link, .. } if self.link == Some(link) => self.link = None,
                Event::Opened { link, .. } => {
                    self.ticket = self.client.link(link).and_then(LinkStatus::ticket).cloned()
                }
                _ => {}
            }
        }
        assert!(self.server.links() <= LINKS_MAX);
    }

    /// Checks that no timer is due again and again at the same moment.
    fn rests(&mut self) {
        let now = self.now;
        for side in [&mut self.client, &mut self.server] {
            let mut out = Vec::new();
            let mut sent = 0;
            for _ in 0..100 {
                while side.poll_transmit(now, &mut out).is_some() {
                    sent += 1;
                    assert!(sent < TRANSMIT_MAX, "it sends without end");
                }
                if side.poll_timeout().is_none_or(|due| due > now) {
                    break;
                }
                side.handle_timeout(now);
            }
            let due = side.poll_timeout();
            assert!(due.is_none_or(|due| due > now), "it never rests");
        }
    }
}

fn run(protection: Protection, input: &[u8]) {
    let mut input = Unstructured::new(input);
    let mut world = World::new(protection);
    super::steps(&mut input, STEPS_MAX, |step| world.take(step));
    world.rests();
}

/// Tests an endpoint with sealed links.
pub fn sealed(input: &[u8]) {
    run(Protection::Sealed, input);
}

/// Tests an endpoint with plain links.
pub fn plain(input: &[u8]) {
    run(Protection::Plain, input);
}
