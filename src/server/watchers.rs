//! Stores which links have a watch, and tells them after a restart of the realm (HS-22).

use std::{sync::Arc, time::Duration};

use super::{completion::Completion, watcher_writer::WatcherWriter, worker::Worker};
use crate::{
    endpoint::{LinkId, LinkStatus, Path},
    realm::Watcher,
    store::Store,
    wire::ConnectionId,
};

/// After this time all listeners have told their watchers. Records left from a former start belong
/// to listeners that no longer exist.
const SWEPT_AFTER: Duration = Duration::from_mins(5);
/// The pause between two batches of watchers that are told.
const PACE: Duration = Duration::from_millis(50);

impl<S: Store> Worker<S> {
    /// On the listener's first worker: reads the watchers from before this start and tells them,
    /// some at a time.
    pub(super) fn recall_watchers(&self) {
        let Some((listener, start)) = self.listener.filter(|_| self.endpoint.is_first()) else {
            return;
        };
        let (realm, done) = (Arc::clone(&self.realm), self.done.clone());
        tokio::spawn(async move {
            let mut after = None;
            loop {
                let (mut found, last) = realm.watchers(after).await;
                if last.is_none() {
                    break;
                }
                after = last;
                // Others may have reconnected in the meantime.
                found.retain(|(_, watched)| watched.listener == listener && watched.start != start);
                let links: Vec<_> = found.iter().map(|(link, _)| *link).collect();
                if links.is_empty() {
                    continue;
                }
                if done.send(Completion::Watchers(found)).is_err() {
                    return;
                }
                realm.forget_watchers(links).await;
                tokio::time::sleep(PACE).await;
            }
            // A worker that has ended must not keep its realm alive.
            tokio::select! {
                () = tokio::time::sleep(SWEPT_AFTER) => {}
                () = done.closed() => return,
            }
            let mut after = None;
            loop {
                let (found, last) = realm.watchers(after).await;
                if last.is_none() {
                    return;
                }
                after = last;
                let former = found.iter().filter(|(_, watched)| watched.start != start);
                let former: Vec<_> = former.map(|(link, _)| *link).collect();
                if !former.is_empty() {
                    realm.forget_watchers(former).await;
                }
            }
        });
    }

    /// Tells these clients that their links are unknown.
    pub(super) fn tell_watchers(&mut self, watchers: Vec<(ConnectionId, Watcher)>) {
        for (link, watched) in watchers {
            let path = Path {
                remote: watched.remote,
                local: watched.local,
            };
            self.endpoint.tell_forgotten(link, path);
        }
    }

    /// Stores the path of the watch over `link` if it has changed.
    pub(super) fn note_watcher(&mut self, link: LinkId) {
        let (Some((listener, start)), Some(path)) = (
            self.listener,
            self.endpoint.link(link).and_then(LinkStatus::path),
        ) else {
            return;
        };
        match self.watches.noted(link) {
            Some(noted) if *noted != Some(path) => *noted = Some(path),
            Some(_) | None => return,
        }
        let watched = Watcher {
            listener,
            start,
            remote: path.remote,
            local: path.local,
        };
        self.write_watcher(link, Some(watched));
    }

    fn write_watcher(&mut self, link: LinkId, watched: Option<Watcher>) {
        let realm = &self.realm;
        let to_write = self
            .watchers
            .get_or_insert_with(|| WatcherWriter::of(realm));
        to_write.write(ConnectionId(link.0), watched);
    }

    /// Ends the watch over `link`, if there is one.
    pub(super) fn end_watch(&mut self, link: LinkId) {
        if self.watches.end(link) && self.listener.is_some() {
            self.write_watcher(link, None);
        }
    }
}
