//! Acknowledgements from a program that reads the output: one line each on standard input.

use std::{
    io::{self, BufRead as _, Read as _},
    thread,
};

use merpati::wire::Mailbox;
use tokio::sync::mpsc;

use super::output::{Failure, READ_INPUT};

/// The longest line of an acknowledgement, in bytes: two names of 32 bytes, a number, and
/// separators.
const LINE_BYTES_MAX: u64 = 128;
/// Lines that wait to be handled. If there are more, the program that writes them waits.
const WAITING_MAX: usize = 64;

/// The lines of standard input, with their numbers. A thread reads them, because reading standard
/// input blocks.
#[derive(Debug)]
pub struct Acks {
    lines: mpsc::Receiver<io::Result<String>>,
    count: u64,
}

/// An acknowledgement of all messages of a mailbox up to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The mailbox, if the line names it.
    pub mailbox: Option<Mailbox>,
    pub position: u64,
}

impl Acks {
    /// Starts to read standard input.
    pub fn of_stdin() -> Self {
        let (tell, lines) = mpsc::channel(WAITING_MAX);
        thread::spawn(move || {
            loop {
                let line = read_line();
                let is_last = !matches!(&line, Ok(Some(_)));
                if let Some(line) = line.transpose()
                    && tell.blocking_send(line).is_err()
                {
                    return;
                }
                if is_last {
                    return;
                }
            }
        });
        Self { lines, count: 0 }
    }

    /// Returns the next acknowledgement; `None` at the end of standard input. `wanted` is the
    /// format of a line.
    pub async fn next(&mut self, wanted: Wanted) -> Result<Option<Ack>, Failure> {
        let Some(line) = self.lines.recv().await else {
            return Ok(None);
        };
        self.count += 1;
        let line = line.map_err(Failure::cannot(READ_INPUT))?;
        match wanted.parse(line.trim()) {
            Ok(ack) => Ok(Some(ack)),
            Err(reason) => Err(self.wrong(&reason)),
        }
    }

    /// Returns an error about the last line.
    pub fn wrong(&self, reason: &str) -> Failure {
        Failure::usage(format!("standard input, line {}: {reason}", self.count))
    }
}

/// Reads one line; `None` at the end. A last line without a line end counts.
fn read_line() -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut input = io::stdin().lock().take(LINE_BYTES_MAX);
    input.read_until(b'\n', &mut line)?;
    Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()))
}

/// The format of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `<position>`, for a command that reads one mailbox.
    Position,
    /// `<mailbox> <position>`, for `watch`.
    MailboxAndPosition,
}

impl Wanted {
    fn parse(self, line: &str) -> Result<Ack, String> {
        let (mailbox, position) = match self {
            Self::Position => (None, line),
            Self::MailboxAndPosition => {
                let (mailbox, position) = line.rsplit_once(' ').unwrap_or(("", line));
                let mailbox = mailbox.trim().parse().map_err(|_| {
                    format!(
                        "{line:?} names no mailbox; write <mailbox> <position> as the entries have them, \
                         for example: group devs 12"
                    )
                })?;
                (Some(mailbox), position)
            }
        };
        let position = position.parse().map_err(|_| {
            format!("{position:?} is not a position; write a whole number, as the entries have it")
        })?;
        Ok(Ack { mailbox, position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_line_names_position_and_mailbox() {
        let ack = Wanted::MailboxAndPosition.parse("group devs@beta 12");
        let mailbox = "group devs@beta".parse().ok();
        assert_eq!(
            ack,
            Ok(Ack {
                mailbox,
                position: 12
            })
        );
        let ack = Wanted::Position.parse("7").unwrap();
        assert_eq!((ack.mailbox, ack.position), (None, 7));
    }

    #[test]
    fn ack_line_malformed_is_refused_with_reason() {
        for (wanted, line) in [
            (Wanted::Position, "private 7"),
            (Wanted::Position, "-1"),
            (Wanted::MailboxAndPosition, "7"),
            (Wanted::MailboxAndPosition, "grop devs 7"),
            (Wanted::MailboxAndPosition, "private seven"),
        ] {
            let reason = wanted.parse(line).unwrap_err();
            assert!(
                reason.contains(line.rsplit(' ').next().unwrap()),
                "{reason}"
            );
        }
    }
}
