//! `watch` and `unread`.

use merpati::{
    client::Client,
    wire::{Entry, Mailbox},
};
use serde_json::json;

use super::{
    ask::patiently,
    output::{Failure, Output},
};

/// Shows messages as they come: so many, or until Ctrl-C.
pub async fn watch(client: &Client, output: Output, count: Option<u64>) -> Result<(), Failure> {
    let mut watching = patiently(client, client.watch()).await?;
    let mut left = count;
    while left != Some(0) {
        let (mailbox, entry) = tokio::select! {
            next = watching.next() => next?,
            stopped = tokio::signal::ctrl_c() => return Ok(stopped?),
        };
        client.take_notices().iter().for_each(Output::notice);
        show(output, &mailbox, &entry)?;
        // Only what has been printed counts as read.
        client.shown(&mailbox, &entry)?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn show(output: Output, mailbox: &Mailbox, entry: &Entry) -> Result<(), Failure> {
    match mailbox {
        Mailbox::Private | Mailbox::Realm(_) => output.entry(entry),
        Mailbox::Group(group) => output.entry_of(entry, &group.to_string()),
        Mailbox::RealmGroup(realm, group) => output.entry_of(entry, &format!("{group}@{realm}")),
    }
}

/// Tells how much has not been read.
pub async fn unread(client: &Client, output: Output) -> Result<(), Failure> {
    for unread in patiently(client, client.unread_counts()).await? {
        let mailbox = unread.mailbox.to_string();
        let object = json!({ "mailbox": mailbox, "count": unread.count });
        output.item(&object, &format!("{}  {mailbox}", unread.count))?;
    }
    Ok(())
}
