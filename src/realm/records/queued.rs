//! Records of messages on their way to other realms.

use serde::{Deserialize, Serialize};

use super::{FORMAT_3, QueuedOperation, Record, StoreError, parse};

/// A message on its way to another realm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedRecord {
    pub queued: u32,
    pub content: u8,
    pub kind: QueuedKind,
    pub from: String,
    pub to: String,
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    pub operation: Option<QueuedOperation>,
    /// This realm's address for it, if not the peering's.
    pub source: Option<(String, u16)>,
    /// It has made way for others, because the peer refused to take it.
    pub set_aside: bool,
    /// How long it is worth delivering, in seconds.
    pub lifetime: u32,
    /// The epoch of its number, or 0 for the peering's.
    pub epoch: u64,
    /// The number of its sender's membership in the group that it goes to, or 0 if that is not
    /// known.
    pub membership: u64,
}

/// The same in formats 1 and 2: format 2 adds the epoch.
#[derive(Deserialize)]
struct FirstQueuedRecord {
    queued: u32,
    content: u8,
    kind: QueuedKind,
    from: String,
    to: String,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    operation: Option<QueuedOperation>,
    source: Option<(String, u16)>,
    set_aside: bool,
    lifetime: u32,
}

impl FirstQueuedRecord {
    fn with_epoch(self, epoch: u64) -> QueuedRecord {
        QueuedRecord {
            queued: self.queued,
            content: self.content,
            kind: self.kind,
            from: self.from,
            to: self.to,
            body: self.body,
            operation: self.operation,
            source: self.source,
            set_aside: self.set_aside,
            lifetime: self.lifetime,
            epoch,
            membership: 0,
        }
    }
}

impl Record for QueuedRecord {
    const FORMAT: u8 = FORMAT_3;

    fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
        Ok(parse::<FirstQueuedRecord>(record)?.with_epoch(0))
    }

    fn from_second_format(record: &[u8]) -> Result<Self, StoreError> {
        let (first, epoch): (FirstQueuedRecord, u64) = parse(record)?;
        Ok(first.with_epoch(epoch))
    }
}

/// The kind of a message that waits for another realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueuedKind {
    /// A private message.
    Private,
    /// A message to a group whose home realm it is.
    Group,
    /// A user of that realm is no member of a group any more. The body is the number of the
    /// membership.
    Expelled,
    /// A group that has members of that realm has ended. The body is its epoch.
    Ended,
}

impl QueuedKind {
    /// True for membership reports: this realm's own messages to a peer.
    pub const fn is_membership_report(self) -> bool {
        matches!(self, Self::Expelled | Self::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::FORMAT_2, *};

    /// PEER-9: what an earlier release has queued is read, and names no membership.
    #[test]
    fn queue_record_of_earlier_formats_is_read() {
        // Fields follow each other without anything between, also those of tuples.
        let header = (7_u32, 0_u8, QueuedKind::Group, "ann", "crew");
        let nothing = (
            None::<QueuedOperation>,
            None::<(String, u16)>,
            false,
            60_u32,
        );
        let all = (header, b"hello".as_slice(), nothing, 9_u64);
        let second = postcard::to_allocvec(&all).unwrap();
        let read = |format, record: &[u8]| {
            QueuedRecord::from_value(&[&[format], record].concat()).unwrap()
        };
        let record = read(FORMAT_2, &second);
        assert_eq!((record.epoch, record.membership), (9, 0));
        assert_eq!(record.body, b"hello");
        let first = read(super::super::FORMAT, &second[..second.len() - 1]);
        assert_eq!((first.epoch, first.membership), (0, 0));
        let again = QueuedRecord::from_value(&record.to_value().unwrap()).unwrap();
        assert_eq!(again, record);
    }
}
