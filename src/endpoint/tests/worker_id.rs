//! Several workers at one address.

use super::*;
use crate::wire::HandshakeId;

/// A client, and two workers at the address that it sends to.
struct Split {
    pair: Pair,
    /// The second endpoint; the pair's server is the first.
    second: Endpoint,
}

impl Split {
    fn new() -> Self {
        let worker = |own: u8| {
            let config = Config {
                worker: WorkerId::new(own.into(), 2_u32.try_into().unwrap()).unwrap(),
                ..config(Some(Protection::Sealed))
            };
            Endpoint::new(config, &realm_key().into(), [own + 4; 32])
        };
        let mut pair = Pair::new(Protection::Sealed);
        pair.server = worker(0);
        Self {
            pair,
            second: worker(1),
        }
    }

    /// Delivers the client's datagrams to the second endpoint. Returns the endpoint that each
    /// belongs to, if it is another one.
    fn send(&mut self) -> Vec<Option<u32>> {
        let (mut out, mut said) = (vec![], vec![]);
        let (now, from) = (self.pair.now, client_address());
        while self.pair.client.poll_transmit(now, &mut out).is_some() {
            said.push(self.second.handle_datagram(now, from, &out));
        }
        said
    }
}

/// A link's packets belong to the endpoint that has admitted it, whichever endpoint they come to.
#[test]
fn worker_of_link_is_named_by_connection_id() {
    let mut split = Split::new();
    let link = split.pair.connect();
    split.pair.ask(link, true);
    assert_eq!(split.send(), [None], "an Init is at home where it comes to");
    core::mem::swap(&mut split.pair.server, &mut split.second);
    split.pair.serve(&mut vec![]);
    assert_eq!(replies(&split.pair.drive(|_| false)), 1);
    let ids: Vec<u32> = split
        .pair
        .server
        .links
        .ids()
        .iter()
        .map(|id| id.0)
        .collect();
    assert_eq!(ids.iter().map(|id| id % 2).collect::<Vec<_>>(), [1]);
    split.pair.ask(link, false);
    // Now to the primary worker.
    assert_eq!(split.send(), [Some(1)]);
    assert_eq!(split.second.links(), 0);
    assert!(!split.second.has_events());
}

/// Handshakes of other realms, and answers to this realm's own, belong to the primary worker.
#[test]
fn worker_first_gets_handshakes_of_realms() {
    let mut split = Split::new();
    let client = split.pair.client.keys.current().public;
    split.second.set_realms([client]);
    let link = split.pair.connect();
    split.pair.ask(link, true);
    assert_eq!(split.send(), [Some(0)]);
    assert_eq!(split.second.links(), 0);
    // The primary worker never hands off to itself.
    split.pair.server.set_realms([client]);
    assert!(replies(&split.pair.drive(|_| false)) <= 1);
    let now = split.pair.now;
    let mut answers = vec![];
    Packet::emit_retry(HandshakeId(7), &[1; 16], &mut answers);
    let said = split
        .second
        .handle_datagram(now, client_address(), &answers);
    assert_eq!(said, Some(0));
}
