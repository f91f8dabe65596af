//! `void`, which uses up a number (EXACT-11).

use crate::realm::{Realm, commands::work::Work, failure::Failure, records::Owner};
use crate::{
    store::Store,
    wire::{ErrorCode, SessionRef, command},
};

impl<S: Store> Realm<S> {
    /// Uses up a number (EXACT-11). This needs no session: the number belongs to the device,
    /// whichever user is logged in on it.
    pub(in crate::realm) async fn void(
        &self,
        work: &mut Work<'_>,
        command: &command::Void,
    ) -> Result<(), Failure> {
        let &command::Void { session, .. } = command;
        let caller = work.caller;
        match (&caller.device(), session) {
            (Some(device), _) => {
                let highest = self.idempotency.highest(&Owner::Device(*device)).await?;
                if highest.0 == 0
                    && self
                        .sessions
                        .bound_session(device, caller.now)
                        .await?
                        .is_none()
                {
                    // A stranger can make any number of keys, so their records are limited like new
                    // accounts.
                    self.limiter.registration(caller)?;
                }
            }
            (None, SessionRef::Named(id)) => {
                let hash = self.sessions.session_hash(&id);
                let found = self.sessions.load_session(hash, None, caller.now).await?;
                // A session that has ended never comes back, so its numbers need no record.
                work.is_unrecorded = found.is_none();
            }
            (None, SessionRef::Bound) => return Err(ErrorCode::NoSession.into()),
        }
        Ok(())
    }
}
