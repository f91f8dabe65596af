//! Who watches is written down, and told when the realm has been started again (HS-22).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};

use super::{done::Done, worker::Worker};
use crate::{
    endpoint::{LinkId, Path},
    realm::Watcher,
    store::Store,
    wire::ConnectionId,
};

/// After so long all listeners have told whoever watched: what is still written down of a former start is of listeners that are gone.
const SWEPT_AFTER: Duration = Duration::from_mins(5);
/// What is to be written down of watches; none: the watch is over.
pub type ToWrite = mpsc::UnboundedSender<(ConnectionId, Option<Watcher>)>;

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
                    break;
                }
                after = last;
                // Others have come meanwhile.
                found.retain(|(_, watched)| watched.listener == listener && watched.start != start);
                let links: Vec<_> = found.iter().map(|(link, _)| *link).collect();
                if links.is_empty() {
                    continue;
                }
                if done.send(Done::Watchers(found)).is_err() {
                    return;
                }
                realm.forget_watchers(links).await;
                tokio::time::sleep(PACE).await;
            }
            // A worker that ends keeps its realm no longer.
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
        self.write_watcher(link, Some(watched));
    }

    /// What is to be written down of watches goes through one task: all that has come up by then at once, and of each link the latest. Somebody
    /// who moves about makes no more of it than a commit can take.
    fn write_watcher(&mut self, link: LinkId, watched: Option<Watcher>) {
        let realm = &self.realm;
        let to_write = self.watchers.get_or_insert_with(|| {
            let (to_write, mut written) = mpsc::unbounded_channel();
            let realm = Arc::clone(realm);
            tokio::spawn(async move {
                while let Some((link, watched)) = written.recv().await {
                    let mut latest = BTreeMap::from([(link, watched)]);
                    while let Ok((link, watched)) = written.try_recv() {
                        latest.insert(link, watched);
                    }
                    let mut writing = JoinSet::new();
                    for (link, watched) in latest {
                        let realm = Arc::clone(&realm);
                        writing.spawn(async move {
                            match watched {
                                Some(watched) => realm.remember_watcher(link, watched).await,
                                None => realm.forget_watchers(vec![link]).await,
                            }
                        });
                    }
                    while writing.join_next().await.is_some() {}
                }
            });
            to_write
        });
        // The task ends only with the server.
        let _ = to_write.send((ConnectionId(link.0), watched));
    }

    /// The watch over `link` ends, if there is one.
    pub(super) fn end_watch(&mut self, link: LinkId) {
        if self.watches.end(link) && self.listener.is_some() {
            self.write_watcher(link, None);
        }
    }
}
