//! The hashing of passwords, and the limit on guesses (ACC-5).

mod passwords;

use std::sync::Arc;

use self::passwords::Passwords;
use crate::realm::{
    failure::Failure,
    limits::{Guess, Limiter},
    random::Random,
    time::Moment,
};
use crate::wire::Password;

/// The results of password hashing so far, so that a command that is decided again does not hash
/// again.
#[derive(Debug, Default)]
pub(in crate::realm) struct Hashed {
    /// The hash of the new password.
    pub made: Option<String>,
    /// The hash that the given password was compared with, and the result.
    pub compared: Option<(Option<String>, bool)>,
}

/// The hashing of passwords, and the limit on guesses.
#[derive(Debug)]
pub(in crate::realm) struct Credentials {
    random: Arc<Random>,
    limiter: Arc<Limiter>,
    passwords: Passwords,
}

impl Credentials {
    /// Starts `threads` threads that hash.
    pub fn start(
        random: Arc<Random>,
        limiter: Arc<Limiter>,
        threads: usize,
    ) -> std::io::Result<Self> {
        Ok(Self {
            random,
            limiter,
            passwords: Passwords::start(threads)?,
        })
    }

    pub(in crate::realm) async fn hashed(
        &self,
        password: &Password<'_>,
        done: &mut Hashed,
    ) -> Result<String, Failure> {
        if let Some(made) = &done.made {
            return Ok(made.clone());
        }
        let made = self
            .passwords
            .hash(password.0, self.random.random())
            .await?;
        done.made = Some(made.clone());
        Ok(made)
    }

    /// True if `password` is the stored one. Each wrong guess makes the next wait longer (ACC-5).
    pub(in crate::realm) async fn compare(
        &self,
        (now, guess): (Moment, &Guess),
        password: &Password<'_>,
        kept: Option<String>,
        done: &mut Hashed,
    ) -> Result<bool, Failure> {
        if let Some((compared, fits)) = &done.compared
            && *compared == kept
        {
            return Ok(*fits);
        }
        self.limiter.guess(now, guess)?;
        let verified = self.passwords.verify(password.0, kept.clone()).await;
        if !matches!(verified, Ok(false)) {
            self.limiter.was_right(guess);
        }
        let fits = verified?;
        done.compared = Some((kept, fits));
        Ok(fits)
    }
}
