//! Any two concurrent commands that change the same thing have the same result as one after the
//! other.
//!
//! A command reads, decides and commits once. So all that can happen is that one runs as a whole
//! between two steps of the other. The tests try each such step.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::mpsc;

use super::{
    acts::{
        Act, BETA, BOUND, DEVICES, group, join_realm, of_copies, of_groups, of_peers, of_realms,
        of_sessions, sender, user,
    },
    held::{Held, add_peer, give, realm_of},
    *,
};
use crate::{
    store::Memory,
    wire::{GroupName, Handle, Role, command},
};

/// The state that two commands are tried on.
#[derive(Clone, Copy)]
struct Scene<'a> {
    memory: &'a Memory,
    /// Number of devices that look at the result.
    devices: u8,
    /// True if the other realm answers, and users here are in its groups.
    has_beta: bool,
}

/// A realm, and the state of the other realm as far as it matters.
struct Tried {
    realm: Realm<Held>,
    beta: Arc<Mutex<Beta>>,
}

/// The other realm.
struct Beta {
    /// True if its groups have ended. One of them has been made again.
    have_ended: bool,
    /// The members of its groups.
    members: BTreeSet<(GroupName, Username)>,
}

/// The name of the other realm's group that is made again, the former epoch of its groups, and the
/// epoch of the one made again.
const AGAIN: &str = "band";
const OLD: u64 = 7;
const NEW: u64 = 8;

/// Answers the requests to the other realm.
async fn answer_for_beta(mut peer_calls: mpsc::Receiver<PeerCall>, beta: Arc<Mutex<Beta>>) {
    while let Some(peer_call) = peer_calls.recv().await {
        let PeerCall::Ask { bytes, answer, .. } = peer_call else {
            continue;
        };
        let mut beta = beta.lock().unwrap();
        let joined = |epoch| Answer::Joined {
            group_epoch: epoch,
            membership: 0,
            known_as: "alpha".parse().unwrap(),
        };
        let reply = match PeerRequest::parse(&bytes).unwrap() {
            PeerRequest::Join(peer::Join { group, user, .. })
                if !beta.have_ended || group.as_str() == AGAIN =>
            {
                beta.members.insert((group, user));
                joined(if beta.have_ended { NEW } else { OLD })
            }
            PeerRequest::Leave(peer::Leave { group, user, .. })
                if beta.members.remove(&(group, user)) =>
            {
                Answer::Done
            }
            PeerRequest::Leave(_) if !beta.have_ended => refused(ErrorCode::NotAMember),
            PeerRequest::Join(_) | PeerRequest::Leave(_) => refused(ErrorCode::NoSuchGroup),
            other => panic!("{other:?}"),
        };
        let _ = answer.send(reply.to_bytes());
    }
}

impl Scene<'_> {
    fn realm(&self, store: &Held) -> Tried {
        let realm = realm_of(store);
        let names = [
            ("crew", "ann"),
            ("crew", "cat"),
            (AGAIN, "ann"),
            (AGAIN, "cat"),
        ];
        let beta = Arc::new(Mutex::new(Beta {
            have_ended: false,
            members: names.map(|(name, who)| (group(name), user(who))).into(),
        }));
        if self.has_beta {
            let peer_calls = realm.network.reconnect();
            tokio::spawn(answer_for_beta(peer_calls, Arc::clone(&beta)));
        }
        Tried { realm, beta }
    }
}

impl Tried {
    async fn give(&self, n: u8, command: &[u8]) -> Answer {
        // The request reports a change that has already happened at the other realm.
        match PeerRequest::parse(command) {
            Ok(PeerRequest::Ended(_)) => {
                let mut beta = self.beta.lock().unwrap();
                beta.have_ended = true;
                beta.members.clear();
            }
            Ok(PeerRequest::Expelled(peer::Expelled { group, user, .. })) => {
                self.beta.lock().unwrap().members.remove(&(group, user));
            }
            _ => {}
        }
        comparable(give(&self.realm, n, command).await)
    }

    /// Returns all that anybody can see afterwards.
    async fn seen(&self, scene: &Scene<'_>) -> Vec<Answer> {
        if !scene.has_beta {
            return seen(&self.realm, scene.devices).await;
        }
        assert!(self.realm.do_chores(NOW).await);
        let mut answers = Vec::new();
        for n in 1..=scene.devices {
            let (session, realm) = (BOUND, "beta".parse().unwrap());
            let mut reads: Vec<Request<'_>> = vec![
                Command::Inbox(command::Inbox { session }).into(),
                Command::Realms(command::Realms { session }).into(),
                Command::Unread(command::Unread {
                    session,
                    cursors: crate::wire::Cursors::default(),
                })
                .into(),
            ];
            for name in ["crew", AGAIN] {
                let group = group(name);
                let read = Command::InboxGroupRealm(command::InboxGroupRealm {
                    session,
                    realm,
                    group,
                });
                reads.push(read.into());
            }
            for read in reads {
                answers.push(self.give(n, &read.to_bytes()).await);
            }
        }
        let members = &self.beta.lock().unwrap().members;
        answers.push(Answer::Names {
            more: false,
            names: members.iter().map(|one| format!("{one:?}")).collect(),
        });
        answers
    }
}

/// Returns the answer without its random parts.
fn comparable(answer: Answer) -> Answer {
    match answer {
        Answer::Joined { known_as, .. } => Answer::Joined {
            group_epoch: 0,
            membership: 0,
            known_as,
        },
        Answer::Refused(mut refusal) if refusal.code == ErrorCode::Busy => {
            refusal.detail = None;
            Answer::Refused(refusal)
        }
        // A request of a peer counts as heard, whether it was refused or not.
        Answer::Realms(mut peers) => {
            for peer in &mut peers {
                peer.heard = 0;
            }
            Answer::Realms(peers)
        }
        answer => answer,
    }
}

/// Returns the store before the two commands.
async fn before() -> Memory {
    let store = Held::default();
    let realm = realm_of(&store);
    for (n, who) in DEVICES {
        let command = match n {
            6 => auth(1, who, "correct horse"),
            _ => register(1, who),
        };
        let answer = give(&realm, n, &Request::from(command).to_bytes()).await;
        assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    }
    add_peer(&realm, BETA, "beta").await;
    let g = group("g");
    let password = Password(b"");
    let mut commands = vec![(
        1,
        Command::AddGroup(command::AddGroup {
            operation: op(2),
            session: BOUND,
            group: g,
            password,
        }),
    )];
    for n in [2, 3] {
        commands.push((
            n,
            Command::JoinGroup(command::JoinGroup {
                operation: op(2),
                session: BOUND,
                group: g,
                password,
            }),
        ));
    }
    commands.push((
        1,
        Command::SetRole(command::SetRole {
            operation: op(3),
            session: BOUND,
            group: g,
            user: user("bob"),
            role: Role::Moderator,
        }),
    ));
    commands.push((
        1,
        Command::Ban(command::Ban {
            operation: op(4),
            session: BOUND,
            group: g,
            user: sender("eve"),
        }),
    ));
    commands.push((
        1,
        Command::Claim(command::Claim {
            operation: op(5),
            session: BOUND,
            code: Password(b"open sesame"),
        }),
    ));
    for (n, command) in commands {
        let answer = give(&realm, n, &Request::from(command).to_bytes()).await;
        assert_eq!(answer, Answer::Done);
    }
    let join = PeerRequest::Join(peer::Join {
        group: g,
        user: user("zoe"),
        password,
    });
    let answer = give(&realm, BETA, &join.to_bytes()).await;
    assert!(matches!(answer, Answer::Joined { .. }), "{answer:?}");
    let memory = store.memory();
    memory.clone()
}

async fn handles(memory: &Memory) -> Vec<Handle> {
    let realm = realm_of(&Held::over(memory.clone()));
    let command = Command::Sessions(command::Sessions { session: BOUND });
    let mut handles = Vec::new();
    for n in [3, 6] {
        let Answer::Sessions(all) =
            give(&realm, n, &Request::from(command.clone()).to_bytes()).await
        else {
            panic!("no sessions")
        };
        handles.extend(
            all.into_iter()
                .filter(|one| one.current)
                .map(|one| one.handle),
        );
    }
    handles
}

/// Returns all that anybody can see afterwards, and what everybody may still do.
async fn seen(realm: &Realm<Held>, devices: u8) -> Vec<Answer> {
    let mut seen = Vec::new();
    let all = Options {
        after: Some(0),
        ..Options::NONE
    };
    for n in 1..=devices {
        let session = BOUND;
        let mut reads: Vec<Request<'_>> = vec![
            Command::WhoAmI(command::WhoAmI { session }).into(),
            Command::Groups(command::Groups { session }).into(),
            Command::Sessions(command::Sessions { session }).into(),
            Command::Blocks(command::Blocks { session }).into(),
            Command::Realms(command::Realms { session }).into(),
        ];
        for name in ["g", "h"] {
            let group = group(name);
            reads.push(Command::Members(command::Members { session, group }).into());
            let command = Command::InboxGroup(command::InboxGroup { session, group });
            reads.push(Request {
                options: all,
                command,
            });
        }
        reads.push(Request {
            options: all,
            command: Command::Inbox(command::Inbox { session }),
        });
        for read in reads {
            seen.push(comparable(give(realm, n, &read.to_bytes()).await));
        }
    }
    for request in [
        PeerRequest::Join(peer::Join {
            group: group("g"),
            user: user("yan"),
            password: Password(b""),
        }),
        PeerRequest::Leave(peer::Leave {
            group: group("g"),
            user: user("zoe"),
            membership: 0,
        }),
    ] {
        for key in [BETA, 51, 60] {
            seen.push(comparable(give(realm, key, &request.to_bytes()).await));
        }
    }
    for n in 1..=devices {
        for command in [
            Command::JoinGroup(command::JoinGroup {
                operation: op(200),
                session: BOUND,
                group: group("g"),
                password: Password(b""),
            }),
            Command::LeaveGroup(command::LeaveGroup {
                operation: op(201),
                session: BOUND,
                group: group("g"),
            }),
            Command::AddGroup(command::AddGroup {
                operation: op(202),
                session: BOUND,
                group: group("g"),
                password: Password(b""),
            }),
        ] {
            seen.push(comparable(
                give(realm, n, &Request::from(command).to_bytes()).await,
            ));
        }
    }
    seen
}

/// The result of two commands.
#[derive(Debug, PartialEq)]
struct Outcome {
    answers: [Answer; 2],
    seen: Vec<Answer>,
}

const NUMBERS: [u64; 2] = [90, 91];

async fn one_after_the_other(scene: &Scene<'_>, acts: [&Act; 2], is_turned: bool) -> Outcome {
    let realm = scene.realm(&Held::over(scene.memory.clone()));
    let mut answers = [Answer::Done, Answer::Done];
    for at in if is_turned { [1, 0] } else { [0, 1] } {
        let command = (acts[at].command)(NUMBERS[at]);
        answers[at] = realm.give(acts[at].device, &command).await;
    }
    let seen = realm.seen(scene).await;
    Outcome { answers, seen }
}

/// Runs the second command while the first is held at `step`. `None` if the first has fewer steps.
async fn one_within_the_other(scene: &Scene<'_>, acts: [&Act; 2], step: usize) -> Option<Outcome> {
    let store = Held::over(scene.memory.clone());
    let realm = scene.realm(&store);
    let commands = [0, 1].map(|at| (acts[at].command)(NUMBERS[at]));
    store.hold.left.store(step, Ordering::SeqCst);
    let mut first = core::pin::pin!(realm.give(acts[0].device, &commands[0]));
    tokio::select! {
        biased;
        _ = &mut first => return None,
        () = store.hold.held.notified() => {}
    }
    let second = realm.give(acts[1].device, &commands[1]).await;
    store.hold.release.notify_one();
    let answers = [first.await, second];
    let seen = realm.seen(scene).await;
    Some(Outcome { answers, seen })
}

/// Tries all pairs. The first `devices` devices look at the results.
async fn check_all(memory: &Memory, acts: &[Act], devices: u8) {
    let scene = Scene {
        memory,
        devices,
        has_beta: false,
    };
    check_scene(&scene, acts).await;
}

async fn check_scene(at: &Scene<'_>, acts: &[Act]) {
    let mut wrong = Vec::new();
    let mut tried = 0;
    for first in acts {
        for second in acts {
            if first.is_on_its_way {
                continue;
            }
            let pair = [first, second];
            let orders = [
                one_after_the_other(at, pair, false).await,
                one_after_the_other(at, pair, true).await,
            ];
            for step in 1.. {
                let Some(outcome) = one_within_the_other(at, pair, step).await else {
                    break;
                };
                tried += 1;
                if !orders.contains(&outcome) {
                    wrong.push(format!(
                        "{} / {} at step {step}: {:?}; in order {:?} or {:?}",
                        first.name,
                        second.name,
                        outcome.answers,
                        orders[0].answers,
                        orders[1].answers
                    ));
                    break;
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "of {tried}, {} are in no order:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// EXACT-13, GRP-6, GRP-7: concurrent commands about one group are serializable.
#[tokio::test(start_paused = true)]
async fn group_commands_at_once_are_serializable() {
    let memory = before().await;
    let mut acts = of_peers();
    for (n, who) in [(1, "ann"), (2, "bob"), (3, "cat"), (4, "dan"), (5, "eve")] {
        acts.extend(of_groups(n, who));
    }
    check_all(&memory, &acts, 5).await;
}

/// EXACT-13, ACC-4, SES-6: concurrent commands about one account are serializable.
#[tokio::test(start_paused = true)]
async fn account_commands_at_once_are_serializable() {
    let memory = before().await;
    let handles = handles(&memory).await;
    check_all(&memory, &of_sessions(&handles), 10).await;
}

/// EXACT-13, PEER-1, PEER-13: concurrent commands about one realm are serializable.
#[tokio::test(start_paused = true)]
async fn peer_commands_at_once_are_serializable() {
    let memory = before().await;
    check_all(&memory, &of_realms(), 4).await;
}

/// EXACT-13, PEER-15, PEER-19: requests of another realm about its group, and concurrent commands
/// of users here, are serializable.
#[tokio::test(start_paused = true)]
async fn replica_end_and_user_commands_at_once_are_serializable() {
    let memory = before().await;
    let scene = Scene {
        memory: &memory,
        devices: 4,
        has_beta: true,
    };
    let store = Held::over(memory.clone());
    let tried = scene.realm(&store);
    for name in ["crew", AGAIN] {
        for n in [1, 3] {
            let number = if name == AGAIN { 20 } else { 21 };
            let command = join_realm(op(number), name);
            let answer = tried.give(n, &Request::from(command).to_bytes()).await;
            assert_eq!(answer, Answer::Done);
        }
    }
    let memory = store.memory().clone();
    let scene = Scene {
        memory: &memory,
        ..scene
    };
    for name in ["crew", AGAIN] {
        check_scene(&scene, &of_copies(name)).await;
    }
}
