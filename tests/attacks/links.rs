//! What somebody does who has opened a link and keeps to no rule on it.

use merpati::wire::{AckFrame, CloseReason, Frame, PacketNumber, PartOf, emit_varint};

use crate::{
    stranger::{Intruder, frames},
    support::{Home, Realm},
};

const REQUEST: u8 = 0x05;

/// LINK-15: floods of path challenges: one packet is answered with one response, however many it asks for.
#[test]
fn a_flood_of_path_challenges_is_answered_once_a_packet() {
    let realm = Realm::start();
    let mut intruder = Intruder::to(&realm);
    for _ in 0..10 {
        let challenges: Vec<_> = (0..100).map(|n| Frame::PathChallenge([n; 8])).collect();
        intruder.send(&challenges);
        let answers = intruder.answers();
        let responses = answers.iter().flat_map(|payload| frames(payload));
        let responses = responses.filter(|frame| matches!(frame, Frame::PathResponse(_)));
        assert!(responses.count() <= 1);
    }
    assert!(intruder.stranger.came < intruder.stranger.sent);
}

/// LINK-7: an acknowledgement tells of 65 packets, so that many of them cost little; one of what was never sent ends
/// the link.
#[test]
fn acknowledgements_of_everything_cost_nothing() {
    let realm = Realm::start();
    let mut intruder = Intruder::to(&realm);
    let ack = |largest| {
        Frame::Ack(AckFrame {
            largest: PacketNumber(largest),
            delay_ms: 0,
            bitmap: u64::MAX,
        })
    };
    intruder.send(&[Frame::Ping]);
    assert!(!intruder.answers().is_empty());
    for _ in 0..200 {
        intruder.send(&[ack(0); 90]);
    }
    assert_eq!(intruder.answers(), [[0; 0]; 0], "nobody acknowledges that");
    intruder.send(&[ack((1 << 62) - 1)]);
    let answers = intruder.answers();
    let closed = answers.iter().flat_map(|payload| frames(payload));
    let mut closed = closed.filter(|frame| *frame == Frame::Close(CloseReason::Violation));
    assert!(closed.next().is_some(), "{answers:?}");
}

/// WIRE-9, LINK-13: lengths that are a lie, in frames, in commands and in parts.
#[test]
fn lengths_that_overflow_are_refused() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    for len in [64, 1 << 14, 1 << 30, (1 << 32) - 1, (1 << 62) - 1] {
        let mut intruder = Intruder::to(&realm);
        // A request that is longer than its packet.
        let mut lie = vec![REQUEST, 0];
        emit_varint(len, &mut lie);
        lie.push(0x01);
        intruder.send_bytes(&lie);
        let answers = intruder.answers();
        let closed = answers.iter().flat_map(|payload| frames(payload));
        assert!(
            closed
                .into_iter()
                .any(|frame| matches!(frame, Frame::Close(_)))
        );
        // Parts of a message as long as that, at its end.
        let mut intruder = Intruder::to(&realm);
        for offset in [0, len - 1, len, u64::MAX >> 2] {
            intruder.send(&[Frame::Part {
                of: PartOf::Request,
                number: 3,
                total: len,
                offset,
                bytes: &[1; 30],
            }]);
        }
        intruder.answers();
        // Each kind of command, with a field that is longer than all of it.
        let mut intruder = Intruder::to(&realm);
        for (number, kind) in (0..=0x40).enumerate() {
            let mut command = vec![kind, 0];
            emit_varint(len, &mut command);
            intruder.send(&[Frame::Request {
                number: number as u64,
                command: &command,
            }]);
        }
        intruder.answers();
    }
    home.run("ann", &["send", "ann", "still here"]).ok();
    assert!(!realm.log().contains("panicked"), "{}", realm.log());
}

/// LINK-9: who asks without end keeps the realm at a hundred and a few of them.
#[test]
fn who_asks_without_end_is_slowed_down() {
    let realm = Realm::start();
    let mut intruder = Intruder::to(&realm);
    for round in 0..100_u64 {
        let requests: Vec<_> = (0..100)
            .map(|n| Frame::Request {
                number: round * 100 + n,
                command: &[0x01, 0x00],
            })
            .collect();
        intruder.send(&requests);
    }
    intruder.answers();
    let home = Home::new();
    home.register("ann", &realm.connect);
}
