//! The cost of the requests between realms.

use std::fmt::Write as _;

use merpati::{
    crypto::SecretKey,
    wire::{
        Answer, Body, Entry, ErrorCode, Life, Offset, OperationNumber, Page, Password, PeerRequest,
        PeeringNumbers, Port, Position, Protection, Sender, Sent, Text, peer,
    },
};

use crate::{BEFORE, Cost, Talk, at, cell, name};

const HEAD: &str = "
## Between realms

The same for what realms ask each other, on the link that two of them share. Names and messages are as long, hosts have twelve letters. What
may not travel early (PEER-21) waits for the handshake where there is no link.

| request | on an open link | from nothing |
| --- | --- | --- |
";

/// Returns every request with its usual answer.
fn requests() -> Vec<(&'static str, PeerRequest<'static>, Answer)> {
    let (epoch, sequence) = (0x0123_4567_89ab_cdef, OperationNumber(1000));
    let message = Body(b"twenty bytes of text");
    let (anna, bobby, cats) = (name("anna"), name("bobby"), name("cats"));
    let membership = 0xfedc_ba98_7654_3210;
    let page = Answer::Page(Page {
        more: false,
        entries: vec![Entry {
            position: Position(1000),
            time: 1_800_000_000,
            content: 0,
            fragment: None,
            from: Sender {
                user: bobby,
                realm: None,
            },
            read: false,
            body: message.0.to_vec(),
        }],
    });
    vec![
        (
            "introduce",
            PeerRequest::Introduce(peer::Introduce {
                realm: name("beta"),
                address: Text("beta.example"),
                port: Port(6377),
                numbers: Some(PeeringNumbers {
                    own: epoch,
                    other: epoch,
                }),
            }),
            Answer::Joined {
                group_epoch: epoch,
                membership: 0,
                known_as: name("beta"),
            },
        ),
        (
            "rotate",
            PeerRequest::Rotate(peer::Rotate {
                key: [7; 32],
                proof: [8; 16],
            }),
            Answer::Done,
        ),
        (
            "deliver",
            PeerRequest::Deliver(peer::Deliver {
                epoch,
                sequence,
                content: 0,
                from: anna,
                to: bobby,
                message,
            }),
            Answer::Sent(Sent::Stored),
        ),
        (
            "post",
            PeerRequest::Post(peer::Post {
                epoch,
                sequence,
                content: 0,
                from: anna,
                group: cats,
                message,
            }),
            Answer::Sent(Sent::Stored),
        ),
        (
            "withdraw",
            PeerRequest::Withdraw(peer::Withdraw { epoch, sequence }),
            Answer::Done,
        ),
        (
            "join",
            PeerRequest::Join(peer::Join {
                group: cats,
                user: anna,
                password: Password(b"correct horse"),
            }),
            Answer::Joined {
                group_epoch: epoch,
                membership,
                known_as: name("beta"),
            },
        ),
        (
            "leave",
            PeerRequest::Leave(peer::Leave {
                group: cats,
                user: anna,
                membership,
            }),
            Answer::Done,
        ),
        (
            "grown",
            PeerRequest::Grown(peer::Grown { group: cats }),
            Answer::Done,
        ),
        (
            "read",
            PeerRequest::Read(peer::Read {
                group: cats,
                group_epoch: epoch,
                after: Position(999),
                offset: Offset(0),
                life: Some(Life([0x5a; 4])),
            }),
            page,
        ),
        (
            "expelled",
            PeerRequest::Expelled(peer::Expelled {
                epoch,
                sequence,
                group: cats,
                user: anna,
                membership,
            }),
            Answer::Refused(ErrorCode::NotAMember.into()),
        ),
        (
            "ended",
            PeerRequest::Ended(peer::Ended {
                epoch,
                sequence,
                group: cats,
                group_epoch: epoch,
            }),
            Answer::Sent(Sent::Stored),
        ),
    ]
}

/// Returns the cost of a request on an open link, and with a handshake.
fn costs(request: &PeerRequest<'_>, answer: &Answer) -> [Cost; 2] {
    let bytes = request.to_bytes();
    let mut talk = Talk::new(Protection::Sealed, answer);
    let (own, peer) = (
        SecretKey::from_bytes([1; 32]),
        SecretKey::from_bytes([2; 32]),
    );
    let (now, own, peer) = (talk.now, own.public(), peer.public());
    let link = talk.client.link_for_requests(now, &own, peer, at(2));
    let nothing = talk.exchange(link, &bytes, request.may_travel_early());
    for _ in 0..BEFORE {
        talk.exchange(link, &bytes, false);
    }
    [talk.exchange(link, &bytes, false), nothing]
}

/// Returns the part of `spec/bytes.md` about realms.
///
/// PEER-4, PEER-7: messages are numbered in an epoch of each start; that costs a delivery no bytes.
pub fn table() -> String {
    let mut text = HEAD.to_owned();
    for (name, request, answer) in requests() {
        let costs = costs(&request, &answer);
        let [open, nothing] = costs.map(cell);
        writeln!(text, "| `{name}` | {open} | {nothing} |").unwrap();
        if ["deliver", "post"].contains(&name) {
            assert!(
                costs[0].up <= 67 && costs[0].down <= 25,
                "{name}: {costs:?}"
            );
        }
    }
    text
}
