//! The single writer thread. Group commit: all batches that wait go to the disk together, so an
//! idle store commits at once, and a busy disk syncs once for many.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use fjall::{Database, Keyspace, UserKey};
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{
        Batch, Change, CommitError, Committed, Expected, Key, Log, NAME_BYTES_MAX, Position,
        StoreError, Subscribers, Version,
    },
    cache::{Cache, Lookup},
    disk_space::{DiskSpace, Space},
    dispatchers::{Answer, Dispatcher, Outcome},
    error::read_error,
    health::{Health, Writing},
    layout::{self, Latest, Seal},
    memtables::Memtables,
    write_behind::{Rows, Sweep, WriteBehind},
    writes::Writes,
};

/// The maximum number of batches that share one sync.
const GROUP_MAX: usize = 512;
/// The number of logs whose last position is cached between groups, so that an append needs no
/// look-up.
const ENDS_MAX: usize = 65_536;
/// The maximum number of entries that one batch trims. The rest of a longer trim is removed by the
/// log's next trim.
const TRIM_MAX: usize = 10_000;

/// A batch for the writer.
#[derive(Debug)]
pub struct Job {
    pub batch: Batch,
    pub answer: oneshot::Sender<Outcome>,
    /// The dispatcher that gives out the answer.
    pub dispatcher: Dispatcher,
}

/// What the writer reports about the data on the disk.
pub struct Durable {
    /// The token in the seals.
    pub token: [u8; 8],
    /// The version of the last group on the disk.
    pub version: Arc<AtomicU64>,
    /// Whether all writes have succeeded so far.
    pub health: Arc<Health>,
    /// Planted fault: writes continue after one has failed.
    pub trusts: bool,
}

impl Durable {
    fn fail(&self, error: &StoreError) {
        if !self.trusts {
            self.health.fail(error);
        }
    }
}

/// The writer's state.
pub struct Writer {
    database: Database,
    data: Keyspace,
    memtables: Memtables,
    cache: Arc<Cache>,
    behind: Arc<WriteBehind>,
    rows: Rows,
    subscribers: Arc<Subscribers>,
    version: u64,
    ends: HashMap<Log, u64>,
    /// The first positions of logs that were trimmed recently.
    begins: HashMap<Log, u64>,
    room: DiskSpace,
    durable: Durable,
}

/// The changes of one group, and the resulting states of its keys.
struct Group {
    writes: Writes,
    values: HashMap<Key, Latest>,
    grown: Vec<Log>,
    /// The positions up to which logs are trimmed.
    trimmed: HashMap<Log, u64>,
}

/// The data on the disk for the logs that a batch trims or forgets.
#[derive(Default)]
struct OnDisk {
    /// For each trim, in order: the entries that it removes, and one more if there are more.
    entries: VecDeque<Vec<(Position, UserKey)>>,
    /// The positions up to which logs are trimmed.
    trimmed: HashMap<Log, u64>,
    /// Logs to be forgotten that still have entries.
    filled: HashSet<Log>,
}

impl OnDisk {
    /// Returns the first position of a log that is not trimmed, with the group so far.
    fn mark_of(&self, log: &Log, group: &Group) -> u64 {
        let on_disk = || self.trimmed.get(log).map_or(1, |end| end + 1);
        group.trimmed.get(log).copied().unwrap_or_else(on_disk)
    }
}

/// Gives out the results of all batches, together for each dispatcher.
fn give_out(answers: Vec<(Dispatcher, Answer)>, failed: Option<&StoreError>) {
    let mut dispatchers: Vec<(Dispatcher, Vec<Answer>)> = Vec::new();
    for (dispatcher, mut answer) in answers {
        if let (Some(error), Ok(_)) = (failed, &answer.outcome) {
            answer.outcome = Err(error.clone().into());
        }
        match dispatchers
            .iter_mut()
            .find(|(known, _)| known.is(&dispatcher))
        {
            Some((_, theirs)) => theirs.push(answer),
            None => dispatchers.push((dispatcher, vec![answer])),
        }
    }
    for (dispatcher, answers) in dispatchers {
        dispatcher.give_out(answers);
    }
}

/// Adds the batches that arrive while this thread yields the processor: if other threads have work,
/// several batches share the sync, and otherwise this takes no time.
fn gather(jobs: &mut mpsc::Receiver<Job>, group: &mut Vec<Job>) {
    loop {
        let before = group.len();
        thread::yield_now();
        while group.len() < GROUP_MAX
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        if group.len() == before || group.len() >= GROUP_MAX {
            return;
        }
    }
}

impl Writer {
    pub fn new(
        (database, data, memtables): (Database, Keyspace, Memtables),
        version: u64,
        cache: Arc<Cache>,
        (rows, behind): (Rows, Arc<WriteBehind>),
        subscribers: Arc<Subscribers>,
        room: DiskSpace,
        durable: Durable,
    ) -> Self {
        Self {
            database,
            data,
            memtables,
            cache,
            behind,
            rows,
            subscribers,
            version,
            ends: HashMap::new(),
            begins: HashMap::new(),
            room,
            durable,
        }
    }

    /// Writes until all senders are gone.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let _writing = Writing(Arc::clone(&self.durable.health));
        let mut group = Vec::with_capacity(GROUP_MAX);
        while jobs.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
            gather(&mut jobs, &mut group);
            self.commit_group(&mut group);
        }
    }

    fn commit_group(&mut self, jobs: &mut Vec<Job>) {
        let mut group = Group {
            writes: Writes::new(&self.database, &self.data),
            values: HashMap::with_capacity(jobs.len()),
            grown: Vec::with_capacity(jobs.len()),
            trimmed: HashMap::new(),
        };
        // Only between groups: the disk does not have the appends of the current group yet.
        if self.ends.len() >= ENDS_MAX {
            self.ends.clear();
        }
        if self.begins.len() >= ENDS_MAX {
            self.begins.clear();
        }
        // Data that the engine failed to write earlier may or may not reach the disk: nothing may
        // be written on top of it.
        let (space, mut failed) = match self.space() {
            Ok(space) => (space, None),
            Err(error) => (Space::Enough, Some(error)),
        };
        let mut accepted = 0;
        let mut answers = Vec::with_capacity(jobs.len());
        for Job {
            batch,
            answer: to,
            dispatcher,
        } in jobs.drain(..)
        {
            let decided = if let Some(error) = &failed {
                Err(error.clone().into())
            } else if !space.admits(&batch) {
                Err(CommitError::Full)
            } else {
                // A refused batch adds nothing to the group: the others proceed.
                self.expects(&batch, &group).and_then(|found| {
                    let applied = self.apply(batch, found, &mut group);
                    accepted += 1;
                    // A batch that failed half-way must not reach the disk, so the whole group must
                    // not.
                    failed = applied.as_ref().err().cloned();
                    applied.map_err(CommitError::from)
                })
            };
            answers.push((
                dispatcher,
                Answer {
                    to,
                    outcome: decided,
                },
            ));
        }
        // Without space nothing is written unasked: a write that fails for lack of space ends all
        // reads, too.
        let is_idle = accepted == 0 && space != Space::Enough;
        let sweep = if is_idle {
            Sweep::default()
        } else {
            self.rows.sweep(&self.behind)
        };
        if failed.is_none() && !is_idle {
            failed = self.write(&mut group, &sweep).err();
            if let Some(error) = &failed {
                self.durable.fail(error);
            }
        }
        if failed.is_some() {
            // The cached state may not be on the disk.
            self.ends.clear();
            self.begins.clear();
            self.rows.failed();
            for (key, latest) in &group.values {
                self.cache.forget(key, latest.version);
            }
        } else {
            for (key, latest) in &group.values {
                self.cache.changed(key, latest);
            }
            let version = Version(self.version);
            let put = group.values.into_iter();
            self.rows.committed(&self.behind, version, put, &sweep);
            self.cache.note_committed(self.version);
        }
        give_out(answers, failed.as_ref());
        for log in &group.grown {
            self.subscribers.notify(log);
        }
    }

    /// Returns which batches may be written now.
    fn space(&mut self) -> Result<Space, StoreError> {
        self.durable.health.check()?;
        let unflushed = self.memtables.bytes();
        let space = self.room.look(unflushed);
        if space == Space::None {
            // A failure of the engine does not matter yet: without space it cannot be opened again.
            return Ok(space);
        }
        // Checked before a group is written: a write that meets a failed engine ends all reads.
        let has_place = self.memtables.check();
        match has_place.and_then(|()| self.memtables.make_place()) {
            Ok(true) => Ok(space),
            Ok(false) => Ok(Space::None),
            // Reads continue until there is space to open the store again. The keeper logs it.
            Err(_) if !self.room.can_reopen(unflushed) => Ok(Space::None),
            Err(error) => {
                let error = error.into();
                self.durable.fail(&error);
                Err(error)
            }
        }
    }

    /// Writes the changes of a group, and the values that it writes to their places.
    fn write(&mut self, group: &mut Group, sweep: &Sweep) -> Result<(), StoreError> {
        let none = Writes::new(&self.database, &self.data);
        let mut writes = core::mem::replace(&mut group.writes, none);
        if !group.values.is_empty() {
            let mut row = Vec::new();
            for (key, latest) in &group.values {
                layout::add_to_row(&mut row, key, latest)
                    .ok_or_else(|| StoreError::Failed("a value is too long for a row".into()))?;
            }
            writes.insert(&layout::row_key(self.rows.next())[..], row);
        }
        let mut stored = Vec::new();
        for (key, latest) in &sweep.placed {
            let place = &layout::key(key)[..];
            match &latest.value {
                Some(value) => {
                    stored.clear();
                    layout::add_value(&mut stored, latest.version, value);
                    writes.insert(place, &stored[..]);
                }
                None => writes.remove(place),
            }
        }
        if let Some(done) = sweep.done {
            writes.insert(layout::VERSION_KEY, done.0.to_be_bytes());
        }
        if writes.is_empty() {
            return Ok(());
        }
        let seal = Seal {
            token: self.durable.token,
            version: Version(self.version),
        };
        writes.insert(layout::SEAL_KEY, &seal.to_bytes()[..]);
        self.room.note_written(writes.bytes());
        writes.commit()?;
        #[cfg(test)]
        if super::health::scripted::fails(self.durable.health.directory()) {
            return Err(StoreError::Failed("the sync failed, as scripted".into()));
        }
        self.durable.version.store(self.version, Ordering::Release);
        Ok(())
    }

    /// Checks one batch against the disk and the group so far. All data that its changes need is
    /// read here, before anything is changed: so unreadable data does not keep other batches from
    /// the disk.
    fn expects(&mut self, batch: &Batch, group: &Group) -> Result<OnDisk, CommitError> {
        if !batch.names_fit() {
            let reason = format!("a key or log name is longer than {NAME_BYTES_MAX} bytes");
            return Err(CommitError::Refused(reason));
        }
        for (key, expected) in &batch.expectations {
            let found = self.version_of(key, group)?;
            let holds = match expected {
                Expected::Absent => found.is_none(),
                Expected::At(version) => found == Some(*version),
            };
            if !holds {
                return Err(CommitError::Conflict);
            }
        }
        for (log, end) in &batch.ends {
            if *self.end_of(log)? != end.0 {
                return Err(CommitError::Conflict);
            }
        }
        let mut found = OnDisk::default();
        for change in &batch.changes {
            match change {
                Change::Put(..) | Change::Delete(_) => {}
                Change::Append(log, _) => {
                    self.end_of(log)?;
                }
                Change::Trim(log, below) => {
                    self.end_of(log)?;
                    found
                        .trimmed
                        .insert(log.clone(), trimmed_end(&self.data, log)?);
                    found.entries.push_back(self.entries_below(log, *below)?);
                }
                Change::Forget(log) => {
                    self.end_of(log)?;
                    found
                        .trimmed
                        .insert(log.clone(), trimmed_end(&self.data, log)?);
                    if self.data.prefix(layout::log(log)).next().is_some() {
                        found.filled.insert(log.clone());
                    }
                }
            }
        }
        Ok(found)
    }

    /// Returns the entries on the disk that a trim removes, and one more if there are more.
    fn entries_below(
        &self,
        log: &Log,
        below: Position,
    ) -> Result<Vec<(Position, UserKey)>, StoreError> {
        // Trimmed entries are slow to skip.
        let begin = self.begins.get(log).copied().unwrap_or_default();
        let from = layout::entry(log, Position(begin));
        let to = layout::entry(log, Position(below.0.max(begin)));
        let entries = self.data.range(from..to).take(TRIM_MAX + 1);
        let entry = |guard: fjall::Guard| {
            let key = guard.key().map_err(unread)?;
            Ok((parse_position(&key)?, key))
        };
        entries.map(entry).collect()
    }

    /// Adds the changes of a batch to the group.
    fn apply(
        &mut self,
        batch: Batch,
        mut found: OnDisk,
        group: &mut Group,
    ) -> Result<Committed, StoreError> {
        self.version += 1;
        let version = Version(self.version);
        let mut positions = Vec::new();
        for change in batch.changes {
            match change {
                Change::Put(key, value) => {
                    let value = Some(value);
                    group.values.insert(key, Latest { version, value });
                }
                Change::Delete(key) => {
                    let value = None;
                    group.values.insert(key, Latest { version, value });
                }
                Change::Append(log, entry) => {
                    let end = self.end_of(&log)?;
                    *end += 1;
                    let position = Position(*end);
                    let place = &layout::entry(&log, position)[..];
                    group.writes.insert(place, entry);
                    positions.push(position);
                    group.grown.push(log);
                }
                Change::Trim(log, below) => self.trim(&log, below, &mut found, group)?,
                Change::Forget(log) => self.forget(&log, &found, group)?,
            }
        }
        Ok(Committed { version, positions })
    }

    fn version_of(&self, key: &Key, group: &Group) -> Result<Option<Version>, StoreError> {
        if let Some(latest) = group.values.get(key) {
            return Ok(latest.value.as_ref().map(|_| latest.version));
        }
        if let Lookup::Known(known) = self.cache.version(key) {
            return Ok(known);
        }
        if let Lookup::Known(known) = self.behind.version(key) {
            return Ok(known);
        }
        let Some(stored) = self.data.get(layout::key(key)).map_err(unread)? else {
            return Ok(None);
        };
        let damaged = || StoreError::Damaged("a value without its version".into());
        let value = layout::parse_value(&stored).ok_or_else(damaged)?;
        Ok(Some(value.version))
    }

    /// Returns the last position used in `log`; 0 if there was none.
    fn end_of(&mut self, log: &Log) -> Result<&mut u64, StoreError> {
        Ok(match self.ends.entry(log.clone()) {
            Entry::Occupied(end) => end.into_mut(),
            Entry::Vacant(place) => place.insert(find_end(&self.data, log)?),
        })
    }

    /// Removes entries below a position, up to a limit. The mark notes the position up to which
    /// they are gone.
    fn trim(
        &mut self,
        log: &Log,
        below: Position,
        found: &mut OnDisk,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let below = below.0.min(*self.end_of(log)? + 1);
        let mark = found.mark_of(log, group);
        let begin = self.begins.get(log).copied().unwrap_or_default();
        let mut gone = begin;
        let unread = || StoreError::Failed("the entries that a trim removes were not read".into());
        let entries = found.entries.pop_front().ok_or_else(unread)?;
        let entries = entries
            .into_iter()
            // The batch may have trimmed the log before.
            .skip_while(|(position, _)| position.0 < begin);
        for (count, (Position(position), key)) in entries.enumerate() {
            if position >= below {
                break;
            }
            if count == TRIM_MAX {
                gone = position;
                break;
            }
            group.writes.remove(key);
            gone = position + 1;
        }
        self.begins.insert(log.clone(), gone);
        if gone > mark {
            group
                .writes
                .insert(&layout::trimmed(log)[..], gone.to_be_bytes());
            group.trimmed.insert(log.clone(), gone);
        }
        Ok(())
    }

    /// Forgets the last position of a log, unless it has entries on the disk or in the group.
    fn forget(&mut self, log: &Log, found: &OnDisk, group: &mut Group) -> Result<(), StoreError> {
        // The group has neither trimmed it nor appended to it.
        let is_settled =
            !group.trimmed.contains_key(log) && found.trimmed.get(log) == Some(&*self.end_of(log)?);
        if !found.filled.contains(log) && is_settled {
            group.writes.remove(&layout::trimmed(log)[..]);
            group.trimmed.insert(log.clone(), 1);
            self.ends.insert(log.clone(), 0);
            self.begins.remove(log);
        }
        Ok(())
    }
}

/// Converts the error of a failed read. The other records are not affected.
#[expect(clippy::needless_pass_by_value, reason = "it is what is mapped")]
fn unread(error: fjall::Error) -> StoreError {
    read_error(&error)
}

fn parse_position(key: &[u8]) -> Result<Position, StoreError> {
    let damaged = || StoreError::Damaged("an entry without its position".into());
    layout::parse_entry_position(key).ok_or_else(damaged)
}

/// Returns the last position used in `log`, read from the disk.
fn find_end(data: &Keyspace, log: &Log) -> Result<u64, StoreError> {
    match data.prefix(layout::log(log)).next_back() {
        // Nothing behind the last entry can have been trimmed.
        Some(last) => Ok(parse_position(&last.key().map_err(unread)?)?.0),
        None => trimmed_end(data, log),
    }
}

/// Returns the last trimmed position of `log`: a log without entries continues after it.
pub fn trimmed_end(data: &Keyspace, log: &Log) -> Result<u64, StoreError> {
    let Some(stored) = data.get(layout::trimmed(log)).map_err(unread)? else {
        return Ok(0);
    };
    // Read as 0, it would let positions be used again.
    let damaged =
        || StoreError::Damaged("a log without the position up to which it is gone".into());
    let below = layout::number(&stored).ok_or_else(damaged)?;
    Ok(below.saturating_sub(1))
}
