//! Receipts: what became of messages to peers, for the commands that wait (PEER-5, PEER-6). The
//! sender of a refused message hears of it exactly once: from all its commands that wait, or, if
//! any of them was answered *queued*, by a notice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::realm::records::{Owner, QueuedOperation};

/// How long a command waits for its receipt.
const PATIENCE: Duration = Duration::from_secs(2);

/// The commands that wait for the same receipt: one, and its repeats.
#[derive(Debug, Default)]
struct Waiting {
    tell: Vec<oneshot::Sender<Vec<u8>>>,
    /// True if the receipt is being written.
    is_settling: bool,
}

impl Waiting {
    fn forget_gone(&mut self) {
        self.tell.retain(|tell| !tell.is_closed());
    }
}

/// An operation: its owner and its number.
type OperationId = (Vec<u8>, u64);

/// All commands that wait for receipts. While any command of an operation waits, none of them was
/// answered *queued*.
#[derive(Clone, Debug, Default)]
pub struct Receipts(Arc<Mutex<BTreeMap<OperationId, Waiting>>>);

impl Receipts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OperationId, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for the receipt of a message that is about to be queued.
    pub fn expect(&self, owner: &Owner, number: u64) -> Wait {
        let id = (owner.bytes().to_vec(), number);
        let (tell, told) = oneshot::channel();
        self.lock().entry(id.clone()).or_default().tell.push(tell);
        Wait {
            receipts: self.clone(),
            id,
            told,
        }
    }

    /// Joins the commands that already wait, if there are any.
    pub fn join(&self, owner: &Owner, number: u64) -> Option<Wait> {
        let id = (owner.bytes().to_vec(), number);
        let (tell, told) = oneshot::channel();
        self.lock().get_mut(&id)?.tell.push(tell);
        Some(Wait {
            receipts: self.clone(),
            id,
            told,
        })
    }

    /// Announces that a receipt is about to be written. Returns `None` if no command waits for it.
    pub fn settle(&self, operation: Option<&QueuedOperation>) -> Option<PendingReceipt> {
        let operation = operation?;
        let id = (operation.owner.clone(), operation.number);
        let mut all = self.lock();
        let waiting = all.get_mut(&id)?;
        waiting.forget_gone();
        if waiting.tell.is_empty() {
            all.remove(&id);
            return None;
        }
        waiting.is_settling = true;
        Some(PendingReceipt {
            receipts: self.clone(),
            id,
        })
    }
}

/// A command that waits. It stops waiting when this is dropped.
#[derive(Debug)]
pub struct Wait {
    receipts: Receipts,
    id: OperationId,
    told: oneshot::Receiver<Vec<u8>>,
}

impl Wait {
    /// Returns the receipt, or `None` if it does not arrive soon or could not be written: then the
    /// recorded answer counts.
    pub async fn receipt(mut self) -> Option<Vec<u8>> {
        if let Ok(told) = tokio::time::timeout(PATIENCE, &mut self.told).await {
            return told.ok();
        }
        {
            let mut all = self.receipts.lock();
            if let Some(waiting) = all.get(&self.id)
                && !waiting.is_settling
            {
                // This command is answered `queued`, so all are.
                all.remove(&self.id);
            }
        }
        (&mut self.told).await.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.told.close();
        let mut all = self.receipts.lock();
        if let Some(waiting) = all.get_mut(&self.id) {
            waiting.forget_gone();
            if waiting.tell.is_empty() && !waiting.is_settling {
                all.remove(&self.id);
            }
        }
    }
}

/// A receipt that is being written while commands wait for it. Dropping this means that it could
/// not be written.
#[derive(Debug)]
pub struct PendingReceipt {
    receipts: Receipts,
    id: OperationId,
}

impl PendingReceipt {
    /// Tells the commands that wait: the receipt is written.
    pub fn tell(self, receipt: &[u8]) {
        let waiting = self.receipts.lock().remove(&self.id);
        for tell in waiting.into_iter().flat_map(|waiting| waiting.tell) {
            // A client that is gone asks again and gets the recorded answer.
            let _ = tell.send(receipt.to_vec());
        }
    }
}

impl Drop for PendingReceipt {
    fn drop(&mut self) {
        self.receipts.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::PublicKey;

    const OWNER: Owner = Owner::Device(PublicKey([7; 32]));

    fn operation(number: u64) -> QueuedOperation {
        QueuedOperation {
            owner: OWNER.bytes().to_vec(),
            number,
        }
    }

    /// PEER-6
    #[tokio::test(start_paused = true)]
    async fn receipt_once_written_reaches_all_waiters() {
        let receipts = Receipts::default();
        assert!(receipts.join(&OWNER, 1).is_none(), "nobody waits");
        let first = receipts.expect(&OWNER, 1);
        let second = receipts.join(&OWNER, 1).unwrap();
        let settling = receipts.settle(Some(&operation(1))).unwrap();
        let third = receipts.join(&OWNER, 1).unwrap();
        let writes = async {
            // Longer than any of them would otherwise wait.
            tokio::time::sleep(PATIENCE * 3).await;
            settling.tell(b"no");
        };
        let (first, second, third, ()) =
            tokio::join!(first.receipt(), second.receipt(), third.receipt(), writes);
        assert_eq!(
            [first, second, third],
            [(); 3].map(|()| Some(b"no".to_vec()))
        );
        assert!(receipts.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn receipt_waiters_time_out_together_with_first() {
        let receipts = Receipts::default();
        let first = receipts.expect(&OWNER, 1);
        tokio::time::sleep(PATIENCE / 2).await;
        let second = receipts.join(&OWNER, 1).unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(
            tokio::join!(first.receipt(), second.receipt()),
            (None, None)
        );
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(receipts.settle(Some(&operation(1))).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn receipt_that_could_not_be_written_is_not_told() {
        let receipts = Receipts::default();
        let wait = receipts.expect(&OWNER, 1);
        drop(receipts.settle(Some(&operation(1))).unwrap());
        assert_eq!(wait.receipt().await, None);
        let gone = receipts.expect(&OWNER, 2);
        drop(gone);
        assert!(receipts.settle(Some(&operation(2))).is_none());
        assert!(receipts.lock().is_empty());
    }
}
