//! Who watches is written down, and told when the realm has been started again (HS-22).

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};

use super::{completion::Completion, worker::Worker};
use crate::{
    endpoint::{LinkId, Path},
    realm::{Realm, Watcher},
    store::Store,
    wire::ConnectionId,
};

/// After so long all listeners have told whoever watched: what is still written down of a former start is of listeners that are gone.
const SWEPT_AFTER: Duration = Duration::from_mins(5);
/// Between a few watchers that are told and the next.
const PACE: Duration = Duration::from_millis(50);

/// Of each link what is to be written down; none: its watch is over.
type Changes = BTreeMap<ConnectionId, Option<Watcher>>;

/// What is to be written down of watches goes through one task: all that has come up by then at once, and of each link the latest. Somebody
/// who moves about makes no more of it than a commit can take, and no more is held than there are links, however long a commit takes.
#[derive(Debug)]
pub struct ToWrite {
    changes: Arc<Mutex<Changes>>,
    /// Rung when there are changes. The task ends with it.
    bell: mpsc::Sender<()>,
}

impl ToWrite {
    /// Writes to the store of this realm.
    pub fn of<S: Store>(realm: &Arc<Realm<S>>) -> Self {
        let changes = Arc::<Mutex<Changes>>::default();
        let (bell, mut rung) = mpsc::channel(1);
        let (realm, to_write) = (Arc::clone(realm), Arc::clone(&changes));
        tokio::spawn(async move {
            while rung.recv().await.is_some() {
                let latest = mem::take(&mut *lock(&to_write));
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
        Self { changes, bell }
    }

    /// Writes down soon where the watch over `link` is, or that it is over.
    pub fn write(&self, link: ConnectionId, watched: Option<Watcher>) {
        lock(&self.changes).insert(link, watched);
        // It is rung already where that fails, or the server ends.
        let _ = self.bell.try_send(());
    }
}

/// What a thread has left behind that panicked in the midst of a change is as good as any.
fn lock(changes: &Mutex<Changes>) -> MutexGuard<'_, Changes> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}

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
                if done.send(Completion::Watchers(found)).is_err() {
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

    fn write_watcher(&mut self, link: LinkId, watched: Option<Watcher>) {
        let realm = &self.realm;
        let to_write = self.watchers.get_or_insert_with(|| ToWrite::of(realm));
        to_write.write(ConnectionId(link.0), watched);
    }

    /// The watch over `link` ends, if there is one.
    pub(super) fn end_watch(&mut self, link: LinkId) {
        if self.watches.end(link) && self.listener.is_some() {
            self.write_watcher(link, None);
        }
    }
}
