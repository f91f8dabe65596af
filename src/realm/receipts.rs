//! What peers say of messages, for the commands that wait for it (PEER-5, PEER-6). The sender of a message that is
//! refused hears of it exactly once: from all its commands that wait, or else, once any of them was answered
//! *queued*, by a notice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::records::{Owner, QueuedOperation};

/// How long a command waits for what the peer says.
const PATIENCE: Duration = Duration::from_secs(2);

/// The commands that wait for the same verdict: one, and its repeats.
#[derive(Debug, Default)]
struct Waiting {
    tell: Vec<oneshot::Sender<Vec<u8>>>,
    /// The verdict is being written down.
    is_settling: bool,
}

impl Waiting {
    fn forget_gone(&mut self) {
        self.tell.retain(|tell| !tell.is_closed());
    }
}

/// Whose operation, and its number.
type OperationId = (Vec<u8>, u64);

/// All commands that wait for verdicts. As long as one of an operation's does, none of them was answered *queued*.
#[derive(Clone, Debug, Default)]
pub struct Receipts(Arc<Mutex<BTreeMap<OperationId, Waiting>>>);

impl Receipts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OperationId, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits from now on for the verdict on a message that is about to be queued.
    pub fn expect(&self, owner: &Owner, number: u64) -> Wait {
        let id = (owner.bytes().to_vec(), number);
        let (tell, told) = oneshot::channel();
        self.lock().entry(id.clone()).or_default().tell.push(tell);
        Wait {
            verdicts: self.clone(),
            id,
            told,
        }
    }

    /// Waits with those that wait already, if any do.
    pub fn join(&self, owner: &Owner, number: u64) -> Option<Wait> {
        let id = (owner.bytes().to_vec(), number);
        let (tell, told) = oneshot::channel();
        self.lock().get_mut(&id)?.tell.push(tell);
        Some(Wait {
            verdicts: self.clone(),
            id,
            told,
        })
    }

    /// A verdict is about to be written down. None when nobody waits for it.
    pub fn settle(&self, operation: Option<&QueuedOperation>) -> Option<Settling> {
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
        Some(Settling {
            verdicts: self.clone(),
            id,
        })
    }
}

/// A command waits. When this is dropped, it does no more.
#[derive(Debug)]
pub struct Wait {
    verdicts: Receipts,
    id: OperationId,
    told: oneshot::Receiver<Vec<u8>>,
}

impl Wait {
    /// The verdict. None when it does not come soon, or could not be written down: what is recorded now, is the
    /// answer.
    pub async fn verdict(mut self) -> Option<Vec<u8>> {
        if let Ok(told) = tokio::time::timeout(PATIENCE, &mut self.told).await {
            return told.ok();
        }
        {
            let mut all = self.verdicts.lock();
            if let Some(waiting) = all.get(&self.id)
                && !waiting.is_settling
            {
                // This one is answered `queued`, so all are.
                all.remove(&self.id);
            }
        }
        (&mut self.told).await.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.told.close();
        let mut all = self.verdicts.lock();
        if let Some(waiting) = all.get_mut(&self.id) {
            waiting.forget_gone();
            if waiting.tell.is_empty() && !waiting.is_settling {
                all.remove(&self.id);
            }
        }
    }
}

/// A verdict is being written down, and somebody waits for it. When this is dropped, it could not be.
#[derive(Debug)]
pub struct Settling {
    verdicts: Receipts,
    id: OperationId,
}

impl Settling {
    /// The verdict is written down.
    pub fn tell(self, verdict: &[u8]) {
        let waiting = self.verdicts.lock().remove(&self.id);
        for tell in waiting.unwrap_or_default().tell {
            // Whoever is gone asks again, and is answered with what was written down.
            let _ = tell.send(verdict.to_vec());
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.verdicts.lock().remove(&self.id);
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
    async fn all_that_wait_are_told_or_none() {
        let verdicts = Receipts::default();
        assert!(verdicts.join(&OWNER, 1).is_none(), "nobody waits");
        let first = verdicts.expect(&OWNER, 1);
        let second = verdicts.join(&OWNER, 1).unwrap();
        let settling = verdicts.settle(Some(&operation(1))).unwrap();
        let third = verdicts.join(&OWNER, 1).unwrap();
        let writes = async {
            // Longer than any of them would wait otherwise.
            tokio::time::sleep(PATIENCE * 3).await;
            settling.tell(b"no");
        };
        let (first, second, third, ()) =
            tokio::join!(first.verdict(), second.verdict(), third.verdict(), writes);
        assert_eq!(
            [first, second, third],
            [(); 3].map(|()| Some(b"no".to_vec()))
        );
        assert!(verdicts.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn when_one_has_waited_long_enough_all_have() {
        let verdicts = Receipts::default();
        let first = verdicts.expect(&OWNER, 1);
        tokio::time::sleep(PATIENCE / 2).await;
        let second = verdicts.join(&OWNER, 1).unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(
            tokio::join!(first.verdict(), second.verdict()),
            (None, None)
        );
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(verdicts.settle(Some(&operation(1))).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_down_is_not_told() {
        let verdicts = Receipts::default();
        let wait = verdicts.expect(&OWNER, 1);
        drop(verdicts.settle(Some(&operation(1))).unwrap());
        assert_eq!(wait.verdict().await, None);
        let gone = verdicts.expect(&OWNER, 2);
        drop(gone);
        assert!(verdicts.settle(Some(&operation(2))).is_none());
        assert!(verdicts.lock().is_empty());
    }
}
