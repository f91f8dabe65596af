//! Stores which links have a watch, and tells them after a restart of the realm (HS-22).

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};

use super::completion::Completion;
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

/// A start of a listener with authenticated peers.
#[derive(Clone, Copy, Debug)]
pub struct ListenerStart {
    /// The listener's port and address family in one number.
    pub listener: u32,
    /// Stands for its start. No two starts have the same number.
    pub start: u64,
}

/// The stored watches of one worker's links.
pub struct Watchers<S> {
    realm: Arc<Realm<S>>,
    /// None on a plain listener: its watches are not stored, as its peers are not authenticated.
    start: Option<ListenerStart>,
    /// Made for the first watch.
    writer: Option<WatcherWriter>,
}

impl<S: Store> Watchers<S> {
    pub fn new(realm: &Arc<Realm<S>>, start: Option<ListenerStart>) -> Self {
        Self {
            realm: Arc::clone(realm),
            start,
            writer: None,
        }
    }

    /// True if the watches of this listener are stored.
    pub const fn are_stored(&self) -> bool {
        self.start.is_some()
    }

    /// For the listener's first worker: reads the watchers from before this start and hands them
    /// over, some at a time.
    pub fn recall(&self, completions: mpsc::UnboundedSender<Completion<S>>) {
        let Some(ListenerStart { listener, start }) = self.start else {
            return;
        };
        let realm = Arc::clone(&self.realm);
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
                if completions.send(Completion::Watchers(found)).is_err() {
                    return;
                }
                realm.forget_watchers(links).await;
                tokio::time::sleep(PACE).await;
            }
            // A worker that has ended must not keep its realm alive.
            tokio::select! {
                () = tokio::time::sleep(SWEPT_AFTER) => {}
                () = completions.closed() => return,
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

    /// Stores the path of the watch over `link`.
    pub fn store(&mut self, link: LinkId, path: Path) {
        if let Some(ListenerStart { listener, start }) = self.start {
            let watched = Watcher {
                listener,
                start,
                remote: path.remote,
                local: path.local,
            };
            self.write(link, Some(watched));
        }
    }

    /// Stores that the watch over `link` has ended.
    pub fn remove(&mut self, link: LinkId) {
        if self.are_stored() {
            self.write(link, None);
        }
    }

    fn write(&mut self, link: LinkId, watched: Option<Watcher>) {
        let realm = &self.realm;
        let writer = self.writer.get_or_insert_with(|| WatcherWriter::new(realm));
        writer.write(ConnectionId(link.0), watched);
    }
}

/// The pending write for each link. None if its watch has ended.
type Changes = BTreeMap<ConnectionId, Option<Watcher>>;

/// Writes all watch records through one task. Each commit takes all pending changes, of each link
/// only the latest. A client that changes its address often therefore causes no more writes than
/// commits can take, and there are never more changes than links, however long a commit takes.
#[derive(Debug)]
pub struct WatcherWriter {
    changes: Arc<Mutex<Changes>>,
    /// Signals changes. The task ends when this is dropped.
    bell: mpsc::Sender<()>,
}

impl WatcherWriter {
    /// Creates the task that writes to this realm's store.
    pub fn new<S: Store>(realm: &Arc<Realm<S>>) -> Self {
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
