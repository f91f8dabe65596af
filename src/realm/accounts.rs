//! Accounts (ACC-1 … ACC-6): who is a user of this realm, and with which password.

use std::sync::Arc;

use super::{
    Caller,
    credentials::{Credentials, Hashed},
    failure::Failure,
    identity::{RealmIdentity, Registration},
    limits::{Guess, Limiter},
    records::{self, AccountRecord, Record as _},
    retention::RetentionPolicy,
    shared::Shared,
    storage::{Notes, Storage, Walk},
    time::Moment,
};
use crate::{
    crypto::same,
    store::{Batch, Key, Store},
    wire::{
        self, ErrorCode, PASSWORD_MAX, PASSWORD_MIN, Password, Refusal, RegistrationCode, Username,
    },
};

/// The longest full name and the longest country, in bytes.
const TEXT_MAX: usize = 64;

/// The account of a user, as it was read.
#[derive(Debug)]
pub(super) struct Registered {
    user: Username,
    record: AccountRecord,
}

impl Registered {
    /// Returns what its user is told of it.
    pub fn into_shown(self, operator: bool) -> wire::Account {
        wire::Account {
            operator,
            username: self.user,
            full_name: self.record.full_name,
            country: self.record.country,
        }
    }
}

/// An account that somebody asks for.
#[derive(Clone, Copy)]
pub(super) struct NewAccount<'a> {
    pub user: Username,
    pub full_name: &'a str,
    pub country: &'a str,
    pub password: Password<'a>,
    /// The registration code that came with the request.
    pub code: Option<RegistrationCode>,
}

/// The accounts of users.
#[derive(Debug)]
pub(super) struct Accounts<S> {
    storage: Arc<Storage<S>>,
    policy: Arc<RetentionPolicy<S>>,
    credentials: Arc<Credentials>,
    own: Arc<RealmIdentity>,
    limiter: Arc<Limiter>,
}

impl<S> Accounts<S> {
    /// Returns the service over those that it uses.
    pub fn new(
        shared: &Shared<S>,
        policy: Arc<RetentionPolicy<S>>,
        credentials: Arc<Credentials>,
    ) -> Self {
        Self {
            storage: shared.storage.clone(),
            policy,
            credentials,
            own: shared.own.clone(),
            limiter: shared.limiter.clone(),
        }
    }
}

impl<S: Store> Accounts<S> {
    /// Returns the account of a user.
    pub async fn find(
        &self,
        notes: &mut impl Notes,
        user: Username,
    ) -> Result<Option<Registered>, Failure> {
        let key = records::account(user);
        let found = self.storage.noted::<AccountRecord>(notes, &key).await?;
        Ok(found.map(|(record, _)| Registered { user, record }))
    }

    /// Refuses a name that no user has.
    pub async fn check_exists(
        &self,
        notes: &mut impl Notes,
        user: Username,
    ) -> Result<(), Failure> {
        let found = self.find(notes, user).await?;
        found.map(drop).ok_or(ErrorCode::NoSuchUser.into())
    }

    /// True if a user has that name, for the message that is sent to them. The account is not read:
    /// accounts are never removed.
    pub async fn has(&self, user: Username) -> Result<bool, Failure> {
        self.storage.has(&records::account(user)).await
    }

    /// Adds an account to `batch`, if it may be made (ACC-1, ACC-2, ACC-6).
    pub async fn register(
        &self,
        caller: &Caller,
        new: &NewAccount<'_>,
        hashed: &mut Hashed,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        for text in [new.full_name, new.country] {
            match text.len() {
                0 => return Err(ErrorCode::BadRequest.into()),
                1..=TEXT_MAX => {}
                _ => return Err(Refusal::too_large(TEXT_MAX as u64).into()),
            }
        }
        check_password(&new.password)?;
        self.check_code(new.code)?;
        if self.find(batch, new.user).await?.is_some() {
            return Err(ErrorCode::UsernameTaken.into());
        }
        if hashed.made.is_none() {
            self.limiter.registration(caller)?;
        }
        let account = AccountRecord {
            full_name: new.full_name.into(),
            country: new.country.into(),
            password: self.credentials.hashed(&new.password, hashed).await?,
            created: caller.now.wall,
        };
        batch.put(records::account(new.user), account.to_value()?);
        self.policy.put_keeping(batch)
    }

    /// Refuses a registration if it is closed, or if the code is wrong.
    fn check_code(&self, given: Option<RegistrationCode>) -> Result<(), Failure> {
        match &self.own.registration {
            Registration::Open => Ok(()),
            Registration::Closed => Err(ErrorCode::RegistrationClosed.into()),
            Registration::Code(code) if given.is_some_and(|given| same(&given.0, &code.0)) => {
                Ok(())
            }
            Registration::Code(_) => Err(ErrorCode::WrongCode.into()),
        }
    }

    /// True if `password` is that of the account. Without an account it takes as long (ACC-3), and
    /// counts as a wrong guess.
    pub async fn verify(
        &self,
        guess: (Moment, &Guess),
        account: Option<&Registered>,
        password: &Password<'_>,
        hashed: &mut Hashed,
    ) -> Result<bool, Failure> {
        let kept = account.map(|account| account.record.password.clone());
        self.credentials
            .compare(guess, password, kept, hashed)
            .await
    }

    /// Adds to `batch` another password of an account. It must have passed [`check_password`].
    pub async fn put_password(
        &self,
        account: Registered,
        password: &Password<'_>,
        hashed: &mut Hashed,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let record = AccountRecord {
            password: self.credentials.hashed(password, hashed).await?,
            ..account.record
        };
        batch.put(records::account(account.user), record.to_value()?);
        Ok(())
    }
}

/// Refuses a password that a user may not have.
pub(super) fn check_password(password: &Password<'_>) -> Result<(), Failure> {
    match password.0.len() {
        0..PASSWORD_MIN => Err(ErrorCode::BadRequest.into()),
        PASSWORD_MIN..=PASSWORD_MAX => Ok(()),
        _ => Err(Refusal::too_large(PASSWORD_MAX as u64).into()),
    }
}

/// Returns a walk over all accounts, at most `at_once` at a time. [`user_in`] reads its keys.
pub(super) fn walk(at_once: usize) -> Walk {
    Walk::new(records::accounts(), None, at_once)
}

/// Returns the user whose account has that key.
pub(super) fn user_in(key: &Key) -> Option<Username> {
    records::name_in(key, &records::accounts())
}
