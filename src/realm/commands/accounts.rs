//! Accounts: `register`, `auth`, `passwd` (ACC-1 … ACC-4).

use crate::realm::{
    Realm,
    commands::work::Work,
    failure::Failure,
    identity::Registration,
    limits::Guess,
    records::{self, AccountRecord, Record as _},
};
use crate::{
    crypto::same,
    store::Store,
    wire::{Answer, ErrorCode, PASSWORD_MAX, PASSWORD_MIN, Password, Refusal, Username, command},
};

/// The longest full name and the longest country, in bytes.
const TEXT_MAX: usize = 64;

impl<S: Store> Realm<S> {
    async fn open_session(&self, work: &mut Work<'_>, user: Username) -> Result<Answer, Failure> {
        // A session that ends to make room may be watched.
        work.affected = Some(user);
        let opened = self
            .sessions
            .open_session(work.caller, user, &mut work.batch);
        opened.await.map(Answer::Session)
    }

    pub(in crate::realm) async fn register(
        &self,
        work: &mut Work<'_>,
        command: &command::Register<'_>,
    ) -> Result<Answer, Failure> {
        let &command::Register {
            full_name,
            country,
            username,
            password,
            ..
        } = command;
        for text in [full_name.0, country.0] {
            match text.len() {
                0 => return Err(ErrorCode::BadRequest.into()),
                1..=TEXT_MAX => {}
                _ => return Err(Refusal::too_large(TEXT_MAX as u64).into()),
            }
        }
        check_password(&password)?;
        self.check_code(work)?;
        let key = records::account(username);
        let batch = &mut work.batch;
        if self
            .storage
            .noted::<AccountRecord>(batch, &key)
            .await?
            .is_some()
        {
            return Err(ErrorCode::UsernameTaken.into());
        }
        if work.hashed.made.is_none() {
            self.limiter.registration(work.caller)?;
        }
        let account = AccountRecord {
            full_name: full_name.0.into(),
            country: country.0.into(),
            password: self.credentials.hashed(&password, &mut work.hashed).await?,
            created: work.caller.now.wall,
        };
        work.batch.put(key, account.to_value()?);
        self.policy.put_keeping(&mut work.batch)?;
        self.open_session(work, username).await
    }

    /// ACC-6: refuses a registration if it is closed, or if the code is wrong.
    fn check_code(&self, work: &Work<'_>) -> Result<(), Failure> {
        let given = work.request.options.code;
        match &self.own.registration {
            Registration::Open => Ok(()),
            Registration::Closed => Err(ErrorCode::RegistrationClosed.into()),
            Registration::Code(code) if given.is_some_and(|given| same(&given.0, &code.0)) => {
                Ok(())
            }
            Registration::Code(_) => Err(ErrorCode::WrongCode.into()),
        }
    }

    /// Logs a user in. ACC-3: neither the answer nor its timing tells an unknown user from a wrong
    /// password.
    pub(in crate::realm) async fn auth(
        &self,
        work: &mut Work<'_>,
        command: &command::Auth<'_>,
    ) -> Result<Answer, Failure> {
        let &command::Auth {
            username, password, ..
        } = command;
        let key = records::account(username);
        // If the password changes meanwhile, this one is compared with the new one.
        let found = self
            .storage
            .noted::<AccountRecord>(&mut work.batch, &key)
            .await?;
        let kept = found.as_ref().map(|(account, _)| account.password.clone());
        if work.hashed.compared.is_none() {
            self.limiter.login(work.caller)?;
        }
        let guess = self.sessions.login_guess(work.caller, username).await?;
        let guess = (work.caller.now, &guess);
        let fits = self
            .credentials
            .compare(guess, &password, kept, &mut work.hashed)
            .await?;
        if found.is_none() || !fits {
            return Err(ErrorCode::BadCredentials.into());
        }
        self.open_session(work, username).await
    }

    pub(in crate::realm) async fn passwd(
        &self,
        work: &mut Work<'_>,
        command: &command::Passwd<'_>,
    ) -> Result<Answer, Failure> {
        let &command::Passwd {
            session, old, new, ..
        } = command;
        let current = self.session_noted(work, session).await?;
        check_password(&new)?;
        let key = records::account(current.user);
        let (mut account, _) = self
            .storage
            .noted::<AccountRecord>(&mut work.batch, &key)
            .await?
            .ok_or(ErrorCode::NoSession)?;
        let kept = Some(account.password.clone());
        if work.hashed.compared.is_none() {
            self.limiter.login(work.caller)?;
        }
        // Users that are logged in are counted separately: nobody else can keep them from changing
        // the password.
        let guess = Guess::LoginFrom(current.user, current.hash);
        let guess = (work.caller.now, &guess);
        if !self
            .credentials
            .compare(guess, &old, kept, &mut work.hashed)
            .await?
        {
            return Err(ErrorCode::WrongPassword.into());
        }
        account.password = self.credentials.hashed(&new, &mut work.hashed).await?;
        work.batch.put(key, account.to_value()?);
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
        Ok(Answer::Done)
    }
}

/// Refuses a password that a user may not have.
fn check_password(password: &Password<'_>) -> Result<(), Failure> {
    match password.0.len() {
        0..PASSWORD_MIN => Err(ErrorCode::BadRequest.into()),
        PASSWORD_MIN..=PASSWORD_MAX => Ok(()),
        _ => Err(Refusal::too_large(PASSWORD_MAX as u64).into()),
    }
}
