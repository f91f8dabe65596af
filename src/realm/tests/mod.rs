//! Tests of the realm's rules, over a real store in a temporary directory.

mod acts;
mod blocks;
mod bounds;
mod claims;
mod copying;
mod doubt;
mod driven;
mod expelled;
mod fair;
mod fill;
mod group_teardown;
mod groups;
mod held;
mod hidden;
mod limits;
mod lives;
mod many;
mod memberships;
mod once;
mod pairs;
mod peer_admin;
mod peer_removal;
mod peering_numbers;
mod peers;
mod positions;
mod queue;
mod restored;
mod retention;
mod rules;
mod stops;
mod tickets;
mod traces;
mod vouching;
mod watches;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use tempfile::TempDir;

use self::driven::{Carried, ReadOutcome};
use super::{
    records::{Owner, QueuedRecord, Record as _},
    *,
};
use crate::{
    store::{Batch, Embedded, StoreError},
    wire::{
        Answer, Body, Command, Cursors, Entry, ErrorCode, Field, GroupName, Mailbox, Offset,
        Operation, OperationNumber, Options, Page, Password, PeerRequest, PeeringNumbers, Position,
        RealmId, RegistrationCode, Request, Sent, SessionId, SessionRef, Text, Username, command,
        peer,
    },
};

const NOW: u32 = 1_800_000_000;
const DAY: u32 = 86_400;
const MOMENT: Moment = Moment {
    wall: NOW,
    running: 1000,
    micros: 1_000_000_000,
};

fn later(now: Moment, seconds: u32) -> Moment {
    Moment {
        wall: now.wall + seconds,
        running: now.running + seconds,
        micros: now.micros + u64::from(seconds) * 1_000_000,
    }
}

struct Fixture {
    directory: TempDir,
    realm: Realm<Embedded>,
    now: Moment,
}

fn open(directory: &TempDir) -> Realm<Embedded> {
    open_with(directory, |_, _| {})
}

fn open_with(
    directory: &TempDir,
    change: impl FnOnce(&mut RealmIdentity, &mut Limits),
) -> Realm<Embedded> {
    let store = Embedded::open(directory.path()).unwrap();
    realm_over(store, change)
}

/// Number of realms begun. No two begin with the same seed, as no two processes do.
static BEGUN: AtomicU64 = AtomicU64::new(1);

fn realm_over<S: Store>(
    store: S,
    change: impl FnOnce(&mut RealmIdentity, &mut Limits),
) -> Realm<S> {
    let mut limits = Limits {
        sessions_max: 3,
        max_message: 1000,
        ..Limits::default()
    };
    let identity = SecretKey::from_bytes([9; 32]);
    let mut own = RealmIdentity {
        id: "alpha".parse().unwrap(),
        secret: identity.clone(),
        former: vec![SecretKey::from_bytes([8; 32])],
        peering: Peering::Listed,
        registration: Registration::Open,
        addresses: vec![("192.0.2.1".into(), 6377)],
        operator_code: "open sesame".into(),
    };
    change(&mut own, &mut limits);
    let (network, _) = Network::new();
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&BEGUN.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Realm::new(store, &identity, own, limits, network, seed).unwrap()
}

/// Changes whom a realm accepts as peers, as a restart with another configuration does.
fn set_peering<S>(realm: &mut Realm<S>, peering: Peering) {
    let own = (*realm.own).clone();
    realm.own = Arc::new(RealmIdentity { peering, ..own });
}

/// Returns the key of the realm under test.
fn realm_key() -> PublicKey {
    SecretKey::from_bytes([9; 32]).public()
}

#[expect(clippy::unnecessary_wraps, reason = "as a caller has it")]
fn device(n: u8) -> Option<PublicKey> {
    Some(PublicKey([n; 32]))
}

const PLAIN: Option<PublicKey> = None;

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            realm: open(&directory),
            directory,
            now: MOMENT,
        }
    }

    fn restart(self) -> Self {
        drop(self.realm);
        Self {
            realm: open(&self.directory),
            directory: self.directory,
            now: self.now,
        }
    }

    fn caller(&self, device: Option<PublicKey>) -> Caller {
        caller(device, self.now)
    }

    async fn ask(&self, device: Option<PublicKey>, request: impl Into<Request<'_>>) -> Answer {
        let caller = self.caller(device);
        let bytes = request.into().to_bytes();
        Answer::parse(&self.realm.answer(&caller, &bytes).await).unwrap()
    }

    /// Registers `user` from `device` as the device's operation 1.
    async fn register(&self, device: Option<PublicKey>, user: &str) -> SessionId {
        session_in(&self.ask(device, register(1, user)).await)
    }

    async fn inbox(&self, device: Option<PublicKey>, options: Options) -> Page {
        let command = Command::Inbox(command::Inbox {
            session: SessionRef::Bound,
        });
        match self.ask(device, Request { options, command }).await {
            Answer::Page(page) => page,
            other => panic!("{other:?}"),
        }
    }

    async fn texts(&self, device: Option<PublicKey>) -> Vec<String> {
        let options = Options {
            after: Some(0),
            ..Options::NONE
        };
        let page = self.inbox(device, options).await;
        page.entries
            .into_iter()
            .map(|entry| String::from_utf8(entry.body).unwrap())
            .collect()
    }
}

/// Answers that fit one datagram of a link.
const DATAGRAM: AnswerLimits = AnswerLimits {
    inline: 1100,
    total: 1100,
};

fn caller(device: Option<PublicKey>, now: Moment) -> Caller {
    Caller {
        origin: Origin::of_link(device, Some(realm_key())),
        subnet: std::net::IpAddr::from([192, 0, 2, 7]).into(),
        secrecy: Secrecy::Forward,
        answer_limits: DATAGRAM,
        trusts_cursors: true,
        asks_account: false,
        now,
    }
}

/// Returns an operation with the salt that one client draws in all these tests.
const fn op(number: u64) -> Operation {
    Operation::new(number, *b"qz")
}

/// Returns a refusal because of the number, with the highest number.
const fn refused_number(code: ErrorCode, highest: u64) -> Answer {
    Answer::Refused(Refusal::number(code, OperationNumber(highest)))
}

fn session_in(answer: &Answer) -> SessionId {
    match answer {
        Answer::Session(id) => *id,
        other => panic!("{other:?}"),
    }
}

fn refused(code: ErrorCode) -> Answer {
    Answer::Refused(code.into())
}

fn register(operation: u64, user: &str) -> Command<'static> {
    Command::Register(command::Register {
        operation: op(operation),
        full_name: Text("Some One"),
        country: Text("id"),
        username: user.parse().unwrap(),
        password: Password(b"correct horse"),
    })
}

fn auth<'a>(operation: u64, user: &str, password: &'a str) -> Command<'a> {
    Command::Auth(command::Auth {
        operation: op(operation),
        username: user.parse().unwrap(),
        password: Password(password.as_bytes()),
    })
}

fn send<'a>(operation: u64, to: &str, text: &'a str) -> Command<'a> {
    Command::Send(command::Send {
        operation: op(operation),
        session: SessionRef::Bound,
        to: to.parse().unwrap(),
        message: Body(text.as_bytes()),
    })
}

fn logout(operation: u64) -> Command<'static> {
    Command::Logout(command::Logout {
        operation: op(operation),
        session: SessionRef::Bound,
    })
}

const STORED: Answer = Answer::Sent(Sent::Stored);

impl Fixture {
    async fn all_done(&self, n: u8, commands: impl IntoIterator<Item = Command<'_>>) {
        for command in commands {
            let answer = self.ask(device(n), command.clone()).await;
            let is_done = matches!(answer, Answer::Done | STORED | Answer::Session(_));
            assert!(is_done, "{command:?}: {answer:?}");
        }
    }

    /// Reads with `command` on a device. Returns positions and texts.
    async fn read(&self, n: u8, command: Command<'_>, after: Option<u64>) -> Vec<(u64, String)> {
        let page = self.read_page(n, command, after).await;
        let text = |entry: Entry| String::from_utf8(entry.body).unwrap();
        let entries = page.entries.into_iter();
        entries
            .map(|entry| (entry.position.0, text(entry)))
            .collect()
    }

    async fn read_page(&self, n: u8, command: Command<'_>, after: Option<u64>) -> Page {
        let options = Options {
            after,
            ..Options::NONE
        };
        match self.ask(device(n), Request { options, command }).await {
            Answer::Page(page) => page,
            other => panic!("{other:?}"),
        }
    }

    /// Returns what `unread` counts for one mailbox on a device.
    async fn unread(&self, n: u8, mailbox: Mailbox, cursors: &[(Mailbox, u64)]) -> u64 {
        let cursors = cursors
            .iter()
            .map(|(mailbox, at)| (*mailbox, Position(*at)));
        let cursors = Cursors(cursors.collect());
        let session = SessionRef::Bound;
        match self
            .ask(
                device(n),
                Command::Unread(command::Unread { session, cursors }),
            )
            .await
        {
            Answer::Unread(counts) => counts
                .iter()
                .find(|unread| unread.mailbox == mailbox)
                .map_or(0, |unread| unread.count),
            other => panic!("{other:?}"),
        }
    }
}
