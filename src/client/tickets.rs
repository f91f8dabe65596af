//! What a profile comes back to a realm with (HS-18): the ticket of its latest handshake there, under `t/ realm 4`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ProfileError,
    state::RealmNumber,
    store::{self, Records},
};
use crate::{
    crypto::{PublicKey, ResumptionSecret},
    endpoint::{TICKET_LIFETIME, Ticket},
    wire::ConnectionId,
};

/// A ticket is not shown any more so long before the realm would refuse it.
const BEFORE_ITS_END: Duration = Duration::from_mins(10);

#[derive(Serialize, Deserialize)]
struct TicketRecord {
    id: u32,
    token: [u8; 16],
    secret: [u8; 32],
    max_datagrams: (u32, u32),
    /// The realm's key, and the time of day when the handshake was over, in seconds.
    realm: [u8; 32],
    since: u64,
}

fn key(realm: RealmNumber) -> Vec<u8> {
    [b"t/".as_slice(), &realm.0.to_be_bytes()].concat()
}

/// What to come back with to the realm whose key is this, at that time of day. What cannot be read is as good as none.
pub fn load(
    records: &dyn Records,
    realm: RealmNumber,
    (of, now): (PublicKey, Duration),
) -> Option<Ticket> {
    let record: TicketRecord = store::get(records, &key(realm)).ok()??;
    let age = now.checked_sub(Duration::from_secs(record.since))?;
    let is_good = record.realm == of.0 && age + BEFORE_ITS_END < TICKET_LIFETIME;
    let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    is_good.then(|| Ticket {
        id: ConnectionId(record.id),
        token: record.token,
        secret: ResumptionSecret::from_bytes(record.secret),
        max_datagrams: (size(record.max_datagrams.0), size(record.max_datagrams.1)),
    })
}

/// Writes down what to come back with from now on.
pub fn save(
    records: &mut dyn Records,
    realm: RealmNumber,
    (of, now): (PublicKey, Duration),
    ticket: &Ticket,
) -> Result<(), ProfileError> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let record = TicketRecord {
        id: ticket.id.0,
        token: ticket.token,
        secret: *ticket.secret.as_bytes(),
        max_datagrams: (size(ticket.max_datagrams.0), size(ticket.max_datagrams.1)),
        realm: of.0,
        since: now.as_secs(),
    };
    store::put(records, &key(realm), &record)
}
