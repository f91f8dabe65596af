//! Watching (WATCH-1 … WATCH-4): a stream of the entries of all of a session's mailboxes, first the
//! backlog and then new ones, for the task that sends them to the session's device.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    Caller, Realm,
    current_session::Current,
    failure::Failure,
    limits::WATCH_READ_BYTES,
    mailboxes::{
        blocks::{Blocked, UNREAD_LOOKED_AT},
        reading::Reader,
        watch_memory::{Held, WATCH_BYTES},
    },
    records::{MailboxLog, SessionHash},
    time::Moment,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Log, PageLimit, Position, Store, Subscription},
    wire::{
        Cursors, Entry, ErrorCode, Event, Mailbox, Refusal, SessionRef, Unread, Username, command,
    },
};

/// How long a client is asked to wait when watches use all their memory, in milliseconds.
const WATCHES_FULL_MS: u64 = 30_000;
/// The longest body of an entry that is pushed whole, in bytes.
const PUSHED_BYTES_MAX: usize = 64 << 10;
/// The number of entries of one mailbox that are read at once.
const READ_ENTRIES: usize = 8;
/// The most that a watch reads ahead in all its mailboxes together, in bytes. Beyond that, entries
/// that were not returned are dropped and read again later.
const AHEAD_MAX: usize = 64 << 10;

/// A mailbox that is watched.
#[derive(Debug)]
struct Followed {
    mailbox: Mailbox,
    place: MailboxLog,
    /// The position of the last entry that was returned.
    position: u64,
    /// The number of entries just before that position that were hidden (BLK-3).
    hidden: usize,
    /// True if there may be more entries.
    has_grown: bool,
    /// True if its whole backlog has arrived.
    is_live: bool,
    read: VecDeque<Entry>,
}

/// An entry to be pushed.
#[derive(Debug)]
pub struct Push {
    /// The event.
    pub bytes: Vec<u8>,
    /// True if it is new: it is sent before the backlog.
    pub is_live: bool,
}

/// How much of a watch's backlog is on its way to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// Nothing: all that was returned has arrived.
    Arrived,
    /// A part, and more may be returned.
    Underway,
    /// As much as may be: only new entries are returned.
    Full,
}

/// A watch over the mailboxes of one session.
#[derive(Debug)]
pub struct Watch<S> {
    realm: Arc<Realm<S>>,
    caller: Caller,
    session: SessionHash,
    user: Username,
    cursors: Cursors,
    blocked: Blocked,
    mailboxes: Vec<Followed>,
    grown: Subscription,
    /// Wakes when the user's groups or sessions change.
    changed: Subscription,
    /// When the session was last used, in the realm's running time.
    used: u32,
    /// The mailbox whose backlog was served last.
    turn: usize,
    /// The memory of the entries that were read ahead, in bytes.
    ahead: usize,
    held: Held,
}

impl Followed {
    /// Drops the entries that were read ahead. They are read again later.
    fn forget_ahead(&mut self) {
        self.has_grown |= !self.read.is_empty();
        self.read = VecDeque::new();
    }
}

/// The memory of a mailbox that is watched, in bytes: itself, its log in the watch's subscriptions,
/// and its entry there by name.
const FOLLOWED_BYTES: usize = size_of::<Followed>() + 3 * size_of::<Log>();

/// Returns the memory of an entry that was read ahead, in bytes.
fn ahead_of(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.body.len()
}

impl<S: Store> Realm<S> {
    /// Begins a watch. Entries up to the given cursors are confirmed.
    pub(super) async fn begin_watch(
        &self,
        caller: &Caller,
        session: SessionRef,
        cursors: &Cursors,
    ) -> Result<(), Failure> {
        let current = self.sessions.session(caller, session).await?;
        let mailboxes = self.groups.mailboxes_of(current.user).await?.len();
        let bytes = WATCH_BYTES + mailboxes * FOLLOWED_BYTES;
        if !self.mailboxes.has_room_to_watch(current.user, bytes) {
            return Err(Refusal::busy(WATCHES_FULL_MS).into());
        }
        self.cursors.confirm_all(caller, &current, cursors).await?;
        Ok(())
    }

    /// Counts the entries that the device has not confirmed. First confirms those up to the given
    /// cursors.
    pub(super) async fn unread(
        &self,
        caller: &Caller,
        session: SessionRef,
        cursors: &Cursors,
    ) -> Result<Vec<Unread>, Failure> {
        let current = self.sessions.session(caller, session).await?;
        self.cursors.confirm_all(caller, &current, cursors).await?;
        let owner = current.owner();
        let blocked = self.blocks.blocked_by(current.user).await?;
        let mut left = UNREAD_LOOKED_AT;
        let mut counts = Vec::new();
        for (mailbox, place) in self.groups.mailboxes_of(current.user).await? {
            let read = self.cursors.confirmed(current.user, &owner, &place).await?;
            let last = self.storage.last(&place.log).await?.0;
            let mut count = last.saturating_sub(read);
            if count > 0 {
                let first = self.storage.entry_behind(&place.log, Position(read));
                let first = first.await?.map_or(last + 1, |(first, _)| first.0);
                let gone = first.saturating_sub(read + 1).min(count);
                // Entries that are not kept any more count as the one entry that says so (READ-11).
                count = count - gone + gone.min(1);
                let blocked = blocked.within(mailbox);
                let hidden = self
                    .mailboxes
                    .count_hidden(&place, (read, last), blocked, &mut left);
                count = count.saturating_sub(hidden.await?);
            }
            if count > 0 {
                counts.push(Unread { mailbox, count });
            }
        }
        let looked_at = UNREAD_LOOKED_AT - left;
        self.limiter.charge(caller.now, &current.user, looked_at);
        Ok(counts)
    }

    /// Returns the watch that a `watch` command, which was answered `done`, has begun.
    pub(super) async fn watch(
        self: &Arc<Self>,
        caller: &Caller,
        command::Watch { session, cursors }: &command::Watch,
    ) -> Option<Watch<S>> {
        let (session, cursors) = (*session, cursors.clone());
        let begun = async {
            let current = self.sessions.session(caller, session).await?;
            let mut watch = Watch {
                realm: Arc::clone(self),
                caller: *caller,
                session: current.hash,
                user: current.user,
                cursors,
                blocked: Blocked::default(),
                mailboxes: Vec::new(),
                grown: self.storage.subscribe(&[]),
                changed: self.mailboxes.subscribe_user(current.user),
                used: current.record.last,
                turn: 0,
                ahead: 0,
                held: self.mailboxes.reserve_watch(current.user),
            };
            watch.look_again(&current).await?;
            Ok::<_, Failure>(watch)
        };
        match begun.await {
            Ok(watch) => Some(watch),
            Err(failure) => {
                self.storage.log_failure("watch", &failure);
                None
            }
        }
    }
}

impl<S: Store> Watch<S> {
    /// Returns the next entry to push, as soon as there is one, or `None` once the session has
    /// ended.
    ///
    /// Nothing is lost when this future is dropped before it is done.
    pub async fn next(
        &mut self,
        now: &(dyn Fn() -> Moment + Sync),
        backlog: Backlog,
    ) -> Option<Push> {
        loop {
            self.caller.now = now();
            // Without a session, even entries that were read already are not sent.
            let has_changed = tokio::select! {
                biased;
                changed = self.changed.grown() => changed.map(|_| true)?,
                () = std::future::ready(()) => false,
            };
            if has_changed && !is_planted(Fault::WatchOutlivesSession) {
                self.change().await?;
            } else if self.left() == Duration::ZERO {
                self.current().await?;
            }
            match self.look(backlog).await {
                Ok(Some(push)) => return Some(push),
                Ok(None) => {}
                Err(failure) => {
                    self.realm.storage.log_failure("watch", &failure);
                    return None;
                }
            }
            // Times are in whole seconds.
            let left = self.left() + Duration::from_secs(1);
            tokio::select! {
                biased;
                grown = self.grown.grown() => {
                    for at in grown? {
                        if let Some(watched) = self.mailboxes.get_mut(at) {
                            watched.has_grown = true;
                        }
                    }
                }
                () = tokio::time::sleep(left) => {}
                changed = self.changed.grown() => {
                    changed?;
                    self.caller.now = now();
                    self.change().await?;
                }
            }
        }
    }

    /// Handles a change of the user's groups or sessions.
    async fn change(&mut self) -> Option<()> {
        let current = self.current().await?;
        match self.look_again(&current).await {
            Ok(()) => Some(()),
            Err(failure) => {
                self.realm.storage.log_failure("watch", &failure);
                None
            }
        }
    }

    /// Returns how long the session lasts if it is not used.
    fn left(&self) -> Duration {
        let unused = self.caller.now.running.saturating_sub(self.used);
        let ttl = self.realm.limits.session_ttl;
        ttl.saturating_sub(Duration::from_secs(unused.into()))
    }

    /// Returns the session, if it still exists.
    async fn current(&mut self) -> Option<Current> {
        let (device, now) = (self.caller.device(), self.caller.now);
        let found = self
            .realm
            .sessions
            .load_session(self.session, device.as_ref(), now)
            .await;
        let current = found.ok().flatten()?;
        self.used = current.record.last;
        Some(current)
    }

    /// Returns the session and counts the pushed entry as a use of it (SES-4).
    async fn use_session(&mut self) -> Option<Current> {
        let current = self.current().await?;
        let current = self
            .realm
            .sessions
            .use_session(current, self.caller.now)
            .await
            .ok()?;
        self.used = current.record.last;
        Some(current)
    }

    /// Updates the list of mailboxes. Known ones keep their positions.
    async fn look_again(&mut self, current: &Current) -> Result<(), Failure> {
        let owner = current.owner();
        let blocked = self.realm.blocks.blocked_by(self.user).await?;
        // What was read ahead for other blocks is read again.
        let has_other_blocks = core::mem::replace(&mut self.blocked, blocked) != self.blocked;
        let mut known = std::mem::take(&mut self.mailboxes);
        for (mailbox, place) in self.realm.groups.mailboxes_of(self.user).await? {
            let same =
                |watched: &Followed| watched.mailbox == mailbox && watched.place.log == place.log;
            if let Some(at) = known.iter().position(same) {
                let mut watched = known.swap_remove(at);
                // The group was made again: nothing of the former one is pushed any more.
                watched.read.retain(|entry| entry.position.0 > place.floor);
                if has_other_blocks {
                    watched.forget_ahead();
                }
                watched.position = watched.position.max(place.floor);
                watched.place = place;
                self.mailboxes.push(watched);
                continue;
            }
            let mut cursors = self.cursors.0.iter();
            let position = match cursors.find(|(named, _)| *named == mailbox) {
                Some((_, Position(named)))
                    if self.caller.believed(Some(*named)).is_some()
                        && !self.realm.mailboxes.is_ahead(&place, *named).await? =>
                {
                    (*named).max(place.floor)
                }
                _ => {
                    self.realm
                        .cursors
                        .confirmed(self.user, &owner, &place)
                        .await?
                }
            };
            self.mailboxes.push(Followed {
                mailbox,
                place,
                position,
                hidden: 0,
                has_grown: true,
                is_live: false,
                read: VecDeque::new(),
            });
        }
        self.ahead = self
            .mailboxes
            .iter()
            .flat_map(|watched| &watched.read)
            .map(ahead_of)
            .sum();
        if !self.hold() {
            self.forget_ahead(usize::MAX);
            if !self.hold() {
                return Err(Refusal::busy(WATCHES_FULL_MS).into());
            }
        }
        // The other cursors of the command are dropped: a mailbox that is added later is read from
        // the confirmed position.
        self.cursors = Cursors::default();
        let logs: Vec<Log> = self
            .mailboxes
            .iter()
            .map(|watched| watched.place.log.clone())
            .collect();
        self.grown = self.realm.storage.subscribe(&logs);
        // Entries may have arrived between the read and the subscription.
        for watched in &mut self.mailboxes {
            watched.has_grown = true;
        }
        Ok(())
    }

    /// Returns the memory of the entries that were read ahead, in bytes, by counting anew.
    #[cfg(test)]
    pub fn read_ahead(&self) -> usize {
        let counted = self
            .mailboxes
            .iter()
            .flat_map(|watched| &watched.read)
            .map(ahead_of)
            .sum();
        assert_eq!(self.ahead, counted);
        counted
    }

    /// Reserves the memory that it needs. False if there is none.
    fn hold(&mut self) -> bool {
        let mailboxes = self.mailboxes.len() * FOLLOWED_BYTES;
        let bytes = WATCH_BYTES + mailboxes + self.blocked.bytes() + self.ahead;
        self.held.hold(bytes)
    }

    /// Drops the entries that were read ahead in all mailboxes but one.
    fn forget_ahead(&mut self, but: usize) {
        for (at, watched) in self.mailboxes.iter_mut().enumerate() {
            if at != but {
                watched.forget_ahead();
            }
        }
        let left = self.mailboxes.get(but);
        self.ahead = left.map_or(0, |watched| watched.read.iter().map(ahead_of).sum());
    }

    async fn look(&mut self, backlog: Backlog) -> Result<Option<Push>, Failure> {
        for at in 0..self.mailboxes.len() {
            if self
                .mailboxes
                .get(at)
                .is_some_and(|watched| watched.is_live)
                && let Some(push) = self.take(at).await?
            {
                return Ok(Some(push));
            }
        }
        if backlog == Backlog::Full {
            return Ok(None);
        }
        let count = self.mailboxes.len();
        for step in 1..=count {
            let at = (self.turn + step) % count;
            if self
                .mailboxes
                .get(at)
                .is_some_and(|watched| !watched.is_live)
            {
                if let Some(push) = self.take(at).await? {
                    self.turn = at;
                    return Ok(Some(push));
                }
                if let Some(watched) = self.mailboxes.get_mut(at) {
                    // From now on its entries may overtake those of other mailboxes, but never each
                    // other.
                    watched.is_live = backlog == Backlog::Arrived;
                }
            }
        }
        Ok(None)
    }

    /// Returns the next entry of one mailbox.
    async fn take(&mut self, at: usize) -> Result<Option<Push>, Failure> {
        let Some(watched) = self.mailboxes.get(at) else {
            return Ok(None);
        };
        if watched.read.is_empty() {
            if !watched.has_grown {
                return Ok(None);
            }
            let (mailbox, position) = (watched.mailbox, watched.position);
            let hidden = watched.hidden;
            let Some((place, read_up_to)) = self.readable(mailbox).await? else {
                return Ok(None);
            };
            let limit = PageLimit {
                entries: READ_ENTRIES,
                bytes: WATCH_READ_BYTES,
            };
            let after = Position(position.max(place.floor));
            let reader = Reader {
                read_up_to,
                blocked: self.blocked.within(mailbox),
                hidden,
            };
            let shown = self
                .realm
                .mailboxes
                .shown(&place, after, reader, limit)
                .await?;
            let limiter = &self.realm.limiter;
            limiter.charge(self.caller.now, &self.user, shown.hidden);
            if let Some(watched) = self.mailboxes.get_mut(at) {
                watched.has_grown = shown.more;
                if shown.entries.is_empty() {
                    watched.position = shown.passed.0;
                    watched.hidden += shown.hidden;
                }
                watched.read = shown.entries.into();
                if watched.read.len() > 1 && is_planted(Fault::SkipEntry) {
                    watched.read.pop_front();
                }
                self.ahead += watched.read.iter().map(ahead_of).sum::<usize>();
            }
            if !is_planted(Fault::ReadAheadWithoutEnd) && (self.ahead > AHEAD_MAX || !self.hold()) {
                self.forget_ahead(at);
                self.keep_first(at);
            }
        }
        let Some(watched) = self.mailboxes.get_mut(at) else {
            return Ok(None);
        };
        Ok(watched.read.pop_front().map(|mut entry| {
            watched.position = entry.position.0;
            watched.hidden = 0;
            self.ahead = self.ahead.saturating_sub(ahead_of(&entry));
            if entry.body.len() > PUSHED_BYTES_MAX {
                // A former release accepted longer entries than clients reassemble. Clients get the
                // first piece and read the rest.
                entry.fragment_to(PUSHED_BYTES_MAX);
            }
            let mut bytes = Vec::new();
            Event {
                mailbox: watched.mailbox,
                entry,
            }
            .emit(&mut bytes);
            Push {
                bytes,
                is_live: watched.is_live,
            }
        }))
    }

    /// If too much was read ahead in a mailbox, keeps only the entry that is returned next.
    fn keep_first(&mut self, at: usize) {
        if self.ahead <= AHEAD_MAX && self.hold() {
            return;
        }
        if let Some(watched) = self.mailboxes.get_mut(at) {
            watched.has_grown |= watched.read.len() > 1;
            watched.read.truncate(1);
            self.ahead = watched.read.iter().map(ahead_of).sum();
        }
    }

    /// Returns a mailbox's log and the position up to which another device has read it. Returns
    /// `None` if the session has ended or the mailbox is not its user's any more.
    async fn readable(&mut self, mailbox: Mailbox) -> Result<Option<(MailboxLog, u64)>, Failure> {
        let current = self.use_session().await.ok_or(ErrorCode::NoSession)?;
        let Some(place) = self.realm.cursors.place_of(self.user, &mailbox).await? else {
            return Ok(None);
        };
        let owner = current.owner();
        let read_up_to = self
            .realm
            .cursors
            .read_elsewhere(self.user, &owner, &place)
            .await?;
        Ok(Some((place, read_up_to)))
    }
}
