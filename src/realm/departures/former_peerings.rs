//! The end of peerings that were made anew or forgotten (PEER-27, PEER-29).

use crate::realm::{departures::Departures, failure::Failure, records};
use crate::{
    store::{Batch, Store},
    wire::RealmId,
};

/// The notice to a user that was in a group of such a realm.
const NOTICE: &str = "the realm of this group has begun to peer anew: you are not in it any more";

impl<S: Store> Departures<S> {
    /// Ends what was of former peerings. False if some of it is left.
    pub(super) async fn do_voids(&self, now: u32) -> bool {
        let prefix = records::voids();
        let mut realms: Vec<RealmId> = Vec::new();
        let found = self
            .storage
            .list_readable(&prefix, 256, |key, _| {
                realms.extend(records::name_in::<RealmId>(key, &prefix));
            })
            .await;
        let mut are_done = found.is_none();
        if let Some(error) = found {
            self.storage.log_failure("peerings", &error.into());
        }
        for realm in realms {
            if let Err(failure) = self.end_former_peering(realm, now).await {
                self.storage.log_failure("peering", &failure);
                are_done = false;
            }
        }
        are_done
    }

    async fn end_former_peering(&self, realm: RealmId, now: u32) -> Result<(), Failure> {
        // Bans stay; otherwise a peer could lift its users' bans by beginning anew.
        self.leave_groups(realm, true).await?;
        self.end_copies(realm, (NOTICE, now), true).await?;
        let mut batch = Batch::new();
        batch.delete(records::void(realm));
        self.storage.commit(batch).await?;
        tracing::info!(peer = %realm, "all that was of the former peering has ended");
        Ok(())
    }
}
