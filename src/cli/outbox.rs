//! `outbox`: what was typed and is not finished, and what becomes of it.

use merpati::client::{Client, EntryId, OutboxEntry, OutboxState, Withdrawn};
use serde_json::json;

use super::{
    args::OutboxAction,
    ask::patiently,
    output::{Failure, KEPT_OR_UNKNOWN, NOT_DONE, Output, ended},
};

/// Carries out what is asked of the outbox.
pub async fn outbox(
    client: &Client,
    output: Output,
    action: Option<OutboxAction>,
) -> Result<(), Failure> {
    match action {
        None => list(client, output),
        Some(OutboxAction::Wait { number }) => wait(client, output, number.map(EntryId)).await,
        Some(OutboxAction::Cancel { number }) => cancel(client, output, EntryId(number)).await,
    }
}

fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let entries = client.outbox()?;
    if entries.is_empty() && !output.json {
        Output::aside("the outbox is empty: nothing waits");
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
    let server = entry.realm.split('#').next().unwrap_or_default();
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
        OutboxState::Kept => "kept, nothing has left",
        OutboxState::Unknown => "on its way, no answer yet",
        OutboxState::Cancelling => "being taken back",
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

async fn wait(client: &Client, output: Output, id: Option<EntryId>) -> Result<(), Failure> {
    if patiently(client, client.outbox_wait(id)).await? {
        return output.result(&json!({}), "nothing waits any more");
    }
    Err(Failure {
        state: Some("kept"),
        id: id.map(|id| id.0),
        ..Failure::new(
            "kept",
            "it waits still, and goes on whenever merpati runs; `merpati outbox` shows it",
            KEPT_OR_UNKNOWN,
        )
    })
}

async fn cancel(client: &Client, output: Output, id: EntryId) -> Result<(), Failure> {
    match patiently(client, client.outbox_cancel(id)).await? {
        Withdrawn::Cancelled => output.result(
            &json!({ "state": "cancelled", "id": id.0 }),
            "taken back; it has not been done",
        ),
        Withdrawn::Ended(end) => Err(Failure {
            id: Some(id.0),
            ..Failure::new(
                "already-done",
                format!("too late to take it back: {}", ended(&end)),
                NOT_DONE,
            )
        }),
        Withdrawn::Asked => Err(Failure {
            state: Some("unknown"),
            id: Some(id.0),
            ..Failure::new(
                "unknown",
                "some of it has left, and the realm does not answer: whether it was done is not known. It is not sent \
                 again, and taken back as soon as the realm is reached",
                KEPT_OR_UNKNOWN,
            )
        }),
        Withdrawn::NoSuchEntry => Err(Failure::usage(format!(
            "there is no number {} in the outbox; `merpati outbox` lists what waits",
            id.0
        ))),
    }
}
