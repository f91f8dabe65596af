//! Who is logged in, as answers tell it.

use std::{sync::atomic::Ordering, time::Duration};

use blake2::{Blake2s256, Digest as _};
use tokio::time::Instant;

use super::{
    CallError, Client, EntryId, Shared, State,
    calls::BUSY_WAIT,
    outbox::{self, Picked},
    state::{self, Account, UNNAMED},
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    wire::{Answer, Command, ErrorCode, Refusal, Request, SessionRef},
};

impl Client {
    /// Who reads: the realm is asked where the profile does not know who is logged in, as when it was restored from before its
    /// user had logged in. What is shown is noted for somebody.
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
            Answer::Refused(refusal) => Err(CallError::Refused(refusal)),
            _ => shared.account(),
        }
    }

    /// How a read names its session. It may confirm what it names, and nothing takes that back: so in full where the device's
    /// session may be another user's, which is so until the realm has been heard on the link, and while the outcome of a login is
    /// not known.
    pub(super) fn reading_session(&self) -> Result<SessionRef, CallError> {
        // Before the state is read: what makes it sure has been written there.
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
    /// True while it is not known whether somebody has logged in.
    fn has_login(&self) -> Result<bool, CallError> {
        let (realm, _) = self.target()?;
        Ok(self
            .profile
            .read(|records| outbox::last_login(records, realm, EntryId(0)))?
            .is_some())
    }

    /// True when the device's session is the profile's: the realm has been heard on the link that is open, also which numbers it has
    /// seen, and nobody may have logged in since.
    fn is_sure(&self) -> Result<bool, CallError> {
        let noted = [&self.heard, &self.told].map(|noted| noted.load(Ordering::Acquire));
        let status = self.link_status_now();
        let is_heard = status.is_some_and(|status| status.open && noted == [status.opened; 2]);
        Ok((is_heard && !self.has_login()?) || is_planted(Fault::ReadAsBound))
    }

    /// As [`Shared::ask_who`], again while the realm is busy and there is time.
    pub(super) async fn ask_who_patiently(
        &self,
        since: u64,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        loop {
            match self.ask_who(None, since, deadline).await {
                Err(CallError::Busy(refusal)) => {
                    let wait = refusal.detail.map_or(BUSY_WAIT, Duration::from_millis);
                    if Instant::now() + wait >= deadline {
                        return Err(CallError::Refused(refusal));
                    }
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
    }

    /// Whose reading it is: the user's, or that of the session that was given, of which nobody knows whose it is.
    pub(super) fn reader_account(&self) -> Result<Account, CallError> {
        let account = self.account()?;
        let Some(session) = self.options.session else {
            return Ok(account);
        };
        // No user is called so. What names the session does not open it.
        let hash = PublicKey(Blake2s256::digest(session.0).into());
        Ok(Account {
            username: format!("#{hash}"),
            ..account
        })
    }

    /// What the answer to a login says; `since` is the number of the login that was known before. One that may have been overtaken
    /// by another is asked about: that one's user may be logged in now. False when nobody could say.
    pub(super) async fn learn_own_login(
        &self,
        (id, since): (EntryId, u64),
        request: &Request<'_>,
        answer: &Answer,
        deadline: Instant,
    ) -> Result<bool, CallError> {
        let (realm, _) = self.target()?;
        let (Command::Auth { username, .. } | Command::Register { username, .. }) = request.command
        else {
            self.learn(id, request, answer)?;
            return Ok(true);
        };
        let number = request.command.operation();
        let is_late = number.is_some_and(|operation| operation.number.0 <= since);
        let others = self
            .profile
            .read(|records| outbox::last_login(records, realm, id))?;
        if let (true, Answer::Session(_)) = (is_late || others.is_some(), answer) {
            match self.ask_who(Some(id), since, deadline).await {
                Ok(Answer::Account(now)) if now.username != username => return Ok(true),
                // Of the two either may have reached the realm last.
                Err(_) if is_late => return Ok(false),
                _ => {}
            }
        }
        self.learn(id, request, answer)?;
        Ok(true)
    }

    /// Names the session of a command that is to be done as `account` and as nobody else (EXACT-7). False when somebody else has
    /// logged in.
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
            *session = state.session_ref().unwrap_or(*session);
            if state.is_in_doubt(Some(*session)) {
                self.ask_who_patiently(0, deadline).await?;
            }
        }
        Ok(self.account()? == *account || is_planted(Fault::NumbersOverLogin))
    }

    /// A number was refused because a session was opened after it. If that is not known here, somebody has logged in meanwhile:
    /// who?
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

    /// What the answer to an entry says about who is logged in.
    pub(super) fn learn(
        &self,
        id: EntryId,
        request: &Request<'_>,
        answer: &Answer,
    ) -> Result<(), CallError> {
        self.learn_who(Some(id), &mut |state| state.learn(&request.command, answer))
    }

    /// A command with a password of which it was not known what became, and that `may_be_done`: who is logged in now? The
    /// answer, if it was a login.
    pub(super) async fn learn_login(
        &self,
        picked: &Picked,
        may_be_done: bool,
        deadline: Instant,
    ) -> Result<Option<Answer>, CallError> {
        if !picked.is_login || self.state()?.plain {
            return Ok(None);
        }
        let login = may_be_done.then_some(picked.id);
        // The entry itself may not have opened the session any more.
        let ruled_out = picked.id;
        let answer =
            Box::pin(self.ask_who_since((login, ruled_out), picked.number.0, deadline)).await?;
        Ok(matches!(answer, Answer::Account(_)).then_some(answer))
    }

    /// Asks who is logged in, which may be since the entry `login`, if any, or one whose outcome is not known, and by a command of a
    /// number up to `since`. The answer is an account, or that there is no session.
    pub(super) async fn ask_who(
        &self,
        login: Option<EntryId>,
        since: u64,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        // Seldom, and large: apart.
        Box::pin(self.ask_who_since((login, EntryId(0)), since, deadline)).await
    }

    async fn ask_who_since(
        &self,
        (login, ruled_out): (Option<EntryId>, EntryId),
        since: u64,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let (realm, _) = self.target()?;
        let pending = self
            .profile
            .read(|records| outbox::last_login(records, realm, ruled_out))?;
        let login = login.or(pending);
        let before = self.state()?.session;
        let session = SessionRef::Bound;
        let who = Request::from(Command::WhoAmI { session });
        let answer = self.ask_once(who.to_bytes(), true, deadline, None).await?;
        if let Answer::Refused(refusal) = &answer
            && refusal.code != ErrorCode::NoSession
        {
            // Who it is remains unknown.
            return Err(CallError::Busy(*refusal));
        }
        self.learn_who(login, &mut |state| match &answer {
            // Somebody has logged in or out since it was asked.
            _ if state.session != before => {}
            Answer::Account(account) => {
                let username = Some(String::from(account.username.as_str()));
                // The id of a session that was opened since was in an answer that is lost.
                if state.username != username || login.is_some() || state.session.is_none() {
                    state.session = Some(UNNAMED);
                }
                state.username = username;
                state.is_logged_out = false;
                state.since = state.since.max(since);
            }
            Answer::Refused(refusal) if refusal.code == ErrorCode::NoSession => {
                state.session = None;
                state.is_logged_out = true;
            }
            _ => {}
        })?;
        Ok(answer)
    }

    /// Notes who is logged in, which may be since the entry `login`.
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
                    outbox::adopt(records, &Account { realm, username }, login)
                }
                _ => Ok(()),
            }
        })?)
    }
}
