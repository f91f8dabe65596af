//! The light client's store: all records in one small file, replaced as a whole under a lock. A
//! database would be larger than the client.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
};

use super::{Carrying, LOOK_AGAIN, Pair, Records, Store, Work, lock_role, memory::Table};
use crate::{
    client::{ProfileError, files::open_lock},
    crypto::write_private,
};

/// The records of a directory.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
}

struct Open<'a> {
    table: Table,
    is_changed: bool,
    store: &'a FileStore,
}

impl FileStore {
    pub fn open(directory: &Path) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("records")
    }

    fn io(&self, source: io::Error) -> ProfileError {
        ProfileError::Io {
            path: self.path(),
            source,
        }
    }

    fn load(&self) -> Result<Table, ProfileError> {
        match fs::read(self.path()) {
            Ok(bytes) => {
                let damaged = || ProfileError::Damaged(self.path());
                let (sum, content) = bytes.split_first_chunk().ok_or_else(damaged)?;
                if *sum != crc32fast::hash(content).to_be_bytes() {
                    return Err(damaged());
                }
                Ok(Table(postcard::from_bytes(content).map_err(|_| damaged())?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Table::default()),
            Err(source) => Err(self.io(source)),
        }
    }
}

impl Store for FileStore {
    fn write(&self, work: Work<'_>) -> Result<(), ProfileError> {
        let lock = open_lock(&self.directory.join("lock"))?;
        lock.lock().map_err(|source| self.io(source))?;
        let table = self.load()?;
        let mut open = Open {
            table,
            is_changed: false,
            store: self,
        };
        work(&mut open)?;
        if open.is_changed {
            let content = postcard::to_stdvec(&open.table.0)
                .map_err(|_| ProfileError::Damaged(self.path()))?;
            let mut bytes = crc32fast::hash(&content).to_be_bytes().to_vec();
            bytes.extend_from_slice(&content);
            write_private(&self.path(), &bytes).map_err(|source| self.io(source))?;
        }
        Ok(())
    }

    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(LOOK_AGAIN))
    }

    fn try_carry(&self, realm: u32) -> Result<Option<Box<dyn Carrying>>, ProfileError> {
        lock_role(&self.directory, realm)
    }
}

impl Records for Open<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ProfileError> {
        self.table.get(key)
    }

    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, ProfileError> {
        self.table.scan(prefix, after, limit)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), ProfileError> {
        self.is_changed = true;
        self.table.put(key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), ProfileError> {
        self.is_changed = true;
        self.table.delete(key)
    }

    fn damaged(&self) -> ProfileError {
        ProfileError::Damaged(self.store.path())
    }
}
