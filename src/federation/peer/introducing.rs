//! Introduces this realm to a peer: its identity and its current key (PEER-1, PEER-13, PEER-27).

use std::sync::Arc;

use super::{
    super::{
        News, RealmIdentity, Step,
        backoff::Until,
        steps::{Doing, Next, introduce, introduce_as},
    },
    PeerTask,
};
use crate::{
    realm::{Numbered, Peer},
    wire::{Answer, ErrorCode, Refusal},
};

impl PeerTask {
    /// Handles the peer's answer to this realm's new key. A peer that does not know the old key may
    /// know the new one.
    pub(super) fn told_key(
        &mut self,
        own: &RealmIdentity,
        peer: &Peer,
        answer: Option<&[u8]>,
    ) -> Next {
        let Some(answer) = answer else {
            return self.is_silent();
        };
        match Answer::parse(answer) {
            Ok(Answer::Done) => tracing::info!(peer = %self.id, "a peer follows to the new key"),
            // The peer no longer knows the old key.
            Ok(Answer::Refused(refusal)) if refusal.is_final() => {
                tracing::debug!(peer = %self.id, code = %refusal.code, "a peer does not follow to the new key");
            }
            // An introduction under the new key would make the peer see a different realm.
            answer => {
                self.news.push_back(News::Answers);
                if let Ok(Answer::Refused(refusal)) = answer {
                    self.not_now(refusal);
                }
                return Next::Wait(Until::Over);
            }
        }
        introduce(own, &peer.known_by(own.secret.public()))
    }

    pub(super) fn introduced(
        &mut self,
        own: &RealmIdentity,
        (peer, is_numbered): (&Peer, bool),
        answer: Option<&[u8]>,
    ) -> Next {
        let Some(answer) = answer.and_then(|answer| Answer::parse(answer).ok()) else {
            return self.is_silent();
        };
        self.news.push_back(News::Answers);
        let said = Numbered::of(&answer);
        let refusal = match answer {
            Answer::Refused(refusal) => refusal,
            Answer::Done | Answer::Joined { .. } => {
                let peer = Arc::new(peer.known_by(own.secret.public()));
                return Next::act(Step::Introduced(peer, said), Doing::Noting);
            }
            _ => return Next::Wait(Until::HeardLater),
        };
        if refusal.code == ErrorCode::Unsupported && is_numbered {
            // The peer runs a release without peering numbers.
            return introduce_as(own, peer, false);
        }
        if refusal.is_transient() || refusal.is_unknown() {
            tracing::debug!(peer = %self.id, code = %refusal.code, "a peer cannot be introduced to now");
            self.not_now(refusal);
            return Next::Wait(Until::Over);
        }
        tracing::warn!(peer = %self.id, code = %refusal.code, "a peer refuses the peering");
        self.news.push_back(News::Refuses(refusal.code));
        // The peer's operator may have accepted the peering in the meantime.
        Next::Wait(Until::HeardLater)
    }

    /// Reports a peer's refusal, unless it is transient.
    pub(super) fn not_now(&mut self, refusal: Refusal) {
        if !refusal.is_transient() {
            self.news.push_back(News::Refuses(refusal.code));
        }
    }
}
