//! The readable trace of a run. It is kept only if it will be read.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

/// The lines of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    started: Instant,
    lines: Option<Arc<Mutex<Vec<String>>>>,
}

impl Trace {
    /// Starts a trace. Its lines are kept if `is_kept` is true.
    pub fn start(is_kept: bool) -> Self {
        Self {
            started: Instant::now(),
            lines: is_kept.then(Arc::default),
        }
    }

    /// Records an event of `whom`.
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

    /// Returns all lines.
    pub fn text(&self) -> String {
        let lines = self.lines.as_ref().map(|lines| lines.lock().unwrap());
        lines.map_or_else(String::new, |lines| lines.join("\n") + "\n")
    }
}
