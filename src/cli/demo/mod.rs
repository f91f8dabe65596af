//! `merpati demo`: two real realms, three users and links that lose many datagrams, all on this
//! machine. It shows in a minute what the program does.

// The model is the simulator's, which the library holds only in its tests.
#[path = "../../simulation/path.rs"]
mod path;
mod relay;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use merpati::{
    client::{Client, LinkParameters, Options, Profile, RealmAddress, system_rng},
    server::{Config, Server},
    wire::{GroupName, Mailbox, Peered, Position, RealmId, Username},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use relay::{Air, Carried, Relay};

use super::{
    args::Demo,
    output::{Failure, print_line},
};

const PASSWORD: &[u8] = b"correct horse";
/// The longest time for one command, and for the wait for all messages at the end.
const PATIENCE: Duration = Duration::from_mins(2);
/// The time of the summary if a demonstration takes longer.
const SUMMARY_AFTER: Duration = Duration::from_secs(12);
/// The pause before a mailbox is read again.
const PAUSE: Duration = Duration::from_millis(200);

/// A directory that is removed at the end of the demonstration.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // If this fails, the directory is still among temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The simulated links, and the clients that use them.
struct Stage {
    air: Arc<Air>,
    ann: Client,
    bob: Client,
    cat: Client,
    beta: SocketAddr,
}

/// Runs the demonstration.
pub fn demo(args: &Demo) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The seed is short enough to type again.
    let seed = match args.seed {
        Some(seed) => seed,
        None => u64::from(system_rng()?.next_u32()),
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let directory = Directory(
        std::env::temp_dir().join(format!("merpati-demo-{:08x}", system_rng()?.next_u32())),
    );
    let making = format!("make the directory {}", directory.0.display());
    fs::create_dir_all(&directory.0).map_err(Failure::cannot(making))?;
    let air_rng = StdRng::seed_from_u64(rng.next_u64());
    let air = Arc::new(Air::new(args.loss, args.rtt / 2, args.verbose, air_rng));
    print_line(&format!(
        "Two realms, alpha and beta; ann lives in alpha, bob and cat in beta. Every\n\
         datagram between them goes through a link that loses {:.0} % each way and takes\n\
         {:?} there and back. {}\n\
         The same losses again: --seed {seed}\n",
        args.loss * 100.0,
        args.rtt,
        if args.verbose {
            "Each is shown."
        } else {
            "--verbose shows each of them."
        },
    ))?;
    runtime.block_on(play(&directory.0, air))
}

/// Starts a realm behind a relay.
async fn start(
    directory: &Path,
    name: &'static str,
    air: &Arc<Air>,
) -> Result<(Server, Relay), Failure> {
    let relay = Relay::bind().await?;
    let text = format!(
        "[realm]\nid = \"{name}\"\npeering = \"open\"\n[[listen]]\naddress = \"127.0.0.1:0\"\nadvertise = \"{}\"\n",
        relay.address
    );
    let mut config = Config::parse(&text).map_err(Failure::local)?;
    config.store.path = directory.join(name);
    let server = Server::start(&config).map_err(Failure::local)?;
    let address = server.addresses().first().copied();
    relay.carry_to(
        address.ok_or_else(|| Failure::local(format!("the realm {name} listens nowhere")))?,
        name,
        air,
    );
    Ok((server, relay))
}

fn client(directory: &Path, name: &str, server: &Server, rtt: Duration) -> Result<Client, Failure> {
    let profile = Profile::open(&directory.join("profiles"), name, &mut system_rng()?)?;
    let options = Options {
        server: server.connection_string(),
        deadline: PATIENCE,
        link: LinkParameters {
            rtt: Some(rtt),
            ..LinkParameters::default()
        },
        ..Options::default()
    };
    Ok(Client::open(profile, options)?)
}

async fn play(directory: &Path, air: Arc<Air>) -> Result<(), Failure> {
    let (alpha, _front) = start(directory, "alpha", &air).await?;
    let (beta, behind) = start(directory, "beta", &air).await?;
    // The round trip is given as `--link` gives it, so that the client need not measure it first.
    let rtt = air.delay * 2;
    let stage = Stage {
        ann: client(directory, "ann", &alpha, rtt)?,
        bob: client(directory, "bob", &beta, rtt)?,
        cat: client(directory, "cat", &beta, rtt)?,
        beta: behind.address,
        air,
    };
    let code = directory.join("alpha").join("operator-code");
    let reading = format!("read {}", code.display());
    let code = fs::read_to_string(code).map_err(Failure::cannot(reading))?;
    let beta_key = beta.key();
    let realms = [
        tokio::spawn(alpha.run(std::future::pending())),
        tokio::spawn(beta.run(std::future::pending())),
    ];
    let outcome = tokio::select! {
        outcome = stage.acts(&code, beta_key) => outcome,
        failure = stage.so_far() => Err(failure),
    };
    for realm in realms {
        realm.abort();
    }
    outcome
}

impl Stage {
    /// Executes one step: prints the action, its result, and its cost.
    async fn step<T, E: Into<Failure>>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, E>>,
        said: impl FnOnce(&T) -> String,
    ) -> Result<T, Failure> {
        let (before, began) = (self.air.carried(), self.air.began.elapsed());
        if self.air.is_shown() {
            print_line(&format!("{:>9.3}  {what}", began.as_secs_f64()))?;
        }
        let result = call.await.map_err(Into::into)?;
        let (now, after) = (self.air.began.elapsed(), self.air.carried());
        print_line(&format!(
            "{:>7.1} s  {what}: {}\n           {:.0} ms, {} datagrams, {} lost, {} bytes",
            now.as_secs_f64(),
            said(&result),
            now.saturating_sub(began).as_secs_f64() * 1000.0,
            after.datagrams - before.datagrams,
            after.lost - before.lost,
            after.bytes - before.bytes,
        ))?;
        Ok(result)
    }

    /// Prints one summary if the demonstration takes long. Returns only on a failure.
    async fn so_far(&self) -> Failure {
        tokio::time::sleep(SUMMARY_AFTER.saturating_sub(self.air.began.elapsed())).await;
        let Carried {
            datagrams, lost, ..
        } = self.air.carried();
        let text = format!(
            "{:>7.1} s  so far {datagrams} datagrams, {lost} of them lost; it goes on until all has arrived",
            self.air.began.elapsed().as_secs_f64()
        );
        match print_line(&text) {
            Ok(()) => std::future::pending().await,
            Err(failure) => failure,
        }
    }

    async fn acts(&self, code: &str, beta_key: merpati::crypto::PublicKey) -> Result<(), Failure> {
        let name = |text: &str| text.parse::<Username>().map_err(Failure::local);
        let realm = |text: &str| text.parse::<RealmId>().map_err(Failure::local);
        let (ann, bob, cat) = (name("ann")?, name("bob")?, name("cat")?);
        let (alpha, beta) = (realm("alpha")?, realm("beta")?);
        let cats: GroupName = "cats".parse().map_err(Failure::local)?;
        let text = |done: &'static str| move |(): &()| done.to_string();
        let call = async {
            tokio::try_join!(
                self.ann.register("Ann", "id", ann, PASSWORD),
                self.bob.register("Bob", "id", bob, PASSWORD),
                self.cat.register("Cat", "id", cat, PASSWORD),
            )
        };
        let what = "ann registers at alpha, bob and cat at beta";
        let said = |_: &_| "registered".into();
        Box::pin(self.step(what, call, said)).await?;
        let call = self.ann.claim(code.trim().as_bytes());
        self.step("ann becomes alpha's operator", call, text("done"))
            .await?;
        let host = self.beta.ip().to_string();
        let address = RealmAddress {
            host: &host,
            port: self.beta.port(),
        };
        let call = self.ann.addrealm(beta, address, None, Some(beta_key));
        let said = |peered: &Peered| match peered {
            Peered::Accepted => "accepted".into(),
            Peered::Queued => "recorded; asked again until accepted".into(),
        };
        self.step("ann peers alpha with beta", call, said).await?;
        for n in 1..=3 {
            let message = format!("message {n} to bob");
            let call = self.ann.sendrealm(None, beta, ann, bob, message.as_bytes());
            let what = format!("ann writes to bob in beta: {message}");
            self.step(&what, call, |sent| sent.name().into()).await?;
        }
        let call = self.bob.send(cat, b"a word next door");
        self.step("bob writes to cat, in his own realm", call, |sent| {
            sent.name().into()
        })
        .await?;
        let call = self.ann.addgroup(cats, b"");
        self.step("ann makes the group cats in alpha", call, text("made"))
            .await?;
        let call = self.bob.joingrouprealm(None, alpha, cats, b"");
        self.step("bob joins it from beta", call, text("joined"))
            .await?;
        let call = self
            .bob
            .sendgrouprealm(None, alpha, cats, b"hello from beta");
        self.step("bob writes to the group", call, |sent| sent.name().into())
            .await?;
        let call = self.ann.sendgroup(cats, b"hello from alpha");
        self.step("ann writes to the group", call, |sent| sent.name().into())
            .await?;
        print_line("\nEverybody reads until all has arrived:")?;
        self.air.hide();
        let wanted = ["message 1 to bob", "message 2 to bob", "message 3 to bob"];
        let mut nothing_wrong = self
            .expect("bob's inbox", &self.bob, Mailbox::Private, &wanted)
            .await?;
        let wanted = ["a word next door"];
        nothing_wrong &= self
            .expect("cat's inbox", &self.cat, Mailbox::Private, &wanted)
            .await?;
        let group = Mailbox::Group(cats);
        let wanted = ["hello from alpha", "hello from beta"];
        let ordered = self
            .until(&self.ann, group, |texts| sorted(texts) == wanted)
            .await?;
        print_line(&format!("  the group in alpha: {}", ordered.join(" | ")))?;
        // Messages have the same order in the replica, whichever came first.
        let wanted: Vec<&str> = ordered.iter().map(String::as_str).collect();
        nothing_wrong &= sorted(&ordered) == ["hello from alpha", "hello from beta"];
        let copy = Mailbox::RealmGroup(alpha, cats);
        nothing_wrong &= self
            .expect("its copy in beta", &self.bob, copy, &wanted)
            .await?;
        let Carried {
            datagrams,
            lost,
            bytes,
        } = self.air.carried();
        let seconds = self.air.began.elapsed().as_secs_f64();
        print_line(&format!(
            "\n{datagrams} datagrams, {lost} of them lost, {bytes} bytes, {seconds:.1} s."
        ))?;
        if nothing_wrong {
            print_line("Nothing lost, nothing doubled, everything in order.")
        } else {
            Err(Failure::local(
                "something was lost or doubled: please report this, with the seed that is printed at the top",
            ))
        }
    }

    /// Reads a mailbox until it has the wanted messages, and prints them.
    async fn expect(
        &self,
        what: &str,
        reader: &Client,
        mailbox: Mailbox,
        wanted: &[&str],
    ) -> Result<bool, Failure> {
        let texts = self.until(reader, mailbox, |texts| texts == wanted).await?;
        print_line(&format!("  {what}: {}", texts.join(" | ")))?;
        Ok(texts == wanted)
    }

    /// Reads a mailbox until it has the wanted messages, or until the time is over.
    async fn until(
        &self,
        reader: &Client,
        mailbox: Mailbox,
        is_right: impl Fn(&[String]) -> bool,
    ) -> Result<Vec<String>, Failure> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let entries = reader
                .read_whole(mailbox, Some(Position(0)), usize::MAX)
                .await?;
            let bodies = entries
                .iter()
                .map(|entry| String::from_utf8_lossy(&entry.body));
            let texts: Vec<String> = bodies.map(Into::into).collect();
            if is_right(&texts) || std::time::Instant::now() >= deadline {
                return Ok(texts);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn sorted(texts: &[String]) -> Vec<&str> {
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    texts.sort_unstable();
    texts
}
