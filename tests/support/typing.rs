//! People at their keyboards: shells that are fed line by line, commands that are killed half way, and conditions that
//! are waited for.

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

/// A condition that does not come true within this time fails its test.
const PATIENCE: Duration = Duration::from_mins(2);
/// The pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The first byte of a realm's answer to a handshake.
const ACCEPT: u8 = 0x04;
/// The first byte of a packet on an open link is at least this.
const OF_LINK: u8 = 0x80;

/// Looks at a condition until it is true.
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
    /// From here on the realm gets everything and its answers are lost. Each answer that is lost is reported.
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

    /// From here on handshakes succeed, and packets on the link never reach the realm. Each packet that is lost is
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

    /// From here on handshakes succeed, and the realm's answers on the link are lost. Each answer that is lost is
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

    /// From here on nothing passes.
    pub fn lose_all(&self) {
        self.lose(|_, _| true);
    }

    /// From here on nothing is lost.
    pub fn lose_nothing(&self) {
        self.lose(|_, _| false);
    }
}

impl Home {
    /// What `outbox` lists.
    pub fn outbox(&self, profile: &str) -> Vec<Value> {
        let run = self.run(profile, &["outbox"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.objects()
    }

    /// Waits until as many commands are in the outbox.
    pub fn until_in_outbox(&self, profile: &str, count: usize) {
        let what = format!("{count} commands in the outbox of {profile}");
        until(&what, || self.outbox(profile).len() == count);
    }

    /// Waits until the outbox is empty, with processes that have the time to empty it.
    pub fn drain(&self, profile: &str) {
        let run = self.run(profile, &["outbox", "wait"]);
        // Something may have been refused.
        let is_empty = run.code == Some(0) || run.error(1) == "not-done";
        assert!(is_empty, "{run:?}");
    }

    /// Makes the account `user` in `profile`, which may have accounts at other realms.
    pub fn register_as(&self, profile: &str, user: &str, connect: &str) {
        let arguments = ["--server", connect, "register", "Some One", "id", user];
        let password = ["--password-file", "password"];
        self.run(profile, &[&arguments[..], &password].concat())
            .ok();
    }

    /// Starts a command whose output nobody reads.
    pub fn spawn(&self, profile: &str, arguments: &[&str]) -> Child {
        self.command(profile, arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Sends with little time: for a realm that is away.
    pub fn send_briefly(&self, profile: &str, arguments: &[&str]) -> Run {
        self.run(profile, &[&["--deadline", "50ms"], arguments].concat())
    }
}

impl Run {
    /// The number in the outbox of a command that ended with 4 and is kept.
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

    /// The state that the last object names.
    pub fn state(&self) -> String {
        let object = self.objects().pop().unwrap_or_default();
        object["state"].as_str().unwrap_or_default().into()
    }
}

/// Ends a process as `kill -9` does.
pub fn kill(mut process: Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

/// A `merpati shell` whose lines come through a pipe. Killed when dropped.
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

    /// Types a line; false when the shell has gone.
    pub fn type_line(&mut self, line: &str) -> bool {
        self.stdin.write_all(format!("{line}\n").as_bytes()).is_ok()
    }

    /// The object that the shell prints next; none when it has gone.
    pub fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.out.read_line(&mut line) {
            // A line that was cut off is none.
            Ok(len) if len > 0 => serde_json::from_str(&line).ok(),
            _ => None,
        }
    }

    /// Types a line and takes its one answer.
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
