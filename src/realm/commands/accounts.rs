//! Accounts: `register`, `auth`, `passwd` (ACC-1 … ACC-4).

use crate::realm::{
    Realm,
    accounts::{NewAccount, check_password},
    commands::work::Work,
    failure::Failure,
    limits::Guess,
};
use crate::{
    store::Store,
    wire::{ErrorCode, SessionId, Username, command},
};

impl<S: Store> Realm<S> {
    async fn open_session(
        &self,
        work: &mut Work<'_>,
        user: Username,
    ) -> Result<SessionId, Failure> {
        // A session that ends to make room may be watched.
        work.affected = Some(user);
        let (caller, number) = (work.caller, work.number());
        let opened = self
            .sessions
            .open_session(caller, number, user, &mut work.batch);
        opened.await
    }

    pub(in crate::realm) async fn register(
        &self,
        work: &mut Work<'_>,
        command: &command::Register<'_>,
    ) -> Result<SessionId, Failure> {
        let &command::Register {
            full_name,
            country,
            username,
            password,
            ..
        } = command;
        let new = NewAccount {
            user: username,
            full_name: full_name.0,
            country: country.0,
            password,
            code: work.request.options.code,
        };
        self.accounts
            .register(work.caller, &new, &mut work.hashed, &mut work.batch)
            .await?;
        self.open_session(work, username).await
    }

    /// Logs a user in. ACC-3: neither the answer nor its timing tells an unknown user from a wrong
    /// password.
    pub(in crate::realm) async fn auth(
        &self,
        work: &mut Work<'_>,
        command: &command::Auth<'_>,
    ) -> Result<SessionId, Failure> {
        let &command::Auth {
            username, password, ..
        } = command;
        // If the password changes meanwhile, this one is compared with the new one.
        let account = self.accounts.find(&mut work.batch, username).await?;
        if work.hashed.compared.is_none() {
            self.limiter.login(work.caller)?;
        }
        let guess = self.locations.login_guess(work.caller, username).await?;
        let guess = (work.caller.now, &guess);
        let fits = self
            .accounts
            .verify(guess, account.as_ref(), &password, &mut work.hashed)
            .await?;
        if account.is_none() || !fits {
            return Err(ErrorCode::BadCredentials.into());
        }
        self.open_session(work, username).await
    }

    pub(in crate::realm) async fn passwd(
        &self,
        work: &mut Work<'_>,
        command: &command::Passwd<'_>,
    ) -> Result<(), Failure> {
        let &command::Passwd {
            session, old, new, ..
        } = command;
        let current = self.session_noted(work, session).await?;
        check_password(&new)?;
        let account = self.accounts.find(&mut work.batch, current.user).await?;
        let account = account.ok_or(ErrorCode::NoSession)?;
        if work.hashed.compared.is_none() {
            self.limiter.login(work.caller)?;
        }
        // Users that are logged in are counted separately: nobody else can keep them from changing
        // the password.
        let guess = Guess::LoginFrom(current.user, current.hash);
        let guess = (work.caller.now, &guess);
        if !self
            .accounts
            .verify(guess, Some(&account), &old, &mut work.hashed)
            .await?
        {
            return Err(ErrorCode::WrongPassword.into());
        }
        self.accounts
            .put_password(account, &new, &mut work.hashed, &mut work.batch)
            .await?;
        // All other sessions end, so that nobody stays logged in with the old password (ACC-4).
        let mut others = self
            .sessions
            .sessions_of(&mut work.batch, current.user)
            .await?;
        others.retain(|session| session.hash != current.hash);
        work.affected = Some(current.user);
        self.sessions
            .end_sessions(&others, None, &mut work.batch)
            .await?;
        Ok(())
    }
}
