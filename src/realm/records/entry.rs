//! Records of messages in mailboxes.

use serde::{Deserialize, Serialize};

use super::{FORMAT, FORMAT_2, Record, StoreError, parse, write_as};

/// A message in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    pub time: u32,
    pub content: u8,
    pub user: String,
    pub realm: Option<String>,
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// The author that another realm names and this one cannot confirm. The entry then names the
    /// group as its author (PEER-26).
    pub alleged: Option<String>,
}

/// The same without an alleged author, which nearly all entries are.
#[derive(Deserialize)]
struct FirstEntryRecord {
    time: u32,
    content: u8,
    user: String,
    realm: Option<String>,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

/// The same, to write it.
#[derive(Serialize)]
struct FirstEntry<'a> {
    time: u32,
    content: u8,
    user: &'a str,
    realm: Option<&'a str>,
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
}

impl Record for EntryRecord {
    const FORMAT: u8 = FORMAT_2;

    fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
        let first: FirstEntryRecord = parse(record)?;
        Ok(Self {
            time: first.time,
            content: first.content,
            user: first.user,
            realm: first.realm,
            body: first.body,
            alleged: None,
        })
    }

    fn to_value(&self) -> Result<Vec<u8>, StoreError> {
        if self.alleged.is_some() {
            return write_as(Self::FORMAT, self);
        }
        let first = FirstEntry {
            time: self.time,
            content: self.content,
            user: &self.user,
            realm: self.realm.as_deref(),
            body: &self.body,
        };
        write_as(FORMAT, &first)
    }
}
