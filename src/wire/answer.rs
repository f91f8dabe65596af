//! Answers of a realm to commands (`spec/commands.md`).
//!
//! ```text
//! 0x00 done                                0x06 account   operator 1, user, full name, country
//! 0x01 stored                              0x07 sessions  handle, created 4, used 4, flags 1, …
//! 0x02 delivered                           0x08 names     more 1, texts
//! 0x03 queued                              0x09 realms    realm, address, state 1, queued varint, age varint, heard 4, …
//! 0x04 session   session id 16             0x0a unread    mailbox, count varint, …
//! 0x05 page      page                      0x0b members  more 1, sender, role 1, …
//! 0x0c joined    group's epoch 8, membership 8, realm
//! 0x0d details   see `detail.rs`           0x40 + error code, [detail varint]
//! ```
//!
//! The high bit announces optional fields as in a command. None are known yet, so an answer with
//! fields that must be understood is refused.

use alloc::{string::String, vec::Vec};

use bytes::BufMut;
use nom::{
    Parser,
    number::complete::{be_u8, be_u32, be_u64},
};

use super::{
    Field, Handle, Mailbox, Malformed, Options, Page, Parsed, PeerDetails, RealmId, Refusal, Role,
    Sender, SessionId, Text, Username, all, emit_varint, parse_varint,
};

const DONE: u8 = 0x00;
const STORED: u8 = 0x01;
const DELIVERED: u8 = 0x02;
const QUEUED: u8 = 0x03;
const SESSION: u8 = 0x04;
const PAGE: u8 = 0x05;
const ACCOUNT: u8 = 0x06;
const SESSIONS: u8 = 0x07;
const NAMES: u8 = 0x08;
const REALMS: u8 = 0x09;
const UNREAD: u8 = 0x0a;
const MEMBERS: u8 = 0x0b;
const JOINED: u8 = 0x0c;
const DETAILS: u8 = 0x0d;
const REFUSED: u8 = 0x40;
const HAS_OPTIONS: u8 = 0x80;

const SESSION_CURRENT: u8 = 0x01;
const SESSION_DEVICE: u8 = 0x02;

/// An answer of a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command took effect, durably.
    Done,
    /// The message is accepted, durably.
    Sent(Sent),
    /// A session is open.
    Session(SessionId),
    /// A page of a mailbox.
    Page(Page),
    /// The user's own account.
    Account(Account),
    /// The user's own sessions.
    Sessions(Vec<DeviceSession>),
    /// The groups that the user is a member of.
    Names {
        /// True if more follow.
        more: bool,
        /// Their names.
        names: Vec<String>,
    },
    /// A group's members.
    Members {
        /// True if more follow.
        more: bool,
        /// The members.
        members: Vec<Member>,
    },
    /// The peers.
    Realms(Vec<Peer>),
    /// The unread entries of each mailbox.
    Unread(Vec<Unread>),
    /// The answer to a realm whose user has joined a group. The answer to an introduction has the
    /// same form: see [`super::Numbered`].
    Joined {
        /// The epoch of the group.
        group_epoch: u64,
        /// The number of the user's membership: later requests about it contain this number.
        membership: u64,
        /// The name under which the asking realm is known.
        known_as: RealmId,
    },
    /// The peers, or the realms that wait to be peers, with all details.
    Details(PeerDetails),
    /// The command is refused, and changed nothing.
    Refused(Refusal),
}

/// The state of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is in the recipient's mailbox.
    Stored,
    /// It is in the recipient's mailbox in the other realm.
    Delivered,
    /// It is in this realm's queue for the other realm.
    Queued,
}

impl Sent {
    /// Returns the state's name in `--json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Delivered => "delivered",
            Self::Queued => "queued",
        }
    }
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// True for an operator's session.
    pub operator: bool,
    /// The user.
    pub username: Username,
    /// The user's full name.
    pub full_name: String,
    /// The user's country.
    pub country: String,
}

/// A session of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSession {
    /// The name by which it can be revoked.
    pub handle: Handle,
    /// When it was opened, in seconds since 1970.
    pub created: u32,
    /// When it was last used, in seconds since 1970, to about an hour.
    pub used: u32,
    /// True for the session that asks.
    pub current: bool,
    /// True if it is bound to a device's key.
    pub device: bool,
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member.
    pub who: Sender,
    /// The member's role.
    pub role: Role,
}

/// A peer of this realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name here.
    pub realm: RealmId,
    /// Its address.
    pub address: String,
    /// The state of the link to it: 0 idle, 1 open, 2 trying, 3 refused.
    pub state: u8,
    /// The number of messages that wait for it.
    pub queued: u64,
    /// How long the oldest message has been waiting, in seconds of the realm's running time.
    pub age: u64,
    /// When a packet last arrived from it, in seconds since 1970; 0 for never.
    pub heard: u32,
}

/// The number of unread entries of one mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// The number of unread entries.
    pub count: u64,
}

impl Answer {
    /// True if `bytes` are the answer to a command that had no effect.
    pub fn is_refusal(bytes: &[u8]) -> bool {
        bytes.first().is_none_or(|kind| kind & 0x7f >= REFUSED)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// If the bytes are not an answer that this version knows.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut input, kind) = be_u8::<_, Malformed>(bytes)?;
        if kind & HAS_OPTIONS != 0 {
            let (rest, options) = Options::parse(input)?;
            if options.not_understood {
                return Err(Malformed {
                    what: "answer: it must be understood by a newer version",
                });
            }
            input = rest;
        }
        let (left, answer) = match kind & !HAS_OPTIONS {
            DONE => (input, Self::Done),
            STORED => (input, Self::Sent(Sent::Stored)),
            DELIVERED => (input, Self::Sent(Sent::Delivered)),
            QUEUED => (input, Self::Sent(Sent::Queued)),
            SESSION => SessionId::parse(input).map(|(rest, id)| (rest, Self::Session(id)))?,
            PAGE => Page::parse(input).map(|(rest, page)| (rest, Self::Page(page)))?,
            ACCOUNT => {
                parse_account(input).map(|(rest, account)| (rest, Self::Account(account)))?
            }
            SESSIONS => all(parse_session)(input)
                .map(|(rest, sessions)| (rest, Self::Sessions(sessions)))?,
            NAMES => {
                let (rest, (more, names)) = (be_u8, all(text)).parse(input)?;
                let more = more == 1;
                (rest, Self::Names { more, names })
            }
            MEMBERS => {
                let (rest, (more, members)) = (be_u8, all(parse_member)).parse(input)?;
                let more = more == 1;
                (rest, Self::Members { more, members })
            }
            REALMS => all(parse_peer)(input).map(|(rest, peers)| (rest, Self::Realms(peers)))?,
            JOINED => {
                let (rest, (group_epoch, membership, known_as)) =
                    (be_u64, be_u64, RealmId::parse).parse(input)?;
                let joined = Self::Joined {
                    group_epoch,
                    membership,
                    known_as,
                };
                (rest, joined)
            }
            UNREAD => {
                all(parse_unread)(input).map(|(rest, unread)| (rest, Self::Unread(unread)))?
            }
            DETAILS => (&[][..], Self::Details(PeerDetails(input.to_vec()))),
            // A refusal's code is part of the kind.
            code @ REFUSED..=0x7f => {
                let mut refusal = Vec::with_capacity(bytes.len());
                refusal.push(code - REFUSED);
                refusal.extend_from_slice(input);
                let (rest, refusal) = Refusal::parse(&refusal)?;
                if !rest.is_empty() {
                    return Err(Malformed {
                        what: "answer: bytes are left over",
                    });
                }
                (&[][..], Self::Refused(refusal))
            }
            _ => {
                return Err(Malformed {
                    what: "answer kind",
                });
            }
        };
        if left.is_empty() {
            Ok(answer)
        } else {
            Err(Malformed {
                what: "answer: bytes are left over",
            })
        }
    }

    /// Writes the answer.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done => out.put_u8(DONE),
            Self::Sent(Sent::Stored) => out.put_u8(STORED),
            Self::Sent(Sent::Delivered) => out.put_u8(DELIVERED),
            Self::Sent(Sent::Queued) => out.put_u8(QUEUED),
            Self::Session(id) => {
                out.put_u8(SESSION);
                id.emit(out);
            }
            Self::Page(page) => {
                out.put_u8(PAGE);
                page.emit(out);
            }
            Self::Account(account) => {
                out.put_u8(ACCOUNT);
                out.put_u8(account.operator.into());
                account.username.emit(out);
                Text(&account.full_name).emit(out);
                Text(&account.country).emit(out);
            }
            Self::Sessions(sessions) => {
                out.put_u8(SESSIONS);
                for session in sessions {
                    emit_session(session, out);
                }
            }
            Self::Names { more, names } => {
                out.put_u8(NAMES);
                out.put_u8((*more).into());
                for name in names {
                    Text(name).emit(out);
                }
            }
            Self::Members { more, members } => {
                out.put_u8(MEMBERS);
                out.put_u8((*more).into());
                for member in members {
                    member.who.emit(out);
                    member.role.emit(out);
                }
            }
            Self::Joined {
                group_epoch,
                membership,
                known_as,
            } => {
                out.put_u8(JOINED);
                out.put_u64(*group_epoch);
                out.put_u64(*membership);
                known_as.emit(out);
            }
            Self::Realms(peers) => {
                out.put_u8(REALMS);
                for peer in peers {
                    emit_peer(peer, out);
                }
            }
            Self::Unread(unread) => {
                out.put_u8(UNREAD);
                for Unread { mailbox, count } in unread {
                    mailbox.emit(out);
                    emit_varint(*count, out);
                }
            }
            Self::Details(details) => {
                out.put_u8(DETAILS);
                out.extend_from_slice(&details.0);
            }
            Self::Refused(refusal) => {
                let at = out.len();
                refusal.emit(out);
                if let Some(code) = out.get_mut(at) {
                    *code += REFUSED;
                }
            }
        }
    }

    /// Returns the answer's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit(&mut out);
        out
    }
}

fn text(input: &[u8]) -> Parsed<'_, String> {
    Text::parse(input).map(|(rest, text)| (rest, text.0.into()))
}

fn parse_account(input: &[u8]) -> Parsed<'_, Account> {
    let (input, (operator, username, full_name, country)) =
        (be_u8, Username::parse, text, text).parse(input)?;
    Ok((
        input,
        Account {
            operator: operator == 1,
            username,
            full_name,
            country,
        },
    ))
}

fn parse_session(input: &[u8]) -> Parsed<'_, DeviceSession> {
    let (input, (handle, created, used, flags)) =
        (Handle::parse, be_u32, be_u32, be_u8).parse(input)?;
    let (current, device) = (flags & SESSION_CURRENT != 0, flags & SESSION_DEVICE != 0);
    Ok((
        input,
        DeviceSession {
            handle,
            created,
            used,
            current,
            device,
        },
    ))
}

fn emit_session(session: &DeviceSession, out: &mut impl BufMut) {
    session.handle.emit(out);
    out.put_u32(session.created);
    out.put_u32(session.used);
    let current = if session.current { SESSION_CURRENT } else { 0 };
    let device = if session.device { SESSION_DEVICE } else { 0 };
    out.put_u8(current | device);
}

fn parse_member(input: &[u8]) -> Parsed<'_, Member> {
    let (input, (who, role)) = (Sender::parse, Role::parse).parse(input)?;
    Ok((input, Member { who, role }))
}

fn parse_peer(input: &[u8]) -> Parsed<'_, Peer> {
    let (input, (realm, address, state, queued, age, heard)) = (
        RealmId::parse,
        text,
        be_u8,
        parse_varint,
        parse_varint,
        be_u32,
    )
        .parse(input)?;
    Ok((
        input,
        Peer {
            realm,
            address,
            state,
            queued,
            age,
            heard,
        },
    ))
}

fn emit_peer(peer: &Peer, out: &mut impl BufMut) {
    peer.realm.emit(out);
    Text(&peer.address).emit(out);
    out.put_u8(peer.state);
    emit_varint(peer.queued, out);
    emit_varint(peer.age, out);
    out.put_u32(peer.heard);
}

fn parse_unread(input: &[u8]) -> Parsed<'_, Unread> {
    let (input, (mailbox, count)) = (Mailbox::parse, parse_varint).parse(input)?;
    Ok((input, Unread { mailbox, count }))
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec};

    use proptest::prelude::*;

    use super::{super::ErrorCode, *};

    /// WIRE-14, ERR-1
    #[test]
    fn answer_emitted_then_parsed_is_identical() {
        let mut answers = vec![
            Answer::Done,
            Answer::Sent(Sent::Stored),
            Answer::Sent(Sent::Delivered),
            Answer::Sent(Sent::Queued),
            Answer::Session(SessionId([3; 16])),
            Answer::Page(Page::default()),
            Answer::Account(Account {
                operator: true,
                username: "ann".parse().unwrap(),
                full_name: "Ann Ött".to_string(),
                country: "id".to_string(),
            }),
            Answer::Sessions(vec![DeviceSession {
                handle: "ab12".parse().unwrap(),
                created: 1,
                used: 2,
                current: true,
                device: false,
            }]),
            Answer::Names {
                more: true,
                names: vec!["a".to_string(), "b@c".to_string()],
            },
            Answer::Members {
                more: false,
                members: vec![Member {
                    who: Sender {
                        user: "ann".parse().unwrap(),
                        realm: Some("beta".parse().unwrap()),
                    },
                    role: Role::Owner,
                }],
            },
            Answer::Realms(vec![Peer {
                realm: "beta".parse().unwrap(),
                address: "beta.example:6377".to_string(),
                state: 1,
                queued: 3,
                age: 5,
                heard: 4,
            }]),
            Answer::Unread(vec![Unread {
                mailbox: Mailbox::Private,
                count: 70,
            }]),
            Answer::Joined {
                group_epoch: 7,
                membership: 8,
                known_as: "alpha".parse().unwrap(),
            },
            Answer::Refused(Refusal::too_large(16_384)),
            Answer::Refused(Refusal::busy(500)),
        ];
        answers.extend(
            ErrorCode::ALL
                .iter()
                .map(|code| Answer::Refused((*code).into())),
        );
        for answer in answers {
            assert_eq!(Answer::parse(&answer.to_bytes()), Ok(answer));
        }
    }

    /// WIRE-4
    #[test]
    fn answer_with_bytes_left_over_is_refused() {
        assert!(Answer::parse(&[0x00, 0x00]).is_err());
        assert!(Answer::parse(&[0x41, 0x05, 0x00]).is_err());
        assert!(Answer::parse(&[]).is_err());
        assert!(Answer::parse(&[0x80, 0x41, 0, 0]).is_err());
        assert_eq!(Answer::parse(&[0x80, 0x40, 0, 0]), Ok(Answer::Done));
    }

    proptest! {
        #[test]
        fn answer_parse_of_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = Answer::parse(&bytes);
        }
    }
}
