//! Groups whose home realm is another (PEER-8 … PEER-11). Users here join them there. This realm
//! keeps a replica of their messages, so that its users can read them while the home realm is
//! unreachable.

use crate::realm::{
    failure::Failure,
    groups::{Groups, vouchers::Vouchers},
    network::GroupWork,
    peer::Peer,
    records::{self, MailboxLog, Record as _, ReplicaMemberRecord, ReplicaRecord},
    storage::{Notes, Outcome, Written},
    time::Moment,
};
use crate::{
    store::{Batch, Store},
    wire::{
        CONTENT_GONE, Entry, ErrorCode, GroupName, RealmId, Username, is_of_realm, parse_varint,
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
pub struct Copy {
    record: ReplicaRecord,
}

impl Copy {
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
        MailboxLog::copy(realm, group, &self.record)
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
    pub(in crate::realm) async fn find_copy(
        &self,
        notes: &mut impl Notes,
        realm: RealmId,
        group: GroupName,
    ) -> Result<Option<Copy>, Failure> {
        let found = self
            .storage
            .noted(notes, &records::copy(realm, group))
            .await?;
        Ok(found.map(|(record, _)| Copy { record }))
    }

    /// Returns the replica of a group that `user` is in, and the user's membership.
    pub(in crate::realm) async fn copy_for(
        &self,
        notes: &mut impl Notes,
        (realm, group): (RealmId, GroupName),
        user: Username,
    ) -> Result<(Copy, ReplicaMemberRecord), Failure> {
        let copy = self.find_copy(notes, realm, group).await?;
        // Only the home realm can say whether the group exists.
        let copy = copy.ok_or(ErrorCode::NotAMember)?;
        let key = records::copy_member(realm, group, user);
        let member = self
            .storage
            .noted::<ReplicaMemberRecord>(notes, &key)
            .await?;
        // A member of a group that has ended is no member of a later group of that name.
        let (member, _) = member
            .filter(|(member, _)| member.is_of(&copy.record))
            .ok_or(ErrorCode::NotAMember)?;
        Ok((copy, member))
    }

    /// Returns the groups of a peer that have a replica here.
    ///
    /// # Errors
    /// The groups cannot be listed, or only some of them.
    pub async fn copies_of(&self, realm: RealmId) -> Result<Vec<GroupName>, Failure> {
        let prefix = records::copies(realm);
        let (mut groups, mut after) = (Vec::new(), None);
        while let Some(keys) = self
            .next_keys(&prefix, &mut after)
            .await
            .inspect_err(|failure| self.storage.log_failure("copies", failure))?
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
    /// As [`Groups::copies_of`].
    pub(in crate::realm) async fn read_all_copies(&self, realm: RealmId) -> Result<(), Failure> {
        for group in self.copies_of(realm).await? {
            self.network.add_work(realm, GroupWork::Read(group));
        }
        Ok(())
    }

    /// Returns the position of the replica of a peer's group.
    pub async fn look_at_copy(&self, peer: &Peer, group: GroupName, now: Moment) -> ReplicaLook {
        let look = async {
            self.limiter.may_store_from(now, peer.realm)?;
            let mut relied = Batch::new();
            self.peers.rely_on_peer(&mut relied, peer).await?;
            let copy = self.find_copy(&mut relied, peer.realm, group).await?;
            let copy = copy.filter(|copy| !copy.has_ended());
            Ok(copy.map(|copy| ReplicaState {
                record: copy.record,
                relied,
            }))
        };
        match look.await {
            Ok(Some(state)) => ReplicaLook::At(state),
            Ok(None) => ReplicaLook::Gone,
            Err(failure) => {
                let failure: Failure = failure;
                self.storage.log_failure("copy", &failure);
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
            Kept::Gone => self.copy_is_gone((peer.realm, group), state.epoch()).await,
        };
        match kept {
            Ok(Outcome::Durable) => Written::Durable,
            Ok(Outcome::Conflict) => Written::Conflict,
            Err(failure) => {
                self.storage.log_failure("copy", &failure);
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
            record: copy,
            relied: mut batch,
        } = state;
        let place = MailboxLog::copy(peer.realm, group, &copy);
        let mut vouchers = Vouchers::default();
        for mut entry in entries {
            // Content types that programs act on are reserved for this realm's own entries. The
            // exception says what the home realm does not keep any more, which this realm cannot
            // know.
            if is_of_realm(entry.content) && !says_gone(&entry) {
                entry.content = CONTENT_OTHER;
            }
            let kept = self.copied_entry((peer.realm, group), &copy, entry, &mut vouchers);
            let record = kept.await?;
            batch.append(place.log.clone(), record.to_value()?);
        }
        vouchers.spend((peer.realm, group), &mut batch)?;
        let key = records::copy(peer.realm, group);
        let record = ReplicaRecord {
            position: last,
            ..copy
        };
        batch.put(key, record.to_value()?);
        self.limiter.stored_from(now, peer.realm, batch.bytes());
        self.storage.commit(batch).await
    }
}
