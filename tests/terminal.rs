//! Tests of what a user sees on a terminal.

#![cfg(target_os = "linux")]

mod support;

use std::{
    fs::File,
    io::Read as _,
    os::fd::OwnedFd,
    process::Child,
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use support::{Home, Realm, program, relay::Relay, typing::until};

/// A program on a terminal of its own, 80 columns wide.
struct Terminal {
    process: Child,
    written: Arc<Mutex<Vec<u8>>>,
    _master: OwnedFd,
}

impl Terminal {
    fn run(home: &Home, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let process = program()
            .current_dir(home.directory.path())
            .env("TERM", "xterm")
            .args(["--home", "profiles", "--profile"])
            .args(arguments)
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave)
            .spawn()
            .unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut reader = File::from(master.try_clone().unwrap());
        let into = Arc::clone(&written);
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            // The read fails once the last program on the terminal has ended.
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..len]);
            }
        });
        Self {
            process,
            written,
            _master: master,
        }
    }

    /// Returns the lines on the screen after everything written so far.
    fn screen(&self) -> Vec<String> {
        let written = self.written.lock().unwrap();
        let text = String::from_utf8_lossy(&written).into_owned();
        let mut lines = vec![String::new()];
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            let last = lines.last_mut().unwrap();
            if let Some(behind) = rest.strip_prefix("\x1b[2K") {
                last.clear();
                rest = behind;
                continue;
            }
            match c {
                '\n' => lines.push(String::new()),
                // What follows replaces a line that was cleared before, or the line ends.
                '\r' => {}
                c => last.push(c),
            }
            rest = &rest[c.len_utf8()..];
        }
        lines
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn watch_on_terminal_shows_link_state_in_last_line() {
    let (realm, home) = (Realm::start(), Home::new());
    let relay = Relay::to(realm.address);
    home.register("ann", &realm.connect);
    home.register("bob", &realm.connect);
    let through = realm.connect_through(relay.address);
    let mut watch = Terminal::run(
        &home,
        &["bob", "--server", &through, "watch", "--keepalive", "1s"],
    );
    let last = |watch: &Terminal| watch.screen().last().unwrap().clone();
    let begins = "[round trip ".to_owned();
    until("the link is shown", || last(&watch).starts_with(&begins));
    home.run("ann", &["send", "bob", "hello"]).ok();
    // The line is cleared for the new message, and is drawn again below it.
    until("the message is shown above the line", || {
        let screen = watch.screen();
        let above = screen.iter().rev().nth(1);
        above.is_some_and(|line| line.ends_with("ann: hello")) && last(&watch).starts_with(&begins)
    });
    relay.lose(|_, _| true);
    home.run("ann", &["send", "bob", "into the dark"]).ok();
    let is_away = "[not connected, still trying; last heard ".to_owned();
    until("the silence is shown", || {
        let screen = watch.screen();
        let is_said = screen.iter().any(|line| line.contains("does not answer"));
        is_said && last(&watch).starts_with(&is_away)
    });
    relay.lose(|_, _| false);
    until("the link is back", || last(&watch).starts_with(&begins));
    let screen = watch.screen();
    let said: Vec<_> = screen
        .iter()
        .filter(|line| line.contains("merpati: "))
        .collect();
    assert!(said.len() >= 2, "{screen:?}");
    assert!(
        screen.iter().all(|line| line.chars().count() < 80),
        "{screen:?}"
    );
    // Nothing of the line remains.
    let id = watch.process.id().to_string();
    let asked = std::process::Command::new("kill")
        .args(["-INT", &id])
        .status();
    assert!(asked.unwrap().success());
    watch.process.wait().unwrap();
    until("the line is gone", || last(&watch).is_empty());
}
