//! Who watches is written down, and told when the realm has been started again (HS-22).

use std::{sync::Arc, time::Duration};

use super::{done::Done, worker::Worker};
use crate::{
    endpoint::{LinkId, Path},
    realm::Watcher,
    store::Store,
    wire::ConnectionId,
};

/// Between a few watchers that are told and the next.
const PACE: Duration = Duration::from_millis(50);

impl<S: Store> Worker<S> {
    /// Reads who watched before this start, if this is the listener's first worker, and has them told, some at a time.
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
                    return;
                }
                after = last;
                // Others have come meanwhile.
                found.retain(|(_, watched)| watched.listener == listener && watched.start != start);
                let links = found.iter().map(|(link, _)| *link).collect();
                if done.send(Done::Watchers(found)).is_err() {
                    return;
                }
                realm.forget_watchers(links).await;
                tokio::time::sleep(PACE).await;
            }
        });
    }

    /// Tells these that their links are forgotten.
    pub(super) fn tell_watchers(&mut self, watchers: Vec<(ConnectionId, Watcher)>) {
        for (link, watched) in watchers {
            let path = Path {
                remote: watched.remote,
                local: watched.local,
            };
            self.endpoint.tell_forgotten(link, path);
        }
    }

    /// Writes down where the watch over `link` is, if it is not.
    pub(super) fn note_watcher(&mut self, link: LinkId) {
        let (Some((listener, start)), Some(path)) = (self.listener, self.endpoint.path(link))
        else {
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
        let realm = Arc::clone(&self.realm);
        tokio::spawn(async move {
            realm.remember_watcher(ConnectionId(link.0), watched).await;
        });
    }

    /// The watch over `link` ends, if there is one.
    pub(super) fn end_watch(&mut self, link: LinkId) {
        if self.watches.end(link) && self.listener.is_some() {
            let realm = Arc::clone(&self.realm);
            tokio::spawn(async move {
                realm.forget_watchers(vec![ConnectionId(link.0)]).await;
            });
        }
    }
}
