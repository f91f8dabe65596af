//! `merpati cost`: the traffic with the realm, counted at the socket.

use merpati::client::{Spent, Traffic};
use serde_json::{Value, json};

use super::{
    args::Global,
    ask,
    output::{Failure, Output},
};

/// Records the traffic of a run that is over. An error does not change the outcome of the run.
pub fn note(global: &Global, command: &str) {
    let spent = global.meter.spent();
    if spent == Spent::default() {
        return;
    }
    let noted = ask::profile(global).and_then(|profile| Ok(profile.note_spent(command, spent)?));
    if let Err(failure) = noted {
        Output::aside(&format!(
            "cannot record this command's traffic in the profile: {}. Its outcome does not change",
            failure.message
        ));
    }
}

/// Prints the traffic of the last run and of all runs.
pub fn cost(global: &Global, output: Output, reset: bool) -> Result<(), Failure> {
    let profile = ask::profile(global)?;
    let spending = profile.spending()?;
    let object = json!({
        "ok": true,
        "command": spending.command,
        "last": of(spending.last),
        "runs": spending.runs,
        "total": of(spending.total),
    });
    let text = match spending.runs {
        0 => "no traffic yet".into(),
        1 => format!("{}: {}", spending.command, shown(spending.last)),
        runs => format!(
            "{}: {}\n{runs} runs: {}",
            spending.command,
            shown(spending.last),
            shown(spending.total)
        ),
    };
    output.item(&object, &text)?;
    if reset {
        profile.forget_spending()?;
    }
    Ok(())
}

/// Prints the traffic of the session so far.
pub fn so_far(global: &Global, output: Output) -> Result<(), Failure> {
    let spent = global.meter.spent();
    let object = json!({ "ok": true, "last": of(spent) });
    output.item(&object, &format!("this session: {}", shown(spent)))
}

fn of(spent: Spent) -> Value {
    let way = |traffic: Traffic| json!({ "bytes": traffic.bytes, "datagrams": traffic.datagrams });
    json!({
        "up": way(spent.up),
        "down": way(spent.down),
        "bytes_with_headers": spent.bytes_with_headers(),
    })
}

fn shown(spent: Spent) -> String {
    let way = |traffic: Traffic| {
        let plural = if traffic.datagrams == 1 { "" } else { "s" };
        format!(
            "{} bytes in {} datagram{plural}",
            traffic.bytes, traffic.datagrams
        )
    };
    format!(
        "{} up, {} down; {} bytes with the headers of UDP and IPv4",
        way(spent.up),
        way(spent.down),
        spent.bytes_with_headers()
    )
}
