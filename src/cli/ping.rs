//! `ping`: what the path to the realm is like.

use std::time::Duration;

use merpati::client::{Client, PathMemory};
use serde_json::json;

use super::output::{Failure, Output};

fn ms(span: Duration) -> f64 {
    // To a tenth.
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Asks so often, one after another, and says what was found out.
pub async fn ping(client: &Client, output: Output, count: u32) -> Result<(), Failure> {
    let meter = client.meter();
    for number in 1..=count {
        let before = meter.spent();
        let took = client.ping().await?;
        let spent = meter.spent();
        let (up, down) = (
            spent.up.bytes - before.up.bytes,
            spent.down.bytes - before.down.bytes,
        );
        let status = client.link_status().await;
        let how = match (number, status.is_resumed) {
            (1, true) => "resumed",
            (1, false) => "opened",
            (2.., _) => "open",
            (0, _) => "",
        };
        let object =
            json!({ "number": number, "ms": ms(took), "link": how, "up": up, "down": down });
        let what = match how {
            "resumed" => ", with a link that was resumed",
            "opened" => ", with a handshake",
            _ => "",
        };
        let text = format!(
            "{number}: {} ms, {up} bytes up, {down} down{what}",
            ms(took)
        );
        output.item(&object, &text)?;
    }
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
    let percent = f64::from(losses.each_way()) * 100.0 / 1024.0;
    let percent = percent.round();
    let rtt_ms = rtt.map(|(rtt, _)| ms(rtt));
    let variation_ms = rtt.map(|(_, variation)| ms(variation));
    let object = json!({
        "address": address, "rtt_ms": rtt_ms, "variation_ms": variation_ms,
        "lost_percent": percent, "of": losses.of, "datagram": datagram,
    });
    let round_trip = match (rtt_ms, variation_ms) {
        (Some(rtt), Some(variation)) => format!("round trip {rtt} ms, more or less {variation} ms"),
        _ => "round trip not measured yet".into(),
    };
    let text = format!(
        "{address}: {round_trip}; about {percent} % lost each way, by {} exchanges; packets of up to {datagram} bytes have got through or are tried first",
        losses.of
    );
    output.item(&object, &text)
}
