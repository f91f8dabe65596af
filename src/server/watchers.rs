//! Stores which links have a watch, and tells them after a restart of the realm (HS-22).

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

/// After this time all listeners have told their watchers. Records left from a former start belong
/// to listeners that no longer exist.
const SWEPT_AFTER: Duration = Duration::from_mins(5);
/// The pause between two batches of watchers that are told.
const PACE: Duration = Duration::from_millis(50);

/// The pending write for each link. None if its watch has ended.
type Changes = BTreeMap<ConnectionId, Option<Watcher>>;

/// Writes all watch records through one task. Each commit takes all pending changes, of each link
/// only the latest. A client that changes its address often therefore causes no more writes than
/// commits can take, and there are never more changes than links, however long a commit takes.
#[derive(Debug)]
pub struct ToWrite {
    changes: Arc<Mutex<Changes>>,
    /// Signals changes. The task ends when this is dropped.
    bell: mpsc::Sender<()>,
}

impl ToWrite {
    /// Creates the task that writes to this realm's store.
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

    /// Schedules a write of the path of the watch over `link`, or of its end.
    pub fn write(&self, link: ConnectionId, watched: Option<Watcher>) {
        lock(&self.changes).insert(link, watched);
        // This fails if a signal is pending already or the server ends.
        let _ = self.bell.try_send(());
    }
}

/// Locks the changes. A panic of another thread during a change leaves them usable.
fn lock(changes: &Mutex<Changes>) -> MutexGuard<'_, Changes> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}

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

    /// Ends the watch over `link`, if there is one.
    pub(super) fn end_watch(&mut self, link: LinkId) {
        if self.watches.end(link) && self.listener.is_some() {
            self.write_watcher(link, None);
        }
    }
}
