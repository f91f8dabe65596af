//! What is written down of watches.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{realm::Watcher, server::watchers::ToWrite, wire::ConnectionId};

/// Where the watch over a link is that has moved `times`.
fn after(times: u16) -> Watcher {
    Watcher {
        listener: 1,
        start: 2,
        remote: ([192, 0, 2, 7], times).into(),
        local: None,
    }
}

/// HS-22: of watchers that move while others are written, and of those that end, the latest is written down, once for each link.
#[tokio::test(start_paused = true)]
async fn watchers_that_move_about_are_written_once() {
    let store = Faulty::default();
    let (realm, _errands) = realm_over(&store);
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    store.fail_when(move |asked| {
        if matches!(asked, Asked::Commit(_)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        false
    });
    let to_write = ToWrite::of(&realm);
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
    // What else there might be to write would be written by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(commits.load(Ordering::Relaxed), 3);
    let (found, _) = realm.watchers(None).await;
    assert_eq!(found, [(moves, after(999)), (stays, after(0))]);
}
