//! The conditions under which a packet takes effect.

use super::*;
use crate::{
    link::limits::WORKING_MAX,
    wire::{Frame, Open, PADDING, Update},
};

/// Returns a pair whose server executes the greatest number of requests at once. The client has
/// given up the first two.
fn busy() -> Pair {
    let mut pair = Pair::new();
    let soon = pair.now + Duration::from_millis(500);
    for number in 0..WORKING_MAX {
        let deadline = if number < 2 { soon } else { END };
        pair.client.ask(b"ask".to_vec(), deadline, false).unwrap();
    }
    for _ in 0..40 {
        pair.drive();
        pair.advance(20);
    }
    assert_eq!(requests(&mut pair.server), WORKING_MAX);
    assert_eq!(events(&mut pair.client).len(), 2, "given up");
    pair
}

fn requests(link: &mut Link) -> usize {
    let is_request = |event: &Event| matches!(event, Event::Request { .. });
    events(link)
        .iter()
        .filter(|event| is_request(event))
        .count()
}

/// LINK-9: a refused request is not acknowledged, whatever else is in its packet. Before, a request
/// that was refused in a packet with an event was acknowledged. Its sender took it for one in work,
/// and repeated it less and less often.
#[test]
fn acknowledgement_of_refused_request_is_never_sent() {
    let mut pair = busy();
    pair.client.ask(b"another".to_vec(), END, false).unwrap();
    pair.client.push(b"news".to_vec(), Urgency::Live).unwrap();
    let up = transmit(&mut pair.client, pair.now).unwrap();
    let taken = deliver(&mut pair.server, pair.now, &up);
    assert_eq!(taken, Err(Ignored::NoRoom));
    pair.advance(100);
    pair.drive();
    assert_eq!(requests(&mut pair.server), 0);
    pair.server.reply(RequestId(2), b"ok".to_vec());
    let begun = pair.now;
    while requests(&mut pair.server) == 0 {
        pair.drive();
        pair.advance(10);
    }
    let wait = pair.now - begun;
    assert!(wait < Duration::from_millis(700), "{wait:?}");
}

fn payload(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut payload = vec![PADDING];
    for frame in frames {
        frame.emit(false, &mut payload);
    }
    payload
}

/// WIRE-9: a handshake payload with a frame that is not allowed there has no effect at all.
#[test]
fn handshake_with_forbidden_frame_has_no_effect() {
    let open = Frame::Open(Open {
        max_datagram: 1200,
        name: None,
        resumes: false,
    });
    let welcome = Frame::Welcome(Welcome {
        token: [7; 16],
        max_datagram: 1200,
        known: true,
        highest: OperationNumber(0),
        successor: None,
        life: None,
        is_life_unknown: false,
        is_final: false,
    });
    let request = Frame::Request {
        number: RequestId(0),
        command: b"ask",
    };
    let reply = Frame::Reply {
        number: RequestId(0),
        answer: b"ok",
    };
    let update = Frame::Update(Update::default());
    let event = Frame::Event {
        number: EventId(1),
        event: b"news",
    };
    let nowhere = [
        event,
        Frame::Ping,
        Frame::PathChallenge([1; 8]),
        Frame::PathResponse([1; 8]),
        Frame::Close(CloseReason::Done),
    ];
    let respond = || Link::respond(CONFIG, 100);
    assert_eq!(
        respond().handle_early(Time(0), &payload(&[open, request])),
        Ok(())
    );
    for wrong in [welcome, reply, update].iter().chain(&nowhere) {
        let mut link = respond();
        let outcome = link.handle_early(Time(0), &payload(&[open, request, *wrong]));
        assert_eq!(outcome, Err(Ignored::Violation), "{wrong:?}");
        assert_eq!(events(&mut link), [], "{wrong:?}");
    }
    let initiate = || {
        let mut link = Link::initiate(CONFIG, None);
        link.ask(b"ask".to_vec(), END, true).unwrap();
        link
    };
    assert_eq!(
        initiate().handle_early(Time(0), &payload(&[welcome, reply, update])),
        Ok(())
    );
    for wrong in [open, request].iter().chain(&nowhere) {
        let mut link = initiate();
        let outcome = link.handle_early(Time(0), &payload(&[welcome, reply, *wrong]));
        assert_eq!(outcome, Err(Ignored::Violation), "{wrong:?}");
        assert_eq!(events(&mut link), [], "{wrong:?}");
    }
}
