//! The protocol on bad paths: two links and a simulated path between them. Every run gives the same
//! figures, on any machine, in seconds.
//!
//! `cargo bench --bench paths` prints the figures;
//! `cargo bench --bench paths -- --svg spec/paths.svg` also draws them. They are compared with an
//! *oracle* that repeats an exchange exactly one round trip after it has failed. It takes
//! `RTT / (1 − p)²` a message where each datagram is lost with probability p.

#[path = "../src/simulation/path.rs"]
mod path;

use std::{fmt::Write as _, time::Duration};

use merpati::{
    crypto::{Initiator, Responder, SecretKey},
    link::{Config, Event, Link, PendingRequest, Redundancy, Time},
    wire::{ConnectionId, OperationNumber, Packet, Welcome},
};
use path::{InFlight, Node, Rate};
use rand::{SeedableRng, rngs::ChaCha20Rng};

/// The length of a `send` of 20 bytes, as a request.
const SEND_BYTES: usize = 27;
/// The answer to a `send`.
const STORED: &[u8] = &[1];
const RTT: Duration = Duration::from_millis(60);
/// Runs of each row, with different seeds.
const SEEDS: u64 = 20;

/// One direction of a path, and the bytes that were sent in it.
struct Pipe {
    nodes: [Node; 3],
    in_flight: InFlight<Vec<u8>>,
    bytes: u64,
}

impl Pipe {
    /// Returns a path of `rate` bits a second.
    const fn new(rate: u64, delay: Duration) -> Self {
        Self {
            nodes: [
                Node::Rate(Rate::new(rate)),
                Node::Loss(0.0),
                Node::Delay(delay),
            ],
            in_flight: InFlight::new(),
            bytes: 0,
        }
    }

    /// Loses this share from now on.
    const fn lose(&mut self, share: f64) {
        self.nodes[1] = Node::Loss(share);
    }

    fn send(&mut self, now: Time, datagram: &[u8], rng: &mut ChaCha20Rng) {
        self.bytes += datagram.len() as u64;
        for fate in path::carry(&mut self.nodes, now - Time(0), datagram.len(), rng) {
            if let Some((at, bytes)) = fate.arrival(datagram) {
                self.in_flight.push(at, bytes);
            }
        }
    }

    fn next(&self) -> Option<Time> {
        self.in_flight.next_at().map(|at| Time(0) + at)
    }

    fn arrived(&mut self, now: Time) -> Option<Vec<u8>> {
        self.in_flight.take(now - Time(0))
    }
}

/// Two links, the path between them, and a server that answers at once.
struct Run {
    now: Time,
    client: Link,
    server: Link,
    up: Pipe,
    down: Pipe,
    rng: ChaCha20Rng,
    replies: u64,
}

impl Run {
    /// Returns an open link whose client knows the round trip from its last run.
    fn new(seed: u64, rate: u64, rtt: Duration, loss: f64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let (device, realm) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let (mut initiator, one) =
            Initiator::start(&mut rng, &device, &realm.public(), b"").expect("it starts");
        let (responder, _) = Responder::read(&mut rng, &realm, &one).expect("it is read");
        let (server_keys, two) = responder.finish(b"").expect("it is answered");
        let (client_keys, _) = initiator.finish(&two).expect("it ends");
        let config = Config {
            max_datagram: 1200,
            max_message: 100_000,
            rate: None,
            redundancy: Redundancy::Auto,
            rtt: Some(rtt),
            seed,
        };
        let mut client = Link::initiate(config, None);
        client.establish(client_keys, Some(ConnectionId(9)));
        let mut server = Link::respond(config, 1000);
        server.establish(server_keys, None);
        server.welcome(Welcome {
            token: [0; 16],
            max_datagram: 1200,
            known: true,
            highest: OperationNumber(0),
            successor: None,
            life: None,
            is_life_unknown: false,
            is_final: false,
        });
        let mut run = Self {
            now: Time(0),
            client,
            server,
            up: Pipe::new(rate, rtt / 2),
            down: Pipe::new(rate, rtt / 2),
            rng,
            replies: 0,
        };
        // The link is proven before anything is counted.
        run.ask(1);
        run.until(1);
        for pipe in [&mut run.up, &mut run.down] {
            pipe.bytes = 0;
            pipe.lose(loss);
        }
        run
    }

    fn ask(&mut self, bytes: usize) -> bool {
        let deadline = self.now + Duration::from_hours(10);
        self.client
            .request(PendingRequest {
                bytes: vec![7; bytes],
                deadline,
                early: false,
            })
            .is_some()
    }

    /// Runs until this many replies have arrived.
    fn until(&mut self, replies: u64) {
        while self.replies < replies {
            self.step();
        }
    }

    /// Sends the datagrams that are due, and advances to the next event.
    fn step(&mut self) {
        let mut out = Vec::new();
        while self.client.poll_transmit(self.now, &mut out) {
            self.up.send(self.now, &out, &mut self.rng);
        }
        while self.server.poll_transmit(self.now, &mut out) {
            self.down.send(self.now, &out, &mut self.rng);
        }
        let times = [
            self.up.next(),
            self.down.next(),
            self.client.poll_timeout(),
            self.server.poll_timeout(),
        ];
        let next = times
            .into_iter()
            .flatten()
            .min()
            .expect("something happens");
        self.now = next.max(self.now + Duration::from_micros(1));
        while let Some(datagram) = self.up.arrived(self.now) {
            hand_in(&mut self.server, self.now, &datagram);
        }
        while let Some(datagram) = self.down.arrived(self.now) {
            hand_in(&mut self.client, self.now, &datagram);
        }
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
        while let Some(event) = self.server.poll_event() {
            if let Event::Request { number, .. } = event {
                self.server.reply(number, STORED.to_vec());
            }
        }
        while let Some(event) = self.client.poll_event() {
            if let Event::Reply { .. } = event {
                self.replies += 1;
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.up.bytes + self.down.bytes
    }
}

fn hand_in(link: &mut Link, now: Time, datagram: &[u8]) {
    if let Ok(Packet::Link(packet)) = Packet::parse(datagram) {
        // A packet that is not accepted counts as lost.
        let _ = link.handle_packet(now, &packet, datagram, &mut Vec::new());
    }
}

/// Returns a ratio, for people.
fn ratio(a: u64, b: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
    let ratio = a as f64 / b as f64;
    ratio
}

/// Measures messages one after another: the time relative to the oracle's, and bytes a message.
fn one_after_another(loss: f64) -> (f64, f64) {
    const MESSAGES: u64 = 100;
    let (mut micros, mut bytes) = (0, 0);
    for seed in 0..SEEDS {
        let mut run = Run::new(seed, 1_000_000_000, RTT, loss);
        let begun = run.now;
        for message in 0..MESSAGES {
            run.ask(SEND_BYTES);
            run.until(message + 2);
        }
        micros += run.now.0 - begun.0;
        bytes += run.bytes();
    }
    let oracle = RTT.as_secs_f64() * 1e6 / (1.0 - loss).powi(2);
    let mean = ratio(micros, SEEDS * MESSAGES);
    (mean / oracle, ratio(bytes, SEEDS * MESSAGES))
}

/// Measures a hundred messages at once: round trips for all, and bytes a message.
fn at_once(loss: f64) -> (f64, f64) {
    const MESSAGES: u64 = 100;
    let (mut micros, mut bytes) = (0, 0);
    for seed in 0..SEEDS {
        let mut run = Run::new(seed, 1_000_000_000, RTT, loss);
        let begun = run.now;
        let mut asked = 0;
        while run.replies < MESSAGES + 1 {
            while asked < MESSAGES && run.ask(SEND_BYTES) {
                asked += 1;
            }
            run.step();
        }
        micros += run.now.0 - begun.0;
        bytes += run.bytes();
    }
    (
        ratio(micros, SEEDS) / (RTT.as_secs_f64() * 1e6),
        ratio(bytes, SEEDS * MESSAGES),
    )
}

/// Measures long messages in a queue: the utilisation of the link, and bytes sent for each byte of
/// the messages.
fn bulk(rate: u64, rtt: Duration, loss: f64, messages: u64) -> (f64, f64) {
    const BYTES: usize = 60_000;
    let mut run = Run::new(1, rate, rtt, loss);
    let begun = run.now;
    let mut asked = 0;
    while run.replies < messages + 1 {
        while asked < messages && run.ask(BYTES) {
            asked += 1;
        }
        run.step();
    }
    let payload = BYTES as u64 * messages;
    let possible = (run.now.0 - begun.0) * rate / 8 / 1_000_000;
    (ratio(payload, possible), ratio(run.up.bytes, payload))
}

fn main() {
    println!("One message after another, RTT 60 ms, 100 messages, {SEEDS} runs:");
    println!("  loss each way   time against the oracle   bytes a message");
    let mut points = vec![];
    for percent in [0, 5, 10, 20, 30, 40, 50] {
        let loss = f64::from(percent) / 100.0;
        let (time, bytes) = one_after_another(loss);
        println!("  {percent:>12} %   {time:>23.2}   {bytes:>15.0}");
        points.push((loss, time));
    }
    println!("\n100 messages at once, RTT 60 ms, {SEEDS} runs:");
    println!("  loss each way   round trips   bytes a message");
    for percent in [0, 10, 30, 50] {
        let (trips, bytes) = at_once(f64::from(percent) / 100.0);
        println!("  {percent:>12} %   {trips:>11.1}   {bytes:>15.0}");
    }
    println!("\nLong messages of 60,000 bytes:");
    println!("  link, RTT, loss                  used by them   sent for each byte");
    for (name, rate, rtt, loss, messages) in [
        ("9,600 bit/s, 1 s, none", 9_600, 1000, 0.0, 4),
        ("1 Mbit/s, 100 ms, none", 1_000_000, 100, 0.0, 40),
        ("1 Mbit/s, 100 ms, 10 %", 1_000_000, 100, 0.1, 40),
        ("1 Mbit/s, 100 ms, 30 %", 1_000_000, 100, 0.3, 40),
    ] {
        let (used, sent) = bulk(rate, Duration::from_millis(rtt), loss, messages);
        println!("  {name:<32} {:>10.1} %   {sent:>18.2}", used * 100.0);
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--svg");
    if let Some(path) = arguments.nth(1) {
        match std::fs::write(&path, picture(&points)) {
            Ok(()) => println!("\ndrawn in {path}"),
            Err(error) => eprintln!("\ncannot write {path}: {error}"),
        }
    }
}

/// Draws the time a message against the loss, beside the oracle's.
fn picture(points: &[(f64, f64)]) -> String {
    let (width, height, left, bottom) = (640.0, 360.0, 60.0, 310.0);
    let x = |loss: f64| left + loss / 0.5 * 540.0;
    let oracle = |loss: f64| RTT.as_secs_f64() * 1e3 / (1.0 - loss).powi(2);
    let y = |ms: f64| bottom - ms / 260.0 * 270.0;
    let line = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let points = points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(of(point))));
        points.collect::<Vec<_>>().join(" ")
    };
    let ours = line(&|(loss, time)| oracle(*loss) * time);
    let theirs = line(&|(loss, _)| oracle(*loss));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for ms in [0.0, 60.0, 120.0, 180.0, 240.0] {
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
    let _ = writeln!(
        svg,
        "<polyline points=\"{theirs}\" fill=\"none\" stroke=\"#999\" stroke-width=\"2\" stroke-dasharray=\"6 4\"/>\n\
         <polyline points=\"{ours}\" fill=\"none\" stroke=\"#0a6\" stroke-width=\"3\"/>\n\
         <text x=\"80\" y=\"32\" fill=\"#0a6\">Merpati: a message, sent and acknowledged</text>\n\
         <text x=\"80\" y=\"52\" fill=\"#777\">an oracle that repeats one round trip after each failure</text>\n\
         <text x=\"330\" y=\"352\" text-anchor=\"middle\">datagrams lost each way; RTT 60 ms</text>\n</svg>"
    );
    svg
}
