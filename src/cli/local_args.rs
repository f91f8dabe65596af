//! The options of commands that talk to no realm of a profile: those for an operator's machine, the
//! demonstration and the benchmark.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use merpati::{
    crypto::ConnectionString,
    server::{
        config::listen_address,
        units::{parse_size, parse_span},
    },
};

use super::workload::Mix;

#[derive(Debug, PartialEq, Args)]
pub struct Demo {
    /// The share of datagrams that the link loses each way, from 0 to 0.8.
    #[arg(long, default_value = "0.3", value_parser = loss)]
    pub loss: f64,
    /// How long the link takes there and back.
    #[arg(long, default_value = "60ms", value_parser = parse_span)]
    pub rtt: Duration,
    /// Repeats a run: the same datagrams are lost, as far as the same are sent.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Show each datagram, and which are lost.
    #[arg(long, short)]
    pub verbose: bool,
}

fn loss(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(loss) if (0.0..=0.8).contains(&loss) => Ok(loss),
        _ => Err("write a number from 0 to 0.8, as in 0.3".into()),
    }
}

#[derive(Debug, PartialEq, Eq, Args)]
pub struct Bench {
    /// The connection string of the realm; one without a key is spoken to without encryption.
    /// Without it a realm is started for this on this machine, and is gone afterwards. A realm
    /// keeps the accounts that are made there.
    #[arg(value_name = "STRING")]
    pub realm: Option<ConnectionString>,
    /// Connections at once, each with an account of its own.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connections: u16,
    /// Commands that each connection keeps in flight.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub in_flight: u16,
    /// The size of a message, at most 64KiB.
    #[arg(long, value_name = "SIZE", default_value = "20B", value_parser = message_size)]
    pub size: usize,
    /// The commands and their shares, as in send=8,unread=1: send, sendgroup, inbox, unread,
    /// whoami.
    #[arg(long, value_name = "MIX", default_value = "send")]
    pub mix: Mix,
    /// How long to measure, from 100ms to 24h.
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = bench_span)]
    pub time: Duration,
    /// End after this many commands, if that is earlier.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Where the realm that is started for this keeps its store; on the disk that is to be
    /// measured.
    #[arg(long, value_name = "DIR", conflicts_with = "realm")]
    pub data: Option<PathBuf>,
    /// Workers of the realm that is started for this; 0 for as many as there are processors.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=64), conflicts_with = "realm")]
    pub workers: u16,
    /// The process of the realm, if it runs on this machine: its CPU time is shown too.
    #[arg(long, value_name = "PID", requires = "realm")]
    pub pid: Option<u32>,
    /// Draw a chart of how long commands take.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

fn message_size(text: &str) -> Result<usize, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    match usize::try_from(size) {
        Ok(size) if size <= 64 << 10 => Ok(size),
        _ => Err("a message has at most 64KiB".into()),
    }
}

fn bench_span(text: &str) -> Result<Duration, String> {
    let span = parse_span(text).map_err(|error| error.to_string())?;
    if span < Duration::from_millis(100) || span > Duration::from_hours(24) {
        return Err("write a span from \"100ms\" to \"24h\"".into());
    }
    Ok(span)
}

#[derive(Debug, PartialEq, Eq, Args)]
pub struct Rotatekey {
    /// The realm's configuration; without it config.toml, and without that the defaults.
    #[arg(long, value_name = "FILE", env = "MERPATI_CONFIG")]
    pub config: Option<PathBuf>,
    /// The store's directory, instead of the configured one.
    #[arg(long, value_name = "DIR", env = "MERPATI_DATA")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq, Args)]
pub struct Limits {
    /// The realm's configuration; without it config.toml, and without that the defaults.
    #[arg(long, value_name = "FILE", env = "MERPATI_CONFIG")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq, Args)]
pub struct Serve {
    /// The configuration; without it config.toml, and without that the defaults.
    #[arg(long, value_name = "FILE", env = "MERPATI_CONFIG")]
    pub config: Option<PathBuf>,
    /// The store's directory, instead of the configured one.
    #[arg(long, value_name = "DIR", env = "MERPATI_DATA")]
    pub data: Option<PathBuf>,
    /// Listen here, sealed, instead of where the configuration says; port 0 takes any that is free.
    #[arg(
        long,
        value_name = "ADDR",
        env = "MERPATI_LISTEN",
        value_delimiter = ',',
        value_parser = listen_address
    )]
    pub listen: Vec<SocketAddr>,
    /// The store is a copy of one that was in use, as a snapshot is: give this at the first start
    /// from the copy, so that clients do not go on from positions that only the lost store had.
    #[arg(long)]
    pub restored: bool,
    /// Go on without what the disk has lost or damaged of the store: give this once, when a start
    /// says so and there is no backup to restore. What is left out is logged.
    #[arg(long)]
    pub accept_damage: bool,
    /// What to write to standard error: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", env = "MERPATI_LOG", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log: Option<String>,
}
