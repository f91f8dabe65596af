//! `merpati bench`: the time, bytes and processor time of a command at a realm. They are compared
//! with an echo of datagrams of the same size, on the same machine and in the same run.
//!
//! Without a connection string it starts a local realm, in a process of its own, and measures that.

#![expect(
    clippy::cast_precision_loss,
    reason = "what is counted here is far below the 2^52 from which on that would be seen"
)]

mod chart;
mod clients;
mod cpu;
mod echo;
mod load;
mod local_realm;
mod report;

use std::{path::Path, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use merpati::{client::default_home, crypto::ConnectionString};
use report::Report;
use tokio::task::LocalSet;

use super::{
    args::{self, Global},
    output::{Failure, Output, WRITE_OUTPUT},
    workload::Mix,
};
use cpu::Process;
use local_realm::OwnRealm;

/// The parameters of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections at once.
    pub connections: usize,
    /// Commands that each connection keeps in flight.
    pub in_flight: usize,
    /// Bytes of a message.
    pub size: usize,
    pub mix: Mix,
    /// The run ends after this time or this number of commands, whichever comes first.
    pub span: Duration,
    pub count: u64,
}

/// Measures a realm.
pub fn bench(global: &Global, args: &args::Bench, output: Output) -> Result<(), Failure> {
    let plan = Plan {
        connections: usize::from(args.connections),
        in_flight: usize::from(args.in_flight),
        size: args.size,
        mix: args.mix,
        span: args.time,
        count: args.count.unwrap_or(u64::MAX),
    };
    let (realm, home, own) = match &args.realm {
        Some(realm) => (realm.clone(), bench_home(global, realm)?, None),
        None => {
            let own = OwnRealm::start(args.data.as_deref(), args.workers)?;
            (own.realm.clone(), own.home(), Some(own))
        }
    };
    let pid = own.as_ref().map(OwnRealm::pid).or(args.pid);
    let process = pid.map(Process::find).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = LocalSet::new().block_on(&runtime, measure(&realm, &home, plan, process))?;
    let report = Report {
        sync: own.as_ref().map(OwnRealm::sync_time).transpose()?,
        is_own: own.is_some(),
        ..report
    };
    if let Some(file) = &args.svg {
        chart::draw(&report, file)?;
    }
    report.print(output.json)
}

/// Returns the directory of the profiles of the accounts that were made at a realm for this.
fn bench_home(global: &Global, realm: &ConnectionString) -> Result<std::path::PathBuf, Failure> {
    let home = match &global.home {
        Some(home) => home.clone(),
        None => default_home()?,
    };
    let who = realm
        .key
        .map_or_else(|| realm.port.to_string(), |key| key.short());
    Ok(home.join("bench").join(who))
}

async fn measure(
    realm: &ConnectionString,
    home: &Path,
    plan: Plan,
    process: Option<Process>,
) -> Result<Report, Failure> {
    let bar = progress(plan.connections as u64, "accounts");
    let devices = clients::gather(realm, home, plan, &bar).await?;
    bar.finish_and_clear();
    let bar = progress(plan.span.as_millis().try_into().unwrap_or(u64::MAX), "load");
    let load = load::run(realm, &devices, plan, process.as_ref(), &bar).await?;
    bar.finish_and_clear();
    clients::remember(home, &devices, &load.highest)?;
    let echo = echo::run(plan, &load).await?;
    Ok(Report {
        plan,
        load,
        echo,
        sync: None,
        is_own: false,
    })
}

/// Returns a progress bar on standard error. It is shown only on a terminal.
fn progress(whole: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(whole);
    if let Ok(style) = ProgressStyle::with_template("{prefix:9} {bar:40} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar
}
