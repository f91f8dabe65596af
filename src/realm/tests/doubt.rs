//! Answers when the store fails during a write.

use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::store::{
    CommitError, Committed, Key, Log, Page, PageLimit, Position, Prefix, Subscription, Versioned,
};

const SOUND: u8 = 0;
/// Commits are written, and reported as failed.
const WRITES_UNSEEN: u8 = 1;
/// Nothing can be read.
const CANNOT_READ: u8 = 2;
/// Commits need a record that is damaged.
const NEEDS_DAMAGED: u8 = 3;

struct Faulty {
    inner: Embedded,
    fault: AtomicU8,
}

impl Faulty {
    fn can_read(&self) -> Result<(), StoreError> {
        match self.fault.load(Ordering::Relaxed) {
            CANNOT_READ => Err(StoreError::Failed("a bad sector".into())),
            _ => Ok(()),
        }
    }
}

impl Store for Faulty {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.can_read()?;
        self.inner.get(key).await
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        self.can_read()?;
        self.inner.list(prefix, after, limit).await
    }

    async fn read(&self, log: &Log, after: Position, limit: PageLimit) -> Result<Page, StoreError> {
        self.can_read()?;
        self.inner.read(log, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        if self.fault.load(Ordering::Relaxed) == NEEDS_DAMAGED {
            return Err(StoreError::Damaged("a bad sector".into()).into());
        }
        let committed = self.inner.commit(batch).await;
        match self.fault.load(Ordering::Relaxed) {
            WRITES_UNSEEN => Err(StoreError::Failed("the sync failed".into()).into()),
            _ => committed,
        }
    }

    async fn last(&self, log: &Log) -> Result<Position, StoreError> {
        self.can_read()?;
        self.inner.last(log).await
    }

    async fn logs(&self, after: Option<&Log>, limit: usize) -> Result<Vec<Log>, StoreError> {
        self.can_read()?;
        self.inner.logs(after, limit).await
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.inner.subscribe(logs)
    }
}

/// ERR-1, EXACT-6: the answer is `unknown` if a failed commit may have been written, or if the
/// store cannot tell whether the number is used. Before, it was `internal`, which says that nothing
/// was done. A repeat under the same number finds out.
#[tokio::test]
async fn commit_that_may_be_written_is_answered_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let store = Faulty {
        inner: Embedded::open(directory.path()).unwrap(),
        fault: AtomicU8::new(SOUND),
    };
    let realm = realm_over(store, |_, _| {});
    let ask = async |command: Command<'_>| {
        let bytes = Request::from(command).to_bytes();
        let answer = realm.answer(&caller(device(1), MOMENT), &bytes).await;
        Answer::parse(&answer).unwrap()
    };
    let set = |fault| realm.store().fault.store(fault, Ordering::Relaxed);
    session_in(&ask(register(1, "ann")).await);
    set(WRITES_UNSEEN);
    let unknown = ask(send(2, "ann", "once")).await;
    assert_eq!(unknown, refused(ErrorCode::Unknown));
    let Answer::Refused(refusal) = unknown else {
        panic!("it is refused")
    };
    assert!(refusal.is_unknown() && !refusal.is_final() && !refusal.is_transient());
    // The store cannot read whether the number is used, so it may be.
    set(CANNOT_READ);
    assert_eq!(
        ask(send(2, "ann", "once")).await,
        refused(ErrorCode::Unknown)
    );
    // This command was certainly not done. After the realm has opened its store again, it can be
    // done.
    assert_eq!(
        ask(send(3, "ann", "twice")).await,
        refused(ErrorCode::Unknown)
    );
    // No restart repairs a damaged record. A repeat would be useless, and nothing was done.
    set(NEEDS_DAMAGED);
    assert_eq!(
        ask(send(4, "ann", "never")).await,
        refused(ErrorCode::Internal)
    );
    set(CANNOT_READ);
    // A command that changes nothing has certainly changed nothing.
    let session = SessionRef::Bound;
    let read = ask(Command::Inbox(command::Inbox { session })).await;
    assert_eq!(read, refused(ErrorCode::Internal));
    set(SOUND);
    assert_eq!(ask(send(2, "ann", "once")).await, STORED);
    let log = records::MailboxLog::private("ann".parse().unwrap()).log;
    assert_eq!(realm.store().last(&log).await.unwrap(), Position(1));
    assert_eq!(ask(send(3, "ann", "twice")).await, STORED);
}

/// HS-14: a store that cannot write its first life has no life, and no device is told of one. Found
/// by the simulator: the realm did not know that life after its next start.
#[tokio::test]
async fn life_not_written_in_new_store_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = Faulty {
        inner: Embedded::open(directory.path()).unwrap(),
        fault: AtomicU8::new(WRITES_UNSEEN),
    };
    let realm = realm_over(store, |_, _| {});
    realm.lives.begin_life(false).await;
    assert!(realm.lives.known.get().is_none());
}
