//! Fills a store like that of a large realm after years. `benches/full` measures a realm with it.

use std::{env, sync::Arc};

use super::*;

/// The number of users who write at the same time.
const AT_ONCE: u32 = 1024;

fn number(name: &str, unless_given: u32) -> u32 {
    env::var(name).map_or(unless_given, |text| text.parse().unwrap())
}

fn user(n: u32) -> String {
    format!("u{n}")
}

fn device_of(n: u32) -> PublicKey {
    let mut key = [7; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    PublicKey(key)
}

struct Realmful {
    realm: Realm<Embedded>,
    users: u32,
    each: u32,
}

impl Realmful {
    async fn ask(&self, n: u32, command: Command<'_>) {
        let caller = caller(Some(device_of(n)), MOMENT);
        let bytes = Request::from(command).to_bytes();
        let answer = self.realm.answer(&caller, &bytes).await;
        assert!(!Answer::is_refusal(&answer), "{answer:?}");
    }

    /// Registers every [`AT_ONCE`]th user.
    async fn register(self: Arc<Self>, first: u32) {
        for n in (first..self.users).step_by(AT_ONCE as usize) {
            self.ask(n, register(1, &user(n))).await;
        }
    }

    /// Sends each user's messages, to recipients all over the realm.
    async fn write(self: Arc<Self>, first: u32) {
        for n in (first..self.users).step_by(AT_ONCE as usize) {
            for message in 0..self.each {
                let to = n.wrapping_mul(2_654_435_761).wrapping_add(message * 7919) % self.users;
                let operation = u64::from(message) + 2;
                self.ask(n, send(operation, &user(to), "twenty bytes of text"))
                    .await;
            }
        }
    }
}

/// `MERPATI_FILL=directory cargo test --profile campaign --lib realm::tests::fill -- --ignored`
/// fills a store in that directory. `MERPATI_USERS` sets the number of users, and
/// `MERPATI_MESSAGES` the number of messages of each.
#[test]
#[ignore = "it fills a directory, and takes minutes"]
fn fill_creates_large_realm() {
    let directory = env::var("MERPATI_FILL").expect("MERPATI_FILL names the directory to fill");
    let store = Embedded::open(directory.as_ref()).unwrap();
    let unlimited = "unlimited".parse().unwrap();
    let mut limits = Limits {
        password_threads: 0,
        ..Limits::default()
    };
    limits.rates.commands = unlimited;
    limits.rates.registrations = unlimited;
    let identity = SecretKey::from_bytes([9; 32]);
    let own = RealmIdentity {
        id: "alpha".parse().unwrap(),
        secret: identity.clone(),
        former: vec![],
        peering: Peering::Closed,
        registration: Registration::Open,
        addresses: vec![],
        operator_code: "open sesame".into(),
    };
    let (network, _) = Network::new();
    let realm = Arc::new(Realmful {
        realm: Realm::new(store, &identity, own, limits, network, [1; 32]).unwrap(),
        users: number("MERPATI_USERS", 1_000_000),
        each: number("MERPATI_MESSAGES", 10),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        (0..AT_ONCE).for_each(|first| drop(tasks.spawn(Arc::clone(&realm).register(first))));
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        (0..AT_ONCE).for_each(|first| drop(tasks.spawn(Arc::clone(&realm).write(first))));
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
}
