//! Realms that an operator has removed (PEER-22): what belonged to them ends, so that whoever gets the name next begins with nothing.
//!
//! The commit that removes a peer is bounded, however much it leaves behind: it says that the realm departs, and what is to be done then is
//! done step by step, each of which may be done again after a restart. Until all of it is done nobody gets the name.

use std::sync::atomic::Ordering;

use super::{
    Failure, Outcome, Realm,
    delivery::Outgoing,
    group_host::put_realms,
    group_teardown::append_notice,
    groups::{Group, MEMBERS_AT_ONCE},
    records::{self, DepartureRecord, MailboxLog, Record as _, ReplicaRecord},
    storage::Walk,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, PageLimit, Position, Prefix, Store, Versioned},
    wire::{Answer, ErrorCode, GroupName, RealmId, Refusal, Sender, Username},
};

/// Records that are looked at, and changed by one commit, at once.
const DEPARTING_AT_ONCE: usize = 256;
/// What whoever wants a name is asked to wait whose last holder is still departing, in milliseconds.
const DEPARTING_MS: u64 = 1000;

/// After so many times in vain what cannot be read of what a removed realm leaves behind is given up: the name would never be free.
const READS_MAX: u32 = 5;

/// What a user who was in a group of a removed realm is told.
const NOTICE: &str = "an operator has removed the realm of this group: you are not in it any more";

impl<S: Store> Realm<S> {
    /// Refuses a name whose last holder is still departing.
    pub(super) async fn check_departed(
        &self,
        realm: RealmId,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let key = records::departure(realm);
        match self.noted::<DepartureRecord>(batch, &key).await? {
            Some(_) => Err(Refusal::busy(DEPARTING_MS).into()),
            None => Ok(()),
        }
    }

    /// Does what is to be done for realms that were removed. False when some of it is still to be done.
    pub async fn do_departures(&self, now: u32) -> bool {
        let prefix = records::departures();
        let mut realms = Vec::new();
        let damage = self
            .list_readable(&prefix, DEPARTING_AT_ONCE, |key, _| {
                realms.extend(records::name_in::<RealmId>(key, &prefix));
            })
            .await;
        let mut are_done = damage.is_none();
        if let Some(error) = damage {
            self.note("departures", &error.into());
        }
        if is_planted(Fault::LeaveRemains) {
            return true;
        }
        for realm in realms {
            if let Err(failure) = self.depart(realm, now).await {
                self.note("departure", &failure);
                let is_unread = failure.is_of_one_record();
                self.unread_departures
                    .fetch_add(is_unread.into(), Ordering::Relaxed);
                are_done = false;
            }
        }
        if are_done {
            self.unread_departures.store(0, Ordering::Relaxed);
        }
        self.do_voids(now).await && are_done
    }

    async fn depart(&self, realm: RealmId, now: u32) -> Result<(), Failure> {
        self.network.forget(realm);
        let departure = records::departure(realm);
        let departure = self.record::<DepartureRecord>(&departure).await?;
        if departure.is_some_and(|(departure, _)| departure.drops) {
            self.drop_queue(realm).await?;
        } else {
            self.give_queue_back(realm, now).await?;
        }
        self.leave_groups(realm, false).await?;
        self.end_copies(realm, (NOTICE, now), false).await?;
        self.empty_mailboxes(realm).await?;
        self.forget_all(&records::words_of(realm)).await?;
        self.forget_all(&records::posts_of(realm)).await?;
        let mut batch = Batch::new();
        batch.delete(records::departure(realm));
        self.commit(batch).await?;
        tracing::info!(peer = %realm, "all that belonged to a removed realm has ended; its name is free");
        Ok(())
    }

    /// True when what has failed is lost: it is damaged, or could not be read for so long.
    fn is_lost(&self, failure: &Failure) -> bool {
        let tries = self.unread_departures.load(Ordering::Relaxed);
        failure.is_damage() || (failure.is_of_one_record() && tries >= READS_MAX)
    }

    /// What is lost is passed over: nobody can use it, and the name would never be free.
    fn pass_over(&self, done: Result<(), Failure>) -> Result<(), Failure> {
        match done {
            Err(failure) if self.is_lost(&failure) => {
                self.note("departure", &failure);
                Ok(())
            }
            done => done,
        }
    }

    /// The keys under a prefix that can be read, behind those that `walk` has passed; nothing at the end.
    async fn next_departing(&self, walk: &mut Walk) -> Result<Vec<Key>, Failure> {
        let found = self.next_found(walk).await?;
        Ok(found.into_iter().map(|(key, _)| key).collect())
    }

    /// The same, and what stands there.
    async fn next_found(&self, walk: &mut Walk) -> Result<Vec<(Key, Versioned)>, Failure> {
        let found = walk.next(&self.store).await?;
        if let Some(error) = walk.damage.take() {
            self.pass_over(Err(error.into()))?;
        }
        Ok(found)
    }

    /// What waits for a realm is gone: an operator has said so.
    async fn drop_queue(&self, realm: RealmId) -> Result<(), Failure> {
        let end = self.store.last(&records::queue(realm)).await?.0;
        if let Some(batch) = self.leave_queue(realm, end).await? {
            let count = self.queued(realm).await?;
            self.commit(batch).await?;
            tracing::info!(peer = %realm, count, "what waited for a removed realm is dropped");
        }
        self.forget_all(&records::all_returned(realm)).await
    }

    /// What waits for a realm comes back to its senders. Whether the first of it has been delivered is not known.
    async fn give_queue_back(&self, realm: RealmId, now: u32) -> Result<(), Failure> {
        let one = PageLimit {
            entries: 1,
            bytes: 1,
        };
        let mut is_first = true;
        loop {
            let (settled, _) = self.settled(realm).await?;
            let log = records::queue(realm);
            let end = self.store.last(&log).await?.0;
            let page = self.store.read(&log, Position(settled), one).await;
            let next = page.map_err(Failure::from).and_then(|page| {
                let first = page.entries.into_iter().next();
                first
                    .map(|(position, value)| Outgoing::read(position, &value))
                    .transpose()
            });
            let outgoing = match next {
                Ok(Some(outgoing)) => outgoing,
                Ok(None) => return Ok(()),
                Err(failure) if self.is_lost(&failure) => {
                    // Whose it is cannot be read, nor where it ends: what stands there is nobody's any more.
                    self.note("departure", &failure);
                    let next = (settled + 1).min(end);
                    if let Some(batch) = self.leave_queue(realm, next).await? {
                        self.commit(batch).await?;
                        continue;
                    }
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            };
            let position = Position(outgoing.position());
            let Some(mut batch) = self.leave_queue(realm, position.0).await? else {
                continue;
            };
            // Where that cannot be read, its sender is told once more, perhaps.
            let is_returned = match self.is_returned(realm, &outgoing).await {
                Err(failure) if self.is_lost(&failure) => {
                    self.note("departure", &failure);
                    false
                }
                is_returned => is_returned?,
            };
            let is_settled = if is_returned {
                batch.delete(records::returned(realm, position.0));
                matches!(self.commit(batch).await?, Outcome::Durable)
            } else {
                let code = if is_first {
                    ErrorCode::RealmUnreachable
                } else {
                    ErrorCode::NoSuchRealm
                };
                let answer = Answer::Refused(code.into());
                self.conclude(realm, &outgoing, &answer, now, batch).await?
            };
            is_first &= !is_settled;
            // Others have their turn in between.
            tokio::task::yield_now().await;
        }
    }

    /// Users of a realm are members of no group here any more, nor banned from any.
    pub(super) async fn leave_groups(
        &self,
        realm: RealmId,
        are_bans_kept: bool,
    ) -> Result<(), Failure> {
        let prefix = records::groups();
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        loop {
            let keys = self.next_departing(&mut walk).await?;
            if keys.is_empty() {
                return Ok(());
            }
            for key in keys {
                if let Some(group) = records::name_in::<GroupName>(&key, &prefix) {
                    let left = self.leave_group(realm, group, are_bans_kept).await;
                    self.pass_over(left)?;
                }
            }
            tokio::task::yield_now().await;
        }
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
            let Some(group) = self.find_group(&mut batch, name).await? else {
                return Ok(());
            };
            if !group.realms().any(|other| other == realm) {
                if are_bans_kept {
                    return Ok(());
                }
                return self.forget_bans(realm, &group).await;
            }
            let members = self
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
            // Who is a member meanwhile is of another realm: this one's users cannot join.
            if let Outcome::Durable = self.commit(batch).await? {
                after = members.last().map(|(who, _)| *who).or(after);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn forget_bans(&self, realm: RealmId, group: &Group) -> Result<(), Failure> {
        let prefix = records::bans(group.name, group.record.epoch);
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        loop {
            let keys = self.next_departing(&mut walk).await?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            for key in keys {
                let who = records::name_in::<Sender>(&key, &prefix);
                if who.is_some_and(|who| who.realm == Some(realm)) {
                    batch.delete(key);
                }
            }
            if !batch.changes.is_empty() {
                self.commit(batch).await?;
            }
        }
    }

    /// The copies of a realm's groups end, and nobody here is in them any more.
    pub(super) async fn end_copies(
        &self,
        realm: RealmId,
        (notice, now): (&str, u32),
        is_read_anew: bool,
    ) -> Result<(), Failure> {
        let prefix = records::copies(realm);
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        loop {
            let keys = self.next_departing(&mut walk).await?;
            if keys.is_empty() {
                return Ok(());
            }
            for key in keys {
                let Some(group) = records::name_in::<GroupName>(&key, &prefix) else {
                    continue;
                };
                let which = (realm, group);
                let ended = self.end_departed_copy(which, &key, is_read_anew).await;
                self.pass_over(ended)?;
                let left = self.leave_copy((realm, group), (notice, now)).await;
                self.pass_over(left)?;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Nothing more is read of a copy. Its place stays: a group that another realm has under this name goes on behind it (READ-6), also one
    /// that is said to be the same.
    async fn end_departed_copy(
        &self,
        which: (RealmId, GroupName),
        key: &Key,
        is_read_anew: bool,
    ) -> Result<(), Failure> {
        loop {
            let mut batch = Batch::new();
            let found = self.noted::<ReplicaRecord>(&mut batch, key).await?;
            let Some((copy, _)) = found else {
                return Ok(());
            };
            let record = ReplicaRecord {
                ended: true,
                epoch: u64::from_be_bytes(self.random()),
                ..copy
            };
            batch.put(key.clone(), record.to_value()?);
            if let Outcome::Durable = self.commit(batch).await? {
                return if is_read_anew {
                    self.note_again(which, &record).await
                } else {
                    Ok(())
                };
            }
        }
    }

    /// Nobody is in a copy any more, and all who were are told.
    async fn leave_copy(
        &self,
        which: (RealmId, GroupName),
        (notice, now): (&str, u32),
    ) -> Result<(), Failure> {
        let prefix = records::copy_members(which.0, which.1);
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        loop {
            let members = self.next_found(&mut walk).await?;
            if members.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            for (key, found) in members {
                batch.expect(key.clone(), Expected::At(found.version));
                if let Some((realm, group, user)) = records::copy_member_in(&key) {
                    batch.delete(records::copied_group(user, realm, group));
                    append_notice(which, user, (notice, now), &mut batch)?;
                }
                batch.delete(key);
            }
            if matches!(self.commit(batch).await?, Outcome::Conflict) {
                walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
            }
            tokio::task::yield_now().await;
        }
    }

    /// What a realm's users have written stands among all private messages; the mailboxes of that realm alone are the next holder's.
    async fn empty_mailboxes(&self, realm: RealmId) -> Result<(), Failure> {
        let prefix = records::accounts();
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        loop {
            let keys = self.next_departing(&mut walk).await?;
            if keys.is_empty() {
                return Ok(());
            }
            for key in keys {
                if let Some(user) = records::name_in::<Username>(&key, &prefix) {
                    let log = MailboxLog::from_realm(user, realm).log;
                    let emptied = self.trim_to(&log, u64::MAX - 1).await;
                    self.pass_over(emptied)?;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn forget_all(&self, prefix: &Prefix) -> Result<(), Failure> {
        let mut walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
        loop {
            let found = self.next_found(&mut walk).await?;
            if found.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            for (key, found) in found {
                batch.expect(key.clone(), Expected::At(found.version));
                batch.delete(key);
            }
            if matches!(self.commit(batch).await?, Outcome::Conflict) {
                walk = Walk::new(prefix.clone(), None, DEPARTING_AT_ONCE);
            }
        }
    }
}
