//! A realm with several workers behind one listener: no client notices to which of them its
//! datagrams come.

mod support;

use merpati::client::{Client, Options, Profile, system_rng};
use support::{Home, relay::Relay};

const WORKERS: &str = "[limits]\nworkers = 4\nhandshakes_per_subnet = \"unlimited\"";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// LINK-18: after each change of its address, a client's packets arrive at some worker, mostly not
/// the one that has its link. The link is found.
#[test]
fn migration_with_several_workers_finds_link() {
    let home = Home::new();
    let realm = home.realm_as(WORKERS);
    let relay = Relay::to(realm.address);
    home.register("ann", &realm.connect_through(relay.address));
    let profile = Profile::open(
        home.profile("ann").parent().unwrap(),
        "ann",
        &mut system_rng().unwrap(),
    )
    .unwrap();
    let client = Client::open(profile, Options::default()).unwrap();
    let ann = "ann".parse().unwrap();
    runtime().block_on(async {
        client.whoami().await.unwrap();
        let _ = relay.take_carried();
        for n in 0..40 {
            relay.move_on();
            client
                .send(ann, format!("message {n}").as_str())
                .await
                .unwrap();
        }
    });
    // The link moves with the client. A lost link would have been opened anew.
    let handshakes = relay
        .take_carried()
        .iter()
        .filter(|one| {
            matches!(
                merpati::wire::Packet::parse(&one.bytes),
                Ok(merpati::wire::Packet::Init(_))
            )
        })
        .count();
    assert_eq!(handshakes, 0);
    let wanted: Vec<String> = (0..40).map(|n| format!("message {n}")).collect();
    assert_eq!(home.texts("ann"), wanted);
}

/// PEER-1: requests about other realms belong to the primary worker, whichever worker receives
/// them.
#[test]
fn peering_with_several_workers_delivers() {
    let home = Home::new();
    let config = |name| format!("{WORKERS}\n[realm]\nid = \"{name}\"\npeering = \"open\"");
    let (alpha, beta) = (
        home.realm_as(&config("alpha")),
        home.realm_as(&config("beta")),
    );
    home.register("ann", &alpha.connect);
    home.register("bob", &beta.connect);
    let code = alpha.data().join("operator-code");
    let claim = ["claim", "--password-file", code.to_str().unwrap()];
    home.run("ann", &claim).ok();
    let port = beta.address.port().to_string();
    let (_, key) = beta.connect.split_once('#').unwrap();
    let added = home.run(
        "ann",
        &[
            "addrealm",
            "beta",
            "127.0.0.1",
            &port,
            "-",
            "-",
            "--key",
            key,
        ],
    );
    assert_eq!(added.ok()["state"], "accepted");
    for n in 0..10 {
        let (there, back) = (format!("there {n}"), format!("back {n}"));
        let sent = home.run("ann", &["sendrealm", "beta", "bob", &there]);
        assert_eq!(sent.ok()["state"], "delivered");
        let sent = home.run("bob", &["sendrealm", "alpha", "ann", &back]);
        assert_eq!(sent.ok()["state"], "delivered");
    }
    let all = |what: &str| -> Vec<String> { (0..10).map(|n| format!("{what} {n}")).collect() };
    assert_eq!(home.texts("bob"), all("there"));
    assert_eq!(home.texts("ann"), all("back"));
}

/// A port that another realm listens on is refused, although workers share theirs.
#[test]
fn workers_second_realm_on_same_address_is_refused() {
    let home = Home::new();
    let realm = home.realm_as(WORKERS);
    let other = tempfile::tempdir().unwrap();
    let run = support::finished(support::program().current_dir(other.path()).args([
        "serve",
        "--listen",
        &realm.address.to_string(),
    ]));
    assert_eq!(run.code, Some(5), "{}", run.err);
    assert!(run.err.contains("cannot listen"), "{}", run.err);
}
