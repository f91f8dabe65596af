//! What a driver makes of the lives of the realm's store (HS-14). A link claims the life in which the positions were given out that its questions name:
//! so the realm knows whether to believe them (READ-9), however often the link is opened, and a question waits for a link that claims its life.

use super::{Ask, Driver, Welcome};
use crate::{
    client::ask::LifeTold,
    wire::{CloseReason, Life},
};

/// What the link claims, or is to claim.
pub(super) struct Claim {
    pub life: Option<Life>,
    /// The one before, which the realm knew too.
    before: Option<Life>,
}

impl Claim {
    pub(super) const fn of(life: Option<Life>) -> Self {
        Self { life, before: life }
    }
}

impl Driver {
    /// What the realm says of the life that was claimed. One that it does not know is claimed by the link ever after, should it be opened again:
    /// what was asked of it names positions of that.
    pub(super) fn learn_life(&mut self, welcome: &Welcome) {
        let (is_unknown, claimed) = (welcome.is_life_unknown, self.claim.life);
        if is_unknown {
            // Also what names positions of the life before is to be judged by a claim of its own.
            self.claim = Claim::of(claimed);
        } else if welcome.life.is_some() && welcome.life != claimed {
            // A link that opens again may be told the same.
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

    /// The life in which the link's entries have their positions.
    pub(super) fn life(&self) -> Option<Life> {
        self.status.borrow().life.and_then(|told| told.life)
    }

    /// True when a question has to wait: for the answers to those that the link has, after which another follows that claims its life.
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
