//! Tests of the stored watch records.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{realm::Watcher, server::watchers::WatcherWriter, wire::ConnectionId};

/// Returns the watch record of a link that has migrated `times` times.
fn after(times: u16) -> Watcher {
    Watcher {
        listener: 1,
        start: 2,
        remote: ([192, 0, 2, 7], times).into(),
        local: None,
    }
}

/// HS-22: while watch records are being written, links migrate and watches end. Only the latest
/// state of each link is written, once.
#[tokio::test(start_paused = true)]
async fn watch_records_of_migrating_links_are_written_once() {
    let store = Faulty::default();
    let (realm, _peer_calls) = realm_over(&store);
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    store.fail_when(move |asked| {
        if matches!(asked, Asked::Commit(_)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        false
    });
    let to_write = WatcherWriter::new(&realm);
    let [moves, stays, ends] = [1, 2, 3].map(ConnectionId);
    to_write.write(stays, Some(after(0)));
    for times in 0..1000 {
        to_write.write(moves, Some(after(times)));
        to_write.write(ends, Some(after(times)));
    }
    to_write.write(ends, None);
    while commits.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    // Any further write would be done by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(commits.load(Ordering::Relaxed), 3);
    let (found, _) = realm.watchers(None).await;
    assert_eq!(found, [(moves, after(999)), (stays, after(0))]);
}
