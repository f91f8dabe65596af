//! How a driver reports to a watcher, and handles the end of the watch (WATCH-3).

use tokio::sync::{mpsc, oneshot};

use super::Driver;
use crate::{client::ask::Told, endpoint::Pushes, wire::CloseReason};

impl Driver {
    pub(super) fn begin_telling(&mut self, watcher: mpsc::Sender<Told>) {
        let now = self.now();
        if self.watcher.is_some() {
            self.end_telling();
            self.take_events();
        }
        self.watcher = Some(watcher);
        self.is_expected = !self.is_open;
        self.pushed.clear();
        if let Some(link) = self.link_or_open(now) {
            self.endpoint.keep_alive(now, link, self.keepalive);
        }
    }

    /// Tells the realm that a watch has ended. Otherwise the realm would continue to push.
    pub(super) async fn leave(&mut self, left: oneshot::Sender<()>) {
        if self.watcher.as_ref().is_some_and(mpsc::Sender::is_closed) {
            self.end_telling();
        }
        self.transmit().await;
        // The caller may have gone.
        let _ = left.send(());
    }

    /// Closes the link when the watch ends: later pushes on it could be taken for part of another
    /// watch (WATCH-3).
    pub(super) fn end_telling(&mut self) {
        let now = self.now();
        self.watcher = None;
        self.pushed.clear();
        if let Some(link) = self.link {
            self.endpoint.close(now, link, CloseReason::Done);
        }
    }

    /// Passes on pushes while the watcher has room. The rest counts as lost on the path.
    pub(super) fn tell(&mut self) {
        while let (Some(told), Some(watcher)) = (self.pushed.pop_front(), &self.watcher) {
            if let Err(mpsc::error::TrySendError::Full(told)) = watcher.try_send(told) {
                self.pushed.push_front(told);
                break;
            }
        }
        if let Some(link) = self.link {
            let pushes = if self.pushed.is_empty() {
                Pushes::Accepted
            } else {
                Pushes::Refused
            };
            self.endpoint.set_pushes(link, pushes);
        }
    }
}
