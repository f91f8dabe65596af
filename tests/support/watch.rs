//! A watch in a process of its own.

use std::{
    io::{BufRead as _, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use super::Home;

/// A running `merpati watch`. It is killed on drop.
pub struct Watch {
    pub process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    pub fn start(home: &Home, profile: &str, arguments: &[&str]) -> Self {
        let arguments = [&["watch", "--keepalive", "1s"], arguments].concat();
        let mut process = home
            .command(profile, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    pub fn next(&mut self) -> Value {
        let line = self.lines.next().expect("it goes on").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub fn texts(&mut self, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| self.next()["text"].as_str().unwrap().to_string())
            .collect()
    }
}

impl Watch {
    /// Ends the watch as Ctrl-C does.
    pub fn stop(mut self) {
        let id = self.process.id().to_string();
        let asked = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(asked.success());
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
