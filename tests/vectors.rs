//! The test vectors of `spec/vectors/`, with which another implementation can check itself. This
//! implementation is checked to the byte. `MERPATI_WRITE_VECTORS=1 cargo test --test vectors`
//! rewrites them, which only a change of the protocol requires.

#![allow(clippy::too_many_lines, reason = "they are tables")]

use std::{convert::Infallible, fs, path::PathBuf};

use data_encoding::HEXLOWER;
use merpati::{
    crypto::{Initiator, LifeClaim, Responder, ResumptionSecret, SecretKey, mac1, ticket_check},
    wire::{
        Account, AckFrame, Answer, Body, CloseReason, Command, ConnectionId, Cursors,
        DeviceSession, Entry, ErrorCode, Event, EventId, Fragment, Frame, Frames, HandshakeId,
        Hello, HelloReply, Init, Life, LinkName, Mailbox, Member, MessageId, Offset, Open,
        Operation, OperationNumber, Options, PROTOCOL_VERSION, Packet, PacketNumber, Page,
        Password, Peer, PeerDetail, PeerDetails, PeerRequest, PeeringNumbers, PeeringState, Port,
        Position, Protection, Refusal, RegistrationCode, Request, RequestId, Resume, Role, Sender,
        Sent, SessionId, SessionRef, Text, Unread, Update, Welcome, append_crc, command,
        link_header, peer,
    },
};
use serde_json::{Value, json};

/// Compares `made` with the file, or writes the file if requested.
fn compare(name: &str, made: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("spec/vectors")
        .join(name);
    if std::env::var_os("MERPATI_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(made).unwrap();
        fs::write(&path, text + "\n").unwrap();
    }
    let kept: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(&kept, made, "{name}");
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn valid(name: &str, value: &Value, bytes: &[u8]) -> Value {
    json!({ "name": name, "value": value, "hex": hex(bytes) })
}

fn invalid(why: &str, bytes: &[u8]) -> Value {
    json!({ "why": why, "hex": hex(bytes) })
}

fn user<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str) -> T {
    name.parse().unwrap()
}

/// WIRE-1, WIRE-5, WIRE-6, WIRE-7, WIRE-11: packets are encoded as the vectors say.
#[test]
fn vectors_of_packets_match_encoding() {
    let emit = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = vec![];
        write(&mut out);
        out
    };
    let hello = emit(&|out| {
        Hello {
            nonce: *b"nonce...",
        }
        .emit(out);
    });
    let reply = HelloReply {
        nonce: *b"nonce...",
        versions: vec![PROTOCOL_VERSION],
        realm: user("alpha"),
        key: [7; 32],
    };
    let reply_bytes = emit(&|out| reply.emit(out));
    let retry = emit(&|out| Packet::emit_retry(HandshakeId(0x0102_0304), &[9; 16], out));
    let reset = emit(&|out| Packet::emit_reset(ConnectionId(0x0506_0708), &[8; 16], out));
    let plain = |connection, number: u64, acknowledged: Option<u64>| {
        emit(&|out| {
            let (number, acknowledged) = (PacketNumber(number), acknowledged.map(PacketNumber));
            link_header(Protection::Plain, connection, number, acknowledged, out);
            Frame::Ping.emit_last(out);
            append_crc(out);
        })
    };
    let with_id = plain(Some(ConnectionId(0x0506_0708)), 300, Some(0));
    let without_id = plain(None, 5, None);
    let long_number = plain(None, 0x0001_0000, Some(0));
    assert!(matches!(Packet::parse(&hello), Ok(Packet::Hello(_))));
    assert_eq!(Packet::parse(&reply_bytes), Ok(Packet::HelloReply(reply)));
    assert!(matches!(Packet::parse(&retry), Ok(Packet::Retry { .. })));
    assert!(matches!(Packet::parse(&reset), Ok(Packet::Reset { .. })));
    for packet in [&with_id, &without_id, &long_number] {
        assert!(matches!(Packet::parse(packet), Ok(Packet::Link(_))));
    }
    let [mut resume, mut resume_again, mut resumed] = [vec![], vec![], vec![]];
    let (ticket, check, nonce) = (ConnectionId(0x0506_0708), [4; 4], [5; 8]);
    Resume::emit_header(ticket, &check, &nonce, None, &mut resume);
    Resume::emit_header(ticket, &check, &nonce, Some(&[9; 16]), &mut resume_again);
    Packet::emit_resumed_header(&nonce, &mut resumed);
    for packet in [&mut resume, &mut resume_again, &mut resumed] {
        packet.extend_from_slice(&[6; 20]);
    }
    assert!(matches!(Packet::parse(&resume), Ok(Packet::Resume(_))));
    assert!(matches!(
        Packet::parse(&resume_again),
        Ok(Packet::Resume(Resume {
            cookie: Some(_),
            ..
        }))
    ));
    assert!(matches!(
        Packet::parse(&resumed),
        Ok(Packet::Resumed { .. })
    ));
    let mut bent = reply_bytes.clone();
    bent[20] ^= 1;
    let mut reserved = without_id.clone();
    reserved[0] |= 1;
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("an empty datagram", vec![]),
        ("a kind that is not known", vec![0x09, 1, 2, 3]),
        ("a Resume cut short", resume[..16].to_vec()),
        ("a Resumed cut short", resumed[..8].to_vec()),
        ("a Hello shorter than its answer", hello[..83].to_vec()),
        ("a CRC that does not fit", bent),
        ("a reserved bit", reserved),
        ("the number length 3", vec![0x98, 1, 2, 3, 4, 5, 6, 7]),
        ("an Accept cut short", vec![0x04, 1, 2, 3]),
        ("a Reset with a byte left over", [&reset[..], &[0]].concat()),
    ];
    for (why, bytes) in &bad {
        assert!(Packet::parse(bytes).is_err(), "{why}");
    }
    compare(
        "packets.json",
        &json!({
            "valid": [
                valid("hello", &json!({ "nonce": hex(b"nonce...") }), &hello),
                valid("hello reply", &json!({ "nonce": hex(b"nonce..."), "versions": [1], "realm": "alpha", "key": hex(&[7; 32]) }), &reply_bytes),
                valid("retry", &json!({ "handshake": 0x0102_0304, "cookie": hex(&[9; 16]) }), &retry),
                valid("reset", &json!({ "connection": 0x0506_0708, "token": hex(&[8; 16]) }), &reset),
                valid("resume", &json!({ "ticket": 0x0506_0708, "check": "04040404", "nonce": hex(&[5; 8]), "sealed": hex(&[6; 20]) }), &resume),
                valid("resume with a cookie", &json!({ "ticket": 0x0506_0708, "check": "04040404", "nonce": hex(&[5; 8]), "cookie": hex(&[9; 16]), "sealed": hex(&[6; 20]) }), &resume_again),
                valid("resumed", &json!({ "nonce": hex(&[5; 8]), "sealed": hex(&[6; 20]) }), &resumed),
                valid("plain, to the realm, number 300 of which 0 is acknowledged, one PING", &json!({ "connection": 0x0506_0708, "number_bytes": 2 }), &with_id),
                valid("plain, to the client, number 5, one PING", &json!({ "number_bytes": 1 }), &without_id),
                valid("plain, to the client, number 65536 of which 0 is acknowledged, one PING", &json!({ "number_bytes": 4 }), &long_number),
            ],
            "invalid": bad.iter().map(|(why, bytes)| invalid(why, bytes)).collect::<Vec<_>>(),
        }),
    );
}

/// WIRE-2, WIRE-8, WIRE-9: frames are encoded as the vectors say, and malformed ones refused.
#[test]
fn vectors_of_frames_match_encoding() {
    let ack = AckFrame {
        largest: PacketNumber(1000),
        delay_ms: 25,
        bitmap: 0b1_0000_0101,
    };
    let welcome = Welcome {
        token: [8; 16],
        max_datagram: 1200,
        known: true,
        highest: OperationNumber(70),
        successor: None,
        life: None,
        is_life_unknown: false,
        is_final: false,
    };
    let cases = [
        ("padding", json!({}), Frame::Padding),
        ("ping", json!({}), Frame::Ping),
        (
            "ack",
            json!({ "largest": 1000, "delay_ms": 25, "arrived": [1000, 999, 997, 991] }),
            Frame::Ack(ack),
        ),
        (
            "request",
            json!({ "number": 3, "command": "1a00" }),
            Frame::Request {
                number: RequestId(3),
                command: &[0x1a, 0],
            },
        ),
        (
            "reply",
            json!({ "number": 3, "answer": "01" }),
            Frame::Reply {
                number: RequestId(3),
                answer: &[1],
            },
        ),
        (
            "event",
            json!({ "number": 4, "event": "0001" }),
            Frame::Event {
                number: EventId(4),
                event: &[0, 1],
            },
        ),
        (
            "fragment",
            json!({ "of": "reply", "number": 5, "total": 20000, "offset": 1100, "bytes": "abcd" }),
            Frame::Fragment {
                message: MessageId::Reply(RequestId(5)),
                total: 20_000,
                offset: 1100,
                bytes: &[0xab, 0xcd],
            },
        ),
        (
            "path challenge",
            json!({ "data": "0101010101010101" }),
            Frame::PathChallenge([1; 8]),
        ),
        (
            "path response",
            json!({ "data": "0101010101010101" }),
            Frame::PathResponse([1; 8]),
        ),
        (
            "close",
            json!({ "reason": 2 }),
            Frame::Close(CloseReason::Shutdown),
        ),
        (
            "open of a client",
            json!({ "max_datagram": 1200 }),
            Frame::Open(Open {
                max_datagram: 1200,
                name: None,
                resumes: false,
            }),
        ),
        (
            "open of who means to come back",
            json!({ "max_datagram": 1200, "resumes": true }),
            Frame::Open(Open {
                max_datagram: 1200,
                name: None,
                resumes: true,
            }),
        ),
        (
            "update of a life",
            json!({ "life": "05060708" }),
            Frame::Update(Update {
                standing: None,
                life: Some(Life([5, 6, 7, 8])),
            }),
        ),
        (
            "update of token and number",
            json!({ "token": hex(&[8; 16]), "highest": 70 }),
            Frame::Update(Update {
                standing: Some(([8; 16], OperationNumber(70))),
                life: None,
            }),
        ),
        (
            "open of a realm",
            json!({ "max_datagram": 160, "connection": 7, "token": hex(&[8; 16]) }),
            Frame::Open(Open {
                max_datagram: 160,
                name: Some(LinkName {
                    connection: ConnectionId(7),
                    token: [8; 16],
                }),
                resumes: false,
            }),
        ),
        (
            "welcome",
            json!({ "token": hex(&[8; 16]), "max_datagram": 1200, "known": true, "highest": 70 }),
            Frame::Welcome(welcome),
        ),
        (
            "welcome under a former key",
            json!({ "token": hex(&[8; 16]), "max_datagram": 1200, "known": true, "highest": 70,
                    "successor": hex(&[9; 32]) }),
            Frame::Welcome(Welcome {
                successor: Some([9; 32]),
                ..welcome
            }),
        ),
        (
            "welcome after a restart: another life was claimed, which the store knows",
            json!({ "token": hex(&[8; 16]), "max_datagram": 1200, "known": true, "highest": 70,
                    "life": hex(&[5, 6, 7, 8]) }),
            Frame::Welcome(Welcome {
                life: Some(Life([5, 6, 7, 8])),
                ..welcome
            }),
        ),
        (
            "welcome of a restored store, under a former key: the life that was claimed is unknown",
            json!({ "token": hex(&[8; 16]), "max_datagram": 1200, "known": true, "highest": 70,
                    "successor": hex(&[9; 32]), "life": hex(&[5, 6, 7, 8]), "life_unknown": true }),
            Frame::Welcome(Welcome {
                successor: Some([9; 32]),
                life: Some(Life([5, 6, 7, 8])),
                is_life_unknown: true,
                ..welcome
            }),
        ),
        (
            "welcome of a realm that keeps no ticket",
            json!({ "token": hex(&[8; 16]), "max_datagram": 1200, "known": true, "highest": 70, "final": true }),
            Frame::Welcome(Welcome {
                is_final: true,
                ..welcome
            }),
        ),
    ];
    let good = cases.iter().map(|(name, value, frame)| {
        let (mut last, mut inner) = (vec![], vec![]);
        frame.emit_last(&mut last);
        frame.emit_inner(&mut inner);
        assert_eq!(Frames::checked(&last).unwrap().collect::<Vec<_>>(), [*frame], "{name}");
        assert_eq!(Frames::checked(&inner).unwrap().collect::<Vec<_>>(), [*frame], "{name}");
        json!({ "name": name, "value": value, "hex": hex(&last), "hex_where_others_follow": hex(&inner) })
    });
    let good: Vec<_> = good.collect();
    // A token, 1200, the flags 0x20, and no number.
    let unknown_flags = [&[0x21][..], &[8; 16], &[0x44, 0xb0, 0x20, 0]].concat();
    let bad: &[(&str, &[u8])] = &[
        ("a kind that is not known", &[0x3f]),
        ("a length beyond the end", &[0x05, 1, 9, 1]),
        ("a part beyond its message", &[0x0a, 0, 1, 3, 2, 1, 1]),
        ("a part of nothing known", &[0x0a, 3, 1, 3, 0, 1]),
        ("a welcome with flags that are not known", &unknown_flags),
        ("an acknowledgement without its bitmap", &[0x12, 9, 0, 1]),
        ("a varint that ends too early", &[0x0e, 0x40]),
        ("a good frame before a bad one", &[0x01, 0x3f]),
        ("flags that are not known", &[0x20, 9, 4]),
    ];
    for (why, bytes) in bad {
        assert!(Frames::checked(bytes).is_err(), "{why}");
    }
    let bad: Vec<_> = bad.iter().map(|(why, bytes)| invalid(why, bytes)).collect();
    compare("frames.json", &json!({ "valid": good, "invalid": bad }));
}

/// WIRE-3, WIRE-4, WIRE-12, WIRE-13: commands are encoded as the vectors say.
#[test]
fn vectors_of_commands_match_encoding() {
    let (operation, session) = (Operation::new(9, *b"qz"), SessionRef::Bound);
    let named = SessionRef::Named(SessionId([3; 16]));
    let (password, message) = (Password(b"correct horse"), Body(b"hello"));
    let (src_address, src_port) = (Text("192.0.2.1"), Port(6377));
    let cursors = Cursors(vec![
        (Mailbox::Private, Position(7)),
        (
            Mailbox::RealmGroup(user("beta"), user("cats")),
            Position(70),
        ),
    ]);
    let cases = [
        (
            json!({ "operation": 9, "salt": "717a", "username": "ann", "password": "correct horse" }),
            Command::Auth(command::Auth {
                operation,
                username: user("ann"),
                password,
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound" }),
            Command::Logout(command::Logout { operation, session }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "full_name": "Ann Ött", "country": "id", "username": "ann", "password": "correct horse" }),
            Command::Register(command::Register {
                operation,
                full_name: Text("Ann Ött"),
                country: Text("id"),
                username: user("ann"),
                password,
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": hex(&[3; 16]), "to": "bob", "message": "hello" }),
            Command::Send(command::Send {
                operation,
                session: named,
                to: user("bob"),
                message,
            }),
        ),
        (
            json!({ "session": "bound" }),
            Command::Inbox(command::Inbox { session }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats", "password": "correct horse" }),
            Command::AddGroup(command::AddGroup {
                operation,
                session,
                group: user("cats"),
                password,
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats", "password": "correct horse" }),
            Command::JoinGroup(command::JoinGroup {
                operation,
                session,
                group: user("cats"),
                password,
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats", "message": "hello" }),
            Command::SendGroup(command::SendGroup {
                operation,
                session,
                group: user("cats"),
                message,
            }),
        ),
        (
            json!({ "session": "bound", "group": "cats" }),
            Command::InboxGroup(command::InboxGroup {
                session,
                group: user("cats"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "realm": "beta", "address": "beta.example", "port": 6378, "src_address": "192.0.2.1", "src_port": 6377 }),
            Command::AddRealm(command::AddRealm {
                operation,
                session,
                realm: user("beta"),
                address: Text("beta.example"),
                port: Port(6378),
                src_address,
                src_port,
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "src_address": "192.0.2.1", "src_port": 6377, "realm": "beta", "group": "cats", "message": "hello" }),
            Command::SendGroupRealm(command::SendGroupRealm {
                operation,
                session,
                src_address,
                src_port,
                realm: user("beta"),
                group: user("cats"),
                message,
            }),
        ),
        (
            json!({ "session": "bound", "realm": "beta", "group": "cats" }),
            Command::InboxGroupRealm(command::InboxGroupRealm {
                session,
                realm: user("beta"),
                group: user("cats"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "src_address": "192.0.2.1", "src_port": 6377, "realm": "beta", "from": "ann", "to": "bob", "message": "hello" }),
            Command::SendRealm(command::SendRealm {
                operation,
                session,
                src_address,
                src_port,
                realm: user("beta"),
                from: user("ann"),
                to: user("bob"),
                message,
            }),
        ),
        (
            json!({ "session": "bound", "realm": "beta" }),
            Command::InboxRealm(command::InboxRealm {
                session,
                realm: user("beta"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "src_address": "192.0.2.1", "src_port": 6377, "realm": "beta", "group": "cats", "password": "correct horse" }),
            Command::JoinGroupRealm(command::JoinGroupRealm {
                operation,
                session,
                src_address,
                src_port,
                realm: user("beta"),
                group: user("cats"),
                password,
            }),
        ),
        (
            json!({ "session": "bound", "cursors": [[{ "private": {} }, 7], [{ "realm": "beta", "group": "cats" }, 70]] }),
            Command::Watch(command::Watch { session, cursors }),
        ),
        (
            json!({ "session": "bound" }),
            Command::Unwatch(command::Unwatch { session }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats" }),
            Command::LeaveGroup(command::LeaveGroup {
                operation,
                session,
                group: user("cats"),
            }),
        ),
        (
            json!({ "session": "bound" }),
            Command::Groups(command::Groups { session }),
        ),
        (
            json!({ "session": "bound", "group": "cats" }),
            Command::Members(command::Members {
                session,
                group: user("cats"),
            }),
        ),
        (
            json!({ "session": "bound" }),
            Command::Realms(command::Realms { session }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "realm": "beta" }),
            Command::RemoveRealm(command::RemoveRealm {
                operation,
                session,
                realm: user("beta"),
            }),
        ),
        (
            json!({ "session": "bound" }),
            Command::Sessions(command::Sessions { session }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "handle": "ab12cd" }),
            Command::Revoke(command::Revoke {
                operation,
                session,
                handle: user("ab12cd"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "old": "correct horse", "new": "battery staple" }),
            Command::Passwd(command::Passwd {
                operation,
                session,
                old: password,
                new: Password(b"battery staple"),
            }),
        ),
        (
            json!({ "session": "bound" }),
            Command::WhoAmI(command::WhoAmI { session }),
        ),
        (
            json!({ "session": "bound", "cursors": [] }),
            Command::Unread(command::Unread {
                session,
                cursors: Cursors::default(),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "code": "correct horse" }),
            Command::Claim(command::Claim {
                operation,
                session,
                code: password,
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats", "user": "bob" }),
            Command::Kick(command::Kick {
                operation,
                session,
                group: user("cats"),
                user: user("bob"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats", "user": "bob" }),
            Command::Ban(command::Ban {
                operation,
                session,
                group: user("cats"),
                user: user("bob"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "user": "bob@beta" }),
            Command::Block(command::Block {
                operation,
                session,
                user: user("bob@beta"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "user": "bob" }),
            Command::Unblock(command::Unblock {
                operation,
                session,
                user: user("bob"),
            }),
        ),
        (
            json!({ "session": "bound" }),
            Command::Blocks(command::Blocks { session }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats", "user": "bob" }),
            Command::Unban(command::Unban {
                operation,
                session,
                group: user("cats"),
                user: user("bob"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats", "user": "bob", "role": 1 }),
            Command::SetRole(command::SetRole {
                operation,
                session,
                group: user("cats"),
                user: user("bob"),
                role: Role::Moderator,
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats", "password": "correct horse" }),
            Command::GroupPasswd(command::GroupPasswd {
                operation,
                session,
                group: user("cats"),
                password,
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "group": "cats" }),
            Command::DelGroup(command::DelGroup {
                operation,
                session,
                group: user("cats"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound", "realm": "beta", "group": "cats" }),
            Command::LeaveGroupRealm(command::LeaveGroupRealm {
                operation,
                session,
                realm: user("beta"),
                group: user("cats"),
            }),
        ),
        (
            json!({ "operation": 9, "salt": "717a", "session": "bound" }),
            Command::Void(command::Void { operation, session }),
        ),
    ];
    assert_eq!(cases.len(), merpati::wire::COMMANDS.len());
    let mut good: Vec<_> = cases
        .iter()
        .map(|(value, command)| {
            let request = Request::from(command.clone());
            assert_eq!(Request::parse(&request.to_bytes()), Ok(request.clone()));
            valid(command.name(), value, &request.to_bytes())
        })
        .collect();
    let options = Options {
        after: Some(70),
        limit: Some(5),
        bytes: Some(400),
        offset: Some(100),
        urgent: true,
        ..Options::NONE
    };
    let request = Request {
        options,
        command: Command::Inbox(command::Inbox { session }),
    };
    assert_eq!(Request::parse(&request.to_bytes()), Ok(request.clone()));
    good.push(valid("inbox with optional fields", &json!({ "session": "bound", "after": 70, "limit": 5, "bytes": 400, "offset": 100, "urgent": true }), &request.to_bytes()));
    let request = Request {
        options: Options {
            behind: Some(Sender {
                user: user("bob"),
                realm: Some(user("beta")),
            }),
            ..Options::NONE
        },
        command: Command::Members(command::Members {
            session,
            group: user("cats"),
        }),
    };
    assert_eq!(Request::parse(&request.to_bytes()), Ok(request.clone()));
    good.push(valid(
        "members behind a name",
        &json!({ "session": "bound", "group": "cats", "behind": "bob@beta" }),
        &request.to_bytes(),
    ));
    let request = Request {
        options: Options {
            form: Some(2),
            ..Options::NONE
        },
        command: Command::Realms(command::Realms { session }),
    };
    assert_eq!(Request::parse(&request.to_bytes()), Ok(request.clone()));
    good.push(valid(
        "realms that wait for a decision",
        &json!({ "session": "bound", "form": 2 }),
        &request.to_bytes(),
    ));
    let cursors = vec![
        (Mailbox::Private, Position(70)),
        (Mailbox::Group(user("cats")), Position(3)),
    ];
    let request = Request::from(Command::Unread(command::Unread {
        session,
        cursors: Cursors(cursors),
    }));
    assert_eq!(Request::parse(&request.to_bytes()), Ok(request.clone()));
    good.push(valid("unread with cursors", &json!({ "session": "bound", "cursors": [[{ "private": {} }, 70], [{ "group": "cats" }, 3]] }), &request.to_bytes()));
    let request = Request {
        options: Options {
            code: Some(RegistrationCode([0xab; 10])),
            ..Options::NONE
        },
        command: Command::Register(command::Register {
            operation,
            full_name: Text("Ann Example"),
            country: Text("id"),
            username: user("ann"),
            password,
        }),
    };
    assert_eq!(Request::parse(&request.to_bytes()), Ok(request.clone()));
    good.push(valid("register with a code", &json!({ "operation": 9, "salt": "717a", "full_name": "Ann Example", "country": "id", "username": "ann", "password": "correct horse", "code": "ab".repeat(10) }), &request.to_bytes()));
    let bad: &[(&str, &[u8])] = &[
        ("no command", &[]),
        ("an opcode that is not known", &[0x7f]),
        ("a capital letter in a name", b"\x01\x09qz\x03Annpassword"),
        (
            "a name of 33 bytes",
            b"\x01\x09qz\x21aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaapassword",
        ),
        ("a name that begins with a dot", b"\x09\x00.cats"),
        ("bytes left over", &[0x05, 0, 0]),
        ("a session of 15 bytes", b"\x05\x0faaaaaaaaaaaaaaa"),
        (
            "a control character in a text",
            b"\x03\x09qz\x01\x07\x02id\x03annpassword",
        ),
        ("a salt of one byte", &[0x24, 0x09, 0x71]),
        (
            "a cursor's mailbox marked as read",
            &[0x1b, 0x00, 0x80, 0x46],
        ),
        ("optional fields without their end", &[0x85, 0x01, 1, 5]),
        (
            "an optional field with bytes left over",
            &[0x85, 0x01, 2, 5, 5, 0, 0],
        ),
    ];
    for (why, bytes) in bad {
        assert!(Request::parse(bytes).is_err(), "{why}");
    }
    let bad: Vec<_> = bad.iter().map(|(why, bytes)| invalid(why, bytes)).collect();
    compare("commands.json", &json!({ "valid": good, "invalid": bad }));
}

/// PEER-2, PEER-4, PEER-8, PEER-9, PEER-10, PEER-23, PEER-27: requests between realms.
#[test]
fn vectors_of_realm_requests_match_encoding() {
    let (group, message) = (user("cats"), Body(b"hello"));
    let (epoch, sequence, content, from) = (7, OperationNumber(70), 0, user("ann"));
    let cases = [
        (
            "introduce",
            json!({ "realm": "alpha", "address": "alpha.example", "port": 6377 }),
            PeerRequest::Introduce(peer::Introduce {
                realm: user("alpha"),
                address: Text("alpha.example"),
                port: Port(6377),
                numbers: None,
            }),
        ),
        (
            "introduce with numbers, from nowhere",
            json!({ "realm": "alpha", "address": "", "port": 0, "number": 7, "theirs": 8 }),
            PeerRequest::Introduce(peer::Introduce {
                realm: user("alpha"),
                address: Text(""),
                port: Port(0),
                numbers: Some(PeeringNumbers { own: 7, other: 8 }),
            }),
        ),
        (
            "deliver",
            json!({ "epoch": 7, "sequence": 70, "content": 0, "from": "ann", "to": "bob", "message": "hello" }),
            PeerRequest::Deliver(peer::Deliver {
                epoch,
                sequence,
                content,
                from,
                to: user("bob"),
                message,
            }),
        ),
        (
            "join",
            json!({ "group": "cats", "user": "ann", "password": "correct horse" }),
            PeerRequest::Join(peer::Join {
                group,
                user: from,
                password: Password(b"correct horse"),
            }),
        ),
        (
            "leave",
            json!({ "group": "cats", "user": "ann", "membership": 9 }),
            PeerRequest::Leave(peer::Leave {
                group,
                user: from,
                membership: 9,
            }),
        ),
        (
            "post",
            json!({ "epoch": 7, "sequence": 70, "content": 0, "from": "ann", "group": "cats", "message": "hello" }),
            PeerRequest::Post(peer::Post {
                epoch,
                sequence,
                content,
                from,
                group,
                message,
            }),
        ),
        (
            "grown",
            json!({ "group": "cats" }),
            PeerRequest::Grown(peer::Grown { group }),
        ),
        (
            "read",
            json!({ "group": "cats", "epoch": 7, "after": 70, "offset": 100 }),
            PeerRequest::Read(peer::Read {
                group,
                group_epoch: epoch,
                after: Position(70),
                offset: Offset(100),
                life: None,
            }),
        ),
        (
            "read, in a life",
            json!({ "group": "cats", "epoch": 7, "after": 70, "offset": 0, "life": "01020304" }),
            PeerRequest::Read(peer::Read {
                group,
                group_epoch: epoch,
                after: Position(70),
                offset: Offset(0),
                life: Some(Life([1, 2, 3, 4])),
            }),
        ),
        (
            "rotate",
            json!({ "key": hex(&[7; 32]), "proof": hex(&[8; 16]) }),
            PeerRequest::Rotate(peer::Rotate {
                key: [7; 32],
                proof: [8; 16],
            }),
        ),
        (
            "withdraw",
            json!({ "epoch": 7, "sequence": 70 }),
            PeerRequest::Withdraw(peer::Withdraw { epoch, sequence }),
        ),
        (
            "expelled",
            json!({ "epoch": 7, "sequence": 70, "group": "cats", "user": "ann", "membership": 9 }),
            PeerRequest::Expelled(peer::Expelled {
                epoch,
                sequence,
                group,
                user: from,
                membership: 9,
            }),
        ),
        (
            "ended",
            json!({ "epoch": 7, "sequence": 70, "group": "cats", "group_epoch": 99 }),
            PeerRequest::Ended(peer::Ended {
                epoch,
                sequence,
                group,
                group_epoch: 99,
            }),
        ),
    ];
    let good: Vec<_> = cases
        .iter()
        .map(|(name, value, request)| {
            assert_eq!(
                PeerRequest::parse(&request.to_bytes()),
                Ok(request.clone()),
                "{name}"
            );
            valid(name, value, &request.to_bytes())
        })
        .collect();
    let bad: &[(&str, &[u8])] = &[
        ("an opcode that is not known", &[0x7f]),
        ("a port of one byte", b"\x60\x01a\x01b\x01"),
        ("a group's name with a capital letter", b"\x65Cats"),
        (
            "a read with bytes left over",
            b"\x66\x01a\0\0\0\0\0\0\0\x07\x01\x01\x01",
        ),
        (
            "an ended with bytes after the group's epoch",
            b"\x6a\0\0\0\0\0\0\0\x07\x01\x01a\0\0\0\0\0\0\0\x07\x01",
        ),
    ];
    for (why, bytes) in bad {
        assert!(PeerRequest::parse(bytes).is_err(), "{why}");
    }
    let bad: Vec<_> = bad.iter().map(|(why, bytes)| invalid(why, bytes)).collect();
    compare("realms.json", &json!({ "valid": good, "invalid": bad }));
}

fn entry() -> Entry {
    Entry {
        position: Position(70),
        time: 1_800_000_000,
        content: 0,
        fragment: None,
        from: Sender {
            user: user("ann"),
            realm: None,
        },
        read: false,
        body: b"hello".to_vec(),
    }
}

/// WIRE-14, WIRE-15, ERR-1, READ-8: answers are encoded as the vectors say.
#[test]
fn vectors_of_answers_match_encoding() {
    let away = Entry {
        from: Sender {
            user: user("ann"),
            realm: Some(user("beta")),
        },
        fragment: Some(Fragment {
            offset: 1000,
            total: 1005,
        }),
        ..entry()
    };
    let page = Page {
        more: true,
        entries: vec![entry(), away.clone()],
    };
    let session = DeviceSession {
        handle: user("ab12cd"),
        created: 1_800_000_000,
        used: 1_800_003_600,
        current: true,
        device: true,
    };
    let peer = Peer {
        realm: user("beta"),
        address: "beta.example:6377".into(),
        state: 1,
        queued: 3,
        age: 70,
        heard: 1_800_000_000,
    };
    let mut details = PeerDetails::default();
    details.add(&PeerDetail {
        realm: user("beta"),
        key: [7; 32],
        address: String::new(),
        claimed: "beta.example:6377".into(),
        state: PeeringState::Refused,
        why: Some(ErrorCode::PeerRefused),
        since: 1_800_000_000,
        next: 1_800_000_060,
        heard: 0,
        queued: 3,
        age: 70,
        former: 1,
        times: 0,
    });
    let mut cases = vec![
        ("done", json!({}), Answer::Done),
        ("stored", json!({}), Answer::Sent(Sent::Stored)),
        ("delivered", json!({}), Answer::Sent(Sent::Delivered)),
        ("queued", json!({}), Answer::Sent(Sent::Queued)),
        (
            "session",
            json!({ "id": hex(&[3; 16]), "shown": SessionId([3; 16]).to_string() }),
            Answer::Session(SessionId([3; 16])),
        ),
        (
            "page",
            json!({ "more": true, "entries": [
            { "position": 70, "time": 1_800_000_000, "content": 0, "user": "ann", "body": "hello" },
            { "position": 70, "time": 1_800_000_000, "content": 0, "offset": 1000, "total": 1005, "user": "ann", "realm": "beta", "body": "hello" },
        ] }),
            Answer::Page(page),
        ),
        (
            "page, of which the first entry has been read on another device",
            json!({ "more": false, "read_up_to": 70, "entries": [
            { "position": 70, "time": 1_800_000_000, "content": 0, "user": "ann", "body": "hello" },
            { "position": 71, "time": 1_800_000_000, "content": 0, "user": "ann", "body": "hello" },
        ] }),
            Answer::Page(Page {
                more: false,
                entries: vec![
                    Entry {
                        read: true,
                        ..entry()
                    },
                    Entry {
                        position: Position(71),
                        ..entry()
                    },
                ],
            }),
        ),
        (
            "account",
            json!({ "operator": false, "username": "ann", "full_name": "Ann Ött", "country": "id" }),
            Answer::Account(Account {
                operator: false,
                username: user("ann"),
                full_name: "Ann Ött".into(),
                country: "id".into(),
            }),
        ),
        (
            "sessions",
            json!([{ "handle": "ab12cd", "created": 1_800_000_000, "used": 1_800_003_600, "current": true, "device": true }]),
            Answer::Sessions(vec![session]),
        ),
        (
            "names",
            json!({ "more": false, "names": ["cats", "dogs"] }),
            Answer::Names {
                more: false,
                names: vec!["cats".into(), "dogs".into()],
            },
        ),
        (
            "members",
            json!({ "more": true, "members": [{ "user": "ann", "role": 2 }, { "user": "bob", "realm": "beta", "role": 0 }] }),
            Answer::Members {
                more: true,
                members: vec![
                    Member {
                        who: entry().from,
                        role: Role::Owner,
                    },
                    Member {
                        who: Sender {
                            user: user("bob"),
                            realm: Some(user("beta")),
                        },
                        role: Role::Member,
                    },
                ],
            },
        ),
        (
            "realms",
            json!([{ "realm": "beta", "address": "beta.example:6377", "state": 1, "queued": 3, "age": 70, "heard": 1_800_000_000 }]),
            Answer::Realms(vec![peer]),
        ),
        (
            "details",
            json!([{ "realm": "beta", "key": "0707070707070707070707070707070707070707070707070707070707070707", "address": "", "claimed": "beta.example:6377", "state": 5, "why": 12, "since": 1_800_000_000, "next": 1_800_000_060, "heard": 0, "queued": 3, "age": 70, "former": 1, "times": 0 }]),
            Answer::Details(details),
        ),
        (
            "counts",
            json!([[{ "private": {} }, 70]]),
            Answer::Unread(vec![Unread {
                mailbox: Mailbox::Private,
                count: 70,
            }]),
        ),
        (
            "too-large",
            json!({ "limit": 16384 }),
            Answer::Refused(Refusal::too_large(16_384)),
        ),
        (
            "busy",
            json!({ "retry_after_ms": 500 }),
            Answer::Refused(Refusal::busy(500)),
        ),
        (
            "number-reused",
            json!({ "highest": 70 }),
            Answer::Refused(Refusal::number(
                ErrorCode::NumberReused,
                OperationNumber(70),
            )),
        ),
        (
            "already-done",
            json!({ "highest": 400 }),
            Answer::Refused(Refusal::number(
                ErrorCode::AlreadyDone,
                OperationNumber(400),
            )),
        ),
    ];
    cases.extend(
        ErrorCode::ALL
            .iter()
            .map(|code| (code.name(), json!({}), Answer::Refused((*code).into()))),
    );
    let mut good: Vec<_> = cases
        .iter()
        .map(|(name, value, answer)| {
            assert_eq!(
                Answer::parse(&answer.to_bytes()),
                Ok(answer.clone()),
                "{name}"
            );
            valid(name, value, &answer.to_bytes())
        })
        .collect();
    let mut event = vec![];
    Event {
        mailbox: Mailbox::Group(user("cats")),
        entry: entry(),
    }
    .emit(&mut event);
    good.push(valid("an event", &json!({ "group": "cats", "position": 70, "time": 1_800_000_000, "content": 0, "user": "ann", "body": "hello" }), &event));
    let mut event = vec![];
    Event {
        mailbox: Mailbox::Private,
        entry: Entry {
            read: true,
            ..entry()
        },
    }
    .emit(&mut event);
    good.push(valid("an event that another device has read", &json!({ "private": {}, "read": true, "position": 70, "time": 1_800_000_000, "content": 0, "user": "ann", "body": "hello" }), &event));
    let bad: &[(&str, &[u8])] = &[
        ("no answer", &[]),
        ("a kind that is not known", &[0x3f]),
        ("an error that is not known", &[0x7f]),
        ("bytes left over", &[0x00, 0x00]),
        ("a page with a flag that is not known", &[0x05, 0x04]),
        (
            "a session id of 15 bytes",
            &[4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        ),
        ("a page that is neither the last nor not", &[5, 2]),
    ];
    for (why, bytes) in bad {
        assert!(Answer::parse(bytes).is_err(), "{why}");
    }
    let bad: Vec<_> = bad.iter().map(|(why, bytes)| invalid(why, bytes)).collect();
    compare("answers.json", &json!({ "valid": good, "invalid": bad }));
}

/// A random number generator that returns one fixed value.
struct Fixed([u8; 32]);

impl rand_core::TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_be_bytes([self.0[0]; 4]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_be_bytes([self.0[0]; 8]))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(&self.0);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Fixed {}

/// HS-1, HS-2, HS-3, HS-9, HS-14, HS-18, HS-19: a handshake with fixed keys, its first sealed
/// packet, and a resumption.
#[test]
fn vectors_of_handshake_match_encoding() {
    let (device, realm) = (
        SecretKey::from_bytes([1; 32]),
        SecretKey::from_bytes([2; 32]),
    );
    let (ours, theirs) = ([3; 32], [4; 32]);
    let mut early = vec![];
    Frame::Open(Open {
        max_datagram: 1200,
        name: None,
        resumes: false,
    })
    .emit_inner(&mut early);
    let command = Request::from(Command::WhoAmI(command::WhoAmI {
        session: SessionRef::Bound,
    }))
    .to_bytes();
    Frame::Request {
        number: RequestId(0),
        command: &command,
    }
    .emit_last(&mut early);
    let (mut initiator, one) =
        Initiator::start(&mut Fixed(ours), &device, &realm.public(), &early).unwrap();
    let life = Life([5, 6, 7, 8]);
    let (none, claims) = (
        initiator.life_key.tag(Life::NONE),
        initiator.life_key.tag(life),
    );
    let mut init = vec![];
    Init::emit_without_cookie(claims, &one, &mut init);
    let mac = mac1(&realm.public(), &init);
    init.extend_from_slice(&mac);
    let Ok(Packet::Init(parsed)) = Packet::parse(&init) else {
        panic!("not an Init")
    };
    assert_eq!((parsed.mac1, parsed.noise), (mac, &one[..]));
    let (responder, payload) = Responder::read(&mut Fixed(theirs), &realm, parsed.noise).unwrap();
    assert_eq!((payload, responder.peer), (early.clone(), device.public()));
    let claim = LifeClaim::new(responder.life_key.clone(), parsed.handshake);
    assert!(claim.is_for(life) && !claim.is_for(Life::NONE));
    let welcome = Welcome {
        token: [8; 16],
        max_datagram: 1200,
        known: false,
        highest: OperationNumber(0),
        successor: None,
        life: None,
        is_life_unknown: false,
        is_final: false,
    };
    let mut answer = 0x0506_0708_u32.to_be_bytes().to_vec();
    Frame::Welcome(welcome).emit_inner(&mut answer);
    let (_, two) = responder.finish(&answer).unwrap();
    let mut accept = vec![];
    Packet::emit_accept(claims, &two, &mut accept);
    let (keys, payload) = initiator.finish(&two).unwrap();
    assert_eq!(payload, answer);
    let mut sealed = vec![];
    link_header(
        Protection::Sealed,
        Some(ConnectionId(0x0506_0708)),
        PacketNumber(0),
        None,
        &mut sealed,
    );
    let header = sealed.len();
    Frame::Ping.emit_last(&mut sealed);
    keys.seal.seal(0, header, &mut sealed);
    let secret = ResumptionSecret::of_initiator(&keys);
    let (token, nonces) = ([8; 16], ([9; 8], [10; 8]));
    let mut resume = vec![];
    let ticket = ConnectionId(0x0506_0708);
    Resume::emit_header(ticket, &ticket_check(&token), &nonces.0, None, &mut resume);
    let header = resume.len();
    Frame::Request {
        number: RequestId(0),
        command: &command,
    }
    .emit_last(&mut resume);
    secret
        .resume_key(&nonces.0, life)
        .seal(0, header, &mut resume);
    let mut resumed = vec![];
    Packet::emit_resumed_header(&nonces.1, &mut resumed);
    let header = resumed.len();
    resumed.extend_from_slice(&[0, 0, 0, 77]);
    Frame::Update(Update {
        standing: None,
        life: Some(life),
    })
    .emit_last(&mut resumed);
    secret
        .answer_key(&nonces.0, &nonces.1)
        .seal(0, header, &mut resumed);
    let mut sealed_later = vec![];
    link_header(
        Protection::Sealed,
        Some(ConnectionId(77)),
        PacketNumber(300),
        Some(PacketNumber(299)),
        &mut sealed_later,
    );
    let header = sealed_later.len();
    Frame::Ping.emit_last(&mut sealed_later);
    secret
        .initiators_keys(&nonces.0, &nonces.1)
        .seal
        .seal(300, header, &mut sealed_later);
    compare(
        "handshake.json",
        &json!({
            "device_secret": hex(device.as_bytes()),
            "device_public": hex(&device.public().0),
            "realm_secret": hex(realm.as_bytes()),
            "realm_public": hex(&realm.public().0),
            "realm_key_shown": realm.public().to_string(),
            "realm_fingerprint": realm.public().fingerprint(),
            "initiator_ephemeral_secret": hex(&ours),
            "responder_ephemeral_secret": hex(&theirs),
            "early_payload": hex(&early),
            "life": hex(&life.0),
            "handshake_id_that_claims_the_life": hex(&claims.0.to_be_bytes()),
            "handshake_id_that_claims_none": hex(&none.0.to_be_bytes()),
            "init": hex(&init),
            "accept_payload": hex(&answer),
            "accept": hex(&accept),
            "sealed_ping_number_0": hex(&sealed),
            "resumption_secret": hex(secret.as_bytes()),
            "ticket_token": hex(&token),
            "ticket_check": hex(&ticket_check(&token)),
            "resume_nonce": hex(&nonces.0),
            "resumed_nonce": hex(&nonces.1),
            "resume_with_whoami_of_who_knows_the_life": hex(&resume),
            "resumed_with_connection_77_and_the_life": hex(&resumed),
            "resumed_link_sealed_ping_number_300_of_which_299_is_acknowledged": hex(&sealed_later),
        }),
    );
}
