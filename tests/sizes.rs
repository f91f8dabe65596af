//! Bytes and datagrams on the wire, counted by a relay between a real realm and a client, against the
//! sizes that `spec/README.md` promises (SIZE-1 … SIZE-5). Prints the table that stands there.

mod support;

use merpati::client::{Client, Options, Profile, system_rng};
use support::{
    Home, PASSWORD, Realm,
    relay::{Carried, Relay, Way},
};

/// Twenty bytes.
const TEXT: &[u8] = b"twenty bytes of text";

/// UDP payload bytes and datagrams in both directions.
fn cost(carried: &[Carried]) -> (usize, usize) {
    (
        carried.iter().map(|datagram| datagram.bytes.len()).sum(),
        carried.len(),
    )
}

fn client(home: &Home, connect: &str) -> Client {
    let directory = home.directory.path().join("profiles");
    let profile = Profile::open(&directory, "ann", &mut system_rng().unwrap()).unwrap();
    let options = Options {
        server: Some(connect.parse().unwrap()),
        ..Options::default()
    };
    Client::open(profile, options).unwrap()
}

#[tokio::test]
async fn exchanges_cost_what_the_spec_promises() {
    let mut realm = Realm::start();
    let relay = Relay::to(realm.address);
    let (home, connect) = (Home::new(), realm.connect_through(relay.address));
    let bob = "bob".parse().unwrap();
    let first = client(&home, &connect);
    first
        .register("Ann", "id", "ann".parse().unwrap(), PASSWORD.as_bytes())
        .await
        .unwrap();
    let other = Home::new();
    other.register("bob", &realm.connect);
    relay.take_carried();

    first.send(bob, TEXT).await.unwrap();
    let open = cost(&relay.take_carried());

    realm.kill();
    realm.start_again();
    first.send(bob, TEXT).await.unwrap();
    let restarted = relay.take_carried();
    let ways: Vec<_> = restarted.iter().map(|datagram| datagram.way).collect();
    let again = cost(&restarted);
    drop(first);

    let second = client(&home, &connect);
    second.send(bob, TEXT).await.unwrap();
    let nothing = cost(&relay.take_carried());

    println!(
        "send bob, 20 bytes, on an open link      {:>4} bytes, {} datagrams",
        open.0, open.1
    );
    println!(
        "the same from nothing                    {:>4} bytes, {} datagrams",
        nothing.0, nothing.1
    );
    println!(
        "the same after the realm has restarted   {:>4} bytes, {} datagrams",
        again.0, again.1
    );
    // SIZE-1
    assert!(open.0 <= 80, "{open:?}");
    assert_eq!(open.1, 2);
    // SIZE-2
    assert!(nothing.0 <= 260, "{nothing:?}");
    assert_eq!(nothing.1, 2);
    // SIZE-3: the packet that finds the link gone, the Reset, and the exchange: two round trips.
    assert!(again.0 <= 320, "{again:?}");
    assert_eq!(
        ways,
        [Way::ToRealm, Way::ToClient, Way::ToRealm, Way::ToClient]
    );
    assert_eq!(other.texts("bob").len(), 3);
    // SIZE-4: an idle link sends nothing. Nothing is due on either side, so nothing ever comes.
    assert!(relay.take_carried().is_empty());

    let mut watching = second.watch().await.unwrap();
    relay.take_carried();
    let text = core::str::from_utf8(TEXT).unwrap();
    other.run("bob", &["send", "ann", text]).ok();
    assert_eq!(watching.next().await.unwrap().1.body, TEXT);
    let mut carried = relay.take_carried();
    while carried.len() < 2 {
        tokio::task::yield_now().await;
        carried.extend(relay.take_carried());
    }
    let pushed = cost(&carried);
    println!(
        "pushed, 20 bytes, and acknowledged       {:>4} bytes, {} datagrams",
        pushed.0, pushed.1
    );
    // SIZE-5
    assert!(pushed.0 <= 85, "{pushed:?}");
    assert_eq!(pushed.1, 2);
}
