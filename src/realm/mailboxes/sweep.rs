//! The pass over the logs: entries that were kept for long enough are dropped (READ-10).

use std::{sync::Arc, time::Duration};

use crate::realm::{
    failure::Failure,
    groups::MEMBERS_AT_ONCE,
    mailboxes::{Mailboxes, blocks::Blocks, cursors::ReadCursors},
    records::{
        self, GroupRecord, KeptRecord, KeptSample, LogKind, MailboxLog, Record as _, ReplicaRecord,
    },
    retention::{GRAINS, Retention, RetentionPolicy},
    storage::{Outcome, Storage},
    time::Moment,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Log, PageLimit, Position, Prefix, Store},
    wire::{GroupName, Username},
};

/// The approximate size of an entry on disk besides its bytes.
const AROUND_ENTRY: u64 = 40;

/// The number of entries that one commit removes.
const TRIMMED_AT_ONCE: u64 = 1000;

/// The number of entries and bytes that are read at once.
const READ_AT_ONCE: PageLimit = PageLimit {
    entries: 256,
    bytes: 64 << 10,
};

/// Drops what was kept for long enough.
#[derive(Debug)]
pub struct Sweeper<S> {
    storage: Arc<Storage<S>>,
    policy: Arc<RetentionPolicy<S>>,
    cursors: Arc<ReadCursors<S>>,
    blocks: Arc<Blocks<S>>,
    mailboxes: Arc<Mailboxes<S>>,
}

impl<S> Sweeper<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) const fn new(
        storage: Arc<Storage<S>>,
        policy: Arc<RetentionPolicy<S>>,
        cursors: Arc<ReadCursors<S>>,
        blocks: Arc<Blocks<S>>,
        mailboxes: Arc<Mailboxes<S>>,
    ) -> Self {
        Self {
            storage,
            policy,
            cursors,
            blocks,
            mailboxes,
        }
    }
}

impl<S: Store> Sweeper<S> {
    /// Drops the entries of a log that were kept for long enough.
    pub(in crate::realm) async fn sweep_log(
        &self,
        log: &Log,
        now: &(impl Fn() -> Moment + Sync),
    ) -> Result<(), Failure> {
        let retention = self.policy.retention();
        let Some(kind) = records::log_kind(log) else {
            return Ok(());
        };
        let Some(reach) = self.reach(kind, log).await? else {
            return Ok(());
        };
        if let Reach::Dead(last) = reach {
            self.trim_to(log, last).await?;
            let mut batch = Batch::tidying();
            batch.delete(records::kept(log));
            if matches!(kind, LogKind::Replica(..)) {
                batch.forget(log.clone());
            }
            self.storage.commit(batch).await?;
            return Ok(());
        }
        if retention == Retention::FOREVER {
            return Ok(());
        }
        let key = records::kept(log);
        let known = self.storage.record::<KeptRecord>(&key).await?;
        let (before, version) = known.map_or((None, None), |(record, version)| {
            (Some(record), Some(version))
        });
        let mut kept = before.clone().unwrap_or_else(|| KeptRecord {
            trimmed: 0,
            seen: 0,
            bytes: 0,
            samples: Vec::new(),
        });
        self.count(log, &mut kept, &retention, now).await?;
        let bound = kept.bound(&retention, now().running);
        let target = match reach {
            // The readers of unread entries are looked up only if some entry is old enough.
            Reach::Readers(readers)
                if bound.aged > bound.unread && !is_planted(Fault::DropUnread) =>
            {
                let first = self.storage.entry_behind(log, Position(0)).await?;
                let first = first.map_or(0, |(first, _)| first.0);
                let least = bound.unread.max(first.saturating_sub(1));
                let read = self.read_by_all(&readers, (least, bound.aged)).await?;
                bound.aged.min(read.max(bound.unread))
            }
            Reach::Readers(_) | Reach::Nobody | Reach::Dead(_) => bound.aged,
        };
        let target = target.max(bound.overfull);
        kept.forget_up_to(target);
        if before.as_ref() != Some(&kept) {
            let mut batch = Batch::tidying();
            let expected = version.map_or(Expected::Absent, Expected::At);
            batch
                .expect(key.clone(), expected)
                .put(key, kept.to_value()?);
            if !matches!(self.storage.commit(batch).await?, Outcome::Durable) {
                return Ok(());
            }
        }
        if is_planted(Fault::KeepForever) {
            return Ok(());
        }
        // This includes entries that were to go before: the realm may have stopped before they were
        // removed.
        self.trim_to(log, target.max(kept.trimmed)).await
    }

    /// Counts the entries that were added to a log since the last pass.
    async fn count(
        &self,
        log: &Log,
        kept: &mut KeptRecord,
        retention: &Retention,
        clock: &(impl Fn() -> Moment + Sync),
    ) -> Result<(), Failure> {
        loop {
            let page = self
                .storage
                .read(log, Position(kept.seen), READ_AT_ONCE)
                .await?;
            // The time must be read after the entries: an earlier one would make newer entries
            // count as older than they are.
            let now = clock().running;
            for (position, entry) in &page.entries {
                kept.seen = position.0;
                kept.bytes += entry.len() as u64 + AROUND_ENTRY;
                kept.sample_bytes(retention, now);
            }
            if !page.more {
                kept.sample_time(retention, now);
                return Ok(());
            }
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
    }

    /// Drops the entries of a log up to a position.
    pub(in crate::realm) async fn trim_to(&self, log: &Log, target: u64) -> Result<(), Failure> {
        // Reading continues where the log was last trimmed: it is slow to skip entries that were
        // just removed.
        let mut trimmed = 0;
        loop {
            let next = self.storage.entry_behind(log, Position(trimmed)).await?;
            let Some((Position(first), _)) = next else {
                return Ok(());
            };
            if first > target {
                return Ok(());
            }
            let below = (first + TRIMMED_AT_ONCE).min(target + 1);
            let mut batch = Batch::tidying();
            batch.trim(log.clone(), Position(below));
            self.storage.commit(batch).await?;
            trimmed = below - 1;
            tokio::task::yield_now().await;
        }
    }

    /// Returns the readers of a log, or `None` if nothing of it is dropped for its age.
    async fn reach(&self, kind: LogKind, log: &Log) -> Result<Option<Reach>, Failure> {
        // This is read before it is known that nobody reads the log: later entries are not for
        // those readers.
        let last = self.storage.last(log).await?.0;
        Ok(Some(match kind {
            LogKind::Private(user) => Reach::Readers(Readers::User(user)),
            // All of it is also among the private messages, where the user reads it.
            LogKind::FromRealm(..) => Reach::Nobody,
            LogKind::Group(name, number) => {
                let found = self
                    .storage
                    .record::<GroupRecord>(&records::group(name))
                    .await?;
                match found {
                    Some((record, _)) if record.log == number => {
                        Reach::Readers(Readers::Group(name, record))
                    }
                    // Nothing is shown of a group that has ended (GRP-7).
                    Some(_) | None => Reach::Dead(last),
                }
            }
            LogKind::Replica(realm, name, number) => {
                let found = self
                    .storage
                    .record::<ReplicaRecord>(&records::replica(realm, name))
                    .await?;
                match found {
                    Some((record, _)) if record.log == number => {
                        let place = MailboxLog::replica(realm, name, &record);
                        Reach::Readers(Readers::Replica(
                            records::replica_members(realm, name),
                            place,
                        ))
                    }
                    Some(_) | None => Reach::Dead(last),
                }
            }
            LogKind::Discarded => Reach::Dead(last),
            LogKind::Queue => return Ok(None),
        }))
    }

    /// Returns the position up to which all local readers of a log have read it. Looks no further
    /// than `wanted`, and stops when the result is not above `least`.
    async fn read_by_all(
        &self,
        readers: &Readers,
        (least, wanted): (u64, u64),
    ) -> Result<u64, Failure> {
        match readers {
            Readers::User(user) => {
                let place = MailboxLog::private(*user);
                Ok(self.cursors.any_cursor(*user, &place).await?.min(wanted))
            }
            Readers::Group(name, record) => {
                let prefix = records::members(*name, record.epoch);
                let place = MailboxLog::group(*name, record);
                self.read_by(&prefix, &place, (least, wanted)).await
            }
            Readers::Replica(prefix, place) => self.read_by(prefix, place, (least, wanted)).await,
        }
    }

    /// Returns the same for the users of this realm that are named under a prefix.
    async fn read_by(
        &self,
        prefix: &Prefix,
        place: &MailboxLog,
        (least, wanted): (u64, u64),
    ) -> Result<u64, Failure> {
        let (mut read, mut after) = (wanted, None);
        loop {
            let found = self
                .storage
                .list(prefix, after.as_ref(), MEMBERS_AT_ONCE)
                .await?;
            for (key, _) in &found {
                // Users of other realms read their realm's replica.
                if let Some(user) = records::name_in::<Username>(key, prefix) {
                    let mut cursor = self.cursors.any_cursor(user, place).await?;
                    if cursor < read {
                        // Nobody will read what is hidden, and its author must not see that it is
                        // kept longer than what was read (BLK-3).
                        let blocked = self.blocks.blocked_by(user).await?;
                        let span = (cursor, read);
                        cursor = self.mailboxes.behind_hidden(place, span, &blocked).await?;
                    }
                    read = read.min(cursor);
                    if read <= least {
                        return Ok(read);
                    }
                }
            }
            let Some((last, _)) = found.last() else {
                return Ok(read);
            };
            after = Some(last.clone());
            tokio::task::yield_now().await;
        }
    }
}

/// The readers of a log.
enum Reach {
    /// It has readers, and unread entries are kept longer for them.
    Readers(Readers),
    /// It has no readers of its own.
    Nobody,
    /// Nobody will ever read it. It ends at this position.
    Dead(u64),
}

/// The readers of a log.
enum Readers {
    User(Username),
    Group(GroupName, GroupRecord),
    Replica(Prefix, MailboxLog),
}

/// The positions up to which entries of a log were kept for long enough.
struct Bound {
    /// For entries that were read.
    aged: u64,
    /// For entries that were not read.
    unread: u64,
    /// For all entries, read or not: the log is too large.
    overfull: u64,
}

impl KeptRecord {
    /// Takes a sample of the log's size, if its size is bounded.
    fn sample_bytes(&mut self, retention: &Retention, now: u32) {
        let Some(bound) = retention.bytes else {
            return;
        };
        let last = self.samples.last().map_or(0, |sample| sample.bytes);
        if self.bytes.saturating_sub(last) >= bound / u64::from(GRAINS) {
            self.sample(now);
        }
    }

    /// Takes a sample of the log's position, if the last one is old enough.
    fn sample_time(&mut self, retention: &Retention, now: u32) {
        let Some(grain) = retention.age.map(grain) else {
            return;
        };
        let last = self.samples.last();
        let is_new = last.is_none_or(|last| last.position < self.seen);
        if is_new && last.is_none_or(|last| now.saturating_sub(last.at) >= grain) {
            self.sample(now);
        }
        // Older samples are kept in coarser grains: a sample that lies close between its two
        // neighbours is dropped.
        let coarse = retention.unread_age.map_or(grain, self::grain);
        let large = retention
            .bytes
            .map_or(u64::MAX, |bytes| bytes / u64::from(GRAINS));
        let old = retention
            .age
            .map_or(u32::MAX, seconds)
            .saturating_add(grain);
        let mut kept: Vec<KeptSample> = Vec::with_capacity(self.samples.len());
        let mut samples = self.samples.drain(..).peekable();
        while let Some(sample) = samples.next() {
            let is_close = kept
                .last()
                .zip(samples.peek())
                .is_some_and(|(before, behind)| {
                    // After a crash the realm may be younger than it was (SES-7).
                    now.saturating_sub(behind.at) > old
                        && behind.at.saturating_sub(before.at) <= coarse
                        && behind.bytes.saturating_sub(before.bytes) <= large
                });
            if !is_close {
                kept.push(sample);
            }
        }
        drop(samples);
        self.samples = kept;
    }

    fn sample(&mut self, now: u32) {
        self.samples.push(KeptSample {
            at: now,
            position: self.seen,
            bytes: self.bytes,
        });
    }

    fn bound(&self, retention: &Retention, now: u32) -> Bound {
        let older_than = |age: Option<Duration>| {
            let Some(age) = age else {
                return 0;
            };
            // Both times are rounded down to whole seconds.
            let old = |sample: &&KeptSample| now.saturating_sub(sample.at) > seconds(age);
            let found = self.samples.iter().rev().find(old);
            found.map_or(0, |sample| sample.position)
        };
        let too_many = retention
            .entries
            .map_or(0, |entries| self.seen.saturating_sub(entries));
        let too_large = retention.bytes.map_or(0, |bytes| {
            let surplus = self.bytes.saturating_sub(bytes);
            let found = self.samples.iter().find(|sample| sample.bytes >= surplus);
            found
                .filter(|_| surplus > 0)
                .map_or(0, |sample| sample.position)
        });
        let unread = match (retention.age, retention.unread_age) {
            (Some(age), Some(unread)) => older_than(Some(unread.max(age))),
            // Without an age of its own, an entry is kept for ever.
            (None, _) | (_, None) => 0,
        };
        Bound {
            aged: older_than(retention.age),
            unread,
            overfull: too_many.max(too_large),
        }
    }

    /// Notes that entries up to `position` are removed: the bytes of the rest are counted from
    /// there.
    fn forget_up_to(&mut self, position: u64) {
        let position = position.min(self.seen);
        if position <= self.trimmed {
            return;
        }
        let gone = self
            .samples
            .partition_point(|sample| sample.position <= position);
        let before = gone.checked_sub(1).and_then(|at| self.samples.get(at));
        let (from, from_bytes) =
            before.map_or((self.trimmed, 0), |sample| (sample.position, sample.bytes));
        let behind = self.samples.get(gone);
        let (to, to_bytes) = behind.map_or((self.seen, self.bytes), |sample| {
            (sample.position, sample.bytes)
        });
        // Interpolated between two samples, as if all entries had one size.
        let part = u128::from(to_bytes.saturating_sub(from_bytes))
            * u128::from(position.saturating_sub(from));
        // Without an entry between the samples there is nothing to share out.
        let part = part
            .checked_div(u128::from(to.saturating_sub(from)))
            .unwrap_or(0);
        let base = from_bytes.saturating_add(u64::try_from(part).unwrap_or(u64::MAX));
        self.samples.drain(..gone);
        self.bytes = self.bytes.saturating_sub(base);
        for sample in &mut self.samples {
            sample.bytes = sample.bytes.saturating_sub(base);
        }
        self.trimmed = position;
    }
}

fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

/// Returns the time between two samples of a bound, in seconds.
fn grain(bound: Duration) -> u32 {
    seconds(bound / GRAINS)
}
