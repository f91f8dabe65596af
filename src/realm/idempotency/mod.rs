//! Exactly once (EXACT-1 … EXACT-6): the answer to a device's numbered command is written in the
//! same commit as its effect. A repeat, however late, gets that answer and has no effect.
//!
//! Each operation has its own key, so concurrent commands of one device do not conflict. The number
//! of keys is bounded: a number uses the same key as the number [`WINDOW`] before it.

pub(super) mod dedup_windows;

use std::sync::Arc;

use crate::realm::{
    failure::Failure,
    idempotency::dedup_windows::{DedupWindows, Reservation, Turn, WINDOW},
    records::{self, OperationRecord, Owner, QueuedOperation, Record, RecordedAnswer},
    short_hash::short_hash,
    storage::Storage,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Position, Store},
    wire::{ErrorCode, OperationNumber, Refusal, Request},
};

/// The fingerprint of a message that was withdrawn before it arrived.
const WITHDRAWN: [u8; 8] = [0; 8];

/// Returns the fingerprint by which two commands are compared: the first 8 bytes of a BLAKE2s over
/// the command without its passwords and its number, but with its salt (EXACT-5, EXACT-10).
pub fn fingerprint(request: &Request<'_>) -> [u8; 8] {
    short_hash(&[&request.without_secrets().to_bytes()])
}

/// A command's number that is new. It is reserved: no other command with that number runs
/// meanwhile.
#[derive(Debug)]
pub struct Operation<'a> {
    reservation: Reservation<'a>,
    fingerprint: [u8; 8],
}

/// What is known of a number.
#[derive(Debug)]
pub enum NumberState<'a> {
    /// It is new: execute the command.
    New(Operation<'a>),
    /// It is used. Holds the answer that it had.
    Done(FormerAnswer),
}

/// The answer that a command had when it was executed.
#[derive(Debug)]
pub enum FormerAnswer {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The id of the session that it has opened, which is derived again.
    Session,
}

/// The numbers that clients and peers have used, so that each command takes effect once
/// (EXACT-1 … EXACT-13).
#[derive(Debug)]
pub(in crate::realm) struct Idempotency<S> {
    storage: Arc<Storage<S>>,
    windows: DedupWindows,
}

impl<S> Idempotency<S> {
    /// Returns the numbers that `storage` holds. They are read as they are needed.
    pub fn new(storage: Arc<Storage<S>>) -> Self {
        Self {
            storage,
            windows: DedupWindows::default(),
        }
    }

    /// Frees the memory of owners that have not been heard of since the last call but one.
    pub fn age(&self) {
        self.windows.age();
    }
}

impl<S: Store> Idempotency<S> {
    /// Looks up a client's number, as [`Idempotency::look_up`]. If it cannot be used, the refusal
    /// contains the highest number that is used, so that the client goes above it in one step
    /// (EXACT-8).
    pub(in crate::realm) async fn look_up_command(
        &self,
        owner: Owner,
        number: OperationNumber,
        fingerprint: [u8; 8],
    ) -> Result<NumberState<'_>, Failure> {
        match self.look_up(owner, number, Some(fingerprint)).await {
            Err(Failure::Refused(Refusal {
                code: code @ (ErrorCode::AlreadyDone | ErrorCode::NumberReused),
                ..
            })) if !is_planted(Fault::ForgetHighest) => {
                Err(Refusal::number(code, self.highest(&owner).await?).into())
            }
            known => known,
        }
    }

    /// Looks up a command's number. Without a fingerprint, any command matches.
    pub(in crate::realm) async fn look_up(
        &self,
        owner: Owner,
        number: OperationNumber,
        fingerprint: Option<[u8; 8]>,
    ) -> Result<NumberState<'_>, Failure> {
        let number = number.0;
        if number == 0 {
            return Err(ErrorCode::BadRequest.into());
        }
        loop {
            match self.windows.take(owner, number) {
                Turn::New(reservation) => {
                    return Ok(NumberState::New(Operation {
                        reservation,
                        fingerprint: fingerprint.unwrap_or(WITHDRAWN),
                    }));
                }
                Turn::Used => {
                    // The record is missing only if a number a whole window later has replaced it.
                    let record = self.recorded(&owner, number).await;
                    let record = record.map_err(Failure::in_doubt)?;
                    let record = record.ok_or(ErrorCode::AlreadyDone)?;
                    let answer = match record.answer {
                        RecordedAnswer::Bytes(bytes) => FormerAnswer::Bytes(bytes),
                        RecordedAnswer::Session => FormerAnswer::Session,
                        RecordedAnswer::Closed(answer) => {
                            let bytes = answer.ok_or(ErrorCode::AlreadyDone)?;
                            FormerAnswer::Bytes(bytes.into_vec())
                        }
                    };
                    return match fingerprint {
                        Some(wanted) if record.fingerprint == wanted => {
                            Ok(NumberState::Done(answer))
                        }
                        None => Ok(NumberState::Done(answer)),
                        // The sender that withdrew this number knows that it did.
                        Some(_) if record.fingerprint == WITHDRAWN => {
                            Err(ErrorCode::Expired.into())
                        }
                        Some(_) => Err(ErrorCode::NumberReused.into()),
                    };
                }
                Turn::Old => return Err(ErrorCode::AlreadyDone.into()),
                Turn::Wait(ended) => ended.await,
                Turn::Unread(forgotten) => {
                    let read = Box::pin(self.read_window(owner, forgotten)).await;
                    read.map_err(Failure::in_doubt)?;
                }
            }
        }
    }

    /// Returns the record of a number.
    async fn recorded(
        &self,
        owner: &Owner,
        number: u64,
    ) -> Result<Option<OperationRecord>, Failure> {
        let found = self
            .storage
            .record::<OperationRecord>(&records::operation(owner, number))
            .await?;
        Ok(found
            .map(|(record, _)| record)
            .filter(|record| record.number == number))
    }

    /// Loads the used numbers of `owner`.
    async fn read_window(&self, owner: Owner, forgotten: u64) -> Result<(), Failure> {
        let limit = usize::try_from(WINDOW).unwrap_or(usize::MAX);
        let kept = self
            .storage
            .list(&records::operations(&owner), None, limit)
            .await?;
        let mut numbers = Vec::with_capacity(kept.len());
        for (_, found) in kept {
            let record = OperationRecord::from_value(&found.value)?;
            if matches!(record.answer, RecordedAnswer::Closed(_)) {
                numbers.extend(record.number.saturating_sub(WINDOW - 1).max(1)..record.number);
            }
            numbers.push(record.number);
        }
        self.windows.fill(owner, numbers.into_iter(), forgotten);
        Ok(())
    }

    /// Returns the highest number that `owner` has used, or 0 if there is none.
    pub(in crate::realm) async fn highest(
        &self,
        owner: &Owner,
    ) -> Result<OperationNumber, Failure> {
        loop {
            match self.windows.highest(owner) {
                Ok(highest) => return Ok(OperationNumber(highest)),
                Err(forgotten) => self.read_window(*owner, forgotten).await?,
            }
        }
    }

    /// Adds to `batch` that the command which queued a message is answered with its receipt
    /// from now on. Without effect if the command's record is gone.
    pub(in crate::realm) async fn put_receipt(
        &self,
        operation: &QueuedOperation,
        receipt: &[u8],
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let Some(owner) = Owner::from_bytes(&operation.owner) else {
            return Ok(());
        };
        let key = records::operation(&owner, operation.number);
        let found = match self.storage.record::<OperationRecord>(&key).await {
            // A damaged record answers no command any more, but it must not keep the message in
            // the queue.
            Err(failure) if failure.is_damage() => {
                self.storage.log_failure("receipt", &failure);
                None
            }
            found => found?,
        };
        let found = found.filter(|(record, _)| record.number == operation.number);
        if let Some((record, version)) = found {
            let record = OperationRecord {
                answer: RecordedAnswer::Bytes(receipt.to_vec()),
                ..record
            };
            batch
                .expect(key.clone(), Expected::At(version))
                .put(key, record.to_value()?);
        }
        Ok(())
    }

    /// Commits the effect of a numbered command. Returns as [`Storage::commit_placed`].
    pub(in crate::realm) async fn commit_operation(
        &self,
        operation: &mut Operation<'_>,
        batch: Batch,
    ) -> Result<Option<Vec<Position>>, Failure> {
        operation.reservation.begin_commit();
        let outcome = self.storage.commit_placed(batch).await;
        match &outcome {
            Ok(placed) => operation.reservation.settle(placed.is_some()),
            Err(Failure::Refused(_) | Failure::Store(_)) => operation.reservation.settle(false),
            // Only the store can tell whether the commit took effect.
            Err(Failure::Unknown(_)) => {}
        }
        outcome
    }
}

impl Operation<'_> {
    /// Adds to `batch` the record that the command was executed and answered with `answer`.
    pub fn record(&self, answer: RecordedAnswer, batch: &mut Batch) -> Result<(), Failure> {
        if is_planted(Fault::ForgetAnswer) {
            return Ok(());
        }
        let Reservation { owner, number, .. } = &self.reservation;
        let record = OperationRecord {
            number: *number,
            fingerprint: self.fingerprint,
            answer,
        };
        batch.put(records::operation(owner, *number), record.to_value()?);
        Ok(())
    }
}
