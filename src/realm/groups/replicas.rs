//! Groups whose home realm is another (PEER-8 … PEER-11). Users here join them there. This realm
//! keeps a replica of their messages, so that its users can read them while the home realm is
//! unreachable.

use crate::realm::{
    failure::Failure,
    groups::{
        Groups, host::is_of, memberships::leave_replica, teardown::put_ending, vouchers::Vouchers,
    },
    network::GroupWork,
    peer::Peer,
    records::{
        self, ChangedRecord, Ending, MailboxLog, Record as _, ReplicaMemberRecord, ReplicaRecord,
    },
    storage::{Notes, Outcome, Written},
    time::Moment,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Position, Store},
    wire::{
        CONTENT_GONE, Entry, ErrorCode, GroupName, JoinedGroup, RealmId, Username, is_of_realm,
        parse_varint,
    },
};

/// The content type that replaces one that the entry may not have. No client knows it.
const CONTENT_OTHER: u8 = 0x7f;

/// True if an entry says that older entries are not kept any more, in the form that every realm
/// writes (READ-11).
fn says_gone(entry: &Entry) -> bool {
    let is_count = matches!(parse_varint(&entry.body), Ok((rest, _)) if rest.is_empty());
    entry.content == CONTENT_GONE && is_count
}

/// This realm's replica of a group.
#[derive(Debug)]
pub struct Replica {
    record: ReplicaRecord,
}

impl Replica {
    /// True if its home realm has said that the group has ended: the replica is then read only.
    pub(in crate::realm) const fn has_ended(&self) -> bool {
        self.record.ended
    }

    /// Returns its record.
    pub(in crate::realm) const fn record(&self) -> &ReplicaRecord {
        &self.record
    }

    /// Returns the log of its messages.
    pub(in crate::realm) fn place(&self, realm: RealmId, group: GroupName) -> MailboxLog {
        MailboxLog::replica(realm, group, &self.record)
    }
}

/// A replica's position, and the values that it relies on.
#[derive(Debug)]
pub struct ReplicaState {
    record: ReplicaRecord,
    relied: Batch,
}

impl ReplicaState {
    /// Returns a replica that has no entries yet.
    #[cfg(test)]
    pub fn sample() -> Self {
        Self {
            record: ReplicaRecord {
                epoch: 1,
                known_as: "alpha".into(),
                position: 0,
                log: 1,
                floor: 0,
                ended: false,
            },
            relied: Batch::new(),
        }
    }

    /// Returns the epoch of the group: it distinguishes groups that have had the same name.
    pub const fn epoch(&self) -> u64 {
        self.record.epoch
    }

    /// Returns the position in the group up to which the replica is complete.
    pub const fn position(&self) -> u64 {
        self.record.position
    }
}

/// The state of a replica that is about to be read on.
#[derive(Debug)]
pub enum ReplicaLook {
    /// It has this position.
    At(ReplicaState),
    /// There is nothing to read any more.
    Gone,
    /// It cannot be read, or the peer has used up its storage quota (PEER-20).
    NotNow,
}

/// What a peer has in a group after the replica's position.
#[derive(Debug)]
pub enum Kept {
    /// These entries, each complete.
    Entries(Vec<Entry>),
    /// The group has ended.
    Gone,
}

impl<S: Store> Groups<S> {
    pub(in crate::realm) async fn find_replica(
        &self,
        notes: &mut impl Notes,
        realm: RealmId,
        group: GroupName,
    ) -> Result<Option<Replica>, Failure> {
        let found = self
            .storage
            .noted(notes, &records::replica(realm, group))
            .await?;
        Ok(found.map(|(record, _)| Replica { record }))
    }

    /// Returns the replica of a group that `user` is in, and the user's membership.
    pub(in crate::realm) async fn replica_for(
        &self,
        notes: &mut impl Notes,
        (realm, group): (RealmId, GroupName),
        user: Username,
    ) -> Result<(Replica, ReplicaMemberRecord), Failure> {
        let replica = self.find_replica(notes, realm, group).await?;
        // Only the home realm can say whether the group exists.
        let replica = replica.ok_or(ErrorCode::NotAMember)?;
        let key = records::replica_member(realm, group, user);
        let member = self
            .storage
            .noted::<ReplicaMemberRecord>(notes, &key)
            .await?;
        // A member of a group that has ended is no member of a later group of that name.
        let (member, _) = member
            .filter(|(member, _)| member.is_of(&replica.record))
            .ok_or(ErrorCode::NotAMember)?;
        Ok((replica, member))
    }

    /// Begins a join to a group of another realm, before the home realm is asked: what it tells of
    /// the group meanwhile may be newer than its answer. Refuses if the user is in too many groups.
    pub(in crate::realm) async fn begin_join_elsewhere(
        &self,
        (realm, group): (RealmId, GroupName),
        user: Username,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let reports = records::membership_reports(realm, group);
        self.storage.noted::<ChangedRecord>(batch, &reports).await?;
        let key = records::replica_member(realm, group, user);
        let found = self
            .storage
            .noted::<ReplicaMemberRecord>(batch, &key)
            .await?;
        if found.is_none() {
            self.check_room(user, batch).await?;
        }
        Ok(())
    }

    /// Adds to `batch` that a user is in a group of another realm. From now on a replica of that
    /// group is kept. True if members of a former group of that name are left.
    pub(in crate::realm) async fn put_joined_elsewhere(
        &self,
        (realm, group): (RealmId, GroupName),
        user: Username,
        (joined, now): (JoinedGroup, Moment),
        batch: &mut Batch,
    ) -> Result<bool, Failure> {
        let epoch = joined.group_epoch;
        let member = ReplicaMemberRecord {
            joined: now.wall,
            epoch: Some(epoch),
            membership: joined.membership,
        };
        let key = records::replica(realm, group);
        let replica = self.find_replica(batch, realm, group).await?;
        let known_as = joined.known_as.as_str().into();
        let mut ends = false;
        let record = match &replica {
            Some(replica) if replica.record().epoch == epoch => ReplicaRecord {
                known_as,
                // If it had ended and exists again, its home realm was restored from a backup.
                ended: false,
                ..replica.record().clone()
            },
            // The group was made again there. The new one is read from its beginning, and its
            // entries follow those of the former one in the log here (READ-6).
            Some(replica) => {
                let log = replica.place(realm, group).log;
                let floor = self.storage.last(&log).await?.0;
                batch.trim(log, Position(floor + 1));
                let former = (replica.record().epoch, replica.record().log);
                let which = (Some(realm), group);
                if !replica.has_ended() {
                    put_ending(Ending::Tell, which, former, batch)?;
                }
                put_ending(Ending::ForgetReplica, which, former, batch)?;
                ends = true;
                ReplicaRecord {
                    epoch,
                    known_as,
                    position: 0,
                    log: replica.record().log,
                    floor,
                    ended: false,
                }
            }
            None => ReplicaRecord {
                epoch,
                known_as,
                position: 0,
                log: epoch,
                floor: 0,
                ended: false,
            },
        };
        batch
            .put(key, record.to_value()?)
            .put(
                records::replica_member(realm, group, user),
                member.to_value()?,
            )
            .put(
                records::replica_of_user(user, realm, group),
                ChangedRecord {}.to_value()?,
            );
        Ok(ends)
    }

    /// Adds to `batch` that a user is no member any more of a group of a peer, which says so. The
    /// message may be about a membership that is over: the user may have joined again. One without
    /// a number is from an earlier release, and does not end a membership that has a number.
    pub(in crate::realm) async fn end_expelled(
        &self,
        (realm, group): (RealmId, GroupName),
        (user, membership): (Username, u64),
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        batch.put(
            records::membership_reports(realm, group),
            ChangedRecord {}.to_value()?,
        );
        let key = records::replica_member(realm, group, user);
        let member = self
            .storage
            .noted::<ReplicaMemberRecord>(batch, &key)
            .await?;
        let is_meant = |own| {
            (membership != 0 || own == 0 || is_planted(Fault::OldReportsEnd))
                && is_of(membership, own)
        };
        if member.is_some_and(|(member, _)| is_meant(member.membership)) {
            leave_replica((realm, group), user, batch);
        }
        Ok(())
    }

    /// Ends the membership of a post's sender, because the group's home realm says that the sender
    /// is no member. A later membership stays.
    ///
    /// Such a membership remains after an answer was lost or the home realm was restored (PEER-9).
    pub(in crate::realm) async fn end_stale_membership(
        &self,
        (realm, group): (RealmId, GroupName),
        (user, membership): (Username, u64),
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let key = records::replica_member(realm, group, user);
        let member = match self.storage.noted::<ReplicaMemberRecord>(batch, &key).await {
            // A record that cannot be read must not stop the queue.
            Err(failure) if failure.is_of_one_record() => {
                self.storage.log_failure("membership", &failure);
                return Ok(());
            }
            member => member?,
        };
        if member.is_some_and(|(member, _)| member.membership == membership)
            && !is_planted(Fault::KeepStaleMembership)
        {
            // A user that is joining right now must ask again.
            batch.put(
                records::membership_reports(realm, group),
                ChangedRecord {}.to_value()?,
            );
            leave_replica((realm, group), user, batch);
        }
        Ok(())
    }

    /// Returns the groups of a peer that have a replica here.
    ///
    /// # Errors
    /// The groups cannot be listed, or only some of them.
    pub async fn replicas_of(&self, realm: RealmId) -> Result<Vec<GroupName>, Failure> {
        let prefix = records::replicas(realm);
        let (mut groups, mut after) = (Vec::new(), None);
        while let Some(keys) = self
            .next_keys(&prefix, &mut after)
            .await
            .inspect_err(|failure| self.storage.log_failure("replicas", failure))?
        {
            groups.extend(
                keys.iter()
                    .filter_map(|key| records::name_in::<GroupName>(key, &prefix)),
            );
        }
        Ok(groups)
    }

    /// Queues a read of all groups of a peer that have a replica here: they may have grown without
    /// notice.
    ///
    /// # Errors
    /// As [`Groups::replicas_of`].
    pub(in crate::realm) async fn read_all_replicas(&self, realm: RealmId) -> Result<(), Failure> {
        for group in self.replicas_of(realm).await? {
            self.network.add_work(realm, GroupWork::Read(group));
        }
        Ok(())
    }

    /// Returns the position of the replica of a peer's group.
    pub async fn look_at_replica(&self, peer: &Peer, group: GroupName, now: Moment) -> ReplicaLook {
        let look = async {
            self.limiter.may_store_from(now, peer.realm)?;
            let mut relied = Batch::new();
            self.peers.rely_on_peer(&mut relied, peer).await?;
            let replica = self.find_replica(&mut relied, peer.realm, group).await?;
            let replica = replica.filter(|replica| !replica.has_ended());
            Ok(replica.map(|replica| ReplicaState {
                record: replica.record,
                relied,
            }))
        };
        match look.await {
            Ok(Some(state)) => ReplicaLook::At(state),
            Ok(None) => ReplicaLook::Gone,
            Err(failure) => {
                let failure: Failure = failure;
                self.storage.log_failure("replica", &failure);
                ReplicaLook::NotNow
            }
        }
    }

    /// Stores what a peer has in a group, and the replica's new position.
    pub async fn keep(
        &self,
        peer: &Peer,
        group: GroupName,
        (state, kept): (ReplicaState, Kept),
        now: Moment,
    ) -> Written {
        let kept = match kept {
            Kept::Entries(entries) => self.keep_entries(peer, group, (state, entries), now).await,
            // This does not depend on the peer's message that the group has ended, which may be
            // lost.
            Kept::Gone => {
                self.replica_is_gone((peer.realm, group), state.epoch())
                    .await
            }
        };
        match kept {
            Ok(Outcome::Durable) => Written::Durable,
            Ok(Outcome::Conflict) => Written::Conflict,
            Err(failure) => {
                self.storage.log_failure("replica", &failure);
                Written::Failed
            }
        }
    }

    async fn keep_entries(
        &self,
        peer: &Peer,
        group: GroupName,
        (state, entries): (ReplicaState, Vec<Entry>),
        now: Moment,
    ) -> Result<Outcome, Failure> {
        let Some(last) = entries.last().map(|entry| entry.position.0) else {
            return Ok(Outcome::Durable);
        };
        let ReplicaState {
            record: replica,
            relied: mut batch,
        } = state;
        let place = MailboxLog::replica(peer.realm, group, &replica);
        let mut vouchers = Vouchers::default();
        for mut entry in entries {
            // Content types that programs act on are reserved for this realm's own entries. The
            // exception says what the home realm does not keep any more, which this realm cannot
            // know.
            if is_of_realm(entry.content) && !says_gone(&entry) {
                entry.content = CONTENT_OTHER;
            }
            let kept =
                self.posts
                    .replicated_entry((peer.realm, group), &replica, entry, &mut vouchers);
            let record = kept.await?;
            batch.append(place.log.clone(), record.to_value()?);
        }
        vouchers.spend((peer.realm, group), &mut batch)?;
        let key = records::replica(peer.realm, group);
        let record = ReplicaRecord {
            position: last,
            ..replica
        };
        batch.put(key, record.to_value()?);
        self.limiter.stored_from(now, peer.realm, batch.bytes());
        self.storage.commit(batch).await
    }
}
