//! The logged-in account, as the realm's answers report it.

use blake2::{Blake2s256, Digest as _};
use tokio::time::Instant;

use super::{
    CallError, Client, EntryId, Shared, State,
    answer::{CommandKind, unexpected},
    calls::retry_after,
    outbox::{Outbox, OutboxView, Picked},
    state::{self, Account, UNNAMED},
};
use crate::{
    crypto::PublicKey,
    endpoint::EarlyData,
    faults::{Fault, is_planted},
    wire::{self, Answer, Command, ErrorCode, Refusal, Request, SessionRef, command},
};

/// Who is logged in on this device, as the realm has answered.
#[derive(Clone, Debug)]
pub(super) enum LoggedIn {
    /// The user with this account.
    As(wire::Account),
    /// Nobody: the realm knows no session of the device.
    Nobody(Refusal),
}

impl Client {
    /// Returns the account that reads. Asks the realm if the profile does not know the logged-in
    /// account, as after a restore from a time before the login. Messages shown are recorded for
    /// this account.
    pub(super) async fn reading_account(&self) -> Result<Account, CallError> {
        let shared = &self.shared;
        let known = shared.reader_account()?;
        let state = shared.state()?;
        let is_known = !known.is_nobody_of(known.realm) && !state.is_in_doubt(state.session_ref());
        if state.plain || shared.options.session.is_some() {
            return Ok(known);
        }
        let is_named =
            state.named().is_some() || (state.session.is_none() && !shared.has_login()?);
        if is_known && (is_named || shared.is_sure()?) {
            return Ok(known);
        }
        shared.check_target()?;
        self.start_carrier();
        match shared.ask_who_patiently(0, shared.deadline()).await? {
            LoggedIn::Nobody(refusal) => Err(CallError::Refused(refusal)),
            LoggedIn::As(_) => shared.account(),
        }
    }

    /// Returns how a read names its session. A read may confirm messages, which cannot be undone.
    /// So the session is named in full while the device's session may be another user's: until the
    /// realm was heard on the link, and while the outcome of a login is unknown.
    pub(super) fn reading_session(&self) -> Result<SessionRef, CallError> {
        // Checked before the state is read: whatever makes it certain is in the state by then.
        let is_sure = self.shared.is_sure()?;
        let session = self.session()?;
        let named = self.state()?.named();
        match named.filter(|_| session == SessionRef::Bound) {
            Some(named) if !is_sure => Ok(named),
            _ => Ok(session),
        }
    }
}

impl Shared {
    /// True while the outcome of a login is unknown.
    fn has_login(&self) -> Result<bool, CallError> {
        let (realm, _) = self.target()?;
        Ok(self
            .profile
            .read(|records| OutboxView::of(records).last_login(realm, None))?
            .is_some())
    }

    /// True if the device's session is certainly the profile's: the realm was heard on the open
    /// link and reported the numbers it has seen, and no login is pending.
    fn is_sure(&self) -> Result<bool, CallError> {
        let status = self.link_status_now();
        let record = &self.link_record;
        let is_heard =
            status.is_some_and(|status| status.open && record.is_complete(status.opened));
        Ok((is_heard && !self.has_login()?) || is_planted(Fault::ReadAsBound))
    }

    /// Like [`Shared::ask_who`], repeated while the realm is busy and time is left.
    pub(super) async fn ask_who_patiently(
        &self,
        since: u64,
        deadline: Instant,
    ) -> Result<LoggedIn, CallError> {
        loop {
            match self.ask_who(None, since, deadline).await {
                Err(CallError::Busy(refusal)) => {
                    let wait = retry_after(refusal);
                    if Instant::now() + wait >= deadline {
                        return Err(CallError::Refused(refusal));
                    }
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
    }

    /// Returns the account that reads: the user's, or one that stands for the session given in the
    /// options, whose user is unknown.
    pub(super) fn reader_account(&self) -> Result<Account, CallError> {
        let account = self.account()?;
        let Some(session) = self.options.session else {
            return Ok(account);
        };
        // No username looks like this. The hash of the session id does not reveal the session.
        let hash = PublicKey(Blake2s256::digest(session.0).into());
        Ok(Account {
            username: format!("#{hash}"),
            ..account
        })
    }

    /// Learns from the answer to a login. `since` is the number of the last known login. If another
    /// login may have overtaken this one, the realm is asked, because that user may be logged in
    /// now. Returns false if this cannot be decided.
    pub(super) async fn learn_own_login(
        &self,
        id: EntryId,
        since: u64,
        request: &Request<'_>,
        answer: &Answer,
        deadline: Instant,
    ) -> Result<bool, CallError> {
        let (realm, _) = self.target()?;
        let (Command::Auth(command::Auth { username, .. })
        | Command::Register(command::Register { username, .. })) = request.command
        else {
            self.learn(id, request, answer)?;
            return Ok(true);
        };
        let number = request.command.operation();
        let is_late = number.is_some_and(|operation| operation.number.0 <= since);
        let others = self
            .profile
            .read(|records| OutboxView::of(records).last_login(realm, Some(id)))?;
        if let (true, Answer::Session(_)) = (is_late || others.is_some(), answer) {
            match self.ask_who(Some(id), since, deadline).await {
                Ok(LoggedIn::As(now)) if now.username != username => return Ok(true),
                // Either login may have reached the realm last.
                Err(_) if is_late => return Ok(false),
                Ok(_) | Err(_) => {}
            }
        }
        self.learn(id, request, answer)?;
        Ok(true)
    }

    /// Names the session of a command that may only run as `account` (EXACT-7). Returns false if
    /// another user has logged in.
    pub(super) async fn name_own_session(
        &self,
        request: &mut Request<'_>,
        account: &Account,
        deadline: Instant,
    ) -> Result<bool, CallError> {
        let Some(session) = request.command.session_mut() else {
            return Ok(true);
        };
        let state = self.state()?;
        if *session == SessionRef::Bound {
            *session = state.session_ref().ok_or(CallError::NotLoggedIn)?;
            if state.is_in_doubt(Some(*session)) {
                self.ask_who_patiently(0, deadline).await?;
            }
        }
        Ok(self.account()? == *account || is_planted(Fault::NumbersOverLogin))
    }

    /// Handles a number that was refused because a session was opened after it. If this profile
    /// does not know that session, asks the realm for the logged-in account.
    pub(super) async fn learn_who_came(
        &self,
        refusal: Refusal,
        number: u64,
        session: Option<SessionRef>,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let is_news = refusal.code == ErrorCode::NoSession
            && session == Some(SessionRef::Bound)
            && number > self.state()?.since
            && !is_planted(Fault::NumbersOverLogin);
        if is_news {
            self.ask_who_patiently(number, deadline).await?;
        }
        Ok(())
    }

    /// Learns from the answer to an entry which account is logged in.
    pub(super) fn learn(
        &self,
        id: EntryId,
        request: &Request<'_>,
        answer: &Answer,
    ) -> Result<(), CallError> {
        self.learn_who(Some(id), &mut |state| state.learn(&request.command, answer))
    }

    /// Asks for the logged-in account after a command with a password whose outcome was unknown.
    /// `may_be_done` is true if it may have taken effect. Returns the account if the command was a
    /// login and a user is logged in.
    pub(super) async fn learn_login(
        &self,
        picked: &Picked,
        may_be_done: bool,
        deadline: Instant,
    ) -> Result<Option<wire::Account>, CallError> {
        if !picked.is_login || self.state()?.plain {
            return Ok(None);
        }
        let login = may_be_done.then_some(picked.id);
        // This entry may no longer have opened the session.
        let ruled_out = Some(picked.id);
        let asked = self.ask_who_since(login, ruled_out, picked.number.0, deadline);
        Ok(match Box::pin(asked).await? {
            LoggedIn::As(account) => Some(account),
            LoggedIn::Nobody(_) => None,
        })
    }

    /// Asks the realm for the logged-in account. The login may be the entry `login`, or a pending
    /// one, with a number up to `since`.
    pub(super) async fn ask_who(
        &self,
        login: Option<EntryId>,
        since: u64,
        deadline: Instant,
    ) -> Result<LoggedIn, CallError> {
        // Boxed because the future is large and seldom used.
        Box::pin(self.ask_who_since(login, None, since, deadline)).await
    }

    async fn ask_who_since(
        &self,
        login: Option<EntryId>,
        ruled_out: Option<EntryId>,
        since: u64,
        deadline: Instant,
    ) -> Result<LoggedIn, CallError> {
        let (realm, _) = self.target()?;
        let pending = self
            .profile
            .read(|records| OutboxView::of(records).last_login(realm, ruled_out))?;
        let login = login.or(pending);
        let before = self.state()?.session;
        let session = SessionRef::Bound;
        let who = Request::from(Command::WhoAmI(command::WhoAmI { session }));
        let who = match self
            .ask_once(who.to_bytes(), EarlyData::Allowed, deadline, None)
            .await?
        {
            Answer::Account(account) => LoggedIn::As(account),
            Answer::Refused(refusal) if refusal.code == ErrorCode::NoSession => {
                LoggedIn::Nobody(refusal)
            }
            // The account remains unknown.
            Answer::Refused(refusal) => return Err(CallError::Busy(refusal)),
            other => return Err(unexpected(&other, CommandKind::Read)),
        };
        self.learn_who(login, &mut |state| match &who {
            // A user has logged in or out since the request.
            _ if state.session != before => {}
            LoggedIn::As(account) => {
                let username = Some(String::from(account.username.as_str()));
                // The id of the new session was in a lost answer.
                if state.username != username || login.is_some() || state.session.is_none() {
                    state.session = Some(UNNAMED);
                }
                state.username = username;
                state.is_logged_out = false;
                state.since = state.since.max(since);
            }
            LoggedIn::Nobody(_) => {
                state.session = None;
                state.is_logged_out = true;
            }
        })?;
        Ok(who)
    }

    /// Records the logged-in account. The login may be the entry `login`.
    fn learn_who(
        &self,
        login: Option<EntryId>,
        change: &mut dyn FnMut(&mut State),
    ) -> Result<(), CallError> {
        let (realm, _) = self.target()?;
        Ok(self.profile.write(|records| {
            let was_known = state::load(records, realm)?.username.is_some();
            state::update(records, realm, change)?;
            match state::load(records, realm)?.username {
                Some(username) if !was_known => {
                    Outbox::of(records).adopt(&Account { realm, username }, login)
                }
                _ => Ok(()),
            }
        })?)
    }
}
