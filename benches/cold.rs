//! The cost of a command from a cold start: real processes, one for each message, through a relay
//! that delays and loses datagrams.
//!
//! `cargo bench --bench cold` prints the table (20 minutes on two cores), `-- --quick` a twentieth
//! of it, and `-- --svg FILE` also draws it. One run compares:
//!
//! - a process for each message (*cold*),
//! - one process that sends one message after another (*open*),
//! - an *oracle* that repeats an exchange exactly one round trip after it has failed, which takes
//!   RTT / (1 − p)² where each way loses p.
//!
//! The time of the program itself is added to the oracle's. It is the mean of the same processes,
//! as many at once and as often, over a path without delay or loss.

#![allow(clippy::cast_precision_loss, reason = "figures are for reading")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use support::{Home, Realm, path::Node, relay::Relay, typing::Shell};

const RTT: Duration = Duration::from_millis(60);
/// The loss of each way, and the design's limit as a multiple of the sum of oracle and program.
const CELLS: [(f64, f64); 4] = [(0.0, 1.1), (0.1, 1.1), (0.3, 1.2), (0.5, 1.3)];
/// Messages a cell.
const SENDS: usize = 1000;
/// Senders at once. They mostly wait.
const SENDERS: usize = 4;
/// The far path: its round trip, the loss of each way, and the number of messages.
const FAR: (Duration, f64, usize) = (Duration::from_millis(600), 0.5, 300);
/// A client is gone after this time without a datagram to it.
const FORGOTTEN: Duration = Duration::from_secs(30);
const TEXT: &str = "twenty bytes of text";

/// The results of a cell.
struct Cell {
    times: Vec<Duration>,
    failed: usize,
    bytes: u64,
}

impl Cell {
    fn mean(&self) -> f64 {
        self.times.iter().sum::<Duration>().as_secs_f64() / self.times.len() as f64
    }

    /// Returns the mean of the slowest message of each hundred.
    fn slowest(&self) -> f64 {
        let slowest = self.times.chunks(100).filter_map(|some| some.iter().max());
        let slowest: Vec<f64> = slowest.map(Duration::as_secs_f64).collect();
        slowest.iter().sum::<f64>() / slowest.len() as f64
    }

    fn bytes(&self) -> f64 {
        self.bytes as f64 / self.times.len() as f64
    }
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// A process for each message.
    Cold,
    /// One process for all messages.
    Open,
}

/// Sends `sends` messages over paths that lose `loss` each way.
fn run(
    realm: &Realm,
    (how, senders): (How, usize),
    (rtt, loss): (Duration, f64),
    sends: usize,
) -> Cell {
    let each = sends.div_ceil(senders);
    let senders: Vec<_> = (0..senders)
        .map(|n| {
            let (connect, address) = (realm.connect.clone(), realm.address);
            thread::spawn(move || one(n, how, (&connect, address), (rtt, loss), each))
        })
        .collect();
    let mut all = Cell {
        times: Vec::new(),
        failed: 0,
        bytes: 0,
    };
    for sender in senders {
        let cell = sender.join().unwrap();
        all.times.extend(cell.times);
        all.failed += cell.failed;
        all.bytes += cell.bytes;
    }
    all
}

fn one(
    n: usize,
    how: How,
    (connect, address): (&str, SocketAddr),
    (rtt, loss): (Duration, f64),
    sends: usize,
) -> Cell {
    static ACCOUNTS: AtomicU64 = AtomicU64::new(0);
    let home = Home::new();
    let (relay, delay) = (Relay::to(address), Node::Delay(rtt / 2));
    relay.forget_after(FORGOTTEN);
    relay.set_path(n as u64, &[delay]);
    let connect = connect.replace(
        &format!(":{}", address.port()),
        &format!(":{}", relay.address.port()),
    );
    let name = format!("ann{}", ACCOUNTS.fetch_add(1, Ordering::Relaxed));
    home.register(&name, &connect);
    relay.set_path(n as u64, &[Node::Loss(loss), delay]);
    let mut cell = Cell {
        times: Vec::new(),
        failed: 0,
        bytes: 0,
    };
    let mut shell = (how == How::Open).then(|| Shell::start(&home, &name, &[]));
    if let Some(shell) = &mut shell {
        // The link is open and has measured its path before the messages are counted.
        for _ in 0..20 {
            shell.ask(&format!("send {name} first"));
        }
    }
    relay.take_carried();
    for _ in 0..sends {
        let begun = Instant::now();
        let is_done = match &mut shell {
            Some(shell) => shell.ask(&format!("send {name} \"{TEXT}\""))["ok"] == true,
            None => home.run(&name, &["send", &name, TEXT]).code == Some(0),
        };
        cell.times.push(begun.elapsed());
        if rtt.is_zero() {
            // The machine is as busy as with a delay.
            thread::sleep(RTT);
        }
        cell.failed += usize::from(!is_done);
    }
    let carried = relay.take_carried();
    cell.bytes = carried.iter().map(|one| one.bytes.len() as u64).sum();
    cell
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let sends = if arguments.iter().any(|argument| argument == "--quick") {
        SENDS / 20
    } else {
        SENDS
    };
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(
        &config,
        "[limits]\nregistrations_per_subnet = \"unlimited\"\nhandshakes_per_subnet = \"unlimited\"\n",
    )
    .unwrap();
    let realm = Realm::start_with(&["--config", config.to_str().unwrap()]);
    let alone = run(
        &realm,
        (How::Cold, SENDERS),
        (Duration::ZERO, 0.0),
        sends.min(400),
    )
    .mean();
    println!(
        "the program by itself: {:.1} ms (its start, the profile, the realm's disk)\n",
        alone * 1e3
    );
    println!("RTT {} ms, {sends} messages a cell", RTT.as_millis());
    println!(
        "| loss each way | cold, ms | against oracle + program | allowed | slowest of 100 | bytes | open, ms | against oracle | bytes |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut points = Vec::new();
    for (loss, allowed) in CELLS {
        let oracle = RTT.as_secs_f64() / (1.0 - loss).powi(2);
        let cold = run(&realm, (How::Cold, SENDERS), (RTT, loss), sends);
        let open = run(&realm, (How::Open, SENDERS), (RTT, loss), sends);
        let failed = cold.failed + open.failed;
        println!(
            "| {loss} | {:.0} | {:.2} × | {allowed} × | {:.1} × | {:.0} | {:.0} | {:.2} × | {:.0} |{}",
            cold.mean() * 1e3,
            cold.mean() / (oracle + alone),
            cold.slowest() / (oracle + alone),
            cold.bytes(),
            open.mean() * 1e3,
            open.mean() / oracle,
            open.bytes(),
            if failed > 0 {
                format!(" {failed} FAILED")
            } else {
                String::new()
            }
        );
        points.push((loss, cold.mean() * 1e3, open.mean() * 1e3, oracle * 1e3));
    }
    let (rtt, loss, far) = FAR;
    let far = if sends < SENDS { far / 20 } else { far };
    let cell = run(&realm, (How::Cold, SENDERS), (rtt, loss), far);
    let slowest = cell.times.iter().max().copied().unwrap_or_default();
    println!(
        "\nRTT {} ms, {loss} lost each way: {} of {} failed; mean {:.1} s, the slowest {:.1} s",
        rtt.as_millis(),
        cell.failed,
        cell.times.len(),
        cell.mean(),
        slowest.as_secs_f64()
    );
    let svg = arguments.iter().position(|argument| argument == "--svg");
    if let Some(file) = svg.and_then(|at| arguments.get(at + 1)) {
        match fs::write(file, picture(&points)) {
            Ok(()) => println!("\ndrawn: {file}"),
            Err(error) => eprintln!("\ncannot write {file}: {error}"),
        }
    }
}

/// Draws the time a message against the loss: for cold and open processes, and the oracle.
fn picture(points: &[(f64, f64, f64, f64)]) -> String {
    let (left, bottom) = (60.0, 310.0);
    let top = points
        .iter()
        .map(|(_, cold, ..)| *cold)
        .fold(240.0, f64::max);
    let x = |loss: f64| left + loss / 0.5 * 540.0;
    let y = |ms: f64| bottom - ms / top * 250.0;
    let line = |of: fn(&(f64, f64, f64, f64)) -> f64| {
        let points = points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(of(point))));
        points.collect::<Vec<_>>().join(" ")
    };
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 360\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
    );
    for step in 0..=5 {
        let ms = (f64::from(step) * top / 50.0).round() * 10.0;
        let at = y(ms);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"600\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"52\" y=\"{:.1}\" text-anchor=\"end\">{ms} ms</text>",
            at + 4.0
        );
    }
    for percent in [0, 10, 20, 30, 40, 50] {
        let at = x(f64::from(percent) / 100.0);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"330\" text-anchor=\"middle\">{percent} %</text>"
        );
    }
    for (of, stroke) in [
        (
            line(|point| point.3),
            "stroke=\"#999\" stroke-width=\"2\" stroke-dasharray=\"6 4\"",
        ),
        (line(|point| point.2), "stroke=\"#0a6\" stroke-width=\"3\""),
        (line(|point| point.1), "stroke=\"#06c\" stroke-width=\"3\""),
    ] {
        let _ = writeln!(svg, "<polyline points=\"{of}\" fill=\"none\" {stroke}/>");
    }
    svg.push_str(
        "<text x=\"80\" y=\"28\" fill=\"#06c\">a process that starts, sends a message sealed, has it stored, and ends</text>\n\
         <text x=\"80\" y=\"46\" fill=\"#0a6\">one that stays, on its open link</text>\n\
         <text x=\"80\" y=\"64\" fill=\"#777\">an oracle that repeats one round trip after each failure</text>\n\
         <text x=\"330\" y=\"352\" text-anchor=\"middle\">datagrams lost each way; RTT 60 ms</text>\n</svg>",
    );
    svg
}
