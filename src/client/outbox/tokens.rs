//! Tokens: a script that repeats a command with the same token means the same command, however
//! often it runs.

use std::time::Duration;

use blake2::{Blake2s256, Digest as _};
use serde::{Deserialize, Serialize};

use super::{
    Added, New,
    done::{Outcome, take_done},
    entry::{EntryId, Reason},
};
use crate::{
    client::{
        ProfileError,
        state::Account,
        store::{self, Records},
    },
    faults::{Fault, is_planted},
    wire::{Answer, ErrorCode, Operation, Request, SessionRef},
};

/// At least this many tokens are remembered, and each for at least [`TOKEN_LIFETIME`].
pub const TOKENS_MIN: u64 = 10_000;
/// See [`TOKENS_MIN`].
pub const TOKEN_LIFETIME: Duration = Duration::from_hours(30 * 24);
/// The maximum number of tokens: about 16 MiB. Beyond it, a command with a token is refused until
/// the oldest tokens are old enough to be forgotten.
pub const TOKENS_MAX: u64 = 100_000;
/// The number of old tokens that are forgotten when one is added.
const FORGOTTEN_AT_ONCE: usize = 4;

/// The maximum length of a token, in bytes.
const TOKEN_LEN_MAX: usize = 128;

/// Identifies a command for a caller that may repeat it: 1 to 128 bytes of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(String);

/// The record of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    /// A hash of the command, without the parts that differ between two attempts.
    fingerprint: [u8; 8],
    id: EntryId,
    /// When the token was first used, in seconds since 1970.
    created: u64,
    outcome: Option<Outcome>,
}

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidToken {
    /// It is empty.
    #[error("a token is not empty")]
    Empty,
    /// It has this many bytes.
    #[error("a token has at most {TOKEN_LEN_MAX} bytes, this one has {0}")]
    TooLong(usize),
}

impl std::str::FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.len() {
            0 => Err(InvalidToken::Empty),
            1..=TOKEN_LEN_MAX => Ok(Self(text.into())),
            len => Err(InvalidToken::TooLong(len)),
        }
    }
}

impl Token {
    pub(super) fn hash(&self) -> [u8; 16] {
        hash(self.0.as_bytes())
    }

    /// Returns what is known of the token: nothing, or the outcome of its command.
    pub(super) fn find(
        &self,
        records: &mut dyn Records,
        account: &Account,
        request: &Request<'_>,
    ) -> Result<Option<Added>, ProfileError> {
        let kept = store::get::<Kept>(records, &key(account, self.hash()))?;
        let Some(kept) = kept.filter(|_| !is_planted(Fault::IgnoreToken)) else {
            return Ok(None);
        };
        if kept.fingerprint != fingerprint(request) {
            return Ok(Some(Added::TokenReused));
        }
        let Kept { id, outcome, .. } = kept;
        Ok(Some(match outcome {
            None => Added::Entry(id),
            Some(outcome) => {
                // The repeated call is told, so nobody else needs to be.
                take_done(records, id)?;
                Added::Done(id, outcome)
            }
        }))
    }

    /// Forgets the token if it is free again.
    pub(super) fn free(
        &self,
        records: &mut dyn Records,
        account: &Account,
        tokens: &mut u64,
    ) -> Result<(), ProfileError> {
        let key = key(account, self.hash());
        if let Some(kept) = store::get::<Kept>(records, &key)?
            && kept.outcome.as_ref().is_some_and(is_free)
        {
            records.delete(&age_key(kept.created, &key))?;
            records.delete(&key)?;
            *tokens = tokens.saturating_sub(1);
        }
        Ok(())
    }

    /// Remembers the token for an entry. False if the maximum number is remembered.
    pub(super) fn remember(
        &self,
        records: &mut dyn Records,
        tokens: &mut u64,
        id: EntryId,
        new: &New<'_>,
    ) -> Result<bool, ProfileError> {
        forget_old(records, tokens, new.now)?;
        if *tokens >= TOKENS_MAX {
            return Ok(false);
        }
        let key = key(&new.account, self.hash());
        let kept = Kept {
            fingerprint: fingerprint(new.request),
            id,
            created: new.now.as_secs(),
            outcome: None,
        };
        store::put(records, &key, &kept)?;
        store::put(records, &age_key(new.now.as_secs(), &key), &())?;
        *tokens += 1;
        Ok(true)
    }
}

fn prefix(account: &Account) -> Vec<u8> {
    let realm = account.realm.0.to_be_bytes();
    [b"t/", realm.as_slice(), account.username.as_bytes(), b"/"].concat()
}

fn key(account: &Account, hash: [u8; 16]) -> Vec<u8> {
    [prefix(account).as_slice(), &hash].concat()
}

fn age_key(created: u64, token: &[u8]) -> Vec<u8> {
    [b"a/", created.to_be_bytes().as_slice(), token].concat()
}

/// Returns a hash that distinguishes commands, regardless of their numbers and salts.
fn fingerprint(request: &Request<'_>) -> [u8; 8] {
    let mut request = request.clone();
    if let Some(operation) = request.command.operation_mut() {
        *operation = Operation::UNNUMBERED;
    }
    // Regardless of how the session was named: the account is the same.
    if let Some(session) = request.command.session_mut() {
        *session = SessionRef::Bound;
    }
    hash(&request.to_bytes())
}

/// Returns the first `N` bytes of a BLAKE2s.
fn hash<const N: usize>(bytes: &[u8]) -> [u8; N] {
    const { assert!(N <= 32) };
    let hash: [u8; 32] = Blake2s256::digest(bytes).into();
    let mut first = [0; N];
    for (to, from) in first.iter_mut().zip(hash) {
        *to = from;
    }
    first
}

/// True if a token is free again: its command was not executed. A user who has logged in and
/// repeats it wants it executed, and one whose command could not be read as well.
fn is_free(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::NotDone(Reason::NotKept | Reason::NoSession | Reason::Damaged) => true,
        Outcome::Answer(bytes) => matches!(
            Answer::parse(bytes),
            Ok(Answer::Refused(refusal)) if refusal.code == ErrorCode::NoSession
        ),
        Outcome::NotDone(Reason::Cancelled | Reason::Expired) | Outcome::Unknown => false,
    }
}

/// Records the outcome of the entry that has a token.
pub(super) fn settle(
    records: &mut dyn Records,
    account: &Account,
    hash: [u8; 16],
    outcome: &Outcome,
) -> Result<(), ProfileError> {
    let key = key(account, hash);
    let Some(kept) = store::get::<Kept>(records, &key)? else {
        return Ok(());
    };
    let outcome = Some(outcome.clone());
    store::put(records, &key, &Kept { outcome, ..kept })
}

/// Assigns the tokens used before the logged-in account was known to `account`.
pub(super) fn adopt(records: &mut dyn Records, account: &Account) -> Result<(), ProfileError> {
    let nobody = Account {
        username: String::new(),
        ..account.clone()
    };
    let (prefix, own) = (prefix(&nobody), prefix(account));
    for (before, value) in records.scan(&prefix, b"", usize::MAX)? {
        let kept: Kept = store::parse(records, &before, &value)?;
        records.delete(&before)?;
        records.delete(&age_key(kept.created, &before))?;
        let hash = before.strip_prefix(prefix.as_slice());
        let hash = hash.ok_or_else(|| records.damaged())?;
        let after = [&own, hash].concat();
        if records.get(&after)?.is_none() {
            store::put(records, &after, &kept)?;
            store::put(records, &age_key(kept.created, &after), &())?;
        }
    }
    Ok(())
}

/// Forgets a few of the oldest tokens, if more than the minimum are remembered.
fn forget_old(
    records: &mut dyn Records,
    tokens: &mut u64,
    now: Duration,
) -> Result<(), ProfileError> {
    if *tokens < TOKENS_MIN {
        return Ok(());
    }
    for (age, _) in records.scan(b"a/", b"", FORGOTTEN_AT_ONCE)? {
        let Some((time, token)) = age.get(2..).and_then(|rest| rest.split_first_chunk()) else {
            return Err(records.damaged());
        };
        let is_old =
            u64::from_be_bytes(*time).saturating_add(TOKEN_LIFETIME.as_secs()) <= now.as_secs();
        let kept = store::get::<Kept>(records, token)?;
        if !is_old || kept.is_some_and(|kept| kept.outcome.is_none()) {
            return Ok(());
        }
        records.delete(token)?;
        records.delete(&age)?;
        *tokens = tokens.saturating_sub(1);
    }
    Ok(())
}
