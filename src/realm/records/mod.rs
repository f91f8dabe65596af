//! The records of a realm's store, and their keys.
//!
//! Every value is a format number of one byte and a `postcard` record, so that a later release can
//! read the records of an older one. Names never contain `/`, so keys cannot run into each other.
//!
//! ```text
//! u/ user                        account
//! s/ session hash 16             session
//! h/ user / handle               session hash: a user's sessions by their public names
//! a/ user / kind 1 what 16       a device (d) or a network (n) from which the user has logged in
//! h/ user                        written with each change of the user's sessions
//! d/ device key 32               hash of the session bound to the device
//! o/ owner 16 slot 1             operation: the last command of this slot, and its answer
//! c/ user / owner / mailbox      position up to which one device has confirmed
//! c/ user / owner /              the device has had its own cursors since it was linked (READ-7)
//! c/ user / / mailbox            position up to which any device has confirmed
//! g/ group                       group
//! m/ group / epoch 8 / user      member; user@realm for one of another realm
//! n/ group / epoch 8 /           written with each change of this realm's members or their roles
//! w/ group / epoch 8 / rank 1 joined 4 user
//!                                members of this realm: moderators first, then by seniority
//! w/ group / epoch 8 /           all members are listed: the group is no older than that list
//! i/ group / epoch 8 / realm     number of members of that realm
//! j/ user / group                epoch: the groups a user is in
//! b/ group / epoch 8 / user      banned
//! r/ realm                       peer
//! A/                             written with each peer that takes a counted place
//! V/ realm                       leftovers of the former peering with it must be removed
//! D/ realm                       leftovers of a removed peer must be removed; whether with its queue
//! K/ key 32                      former keys of a removed peer, if it comes back
//! k/ key 32                      the name under which a key is known
//! l/                             the lives of the store
//! v/ realm                       position up to which the queue to a peer is settled
//! t/                             total running time of the realm
//! T/                             the same again, far away: damage hits neighbouring keys together
//! t/ realm / position 8          the message there was returned before its turn
//! j/ user                        written with a join that brings a user near the bound of groups
//! x/ realm / group               this realm's replica of a group of another
//! y/ realm / group / user        a user here that is in it
//! z/ user / realm / group        the same, by user
//! z/                             how far z/ is filled from y/, in a store that is older than z/
//! q/ realm / slot 1              written when a peer's message ends memberships of users here
//! f/ realm / group / user        written by a former release, and removed
//! P/ realm / group / hash 16     number of messages sent to a group there and not read back
//! e/ kind 1 realm / group / epoch 8
//!                                work left for the members of a group that has ended
//! Q/ device key 32               the device's tickets
//! W/ link 4                      the ticket of that name
//! B/ link 4                      the addresses between which a link is watched
//! R/                             how long messages are kept if that is not configured
//! R/ log                         samples of a log's age and size, and where it was trimmed
//! X/ user                        whom the user blocks
//! I/ owner 16                    since when an owner has no session; whether it was a session
//! log p/ user                    the user's private messages
//! log f/ user / realm            the user's private messages from one realm
//! log P/ user                    private messages of users whom the user blocks: read by nobody
//! log F/ user / realm            the same, from one realm
//! log q/ realm                   the queue to a peer
//! l/ group                       the log of the former groups of that name, while there is none
//! log x/ realm / group / log 8   the replica's messages
//! log g/ group / log 8           the group's messages
//! ```
//!
//! A group's epoch is drawn when the group is made. If it is deleted and another is made under its
//! name, the new one takes over nothing but the log, because no position may be used twice: the new
//! group's entries begin behind a floor (READ-6).

mod blocks;
mod entry;
mod keys;
mod memberships;
mod queued;
mod tickets;

pub use keys::*;

use std::net::{IpAddr, Ipv6Addr};

pub use blocks::*;
pub use entry::*;
pub use memberships::*;
pub use queued::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
pub use tickets::*;

use super::short_hash::{first, short_hash};
use crate::{crypto::PublicKey, store::StoreError};

/// The format of all records that have not changed so far.
const FORMAT: u8 = 1;
/// The format of records that have changed once.
const FORMAT_2: u8 = 2;
/// The format of records that have changed twice.
const FORMAT_3: u8 = 3;

/// The size that most records do not exceed, in bytes.
const RECORD_BYTES: usize = 64;

/// The hash of a session id. The store never contains the id itself.
pub type SessionHash = [u8; 16];

/// A record of the store.
pub trait Record: Serialize + DeserializeOwned {
    /// The format in which it is written.
    const FORMAT: u8 = FORMAT;

    /// Reads a record of format 1, if records are now written in another format.
    fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
        parse(record)
    }

    /// Reads a record of format 2, if the record has changed twice.
    fn from_second_format(record: &[u8]) -> Result<Self, StoreError> {
        parse(record)
    }

    /// Returns the bytes to store.
    fn to_value(&self) -> Result<Vec<u8>, StoreError> {
        write_as(Self::FORMAT, self)
    }

    /// Reads the bytes of [`Record::to_value`].
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

/// Returns the bytes of an address in a record. An IPv4 address is stored as its IPv4-mapped IPv6
/// address.
pub fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Returns the address of such bytes.
pub fn ip_of(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

fn write_as(format: u8, record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let mut value = Vec::with_capacity(RECORD_BYTES);
    value.push(format);
    postcard::to_extend(record, value)
        .map_err(|error| StoreError::Damaged(format!("it cannot be written: {error}")))
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
    /// A session. `used` is exact to about an hour. So is `last`, the same in the realm's running
    /// time. `since` is the number of the command that opened it.
    SessionRecord { user: String, device: Option<[u8; 32]>, created: u32, used: u32, last: u32, operator: bool, since: u64 }
    /// A user has logged in from a device or a network, last at this running time of the realm.
    KnownRecord { last: u32 }
    /// Points to a session.
    SessionLink { session: SessionHash }
    /// A link is watched between those addresses. `listener`: this side's port, plus 65,536 over
    /// IPv6. `start`: a number for the realm's start since which it is.
    WatcherRecord { listener: u32, start: u64, ip: [u8; 16], port: u16, local: Option<[u8; 16]> }
    /// The total running time of the realm, in seconds.
    RunningRecord { seconds: u32 }
    /// The lives of the store, the current one first.
    LivesRecord { lives: Vec<[u8; 4]> }
    /// A command that was executed.
    OperationRecord { number: u64, fingerprint: [u8; 8], answer: RecordedAnswer }
    /// The position up to which a mailbox has been read.
    CursorRecord { position: u64 }
    /// A device has its own cursors for a user's mailboxes.
    LinkedRecord {}
    /// Names the log of the former groups of a name, while no group has it.
    GroupLogRecord { log: u64 }
    /// Shows by its version that something has changed.
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
    /// A message was returned to its sender before its turn in the queue.
    ReturnedRecord {}
    /// The command that queued a message: the message's receipt becomes its answer.
    QueuedOperation { owner: Vec<u8>, number: u64 }
    /// Posts of users here to a group of another realm that were not read back, all with the same
    /// text. The last one was sent at this running time of the realm.
    PostRecord { count: u32, since: u32 }
    /// How long messages are kept if the configuration does not say: the default bounds, or for
    /// ever.
    KeepingRecord { by_default: bool }
    /// The age and the size of a log: it was looked at up to the position `seen`, and has `bytes`
    /// bytes behind the position `trimmed`.
    KeptRecord { trimmed: u64, seen: u64, bytes: u64, samples: Vec<KeptSample> }
    /// A sample of a log: at this running time of the realm it had all entries up to a position,
    /// and so many bytes behind those that were trimmed.
    KeptSample { at: u32, position: u64, bytes: u64 }
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
    /// A removed realm that departs. `drops`: its queue is not returned to the senders.
    DepartureRecord { ; drops: bool = (_old) false } was FirstDepartureRecord
    /// Another realm, under the name by which this one knows it. `introduced`: it has accepted the
    /// peering. `added`: an operator here has added it; it did not only introduce itself. `former`:
    /// its former keys, the latest first. `knows`: the key by which it knows this realm. `epoch`:
    /// the epoch of messages that an earlier release has queued. `address`: an address that an
    /// operator has named or at which the peer has answered, or empty. `claimed`: another address
    /// that it claims. `number`: this side's number of the peering. `theirs`: the other side's, 0
    /// if it has told none. `apart`: the other may not know yet that the former peering is over.
    PeerRecord { key: [u8; 32], former: Vec<[u8; 32]>, knows: [u8; 32], address: String, port: u16, src_address: String, src_port: u16, epoch: u64, introduced: bool, added: bool; claimed: Option<(String, u16)> = (_old) None, number: u64 = (old) old.epoch, theirs: u64 = (_old) 0, apart: bool = (_old) false } was FirstPeerRecord
    /// An owner of numbers has had no session since this running time of the realm. `newest`: the
    /// version of the newest of its records. `is_session`: the owner was a session without a
    /// device, which has ended.
    IdleRecord { since: u32, newest: u64; is_session: bool = (_old) false } was FirstIdleRecord
    /// A member of a group. `membership` distinguishes the memberships of one user of another realm
    /// in the course of time.
    MemberRecord { moderator: bool, joined: u32; membership: u64 = (_old) 0 } was FirstMemberRecord
    /// A group. The owner is a member like any other. `log` names its log, which it takes over from
    /// the former groups of that name; its own entries are behind the position `floor`.
    GroupRecord { owner: String, password: Option<String>, created: u32, epoch: u64, realms: Vec<String>; log: u64 = (old) old.epoch, floor: u64 = (_old) 0 } was FirstGroupRecord
}

/// The recorded answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordedAnswer {
    /// These bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A session id, which is derived again and not stored.
    Session,
    /// All numbers up to this one are used, and no answers to earlier ones are kept (EXACT-14).
    /// Holds the answer to this one, if it was bytes.
    Closed(Option<serde_bytes::ByteBuf>),
}

/// The owner of operation numbers: a device, or on a plain link a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A device that proved its key.
    Device(PublicKey),
    /// A session without a device.
    Session(SessionHash),
    /// A peer's queue, in one of its epochs.
    Peer([u8; 40]),
}

impl Owner {
    /// Returns the owner for a peer's queue.
    pub fn peer(key: &PublicKey, epoch: u64) -> Self {
        let mut bytes = [0; 40];
        let (first, last) = bytes.split_at_mut(32);
        first.copy_from_slice(&key.0);
        last.copy_from_slice(&epoch.to_be_bytes());
        Self::Peer(bytes)
    }

    /// Returns the owner's bytes. The kinds have different lengths, so they never collide.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Device(key) => &key.0,
            Self::Session(hash) => hash,
            Self::Peer(queue) => queue,
        }
    }

    /// Returns the owner's short form for the keys of operations, which are written all the time:
    /// the store compares short keys in half the time. Nobody can find a second owner with the same
    /// short form.
    pub fn short(&self) -> [u8; 16] {
        match self {
            Self::Device(PublicKey(bytes)) => first(*bytes),
            Self::Session(hash) => *hash,
            Self::Peer(queue) => short_hash(&[queue]),
        }
    }

    /// Reads the [`Owner::bytes`] of a sender of commands.
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

    /// PEER-23, PEER-27: an address of a peer that an earlier release has stored counts as
    /// confirmed, and its epoch becomes the number.
    #[test]
    fn peer_record_of_earlier_release_keeps_address_and_epoch() {
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
    fn record_is_read_back_and_newer_format_is_refused() {
        let record = CursorRecord { position: 7 };
        let value = record.to_value().unwrap();
        assert_eq!(CursorRecord::from_value(&value).unwrap(), record);
        let error = CursorRecord::from_value(&[9, 7]).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
        assert!(CursorRecord::from_value(&[]).is_err());
        assert!(SessionRecord::from_value(&[FORMAT, 200]).is_err());
    }
}
