//! How a driver handles a realm that may have changed its key (HS-6), and which error its silence
//! causes.

use tokio::time::Instant;

use super::{Ask, AskError, DOUBT, Driver, HelloReply};
use crate::{client::who::found, endpoint::LinkStatus, wire::CloseReason};

impl Driver {
    /// Handles the answer to the request for the realm's key. A realm does not answer a client with
    /// a wrong key, so a changed key looks like an absent realm. The realm may still accept its
    /// former key (HS-11), and the link may just be bad. So the client keeps trying for the same
    /// time again.
    pub(super) fn doubts_answered(&mut self, reply: HelloReply) {
        let now = Instant::now();
        match found(reply) {
            Ok(found) if self.target.key.is_some_and(|pinned| pinned != found) => {
                self.changed = Some((AskError::KeyChanged(found), now + DOUBT));
            }
            Ok(_) => {}
            // This answer is as unauthenticated as the key: anybody can have sent it.
            Err(other) => self.changed = Some((other, now + DOUBT)),
        }
    }

    /// Returns why a request has no answer, whether or not it may have been sent.
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

    /// Gives up: the server there does not answer to the known key, or speaks no version of this
    /// side.
    pub(super) fn give_up(&mut self) {
        let asked = std::mem::take(&mut self.asked).into_values();
        let all: Vec<_> = asked.chain(self.waiting.drain(..)).collect();
        for ask in all {
            let why = self.why_silent(&ask);
            let _ = ask.answer.send(Err(why));
        }
        // Early data must not be sent any more, and the next request must get this error as soon.
        let opening = self
            .link
            .filter(|link| !self.endpoint.link(*link).is_some_and(LinkStatus::is_open));
        if let Some(link) = opening {
            self.route.forget_last();
            let now = self.now();
            self.endpoint.close(now, link, CloseReason::Done);
        }
    }
}
