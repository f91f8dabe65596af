//! `outbox`: lists the unfinished commands, waits for them or cancels them.

use merpati::{
    client::{
        Awaited, CallError, Client, End, EntryId, Notice, OutboxEntry, OutboxState, Receipt,
        Withdrawn,
    },
    wire::Answer,
};
use serde_json::json;

use super::{
    ask::patiently,
    output::{Failure, KEPT_OR_UNKNOWN, Output, REFUSED, ended},
    remote_args::OutboxAction,
};

/// Executes an `outbox` command.
pub async fn outbox(
    client: &Client,
    output: Output,
    action: Option<OutboxAction>,
) -> Result<(), Failure> {
    match action {
        None => list(client, output),
        Some(OutboxAction::Wait { number: None }) => wait_for_all(client, output).await,
        Some(OutboxAction::Wait {
            number: Some(number),
        }) => wait(client, output, EntryId(number)).await,
        Some(OutboxAction::Cancel { number }) => cancel(client, output, EntryId(number)).await,
    }
}

fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let entries = client.outbox()?;
    if entries.is_empty() && !output.json {
        return output.item(&json!({}), "the outbox is empty");
    }
    entries.iter().try_for_each(|entry| one(output, entry))
}

const fn state(entry: &OutboxEntry) -> &'static str {
    match entry.state {
        OutboxState::Kept => "kept",
        OutboxState::Unknown => "unknown",
        OutboxState::Cancelling => "cancelling",
    }
}

fn one(output: Output, entry: &OutboxEntry) -> Result<(), Failure> {
    let seconds = i64::try_from(entry.created).map_err(Failure::local)?;
    let created = jiff::Timestamp::from_second(seconds).map_err(Failure::local)?;
    let server = match entry.realm.split_once('#') {
        Some((server, _key)) => server,
        None => &entry.realm,
    };
    let object = json!({
        "id": entry.id.0,
        "command": entry.what,
        "state": state(entry),
        "created": created.to_string(),
        "attempts": entry.attempts,
        "bytes": entry.bytes,
        "username": entry.username,
        "server": server,
    });
    let told = match entry.state {
        OutboxState::Kept => "kept, not sent yet",
        OutboxState::Unknown => "sent, no answer yet",
        OutboxState::Cancelling => "being cancelled",
    };
    let local = created.to_zoned_datetime(jiff::tz::TimeZone::system());
    let text = format!(
        "{}  {}  {}  ({told}; {} bytes, as {} at {server})",
        entry.id.0,
        local.strftime("%Y-%m-%d %H:%M"),
        entry.what,
        entry.bytes,
        entry.username,
    );
    output.item(&object, &text)
}

/// Returns the failure while an entry, or any, still waits.
fn waits(id: Option<EntryId>) -> Failure {
    let text = match id {
        Some(EntryId(id)) => format!(
            "entry {id} of the outbox has no outcome yet, and is sent again whenever merpati runs; `merpati outbox` shows it"
        ),
        None => "the outbox is not empty yet; its entries are sent again whenever merpati runs, and `merpati outbox` shows them"
            .into(),
    };
    Failure {
        state: Some("kept"),
        id: id.map(|id| id.0),
        ..Failure::new("kept", text, KEPT_OR_UNKNOWN)
    }
}

fn no_such_entry(id: EntryId) -> Failure {
    Failure::usage(format!(
        "there is no entry {} in the outbox; `merpati outbox` lists those that wait",
        id.0
    ))
}

/// Waits for an entry, and ends as its command would have ended.
async fn wait(client: &Client, output: Output, id: EntryId) -> Result<(), Failure> {
    match patiently(client, client.outbox_wait_for(id)).await? {
        Awaited::Ended(end) => match end {
            End::Done(Answer::Sent(state)) => output.receipt(Receipt { state, id }),
            End::Done(Answer::Account(_)) => Err(Failure {
                state: Some("unknown"),
                id: Some(id.0),
                ..Failure::new("unknown", ended(&end), KEPT_OR_UNKNOWN)
            }),
            End::Done(_) => output.result(&json!({ "state": "done", "id": id.0 }), "done"),
            end => Err(Failure {
                id: Some(id.0),
                ..failed(&end)
            }),
        },
        Awaited::Waits => Err(waits(Some(id))),
        Awaited::ToldElsewhere => Err(Failure {
            state: Some("unknown"),
            id: Some(id.0),
            ..Failure::new(
                "unknown",
                "finished; another process of the profile has reported the outcome",
                KEPT_OR_UNKNOWN,
            )
        }),
        Awaited::NoSuchEntry => Err(no_such_entry(id)),
    }
}

/// Returns the failure for an entry that was not done.
fn failed(end: &End) -> Failure {
    match end {
        End::Refused(refusal) => CallError::Refused(*refusal).into(),
        End::Cancelled => CallError::Cancelled.into(),
        End::Expired => Failure::new("expired", ended(end), REFUSED),
        End::Damaged => Failure::local(ended(end)),
        End::Done(_) | End::Unknown => Failure {
            state: Some("unknown"),
            ..Failure::new("unknown", ended(end), KEPT_OR_UNKNOWN)
        },
    }
}

/// Waits for all entries, and prints the outcome of each.
async fn wait_for_all(client: &Client, output: Output) -> Result<(), Failure> {
    let is_empty = client.outbox_wait().await?;
    let (mut refused, mut unknown) = (0, 0);
    for notice in client.try_take_notices()? {
        let Notice::Finished { id, what, end } = &notice else {
            Output::notice(&notice);
            continue;
        };
        let mut object = json!({ "id": id.0, "command": what });
        match end {
            End::Done(Answer::Sent(state)) => object["state"] = state.name().into(),
            End::Done(Answer::Account(_)) => {
                unknown += 1;
                object["state"] = "unknown".into();
            }
            End::Done(_) => object["state"] = "done".into(),
            End::Unknown | End::Refused(_) | End::Expired | End::Damaged | End::Cancelled => {
                // The user has cancelled a cancelled entry, so it is not an error.
                unknown += usize::from(matches!(end, End::Unknown));
                let is_refused = matches!(end, End::Refused(_) | End::Expired | End::Damaged);
                refused += usize::from(is_refused);
                object["error"] = failed(end).error.into();
            }
        }
        output.item(&object, &format!("{}  {what}  {}", id.0, ended(end)))?;
    }
    if !is_empty {
        return Err(waits(None));
    }
    let of_refused = match refused {
        0 => String::new(),
        _ => format!("; {refused} were refused, or not delivered in time"),
    };
    if unknown > 0 {
        let text = format!(
            "no entry of this user waits for this realm any more{of_refused}; {unknown} may have been done or not: check \
             before you repeat them"
        );
        return Err(Failure {
            state: Some("unknown"),
            ..Failure::new("unknown", text, KEPT_OR_UNKNOWN)
        });
    }
    // These are entries of another user or for another realm.
    let others = client.outbox()?.len();
    if others > 0 {
        let text = format!(
            "no entry of this user waits for this realm any more{of_refused}. {others} of other users or for other realms \
             wait, and are sent when one of their commands runs; `merpati outbox` shows them"
        );
        return Err(Failure {
            state: Some("kept"),
            ..Failure::new("kept", text, KEPT_OR_UNKNOWN)
        });
    }
    match refused {
        0 => output.result(&json!({}), "no entry waits any more"),
        _ => {
            let text = format!("no entry waits any more{of_refused}");
            Err(Failure::new("not-done", text, REFUSED))
        }
    }
}

async fn cancel(client: &Client, output: Output, id: EntryId) -> Result<(), Failure> {
    match patiently(client, client.outbox_cancel(id)).await? {
        Withdrawn::Cancelled => output.result(
            &json!({ "state": "cancelled", "id": id.0 }),
            "cancelled; it was not done",
        ),
        Withdrawn::Ended(end @ (End::Expired | End::Damaged)) => {
            output.result(&json!({ "state": "cancelled", "id": id.0 }), &ended(&end))
        }
        Withdrawn::Ended(End::Unknown) => Err(Failure {
            id: Some(id.0),
            ..failed(&End::Unknown)
        }),
        Withdrawn::Ended(end) => Err(Failure {
            id: Some(id.0),
            ..Failure::new(
                "already-done",
                format!("too late to cancel it: {}", ended(&end)),
                REFUSED,
            )
        }),
        Withdrawn::Asked => Err(Failure {
            state: Some("unknown"),
            id: Some(id.0),
            ..Failure::new(
                "unknown",
                "some of it was sent, and the realm does not answer: it may have been done or not. It is not sent again, \
                 and is cancelled as soon as the realm answers",
                KEPT_OR_UNKNOWN,
            )
        }),
        Withdrawn::NoSuchEntry => Err(no_such_entry(id)),
    }
}
