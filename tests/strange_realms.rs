//! Realms that answer what no realm should, or that are of another time: what the real client makes of them.

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

/// Whatever answers at an address, and how many Inits have come there.
struct Strange {
    address: SocketAddr,
    key: SecretKey,
    inits: Arc<Mutex<usize>>,
}

impl Strange {
    /// Answers each packet as `answer` says, if at all.
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

/// Says that it speaks versions of the protocol that nobody knows yet.
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

/// HS-6: who finds no version of its own in the answer sends no Init, and says which there are.
#[test]
fn other_version_is_told_and_no_handshake_begins() {
    let strange = Strange::start(|key, packet| of_another_time(key, &packet));
    is_told(&strange.register(false, &["--trust"]));
    assert_eq!(strange.inits(), 0);
}

/// HS-6: who knows the realm's key asks when nothing is heard, and then does not go on in vain.
#[test]
fn other_version_of_a_known_realm_is_told_when_it_is_silent() {
    let strange = Strange::start(|key, packet| of_another_time(key, &packet));
    is_told(&strange.register(true, &["--deadline", "40s"]));
    assert!(strange.inits() > 0);
}

/// WIRE-9, LINK-22: an Accept that makes no sense was answered with another Init at once, without end.
#[test]
fn malformed_accept_is_followed_by_a_wait() {
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
    // At once, and after two seconds; the next would be four later.
    assert_eq!(strange.inits(), 2, "{run:?}");
}
