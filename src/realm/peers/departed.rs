//! Names whose last holder is still departing.

use crate::realm::{
    failure::Failure,
    peers::Peers,
    records::{self, DepartureRecord},
};
use crate::{
    store::{Batch, Store},
    wire::{RealmId, Refusal},
};

/// How long a realm is asked to wait for a name whose last holder is still departing, in
/// milliseconds.
const DEPARTING_MS: u64 = 1000;

impl<S: Store> Peers<S> {
    /// Refuses a name whose last holder is still departing.
    pub(super) async fn check_departed(
        &self,
        realm: RealmId,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let key = records::departure(realm);
        match self.storage.noted::<DepartureRecord>(batch, &key).await? {
            Some(_) => Err(Refusal::busy(DEPARTING_MS).into()),
            None => Ok(()),
        }
    }
}
