//! The one thread that writes. Group commit: whatever waits when it looks goes to the disk together,
//! so an idle store commits at once, and a busy disk is asked once for many.

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
    disk_space::{Room, Space},
    error::read_error,
    health::{Health, Writing},
    layout::{self, Latest, Seal},
    memtables::Memtables,
    waiters::{Answer, Desk, Outcome},
    write_behind::{Behind, Rows, Sweep},
    writes::Writes,
};

/// Batches that share one sync.
const GROUP_MAX: usize = 512;
/// Logs whose end is remembered from one group to the next, so that appending needs no look-up.
const ENDS_MAX: usize = 65_536;
/// Entries that one batch trims; the rest of a longer trim goes when the log is trimmed next.
const TRIM_MAX: usize = 10_000;

/// A batch on its way to the disk.
#[derive(Debug)]
pub struct Job {
    pub batch: Batch,
    pub answer: oneshot::Sender<Outcome>,
    /// Where the answer is given out.
    pub desk: Desk,
}

/// What the writer says of what is on the disk.
pub struct Durable {
    /// What the seals begin with.
    pub token: [u8; 8],
    /// The version of the last group that is on the disk.
    pub version: Arc<AtomicU64>,
    /// Whether all writes have succeeded so far.
    pub health: Arc<Health>,
    /// As a planted fault, writing goes on after one has failed.
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
    behind: Arc<Behind>,
    rows: Rows,
    subscribers: Arc<Subscribers>,
    version: u64,
    ends: HashMap<Log, u64>,
    /// Where logs that were trimmed lately begin.
    begins: HashMap<Log, u64>,
    room: Room,
    durable: Durable,
}

/// The changes of one group, and what they make of the keys they touch.
struct Group {
    writes: Writes,
    values: HashMap<Key, Latest>,
    grown: Vec<Log>,
    /// Up to where logs have been trimmed.
    trimmed: HashMap<Log, u64>,
}

/// What is on the disk of the logs that a batch shortens.
#[derive(Default)]
struct Found {
    /// For each trim, in their order: the keys of the entries that it removes, and of one more if there are more.
    entries: VecDeque<Vec<UserKey>>,
    /// Up to where logs have been trimmed.
    trimmed: HashMap<Log, u64>,
    /// Logs that are to be forgotten and have entries.
    filled: HashSet<Log>,
}

impl Found {
    /// The first position of a log that has not been trimmed, in the group so far.
    fn mark_of(&self, log: &Log, group: &Group) -> u64 {
        let on_disk = || self.trimmed.get(log).map_or(1, |end| end + 1);
        group.trimmed.get(log).copied().unwrap_or_else(on_disk)
    }
}

/// Tells everybody what has become of their batch, all at one desk together.
fn give_out(answers: Vec<(Desk, Answer)>, failed: Option<&StoreError>) {
    let mut desks: Vec<(Desk, Vec<Answer>)> = Vec::new();
    for (desk, mut answer) in answers {
        if let (Some(error), Ok(_)) = (failed, &answer.outcome) {
            answer.outcome = Err(error.clone().into());
        }
        match desks.iter_mut().find(|(known, _)| known.is(&desk)) {
            Some((_, theirs)) => theirs.push(answer),
            None => desks.push((desk, vec![answer])),
        }
    }
    for (desk, answers) in desks {
        desk.give_out(answers);
    }
}

/// Adds what comes while others have their turn on the processor: where they have work, several batches share the sync,
/// and where they have none this takes no time.
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
        (rows, behind): (Rows, Arc<Behind>),
        subscribers: Arc<Subscribers>,
        room: Room,
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

    /// Writes until nobody is left who could ask.
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
        // Only between groups: of what a group appends the disk does not know yet.
        if self.ends.len() >= ENDS_MAX {
            self.ends.clear();
        }
        if self.begins.len() >= ENDS_MAX {
            self.begins.clear();
        }
        // What the engine has failed to write before may yet reach the disk, or not: nothing can be put upon it.
        let (space, mut failed) = match self.space() {
            Ok(space) => (space, None),
            Err(error) => (Space::Enough, Some(error)),
        };
        let mut accepted = 0;
        let mut answers = Vec::with_capacity(jobs.len());
        for Job {
            batch,
            answer: to,
            desk,
        } in jobs.drain(..)
        {
            let decided = if let Some(error) = &failed {
                Err(error.clone().into())
            } else if !space.admits(&batch) {
                Err(CommitError::Full)
            } else {
                // If it is refused, nothing of it is in the group: the others go on.
                self.expects(&batch, &group).and_then(|found| {
                    let applied = self.apply(batch, found, &mut group);
                    accepted += 1;
                    // A batch that failed half-way must not reach the disk, and with it none of its group.
                    failed = applied.as_ref().err().cloned();
                    applied.map_err(CommitError::from)
                })
            };
            answers.push((
                desk,
                Answer {
                    to,
                    outcome: decided,
                },
            ));
        }
        // Without room nothing is written unasked: a write that fails for it ends all reading, too.
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
            // What was remembered may not have happened.
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

    /// How much may be written now.
    fn space(&mut self) -> Result<Space, StoreError> {
        self.durable.health.check()?;
        let unflushed = self.memtables.bytes();
        let space = self.room.look(unflushed);
        if space == Space::None {
            // Whether the engine has failed does not matter yet: without room it cannot be opened again.
            return Ok(space);
        }
        // Asked before a group is written: a write that meets an engine that has failed ends all reading.
        let has_place = self.memtables.check();
        match has_place.and_then(|()| self.memtables.make_place()) {
            Ok(true) => Ok(space),
            Ok(false) => Ok(Space::None),
            // Reading goes on until there is room to open the store again. The keeper logs it.
            Err(_) if !self.room.can_reopen(unflushed) => Ok(Space::None),
            Err(error) => {
                let error = error.into();
                self.durable.fail(&error);
                Err(error)
            }
        }
    }

    /// Writes what a group changes, and what it brings to its place.
    fn write(&mut self, group: &mut Group, sweep: &Sweep) -> Result<(), StoreError> {
        let none = Writes::new(&self.database, &self.data);
        let mut writes = core::mem::replace(&mut group.writes, none);
        if !group.values.is_empty() {
            let mut row = Vec::new();
            for (key, latest) in &group.values {
                layout::add_to_row(&mut row, key, latest);
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

    /// Checks one batch against the disk and the group so far. All that its changes depend on is read here, before anything is
    /// changed: what cannot be read then keeps nobody else's batch from the disk.
    fn expects(&mut self, batch: &Batch, group: &Group) -> Result<Found, CommitError> {
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
        let mut found = Found::default();
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

    /// The keys of the entries on the disk that a trim removes, and of one more if there are more.
    fn entries_below(&self, log: &Log, below: Position) -> Result<Vec<UserKey>, StoreError> {
        // What has been trimmed is slow to pass over.
        let begin = self.begins.get(log).copied().unwrap_or_default();
        let from = layout::entry(log, Position(begin));
        let to = layout::entry(log, Position(below.0.max(begin)));
        let entries = self.data.range(from..to).take(TRIM_MAX + 1);
        entries.map(|guard| guard.key().map_err(unread)).collect()
    }

    /// Adds the changes of a batch to the group.
    fn apply(
        &mut self,
        batch: Batch,
        mut found: Found,
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

    /// The last position given out in `log`; 0 when there was none.
    fn end_of(&mut self, log: &Log) -> Result<&mut u64, StoreError> {
        Ok(match self.ends.entry(log.clone()) {
            Entry::Occupied(end) => end.into_mut(),
            Entry::Vacant(place) => place.insert(find_end(&self.data, log)?),
        })
    }

    /// Removes entries below a position, so many at most; the mark says up to where they are gone.
    fn trim(
        &mut self,
        log: &Log,
        below: Position,
        found: &mut Found,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let below = below.0.min(*self.end_of(log)? + 1);
        let mark = found.mark_of(log, group);
        let begin = self.begins.get(log).copied().unwrap_or_default();
        let mut gone = begin;
        let entries = found.entries.pop_front().unwrap_or_default();
        let entries = entries
            .into_iter()
            .map(|key| (layout::parse_entry_position(&key).0, key))
            // The batch may have trimmed the log before.
            .skip_while(|(position, _)| *position < begin);
        for (count, (position, key)) in entries.enumerate() {
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

    /// Forgets where a log ended, unless it has entries, be it in the group.
    fn forget(&mut self, log: &Log, found: &Found, group: &mut Group) -> Result<(), StoreError> {
        // It has not been trimmed in the group either, or appended to.
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

/// What cannot be read leaves what can be as good as before.
#[expect(clippy::needless_pass_by_value, reason = "it is what is mapped")]
fn unread(error: fjall::Error) -> StoreError {
    read_error(&error)
}

/// The last position given out in `log`, as the disk has it.
fn find_end(data: &Keyspace, log: &Log) -> Result<u64, StoreError> {
    match data.prefix(layout::log(log)).next_back() {
        // Nothing behind it can have been trimmed.
        Some(last) => Ok(layout::parse_entry_position(&last.key().map_err(unread)?).0),
        None => trimmed_end(data, log),
    }
}

/// The last position of `log` that was trimmed: a log that was trimmed to nothing goes on behind it.
pub fn trimmed_end(data: &Keyspace, log: &Log) -> Result<u64, StoreError> {
    let below = data.get(layout::trimmed(log)).map_err(unread)?;
    Ok(below.map_or(0, |stored| layout::number(&stored).saturating_sub(1)))
}
