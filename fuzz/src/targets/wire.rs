//! Parsing and emitting: everything that can be parsed is emitted as the same bytes or value.

use merpati::wire::{Answer, Event, Frames, Packet, PeerRequest, Request, Resume};

/// Tests an arbitrary datagram.
pub fn packet(datagram: &[u8]) {
    let Ok(packet) = Packet::parse(datagram) else {
        return;
    };
    let mut written = Vec::new();
    match &packet {
        Packet::Hello(hello) => hello.emit(&mut written),
        Packet::HelloReply(reply) => reply.emit(&mut written),
        Packet::Retry { handshake, cookie } => {
            Packet::emit_retry(*handshake, cookie, &mut written);
        }
        Packet::Reset { connection, token } => {
            Packet::emit_reset(*connection, token, &mut written);
        }
        Packet::Accept { handshake, noise } => {
            Packet::emit_accept(*handshake, noise, &mut written);
        }
        Packet::Resume(resume) => {
            let cookie = resume.cookie.as_ref();
            Resume::emit_header(
                resume.ticket,
                &resume.check,
                &resume.nonce,
                cookie,
                &mut written,
            );
            written.extend_from_slice(resume.sealed);
        }
        Packet::Resumed { nonce, sealed, .. } => {
            Packet::emit_resumed_header(nonce, &mut written);
            written.extend_from_slice(sealed);
        }
        // The parts of an Init are in the order of the datagram, so there is nothing to emit.
        Packet::Init(init) => {
            assert!(datagram.starts_with(init.covered));
            return;
        }
        Packet::Link(packet) => {
            assert_eq!([packet.header, packet.body].concat(), datagram);
            return;
        }
    }
    assert_eq!(Packet::parse(&written), Ok(packet));
}

/// Tests the frames of an opened packet.
pub fn frames(payload: &[u8]) {
    let Ok(frames) = Frames::checked(payload) else {
        return;
    };
    let frames: Vec<_> = frames.collect();
    let mut written = Vec::new();
    Frames::emit(&frames, &mut written);
    let again = Frames::checked(&written).expect("what was written can be read");
    assert!(again.eq(frames));
}

/// Tests a command of a client.
pub fn command(bytes: &[u8]) {
    let Ok(request) = Request::parse(bytes) else {
        return;
    };
    let written = request.to_bytes();
    let again = Request::parse(&written).expect("what was written can be read");
    assert_eq!(again.command, request.command);
    let kept = request.without_secrets();
    assert!(!kept.command.carries_password() || kept.to_bytes().len() <= written.len());
}

/// Tests an answer of a realm.
pub fn answer(bytes: &[u8]) {
    if let Ok(answer) = Answer::parse(bytes) {
        assert_eq!(Answer::parse(&answer.to_bytes()), Ok(answer));
    }
}

/// Tests a pushed entry.
pub fn event(bytes: &[u8]) {
    if let Ok(event) = Event::parse(bytes) {
        let mut written = Vec::new();
        event.emit(&mut written);
        assert_eq!(Event::parse(&written), Ok(event));
    }
}

/// Tests a request of another realm.
pub fn peer(bytes: &[u8]) {
    if let Ok(request) = PeerRequest::parse(bytes) {
        assert!(PeerRequest::is_one(bytes));
        let written = request.to_bytes();
        assert_eq!(PeerRequest::parse(&written), Ok(request));
    }
}
