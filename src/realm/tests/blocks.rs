//! Blocked users: what they write does not reach who blocks them, and nothing tells them so.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    peers::{asked, deliver, peer},
    *,
};
use crate::{
    realm::{commands::blocks::BLOCKS_MAX, records::MailboxLog},
    wire::{Cursors, Entry, GroupName, Mailbox, command},
};

pub const SESSION: SessionRef = SessionRef::Bound;

pub fn cats() -> GroupName {
    "cats".parse().unwrap()
}

pub fn block(number: u64, user: &str) -> Command<'static> {
    Command::Block(command::Block {
        operation: op(number),
        session: SESSION,
        user: user.parse().unwrap(),
    })
}

pub fn unblock(number: u64, user: &str) -> Command<'static> {
    Command::Unblock(command::Unblock {
        operation: op(number),
        session: SESSION,
        user: user.parse().unwrap(),
    })
}

pub fn add_group(number: u64) -> Command<'static> {
    Command::AddGroup(command::AddGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        password: Password(b""),
    })
}

pub fn join_group(number: u64) -> Command<'static> {
    Command::JoinGroup(command::JoinGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        password: Password(b""),
    })
}

pub fn post(number: u64, text: &str) -> Command<'_> {
    Command::SendGroup(command::SendGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        message: Body(text.as_bytes()),
    })
}

/// A realm with ann, bob and cat on the devices 1 to 3, who are the members of a group. Each of
/// them has used the numbers 1 and 2.
pub async fn with_group() -> Fixture {
    grouped(Fixture::new()).await
}

pub async fn grouped(fixture: Fixture) -> Fixture {
    for (n, user) in [(1, "ann"), (2, "bob"), (3, "cat")] {
        fixture.register(device(n), user).await;
    }
    fixture.obeyed(1, add_group(2)).await;
    for n in [2, 3] {
        fixture.obeyed(n, join_group(2)).await;
    }
    fixture
}

pub fn text(entry: &Entry) -> String {
    String::from_utf8(entry.body.clone()).unwrap()
}

impl Fixture {
    pub async fn obeyed(&self, n: u8, command: Command<'_>) {
        let answer = self.ask(device(n), command.clone()).await;
        assert!(
            matches!(answer, Answer::Done | STORED),
            "{command:?}: {answer:?}"
        );
    }

    pub async fn group_page(&self, n: u8, options: Options) -> Page {
        let command = Command::InboxGroup(command::InboxGroup {
            session: SESSION,
            group: cats(),
        });
        match self.ask(device(n), Request { options, command }).await {
            Answer::Page(page) => page,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the texts that a member is shown of the group, from its beginning.
    pub async fn group_texts(&self, n: u8) -> Vec<String> {
        let options = Options {
            after: Some(0),
            offset: Some(0),
            ..Options::NONE
        };
        let page = self.group_page(n, options).await;
        page.entries.iter().map(text).collect()
    }

    async fn blocks(&self, n: u8, behind: Option<&str>) -> Vec<String> {
        let options = Options {
            behind: behind.map(|name| name.parse().unwrap()),
            ..Options::NONE
        };
        let command = Command::Blocks(command::Blocks { session: SESSION });
        match self.ask(device(n), Request { options, command }).await {
            Answer::Names { names, .. } => names,
            other => panic!("{other:?}"),
        }
    }

    pub async fn unread_in(&self, n: u8, mailbox: Mailbox) -> u64 {
        let command = Command::Unread(command::Unread {
            session: SESSION,
            cursors: Cursors::default(),
        });
        let Answer::Unread(counts) = self.ask(device(n), command).await else {
            panic!();
        };
        let of = counts.iter().find(|unread| unread.mailbox == mailbox);
        of.map_or(0, |unread| unread.count)
    }
}

/// BLK-1, BLK-2: a private message of a blocked user is answered as any other, byte by byte, and
/// does not arrive, also after the block has ended. Later ones do.
#[tokio::test]
async fn private_message_of_blocked_user_is_answered_and_discarded() {
    let mut fixture = with_group().await;
    fixture.obeyed(2, send(3, "ann", "before")).await;
    fixture.obeyed(1, block(3, "bob")).await;
    assert_eq!(fixture.blocks(1, None).await, ["bob"]);
    for (number, text) in [(4, "one"), (5, "two"), (5, "two")] {
        let (caller, to_ann) = (fixture.caller(device(2)), send(number, "ann", text));
        let command = Request::from(to_ann).to_bytes();
        let answer = fixture.realm.answer(&caller, &command).await;
        assert_eq!(answer, STORED.to_bytes());
        fixture = fixture.restart();
    }
    fixture.obeyed(3, send(3, "ann", "of cat")).await;
    assert_eq!(fixture.texts(device(1)).await, ["before", "of cat"]);
    assert_eq!(fixture.unread_in(1, Mailbox::Private).await, 2);
    fixture.obeyed(1, unblock(4, "bob")).await;
    fixture.obeyed(2, send(6, "ann", "after")).await;
    let all = ["before", "of cat", "after"];
    assert_eq!(fixture.texts(device(1)).await, all);
    // ann may write to bob all the time.
    fixture.obeyed(1, block(5, "bob")).await;
    fixture.obeyed(1, send(6, "bob", "still")).await;
    assert_eq!(fixture.texts(device(2)).await, ["still"]);
}

/// Returns the size of all files below a directory.
fn bytes_under(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap();
    let sizes = entries.map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            bytes_under(&entry.path())
        } else {
            metadata.len()
        }
    });
    sizes.sum()
}

/// BLK-2: what a discarded message costs the realm is what a delivered one costs: as many bytes in
/// a log, until the next pass over the store. So time does not tell either.
#[tokio::test]
async fn discarded_message_is_written_like_any_other_and_removed_later() {
    let fixture = with_group().await;
    fixture.obeyed(1, block(3, "bob")).await;
    let bytes = || bytes_under(fixture.directory.path());
    let written = async |n: u8, number| {
        let before = bytes();
        fixture.obeyed(n, send(number, "ann", "hello")).await;
        bytes() - before
    };
    // The first command of a day also records that the session is used.
    for n in [2, 3] {
        fixture.obeyed(n, send(3, "bob", "hello")).await;
    }
    let discarded = written(2, 4).await;
    assert!(discarded > 0);
    assert_eq!(discarded, written(3, 4).await);
    let log = MailboxLog::private("ann".parse().unwrap()).into_discarded();
    assert_eq!(fixture.realm.store().last(&log).await.unwrap().0, 1);
    fixture.tidy().await;
    let limit = crate::store::PageLimit {
        entries: 1,
        bytes: 1,
    };
    let left = fixture.realm.store().read(&log, Position(0), limit).await;
    assert!(left.unwrap().entries.is_empty());
    assert_eq!(fixture.texts(device(1)).await, ["hello"]);
}

/// BLK-1: what can be blocked, and how many; a repeat changes nothing.
#[tokio::test]
async fn block_of_nobody_oneself_or_too_many_is_refused() {
    let fixture = with_group().await;
    peer(&fixture, 50, "beta").await;
    for (number, name, code) in [
        (3, "ann", ErrorCode::BadRequest),
        (4, "nobody", ErrorCode::NoSuchUser),
    ] {
        let answer = fixture.ask(device(1), block(number, name)).await;
        assert_eq!(answer, refused(code), "{name}");
    }
    for number in 0..BLOCKS_MAX as u64 {
        let name = format!("u{number}@beta");
        fixture.obeyed(1, block(6 + number, &name)).await;
    }
    let next = 6 + BLOCKS_MAX as u64;
    let full = Answer::Refused(Refusal::too_large(BLOCKS_MAX as u64));
    assert_eq!(fixture.ask(device(1), block(next, "bob")).await, full);
    fixture.obeyed(1, block(next + 1, "u5@beta")).await;
    fixture.obeyed(1, unblock(next + 2, "cat")).await;
    fixture.obeyed(1, unblock(next + 3, "u5@beta")).await;
    fixture.obeyed(1, block(next + 4, "bob")).await;
    // The list comes in pages, sorted by name.
    let (mut all, mut behind) = (Vec::new(), None);
    loop {
        let names = fixture.blocks(1, behind.as_deref()).await;
        let Some(last) = names.last() else { break };
        behind = Some(last.clone());
        all.extend(names);
    }
    assert_eq!(all.len(), BLOCKS_MAX);
    assert!(all.is_sorted());
}

/// BLK-1: the own realm's name behind a user means the same as none. A damaged record cuts nobody
/// off, and is written anew.
#[tokio::test]
async fn block_of_local_user_by_full_name_or_over_damage_counts() {
    let fixture = with_group().await;
    fixture.obeyed(1, block(3, "bob@alpha")).await;
    assert_eq!(fixture.blocks(1, None).await, ["bob"]);
    fixture.obeyed(2, send(3, "ann", "hidden")).await;
    let mut batch = Batch::new();
    let key = records::blocks("ann".parse().unwrap());
    batch.put(key, vec![1, 0xff, 0xff, 0xff]);
    fixture.realm.storage.commit(batch).await.unwrap();
    fixture.obeyed(2, send(4, "ann", "over damage")).await;
    assert_eq!(fixture.group_texts(1).await.len(), 0);
    fixture.obeyed(1, block(4, "bob")).await;
    assert_eq!(fixture.blocks(1, None).await, ["bob"]);
    fixture.obeyed(2, send(5, "ann", "hidden")).await;
    assert_eq!(fixture.texts(device(1)).await, ["over damage"]);
}

/// BLK-2, PEER-4: the same for users of other realms. Another user of the same name is not meant.
#[tokio::test]
async fn message_from_blocked_user_of_other_realm_is_answered_and_discarded() {
    let fixture = with_group().await;
    peer(&fixture, 50, "beta").await;
    peer(&fixture, 51, "gamma").await;
    fixture.obeyed(1, block(3, "bob@beta")).await;
    let from = async |n, sequence, text: &str| {
        let request = deliver(7, sequence, "ann", text);
        assert_eq!(asked(&fixture, device(n), &request).await, STORED);
    };
    for _ in 0..2 {
        from(50, 1, "bob of beta").await;
        from(51, 1, "bob of gamma").await;
    }
    fixture.obeyed(2, send(3, "ann", "bob of here")).await;
    let seen = ["bob of gamma", "bob of here"];
    assert_eq!(fixture.texts(device(1)).await, seen);
    let inbox = |realm: &str| {
        Command::InboxRealm(command::InboxRealm {
            session: SESSION,
            realm: realm.parse().unwrap(),
        })
    };
    for (realm, count) in [("beta", 0), ("gamma", 1)] {
        let Answer::Page(page) = fixture.ask(device(1), inbox(realm)).await else {
            panic!();
        };
        assert_eq!(page.entries.len(), count, "{realm}");
    }
    fixture.obeyed(1, unblock(4, "bob@beta")).await;
    from(50, 2, "later").await;
    assert_eq!(fixture.texts(device(1)).await.last().unwrap(), "later");
}

/// BLK-5: when a realm is removed, the blocks of its users end. The next realm of that name has
/// others.
#[tokio::test]
async fn blocks_end_with_peering_of_their_realm() {
    let fixture = with_group().await;
    peer(&fixture, 50, "beta").await;
    peer(&fixture, 51, "gamma").await;
    for (number, name) in [
        (3, "bob@beta"),
        (4, "bob@gamma"),
        (5, "bob"),
        (6, "zoe@beta"),
    ] {
        fixture.obeyed(1, block(number, name)).await;
    }
    let claim = Command::Claim(command::Claim {
        operation: op(3),
        session: SESSION,
        code: Password(b"open sesame"),
    });
    fixture.obeyed(3, claim).await;
    let remove = Command::RemoveRealm(command::RemoveRealm {
        operation: op(4),
        session: SESSION,
        realm: "beta".parse().unwrap(),
    });
    fixture.obeyed(3, remove).await;
    assert!(fixture.realm.departures.do_departures(NOW).await);
    assert_eq!(fixture.blocks(1, None).await, ["bob", "bob@gamma"]);
    peer(&fixture, 52, "beta").await;
    let other = deliver(7, 1, "ann", "another bob");
    assert_eq!(asked(&fixture, device(52), &other).await, STORED);
    let notice = "beta is no peer any more: you do not block its users any more";
    assert_eq!(fixture.texts(device(1)).await, [notice, "another bob"]);
}

/// BLK-1 to BLK-3: whatever is blocked and written in whatever order, each user is shown just what
/// the rules say.
#[tokio::test]
async fn mailboxes_follow_blocks_in_any_order() {
    const USERS: [(u8, &str); 3] = [(1, "ann"), (2, "bob"), (3, "cat")];
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut fixture = with_group().await;
        let mut number = 2;
        // By reader and author.
        let mut blocked: BTreeMap<(u8, u8), bool> = BTreeMap::new();
        let mut private: BTreeMap<u8, Vec<String>> = BTreeMap::new();
        let mut posts: Vec<(u8, String)> = Vec::new();
        for _ in 0..60 {
            number += 1;
            let (n, _) = USERS[rng.random_range(0..3)];
            let (other, name) = USERS[rng.random_range(0..3)];
            let text = number.to_string();
            match rng.random_range(0..8) {
                0 if other != n => {
                    fixture.obeyed(n, block(number, name)).await;
                    blocked.insert((n, other), true);
                }
                1 => {
                    fixture.obeyed(n, unblock(number, name)).await;
                    blocked.remove(&(n, other));
                }
                2..5 => {
                    fixture.obeyed(n, send(number, name, &text)).await;
                    if !blocked.contains_key(&(other, n)) {
                        private.entry(other).or_default().push(text);
                    }
                }
                5..7 => {
                    fixture.obeyed(n, post(number, &text)).await;
                    posts.push((n, text));
                }
                _ if rng.random_bool(0.1) => fixture = fixture.restart(),
                _ => {}
            }
        }
        for (n, _) in USERS {
            let expected = private.remove(&n).unwrap_or_default();
            assert_eq!(fixture.texts(device(n)).await, expected, "seed {seed}");
            let shown = posts
                .iter()
                .filter(|(author, _)| !blocked.contains_key(&(n, *author)));
            let shown: Vec<String> = shown.map(|(_, text)| text.clone()).collect();
            assert_eq!(fixture.group_texts(n).await, shown, "seed {seed}");
            let unread = fixture.unread_in(n, Mailbox::Group(cats())).await;
            assert_eq!(unread, shown.len() as u64, "seed {seed}");
        }
    }
}
