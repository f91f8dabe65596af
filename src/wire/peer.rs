//! What realms ask of each other (`spec/realms.md`). The answers are those to commands.
//!
//! ```text
//! 0x60 introduce   realm, address, port 2
//! 0x61 deliver     epoch 8, sequence varint, content type 1, sender, recipient, message
//! ```

use alloc::vec::Vec;

use bytes::BufMut;
use nom::{
    Parser,
    number::complete::{be_u8, be_u64},
};

use super::{Body, Field, Malformed, OperationNumber, Port, RealmId, Text, Username};

const INTRODUCE: u8 = 0x60;
const DELIVER: u8 = 0x61;

/// A request of one realm to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest<'a> {
    /// Says who asks, and where it wants to be reached.
    Introduce {
        /// How the asking realm calls itself.
        realm: RealmId,
        /// Its host.
        address: Text<'a>,
        /// Its port.
        port: Port,
    },
    /// Brings a private message.
    Deliver {
        /// Which of the asking realm's queues, in time: a new one begins when it lost its memory.
        epoch: u64,
        /// The message's place in that queue.
        sequence: OperationNumber,
        /// What the message is.
        content: u8,
        /// Who wrote it.
        from: Username,
        /// To whom.
        to: Username,
        /// What was written.
        message: Body<'a>,
    },
}

impl<'a> PeerRequest<'a> {
    /// True when `bytes` are meant to be a realm's request and not a client's command.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes
            .first()
            .is_some_and(|code| (INTRODUCE..0x80).contains(code))
    }

    /// Reads a request.
    ///
    /// # Errors
    /// When the bytes are not a request this version knows.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (input, code) = be_u8::<_, Malformed>(bytes)?;
        match code {
            INTRODUCE => {
                let (input, (realm, address)) = (RealmId::parse, Text::parse).parse(input)?;
                let (_, port) = Port::parse_last(input)?;
                Ok(Self::Introduce {
                    realm,
                    address,
                    port,
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
            } => {
                out.put_u8(INTRODUCE);
                realm.emit(out);
                address.emit(out);
                port.emit_last(out);
            }
            Self::Deliver {
                epoch,
                sequence,
                content,
                from,
                to,
                message,
            } => {
                out.put_u8(DELIVER);
                out.put_u64(*epoch);
                sequence.emit(out);
                out.put_u8(*content);
                from.emit(out);
                to.emit(out);
                message.emit_last(out);
            }
        }
    }

    /// The request's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// PEER-2, PEER-4
    #[test]
    fn emit_then_parse_is_identity() {
        for request in [
            PeerRequest::Introduce {
                realm: "alpha".parse().unwrap(),
                address: Text("alpha.example.org"),
                port: Port(6377),
            },
            PeerRequest::Deliver {
                epoch: 7,
                sequence: OperationNumber(70),
                content: 0,
                from: "ann".parse().unwrap(),
                to: "bob".parse().unwrap(),
                message: Body(b"hello"),
            },
        ] {
            let bytes = request.to_bytes();
            assert!(PeerRequest::is_one(&bytes));
            assert_eq!(PeerRequest::parse(&bytes), Ok(request));
        }
    }

    proptest! {
        #[test]
        fn never_panics(code in 0x60u8..0x64, bytes: Vec<u8>) {
            let input = [&[code][..], &bytes].concat();
            if let Ok(request) = PeerRequest::parse(&input) {
                let written = request.to_bytes();
                prop_assert_eq!(PeerRequest::parse(&written), Ok(request));
            }
        }
    }
}
