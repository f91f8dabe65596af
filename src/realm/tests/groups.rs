//! Groups: what each role may do, and what is left afterwards.

use super::*;
use crate::wire::{GroupName, Member, Role, command};

fn cats() -> GroupName {
    "cats".parse().unwrap()
}

const SESSION: SessionRef = SessionRef::Bound;

fn add(number: u64, password: &str) -> Command<'_> {
    Command::AddGroup(command::AddGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        password: Password(password.as_bytes()),
    })
}

fn join(number: u64, password: &str) -> Command<'_> {
    Command::JoinGroup(command::JoinGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        password: Password(password.as_bytes()),
    })
}

fn post(number: u64, text: &str) -> Command<'_> {
    Command::SendGroup(command::SendGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        message: Body(text.as_bytes()),
    })
}

fn leave(number: u64) -> Command<'static> {
    Command::LeaveGroup(command::LeaveGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
    })
}

fn kick(number: u64, user: &str) -> Command<'static> {
    Command::Kick(command::Kick {
        operation: op(number),
        session: SESSION,
        group: cats(),
        user: user.parse().unwrap(),
    })
}

fn ban(number: u64, user: &str) -> Command<'static> {
    Command::Ban(command::Ban {
        operation: op(number),
        session: SESSION,
        group: cats(),
        user: user.parse().unwrap(),
    })
}

fn role(number: u64, user: &str, role: Role) -> Command<'static> {
    Command::SetRole(command::SetRole {
        operation: op(number),
        session: SESSION,
        group: cats(),
        user: user.parse().unwrap(),
        role,
    })
}

impl Fixture {
    /// Registers ann, bob, cat and dan on devices 1 to 4.
    async fn with_users() -> Self {
        let fixture = Self::new();
        for (n, user) in ["ann", "bob", "cat", "dan"].into_iter().enumerate() {
            fixture
                .register(device(u8::try_from(n + 1).unwrap()), user)
                .await;
        }
        fixture
    }

    async fn posts(&self, n: u8) -> Result<Vec<String>, Answer> {
        let options = Options {
            after: Some(0),
            ..Options::NONE
        };
        let command = Command::InboxGroup(command::InboxGroup {
            session: SESSION,
            group: cats(),
        });
        match self.ask(device(n), Request { options, command }).await {
            Answer::Page(page) => Ok(page
                .entries
                .into_iter()
                .map(|entry| String::from_utf8(entry.body).unwrap())
                .collect()),
            other => Err(other),
        }
    }

    async fn members(&self, n: u8) -> Vec<(String, Role)> {
        let command = Command::Members(command::Members {
            session: SESSION,
            group: cats(),
        });
        match self.ask(device(n), command).await {
            Answer::Members {
                more: false,
                members,
            } => members
                .into_iter()
                .map(|Member { who, role }| (who.to_string(), role))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn done(&self, n: u8, command: Command<'_>) {
        assert_eq!(
            self.ask(device(n), command.clone()).await,
            Answer::Done,
            "{command:?}"
        );
    }
}

/// GRP-1, GRP-2, GRP-3: members of a group post and read. Other users do not.
#[tokio::test]
async fn group_members_post_and_read_and_others_do_not() {
    let realm = Fixture::with_users().await;
    assert_eq!(
        realm.ask(device(1), post(9, "x")).await,
        refused(ErrorCode::NoSuchGroup)
    );
    assert_eq!(
        realm.ask(device(2), join(9, "meow meow")).await,
        refused(ErrorCode::NoSuchGroup)
    );
    realm.done(1, add(2, "meow meow")).await;
    realm.done(1, add(2, "meow meow")).await;
    assert_eq!(
        realm.ask(device(2), add(2, "other")).await,
        refused(ErrorCode::GroupExists)
    );
    assert_eq!(
        realm.ask(device(2), post(3, "x")).await,
        refused(ErrorCode::NotAMember)
    );
    assert_eq!(realm.posts(2).await, Err(refused(ErrorCode::NotAMember)));
    assert_eq!(
        realm.ask(device(2), join(4, "woof woof")).await,
        refused(ErrorCode::WrongPassword)
    );
    realm.done(2, join(5, "meow meow")).await;
    realm.done(2, join(6, "meow meow")).await;
    for (n, number, text) in [
        (1, 3, "one"),
        (2, 7, "two"),
        (1, 4, "three"),
        (1, 4, "three"),
    ] {
        assert_eq!(realm.ask(device(n), post(number, text)).await, STORED);
    }
    for n in [1, 2] {
        assert_eq!(realm.posts(n).await.unwrap(), ["one", "two", "three"]);
    }
    assert_eq!(
        realm.members(2).await,
        [("ann".into(), Role::Owner), ("bob".into(), Role::Member)]
    );
    let groups = Command::Groups(command::Groups { session: SESSION });
    let names = Answer::Names {
        more: false,
        names: vec!["cats".into()],
    };
    assert_eq!(realm.ask(device(2), groups.clone()).await, names);
    realm.done(2, leave(8)).await;
    let none = Answer::Names {
        more: false,
        names: vec![],
    };
    assert_eq!(realm.ask(device(2), groups).await, none);
    assert_eq!(
        realm.ask(device(2), post(9, "x")).await,
        refused(ErrorCode::NotAMember)
    );
    assert_eq!(
        realm.ask(device(2), leave(10)).await,
        refused(ErrorCode::NotAMember)
    );
}

/// GRP-2: a group without a password is joined with the empty password only.
#[tokio::test]
async fn group_without_password_is_joined_with_empty_one_only() {
    let realm = Fixture::with_users().await;
    realm.done(1, add(2, "")).await;
    assert_eq!(
        realm.ask(device(2), join(2, "guess")).await,
        refused(ErrorCode::WrongPassword)
    );
    realm.done(2, join(3, "")).await;
    let passwd = |number, password: &'static [u8]| {
        Command::GroupPasswd(command::GroupPasswd {
            operation: op(number),
            session: SESSION,
            group: cats(),
            password: Password(password),
        })
    };
    assert_eq!(
        realm.ask(device(2), passwd(4, b"mine now")).await,
        refused(ErrorCode::NotPermitted)
    );
    realm.done(1, passwd(3, b"meow")).await;
    assert_eq!(
        realm.ask(device(3), join(2, "")).await,
        refused(ErrorCode::WrongPassword)
    );
    realm.done(3, join(3, "meow")).await;
    assert_eq!(
        realm.ask(device(1), passwd(4, &[b'x'; 129])).await,
        Answer::Refused(Refusal::too_large(128))
    );
}

/// GRP-2: if the realm hides groups, a missing group answers `wrong-password`.
#[tokio::test]
async fn group_missing_in_hiding_realm_answers_wrong_password() {
    let mut realm = Fixture::with_users().await;
    realm.realm.limits.hide_groups = true;
    assert_eq!(
        realm.ask(device(2), join(2, "guess")).await,
        refused(ErrorCode::WrongPassword)
    );
}

/// GRP-4, GRP-5: a group has cursors of its own, and the list of members comes in pages that fit.
#[tokio::test]
async fn group_has_own_cursors_and_lists_members_in_pages() {
    let realm = Fixture::with_users().await;
    realm.done(1, add(2, "")).await;
    for number in 3..=5 {
        realm.ask(device(1), post(number, "x")).await;
        realm.ask(device(1), send(number + 10, "ann", "x")).await;
    }
    let read = async |after| {
        let options = Options {
            after,
            ..Options::NONE
        };
        let command = Command::InboxGroup(command::InboxGroup {
            session: SESSION,
            group: cats(),
        });
        match realm.ask(device(1), Request { options, command }).await {
            Answer::Page(page) => page
                .entries
                .iter()
                .map(|entry| entry.position.0)
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(None).await, [1, 2, 3]);
    assert_eq!(read(Some(2)).await, [3]);
    assert_eq!(read(None).await, [3]);
    assert_eq!(realm.inbox(device(1), Options::NONE).await.entries.len(), 3);
    for n in 2..=4 {
        realm.done(n, join(9, "")).await;
    }
    let page = async |behind: &str, room| {
        let command = Command::Members(command::Members {
            session: SESSION,
            group: cats(),
        });
        let options = Options {
            behind: behind.parse().ok(),
            ..Options::NONE
        };
        let answer_limits = AnswerLimits {
            inline: room,
            ..DATAGRAM
        };
        let caller = Caller {
            answer_limits,
            ..realm.caller(device(1))
        };
        let bytes = Request { options, command }.to_bytes();
        let answer = realm.realm.answer(&caller, &bytes).await;
        assert!(answer.len() <= room);
        match Answer::parse(&answer).unwrap() {
            Answer::Members { more, members } => {
                let names = members.iter().map(|member| member.who.to_string());
                (names.collect::<Vec<_>>(), more)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page("", 12).await, (vec!["ann".into(), "bob".into()], true));
    // The list also continues behind a user who is no longer a member, or never was.
    for behind in ["bob", "bob@beta", "bz"] {
        let second = (vec!["cat".into(), "dan".into()], false);
        assert_eq!(page(behind, 12).await, second, "{behind}");
    }
    assert_eq!(page("dan", 12).await, (vec![], false));
}

/// GRP-6: a moderator removes members, and the owner removes anybody. Nobody removes the owner.
#[tokio::test]
async fn moderation_by_higher_role_removes_lower_role() {
    let realm = Fixture::with_users().await;
    let no = refused(ErrorCode::NotPermitted);
    realm.done(1, add(2, "")).await;
    for n in 2..=4 {
        realm.done(n, join(2, "")).await;
    }
    assert_eq!(realm.ask(device(2), kick(3, "cat")).await, no);
    assert_eq!(
        realm.ask(device(2), role(4, "bob", Role::Moderator)).await,
        no
    );
    realm.done(1, role(3, "bob", Role::Moderator)).await;
    realm.done(1, role(4, "cat", Role::Moderator)).await;
    assert_eq!(realm.ask(device(2), kick(5, "cat")).await, no);
    assert_eq!(realm.ask(device(2), kick(6, "ann")).await, no);
    assert_eq!(realm.ask(device(2), ban(7, "cat")).await, no);
    realm.done(2, kick(8, "dan")).await;
    assert_eq!(
        realm.ask(device(2), kick(9, "dan")).await,
        refused(ErrorCode::NoSuchUser)
    );
    assert_eq!(
        realm.ask(device(4), post(3, "x")).await,
        refused(ErrorCode::NotAMember)
    );
    realm.done(4, join(4, "")).await;
    realm.done(2, ban(10, "dan")).await;
    assert_eq!(
        realm.ask(device(4), join(5, "")).await,
        refused(ErrorCode::Banned)
    );
    let unban = Command::Unban(command::Unban {
        operation: op(11),
        session: SESSION,
        group: cats(),
        user: "dan".parse().unwrap(),
    });
    realm.done(2, unban).await;
    realm.done(4, join(6, "")).await;
    assert_eq!(
        realm.ask(device(2), ban(12, "nobody")).await,
        refused(ErrorCode::NoSuchUser)
    );
    assert_eq!(
        realm.ask(device(1), role(5, "ann", Role::Member)).await,
        no,
        "an owner steps down by naming another"
    );
    realm.done(1, role(6, "bob", Role::Owner)).await;
    assert_eq!(
        realm.members(1).await,
        [
            ("ann".into(), Role::Moderator),
            ("bob".into(), Role::Owner),
            ("cat".into(), Role::Moderator),
            ("dan".into(), Role::Member),
        ]
    );
    realm.done(2, kick(13, "ann")).await;
}

/// GRP-7: a group always has an owner, and an ended group leaves nothing to a later one.
#[tokio::test]
async fn group_owner_who_leaves_has_successor_and_last_one_ends_group() {
    let mut realm = Fixture::with_users().await;
    realm.done(1, add(2, "")).await;
    for n in [3, 2, 4] {
        realm.now = later(realm.now, 1);
        realm.done(n, join(2, "")).await;
    }
    realm.done(1, role(3, "dan", Role::Moderator)).await;
    assert_eq!(realm.ask(device(1), post(4, "old")).await, STORED);
    realm.done(1, leave(5)).await;
    assert_eq!(realm.members(4).await[2], ("dan".into(), Role::Owner));
    realm.done(4, leave(3)).await;
    assert_eq!(realm.members(3).await[1], ("cat".into(), Role::Owner));
    realm.done(2, leave(3)).await;
    realm.done(3, leave(3)).await;
    assert_eq!(
        realm.ask(device(1), join(6, "")).await,
        refused(ErrorCode::NoSuchGroup)
    );
    realm.done(2, add(4, "")).await;
    assert!(realm.posts(2).await.unwrap().is_empty());
    realm.done(3, join(4, "")).await;
    let del = |number| {
        Command::DelGroup(command::DelGroup {
            operation: op(number),
            session: SESSION,
            group: cats(),
        })
    };
    assert_eq!(
        realm.ask(device(3), del(5)).await,
        refused(ErrorCode::NotPermitted)
    );
    realm.done(2, del(5)).await;
    assert_eq!(
        realm.ask(device(3), post(6, "x")).await,
        refused(ErrorCode::NoSuchGroup)
    );
    let all = realm
        .realm
        .store()
        .list(&crate::store::Prefix(b"m/"[..].into()), None, 99)
        .await
        .unwrap();
    assert!(all.is_empty(), "no member is left over");
}
