//! `watch` and `unread`.

use std::io::{self, IsTerminal as _};

use merpati::client::{Client, Delivery, WatchEvent, Watching};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    acks::Wanted,
    ask::patiently,
    connection_line::ConnectionLine,
    handover::Handover,
    output::{Failure, Output},
    reading::{Shower, acknowledged},
};

/// Received messages that wait to be shown. If there are more, the realm waits.
const WAITING_MAX: usize = 64;

/// Shows messages as they come: `count` of them, or until Ctrl-C.
pub async fn watch(
    client: &Client,
    output: Output,
    count: Option<u64>,
    ack: bool,
) -> Result<(), Failure> {
    // This is checked before the realm is asked: no watch begins if nothing can be shown.
    let mut shower = Shower::watching(client, output)?;
    let watching = tokio::select! {
        biased;
        stopped = tokio::signal::ctrl_c() => return Ok(stopped?),
        watching = patiently(client, client.watch()) => watching?,
    };
    let (tell, mut came) = mpsc::channel(WAITING_MAX);
    let line = ConnectionLine::new(output);
    let ended = tokio::select! {
        // This branch is first, so that Ctrl-C is handled before anything is shown.
        biased;
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
        failure = receive(client, watching, tell, &line) => Err(failure),
        () = line.keep(client) => Ok(()),
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
                show(&mut shower, &mut came, count, &line).await
            }
        } => shown,
    };
    drop(line);
    // Messages of the branch that was cut off may have been written and taken in the meantime.
    shower.confirm()?;
    ended
}

/// Receives messages from the realm for as long as they come, and tells people about the state of
/// the link.
async fn receive(
    client: &Client,
    mut watching: Watching<'_>,
    tell: mpsc::Sender<Delivery>,
    line: &ConnectionLine,
) -> Failure {
    loop {
        let next = watching.next_event().await;
        for notice in client.take_notices() {
            line.clear();
            Output::notice(&notice);
        }
        match next {
            Ok(WatchEvent::Message(delivery)) => {
                if tell.send(delivery).await.is_err() {
                    // The receiver is gone. The branch that dropped it ends the watch.
                    return std::future::pending().await;
                }
            }
            Ok(WatchEvent::OutOfReach) => {
                line.note_reach(true);
                line.clear();
                Output::aside(
                    "the realm does not answer; still trying. Messages that arrive there meanwhile are shown when it answers again",
                );
            }
            Ok(WatchEvent::Back) => {
                line.note_reach(false);
                line.clear();
                Output::aside("the realm answers again");
            }
            // Later versions of the library may tell more of the link.
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
}

/// Shows messages as they come, in batches of all that have been received.
async fn show(
    shower: &mut Shower<'_>,
    came: &mut mpsc::Receiver<Delivery>,
    count: Option<u64>,
    line: &ConnectionLine,
) -> Result<(), Failure> {
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(delivery) = came.recv().await else {
            return std::future::pending().await;
        };
        line.clear();
        shower.show(delivery).await?;
        left -= 1;
        if came.is_empty() || left == 0 {
            shower.settle().await?;
        }
    }
    Ok(())
}

/// Prints the number of unread messages.
pub async fn unread(client: &Client, output: Output) -> Result<(), Failure> {
    let counts = patiently(client, client.unread_counts()).await?;
    if counts.is_empty() && !output.json && io::stdout().is_terminal() {
        Output::aside("there are no unread messages");
    }
    for unread in counts {
        let mailbox = unread.mailbox.to_string();
        let object = json!({ "mailbox": mailbox, "count": unread.count });
        output.item(&object, &format!("{}  {mailbox}", unread.count))?;
    }
    Ok(())
}
