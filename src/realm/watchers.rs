//! Watched links (HS-22): when a realm that was killed starts again, it tells the watching devices
//! that it has forgotten their links. Otherwise they would notice only after half a minute.

use std::net::{IpAddr, SocketAddr};

use super::{
    Realm,
    failure::Failure,
    records::{self, Record as _, WatcherRecord},
};
use crate::{
    store::{Batch, Key, Store},
    wire::ConnectionId,
};

/// The number of watchers that are read and told at once.
const AT_ONCE: usize = 50;

/// The addresses between which a device watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watcher {
    /// The listener that its link was opened to, by its port and address family.
    pub listener: u32,
    /// A number for the start of the realm since which this is so. No two starts have the same.
    pub start: u64,
    /// The address at which it has been validated.
    pub remote: SocketAddr,
    /// The address of this machine that it has used, if known.
    pub local: Option<IpAddr>,
}

impl<S: Store> Realm<S> {
    /// Records that a link is watched. If this cannot be written, it only costs the device half a
    /// minute.
    pub async fn remember_watcher(&self, link: ConnectionId, watched: Watcher) {
        let record = WatcherRecord {
            listener: watched.listener,
            start: watched.start,
            ip: records::ip_bytes(watched.remote.ip()),
            port: watched.remote.port(),
            local: watched.local.map(records::ip_bytes),
        };
        let kept = async {
            let mut batch = Batch::new();
            batch.put(records::watcher(link.0), record.to_value()?);
            self.storage.commit(batch).await?;
            Ok::<_, Failure>(())
        };
        self.note_watcher(kept.await);
    }

    /// Records that links are not watched any more.
    pub async fn forget_watchers(&self, links: Vec<ConnectionId>) {
        let mut batch = Batch::tidying();
        for link in links {
            batch.delete(records::watcher(link.0));
        }
        let gone = async {
            self.storage.commit(batch).await?;
            Ok::<_, Failure>(())
        };
        self.note_watcher(gone.await);
    }

    /// Returns some of the recorded watchers behind `after`, and the key behind which others
    /// follow.
    pub async fn watchers(
        &self,
        after: Option<Key>,
    ) -> (Vec<(ConnectionId, Watcher)>, Option<Key>) {
        let found = self
            .storage
            .next_readable(records::all_watchers(), after, AT_ONCE)
            .await;
        let found = found.unwrap_or_else(|failure| {
            self.storage.log_failure("watchers", &failure);
            Vec::new()
        });
        let last = found.last().map(|(key, _)| key.clone());
        let each = found.iter().filter_map(|(key, found)| {
            let id = records::watcher_of(key)?;
            let record = WatcherRecord::from_value(&found.value).ok()?;
            let watched = Watcher {
                listener: record.listener,
                start: record.start,
                remote: (records::ip_of(record.ip), record.port).into(),
                local: record.local.map(records::ip_of),
            };
            Some((ConnectionId(id), watched))
        });
        (each.collect(), last)
    }

    fn note_watcher(&self, outcome: Result<(), Failure>) {
        match outcome {
            // The disk is full.
            Ok(()) | Err(Failure::Refused(_)) => {}
            Err(failure) => self.storage.log_failure("watchers", &failure),
        }
    }
}
