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
    ///
    /// # Errors
    /// The system provides no thread, or the parameters of the hash are invalid.
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

    /// True if `password` is the stored one. Each wrong guess makes the next wait longer (ACC-5). A
    /// guess at a damaged hash counts as wrong: it must not be tried without end.
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
        let is_wrong = match &verified {
            Ok(fits) => !fits,
            Err(failure) => failure.is_damage(),
        };
        if !is_wrong {
            self.limiter.was_right(guess);
        }
        let fits = verified?;
        done.compared = Some((kept, fits));
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::realm::Limits;

    /// ACC-5: a guess that is compared with a damaged hash counts as a wrong one. Fixed fault: it
    /// was not counted, and took the realm as much work as often as anybody liked.
    #[tokio::test]
    async fn password_guess_at_damaged_hash_counts_as_wrong() {
        let mut rng = StdRng::seed_from_u64(1);
        let limiter = Arc::new(Limiter::new(Limits::default().rates, &mut rng));
        let random = Arc::new(Random::new(rng));
        let credentials = Credentials::start(random, limiter, 0).unwrap();
        let now = Moment {
            wall: 1_800_000_000,
            running: 1,
            micros: 1_000_000,
        };
        let guess = Guess::Login("ann".parse().unwrap());
        let mut are_damage = Vec::new();
        for _ in 0..4 {
            let (kept, mut hashed) = (Some("spoilt".into()), Hashed::default());
            let password = Password(b"battery staple");
            let compared = credentials
                .compare((now, &guess), &password, kept, &mut hashed)
                .await;
            are_damage.push(compared.unwrap_err().is_damage());
        }
        // The last one has to wait.
        assert_eq!(are_damage, [true, true, true, false]);
    }
}
