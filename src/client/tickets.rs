//! The resumption ticket of a profile for a realm (HS-18), from its latest handshake, under `t/
//! realm 4`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ProfileError,
    state::RealmNumber,
    store::{self, Records},
};
use crate::{
    crypto::{PublicKey, ResumptionSecret},
    endpoint::{TICKET_SHOWN, Ticket},
    link::Time,
    wire::ConnectionId,
};

#[derive(Serialize, Deserialize)]
struct TicketRecord {
    id: u32,
    token: [u8; 16],
    secret: [u8; 32],
    max_datagrams: (u32, u32),
    /// The realm's key. The next field is the time of day at the end of the handshake, in seconds.
    realm: [u8; 32],
    since: u64,
}

fn key(realm: RealmNumber) -> Vec<u8> {
    [b"t/".as_slice(), &realm.0.to_be_bytes()].concat()
}

/// The result of loading a ticket.
#[derive(Debug)]
pub enum Found {
    Nothing,
    /// A valid ticket, and the time of day of its handshake.
    Good(Ticket, Duration),
    /// The ticket is too old, belongs to another key of the realm, or is damaged. It must be
    /// deleted, because with it recorded traffic could be decrypted.
    Over,
}

/// Loads the ticket for the realm with the key `of`, at the time of day `now`. For the endpoint
/// that resumes, `now` is the time 0.
pub fn load(
    records: &dyn Records,
    realm: RealmNumber,
    of: PublicKey,
    now: Duration,
) -> Result<Found, ProfileError> {
    let record = match store::get::<TicketRecord>(records, &key(realm)) {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(Found::Nothing),
        Err(ProfileError::Damaged(_)) => return Ok(Found::Over),
        Err(error) => return Err(error),
    };
    let since = Duration::from_secs(record.since);
    let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(match left(since, now) {
        Some(left) if record.realm == of.0 => {
            let ticket = Ticket {
                id: ConnectionId(record.id),
                token: record.token,
                secret: ResumptionSecret::from_bytes(record.secret),
                max_datagram: size(record.max_datagrams.0),
                peer_max_datagram: size(record.max_datagrams.1),
                until: Time(0) + left,
            };
            Found::Good(ticket, since)
        }
        Some(_) | None => Found::Over,
    })
}

/// Returns for how long a ticket may still be used, by the time of day. `None` if it is too old, or
/// if the clock is before its creation.
pub fn left(since: Duration, now: Duration) -> Option<Duration> {
    TICKET_SHOWN.checked_sub(now.checked_sub(since)?)
}

/// Deletes the ticket.
pub fn delete(records: &mut dyn Records, realm: RealmNumber) -> Result<(), ProfileError> {
    records.delete(&key(realm))
}

/// Saves a ticket. `since` is the time of day of its handshake.
pub fn save(
    records: &mut dyn Records,
    realm: RealmNumber,
    of: PublicKey,
    since: Duration,
    ticket: &Ticket,
) -> Result<(), ProfileError> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let record = TicketRecord {
        id: ticket.id.0,
        token: ticket.token,
        secret: *ticket.secret.as_bytes(),
        max_datagrams: (size(ticket.max_datagram), size(ticket.peer_max_datagram)),
        realm: of.0,
        since: since.as_secs(),
    };
    store::put(records, &key(realm), &record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::store::{Memory, write};

    /// HS-18: a ticket is used for a day less ten minutes after its handshake, with the key it was
    /// made with, and never after that.
    #[test]
    fn ticket_in_profile_expires_ten_minutes_before_its_day_ends() {
        let (realm, key, since) = (
            RealmNumber(0),
            PublicKey([7; 32]),
            Duration::from_hours(1000),
        );
        let ticket = Ticket {
            id: ConnectionId(7),
            token: [1; 16],
            secret: ResumptionSecret::from_bytes([2; 32]),
            max_datagram: 1200,
            peer_max_datagram: 1200,
            until: Time(0),
        };
        let outcome = write(&Memory::default(), |records| {
            assert!(matches!(load(records, realm, key, since)?, Found::Nothing));
            save(records, realm, key, since, &ticket)?;
            for (age, of, is_good) in [
                (Duration::ZERO, key, true),
                (Duration::from_mins(24 * 60 - 11), key, true),
                (Duration::from_mins(24 * 60 - 9), key, false),
                (Duration::ZERO, PublicKey([8; 32]), false),
            ] {
                let found = load(records, realm, of, since + age)?;
                match found {
                    Found::Good(found, of_day) => {
                        assert_eq!(of_day, since);
                        assert!(is_good);
                        assert_eq!(found.until, Time(0) + TICKET_SHOWN.saturating_sub(age));
                    }
                    Found::Over => assert!(!is_good, "{age:?}"),
                    Found::Nothing => panic!("there is one"),
                }
            }
            // A clock that was set back does not show how old it is.
            let before = since.checked_sub(Duration::from_secs(1)).unwrap();
            assert!(matches!(load(records, realm, key, before)?, Found::Over));
            delete(records, realm)?;
            assert!(matches!(load(records, realm, key, since)?, Found::Nothing));
            Ok(())
        });
        outcome.unwrap();
    }
}
