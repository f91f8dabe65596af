//! Exactly once (EXACT-1 … EXACT-6): what was answered to a device's numbered commands is written in
//! the same commit as their effect, so a repeat, whenever it comes, is answered and not done again.
//!
//! Each operation is a key of its own, expected absent: commands of one device that are under way
//! together do not get in each other's way. What bounds them is a ceiling that moves in steps.

use std::ops::Range;

use blake2::{Blake2s256, Digest};

use super::{
    Failure, Realm,
    records::{self, OperationRecord, Owner, Record, RecordedAnswer, WindowRecord},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, Store, Versioned},
    wire::{Command, ErrorCode, OperationNumber, Request},
};

/// So many numbers below the highest are told apart; older ones count as done (EXACT-3).
pub const WINDOW: u64 = 256;
/// The ceiling moves by so many numbers at a time.
const STEP: u64 = 64;

/// What tells whether two commands are the same: the first 8 bytes of a BLAKE2s over the command
/// without its passwords and its number (EXACT-5).
pub fn fingerprint(request: &Request<'_>) -> [u8; 8] {
    let kept = request.without_secrets().to_bytes();
    let hash: [u8; 32] = Blake2s256::digest(kept).into();
    hash.first_chunk().copied().unwrap_or_default()
}

/// A command's number, found to be new.
#[derive(Debug)]
pub struct Operation {
    owner: Owner,
    number: u64,
    fingerprint: [u8; 8],
    window: Option<Versioned>,
    ceiling: u64,
}

/// What is known of a number.
#[derive(Debug)]
pub enum Known {
    /// Nothing: do it.
    New(Operation),
    /// It was done, and this was answered.
    Done(RecordedAnswer),
}

impl<S: Store> Realm<S> {
    /// Looks a command's number up.
    pub(super) async fn look_up(
        &self,
        owner: Owner,
        number: OperationNumber,
        fingerprint: [u8; 8],
    ) -> Result<Known, Failure> {
        self.look_up_any(owner, number, Some(fingerprint)).await
    }

    /// Looks a command's number up, whatever the command was if no fingerprint is given.
    pub(super) async fn look_up_any(
        &self,
        owner: Owner,
        number: OperationNumber,
        fingerprint: Option<[u8; 8]>,
    ) -> Result<Known, Failure> {
        let number = number.0;
        if number == 0 {
            return Err(ErrorCode::BadRequest.into());
        }
        if let Some(found) = self.store.get(&records::operation(&owner, number)).await? {
            let record = OperationRecord::from_value(&found.value)?;
            return if fingerprint.is_none_or(|wanted| record.fingerprint == wanted) {
                Ok(Known::Done(record.answer))
            } else {
                Err(ErrorCode::NumberReused.into())
            };
        }
        let window = self.store.get(&records::window(&owner)).await?;
        let ceiling = match &window {
            Some(found) => WindowRecord::from_value(&found.value)?.ceiling,
            None => 0,
        };
        if number < kept(ceiling).start {
            return Err(ErrorCode::AlreadyDone.into());
        }
        Ok(Known::New(Operation {
            owner,
            number,
            fingerprint: fingerprint.unwrap_or_default(),
            window,
            ceiling,
        }))
    }

    /// The highest number that `owner` has used; 0 when none.
    pub(super) async fn highest(&self, owner: &Owner) -> Result<OperationNumber, Failure> {
        let Some(found) = self.store.get(&records::window(owner)).await? else {
            return Ok(OperationNumber(0));
        };
        let ceiling = WindowRecord::from_value(&found.value)?.ceiling;
        let below = records::operation(owner, ceiling.saturating_sub(STEP));
        let limit = usize::try_from(STEP).unwrap_or(usize::MAX);
        let newest = self
            .store
            .list(&records::operations(owner), Some(&below), limit)
            .await?;
        Ok(OperationNumber(newest.last().map_or(
            ceiling.saturating_sub(STEP),
            |(key, _): &(Key, Versioned)| records::operation_number(key),
        )))
    }
}

/// The numbers whose operations are kept under a ceiling.
const fn kept(ceiling: u64) -> Range<u64> {
    ceiling.saturating_sub(WINDOW + STEP) + 1..ceiling + 1
}

impl Operation {
    /// Adds to `batch` that the command was done and answered with `answer`.
    pub fn record(&self, answer: RecordedAnswer, batch: &mut Batch) -> Result<(), Failure> {
        if is_planted(Fault::ForgetAnswer) {
            return Ok(());
        }
        let key = records::operation(&self.owner, self.number);
        let record = OperationRecord {
            fingerprint: self.fingerprint,
            answer,
        };
        batch
            .expect(key.clone(), Expected::Absent)
            .put(key, record.to_value()?);
        if self.number > self.ceiling {
            self.raise_ceiling(batch)?;
        }
        Ok(())
    }

    fn raise_ceiling(&self, batch: &mut Batch) -> Result<(), Failure> {
        let ceiling = self.number.div_ceil(STEP).saturating_mul(STEP);
        let key = records::window(&self.owner);
        let expected = self
            .window
            .as_ref()
            .map_or(Expected::Absent, |found| Expected::At(found.version));
        batch
            .expect(key.clone(), expected)
            .put(key, WindowRecord { ceiling }.to_value()?);
        let (old, new) = (kept(self.ceiling), kept(ceiling));
        for number in old.start..old.end.min(new.start) {
            batch.delete(records::operation(&self.owner, number));
        }
        Ok(())
    }
}

/// True when the optional fields that must be understood belong to the command (WIRE-13).
pub(super) fn options_fit(request: &Request<'_>) -> bool {
    let mut rest = request.options;
    match request.command {
        Command::Inbox { .. }
        | Command::InboxGroup { .. }
        | Command::InboxRealm { .. }
        | Command::InboxGroupRealm { .. } => {
            (rest.after, rest.limit, rest.bytes, rest.offset) = (None, None, None, None);
        }
        Command::Groups { .. } | Command::Members { .. } => {
            (rest.limit, rest.offset) = (None, None);
        }
        Command::Send { .. }
        | Command::SendGroup { .. }
        | Command::SendRealm { .. }
        | Command::SendGroupRealm { .. } => {
            (rest.content, rest.ttl) = (None, None);
        }
        Command::AddRealm { .. } => rest.key = None,
        Command::Register { .. } => rest.code = None,
        _ => {}
    }
    rest.urgent = false;
    rest.is_empty()
}
