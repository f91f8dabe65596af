//! The keys and logs of a realm's records.

use crate::{
    crypto::PublicKey,
    store::{Key, Log, NameBytes, Prefix, concat},
    wire::{GroupName, Handle, RealmId, Sender, Username},
};

use super::{GroupRecord, MemberRecord, Owner, ReplicaRecord, SessionHash, replicas};

pub(super) fn key(parts: &[&[u8]]) -> Key {
    Key(concat(parts))
}

pub fn account(user: Username) -> Key {
    key(&[b"u/", user.as_bytes()])
}

pub fn accounts() -> Prefix {
    Prefix(concat(&[b"u/"]))
}

pub fn session(hash: &SessionHash) -> Key {
    key(&[b"s/", hash])
}

pub fn sessions() -> Prefix {
    Prefix(concat(&[b"s/"]))
}

/// Returns the session of a key.
pub fn session_in(key: &Key) -> Option<SessionHash> {
    key.0.strip_prefix(b"s/")?.try_into().ok()
}

pub fn handle(user: Username, handle: Handle) -> Key {
    key(&[b"h/", user.as_bytes(), b"/", handle.as_bytes()])
}

/// The devices (`d`) or networks (`n`) from which a user has logged in.
pub fn known_of_kind(user: Username, kind: u8) -> Prefix {
    Prefix(concat(&[b"a/", user.as_bytes(), b"/", &[kind]]))
}

pub fn known(user: Username, kind: u8, what: &[u8; 16]) -> Key {
    let Prefix(name) = known_of_kind(user, kind);
    key(&[&name, what])
}

/// Changes whenever a user opens a session or one of them ends.
pub fn sessions_changed(user: Username) -> Key {
    key(&[b"h/", user.as_bytes()])
}

pub fn handles(user: Username) -> Prefix {
    Prefix(concat(&[b"h/", user.as_bytes(), b"/"]))
}

/// The devices with sessions that own these numbers.
pub fn devices_like(owner: [u8; 16]) -> Prefix {
    Prefix(concat(&[b"d/", &owner]))
}

pub fn device(key_of: &PublicKey) -> Key {
    key(&[b"d/", &key_of.0])
}

/// Returns the slot of a number's record among its owner's: it is shared with the number 256 before
/// it.
pub const fn slot(number: u64) -> u8 {
    number.to_be_bytes()[7]
}

pub fn operation(owner: &Owner, number: u64) -> Key {
    key(&[b"o/", &owner.short(), &[slot(number)]])
}

pub fn operations(owner: &Owner) -> Prefix {
    operations_of(owner.short())
}

/// The operations of the owner with this [`Owner::short`].
pub fn operations_of(owner: [u8; 16]) -> Prefix {
    Prefix(concat(&[b"o/", &owner]))
}

pub fn all_operations() -> Prefix {
    Prefix(concat(&[b"o/"]))
}

/// The last key that an operation of an owner may have.
pub fn operations_end(owner: [u8; 16]) -> Key {
    key(&[b"o/", &owner, &[u8::MAX]])
}

/// Returns the owner of the operation under a key.
pub fn owner_in(key: &Key) -> Option<[u8; 16]> {
    key.0.strip_prefix(b"o/")?.first_chunk().copied()
}

pub fn idle(owner: [u8; 16]) -> Key {
    key(&[b"I/", &owner])
}

/// The log of a mailbox.
#[derive(Clone, Debug)]
pub struct MailboxLog {
    pub log: Log,
    /// Entries up to this position belonged to an earlier mailbox of that name (READ-6).
    pub floor: u64,
    /// Names the mailbox among a user's cursors.
    name: NameBytes,
    /// The name in which the realm speaks in the mailbox: its user's, or the group's.
    pub says: Username,
}

impl MailboxLog {
    /// A user's private messages.
    pub fn private(user: Username) -> Self {
        Self {
            log: Log(concat(&[b"p/", user.as_bytes()])),
            floor: 0,
            name: concat(&[b"p"]),
            says: user,
        }
    }

    /// A user's private messages from one realm.
    pub fn from_realm(user: Username, realm: RealmId) -> Self {
        let realm = realm.as_bytes();
        Self {
            log: Log(concat(&[b"f/", user.as_bytes(), b"/", realm])),
            floor: 0,
            name: concat(&[b"f/", realm]),
            says: user,
        }
    }

    /// Returns the log that messages of blocked users enter in place of this one, if it is one of
    /// private messages. Its name is as long.
    pub fn into_discarded(self) -> Log {
        let Log(mut name) = self.log;
        if let Some(kind) = name.first_mut() {
            kind.make_ascii_uppercase();
        }
        Log(name)
    }

    /// A group's messages.
    pub fn group(group: GroupName, record: &GroupRecord) -> Self {
        let log = group_log(group, record.log);
        Self {
            name: log.0.clone(),
            log,
            floor: record.floor,
            says: group.into(),
        }
    }

    /// This realm's replica of a group of another realm.
    pub fn replica(realm: RealmId, group: GroupName, record: &ReplicaRecord) -> Self {
        let Prefix(mut name) = replicas(realm);
        name.extend_from_slice(group.as_bytes());
        name.push(b'/');
        name.extend_from_slice(&record.log.to_be_bytes());
        Self {
            log: Log(name.clone()),
            floor: record.floor,
            name,
            says: group.into(),
        }
    }
}

/// The contents of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// A user's private messages.
    Private(Username),
    /// A user's private messages from one realm, which are also among the private ones.
    FromRealm(Username, RealmId),
    /// The messages of the groups of that name.
    Group(GroupName, u64),
    /// The replica of a group of a realm.
    Replica(RealmId, GroupName, u64),
    /// Private messages of users whom their recipient has blocked. Nobody reads it.
    Discarded,
    /// The queue to a peer.
    Queue,
}

/// Returns the contents of a log by its name, or `None` if no log of a realm has such a name.
pub fn log_kind(log: &Log) -> Option<LogKind> {
    let (kind, rest) = log.0.split_at_checked(2)?;
    // The number at the end may have any bytes; a name has no slash.
    let mut parts = rest.splitn(3, |byte| *byte == b'/');
    let mut next = || parts.next();
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some(match kind {
        b"p/" => LogKind::Private(name_of(rest)?),
        b"f/" => LogKind::FromRealm(name_of(next()?)?, name_of(next()?)?),
        b"g/" => {
            let (name, log) = rest.split_at_checked(rest.len().checked_sub(9)?)?;
            LogKind::Group(name_of(name)?, number(log.get(1..)?)?)
        }
        b"x/" => LogKind::Replica(name_of(next()?)?, name_of(next()?)?, number(next()?)?),
        b"P/" | b"F/" => LogKind::Discarded,
        b"q/" => LogKind::Queue,
        _ => return None,
    })
}

fn name_of<T: core::str::FromStr>(bytes: &[u8]) -> Option<T> {
    core::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The log of the groups of one name.
pub fn group_log(group: GroupName, log: u64) -> Log {
    Log(concat(&[b"g/", group.as_bytes(), b"/", &log.to_be_bytes()]))
}

pub fn former_log(group: GroupName) -> Key {
    key(&[b"l/", group.as_bytes()])
}

/// The cursor of a user in a mailbox: on one device, or on any.
pub fn cursor(user: Username, owner: Option<&Owner>, place: &MailboxLog) -> Key {
    let Prefix(mut key) = cursors(user, owner);
    key.extend_from_slice(&place.name);
    Key(key)
}

/// The cursors of a user in all mailboxes, on one device, or on any.
pub fn cursors(user: Username, owner: Option<&Owner>) -> Prefix {
    let owner = owner.map_or(&[][..], Owner::bytes);
    Prefix(concat(&[b"c/", user.as_bytes(), b"/", owner, b"/"]))
}

/// All cursors of all users.
pub fn all_cursors() -> Prefix {
    Prefix(concat(&[b"c/"]))
}

/// Returns the log of the group or replica that a cursor is for, and, if it is one device's, the
/// key that says that the device has its own cursors. `None` for other mailboxes, and if that is
/// unclear: an owner may be any bytes.
pub fn cursor_log(key: &Key) -> Option<(Log, Option<Key>)> {
    let rest = key.0.strip_prefix(b"c/")?;
    let (_user, rest) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'/')? + 1)?;
    let mut found = None;
    // The lengths of no owner, a session and a device.
    for owner in [0, 16, 32] {
        let mailbox = rest.get(owner..).and_then(|rest| rest.strip_prefix(b"/"));
        let log = mailbox.map(|name| Log(name.into()));
        let is_group = |log: &Log| {
            let kind = log_kind(log);
            matches!(kind, Some(LogKind::Group(..) | LogKind::Replica(..)))
        };
        let Some(log) = log.filter(is_group) else {
            continue;
        };
        let (linked, _) = key.0.split_at_checked(key.0.len() - log.0.len())?;
        let linked = (owner > 0).then(|| Key(linked.into()));
        if found.replace((log, linked)).is_some() {
            return None;
        }
    }
    found
}

/// Says that a device has its own cursor for each mailbox of a user. Removed together with them.
pub fn linked(user: Username, owner: &Owner) -> Key {
    let Prefix(name) = cursors(user, Some(owner));
    Key(name)
}

/// Returns a device's cursor for the mailbox of the cursor `any`, which is for any device. `None`
/// if `any` is another key with the same beginning: a device's key may begin with a slash.
pub fn own_cursor(user: Username, owner: &Owner, any: &Key) -> Option<Key> {
    let Prefix(prefix) = cursors(user, None);
    let mailbox = any.0.strip_prefix(prefix.as_slice())?;
    let is_mailbox = mailbox == b"p"
        || [b"f/", b"g/", b"x/"]
            .iter()
            .any(|kind| mailbox.starts_with(*kind));
    let Prefix(mut key) = cursors(user, Some(owner));
    key.extend_from_slice(mailbox);
    is_mailbox.then_some(Key(key))
}

pub fn group(name: GroupName) -> Key {
    key(&[b"g/", name.as_bytes()])
}

/// All groups of this realm.
pub fn groups() -> Prefix {
    Prefix(concat(&[b"g/"]))
}

fn of_group(kind: &[u8], group: GroupName, epoch: u64) -> NameBytes {
    let epoch = epoch.to_be_bytes();
    concat(&[kind, group.as_bytes(), b"/", &epoch, b"/"])
}

pub fn members(group: GroupName, epoch: u64) -> Prefix {
    Prefix(of_group(b"m/", group, epoch))
}

pub fn member(group: GroupName, epoch: u64, who: &Sender) -> Key {
    key(&[&of_group(b"m/", group, epoch), who.to_string().as_bytes()])
}

/// Changes whenever a user of this realm joins or leaves a group, or gets other rights there.
pub fn members_changed(group: GroupName, epoch: u64) -> Key {
    Key(of_group(b"n/", group, epoch))
}

/// Says that all members of this realm in a group are listed by their seniority.
pub fn seniorities(group: GroupName, epoch: u64) -> Key {
    Key(of_group(b"w/", group, epoch))
}

/// The moderators of this realm, or the other members, the most senior first.
pub fn ranked(group: GroupName, epoch: u64, is_moderator: bool) -> Prefix {
    let Key(mut name) = seniorities(group, epoch);
    name.push(u8::from(!is_moderator));
    Prefix(name)
}

pub fn seniority(group: GroupName, epoch: u64, user: Username, member: &MemberRecord) -> Key {
    let Prefix(mut name) = ranked(group, epoch, member.moderator);
    name.extend_from_slice(&member.joined.to_be_bytes());
    name.extend_from_slice(user.as_bytes());
    Key(name)
}

/// Returns the user at the end of such a key.
pub fn ranked_in(key: &Key, prefix: &Prefix) -> Option<Username> {
    let seniority = key.0.strip_prefix(prefix.0.as_slice())?;
    core::str::from_utf8(seniority.get(4..)?).ok()?.parse().ok()
}

pub fn realm_members(group: GroupName, epoch: u64, realm: RealmId) -> Key {
    key(&[&of_group(b"i/", group, epoch), realm.as_bytes()])
}

/// Returns the member at the end of a key.
pub fn member_in(key: &Key, prefix: &Prefix) -> Option<Sender> {
    name_in(key, prefix)
}

/// The users that are banned from a group.
pub fn bans(group: GroupName, epoch: u64) -> Prefix {
    Prefix(of_group(b"b/", group, epoch))
}

pub fn ban(group: GroupName, epoch: u64, who: &Sender) -> Key {
    key(&[&of_group(b"b/", group, epoch), who.to_string().as_bytes()])
}

/// The prefixes of all records of a group of this realm except its members.
pub fn beside_members(group: GroupName, epoch: u64) -> [Prefix; 4] {
    [b"b/", b"i/", b"n/", b"w/"].map(|kind| Prefix(of_group(kind, group, epoch)))
}

pub fn peer(realm: RealmId) -> Key {
    key(&[b"r/", realm.as_bytes()])
}

pub fn running() -> Key {
    key(&[b"t/"])
}

/// The second copy of it, in another part of the key space: the disk rarely damages both.
pub fn running_again() -> Key {
    key(&[b"T/"])
}

pub fn keeping() -> Key {
    key(&[b"R/"])
}

pub fn kept(log: &Log) -> Key {
    key(&[b"R/", &log.0])
}

pub fn lives() -> Key {
    key(&[b"l/"])
}

/// The tickets of devices.
pub fn all_tickets() -> Prefix {
    Prefix(concat(&[b"Q/"]))
}

pub fn tickets_of(device: &PublicKey) -> Key {
    key(&[b"Q/", &device.0])
}

/// The ticket of that name.
pub fn ticket(id: u32) -> Key {
    key(&[b"W/", &id.to_be_bytes()])
}

/// Links that are watched.
pub fn all_watchers() -> Prefix {
    Prefix(concat(&[b"B/"]))
}

pub fn watcher(link: u32) -> Key {
    key(&[b"B/", &link.to_be_bytes()])
}

/// Returns the link of such a key.
pub fn watcher_of(key: &Key) -> Option<u32> {
    let link = key.0.strip_prefix(b"B/")?;
    Some(u32::from_be_bytes(link.try_into().ok()?))
}

pub fn peers() -> Prefix {
    Prefix(concat(&[b"r/"]))
}

pub fn peer_name(key_of: &PublicKey) -> Key {
    key(&[b"k/", &key_of.0])
}

/// The realms that were removed and whose leftovers are not all removed yet.
pub fn departures() -> Prefix {
    Prefix(concat(&[b"D/"]))
}

pub fn departure(realm: RealmId) -> Key {
    key(&[b"D/", realm.as_bytes()])
}

/// Changes whenever another realm takes a place.
pub fn places() -> Key {
    key(&[b"A/"])
}

/// The peers that have begun a new peering, and whose leftovers of the former one are not all
/// removed yet.
pub fn former_peerings() -> Prefix {
    Prefix(concat(&[b"V/"]))
}

pub fn former_peering(realm: RealmId) -> Key {
    key(&[b"V/", realm.as_bytes()])
}

/// All users that are banned from any group.
pub fn all_bans() -> Prefix {
    Prefix(concat(&[b"b/"]))
}

/// Returns the realm at the end of a ban's key, if it bans a user of another realm.
pub fn banned_realm(key: &Key) -> Option<RealmId> {
    let at = key.0.iter().rposition(|byte| *byte == b'@')?;
    name_of(key.0.get(at + 1..)?)
}

/// The users here that are in any group of one realm.
pub fn replica_members_of(realm: RealmId) -> Prefix {
    Prefix(concat(&[b"y/", realm.as_bytes(), b"/"]))
}

/// The former keys of a realm that had this key when it was removed.
pub fn former_keys(key_of: &PublicKey) -> Key {
    key(&[b"K/", &key_of.0])
}

pub fn settled(realm: RealmId) -> Key {
    key(&[b"v/", realm.as_bytes()])
}

pub fn returned(realm: RealmId, position: u64) -> Key {
    key(&[b"t/", realm.as_bytes(), b"/", &position.to_be_bytes()])
}

/// All messages that were returned before their turn.
pub fn all_returned(realm: RealmId) -> Prefix {
    Prefix(concat(&[b"t/", realm.as_bytes(), b"/"]))
}

pub fn queue(realm: RealmId) -> Log {
    Log(concat(&[b"q/", realm.as_bytes()]))
}

/// Returns the name at the end of a key, behind its prefix.
pub fn name_in<T: core::str::FromStr>(key: &Key, prefix: &Prefix) -> Option<T> {
    let name = key.0.strip_prefix(prefix.0.as_slice())?;
    core::str::from_utf8(name).ok()?.parse().ok()
}
