//! How long messages are kept (READ-10), and what of a realm's store has no use any more.
//!
//! Age is told by the realm's running time, which no clock that is set moves: each pass over the logs notes up to which
//! position a log had grown by then, and what was there then is so old by now, or older. Nothing here is in a hurry; a pass is made in
//! steps, between which others have their turn.

use std::time::Duration;

use super::{
    Failure, Outcome, Realm,
    groups::MEMBERS_AT_ONCE,
    records::{
        self, CopyRecord, GroupRecord, KeepingRecord, KeptRecord, KeptSample, LivesRecord, LogKind,
        Place, Record as _,
    },
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Log, PageLimit, Position, Prefix, Store},
    wire::{GroupName, Username},
};

/// Entries that one look at a log counts at most; the next one goes on.
const COUNTED_PER_LOOK: usize = 4096;
/// Entries and bytes that are read at once.
const READ_AT_ONCE: PageLimit = PageLimit {
    entries: 256,
    bytes: 64 << 10,
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

impl<S: Store> Realm<S> {
    /// Decides how long messages are kept, once for each opening of the store, before [`Realm::begin_life`]: as `configured`, or by
    /// what a store began with.
    pub async fn begin_keeping(&self, configured: Option<Retention>) -> (Keeping, Retention) {
        let decided = async {
            let found = self.record::<KeepingRecord>(&records::keeping()).await?;
            let by_default = match found {
                Some((record, _)) => record.by_default,
                None => {
                    let lives = self.record::<LivesRecord>(&records::lives()).await?;
                    let by_default = lives.is_none();
                    let mut batch = Batch::new();
                    batch.put(records::keeping(), KeepingRecord { by_default }.to_value()?);
                    self.commit(batch).await?;
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
        let _ = self.retention.set(decided.1);
        decided
    }

    /// For how long messages are kept.
    pub fn retention(&self) -> Retention {
        self.retention.get().copied().unwrap_or(Retention::FOREVER)
    }

    /// Drops what a log has kept for long enough.
    pub(super) async fn sweep_log(&self, log: &Log, now: u32) -> Result<(), Failure> {
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
            seen: 0,
            bytes: 0,
            samples: Vec::new(),
        });
        self.count(log, &mut kept, &retention, now).await?;
        let bound = kept.bound(&retention, now);
        let target = match reach {
            // Those who have not read what is old enough are asked only where something is.
            Reach::Readers(readers) if bound.aged > bound.unread => {
                let read = self.read_by_all(&readers, bound.aged).await?;
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
        self.trim_to(log, target).await
    }

    /// Counts what has come to a log since it was looked at last.
    async fn count(
        &self,
        log: &Log,
        kept: &mut KeptRecord,
        retention: &Retention,
        now: u32,
    ) -> Result<(), Failure> {
        let mut counted = 0;
        loop {
            let page = self
                .store
                .read(log, Position(kept.seen), READ_AT_ONCE)
                .await?;
            for (position, entry) in &page.entries {
                kept.seen = position.0;
                kept.bytes += entry.len() as u64 + AROUND_ENTRY;
                kept.sample_bytes(retention, now);
            }
            counted += page.entries.len();
            if !page.more || counted >= COUNTED_PER_LOOK {
                break;
            }
            // Others have their turn in between.
            tokio::task::yield_now().await;
        }
        kept.sample_time(retention, now);
        Ok(())
    }

    /// Drops the entries of a log up to a position.
    async fn trim_to(&self, log: &Log, target: u64) -> Result<(), Failure> {
        let one = PageLimit {
            entries: 1,
            bytes: 1,
        };
        loop {
            let page = self.store.read(log, Position(0), one).await?;
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
            tokio::task::yield_now().await;
        }
    }

    /// Whom a log is for. None where nothing of it goes for its age.
    async fn reach(&self, kind: LogKind, log: &Log) -> Result<Option<Reach>, Failure> {
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
                    _ => Reach::Dead(self.store.last(log).await?.0),
                }
            }
            LogKind::Copy(realm, name, number) => {
                let found = self
                    .record::<CopyRecord>(&records::copy(realm, name))
                    .await?;
                match found {
                    Some((record, _)) if record.log == number => {
                        let place = Place::copy(realm, name, &record);
                        Reach::Readers(Readers::Copy(records::copy_members(realm, name), place))
                    }
                    _ => Reach::Dead(self.store.last(log).await?.0),
                }
            }
            LogKind::Queue => return Ok(None),
        }))
    }

    /// Up to where all readers here of a log have read it; it is not looked further than `wanted`.
    async fn read_by_all(&self, readers: &Readers, wanted: u64) -> Result<u64, Failure> {
        match readers {
            Readers::User(user) => {
                let place = Place::private(*user);
                Ok(self.any_cursor(*user, &place).await?.min(wanted))
            }
            Readers::Group(name, record) => {
                let prefix = records::members(*name, record.epoch);
                let place = Place::group(*name, record);
                self.read_by(&prefix, &place, wanted).await
            }
            Readers::Copy(prefix, place) => self.read_by(prefix, place, wanted).await,
        }
    }

    /// The same of those of this realm who are named behind a prefix.
    async fn read_by(&self, prefix: &Prefix, place: &Place, wanted: u64) -> Result<u64, Failure> {
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
    Copy(Prefix, Place),
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
        if self.bytes - last >= bound / u64::from(GRAINS) {
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
        // What is older than that counts in coarser grains.
        let coarse = retention.unread_age.map_or(grain, self::grain);
        let age = retention.age.map_or(u32::MAX, seconds);
        let mut later: Option<u32> = None;
        let mut kept: Vec<KeptSample> = Vec::with_capacity(self.samples.len());
        for sample in self.samples.drain(..).rev() {
            let is_old = now.saturating_sub(sample.at) > age.saturating_add(grain);
            let is_near = later.is_some_and(|later| later.saturating_sub(sample.at) < coarse);
            // The latest of the old ones says what has been read and may go.
            if !(is_old && is_near) {
                later = is_old.then_some(sample.at);
                kept.push(sample);
            }
        }
        kept.reverse();
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
            let old = |sample: &&KeptSample| now.saturating_sub(sample.at) >= seconds(age);
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

    /// What is up to `position` is not kept any more: the bytes of the rest are counted from the last sample there.
    fn forget_up_to(&mut self, position: u64) {
        let gone = self
            .samples
            .partition_point(|sample| sample.position <= position);
        let Some(last) = gone.checked_sub(1).and_then(|at| self.samples.get(at)) else {
            return;
        };
        let base = last.bytes;
        self.samples.drain(..gone);
        self.bytes -= base;
        for sample in &mut self.samples {
            sample.bytes -= base;
        }
    }
}

fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

/// How far apart two notes of a bound in time are, in seconds.
fn grain(bound: Duration) -> u32 {
    seconds(bound / GRAINS)
}
