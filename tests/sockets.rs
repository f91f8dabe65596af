//! A listener at all addresses of its machine, asked at a second address by clients that check
//! where the answer comes from (WIRE-16). Linux has many loopback addresses. Tests that need
//! several machines are in `addresses.rs`.
#![cfg(target_os = "linux")]

mod support;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use merpati::{
    client::system_rng,
    crypto::{ConnectionString, SecretKey},
    endpoint::{Config, Endpoint},
    link::Time,
    wire::{Hello, Packet},
};
use rand::Rng as _;
use support::{Home, Realm};

const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const SECOND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

/// Starts a realm that listens at all addresses.
fn realm_everywhere(home: &Home, limits: &str) -> Realm {
    let path = home.directory.path().join("everywhere.toml");
    let text = format!("[limits]\n{limits}\n[[listen]]\naddress = \"0.0.0.0:0\"\n");
    std::fs::write(&path, &text).unwrap();
    let realm = Realm::start_with(&["--config", path.to_str().unwrap()]);
    // From the next start on, the realm uses the same port.
    let fixed = text.replace("0.0.0.0:0", &realm.address.to_string());
    std::fs::write(&path, fixed).unwrap();
    realm
}

/// Returns the realm's address at `ip`.
fn at(realm: &Realm, ip: IpAddr) -> SocketAddr {
    (ip, realm.address.port()).into()
}

/// An unconnected socket, which receives from any address.
struct Anyone(UdpSocket);

impl Anyone {
    fn new() -> Self {
        let socket = UdpSocket::bind((FIRST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        socket.set_broadcast(true).unwrap();
        Self(socket)
    }

    /// Sends a datagram. Returns what comes back, and from where.
    fn ask(&self, to: SocketAddr, question: &[u8]) -> (Vec<u8>, SocketAddr) {
        self.0.send_to(question, to).unwrap();
        let mut buffer = [0; 2000];
        let (len, from) = self.0.recv_from(&mut buffer).expect("it is answered");
        (buffer[..len].to_vec(), from)
    }

    fn ask_hello(&self, to: SocketAddr) -> SocketAddr {
        let nonce = [7; 8];
        let mut question = Vec::new();
        Hello { nonce }.emit(&mut question);
        let (reply, from) = self.ask(to, &question);
        match Packet::parse(&reply) {
            Ok(Packet::HelloReply(reply)) => assert_eq!(reply.nonce, nonce),
            other => panic!("{other:?}"),
        }
        from
    }
}

/// Returns the first datagram of an unknown device.
fn init(realm: &Realm) -> Vec<u8> {
    let connect: ConnectionString = realm.connect.parse().unwrap();
    let mut rng = system_rng().unwrap();
    let device = SecretKey::generate(&mut rng);
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let mut endpoint = Endpoint::new(Config::default(), &device.into(), seed);
    endpoint.connect(Time(0), realm.address, connect.key.unwrap(), None);
    let mut init = Vec::new();
    endpoint.poll_transmit(Time(0), &mut init).unwrap();
    init
}

/// WIRE-16, HS-6, HS-8, HS-12: each kind of answer to a stranger comes from the address that was
/// asked.
#[test]
fn sockets_stranger_is_answered_from_address_asked() {
    for workers in [1, 4] {
        let home = Home::new();
        let limits = format!("workers = {workers}\nhandshakes_per_subnet = \"1/s\"");
        let realm = realm_everywhere(&home, &limits);
        for asked in [SECOND, FIRST] {
            let (anyone, to) = (Anyone::new(), at(&realm, asked));
            assert_eq!(anyone.ask_hello(to), to);
            // Until a cookie is required, by all workers.
            let mut kinds = [0, 0];
            while kinds[1] == 0 {
                let (answer, from) = Anyone::new().ask(to, &init(&realm));
                assert_eq!(from, to);
                match Packet::parse(&answer) {
                    Ok(Packet::Accept { .. }) => kinds[0] += 1,
                    Ok(Packet::Retry { .. }) => kinds[1] += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert!(kinds[0] > 0 || asked == FIRST, "the allowance is used up");
            // A packet of a link that this realm does not know.
            let mut forgotten = vec![0xe0, 1, 2, 3, 4, 9];
            forgotten.resize(60, 0);
            let (answer, from) = anyone.ask(to, &forgotten);
            assert_eq!(from, to);
            assert!(matches!(Packet::parse(&answer), Ok(Packet::Reset { .. })));
        }
    }
}

/// WIRE-16: a client, whose socket is connected to the address that it asks, receives all of many
/// long messages, also over links that the realm has forgotten meanwhile.
#[test]
fn sockets_second_address_carries_long_conversations() {
    for workers in [1, 4] {
        let home = Home::new();
        let limits = format!("workers = {workers}\nhandshakes_per_subnet = \"unlimited\"");
        let mut realm = realm_everywhere(&home, &limits);
        let connect = realm.connect_through(at(&realm, SECOND));
        home.register("ann", &connect);
        let long = |n: usize| format!("{n:05}").repeat(3000);
        for n in 0..6 {
            if n == 3 {
                realm.kill();
                realm.start_again();
            }
            home.run("ann", &["send", "ann", &long(n)]).ok();
        }
        let wanted: Vec<String> = (0..6).map(long).collect();
        assert_eq!(home.texts("ann"), wanted);
    }
}

/// WIRE-16: a broadcast is answered from one of the machine's addresses, and odd datagrams do not
/// stop the realm.
#[test]
fn sockets_broadcast_is_answered_from_own_address() {
    let home = Home::new();
    let realm = realm_everywhere(&home, "workers = 1");
    let anyone = Anyone::new();
    for _ in 0..3 {
        let from = anyone.ask_hello(at(&realm, [127, 255, 255, 255].into()));
        assert_eq!(from, at(&realm, FIRST));
        // An empty datagram carries nothing, and does not stop the realm.
        anyone.0.send_to(&[], at(&realm, SECOND)).unwrap();
        assert_eq!(anyone.ask_hello(at(&realm, SECOND)), at(&realm, SECOND));
    }
    home.register("ann", &realm.connect_through(at(&realm, SECOND)));
}
