//! What a realm keeps in its store, and under which keys.
//!
//! Every value is a format number, one byte, and a `postcard` record: a later release reads what an
//! older one wrote. Names never contain `/`, so keys cannot run into each other.
//!
//! ```text
//! u/ user                        account
//! s/ session hash 16             session
//! h/ user / handle               session hash: a user's sessions by their public names
//! a/ user / kind 1 what 16       a device (d) or a network (n) from which the user has logged in
//! h/ user                        written with each change of which sessions the user has
//! d/ device key 32               hash of the session bound to the device
//! o/ owner 16 slot 1             operation: what was answered to the last command whose number ends so
//! c/ user / owner / mailbox      position up to which one device has confirmed
//! c/ user / owner /              the device has had cursors of its own since it was linked (READ-7)
//! c/ user / / mailbox            position up to which any device has
//! g/ group                       group
//! m/ group / epoch 8 / user      member; user@realm for one of another realm
//! n/ group / epoch 8 /           written with each change of who of this realm is a member, or what they may do
//! w/ group / epoch 8 / rank 1 joined 4 user
//!                                members of this realm, moderators first, those of longest standing first
//! w/ group / epoch 8 /           all of them are there: the group is no older than that list
//! i/ group / epoch 8 / realm     how many members are of that realm
//! j/ user / group                epoch: the groups a user is in
//! b/ group / epoch 8 / user      banned
//! r/ realm                       peer
//! A/                             written with each peer that takes a place among those that are counted
//! V/ realm                       what was of the former peering with it is still to end
//! k/ key 32                      the name under which a key is known
//! l/                             the lives of the store
//! v/ realm                       position up to which the queue to a peer is settled
//! t/                             for how long the realm has been running
//! T/                             the same once more, far from it: damage takes what stands side by side
//! t/ realm / position 8          the message there was given back before its turn
//! j/ user                        written with a join that brings a user near the bound of groups
//! x/ realm / group               this realm's copy of a group that lives in another
//! y/ realm / group / user        a user here who is in it
//! z/ user / realm / group        the same, by user
//! z/                             how far z/ has been filled from y/ in a store from before it
//! q/ realm / slot 1              written with each word of a peer that users here are members of a group there no more
//! f/ realm / group / user        written by a release that is gone, and removed
//! P/ realm / group / hash 16     how many messages to a group there have been sent that are not read back
//! e/ kind 1 realm / group / epoch 8
//!                                what is still to be done for the members of a group that has ended
//! Q/ device key 32               by what the device comes back
//! W/ link 4                      whose the ticket of that name is, and when it was made
//! B/ link 4                      the addresses between which a link is watched
//! R/                             how long messages are kept where that is not set
//! R/ log                         up to where a log was how old and how large, and what has gone
//! I/ owner 16                    since when an owner of operations has had no session, and whether it was one itself
//! log p/ user                    the user's private messages
//! log f/ user / realm            the user's private messages from one realm
//! log q/ realm                   the queue to a peer
//! l/ group                       names the log of the groups that have had that name, while there is none
//! log x/ realm / group / log 8   the copied messages
//! log g/ group / log 8           the group's messages
//! ```
//!
//! A group's epoch is drawn when it is made: should it be deleted and another made under its name, nothing of the old one
//! is the new one's. Only the log is, because no position may be used twice: the new one begins behind a floor (READ-6).

mod keys;
mod memberships;
mod tickets;

pub use keys::*;

use std::net::{IpAddr, Ipv6Addr};

use blake2::{Blake2s256, Digest as _};
pub use memberships::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
pub use tickets::*;

use crate::{crypto::PublicKey, store::StoreError};

/// The format of all records that have not changed so far.
const FORMAT: u8 = 1;
/// The format of those that have changed once.
const FORMAT_2: u8 = 2;
/// The format of those that have changed twice.
const FORMAT_3: u8 = 3;

/// Most records take no more, in bytes.
const RECORD_BYTES: usize = 64;

/// What stands for a session id in the store, which never sees the id itself.
pub type SessionHash = [u8; 16];

/// Something that can be kept in the store.
pub trait Record: Serialize + DeserializeOwned {
    /// The format in which it is written.
    const FORMAT: u8 = FORMAT;

    /// Reads a record of format 1, where that is not the format in which it is written.
    fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
        parse(record)
    }

    /// Reads a record of format 2, where it has changed twice.
    fn from_second_format(record: &[u8]) -> Result<Self, StoreError> {
        parse(record)
    }

    /// The bytes to keep.
    fn to_value(&self) -> Result<Vec<u8>, StoreError> {
        let mut value = Vec::with_capacity(RECORD_BYTES);
        value.push(Self::FORMAT);
        postcard::to_extend(self, value)
            .map_err(|error| StoreError::Damaged(format!("it cannot be written: {error}")))
    }

    /// Reads what [`Record::to_value`] wrote.
    fn from_value(value: &[u8]) -> Result<Self, StoreError> {
        match value.split_first() {
            Some((format, record)) if *format == Self::FORMAT => parse(record),
            Some((&FORMAT, record)) => Self::from_first_format(record),
            Some((&FORMAT_2, record)) if Self::FORMAT > FORMAT_2 => {
                Self::from_second_format(record)
            }
            Some((format, _)) => Err(StoreError::Unread(format!(
                "its format {format} is that of a newer merpati"
            ))),
            None => Err(StoreError::Damaged("it is empty".into())),
        }
    }
}

/// An address as it stands in a record: an IPv4 one as the IPv6 one that means it.
pub fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of such bytes.
pub fn ip_of(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

fn parse<R: DeserializeOwned>(record: &[u8]) -> Result<R, StoreError> {
    postcard::from_bytes(record).map_err(|error| StoreError::Damaged(error.to_string()))
}

macro_rules! records {
    ($($(#[$doc:meta])* $Name:ident { $($(#[$how:meta])* $field:ident: $Type:ty),* $(,)? })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $Name { $($(#[$how])* pub $field: $Type),* }

        impl Record for $Name {}
    )* };
}

records! {
    /// A user.
    AccountRecord { full_name: String, country: String, password: String, created: u32 }
    /// A session. `used` is kept to about an hour, and so is `last`, which is the same in the realm's running time.
    /// `since` is the number of the command that opened it.
    SessionRecord { user: String, device: Option<[u8; 32]>, created: u32, used: u32, last: u32, operator: bool, since: u64 }
    /// A user has logged in from a device or a network, last at this time of the realm's running.
    KnownRecord { last: u32 }
    /// Points to a session.
    SessionLink { session: SessionHash }
    /// A link is watched between those addresses; `listener`: the port of this side, and 65,536 more over IPv6; `start`: stands for the start since which it is.
    WatcherRecord { listener: u32, start: u64, ip: [u8; 16], port: u16, local: Option<[u8; 16]> }
    /// For how many seconds the realm has been running in all.
    RunningRecord { seconds: u32 }
    /// The lives of the store, the current one first.
    LivesRecord { lives: Vec<[u8; 4]> }
    /// A command that was carried out.
    OperationRecord { number: u64, fingerprint: [u8; 8], answer: RecordedAnswer }
    /// How far a mailbox has been read.
    CursorRecord { position: u64 }
    /// A device reads a user's mailboxes with cursors of its own.
    LinkedRecord {}
    /// Names the log of the groups that have had a name, of which there is none now.
    GroupLogRecord { log: u64 }
    /// Says that something has changed, by its version.
    ChangedRecord {}
    /// How many users of another realm are in a group.
    RealmMembersRecord { count: u64 }
    /// Points from a user to a group.
    GroupLink { epoch: u64 }
    /// A user may not join a group.
    BanRecord { since: u32 }
    /// The keys that a realm had before the one with which it was removed, the latest first.
    FormerKeysRecord { keys: Vec<[u8; 32]> }
    /// The name under which a key is known.
    PeerName { realm: String }
    /// A message has been given back to its sender before its turn in the queue.
    ReturnedRecord {}
    /// The command that queued a message, which the other realm's verdict answers.
    QueuedOperation { owner: Vec<u8>, number: u64 }
    /// Messages of users here to a group of another realm that have not been read back, all of the same words, the last sent at this time of the realm's running.
    PostRecord { count: u32, since: u32 }
    /// How long messages are kept where the configuration does not say: as by default, or for ever.
    KeepingRecord { by_default: bool }
    /// What is known of the age and the size of a log: `seen` up to a position, with so many `bytes` behind what was `trimmed`.
    KeptRecord { trimmed: u64, seen: u64, bytes: u64, samples: Vec<KeptSample> }
    /// At a time of the realm's running a log had all up to a position, and so many bytes behind what was trimmed.
    KeptSample { at: u32, position: u64, bytes: u64 }
    /// A message in a mailbox.
    EntryRecord { time: u32, content: u8, user: String, realm: Option<String>, #[serde(with = "serde_bytes")] body: Vec<u8> }
}

macro_rules! changed_records {
    ($(
        $(#[$doc:meta])*
        $Name:ident { $($(#[$how:meta])* $field:ident: $Type:ty),* ; $($added:ident: $Added:ty = ($old:ident) $value:expr),* } was $First:ident
    )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $Name { $($(#[$how])* pub $field: $Type,)* $(pub $added: $Added),* }

        /// The same in format 1.
        #[derive(Serialize, Deserialize)]
        struct $First { $($(#[$how])* $field: $Type),* }

        impl Record for $Name {
            const FORMAT: u8 = FORMAT_2;

            fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
                let first: $First = parse(record)?;
                $(let $added = { let $old = &first; $value };)*
                Ok(Self { $($field: first.$field,)* $($added),* })
            }
        }
    )* };
}

changed_records! {
    /// A realm departs. `drops`: what waits for it does not come back to its senders.
    DepartureRecord { ; drops: bool = (_old) false } was FirstDepartureRecord
    /// Another realm, under the name by which this one knows it. `introduced`: it has accepted the
    /// peering; `added`: an operator here wants it, and it did not only introduce itself; `former`: the keys
    /// it had before, the latest first; `knows`: the key by which it knows this realm; `epoch`: in which messages are numbered that an
    /// earlier release has queued. `address` is one that an operator has named or the peer has answered at, or empty; `claimed` is
    /// another that it says of itself. `number` is this side's of the peering, `theirs` the other's, 0 where it has told none; `apart`:
    /// the other may not know yet that the former peering is over.
    PeerRecord { key: [u8; 32], former: Vec<[u8; 32]>, knows: [u8; 32], address: String, port: u16, src_address: String, src_port: u16, epoch: u64, introduced: bool, added: bool; claimed: Option<(String, u16)> = (_old) None, number: u64 = (old) old.epoch, theirs: u64 = (_old) 0, apart: bool = (_old) false } was FirstPeerRecord
    /// An owner of numbers has had no session since this time of the realm's running, and the newest of its records is of that version.
    /// `is_session`: it was a session of nobody's device, which has ended.
    IdleRecord { since: u32, newest: u64; is_session: bool = (_old) false } was FirstIdleRecord
    /// A member of a group. `membership` tells that of a user of another realm from others of the same user, before and after it.
    MemberRecord { moderator: bool, joined: u32; membership: u64 = (_old) 0 } was FirstMemberRecord
    /// A message on its way to another realm. `source`: by which of this realm's addresses, if not the peering's;
    /// `set_aside`: it has made way for others, because the peer would not take it; `lifetime`: for how many seconds it
    /// is worth delivering; `epoch`: in which it is numbered, or 0 for that of the peering.
    QueuedRecord { queued: u32, content: u8, kind: QueuedKind, from: String, to: String, #[serde(with = "serde_bytes")] body: Vec<u8>, operation: Option<QueuedOperation>, source: Option<(String, u16)>, set_aside: bool, lifetime: u32; epoch: u64 = (_old) 0 } was FirstQueuedRecord
    /// A group. The owner is a member like any other. `log` names its log, which it has from the groups of that name
    /// before it; its own entries stand behind the position `floor`.
    GroupRecord { owner: String, password: Option<String>, created: u32, epoch: u64, realms: Vec<String>; log: u64 = (old) old.epoch, floor: u64 = (_old) 0 } was FirstGroupRecord
}

/// What waits for another realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueuedKind {
    /// A private message.
    Private,
    /// A message to a group that lives there.
    Group,
    /// Word that a user of that realm is a member of a group no more. The number of the membership is the body.
    Expelled,
    /// Word that a group has ended, of which users of that realm are members. Its epoch is the body.
    Ended,
}

impl QueuedKind {
    /// True for what this realm itself has to say of memberships.
    pub const fn is_word(self) -> bool {
        matches!(self, Self::Expelled | Self::Ended)
    }
}

/// What was answered to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordedAnswer {
    /// These bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A session id, which is made again rather than kept.
    Session,
    /// All numbers up to this one are used, and no answer to those before it is kept (EXACT-14); to this one, if it was bytes.
    Closed(Option<serde_bytes::ByteBuf>),
}

/// Whose operation numbers are meant: those of a device, or on a plain link those of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A device that proved its key.
    Device(PublicKey),
    /// A session of nobody's device.
    Session(SessionHash),
    /// A peer's queue, in one of its epochs.
    Peer([u8; 40]),
}

impl Owner {
    /// A peer's queue.
    pub fn peer(key: &PublicKey, epoch: u64) -> Self {
        let mut bytes = [0; 40];
        let (first, last) = bytes.split_at_mut(32);
        first.copy_from_slice(&key.0);
        last.copy_from_slice(&epoch.to_be_bytes());
        Self::Peer(bytes)
    }

    /// The kinds have different lengths, so they never collide.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Device(key) => &key.0,
            Self::Session(hash) => hash,
            Self::Peer(queue) => queue,
        }
    }

    /// What stands for it in the keys of operations, which are written all the time: the store compares those that are
    /// short in half the time. Nobody can find a second one with the same.
    pub fn short(&self) -> [u8; 16] {
        match self {
            Self::Device(PublicKey(bytes)) => bytes.first_chunk().copied().unwrap_or_default(),
            Self::Session(hash) => *hash,
            Self::Peer(queue) => {
                let hash: [u8; 32] = Blake2s256::digest(queue).into();
                hash.first_chunk().copied().unwrap_or_default()
            }
        }
    }

    /// Reads [`Owner::bytes`] of who gives commands.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(key) = bytes.try_into() {
            return Some(Self::Device(PublicKey(key)));
        }
        bytes.try_into().ok().map(Self::Session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PEER-23, PEER-27: the address of a peer that an earlier release has noted is believed, and its epoch is the number.
    #[test]
    fn peer_of_an_earlier_release_is_where_it_was() {
        let first = FirstPeerRecord {
            key: [1; 32],
            former: vec![[2; 32]],
            knows: [3; 32],
            address: "192.0.2.9".into(),
            port: 6377,
            src_address: "192.0.2.1".into(),
            src_port: 6378,
            epoch: 77,
            introduced: true,
            added: false,
        };
        let value = postcard::to_extend(&first, vec![FORMAT]).unwrap();
        let read = PeerRecord::from_value(&value).unwrap();
        assert_eq!((read.address.as_str(), read.port), ("192.0.2.9", 6377));
        assert_eq!((read.number, read.theirs, read.apart), (77, 0, false));
        assert_eq!((read.claimed, read.introduced), (None, true));
        let none = DepartureRecord::from_value(&[FORMAT]).unwrap();
        assert!(!none.drops);
    }

    #[test]
    fn records_are_read_back_and_newer_ones_refused() {
        let record = CursorRecord { position: 7 };
        let value = record.to_value().unwrap();
        assert_eq!(CursorRecord::from_value(&value).unwrap(), record);
        let error = CursorRecord::from_value(&[9, 7]).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
        assert!(CursorRecord::from_value(&[]).is_err());
        assert!(SessionRecord::from_value(&[FORMAT, 200]).is_err());
    }
}
