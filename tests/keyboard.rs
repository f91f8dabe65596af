//! From the keyboard to the screen, with real processes. Four people type in one profile over a
//! link that loses 30 %, next to a watch of the sender and one of the recipient. Clients and realm
//! are killed at random, and the sender's profile is copied and restored twice. Each typed message
//! is shown exactly once, in the order typed, and every exit code is true (EXACT-2, EXACT-7,
//! EXACT-8, EXACT-9, EXACT-10, EXACT-11, READ-3, WATCH-3).
//!
//! `MERPATI_SENDS` sets the number of typed messages, `MERPATI_SEED` repeats the decisions of a
//! run.

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use support::{
    Home, Realm, copy_directory,
    path::Node,
    relay::Relay,
    typing::{Shell, kill, until},
};

const TYPISTS: usize = 4;
const SENDS_DEFAULT: usize = 120;
/// Parts of a run, between which the profile is copied or restored.
const PARTS: usize = 5;
/// The share of datagrams that are lost in each direction.
const LOST: f64 = 0.3;

/// Random numbers that a seed repeats (splitmix64).
#[derive(Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// The outcome of a message as its sender saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The command ended with this code.
    Code(i32),
    /// The process was killed before it printed anything.
    Killed,
}

#[derive(Clone, Debug)]
struct Typed {
    text: String,
    part: usize,
    seen: Seen,
    /// The message was sent with `--no-keep`.
    no_keep: bool,
    /// The message was typed with a token, so it may be typed again.
    has_token: bool,
    /// The process was killed, and the message was typed again with its token.
    is_retried: bool,
}

impl Typed {
    /// Returns how often the message may be shown, at least and at most.
    fn bounds(&self) -> (usize, usize) {
        // These parts end with a restore of the profile. The fate of a message that was neither
        // answered nor in the copy is unknown.
        let is_lost = self.part % 2 == 1;
        match self.seen {
            Seen::Code(0) => (1, 1),
            Seen::Code(1 | 3) => (0, 0),
            Seen::Code(4) if self.no_keep || is_lost => (0, 1),
            Seen::Code(4) => (1, 1),
            Seen::Killed if self.is_retried => (1, 1),
            // The kill may have come before the message was written down.
            Seen::Killed => (0, 1),
            Seen::Code(_) => panic!("no command ends so: {self:?}"),
        }
    }
}

/// One of the people at the keyboard.
struct Typist<'a> {
    home: &'a Home,
    number: usize,
    part: usize,
    rng: Rng,
    typed: Vec<Typed>,
}

impl Typist<'_> {
    fn deadline(&mut self) -> &'static str {
        ["300ms", "2s", "20s"][usize::try_from(self.rng.below(3)).unwrap()]
    }

    fn note(&mut self, text: String, seen: Seen) {
        self.typed.push(Typed {
            text,
            part: self.part,
            seen,
            no_keep: false,
            has_token: false,
            is_retried: false,
        });
    }

    fn text(&self, n: usize) -> String {
        format!("{} {} {n}", self.number, self.part)
    }

    /// Sends the message with a process of its own.
    fn once(&mut self, n: usize) {
        let text = self.text(n);
        let no_keep = self.rng.percent(10);
        let has_token = !no_keep && self.rng.percent(50);
        let mut arguments = vec!["--deadline", self.deadline(), "send"];
        if no_keep {
            arguments.push("--no-keep");
        }
        if has_token {
            arguments.extend(["--id", &text]);
        }
        arguments.extend(["bob", &text]);
        let mut process = self
            .home
            .command("ann", &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if self.rng.percent(15) {
            thread::sleep(self.rng.millis(300));
            // The process may have ended before.
            process.kill().unwrap();
        }
        let code = process.wait().unwrap().code();
        self.note(text, code.map_or(Seen::Killed, Seen::Code));
        let typed = self.typed.last_mut().unwrap();
        (typed.no_keep, typed.has_token) = (no_keep, has_token);
    }

    /// Types some messages into a shell. Returns how many were typed.
    fn in_shell(&mut self, first: usize, count: usize) -> usize {
        let options = ["--deadline", self.deadline()];
        let mut shell = Shell::start(self.home, "ann", &options);
        for n in first..first + count {
            let text = self.text(n);
            assert!(shell.type_line(&format!("send bob \"{text}\"")));
            if self.rng.percent(5) {
                thread::sleep(self.rng.millis(300));
                shell.process.kill().unwrap();
            }
            match shell.answer() {
                Some(answer) if answer["ok"] == true => self.note(text, Seen::Code(0)),
                // The shell ends with the line that fails.
                _ => {
                    let code = shell.process.wait().unwrap().code();
                    self.note(text, code.map_or(Seen::Killed, Seen::Code));
                    return n + 1 - first;
                }
            }
        }
        count
    }

    fn type_all(mut self, count: usize) -> Vec<Typed> {
        let mut n = 0;
        while n < count {
            if self.rng.percent(50) {
                self.once(n);
                n += 1;
            } else {
                let lines = usize::try_from(1 + self.rng.below(6)).unwrap();
                n += self.in_shell(n, lines.min(count - n));
            }
        }
        self.typed
    }
}

/// The messages that a watch has shown.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<String>>>);

impl Screen {
    fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn watch(home: &Home, profile: &str, screen: &Screen) -> Child {
    let mut process = home
        .command(profile, &["watch", "--keepalive", "1s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(process.stdout.take().unwrap());
    let screen = screen.clone();
    thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            // A line that a kill has cut off was not shown.
            let Ok(entry) = serde_json::from_str::<serde_json::Value>(&line) else {
                return;
            };
            let text = entry["text"].as_str().unwrap_or_else(|| panic!("{line}"));
            screen.0.lock().unwrap().push(text.into());
        }
    });
    process
}

/// The realm, relay and profiles of a run.
struct Scene {
    realm: Realm,
    relay: Relay,
    home: Home,
    rng: Rng,
}

impl Scene {
    fn new(rng: Rng) -> Self {
        let (realm, home) = (Realm::start(), Home::new());
        let relay = Relay::to(realm.address);
        for name in ["ann", "bob"] {
            home.register(name, &realm.connect_through(relay.address));
        }
        Self {
            realm,
            relay,
            home,
            rng,
        }
    }

    fn lose(&mut self) {
        self.relay.set_path(self.rng.next(), &[Node::Loss(LOST)]);
    }

    /// Lets all people type, while the realm and the sender's watch are killed now and then.
    fn type_part(&mut self, part: usize, sends: usize) -> Vec<Typed> {
        self.lose();
        let screen = Screen::default();
        let mut own = watch(&self.home, "ann", &screen);
        let Self {
            realm, home, rng, ..
        } = self;
        let is_over = AtomicBool::new(false);
        let typed = thread::scope(|scope| {
            let home = &*home;
            let typists: Vec<_> = (0..TYPISTS)
                .map(|number| {
                    let typist = Typist {
                        home,
                        number,
                        part,
                        rng: Rng(rng.next()),
                        typed: Vec::new(),
                    };
                    let count = sends.div_ceil(TYPISTS);
                    scope.spawn(move || typist.type_all(count))
                })
                .collect();
            let mut rng = Rng(rng.next());
            let (own, is_over) = (&mut own, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(500) + rng.millis(1500));
                    if rng.percent(60) {
                        realm.kill();
                        thread::sleep(rng.millis(500));
                        realm.start_again();
                    } else {
                        kill(std::mem::replace(own, watch(home, "ann", &screen)));
                    }
                }
            });
            let join = |typist: thread::ScopedJoinHandle<'_, Vec<Typed>>| typist.join().unwrap();
            let typed = typists.into_iter().flat_map(join).collect();
            is_over.store(true, Ordering::Relaxed);
            typed
        });
        kill(own);
        typed
    }

    /// Types the killed messages again with their tokens, and waits for everything that is kept.
    fn finish(&self, typed: &mut [Typed]) {
        for typed in typed {
            if typed.seen == Seen::Killed && typed.has_token {
                let arguments = ["send", "--id", &typed.text, "bob", &typed.text];
                self.home.run("ann", &arguments).ok();
                typed.is_retried = true;
            }
        }
        self.home.drain("ann");
    }

    fn copy(&self) {
        copy_directory(&self.home.profile("ann"), &self.home.profile("backup"));
    }

    fn restore(&self) {
        let (ann, backup) = (self.home.profile("ann"), self.home.profile("backup"));
        fs::remove_dir_all(&ann).unwrap();
        copy_directory(&backup, &ann);
        fs::remove_dir_all(&backup).unwrap();
    }
}

/// Checks what was typed against what was shown.
fn judge(typed: &[Typed], shown: &[String]) {
    let mut counts = BTreeMap::<&str, usize>::new();
    for text in shown {
        *counts.entry(text).or_default() += 1;
    }
    for one in typed {
        let (least, most) = one.bounds();
        let count = counts.remove(one.text.as_str()).unwrap_or(0);
        assert!(
            (least..=most).contains(&count),
            "shown {count} times: {one:?}"
        );
    }
    assert!(counts.is_empty(), "nobody has typed {counts:?}");
    // A message that was typed again with its token may come later.
    for number in 0..TYPISTS {
        let own = format!("{number} ");
        let of_typist = typed.iter().filter(|one| one.text.starts_with(&own));
        let wanted: Vec<_> = of_typist
            .filter(|one| !one.is_retried && shown.contains(&one.text))
            .map(|one| &one.text)
            .collect();
        let order: Vec<_> = shown.iter().filter(|text| wanted.contains(text)).collect();
        assert_eq!(order, wanted);
    }
}

fn number_of(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap())
}

/// EXACT-7: typed messages are shown exactly once, in order, with everything that this relies on.
#[test]
fn dedup_typed_messages_are_shown_once_in_order() {
    let sends = number_of("MERPATI_SENDS").map_or(SENDS_DEFAULT, |n| usize::try_from(n).unwrap());
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed = number_of("MERPATI_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("MERPATI_SEED={seed} MERPATI_SENDS={sends}");
    let mut scene = Scene::new(Rng(seed));
    scene.lose();
    let screen = Screen::default();
    let of_bob = watch(&scene.home, "bob", &screen);
    let mut all = Vec::new();
    for part in 0..PARTS {
        let mut typed = scene.type_part(part, sends.div_ceil(PARTS));
        if part % 2 == 0 {
            scene.finish(&mut typed);
            scene.copy();
        } else {
            scene.restore();
        }
        all.append(&mut typed);
    }
    scene.relay.set_path(0, &[]);
    scene.home.drain("ann");
    // The mailbox is read with another device, because a watch does not show what another process
    // of its profile has shown.
    let auth = ["auth", "bob", "--password-file", "password"];
    let server = ["--server", &scene.realm.connect];
    scene
        .home
        .run("reader", &[&server[..], &auth].concat())
        .ok();
    let mailbox = scene.home.texts("reader");
    until("the watch shows all", || {
        screen.texts().len() >= mailbox.len()
    });
    let shown = screen.texts();
    kill(of_bob);
    for one in &all {
        println!("{one:?}");
    }
    assert_eq!(shown, mailbox);
    judge(&all, &shown);
    let seen = |seen| all.iter().filter(|one| one.seen == seen).count();
    println!(
        "{} typed: {} done, {} kept or not known, {} not done, {} killed; {} shown",
        all.len(),
        seen(Seen::Code(0)),
        seen(Seen::Code(4)),
        seen(Seen::Code(3)),
        seen(Seen::Killed),
        shown.len(),
    );
}
