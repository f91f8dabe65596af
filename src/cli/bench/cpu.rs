//! Processor time of processes and threads.

use std::{fs, path::PathBuf, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::Failure;

/// Another process of this machine.
#[derive(Debug)]
pub struct Process {
    stat: PathBuf,
}

impl Process {
    /// Returns the process `pid`.
    pub fn find(pid: u32) -> Result<Self, Failure> {
        let process = Self {
            stat: PathBuf::from(format!("/proc/{pid}/stat")),
        };
        process.used()?;
        Ok(process)
    }

    /// Returns the processor time of all its threads so far, in user and kernel mode.
    pub fn used(&self) -> Result<Duration, Failure> {
        let unseen = |why: &str| {
            let path = self.stat.display();
            Failure::local(format!(
                "cannot read in {path} how much CPU time the realm has used: {why}; give --pid a process of this machine"
            ))
        };
        let text = fs::read_to_string(&self.stat).map_err(|error| unseen(&error.to_string()))?;
        parse(&text).ok_or_else(|| unseen("its fields are not those of proc(5)"))
    }
}

/// Parses utime and stime of `/proc/PID/stat` (proc(5)), which count hundredths of a second.
fn parse(stat: &str) -> Option<Duration> {
    // The name of a program may contain anything, even parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}

/// Returns the processor time of the calling thread so far.
pub fn of_this_thread() -> Result<Duration, Failure> {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.try_into().map_err(Failure::local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bench_cpu_time_is_parsed_after_any_process_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 31 9 9 20 0 3 0 100 1 1";
        assert_eq!(parse(stat), Some(Duration::from_millis(2810)));
        assert_eq!(parse("nonsense"), None);
        assert_eq!(parse("7 (a) S 1"), None);
    }
}
