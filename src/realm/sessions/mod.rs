//! Sessions (SES-1 … SES-6): the user of a command, and how long the session lasts.

pub(super) mod known_locations;
pub(super) mod tickets;

use std::sync::Arc;

use crate::realm::{
    Caller,
    current_session::Current,
    failure::Failure,
    idempotency::Idempotency,
    limits::{Limiter, Limits},
    mailboxes::cursors::ReadCursors,
    random::Random,
    records::{
        self, ChangedRecord, IdleRecord, Owner, Record as _, SessionHash, SessionLink,
        SessionRecord,
    },
    sessions::known_locations::KnownLocations,
    shared::Shared,
    storage::{Notes, Storage},
    time::Moment,
};
use crate::{
    crypto::{MacKey, PublicKey, SecretKey},
    store::{Batch, Expected, Store, StoreError},
    wire::{ErrorCode, Handle, OperationNumber, Refusal, SessionId, SessionRef, Username},
};

/// What the key for hashes of session ids is derived for.
const SESSION_HASHES: &str = "session hashes";
/// A session's last use is recorded when the record is this many seconds old.
const USED_GRAIN: u32 = 3600;
/// The number of sessions of one user that are listed at once.
const SESSIONS_AT_ONCE: usize = 256;

/// The result of a search for the session that a command names.
#[derive(Debug)]
pub enum SessionLookup {
    /// It is open.
    Open(Current),
    /// The command's number is older than the session. Its sender was told then that there is no
    /// session, so the command must not be obeyed now (EXACT-6). Holds the owner of the number.
    Since(Owner),
    /// There is no such session.
    None,
}

/// The sessions of users, and what is kept of their devices.
#[derive(Debug)]
pub struct Sessions<S> {
    storage: Arc<Storage<S>>,
    random: Arc<Random>,
    idempotency: Arc<Idempotency<S>>,
    cursors: Arc<ReadCursors<S>>,
    locations: Arc<KnownLocations<S>>,
    limits: Limits,
    limiter: Arc<Limiter>,
    /// Makes session ids.
    ids: MacKey,
    /// Makes the hashes under which sessions are stored.
    hashes: MacKey,
}

impl<S> Sessions<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(
        shared: &Shared<S>,
        idempotency: Arc<Idempotency<S>>,
        cursors: Arc<ReadCursors<S>>,
        locations: Arc<KnownLocations<S>>,
        lasting: &SecretKey,
    ) -> Self {
        Self {
            storage: shared.storage.clone(),
            random: shared.random.clone(),
            idempotency,
            cursors,
            locations,
            limits: shared.limits,
            limiter: shared.limiter.clone(),
            ids: MacKey::derive(lasting, "session ids"),
            hashes: MacKey::derive(lasting, SESSION_HASHES),
        }
    }
}

impl<S: Store> Sessions<S> {
    /// Returns the owner of the command's operation number. `None` if a plain link opens a session.
    pub(in crate::realm) fn owner(
        &self,
        caller: &Caller,
        session: Option<SessionRef>,
    ) -> Option<Owner> {
        match (caller.device(), session) {
            (Some(device), _) => Some(Owner::Device(device)),
            (None, Some(SessionRef::Named(id))) => Some(Owner::Session(self.session_hash(&id))),
            (None, _) => None,
        }
    }

    pub(in crate::realm) fn session_hash(&self, id: &SessionId) -> SessionHash {
        self.hashes.mac16(&[&id.0])
    }

    /// Returns the id of the session that a command opens. A device's id is derived from its key
    /// and the command's number, so that a repeat gets the same id, though only a hash of it is
    /// kept (SES-2).
    pub(in crate::realm) fn session_id(
        &self,
        caller: &Caller,
        OperationNumber(number): OperationNumber,
        user: Username,
    ) -> SessionId {
        match &caller.device() {
            Some(device) => {
                SessionId(
                    self.ids
                        .mac16(&[&device.0, &number.to_be_bytes(), user.as_bytes()]),
                )
            }
            None => SessionId(self.random.random()),
        }
    }

    /// Returns the session that a command is for that changes nothing. This counts as a use of it.
    pub(in crate::realm) async fn session(
        &self,
        caller: &Caller,
        session: SessionRef,
    ) -> Result<Current, Failure> {
        let current = self.open_session_of(caller, session, None).await?;
        self.limiter.command(caller.now, &current.user)?;
        self.use_session(current, caller.now).await
    }

    /// Returns the session that a command names, as [`Sessions::find_session`]; refuses the command
    /// if it is not open.
    pub(in crate::realm) async fn open_session_of(
        &self,
        caller: &Caller,
        session: SessionRef,
        number: Option<OperationNumber>,
    ) -> Result<Current, Failure> {
        match self.find_session(caller, session, number).await? {
            SessionLookup::Open(current) => Ok(current),
            SessionLookup::Since(owner) => {
                let highest = self.idempotency.highest(&owner).await?;
                Err(Refusal::number(ErrorCode::NoSession, highest).into())
            }
            SessionLookup::None => Err(ErrorCode::NoSession.into()),
        }
    }

    /// Finds the session that a command names. `number` is the operation number of a command that
    /// changes something.
    pub(in crate::realm) async fn find_session(
        &self,
        caller: &Caller,
        session: SessionRef,
        number: Option<OperationNumber>,
    ) -> Result<SessionLookup, Failure> {
        let found = match (session, &caller.device()) {
            (SessionRef::Bound, Some(device)) => self.bound_session(device, caller.now).await?,
            (SessionRef::Bound, None) => None,
            (SessionRef::Named(id), _) => {
                let hash = self.session_hash(&id);
                self.load_session(hash, caller.device().as_ref(), caller.now)
                    .await?
            }
        };
        Ok(match found {
            Some(current) if number.is_some_and(|number| number.0 <= current.record.since) => {
                SessionLookup::Since(current.owner())
            }
            Some(current) => SessionLookup::Open(current),
            None => SessionLookup::None,
        })
    }

    /// Records that a session is in use, if the record is old.
    pub(in crate::realm) async fn use_session(
        &self,
        current: Current,
        now: Moment,
    ) -> Result<Current, Failure> {
        // A short lifetime needs a finer grain.
        let ttl = u32::try_from(self.limits.session_ttl.as_secs()).unwrap_or(u32::MAX);
        if now.running.saturating_sub(current.record.last) >= USED_GRAIN.min(ttl / 8) {
            // This is rare and has a large future: it is boxed.
            return Box::pin(self.touch(current, now)).await;
        }
        Ok(current)
    }

    /// Returns the session bound to a device, if there is one.
    pub(in crate::realm) async fn bound_session(
        &self,
        device: &PublicKey,
        now: Moment,
    ) -> Result<Option<Current>, Failure> {
        match self
            .storage
            .record::<SessionLink>(&records::device(device))
            .await?
        {
            Some((link, _)) => self.load_session(link.session, Some(device), now).await,
            None => Ok(None),
        }
    }

    pub(in crate::realm) async fn load_session(
        &self,
        hash: SessionHash,
        device: Option<&PublicKey>,
        now: Moment,
    ) -> Result<Option<Current>, Failure> {
        let Some((record, version)) = self
            .storage
            .record::<SessionRecord>(&records::session(&hash))
            .await?
        else {
            return Ok(None);
        };
        // A session id that leaks is useless to other devices.
        let is_for = record
            .device
            .is_none_or(|bound| device.is_some_and(|device| device.0 == bound));
        let is_alive =
            u64::from(now.running.saturating_sub(record.last)) < self.limits.session_ttl.as_secs();
        if !is_for || !is_alive {
            return Ok(None);
        }
        let damaged = |_| StoreError::Damaged("the user of a session".into());
        let user = record.user.parse().map_err(damaged)?;
        Ok(Some(Current {
            hash,
            user,
            record,
            version,
        }))
    }

    /// Records that a session is in use. In the last half of its time before it expires, this also
    /// works on a full disk: its user could not open another session, which needs room.
    async fn touch(&self, mut current: Current, now: Moment) -> Result<Current, Failure> {
        let unused = u64::from(now.running.saturating_sub(current.record.last));
        let is_urgent = unused >= self.limits.session_ttl.as_secs() / 2;
        current.record.used = now.wall;
        current.record.last = now.running;
        let mut batch = if is_urgent {
            Batch::tidying()
        } else {
            Batch::new()
        };
        current.rely_on(&mut batch);
        batch.put(records::session(&current.hash), current.record.to_value()?);
        // Another command may have touched or ended it: commits that rely on it will conflict. A
        // full disk must not keep anybody from reading.
        if let Some(version) = self.storage.commit_if_possible(batch).await? {
            current.version = version;
        }
        Ok(current)
    }

    /// Opens a session for `user`, bound to the caller's device if it has proved one. `number` is
    /// the command's.
    pub(in crate::realm) async fn open_session(
        &self,
        caller: &Caller,
        number: OperationNumber,
        user: Username,
        batch: &mut Batch,
    ) -> Result<SessionId, Failure> {
        let id = self.session_id(caller, number, user);
        let hash = self.session_hash(&id);
        let now = caller.now;
        let record = SessionRecord {
            user: user.as_str().into(),
            device: caller.device().map(|device| device.0),
            created: now.wall,
            used: now.wall,
            last: now.running,
            operator: false,
            // On a plain link the session has its own numbers.
            since: caller.device().map_or(0, |_| number.0),
        };
        let owner = match &caller.device() {
            Some(device) => Owner::Device(*device),
            None => Owner::Session(hash),
        };
        self.make_room(user, &owner, batch).await?;
        self.locations.remember(caller, user, batch).await?;
        sessions_change(user, batch)?;
        self.cursors.link(user, &owner, batch).await?;
        let link = SessionLink { session: hash }.to_value()?;
        batch.put(records::session(&hash), record.to_value()?).put(
            records::handle(user, Handle::of_session(&hash)),
            link.clone(),
        );
        if let Some(device) = &caller.device() {
            batch.put(records::device(device), link);
        }
        Ok(id)
    }

    /// Adds to `batch` that a session is an operator's.
    pub(in crate::realm) fn make_operator(
        current: Current,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let record = SessionRecord {
            operator: true,
            ..current.record
        };
        batch.put(records::session(&current.hash), record.to_value()?);
        Ok(())
    }

    /// Ends the sessions unused for longest until there is room for one more.
    async fn make_room(
        &self,
        user: Username,
        staying: &Owner,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let mut all = self.sessions_of(batch, user).await?;
        all.sort_by_key(|current| current.record.last);
        let surplus = (all.len() + 1).saturating_sub(self.limits.sessions_max.max(1));
        all.truncate(surplus);
        self.end_sessions(&all, Some(staying), batch).await
    }

    /// Returns all of a user's sessions that still exist.
    pub(in crate::realm) async fn sessions_of(
        &self,
        notes: &mut impl Notes,
        user: Username,
    ) -> Result<Vec<Current>, Failure> {
        let changed = records::sessions_changed(user);
        self.storage.noted::<ChangedRecord>(notes, &changed).await?;
        let prefix = records::handles(user);
        let mut all = Vec::new();
        let mut after = None;
        // All sessions are read, whatever the configured bound: a change of password ends all
        // others (ACC-4).
        loop {
            let links = self
                .storage
                .list(&prefix, after.as_ref(), SESSIONS_AT_ONCE)
                .await?;
            let is_last = links.len() < SESSIONS_AT_ONCE;
            after = links.last().map(|(key, _)| key.clone());
            for (_, link) in links {
                let SessionLink { session: hash } = SessionLink::from_value(&link.value)?;
                if let Some((record, version)) =
                    self.storage.record(&records::session(&hash)).await?
                {
                    all.push(Current {
                        hash,
                        user,
                        record,
                        version,
                    });
                }
            }
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Adds to `batch` the end of some sessions of one user: the sessions, their handles and their
    /// devices' bindings. Also removes the cursors of devices that have no other session and are
    /// not `staying`.
    pub(in crate::realm) async fn end_sessions(
        &self,
        ending: &[Current],
        staying: Option<&Owner>,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let Some(user) = ending.first().map(|current| current.user) else {
            return Ok(());
        };
        let all = self.sessions_of(batch, user).await?;
        sessions_change(user, batch)?;
        let is_ending = |current: &Current| ending.iter().any(|other| other.hash == current.hash);
        let left = all.iter().filter(|current| !is_ending(current));
        let mut reading: Vec<Owner> = left.map(Current::owner).collect();
        reading.extend(staying);
        for current in ending {
            self.end_session(current, batch).await?;
            let owner = current.owner();
            if !reading.contains(&owner) {
                self.cursors.unlink(user, &owner, batch).await?;
                // One entry is enough.
                reading.push(owner);
            }
        }
        Ok(())
    }

    /// Adds to `batch` the end of a session: the session, its handle and its device's binding.
    async fn end_session(&self, current: &Current, batch: &mut Batch) -> Result<(), Failure> {
        batch
            .delete(records::session(&current.hash))
            .delete(records::handle(
                current.user,
                Handle::of_session(&current.hash),
            ));
        let Some(bytes) = current.record.device else {
            let numbers = records::operations_of(current.hash);
            if !self.storage.is_empty(&numbers).await? {
                put_ended(current, batch)?;
            }
            return Ok(());
        };
        let key = records::device(&PublicKey(bytes));
        if let Some((link, version)) = self.storage.record::<SessionLink>(&key).await?
            && link.session == current.hash
        {
            batch.expect(key.clone(), Expected::At(version)).delete(key);
        }
        Ok(())
    }
}

/// Adds to `batch` that a plain link's session that has used numbers ends: its recorded answers are
/// removed later (EXACT-14).
pub(in crate::realm) fn put_ended(current: &Current, batch: &mut Batch) -> Result<(), Failure> {
    // The next pass over the store notes the time.
    let ended = IdleRecord {
        since: 0,
        newest: 0,
        is_session: true,
    };
    batch.put(records::idle(current.hash), ended.to_value()?);
    Ok(())
}

/// Makes every decision that depends on the user's sessions conflict.
fn sessions_change(user: Username, batch: &mut Batch) -> Result<(), Failure> {
    let key = records::sessions_changed(user);
    batch.put(key, ChangedRecord {}.to_value()?);
    Ok(())
}
