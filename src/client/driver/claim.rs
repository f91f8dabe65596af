//! The life of the realm's store that a link claims (HS-14): the one in which the positions in its
//! requests were given out. So the realm knows whether to believe them (READ-9), however often the
//! link is opened. A request waits for a link that claims its life.

use crate::{
    client::life::LifeTold,
    wire::{Life, Welcome},
};

/// The life that the link claims, now or when it opens.
pub(super) struct Claim {
    life: Option<Life>,
    /// The previously claimed life, which the realm knew too.
    before: Option<Life>,
}

impl Claim {
    pub(super) const fn of(life: Option<Life>) -> Self {
        Self { life, before: life }
    }

    /// Returns the life that a link claims when it opens.
    pub(super) const fn life(&self) -> Option<Life> {
        self.life
    }

    /// True if a request with positions of `life` may be sent on the link.
    pub(super) fn covers(&self, life: Option<Life>) -> bool {
        life == self.life || life == self.before
    }

    /// Learns what the realm reports of the claimed life, and returns it. If the realm does not
    /// know the life, the link keeps claiming it when it is reopened: the positions in its requests
    /// belong to that life.
    pub(super) fn learn(&mut self, welcome: &Welcome) -> LifeTold {
        let (is_unknown, claimed) = (welcome.is_life_unknown, self.life);
        if is_unknown {
            // Requests with positions of the life before need a claim of their own too.
            *self = Self::of(claimed);
        } else if welcome.life.is_some() && welcome.life != claimed {
            // A reopened link may get the same report.
            *self = Self {
                life: welcome.life,
                before: claimed,
            };
        }
        LifeTold {
            claimed: self.before,
            life: if is_unknown { welcome.life } else { self.life },
            is_unknown,
        }
    }
}
