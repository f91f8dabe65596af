//! Checks the system's resource limits at the start. A realm that runs out of a resource later
//! would stop in the middle of a command.

use super::{Config, Holder, ServerError, holdings};

/// The largest number of files that the store has open at once, with a reserve.
const STORE_FILES: u64 = 160;
/// The number of files of one worker: its socket and its runtime's event queue.
const WORKER_FILES: u64 = 8;
/// The address space in addition to the holdings: the program, thread stacks and unused memory of
/// the allocator; in bytes.
const BESIDE_BYTES: u64 = 256 << 20;

/// Fails if a limit is too low. Raises the limit of open files first, if the system's maximum is
/// high enough.
#[cfg(unix)]
pub fn check(config: &Config) -> Result<(), ServerError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let workers = config.listeners().len() as u64 * config.limits.workers() as u64;
    let needed = STORE_FILES + WORKER_FILES * workers;
    let files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|files| files < needed) {
        let current = files.maximum.unwrap_or(needed).min(needed.max(4096));
        if current < needed {
            return Err(ServerError::Files { current, needed });
        }
        let raised = Rlimit {
            current: Some(current),
            maximum: files.maximum,
        };
        setrlimit(Resource::Nofile, raised).map_err(std::io::Error::from)?;
    }
    let held = holdings(config)
        .into_iter()
        .filter(|held| matches!(held.by, Holder::Nobody | Holder::Strangers))
        .fold(0_u64, |sum, held| sum.saturating_add(held.total() as u64));
    let needed = held.saturating_add(BESIDE_BYTES);
    match getrlimit(Resource::As).current {
        Some(current) if current < needed => Err(ServerError::Memory {
            current: current >> 20,
            needed: needed.div_ceil(1 << 20),
        }),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
pub fn check(_: &Config) -> Result<(), ServerError> {
    Ok(())
}
