//! Handshake messages: arbitrary ones, and genuine ones that were changed on the way.

use std::{cell::RefCell, sync::LazyLock};

use arbitrary::{Arbitrary, Unstructured};
use merpati::crypto::{Initiator, PublicKey, Responder, SecretKey};
use rand::{SeedableRng as _, rngs::StdRng};

#[derive(Arbitrary, Debug)]
enum Message {
    /// Arbitrary bytes.
    Raw(Vec<u8>),
    /// The genuine message with changes.
    Changed(Vec<Change>),
}

#[derive(Arbitrary, Debug)]
enum Change {
    Bend { at: u16, with: u8 },
    Cut { len: u16 },
    Append { byte: u8 },
    Swap { a: u16, b: u16 },
}

struct Genuine {
    realm: SecretKey,
    device: PublicKey,
    one: Vec<u8>,
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn initiator() -> (Initiator, Vec<u8>) {
    let device = SecretKey::from_bytes([1; 32]);
    let realm = SecretKey::from_bytes([2; 32]).public();
    Initiator::start(&mut rng(), &device, &realm, b"early data").expect("the keys are good")
}

static GENUINE: LazyLock<Genuine> = LazyLock::new(|| Genuine {
    realm: SecretKey::from_bytes([2; 32]),
    device: SecretKey::from_bytes([1; 32]).public(),
    one: initiator().1,
});

impl Message {
    fn bytes(self, genuine: &[u8]) -> Vec<u8> {
        let changes = match self {
            Self::Raw(bytes) => return bytes,
            Self::Changed(changes) => changes,
        };
        let mut bytes = genuine.to_vec();
        for change in changes {
            let len = bytes.len().max(1);
            match change {
                Change::Bend { at, with } => {
                    if let Some(byte) = bytes.get_mut(usize::from(at) % len) {
                        *byte ^= with;
                    }
                }
                Change::Cut { len } => bytes.truncate(len.into()),
                Change::Append { byte } => bytes.push(byte),
                Change::Swap { a, b } if !bytes.is_empty() => {
                    bytes.swap(usize::from(a) % len, usize::from(b) % len);
                }
                Change::Swap { .. } => {}
            }
        }
        bytes
    }
}

thread_local! {
    /// An initiator that waits for its answer, and the genuine answer.
    static WAITING: RefCell<Option<(Initiator, Vec<u8>)>> = const { RefCell::new(None) };
}

/// Returns an initiator and the genuine answer to it, which only the realm's key can make.
fn answered() -> (Initiator, Vec<u8>) {
    let (initiator, one) = initiator();
    let (responder, _) = Responder::read(&mut rng(), &GENUINE.realm, &one).expect("it is genuine");
    let (_, two) = responder.finish(b"the answer").expect("it is short");
    (initiator, two)
}

fn to_responder(message: Message) {
    let genuine = &*GENUINE;
    let bytes = message.bytes(&genuine.one);
    let read = Responder::read(&mut rng(), &genuine.realm, &bytes);
    assert_eq!(read.is_ok(), bytes == genuine.one);
    if let Ok((responder, payload)) = read {
        assert_eq!(
            (responder.peer, payload.as_slice()),
            (genuine.device, &b"early data"[..])
        );
    }
}

fn to_initiator(message: Message, is_finished: bool) {
    // A forged answer changes nothing, so the same initiator waits until the genuine one arrives.
    let (mut initiator, two) = WAITING.take().unwrap_or_else(answered);
    let bytes = message.bytes(&two);
    match initiator.finish(&bytes) {
        Ok((_, payload)) => assert!(bytes == two && payload == b"the answer"),
        Err(_) if is_finished => {
            let (_, payload) = initiator.finish(&two).expect("it is genuine");
            assert_eq!(payload, b"the answer");
        }
        Err(_) => {
            assert_ne!(bytes, two);
            WAITING.set(Some((initiator, two)));
        }
    }
}

/// Tests a message to a responder or to an initiator: only the genuine one is accepted.
pub fn handshake(input: &[u8]) {
    let mut input = Unstructured::new(input);
    match input.arbitrary::<(bool, u8, Message)>() {
        Ok((true, _, message)) => to_responder(message),
        Ok((false, finished, message)) => to_initiator(message, finished % 16 == 0),
        Err(_) => {}
    }
}
