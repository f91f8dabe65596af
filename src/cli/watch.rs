//! `watch` and `unread`.

use merpati::{
    client::{Client, Watching},
    wire::{Entry, Mailbox, Options},
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    acks::Wanted,
    ask::patiently,
    handover::Handover,
    output::{Failure, Output},
    reading::{Shower, acknowledged},
};

/// Messages that have come and are not shown yet; when so many wait, the realm waits too.
const WAITING_MAX: usize = 64;

/// Shows messages as they come: so many, or until Ctrl-C.
pub async fn watch(
    client: &Client,
    output: Output,
    count: Option<u64>,
    ack: bool,
) -> Result<(), Failure> {
    // Before anything is asked: nothing is watched that nobody can be shown.
    let mut shower = Shower::new(client, output, true)?;
    let watching = patiently(client, client.watch()).await?;
    let (tell, mut came) = mpsc::channel(WAITING_MAX);
    let ended = tokio::select! {
        failure = receive(client, watching, tell) => Err(failure),
        failure = Handover::reader_gone() => Err(failure),
        shown = async {
            if ack {
                let mut left = count.unwrap_or(u64::MAX);
                let next = async || {
                    if left == 0 {
                        return None;
                    }
                    let came = came.recv().await;
                    left -= 1;
                    came
                };
                acknowledged(client, output, Wanted::MailboxAndPosition, next).await
            } else {
                show(&mut shower, &mut came, count).await
            }
        } => shown,
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
    };
    // What was cut off may have been written, and taken, in the meantime.
    shower.confirm()?;
    ended
}

/// Takes messages from the realm for as long as they come. This is the place to tell people what becomes of the link.
async fn receive(
    client: &Client,
    mut watching: Watching<'_>,
    tell: mpsc::Sender<(Mailbox, Entry)>,
) -> Failure {
    loop {
        let next = watching.next().await;
        client.take_notices().iter().for_each(Output::notice);
        match next {
            Ok(next) => {
                if tell.send(next).await.is_err() {
                    // Nobody takes them any more; whoever did ends the watch.
                    return std::future::pending().await;
                }
            }
            Err(error) => return error.into(),
        }
    }
}

/// Shows what comes, in batches as large as what has come.
async fn show(
    shower: &mut Shower<'_>,
    came: &mut mpsc::Receiver<(Mailbox, Entry)>,
    count: Option<u64>,
) -> Result<(), Failure> {
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some((mailbox, entry)) = came.recv().await else {
            return std::future::pending().await;
        };
        shower.show(mailbox, entry).await?;
        left -= 1;
        if came.is_empty() || left == 0 {
            shower.settle().await?;
        }
    }
    Ok(())
}

/// Tells how much has not been read. What has been shown counts as read even before the realm knows: it learns it by
/// the way from the next reading, so where it still counts some, a reading of nothing tells it first.
pub async fn unread(client: &Client, output: Output) -> Result<(), Failure> {
    let mut counts = patiently(client, client.unread_counts()).await?;
    let state = client.profile().load()?;
    let mut has_told = false;
    for unread in &counts {
        if let Some(after) = state.reading(&unread.mailbox).after {
            let options = Options {
                after: Some(after),
                limit: Some(1),
                bytes: Some(1),
                ..Options::NONE
            };
            // Where that fails, what the realm counts is what can be told.
            let read = patiently(client, client.read(unread.mailbox, options)).await;
            has_told |= read.is_ok();
        }
    }
    if has_told {
        counts = patiently(client, client.unread_counts()).await?;
    }
    for unread in counts {
        let mailbox = unread.mailbox.to_string();
        let object = json!({ "mailbox": mailbox, "count": unread.count });
        output.item(&object, &format!("{}  {mailbox}", unread.count))?;
    }
    Ok(())
}
