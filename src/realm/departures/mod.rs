//! Realms that an operator has removed (PEER-22). All that belonged to them ends, so that the next
//! realm of that name begins with nothing.
//!
//! The commit that removes a peer is bounded, however much the peer leaves behind. It only records
//! that the realm departs. The rest is done in steps, each of which may be repeated after a
//! restart. No realm gets the name until all of it is done.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::realm::{
    accounts,
    failure::Failure,
    groups::{
        Group, Groups, MEMBERS_AT_ONCE, host::put_realms, teardown::append_notice, vouchers::Posts,
    },
    mailboxes::{Mailboxes, blocks::put_blocks, sweep::Sweeper},
    network::Network,
    notice::Notice,
    peers::Peers,
    queues::{PeerQueues, delivery::Outgoing},
    random::Random,
    records::{self, BlocksRecord, MailboxLog, Record as _, ReplicaRecord},
    shared::Shared,
    storage::{Outcome, Storage, Walk},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, Position, Prefix, Store, Versioned},
    wire::{ErrorCode, GroupName, RealmId, Sender, Username},
};

/// The number of records that are read at once, and changed by one commit.
const DEPARTING_AT_ONCE: usize = 256;
/// The number of users whose blocks are read at once.
const BLOCKS_AT_ONCE: usize = 32;

/// After so many failed reads, what cannot be read of a removed realm is given up; otherwise the
/// name would never be free.
const READS_MAX: u32 = 5;

/// The notice to a user that was in a group of a removed realm.
const NOTICE: &str = "an operator has removed the realm of this group: you are not in it any more";

/// The notice to a user that was in a group of a realm with which peering has begun anew (PEER-27,
/// PEER-29).
const ANEW_NOTICE: &str =
    "the realm of this group has begun to peer anew: you are not in it any more";

/// The removal of the data of former peers.
#[derive(Debug)]
pub struct Departures<S> {
    storage: Arc<Storage<S>>,
    random: Arc<Random>,
    peers: Arc<Peers<S>>,
    posts: Arc<Posts<S>>,
    groups: Arc<Groups<S>>,
    queues: Arc<PeerQueues<S>>,
    mailboxes: Arc<Mailboxes<S>>,
    sweeper: Arc<Sweeper<S>>,
    network: Arc<Network>,
    /// How many reads of the leftovers of removed realms have failed.
    unread: AtomicU32,
}

impl<S> Departures<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(
        shared: &Shared<S>,
        peers: Arc<Peers<S>>,
        posts: Arc<Posts<S>>,
        groups: Arc<Groups<S>>,
        queues: Arc<PeerQueues<S>>,
        mailboxes: Arc<Mailboxes<S>>,
        sweeper: Arc<Sweeper<S>>,
    ) -> Self {
        Self {
            storage: shared.storage.clone(),
            random: shared.random.clone(),
            peers,
            posts,
            groups,
            queues,
            mailboxes,
            sweeper,
            network: shared.network.clone(),
            unread: AtomicU32::new(0),
        }
    }
}

impl<S: Store> Departures<S> {
    /// Does the work for realms that were removed. False if some is left.
    pub async fn do_departures(&self, now: u32) -> bool {
        let (realms, unread) = self.peers.departing().await;
        let mut are_done = unread.is_none();
        if let Some(failure) = unread {
            self.storage.log_failure("departures", &failure);
        }
        if is_planted(Fault::LeaveRemains) {
            return true;
        }
        for realm in realms {
            if let Err(failure) = self.depart(realm, now).await {
                self.storage.log_failure("departure", &failure);
                let is_unread = failure.is_of_one_record();
                self.unread.fetch_add(is_unread.into(), Ordering::Relaxed);
                are_done = false;
            }
        }
        if are_done {
            self.unread.store(0, Ordering::Relaxed);
        }
        self.end_former_peerings(now).await && are_done
    }

    async fn depart(&self, realm: RealmId, now: u32) -> Result<(), Failure> {
        self.network.forget(realm);
        if self.peers.is_queue_dropped(realm).await? {
            self.drop_queue(realm).await?;
        } else {
            self.give_queue_back(realm, now).await?;
        }
        self.leave_groups(realm, false).await?;
        self.end_blocks(realm, now).await?;
        self.end_replicas(realm, (NOTICE, now), false).await?;
        self.empty_mailboxes(realm).await?;
        self.forget_all(&records::membership_reports_of(realm))
            .await?;
        self.forget_all(&records::posts_of(realm)).await?;
        let mut batch = Batch::new();
        batch.delete(records::departure(realm));
        self.storage.commit(batch).await?;
        tracing::info!(peer = %realm, "leftovers of a removed realm were deleted; its name is free");
        Ok(())
    }

    /// Ends what was of former peerings. False if some of it is left.
    async fn end_former_peerings(&self, now: u32) -> bool {
        let (realms, unread) = self.peers.with_former_peering().await;
        let mut are_done = unread.is_none();
        if let Some(failure) = unread {
            self.storage.log_failure("peerings", &failure);
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
        self.end_replicas(realm, (ANEW_NOTICE, now), true).await?;
        let mut batch = Batch::new();
        batch.delete(records::former_peering(realm));
        self.storage.commit(batch).await?;
        tracing::info!(peer = %realm, "leftovers of the former peering with a peer were deleted");
        Ok(())
    }

    /// True if the record is lost: it is damaged, or too many reads have failed.
    fn is_lost(&self, failure: &Failure) -> bool {
        let tries = self.unread.load(Ordering::Relaxed);
        failure.is_damage() || (failure.is_of_one_record() && tries >= READS_MAX)
    }

    /// Ignores a failure if the record is lost: nothing can use it, and otherwise the name would
    /// never be free.
    fn pass_over(&self, done: Result<(), Failure>) -> Result<(), Failure> {
        match done {
            Err(failure) if self.is_lost(&failure) => {
                self.storage.log_failure("departure", &failure);
                Ok(())
            }
            done => done,
        }
    }

    /// Returns the next readable keys under a prefix, behind those that `walk` has passed. Returns
    /// `None` at the end.
    async fn next_departing(&self, walk: &mut Walk) -> Result<Option<Vec<Key>>, Failure> {
        let found = self.next_found(walk).await?;
        Ok(found.map(|found| found.into_iter().map(|(key, _)| key).collect()))
    }

    /// Returns the same, with the values.
    async fn next_found(&self, walk: &mut Walk) -> Result<Option<Vec<(Key, Versioned)>>, Failure> {
        let found = walk.next(&self.storage).await?;
        if let Some(error) = walk.damage.take() {
            self.pass_over(Err(error.into()))?;
        }
        Ok(Some(found).filter(|found| !found.is_empty()))
    }

    /// Drops the messages that wait for a realm, as an operator has said.
    async fn drop_queue(&self, realm: RealmId) -> Result<(), Failure> {
        let end = self.storage.last(&records::queue(realm)).await?.0;
        if let Some(batch) = self.queues.leave_queue(realm, end).await? {
            let count = self.queues.queued(realm).await?;
            self.storage.commit(batch).await?;
            tracing::info!(peer = %realm, count, "queue to a removed realm was dropped");
        }
        self.forget_all(&records::all_returned(realm)).await
    }

    /// Returns the messages that wait for a realm to their senders. It is unknown whether the first
    /// one has been delivered.
    async fn give_queue_back(&self, realm: RealmId, now: u32) -> Result<(), Failure> {
        let mut is_first = true;
        loop {
            let (settled, _) = self.queues.settled(realm).await?;
            let log = records::queue(realm);
            let end = self.storage.last(&log).await?.0;
            let next = self.storage.entry_behind(&log, Position(settled)).await;
            let next = next.and_then(|next| {
                next.map(|(position, value)| Outgoing::read(position, &value))
                    .transpose()
            });
            let outgoing = match next {
                Ok(Some(outgoing)) => outgoing,
                Ok(None) => return Ok(()),
                Err(failure) if self.is_lost(&failure) => {
                    // Neither its sender nor its end can be read: the entry is dropped.
                    self.storage.log_failure("departure", &failure);
                    let next = (settled + 1).min(end);
                    if let Some(batch) = self.queues.leave_queue(realm, next).await? {
                        self.storage.commit(batch).await?;
                        continue;
                    }
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            };
            let position = Position(outgoing.position());
            let Some(mut batch) = self.queues.leave_queue(realm, position.0).await? else {
                continue;
            };
            // If that cannot be read, the sender may be told twice.
            let is_returned = match self.queues.is_returned(realm, &outgoing).await {
                Err(failure) if self.is_lost(&failure) => {
                    self.storage.log_failure("departure", &failure);
                    false
                }
                is_returned => is_returned?,
            };
            let is_settled = if is_returned {
                batch.delete(records::returned(realm, position.0));
                matches!(self.storage.commit(batch).await?, Outcome::Durable)
            } else {
                let code = if is_first {
                    ErrorCode::RealmUnreachable
                } else {
                    ErrorCode::NoSuchRealm
                };
                self.queues
                    .conclude(realm, &outgoing, Err(code.into()), now, batch)
                    .await?
            };
            is_first &= !is_settled;
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
    }

    /// Removes a realm's users from all groups here, and lifts their bans.
    async fn leave_groups(&self, realm: RealmId, are_bans_kept: bool) -> Result<(), Failure> {
        let prefix = records::groups();
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        while let Some(keys) = self.next_departing(&mut walk).await? {
            for key in keys {
                if let Some(group) = records::name_in::<GroupName>(&key, &prefix) {
                    let left = self.leave_group(realm, group, are_bans_kept).await;
                    self.pass_over(left)?;
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn leave_group(
        &self,
        realm: RealmId,
        name: GroupName,
        are_bans_kept: bool,
    ) -> Result<(), Failure> {
        let is_theirs = |who: &Sender| who.realm == Some(realm);
        let mut after = None;
        loop {
            let mut batch = Batch::new();
            let Some(group) = self.groups.find_group(&mut batch, name).await? else {
                return Ok(());
            };
            if !group.realms().any(|other| other == realm) {
                if are_bans_kept {
                    return Ok(());
                }
                return self.forget_bans(realm, &group).await;
            }
            let members = self
                .groups
                .members_of(&group, after.as_ref(), MEMBERS_AT_ONCE)
                .await?;
            for (who, member) in members.iter().filter(|(who, _)| is_theirs(who)) {
                group.remove(who, member, &mut batch)?;
            }
            if members.len() < MEMBERS_AT_ONCE {
                batch.delete(records::realm_members(name, group.record.epoch, realm));
                let mut realms = group.record.realms.clone();
                realms.retain(|other| other != realm.as_str());
                put_realms(&group, realms, &mut batch)?;
            }
            // Any new member is of another realm, because users of this one cannot join.
            if let Outcome::Durable = self.storage.commit(batch).await? {
                after = members.last().map(|(who, _)| *who).or(after);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn forget_bans(&self, realm: RealmId, group: &Group) -> Result<(), Failure> {
        let prefix = records::bans(group.name, group.record.epoch);
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        while let Some(keys) = self.next_departing(&mut walk).await? {
            let mut batch = Batch::new();
            for key in keys {
                let who = records::name_in::<Sender>(&key, &prefix);
                if who.is_some_and(|who| who.realm == Some(realm)) {
                    batch.delete(key);
                }
            }
            if !batch.changes.is_empty() {
                self.storage.commit(batch).await?;
            }
        }
        Ok(())
    }

    /// Ends the replicas of a realm's groups and all memberships in them.
    async fn end_replicas(
        &self,
        realm: RealmId,
        (notice, now): (&str, u32),
        is_read_anew: bool,
    ) -> Result<(), Failure> {
        let prefix = records::replicas(realm);
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        while let Some(keys) = self.next_departing(&mut walk).await? {
            for key in keys {
                let Some(group) = records::name_in::<GroupName>(&key, &prefix) else {
                    continue;
                };
                let which = (realm, group);
                let ended = self.end_departed_replica(which, &key, is_read_anew).await;
                self.pass_over(ended)?;
                let left = self
                    .end_replica_memberships((realm, group), (notice, now))
                    .await;
                self.pass_over(left)?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Ends a replica: nothing more is read into it. Its log stays: a later group of this name,
    /// even one that claims to be the same, continues behind it (READ-6).
    async fn end_departed_replica(
        &self,
        which: (RealmId, GroupName),
        key: &Key,
        is_read_anew: bool,
    ) -> Result<(), Failure> {
        loop {
            let mut batch = Batch::new();
            let found = self.storage.noted::<ReplicaRecord>(&mut batch, key).await?;
            let Some((replica, _)) = found else {
                return Ok(());
            };
            let record = ReplicaRecord {
                ended: true,
                epoch: u64::from_be_bytes(self.random.random()),
                ..replica
            };
            batch.put(key.clone(), record.to_value()?);
            if let Outcome::Durable = self.storage.commit(batch).await? {
                return if is_read_anew {
                    self.posts.note_again(which, &record).await
                } else {
                    Ok(())
                };
            }
        }
    }

    /// Ends all memberships in a replica, and tells the members.
    async fn end_replica_memberships(
        &self,
        which: (RealmId, GroupName),
        (notice, now): (&str, u32),
    ) -> Result<(), Failure> {
        let prefix = records::replica_members(which.0, which.1);
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        while let Some(members) = self.next_found(&mut walk).await? {
            let mut batch = Batch::new();
            for (key, found) in members {
                batch.expect(key.clone(), Expected::At(found.version));
                if let Some((realm, group, user)) = records::replica_member_in(&key) {
                    batch.delete(records::replica_of_user(user, realm, group));
                    append_notice(which, user, (notice, now), &mut batch)?;
                }
                batch.delete(key);
            }
            if matches!(self.storage.commit(batch).await?, Outcome::Conflict) {
                walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Empties the mailboxes for that realm alone, which the next holder of the name would get. The
    /// messages of its users are also among all private messages, and stay there.
    async fn empty_mailboxes(&self, realm: RealmId) -> Result<(), Failure> {
        let mut walk = accounts::walk(DEPARTING_AT_ONCE);
        while let Some(keys) = self.next_departing(&mut walk).await? {
            for key in keys {
                if let Some(user) = accounts::user_in(&key) {
                    let log = MailboxLog::from_realm(user, realm).log;
                    let emptied = self.sweeper.trim_to(&log, u64::MAX - 1).await;
                    self.pass_over(emptied)?;
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Ends all blocks of a realm's users, and tells those who had them.
    async fn end_blocks(&self, realm: RealmId, now: u32) -> Result<(), Failure> {
        let prefix = records::all_blocks();
        let mut walk = Walk::new(prefix.clone(), None, BLOCKS_AT_ONCE);
        while let Some(found) = self.next_found(&mut walk).await? {
            for (key, found) in found {
                let ended = self.end_blocks_of(realm, (&key, &found, &prefix), now);
                let ended = ended.await;
                self.pass_over(ended)?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn end_blocks_of(
        &self,
        realm: RealmId,
        (key, found, prefix): (&Key, &Versioned, &Prefix),
        now: u32,
    ) -> Result<(), Failure> {
        let Some(user) = records::name_in::<Username>(key, prefix) else {
            return Ok(());
        };
        let mut version = found.version;
        let mut record = BlocksRecord::from_value(&found.value)?;
        while record.realms().any(|other| other == realm) {
            let of = |name: &String| name.parse().ok().and_then(|user: Sender| user.realm);
            record.users.retain(|name| of(name) != Some(realm));
            let notice = Notice {
                about: user.as_str(),
                realm: None,
                text: format!("{realm} is no peer any more: you do not block its users any more"),
                time: now,
            };
            let mut batch = Batch::new();
            batch.expect(key.clone(), Expected::At(version));
            put_blocks(user, &record, &mut batch)?;
            notice.append(user, &mut batch)?;
            if matches!(self.storage.commit(batch).await?, Outcome::Durable) {
                self.mailboxes.notify_watches(user);
                return Ok(());
            }
            match self.storage.record::<BlocksRecord>(key).await? {
                Some(found) => (record, version) = found,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn forget_all(&self, prefix: &Prefix) -> Result<(), Failure> {
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        while let Some(found) = self.next_found(&mut walk).await? {
            let mut batch = Batch::new();
            for (key, found) in found {
                batch.expect(key.clone(), Expected::At(found.version));
                batch.delete(key);
            }
            if matches!(self.storage.commit(batch).await?, Outcome::Conflict) {
                walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
            }
        }
        Ok(())
    }
}
