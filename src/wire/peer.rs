//! Requests between realms (`spec/realms.md`). The answers are those to commands.
//!
//! ```text
//! 0x60 introduce   realm, address, port 2, [number 8, the other's number 8]
//! 0x61 deliver     epoch 8, sequence varint, content type 1, sender, recipient, message
//! 0x62 join        group, user, password
//! 0x63 leave       group, user, membership 8
//! 0x64 post        epoch 8, sequence varint, content type 1, sender, group, message
//! 0x65 grown       group
//! 0x66 read        group, epoch 8, after varint, offset varint, [life 4]
//! 0x67 rotate      key 32, proof 16
//! 0x68 withdraw    epoch 8, sequence varint
//! 0x69 expelled    epoch 8, sequence varint, group, user, membership 8
//! 0x6a ended       epoch 8, sequence varint, group, group's epoch 8
//! ```

use alloc::vec::Vec;

use bytes::BufMut;
use nom::{
    Parser,
    number::complete::{be_u8, be_u64},
};

use super::{
    Body, Field, GroupName, Life, Malformed, OperationNumber, Password, Port, Position, RealmId,
    Text, Username, array,
};

const INTRODUCE: u8 = 0x60;
const DELIVER: u8 = 0x61;
const JOIN: u8 = 0x62;
const LEAVE: u8 = 0x63;
const POST: u8 = 0x64;
const GROWN: u8 = 0x65;
const READ: u8 = 0x66;
const ROTATE: u8 = 0x67;
const WITHDRAW: u8 = 0x68;
const EXPELLED: u8 = 0x69;
const ENDED: u8 = 0x6a;

/// A request of one realm to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest<'a> {
    /// Introduces the asking realm, and gives its address.
    Introduce {
        /// The asking realm's name for itself.
        realm: RealmId,
        /// Its host.
        address: Text<'a>,
        /// Its port; 0, with an empty host, where it cannot be reached.
        port: Port,
        /// Its peering number, and the other's as it knows it (PEER-27); none from releases without
        /// peering numbers.
        numbers: Option<(u64, u64)>,
    },
    /// Delivers a private message.
    Deliver {
        /// The epoch of the asking realm's queue: a new one begins when the realm lost its memory.
        epoch: u64,
        /// The message's sequence number in that queue.
        sequence: OperationNumber,
        /// The content type.
        content: u8,
        /// The author.
        from: Username,
        /// The recipient.
        to: Username,
        /// The contents.
        message: Body<'a>,
    },
    /// Makes a user of the asking realm a member of a group.
    Join {
        /// The group.
        group: GroupName,
        /// The user.
        user: Username,
        /// The group's password.
        password: Password<'a>,
    },
    /// Ends the membership of a user of the asking realm.
    Leave {
        /// The group.
        group: GroupName,
        /// The user.
        user: Username,
        /// The number of the membership that ends.
        membership: u64,
    },
    /// Delivers a message to a group.
    Post {
        /// As in a delivery.
        epoch: u64,
        /// As in a delivery.
        sequence: OperationNumber,
        /// The content type.
        content: u8,
        /// The author.
        from: Username,
        /// The group.
        group: GroupName,
        /// The contents.
        message: Body<'a>,
    },
    /// Tells that a group has new messages.
    Grown {
        /// The group.
        group: GroupName,
    },
    /// Asks for a group's messages.
    Read {
        /// The group.
        group: GroupName,
        /// The group's own epoch, from the answer to `join`.
        epoch: u64,
        /// The position after which to begin.
        after: Position,
        /// The offset in the first entry's body at which to begin.
        offset: u64,
        /// The life that the asking realm believes the other's store to be in (PEER-29), if it
        /// knows one.
        life: Option<Life>,
    },
    /// Announces a new key of the asking realm. The key that it has already proven vouches for it.
    Rotate {
        /// The new key.
        key: [u8; 32],
        /// Shows that the asking realm has the new key.
        proof: [u8; 16],
    },
    /// Withdraws a message, if it has not been delivered yet.
    Withdraw {
        /// As in a delivery.
        epoch: u64,
        /// As in a delivery.
        sequence: OperationNumber,
    },
    /// Tells that a user of the other realm is no longer a member of a group here.
    Expelled {
        /// As in a delivery.
        epoch: u64,
        /// As in a delivery.
        sequence: OperationNumber,
        /// The group.
        group: GroupName,
        /// The user.
        user: Username,
        /// The number of the membership that has ended.
        membership: u64,
    },
    /// Tells that a group here has ended that has members in the other realm.
    Ended {
        /// As in a delivery.
        epoch: u64,
        /// As in a delivery.
        sequence: OperationNumber,
        /// The group.
        group: GroupName,
        /// The group's own epoch, from the answer to `join`: a later group of that name has
        /// another.
        life: u64,
    },
}

impl<'a> PeerRequest<'a> {
    /// True if `bytes` are a realm's request and not a client's command.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes
            .first()
            .is_some_and(|code| (INTRODUCE..0x80).contains(code))
    }

    /// True if a request may travel in early data. An attacker can replay early data later, which
    /// must not undo newer changes (PEER-21). A numbered request takes effect once, and a read
    /// undoes nothing.
    pub fn may_travel_early(&self) -> bool {
        match self {
            Self::Deliver { .. }
            | Self::Post { .. }
            | Self::Withdraw { .. }
            | Self::Expelled { .. }
            | Self::Ended { .. }
            | Self::Grown { .. }
            | Self::Read { .. } => true,
            Self::Introduce { .. }
            | Self::Rotate { .. }
            | Self::Join { .. }
            | Self::Leave { .. } => false,
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// If the bytes are not a request that this version knows.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (input, code) = be_u8::<_, Malformed>(bytes)?;
        match code {
            INTRODUCE => {
                let (input, (realm, address)) = (RealmId::parse, Text::parse).parse(input)?;
                let (input, port) = Port::parse(input)?;
                let numbers = match input {
                    [] => None,
                    _ => {
                        let (input, number) = be_u64::<_, Malformed>(input)?;
                        Some((number, last_u64(input)?))
                    }
                };
                Ok(Self::Introduce {
                    realm,
                    address,
                    port,
                    numbers,
                })
            }
            DELIVER => {
                let (input, (epoch, sequence, content)) =
                    (be_u64, OperationNumber::parse, be_u8).parse(input)?;
                let (input, (from, to)) = (Username::parse, Username::parse).parse(input)?;
                let (_, message) = Body::parse_last(input)?;
                Ok(Self::Deliver {
                    epoch,
                    sequence,
                    content,
                    from,
                    to,
                    message,
                })
            }
            JOIN => {
                let (input, (group, user)) = (GroupName::parse, Username::parse).parse(input)?;
                let (_, password) = Password::parse_last(input)?;
                Ok(Self::Join {
                    group,
                    user,
                    password,
                })
            }
            LEAVE => {
                let (input, (group, user)) = (GroupName::parse, Username::parse).parse(input)?;
                Ok(Self::Leave {
                    group,
                    user,
                    membership: last_u64(input)?,
                })
            }
            POST => {
                let (input, (epoch, sequence, content)) =
                    (be_u64, OperationNumber::parse, be_u8).parse(input)?;
                let (input, (from, group)) = (Username::parse, GroupName::parse).parse(input)?;
                let (_, message) = Body::parse_last(input)?;
                Ok(Self::Post {
                    epoch,
                    sequence,
                    content,
                    from,
                    group,
                    message,
                })
            }
            GROWN => {
                let (_, group) = GroupName::parse_last(input)?;
                Ok(Self::Grown { group })
            }
            READ => {
                let (input, (group, epoch, after)) =
                    (GroupName::parse, be_u64, Position::parse).parse(input)?;
                let (input, Position(offset)) = Position::parse(input)?;
                Ok(Self::Read {
                    group,
                    epoch,
                    after,
                    offset,
                    life: last_life(input)?,
                })
            }
            ROTATE => {
                let (input, key) = array(input)?;
                match array(input)? {
                    ([], proof) => Ok(Self::Rotate { key, proof }),
                    _ => Err(Malformed {
                        what: "rotate: bytes after the proof",
                    }),
                }
            }
            _ => Self::parse_word(code, input),
        }
    }

    /// Reads a request about an earlier delivery, or about memberships.
    fn parse_word(code: u8, input: &'a [u8]) -> Result<Self, Malformed> {
        match code {
            WITHDRAW => {
                let (input, epoch) = be_u64::<_, Malformed>(input)?;
                let (_, sequence) = OperationNumber::parse_last(input)?;
                Ok(Self::Withdraw { epoch, sequence })
            }
            EXPELLED => {
                let (input, (epoch, sequence)) = (be_u64, OperationNumber::parse).parse(input)?;
                let (input, (group, user)) = (GroupName::parse, Username::parse).parse(input)?;
                Ok(Self::Expelled {
                    epoch,
                    sequence,
                    group,
                    user,
                    membership: last_u64(input)?,
                })
            }
            ENDED => {
                let (input, (epoch, sequence, group)) =
                    (be_u64, OperationNumber::parse, GroupName::parse).parse(input)?;
                Ok(Self::Ended {
                    epoch,
                    sequence,
                    group,
                    life: last_u64(input)?,
                })
            }
            _ => Err(Malformed {
                what: "request of a realm: its opcode is not known",
            }),
        }
    }

    /// Writes the request.
    pub fn emit(&self, out: &mut impl BufMut) {
        match self {
            Self::Introduce {
                realm,
                address,
                port,
                numbers,
            } => {
                out.put_u8(INTRODUCE);
                realm.emit(out);
                address.emit(out);
                port.emit(out);
                emit_numbers(*numbers, out);
            }
            Self::Deliver {
                epoch,
                sequence,
                content,
                from,
                to,
                message,
            } => {
                emit_head(DELIVER, *epoch, *sequence, out);
                emit_message(*content, (from, to), message, out);
            }
            Self::Join {
                group,
                user,
                password,
            } => {
                out.put_u8(JOIN);
                group.emit(out);
                user.emit(out);
                password.emit_last(out);
            }
            Self::Leave {
                group,
                user,
                membership,
            } => {
                out.put_u8(LEAVE);
                group.emit(out);
                user.emit(out);
                out.put_u64(*membership);
            }
            Self::Post {
                epoch,
                sequence,
                content,
                from,
                group,
                message,
            } => {
                emit_head(POST, *epoch, *sequence, out);
                emit_message(*content, (from, group), message, out);
            }
            Self::Grown { group } => {
                out.put_u8(GROWN);
                group.emit_last(out);
            }
            Self::Read {
                group,
                epoch,
                after,
                offset,
                life,
            } => {
                out.put_u8(READ);
                group.emit(out);
                emit_place((*epoch, *after, *offset), *life, out);
            }
            Self::Rotate { key, proof } => {
                out.put_u8(ROTATE);
                out.put_slice(key);
                out.put_slice(proof);
            }
            Self::Withdraw { epoch, sequence } => emit_head(WITHDRAW, *epoch, *sequence, out),
            Self::Expelled {
                epoch,
                sequence,
                group,
                user,
                membership,
            } => {
                emit_head(EXPELLED, *epoch, *sequence, out);
                group.emit(out);
                user.emit(out);
                out.put_u64(*membership);
            }
            Self::Ended {
                epoch,
                sequence,
                group,
                life,
            } => {
                emit_head(ENDED, *epoch, *sequence, out);
                group.emit(out);
                out.put_u64(*life);
            }
        }
    }

    /// Returns the request's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit(&mut out);
        out
    }
}

/// Reads a number that is the rest of the input.
fn last_u64(input: &[u8]) -> Result<u64, Malformed> {
    match array(input)? {
        ([], number) => Ok(u64::from_be_bytes(number)),
        _ => Err(Malformed {
            what: "request of a realm: bytes after its end",
        }),
    }
}

/// Writes the place to read a group from, and the life if it is known.
fn emit_place(
    (epoch, after, offset): (u64, Position, u64),
    life: Option<Life>,
    out: &mut impl BufMut,
) {
    out.put_u64(epoch);
    after.emit(out);
    Position(offset).emit(out);
    if let Some(Life(name)) = life {
        out.put_slice(&name);
    }
}

/// Reads a life at the end of the input, if there is one.
fn last_life(input: &[u8]) -> Result<Option<Life>, Malformed> {
    match input {
        [] => Ok(None),
        _ => match array(input)? {
            ([], name) => Ok(Some(Life(name))),
            _ => Err(Malformed {
                what: "request of a realm: bytes after its end",
            }),
        },
    }
}

fn emit_numbers(numbers: Option<(u64, u64)>, out: &mut impl BufMut) {
    if let Some((ours, theirs)) = numbers {
        out.put_u64(ours);
        out.put_u64(theirs);
    }
}

/// Writes the fields behind a message's head: its content type, author, recipient, and contents.
fn emit_message<'a>(
    content: u8,
    (from, to): (&Username, &impl Field<'a>),
    message: &Body<'a>,
    out: &mut impl BufMut,
) {
    out.put_u8(content);
    from.emit(out);
    to.emit(out);
    message.emit_last(out);
}

/// Writes the head of a request that takes effect once and in order.
fn emit_head(code: u8, epoch: u64, sequence: OperationNumber, out: &mut impl BufMut) {
    out.put_u8(code);
    out.put_u64(epoch);
    sequence.emit(out);
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// PEER-2, PEER-4, PEER-27, PEER-8, PEER-9, PEER-10, PEER-13, PEER-14, PEER-15, PEER-19
    #[test]
    fn peer_request_emitted_then_parsed_is_identical() {
        for request in [
            PeerRequest::Introduce {
                realm: "alpha".parse().unwrap(),
                address: Text("alpha.example.org"),
                port: Port(6377),
                numbers: None,
            },
            PeerRequest::Introduce {
                realm: "alpha".parse().unwrap(),
                address: Text(""),
                port: Port(0),
                numbers: Some((7, 8)),
            },
            PeerRequest::Deliver {
                epoch: 7,
                sequence: OperationNumber(70),
                content: 0,
                from: "ann".parse().unwrap(),
                to: "bob".parse().unwrap(),
                message: Body(b"hello"),
            },
            PeerRequest::Join {
                group: "cats".parse().unwrap(),
                user: "ann".parse().unwrap(),
                password: Password(b"meow"),
            },
            PeerRequest::Leave {
                group: "cats".parse().unwrap(),
                user: "ann".parse().unwrap(),
                membership: 9,
            },
            PeerRequest::Post {
                epoch: 7,
                sequence: OperationNumber(70),
                content: 0,
                from: "ann".parse().unwrap(),
                group: "cats".parse().unwrap(),
                message: Body(b"hello"),
            },
            PeerRequest::Grown {
                group: "cats".parse().unwrap(),
            },
            PeerRequest::Read {
                group: "cats".parse().unwrap(),
                epoch: 7,
                after: Position(70),
                offset: 100,
                life: Some(Life([1, 2, 3, 4])),
            },
            PeerRequest::Rotate {
                key: [7; 32],
                proof: [8; 16],
            },
            PeerRequest::Withdraw {
                epoch: 7,
                sequence: OperationNumber(70),
            },
            PeerRequest::Expelled {
                epoch: 7,
                sequence: OperationNumber(70),
                group: "cats".parse().unwrap(),
                user: "bob".parse().unwrap(),
                membership: 9,
            },
            PeerRequest::Ended {
                epoch: 7,
                sequence: OperationNumber(70),
                group: "cats".parse().unwrap(),
                life: 99,
            },
        ] {
            let bytes = request.to_bytes();
            assert!(PeerRequest::is_one(&bytes));
            assert_eq!(PeerRequest::parse(&bytes), Ok(request));
        }
    }

    proptest! {
        #[test]
        fn peer_request_parse_of_any_bytes_never_panics(code in 0x60u8..0x6c, bytes: Vec<u8>) {
            let input = [&[code][..], &bytes].concat();
            if let Ok(request) = PeerRequest::parse(&input) {
                let written = request.to_bytes();
                prop_assert_eq!(PeerRequest::parse(&written), Ok(request));
            }
        }
    }
}
