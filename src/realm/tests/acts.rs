//! Commands for [`super::pairs`]: their senders, and what they change.

use super::{held::Device, peers::rotate, *};
use crate::wire::{GroupName, Handle, Role, Sender, command};

/// The device number of the realm that is a peer.
pub const BETA: Device = 50;

/// A command and its sender.
pub struct Act {
    pub name: String,
    pub device: Device,
    pub command: Box<dyn Fn(u64) -> Vec<u8>>,
    /// True if the command reports a change that has already happened in the other realm. The pairs
    /// test does not hold such a command at a step, because other commands would overtake it.
    pub is_on_its_way: bool,
}

pub fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

pub fn user(name: &str) -> Username {
    name.parse().unwrap()
}

pub fn sender(name: &str) -> Sender {
    name.parse().unwrap()
}

pub const BOUND: SessionRef = SessionRef::Bound;

fn act(
    name: impl Into<String>,
    device: Device,
    command: impl Fn(Operation) -> Command<'static> + 'static,
) -> Act {
    Act {
        name: name.into(),
        device,
        command: Box::new(move |number| Request::from(command(op(number))).to_bytes()),
        is_on_its_way: false,
    }
}

fn peer_act(name: &str, request: impl Fn(u64) -> PeerRequest<'static> + 'static) -> Act {
    Act {
        name: name.into(),
        device: BETA,
        command: Box::new(move |number| request(number).to_bytes()),
        is_on_its_way: false,
    }
}

/// The users' devices. ann owns the group, and bob moderates it. cat and zoe@beta are members. dan
/// is not a member. eve is banned. cat has a second device.
pub const DEVICES: [(Device, &str); 6] = [
    (1, "ann"),
    (2, "bob"),
    (3, "cat"),
    (4, "dan"),
    (5, "eve"),
    (6, "cat"),
];

/// Returns the commands of one user about the group, whatever the user's role is.
pub fn of_groups(n: Device, who: &'static str) -> Vec<Act> {
    let g = || group("g");
    let mut acts = vec![
        act(format!("{who} joins"), n, move |operation| {
            Command::JoinGroup(command::JoinGroup {
                operation,
                session: BOUND,
                group: g(),
                password: Password(b""),
            })
        }),
        act(format!("{who} leaves"), n, move |operation| {
            Command::LeaveGroup(command::LeaveGroup {
                operation,
                session: BOUND,
                group: g(),
            })
        }),
        act(format!("{who} posts"), n, move |operation| {
            Command::SendGroup(command::SendGroup {
                operation,
                session: BOUND,
                group: g(),
                message: Body(b"hi"),
            })
        }),
        act(format!("{who} logs out"), n, move |operation| {
            Command::Logout(command::Logout {
                operation,
                session: BOUND,
            })
        }),
    ];
    if !matches!(who, "cat" | "eve") {
        acts.extend(of_makers(n, who));
    }
    if matches!(who, "ann" | "bob") {
        acts.extend(of_moderators(n, who));
    }
    if who == "ann" {
        acts.extend(of_owners(n, who));
    }
    acts
}

fn of_makers(n: Device, who: &'static str) -> Vec<Act> {
    let mut acts = Vec::new();
    acts.push(act(format!("{who} makes h"), n, |operation| {
        Command::AddGroup(command::AddGroup {
            operation,
            session: BOUND,
            group: group("h"),
            password: Password(b""),
        })
    }));
    acts
}

fn of_moderators(n: Device, who: &'static str) -> Vec<Act> {
    let g = || group("g");
    let mut acts = Vec::new();
    acts.push(act(format!("{who} deletes"), n, move |operation| {
        Command::DelGroup(command::DelGroup {
            operation,
            session: BOUND,
            group: g(),
        })
    }));
    for whom in ["bob", "cat", "dan", "zoe@beta"] {
        acts.push(act(format!("{who} kicks {whom}"), n, move |operation| {
            Command::Kick(command::Kick {
                operation,
                session: BOUND,
                group: g(),
                user: sender(whom),
            })
        }));
        acts.push(act(format!("{who} bans {whom}"), n, move |operation| {
            Command::Ban(command::Ban {
                operation,
                session: BOUND,
                group: g(),
                user: sender(whom),
            })
        }));
    }
    acts.push(act(format!("{who} unbans eve"), n, move |operation| {
        Command::Unban(command::Unban {
            operation,
            session: BOUND,
            group: g(),
            user: sender("eve"),
        })
    }));
    acts
}

fn of_owners(n: Device, who: &'static str) -> Vec<Act> {
    let g = || group("g");
    let mut acts = Vec::new();
    for (whom, role) in [
        ("bob", Role::Owner),
        ("cat", Role::Owner),
        ("cat", Role::Moderator),
        ("bob", Role::Member),
    ] {
        acts.push(act(
            format!("{who} makes {whom} {}", role.name()),
            n,
            move |operation| {
                Command::SetRole(command::SetRole {
                    operation,
                    session: BOUND,
                    group: g(),
                    user: user(whom),
                    role,
                })
            },
        ));
    }
    acts.push(act(format!("{who} sets a password"), n, move |operation| {
        Command::GroupPasswd(command::GroupPasswd {
            operation,
            session: BOUND,
            group: g(),
            password: Password(b"meow"),
        })
    }));
    acts
}

/// Returns the requests of another realm about the group.
pub fn of_peers() -> Vec<Act> {
    let mut acts = Vec::new();
    for who in ["zoe", "yan"] {
        let join = move |_| {
            PeerRequest::Join(peer::Join {
                group: group("g"),
                user: user(who),
                password: Password(b""),
            })
        };
        acts.push(peer_act(
            if who == "zoe" {
                "zoe@beta joins"
            } else {
                "yan@beta joins"
            },
            join,
        ));
    }
    acts.push(peer_act("zoe@beta leaves", |_| {
        PeerRequest::Leave(peer::Leave {
            group: group("g"),
            user: user("zoe"),
            membership: 0,
        })
    }));
    acts.push(peer_act("zoe@beta posts", |number| {
        PeerRequest::Post(peer::Post {
            epoch: 7,
            sequence: OperationNumber(number),
            content: 0,
            from: user("zoe"),
            group: group("g"),
            message: Body(b"from beta"),
        })
    }));
    acts
}

fn auth_on(name: &'static str, n: Device, who: &'static str) -> Act {
    act(name, n, move |operation| {
        Command::Auth(command::Auth {
            operation,
            username: user(who),
            password: Password(b"correct horse"),
        })
    })
}

fn block_on(name: &str, n: Device, whom: &'static str) -> Act {
    act(name, n, move |operation| {
        Command::Block(command::Block {
            operation,
            session: BOUND,
            user: sender(whom),
        })
    })
}

/// Returns the commands about accounts and sessions.
pub fn of_sessions(handles: &[Handle]) -> Vec<Act> {
    let mut acts = vec![
        act("cat's first device logs out", 3, logout_op),
        act("cat's second device logs out", 6, logout_op),
        act("cat changes the password", 3, |operation| {
            Command::Passwd(command::Passwd {
                operation,
                session: BOUND,
                old: Password(b"correct horse"),
                new: Password(b"battery staple"),
            })
        }),
        act("cat changes it on the second device", 6, |operation| {
            Command::Passwd(command::Passwd {
                operation,
                session: BOUND,
                old: Password(b"correct horse"),
                new: Password(b"another staple"),
            })
        }),
        auth_on("cat logs in on a third device", 7, "cat"),
        auth_on("cat logs in on a fourth device", 8, "cat"),
        auth_on("dan logs in on cat's second device", 6, "dan"),
        act("fay registers", 9, |operation| {
            register_op(operation, "fay")
        }),
        act("fay registers elsewhere", 10, |operation| {
            register_op(operation, "fay")
        }),
        act("cat writes to dan", 3, |operation| {
            Command::Send(command::Send {
                operation,
                session: BOUND,
                to: user("dan"),
                message: Body(b"hi"),
            })
        }),
        act("dan writes to cat", 4, |operation| {
            Command::Send(command::Send {
                operation,
                session: BOUND,
                to: user("cat"),
                message: Body(b"ho"),
            })
        }),
        block_on("cat blocks dan", 3, "dan"),
        block_on("cat blocks dan on the second device", 6, "dan"),
        block_on("cat blocks ann on the second device", 6, "ann"),
        act("cat unblocks dan", 3, |operation| {
            Command::Unblock(command::Unblock {
                operation,
                session: BOUND,
                user: sender("dan"),
            })
        }),
        act("cat claims", 3, |operation| {
            Command::Claim(command::Claim {
                operation,
                session: BOUND,
                code: Password(b"open sesame"),
            })
        }),
        act("number 90 is used up", 3, |operation| {
            Command::Void(command::Void {
                operation,
                session: BOUND,
            })
        }),
    ];
    for (at, handle) in handles.iter().copied().enumerate() {
        let by = if at == 0 { 6 } else { 3 };
        acts.push(act(
            format!("cat revokes device {at}"),
            by,
            move |operation| {
                Command::Revoke(command::Revoke {
                    operation,
                    session: BOUND,
                    handle,
                })
            },
        ));
    }
    acts
}

/// Returns the commands about other realms.
pub fn of_realms() -> Vec<Act> {
    let add = |name: &'static str, realm: &'static str, key: u8| Act {
        name: name.into(),
        device: 1,
        command: Box::new(move |number| {
            let command = Command::AddRealm(command::AddRealm {
                operation: op(number),
                session: BOUND,
                realm: realm.parse().unwrap(),
                address: Text("192.0.2.33"),
                port: crate::wire::Port(6377),
                src_address: Text(""),
                src_port: crate::wire::Port(0),
            });
            let options = Options {
                key: Some([key; 32]),
                ..Options::NONE
            };
            Request { options, command }.to_bytes()
        }),
        is_on_its_way: false,
    };
    vec![
        add("ann adds gamma", "gamma", 60),
        add("ann adds gamma's key as delta", "delta", 60),
        add("ann adds gamma with another key", "gamma", 61),
        act("ann removes beta", 1, |operation| {
            Command::RemoveRealm(command::RemoveRealm {
                operation,
                session: BOUND,
                realm: "beta".parse().unwrap(),
            })
        }),
        act("cat writes to beta", 3, |operation| {
            Command::SendRealm(command::SendRealm {
                operation,
                session: BOUND,
                src_address: Text(""),
                src_port: crate::wire::Port(0),
                realm: "beta".parse().unwrap(),
                from: user("cat"),
                to: user("zoe"),
                message: Body(b"hi"),
            })
        }),
        act("ann kicks zoe@beta", 1, |operation| {
            Command::Kick(command::Kick {
                operation,
                session: BOUND,
                group: group("g"),
                user: sender("zoe@beta"),
            })
        }),
        act("ann bans yan@beta", 1, |operation| {
            Command::Ban(command::Ban {
                operation,
                session: BOUND,
                group: group("g"),
                user: sender("yan@beta"),
            })
        }),
        peer_act("zoe@beta writes to cat", |number| {
            PeerRequest::Deliver(peer::Deliver {
                epoch: 7,
                sequence: OperationNumber(number),
                content: 0,
                from: user("zoe"),
                to: user("cat"),
                message: Body(b"from beta"),
            })
        }),
        peer_act("yan@beta joins", |_| {
            PeerRequest::Join(peer::Join {
                group: group("g"),
                user: user("yan"),
                password: Password(b""),
            })
        }),
        peer_act("beta has a new key", |_| {
            rotate(PublicKey([50; 32]), &SecretKey::from_bytes([51; 32]))
        }),
        peer_act("beta moves", |_| {
            PeerRequest::Introduce(peer::Introduce {
                realm: "alpha".parse().unwrap(),
                address: Text("192.0.2.77"),
                port: crate::wire::Port(7000),
                numbers: None,
            })
        }),
    ]
}

pub fn join_realm(operation: Operation, name: &'static str) -> Command<'static> {
    Command::JoinGroupRealm(command::JoinGroupRealm {
        operation,
        session: BOUND,
        src_address: Text(""),
        src_port: crate::wire::Port(0),
        realm: "beta".parse().unwrap(),
        group: group(name),
        password: Password(b""),
    })
}

/// Returns the commands about a group of another realm that ann and cat are in, and that realm's
/// requests about it.
pub fn of_copies(name: &'static str) -> Vec<Act> {
    let realm = || "beta".parse().unwrap();
    let mut acts = Vec::new();
    for (n, who) in [(3, "cat"), (4, "dan")] {
        acts.push(act(format!("{who} joins"), n, move |operation| {
            join_realm(operation, name)
        }));
        acts.push(act(format!("{who} leaves"), n, move |operation| {
            Command::LeaveGroupRealm(command::LeaveGroupRealm {
                operation,
                session: BOUND,
                realm: realm(),
                group: group(name),
            })
        }));
        acts.push(act(format!("{who} posts"), n, move |operation| {
            Command::SendGroupRealm(command::SendGroupRealm {
                operation,
                session: BOUND,
                src_address: Text(""),
                src_port: crate::wire::Port(0),
                realm: realm(),
                group: group(name),
                message: Body(b"hi"),
            })
        }));
        let expelled = peer_act(
            if n == 3 {
                "cat is expelled"
            } else {
                "dan is expelled"
            },
            move |sequence| {
                PeerRequest::Expelled(peer::Expelled {
                    epoch: 7,
                    sequence: OperationNumber(sequence),
                    group: group(name),
                    user: user(who),
                    membership: 0,
                })
            },
        );
        acts.push(Act {
            is_on_its_way: true,
            ..expelled
        });
    }
    acts.push(peer_act("the group ends", move |sequence| {
        PeerRequest::Ended(peer::Ended {
            epoch: 7,
            sequence: OperationNumber(sequence),
            group: group(name),
            group_epoch: 7,
        })
    }));
    acts
}

fn logout_op(operation: Operation) -> Command<'static> {
    Command::Logout(command::Logout {
        operation,
        session: BOUND,
    })
}

fn register_op(operation: Operation, name: &str) -> Command<'static> {
    Command::Register(command::Register {
        operation,
        full_name: Text("Some One"),
        country: Text("id"),
        username: user(name),
        password: Password(b"correct horse"),
    })
}
