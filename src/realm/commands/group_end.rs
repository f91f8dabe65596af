//! The end of a group, and the work that it leaves.

use crate::realm::{
    Realm, commands::work::Work, failure::Failure, groups::Group, queues::MembershipReport,
    records, storage::Walk,
};
use crate::{
    faults::{Fault, is_planted},
    store::Store,
};

impl<S: Store> Realm<S> {
    /// Adds to the work's batch that a group ends, with its messages and members, and that the
    /// realms of its members are told.
    pub(super) async fn delete_group(
        &self,
        group: &Group,
        work: &mut Work<'_>,
    ) -> Result<(), Failure> {
        for realm in group.realms().filter(|_| !is_planted(Fault::EndUnsaid)) {
            if let Some(peer) = self.peers.find_peer(&mut work.batch, realm).await? {
                // This may exceed the bound of the queue (PEER-5), which is for users' messages.
                // Otherwise a peer that is away could keep a group from ending. Each such message
                // replaces a membership that the peer asked for.
                let report = MembershipReport::Ended(group.record.epoch);
                let (now, batch) = (work.caller.now, &mut work.batch);
                self.queues
                    .queue_membership_report(&peer, group.name, report, now, batch)?;
            }
        }
        self.groups.put_end(group, &mut work.batch).await?;
        work.ends = true;
        Ok(())
    }

    /// Does all work for members of ended groups, and lists replicas by user where they are not
    /// listed yet. `now` is the time of day.
    ///
    /// False if something could not be read or written: that work is left. Damaged records hold up
    /// nothing else.
    pub async fn do_chores(&self, now: u32) -> bool {
        let listing = async {
            while !self.groups.list_replicas().await? {
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        let listed = listing.await;
        let mut are_done = listed.is_ok();
        if let Err(failure) = listed {
            self.storage.log_failure("chores", &failure);
            if !failure.is_of_one_record() {
                return false;
            }
        }
        are_done &= self.departures.do_departures(now).await;
        // Continues behind this one, because those before it cannot be done now.
        let mut after = None;
        loop {
            let mut walk = Walk::new(records::endings(), after.clone(), 1);
            let found = walk.next(&self.storage).await.map_err(Failure::from);
            if let Some(error) = walk.damage {
                self.storage.log_failure("chores", &error.into());
                are_done = false;
                // One report is enough.
                after = walk.passed.or(after);
            }
            let next = found.map(|found| found.into_iter().next());
            let (key, done) = match next {
                Ok(None) => return are_done,
                Ok(Some((key, found))) => {
                    let done = self.groups.do_ending(&key, found, now).await;
                    (Some(key), done)
                }
                Err(failure) => (None, Err(failure)),
            };
            if let Err(failure) = done {
                self.storage.log_failure("chores", &failure);
                are_done = false;
                if key.is_none() || !failure.is_of_one_record() {
                    return false;
                }
                after = key;
            }
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
    }
}
