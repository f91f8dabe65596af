//! Tests of how a client finds its realm: names with several, changing or no addresses, and a
//! network that is not there yet.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{
    REALM_PORT,
    disk::Disk,
    machine::{Machine, WallClock},
    network::{Network, Socket, Weather},
    node::Node,
    trace::Trace,
};
use crate::{
    client::{
        CallError, Client, LinkParameters, Memory, Options, Profile, Sending, Silence, WatchEvent,
    },
    crypto::{ConnectionString, SecretKey},
    endpoint::LINK_LIFETIME,
    host::Host,
    wire::{Mailbox, Position},
};

const NAME: &str = "realm.test";
pub(super) const LIVE: SocketAddr = address(1);
const DEAD: SocketAddr = address(2);
const OTHER: SocketAddr = address(3);

const fn address(last: u8) -> SocketAddr {
    let ip = std::net::Ipv4Addr::new(10, 0, 0, last);
    SocketAddr::new(std::net::IpAddr::V4(ip), REALM_PORT)
}

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The password of all users.
pub(super) const PASSWORD: &[u8] = b"correct horse";

/// A network with one realm, and clients with one profile.
pub(super) struct Setting {
    pub network: Network,
    site: Node,
    serving: Mutex<Option<(Machine, JoinHandle<()>)>>,
    memory: Memory,
    /// The clock of all machines. It is right unless a test changes it.
    wall: Arc<WallClock>,
    deadline: Duration,
    machines: AtomicU64,
}

impl Setting {
    fn new(addresses: &[SocketAddr]) -> Self {
        Self::seeded(addresses, 1)
    }

    pub fn seeded(addresses: &[SocketAddr], seed: u64) -> Self {
        let weather = Weather {
            delay: Duration::from_millis(20),
            ..Weather::CALM
        };
        let trace = Trace::start(false);
        let network = Network::new(rng(seed), weather, trace.clone());
        if !addresses.is_empty() {
            network.set_name(NAME, addresses);
        }
        let site = Node {
            id: "alpha".parse().unwrap(),
            address: Arc::new(Mutex::new(LIVE)),
            name: None,
            is_told: true,
            workers: 1,
            state: Arc::default(),
            key: SecretKey::from_bytes([7; 32]),
            disk: Disk::new(rng(2)),
            neighbours: Vec::new(),
            adds_once: false,
            early_data: true,
            lifetime: LINK_LIFETIME,
            kept: None,
            is_greedy: false,
            is_lied_to: false,
        };
        let setting = Self {
            network,
            site,
            serving: Mutex::default(),
            memory: Memory::default(),
            wall: Arc::new(WallClock::new()),
            deadline: Duration::from_secs(30),
            machines: AtomicU64::new(3),
        };
        setting.serve_at(LIVE);
        setting
    }

    pub fn machine(&self, name: &str) -> Machine {
        let wall = Arc::clone(&self.wall);
        let trace = Trace::start(false);
        // Each process has its own seed, so that no two make the same keys.
        let seed = self.machines.fetch_add(1, Ordering::Relaxed);
        Machine::start(name, self.network.clone(), wall, trace, rng(seed), None)
    }

    /// Lets the realm serve at `address`, and no longer at its former address.
    pub fn serve_at(&self, address: SocketAddr) {
        self.stop();
        let machine = self.machine("alpha");
        let site = Node {
            address: Arc::new(Mutex::new(address)),
            ..self.site.clone()
        };
        let (stop, stopping) = watch::channel(false);
        let process = machine.clone();
        let serving = tokio::spawn(async move {
            let _stop = stop;
            site.serve(process, stopping, std::future::pending()).await;
        });
        *self.serving.lock().unwrap() = Some((machine, serving));
    }

    pub fn stop(&self) {
        if let Some((machine, serving)) = self.serving.lock().unwrap().take() {
            machine.kill();
            serving.abort();
        }
    }

    pub fn client(&self) -> Client {
        self.client_of([8; 32], &self.memory)
    }

    /// Starts another process of the profile.
    pub fn process(&self) -> (Client, Machine) {
        // It has a machine of its own, so that only its own sockets end with it.
        let number = self.machines.load(Ordering::Relaxed);
        let machine = self.machine(&format!("process {number}"));
        let process = machine.clone();
        let memory = self.memory.of(move || process.is_dead());
        let client = self.client_on(machine.clone(), [8; 32], memory);
        (client, machine)
    }

    /// Returns a client of another device, without pending operations.
    async fn other_device(&self) -> Client {
        let client = self.client_of([9; 32], &Memory::default());
        let name = "ann".parse().unwrap();
        client.auth(name, b"correct horse").await.unwrap();
        client
    }

    /// Returns a copy of the profile in its present state.
    pub fn copied_profile(&self) -> Memory {
        self.memory.copy()
    }

    pub fn client_of(&self, key: [u8; 32], memory: &Memory) -> Client {
        self.client_on(self.machine("client"), key, memory.clone())
    }

    pub fn client_on(&self, machine: Machine, key: [u8; 32], memory: Memory) -> Client {
        let profile = Profile::in_memory(SecretKey::from_bytes(key), memory);
        let server = ConnectionString {
            host: NAME.into(),
            port: REALM_PORT,
            key: Some(self.site.key.public()),
        };
        let options = Options {
            server: Some(server),
            deadline: self.deadline,
            link: LinkParameters {
                keepalive: Silence::fixed(Duration::from_secs(5)),
                ..LinkParameters::default()
            },
            ..Options::default()
        };
        let host = Host::Simulated(machine);
        Client::open_on(host, profile, options).unwrap()
    }

    pub async fn registered(&self) -> Client {
        let client = self.client();
        let name = "ann".parse().unwrap();
        client
            .register("A", "id", name, b"correct horse")
            .await
            .unwrap();
        client
    }

    async fn send(&self, client: &Client, text: &str) -> Result<(), CallError> {
        let to = "ann".parse().unwrap();
        client.send(to, text.as_bytes()).await.map(drop)
    }
}

async fn texts(client: &Client) -> Vec<String> {
    let entries = client.read_whole(Mailbox::Private, Some(Position(0)), usize::MAX);
    let entries = entries.await.unwrap().into_iter();
    let texts = entries.map(|one| one.entry.body);
    texts.map(|body| String::from_utf8(body).unwrap()).collect()
}

/// Answers each datagram with one that is not authentic.
fn answer_with_junk(socket: Socket) {
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            socket.readable().await.unwrap();
            while let Ok((len, from)) = socket.try_recv_from(&mut buffer) {
                let mut junk = buffer[..len].to_vec();
                junk[0] = 0x04;
                socket.send_to(&junk, from).await.unwrap();
            }
        }
    });
}

/// HS-15: if the first candidate address is dead, the client uses the next one. This holds even if
/// datagrams from the first one arrive that are not authentic.
#[tokio::test(start_paused = true)]
async fn connect_with_first_address_dead_uses_next() {
    let setting = Setting::new(&[DEAD, LIVE]);
    let dead = setting.machine("dead");
    answer_with_junk(dead.bind(DEAD).unwrap());
    let begun = Instant::now();
    let client = setting.registered().await;
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(250), "{took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    let status = client.link_status().await;
    assert_eq!((status.address, status.open), (Some(LIVE), true));
    assert_eq!(status.opened, 1);
    // The other candidate is dropped, and no further datagram is sent to it.
    let before = setting.network.sent();
    setting.send(&client, "one").await.unwrap();
    assert!(setting.network.sent() - before <= 4);
}

/// HS-15: if the first address answers, a second one costs no datagram.
#[tokio::test(start_paused = true)]
async fn connect_with_first_address_live_sends_nothing_to_second() {
    let mut sent = vec![];
    for addresses in [vec![LIVE], vec![LIVE, DEAD]] {
        let setting = Setting::new(&addresses);
        // The realm serves from here on.
        setting.registered().await;
        let before = setting.network.sent();
        setting.other_device().await;
        sent.push(setting.network.sent() - before);
    }
    assert_eq!(sent[0], sent[1]);
}

/// HS-16: a client resolves an unknown name again and again until its deadline.
#[tokio::test(start_paused = true)]
async fn connect_to_unknown_name_is_retried_until_deadline() {
    let setting = Setting::new(&[]);
    let client = setting.client();
    let begun = Instant::now();
    let name = "ann".parse().unwrap();
    let failed = client.register("A", "id", name, b"correct horse").await;
    let Err(CallError::Resolve { host, source }) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(
        (host.as_str(), source.to_string().as_str()),
        (NAME, "no such name")
    );
    assert_eq!(begun.elapsed(), setting.deadline);
    let network = setting.network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(4)).await;
        network.set_name(NAME, &[LIVE]);
    });
    let begun = Instant::now();
    setting.registered().await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

/// HS-16: a client without a network tries again until there is one.
#[tokio::test(start_paused = true)]
async fn connect_without_network_waits_for_network() {
    let setting = Setting::new(&[LIVE]);
    setting.network.set_down(true);
    let network = setting.network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(4)).await;
        network.set_down(false);
    });
    let client = setting.registered().await;
    // The network is lost while the link is open. Unsent datagrams are sent as soon as it is back.
    setting.network.set_down(true);
    let network = setting.network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(4)).await;
        network.set_down(false);
    });
    let begun = Instant::now();
    setting.send(&client, "one").await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

/// HS-17: a command is reported as not done if no datagram of it was sent, and never takes effect.
#[tokio::test(start_paused = true)]
async fn connect_failed_before_any_datagram_is_reported_not_done() {
    let setting = Setting::new(&[LIVE]);
    let first = setting.registered().await;
    drop(first);
    let client = setting.client();
    client.whoami().await.unwrap();
    setting.network.set_down(true);
    let unkept = |client: &Client| {
        client.with(Sending {
            keep: false,
            ..Sending::default()
        })
    };
    let outcome = setting.send(&unkept(&client), "never").await;
    assert!(
        matches!(outcome, Err(CallError::Unreachable { .. })),
        "{outcome:?}"
    );
    // Unsent early data is not sent with the Init of a later command either.
    let early = setting.client();
    let outcome = setting.send(&unkept(&early), "never").await;
    assert!(
        matches!(outcome, Err(CallError::NotDone { .. })),
        "{outcome:?}"
    );
    setting.network.set_down(false);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(texts(&setting.other_device().await).await.is_empty());
}

/// HS-17: early data takes effect with the first datagram. Without an answer its outcome is
/// unknown.
#[tokio::test(start_paused = true)]
async fn early_data_without_answer_has_unknown_outcome() {
    let setting = Setting::new(&[LIVE]);
    drop(setting.registered().await);
    setting.network.cut("alpha", "client", true);
    let client = setting.client();
    let outcome = setting.send(&client, "perhaps").await;
    assert!(
        matches!(
            outcome,
            Err(CallError::Kept {
                is_unknown: true,
                ..
            })
        ),
        "{outcome:?}"
    );
    // A command that changes nothing can be repeated.
    let outcome = client.whoami().await;
    assert!(
        matches!(
            outcome,
            Err(CallError::OutcomeUnknown { .. } | CallError::Unreachable { .. })
        ),
        "{outcome:?}"
    );
}

/// HS-18: after a day of sleep a machine does not send its ticket: the realm would refuse it, which
/// costs a round trip.
#[tokio::test(start_paused = true)]
async fn ticket_after_day_of_sleep_is_not_sent() {
    for (slept, is_resumed) in [(3600, true), (86_400, false)] {
        let setting = Setting::new(&[LIVE]);
        let client = setting.registered().await;
        setting.send(&client, "one").await.unwrap();
        client.whoami().await.unwrap();
        // The realm has restarted meanwhile. The link is opened again.
        setting.serve_at(LIVE);
        tokio::time::sleep(Duration::from_secs(2)).await;
        setting.wall.jump(slept);
        let before = Instant::now();
        client.whoami().await.unwrap();
        assert_eq!(client.link_status().await.is_resumed, is_resumed);
        let took = before.elapsed();
        // This is a Reset and a handshake.
        assert!(took < Duration::from_millis(110), "{slept}: {took:?}");
        // The present ticket is valid, whatever happened to the one before.
        client.whoami().await.unwrap();
        setting.serve_at(LIVE);
        tokio::time::sleep(Duration::from_secs(2)).await;
        client.whoami().await.unwrap();
        assert!(client.link_status().await.is_resumed, "{slept}");
    }
}

/// HS-6: each command learns as fast as the first one that the realm has another key.
#[tokio::test(start_paused = true)]
async fn key_change_of_realm_is_reported_to_each_command() {
    let mut setting = Setting::new(&[LIVE]);
    drop(setting.registered().await);
    let client = setting.client();
    setting.site.key = SecretKey::from_bytes([77; 32]);
    setting.site.disk = Disk::new(rng(3));
    setting.serve_at(LIVE);
    for _ in 0..3 {
        let begun = Instant::now();
        let outcome = client.whoami().await;
        assert!(
            matches!(outcome, Err(CallError::KeyChanged { .. })),
            "{outcome:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(25));
    }
}

/// A read without an answer is reported as not done, whatever was received before: it changes
/// nothing.
#[tokio::test(start_paused = true)]
async fn answer_missing_to_read_is_reported_not_done() {
    let setting = Setting::new(&[LIVE]);
    let client = setting.registered().await;
    client.whoami().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    setting.network.cut("alpha", "client", true);
    let outcome = client.whoami().await;
    assert!(
        matches!(outcome, Err(CallError::Unreachable { .. })),
        "{outcome:?}"
    );
}

/// HS-16: a watch finds its realm at another address. Meanwhile it reports that the realm is out of
/// reach.
#[tokio::test(start_paused = true)]
async fn watch_finds_realm_at_new_address() {
    let setting = Setting::new(&[LIVE]);
    let client = setting.registered().await;
    let mut watching = client.watch().await.unwrap();
    setting.serve_at(OTHER);
    assert_eq!(watching.next_event().await.unwrap(), WatchEvent::OutOfReach);
    setting.network.set_name(NAME, &[OTHER]);
    let back = tokio::time::timeout(Duration::from_mins(2), watching.next_event()).await;
    assert_eq!(back.expect("it is found").unwrap(), WatchEvent::Back);
    setting.send(&client, "two").await.unwrap();
    let entry = watching.next().await.unwrap();
    assert_eq!(entry.body, b"two");
    assert_eq!(client.link_status().await.address, Some(OTHER));
}

/// A watch that begins without a network starts once there is one.
#[tokio::test(start_paused = true)]
async fn watch_without_network_starts_once_network_is_up() {
    let setting = Setting::new(&[LIVE]);
    drop(setting.registered().await);
    setting.network.set_down(true);
    let network = setting.network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(8)).await;
        network.set_down(false);
    });
    let client = setting.client();
    let mut watching = client.watch().await.unwrap();
    let other = setting.other_device().await;
    setting.send(&other, "hello").await.unwrap();
    let entry = watching.next().await.unwrap();
    assert_eq!(entry.body, b"hello");
}
