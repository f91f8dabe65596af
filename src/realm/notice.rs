//! Notices: what the realm itself writes to a user, among the private messages.

use super::{
    failure::Failure,
    records::{EntryRecord, MailboxLog, Record as _},
};
use crate::{
    store::Batch,
    wire::{CONTENT_NOTICE, RealmId, Username},
};

/// A notice.
pub(super) struct Notice<'a> {
    /// The user or group that it is about.
    pub about: &'a str,
    /// The realm of that user or group. `None` for this one.
    pub realm: Option<RealmId>,
    pub text: String,
    /// The time of day.
    pub time: u32,
}

impl Notice<'_> {
    /// Adds it to `batch`, for a user.
    pub fn append(self, user: Username, batch: &mut Batch) -> Result<(), Failure> {
        let entry = EntryRecord {
            time: self.time,
            content: CONTENT_NOTICE,
            user: self.about.into(),
            realm: self.realm.map(|realm| realm.as_str().into()),
            body: self.text.into_bytes(),
            alleged: None,
        };
        batch.append(MailboxLog::private(user).log, entry.to_value()?);
        Ok(())
    }
}
