//! `ping`: measures the path to the realm.

use std::time::Duration;

use merpati::client::{Client, PathMemory};
use serde_json::json;

use super::{
    ask,
    output::{Failure, NOT_DONE, Output},
};

fn ms(span: Duration) -> f64 {
    // Rounded to a tenth.
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}

/// With fewer exchanges, the loss is not known well enough.
const FEW: u32 = 20;
/// With fewer datagrams on the link, the loss is not known well enough.
const FEW_DATAGRAMS: u64 = 10;

/// Pings `count` times, one after another, and prints a summary even if a ping gets no answer.
pub async fn ping(client: &Client, output: Output, count: u32) -> Result<(), Failure> {
    let outcome = each(client, output, count).await;
    let summed_up = summary(client, output).await;
    outcome.and(summed_up)
}

async fn each(client: &Client, output: Output, count: u32) -> Result<(), Failure> {
    let meter = client.meter();
    for number in 1..=count {
        let before = meter.spent();
        let opened = client.link_status().await.opened;
        let took = ask::patiently(client, client.ping()).await;
        let took = took.map_err(|failure| match failure.error {
            // A ping changes nothing, so it cannot have taken effect.
            "unknown" => Failure::new(
                "unreachable",
                format!(
                    "ping {number} was not answered; a ping changes nothing, and may be repeated"
                ),
                NOT_DONE,
            ),
            _ => failure,
        })?;
        let spent = meter.spent();
        let (up, down) = (
            spent.up.bytes - before.up.bytes,
            spent.down.bytes - before.down.bytes,
        );
        let status = client.link_status().await;
        let (how, what) = match (status.opened > opened, status.is_resumed) {
            (true, true) => ("resumed", ", with a link that was resumed"),
            (true, false) => ("opened", ", with a handshake"),
            (false, _) => ("open", ""),
        };
        let object =
            json!({ "number": number, "ms": ms(took), "link": how, "up": up, "down": down });
        let text = format!(
            "{number}: {} ms, {up} bytes up, {down} down{what}",
            ms(took)
        );
        output.item(&object, &text)?;
    }
    Ok(())
}

/// Prints what is known of the path, now and from earlier runs.
async fn summary(client: &Client, output: Output) -> Result<(), Failure> {
    let address = client.link_status().await.address;
    let address = address.map_or_else(String::new, |address| address.to_string());
    let Some(PathMemory {
        rtt,
        losses,
        datagram,
        unsure: _,
    }) = client.path().await
    else {
        return Ok(());
    };
    let spent = client.meter().spent();
    // Datagrams on this link show the loss better than the first exchanges of a few commands.
    let stats = client.link_stats().await;
    let seen = stats.filter(|stats| stats.counters.received.datagrams >= FEW_DATAGRAMS);
    let share = seen.map_or(losses.each_way(), |stats| stats.loss);
    let percent = (f64::from(share) * 100.0 / 1024.0).round();
    let rtt_ms = rtt.map(|(rtt, _)| ms(rtt));
    let variation_ms = rtt.map(|(_, variation)| ms(variation));
    let object = json!({
        "address": address, "rtt_ms": rtt_ms, "variation_ms": variation_ms,
        "datagrams_up": spent.up.datagrams, "datagrams_down": spent.down.datagrams,
        "lost_percent": percent, "failed": losses.lost, "of": losses.of, "datagram": datagram,
    });
    let round_trip = match (rtt_ms, variation_ms) {
        (Some(rtt), Some(variation)) => format!("round trip {rtt} ms, more or less {variation} ms"),
        _ => "round trip not measured yet".into(),
    };
    let lost = if seen.is_none() && losses.of < FEW {
        format!(
            "{} of {} exchanges failed, too few to say what is lost",
            losses.lost, losses.of
        )
    } else {
        format!("about {percent} % lost each way, by what was seen lately and before")
    };
    let realm = match address.as_str() {
        "" => "the realm",
        address => address,
    };
    let text = format!(
        "{realm}: {round_trip}; {lost}; {} datagrams up and {} down this time; packets begin at {datagram} bytes",
        spent.up.datagrams, spent.down.datagrams
    );
    output.item(&object, &text)
}
