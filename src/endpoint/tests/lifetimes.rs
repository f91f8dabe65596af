//! How long things are remembered, and that they are let go in the end.

use super::{roaming::in_use, *};

/// Lets a side wait, alone.
fn wait(pair: &mut Pair, seconds: u64) {
    pair.now = pair.now + Duration::from_secs(seconds);
    pair.server.handle_timeout(pair.now);
}

/// HS-4, HS-5. Found by the simulator: where a round trip takes nearly a minute and some are lost, each new link was
/// forgotten before it could be proven, and each repeated Init was a new one.
#[test]
fn a_link_may_take_minutes_to_be_proven() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, false);
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    let init = out.clone();
    let (from, mut told) = (pair.from, vec![]);
    pair.server.handle_datagram(pair.now, from, &init);
    pair.serve(&mut told);
    let mut accept = vec![];
    pair.server.poll_transmit(pair.now, &mut accept).unwrap();
    wait(&mut pair, 100);
    pair.server.handle_datagram(pair.now, from, &init);
    let mut again = vec![];
    pair.server.poll_transmit(pair.now, &mut again).unwrap();
    assert_eq!(accept, again, "it is the same handshake");
    wait(&mut pair, 70);
    pair.client
        .handle_datagram(pair.now, server_address(), &again);
    assert_eq!(replies(&pair.settle(|_| false)), 1);
    let resets = pair
        .carried
        .iter()
        .filter(|(_, bytes)| matches!(Packet::parse(bytes), Ok(Packet::Reset { .. })));
    assert_eq!(resets.count(), 0);
    assert_eq!(pair.server.links(), 1);
}

/// LINK-13. Found by the simulator: bytes of a message that was being put together counted for ever when their link
/// was opened anew, until nothing was put together any more.
#[test]
fn what_is_put_together_is_let_go_with_its_link() {
    for ends in ["by itself", "with its link", "with a fresh link"] {
        let (mut pair, link) = in_use();
        let deadline = pair.now + Duration::from_hours(2);
        pair.client
            .request(pair.now, link, vec![7; 5000], deadline, false)
            .unwrap();
        let mut out = vec![];
        pair.client.poll_transmit(pair.now, &mut out).unwrap();
        pair.server.handle_datagram(pair.now, pair.from, &out);
        let held = |server: &Endpoint| server.assembling;
        assert!(held(&pair.server) > 0, "{ends}");
        match ends {
            "by itself" => wait(&mut pair, 16 * 60),
            "with its link" => {
                let link = *pair.server.slots.keys().next().unwrap();
                pair.server.close(pair.now, link, CloseReason::Done);
                while pair.server.poll_transmit(pair.now, &mut out).is_some() {}
            }
            _ => {
                let link = *pair.server.slots.keys().next().unwrap();
                pair.server.dial_again(pair.now, link);
            }
        }
        assert_eq!(held(&pair.server), 0, "{ends}");
    }
}
