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

/// The desk that gives out the answers for one thread.
#[derive(Clone, Debug)]
pub struct Desk(Option<mpsc::UnboundedSender<Vec<Answer>>>);

impl Desk {
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
            Some(desk) => desk.send(answers).map_err(|unsent| unsent.0).err(),
            None => Some(answers),
        };
        // The task is gone: give them out here.
        left.into_iter().flatten().for_each(Answer::give);
    }
}

/// The desks of all threads that commit, which are few.
#[derive(Debug, Default)]
pub struct Desks(Mutex<Vec<(ThreadId, Desk)>>);

impl Desks {
    /// Returns the desk of the calling thread.
    pub fn here(&self) -> Desk {
        let mut desks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |desk: &Desk| desk.0.as_ref().is_some_and(|desk| !desk.is_closed());
        let here = thread::current().id();
        let mut open = desks.iter().filter(|(_, desk)| is_open(desk));
        if let Some((_, desk)) = open.find(|(thread, _)| *thread == here) {
            return desk.clone();
        }
        let Ok(runtime) = Handle::try_current() else {
            return Desk(None);
        };
        let (desk, mut brought) = mpsc::unbounded_channel::<Vec<Answer>>();
        runtime.spawn(async move {
            while let Some(answers) = brought.recv().await {
                answers.into_iter().for_each(Answer::give);
            }
        });
        // Removes the desks of threads and runtimes that are gone.
        desks.retain(|(_, desk)| is_open(desk));
        let desk = Desk(Some(desk));
        desks.push((here, desk.clone()));
        desk
    }
}
