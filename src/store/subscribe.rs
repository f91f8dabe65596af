//! Subscriptions to logs. A subscription is a hint to read, not a copy of the data: a subscriber
//! that sleeps through ten entries wakes once, and reads ten.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use super::Log;

/// The logs of one subscriber that have grown.
#[derive(Debug, Default)]
struct Grown {
    logs: Mutex<BTreeSet<usize>>,
    wake: Notify,
    is_closed: AtomicBool,
}

/// The subscribers of a log, each with the index of the log in its list.
type Waiting = Vec<(Weak<Grown>, usize)>;

/// The subscribers of all logs; every engine has one.
#[derive(Debug, Default)]
pub struct Subscribers {
    by_log: Mutex<HashMap<Log, Waiting>>,
}

/// Wakes when one of several logs has grown.
#[derive(Debug)]
pub struct Subscription(Arc<Grown>);

impl Subscription {
    /// Waits until logs have grown since the last call, or since the subscription was made. Returns
    /// their indexes in the subscribed list. None if the store is closed.
    pub async fn grown(&mut self) -> Option<BTreeSet<usize>> {
        loop {
            let grown = {
                let mut logs = self.0.logs.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *logs)
            };
            if !grown.is_empty() {
                return Some(grown);
            }
            if self.0.is_closed.load(Ordering::Acquire) {
                return None;
            }
            self.0.wake.notified().await;
        }
    }
}

impl Subscribers {
    /// Returns a new subscription to `logs`.
    pub fn subscribe(&self, logs: &[Log]) -> Subscription {
        let grown = Arc::<Grown>::default();
        let mut by_log = self.by_log.lock().unwrap_or_else(PoisonError::into_inner);
        // Remove logs without subscribers: the table grows with the number of subscribers, not with
        // the number of logs.
        if by_log.len() + logs.len() > by_log.capacity() {
            by_log.retain(|_, waiting| {
                waiting.retain(|(grown, _)| grown.strong_count() > 0);
                !waiting.is_empty()
            });
        }
        for (at, log) in logs.iter().enumerate() {
            let waiting = by_log.entry(log.clone()).or_default();
            waiting.retain(|(grown, _)| grown.strong_count() > 0);
            waiting.push((Arc::downgrade(&grown), at));
        }
        Subscription(grown)
    }

    /// Wakes the subscribers of `log`.
    pub fn notify(&self, log: &Log) {
        let mut by_log = self.by_log.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = by_log.get_mut(log) else {
            return;
        };
        waiting.retain(|(grown, at)| {
            let grown = grown.upgrade();
            if let Some(grown) = &grown {
                let mut logs = grown.logs.lock().unwrap_or_else(PoisonError::into_inner);
                logs.insert(*at);
                grown.wake.notify_one();
            }
            grown.is_some()
        });
        if waiting.is_empty() {
            by_log.remove(log);
        }
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        let by_log = self
            .by_log
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (grown, _) in by_log.values().flatten() {
            if let Some(grown) = grown.upgrade() {
                grown.is_closed.store(true, Ordering::Release);
                grown.wake.notify_one();
            }
        }
    }
}
