//! What a driver makes of a silent realm that was asked who it is (HS-6), and what whoever asks is told of the silence.

use tokio::time::Instant;

use super::{Ask, AskError, DOUBT, Driver, HelloReply};
use crate::{client::who::found, wire::CloseReason};

impl Driver {
    /// The realm is silent to those who do not know its key, so a changed key looks like no realm at
    /// all: until it is asked who it is. It may answer to its former key all the same (HS-11) and the
    /// link be a bad one: so it is tried for as long again.
    pub(super) fn doubts_answered(&mut self, reply: HelloReply) {
        let now = Instant::now();
        match found(reply) {
            Ok(found) if self.target.key.is_some_and(|pinned| pinned != found) => {
                self.changed = Some((AskError::KeyChanged(found), now + DOUBT));
            }
            Ok(_) => {}
            // Anybody can have said so, as of the key.
            Err(other) => self.changed = Some((other, now + DOUBT)),
        }
    }

    /// Why a question that may have left, or not, has no answer.
    pub(super) fn why_silent(&self, ask: &Ask) -> AskError {
        match &self.changed {
            Some((why, _)) => why.clone(),
            None if !self.route.is_ready() => AskError::NoRoute(self.route.cause()),
            None => AskError::Expired {
                heard: self.heard_at.is_some_and(|at| at > ask.begun),
                refused: self.route.is_refused(),
                left: ask.left,
            },
        }
    }

    /// Whoever is there does not answer to the key that is known, or in no version that this side speaks.
    pub(super) fn give_up(&mut self) {
        let asked = std::mem::take(&mut self.asked).into_values();
        let all: Vec<_> = asked.chain(self.waiting.drain(..)).collect();
        for ask in all {
            let why = self.why_silent(&ask);
            let _ = ask.answer.send(Err(why));
        }
        // What was asked early must not leave any more, and whoever asks next is to hear of it as soon.
        let opening = self.link.filter(|link| !self.endpoint.is_open(*link));
        if let Some(link) = opening {
            self.route.forget_last();
            let now = self.now();
            self.endpoint.close(now, link, CloseReason::Done);
        }
    }
}
