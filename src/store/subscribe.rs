//! Who waits for a log to grow. A hint to read, not a copy of what was written: a subscriber that
//! sleeps through ten entries wakes once, and reads ten.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

use super::Log;

/// The subscribers of all logs; every engine has one.
#[derive(Debug, Default)]
pub struct Subscribers {
    by_log: Mutex<HashMap<Log, watch::Sender<()>>>,
}

/// Wakes when a log has grown.
#[derive(Debug)]
pub struct Subscription(watch::Receiver<()>);

impl Subscription {
    /// Waits until the log has grown since the last call, or since the subscription was made. False
    /// when the store is closed.
    pub async fn grown(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl Subscribers {
    /// A new subscription to `log`.
    pub fn subscribe(&self, log: &Log) -> Subscription {
        let mut by_log = self.by_log.lock().unwrap_or_else(PoisonError::into_inner);
        // Logs that nobody waits for any more make room: the table grows with the subscribers, not
        // with the logs.
        if by_log.len() == by_log.capacity() {
            by_log.retain(|_, sender| sender.receiver_count() > 0);
        }
        let sender = by_log
            .entry(log.clone())
            .or_insert_with(|| watch::Sender::new(()));
        Subscription(sender.subscribe())
    }

    /// Wakes the subscribers of `log`.
    pub fn notify(&self, log: &Log) {
        let mut by_log = self.by_log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = by_log.get(log)
            && sender.send(()).is_err()
        {
            by_log.remove(log);
        }
    }
}
