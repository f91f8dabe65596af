//! The closed list of reasons why a realm refuses a command (ERR-1), with one sentence each for
//! people.

use core::{fmt, time::Duration};

use bytes::BufMut;
use nom::number::complete::be_u8;

use super::{Field, Malformed, OperationNumber, Parsed, emit_varint, parse_varint};

macro_rules! error_codes {
    ($($code:literal $Name:ident $name:literal $sentence:literal)*) => {
        /// Why a realm refused a command. The number is the one on the wire, minus 64.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ErrorCode { $(
            #[doc = $sentence]
            $Name = $code,
        )* }

        impl ErrorCode {
            /// All codes, in numerical order.
            pub const ALL: &[Self] = &[$(Self::$Name),*];

            /// Returns the code's name in `--json`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Name => $name),* }
            }

            /// Returns one sentence for people.
            const fn sentence(self) -> &'static str {
                match self { $(Self::$Name => $sentence),* }
            }

            fn from_number(number: u8) -> Option<Self> {
                match number { $($code => Some(Self::$Name),)* _ => None }
            }
        }
    };
}

error_codes! {
    0 BadRequest "bad-request" "The realm could not understand the command."
    1 BadCredentials "bad-credentials" "The username or the password is wrong."
    2 NoSession "no-session" "There is no such session: log in first, with `auth` or `register`."
    3 UsernameTaken "username-taken" "That username is taken; choose another."
    4 NoSuchUser "no-such-user" "There is no user of that name."
    5 GroupExists "group-exists" "A group of that name exists already."
    6 NoSuchGroup "no-such-group" "There is no group of that name."
    7 WrongPassword "wrong-password" "The password is wrong."
    8 NotAMember "not-a-member" "You are not a member of that group; join it first."
    9 RealmExists "realm-exists" "A realm of that name or with that key is known already, or it is this one."
    10 NoSuchRealm "no-such-realm" "No realm of that name is known here."
    11 RealmUnreachable "realm-unreachable" "That realm does not answer at present."
    12 PeerRefused "peer-refused" "The other realm refused the peering; its operator must list our key."
    13 BadSource "bad-source" "That source address is not one of this realm's own."
    14 NotYou "not-you" "The sender named is not the session's user."
    15 NotOperator "not-operator" "Only an operator may do that; `claim` the operator code first."
    16 TooLarge "too-large" "That is more than the realm allows."
    17 QueueFull "queue-full" "The queue to that realm is full; try again later."
    18 RateLimited "rate-limited" "Too much was asked of the realm, or is to be kept there, in too short a time; try again later."
    19 Busy "busy" "The realm is busy; try again later."
    20 AlreadyDone "already-done" "That command was carried out before; its answer is no longer kept."
    21 NumberReused "number-reused" "The operation number was used for another command; take a fresh one."
    22 Unsupported "unsupported" "The realm does not support that."
    23 Internal "internal" "The realm met an error of its own; its operator's log says which."
    24 NotPermitted "not-permitted" "Only the group's owner, or a moderator over members, may do that."
    25 Banned "banned" "You were banned from that group; its owner or a moderator can lift that."
    26 Expired "expired" "The message was not delivered within the time it was worth."
    27 RegistrationClosed "registration-closed" "This realm makes no new accounts."
    28 WrongCode "wrong-code" "This realm asks for a registration code; its operator has it, and `register --code-file` takes it."
    29 Unknown "unknown" "Whether that was done is not known; ask again with the same number."
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal: the code, and the one number that some codes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Refusal {
    /// The reason.
    pub code: ErrorCode,
    /// `too-large`: the limit, in bytes or in number. `busy`, `rate-limited`: milliseconds to wait.
    /// `already-done`, `number-reused`, and `no-session` because of the number: the highest
    /// operation number that the realm has seen from the device. Otherwise absent.
    pub detail: Option<u64>,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, detail: None }
    }
}

impl Refusal {
    /// Returns a refusal of data longer than `limit` bytes.
    pub const fn too_large(limit: u64) -> Self {
        Self {
            code: ErrorCode::TooLarge,
            detail: Some(limit),
        }
    }

    /// Returns a refusal that asks the client to retry in `retry_after` milliseconds.
    pub const fn busy(retry_after: u64) -> Self {
        Self {
            code: ErrorCode::Busy,
            detail: Some(retry_after),
        }
    }

    /// Returns a refusal that asks the client to retry after `wait`.
    pub fn rate_limited(wait: Duration) -> Self {
        // Rounded up, so that a client that waits exactly this long is not too early.
        let millis = wait.as_nanos().div_ceil(1_000_000);
        Self {
            code: ErrorCode::RateLimited,
            detail: Some(u64::try_from(millis).unwrap_or(u64::MAX)),
        }
    }

    /// Returns a refusal because of the operation number; `highest` is the highest that the realm
    /// has seen from its owner.
    pub const fn number(code: ErrorCode, highest: OperationNumber) -> Self {
        Self {
            code,
            detail: Some(highest.0),
        }
    }

    /// True if the same command, with the same operation number, may succeed a little later.
    pub const fn is_transient(self) -> bool {
        matches!(self.code, ErrorCode::Busy | ErrorCode::RateLimited)
    }

    /// True if a retry would get the same answer: the realm was neither too busy nor in trouble.
    pub const fn is_final(self) -> bool {
        !self.is_transient() && !self.is_unknown() && !matches!(self.code, ErrorCode::Internal)
    }

    /// True if it is unknown whether the command took effect: the realm could not see how its
    /// commit ended. A retry of the same command with the same number finds out.
    pub const fn is_unknown(self) -> bool {
        matches!(self.code, ErrorCode::Unknown)
    }

    /// Returns the highest operation number that the realm has seen from the device, if the refusal
    /// contains it.
    pub const fn highest(self) -> Option<OperationNumber> {
        match (self.code, self.detail) {
            (
                ErrorCode::AlreadyDone | ErrorCode::NumberReused | ErrorCode::NoSession,
                Some(highest),
            ) => Some(OperationNumber(highest)),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.sentence())?;
        match (self.code, self.detail) {
            (ErrorCode::TooLarge, Some(limit)) => write!(f, " The limit is {limit}."),
            (ErrorCode::Busy | ErrorCode::RateLimited, Some(wait)) => match wait.div_ceil(1000) {
                0..10 => write!(f, " Wait {wait} ms."),
                seconds => write!(f, " Wait {seconds} s."),
            },
            _ => Ok(()),
        }
    }
}

/// On the wire, a refusal is its code, and its detail if the code has one.
impl<'a> Field<'a> for Refusal {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, number) = be_u8(input)?;
        let Some(code) = ErrorCode::from_number(number) else {
            return Malformed::error("error code");
        };
        if rest.is_empty() {
            return Ok((rest, code.into()));
        }
        let (rest, detail) = parse_varint(rest)?;
        Ok((
            rest,
            Self {
                code,
                detail: Some(detail),
            },
        ))
    }

    fn emit(&self, out: &mut impl BufMut) {
        out.put_u8(self.code as u8);
        if let Some(detail) = self.detail {
            emit_varint(detail, out);
        }
    }
}
