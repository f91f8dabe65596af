//! Runs any number of seeds on all cores. Runs a failing seed again with its trace.

use std::{
    cell::RefCell,
    fs,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{
        Mutex, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    trace::Trace,
    world::{self, Outcome},
};

/// A campaign ends after this many failing seeds.
const FAILURES_MAX: usize = 10;
/// A campaign reports its progress this often.
const REPORT_EVERY: Duration = Duration::from_secs(10);

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Records panics: a panicking task is a violation, wherever the panic ends.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() == Some("simulation") {
                let what = info.to_string();
                PANICS.with_borrow_mut(|panics| panics.push(what));
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs one seed on this thread. Returns its outcome, and its trace if that is kept.
pub(super) fn run(seed: u64, is_traced: bool) -> (Outcome, String) {
    watch_for_panics();
    PANICS.with_borrow_mut(Vec::clear);
    crate::crypto::audit::begin();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let trace = runtime.block_on(async { Trace::start(is_traced) });
    let told = panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(world::run(seed, trace.clone()))
    }));
    drop(runtime);
    let has_panicked = told.is_err();
    let mut outcome = told.unwrap_or_default();
    outcome.wrong.extend(PANICS.take());
    if has_panicked && outcome.wrong.is_empty() {
        outcome.wrong.push("the world has panicked".into());
    }
    (outcome, trace.text())
}

/// Runs `work` on a thread whose panics are violations.
pub(super) fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::Builder::new().name("simulation".into());
    thread.spawn(work).unwrap().join().unwrap()
}

fn write_trace(seed: u64, trace: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/simulation");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("seed-{seed}.txt"));
    fs::write(&path, trace).unwrap();
    path
}

/// The results of a campaign so far.
#[derive(Default)]
struct Tally {
    seeds: AtomicU64,
    simulated_ms: AtomicU64,
    messages: AtomicU64,
    datagrams: AtomicU64,
    deaths: AtomicU64,
    failures: Mutex<Vec<(u64, Vec<String>)>>,
    is_over: AtomicBool,
}

impl Tally {
    fn add(&self, seed: u64, outcome: Outcome) {
        let add = |to: &AtomicU64, more: u64| to.fetch_add(more, Ordering::Relaxed);
        add(&self.seeds, 1);
        let simulated = u64::try_from(outcome.simulated.as_millis()).unwrap();
        add(&self.simulated_ms, simulated);
        add(&self.messages, outcome.messages as u64);
        add(&self.datagrams, outcome.datagrams);
        add(&self.deaths, outcome.deaths);
        if !outcome.wrong.is_empty() {
            eprintln!("seed {seed} failed: {}", outcome.wrong.join("; "));
            self.failures.lock().unwrap().push((seed, outcome.wrong));
        }
    }

    fn has_enough(&self) -> bool {
        self.failures.lock().unwrap().len() >= FAILURES_MAX
    }

    fn report(&self, started: Instant) -> String {
        let of = |what: &AtomicU64| what.load(Ordering::Relaxed);
        let seeds = of(&self.seeds);
        let seconds = started.elapsed().as_secs_f64();
        format!(
            "{seeds} seeds in {seconds:.0} s ({} a second), {} simulated hours, {} messages, {} datagrams, \
             {} processes died, {} seeds failed",
            seeds * 1000 / u64::try_from(started.elapsed().as_millis()).unwrap().max(1),
            of(&self.simulated_ms) / 3_600_000,
            of(&self.messages),
            of(&self.datagrams),
            of(&self.deaths),
            self.failures.lock().unwrap().len(),
        )
    }
}

/// Runs the seeds `first..last` on all cores.
fn run_all(first: u64, last: u64) -> Vec<(u64, Vec<String>)> {
    let started = Instant::now();
    let tally = Tally::default();
    let next = AtomicU64::new(first);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                let thread = thread::Builder::new().name("simulation".into());
                let work = || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= last || tally.has_enough() {
                            return;
                        }
                        tally.add(seed, run(seed, false).0);
                    }
                };
                thread.spawn_scoped(scope, work).unwrap()
            })
            .collect();
        scope.spawn(|| {
            let mut said = Instant::now();
            while !tally.is_over.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(100));
                if said.elapsed() >= REPORT_EVERY {
                    eprintln!("{}", tally.report(started));
                    said = Instant::now();
                }
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        tally.is_over.store(true, Ordering::Relaxed);
    });
    eprintln!("{}", tally.report(started));
    tally.failures.into_inner().unwrap()
}

pub(super) fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// Returns the report about a failing seed.
fn explain(seed: u64, wrong: &[String]) -> String {
    let (again, trace) = on_thread(move || run(seed, true));
    let path = write_trace(seed, &trace);
    let is_same = if again.wrong == wrong {
        ""
    } else {
        " (NOT the same when run again)"
    };
    format!(
        "seed {seed}{is_same}:\n  {}\n  MERPATI_SEED={seed} cargo test --lib simulation::campaign::nothing -- --nocapture\n  trace: {}\n",
        wrong.join("\n  "),
        path.display()
    )
}

/// No message is lost or doubled, whatever goes wrong. Runs 300 seeds; more with `MERPATI_SEEDS`,
/// from `MERPATI_FIRST` on; one with `MERPATI_SEED`.
#[test]
fn nothing_is_lost_or_doubled_whatever_goes_wrong() {
    if let Some(seed) = variable("MERPATI_SEED") {
        let (outcome, trace) = on_thread(move || run(seed, true));
        let path = write_trace(seed, &trace);
        eprintln!("trace: {}", path.display());
        eprintln!("{outcome:#?}");
        assert_eq!(outcome.wrong, Vec::<String>::new(), "seed {seed}");
        return;
    }
    let first = variable("MERPATI_FIRST").unwrap_or(0);
    let failures = run_all(first, first + variable("MERPATI_SEEDS").unwrap_or(300));
    let said: Vec<String> = failures
        .iter()
        .map(|(seed, wrong)| explain(*seed, wrong))
        .collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}
