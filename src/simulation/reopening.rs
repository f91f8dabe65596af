//! Tests of a real server whose store fails while it serves: the same process opens the store
//! again, examines it and serves on. The tests are here and not in the server because they need a
//! client.

use std::{path::Path, thread, time::Duration};

use tempfile::TempDir;
use tokio::{runtime::Builder, sync::watch};

use crate::{
    client::{Client, Options, Profile, system_rng},
    crypto::SecretKey,
    server::{Config, Server, ServerError},
    store::{OpenError, fail_next_sync, hold_closing, panic_at_next_write},
    wire::{Mailbox, Position, Username},
};

/// A server on a thread, with the means to stop it and a client.
struct Serving {
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<Result<(), ServerError>>,
    client: Client,
}

fn config(directory: &TempDir, more: &str) -> Config {
    let text = format!("[[listen]]\naddress = \"127.0.0.1:0\"\n{more}");
    let mut config = Config::parse(&text).unwrap();
    config.store.path = directory.path().join("data");
    config.store.reserve.0 = 0;
    config
}

fn serve(directory: &TempDir) -> Serving {
    serve_as(directory, config(directory, ""), |_| {})
}

/// Starts a server. `planted` changes the data directory once the store is open.
fn serve_as(directory: &TempDir, config: Config, planted: impl Fn(&Path)) -> Serving {
    let server = Server::start(&config).unwrap();
    planted(&config.store.path);
    let options = Options {
        server: server.connection_string(),
        deadline: Duration::from_mins(5),
        ..Options::default()
    };
    let profiles = directory.path().join("profiles");
    let profile = Profile::open(&profiles, "ann", &mut system_rng().unwrap()).unwrap();
    let client = Client::open(profile, options).unwrap();
    let (stop, stopped) = watch::channel(false);
    let thread = thread::spawn(move || server.serve(&config, &stopped));
    Serving {
        stop,
        thread,
        client,
    }
}

/// Registers the user of the client.
async fn register(client: &Client) -> Username {
    let ann = "ann".parse().unwrap();
    let registering = client.register("A", "id", ann, b"correct horse");
    registering.await.unwrap();
    ann
}

async fn texts(client: &Client) -> Vec<Vec<u8>> {
    let read = client.read_whole(Mailbox::Private, Some(Position(0)), usize::MAX);
    let entries = read.await.unwrap();
    entries.into_iter().map(|one| one.entry.body).collect()
}

/// ERR-1, EXACT-6: if a commit fails, the outcome of its message is unknown to the sender, who
/// repeats it. The server opens its store again at the same address by itself, and the message is
/// there once. The same holds if the writing thread panicked.
#[tokio::test(flavor = "multi_thread")]
async fn store_reopen_after_failed_sync_stores_message_once() {
    let directory = tempfile::tempdir().unwrap();
    let Serving {
        stop,
        thread,
        client,
    } = serve(&directory);
    let data = directory.path().join("data");
    let ann = register(&client).await;
    for (text, plant) in [
        ("one", fail_next_sync as fn(&Path)),
        ("two", panic_at_next_write),
        ("three", fail_next_sync),
    ] {
        plant(&data);
        client.send(ann, text.as_bytes()).await.unwrap();
    }
    assert_eq!(texts(&client).await, [&b"one"[..], b"two", b"three"]);
    drop(client);
    stop.send_replace(true);
    thread.join().unwrap().unwrap();
}

/// If the engine takes long to close, the server waits for it. Each try records anew that the store
/// is not trusted.
#[tokio::test(flavor = "multi_thread")]
async fn store_reopen_waits_for_engine_that_closes_late() {
    let directory = tempfile::tempdir().unwrap();
    let Serving {
        stop,
        thread,
        client,
    } = serve(&directory);
    let data = directory.path().join("data");
    let ann = register(&client).await;
    let hold = hold_closing(&data);
    fail_next_sync(&data);
    let noted = data.join("store.distrusted");
    let waited = tokio::task::spawn_blocking(move || {
        // The record is written when the write fails, before the first try, and before the second.
        for _ in 0..3 {
            while !noted.exists() {
                assert!(!thread.is_finished(), "the server has ended");
                thread::yield_now();
            }
            std::fs::remove_file(&noted).unwrap();
        }
        drop(hold);
        thread
    });
    let sending = async {
        client.send(ann, b"late").await.unwrap();
        Ok(())
    };
    let (thread, ()) = tokio::try_join!(waited, sending).unwrap();
    assert_eq!(texts(&client).await, [&b"late"[..]]);
    drop(client);
    stop.send_replace(true);
    thread.join().unwrap().unwrap();
}

fn damage(data: &Path) {
    std::fs::write(data.join("store/version"), b"rotten").unwrap();
}

/// A damaged store is not served after it is opened again. The server ends and says why.
#[tokio::test(flavor = "multi_thread")]
async fn store_reopen_of_damaged_store_ends_server() {
    let directory = tempfile::tempdir().unwrap();
    let Serving {
        stop: _stop,
        thread,
        client,
    } = serve(&directory);
    let data = directory.path().join("data");
    damage(&data);
    fail_next_sync(&data);
    let ann = "ann".parse().unwrap();
    let registering = client.register("A", "id", ann, b"correct horse");
    let ended = tokio::task::spawn_blocking(move || thread.join().unwrap());
    let ended = tokio::select! {
        ended = ended => ended.unwrap(),
        answer = registering => panic!("{answer:?}"),
    };
    let Err(ServerError::Open(OpenError::Damaged { path, .. })) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(path, data.join("store/version"));
    // The next start does not trust the store either.
    assert!(data.join("store.distrusted").exists());
}

/// Returns the configuration of a peer.
fn peer() -> String {
    let key = SecretKey::generate(&mut system_rng().unwrap()).public();
    format!("[[peer]]\nrealm = \"beta\"\naddress = \"127.0.0.1:1\"\nkey = \"{key}\"\n")
}

/// A store that fails while the configured peers are listed is opened again, as at any other time.
#[tokio::test(flavor = "multi_thread")]
async fn store_reopen_after_failure_while_listing_peers_serves_on() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, &peer());
    let Serving {
        stop,
        thread,
        client,
    } = serve_as(&directory, config, fail_next_sync);
    register(&client).await;
    drop(client);
    stop.send_replace(true);
    thread.join().unwrap().unwrap();
}

/// A disk that is full at the start does not prevent a start, nor the listing of configured peers
/// that are stored already.
#[test]
fn disk_full_at_start_still_lists_configured_peers() {
    let directory = tempfile::tempdir().unwrap();
    let peer = peer();
    for (peer, reserve) in [("", 0), (&*peer, u64::MAX), (&peer, 0), (&peer, u64::MAX)] {
        let mut config = config(&directory, peer);
        config.store.reserve.0 = reserve;
        let server = Server::start(&config).unwrap();
        // Each server gets its own runtime, so that nothing of the server before is left.
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime
            .block_on(server.run(std::future::ready(())))
            .unwrap();
    }
}
