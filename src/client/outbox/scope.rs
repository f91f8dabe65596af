//! The scope of a command: what it is about. Two commands with a common scope take effect in the
//! order in which they were typed. Others do not wait for each other.

use std::{collections::HashSet, fmt};

use crate::wire::{Command, GroupName, RealmId, Request, Sender, Username, command};

/// The scope of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The account: overlaps with everything.
    Account,
    /// A user.
    User(Username),
    /// A group.
    Group(GroupName),
    /// Another realm: overlaps with everything there.
    Realm(RealmId),
    /// A user of another realm.
    RealmUser(RealmId, Username),
    /// A group of another realm.
    RealmGroup(RealmId, GroupName),
}

impl Scope {
    /// Returns the scope of `command`.
    pub const fn of(command: &Command<'_>) -> Self {
        match *command {
            Command::Send(command::Send { to, .. }) => Self::User(to),
            Command::AddGroup(command::AddGroup { group, .. })
            | Command::JoinGroup(command::JoinGroup { group, .. })
            | Command::SendGroup(command::SendGroup { group, .. })
            | Command::InboxGroup(command::InboxGroup { group, .. })
            | Command::LeaveGroup(command::LeaveGroup { group, .. })
            | Command::Members(command::Members { group, .. })
            | Command::Kick(command::Kick { group, .. })
            | Command::Ban(command::Ban { group, .. })
            | Command::Unban(command::Unban { group, .. })
            | Command::SetRole(command::SetRole { group, .. })
            | Command::GroupPasswd(command::GroupPasswd { group, .. })
            | Command::DelGroup(command::DelGroup { group, .. }) => Self::Group(group),
            Command::AddRealm(command::AddRealm { realm, .. })
            | Command::RemoveRealm(command::RemoveRealm { realm, .. })
            | Command::InboxRealm(command::InboxRealm { realm, .. }) => Self::Realm(realm),
            Command::SendRealm(command::SendRealm { realm, to, .. }) => Self::RealmUser(realm, to),
            Command::Block(command::Block { user, .. })
            | Command::Unblock(command::Unblock { user, .. }) => match user.realm {
                None => Self::User(user.user),
                Some(realm) => Self::RealmUser(realm, user.user),
            },
            Command::JoinGroupRealm(command::JoinGroupRealm { realm, group, .. })
            | Command::SendGroupRealm(command::SendGroupRealm { realm, group, .. })
            | Command::InboxGroupRealm(command::InboxGroupRealm { realm, group, .. })
            | Command::LeaveGroupRealm(command::LeaveGroupRealm { realm, group, .. }) => {
                Self::RealmGroup(realm, group)
            }
            Command::Auth(_)
            | Command::Register(_)
            | Command::Logout(_)
            | Command::Revoke(_)
            | Command::Passwd(_)
            | Command::Claim(_)
            | Command::Void(_)
            | Command::Inbox(_)
            | Command::Watch(_)
            | Command::Unwatch(_)
            | Command::Groups(_)
            | Command::Realms(_)
            | Command::Sessions(_)
            | Command::WhoAmI(_)
            | Command::Blocks(_)
            | Command::Unread(_) => Self::Account,
        }
    }

    /// Returns the scope as stored in the outbox. Names contain no `/`.
    pub fn to_text(self) -> String {
        match self {
            Self::Account => "a".into(),
            Self::User(user) => format!("u/{user}"),
            Self::Group(group) => format!("g/{group}"),
            Self::Realm(realm) => format!("r/{realm}"),
            Self::RealmUser(realm, user) => format!("ru/{realm}/{user}"),
            Self::RealmGroup(realm, group) => format!("rg/{realm}/{group}"),
        }
    }

    /// Parses the text of [`Scope::to_text`].
    pub fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (kind, first, second) = (parts.next()?, parts.next(), parts.next());
        Some(match (kind, first, second) {
            ("a", None, None) => Self::Account,
            ("u", Some(user), None) => Self::User(user.parse().ok()?),
            ("g", Some(group), None) => Self::Group(group.parse().ok()?),
            ("r", Some(realm), None) => Self::Realm(realm.parse().ok()?),
            ("ru", Some(realm), Some(user)) => {
                Self::RealmUser(realm.parse().ok()?, user.parse().ok()?)
            }
            ("rg", Some(realm), Some(group)) => {
                Self::RealmGroup(realm.parse().ok()?, group.parse().ok()?)
            }
            _ => return None,
        })
    }

    const fn realm(self) -> Option<RealmId> {
        match self {
            Self::Realm(realm) | Self::RealmUser(realm, _) | Self::RealmGroup(realm, _) => {
                Some(realm)
            }
            Self::Account | Self::User(_) | Self::Group(_) => None,
        }
    }
}

/// Describes a command and its target for people. Never includes the text of a message.
pub fn describe(request: &Request<'_>) -> String {
    let name = request.command.name();
    match Scope::of(&request.command) {
        Scope::Account => name.into(),
        scope => format!("{name} {scope}"),
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Account => f.write_str("account"),
            Self::User(user) => user.fmt(f),
            Self::Group(group) => group.fmt(f),
            Self::Realm(realm) => realm.fmt(f),
            Self::RealmUser(realm, user) => Sender {
                user,
                realm: Some(realm),
            }
            .fmt(f),
            Self::RealmGroup(realm, group) => write!(f, "{group}@{realm}"),
        }
    }
}

/// The scopes of earlier commands.
#[derive(Debug, Default)]
pub struct Before(HashSet<Scope>);

impl Before {
    /// Adds the scope of an unfinished command.
    pub fn add(&mut self, scope: Scope) {
        self.0.insert(scope);
    }

    /// True if one of them overlaps with `scope`.
    pub fn meets(&self, scope: Scope) -> bool {
        let same_realm = |before: &Scope| before.realm() == scope.realm();
        match scope {
            Scope::Account => !self.0.is_empty(),
            Scope::Realm(_) => self.0.contains(&Scope::Account) || self.0.iter().any(same_realm),
            Scope::User(_) | Scope::Group(_) | Scope::RealmUser(..) | Scope::RealmGroup(..) => {
                self.0.contains(&Scope::Account)
                    || self.0.contains(&scope)
                    || scope
                        .realm()
                        .is_some_and(|realm| self.0.contains(&Scope::Realm(realm)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outbox_scope_makes_only_related_commands_wait() {
        let user = |name: &str| Scope::User(name.parse().unwrap());
        let (beta, gamma) = ("beta".parse().unwrap(), "gamma".parse().unwrap());
        let group = Scope::RealmGroup(beta, "devs".parse().unwrap());
        for scope in [user("bob"), group, Scope::Account, Scope::Realm(beta)] {
            assert_eq!(Scope::from_text(&scope.to_text()), Some(scope));
        }
        let mut before = Before::default();
        assert!(!before.meets(Scope::Account));
        before.add(user("bob"));
        before.add(group);
        assert!(before.meets(user("bob")) && !before.meets(user("cid")));
        assert!(before.meets(group) && before.meets(Scope::Realm(beta)));
        assert!(!before.meets(Scope::Realm(gamma)));
        assert!(before.meets(Scope::Account));
        before.add(Scope::Realm(gamma));
        assert!(before.meets(Scope::RealmUser(gamma, "cid".parse().unwrap())));
        before.add(Scope::Account);
        assert!(before.meets(user("cid")));
    }
}
