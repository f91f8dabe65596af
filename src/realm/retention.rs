//! How long messages are kept (READ-10), and what of a realm's store has no use any more.
//!
//! Age is told by the realm's running time, which no clock that is set moves: each pass over the logs notes up to which
//! position a log had grown by then, and what was there then is so old by now, or older. Nothing here is in a hurry; a pass is made in
//! steps, between which others have their turn.

use std::time::Duration;

use super::{
    Failure, Moment, Outcome, Realm,
    groups::MEMBERS_AT_ONCE,
    records::{
        self, GroupRecord, KeepingRecord, KeptRecord, KeptSample, LivesRecord, LogKind, MailboxLog,
        Record as _, ReplicaRecord,
    },
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Log, PageLimit, Position, Prefix, Store},
    wire::{GroupName, Username},
};

/// Entries and bytes that are read at once.
const READ_AT_ONCE: PageLimit = PageLimit {
    entries: 256,
    bytes: 64 << 10,
};
/// The next entry alone.
const ONE: PageLimit = PageLimit {
    entries: 1,
    bytes: 1,
};
/// Entries that go with one commit.
const TRIMMED_AT_ONCE: u64 = 1000;
/// What an entry takes on the disk besides its bytes, about.
const AROUND_ENTRY: u64 = 40;
/// So many times a bound is noted how old and how large a log was: it may be kept for a sixteenth too long, never for too short a time.
const GRAINS: u32 = 16;
/// How often the logs are looked at, at most and at least.
const PASS_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// For how long, and how much of, a mailbox is kept. Where nothing is said there is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Messages that have been read are kept for so long.
    pub age: Option<Duration>,
    /// Messages that nobody they are for has read, or not all of a group, are kept for so long if that is longer.
    pub unread_age: Option<Duration>,
    /// So many messages of one mailbox are kept at most, read or not.
    pub entries: Option<u64>,
    /// So many bytes of one mailbox are kept at most, read or not.
    pub bytes: Option<u64>,
}

impl Retention {
    /// What a new store has: 90 days, what is unread for a year, and 64 MiB in a mailbox.
    pub const DEFAULT: Self = Self {
        age: Some(Duration::from_hours(90 * 24)),
        unread_age: Some(Duration::from_hours(365 * 24)),
        entries: None,
        bytes: Some(64 << 20),
    };
    /// Everything is kept for ever.
    pub const FOREVER: Self = Self {
        age: None,
        unread_age: None,
        entries: None,
        bytes: None,
    };

    /// How often the logs are to be looked at.
    pub fn pass_every(&self) -> Duration {
        let (least, most) = PASS_EVERY;
        let age = self.age.unwrap_or(most * GRAINS);
        (age / GRAINS).clamp(least, most)
    }
}

/// How long messages are kept, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// As it is configured.
    Configured,
    /// The store was begun with the default.
    Default,
    /// For ever: the store is from before there was a bound, and none is configured.
    Forever,
}

/// What has been decided when the store was opened.
#[derive(Debug)]
pub(super) struct Decided {
    retention: Retention,
    /// What the store has begun with, if that could not be written.
    unwritten: Option<KeepingRecord>,
}

impl<S: Store> Realm<S> {
    /// Decides how long messages are kept, once for each opening of the store, before [`Realm::begin_life`]: as `configured`, or by
    /// what a store began with.
    pub async fn begin_keeping(&self, configured: Option<Retention>) -> (Keeping, Retention) {
        let mut unwritten = None;
        let decided = async {
            let found = self.record::<KeepingRecord>(&records::keeping()).await?;
            let by_default = match found {
                Some((record, _)) => record.by_default,
                None => {
                    let lives = self.record::<LivesRecord>(&records::lives()).await?;
                    let users = self.store.list(&records::accounts(), None, 1).await?;
                    let by_default = lives.is_none() && users.is_empty();
                    let record = KeepingRecord { by_default };
                    let mut batch = Batch::new();
                    batch.put(records::keeping(), record.to_value()?);
                    // On a full disk it is written with the first thing that would have it decided otherwise at the next start.
                    if let Err(failure) = self.commit(batch).await {
                        self.note("retention", &failure);
                        unwritten = Some(record);
                    }
                    by_default
                }
            };
            Ok::<_, Failure>(by_default)
        };
        let by_default = decided.await.unwrap_or_else(|failure| {
            // What cannot be told is kept.
            self.note("retention", &failure);
            false
        });
        let decided = match configured {
            Some(configured) => (Keeping::Configured, configured),
            None if by_default => (Keeping::Default, Retention::DEFAULT),
            None => (Keeping::Forever, Retention::FOREVER),
        };
        let retention = decided.1;
        let _ = self.retention.set(Decided {
            retention,
            unwritten,
        });
        decided
    }

    /// For how long messages are kept.
    pub fn retention(&self) -> Retention {
        let decided = self.retention.get();
        decided.map_or(Retention::FOREVER, |decided| decided.retention)
    }

    /// Adds to `batch`, which makes an account or a life, what the store has begun with, where there was no room for it: else the next
    /// start would take the store for one from before there was a bound.
    pub(super) fn put_keeping(&self, batch: &mut Batch) -> Result<(), Failure> {
        let decided = self.retention.get();
        if let Some(record) = decided.and_then(|decided| decided.unwritten.as_ref()) {
            batch.put(records::keeping(), record.to_value()?);
        }
        Ok(())
    }

    /// Drops what a log has kept for long enough.
    pub(super) async fn sweep_log(
        &self,
        log: &Log,
        now: &(impl Fn() -> Moment + Sync),
    ) -> Result<(), Failure> {
        let retention = self.retention();
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
            if matches!(kind, LogKind::Copy(..)) {
                batch.forget(log.clone());
            }
            self.commit(batch).await?;
            return Ok(());
        }
        if retention == Retention::FOREVER {
            return Ok(());
        }
        let key = records::kept(log);
        let known = self.record::<KeptRecord>(&key).await?;
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
            // Those who have not read what is old enough are asked only where something is.
            Reach::Readers(readers)
                if bound.aged > bound.unread && !is_planted(Fault::DropUnread) =>
            {
                let first = self.store.read(log, Position(0), ONE).await?;
                let first = first.entries.first().map_or(0, |(first, _)| first.0);
                let least = bound.unread.max(first.saturating_sub(1));
                let read = self.read_by_all(&readers, (least, bound.aged)).await?;
                bound.aged.min(read.max(bound.unread))
            }
            _ => bound.aged,
        };
        let target = target.max(bound.overfull);
        kept.forget_up_to(target);
        if before.as_ref() != Some(&kept) {
            let mut batch = Batch::tidying();
            let expected = version.map_or(Expected::Absent, Expected::At);
            batch
                .expect(key.clone(), expected)
                .put(key, kept.to_value()?);
            if !matches!(self.commit(batch).await?, Outcome::Durable) {
                return Ok(());
            }
        }
        if is_planted(Fault::KeepForever) {
            return Ok(());
        }
        // What was to go before, too: the realm may have been stopped before it had gone.
        self.trim_to(log, target.max(kept.trimmed)).await
    }

    /// Counts what has come to a log since it was looked at last.
    async fn count(
        &self,
        log: &Log,
        kept: &mut KeptRecord,
        retention: &Retention,
        clock: &(impl Fn() -> Moment + Sync),
    ) -> Result<(), Failure> {
        loop {
            let page = self
                .store
                .read(log, Position(kept.seen), READ_AT_ONCE)
                .await?;
            // Not from before: what has come since then would count as older than it is.
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
            // Others have their turn in between.
            tokio::task::yield_now().await;
        }
    }

    /// Drops the entries of a log up to a position.
    pub(super) async fn trim_to(&self, log: &Log, target: u64) -> Result<(), Failure> {
        // It is read on from where it was trimmed last: what has just gone is slow to pass over.
        let mut trimmed = 0;
        loop {
            let page = self.store.read(log, Position(trimmed), ONE).await?;
            let Some((Position(first), _)) = page.entries.first() else {
                return Ok(());
            };
            if *first > target {
                return Ok(());
            }
            let below = (first + TRIMMED_AT_ONCE).min(target + 1);
            let mut batch = Batch::tidying();
            batch.trim(log.clone(), Position(below));
            self.commit(batch).await?;
            trimmed = below - 1;
            tokio::task::yield_now().await;
        }
    }

    /// Whom a log is for. None where nothing of it goes for its age.
    async fn reach(&self, kind: LogKind, log: &Log) -> Result<Option<Reach>, Failure> {
        // Before it is known that nobody reads it: what comes then is not of those who did.
        let last = self.store.last(log).await?.0;
        Ok(Some(match kind {
            LogKind::Private(user) => Reach::Readers(Readers::User(user)),
            // All of it is among the private messages, where the user reads it.
            LogKind::FromRealm(..) => Reach::Nobody,
            LogKind::Group(name, number) => {
                let found = self.record::<GroupRecord>(&records::group(name)).await?;
                match found {
                    Some((record, _)) if record.log == number => {
                        Reach::Readers(Readers::Group(name, record))
                    }
                    // Of a group that has ended nothing is shown (GRP-7).
                    _ => Reach::Dead(last),
                }
            }
            LogKind::Copy(realm, name, number) => {
                let found = self
                    .record::<ReplicaRecord>(&records::copy(realm, name))
                    .await?;
                match found {
                    Some((record, _)) if record.log == number => {
                        let place = MailboxLog::copy(realm, name, &record);
                        Reach::Readers(Readers::Copy(records::copy_members(realm, name), place))
                    }
                    _ => Reach::Dead(last),
                }
            }
            LogKind::Queue => return Ok(None),
        }))
    }

    /// Up to where all readers here of a log have read it; it is not looked further than `wanted`, and on only while it is more than
    /// `least`.
    async fn read_by_all(
        &self,
        readers: &Readers,
        (least, wanted): (u64, u64),
    ) -> Result<u64, Failure> {
        match readers {
            Readers::User(user) => {
                let place = MailboxLog::private(*user);
                Ok(self.any_cursor(*user, &place).await?.min(wanted))
            }
            Readers::Group(name, record) => {
                let prefix = records::members(*name, record.epoch);
                let place = MailboxLog::group(*name, record);
                self.read_by(&prefix, &place, (least, wanted)).await
            }
            Readers::Copy(prefix, place) => self.read_by(prefix, place, (least, wanted)).await,
        }
    }

    /// The same of those of this realm who are named behind a prefix.
    async fn read_by(
        &self,
        prefix: &Prefix,
        place: &MailboxLog,
        (least, wanted): (u64, u64),
    ) -> Result<u64, Failure> {
        let (mut read, mut after) = (wanted, None);
        loop {
            let found = self
                .store
                .list(prefix, after.as_ref(), MEMBERS_AT_ONCE)
                .await?;
            for (key, _) in &found {
                // Users of other realms read their realm's copy.
                if let Some(user) = records::name_in::<Username>(key, prefix) {
                    read = read.min(self.any_cursor(user, place).await?);
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

/// Whom a log is for.
enum Reach {
    /// It has readers, for whom what they have not read is kept for longer.
    Readers(Readers),
    /// Nobody in particular.
    Nobody,
    /// Nobody will ever read it; it ends at this position.
    Dead(u64),
}

/// The readers of a log.
enum Readers {
    User(Username),
    Group(GroupName, GroupRecord),
    Copy(Prefix, MailboxLog),
}

/// Up to which positions a log has been kept for long enough.
struct Bound {
    /// What has been read.
    aged: u64,
    /// What has not.
    unread: u64,
    /// Whether it has or not: there is too much.
    overfull: u64,
}

impl KeptRecord {
    /// Notes how large the log was, where its size is bounded.
    fn sample_bytes(&mut self, retention: &Retention, now: u32) {
        let Some(bound) = retention.bytes else {
            return;
        };
        let last = self.samples.last().map_or(0, |sample| sample.bytes);
        if self.bytes.saturating_sub(last) >= bound / u64::from(GRAINS) {
            self.sample(now);
        }
    }

    /// Notes how far the log has come by now, if that has not been noted for a while.
    fn sample_time(&mut self, retention: &Retention, now: u32) {
        let Some(grain) = retention.age.map(grain) else {
            return;
        };
        let last = self.samples.last();
        let is_new = last.is_none_or(|last| last.position < self.seen);
        if is_new && last.is_none_or(|last| now.saturating_sub(last.at) >= grain) {
            self.sample(now);
        }
        // What is older than that counts in coarser grains: a note goes that lies close between the one before and the one behind.
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
            // Both times are cut to whole seconds.
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
            // Without an age of its own it is kept for ever.
            _ => 0,
        };
        Bound {
            aged: older_than(retention.age),
            unread,
            overfull: too_many.max(too_large),
        }
    }

    /// What is up to `position` is not kept any more: the bytes of the rest are counted from there.
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
        // Between two notes, as if all entries there were of one size.
        let part = u128::from(to_bytes.saturating_sub(from_bytes))
            * u128::from(position.saturating_sub(from));
        let part = part
            .checked_div(u128::from(to.saturating_sub(from)))
            .unwrap_or_default();
        let base = from_bytes + u64::try_from(part).unwrap_or_default();
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

/// How far apart two notes of a bound in time are, in seconds.
fn grain(bound: Duration) -> u32 {
    seconds(bound / GRAINS)
}
