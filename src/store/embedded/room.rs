//! Whether the disk has room, asked before each group is written: a write that fails for want of room ends all reading, too.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::super::Batch;

/// Room on the disk that is left alone unless it is set otherwise, in bytes: the engine needs it to tidy up, and so does the operator.
pub const RESERVE_BYTES: u64 = 32 << 20;
/// How long a look at the free room holds.
const ROOM_LIFETIME: Duration = Duration::from_secs(1);
/// This part of the reserve is left alone also by what gives room back: that is written first, and gives room back later.
const TIDYING_SHARE: u64 = 4;

/// How much may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Anything.
    Enough,
    /// Only what gives room back.
    Little,
    /// Nothing.
    None,
}

impl Space {
    /// True when `batch` may be written.
    pub const fn admits(self, batch: &Batch) -> bool {
        match self {
            Self::Enough => true,
            Self::Little => batch.tidies,
            Self::None => false,
        }
    }
}

/// Whether the disk has room, asked once in a while.
pub struct Room {
    /// The room that the disk has left, in bytes, if it says.
    free: Box<dyn Fn() -> Option<u64> + Send>,
    looked: Option<(Instant, Space)>,
    lifetime: Duration,
    /// The room that is left alone, in bytes.
    reserve: u64,
    /// The room that the engine may need to merge tables, in bytes.
    merging: Arc<AtomicU64>,
}

impl Room {
    /// The room on the disk that holds `directory`.
    pub fn of(directory: &Path, reserve: u64) -> Self {
        let directory = PathBuf::from(directory);
        Self {
            free: Box::new(move || free_bytes(&directory)),
            looked: None,
            lifetime: ROOM_LIFETIME,
            reserve,
            merging: Arc::default(),
        }
    }

    /// Room as a test has it.
    #[cfg(test)]
    pub fn scripted(reserve: u64, free: impl Fn() -> u64 + Send + 'static) -> Self {
        Self {
            free: Box::new(move || Some(free())),
            looked: None,
            lifetime: Duration::ZERO,
            reserve,
            merging: Arc::default(),
        }
    }

    /// Where the room that the engine may need to merge tables is to be said, in bytes. If it has less then, it stops, and nothing
    /// can be written before the store is opened again.
    pub fn merging(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.merging)
    }

    /// How much may be written now.
    pub fn look(&mut self) -> Space {
        if let Some((at, space)) = self.looked
            && at.elapsed() < self.lifetime
        {
            return space;
        }
        let merging = self.merging.load(Ordering::Relaxed);
        let space = match (self.free)() {
            Some(free) if free >= self.reserve.max(merging) => Space::Enough,
            Some(free) if free >= self.reserve / TIDYING_SHARE => Space::Little,
            _ => Space::None,
        };
        let was = self.looked.replace((Instant::now(), space));
        let had_room = was.is_none_or(|(_, was)| was == Space::Enough);
        match (had_room, space == Space::Enough) {
            (true, false) => tracing::error!(
                reserve = self.reserve,
                merging,
                "the disk has less room, in bytes, than is to be left alone, or than merging tables of the store takes: nothing is \
                 written until it has more; make room, or lower reserve in [store] if that is the larger"
            ),
            (false, true) => tracing::warn!("the disk has room again"),
            _ => {}
        }
        space
    }
}

/// Room that the disk has left, in bytes, if it says.
#[cfg(unix)]
fn free_bytes(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may not say")]
fn free_bytes(_: &Path) -> Option<u64> {
    Some(u64::MAX)
}
