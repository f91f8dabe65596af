//! The cost of each command on the wire: `spec/bytes.md`, made by two communicating endpoints, and
//! checked to the byte. `MERPATI_WRITE_BYTES=1 cargo test --test bytes` rewrites it.

#![allow(clippy::too_many_lines, reason = "it is a table")]

mod realms;

use std::{fmt::Write as _, fs, net::SocketAddr, path::PathBuf, time::Duration};

use data_encoding::HEXLOWER;
use merpati::{
    crypto::SecretKey,
    endpoint::{AccountId, Config, EarlyData, Endpoint, Event, LinkId, LinkStatus},
    link::Time,
    wire::{
        Account, Answer, Body, Command, Cursors, DeviceSession, Entry, Mailbox, Member, Operation,
        OperationNumber, Options, Page, Password, Peer, Port, Position, Protection, Request, Role,
        Sender, Sent, SessionId, SessionRef, Text, Unread, command,
    },
};

const RTT: Duration = Duration::from_millis(60);
/// Exchanges before the one that is counted.
const BEFORE: usize = 20;

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str) -> T {
    name.parse().unwrap()
}

/// Bytes up and down, and datagrams in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    up: usize,
    down: usize,
    datagrams: usize,
}

/// A client, and a realm that gives each request the same answer.
struct Talk {
    now: Time,
    client: Endpoint,
    realm: Endpoint,
    key: Option<SecretKey>,
    answer: Vec<u8>,
}

fn endpoint(accept: Option<Protection>, key: &SecretKey) -> Endpoint {
    let config = Config {
        accept,
        ..Config::default()
    };
    endpoint_with(config, key, 7)
}

fn endpoint_with(config: Config, key: &SecretKey, seed: u8) -> Endpoint {
    Endpoint::new(config, &key.clone().into(), [seed; 32])
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 6377))
}

impl Talk {
    fn new(protection: Protection, answer: &Answer) -> Self {
        let (device, realm) = (
            SecretKey::from_bytes([1; 32]),
            SecretKey::from_bytes([2; 32]),
        );
        Self {
            now: Time(1_000_000),
            client: endpoint(None, &device),
            realm: endpoint(Some(protection), &realm),
            key: (protection == Protection::Sealed).then_some(realm),
            answer: answer.to_bytes(),
        }
    }

    fn connect(&mut self) -> LinkId {
        match &self.key {
            Some(key) => self
                .client
                .connect(self.now, at(2), key.public(), Some(RTT)),
            None => self.client.connect_plain(self.now, at(2), Some(RTT)),
        }
    }

    /// Sends a request, and runs both sides until nothing is in flight.
    fn exchange(&mut self, link: LinkId, request: &[u8], early: bool) -> Cost {
        let deadline = self.now + Duration::from_secs(30);
        let early = EarlyData::allowed_if(early);
        let asked = self
            .client
            .request(self.now, link, request.to_vec(), deadline, early);
        assert!(asked.is_some());
        let (mut cost, mut is_answered, mut out) = (Cost::default(), false, vec![]);
        loop {
            let (mut up, mut down) = (vec![], vec![]);
            while self.client.poll_transmit(self.now, &mut out).is_some() {
                up.push(out.clone());
            }
            while self.realm.poll_transmit(self.now, &mut out).is_some() {
                down.push(out.clone());
            }
            if up.is_empty() && down.is_empty() {
                assert!(is_answered, "no answer came");
                return cost;
            }
            self.now = self.now + RTT / 2;
            cost.datagrams += up.len() + down.len();
            for datagram in up {
                cost.up += datagram.len();
                self.realm.handle_datagram(self.now, at(1), &datagram);
            }
            for datagram in down {
                cost.down += datagram.len();
                self.client.handle_datagram(self.now, at(2), &datagram);
            }
            while let Some(event) = self.realm.poll_event() {
                match event {
                    Event::Incoming { link, .. } => {
                        self.realm.welcome(
                            self.now,
                            link,
                            Some(AccountId::new(1)),
                            OperationNumber(1000),
                        );
                    }
                    Event::Request { link, number, .. } => {
                        self.realm
                            .reply(self.now, link, number, self.answer.clone());
                    }
                    _ => {}
                }
            }
            while let Some(event) = self.client.poll_event() {
                is_answered |= matches!(event, Event::Reply { .. });
            }
        }
    }
}

/// Returns the cost of a command of a device that resumes. `None` for a command with a password: it
/// never travels on a resumed link (HS-7), and costs as much as with a handshake.
fn resumed(request: &Request<'_>, answer: &Answer) -> Option<Cost> {
    if request.command.carries_password() {
        return None;
    }
    let bytes = request.to_bytes();
    let mut talk = Talk::new(Protection::Sealed, answer);
    let link = talk.connect();
    talk.exchange(link, &bytes, true);
    let ticket = talk
        .client
        .link(link)
        .and_then(LinkStatus::ticket)
        .cloned()
        .expect("it may come back");
    talk.client = endpoint_with(Config::default(), &SecretKey::from_bytes([1; 32]), 8);
    let link = talk.connect();
    talk.client.come_back(link, ticket);
    Some(talk.exchange(link, &bytes, true))
}

/// Returns the cost of a command on an open link, and with a handshake.
fn costs(protection: Protection, request: &Request<'_>, answer: &Answer) -> [Cost; 2] {
    let bytes = request.to_bytes();
    let mut talk = Talk::new(protection, answer);
    let link = talk.connect();
    let nothing = talk.exchange(link, &bytes, !request.command.carries_password());
    for _ in 0..BEFORE {
        talk.exchange(link, &bytes, false);
    }
    [talk.exchange(link, &bytes, false), nothing]
}

/// Returns every command with usual content and its usual answer.
fn commands(session: SessionRef) -> Vec<(Request<'static>, Answer)> {
    let operation = Operation::new(1000, *b"qz");
    let (password, code) = (Password(b"correct horse"), Password(b"0123456789abcdef"));
    let message = Body(b"twenty bytes of text");
    let (src_address, src_port) = (Text(""), Port(0));
    let (ann, bob, cats, beta) = (name("anna"), name("bobby"), name("cats"), name("beta"));
    let who = |user: &str| Sender {
        user: name(user),
        realm: None,
    };
    let page = |from: Sender| {
        Answer::Page(Page {
            more: false,
            entries: vec![Entry {
                position: Position(1000),
                time: 1_800_000_000,
                content: 0,
                fragment: None,
                from,
                read: false,
                body: message.0.to_vec(),
            }],
        })
    };
    let after = Options {
        after: Some(999),
        ..Options::NONE
    };
    let read = |command| Request {
        options: after,
        command,
    };
    let of_beta = || Sender {
        user: name("bobby"),
        realm: Some(name("beta")),
    };
    let stored = || Answer::Sent(Sent::Stored);
    let delivered = || Answer::Sent(Sent::Delivered);
    vec![
        (
            Command::Register(command::Register {
                operation,
                full_name: Text("Anna Example"),
                country: Text("id"),
                username: ann,
                password,
            })
            .into(),
            Answer::Session(SessionId([3; 16])),
        ),
        (
            Command::Auth(command::Auth {
                operation,
                username: ann,
                password,
            })
            .into(),
            Answer::Session(SessionId([3; 16])),
        ),
        (
            Command::Send(command::Send {
                operation,
                session,
                to: bob,
                message,
            })
            .into(),
            stored(),
        ),
        (
            read(Command::Inbox(command::Inbox { session })),
            page(who("bobby")),
        ),
        (
            Command::AddGroup(command::AddGroup {
                operation,
                session,
                group: cats,
                password,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::JoinGroup(command::JoinGroup {
                operation,
                session,
                group: cats,
                password,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::SendGroup(command::SendGroup {
                operation,
                session,
                group: cats,
                message,
            })
            .into(),
            stored(),
        ),
        (
            read(Command::InboxGroup(command::InboxGroup {
                session,
                group: cats,
            })),
            page(who("bobby")),
        ),
        (
            Command::Logout(command::Logout { operation, session }).into(),
            Answer::Done,
        ),
        (
            Command::Void(command::Void { operation, session }).into(),
            Answer::Done,
        ),
        (
            Command::AddRealm(command::AddRealm {
                operation,
                session,
                realm: beta,
                address: Text("beta.example"),
                port: Port(6377),
                src_address,
                src_port,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::SendRealm(command::SendRealm {
                operation,
                session,
                src_address,
                src_port,
                realm: beta,
                from: ann,
                to: bob,
                message,
            })
            .into(),
            delivered(),
        ),
        (
            read(Command::InboxRealm(command::InboxRealm {
                session,
                realm: beta,
            })),
            page(of_beta()),
        ),
        (
            Command::JoinGroupRealm(command::JoinGroupRealm {
                operation,
                session,
                src_address,
                src_port,
                realm: beta,
                group: cats,
                password,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::SendGroupRealm(command::SendGroupRealm {
                operation,
                session,
                src_address,
                src_port,
                realm: beta,
                group: cats,
                message,
            })
            .into(),
            delivered(),
        ),
        (
            read(Command::InboxGroupRealm(command::InboxGroupRealm {
                session,
                realm: beta,
                group: cats,
            })),
            page(of_beta()),
        ),
        (
            Command::LeaveGroupRealm(command::LeaveGroupRealm {
                operation,
                session,
                realm: beta,
                group: cats,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::RemoveRealm(command::RemoveRealm {
                operation,
                session,
                realm: beta,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Realms(command::Realms { session }).into(),
            Answer::Realms(vec![Peer {
                realm: beta,
                address: "beta.example:6377".into(),
                state: 1,
                queued: 0,
                age: 0,
                heard: 1_800_000_000,
            }]),
        ),
        (
            Command::Watch(command::Watch {
                session,
                cursors: Cursors(vec![(Mailbox::Private, Position(1000))]),
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Unwatch(command::Unwatch { session }).into(),
            Answer::Done,
        ),
        (
            Command::Unread(command::Unread {
                session,
                cursors: Cursors::default(),
            })
            .into(),
            Answer::Unread(vec![Unread {
                mailbox: Mailbox::Private,
                count: 3,
            }]),
        ),
        (
            Command::Groups(command::Groups { session }).into(),
            Answer::Names {
                more: false,
                names: vec!["cats".into()],
            },
        ),
        (
            Command::Members(command::Members {
                session,
                group: cats,
            })
            .into(),
            Answer::Members {
                more: false,
                members: ["anna", "bobby"]
                    .map(|user| Member {
                        who: who(user),
                        role: Role::Member,
                    })
                    .into(),
            },
        ),
        (
            Command::LeaveGroup(command::LeaveGroup {
                operation,
                session,
                group: cats,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Kick(command::Kick {
                operation,
                session,
                group: cats,
                user: who("bobby"),
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Ban(command::Ban {
                operation,
                session,
                group: cats,
                user: who("bobby"),
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Block(command::Block {
                operation,
                session,
                user: who("bobby"),
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Unblock(command::Unblock {
                operation,
                session,
                user: who("bobby"),
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Blocks(command::Blocks { session }).into(),
            Answer::Names {
                more: false,
                names: vec!["bobby".into()],
            },
        ),
        (
            Command::Unban(command::Unban {
                operation,
                session,
                group: cats,
                user: who("bobby"),
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::SetRole(command::SetRole {
                operation,
                session,
                group: cats,
                user: bob,
                role: Role::Moderator,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::GroupPasswd(command::GroupPasswd {
                operation,
                session,
                group: cats,
                password,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::DelGroup(command::DelGroup {
                operation,
                session,
                group: cats,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::WhoAmI(command::WhoAmI { session }).into(),
            Answer::Account(Account {
                operator: false,
                username: ann,
                full_name: "Anna Example".into(),
                country: "id".into(),
            }),
        ),
        (
            Command::Sessions(command::Sessions { session }).into(),
            Answer::Sessions(vec![DeviceSession {
                handle: name("ab12cd"),
                created: 1_800_000_000,
                used: 1_800_000_000,
                current: true,
                device: true,
            }]),
        ),
        (
            Command::Revoke(command::Revoke {
                operation,
                session,
                handle: name("ab12cd"),
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Passwd(command::Passwd {
                operation,
                session,
                old: password,
                new: password,
            })
            .into(),
            Answer::Done,
        ),
        (
            Command::Claim(command::Claim {
                operation,
                session,
                code,
            })
            .into(),
            Answer::Done,
        ),
    ]
}

const HEAD: &str = "\
# What each command costs

UDP payload bytes to the realm + from it, and datagrams in both directions where they are not two; the headers of UDP
and IPv4 are 28 bytes more for each datagram. *On an open link* is what a command costs there again and again; *from
nothing* includes the handshake with a realm whose key is known, in whose first packet the command travels unless it carries
a password; *resumed* is what it costs a device that had a handshake within the last 24 hours, and begins anew. A command
that carries a password has no such cost (-): it never travels on a link that was resumed (HS-7), so that its device makes a
handshake, and it costs what it costs from nothing. On a plain link a command names its session in full, 16 bytes.

Names are of four or five letters, messages of twenty bytes, passwords of thirteen; operation numbers and positions
are about a thousand; what is read is one message, one group, one session. Each further letter is a byte. Made by
`MERPATI_WRITE_BYTES=1 cargo test --test bytes`, which otherwise holds it to every byte.

| command | sealed, on an open link | resumed | sealed, from nothing | plain, on an open link | plain, from nothing |
| --- | --- | --- | --- | --- | --- |
";

fn cell(cost: Cost) -> String {
    let datagrams = match cost.datagrams {
        2 => String::new(),
        more => format!(" ({more})"),
    };
    format!("{} + {}{datagrams}", cost.up, cost.down)
}

/// The cost of one command, in the columns that bounds apply to.
struct Row {
    name: &'static str,
    open: Cost,
    resumed: Option<Cost>,
    nothing: Cost,
    plain: Cost,
}

fn table() -> (String, Vec<Row>) {
    let (mut text, mut rows) = (HEAD.to_owned(), vec![]);
    let named = SessionRef::Named(SessionId([3; 16]));
    let plain = commands(named);
    for ((request, answer), (named, _)) in commands(SessionRef::Bound).iter().zip(&plain) {
        let [open, nothing] = costs(Protection::Sealed, request, answer);
        let [plain, plain_nothing] = costs(Protection::Plain, named, answer);
        let resumed = resumed(request, answer);
        let name = request.command.name();
        let cells = [
            cell(open),
            resumed.map_or_else(|| "-".to_owned(), cell),
            cell(nothing),
            cell(plain),
            cell(plain_nothing),
        ];
        writeln!(text, "| `{name}` | {} |", cells.join(" | ")).unwrap();
        rows.push(Row {
            name,
            open,
            resumed,
            nothing,
            plain,
        });
    }
    (text, rows)
}

/// SIZE-1, SIZE-2: each command costs what `spec/bytes.md` says.
#[test]
fn size_of_each_command_equals_byte_ledger() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("spec/bytes.md");
    let (mut text, rows) = table();
    text.push_str(&realms::table());
    if std::env::var_os("MERPATI_WRITE_BYTES").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    let send = rows.iter().find(|row| row.name == "send").unwrap();
    let (open, nothing, plain) = (send.open, send.nothing, send.plain);
    let resumed = send.resumed.expect("it carries no password");
    assert!(
        resumed.up + resumed.down <= 100 && resumed.datagrams == 2,
        "{resumed:?}"
    );
    assert!(open.up + open.down <= 80 && open.datagrams == 2, "{open:?}");
    assert!(
        nothing.up + nothing.down <= 260 && nothing.datagrams == 2,
        "{nothing:?}"
    );
    for row in &rows {
        let datagrams = (row.open.datagrams, row.plain.datagrams);
        assert_eq!(datagrams, (2, 2), "{}", row.name);
    }
    // A plain link's check is twelve bytes shorter each way, and its session id adds sixteen.
    assert_eq!(open.up + open.down - 2 * 12 + 16, plain.up + plain.down);
}

/// The ledger lists every command.
#[test]
fn size_ledger_lists_every_command() {
    let vectors = include_str!("../../spec/vectors/commands.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    let known: Vec<_> = commands(SessionRef::Bound)
        .iter()
        .map(|(request, _)| request.command.name())
        .collect();
    for vector in vectors["valid"].as_array().unwrap() {
        let bytes = HEXLOWER.decode(vector["hex"].as_str().unwrap().as_bytes());
        let bytes = bytes.unwrap();
        let name = Request::parse(&bytes).unwrap().command.name();
        assert!(known.contains(&name), "{name}");
    }
}
