//! Attacks by a peer that has opened a link and follows no rule on it.

use std::net::Ipv4Addr;

use merpati::wire::{
    AckFrame, CloseReason, ConnectionId, Frame, MessageId, PacketNumber, Protection, RequestId,
    append_crc, emit_varint, link_header,
};

use crate::{
    stranger::{Intruder, OPEN, Stranger, frames},
    support::{Home, Realm},
};

const REQUEST: u8 = 0x05;

/// LINK-15: flood of path challenges: a packet is answered with one response, however many
/// challenges it contains.
#[test]
fn path_validation_challenge_flood_gets_one_response_per_packet() {
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

/// LINK-7: an acknowledgement covers 65 packets, so many of them cost little. An acknowledgement of
/// a packet that was never sent ends the link.
#[test]
fn ack_flood_is_cheap_and_ack_of_unsent_packet_ends_link() {
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

/// WIRE-9, LINK-13: false lengths in frames, commands and fragments are refused.
#[test]
fn fragments_and_frames_with_false_lengths_are_refused() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    for len in [64, 1 << 14, 1 << 30, (1 << 32) - 1, (1 << 62) - 1] {
        let mut intruder = Intruder::to(&realm);
        // A request that claims to be longer than its packet.
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
        // Fragments at the end of a message that claims this length.
        let mut intruder = Intruder::to(&realm);
        for offset in [0, len - 1, len, u64::MAX >> 2] {
            intruder.send(&[Frame::Fragment {
                message: MessageId::Request(RequestId(3)),
                total: len,
                offset,
                bytes: &[1; 30],
            }]);
        }
        intruder.answers();
        // Each kind of command, with a field that claims to be longer than the command.
        let mut intruder = Intruder::to(&realm);
        for (number, kind) in (0..=0x40).enumerate() {
            let mut command = vec![kind, 0];
            emit_varint(len, &mut command);
            intruder.send(&[Frame::Request {
                number: RequestId(number as u64),
                command: &command,
            }]);
        }
        intruder.answers();
    }
    home.run("ann", &["send", "ann", "still here"]).ok();
    assert!(!realm.log().contains("panicked"), "{}", realm.log());
}

/// LINK-13: reassembly exhaustion: the realm reassembles no fragments for a device that is not
/// logged in, whatever lengths the fragments declare.
#[test]
fn fragments_of_device_without_session_are_not_reassembled() {
    let realm = Realm::start();
    Home::new().register("ann", &realm.connect);
    let before = realm.memory();
    // Fewer handshakes than one subnet may begin without a cookie.
    for _ in 0..10 {
        let mut intruder = Intruder::to(&realm);
        for number in 0..100 {
            intruder.send(&[Frame::Fragment {
                message: MessageId::Request(RequestId(number)),
                total: 16_000,
                offset: number * 100,
                bytes: &[1; 1000],
            }]);
        }
        intruder.answers();
    }
    // Ten links are allocated, and none of the 16 MB that were declared. Each worker allocates
    // memory in chunks of 4 MiB.
    let grown = realm.memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
}

/// HS-13, LINK-11: hash flooding and floods of links: whatever connection ids strangers choose,
/// they hold few links at once, and a new client is admitted.
#[test]
fn link_slots_crafted_connection_ids_displace_nobody() {
    let home = Home::new();
    let path = home.directory.path().join("realm.toml");
    std::fs::write(
        &path,
        "[limits]\nlinks = 500\n[[listen]]\naddress = \"127.0.0.1:0\"\nsecurity = \"plain\"\n",
    )
    .unwrap();
    let realm = Realm::start_with(&["--config", path.to_str().unwrap()]);
    let mut stranger = Stranger::at(Ipv4Addr::LOCALHOST, &realm);
    let before = realm.memory();
    for n in 0..5000_u32 {
        // The ids are alike in all bits that a table might use for its index.
        let connection = Some(ConnectionId(n.rotate_left(19)));
        let mut packet = Vec::new();
        let number = PacketNumber(0);
        link_header(Protection::Plain, connection, number, None, &mut packet);
        for _ in 0..60 {
            Frame::Padding.emit_inner(&mut packet);
        }
        OPEN.emit_last(&mut packet);
        append_crc(&mut packet);
        stranger.send(&packet);
        if n % 100 == 0 {
            stranger.answers();
        }
    }
    assert!(stranger.came <= stranger.sent);
    let grown = realm.memory().saturating_sub(before);
    assert!(grown < 10 << 20, "{grown} bytes");
    let server = realm.announced["connect"].as_str().unwrap();
    let register = [
        "register",
        "Ann",
        "id",
        "ann",
        "--password-file",
        "password",
    ];
    let options = ["--server", server, "--plain"];
    home.run("ann", &[&options[..], &register].concat()).ok();
}

/// LINK-9: of requests without end the realm has little more than a hundred in work, and it keeps
/// serving others.
#[test]
fn limits_endless_requests_are_slowed_and_others_served() {
    let realm = Realm::start();
    let mut intruder = Intruder::to(&realm);
    for round in 0..100_u64 {
        let requests: Vec<_> = (0..100)
            .map(|n| Frame::Request {
                number: RequestId(round * 100 + n),
                command: &[0x01, 0x00],
            })
            .collect();
        intruder.send(&requests);
    }
    intruder.answers();
    let home = Home::new();
    home.register("ann", &realm.connect);
}
