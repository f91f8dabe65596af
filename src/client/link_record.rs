//! What this process has written down of the link that is open: so each report of the realm is
//! written once, and reads know whether the profile is up to date with the link.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::lock;
use crate::wire::Life;

/// What is written of the link. Links are counted by openings, from 1 on.
#[derive(Debug, Default)]
pub struct LinkRecord {
    /// The link on which the realm was last heard. It is written to disk. 0 if none.
    heard: AtomicU64,
    /// The link on which the realm has reported the numbers it has seen, once that is written to
    /// disk. 0 if none.
    told: AtomicU64,
    /// The life of the realm's store on the link that answered last.
    life: Mutex<Option<Life>>,
}

impl LinkRecord {
    /// Begins anew: links are counted from 1 on again.
    pub fn reset(&self) {
        self.heard.store(0, Ordering::Relaxed);
        self.told.store(0, Ordering::Relaxed);
    }

    /// Records that the realm was heard on a link. True if that is news.
    pub fn note_heard(&self, link: u64) -> bool {
        self.heard.swap(link, Ordering::Relaxed) != link
    }

    /// Records that the numbers that the realm has reported on a link are written.
    pub fn note_told(&self, link: u64) {
        self.told.store(link, Ordering::Release);
    }

    /// True if the numbers that the realm has reported on a link are written.
    pub fn is_told(&self, link: u64) -> bool {
        self.told.load(Ordering::Acquire) == link
    }

    /// True if the realm was heard on a link and the numbers it has reported there are written.
    pub fn is_complete(&self, link: u64) -> bool {
        let noted = [&self.heard, &self.told].map(|noted| noted.load(Ordering::Acquire));
        noted == [link; 2]
    }

    /// Returns the life of the realm's store on the link that answered last.
    pub fn life(&self) -> Option<Life> {
        *lock(&self.life)
    }

    /// Records that life.
    pub fn note_life(&self, life: Option<Life>) {
        *lock(&self.life) = life;
    }
}
