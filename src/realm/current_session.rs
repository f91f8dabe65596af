//! The session for which a command is executed.

use super::records::{self, Owner, SessionHash, SessionRecord};
use crate::{
    crypto::PublicKey,
    store::{Batch, Expected, Version},
    wire::Username,
};

/// The session that a command is for.
#[derive(Clone, Debug)]
pub struct Current {
    pub hash: SessionHash,
    pub user: Username,
    pub record: SessionRecord,
    pub version: Version,
}

impl Current {
    /// Returns the owner of its cursors and numbers.
    pub fn owner(&self) -> Owner {
        match &self.record.device {
            Some(device) => Owner::Device(PublicKey(*device)),
            None => Owner::Session(self.hash),
        }
    }

    /// Makes a batch depend on the session: it must still exist when the batch is written.
    pub fn rely_on(&self, batch: &mut Batch) {
        batch.expect(records::session(&self.hash), Expected::At(self.version));
    }
}
