//! The last line of the terminal during a watch, which shows the state of the link to the realm. It
//! is shown only to people, if both standard output and standard error are a terminal.

use std::{
    cell::{Cell, RefCell},
    env,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use merpati::client::{Client, LinkStats, Spent};

use super::output::{Output, columns};

/// The interval at which the line is drawn if it has changed.
const EVERY: Duration = Duration::from_secs(1);
/// Packets that must have been received before their loss is shown.
const FEW: u64 = 20;

/// The line.
#[derive(Debug, Default)]
pub struct ConnectionLine {
    is_wanted: bool,
    /// The text on the screen.
    drawn: RefCell<String>,
    /// The realm is unreachable.
    is_away: Cell<bool>,
    /// The number of datagrams received, and the time of the last one.
    heard: Cell<Option<(u64, Instant)>>,
}

impl ConnectionLine {
    /// Returns a line. It is drawn only for a person, and on a terminal that can erase it.
    pub fn new(output: Output) -> Self {
        let is_terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let is_plain = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let mut line = Self::default();
        line.is_wanted = is_terminal && !is_plain && !output.json;
        line
    }

    /// Erases the line, because something else is printed.
    pub fn clear(&self) {
        if !self.drawn.take().is_empty() {
            // A user who has closed standard error does not want the line.
            let _ = write!(io::stderr().lock(), "\r\x1b[2K");
        }
    }

    /// Records whether the realm is unreachable.
    pub fn note_reach(&self, is_away: bool) {
        self.is_away.set(is_away);
    }

    /// Draws the line for as long as this is polled.
    pub async fn keep(&self, client: &Client) {
        if !self.is_wanted {
            return std::future::pending().await;
        }
        let meter = client.meter();
        loop {
            let status = client.link_status().await;
            let is_up = status.open && !self.is_away.get();
            let stats = client.link_stats().await.filter(|_| is_up);
            let spent = meter.spent();
            let silent = self.silence(spent.down.datagrams);
            self.draw(&text(status.address, stats, silent, spent));
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Returns the time since the last of `count` datagrams was received.
    fn silence(&self, count: u64) -> Duration {
        let known = self.heard.get().filter(|(known, _)| *known == count);
        let (_, at) = known.unwrap_or((count, Instant::now()));
        self.heard.set(Some((count, at)));
        at.elapsed()
    }

    fn draw(&self, text: &str) {
        let Some(columns) = columns(&io::stderr()) else {
            return;
        };
        // Some terminals begin another line after the last column. Each character of the text takes
        // one column.
        let room = columns.saturating_sub(3);
        let mut shown: String = text.chars().take(room).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        let text = format!("[{shown}]");
        if *self.drawn.borrow() != text {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K{text}");
            self.drawn.replace(text);
        }
    }
}

impl Drop for ConnectionLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Returns the text of the line. The realm's address is last, because the end is cut off first.
fn text(
    address: Option<SocketAddr>,
    stats: Option<LinkStats>,
    silent: Duration,
    spent: Spent,
) -> String {
    let realm = address.map_or_else(|| "the realm".into(), |address| address.to_string());
    let bytes = format!(
        "{} up, {} down",
        size(spent.up.bytes),
        size(spent.down.bytes)
    );
    let Some(stats) = stats else {
        let seconds = silent.as_secs();
        return format!(
            "not connected, still trying; last heard {seconds} s ago; {bytes}; {realm}"
        );
    };
    let round_trip = stats.rtt.map_or_else(
        || "round trip not measured yet".into(),
        |(rtt, _)| format!("round trip {} ms", rtt.as_millis()),
    );
    let loss = if stats.counters.received.datagrams < FEW {
        String::new()
    } else {
        format!(", {} % lost", u64::from(stats.loss) * 100 / 1024)
    };
    format!("{round_trip}{loss}; {bytes}; {realm}")
}

/// Returns a short form of a number of bytes.
fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{}.{} kB", bytes / 1000, bytes % 1000 / 100),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use merpati::client::{Counters, Traffic};

    use super::*;

    #[test]
    fn connection_line_shows_only_what_was_measured() {
        let address = "[2001:db8::1]:6377".parse().ok();
        let spent = Spent {
            up: Traffic {
                datagrams: 3,
                bytes: 1234,
            },
            down: Traffic {
                datagrams: 2,
                bytes: 999,
            },
        };
        let mut stats = LinkStats {
            counters: Counters::default(),
            rtt: None,
            timeout: Duration::from_secs(1),
            loss: 512,
            datagram: 548,
            is_redundant: false,
        };
        let none = Duration::ZERO;
        assert_eq!(
            text(None, None, none, spent),
            "not connected, still trying; last heard 0 s ago; 1.2 kB up, 999 B down; the realm"
        );
        assert_eq!(
            text(address, Some(stats), none, spent),
            "round trip not measured yet; 1.2 kB up, 999 B down; [2001:db8::1]:6377"
        );
        stats.rtt = Some((Duration::from_micros(61_900), Duration::ZERO));
        stats.counters.received.datagrams = 20;
        assert_eq!(
            text(address, Some(stats), none, spent),
            "round trip 61 ms, 50 % lost; 1.2 kB up, 999 B down; [2001:db8::1]:6377"
        );
        assert_eq!(
            text(address, None, Duration::from_millis(12_900), spent),
            "not connected, still trying; last heard 12 s ago; 1.2 kB up, 999 B down; [2001:db8::1]:6377"
        );
        assert_eq!(size(2_340_000), "2.3 MB");
    }
}
