//! Realms that move, and realms that cannot be called: behind a translated address, or at none that
//! others know.

mod support;

use std::{fs, time::Instant};

use support::{Home, Realm};

/// An address without a realm.
const NOWHERE: &str = "127.0.0.9:9";

struct Pair {
    home: Home,
    alpha: Realm,
    beta: Realm,
}

impl Pair {
    /// Starts alpha with ann and beta with bob, who are both operators. `link` is in both
    /// configurations, `listen` is alpha's listener.
    fn new(workers: u32, link: &str, listen: &str) -> Self {
        let home = Home::new();
        let realm = |name: &str, listen: &str| {
            let config = home.directory.path().join(format!("{name}.toml"));
            let text = format!(
                "[limits]\nworkers = {workers}\n[link]\n{link}\n[realm]\nid = \"{name}\"\npeering = \"open\"\n[[listen]]\n{listen}\n"
            );
            fs::write(&config, text).unwrap();
            let realm = Realm::start_with(&["--config", config.to_str().unwrap()]);
            (name.to_string(), realm)
        };
        let (_, alpha) = realm("alpha", listen);
        let (_, beta) = realm("beta", "address = \"127.0.0.1:0\"");
        for (user, realm) in [("ann", &alpha), ("bob", &beta)] {
            home.register(user, &here(realm));
            let code = realm.data().join("operator-code");
            let claim = ["claim", "--password-file", code.to_str().unwrap()];
            home.run(user, &claim).ok();
        }
        Self { home, alpha, beta }
    }

    /// Lets `who` add `realm` under this name.
    fn add(&self, who: &str, name: &str, realm: &Realm) {
        let port = realm.address.port().to_string();
        let (_, key) = realm.connect.split_once('#').unwrap();
        let add = ["addrealm", name, "127.0.0.1", &port, "--key", key];
        assert_eq!(self.home.run(who, &add).ok()["state"], "accepted");
    }

    /// Sends a message each way and waits until both arrive.
    fn exchange(&self, text: &str) {
        for (from, realm, to) in [("ann", "beta", "bob"), ("bob", "alpha", "ann")] {
            let sent = self.home.run(from, &["sendrealm", realm, to, text]);
            sent.ok();
            let began = Instant::now();
            while self.home.texts(to).last().map(String::as_str) != Some(text) {
                assert!(
                    began.elapsed().as_secs() < 60,
                    "{text:?} does not reach {to}\n{}\n{}",
                    self.alpha.log(),
                    self.beta.log()
                );
            }
        }
    }

    /// Moves alpha to another port.
    fn move_alpha(&mut self) {
        let before = self.alpha.address;
        self.alpha.kill();
        self.alpha.start_again();
        let now = self.alpha.announced["listen"][0].as_str().unwrap();
        self.alpha.address = now.parse().unwrap();
        assert_ne!(self.alpha.address, before);
        let connect = here(&self.alpha);
        self.home.run("ann", &["--server", &connect, "whoami"]).ok();
    }
}

/// Returns a realm's connection string for this machine, whatever it advertises.
fn here(realm: &Realm) -> String {
    let (_, key) = realm.connect.split_once('#').unwrap();
    format!("merpati://127.0.0.1:{}#{key}", realm.address.port())
}

/// PEER-24: a realm that is not reachable at the address it claims receives its peer's requests on
/// the link that it has opened, whichever of eight workers has that link. It received nothing
/// except one time in eight.
#[test]
fn peer_without_reachable_address_is_asked_on_its_own_link() {
    let listen = format!("address = \"127.0.0.1:0\"\nadvertise = \"{NOWHERE}\"");
    let pair = Pair::new(8, "peer_idle = \"1s\"", &listen);
    pair.add("ann", "beta", &pair.beta);
    let peers = pair.home.run("bob", &["realms"]).objects();
    assert_eq!(
        peers[0]["address"], "-",
        "it has not answered where it says it is"
    );
    for text in ["one", "two", "three"] {
        pair.exchange(text);
    }
}

/// PEER-24: a realm that listens at all addresses and does not know by which others reach it claims
/// none. It claimed 127.0.0.1, which is the peer's own machine.
#[test]
fn claim_without_known_address_is_not_made() {
    let mut pair = Pair::new(4, "", "address = \"0.0.0.0:0\"");
    let connect = pair.alpha.announced["connect"].as_str().unwrap();
    assert!(connect.starts_with("merpati://127.0.0.1:"), "{connect}");
    pair.add("ann", "beta", &pair.beta);
    let peers = pair.home.run("bob", &["realms"]).objects();
    let told = peers[0]["address"].as_str().unwrap_or_default();
    assert!(!told.contains("127.0.0.1"), "{told}");
    pair.exchange("one");
    // Only alpha can open another link, and it does.
    pair.beta.kill();
    let address = pair.beta.address.to_string();
    let config = pair.home.directory.path().join("beta.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("127.0.0.1:0", &address)).unwrap();
    pair.beta.start_again();
    pair.exchange("two");
}

/// PEER-2, PEER-24: a realm that has moved to another address at a start is found there, whoever
/// has made the peering. It told its former address.
#[test]
fn claim_after_move_leads_peer_to_new_address() {
    for adds in ["ann", "bob"] {
        let link = "peer_idle = \"1s\"";
        let mut pair = Pair::new(2, link, "address = \"127.0.0.1:0\"");
        match adds {
            "ann" => pair.add(adds, "beta", &pair.beta),
            _ => pair.add(adds, "alpha", &pair.alpha),
        }
        pair.exchange("before");
        for n in 0..2 {
            pair.move_alpha();
            pair.exchange(&format!("after move {n}"));
        }
        let peers = pair.home.run("bob", &["realms"]).objects();
        assert_eq!(peers[0]["address"], pair.alpha.address.to_string());
    }
}
