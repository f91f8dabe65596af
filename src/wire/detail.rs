//! What `realms` tells an operator of each peer, or of each realm that would be one, beyond the short list (PEER-28).
//!
//! ```text
//! details  each: length varint, and so many bytes of
//!          realm, key 32, address text, claimed text, state 1, why 1, since 4, next 4, heard 4,
//!          queued varint, age varint, former varint, times varint
//! ```
//!
//! What stands behind these fields is of a later release, and passed over. Whoever does not show them keeps the bytes as they are.

use alloc::{string::String, vec::Vec};

use bytes::BufMut;
use nom::{
    Parser,
    multi::length_data,
    number::complete::{be_u8, be_u32},
};

use super::{
    ErrorCode, Field, Malformed, Parsed, RealmId, Text, all, array, emit_varint, parse_varint,
};

/// Where no refusal is the cause.
const NO_CAUSE: u8 = 0xff;

/// How a realm stands to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It has accepted the peering, and has not been heard since the realm started.
    Idle = 0,
    /// It has been heard.
    Open = 1,
    /// It does not answer, and is tried again.
    Trying = 2,
    /// This realm has introduced itself, and it has not accepted yet.
    Introduced = 3,
    /// It has introduced itself, and an operator is to decide.
    Pending = 4,
    /// It refuses the peering.
    Refused = 5,
    /// It was removed, and something that was its has not ended yet.
    Departing = 6,
}

impl Standing {
    const ALL: [Self; 7] = [
        Self::Idle,
        Self::Open,
        Self::Trying,
        Self::Introduced,
        Self::Pending,
        Self::Refused,
        Self::Departing,
    ];

    /// Its name, as scripts see it in `--json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Open => "open",
            Self::Trying => "trying",
            Self::Introduced => "introduced",
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::Departing => "departing",
        }
    }
}

/// A peer, or a realm that would be one, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerDetail {
    /// Its name here, or while it is pending, how it calls itself.
    pub realm: RealmId,
    /// Its key; all 0 where it is departing.
    pub key: [u8; 32],
    /// Where it is, or empty.
    pub address: String,
    /// Where it says that it is, if that is elsewhere and it has not answered there; else empty.
    pub claimed: String,
    /// How it stands.
    pub state: Standing,
    /// With which refusal it has answered, if that is why.
    pub why: Option<ErrorCode>,
    /// Since when it stands so, in seconds since 1970; 0 where that is not known.
    pub since: u32,
    /// When it is tried next; 0 when it is not waited for.
    pub next: u32,
    /// When it was heard last; 0 for never.
    pub heard: u32,
    /// Messages that wait for it.
    pub queued: u64,
    /// For how many seconds the oldest has been waiting.
    pub age: u64,
    /// Keys that it had before.
    pub former: u64,
    /// While it is pending, how often it has introduced itself.
    pub times: u64,
}

impl PeerDetail {
    fn emit(&self, out: &mut impl BufMut) {
        self.realm.emit(out);
        out.put_slice(&self.key);
        Text(&self.address).emit(out);
        Text(&self.claimed).emit(out);
        out.put_u8(self.state as u8);
        out.put_u8(self.why.map_or(NO_CAUSE, |why| why as u8));
        for time in [self.since, self.next, self.heard] {
            out.put_u32(time);
        }
        for count in [self.queued, self.age, self.former, self.times] {
            emit_varint(count, out);
        }
    }

    fn parse(input: &[u8]) -> Parsed<'_, Self> {
        let (rest, input) = length_data(parse_varint).parse(input)?;
        let (input, realm) = RealmId::parse(input)?;
        let (input, key) = array(input)?;
        let (input, (address, claimed)) = (Text::parse, Text::parse).parse(input)?;
        let (input, (state, why)) = (be_u8, be_u8).parse(input)?;
        let (input, (since, next, heard)) = (be_u32, be_u32, be_u32).parse(input)?;
        let counts = (parse_varint, parse_varint, parse_varint, parse_varint);
        let (_, (queued, age, former, times)) = { counts }.parse(input)?;
        let states = Standing::ALL.into_iter();
        let Some(state) = { states }.find(|known| *known as u8 == state) else {
            return Malformed::error("details: a state that is not known");
        };
        let why = ErrorCode::ALL.iter().find(|code| **code as u8 == why);
        let detail = Self {
            realm,
            key,
            address: address.0.into(),
            claimed: claimed.0.into(),
            state,
            why: why.copied(),
            since,
            next,
            heard,
            queued,
            age,
            former,
            times,
        };
        Ok((rest, detail))
    }
}

/// All of them, as they travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerDetails(pub Vec<u8>);

impl PeerDetails {
    /// Adds one.
    pub fn add(&mut self, detail: &PeerDetail) {
        let mut bytes = Vec::new();
        detail.emit(&mut bytes);
        emit_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(&bytes);
    }

    /// Reads them.
    ///
    /// # Errors
    /// When the bytes are none that this version knows.
    pub fn read(&self) -> Result<Vec<PeerDetail>, Malformed> {
        let (_, details) = all(PeerDetail::parse)(&self.0)?;
        Ok(details)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    /// PEER-28
    #[test]
    fn details_are_read_as_they_were_written_and_later_fields_are_passed_over() {
        let detail = PeerDetail {
            realm: "beta".parse().unwrap(),
            key: [7; 32],
            address: "192.0.2.1:6377".into(),
            claimed: String::new(),
            state: Standing::Refused,
            why: Some(ErrorCode::PeerRefused),
            since: 1,
            next: 2,
            heard: 3,
            queued: 400,
            age: 5,
            former: 6,
            times: 7,
        };
        let other = PeerDetail {
            state: Standing::Pending,
            why: None,
            ..detail.clone()
        };
        let mut details = PeerDetails::default();
        details.add(&detail);
        details.add(&other);
        assert_eq!(details.read(), Ok(vec![detail.clone(), other]));
        let mut longer = Vec::new();
        detail.emit(&mut longer);
        longer.push(9);
        let mut bytes = Vec::new();
        emit_varint(longer.len() as u64, &mut bytes);
        bytes.extend_from_slice(&longer);
        assert_eq!(PeerDetails(bytes).read(), Ok(vec![detail]));
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = PeerDetails(bytes).read();
        }
    }
}
