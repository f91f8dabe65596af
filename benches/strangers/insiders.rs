//! The effect of a greedy party on honest users. Honest users send one another messages at a steady
//! rate. A greedy party takes as much as it can get in some turns and does nothing in the others.
//! The turns alternate, so that other work of the machine affects both.

use std::{
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use merpati::{crypto::SecretKey, wire::Answer};

use crate::{
    greedy::Party,
    logins::{Samples, runtime},
    mib, row,
    support::{
        Home,
        device::{Device, Target, Told, new_key, user},
    },
};

/// Users who send one another messages.
const HONEST: usize = 4;
/// Messages of each user, a second.
const A_SECOND: u32 = 20;
/// The time after each turn that counts for neither side.
const SETTLING: Duration = Duration::from_millis(300);
/// The longest time for a greedy party to prepare itself.
const PREPARATION: Duration = Duration::from_mins(3);

/// The length of a measurement.
#[derive(Clone, Copy)]
pub struct Length {
    /// The number of turns of each kind: of the greedy party, and idle.
    pub turns: u32,
    /// The length of each turn.
    pub turn: Duration,
    /// The time in which the party may gather what it needs.
    pub gather: Duration,
}

impl Length {
    pub const FULL: Self = Self {
        turns: 10,
        turn: Duration::from_secs(2),
        gather: Duration::from_secs(20),
    };
    pub const QUICK: Self = Self {
        turns: 1,
        turn: Duration::from_millis(1300),
        gather: Duration::from_secs(1),
    };
}

/// The state that the measurement and a greedy party share.
pub struct Control {
    pub target: Target,
    /// The key that the party proves, if the realm is configured with one.
    pub key: SecretKey,
    pub length: Length,
    /// The number of sides that are prepared, of two: the honest users, and the party.
    ready: AtomicU64,
    is_on: AtomicBool,
    is_over: AtomicBool,
    done: AtomicU64,
    refused: AtomicU64,
}

impl Control {
    /// Records that one side is prepared.
    pub fn ready(&self) {
        self.ready.fetch_add(1, Ordering::Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Counts an answer to the party.
    pub fn count(&self, is_refusal: bool) {
        let count = if is_refusal {
            &self.refused
        } else {
            &self.done
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A message of an honest user: when it was due, and how long it took until it was stored, or why
/// it was not stored.
type Sent = (Instant, Result<Duration, String>);

/// The times of the turns of the party, and of the idle ones.
#[derive(Default)]
struct Turns {
    greedy: Vec<(Instant, Instant)>,
    idle: Vec<(Instant, Instant)>,
}

/// Measures honest users beside a party. True if all their messages were stored.
pub fn measure(party: &Party, length: Length) -> bool {
    let home = Home::new();
    let key = new_key();
    let realm = home.realm_as(&(party.config)(&key));
    let control = Control {
        target: Target::of(&realm),
        key,
        length,
        ready: AtomicU64::new(0),
        is_on: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    };
    let sent = Mutex::new(Vec::new());
    let (mut turns, mut before, mut most) = (Turns::default(), 0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _over = Over(&control);
            runtime().block_on(honest(&control, &sent));
        });
        scope.spawn(|| {
            let _over = Over(&control);
            runtime().block_on((party.run)(&control));
        });
        let begun = Instant::now();
        while control.ready.load(Ordering::Relaxed) < 2 && !control.is_over() {
            assert!(begun.elapsed() < PREPARATION, "{} is not ready", party.name);
            thread::sleep(Duration::from_millis(10));
        }
        before = realm.memory();
        for _ in 0..length.turns {
            turns.idle.push(turn(&control, false));
            turns.greedy.push(turn(&control, true));
            most = realm.memory().max(most);
        }
        control.is_over.store(true, Ordering::Relaxed);
    });
    tell(
        party,
        &control,
        &turns,
        &sent.into_inner().unwrap(),
        mib(most) - mib(before),
    )
}

/// Ends the measurement when one of the threads ends, also by a panic.
struct Over<'a>(&'a Control);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

fn turn(control: &Control, is_on: bool) -> (Instant, Instant) {
    control.is_on.store(is_on, Ordering::Relaxed);
    thread::sleep(SETTLING);
    let from = Instant::now();
    thread::sleep(control.length.turn.saturating_sub(SETTLING));
    (from, Instant::now())
}

/// Prints the row of a party. True if no message of the honest users was lost.
fn tell(party: &Party, control: &Control, turns: &Turns, sent: &[Sent], grown: f64) -> bool {
    let of = |turns: &[(Instant, Instant)]| {
        let is_in = |at: &Instant| turns.iter().any(|(from, to)| from <= at && at < to);
        let all = sent.iter().filter(|(due, _)| is_in(due));
        let stored = all.filter_map(|(_, stored)| stored.as_ref().ok());
        stored.copied().collect::<Samples>()
    };
    let (idle, under) = (of(&turns.idle), of(&turns.greedy));
    let failed: Vec<&String> = sent
        .iter()
        .filter_map(|(_, stored)| stored.as_ref().err())
        .collect();
    let (middle, worst) = (
        |samples: &Samples| samples.quantile(0.5),
        |samples: &Samples| samples.quantile(0.99),
    );
    let on = (control.length.turn * control.length.turns).as_secs_f64();
    let rate = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64 / on;
    row(
        party.what,
        &format!(
            "a send's p50 {:.1?} → {:.1?}; p99 {:.1?} → {:.1?}, {:.2} ×; {} sends, {} failed ({:.0} done and {:.0} refused a second; {grown:+.0} MiB)",
            middle(&idle),
            middle(&under),
            worst(&idle),
            worst(&under),
            worst(&under).as_secs_f64() / worst(&idle).as_secs_f64(),
            sent.len(),
            failed.len(),
            rate(&control.done),
            rate(&control.refused),
        ),
        "≤ 2 ×; none",
    );
    for why in failed.iter().take(3) {
        eprintln!("{}: a message was not stored: {why}", party.name);
    }
    failed.is_empty()
}

/// Runs users who send one another messages. Each message has its time, and is not delayed by an
/// earlier one that takes long.
async fn honest(control: &Control, sent: &Mutex<Vec<Sent>>) {
    let mut devices = Vec::new();
    for n in 0..HONEST {
        let mut device = Device::begin(&new_key(), Ipv4Addr::LOCALHOST, control.target).await;
        device.register(&format!("honest{n}")).await;
        devices.push(device);
    }
    control.ready();
    let begin = Instant::now();
    let all = devices.iter_mut().enumerate().map(|(n, device)| {
        let gap = Duration::from_secs(1) / A_SECOND;
        // The users do not all send at the same moment.
        let first = begin + gap * u32::try_from(n).unwrap() / u32::try_from(HONEST).unwrap();
        let to = user(&format!("honest{}", (n + 1) % HONEST));
        write(control, device, (first, gap), to, sent)
    });
    crate::logins::join_all(all.map(Box::pin).collect()).await;
}

async fn write(
    control: &Control,
    device: &mut Device,
    (mut due, gap): (Instant, Duration),
    to: merpati::wire::Username,
    sent: &Mutex<Vec<Sent>>,
) {
    let mut waiting: Vec<(merpati::wire::RequestId, Instant)> = Vec::new();
    let note = |due: Instant, stored| sent.lock().unwrap().push((due, stored));
    while !control.is_over() || !waiting.is_empty() {
        if due <= Instant::now() && !control.is_over() {
            let message = device.send(to, b"twenty bytes of text");
            match device.ask(message) {
                Some(number) => waiting.push((number, due)),
                None => note(due, Err("too many wait on the link".into())),
            }
            due += gap;
        }
        let until = if control.is_over() {
            Instant::now() + gap
        } else {
            due
        };
        device.step(until).await;
        while let Some(told) = device.told.pop_front() {
            let (number, stored) = match told {
                Told::Answer { number, bytes } => match Answer::parse(&bytes) {
                    Ok(Answer::Sent(_)) => (number, Ok(())),
                    other => (number, Err(format!("{other:?}"))),
                },
                Told::Unanswered { number } => (number, Err("no answer".into())),
                Told::Ended => {
                    for (_, due) in waiting.drain(..) {
                        note(due, Err("its link has ended".into()));
                    }
                    device.begin_again();
                    continue;
                }
            };
            if let Some(at) = waiting.iter().position(|(asked, _)| *asked == number) {
                let (_, due) = waiting.swap_remove(at);
                note(due, stored.map(|()| due.elapsed()));
            }
        }
    }
}
