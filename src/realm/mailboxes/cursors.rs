//! Cursors (READ-2, READ-3, READ-7, READ-8): the position up to which each device has confirmed
//! each mailbox, and the same for any device of the user.

use std::{collections::BTreeMap, sync::Arc};

use crate::realm::{
    ATTEMPTS_MAX, Caller,
    current_session::Current,
    failure::Failure,
    groups::Groups,
    peers::Peers,
    records::{
        self, CursorRecord, GroupRecord, LinkedRecord, LogKind, MailboxLog, Owner, Record as _,
        ReplicaRecord,
    },
    storage::{Outcome, Storage},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, Log, Position, Store},
    wire::{Cursors, ErrorCode, Mailbox, Username},
};

/// The number of cursors that are listed at once.
const CURSORS_AT_ONCE: usize = 1000;
/// The most cursors of one user that a new device takes over, besides those of the user's present
/// mailboxes; and the most cursors of one device that are removed with its last session. The rest
/// of a longer list hides no entry, because a cursor only grows.
const CURSORS_MAX: usize = 10_000;

/// How far users have read, on each of their devices.
#[derive(Debug)]
pub struct ReadCursors<S> {
    storage: Arc<Storage<S>>,
    peers: Arc<Peers<S>>,
    groups: Arc<Groups<S>>,
}

impl<S> ReadCursors<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) const fn new(
        storage: Arc<Storage<S>>,
        peers: Arc<Peers<S>>,
        groups: Arc<Groups<S>>,
    ) -> Self {
        Self {
            storage,
            peers,
            groups,
        }
    }
}

impl<S: Store> ReadCursors<S> {
    /// Confirms the cursors that a reader names (READ-3).
    pub(in crate::realm) async fn confirm_all(
        &self,
        caller: &Caller,
        current: &Current,
        cursors: &Cursors,
    ) -> Result<(), Failure> {
        let owner = current.owner();
        for (mailbox, position) in &cursors.0 {
            if caller.believed(Some(position.0)).is_some()
                && let Some(place) = self.place_of(current.user, mailbox).await?
            {
                self.confirm(current, &owner, &place, position.0).await?;
            }
        }
        Ok(())
    }

    /// Returns the log of a user's mailbox, if it is theirs.
    pub(in crate::realm) async fn place_of(
        &self,
        user: Username,
        mailbox: &Mailbox,
    ) -> Result<Option<MailboxLog>, Failure> {
        Ok(match *mailbox {
            Mailbox::Private => Some(MailboxLog::private(user)),
            Mailbox::Realm(realm) => Some(MailboxLog::from_realm(user, realm)),
            Mailbox::Group(group) => self.groups.joined_place(user, group).await?,
            Mailbox::RealmGroup(realm, group) => {
                self.groups.replica_place(user, realm, group).await?
            }
        })
    }

    /// Returns where a device's reading begins by default (READ-2): after the confirmed entries.
    pub(in crate::realm) async fn confirmed(
        &self,
        user: Username,
        owner: &Owner,
        place: &MailboxLog,
    ) -> Result<u64, Failure> {
        if is_planted(Fault::ShareCursors) {
            return Ok(self.any_cursor(user, place).await?.max(place.floor));
        }
        let own = records::cursor(user, Some(owner), place);
        if let Some((cursor, _)) = self.storage.record::<CursorRecord>(&own).await? {
            return Ok(cursor.position.max(place.floor));
        }
        let linked = records::linked(user, owner);
        if self
            .storage
            .record::<LinkedRecord>(&linked)
            .await?
            .is_some()
        {
            return Ok(place.floor);
        }
        // Its session was opened by a release in which devices had no cursors of their own from the
        // start.
        let any = self.any_cursor(user, place).await?;
        Ok(any.max(place.floor))
    }

    /// Returns the position up to which any device of the user has confirmed a mailbox.
    pub(in crate::realm) async fn any_cursor(
        &self,
        user: Username,
        place: &MailboxLog,
    ) -> Result<u64, Failure> {
        let any = records::cursor(user, None, place);
        let found = self.storage.record::<CursorRecord>(&any).await?;
        Ok(found.map_or(0, |(cursor, _)| cursor.position))
    }

    /// Returns the position up to which entries are marked as read (READ-8): what any device of the
    /// user has confirmed, if that is more than this device has. 0 if nothing is marked.
    pub(in crate::realm) async fn read_elsewhere(
        &self,
        user: Username,
        owner: &Owner,
        place: &MailboxLog,
    ) -> Result<u64, Failure> {
        let any = self.any_cursor(user, place).await?;
        if any > place.floor && any > self.confirmed(user, owner, place).await? {
            Ok(any)
        } else {
            Ok(0)
        }
    }

    /// Confirms that a device has everything up to `position`. A cursor only grows. A position
    /// without an entry confirms nothing: it would hide entries that are still to come (READ-3).
    pub(in crate::realm) async fn confirm(
        &self,
        current: &Current,
        owner: &Owner,
        place: &MailboxLog,
        position: u64,
    ) -> Result<(), Failure> {
        let Some(before) = position.checked_sub(1).filter(|_| position > place.floor) else {
            return Ok(());
        };
        let mut current = current.clone();
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            for of in [Some(owner), None] {
                let key = records::cursor(current.user, of, place);
                let known = self.storage.record::<CursorRecord>(&key).await?;
                if known
                    .as_ref()
                    .is_none_or(|(cursor, _)| cursor.position < position)
                {
                    let expected =
                        known.map_or(Expected::Absent, |(_, version)| Expected::At(version));
                    batch
                        .expect(key.clone(), expected)
                        .put(key, CursorRecord { position }.to_value()?);
                }
            }
            if batch == Batch::new() {
                return Ok(());
            }
            let found = self.storage.entry_behind(&place.log, Position(before));
            let found = found.await?.map(|(at, _)| at.0);
            if found != Some(position) && !self.is_gone(place, position).await? {
                return Ok(());
            }
            current.rely_on(&mut batch);
            match self.storage.commit(batch).await {
                Ok(Outcome::Durable) => return Ok(()),
                // Another command of the device has confirmed entries or touched the session.
                Ok(Outcome::Conflict) => {
                    let key = records::session(&current.hash);
                    let found = self.storage.record(&key).await?;
                    (current.record, current.version) = found.ok_or(ErrorCode::NoSession)?;
                }
                // A full disk must not keep anybody from reading. The reader confirms again with
                // its next read.
                Err(Failure::Refused(_)) => return Ok(()),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// True if the entry at a position existed and is not kept any more.
    async fn is_gone(&self, place: &MailboxLog, position: u64) -> Result<bool, Failure> {
        let first = self.storage.entry_behind(&place.log, Position(0)).await?;
        Ok(match first {
            Some((first, _)) => position < first.0,
            None => position <= self.storage.last(&place.log).await?.0,
        })
    }

    /// Adds to `batch` that a device begins to read a user's mailboxes. Its cursors start after
    /// what any device of the user has confirmed by then; later only its own confirms move them
    /// (READ-7).
    pub(in crate::realm) async fn link(
        &self,
        user: Username,
        owner: &Owner,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let linked = records::linked(user, owner);
        if self
            .storage
            .record::<LinkedRecord>(&linked)
            .await?
            .is_some()
        {
            return Ok(());
        }
        batch.put(linked, LinkedRecord {}.to_value()?);
        let prefix = records::cursors(user, None);
        let mut after: Option<Key> = None;
        for _ in 0..CURSORS_MAX / CURSORS_AT_ONCE {
            let found = self
                .storage
                .list(&prefix, after.as_ref(), CURSORS_AT_ONCE)
                .await?;
            let is_last = found.len() < CURSORS_AT_ONCE;
            after = found.last().map(|(key, _)| key.clone());
            for (key, cursor) in found {
                let Some(own) = records::own_cursor(user, owner, &key) else {
                    continue;
                };
                // Its confirms from an earlier session stay.
                if !self.storage.has(&own).await? {
                    batch.put(own, cursor.value);
                }
            }
            if is_last {
                return Ok(());
            }
        }
        // Of a longer list, the cursors of the present mailboxes are used. The others are for
        // groups that were left.
        let mut places = Vec::new();
        for (_, place) in self.groups.mailboxes_of(user).await? {
            places.push(place);
        }
        for peer in self.peers.list_peers().await? {
            places.push(MailboxLog::from_realm(user, peer.realm));
        }
        for place in places {
            let own = records::cursor(user, Some(owner), &place);
            let any = records::cursor(user, None, &place);
            if let Some(cursor) = self.storage.value(&any).await?
                && !self.storage.has(&own).await?
            {
                batch.put(own, cursor.value);
            }
        }
        Ok(())
    }

    /// Drops useless cursors among the next ones behind `after`: those of groups that have ended,
    /// and of replicas that are gone. A cursor at or below the floor of its mailbox means the same
    /// as none (READ-6). Returns the last cursor that was looked at.
    pub(in crate::realm) async fn tidy_cursors(
        &self,
        after: Option<Key>,
    ) -> Result<Option<Key>, Failure> {
        let prefix = records::all_cursors();
        let found = self
            .storage
            .next_readable(prefix, after, CURSORS_AT_ONCE)
            .await?;
        let mut useless: BTreeMap<Log, u64> = BTreeMap::new();
        let mut batch = Batch::tidying();
        for (key, found) in &found {
            let Some((log, linked)) = records::cursor_log(key) else {
                continue;
            };
            let up_to = match useless.get(&log) {
                Some(up_to) => *up_to,
                None => {
                    // An unreadable record of one group does not keep the cursors of others.
                    let up_to = self.useless_up_to(&log).await.or_else(|failure| {
                        self.storage.log_failure("cursors", &failure);
                        match failure {
                            Failure::Store(error) if error.is_of_one_record() => Ok(0),
                            failure => Err(failure),
                        }
                    })?;
                    *useless.entry(log).or_insert(up_to)
                }
            };
            // A malformed one is left for the command that needs it.
            let cursor = CursorRecord::from_value(&found.value);
            if cursor.is_ok_and(|cursor| cursor.position <= up_to)
                && self.is_linked(linked.as_ref()).await?
            {
                // If the group was made again meanwhile, the cursor may have moved.
                batch
                    .expect(key.clone(), Expected::At(found.version))
                    .delete(key.clone());
            }
        }
        if !batch.changes.is_empty() {
            self.storage.commit(batch).await?;
        }
        Ok(found.last().map(|(key, _)| key.clone()))
    }

    /// False if the device is not known to have its own cursors: then, without a cursor, its
    /// reading begins where any other device's does.
    async fn is_linked(&self, linked: Option<&Key>) -> Result<bool, Failure> {
        Ok(match linked {
            Some(linked) => self.storage.has(linked).await?,
            None => true,
        })
    }

    /// Returns the position up to which a cursor of a group's log is useless.
    async fn useless_up_to(&self, log: &Log) -> Result<u64, Failure> {
        let floor = match records::log_kind(log) {
            Some(LogKind::Group(name, number)) => {
                let found = self
                    .storage
                    .record::<GroupRecord>(&records::group(name))
                    .await?;
                let lives = found.filter(|(group, _)| group.log == number);
                lives.map(|(group, _)| group.floor)
            }
            Some(LogKind::Replica(realm, name, number)) => {
                let key = records::replica(realm, name);
                let found = self.storage.record::<ReplicaRecord>(&key).await?;
                let lives = found.filter(|(replica, _)| replica.log == number);
                lives.map(|(replica, _)| replica.floor)
            }
            Some(
                LogKind::Private(_) | LogKind::FromRealm(..) | LogKind::Discarded | LogKind::Queue,
            )
            | None => return Ok(0),
        };
        Ok(floor.unwrap_or(u64::MAX))
    }

    /// Adds to `batch` that a device has no session of the user any more, and removes its cursors.
    pub(in crate::realm) async fn unlink(
        &self,
        user: Username,
        owner: &Owner,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let prefix = records::cursors(user, Some(owner));
        for (key, _) in self.storage.list(&prefix, None, CURSORS_MAX).await? {
            batch.delete(key);
        }
        Ok(())
    }
}
