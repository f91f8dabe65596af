//! Records of the tickets by which devices resume (HS-20).

use serde::{Deserialize, Serialize};

use super::{FORMAT_2, FORMAT_3, Record, SessionHash, parse};
use crate::store::StoreError;

/// A ticket, under its own name: a resuming device names only the ticket, and one look-up finds all
/// of it. After a restart many devices come at once, and none of their tickets is in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// The key of its device.
    pub device: [u8; 32],
    /// The time of day of its handshake, in seconds since 1970.
    pub made: u32,
    /// Its contents. `None` if an earlier version wrote it: such a ticket is refused.
    pub kept: Option<KeptTicket>,
}

/// The secret by which the device of that session resumes, since this running time of the realm.
/// `place`: the address at which it was validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTicket {
    pub own: [u8; 32],
    pub secret: [u8; 32],
    pub session: SessionHash,
    pub since: u32,
    pub max_datagram: u32,
    pub place: Option<[u8; 16]>,
}

/// The same in format 1.
#[derive(Deserialize)]
struct FirstTicketRecord {
    device: [u8; 32],
}

/// The same in format 2.
#[derive(Deserialize)]
struct SecondTicketRecord {
    device: [u8; 32],
    made: u32,
}

impl Record for TicketRecord {
    const FORMAT: u8 = FORMAT_3;

    fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
        let FirstTicketRecord { device } = parse(record)?;
        Ok(Self {
            device,
            made: 0,
            kept: None,
        })
    }

    fn from_second_format(record: &[u8]) -> Result<Self, StoreError> {
        let SecondTicketRecord { device, made } = parse(record)?;
        Ok(Self {
            device,
            made,
            kept: None,
        })
    }
}

/// The tickets of a device, the latest last: each copy of its profile has its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketsRecord {
    pub tickets: Vec<NamedTicket>,
}

/// A ticket's name, and the running time of the realm when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedTicket {
    pub id: u32,
    pub since: u32,
}

/// The same in format 1, which contained all of each ticket.
#[derive(Deserialize)]
struct FirstTicketsRecord {
    tickets: Vec<FirstNamedTicket>,
}

#[derive(Deserialize)]
#[expect(
    dead_code,
    reason = "they stand between the others, and have to be passed over"
)]
struct FirstNamedTicket {
    id: u32,
    own: [u8; 32],
    secret: [u8; 32],
    session: SessionHash,
    since: u32,
    max_datagram: u32,
    place: Option<[u8; 16]>,
}

impl Record for TicketsRecord {
    const FORMAT: u8 = FORMAT_2;

    fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
        let first: FirstTicketsRecord = parse(record)?;
        let named = |FirstNamedTicket { id, since, .. }| NamedTicket { id, since };
        Ok(Self {
            tickets: first.tickets.into_iter().map(named).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HS-20: records of an earlier version are read as tickets that are not valid any more, and
    /// are removed when they are too old.
    #[test]
    fn ticket_records_of_earlier_formats_are_read_as_invalid() {
        let device = [7; 32];
        let first = postcard::to_extend(&device, vec![1]).unwrap();
        let second = postcard::to_extend(&(device, 9u32), vec![2]).unwrap();
        for (value, made) in [(first, 0), (second, 9)] {
            let found = TicketRecord::from_value(&value).unwrap();
            assert_eq!((found.made, found.kept), (made, None));
            assert_eq!(found.device, device);
        }
        let place = Some([4; 16]);
        let old = vec![(3u32, [1; 32], [2; 32], [3; 16], 8u32, 1200u32, place)];
        let value = postcard::to_extend(&old, vec![1]).unwrap();
        let found = TicketsRecord::from_value(&value).unwrap();
        assert_eq!(found.tickets, [NamedTicket { id: 3, since: 8 }]);
        let again = TicketsRecord::from_value(&found.to_value().unwrap()).unwrap();
        assert_eq!(again, found);
    }
}
