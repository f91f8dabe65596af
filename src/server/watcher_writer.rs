//! Writes which links have a watch, through one task.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    realm::{Realm, Watcher},
    store::Store,
    wire::ConnectionId,
};

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
