//! Bytes and datagrams on the wire, counted by a relay between a real realm and a client, compared
//! to the sizes that `spec/README.md` promises (SIZE-1 … SIZE-8). Prints the table of that file.

mod support;

use support::{
    Home, PASSWORD, Realm,
    relay::{Carried, Relay, Way},
};

/// Maximum number of tries of each exchange.
const TRIES: usize = 20;
/// Twenty bytes.
const TEXT: &[u8] = b"twenty bytes of text";

/// Returns UDP payload bytes and datagrams in both directions.
fn cost(carried: &[Carried]) -> (usize, usize) {
    (
        carried.iter().map(|datagram| datagram.bytes.len()).sum(),
        carried.len(),
    )
}

#[tokio::test]
async fn size_of_exchanges_of_running_client_is_as_promised() {
    let mut realm = Realm::start();
    let relay = Relay::to(realm.address);
    let (home, connect) = (Home::new(), realm.connect_through(relay.address));
    let bob = "bob".parse().unwrap();
    let first = home.client("ann", &connect);
    first
        .register("Ann", "id", "ann".parse().unwrap(), PASSWORD.as_bytes())
        .await
        .unwrap();
    let other = Home::new();
    other.register("bob", &realm.connect);
    relay.take_carried();

    // A busy machine answers late and retransmits. The cost of an exchange is the least of some
    // tries.
    let mut sent = 0;
    let mut open = (usize::MAX, usize::MAX);
    while open.1 > 2 && sent < TRIES {
        first.send(bob, TEXT).await.unwrap();
        open = cost(&relay.take_carried());
        sent += 1;
    }

    let mut restarted = vec![];
    while restarted.len() != 4 && sent < 2 * TRIES {
        realm.kill();
        realm.start_again();
        first.send(bob, TEXT).await.unwrap();
        restarted = relay.take_carried();
        sent += 1;
    }
    let ways: Vec<_> = restarted.iter().map(|datagram| datagram.way).collect();
    let again = cost(&restarted);
    drop(first);

    println!(
        "send bob, 20 bytes, on an open link      {:>4} bytes, {} datagrams",
        open.0, open.1
    );
    println!(
        "the same after the realm has restarted   {:>4} bytes, {} datagrams",
        again.0, again.1
    );
    // SIZE-1: a message on an open link.
    assert!(open.0 <= 80, "{open:?}");
    assert_eq!(open.1, 2);
    // SIZE-3: the packet that finds the link gone, the Reset, and the exchange: two round trips.
    assert!(again.0 <= 320, "{again:?}");
    assert_eq!(
        ways,
        [Way::ToRealm, Way::ToClient, Way::ToRealm, Way::ToClient]
    );
    assert_eq!(other.texts("bob").len(), sent);
    // SIZE-4: an idle link sends nothing. Nothing is due on either side, so nothing ever comes.
    assert!(relay.take_carried().is_empty());

    let second = home.client("ann", &connect);
    let mut watching = second.watch().await.unwrap();
    let text = core::str::from_utf8(TEXT).unwrap();
    let mut pushed = (usize::MAX, usize::MAX);
    for _ in 0..TRIES {
        relay.take_carried();
        other.run("bob", &["send", "ann", text]).ok();
        assert_eq!(watching.next().await.unwrap().body, TEXT);
        let mut carried = relay.take_carried();
        while !carried.iter().any(|datagram| datagram.way == Way::ToRealm) {
            tokio::task::yield_now().await;
            carried.extend(relay.take_carried());
        }
        pushed = pushed.min(cost(&carried));
        if pushed.1 == 2 {
            break;
        }
    }
    println!(
        "pushed, 20 bytes, and acknowledged       {:>4} bytes, {} datagrams",
        pushed.0, pushed.1
    );
    // SIZE-5: a pushed message and its acknowledgement.
    assert!(pushed.0 <= 85, "{pushed:?}");
    assert_eq!(pushed.1, 2);
}

/// Exchanges of a process that has nothing but a profile: with a handshake, and resumed.
#[tokio::test]
async fn size_of_exchanges_of_fresh_process_is_as_promised() {
    let mut realm = Realm::start();
    let relay = Relay::to(realm.address);
    let (home, connect) = (Home::new(), realm.connect_through(relay.address));
    let bob = "bob".parse().unwrap();
    home.register("ann", &connect);
    let other = Home::new();
    other.register("bob", &realm.connect);
    let mut sent = 0;

    // A process without early data keeps no ticket. The next process performs a handshake, and the
    // one after it resumes.
    let (mut nothing, mut resumed) = ((usize::MAX, usize::MAX), (usize::MAX, usize::MAX));
    while nothing.1.max(resumed.1) > 2 && sent < 6 * TRIES {
        home.run("ann", &["--no-early-data", "whoami"]).ok();
        relay.take_carried();
        for cost_of in [&mut nothing, &mut resumed] {
            let client = home.client("ann", &connect);
            client.send(bob, TEXT).await.unwrap();
            *cost_of = cost(&relay.take_carried());
            sent += 1;
        }
    }
    let mut after = (usize::MAX, usize::MAX);
    while after.1 > 2 && sent < 8 * TRIES {
        realm.kill();
        realm.start_again();
        let client = home.client("ann", &connect);
        client.send(bob, TEXT).await.unwrap();
        after = cost(&relay.take_carried());
        sent += 1;
    }
    let mut read = (usize::MAX, usize::MAX);
    let text = core::str::from_utf8(TEXT).unwrap();
    for _ in 0..TRIES {
        other.run("bob", &["send", "ann", text]).ok();
        relay.take_carried();
        assert_eq!(home.run("ann", &["inbox"]).texts(), [text]);
        read = read.min(cost(&relay.take_carried()));
        if read.1 == 2 {
            break;
        }
    }

    println!(
        "the same from nothing                    {:>4} bytes, {} datagrams",
        nothing.0, nothing.1
    );
    println!(
        "the same from nothing, resumed           {:>4} bytes, {} datagrams",
        resumed.0, resumed.1
    );
    println!(
        "and that after the realm has restarted   {:>4} bytes, {} datagrams",
        after.0, after.1
    );
    println!(
        "a message of 20 bytes read, resumed      {:>4} bytes, {} datagrams",
        read.0, read.1
    );
    // SIZE-2: the exchange with a handshake.
    assert!(nothing.0 <= 226, "{nothing:?}");
    assert_eq!(nothing.1, 2);
    // SIZE-6: the resumed exchange.
    assert!(resumed.0 <= 100, "{resumed:?}");
    assert_eq!(resumed.1, 2);
    // SIZE-7: the exchange after a restart of the realm.
    assert!(after.0 <= 110, "{after:?}");
    assert_eq!(after.1, 2);
    // SIZE-8: a message read by resumption.
    assert!(read.0 <= 130, "{read:?}");
    assert_eq!(read.1, 2);
    assert_eq!(other.texts("bob").len(), sent);
}
