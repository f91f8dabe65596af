//! The details that `realms` gives an operator about each peer, or each realm that waits to be one
//! (PEER-28).
//!
//! ```text
//! details  each: length varint, and that many bytes of
//!          realm, key 32, address text, claimed text, state 1, why 1, since 4, next 4, heard 4,
//!          queued varint, age varint, former varint, times varint
//! ```
//!
//! Bytes behind these fields come from a later release, and are skipped. A program that does not
//! display them keeps the bytes unchanged.

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

/// The value of `why` if no refusal is the cause.
const NO_CAUSE: u8 = 0xff;

/// The state of another realm towards this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeeringState {
    /// It has accepted the peering, and no packet has arrived from it since the realm started.
    Idle = 0,
    /// Packets have arrived from it.
    Open = 1,
    /// It does not answer; this realm keeps trying.
    Trying = 2,
    /// This realm has introduced itself, and the other has not accepted yet.
    Introduced = 3,
    /// The other realm has introduced itself, and an operator has to decide.
    Pending = 4,
    /// It refuses the peering.
    Refused = 5,
    /// It was removed, but some of its data still exists.
    Departing = 6,
}

impl PeeringState {
    const ALL: [Self; 7] = [
        Self::Idle,
        Self::Open,
        Self::Trying,
        Self::Introduced,
        Self::Pending,
        Self::Refused,
        Self::Departing,
    ];

    /// Returns the state's name in `--json`.
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

/// A peer, or a realm that waits to be one, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerDetail {
    /// Its name here; while it is pending, its name for itself.
    pub realm: RealmId,
    /// Its key; all 0 if it is departing.
    pub key: [u8; 32],
    /// Its address, or empty.
    pub address: String,
    /// The address that it claims, if that differs and it has not answered there; else empty.
    pub claimed: String,
    /// Its state.
    pub state: PeeringState,
    /// The refusal that it answered, if that is the cause of the state.
    pub why: Option<ErrorCode>,
    /// When the state began, in seconds since 1970; 0 if unknown.
    pub since: u32,
    /// The time of the next try, in seconds since 1970; 0 if none is planned.
    pub next: u32,
    /// When a packet last arrived from it, in seconds since 1970; 0 for never.
    pub heard: u32,
    /// The number of messages that wait for it.
    pub queued: u64,
    /// How long the oldest message has been waiting, in seconds.
    pub age: u64,
    /// The number of its former keys.
    pub former: u64,
    /// While it is pending: how many times it has introduced itself.
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
        let states = PeeringState::ALL.into_iter();
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

/// All details, in their encoded form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerDetails(pub Vec<u8>);

impl PeerDetails {
    /// Adds one realm's details.
    pub fn add(&mut self, detail: &PeerDetail) {
        let mut bytes = Vec::new();
        detail.emit(&mut bytes);
        emit_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(&bytes);
    }

    /// Reads the details.
    ///
    /// # Errors
    /// If the bytes are not details that this version knows.
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
    fn peer_detail_is_read_as_written_and_later_fields_are_skipped() {
        let detail = PeerDetail {
            realm: "beta".parse().unwrap(),
            key: [7; 32],
            address: "192.0.2.1:6377".into(),
            claimed: String::new(),
            state: PeeringState::Refused,
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
            state: PeeringState::Pending,
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
        fn peer_detail_parse_of_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = PeerDetails(bytes).read();
        }
    }
}
