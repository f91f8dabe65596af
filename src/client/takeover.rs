//! The import of a profile from before the outbox.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    ProfileError,
    outbox::{self, Outbox, Outcome},
    state::{self, Account, Cursor},
    store::Records,
};
use crate::{
    crypto::ConnectionString,
    wire::{Mailbox, Request},
};

/// A profile from before the outbox: one record in one file.
#[derive(Deserialize)]
pub struct Former {
    server: Option<String>,
    plain: bool,
    username: Option<String>,
    session: Option<[u8; 16]>,
    rtt_us: Option<u64>,
    highest: u64,
    unfinished: Vec<FormerUnfinished>,
    shown: BTreeMap<String, (u64, u64)>,
    trusted_before: Vec<[u8; 32]>,
}

#[derive(Deserialize)]
struct FormerUnfinished {
    _number: u64,
    command: Vec<u8>,
    _needs_password: bool,
}

impl Former {
    /// Parses the file. `None` if it is damaged. A mailbox that cannot be read is left to
    /// [`Former::take_over`]: its messages are only shown again.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let Some((1, state)) = bytes.split_first() else {
            return None;
        };
        let former: Self = postcard::from_bytes(state).ok()?;
        let mut server = former.server.iter();
        let is_whole = server.all(|server| server.parse::<ConnectionString>().is_ok());
        is_whole.then_some(former)
    }

    pub fn take_over(self, records: &mut dyn Records) -> Result<(), ProfileError> {
        let Some(server) = self.server else {
            // It knew no realm.
            return Ok(());
        };
        let server: ConnectionString = server.parse().map_err(|_| records.damaged())?;
        let realm = state::find_or_add(records, &server, self.plain)?.realm;
        let account = Account::new(realm, self.username.clone());
        state::update(records, realm, |state| {
            state.username = self.username;
            state.session = self.session;
            state.rtt_us = self.rtt_us;
            state.highest = state.highest.max(self.highest);
            state.former = self.trusted_before;
            state.is_heard = true;
        })?;
        state::remember(records, realm)?;
        for (name, (position, offset)) in self.shown {
            // An error would have the profile refused at each start.
            let Ok(mailbox) = name.parse::<Mailbox>() else {
                continue;
            };
            let cursor = Cursor {
                position,
                offset,
                confirmed: 0,
            };
            state::set_cursor(records, &account, &mailbox, cursor)?;
        }
        for unfinished in self.unfinished {
            // It was numbered by that version: its outcome can no longer be found out.
            let what = Request::parse(&unfinished.command)
                .map_or_else(|_| "command".into(), |request| outbox::describe(&request));
            Outbox::of(records).add_done(&account, what, Outcome::Unknown)?;
        }
        Ok(())
    }
}
