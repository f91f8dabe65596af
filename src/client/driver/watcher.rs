//! The watcher of a driver: it takes pushes and news of the link, at its own pace (WATCH-3).

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::client::ask::Told;

/// The watcher, if there is one, and the events that it has not taken yet.
#[derive(Default)]
pub(super) struct Watcher {
    sender: Option<mpsc::Sender<Told>>,
    /// The watcher came before the link opened, so the opening is no news.
    is_expecting: bool,
    untold: VecDeque<Told>,
}

impl Watcher {
    pub(super) const fn is_there(&self) -> bool {
        self.sender.is_some()
    }

    /// True if there is one and it takes no events any more.
    pub(super) fn has_left(&self) -> bool {
        self.sender.as_ref().is_some_and(mpsc::Sender::is_closed)
    }

    /// Begins to report to `sender`. `is_open` is true if the link is open.
    pub(super) fn begin(&mut self, sender: mpsc::Sender<Told>, is_open: bool) {
        self.sender = Some(sender);
        self.is_expecting = !is_open;
        self.untold.clear();
    }

    /// Ends the watch.
    pub(super) fn end(&mut self) {
        self.sender = None;
        self.untold.clear();
    }

    /// True if a link that has opened is news for the watcher.
    pub(super) fn takes_opening(&mut self) -> bool {
        self.is_there() && !std::mem::take(&mut self.is_expecting)
    }

    /// Adds an event.
    pub(super) fn push(&mut self, told: Told) {
        self.untold.push_back(told);
    }

    /// Adds the state of the link. A slow watcher gets only the latest event of each kind.
    pub(super) fn push_state(&mut self, told: Told) {
        let is_opening = matches!(told, Told::Opened);
        self.untold.retain(|waiting| match waiting {
            Told::Pushed(..) => true,
            Told::Opened => !is_opening,
            Told::Silent | Told::Heard => is_opening,
        });
        self.untold.push_back(told);
    }

    /// True if events wait to be taken.
    pub(super) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Passes on events while the watcher has room.
    pub(super) fn tell(&mut self) {
        while let (Some(told), Some(sender)) = (self.untold.pop_front(), &self.sender) {
            if let Err(mpsc::error::TrySendError::Full(told)) = sender.try_send(told) {
                self.untold.push_front(told);
                break;
            }
        }
    }

    /// Waits until the watcher has room for an event.
    pub(super) async fn room(&self) {
        match &self.sender {
            // The end of the watcher is noticed elsewhere.
            Some(sender) => drop(sender.reserve().await),
            None => std::future::pending().await,
        }
    }

    /// Waits until the watcher is gone.
    pub(super) async fn gone(&self) {
        match &self.sender {
            Some(sender) => sender.closed().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow watcher is told of each push, and of the latest state of the link only.
    #[test]
    fn watcher_takes_all_pushes_and_latest_state_only() {
        let (sender, mut told) = mpsc::channel(2);
        let mut watcher = Watcher::default();
        watcher.begin(sender, true);
        watcher.push_state(Told::Silent);
        watcher.push(Told::Pushed(vec![1], None));
        watcher.push_state(Told::Heard);
        watcher.push(Told::Pushed(vec![2], None));
        watcher.tell();
        assert!(matches!(told.try_recv(), Ok(Told::Pushed(bytes, _)) if bytes == [1]));
        assert!(matches!(told.try_recv(), Ok(Told::Heard)));
        assert!(watcher.has_untold());
        watcher.tell();
        assert!(matches!(told.try_recv(), Ok(Told::Pushed(bytes, _)) if bytes == [2]));
        assert!(!watcher.has_untold());
    }

    #[test]
    fn watcher_that_came_before_link_opened_is_not_told_of_opening() {
        let mut watcher = Watcher::default();
        assert!(!watcher.takes_opening());
        watcher.begin(mpsc::channel(1).0, false);
        assert!(!watcher.takes_opening() && watcher.takes_opening());
    }
}
