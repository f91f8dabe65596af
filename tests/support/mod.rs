//! Support for tests that run the real program: a realm in a process of its own, clients in their
//! own, and a relay between them that can lose datagrams.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod device;
#[path = "../../src/simulation/path.rs"]
pub mod path;
pub mod relay;
pub mod typing;
pub mod watch;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use merpati::client::{Client, Options, Profile, system_rng};
use serde_json::Value;
use tempfile::TempDir;

pub const PASSWORD: &str = "correct horse";

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_merpati"));
    // Removes what the environment says about the user's own realms.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MERPATI_")) {
        command.env_remove(name);
    }
    command
}

/// A running realm. It is killed on drop.
pub struct Realm {
    pub directory: TempDir,
    pub address: SocketAddr,
    pub connect: String,
    pub announced: Value,
    process: Child,
    options: Vec<String>,
}

impl Realm {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a realm on a free port, with further options of `serve`. An option such as
    /// `MERPATI_TRACE=DIR` sets the environment.
    pub fn start_with(options: &[&str]) -> Self {
        Self::begin(tempfile::tempdir().unwrap(), options)
    }

    /// Starts a realm in an existing directory.
    pub fn start_in(directory: TempDir) -> Self {
        Self::begin(directory, &[])
    }

    fn begin(directory: TempDir, options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let (process, announced) = spawn(directory.path(), "127.0.0.1:0", &options);
        let address = announced["listen"][0].as_str().unwrap().parse().unwrap();
        Self {
            directory,
            address,
            connect: announced["connect"].as_str().unwrap().into(),
            announced,
            process,
            options,
        }
    }

    /// Starts a realm whose configuration says `address = "127.0.0.1:0"`. From then on every start
    /// uses the same port, which peers remember.
    pub fn start_fixed(options: &[&str]) -> Self {
        let realm = Self::start_with(options);
        let [.., config] = options else {
            panic!("--config and its file")
        };
        let text = fs::read_to_string(config).unwrap();
        let fixed = text.replace("127.0.0.1:0\"", &format!("{}\"", realm.address));
        fs::write(config, fixed).unwrap();
        realm
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Returns the processor time of the process.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process_id())).unwrap();
        // The fields follow the name, which may contain anything. User and system time are the 12th
        // and 13th, in hundredths.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let times = fields.split(' ').skip(11).take(2);
        let ticks: u64 = times.map(|time| time.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Returns the private memory of the process in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() << 10
    }

    /// Kills the process as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the realm again at the same address.
    pub fn start_again(&mut self) {
        let address = self.address.to_string();
        (self.process, self.announced) = spawn(self.directory.path(), &address, &self.options);
    }

    /// Starts a realm that was started by [`Realm::start_fixed`] again at another port.
    pub fn start_elsewhere(&mut self) {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let elsewhere = free.local_addr().unwrap();
        drop(free);
        let config = self.options.last().unwrap();
        let text = fs::read_to_string(config).unwrap();
        let before = format!("\"{}\"", self.address);
        assert!(text.contains(&before), "{text}");
        fs::write(config, text.replace(&before, &format!("\"{elsewhere}\""))).unwrap();
        self.address = elsewhere;
        self.start_again();
    }

    /// Starts the realm again at the same address, with further options.
    pub fn start_again_with(&mut self, options: &[&str]) {
        let address = self.address.to_string();
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let options = [&self.options[..], &options].concat();
        (self.process, self.announced) = spawn(self.directory.path(), &address, &options);
    }

    /// Asks the realm to stop, waits until it has, and returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let id = self.process.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(asked.success());
        self.process.wait().unwrap().code()
    }

    /// Returns the connection string for a client that connects through a relay.
    pub fn connect_through(&self, relay: SocketAddr) -> String {
        let (_, key) = self.connect.split_once('#').unwrap();
        format!("merpati://{relay}#{key}")
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts `serve` and waits until it announces that it serves.
fn spawn(directory: &Path, address: &str, options: &[String]) -> (Child, Value) {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .unwrap();
    let is_variable = |option: &&String| option.starts_with("MERPATI_");
    let (variables, options): (Vec<_>, Vec<_>) = options.iter().partition(is_variable);
    let variables = variables.iter().filter_map(|one| one.split_once('='));
    let mut process = program()
        .envs(variables)
        .current_dir(directory)
        .args(["serve", "--json", "--data", "data"])
        .args(if options.iter().any(|option| *option == "--config") {
            vec![]
        } else {
            vec!["--listen", address]
        })
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let announced = serde_json::from_str(&line).unwrap_or_else(|_| {
        let log = fs::read_to_string(directory.join("log")).unwrap();
        panic!("serve said {line:?} and logged:\n{log}")
    });
    (process, announced)
}

/// The result of a run of the program.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    /// Returns the printed objects, one a line.
    pub fn objects(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}"));
        self.out.lines().map(parse).collect()
    }

    /// Returns the one object printed by a command that succeeded.
    pub fn ok(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        let object = self.objects().pop().unwrap_or_default();
        assert_eq!(object["ok"], true, "{self:?}");
        object
    }

    /// Returns the texts of the printed entries.
    pub fn texts(&self) -> Vec<String> {
        assert_eq!(self.code, Some(0), "{self:?}");
        let text = |entry: Value| entry["text"].as_str().unwrap().to_string();
        self.objects().into_iter().map(text).collect()
    }

    /// Returns the error's name, of a command that failed with `code`.
    pub fn error(&self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        let object = self.objects().pop().unwrap();
        assert_eq!(object["ok"], false, "{self:?}");
        assert!(!object["message"].as_str().unwrap().is_empty());
        object["error"].as_str().unwrap().into()
    }
}

/// The directory of clients' profiles.
pub struct Home {
    pub directory: TempDir,
}

impl Home {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("password"), PASSWORD).unwrap();
        fs::write(directory.path().join("wrong"), "battery staple").unwrap();
        Self { directory }
    }

    /// Returns a command of `profile`, ready to run.
    pub fn command(&self, profile: &str, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .current_dir(self.directory.path())
            .args(["--home", "profiles", "--profile", profile, "--json"])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, profile: &str, arguments: &[&str]) -> Run {
        finished(&mut self.command(profile, arguments))
    }

    /// Registers an account with the profile's name.
    pub fn register(&self, profile: &str, connect: &str) -> String {
        let arguments = [
            "--server",
            connect,
            "register",
            "Some One",
            "id",
            profile,
            "--password-file",
            "password",
        ];
        let object = self.run(profile, &arguments).ok();
        object["session"].as_str().unwrap().into()
    }

    /// Opens a client in this process, for `profile`.
    pub fn client(&self, profile: &str, connect: &str) -> Client {
        self.client_until(Duration::from_mins(1), profile, connect)
    }

    /// Opens a client in this process whose calls have this deadline.
    pub fn client_until(&self, deadline: Duration, profile: &str, connect: &str) -> Client {
        let directory = self.directory.path().join("profiles");
        let profile = Profile::open(&directory, profile, &mut system_rng().unwrap()).unwrap();
        let options = Options {
            server: Some(connect.parse().unwrap()),
            deadline,
            ..Options::default()
        };
        Client::open(profile, options).unwrap()
    }

    /// Starts a realm with this `peering` setting, at the same port each time.
    pub fn realm(&self, name: &str, peering: &str) -> Realm {
        let config = self.directory.path().join(format!("{name}.toml"));
        let text = format!(
            "[realm]\nid = \"{name}\"\npeering = \"{peering}\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n"
        );
        fs::write(&config, text).unwrap();
        Realm::start_fixed(&["--config", config.to_str().unwrap()])
    }

    /// Starts a realm with this configuration, at the same port each time.
    pub fn realm_as(&self, config: &str) -> Realm {
        let path = self.directory.path().join("realm.toml");
        let text = format!("{config}\n[[listen]]\naddress = \"127.0.0.1:0\"\n");
        fs::write(&path, text).unwrap();
        Realm::start_fixed(&["--config", path.to_str().unwrap()])
    }

    /// Returns the texts of all private messages, in order.
    pub fn texts(&self, profile: &str) -> Vec<String> {
        let run = self.run(profile, &["inbox", "--after", "0"]);
        run.texts()
    }

    pub fn profile(&self, name: &str) -> PathBuf {
        self.directory.path().join("profiles").join(name)
    }
}

pub fn finished(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Builds an example if necessary, and returns its program.
pub fn example(name: &str) -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", name])
        .status()
        .unwrap();
    assert!(built.success());
    // This test is target/debug/deps/NAME-…
    let this = std::env::current_exe().unwrap();
    let target = this.ancestors().nth(2).unwrap();
    target.join("examples").join(name)
}

/// Copies a directory with all its content.
pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
