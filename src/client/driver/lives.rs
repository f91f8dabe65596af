//! What a driver makes of the lives of the realm's store (HS-14): its links claim the latest it was told, and a link
//! whose claim was unknown is used no longer than it has to be.

use super::{Driver, LinkId, Welcome};
use crate::{client::ask::LifeTold, wire::CloseReason};

impl Driver {
    /// READ-9: on a link whose claim is unknown no cursor is believed, also none that is learnt from now on. What is asked before its asker knows
    /// is answered there; for the rest there will be another link.
    pub(super) fn learn_life(&mut self, link: LinkId, welcome: &Welcome) {
        let is_unknown = welcome.is_life_unknown;
        if welcome.life.is_none() && !is_unknown && self.status.borrow().life.is_some() {
            return;
        }
        let mut known = self.status.borrow().life.unwrap_or_default().known;
        if is_unknown {
            known.fill(None);
            self.target.life = welcome.life;
        } else if welcome.life.is_some() {
            known.rotate_right(1);
            known[0] = std::mem::replace(&mut self.target.life, welcome.life);
        }
        let told = LifeTold {
            known,
            life: self.target.life,
            is_unknown,
        };
        self.status.send_modify(|status| status.life = Some(told));
        if is_unknown {
            self.outdated = Some((link, false));
        }
    }

    /// Something has been answered on a link whose claim was unknown: who asks knows by now. What was asked before is not believed there; elsewhere it
    /// would be.
    pub(super) fn note_answered(&mut self, link: LinkId) {
        if self.outdated == Some((link, false)) {
            self.ask_waiting();
            self.outdated = Some((link, true));
        }
    }

    /// Ends a link on which no cursor is believed, once all that was asked on it is answered. True while it is not.
    pub(super) fn waits_for_outdated(&mut self) -> bool {
        let Some(link) = self
            .link
            .filter(|link| self.outdated == Some((*link, true)))
        else {
            return false;
        };
        if self.asked.is_empty() {
            let now = self.now();
            self.outdated = None;
            self.endpoint.close(now, link, CloseReason::Done);
        }
        true
    }
}
