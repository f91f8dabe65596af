//! What a driver makes of the lives of the realm's store (HS-14): its links claim the latest it was told, and a link
//! whose claim was unknown is used no longer than it has to be.

use super::{Driver, LinkId, Welcome};
use crate::wire::CloseReason;

impl Driver {
    /// READ-9: on a link whose claim is unknown no cursor is believed, also none that is learnt from now on. What has
    /// been asked is answered there; for the rest there will be another link.
    pub(super) fn learn_life(&mut self, link: LinkId, welcome: &Welcome) {
        let Welcome {
            life,
            is_life_unknown,
            ..
        } = *welcome;
        if life.is_none() && !is_life_unknown {
            return;
        }
        self.target.life = life;
        self.status.send_modify(|status| {
            (status.life, status.is_life_unknown) = (life, is_life_unknown);
        });
        if is_life_unknown {
            self.ask_waiting();
            self.outdated = Some(link);
        }
    }

    /// Ends a link on which no cursor is believed, once all that was asked on it is answered. True while it is not.
    pub(super) fn waits_for_outdated(&mut self) -> bool {
        let outdated = self.outdated.filter(|_| self.outdated == self.link);
        if let Some(link) = outdated
            && self.asked.is_empty()
        {
            let now = self.now();
            self.outdated = None;
            self.endpoint.close(now, link, CloseReason::Done);
        }
        outdated.is_some()
    }
}
