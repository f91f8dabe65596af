//! Answers commits. Waking another thread costs more than writing a message, so all callers that
//! wait on one thread are answered together: by a task there, which is woken once per group.

use std::{
    sync::{Mutex, PoisonError},
    thread::{self, ThreadId},
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::super::{CommitError, Committed};

/// The result of a batch.
pub type Outcome = Result<Committed, CommitError>;

/// A waiting caller and its answer.
#[derive(Debug)]
pub struct Answer {
    pub to: oneshot::Sender<Outcome>,
    pub outcome: Outcome,
}

impl Answer {
    fn give(self) {
        // The caller may be gone; the commit stands all the same.
        let _ = self.to.send(self.outcome);
    }
}

/// The dispatcher that gives out the answers for one thread.
#[derive(Clone, Debug)]
pub struct Dispatcher(Option<mpsc::UnboundedSender<Vec<Answer>>>);

impl Dispatcher {
    /// True if both belong to the same thread.
    pub fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => one.same_channel(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Gives these answers out.
    pub fn give_out(&self, answers: Vec<Answer>) {
        let left = match &self.0 {
            Some(dispatcher) => dispatcher.send(answers).map_err(|unsent| unsent.0).err(),
            None => Some(answers),
        };
        // The task is gone: give them out here.
        left.into_iter().flatten().for_each(Answer::give);
    }
}

/// The dispatchers of all threads that commit, which are few.
#[derive(Debug, Default)]
pub struct Dispatchers(Mutex<Vec<(ThreadId, Dispatcher)>>);

impl Dispatchers {
    /// Returns the dispatcher of the calling thread.
    pub fn here(&self) -> Dispatcher {
        let mut dispatchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |dispatcher: &Dispatcher| {
            dispatcher
                .0
                .as_ref()
                .is_some_and(|dispatcher| !dispatcher.is_closed())
        };
        let here = thread::current().id();
        let mut open = dispatchers
            .iter()
            .filter(|(_, dispatcher)| is_open(dispatcher));
        if let Some((_, dispatcher)) = open.find(|(thread, _)| *thread == here) {
            return dispatcher.clone();
        }
        let Ok(runtime) = Handle::try_current() else {
            return Dispatcher(None);
        };
        let (dispatcher, mut brought) = mpsc::unbounded_channel::<Vec<Answer>>();
        runtime.spawn(async move {
            while let Some(answers) = brought.recv().await {
                answers.into_iter().for_each(Answer::give);
            }
        });
        // Removes the dispatchers of threads and runtimes that are gone.
        dispatchers.retain(|(_, dispatcher)| is_open(dispatcher));
        let dispatcher = Dispatcher(Some(dispatcher));
        dispatchers.push((here, dispatcher.clone()));
        dispatcher
    }
}
