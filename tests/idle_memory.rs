//! Memory that an idle link holds. `cargo bench --bench size -- --only tables` measures what the
//! process takes for it, with what the allocator adds.

use std::{net::SocketAddr, time::Duration};

use merpati::{
    client::system_rng,
    crypto::SecretKey,
    endpoint::{AccountId, Config, EarlyData, Endpoint, Event, Handshakes},
    link::Time,
    wire::{Command, OperationNumber, Protection, Request, SessionRef, command},
};

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

/// Just enough links that the tables have grown: no number of links takes more for each.
const LINKS: u64 = 3_600;
/// The most bytes that an idle link may hold.
const EACH_MAX: usize = 1024;
/// After this time all links are dormant.
const UNTIL_DORMANT: Duration = Duration::from_mins(7);

fn realm(key: &SecretKey) -> Endpoint {
    let unlimited = Handshakes {
        all: "unlimited".parse().unwrap(),
        per_subnet: "unlimited".parse().unwrap(),
    };
    let config = Config {
        accept: Some(Protection::Sealed),
        handshakes: unlimited,
        ..Config::default()
    };
    Endpoint::new(config, &key.clone().into(), [1; 32])
}

/// Opens a link from a device of a user of its own, at an address of its own, which asks something
/// and is idle then.
fn open(realm: &mut Endpoint, key: &SecretKey, now: Time, n: u64) {
    let [.., a, b, c] = n.to_be_bytes();
    let from = SocketAddr::from(([11, a, b, c], 1000));
    let to = SocketAddr::from(([10, 0, 0, 1], 6377));
    let device = SecretKey::generate(&mut system_rng().unwrap());
    let mut client = Endpoint::new(Config::default(), &device.into(), [2; 32]);
    let link = client.connect(now, to, key.public(), None);
    let session = SessionRef::Bound;
    let command = Command::WhoAmI(command::WhoAmI { session });
    let deadline = now + Duration::from_mins(1);
    client.request(
        now,
        link,
        Request::from(command).to_bytes(),
        deadline,
        EarlyData::Forbidden,
    );
    let mut out = Vec::new();
    let mut is_quiet = false;
    while !is_quiet {
        is_quiet = true;
        while client.poll_transmit(now, &mut out).is_some() {
            realm.handle_datagram(now, from, &out);
            is_quiet = false;
        }
        while let Some(event) = realm.poll_event() {
            match event {
                Event::Incoming { link, .. } => {
                    let account = Some(AccountId::new(n + 1));
                    realm.welcome(now, link, account, OperationNumber(0));
                }
                Event::Request { link, number, .. } => realm.reply(now, link, number, vec![0; 8]),
                _ => {}
            }
        }
        while realm.poll_transmit(now, &mut out).is_some() {
            client.handle_datagram(now, to, &out);
            is_quiet = false;
        }
    }
}

/// An idle link of a device that is logged in holds at most a kibibyte, with its entries in all
/// tables.
#[test]
fn idle_link_holds_at_most_one_kibibyte() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get().curr_bytes;
    let key = SecretKey::generate(&mut system_rng().unwrap());
    let mut realm = realm(&key);
    let begin = Time(1_000_000);
    for n in 0..LINKS {
        open(&mut realm, &key, begin + Duration::from_micros(n), n);
    }
    let until = begin + UNTIL_DORMANT;
    let mut out = Vec::new();
    while let Some(due) = realm.poll_timeout().filter(|due| *due <= until) {
        realm.handle_timeout(due);
        while realm.poll_transmit(due, &mut out).is_some() {}
        while realm.poll_event().is_some() {}
    }
    let links = realm.links();
    assert_eq!(links as u64, LINKS);
    let each = (dhat::HeapStats::get().curr_bytes - before) / links;
    println!("an idle link holds {each} bytes");
    assert!(each <= EACH_MAX, "{each} bytes");
}
