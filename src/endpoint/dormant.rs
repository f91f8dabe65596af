//! Dormant links. Of a link that has been silent for long only the state needed to continue is kept
//! (`link::DormantLink`), because most links of a realm are silent most of the time. Any access
//! that changes the link wakes it.

use core::{
    cell::OnceCell,
    ops::{Deref, DerefMut},
    time::Duration,
};

use super::{
    Endpoint, LinkId, SERVES,
    link_entry::{LinkEntry, Role, Stage},
};
use crate::{
    crypto::ResumptionSecret,
    link::{DormantLink, Link, Time},
};

/// Silence after which a link may become dormant: no packet is in flight for longer.
const RESTS_AFTER: Duration = Duration::from_mins(3);
/// Granularity of the silence.
const GRAIN: Duration = Duration::from_secs(30);

/// A link, awake or dormant.
#[derive(Debug)]
pub(super) enum MayHibernate {
    Awake(Box<Link>),
    /// A dormant link, with a woken copy for read access.
    DormantLink(Box<DormantLink>, OnceCell<Box<Link>>),
}

impl MayHibernate {
    /// True while the link is dormant and unchanged.
    pub const fn is_resting(&self) -> bool {
        matches!(self, Self::DormantLink(..))
    }

    /// Returns the responder's side of the initiator's ticket: its secret, and the initiator's
    /// limit on datagrams in bytes. Does not wake the link.
    pub fn responders_ticket(&self) -> Option<(ResumptionSecret, usize)> {
        match self {
            Self::Awake(link) => Some((
                link.responders_secret()?,
                link.opening().peer_max_datagram(),
            )),
            Self::DormantLink(resting, _) => resting.responders_ticket(),
        }
    }

    /// Returns the link, awake.
    pub fn into_awake(self) -> Link {
        match self {
            Self::Awake(link) => *link,
            Self::DormantLink(resting, _) => resting.wake(),
        }
    }
}

impl From<Link> for MayHibernate {
    fn from(link: Link) -> Self {
        Self::Awake(Box::new(link))
    }
}

impl Deref for MayHibernate {
    type Target = Link;

    #[expect(clippy::unreachable, reason = "only who serves lays links to rest")]
    fn deref(&self) -> &Link {
        match self {
            Self::Awake(link) => link,
            Self::DormantLink(..) if !SERVES => unreachable!(),
            Self::DormantLink(resting, woken) => woken.get_or_init(|| Box::new(resting.wake())),
        }
    }
}

impl DerefMut for MayHibernate {
    #[expect(clippy::unreachable, reason = "it has just been woken")]
    fn deref_mut(&mut self) -> &mut Link {
        if let Self::DormantLink(resting, _) = self
            && SERVES
        {
            *self = resting.wake().into();
        }
        match self {
            Self::Awake(link) => link,
            Self::DormantLink(..) => unreachable!(),
        }
    }
}

impl LinkEntry {
    /// Returns when the link may become dormant, if it may.
    pub fn rests_at(&self) -> Option<Time> {
        let may_rest = SERVES
            && self.role == Role::Responder
            && matches!(self.stage, Stage::Open)
            && !self.link.is_resting()
            && self.left.is_none()
            && self.held.is_empty()
            && self.link.may_hibernate();
        // Rounded to the granularity, so that the timer does not change with each packet.
        let grain = u64::try_from(GRAIN.as_micros()).unwrap_or(u64::MAX);
        let at = (self.heard.unwrap_or(self.opened) + RESTS_AFTER).0;
        may_rest.then(|| Time(at.checked_next_multiple_of(grain).unwrap_or(u64::MAX)))
    }
}

impl Endpoint {
    /// Makes a link dormant if it is due, and releases the memory that it held for the other side.
    /// False if it is not due.
    pub(super) fn lay_to_rest(&mut self, now: Time, id: LinkId) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        if slot.rests_at().is_none_or(|at| at > now) {
            return false;
        }
        let Some(resting) = slot.link.hibernate() else {
            return false;
        };
        self.stats.links += slot.link.counters();
        slot.link = MayHibernate::DormantLink(Box::new(resting), OnceCell::new());
        let before = core::mem::take(&mut slot.memory);
        let holder = slot.holder();
        self.schedule.set(id, slot.timeout(&self.config));
        self.memory.change(id, holder, before, 0);
        true
    }
}
