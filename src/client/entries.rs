//! The outbox as seen by users of the client: list, wait, cancel.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    CallError, Client, End, EntryId, Notice, ProfileError, Shared,
    outbox::{self, Aim, Outbox, OutboxView, Outcome, Reason},
    state, store,
};
use crate::wire::{Answer, ErrorCode};

/// An entry of the outbox, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxEntry {
    /// Its id in this profile.
    pub id: EntryId,
    /// The command and its target.
    pub what: String,
    /// The connection string of its realm. Empty if the profile has forgotten the realm, or cannot
    /// read its record.
    pub realm: String,
    /// The user it belongs to.
    pub username: String,
    /// When it was typed, in seconds since 1970.
    pub created: u64,
    /// Its state.
    pub state: OutboxState,
    /// How many attempts were made.
    pub attempts: u32,
    /// The length of its command, in bytes.
    pub bytes: u32,
}

/// The state of an outbox entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxState {
    /// Nothing of it was sent.
    Kept,
    /// It may have been executed: its answer has not arrived.
    Unknown,
    /// It is being cancelled.
    Cancelling,
}

/// The result of waiting for an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The entry ended like this.
    Ended(End),
    /// It is still waiting.
    Waits,
    /// It is finished, and another process of the profile has reported the outcome.
    ToldElsewhere,
    /// There is no such entry, or its outcome has been reported already.
    NoSuchEntry,
}

/// The result of cancelling an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// It has certainly not been executed, and never will be.
    Cancelled,
    /// It turned out to have been executed or refused before.
    Ended(End),
    /// Not known yet: the realm was not reached. It is asked as soon as it is reachable.
    Asked,
    /// There is no such entry.
    NoSuchEntry,
}

impl Client {
    /// Returns all entries of the outbox, of all accounts, in the order in which they were typed.
    ///
    /// # Errors
    /// [`CallError::Profile`] if the profile cannot be read.
    pub fn outbox(&self) -> Result<Vec<OutboxEntry>, CallError> {
        Ok(self.shared.profile.read(|records| {
            let mut entries = Vec::new();
            for (id, entry) in OutboxView::of(records).list()? {
                // A realm that was never heard from may have been forgotten. One that cannot be
                // read must not hide the entries: they can be cancelled.
                let server = match state::load(records, entry.account().realm) {
                    Err(ProfileError::Damaged(_)) => None,
                    state => state?.server,
                };
                let realm = server.map_or_else(String::new, |server| server.to_string());
                entries.push(OutboxEntry {
                    id,
                    what: entry.what().into(),
                    realm,
                    username: entry.account().username.clone(),
                    created: entry.created(),
                    state: match entry.aim() {
                        Aim::Cancel(_) => OutboxState::Cancelling,
                        Aim::Do if entry.may_have_left() => OutboxState::Unknown,
                        Aim::Do => OutboxState::Kept,
                    },
                    attempts: entry.attempts(),
                    bytes: entry.bytes(),
                });
            }
            Ok(entries)
        })?)
    }

    /// Waits for the outcome of an entry, at most until the deadline. The outcome is then reported:
    /// no other call or notice reports it again.
    ///
    /// # Errors
    /// If the entry cannot be sent to its realm at all, or the profile cannot be used.
    pub async fn outbox_wait_for(&self, id: EntryId) -> Result<Awaited, CallError> {
        let deadline = self.shared.deadline();
        let known = |records: &dyn store::Records| {
            Ok(OutboxView::of(records).find(id)?.is_some()
                || OutboxView::of(records).has_done_of(id)?)
        };
        if !self.shared.profile.read(known)? {
            return Ok(Awaited::NoSuchEntry);
        }
        if self
            .shared
            .profile
            .read(|records| OutboxView::of(records).find(id))?
            .is_some()
        {
            self.shared.check_target()?;
            self.start_carrier();
        }
        self.shared.progress.begin_waiting(id);
        let settled = self.shared.settled(id, deadline).await;
        self.shared.progress.end_waiting(id);
        Ok(match settled? {
            Some(outcome) => Awaited::Ended(end(&outcome)),
            None if self.shared.is_there(id)? => Awaited::Waits,
            None => Awaited::ToldElsewhere,
        })
    }

    /// Waits until all entries of the account are settled. Returns false if that takes longer than
    /// the deadline, or if another user turns out to be logged in: then the entries wait for their
    /// user. The outcomes are among the notices.
    ///
    /// # Errors
    /// As [`Client::outbox_wait_for`].
    pub async fn outbox_wait(&self) -> Result<bool, CallError> {
        let deadline = self.shared.deadline();
        if !self
            .shared
            .profile
            .read(|records| OutboxView::of(records).has_entries())?
        {
            return Ok(true);
        }
        self.shared.check_target()?;
        self.start_carrier();
        let account = self.shared.account()?;
        let settled = self.shared.until(deadline, |records| {
            let user = state::load(records, account.realm)?.username;
            let is_other = user.is_some_and(|user| user != account.username);
            if is_other && !account.is_nobody_of(account.realm) {
                // Unsettled entries wait for their user.
                return Ok(Some(false));
            }
            // A login that was given up belongs to nobody. The next user cancels it.
            let is_ours = |entry: &outbox::Entry| {
                let of = entry.account();
                *of == account || (entry.is_secret() && of.is_nobody_of(account.realm))
            };
            let waits = OutboxView::of(records)
                .list()?
                .iter()
                .any(|(_, entry)| is_ours(entry));
            Ok((!waits).then_some(true))
        });
        Ok(settled.await? == Some(true))
    }

    /// Cancels an entry. If nothing of it was sent, it has certainly not been executed. Otherwise
    /// the realm reports whether it was executed, if it is reached within the deadline.
    ///
    /// # Errors
    /// As [`Client::outbox_wait_for`].
    pub async fn outbox_cancel(&self, id: EntryId) -> Result<Withdrawn, CallError> {
        let deadline = self.shared.deadline();
        let now = self.shared.host.time_of_day();
        match self
            .shared
            .profile
            .write(|records| Outbox::of(records).cancel(id, now))?
        {
            outbox::Cancelled::Certainly => return Ok(Withdrawn::Cancelled),
            outbox::Cancelled::NoSuchEntry => return Ok(Withdrawn::NoSuchEntry),
            outbox::Cancelled::Asked => {}
        }
        self.shared.check_target()?;
        self.start_carrier();
        self.shared.progress.notify_added();
        Ok(match self.shared.settled(id, deadline).await? {
            None if !self.shared.is_there(id)? => Withdrawn::NoSuchEntry,
            None => Withdrawn::Asked,
            Some(outcome) => match end(&outcome) {
                End::Cancelled => Withdrawn::Cancelled,
                end => Withdrawn::Ended(end),
            },
        })
    }

    /// Waits for the outbox to be sent while there is progress: until it is empty, nothing was
    /// settled for `patience`, or `limit` is over. Call it before the process ends.
    ///
    /// # Errors
    /// If the profile cannot be read.
    pub async fn drain(&self, patience: Duration, limit: Duration) -> Result<(), CallError> {
        if !self.shared.is_carrier() {
            return Ok(());
        }
        let account = self.shared.account()?;
        let end = Instant::now() + limit;
        let left = || {
            self.shared.profile.read(|records| {
                let entries = OutboxView::of(records).list()?;
                Ok(entries
                    .iter()
                    .filter(|(_, entry)| *entry.account() == account)
                    .count())
            })
        };
        let mut before = left()?;
        while before > 0 {
            let settled = self.shared.progress.settled();
            let until = (Instant::now() + patience).min(end);
            if tokio::time::timeout_at(until, settled).await.is_err() {
                return Ok(());
            }
            before = left()?;
        }
        Ok(())
    }
}

impl Shared {
    fn is_there(&self, id: EntryId) -> Result<bool, CallError> {
        Ok(self
            .profile
            .read(|records| OutboxView::of(records).find(id))?
            .is_some())
    }

    /// Returns the outcomes of entries for which no call waits any more.
    pub(super) fn untold(&self) -> Result<Vec<Notice>, CallError> {
        let account = self.account()?;
        if !self
            .profile
            .read(|records| OutboxView::of(records).has_done())?
        {
            return Ok(Vec::new());
        }
        let now = self.host.time_of_day();
        let untold = self
            .profile
            .write(|records| Outbox::of(records).take_untold(&account, now))?;
        Ok(untold
            .into_iter()
            .map(|(id, done)| Notice::Finished {
                id,
                what: done.what,
                end: end(&done.outcome),
            })
            .collect())
    }
}

/// Returns the outcome of an entry.
pub(super) fn end(outcome: &Outcome) -> End {
    match outcome {
        Outcome::Answer(bytes) => match Answer::parse(bytes) {
            Ok(Answer::Refused(refusal)) => End::Refused(refusal),
            Ok(answer) => End::Done(answer),
            Err(_) => End::Unknown,
        },
        Outcome::NotDone(Reason::Cancelled | Reason::NotKept) => End::Cancelled,
        Outcome::NotDone(Reason::Expired) => End::Expired,
        Outcome::NotDone(Reason::Damaged) => End::Damaged,
        Outcome::NotDone(Reason::NoSession) => End::Refused(ErrorCode::NoSession.into()),
        Outcome::Unknown => End::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::ChaCha20Rng};

    use super::*;
    use crate::{
        client::{Memory, Options, Profile, outbox::Waiting, store::Records},
        crypto::SecretKey,
        host::Host,
        wire::{Body, Command, Operation, Request, SessionRef, command},
    };

    /// Returns a client of a realm that nothing here reaches, after a change of its records.
    fn open(
        memory: &Memory,
        change: impl FnOnce(&mut dyn Records) -> Result<(), ProfileError>,
    ) -> Result<Client, CallError> {
        let key = SecretKey::generate(&mut ChaCha20Rng::seed_from_u64(1));
        let profile = Profile::in_memory(key, memory.clone());
        profile.write(change)?;
        let options = Options {
            server: Some("merpati://127.0.0.1:9".parse().unwrap()),
            plain: true,
            ..Options::default()
        };
        Client::open_on(Host::Real, profile, options)
    }

    #[tokio::test]
    async fn outbox_lists_and_cancels_entries_of_unreadable_realm() {
        let memory = Memory::default();
        let client = open(&memory, |_| Ok(())).unwrap();
        let account = client.shared.account().unwrap();
        let request = Request::from(Command::Send(command::Send {
            operation: Operation::UNNUMBERED,
            session: SessionRef::Bound,
            to: "bob".parse().unwrap(),
            message: Body(b"hello"),
        }));
        let now = Duration::from_secs(1_000_000);
        let new = outbox::New {
            account: account.clone(),
            request: &request,
            waiting: Waiting::default(),
            now,
        };
        let added = client
            .shared
            .profile
            .write(|records| Outbox::of(records).add_unnamed(&new));
        let outbox::AddedUnnamed::Entry(id) = added.unwrap() else {
            panic!("not added");
        };
        assert_eq!(client.outbox().unwrap()[0].realm, "merpati://127.0.0.1:9");
        drop(client);
        // Its realm becomes unreadable, and is added anew.
        let realm = [b"r/".as_slice(), &account.realm.0.to_be_bytes()].concat();
        let damage = |records: &mut dyn Records| store::put_bytes(records, &realm, b"x");
        let client = open(&memory, damage).unwrap();
        assert_ne!(client.shared.account().unwrap().realm, account.realm);
        let notices = client.take_notices();
        assert!(matches!(&*notices, [Notice::Damaged { .. }]), "{notices:?}");
        let listed = client.outbox().unwrap();
        assert_eq!((listed[0].id, listed[0].realm.as_str()), (id, ""));
        let cancelled = client.outbox_cancel(id).await.unwrap();
        assert_eq!(cancelled, Withdrawn::Cancelled);
        assert!(client.outbox().unwrap().is_empty());
    }
}
