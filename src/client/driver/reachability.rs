//! Whether the realm was heard, and what its silence means: it may have changed its key (HS-6).
//!
//! A realm does not answer a client with a wrong key, so a changed key looks like an absent realm.
//! The client asks for the key at the address once nothing was heard for a while. The realm may
//! still accept its former key (HS-11), and the link may just be bad. So the client keeps trying
//! for the same time again before it believes the answer.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    client::{
        ask::{Ask, AskError},
        route::Route,
        who::found,
    },
    crypto::PublicKey,
    wire::HelloReply,
};

/// After this long without hearing the realm, the client asks for its key. It believes another key
/// after as long again.
const SILENCE: Duration = Duration::from_secs(10);

/// What was heard of the realm.
#[derive(Default)]
pub(super) struct Reachability {
    /// The realm has opened a link, pushed, answered or acknowledged something.
    is_heard: bool,
    /// When an authentic datagram arrived last.
    heard_at: Option<Instant>,
    /// When to ask for the key at the address, while nothing is heard.
    ask_at: Option<Instant>,
    /// The address has another key, or speaks other versions. The realm may still answer to the
    /// known key until this time.
    changed: Option<(AskError, Instant)>,
}

impl Reachability {
    /// Records that an authentic datagram has arrived.
    pub(super) const fn note_datagram(&mut self, now: Instant) {
        self.heard_at = Some(now);
    }

    /// Records that the realm has answered: there is no doubt about its key any more.
    pub(super) fn note_heard(&mut self) {
        self.is_heard = true;
        self.ask_at = None;
        self.changed = None;
    }

    /// Records that the realm has acknowledged a request, though it did not answer it.
    pub(super) const fn note_acknowledged(&mut self) {
        self.is_heard = true;
    }

    /// Begins to wait for the realm, which has a key: a link is being opened.
    pub(super) fn begin_waiting(&mut self, now: Instant) {
        if !self.is_heard {
            self.ask_at = Some(now + SILENCE);
        }
    }

    /// True once when it is time to ask for the key at the address.
    pub(super) fn take_question(&mut self, now: Instant) -> bool {
        self.ask_at.take_if(|at| *at <= now).is_some()
    }

    /// Handles the answer to that question. `pinned` is the known key.
    pub(super) fn note_key(&mut self, now: Instant, reply: HelloReply, pinned: Option<PublicKey>) {
        match found(reply) {
            Ok(found) if pinned.is_some_and(|pinned| pinned != found) => {
                self.changed = Some((AskError::KeyChanged(found), now + SILENCE));
            }
            Ok(_) => {}
            // This answer is as unauthenticated as the key: anybody can have sent it.
            Err(other) => self.changed = Some((other, now + SILENCE)),
        }
    }

    /// True if the server at the address does not answer to the known key, or speaks no version of
    /// this side: requests are given up.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        matches!(self.changed, Some((_, until)) if until <= now)
    }

    /// Begins anew after requests were given up.
    pub(super) fn forget_change(&mut self) {
        self.changed = None;
    }

    /// Returns why a request has no answer, whether or not it may have been sent.
    pub(super) fn why_silent(&self, ask: &Ask, route: &Route) -> AskError {
        match &self.changed {
            Some((why, _)) => why.clone(),
            None if !route.is_ready() => AskError::NoRoute(route.cause()),
            None => AskError::Expired {
                heard: self.heard_at.is_some_and(|at| at > ask.begun),
                refused: route.is_refused(),
                left: ask.left,
            },
        }
    }

    /// Returns the next timeout.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let changed = self.changed.as_ref().map(|(_, until)| *until);
        self.ask_at.into_iter().chain(changed).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PROTOCOL_VERSION;

    fn reply(key: u8) -> HelloReply {
        HelloReply {
            nonce: [0; 8],
            versions: vec![PROTOCOL_VERSION],
            realm: "realm".parse().unwrap(),
            key: [key; 32],
        }
    }

    /// HS-6: another key is believed only after the realm was silent for twice as long.
    #[test]
    fn reachability_other_key_is_believed_after_second_silence() {
        let pinned = Some(PublicKey([1; 32]));
        let (mut realm, began) = (Reachability::default(), Instant::now());
        realm.begin_waiting(began);
        assert!(!realm.take_question(began));
        let asked = began + SILENCE;
        assert!(realm.take_question(asked) && !realm.take_question(asked));
        realm.note_key(asked, reply(1), pinned);
        assert_eq!(realm.timeout(), None);
        realm.note_key(asked, reply(2), pinned);
        assert!(!realm.is_lost(asked) && realm.is_lost(asked + SILENCE));
        realm.note_heard();
        assert!(!realm.is_lost(asked + SILENCE));
        realm.begin_waiting(asked);
        assert_eq!(realm.timeout(), None, "it was heard");
    }
}
