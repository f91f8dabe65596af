//! How a driver handles the lives of the realm's store (HS-14). A link claims the life in which the
//! positions in its requests were given out. So the realm knows whether to believe them (READ-9),
//! however often the link is opened. A request waits for a link that claims its life.

use super::{Ask, Driver, Welcome};
use crate::{
    client::life::LifeTold,
    wire::{CloseReason, Life},
};

/// The life that the link claims, now or when it opens.
pub(super) struct Claim {
    pub life: Option<Life>,
    /// The previously claimed life, which the realm knew too.
    before: Option<Life>,
}

impl Claim {
    pub(super) const fn of(life: Option<Life>) -> Self {
        Self { life, before: life }
    }
}

impl Driver {
    /// Learns what the realm reports of the claimed life. If the realm does not know it, the link
    /// keeps claiming it when it is reopened: the positions in its requests belong to that life.
    pub(super) fn learn_life(&mut self, welcome: &Welcome) {
        let (is_unknown, claimed) = (welcome.is_life_unknown, self.claim.life);
        if is_unknown {
            // Requests with positions of the life before need a claim of their own too.
            self.claim = Claim::of(claimed);
        } else if welcome.life.is_some() && welcome.life != claimed {
            // A reopened link may get the same report.
            self.claim = Claim {
                life: welcome.life,
                before: claimed,
            };
        }
        let told = LifeTold {
            claimed: self.claim.before,
            life: if is_unknown {
                welcome.life
            } else {
                self.claim.life
            },
            is_unknown,
        };
        self.status.send_modify(|status| status.life = Some(told));
    }

    /// Returns the life to which the positions of the link's entries belong.
    pub(super) fn life(&self) -> Option<Life> {
        self.status.borrow().life.and_then(|told| told.life)
    }

    /// True if a request has to wait for the answers to earlier requests on the link. After these,
    /// another link is opened that claims its life.
    pub(super) fn waits_for_claim(&mut self, ask: &Ask) -> bool {
        if ask.life == self.claim.life || ask.life == self.claim.before {
            return false;
        }
        if !self.asked.is_empty() {
            return true;
        }
        self.claim = Claim::of(ask.life);
        let Some(link) = self.link else {
            return false;
        };
        let now = self.now();
        self.endpoint.close(now, link, CloseReason::Done);
        true
    }
}
