//! What the answers to commands and to requests of realms hold, as types. The tables (`command.rs`,
//! `peer.rs`) name one for each: a realm answers with it, and the client gets it from a call.
//! Nothing here reads or writes bytes.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};

use super::{
    Account, Answer, DeviceSession, Member, Page, Peer, PeerDetails, RealmId, Sender, Sent,
    SessionId, Unread,
};

/// What an answer holds. What a command is answered with also makes an [`Answer`].
pub trait FromAnswer: Sized + Send {
    /// Takes it out of the answer.
    ///
    /// # Errors
    /// The answer, if it is of another kind.
    fn from_answer(answer: Answer) -> Result<Self, Answer>;
}

/// One answer of several that list something. The next one begins behind the last item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T> {
    /// True if more items follow.
    pub more: bool,
    /// The items.
    pub items: Vec<T>,
}

/// Whether the other realm agrees to a peering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peered {
    /// It has accepted.
    Accepted,
    /// It has not yet, and is asked again.
    Queued,
}

/// What `realms` lists. Its option `form` decides which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerList {
    /// The peers.
    Peers(Vec<Peer>),
    /// The peers, or the realms that wait to be peers, with all details.
    Details(PeerDetails),
}

/// A realm's answer to an introduction: its number of the peering, and whether the other must
/// confirm that it knows the number (PEER-27). On the wire it is a [`Answer::Joined`], with the
/// number in the place of the group's epoch and whether it is apart in that of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its number.
    pub number: u64,
    /// True if it has not heard yet that this number is known.
    pub is_apart: bool,
}

impl Numbered {
    /// Returns the answer to the realm known here as `known_as`.
    pub fn to_answer(self, known_as: RealmId) -> Answer {
        Answer::Joined {
            group_epoch: self.number,
            membership: self.is_apart.into(),
            known_as,
        }
    }
}

/// A realm's answer to the join of another's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinedGroup {
    /// The epoch of the group.
    pub group_epoch: u64,
    /// The number of the user's membership: later requests about it contain this number.
    pub membership: u64,
    /// The name under which the asking realm is known.
    pub known_as: RealmId,
}

/// A realm has what another realm's queue has delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered;

/// What became of a message that was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// It was not delivered, and never will be.
    Withdrawn,
    /// It was delivered before.
    Delivered,
}

impl FromAnswer for Answer {
    fn from_answer(answer: Answer) -> Result<Self, Answer> {
        Ok(answer)
    }
}

/// Implements the way out of an answer.
macro_rules! read_answer {
    ($($Type:ty { $($answer:pat => $content:expr),* $(,)? })*) => { $(
        impl FromAnswer for $Type {
            fn from_answer(answer: Answer) -> Result<Self, Answer> {
                match answer {
                    $($answer => Ok($content),)*
                    other => Err(other),
                }
            }
        }
    )* };
}

/// Implements both directions from one table. Each side of a row is a pattern as well as an
/// expression, so the two cannot disagree.
macro_rules! from_answer {
    ($($Type:ty { $([$($answer:tt)*] [$($content:tt)*])* })*) => { $(
        read_answer! { $Type { $($($answer)* => $($content)*),* } }

        impl From<$Type> for Answer {
            fn from(content: $Type) -> Self {
                match content { $($($content)* => $($answer)*,)* }
            }
        }
    )* };
}

from_answer! {
    () { [Answer::Done] [()] }
    Sent { [Answer::Sent(sent)] [sent] }
    SessionId { [Answer::Session(id)] [id] }
    Page { [Answer::Page(page)] [page] }
    Account { [Answer::Account(account)] [account] }
    Vec<DeviceSession> { [Answer::Sessions(sessions)] [sessions] }
    Vec<Unread> { [Answer::Unread(unread)] [unread] }
    List<String> { [Answer::Names { more, names }] [List { more, items: names }] }
    List<Member> { [Answer::Members { more, members }] [List { more, items: members }] }
    Peered {
        [Answer::Done] [Peered::Accepted]
        [Answer::Sent(Sent::Queued)] [Peered::Queued]
    }
    PeerList {
        [Answer::Realms(peers)] [PeerList::Peers(peers)]
        [Answer::Details(details)] [PeerList::Details(details)]
    }
}

// What other realms answer, which is only read here.
read_answer! {
    Option<Numbered> {
        // The release of the other realm is older than peering numbers.
        Answer::Done => None,
        Answer::Joined { group_epoch, membership, .. } => Some(Numbered {
            number: group_epoch,
            is_apart: membership != 0,
        }),
    }
    JoinedGroup {
        Answer::Joined { group_epoch, membership, known_as } => JoinedGroup {
            group_epoch,
            membership,
            known_as,
        },
    }
    Delivered { Answer::Sent(Sent::Stored | Sent::Delivered) => Delivered }
    Withdrawal {
        Answer::Done => Withdrawal::Withdrawn,
        Answer::Sent(Sent::Stored | Sent::Delivered) => Withdrawal::Delivered,
    }
}

/// Names of users. An answer with any other name is of another kind.
impl FromAnswer for List<Sender> {
    fn from_answer(answer: Answer) -> Result<Self, Answer> {
        let List { more, items: names } = List::<String>::from_answer(answer)?;
        let users: Result<Vec<Sender>, _> = names.iter().map(|name| name.parse()).collect();
        match users {
            Ok(items) => Ok(Self { more, items }),
            Err(_) => Err(Answer::Names { more, names }),
        }
    }
}

impl From<List<Sender>> for Answer {
    fn from(List { more, items }: List<Sender>) -> Self {
        let names = items.iter().map(ToString::to_string).collect();
        Self::Names { more, names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_with_name_of_no_user_is_no_list_of_users() {
        let names = |names: &[&str]| Answer::Names {
            more: true,
            names: names.iter().copied().map(String::from).collect(),
        };
        let users = List::<Sender>::from_answer(names(&["ann", "bob@beta"])).unwrap();
        assert!(users.more);
        assert_eq!(users.items[1], "bob@beta".parse::<Sender>().unwrap());
        let other = names(&["ann", "no user"]);
        assert_eq!(List::<Sender>::from_answer(other.clone()), Err(other));
    }
}
