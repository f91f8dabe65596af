//! Watching (WATCH-1 … WATCH-4): the entries of all of a session's mailboxes, what waits and then what comes, for
//! whoever carries them to the session's device.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    Caller, Failure, Moment, Realm,
    limits::WATCH_READ_BYTES,
    records::{MailboxLog, SessionHash},
    sessions::Current,
    watch_memory::{Held, WATCH_BYTES},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Log, PageLimit, Position, Store, Subscribers, Subscription},
    wire::{
        Answer, Command, Cursors, Entry, ErrorCode, Event, Mailbox, Refusal, Request, SessionRef,
        Unread, Username,
    },
};

/// What a client is asked to wait when watches hold all that they may, in milliseconds.
const WATCHES_FULL_MS: u64 = 30_000;
/// The longest body of an entry that is pushed whole, in bytes.
const PUSHED_BYTES_MAX: usize = 64 << 10;
/// Entries of one mailbox that are read at once.
const READ_ENTRIES: usize = 8;
/// What a watch has read ahead in all its mailboxes together, in bytes; beyond that it reads again what it has not given out.
const AHEAD_MAX: usize = 64 << 10;

/// Whose groups or sessions have changed, for those who watch.
pub type Watched = Subscribers;

/// The log that stands for a user among [`Watched`].
pub fn watched_of(user: Username) -> Log {
    Log(user.as_bytes().into())
}

/// One mailbox that is watched.
#[derive(Debug)]
struct Followed {
    mailbox: Mailbox,
    place: MailboxLog,
    /// The last that was given out.
    position: u64,
    /// There may be more.
    has_grown: bool,
    /// All that had been waiting has arrived.
    is_live: bool,
    read: VecDeque<Entry>,
}

/// An entry to be pushed.
#[derive(Debug)]
pub struct Push {
    /// The event.
    pub bytes: Vec<u8>,
    /// It has just come, and goes before what has been waiting.
    pub is_live: bool,
}

/// The mailboxes of one session.
#[derive(Debug)]
pub struct Watch<S> {
    realm: Arc<Realm<S>>,
    caller: Caller,
    session: SessionHash,
    user: Username,
    cursors: Cursors,
    mailboxes: Vec<Followed>,
    grown: Subscription,
    /// The user's groups or sessions have changed.
    changed: Subscription,
    /// When the session was last used, in the realm's running time.
    used: u32,
    /// The mailbox whose backlog had its turn last.
    turn: usize,
    /// What has been read ahead, in bytes.
    ahead: usize,
    held: Held,
}

impl Followed {
    /// What has been read ahead is read again later.
    fn forget_ahead(&mut self) {
        self.has_grown |= !self.read.is_empty();
        self.read = VecDeque::new();
    }
}

/// What a mailbox takes that is watched, in bytes: itself, its log among those that wake the watch, and there by name.
const FOLLOWED_BYTES: usize = size_of::<Followed>() + 3 * size_of::<Log>();

/// What an entry takes that has been read ahead, in bytes.
fn ahead_of(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.body.len()
}

impl<S: Store> Realm<S> {
    /// Begins to watch: what the session has up to the cursors is confirmed.
    pub(super) async fn begin_watch(
        &self,
        caller: &Caller,
        session: SessionRef,
        cursors: &Cursors,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let mailboxes = self.mailboxes_of(current.user).await?.len();
        let bytes = WATCH_BYTES + mailboxes * FOLLOWED_BYTES;
        if !self.watch_memory.has_room(current.user, bytes) {
            return Err(Refusal::busy(WATCHES_FULL_MS).into());
        }
        self.confirm_all(caller, &current, cursors).await?;
        Ok(Answer::Done)
    }

    /// Confirms what a reader names (READ-3).
    async fn confirm_all(
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

    /// Counts what the device has not confirmed; what it has up to the cursors is confirmed before.
    pub(super) async fn unread(
        &self,
        caller: &Caller,
        session: SessionRef,
        cursors: &Cursors,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        self.confirm_all(caller, &current, cursors).await?;
        let owner = current.owner();
        let mut counts = Vec::new();
        for (mailbox, place) in self.mailboxes_of(current.user).await? {
            let read = self.confirmed(current.user, &owner, &place).await?;
            let last = self.store.last(&place.log).await?.0;
            let mut count = last.saturating_sub(read);
            if count > 0 {
                let one = PageLimit {
                    entries: 1,
                    bytes: 1,
                };
                let page = self.store.read(&place.log, Position(read), one).await?;
                let first = page.entries.first().map_or(last + 1, |(first, _)| first.0);
                let gone = first.saturating_sub(read + 1).min(count);
                // What is not kept any more is one entry that says so (READ-11).
                count = count - gone + gone.min(1);
            }
            if count > 0 {
                counts.push(Unread { mailbox, count });
            }
        }
        Ok(Answer::Unread(counts))
    }

    /// The watch that a `watch` command, which was answered `done`, has begun.
    pub async fn watch(self: &Arc<Self>, caller: &Caller, command: &[u8]) -> Option<Watch<S>> {
        let Ok(Request {
            command: Command::Watch { session, cursors },
            ..
        }) = Request::parse(command)
        else {
            return None;
        };
        let begun = async {
            let current = self.session(caller, session).await?;
            let mut watch = Watch {
                realm: Arc::clone(self),
                caller: *caller,
                session: current.hash,
                user: current.user,
                cursors,
                mailboxes: Vec::new(),
                grown: self.store.subscribe(&[]),
                changed: self.watched.subscribe(&[watched_of(current.user)]),
                used: current.record.last,
                turn: 0,
                ahead: 0,
                held: self.watch_memory.watch(current.user),
            };
            watch.look_again(&current).await?;
            Ok::<_, Failure>(watch)
        };
        match begun.await {
            Ok(watch) => Some(watch),
            Err(failure) => {
                self.note("watch", &failure);
                None
            }
        }
    }

    /// Where a mailbox of a user is, if it is theirs.
    async fn place_of(
        &self,
        user: Username,
        mailbox: &Mailbox,
    ) -> Result<Option<MailboxLog>, Failure> {
        Ok(match *mailbox {
            Mailbox::Private => Some(MailboxLog::private(user)),
            Mailbox::Realm(realm) => Some(MailboxLog::from_realm(user, realm)),
            Mailbox::Group(group) => self.joined_place(user, group).await?,
            Mailbox::RealmGroup(realm, group) => self.copied_place(user, realm, group).await?,
        })
    }
}

impl<S: Store> Watch<S> {
    /// The next entry to be pushed, as soon as there is one; none once the session has ended. `backlog`: also what
    /// has been waiting; `on_the_way`: some of that is on its way still. Nothing is lost when this is dropped
    /// before it is done.
    pub async fn next(
        &mut self,
        now: &(dyn Fn() -> Moment + Sync),
        backlog: bool,
        on_the_way: bool,
    ) -> Option<Push> {
        loop {
            self.caller.now = now();
            // Of who has no session any more, also what has been read already stays here.
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
            match self.look(backlog, on_the_way).await {
                Ok(Some(push)) => return Some(push),
                Ok(None) => {}
                Err(failure) => {
                    self.realm.note("watch", &failure);
                    return None;
                }
            }
            // The time is told in whole seconds.
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

    /// The user's groups or sessions are others than before.
    async fn change(&mut self) -> Option<()> {
        let current = self.current().await?;
        match self.look_again(&current).await {
            Ok(()) => Some(()),
            Err(failure) => {
                self.realm.note("watch", &failure);
                None
            }
        }
    }

    /// For how long the session lasts if nobody uses it.
    fn left(&self) -> Duration {
        let unused = self.caller.now.running.saturating_sub(self.used);
        let ttl = self.realm.limits.session_ttl;
        ttl.saturating_sub(Duration::from_secs(unused.into()))
    }

    /// The session, as long as it is there.
    async fn current(&mut self) -> Option<Current> {
        let (device, now) = (self.caller.device.as_ref(), self.caller.now);
        let found = self.realm.load_session(self.session, device, now).await;
        let current = found.ok().flatten()?;
        self.used = current.record.last;
        Some(current)
    }

    /// The session, which an entry that is pushed uses (SES-4).
    async fn use_session(&mut self) -> Option<Current> {
        let current = self.current().await?;
        let current = self
            .realm
            .use_session(current, self.caller.now)
            .await
            .ok()?;
        self.used = current.record.last;
        Some(current)
    }

    /// Finds out which mailboxes there are; those that are known go on where they are.
    async fn look_again(&mut self, current: &Current) -> Result<(), Failure> {
        let owner = current.owner();
        let mut known = std::mem::take(&mut self.mailboxes);
        for (mailbox, place) in self.realm.mailboxes_of(self.user).await? {
            let same =
                |watched: &Followed| watched.mailbox == mailbox && watched.place.log == place.log;
            if let Some(at) = known.iter().position(same) {
                let mut watched = known.swap_remove(at);
                // Made again: of the one before it nothing is pushed any more.
                watched.read.retain(|entry| entry.position.0 > place.floor);
                watched.position = watched.position.max(place.floor);
                watched.place = place;
                self.mailboxes.push(watched);
                continue;
            }
            let mut cursors = self.cursors.0.iter();
            let position = match cursors.find(|(named, _)| *named == mailbox) {
                Some((_, Position(named)))
                    if self.caller.believed(Some(*named)).is_some()
                        && !self.realm.is_ahead(&place, *named).await? =>
                {
                    (*named).max(place.floor)
                }
                _ => self.realm.confirmed(self.user, &owner, &place).await?,
            };
            self.mailboxes.push(Followed {
                mailbox,
                place,
                position,
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
        // What else the command named is of no use: a mailbox that comes later is read from what is confirmed.
        self.cursors = Cursors::default();
        let logs: Vec<Log> = self
            .mailboxes
            .iter()
            .map(|watched| watched.place.log.clone())
            .collect();
        self.grown = self.realm.store.subscribe(&logs);
        // What came between looking and subscribing is looked for.
        for watched in &mut self.mailboxes {
            watched.has_grown = true;
        }
        Ok(())
    }

    /// What has been read ahead, in bytes, counted anew.
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

    /// Holds what it takes, if that may be.
    fn hold(&mut self) -> bool {
        let mailboxes = self.mailboxes.len() * FOLLOWED_BYTES;
        self.held.hold(WATCH_BYTES + mailboxes + self.ahead)
    }

    /// Forgets what has been read ahead in all mailboxes but one.
    fn forget_ahead(&mut self, but: usize) {
        for (at, watched) in self.mailboxes.iter_mut().enumerate() {
            if at != but {
                watched.forget_ahead();
            }
        }
        let left = self.mailboxes.get(but);
        self.ahead = left.map_or(0, |watched| watched.read.iter().map(ahead_of).sum());
    }

    async fn look(&mut self, backlog: bool, on_the_way: bool) -> Result<Option<Push>, Failure> {
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
        if !backlog {
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
                    // From here on its entries may overtake others', and never one another.
                    watched.is_live = !on_the_way;
                }
            }
        }
        Ok(None)
    }

    /// The next entry of one mailbox.
    async fn take(&mut self, at: usize) -> Result<Option<Push>, Failure> {
        let Some(watched) = self.mailboxes.get(at) else {
            return Ok(None);
        };
        if watched.read.is_empty() {
            if !watched.has_grown {
                return Ok(None);
            }
            let (mailbox, position) = (watched.mailbox, watched.position);
            let Some((place, read_up_to)) = self.readable(mailbox).await? else {
                return Ok(None);
            };
            let limit = PageLimit {
                entries: READ_ENTRIES,
                bytes: WATCH_READ_BYTES,
            };
            let after = Position(position.max(place.floor));
            let read = self.realm.entries(&place, after, read_up_to, limit);
            let (entries, more) = read.await?;
            if let Some(watched) = self.mailboxes.get_mut(at) {
                watched.has_grown = more;
                watched.read = entries.into();
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
            self.ahead = self.ahead.saturating_sub(ahead_of(&entry));
            if entry.body.len() > PUSHED_BYTES_MAX {
                // A former release took longer ones than clients put together: they have the first piece, and read the rest.
                entry.cut_back(PUSHED_BYTES_MAX);
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

    /// If what has been read ahead in a mailbox is too much, only the entry that is given out next is kept.
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

    /// Where a mailbox is, as long as the session is there and the mailbox is still its user's; and up to where another
    /// device has read it.
    async fn readable(&mut self, mailbox: Mailbox) -> Result<Option<(MailboxLog, u64)>, Failure> {
        let current = self.use_session().await.ok_or(ErrorCode::NoSession)?;
        let Some(place) = self.realm.place_of(self.user, &mailbox).await? else {
            return Ok(None);
        };
        let owner = current.owner();
        let read_up_to = self.realm.read_elsewhere(self.user, &owner, &place).await?;
        Ok(Some((place, read_up_to)))
    }
}
