//! Realms that answer wrongly, or speak other versions, and how the real client reacts.

mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use merpati::{
    client::system_rng,
    crypto::{Responder, SecretKey},
    wire::{HelloReply, Packet},
};
use support::{Home, Run};

/// A server that answers wrongly, and the number of Inits that it has received.
struct Strange {
    address: SocketAddr,
    key: SecretKey,
    inits: Arc<Mutex<usize>>,
}

impl Strange {
    /// Answers each packet as `answer` says, or not at all.
    fn start(answer: impl Fn(&SecretKey, Packet<'_>) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let strange = Self {
            address: socket.local_addr().unwrap(),
            key: SecretKey::generate(&mut system_rng().unwrap()),
            inits: Arc::default(),
        };
        let (key, inits) = (strange.key.clone(), Arc::clone(&strange.inits));
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let Ok(packet) = Packet::parse(&buffer[..len]) else {
                    continue;
                };
                *inits.lock().unwrap() += usize::from(matches!(packet, Packet::Init(_)));
                if let Some(answer) = answer(&key, packet) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        strange
    }

    fn inits(&self) -> usize {
        *self.inits.lock().unwrap()
    }

    fn register(&self, with_key: bool, options: &[&str]) -> Run {
        let mut connect = format!("merpati://{}", self.address);
        if with_key {
            connect = format!("{connect}#{}", self.key.public());
        }
        let mut arguments = vec!["--server", &connect];
        arguments.extend(options);
        arguments.extend(["register", "A", "id", "ann", "--password-file", "password"]);
        Home::new().run("ann", &arguments)
    }
}

/// Answers a Hello with versions of the protocol that do not exist yet.
fn of_another_time(key: &SecretKey, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let Packet::Hello(hello) = packet else {
        return None;
    };
    let reply = HelloReply {
        nonce: hello.nonce,
        versions: vec![7, 8],
        realm: "alpha".parse().unwrap(),
        key: key.public().0,
    };
    let mut out = Vec::new();
    reply.emit(&mut out);
    Some(out)
}

fn is_told(run: &Run) {
    assert_eq!(run.error(3), "other-version", "{run:?}");
    let message = run.objects().pop().unwrap()["message"].to_string();
    assert!(
        message.contains("versions [7, 8] ") && message.contains("version 1;"),
        "{message}"
    );
}

/// HS-6: a client that finds none of its own versions in the `HelloReply` sends no Init, and
/// reports the realm's versions.
#[test]
fn handshake_realm_of_other_version_is_told_before_init() {
    let strange = Strange::start(|key, packet| of_another_time(key, &packet));
    is_told(&strange.register(false, &["--trust"]));
    assert_eq!(strange.inits(), 0);
}

/// HS-6: a client that knows the realm's key sends a Hello when it hears nothing, and then stops
/// before its deadline.
#[test]
fn handshake_known_silent_realm_of_other_version_is_told() {
    let strange = Strange::start(|key, packet| of_another_time(key, &packet));
    is_told(&strange.register(true, &["--deadline", "40s"]));
    assert!(strange.inits() > 0);
}

/// WIRE-9, LINK-22: a malformed Accept is followed by a wait. It was answered with another Init at
/// once, without end.
#[test]
fn handshake_malformed_accept_is_followed_by_wait() {
    let strange = Strange::start(|key, packet| {
        let Packet::Init(init) = packet else {
            return None;
        };
        let (responder, _) = Responder::read(&mut system_rng().unwrap(), key, init.noise).ok()?;
        let (_, noise) = responder.finish(&[0, 0, 0, 1, 0x7f]).ok()?;
        let mut out = Vec::new();
        Packet::emit_accept(init.handshake, &noise, &mut out);
        Some(out)
    });
    let run = strange.register(true, &["--deadline", "4s"]);
    assert_ne!(run.code, Some(0), "{run:?}");
    // The first at once, the second after two seconds. The next would follow after four more.
    assert_eq!(strange.inits(), 2, "{run:?}");
}
