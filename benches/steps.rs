//! The time of each step on a message's way: `cargo bench --bench steps`, and `-- seal` for some of
//! them. BENCHMARKING.md explains the figures.

#![allow(missing_docs, reason = "a macro makes a function")]

use std::{hint::black_box, net::SocketAddr, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use merpati::{
    crypto::{Initiator, Responder, SealKey, SecretKey},
    endpoint::{AccountId, Config, EarlyData, Endpoint, Event, LinkId},
    link::Time,
    store::{Batch, Embedded, Key, Log, Store as _},
    wire::{
        Answer, Body, Command, ConnectionId, Frame, Frames, Operation, OperationNumber, Packet,
        PacketNumber, Protection, Request, RequestId, Sent, SessionRef, command, link_header,
    },
};
use rand::{SeedableRng as _, rngs::ChaCha20Rng};

const TEXT: &[u8] = b"twenty bytes of text";

fn send() -> Request<'static> {
    let command = Command::Send(command::Send {
        operation: Operation::new(1000, [0; 2]),
        session: SessionRef::Bound,
        to: "bobby".parse().expect("it is a name"),
        message: Body(TEXT),
    });
    command.into()
}

/// Measures parsing and emitting.
fn wire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire");
    let command = send().to_bytes();
    group.bench_function("parse a command", |bench| {
        bench.iter(|| Request::parse(black_box(&command)).map(|request| request.command.name()));
    });
    group.bench_function("emit a command", |bench| {
        let request = send();
        bench.iter(|| black_box(&request).to_bytes());
    });
    let frame = Frame::Request {
        number: RequestId(1000),
        command: &command,
    };
    let (mut frames, mut packet) = (Vec::new(), Vec::new());
    frame.emit_last(&mut frames);
    link_header(
        Protection::Sealed,
        Some(ConnectionId(7)),
        PacketNumber(1000),
        Some(PacketNumber(990)),
        &mut packet,
    );
    packet.extend_from_slice(&frames);
    packet.extend_from_slice(&[0; 16]);
    group.bench_function("parse a packet and its frames", |bench| {
        bench.iter(|| {
            let parsed = Packet::parse(black_box(&packet)).is_ok();
            let frames = Frames::checked(black_box(&frames)).map(Iterator::count);
            (parsed, frames)
        });
    });
    group.finish();
}

/// Measures cryptography.
fn crypto(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crypto");
    let key = SealKey::new([7; 32]);
    for len in [64, 1200] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("seal {len} bytes"), |bench| {
            let mut packet = Vec::with_capacity(len + 32);
            bench.iter(|| {
                packet.clear();
                packet.resize(9 + len, 7);
                key.seal(1000, 9, &mut packet);
                packet.len()
            });
        });
        let mut sealed = vec![7; 9 + len];
        key.seal(1000, 9, &mut sealed);
        let (header, body) = sealed.split_at(9);
        group.bench_function(format!("open {len} bytes"), |bench| {
            bench.iter_batched_ref(
                || body.to_vec(),
                |body| key.open(1000, header, body).map(<[u8]>::len),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("handshake");
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (device, realm) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
    let start = |rng: &mut ChaCha20Rng| {
        Initiator::start(rng, &device, &realm.public(), b"early").expect("it starts")
    };
    group.bench_function("initiator begins", |bench| {
        bench.iter(|| start(&mut rng).1.len());
    });
    let (_, one) = start(&mut rng);
    group.bench_function("responder", |bench| {
        bench.iter(|| {
            let (responder, _) = Responder::read(&mut rng, &realm, &one).expect("it is read");
            responder
                .finish(b"answer")
                .map(|(_, message)| message.len())
        });
    });
    group.finish();
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 6377))
}

fn endpoint(accept: Option<Protection>, key: u8) -> Endpoint {
    let config = Config {
        accept,
        ..Config::default()
    };
    Endpoint::new(config, &SecretKey::from_bytes([key; 32]).into(), [key; 32])
}

/// A client and a realm that answers at once, in one process and without a network.
struct Talk {
    now: Time,
    client: Endpoint,
    realm: Endpoint,
    link: LinkId,
    out: Vec<u8>,
}

impl Talk {
    fn new() -> Self {
        let mut client = endpoint(None, 1);
        let key = SecretKey::from_bytes([2; 32]).public();
        let rtt = Some(Duration::from_millis(60));
        let link = client.connect(Time(0), at(2), key, rtt);
        let realm = endpoint(Some(Protection::Sealed), 2);
        Self {
            now: Time(0),
            client,
            realm,
            link,
            out: Vec::new(),
        }
    }

    /// Sends `count` requests at once, and runs until all are answered.
    fn exchange(&mut self, command: &[u8], count: usize) {
        let deadline = self.now + Duration::from_secs(30);
        for _ in 0..count {
            let (now, command) = (self.now, command.to_vec());
            let asked =
                self.client
                    .request(now, self.link, command, deadline, EarlyData::Forbidden);
            assert!(asked.is_some());
        }
        let mut answered = 0;
        while answered < count {
            self.now = self.now + Duration::from_millis(30);
            while self.client.poll_transmit(self.now, &mut self.out).is_some() {
                self.realm.handle_datagram(self.now, at(1), &self.out);
            }
            while let Some(event) = self.realm.poll_event() {
                match event {
                    Event::Incoming { link, .. } => {
                        let highest = OperationNumber(0);
                        self.realm
                            .welcome(self.now, link, Some(AccountId::new(1)), highest);
                    }
                    Event::Request { link, number, .. } => {
                        let stored = Answer::Sent(Sent::Stored).to_bytes();
                        self.realm.reply(self.now, link, number, stored);
                    }
                    _ => {}
                }
            }
            while self.realm.poll_transmit(self.now, &mut self.out).is_some() {
                self.client.handle_datagram(self.now, at(2), &self.out);
            }
            while let Some(event) = self.client.poll_event() {
                answered += usize::from(matches!(event, Event::Reply { .. }));
            }
        }
    }
}

/// Measures both sides of a link, without a network.
fn link(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("link, both sides");
    let command = send().to_bytes();
    for count in [1, 64] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} at once"), |bench| {
            let mut talk = Talk::new();
            for _ in 0..200 {
                talk.exchange(&command, count);
            }
            bench.iter(|| talk.exchange(&command, count));
        });
    }
    group.finish();
}

/// Measures messages that are written together, each with its idempotency record, and synced.
fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    group.sample_size(20);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("there is a runtime");
    let directory = tempfile::tempdir().expect("there is a directory");
    let store = Embedded::open(directory.path()).expect("it opens");
    let batch = |n: usize| {
        let mut batch = Batch::new();
        batch
            .put(
                Key(format!("o/0123456789abcde{}", n % 256).into_bytes().into()),
                vec![7; 20],
            )
            .append(Log(b"p/bobby"[..].into()), vec![7; 40]);
        batch
    };
    for size in [1, 8, 64, 512] {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(format!("commit {size} together"), |bench| {
            bench.to_async(&runtime).iter(async || {
                let commits: Vec<_> = (0..size)
                    .map(|n| Box::pin(store.commit(batch(n))))
                    .collect();
                join_all(commits).await;
            });
        });
    }
    group.finish();
}

/// Waits for all futures.
async fn join_all<F: Future + Unpin>(mut all: Vec<F>) {
    std::future::poll_fn(|context| {
        all.retain_mut(|one| std::pin::Pin::new(one).poll(context).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

criterion_group!(steps, wire, crypto, link, store);
criterion_main!(steps);
