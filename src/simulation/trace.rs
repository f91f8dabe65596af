//! What happened in a run, in lines that people can read. Kept only when somebody is going to.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

/// The lines of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    started: Instant,
    lines: Option<Arc<Mutex<Vec<String>>>>,
}

impl Trace {
    /// A trace from now on; `is_kept` says whether anything is written down.
    pub fn start(is_kept: bool) -> Self {
        Self {
            started: Instant::now(),
            lines: is_kept.then(Arc::default),
        }
    }

    /// Writes down that something happened to `whom`.
    pub fn note(&self, whom: &str, what: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let seconds = self.started.elapsed().as_secs_f64();
            let what = what();
            lines
                .lock()
                .unwrap()
                .push(format!("{seconds:>12.3}  {whom:<8} {what}"));
        }
    }

    /// All lines.
    pub fn text(&self) -> String {
        let lines = self.lines.as_ref().map(|lines| lines.lock().unwrap());
        lines.map_or_else(String::new, |lines| lines.join("\n") + "\n")
    }
}
