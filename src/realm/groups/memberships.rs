//! The groups that a user is in, here and in other realms. The cost of finding them depends only on
//! the number of that user's groups.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use crate::realm::{
    failure::Failure,
    groups::{Groups, local},
    limits::MEMBERSHIPS_MAX,
    records::{self, ChangedRecord, GroupLink, ListedRecord, MailboxLog, Record as _},
    storage::Unnoted,
};
use crate::{
    store::{Batch, Expected, Key, Prefix, Store, Versioned},
    wire::{ErrorCode, GroupName, Mailbox, RealmId, Refusal, Username},
};

/// The number of memberships that are listed at once.
const LISTED_AT_ONCE: usize = 256;
/// How near to the bound the joins of one user begin to wait for each other. More joins than this
/// can hardly run at once.
const JOINING_MAX: usize = 256;

/// What links a user to a group of this realm, as it is stored. It is read only when it is used: a
/// damaged one then fails nothing but the page that it is on.
pub(in crate::realm) struct StoredLink(Versioned);

impl StoredLink {
    /// Returns the epoch of the group. A group that has ended may have left a stale link, which
    /// names another epoch than the present group of that name has.
    pub(in crate::realm) fn group_epoch(&self) -> Result<u64, Failure> {
        Ok(GroupLink::from_value(&self.0.value)?.epoch)
    }
}

impl<S: Store> Groups<S> {
    /// Adds to `batch` that a user is in one more group. Refuses if that exceeds the bound (GRP-8).
    pub(in crate::realm) async fn check_room(
        &self,
        user: Username,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        if self.count_traces(user).await? + JOINING_MAX < MEMBERSHIPS_MAX {
            return Ok(());
        }
        let joins = records::joins(user);
        self.storage.noted::<ChangedRecord>(batch, &joins).await?;
        // The count is repeated after the note: it now includes all joins from before the note.
        let count = self.count_traces(user).await?;
        // Groups that have ended do not count, though they may have left stale links.
        if count >= MEMBERSHIPS_MAX && self.mailboxes_of(user).await?.len() > MEMBERSHIPS_MAX {
            return Err(Refusal::too_large(MEMBERSHIPS_MAX as u64).into());
        }
        batch.put(joins, ChangedRecord {}.to_value()?);
        Ok(())
    }

    /// Returns an upper bound of the groups that a user is in: a group that has ended may have left
    /// a stale link.
    async fn count_traces(&self, user: Username) -> Result<usize, Failure> {
        let mut count = 0;
        for prefix in [records::joined(user), records::replicas_of_user(user)] {
            count += self
                .storage
                .list(&prefix, None, MEMBERSHIPS_MAX)
                .await?
                .len();
        }
        Ok(count)
    }

    /// Returns all mailboxes of a user. Private messages from one realm are among the private ones.
    pub(in crate::realm) async fn mailboxes_of(
        &self,
        user: Username,
    ) -> Result<Vec<(Mailbox, MailboxLog)>, Failure> {
        let mut all = vec![(Mailbox::Private, MailboxLog::private(user))];
        let prefix = records::joined(user);
        let mut after = None;
        while let Some(keys) = self.next_keys(&prefix, &mut after).await? {
            for key in keys {
                // A group that has ended may have left a stale link.
                if let Some(group) = records::name_in::<GroupName>(&key, &prefix)
                    && let Some(place) = self.joined_place(user, group).await?
                {
                    all.push((Mailbox::Group(group), place));
                }
            }
        }
        if self.are_replicas_listed.load(Ordering::Acquire) {
            self.add_replicas(user, &mut all).await?;
        } else {
            self.add_replicas_of_all(user, &mut all).await?;
        }
        Ok(all)
    }

    async fn add_replicas(
        &self,
        user: Username,
        all: &mut Vec<(Mailbox, MailboxLog)>,
    ) -> Result<(), Failure> {
        let mut peers = BTreeMap::new();
        let prefix = records::replicas_of_user(user);
        let mut after = None;
        while let Some(keys) = self.next_keys(&prefix, &mut after).await? {
            for key in keys {
                let Some((realm, group)) = records::replica_of_user_in(&key, &prefix) else {
                    continue;
                };
                let is_peer = match peers.get(&realm) {
                    Some(is_peer) => *is_peer,
                    None => {
                        let is_peer = self.peers.find_peer(&mut Unnoted, realm).await?.is_some();
                        peers.insert(realm, is_peer);
                        is_peer
                    }
                };
                if is_peer && let Some(place) = self.replica_place(user, realm, group).await? {
                    all.push((Mailbox::RealmGroup(realm, group), place));
                }
            }
        }
        Ok(())
    }

    /// Does the same while replicas are not listed by user: looks at the members of all replicas.
    async fn add_replicas_of_all(
        &self,
        user: Username,
        all: &mut Vec<(Mailbox, MailboxLog)>,
    ) -> Result<(), Failure> {
        for peer in self.peers.list_peers().await? {
            let prefix = records::replicas(peer.realm);
            let mut after = None;
            while let Some(keys) = self.next_keys(&prefix, &mut after).await? {
                for key in keys {
                    if let Some(group) = records::name_in::<GroupName>(&key, &prefix)
                        && let Some(place) = self.replica_place(user, peer.realm, group).await?
                    {
                        all.push((Mailbox::RealmGroup(peer.realm, group), place));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the next keys under a prefix after `after`, and moves `after` on. Returns `None` if
    /// there are no more.
    pub(super) async fn next_keys(
        &self,
        prefix: &Prefix,
        after: &mut Option<Key>,
    ) -> Result<Option<Vec<Key>>, Failure> {
        let found = self
            .storage
            .list(prefix, after.as_ref(), LISTED_AT_ONCE)
            .await?;
        let Some((last, _)) = found.last() else {
            return Ok(None);
        };
        *after = Some(last.clone());
        Ok(Some(found.into_iter().map(|(key, _)| key).collect()))
    }

    /// Returns the next groups of this realm that a user is in, with what links the user to each,
    /// after `after`, and moves `after` on. Returns `None` if there are no more.
    pub(in crate::realm) async fn next_links(
        &self,
        user: Username,
        after: &mut Option<Key>,
        limit: usize,
    ) -> Result<Option<Vec<(GroupName, StoredLink)>>, Failure> {
        let prefix = records::joined(user);
        let found = self.storage.list(&prefix, after.as_ref(), limit).await?;
        let Some((last, _)) = found.last() else {
            return Ok(None);
        };
        *after = Some(last.clone());
        let links = found.into_iter().filter_map(|(key, link)| {
            let name = records::name_in::<GroupName>(&key, &prefix)?;
            Some((name, StoredLink(link)))
        });
        Ok(Some(links.collect()))
    }

    /// Returns the log of a group of this realm, if `user` is in it.
    pub(in crate::realm) async fn joined_place(
        &self,
        user: Username,
        name: GroupName,
    ) -> Result<Option<MailboxLog>, Failure> {
        let Some(group) = self.find_group(&mut Unnoted, name).await? else {
            return Ok(None);
        };
        let member = self.find_member(&mut Unnoted, &group, &local(user)).await?;
        Ok(member.map(|_| group.place()))
    }

    /// Returns the log of the replica of another realm's group, if `user` is in it.
    pub(in crate::realm) async fn replica_place(
        &self,
        user: Username,
        realm: RealmId,
        group: GroupName,
    ) -> Result<Option<MailboxLog>, Failure> {
        match self.replica_for(&mut Unnoted, (realm, group), user).await {
            Ok((replica, _)) => Ok(Some(replica.place(realm, group))),
            Err(Failure::Refused(refusal)) if refusal.code == ErrorCode::NotAMember => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Lists some more replicas by user, in a store that is older than this list. True if all are
    /// listed.
    pub(in crate::realm) async fn list_replicas(&self) -> Result<bool, Failure> {
        if self.are_replicas_listed.load(Ordering::Acquire) {
            return Ok(true);
        }
        let mut batch = Batch::new();
        let at = records::replicas_listed();
        let found = self.storage.noted::<ListedRecord>(&mut batch, &at).await?;
        let listed = found.map(|(listed, _)| listed);
        if listed.as_ref().is_some_and(|listed| listed.is_whole) {
            self.are_replicas_listed.store(true, Ordering::Release);
            return Ok(true);
        }
        let after = listed.map(|listed| Key(listed.after.as_slice().into()));
        let prefix = records::all_replica_members();
        let members = self
            .storage
            .list(&prefix, after.as_ref(), LISTED_AT_ONCE)
            .await?;
        for (key, found) in &members {
            if let Some((realm, group, user)) = records::replica_member_in(key) {
                // A user that leaves meanwhile is not listed again.
                batch.expect(key.clone(), Expected::At(found.version));
                let link = records::replica_of_user(user, realm, group);
                batch.put(link, ChangedRecord {}.to_value()?);
            }
        }
        let record = ListedRecord {
            after: members
                .last()
                .map_or_else(Vec::new, |(last, _)| last.0.to_vec()),
            is_whole: members.len() < LISTED_AT_ONCE,
        };
        batch.put(at, record.to_value()?);
        // The next pass sees what was written, and retries what was not.
        self.storage.commit(batch).await?;
        Ok(false)
    }
}

/// Adds to `batch` that a user is not in a group of another realm any more.
pub(in crate::realm) fn leave_replica(
    (realm, group): (RealmId, GroupName),
    user: Username,
    batch: &mut Batch,
) {
    batch
        .delete(records::replica_member(realm, group, user))
        .delete(records::replica_of_user(user, realm, group));
}
