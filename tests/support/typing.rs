//! Support for people at their keyboards: shells that are fed line by line, commands that are
//! killed half way, and conditions to wait for.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Home, Run,
    relay::{Relay, Way},
};

/// A condition that is not true within this time fails its test.
const PATIENCE: Duration = Duration::from_mins(2);
/// The pause between two checks of a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The first byte of an Accept.
const ACCEPT: u8 = 0x04;
/// The first byte of a packet on an open link is at least this.
const OF_LINK: u8 = 0x80;

/// Checks a condition until it is true.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(
            began.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(LOOK_AGAIN);
    }
}

impl Relay {
    /// Loses all answers of the realm from now on. The realm receives everything. Each lost answer
    /// is reported.
    pub fn lose_answers(&self) -> Receiver<()> {
        let (tell, lost) = channel();
        self.lose(move |way, _| {
            if way == Way::ToClient {
                let _ = tell.send(());
            }
            way == Way::ToClient
        });
        lost
    }

    /// Loses all packets to the realm on links from now on. Handshakes succeed. Each lost packet is
    /// reported.
    pub fn lose_commands(&self) -> Receiver<()> {
        let (tell, lost) = channel();
        self.lose(move |way, bytes| {
            let is_lost = way == Way::ToRealm && bytes[0] >= OF_LINK;
            if is_lost {
                let _ = tell.send(());
            }
            is_lost
        });
        lost
    }

    /// Loses the realm's answers on links from now on. Handshakes succeed. Each lost answer is
    /// reported.
    pub fn lose_answers_on_links(&self) -> Receiver<()> {
        let (tell, lost) = channel();
        self.lose(move |way, bytes| {
            let is_lost = way == Way::ToClient && bytes[0] != ACCEPT;
            if is_lost {
                let _ = tell.send(());
            }
            is_lost
        });
        lost
    }

    /// Loses everything from now on.
    pub fn lose_all(&self) {
        self.lose(|_, _| true);
    }

    /// Loses nothing from now on.
    pub fn lose_nothing(&self) {
        self.lose(|_, _| false);
    }
}

impl Home {
    /// Returns what `outbox` lists.
    pub fn outbox(&self, profile: &str) -> Vec<Value> {
        let run = self.run(profile, &["outbox"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.objects()
    }

    /// Waits until this many commands are in the outbox.
    pub fn until_in_outbox(&self, profile: &str, count: usize) {
        let what = format!("{count} commands in the outbox of {profile}");
        until(&what, || self.outbox(profile).len() == count);
    }

    /// Waits until the outbox is empty, with processes that have enough time to empty it.
    pub fn drain(&self, profile: &str) {
        let run = self.run(profile, &["outbox", "wait"]);
        // A command may have been refused.
        let is_empty = run.code == Some(0) || run.error(1) == "not-done";
        assert!(is_empty, "{run:?}");
    }

    /// Registers the account `user` in `profile`, which may have accounts at other realms.
    pub fn register_as(&self, profile: &str, user: &str, connect: &str) {
        let arguments = ["--server", connect, "register", "Some One", "id", user];
        let password = ["--password-file", "password"];
        self.run(profile, &[&arguments[..], &password].concat())
            .ok();
    }

    /// Starts a command whose output is discarded.
    pub fn spawn(&self, profile: &str, arguments: &[&str]) -> Child {
        self.command(profile, arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Runs a command with a short deadline, for a realm that is away.
    pub fn send_briefly(&self, profile: &str, arguments: &[&str]) -> Run {
        self.run(profile, &[&["--deadline", "50ms"], arguments].concat())
    }
}

impl Run {
    /// Returns the outbox number of a command that ended with 4 and is kept.
    pub fn kept(&self) -> u64 {
        assert_eq!(self.code, Some(4), "{self:?}");
        let object = self.objects().pop().unwrap();
        assert!(
            object["state"] == "kept" || object["state"] == "unknown",
            "{self:?}"
        );
        assert_eq!(object["state"], object["error"], "{self:?}");
        object["id"].as_u64().unwrap_or_else(|| panic!("{self:?}"))
    }

    /// Returns the state in the last object.
    pub fn state(&self) -> String {
        let object = self.objects().pop().unwrap_or_default();
        object["state"].as_str().unwrap_or_default().into()
    }
}

/// Kills a process as `kill -9` does.
pub fn kill(mut process: Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

/// A `merpati shell` whose lines come through a pipe. It is killed on drop.
pub struct Shell {
    pub process: Child,
    stdin: ChildStdin,
    out: BufReader<ChildStdout>,
}

impl Shell {
    pub fn start(home: &Home, profile: &str, arguments: &[&str]) -> Self {
        let arguments = [arguments, &["shell"]].concat();
        let mut process = home
            .command(profile, &arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            stdin,
            out,
        }
    }

    /// Types a line. False if the shell has ended.
    pub fn type_line(&mut self, line: &str) -> bool {
        self.stdin.write_all(format!("{line}\n").as_bytes()).is_ok()
    }

    /// Returns the next object that the shell prints. `None` if it has ended.
    pub fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.out.read_line(&mut line) {
            // A truncated line counts as none.
            Ok(len) if len > 0 => serde_json::from_str(&line).ok(),
            _ => None,
        }
    }

    /// Types a line and returns its one answer.
    pub fn ask(&mut self, line: &str) -> Value {
        assert!(self.type_line(line), "{line}");
        self.answer()
            .unwrap_or_else(|| panic!("no answer to {line}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
