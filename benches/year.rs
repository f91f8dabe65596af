//! A year of a small realm in simulated time: the size of its store on disk, day after day.
//!
//! `cargo bench --bench year` plays 365 days of 100 users who write 10 messages a day each, once
//! with the default retention of a new store (90 days) and once without deletion. It prints a
//! table, and with `-- --svg FILE` draws it. `-- --days 20` plays fewer days. `-- --data DIR` sets
//! the disk (by default that of temporary files). The realm's rules and the embedded store are the
//! real ones; only the time is simulated.

#![allow(clippy::cast_precision_loss, reason = "figures are for reading")]

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use merpati::{
    crypto::{PublicKey, SecretKey},
    realm::{
        AnswerLimits, Caller, Limits, Moment, Network, Origin, Pass, Peering, Rates, Realm,
        RealmIdentity, Registration, Retention, Secrecy,
    },
    store::Embedded,
    wire::{
        Answer, Body, Command, Operation, Options, Password, Request, SessionRef, Text, command,
    },
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::ChaCha20Rng};

/// Any error ends the simulation.
type Failed = Box<dyn std::error::Error + Send + Sync>;

const USERS: usize = 100;
const MESSAGES_A_DAY: usize = 10;
const GROUPS: usize = 10;
const HOURS: usize = 24;
const HOUR: u32 = 3600;
/// The days on which some users are away.
const AWAY_DAYS: std::ops::Range<usize> = 100..220;
/// One user in this many is away for a third of the year, and reads nothing meanwhile.
const AWAY: usize = 10;
const MIB: f64 = 1024.0 * 1024.0;

struct Arguments {
    days: usize,
    svg: Option<PathBuf>,
    data: Option<PathBuf>,
}

impl Arguments {
    fn read() -> Result<Self, String> {
        let mut read = Self {
            days: 365,
            svg: None,
            data: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" => {}
                "--days" => {
                    let text = value()?;
                    read.days = text
                        .parse()
                        .map_err(|_| format!("{text:?} is no number of days"))?;
                }
                "--svg" => read.svg = Some(value()?.into()),
                "--data" => read.data = Some(value()?.into()),
                _ => return Err(format!("{argument:?} is unknown: --days, --svg, --data")),
            }
        }
        Ok(read)
    }
}

struct User {
    device: PublicKey,
    name: String,
    number: u64,
    is_away: bool,
}

struct World {
    realm: Arc<Realm<Embedded>>,
    users: Vec<User>,
    rng: ChaCha20Rng,
    seconds: u32,
    sent: usize,
}

impl World {
    async fn new(data: &Path, retention: Retention) -> Result<Self, Failed> {
        let store = Embedded::open(data)?;
        let key = SecretKey::from_bytes([9; 32]);
        let own = RealmIdentity {
            id: "year".parse()?,
            secret: key.clone(),
            former: Vec::new(),
            peering: Peering::Closed,
            registration: Registration::Open,
            addresses: vec![("192.0.2.1".into(), 6377)],
            operator_code: "a code of sixteen".into(),
        };
        let rates = Rates::UNLIMITED;
        let limits = Limits {
            rates,
            ..Limits::default()
        };
        let (network, _) = Network::new();
        let realm = Arc::new(Realm::new(store, &key, own, limits, network, [1; 32])?);
        realm.policy().begin_keeping(Some(retention)).await;
        let mut world = Self {
            realm,
            users: Vec::new(),
            rng: ChaCha20Rng::seed_from_u64(1),
            seconds: 1000,
            sent: 0,
        };
        for n in 0..USERS {
            let mut device = [0; 32];
            world.rng.fill_bytes(&mut device);
            world.users.push(User {
                device: PublicKey(device),
                name: format!("user{n}"),
                number: 0,
                is_away: n % AWAY == 0,
            });
            world.sign_up(n).await?;
        }
        Ok(world)
    }

    /// Registers a user, who joins a group. The first user of each group makes it.
    async fn sign_up(&mut self, n: usize) -> Result<(), Failed> {
        let name = self.users[n].name.clone();
        let group = format!("group{}", n % GROUPS);
        let operation = self.next(n);
        self.ask(
            n,
            Command::Register(command::Register {
                operation,
                full_name: Text("Some One"),
                country: Text("id"),
                username: name.parse()?,
                password: Password(b"correct horse"),
            })
            .into(),
        )
        .await;
        let (operation, session) = (self.next(n), SessionRef::Bound);
        let (group, password) = (group.parse()?, Password(b""));
        let command = if n < GROUPS {
            Command::AddGroup(command::AddGroup {
                operation,
                session,
                group,
                password,
            })
        } else {
            Command::JoinGroup(command::JoinGroup {
                operation,
                session,
                group,
                password,
            })
        };
        self.ask(n, command.into()).await;
        Ok(())
    }

    fn next(&mut self, n: usize) -> Operation {
        self.users[n].number += 1;
        Operation::new(self.users[n].number, [7; 2])
    }

    const fn now(&self) -> Moment {
        Moment {
            wall: 1_800_000_000 + self.seconds,
            running: self.seconds,
            micros: self.seconds as u64 * 1_000_000,
        }
    }

    async fn ask(&self, n: usize, request: Request<'_>) -> Answer {
        let caller = Caller {
            origin: Origin::Sealed {
                device: self.users[n].device,
                own: self.realm.own().key(),
            },
            subnet: std::net::IpAddr::from([192, 0, 2, 7]).into(),
            secrecy: Secrecy::Forward,
            answer_limits: AnswerLimits {
                inline: 1100,
                total: 64 << 10,
            },
            trusts_cursors: true,
            asks_account: false,
            now: self.now(),
        };
        let handled = self.realm.handle(&caller, &request.to_bytes()).await;
        let answer = handled.expect("no answer is that long").answer;
        Answer::parse(&answer).expect("a realm answers what can be read")
    }

    /// Writes the messages of one user.
    async fn write(&mut self, n: usize) -> Result<(), Failed> {
        // Compressible data may be encrypted one day, so these texts hardly compress.
        let text: String = (0..self.rng.random_range(10..60))
            .map(|_| char::from(self.rng.random_range(b' '..=b'~')))
            .collect();
        let to = self.users[self.rng.random_range(0..USERS)].name.parse()?;
        let (operation, session, message) =
            (self.next(n), SessionRef::Bound, Body(text.as_bytes()));
        let command = if self.rng.random_bool(0.3) {
            Command::SendGroup(command::SendGroup {
                operation,
                session,
                group: format!("group{}", n % GROUPS).parse()?,
                message,
            })
        } else {
            Command::Send(command::Send {
                operation,
                session,
                to,
                message,
            })
        };
        let answer = self.ask(n, command.into()).await;
        assert!(matches!(answer, Answer::Sent(_)), "{answer:?}");
        self.sent += 1;
        Ok(())
    }

    /// Reads all messages of one user, and confirms them.
    async fn read(&self, n: usize) -> Result<(), Failed> {
        let group = format!("group{}", n % GROUPS).parse()?;
        let session = SessionRef::Bound;
        for command in [
            Command::Inbox(command::Inbox { session }),
            Command::InboxGroup(command::InboxGroup { session, group }),
        ] {
            let mut after = None;
            loop {
                let options = Options {
                    after,
                    bytes: Some(60 << 10),
                    ..Options::NONE
                };
                let request = Request {
                    options,
                    command: command.clone(),
                };
                let Answer::Page(page) = self.ask(n, request).await else {
                    return Err("a mailbox cannot be read".into());
                };
                let Some(last) = page.entries.last() else {
                    break;
                };
                after = Some(last.position.0);
            }
        }
        Ok(())
    }

    /// Logs a user in again whose session has expired meanwhile.
    async fn come_back(&mut self, n: usize) -> Result<(), Failed> {
        let (operation, name) = (self.next(n), self.users[n].name.clone());
        let command = Command::Auth(command::Auth {
            operation,
            username: name.parse()?,
            password: Password(b"correct horse"),
        });
        let answer = self.ask(n, command.into()).await;
        assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
        Ok(())
    }

    async fn day(&mut self, day: usize) -> Result<(), Failed> {
        let is_away = AWAY_DAYS.contains(&day);
        if day == AWAY_DAYS.end {
            for n in (0..USERS).step_by(AWAY) {
                self.come_back(n).await?;
            }
        }
        for hour in 0..HOURS {
            for n in 0..USERS {
                let away = is_away && self.users[n].is_away;
                if !away && self.rng.random_range(0..HOURS) < MESSAGES_A_DAY {
                    self.write(n).await?;
                }
                if !away && hour % 8 == n % 8 {
                    self.read(n).await?;
                }
            }
            self.seconds += HOUR;
            let mut next = Some(Pass::BEGIN);
            while let Some(pass) = next {
                next = self.realm.tidy(pass, &|| self.now()).await;
            }
        }
        Ok(())
    }
}

/// The size of the store on disk, in bytes.
#[derive(Clone, Copy, Default)]
struct Size {
    all: u64,
    /// The size of the tables. The rest is the journal. It is rewritten as it fills, so its size
    /// does not depend on the number of messages.
    tables: u64,
}

impl Size {
    /// Returns the size of all files in a directory.
    fn of(directory: &Path) -> io::Result<Self> {
        let is_tables = directory.ends_with("tables");
        let mut size = Self::default();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // The storage engine may delete files meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if metadata.is_dir() {
                let inner = Self::of(&entry.path()).unwrap_or_default();
                size.all += inner.all;
                size.tables += inner.tables;
            } else {
                size.all += metadata.len();
                size.tables += if is_tables { metadata.len() } else { 0 };
            }
        }
        Ok(size)
    }
}

/// Plays the days. Returns the size of the store after each, and the number of messages sent.
fn play(arguments: &Arguments, retention: Retention) -> Result<(Vec<Size>, usize), Failed> {
    let directory = match &arguments.data {
        Some(data) => tempfile::tempdir_in(data)?,
        None => tempfile::tempdir()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut world = World::new(directory.path(), retention).await?;
        let mut sizes = Vec::with_capacity(arguments.days);
        for day in 0..arguments.days {
            world.day(day).await?;
            sizes.push(Size::of(directory.path())?);
        }
        Ok((sizes, world.sent))
    })
}

/// Draws the curves: the whole of each store, and thinner its tables.
fn drawn(kept: &[Size], forever: &[Size]) -> String {
    let (width, height, left, bottom) = (720.0, 320.0, 60.0, 40.0);
    let all = kept.iter().chain(forever).map(|size| size.all);
    let most = all.max().unwrap_or(1) as f64;
    let days = kept.len().max(2) - 1;
    let x = |day: usize| left + (width - left - 150.0) * day as f64 / days as f64;
    let y = |bytes: f64| height - bottom - (height - bottom - 30.0) * bytes / most;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{left}\" y=\"16\" fill=\"#222\">A store on the disk: 100 users who write 10 messages a day each</text>\n"
    );
    for part in 0..=4 {
        let bytes = most * f64::from(part) / 4.0;
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" x2=\"{:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\" fill=\"#555\">{3:.0} MiB</text>",
            x(days),
            left - 6.0,
            y(bytes),
            bytes / MIB
        );
    }
    for day in (0..=days).step_by(90) {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">day {day}</text>",
            x(day),
            height - bottom + 18.0
        );
    }
    let all = |size: &Size| size.all;
    let tables = |size: &Size| size.tables;
    let mut labels: Vec<f64> = Vec::new();
    for (sizes, of, color, thick, name) in [
        (
            forever,
            all as fn(&Size) -> u64,
            "#b5651d",
            2.0,
            "for ever, all of it",
        ),
        (kept, all, "#1d5fb5", 2.0, "90 days, all of it"),
        (forever, tables, "#b5651d", 1.0, "for ever, tables"),
        (kept, tables, "#1d5fb5", 1.0, "90 days, tables"),
    ] {
        let mut line = String::new();
        for (day, size) in sizes.iter().enumerate() {
            let _ = write!(line, "{:.1},{:.1} ", x(day), y(of(size) as f64));
        }
        let last = sizes.last().map(of).unwrap_or_default() as f64;
        // Labels that would overlap are moved down.
        let mut at = y(last) + 4.0;
        while let Some(other) = labels.iter().find(|other| (**other - at).abs() < 13.0) {
            at = other + 13.0;
        }
        labels.push(at);
        let _ = writeln!(
            out,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{thick}\"/>\
             <text x=\"{:.1}\" y=\"{at:.1}\" fill=\"{color}\">{name}</text>",
            x(days) + 6.0
        );
    }
    out + "</svg>\n"
}

fn main() -> Result<(), Failed> {
    let arguments = Arguments::read()?;
    // Each simulation has a thread of its own, because no time is measured.
    let (kept, forever) = thread::scope(|scope| {
        let forever = scope.spawn(|| play(&arguments, Retention::FOREVER));
        let kept = play(&arguments, Retention::DEFAULT);
        (kept, forever.join())
    });
    let (kept, sent) = kept?;
    let (forever, _) = forever.map_err(|_| "a thread has panicked")??;
    println!("{sent} messages in {} days", kept.len());
    println!("{:>6} {:>22} {:>22}", "", "90 days", "for ever");
    println!(
        "{:>6} {1:>11}{2:>11} {1:>11}{2:>11}",
        "day", "all", "tables"
    );
    for (day, (kept, forever)) in kept.iter().zip(&forever).enumerate() {
        if (day + 1) % 15 == 0 || day + 1 == arguments.days {
            let mib = |bytes: u64| bytes as f64 / MIB;
            println!(
                "{:>6} {:>7.1} MiB{:>7.1} MiB {:>7.1} MiB{:>7.1} MiB",
                day + 1,
                mib(kept.all),
                mib(kept.tables),
                mib(forever.all),
                mib(forever.tables)
            );
        }
    }
    if let (Some(first), true) = (kept.get(120..150), kept.len() > 300) {
        let last = &kept[kept.len() - 30..];
        for (what, of) in [
            ("all", (|size| size.all) as fn(&Size) -> u64),
            ("tables", |size| size.tables),
        ] {
            let most = |sizes: &[Size]| sizes.iter().map(of).max().unwrap_or(1) as f64;
            println!(
                "{what}: the largest of the last 30 days is {:.2} of the largest of days 121 to 150",
                most(last) / most(first)
            );
        }
    }
    if let Some(svg) = &arguments.svg {
        fs::write(svg, drawn(&kept, &forever))?;
    }
    Ok(())
}
