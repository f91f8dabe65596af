//! The results of a measurement, for people and for programs.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use merpati::wire::ErrorCode;

use super::{Failure, Plan, WRITE_OUTPUT, clients::raise, echo::Echo, load::Load};

/// The quantiles that are printed.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

/// The results of a measurement.
#[derive(Debug)]
pub struct Report {
    pub plan: Plan,
    pub load: Load,
    pub echo: Echo,
    /// The time of one sync of the realm's disk, if that is this machine's.
    pub sync: Option<Duration>,
    /// The realm was started for this measurement.
    pub is_own: bool,
}

impl Report {
    pub fn print(&self, json: bool) -> Result<(), Failure> {
        self.write(json).map_err(Failure::cannot(WRITE_OUTPUT))
    }

    fn write(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            writeln!(out, "{}", self.json())?;
        } else {
            for (name, text) in self.rows() {
                writeln!(out, "{name:<11} {text}")?;
            }
        }
        out.flush()
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let Self {
            plan, load, echo, ..
        } = self;
        let whose = if self.is_own {
            "started for this run"
        } else {
            "already running"
        };
        let mut rows = vec![
            ("realm", format!("{}, {whose}", load.address)),
            (
                "load",
                format!(
                    "{} connections with {} in flight each; {} of {} bytes",
                    plan.connections, plan.in_flight, plan.mix, plan.size
                ),
            ),
            (
                "commands",
                format!(
                    "{} in {:.1} s, {:.0} per second",
                    load.done,
                    load.took.as_secs_f64(),
                    rate(load.done, load.took)
                ),
            ),
        ];
        for (code, count) in &load.refused {
            let hint = if *code == ErrorCode::RateLimited.name() {
                format!("; {}", raise())
            } else {
                String::new()
            };
            rows.push(("refused", format!("{count} with {code}{hint}")));
        }
        if load.unanswered > 0 {
            rows.push(("unanswered", load.unanswered.to_string()));
        }
        rows.push(("latency", latency(&load.latency)));
        rows.push((
            "wire",
            format!(
                "{:.1} bytes up and {:.1} down per command, {:.2} datagrams, {:.2} % sent again",
                self.a_command(load.sent.bytes),
                self.a_command(load.received.bytes),
                self.a_command(load.sent.datagrams + load.received.datagrams),
                self.a_command(load.repeats) * 100.0
            ),
        ));
        if let Some(used) = load.used {
            let (each, of) = (micros(used, load.done), load.took.as_secs_f64());
            let busy = used.as_secs_f64() / of * 100.0;
            let text = format!("{each:.2} µs of CPU time per command; one CPU {busy:.0} % busy");
            rows.push(("realm used", text));
        }
        rows.push((
            "bare echo",
            format!(
                "{:.2} µs of CPU time per datagram, {:.0} per second; {}",
                micros(echo.used, echo.done),
                rate(echo.done, echo.took),
                latency(&echo.latency)
            ),
        ));
        if let Some(part) = self.part_of_echo() {
            let text = format!("{part:.3} commands for each datagram of the echo");
            rows.push(("by CPU time", text));
        }
        let mut against = format!("p50 is {:.1} × the echo's", self.latency_ratio());
        if let Some(sync) = self.sync {
            let (ratio, sync) = (
                self.latency_ratio_beside(sync),
                shown(sync.as_secs_f64() * 1e6),
            );
            against =
                format!("{against}, or {ratio:.1} × and one sync of the disk, which takes {sync}");
        }
        rows.push(("by latency", against));
        rows
    }

    fn json(&self) -> Value {
        let Self {
            plan, load, echo, ..
        } = self;
        let refused: serde_json::Map<String, Value> = load
            .refused
            .iter()
            .map(|(code, count)| ((*code).to_owned(), json!(count)))
            .collect();
        json!({
            "realm": load.address.to_string(),
            "own": self.is_own,
            "connections": plan.connections,
            "in_flight": plan.in_flight,
            "mix": plan.mix.to_string(),
            "message_bytes": plan.size,
            "seconds": load.took.as_secs_f64(),
            "commands": load.done,
            "commands_per_second": rate(load.done, load.took),
            "refused": refused,
            "unanswered": load.unanswered,
            "latency_us": quantiles(&load.latency),
            "bytes_up_per_command": self.a_command(load.sent.bytes),
            "bytes_down_per_command": self.a_command(load.received.bytes),
            "datagrams_up_per_command": self.a_command(load.sent.datagrams),
            "datagrams_down_per_command": self.a_command(load.received.datagrams),
            "repeats_per_command": self.a_command(load.repeats),
            "realm_cpu_us_per_command": load.used.map(|used| micros(used, load.done)),
            "echo": {
                "per_second": rate(echo.done, echo.took),
                "cpu_us_per_datagram": micros(echo.used, echo.done),
                "latency_us": quantiles(&echo.latency),
            },
            "part_of_echo": self.part_of_echo(),
            "p50_of_echo": self.latency_ratio(),
            "disk_sync_us": self.sync.map(|sync| sync.as_secs_f64() * 1e6),
            "p50_beside_sync_of_echo": self.sync.map(|sync| self.latency_ratio_beside(sync)),
        })
    }

    fn a_command(&self, count: u64) -> f64 {
        count as f64 / self.load.done.max(1) as f64
    }

    /// Returns the number of commands that the realm executes in the processor time that the echo
    /// needs for one datagram.
    fn part_of_echo(&self) -> Option<f64> {
        let used = micros(self.load.used?, self.load.done);
        Some(micros(self.echo.used, self.echo.done) / used)
    }

    fn latency_ratio(&self) -> f64 {
        self.median() / self.echo_median()
    }

    /// Returns the ratio of the latencies without one sync of the disk.
    fn latency_ratio_beside(&self, sync: Duration) -> f64 {
        (self.median() - sync.as_secs_f64() * 1e6).max(0.0) / self.echo_median()
    }

    fn median(&self) -> f64 {
        self.load.latency.value_at_quantile(0.5) as f64
    }

    fn echo_median(&self) -> f64 {
        self.echo.latency.value_at_quantile(0.5).max(1) as f64
    }
}

fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Returns microseconds for each.
fn micros(whole: Duration, count: u64) -> f64 {
    whole.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn latency(histogram: &Histogram<u64>) -> String {
    let told = QUANTILES.map(|(name, quantile)| {
        let micros = histogram.value_at_quantile(quantile);
        format!("{name} {}", shown(micros as f64))
    });
    told.join(", ")
}

/// Returns microseconds as people read them.
fn shown(micros: f64) -> String {
    if micros < 1000.0 {
        format!("{micros:.0} µs")
    } else if micros < 1_000_000.0 {
        format!("{:.2} ms", micros / 1000.0)
    } else {
        format!("{:.2} s", micros / 1_000_000.0)
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Value {
    let told = QUANTILES.map(|(name, quantile)| {
        (
            name.to_owned(),
            json!(histogram.value_at_quantile(quantile)),
        )
    });
    Value::Object(told.into_iter().collect())
}
