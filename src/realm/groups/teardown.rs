//! Groups that end (GRP-7, PEER-19), and the removal of their members, here and in other realms.
//!
//! The commit that ends a group is bounded, however many members it has. It records that the group
//! has ended. The work for its members stays in the store until it is done, for a bounded number of
//! them at a time.

use crate::realm::{
    failure::Failure,
    groups::{Group, Groups, MEMBERS_AT_ONCE, memberships::leave_replica},
    notice::Notice,
    records::{
        self, ChangedRecord, Ending, EndingRecord, GroupLink, GroupLogRecord, Record as _,
        ReplicaMemberRecord, ReplicaRecord,
    },
    storage::{Notes as _, Outcome},
};
use crate::{
    store::{Batch, Expected, Key, Log, Position, Store, StoreError, Versioned},
    wire::{GroupName, RealmId, Username},
};

/// The number of members of an ended group that one commit handles.
const ENDED_AT_ONCE: usize = 256;

/// The notice to a member of another realm's group.
const NOTICE: &str = "this group has ended: nothing more comes or goes; what came before can be read until another takes its name";

impl<S: Store> Groups<S> {
    /// Adds to `batch` that a group of this realm ends, with its messages and members.
    pub(in crate::realm) async fn put_end(
        &self,
        group: &Group,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let (name, epoch) = (group.name, group.record.epoch);
        let former = GroupLogRecord {
            log: group.record.log,
        };
        batch
            .delete(records::group(name))
            .put(records::former_log(name), former.to_value()?)
            .trim(group.place().log, Position(u64::MAX));
        for (who, member) in self.members_of(group, None, MEMBERS_AT_ONCE).await? {
            group.remove(&who, &member, batch)?;
        }
        for realm in group.realms() {
            batch.delete(records::realm_members(name, epoch, realm));
        }
        // After all other changes of these records.
        batch
            .delete(records::seniorities(name, epoch))
            .delete(records::members_changed(name, epoch));
        // The remaining members belong to an epoch that is over, which nothing reads any more.
        // Without this work their records would be kept for ever.
        let which = (None, name);
        put_ending(Ending::Forget, which, (epoch, group.record.log), batch)
    }

    /// Adds to `batch` that a peer's group has ended, if its epoch is that of the replica here. A
    /// join that the peer has answered and that is not written yet is asked again.
    pub(in crate::realm) async fn end_replica(
        &self,
        (realm, group): (RealmId, GroupName),
        group_epoch: u64,
        batch: &mut Batch,
    ) -> Result<bool, Failure> {
        batch.put(
            records::membership_reports(realm, group),
            ChangedRecord {}.to_value()?,
        );
        let key = records::replica(realm, group);
        let found = self.storage.noted::<ReplicaRecord>(batch, &key).await?;
        let Some((replica, _)) =
            found.filter(|(replica, _)| replica.epoch == group_epoch && !replica.ended)
        else {
            return Ok(false);
        };
        let log = replica.log;
        let record = ReplicaRecord {
            ended: true,
            ..replica
        };
        batch.put(key, record.to_value()?);
        put_ending(
            Ending::Tell,
            (Some(realm), group),
            (group_epoch, log),
            batch,
        )?;
        Ok(true)
    }

    /// Ends a replica because its peer has answered that the group is gone, whether or not the peer
    /// has announced that.
    pub(in crate::realm) async fn replica_is_gone(
        &self,
        (realm, group): (RealmId, GroupName),
        group_epoch: u64,
    ) -> Result<Outcome, Failure> {
        let mut batch = Batch::new();
        if !self
            .end_replica((realm, group), group_epoch, &mut batch)
            .await?
        {
            return Ok(Outcome::Durable);
        }
        let outcome = self.storage.commit(batch).await?;
        if matches!(outcome, Outcome::Durable) {
            self.chores.notify_one();
        }
        Ok(outcome)
    }

    /// Waits until there may be work for the members of an ended group.
    pub async fn chore_added(&self) {
        self.chores.notified().await;
    }

    /// Does some of the work for members of an ended group.
    pub(in crate::realm) async fn do_ending(
        &self,
        key: &Key,
        found: Versioned,
        now: u32,
    ) -> Result<(), Failure> {
        let Versioned { value, version } = found;
        let record = EndingRecord::from_value(&value)?;
        let damaged =
            || StoreError::Damaged("what is to be done for a group that has ended".into());
        let kind = Ending::of(key).ok_or_else(damaged)?;
        let group = record.group.parse().map_err(|_| damaged())?;
        let realm = record.realm.as_ref().map(|realm| realm.parse()).transpose();
        let realm = realm.map_err(|_| damaged())?;
        let mut batch = Batch::new();
        batch.expect(key.clone(), Expected::At(version));
        let is_over = match (kind, realm) {
            (Ending::Forget, _) => self.forget_some(group, &record, &mut batch).await?,
            (_, Some(realm)) => {
                let ending = ReplicaEnding { kind, realm, group };
                self.end_some(&ending, (key, &record), now, &mut batch)
                    .await?
            }
            (Ending::Tell | Ending::ForgetReplica, None) => return Err(damaged().into()),
        };
        if is_over {
            batch.delete(key.clone());
        }
        // On a conflict the next pass looks at it again.
        self.storage.commit(batch).await?;
        Ok(())
    }

    /// Adds to `batch` the work for the next members of a replica. True if they are the last.
    async fn end_some(
        &self,
        ending: &ReplicaEnding,
        (key, record): (&Key, &EndingRecord),
        now: u32,
        batch: &mut Batch,
    ) -> Result<bool, Failure> {
        let (realm, group) = (ending.realm, ending.group);
        let replica = self.find_replica(batch, realm, group).await?;
        let mut has_entries = false;
        if let Some(replica) = replica
            .as_ref()
            .filter(|_| ending.kind == Ending::ForgetReplica)
        {
            let place = replica.place(realm, group);
            let below = place.floor.saturating_add(1);
            has_entries = self.trim_more(&place.log, below, batch).await?;
        }
        let lives = |replica: &ReplicaRecord| replica.epoch == record.epoch && !replica.ended;
        if replica.is_some_and(|replica| lives(replica.record())) {
            // The peer was restored from a backup in which the group still exists, and a user has
            // joined it again.
            return Ok(true);
        }
        let prefix = records::replica_members(realm, group);
        let after = Some(&record.after).filter(|after| !after.is_empty());
        let after = after.map(|after| Key(after.as_slice().into()));
        let members = self
            .storage
            .list(&prefix, after.as_ref(), ENDED_AT_ONCE)
            .await?;
        for (member_key, found) in &members {
            let member = ReplicaMemberRecord::from_value(&found.value)?;
            let Some((_, _, user)) = records::replica_member_in(member_key) else {
                continue;
            };
            match ending.kind {
                Ending::Tell if member.epoch.is_none_or(|epoch| epoch == record.epoch) => {
                    append_notice((realm, group), user, (NOTICE, now), batch)?;
                }
                Ending::ForgetReplica if member.epoch == Some(record.epoch) => {
                    // This does not apply if they have joined again meanwhile.
                    batch.note(member_key, Some(found.version));
                    leave_replica((realm, group), user, batch);
                }
                Ending::Tell | Ending::ForgetReplica | Ending::Forget => {}
            }
        }
        let is_last = members.len() < ENDED_AT_ONCE;
        if let Some((last, _)) = members.last().filter(|_| !is_last) {
            let record = EndingRecord {
                after: last.0.to_vec(),
                ..record.clone()
            };
            batch.put(key.clone(), record.to_value()?);
        }
        Ok(is_last && !has_entries)
    }

    /// Adds to `batch` the removal of some records of a group of this realm. True if these are the
    /// last.
    async fn forget_some(
        &self,
        name: GroupName,
        record: &EndingRecord,
        batch: &mut Batch,
    ) -> Result<bool, Failure> {
        let epoch = record.epoch;
        let prefix = records::members(name, epoch);
        let members = self.storage.list(&prefix, None, ENDED_AT_ONCE).await?;
        for (key, _) in &members {
            batch.delete(key.clone());
            let who = records::member_in(key, &prefix);
            if let Some(who) = who.filter(|who| who.realm.is_none()) {
                let link = records::joined_group(who.user, name);
                // They may be in another group of that name by now.
                let found = self.storage.noted::<GroupLink>(batch, &link).await?;
                if found.is_some_and(|(found, _)| found.epoch == epoch) {
                    batch.delete(link);
                }
            }
        }
        let mut left = ENDED_AT_ONCE - members.len();
        for prefix in records::beside_members(name, epoch) {
            let found = self.storage.list(&prefix, None, left).await?;
            left -= found.len();
            for (key, _) in found {
                batch.delete(key);
            }
        }
        // Entries above this position belong to a group that was made again.
        let made_again = self.find_group(batch, name).await?;
        let below = made_again.map_or(u64::MAX, |group| group.record.floor.saturating_add(1));
        let log = records::group_log(name, record.log);
        let has_entries = self.trim_more(&log, below, batch).await?;
        Ok(left > 0 && !has_entries)
    }

    /// Adds to `batch` the removal of more entries of a log: the store removes a bounded number at
    /// once. False if there are no more below that position.
    async fn trim_more(&self, log: &Log, below: u64, batch: &mut Batch) -> Result<bool, Failure> {
        let first = self.storage.entry_behind(log, Position(0)).await?;
        let is_there = first.is_some_and(|(at, _)| at.0 < below);
        if is_there {
            batch.trim(log.clone(), Position(below));
        }
        Ok(is_there)
    }
}

/// Adds to `batch` a notice about a group to a user.
pub(in crate::realm) fn append_notice(
    (realm, group): (RealmId, GroupName),
    user: Username,
    (text, now): (&str, u32),
    batch: &mut Batch,
) -> Result<(), Failure> {
    let notice = Notice {
        about: group.as_str(),
        realm: Some(realm),
        text: text.into(),
        time: now,
    };
    notice.append(user, batch)
}

/// The work for the members of a replica.
struct ReplicaEnding {
    kind: Ending,
    realm: RealmId,
    group: GroupName,
}

/// Adds to `batch` the work for the members of an ended group with that epoch and that log.
pub(in crate::realm) fn put_ending(
    kind: Ending,
    (realm, group): (Option<RealmId>, GroupName),
    (epoch, log): (u64, u64),
    batch: &mut Batch,
) -> Result<(), Failure> {
    let record = EndingRecord {
        realm: realm.map(|realm| realm.as_str().into()),
        group: group.as_str().into(),
        epoch,
        log,
        after: Vec::new(),
    };
    batch.put(
        records::ending(kind, realm, group, epoch),
        record.to_value()?,
    );
    Ok(())
}
