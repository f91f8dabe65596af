//! The watches of one listener's links. Each is a task that takes entries from the realm as fast as
//! its link delivers them, live entries before older ones.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use tokio::{
    sync::{Notify, Semaphore, mpsc},
    task::JoinHandle,
};

use super::{clock::Clock, completion::Completion, limits::WATCHED_AT_ONCE};
use crate::{
    endpoint::{Endpoint, LinkId, Path},
    link::{Time, Urgency},
    realm::{Backlog, Push, Watch},
    store::Store,
    wire::EventId,
};

/// The flow-control credit for unacknowledged pushes.
#[derive(Debug)]
struct Credit {
    live: Semaphore,
    backlog: Semaphore,
    returned: Notify,
    /// Opens once nothing of an earlier watch is unacknowledged.
    gate: Semaphore,
}

/// A running watch. It ends when dropped.
#[derive(Debug)]
struct Task {
    work: JoinHandle<()>,
    credit: Arc<Credit>,
    /// Pushes that the link has not accepted yet.
    waiting: VecDeque<Push>,
    /// Unacknowledged pushes.
    sent: BTreeSet<EventId>,
    /// The stored path of the watch.
    path: Option<Path>,
    /// Unacknowledged pushes of an earlier watch over the same link. They arrive before any push of
    /// this one; otherwise the reader would take the entries in between as known.
    before: BTreeSet<EventId>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// The watches of one listener's links.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_link: HashMap<LinkId, Task>,
}

const fn urgency(push: &Push) -> Urgency {
    if push.is_live {
        Urgency::Live
    } else {
        Urgency::Backlog
    }
}

impl Subscriptions {
    /// Begins a watch over `link`. It replaces an existing one.
    pub fn begin<S: Store>(
        &mut self,
        link: LinkId,
        watch: Watch<S>,
        clock: Clock,
        completions: mpsc::UnboundedSender<Completion<S>>,
    ) {
        let former = self.by_link.remove(&link);
        let path = former.as_ref().and_then(|task| task.path);
        let before = former.map(Task::on_the_way).unwrap_or_default();
        let credit = Arc::new(Credit {
            gate: Semaphore::new(usize::from(before.is_empty())),
            live: Semaphore::new(WATCHED_AT_ONCE),
            backlog: Semaphore::new(WATCHED_AT_ONCE),
            returned: Notify::new(),
        });
        let work = tokio::spawn(forward(
            link,
            watch,
            clock,
            Arc::clone(&credit),
            completions,
        ));
        let task = Task {
            work,
            credit,
            waiting: VecDeque::new(),
            sent: BTreeSet::new(),
            path,
            before,
        };
        self.by_link.insert(link, task);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_link.len()
    }

    /// Ends the watch over `link`. Returns true if there was one.
    pub fn end(&mut self, link: LinkId) -> bool {
        self.by_link.remove(&link).is_some()
    }

    /// Records the path of the watch over `link`. Returns true if it is another than before. False
    /// if there is no watch.
    pub fn has_moved(&mut self, link: LinkId, path: Path) -> bool {
        let task = self.by_link.get_mut(&link);
        task.is_some_and(|task| task.path.replace(path) != Some(path))
    }

    /// Pushes an entry, or queues it until others are acknowledged.
    pub fn push(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId, push: Push) {
        if let Some(task) = self.by_link.get_mut(&link) {
            task.waiting.push_back(push);
            task.send(now, endpoint, link);
        }
    }

    /// Handles the acknowledgement of a push.
    pub fn delivered(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId, number: EventId) {
        let Some(task) = self.by_link.get_mut(&link) else {
            return;
        };
        if task.before.remove(&number) {
            if task.before.is_empty() {
                task.credit.gate.add_permits(1);
            }
        } else if task.sent.remove(&number) {
            match Urgency::of(number) {
                Urgency::Live => task.credit.live.add_permits(1),
                Urgency::Backlog => task.credit.backlog.add_permits(1),
            }
            task.credit.returned.notify_one();
            task.send(now, endpoint, link);
        }
    }
}

impl Task {
    /// Returns the unacknowledged pushes when the task ends.
    fn on_the_way(mut self) -> BTreeSet<EventId> {
        let mut all = std::mem::take(&mut self.sent);
        all.append(&mut self.before);
        all
    }

    fn send(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId) {
        while let Some(push) = self.waiting.pop_front() {
            let taken = endpoint.push(now, link, push.bytes.clone(), urgency(&push));
            match taken {
                Some(number) => {
                    self.sent.insert(number);
                }
                None => {
                    self.waiting.push_front(push);
                    return;
                }
            }
        }
    }
}

/// Takes entries from the realm while there is credit.
async fn forward<S: Store>(
    link: LinkId,
    mut watch: Watch<S>,
    clock: Clock,
    credit: Arc<Credit>,
    completions: mpsc::UnboundedSender<Completion<S>>,
) {
    // The semaphore is never closed.
    let Ok(_open) = credit.gate.acquire().await else {
        return;
    };
    loop {
        let backlog = match credit.backlog.available_permits() {
            0 => Backlog::Full,
            WATCHED_AT_ONCE.. => Backlog::Arrived,
            _ => Backlog::Underway,
        };
        let now = || clock.now();
        let next = watch.next(&now, backlog);
        let push = tokio::select! {
            biased;
            push = next => push,
            () = credit.returned.notified() => continue,
        };
        let Some(push) = push else {
            let _ = completions.send(Completion::Unwatched(link));
            return;
        };
        let room = if push.is_live {
            &credit.live
        } else {
            &credit.backlog
        };
        // The permit returns when the entry is acknowledged.
        match room.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return,
        }
        if completions.send(Completion::Push(link, push)).is_err() {
            return;
        }
    }
}
