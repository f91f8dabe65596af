//! Records of group memberships, by user and by replica.

use blake2::{Blake2s256, Digest as _};
use serde::{Deserialize, Serialize};

use super::{FORMAT_3, Record, key, parse};
use crate::{
    store::{Key, Prefix, StoreError, concat},
    wire::{GroupName, RealmId, Username},
};

/// This realm's replica of a group of another realm, up to a position there. `known_as` is this
/// realm's name there. `log` names the replica's log, which stays when the group is made again; the
/// entries of the present group are behind the position `floor`. `ended`: its home realm has said
/// that the group has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    pub epoch: u64,
    pub known_as: String,
    pub position: u64,
    pub log: u64,
    pub floor: u64,
    pub ended: bool,
}

/// The same in format 1.
#[derive(Deserialize)]
struct FirstReplicaRecord {
    epoch: u64,
    known_as: String,
    position: u64,
}

/// The same in format 2.
#[derive(Deserialize)]
struct SecondReplicaRecord {
    epoch: u64,
    known_as: String,
    position: u64,
    log: u64,
    floor: u64,
}

impl Record for ReplicaRecord {
    const FORMAT: u8 = FORMAT_3;

    fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
        let first: FirstReplicaRecord = parse(record)?;
        Ok(Self {
            epoch: first.epoch,
            known_as: first.known_as,
            position: first.position,
            log: first.epoch,
            floor: 0,
            ended: false,
        })
    }

    fn from_second_format(record: &[u8]) -> Result<Self, StoreError> {
        let second: SecondReplicaRecord = parse(record)?;
        Ok(Self {
            epoch: second.epoch,
            known_as: second.known_as,
            position: second.position,
            log: second.log,
            floor: second.floor,
            ended: false,
        })
    }
}

/// A user of this realm is in a group of another realm, with that epoch if it is recorded.
/// `membership` is the number that the other realm gave the membership, or 0 if it gave none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaMemberRecord {
    pub joined: u32,
    pub epoch: Option<u64>,
    pub membership: u64,
}

/// The same in format 1.
#[derive(Deserialize)]
struct FirstReplicaMemberRecord {
    joined: u32,
}

/// The same in format 2.
#[derive(Deserialize)]
struct SecondReplicaMemberRecord {
    joined: u32,
    epoch: Option<u64>,
}

impl Record for ReplicaMemberRecord {
    const FORMAT: u8 = FORMAT_3;

    fn from_first_format(record: &[u8]) -> Result<Self, StoreError> {
        let first: FirstReplicaMemberRecord = parse(record)?;
        Ok(Self {
            joined: first.joined,
            epoch: None,
            membership: 0,
        })
    }

    fn from_second_format(record: &[u8]) -> Result<Self, StoreError> {
        let second: SecondReplicaMemberRecord = parse(record)?;
        Ok(Self {
            joined: second.joined,
            epoch: second.epoch,
            membership: 0,
        })
    }
}

impl ReplicaMemberRecord {
    /// True if the membership is of the group that the replica is of.
    pub fn is_of(&self, replica: &ReplicaRecord) -> bool {
        self.epoch.is_none_or(|epoch| epoch == replica.epoch)
    }
}

/// How far the replicas of each user have been listed by user, in a store that is older than this
/// list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRecord {
    /// The last membership that was listed.
    pub after: Vec<u8>,
    /// True if all were listed.
    pub is_whole: bool,
}

impl Record for ListedRecord {}

/// Work that is left for the members of a group that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndingRecord {
    /// The group's home realm. `None` if it was this one.
    pub realm: Option<String>,
    pub group: String,
    /// The group's epoch.
    pub epoch: u64,
    /// Names its log. Later groups of that name use the same log.
    pub log: u64,
    /// The last member for which it is done.
    pub after: Vec<u8>,
}

impl Record for EndingRecord {}

/// The kinds of work for the members of a group that has ended, in the order in which they are
/// done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Tell the users here that a group of another realm has ended.
    Tell = 0,
    /// Remove the members of a replica: by now there is a replica of another group of its name.
    ForgetReplica = 1,
    /// Remove the members of a group of this realm.
    Forget = 2,
}

impl Ending {
    /// Returns the kind of work of a key of [`endings`].
    pub fn of(key: &Key) -> Option<Self> {
        let Prefix(prefix) = endings();
        let kind = key.0.strip_prefix(prefix.as_slice())?.first()?;
        [Self::Tell, Self::ForgetReplica, Self::Forget]
            .into_iter()
            .find(|ending| *ending as u8 == *kind)
    }
}

pub fn endings() -> Prefix {
    Prefix(concat(&[b"e/"]))
}

pub fn ending(kind: Ending, realm: Option<RealmId>, group: GroupName, epoch: u64) -> Key {
    let realm = realm.as_ref().map_or(&[][..], |realm| realm.as_bytes());
    key(&[
        &endings().0,
        &[kind as u8],
        realm,
        b"/",
        group.as_bytes(),
        b"/",
        &epoch.to_be_bytes(),
    ])
}

/// Changes with each membership report of a peer: a user here is no member of a group there any
/// more, or the group has ended. A peer may name any group, so groups share 256 of these keys.
pub fn membership_reports(realm: RealmId, group: GroupName) -> Key {
    let hash: [u8; 32] = Blake2s256::digest(group.as_bytes()).into();
    key(&[b"q/", realm.as_bytes(), b"/", &hash[..1]])
}

/// All of these keys of one peer.
pub fn membership_reports_of(realm: RealmId) -> Prefix {
    Prefix(concat(&[b"q/", realm.as_bytes(), b"/"]))
}

/// What a former release recorded of memberships whose end a peer had not heard of.
pub fn all_expelling() -> Prefix {
    Prefix(concat(&[b"f/"]))
}

/// The posts of users here to groups of other realms.
pub fn posts() -> Prefix {
    Prefix(concat(&[b"P/"]))
}

/// The posts to groups of one realm.
pub fn posts_of(realm: RealmId) -> Prefix {
    Prefix(concat(&[b"P/", realm.as_bytes(), b"/"]))
}

pub fn post(realm: RealmId, group: &str, hash: [u8; 16]) -> Key {
    key(&[&posts_of(realm).0, group.as_bytes(), b"/", &hash])
}

pub fn replicas(realm: RealmId) -> Prefix {
    Prefix(concat(&[b"x/", realm.as_bytes(), b"/"]))
}

pub fn replica(realm: RealmId, group: GroupName) -> Key {
    key(&[&replicas(realm).0, group.as_bytes()])
}

/// The users here that are in any group of another realm.
pub fn all_replica_members() -> Prefix {
    Prefix(concat(&[b"y/"]))
}

/// The users here that are in one group.
pub fn replica_members(realm: RealmId, group: GroupName) -> Prefix {
    let Prefix(all) = all_replica_members();
    Prefix(concat(&[
        &all,
        realm.as_bytes(),
        b"/",
        group.as_bytes(),
        b"/",
    ]))
}

pub fn replica_member(realm: RealmId, group: GroupName, user: Username) -> Key {
    key(&[&replica_members(realm, group).0, user.as_bytes()])
}

/// Returns what such a key names.
pub fn replica_member_in(key: &Key) -> Option<(RealmId, GroupName, Username)> {
    let Prefix(all) = all_replica_members();
    let (realm, group, user) = three_names(key.0.strip_prefix(all.as_slice())?)?;
    Some((realm.parse().ok()?, group.parse().ok()?, user.parse().ok()?))
}

/// The replicas that a user is in.
pub fn replicas_of_user(user: Username) -> Prefix {
    Prefix(concat(&[b"z/", user.as_bytes(), b"/"]))
}

pub fn replica_of_user(user: Username, realm: RealmId, group: GroupName) -> Key {
    key(&[
        &replicas_of_user(user).0,
        realm.as_bytes(),
        b"/",
        group.as_bytes(),
    ])
}

/// Returns the group of another realm at the end of such a key.
pub fn replica_of_user_in(key: &Key, prefix: &Prefix) -> Option<(RealmId, GroupName)> {
    let names = key.0.strip_prefix(prefix.0.as_slice())?;
    let names = core::str::from_utf8(names).ok()?;
    let (realm, group) = names.split_once('/')?;
    Some((realm.parse().ok()?, group.parse().ok()?))
}

/// How far the list of [`replica_of_user`] keys is filled.
pub fn replicas_listed() -> Key {
    key(&[b"z/"])
}

fn three_names(names: &[u8]) -> Option<(&str, &str, &str)> {
    let (first, others) = core::str::from_utf8(names).ok()?.split_once('/')?;
    let (second, third) = others.split_once('/')?;
    Some((first, second, third))
}

/// The groups of this realm that a user is in.
pub fn joined(user: Username) -> Prefix {
    Prefix(concat(&[b"j/", user.as_bytes(), b"/"]))
}

pub fn joined_group(user: Username, group: GroupName) -> Key {
    key(&[&joined(user).0, group.as_bytes()])
}

/// Changes whenever a user with nearly the most groups joins another.
pub fn joins(user: Username) -> Key {
    key(&[b"j/", user.as_bytes()])
}
