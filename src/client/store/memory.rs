//! Records in memory. They are the profile of a simulated machine, which outlives its processes and
//! can be copied and restored, and the contents of the light client's file.

use std::{collections::BTreeMap, ops::Bound, path::PathBuf};

use super::{Pair, Records};
use crate::client::ProfileError;

#[cfg(test)]
pub use shared::Memory;

/// Records, sorted by key.
#[derive(Clone, Debug, Default)]
pub struct Table(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl Records for Table {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ProfileError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, ProfileError> {
        let from = if after < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(after)
        };
        let found = self.0.range::<[u8], _>((from, Bound::Unbounded));
        let found = found
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit);
        Ok(found
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), ProfileError> {
        self.0.insert(key.into(), value.into());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), ProfileError> {
        self.0.remove(key);
        Ok(())
    }

    fn damaged(&self) -> ProfileError {
        ProfileError::Damaged(PathBuf::from("memory"))
    }
}

#[cfg(test)]
mod shared {
    use std::{
        collections::BTreeSet,
        pin::Pin,
        sync::{
            Arc, Mutex, MutexGuard, PoisonError,
            atomic::{AtomicU64, Ordering},
        },
    };

    use tokio::sync::watch;

    use super::{
        super::{Carrying, Store, Work},
        ProfileError, Table,
    };

    /// Returns true if a process has died.
    #[derive(Clone)]
    struct IsDead(Arc<dyn Fn() -> bool + Send + Sync>);

    impl std::fmt::Debug for IsDead {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(if self.0() { "dead" } else { "alive" })
        }
    }

    /// The records of a simulated machine's profile. Clones share the records, like other processes
    /// of the profile.
    #[derive(Debug, Default)]
    pub struct Memory {
        shared: Arc<Shared>,
        /// Returns true if this process has died. A dead process writes nothing.
        is_dead: Option<IsDead>,
        /// The last change that this process has seen.
        seen: AtomicU64,
    }

    #[derive(Debug, Default)]
    struct Shared {
        table: Mutex<Table>,
        changes: watch::Sender<u64>,
        carried: Mutex<BTreeSet<u32>>,
    }

    impl Clone for Memory {
        /// Returns the same records, for another process.
        fn clone(&self) -> Self {
            Self {
                shared: Arc::clone(&self.shared),
                is_dead: None,
                seen: AtomicU64::new(0),
            }
        }
    }

    impl Memory {
        /// Returns the same records, for a process of a machine.
        pub fn of(&self, is_dead: impl Fn() -> bool + Send + Sync + 'static) -> Self {
            Self {
                is_dead: Some(IsDead(Arc::new(is_dead))),
                ..self.clone()
            }
        }

        /// Returns a copy of the records, as in a backup.
        pub fn copy(&self) -> Self {
            let copy = Self::default();
            copy.restore(self);
            copy
        }

        /// Restores the records from `backup`.
        pub fn restore(&self, backup: &Self) {
            let table = backup.lock().clone();
            *self.lock() = table;
            self.shared.changes.send_modify(|changes| *changes += 1);
        }
    }

    impl Memory {
        fn lock(&self) -> MutexGuard<'_, Table> {
            self.shared
                .table
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug)]
    struct Held(Arc<Shared>, u32);

    impl Carrying for Held {}

    impl Drop for Held {
        fn drop(&mut self) {
            let mut carried = self
                .0
                .carried
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            carried.remove(&self.1);
        }
    }

    impl Store for Memory {
        fn write(&self, work: Work<'_>) -> Result<(), ProfileError> {
            if self.is_dead.as_ref().is_some_and(|is_dead| is_dead.0()) {
                return Err(ProfileError::Io {
                    path: "memory".into(),
                    source: std::io::Error::other("the process is dead"),
                });
            }
            let mut own = self.lock();
            let mut table = own.clone();
            work(&mut table)?;
            if table.0 != own.0 {
                *own = table;
                self.shared.changes.send_modify(|changes| *changes += 1);
            }
            Ok(())
        }

        fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            let mut changes = self.shared.changes.subscribe();
            Box::pin(async move {
                let seen = self.seen.load(Ordering::Acquire);
                // The sender lives as long as `self`.
                if let Ok(now) = changes.wait_for(|now| *now != seen).await {
                    self.seen.store(*now, Ordering::Release);
                }
            })
        }

        fn try_carry(&self, realm: u32) -> Result<Option<Box<dyn Carrying>>, ProfileError> {
            let mut carried = self
                .shared
                .carried
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !carried.insert(realm) {
                return Ok(None);
            }
            Ok(Some(Box::new(Held(Arc::clone(&self.shared), realm))))
        }
    }
}
