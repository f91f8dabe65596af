//! Who is logged in, as answers tell it.

use tokio::time::Instant;

use super::{
    CallError, Client, EntryId, Shared, State,
    outbox::{self, Picked},
    state::{self, Account},
};
use crate::{
    faults::{Fault, is_planted},
    wire::{Answer, Command, ErrorCode, Request, SessionRef},
};

impl Client {
    /// Who reads: the realm is asked where the profile does not know who is logged in, as when it was restored from before its
    /// user had logged in. What is shown is noted for somebody.
    pub(super) async fn reading_account(&self) -> Result<Account, CallError> {
        let shared = &self.shared;
        let known = shared.account()?;
        let is_session_given = shared.options.session.is_some() || shared.state()?.plain;
        if !known.is_nobody_of(known.realm) || is_session_given {
            return Ok(known);
        }
        shared.check_target()?;
        self.start_carrier();
        let login = shared
            .profile
            .read(|records| outbox::last_login(records, known.realm, EntryId(0)))?;
        match shared.ask_who(login, 0, shared.deadline()).await? {
            Answer::Refused(refusal) => Err(CallError::Refused(refusal)),
            _ => shared.account(),
        }
    }
}

impl Shared {
    /// What the answer to an entry says about who is logged in.
    pub(super) fn learn(
        &self,
        id: EntryId,
        request: &Request<'_>,
        answer: &Answer,
    ) -> Result<(), CallError> {
        self.learn_who(Some(id), |state| state.learn(&request.command, answer))
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
        let login = if may_be_done {
            Some(picked.id)
        } else {
            let (realm, _) = self.target()?;
            self.profile
                .read(|records| outbox::last_login(records, realm, picked.id))?
        };
        let answer = self.ask_who(login, picked.number.0, deadline).await?;
        Ok(matches!(answer, Answer::Account(_)).then_some(answer))
    }

    /// Asks who is logged in, which may be since the entry `login`, and by a command of a number up to `since`.
    async fn ask_who(
        &self,
        login: Option<EntryId>,
        since: u64,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let before = self.state()?.session;
        let session = SessionRef::Bound;
        let who = Request::from(Command::WhoAmI { session });
        let answer = self.ask_once(who.to_bytes(), true, deadline).await?;
        self.learn_who(login, |state| match &answer {
            // Somebody has logged in or out since it was asked.
            _ if state.session != before && !is_planted(Fault::BelieveOldWhoAmI) => {}
            Answer::Account(account) => {
                state.username = Some(account.username.as_str().into());
                // Its id was in an answer that is lost; on a sealed link nobody needs it.
                state.session.get_or_insert_default();
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
        change: impl FnOnce(&mut State),
    ) -> Result<(), CallError> {
        let (realm, _) = self.target()?;
        Ok(self.profile.write(|records| {
            let (before, after) = state::update(records, realm, |state| {
                let before = state.username.clone();
                change(state);
                (before, state.username.clone())
            })?;
            match (before, after) {
                (None, Some(username)) => {
                    outbox::adopt(records, &Account { realm, username }, login)
                }
                (_, _) => Ok(()),
            }
        })?)
    }
}
