//! Dormant links. Of a link that has been silent for long only the state needed to continue is kept
//! (`link::DormantLink`), because most links of a realm are silent most of the time. Any access
//! that changes the link wakes it.

use core::{
    cell::OnceCell,
    ops::{Deref, DerefMut},
};

use super::ACCEPTS_LINKS;
use crate::{
    crypto::ResumptionSecret,
    link::{Counters, DormantLink, Link},
};

/// A link, awake or dormant.
#[derive(Debug)]
pub(super) enum MayHibernate {
    Awake(Box<Link>),
    /// A dormant link, with a woken copy for read access.
    Dormant(Box<DormantLink>, OnceCell<Box<Link>>),
}

impl MayHibernate {
    /// True while the link is dormant and unchanged.
    pub const fn is_dormant(&self) -> bool {
        matches!(self, Self::Dormant(..))
    }

    /// Returns the responder's side of the initiator's ticket: its secret, and the initiator's
    /// limit on datagrams in bytes. Does not wake the link.
    pub fn responders_ticket(&self) -> Option<(ResumptionSecret, usize)> {
        match self {
            Self::Awake(link) => Some((
                link.responders_secret()?,
                link.opening().peer_max_datagram(),
            )),
            Self::Dormant(dormant, _) => dormant.responders_ticket(),
        }
    }

    /// Makes the link dormant, and returns its counters, which a dormant link does not keep. `None`
    /// if it is dormant, or may not become so.
    pub fn hibernate(&mut self) -> Option<Counters> {
        let Self::Awake(link) = self else {
            return None;
        };
        let (dormant, counters) = (link.hibernate()?, link.counters());
        *self = Self::Dormant(Box::new(dormant), OnceCell::new());
        Some(counters)
    }

    /// Returns the link, awake.
    pub fn into_awake(self) -> Link {
        match self {
            Self::Awake(link) => *link,
            Self::Dormant(dormant, _) => dormant.wake(),
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

    #[expect(clippy::unreachable, reason = "only who serves lets links hibernate")]
    fn deref(&self) -> &Link {
        match self {
            Self::Awake(link) => link,
            Self::Dormant(..) if !ACCEPTS_LINKS => unreachable!(),
            Self::Dormant(dormant, woken) => woken.get_or_init(|| Box::new(dormant.wake())),
        }
    }
}

impl DerefMut for MayHibernate {
    #[expect(clippy::unreachable, reason = "it has just been woken")]
    fn deref_mut(&mut self) -> &mut Link {
        if let Self::Dormant(dormant, _) = self
            && ACCEPTS_LINKS
        {
            *self = dormant.wake().into();
        }
        match self {
            Self::Awake(link) => link,
            Self::Dormant(..) => unreachable!(),
        }
    }
}
