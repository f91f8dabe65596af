//! What is done with a peer beside all else: what waits for it need not wait for that.

use std::sync::Arc;

use super::{Done, Own, Step, StepId};
use crate::{
    realm::Peer,
    wire::{Answer, RealmId},
};

/// Calls a peer back that has opened a link: so it sees that it need not keep that open (PEER-24).
#[derive(Debug)]
pub struct Aside {
    peer: RealmId,
    /// It is to be called back, or to be called back once more.
    is_due: bool,
    /// The step that is under way, or is to begin.
    doing: Option<(Option<StepId>, Doing)>,
}

/// Which step.
#[derive(Debug)]
enum Doing {
    Looking,
    Introducing(Arc<Peer>),
    Noting,
}

impl Aside {
    /// For a peer that has that name.
    pub const fn new(peer: RealmId) -> Self {
        Self {
            peer,
            is_due: false,
            doing: None,
        }
    }

    /// The peer is to be called back.
    pub const fn call_back(&mut self) {
        self.is_due = true;
    }

    /// True when that step is this one's.
    pub fn is_doing(&self, step: StepId) -> bool {
        let doing = self.doing.as_ref();
        doing.is_some_and(|(current, _)| *current == Some(step))
    }

    /// What is to be done first, if anything and nothing is yet.
    pub fn begin(&mut self) -> Option<Step> {
        if self.doing.is_some() || !core::mem::take(&mut self.is_due) {
            return None;
        }
        self.doing = Some((None, Doing::Looking));
        Some(Step::Look {
            peer: self.peer,
            more: false,
        })
    }

    /// The step that was handed out has that number.
    pub fn began(&mut self, step: StepId) {
        if let Some((current, _)) = &mut self.doing {
            *current = Some(step);
        }
    }

    /// A step is done: what is to be done next. What fails is done once more when the peer opens another link.
    pub fn done(&mut self, own: &Own, done: Done) -> Option<Step> {
        let (_, doing) = self.doing.take()?;
        let (step, doing) = match (doing, done) {
            (Doing::Looking, Done::Looked(Ok(Some(glance)))) => {
                let peer = Arc::new(glance.peer);
                let bytes = own.introduction(&peer);
                let doing = Doing::Introducing(Arc::clone(&peer));
                (Step::Ask { peer, bytes }, doing)
            }
            (Doing::Introducing(peer), Done::Answered(Some(answer))) => {
                match Answer::parse(&answer) {
                    Ok(Answer::Done) => (Step::Introduced(peer), Doing::Noting),
                    Ok(_) | Err(_) => return None,
                }
            }
            (Doing::Looking | Doing::Introducing(_) | Doing::Noting, _) => return None,
        };
        self.doing = Some((None, doing));
        Some(step)
    }
}
