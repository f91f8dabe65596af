//! The load: every connection keeps its commands in flight until the time or the count of commands
//! is reached.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs as _},
    rc::Rc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use merpati::{
    client::{Direct, DirectOutcome, Traffic},
    crypto::ConnectionString,
    wire::{Command, GroupName, OperationNumber, Request, SessionRef, Username, command},
};
use tokio::task::JoinSet;

use super::{Failure, Plan, clients::Device, cpu::Process};

/// The longest time for all links to open, and for each link.
const OPENING: Duration = Duration::from_secs(30);
/// The longest latency that is recorded, in microseconds. Longer ones count as this.
const LONGEST_US: u64 = 60_000_000;
/// The interval at which the progress bar is updated.
const TICK: Duration = Duration::from_millis(100);

/// The results of a load.
#[derive(Debug)]
pub struct Load {
    pub address: SocketAddr,
    pub done: u64,
    pub refused: BTreeMap<&'static str, u64>,
    pub unanswered: u64,
    pub took: Duration,
    /// The latencies of answered commands, in microseconds.
    pub latency: Histogram<u64>,
    pub sent: Traffic,
    pub received: Traffic,
    pub repeats: u64,
    /// The processor time of the realm's process, if it is known.
    pub used: Option<Duration>,
    /// The highest operation number of each device.
    pub highest: Vec<OperationNumber>,
}

/// The state that all connections share.
struct Shared {
    plan: Plan,
    asked: Cell<u64>,
    until: Cell<Option<Instant>>,
    tally: RefCell<Tally>,
}

struct Tally {
    done: u64,
    refused: BTreeMap<&'static str, u64>,
    unanswered: u64,
    latency: Histogram<u64>,
}

impl Shared {
    /// Takes the number of the next command, if there is one.
    fn take(&self) -> Option<u64> {
        let is_over = self.until.get().is_none_or(|until| Instant::now() >= until);
        let asked = self.asked.get();
        (!is_over && asked < self.plan.count).then(|| {
            self.asked.set(asked + 1);
            asked
        })
    }

    fn note(&self, outcome: DirectOutcome) {
        let mut tally = self.tally.borrow_mut();
        match outcome {
            DirectOutcome::Done(took) => {
                tally.done += 1;
                let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                tally.latency.saturating_record(took);
            }
            DirectOutcome::Refused(code) => *tally.refused.entry(code.name()).or_default() += 1,
            DirectOutcome::Unanswered => tally.unanswered += 1,
        }
    }
}

/// Returns an empty histogram.
pub fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).map_err(Failure::local)
}

/// Loads the realm.
pub async fn run(
    realm: &ConnectionString,
    devices: &[Device],
    plan: Plan,
    process: Option<&Process>,
    bar: &ProgressBar,
) -> Result<Load, Failure> {
    let address = (realm.host.as_str(), realm.port)
        .to_socket_addrs()
        .map_err(Failure::cannot(format!("find {}", realm.host)))?
        .next()
        .ok_or_else(|| Failure::local(format!("{} has no address", realm.host)))?;
    let connections = open(realm, devices, address).await?;
    let shared = Rc::new(Shared {
        plan,
        asked: Cell::new(0),
        until: Cell::new(None),
        tally: RefCell::new(Tally {
            done: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            latency: histogram()?,
        }),
    });
    let before = process.map(Process::used).transpose()?;
    let begun = Instant::now();
    shared.until.set(Some(begun + plan.span));
    let mut driving = JoinSet::new();
    // Each user writes to the next.
    let next = devices.iter().cycle().skip(1);
    for (n, (connection, next)) in connections.into_iter().zip(next).enumerate() {
        let (shared, to, group) = (Rc::clone(&shared), next.user, next.group);
        driving.spawn_local(async move { (n, drive(connection, shared, to, group).await) });
    }
    let (mut sent, mut received, mut repeats) = (Traffic::default(), Traffic::default(), 0);
    let mut ended = Vec::new();
    let mut highest = vec![OperationNumber(0); devices.len()];
    loop {
        tokio::select! {
            next = driving.join_next() => {
                let Some(next) = next else { break };
                let (n, connection) = next.map_err(Failure::local)?;
                let connection = connection?;
                sent = sum(sent, connection.sent());
                received = sum(received, connection.received());
                repeats += connection.repeats();
                if let Some(place) = highest.get_mut(n) {
                    *place = connection.highest();
                }
                ended.push(connection);
            }
            () = tokio::time::sleep(TICK) => show(bar, begun.elapsed(), shared.tally.borrow().done),
        }
    }
    let took = begun.elapsed();
    let after = process.map(Process::used).transpose()?;
    for connection in &mut ended {
        connection.close().await;
    }
    let tally = shared.tally.borrow();
    Ok(Load {
        address,
        done: tally.done,
        refused: tally.refused.clone(),
        unanswered: tally.unanswered,
        took,
        latency: tally.latency.clone(),
        sent,
        received,
        repeats,
        used: before
            .zip(after)
            .map(|(before, after)| after.saturating_sub(before)),
        highest,
    })
}

fn show(bar: &ProgressBar, elapsed: Duration, done: u64) {
    bar.set_position(elapsed.as_millis().try_into().unwrap_or(u64::MAX));
    bar.set_message(format!("{done} commands"));
}

fn sum(a: Traffic, b: Traffic) -> Traffic {
    Traffic {
        datagrams: a.datagrams + b.datagrams,
        bytes: a.bytes + b.bytes,
    }
}

/// Opens a link for each device.
async fn open(
    realm: &ConnectionString,
    devices: &[Device],
    address: SocketAddr,
) -> Result<Vec<Direct>, Failure> {
    let mut connections = Vec::with_capacity(devices.len());
    let mut told = Vec::new();
    for device in devices {
        let mut connection = Direct::begin(&device.key, device.highest, address, realm.key).await?;
        let opening = async {
            while !connection.is_open() {
                connection.step(&mut told).await?;
            }
            // The command is sent now, because a realm keeps few links that have not been used yet.
            let who = Command::WhoAmI(command::WhoAmI {
                session: SessionRef::Bound,
            });
            connection.ask(Request::from(who).to_bytes());
            while connection.in_flight() > 0 {
                told.clear();
                connection.step(&mut told).await?;
            }
            told.clear();
            Ok::<_, Failure>(())
        };
        tokio::time::timeout(OPENING, opening)
            .await
            .map_err(|_| {
                Failure::local(format!(
                    "no answer from the realm at {address} within {OPENING:?}; is it running, and is the address right?"
                ))
            })??;
        connection.reset_traffic();
        connections.push(connection);
    }
    Ok(connections)
}

/// Drives one connection until no commands are left and all are answered.
async fn drive(
    mut connection: Direct,
    shared: Rc<Shared>,
    to: Username,
    group: GroupName,
) -> Result<Direct, Failure> {
    let message = vec![b'x'; shared.plan.size];
    let mut told = Vec::new();
    loop {
        while connection.in_flight() < shared.plan.in_flight
            && let Some(n) = shared.take()
        {
            let kind = shared.plan.mix.kind(n);
            let operation = if kind.is_numbered() {
                connection.take_operation()
            } else {
                OperationNumber(0)
            };
            let command = kind.command(operation, to, group, &message).to_bytes();
            if !connection.ask(command) {
                return Err(Failure::local(
                    "a link takes no more commands at once; ask for fewer --in-flight",
                ));
            }
        }
        if connection.in_flight() == 0 {
            return Ok(connection);
        }
        connection.step(&mut told).await?;
        for outcome in told.drain(..) {
            shared.note(outcome);
        }
    }
}
