//! Frames of a hostile party: well-formed, with arbitrary content.

use arbitrary::Arbitrary;
use merpati::wire::{
    AckFrame, CloseReason, ConnectionId, EventId, Frame, Life, LinkName, MessageId, Open,
    OperationNumber, PacketNumber, RequestId, Update, VARINT_MAX, Welcome,
};

/// A frame. Small numbers are frequent, so that they match existing requests, events and packets.
#[derive(Arbitrary, Debug)]
pub enum Forged {
    Padding,
    Ping,
    Ack {
        largest: Number,
        delay: Number,
        bitmap: u64,
    },
    Request {
        number: Number,
        len: u8,
    },
    Reply {
        number: Number,
        len: u8,
    },
    Event {
        number: Number,
        len: u8,
    },
    Fragment {
        of: u8,
        number: Number,
        total: Number,
        offset: Number,
        len: u8,
    },
    Challenge([u8; 8]),
    Response([u8; 8]),
    Close(Number),
    Open {
        max_datagram: Number,
        name: Option<u32>,
        resumes: bool,
    },
    Welcome {
        max_datagram: Number,
        known: bool,
        highest: Number,
        moved: bool,
    },
    Update {
        highest: Option<Number>,
        life: bool,
    },
    Raw(u8, u8),
}

/// A number in a frame.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    Small(u8),
    Medium(u16),
    Any(u64),
}

impl Number {
    /// Returns the number, limited to the largest varint.
    pub fn get(self) -> u64 {
        match self {
            Self::Small(n) => n.into(),
            Self::Medium(n) => n.into(),
            Self::Any(n) => n.min(VARINT_MAX),
        }
    }
}

/// Returns the bytes of `frames`, as far as they fit a packet.
pub fn bytes(frames: &[Forged]) -> Vec<u8> {
    let filling = [7; 255];
    let filled = |len: u8| filling.get(..usize::from(len)).unwrap_or_default();
    let mut out = Vec::new();
    for (at, forged) in frames.iter().enumerate() {
        let frame = match forged {
            Forged::Padding => Frame::Padding,
            Forged::Ping => Frame::Ping,
            Forged::Ack {
                largest,
                delay,
                bitmap,
            } => Frame::Ack(AckFrame {
                largest: PacketNumber(largest.get()),
                delay_ms: delay.get(),
                bitmap: *bitmap,
            }),
            Forged::Request { number, len } => Frame::Request {
                number: RequestId(number.get()),
                command: filled(*len),
            },
            Forged::Reply { number, len } => Frame::Reply {
                number: RequestId(number.get()),
                answer: filled(*len),
            },
            Forged::Event { number, len } => Frame::Event {
                number: EventId(number.get()),
                event: filled(*len),
            },
            Forged::Fragment {
                of,
                number,
                total,
                offset,
                len,
            } => Frame::Fragment {
                message: match of % 3 {
                    0 => MessageId::Request(RequestId(number.get())),
                    1 => MessageId::Reply(RequestId(number.get())),
                    _ => MessageId::Event(EventId(number.get())),
                },
                total: total.get(),
                offset: offset.get(),
                bytes: filled(*len),
            },
            Forged::Challenge(data) => Frame::PathChallenge(*data),
            Forged::Response(data) => Frame::PathResponse(*data),
            Forged::Close(reason) => Frame::Close(match reason.get() {
                0 => CloseReason::Done,
                1 => CloseReason::Violation,
                2 => CloseReason::Shutdown,
                3 => CloseReason::Replaced,
                n => CloseReason::Other(n),
            }),
            Forged::Open {
                max_datagram,
                name,
                resumes,
            } => Frame::Open(Open {
                max_datagram: max_datagram.get(),
                name: name.map(|connection| LinkName {
                    connection: ConnectionId(connection),
                    token: [9; 16],
                }),
                resumes: *resumes,
            }),
            Forged::Update { highest, life } => Frame::Update(Update {
                standing: highest.map(|highest| ([7; 16], OperationNumber(highest.get()))),
                life: life.then_some(Life([4; 4])),
            }),
            Forged::Welcome {
                max_datagram,
                known,
                highest,
                moved,
            } => Frame::Welcome(Welcome {
                token: [8; 16],
                max_datagram: max_datagram.get(),
                known: *known,
                highest: OperationNumber(highest.get()),
                successor: moved.then_some([5; 32]),
                life: known.then_some(Life([6; 4])),
                is_life_unknown: *moved,
                is_final: *known,
            }),
            Forged::Raw(a, b) => {
                out.extend_from_slice(&[*a, *b]);
                continue;
            }
        };
        if at + 1 == frames.len() {
            frame.emit_last(&mut out);
        } else {
            frame.emit_inner(&mut out);
        }
    }
    out
}
