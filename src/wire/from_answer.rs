//! What the answers to commands hold, as types. The table of commands (`command.rs`) names one for
//! each command: a realm answers with it, and the client gets it from a call. Nothing here reads or
//! writes bytes.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};

use super::{
    Account, Answer, DeviceSession, Member, Page, Peer, PeerDetails, Sender, Sent, SessionId,
    Unread,
};

/// What an answer to a command holds. An [`Answer`] is made of it, and it is taken out again.
pub trait FromAnswer: Sized + Send + Into<Answer> {
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

impl FromAnswer for Answer {
    fn from_answer(answer: Answer) -> Result<Self, Answer> {
        Ok(answer)
    }
}

/// Implements both directions from one table. Each side of a row is a pattern as well as an
/// expression, so the two cannot disagree.
macro_rules! from_answer {
    ($($Type:ty { $([$($answer:tt)*] [$($content:tt)*])* })*) => { $(
        impl FromAnswer for $Type {
            fn from_answer(answer: Answer) -> Result<Self, Answer> {
                match answer {
                    $($($answer)* => Ok($($content)*),)*
                    other => Err(other),
                }
            }
        }

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
