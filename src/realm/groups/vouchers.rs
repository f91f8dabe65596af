//! Posts of this realm's users to groups of other realms (PEER-26). A group's home realm says who
//! wrote each entry. If it names a user of this realm, it is believed only if that user sent the
//! message.
//!
//! A post is noted in the commit that queues it, whatever becomes of it. The note is removed with
//! the entry that is read back, so each post vouches for one entry.

use std::{collections::BTreeMap, sync::Arc};

use crate::realm::{
    failure::Failure,
    groups::local,
    identity::RealmIdentity,
    limits::READ_BYTES,
    records::{
        self, EntryRecord, MailboxLog, PostRecord, QueuedRecord, Record as _, ReplicaRecord,
    },
    shared::Shared,
    short_hash::short_hash,
    storage::{Outcome, Storage, Walk},
    time::{Moment, RunningTime},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, PageLimit, Position, Prefix, Store, Version},
    wire::{CONTENT_NOTICE, CONTENT_TEXT, Entry, GroupName, RealmId, Sender},
};

/// How long a post vouches for an entry that is read back, in seconds of the realm's running time.
/// A post waits for its peer for 7 days at most.
const POSTS_KEPT_SECONDS: u32 = 30 * 86_400;
/// The number of post records that one step of a pass over the store looks at.
const POSTS_AT_ONCE: usize = 256;

/// Returns the hash that distinguishes the posts of a group.
fn post_hash(from: &str, content: u8, body: &[u8]) -> [u8; 16] {
    // No name contains a 0.
    short_hash(&[from.as_bytes(), &[0, content], body])
}

/// The posts that vouch for the entries of a page: their present records and their new counts.
#[derive(Default)]
pub(in crate::realm) struct Vouchers(BTreeMap<[u8; 16], Option<(PostRecord, Version)>>);

impl Vouchers {
    /// Adds to `batch` that the used posts do not vouch any more.
    pub fn spend(self, which: (RealmId, GroupName), batch: &mut Batch) -> Result<(), Failure> {
        for (hash, found) in self.0 {
            let key = records::post(which.0, which.1.as_str(), hash);
            let expected = found.as_ref().map(|(_, version)| *version);
            batch.expect(key.clone(), expected.map_or(Expected::Absent, Expected::At));
            match found {
                Some((record, _)) if record.count > 0 => batch.put(key, record.to_value()?),
                Some(_) => batch.delete(key),
                None => continue,
            };
        }
        Ok(())
    }
}

/// What users here have sent to groups of other realms and was not read back.
#[derive(Debug)]
pub struct Posts<S> {
    storage: Arc<Storage<S>>,
    running: Arc<RunningTime<S>>,
    own: Arc<RealmIdentity>,
}

impl<S> Posts<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(shared: &Shared<S>, running: Arc<RunningTime<S>>) -> Self {
        Self {
            storage: shared.storage.clone(),
            running,
            own: shared.own.clone(),
        }
    }
}

impl<S: Store> Posts<S> {
    /// Adds to `batch` a note that a user here sends a message to a group of a peer.
    pub(in crate::realm) async fn note_post(
        &self,
        queued: &QueuedRecord,
        (realm, group): (RealmId, &str),
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let hash = post_hash(&queued.from, queued.content, &queued.body);
        let key = records::post(realm, group, hash);
        let found = match self.storage.noted::<PostRecord>(batch, &key).await {
            // The record is written anew. An earlier post may then not be confirmed.
            Err(failure) if failure.is_damage() => None,
            found => found?,
        };
        let record = PostRecord {
            count: found
                .map_or(0, |(record, _)| record.count)
                .saturating_add(1),
            since: queued.queued,
        };
        batch.put(key, record.to_value()?);
        Ok(())
    }

    /// Returns an entry of a group as it is stored. Its author is the one that the home realm
    /// names, if it may name that one.
    pub(in crate::realm) async fn replicated_entry(
        &self,
        (realm, group): (RealmId, GroupName),
        replica: &ReplicaRecord,
        entry: Entry,
        vouchers: &mut Vouchers,
    ) -> Result<EntryRecord, Failure> {
        let record = |realm, user: &str, content, body| EntryRecord {
            time: entry.time,
            content,
            user: user.into(),
            realm,
            body,
            alleged: None,
        };
        let home = || Some(realm.as_str().to_string());
        let (user, content) = (entry.from.user.as_str(), entry.content);
        let theirs = match entry.from.realm {
            None => home(),
            // An author must not look like a user of this realm because another realm uses its name
            // there.
            Some(other) if other == self.own.id || other.as_str() == replica.known_as => {
                let is_ours = other.as_str() == replica.known_as;
                if is_planted(Fault::BelieveCopies)
                    || is_ours && self.vouches((realm, group), &entry, vouchers).await?
                {
                    return Ok(record(None, user, content, entry.body));
                }
                // Another realm's user under this realm's name is not told apart from others.
                let alleged = if is_ours {
                    local(entry.from.user)
                } else {
                    Sender {
                        user: group.into(),
                        realm: Some(realm),
                    }
                };
                let unconfirmed = |content, body| EntryRecord {
                    alleged: Some(alleged.to_string()),
                    ..record(home(), group.as_str(), content, body)
                };
                let text = (content == CONTENT_TEXT).then(|| core::str::from_utf8(&entry.body));
                let Some(Ok(text)) = text else {
                    return Ok(unconfirmed(content, entry.body));
                };
                let said = format!(
                    "{realm} says that {} wrote this, which {} cannot confirm: {text}",
                    entry.from, self.own.id
                );
                let said = said.into_bytes();
                return Ok(unconfirmed(CONTENT_NOTICE, said));
            }
            Some(other) => Some(other.as_str().to_string()),
        };
        Ok(record(theirs, user, content, entry.body))
    }

    /// Notes again the posts of local users in a replica that is read anew (PEER-29). Their entries
    /// leave the replica in the same commit, so that nothing vouches twice, however often this is
    /// begun.
    pub(in crate::realm) async fn note_again(
        &self,
        (realm, group): (RealmId, GroupName),
        replica: &ReplicaRecord,
    ) -> Result<(), Failure> {
        let log = MailboxLog::replica(realm, group, replica).log;
        let since = self.running.read().await?;
        let limit = PageLimit {
            entries: POSTS_AT_ONCE,
            bytes: READ_BYTES,
        };
        loop {
            let page = self
                .storage
                .read(&log, Position(replica.floor), limit)
                .await?;
            let Some((last, _)) = page.entries.last() else {
                return Ok(());
            };
            let mut counts = BTreeMap::<[u8; 16], u32>::new();
            for (_, value) in &page.entries {
                // A malformed entry vouches for nothing.
                if let Ok(entry) = EntryRecord::from_value(value)
                    && entry.realm.is_none()
                {
                    let hash = post_hash(&entry.user, entry.content, &entry.body);
                    *counts.entry(hash).or_default() += 1;
                }
            }
            let mut batch = Batch::new();
            for (hash, count) in counts {
                let key = records::post(realm, group.as_str(), hash);
                let found = self.storage.noted::<PostRecord>(&mut batch, &key).await?;
                let before = found.map_or(0, |(record, _)| record.count);
                let count = before.saturating_add(count);
                batch.put(key, PostRecord { count, since }.to_value()?);
            }
            batch.trim(log.clone(), Position(last.0 + 1));
            // On a conflict a post was sent or read meanwhile.
            self.storage.commit(batch).await?;
        }
    }

    /// True if a local user has sent what an entry says. That post does not vouch for another
    /// entry.
    async fn vouches(
        &self,
        (realm, group): (RealmId, GroupName),
        entry: &Entry,
        vouchers: &mut Vouchers,
    ) -> Result<bool, Failure> {
        let hash = post_hash(entry.from.user.as_str(), entry.content, &entry.body);
        let found = match vouchers.0.entry(hash) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let key = records::post(realm, group.as_str(), hash);
                match self.storage.record(&key).await {
                    // Nothing vouches then, and the entries behind it are still read.
                    Err(failure) if failure.is_damage() => return Ok(false),
                    found => place.insert(found?),
                }
            }
        };
        let left = found.as_mut().map(|(record, _)| &mut record.count);
        let left = left.filter(|left| **left > 0);
        Ok(left.map(|left| *left -= 1).is_some())
    }

    /// Removes posts that are too old to be read back, and leftovers of an earlier release about
    /// memberships that ended.
    pub(in crate::realm) async fn tidy_posts(
        &self,
        after: Option<Key>,
        now: Moment,
    ) -> Result<Option<Key>, Failure> {
        if after.is_none() {
            self.tidy_expelling().await?;
        }
        let prefix = records::posts();
        let found = self
            .storage
            .next_readable(prefix, after, POSTS_AT_ONCE)
            .await?;
        let mut batch = Batch::tidying();
        for (key, found) in &found {
            let is_old = |record: &PostRecord| {
                now.running.saturating_sub(record.since) >= POSTS_KEPT_SECONDS
            };
            // A malformed record vouches for nothing.
            if PostRecord::from_value(&found.value)
                .as_ref()
                .map_or(true, is_old)
                && !is_planted(Fault::KeepForever)
            {
                batch
                    .expect(key.clone(), Expected::At(found.version))
                    .delete(key.clone());
            }
        }
        if !batch.changes.is_empty() {
            // On a conflict a post was sent again. The next pass looks at the others.
            self.storage.commit(batch).await?;
        }
        Ok(found.last().map(|(key, _)| key.clone()))
    }

    /// Removes notes of a former release about memberships whose end a peer had not heard of.
    /// Nothing reads them any more.
    async fn tidy_expelling(&self) -> Result<(), Failure> {
        let prefix: Prefix = records::all_expelling();
        let mut walk = Walk::new(prefix, None, POSTS_AT_ONCE);
        loop {
            let found = walk.next(&self.storage).await?;
            if found.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::tidying();
            for (key, _) in found {
                batch.delete(key);
            }
            if matches!(self.storage.commit(batch).await?, Outcome::Conflict) {
                return Ok(());
            }
        }
    }
}
