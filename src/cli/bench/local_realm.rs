//! A local realm to be measured. It runs in a process of its own, and is removed afterwards.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use merpati::{client::system_rng, crypto::ConnectionString};
use rand::Rng as _;

use super::Failure;

/// The realm's limits that restrict a load from one subnet.
pub const LIMITS: [&str; 7] = [
    "handshakes",
    "handshakes_per_subnet",
    "commands_per_link",
    "commands_per_account",
    "commands_per_subnet",
    "registrations_per_subnet",
    "joins_per_subnet",
];
/// The number of syncs that are timed.
const SYNCS: usize = 200;
/// The bytes that are written before each sync: about the size of a message on disk.
const SYNCED: [u8; 300] = [0x5a; 300];

/// The realm, and its directory.
#[derive(Debug)]
pub struct OwnRealm {
    child: Child,
    directory: PathBuf,
    pub realm: ConnectionString,
}

impl OwnRealm {
    /// Starts a realm whose store is in a new directory in `place`, or among temporary files.
    pub fn start(place: Option<&Path>, workers: u16) -> Result<Self, Failure> {
        let name = format!("merpati-bench-{:08x}", system_rng()?.next_u32());
        let directory = place
            .map_or_else(std::env::temp_dir, PathBuf::from)
            .join(name);
        let making = format!("make the directory {}", directory.display());
        fs::create_dir_all(&directory).map_err(Failure::cannot(making))?;
        let started = Self::serve(&directory, workers);
        if started.is_err() {
            // The realm's message is on standard error. The directory is of no use.
            let _ = fs::remove_dir_all(&directory);
        }
        let (child, realm) = started?;
        Ok(Self {
            child,
            directory,
            realm,
        })
    }

    fn serve(directory: &Path, workers: u16) -> Result<(Child, ConnectionString), Failure> {
        let config = directory.join("config.toml");
        // No limit restricts the load, so that the work is measured.
        let limits = LIMITS
            .map(|limit| format!("{limit} = \"unlimited\"\n"))
            .concat();
        let writing = format!("write {}", config.display());
        fs::write(&config, format!("[limits]\nworkers = {workers}\n{limits}"))
            .map_err(Failure::cannot(writing))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "serve",
                "--json",
                "--listen",
                "127.0.0.1:0",
                "--log",
                "warn",
            ])
            .arg("--config")
            .arg(&config)
            .arg("--data")
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Failure::cannot("start the realm to be measured"))?;
        let realm = Self::told(&mut child);
        if realm.is_err() {
            // The realm may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok((child, realm?))
    }

    /// Returns the connection string, which the realm prints once it serves.
    fn told(child: &mut Child) -> Result<ConnectionString, Failure> {
        let failed = || {
            Failure::local(
                "the realm to be measured has printed no connection string; what it has said is above",
            )
        };
        let out = child.stdout.take().ok_or_else(failed)?;
        let mut line = String::new();
        let read = BufReader::new(out).read_line(&mut line);
        read.map_err(Failure::cannot("read what the realm to be measured prints"))?;
        let told: serde_json::Value = serde_json::from_str(&line).map_err(|_| failed())?;
        let connect = told.get("connect").and_then(|text| text.as_str());
        connect.ok_or_else(failed)?.parse().map_err(Failure::local)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the directory of its users' profiles.
    pub fn home(&self) -> PathBuf {
        self.directory.join("users")
    }

    /// Returns the time of a small synced write to its disk: the median of 200.
    pub fn sync_time(&self) -> Result<Duration, Failure> {
        let path = self.directory.join("synced");
        sync_time(&path).map_err(Failure::cannot(format!("write {}", path.display())))
    }
}

fn sync_time(path: &Path) -> io::Result<Duration> {
    let mut file = File::create(path)?;
    let mut all = [Duration::ZERO; SYNCS];
    for took in &mut all {
        file.write_all(&SYNCED)?;
        let begun = Instant::now();
        file.sync_data()?;
        *took = begun.elapsed();
    }
    let (_, median, _) = all.select_nth_unstable(SYNCS / 2);
    Ok(*median)
}

impl Drop for OwnRealm {
    fn drop(&mut self) {
        // Nothing in the directory is needed. If it cannot be removed, it is among temporary files.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
