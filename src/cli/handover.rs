//! Hands messages to the reader of standard output and counts those that it has taken.
//!
//! A message counts as shown once the reader has taken it. A terminal or a file takes each message
//! as it is written. A pipe buffers up to 64 KiB that may never be read, so a message in a pipe
//! counts when the reader has read it.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    time::Duration,
};

use super::output::{Failure, Output, WRITE_OUTPUT};

/// Pauses while a pipe is not drained. They begin short, because most readers read at once, and
/// double.
const PAUSE_MIN: Duration = Duration::from_micros(200);
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// A pipe that is ready for writing takes this many bytes without blocking (`PIPE_BUF` on Linux).
const CHUNK_BYTES: usize = 4096;
/// Messages that are written before the next waits for the reader, at most.
const BATCH_MAX: usize = 64;
/// The interval at which an idle command checks whether its reader is still there.
const IDLE_PAUSE: Duration = Duration::from_millis(500);

/// The kind of standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// It takes each message as it is written: a terminal, a file, a socket, `/dev/null`.
    Keeps,
    /// A pipe: messages wait for the reader.
    Pipe,
    /// Standard output was closed when the program started.
    Closed,
}

/// Standard output, and the messages written to it that its reader has not taken yet.
#[derive(Debug)]
pub struct Handover {
    sink: Sink,
    /// Bytes written so far.
    written: u64,
    /// The end of each message that is not known to be taken, in bytes written.
    ends: VecDeque<u64>,
    batch: usize,
}

impl Handover {
    /// Returns a handover to standard output. Fails if standard output is closed, because nobody
    /// would take the messages.
    pub fn to_stdout() -> Result<Self, Failure> {
        let sink = platform::sink();
        if sink == Sink::Closed {
            return Err(Failure::local(
                "standard output is closed: nobody can take the messages, so none is read; \
                 send them to > /dev/null to discard them",
            ));
        }
        io::stdout()
            .flush()
            .map_err(Failure::cannot(WRITE_OUTPUT))?;
        Ok(Self {
            sink,
            written: 0,
            ends: VecDeque::new(),
            batch: 1,
        })
    }

    /// Writes one message. Fails at once with [`Failure::reader_gone`] if the reader has gone.
    pub async fn write(&mut self, line: &str) -> Result<(), Failure> {
        match self.sink {
            Sink::Keeps | Sink::Closed => {
                let mut out = io::stdout().lock();
                out.write_all(line.as_bytes())
                    .and_then(|()| out.flush())
                    .map_err(Failure::cannot(WRITE_OUTPUT))?;
            }
            Sink::Pipe => self.write_to_pipe(line.as_bytes()).await?,
        }
        if self.sink != Sink::Pipe {
            self.written = self.written.saturating_add(line.len() as u64);
        }
        self.ends.push_back(self.written);
        Ok(())
    }

    /// Returns a handover for a command that goes on if standard output is closed. Then nothing is
    /// written, and nothing counts as taken. A program that only wants its outbox sent gives
    /// `watch` the null device.
    pub fn to_stdout_or_nowhere() -> Result<Self, Failure> {
        if platform::sink() != Sink::Closed {
            return Self::to_stdout();
        }
        Output::aside(
            "standard output is closed, or the null device: messages are neither shown nor marked as read",
        );
        Ok(Self {
            sink: Sink::Closed,
            written: 0,
            ends: VecDeque::new(),
            batch: 1,
        })
    }

    /// True if nobody takes the messages.
    pub fn is_nowhere(&self) -> bool {
        self.sink == Sink::Closed
    }

    /// True if no more messages may be written before the next [`Handover::settle`].
    pub fn is_batch_full(&self) -> bool {
        self.ends.len() >= self.batch
    }

    /// Waits until the reader has taken all messages. Then the next batch may be twice as large.
    pub async fn settle(&mut self) -> Result<(), Failure> {
        let mut pause = PAUSE_MIN;
        while self.sink == Sink::Pipe && pending()? > 0 {
            if platform::is_reader_gone() {
                return Err(Failure::reader_gone());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        self.batch = (self.batch * 2).min(BATCH_MAX);
        Ok(())
    }

    /// Returns how many of the oldest messages were taken since the last call. Each is counted
    /// once.
    pub fn taken(&mut self) -> Result<usize, Failure> {
        let pending = match self.sink {
            Sink::Pipe => pending()?,
            Sink::Keeps | Sink::Closed => 0,
        };
        let through = self.written.saturating_sub(pending);
        let mut count = 0;
        while self.ends.front().is_some_and(|end| *end <= through) {
            self.ends.pop_front();
            count += 1;
        }
        Ok(count)
    }

    /// Returns when the reader of standard output has gone.
    pub async fn reader_gone() -> Failure {
        while !platform::is_reader_gone() {
            tokio::time::sleep(IDLE_PAUSE).await;
        }
        Failure::reader_gone()
    }

    /// Writes without blocking, so that Ctrl-C and datagrams of the realm are handled while the
    /// reader is slow.
    async fn write_to_pipe(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let (mut left, mut pause) = (bytes, PAUSE_MIN);
        while !left.is_empty() {
            let chunk = left.get(..CHUNK_BYTES).unwrap_or(left);
            match platform::write_some(chunk).map_err(Failure::cannot(WRITE_OUTPUT))? {
                0 => {
                    if platform::is_reader_gone() {
                        return Err(Failure::reader_gone());
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                count => {
                    left = left.get(count..).ok_or_else(|| {
                        let given = chunk.len();
                        Failure::local(format!(
                            "the system says that it wrote {count} bytes to standard output, and was given {given}"
                        ))
                    })?;
                    self.written = self.written.saturating_add(count as u64);
                    pause = PAUSE_MIN;
                }
            }
        }
        Ok(())
    }
}

/// Returns the number of bytes in the pipe that its reader has not read.
fn pending() -> Result<u64, Failure> {
    platform::pending().map_err(Failure::cannot("see what the reader of the pipe has read"))
}

#[cfg(unix)]
mod platform {
    use std::io;

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        fs::{FileType, OFlags, fcntl_getfl, fstat},
        io::{Errno, ioctl_fionread},
    };

    use super::Sink;

    /// Returns the kind of standard output.
    pub fn sink() -> Sink {
        let out = io::stdout();
        let Ok(stat) = fstat(&out) else {
            return Sink::Closed;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => Sink::Pipe,
            // Rust replaces a closed standard output with the null device, open for reading and
            // writing.
            FileType::CharacterDevice
                if is_null(stat.st_rdev)
                    && fcntl_getfl(&out).is_ok_and(|flags| flags.contains(OFlags::RDWR)) =>
            {
                Sink::Closed
            }
            _ => Sink::Keeps,
        }
    }

    fn is_null(device: u64) -> bool {
        rustix::fs::stat("/dev/null").is_ok_and(|null| null.st_rdev == device)
    }

    /// Returns the number of bytes in the pipe that its reader has not read.
    pub fn pending() -> io::Result<u64> {
        Ok(ioctl_fionread(io::stdout())?)
    }

    fn events(wanted: PollFlags) -> PollFlags {
        let out = io::stdout();
        let mut fds = [PollFd::new(&out, wanted)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut fds, Some(&now)) {
            Ok(_) => fds
                .iter()
                .fold(PollFlags::empty(), |all, fd| all | fd.revents()),
            Err(_) => PollFlags::empty(),
        }
    }

    /// True if nobody has the other end of standard output open.
    pub fn is_reader_gone() -> bool {
        events(PollFlags::empty()).intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Writes as much as fits without blocking. Returns 0 if nothing fits.
    pub fn write_some(chunk: &[u8]) -> io::Result<usize> {
        if !events(PollFlags::OUT).contains(PollFlags::OUT) {
            return Ok(0);
        }
        match rustix::io::write(io::stdout(), chunk) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            result => Ok(result?),
        }
    }
}

#[cfg(not(unix))]
mod platform {
    use std::io;

    use super::Sink;

    pub fn sink() -> Sink {
        Sink::Keeps
    }

    pub fn pending() -> io::Result<u64> {
        Ok(0)
    }

    pub fn is_reader_gone() -> bool {
        false
    }

    pub fn write_some(chunk: &[u8]) -> io::Result<usize> {
        use std::io::Write as _;
        io::stdout().write(chunk)
    }
}
