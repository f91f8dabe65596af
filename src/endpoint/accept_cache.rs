//! Cache of recently answered Inits (HS-4): a repeat gets the same Accept again and opens no other
//! link. The cache is bounded in number and in time. An eviction is harmless, because commands take
//! effect once anyway.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use blake2::{Blake2s256, Digest};

use super::{
    ids::LinkId,
    limits::{ACCEPT_LIFETIME, ACCEPTS_MAX},
};
use crate::{link::Time, wire::Resume};

/// The hash of an Init or a Resume.
pub(super) type InitHash = [u8; 16];

#[derive(Debug)]
struct Accepted {
    link: LinkId,
    /// The source address of the first copy.
    from: IpAddr,
    /// `None` while the answers that it should carry are awaited.
    accept: Option<Vec<u8>>,
}

/// Recently answered Inits and their answers.
#[derive(Debug, Default)]
pub(super) struct AcceptCache {
    by_init: BTreeMap<InitHash, Accepted>,
    order: VecDeque<(Time, InitHash)>,
}

/// The result of a lookup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CachedAccept<'a> {
    /// It has not come before.
    No,
    /// It is being answered.
    Awaiting,
    /// It was answered with these bytes, for that link, and its first copy came from that address.
    Answered(&'a [u8], LinkId, IpAddr),
}

fn first_of(hash: Blake2s256) -> InitHash {
    let mut first = InitHash::default();
    for (to, from) in first.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    first
}

impl AcceptCache {
    pub fn hash(init: &[u8]) -> InitHash {
        first_of(Blake2s256::new_with_prefix(init))
    }

    /// Returns the hash of a Resume. The cookie is left out: an attacker can put another cookie
    /// into a recorded Resume.
    pub fn hash_of_resume(resume: &Resume<'_>) -> InitHash {
        let hash = Blake2s256::new_with_prefix(resume.ticket.0.to_be_bytes());
        first_of(
            hash.chain_update(resume.check)
                .chain_update(resume.nonce)
                .chain_update(resume.sealed),
        )
    }

    pub fn look_up(&self, init: &InitHash) -> CachedAccept<'_> {
        match self.by_init.get(init) {
            None => CachedAccept::No,
            Some(Accepted { accept: None, .. }) => CachedAccept::Awaiting,
            Some(Accepted {
                accept: Some(accept),
                link,
                from,
            }) => CachedAccept::Answered(accept, *link, *from),
        }
    }

    /// Remembers an Init that came from `from`. Returns the link whose Init was evicted for it, if
    /// any.
    pub fn insert(
        &mut self,
        now: Time,
        (init, from): (InitHash, IpAddr),
        link: LinkId,
    ) -> Option<LinkId> {
        let forgotten = if self.order.len() >= ACCEPTS_MAX {
            self.forget_oldest()
        } else {
            None
        };
        let accepted = Accepted {
            link,
            from,
            accept: None,
        };
        self.by_init.insert(init, accepted);
        self.order.push_back((now, init));
        forgotten
    }

    /// Stores the answer to an Init.
    pub fn answer(&mut self, init: &InitHash, accept: Vec<u8>) {
        if let Some(accepted) = self.by_init.get_mut(init) {
            accepted.accept = Some(accept);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_init.len() + self.order.len()
    }

    /// Removes an Init whose link ended before it was answered.
    pub fn forget(&mut self, init: &InitHash) {
        self.by_init.remove(init);
    }

    /// Removes the answer of a link's Init: repeats do not get it any more.
    pub fn forget_link(&mut self, link: LinkId) {
        self.by_init.retain(|_, accepted| accepted.link != link);
    }

    /// Removes expired Inits.
    pub fn expire(&mut self, now: Time) {
        while self.timeout().is_some_and(|timeout| timeout <= now) {
            self.forget_oldest();
        }
    }

    /// Returns when the oldest Init expires.
    pub fn timeout(&self) -> Option<Time> {
        self.order.front().map(|(at, _)| *at + ACCEPT_LIFETIME)
    }

    fn forget_oldest(&mut self) -> Option<LinkId> {
        let (_, init) = self.order.pop_front()?;
        self.by_init.remove(&init).map(|accepted| accepted.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HS-4: an Init is remembered for [`ACCEPT_LIFETIME`], and at most [`ACCEPTS_MAX`] are.
    #[test]
    fn handshake_init_is_cached_for_limited_time_in_bounded_table() {
        let mut accepts = AcceptCache::default();
        let (hash, from) = (AcceptCache::hash(b"init"), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(accepts.look_up(&hash), CachedAccept::No);
        assert_eq!(accepts.insert(Time(0), (hash, from), LinkId(7)), None);
        assert_eq!(accepts.look_up(&hash), CachedAccept::Awaiting);
        accepts.answer(&hash, vec![9]);
        assert_eq!(
            accepts.look_up(&hash),
            CachedAccept::Answered(&[9], LinkId(7), from)
        );
        for other in 1..ACCEPTS_MAX {
            let other = AcceptCache::hash(&other.to_be_bytes());
            accepts.insert(Time(1), (other, from), LinkId(8));
        }
        assert_eq!(
            accepts.insert(Time(2), (AcceptCache::hash(b"more"), from), LinkId(9)),
            Some(LinkId(7))
        );
        assert_eq!(accepts.look_up(&hash), CachedAccept::No);
        accepts.expire(Time(2) + ACCEPT_LIFETIME);
        assert_eq!(accepts.timeout(), None);
        assert!(accepts.by_init.is_empty());
    }
}
