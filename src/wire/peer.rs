//! Requests between realms (`spec/realms.md`). The answers are those to commands.
//!
//! ```text
//! 0x60 introduce   realm, address, port 2, [number 8, the other's number 8]
//! 0x61 deliver     epoch 8, sequence varint, content type 1, sender, recipient, message
//! 0x62 join        group, user, password
//! 0x63 leave       group, user, membership 8
//! 0x64 post        epoch 8, sequence varint, content type 1, sender, group, message
//! 0x65 grown       group
//! 0x66 read        group, group's epoch 8, after varint, offset varint, [life 4]
//! 0x67 rotate      key 32, proof 16
//! 0x68 withdraw    epoch 8, sequence varint
//! 0x69 expelled    epoch 8, sequence varint, group, user, membership 8
//! 0x6a ended       epoch 8, sequence varint, group, group's epoch 8
//! ```
//!
//! One table below defines them all, as the table of `command.rs` defines the commands: the opcode,
//! the fields in their order on the wire, and behind `->` the type of the answer
//! (`from_answer.rs`). The last field follows a `;` because it has no length.

use alloc::vec::Vec;

use bytes::BufMut;
use nom::number::complete::{be_u8, be_u64};

use super::{
    Answer, Body, Delivered, Field, FromAnswer, GroupName, JoinedGroup, Life, Malformed, Numbered,
    Offset, OperationNumber, Page, Parsed, Password, Port, Position, RealmId, Refusal, Text,
    Username, Withdrawal, array,
};

/// The first opcode of requests between realms. Those below belong to commands.
const FIRST: u8 = 0x60;
/// The bit that no opcode has set.
const BEHIND_LAST: u8 = 0x80;

macro_rules! requests {
    ($(
        $(#[$doc:meta])*
        $Kind:ident { $(
            $(#[$request_doc:meta])*
            $code:literal $Request:ident $(<$lifetime:lifetime>)? {
                $($(#[$field_doc:meta])* $field:ident: $Type:ty),* ;
                $(#[$last_doc:meta])* $last:ident: $Last:ty
            } -> $Answer:ty;
        )* }
    )*) => {
        $($(
            $(#[$request_doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $Request $(<$lifetime>)? {
                $($(#[$field_doc])* pub $field: $Type,)*
                $(#[$last_doc])* pub $last: $Last,
            }

            impl<'a> From<$Request $(<$lifetime>)?> for PeerRequest<'a> {
                fn from(request: $Request $(<$lifetime>)?) -> Self {
                    Self::$Request(request)
                }
            }

            impl $(<$lifetime>)? AnsweredByPeer for $Request $(<$lifetime>)? {
                type Answer = $Answer;
            }
        )*)*

        /// A request of one realm to another.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum PeerRequest<'a> { $($(
            $(#[$request_doc])*
            $Request($Request $(<$lifetime>)?),
        )*)* }

        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub enum $Kind<'a> { $(
                $(#[$request_doc])*
                $Request($Request $(<$lifetime>)?),
            )* }
        )*

        /// A request by what it is about. Whoever executes requests matches on these, so that the
        /// compiler asks for each new one.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Kind<'a> { $(
            $(#[$doc])*
            $Kind($Kind<'a>),
        )* }

        impl<'a> PeerRequest<'a> {
            /// Returns the request by what it is about.
            pub fn kind(self) -> Kind<'a> {
                match self { $($(
                    Self::$Request(request) => Kind::$Kind($Kind::$Request(request)),
                )*)* }
            }

            /// Reads a request.
            ///
            /// # Errors
            /// If the bytes are not a request that this version knows.
            pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
                let (input, code) = be_u8::<_, Malformed>(bytes)?;
                match code {
                    $($($code => {
                        $(let (input, $field) = <$Type as Field<'a>>::parse(input)?;)*
                        let (_, $last) = <$Last as Field<'a>>::parse_last(input)?;
                        Ok(Self::$Request($Request { $($field,)* $last }))
                    })*)*
                    _ => Err(Malformed {
                        what: "request of a realm: its opcode is not known",
                    }),
                }
            }

            /// Writes the request.
            pub fn emit(&self, out: &mut impl BufMut) {
                match self { $($(
                    Self::$Request($Request { $($field,)* $last }) => {
                        out.put_u8($code);
                        $(<$Type as Field<'a>>::emit($field, out);)*
                        <$Last as Field<'a>>::emit_last($last, out);
                    }
                )*)* }
            }
        }
    };
}

requests! {
    /// It is about who the asking realm is. The realm need not be known yet.
    Introduction {
        /// Introduces the asking realm, and gives its address.
        0x60 Introduce<'a> {
            /// The asking realm's name for itself.
            realm: RealmId,
            /// Its host.
            address: Text<'a>,
            /// Its port; 0, with an empty host, where it cannot be reached.
            port: Port;
            /// The numbers of the peering; none from releases without peering numbers.
            numbers: Option<PeeringNumbers>
        } -> Option<Numbered>;
        /// Announces a new key of the asking realm. The key that it has already proven vouches for
        /// it.
        0x67 Rotate {
            /// The new key.
            key: [u8; 32];
            /// Shows that the asking realm has the new key.
            proof: [u8; 16]
        } -> ();
    }
    /// It comes out of the asking realm's queue, and takes effect once.
    Delivery {
        /// Delivers a private message.
        0x61 Deliver<'a> {
            /// The epoch of the asking realm's queue: a new one begins when the realm lost its
            /// memory.
            epoch: u64,
            /// The message's sequence number in that queue.
            sequence: OperationNumber,
            /// The content type.
            content: u8,
            /// The author.
            from: Username,
            /// The recipient.
            to: Username;
            /// The contents.
            message: Body<'a>
        } -> Delivered;
        /// Delivers a message to a group.
        0x64 Post<'a> {
            /// As in a delivery.
            epoch: u64,
            /// As in a delivery.
            sequence: OperationNumber,
            /// The content type.
            content: u8,
            /// The author.
            from: Username,
            /// The group.
            group: GroupName;
            /// The contents.
            message: Body<'a>
        } -> Delivered;
        /// Withdraws a message, if it has not been delivered yet.
        0x68 Withdraw {
            /// As in a delivery.
            epoch: u64;
            /// As in a delivery.
            sequence: OperationNumber
        } -> Withdrawal;
        /// Tells that a user of the other realm is no longer a member of a group here.
        0x69 Expelled {
            /// As in a delivery.
            epoch: u64,
            /// As in a delivery.
            sequence: OperationNumber,
            /// The group.
            group: GroupName,
            /// The user.
            user: Username;
            /// The number of the membership that has ended.
            membership: u64
        } -> Delivered;
        /// Tells that a group here has ended that has members in the other realm.
        0x6a Ended {
            /// As in a delivery.
            epoch: u64,
            /// As in a delivery.
            sequence: OperationNumber,
            /// The group.
            group: GroupName;
            /// The epoch of the group, from the answer to `join`: a later group of that name has
            /// another.
            group_epoch: u64
        } -> Delivered;
    }
    /// It is about a group here with users of the asking realm, or a group there with users here.
    AboutGroup {
        /// Makes a user of the asking realm a member of a group.
        0x62 Join<'a> {
            /// The group.
            group: GroupName,
            /// The user.
            user: Username;
            /// The group's password.
            password: Password<'a>
        } -> JoinedGroup;
        /// Ends the membership of a user of the asking realm.
        0x63 Leave {
            /// The group.
            group: GroupName,
            /// The user.
            user: Username;
            /// The number of the membership that ends.
            membership: u64
        } -> ();
        /// Tells that a group has new messages.
        0x65 Grown {
            ;
            /// The group.
            group: GroupName
        } -> ();
        /// Asks for a group's messages.
        0x66 Read {
            /// The group.
            group: GroupName,
            /// The epoch of the group, from the answer to `join`.
            group_epoch: u64,
            /// The position after which to begin.
            after: Position,
            /// The offset in the first entry's body at which to begin.
            offset: Offset;
            /// The life that the asking realm believes the other's store to be in (PEER-29), if it
            /// knows one.
            life: Option<Life>
        } -> Page;
    }
}

impl PeerRequest<'_> {
    /// True if `bytes` are a realm's request and not a client's command.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes
            .first()
            .is_some_and(|code| (FIRST..BEHIND_LAST).contains(code))
    }

    /// True if a request may travel in early data. An attacker can replay early data later, which
    /// must not undo newer changes (PEER-21). A numbered request takes effect once, and a read
    /// undoes nothing.
    pub const fn may_travel_early(&self) -> bool {
        match self {
            Self::Deliver(_)
            | Self::Post(_)
            | Self::Withdraw(_)
            | Self::Expelled(_)
            | Self::Ended(_)
            | Self::Grown(_)
            | Self::Read(_) => true,
            Self::Introduce(_) | Self::Rotate(_) | Self::Join(_) | Self::Leave(_) => false,
        }
    }

    /// Returns the request's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit(&mut out);
        out
    }
}

impl Delivery<'_> {
    /// Returns the epoch of the asking realm's queue.
    pub const fn epoch(&self) -> u64 {
        match self {
            Self::Deliver(Deliver { epoch, .. })
            | Self::Post(Post { epoch, .. })
            | Self::Withdraw(Withdraw { epoch, .. })
            | Self::Expelled(Expelled { epoch, .. })
            | Self::Ended(Ended { epoch, .. }) => *epoch,
        }
    }

    /// Returns the sequence number in that queue.
    pub const fn sequence(&self) -> OperationNumber {
        match self {
            Self::Deliver(Deliver { sequence, .. })
            | Self::Post(Post { sequence, .. })
            | Self::Withdraw(Withdraw { sequence, .. })
            | Self::Expelled(Expelled { sequence, .. })
            | Self::Ended(Ended { sequence, .. }) => *sequence,
        }
    }
}

/// A peer has answered what no peer answers to such a request: the fault is the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The bytes are no answer.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// They are an answer to a request of another kind.
    #[error("the peer's answer belongs to a request of another kind")]
    OtherKind,
}

/// A request with the type of its answer. Every request of the table is one, with the type that the
/// table names.
pub trait AnsweredByPeer {
    /// What a peer answers, unless it refuses.
    type Answer: FromAnswer;

    /// Returns what an answer to the request says: the contents, or the refusal.
    ///
    /// # Errors
    /// The answer is one to a request of another kind.
    fn answered(answer: Answer) -> Result<Result<Self::Answer, Refusal>, AnswerError> {
        match answer {
            Answer::Refused(refusal) => Ok(Err(refusal)),
            answer => match Self::Answer::from_answer(answer) {
                Ok(contents) => Ok(Ok(contents)),
                Err(_) => Err(AnswerError::OtherKind),
            },
        }
    }

    /// Reads an answer to the request: its contents, or the refusal.
    ///
    /// # Errors
    /// The bytes are no answer, or one to a request of another kind.
    fn read_answer(bytes: &[u8]) -> Result<Result<Self::Answer, Refusal>, AnswerError> {
        Self::answered(Answer::parse(bytes)?)
    }
}

/// The numbers of a peering, as the asking realm knows them (PEER-27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeeringNumbers {
    /// The asking realm's own number.
    pub own: u64,
    /// The other's number, or 0 if it has not said one.
    pub other: u64,
}

/// Always the last field.
impl<'a> Field<'a> for Option<PeeringNumbers> {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        if input.is_empty() {
            return Ok((input, None));
        }
        let (input, own) = be_u64(input)?;
        let (input, other) = be_u64(input)?;
        Ok((input, Some(PeeringNumbers { own, other })))
    }

    fn emit(&self, out: &mut impl BufMut) {
        if let Some(PeeringNumbers { own, other }) = self {
            out.put_u64(*own);
            out.put_u64(*other);
        }
    }
}

/// Always the last field.
impl<'a> Field<'a> for Option<Life> {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        if input.is_empty() {
            return Ok((input, None));
        }
        array(input).map(|(rest, name)| (rest, Some(Life(name))))
    }

    fn emit(&self, out: &mut impl BufMut) {
        if let Some(Life(name)) = self {
            out.put_slice(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::{super::Sent, *};

    /// PEER-2, PEER-4, PEER-27, PEER-8, PEER-9, PEER-10, PEER-13, PEER-14, PEER-15, PEER-19
    #[test]
    fn peer_request_emitted_then_parsed_is_identical() {
        for request in [
            PeerRequest::Introduce(Introduce {
                realm: "alpha".parse().unwrap(),
                address: Text("alpha.example.org"),
                port: Port(6377),
                numbers: None,
            }),
            PeerRequest::Introduce(Introduce {
                realm: "alpha".parse().unwrap(),
                address: Text(""),
                port: Port(0),
                numbers: Some(PeeringNumbers { own: 7, other: 8 }),
            }),
            PeerRequest::Deliver(Deliver {
                epoch: 7,
                sequence: OperationNumber(70),
                content: 0,
                from: "ann".parse().unwrap(),
                to: "bob".parse().unwrap(),
                message: Body(b"hello"),
            }),
            PeerRequest::Join(Join {
                group: "cats".parse().unwrap(),
                user: "ann".parse().unwrap(),
                password: Password(b"meow"),
            }),
            PeerRequest::Leave(Leave {
                group: "cats".parse().unwrap(),
                user: "ann".parse().unwrap(),
                membership: 9,
            }),
            PeerRequest::Post(Post {
                epoch: 7,
                sequence: OperationNumber(70),
                content: 0,
                from: "ann".parse().unwrap(),
                group: "cats".parse().unwrap(),
                message: Body(b"hello"),
            }),
            PeerRequest::Grown(Grown {
                group: "cats".parse().unwrap(),
            }),
            PeerRequest::Read(Read {
                group: "cats".parse().unwrap(),
                group_epoch: 7,
                after: Position(70),
                offset: Offset(100),
                life: Some(Life([1, 2, 3, 4])),
            }),
            PeerRequest::Rotate(Rotate {
                key: [7; 32],
                proof: [8; 16],
            }),
            PeerRequest::Withdraw(Withdraw {
                epoch: 7,
                sequence: OperationNumber(70),
            }),
            PeerRequest::Expelled(Expelled {
                epoch: 7,
                sequence: OperationNumber(70),
                group: "cats".parse().unwrap(),
                user: "bob".parse().unwrap(),
                membership: 9,
            }),
            PeerRequest::Ended(Ended {
                epoch: 7,
                sequence: OperationNumber(70),
                group: "cats".parse().unwrap(),
                group_epoch: 99,
            }),
        ] {
            let bytes = request.to_bytes();
            assert!(PeerRequest::is_one(&bytes));
            assert_eq!(PeerRequest::parse(&bytes), Ok(request));
        }
    }

    /// PEER-1, PEER-6, PEER-27: an answer is one to its request, or of another kind.
    #[test]
    fn peer_request_is_answered_by_type_of_table_or_refusal() {
        let stored = Answer::Sent(Sent::Stored).to_bytes();
        let done = Answer::Done.to_bytes();
        assert_eq!(Deliver::read_answer(&stored), Ok(Ok(Delivered)));
        assert_eq!(Deliver::read_answer(&done), Err(AnswerError::OtherKind));
        let queued = Answer::Sent(Sent::Queued).to_bytes();
        assert_eq!(Deliver::read_answer(&queued), Err(AnswerError::OtherKind));
        let withdrawn = Ok(Ok(Withdrawal::Withdrawn));
        assert_eq!(Withdraw::read_answer(&done), withdrawn);
        let delivered = Ok(Ok(Withdrawal::Delivered));
        assert_eq!(Withdraw::read_answer(&stored), delivered);
        let refusal = Refusal::busy(1);
        let refused = Answer::Refused(refusal).to_bytes();
        assert_eq!(Grown::read_answer(&refused), Ok(Err(refusal)));
        let malformed = Grown::read_answer(&[0xff]);
        assert!(matches!(malformed, Err(AnswerError::Malformed(_))));
        let numbered = Numbered {
            number: 7,
            is_apart: true,
        };
        let bytes = numbered.to_answer("alpha".parse().unwrap()).to_bytes();
        assert_eq!(Introduce::read_answer(&bytes), Ok(Ok(Some(numbered))));
        assert_eq!(Introduce::read_answer(&done), Ok(Ok(None)));
        let joined = JoinedGroup {
            group_epoch: 7,
            membership: 1,
            known_as: "alpha".parse().unwrap(),
        };
        assert_eq!(Join::read_answer(&bytes), Ok(Ok(joined)));
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
