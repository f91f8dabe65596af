//! Any two commands that change the same thing, at once: what comes of them is what comes of one after the other.
//!
//! A command reads, decides and commits once. So all that two can do to each other is that one is done, whole, between
//! two steps of the other: each such place is tried.

use std::sync::atomic::Ordering;

use super::{
    acts::{
        Act, BETA, BOUND, DEVICES, group, of_groups, of_peers, of_realms, of_sessions, sender, user,
    },
    held::{Held, add_peer, give, realm_of},
    *,
};
use crate::{
    store::Memory,
    wire::{Handle, Role},
};

/// The same answer, without what is drawn at random.
fn comparable(answer: Answer) -> Answer {
    match answer {
        Answer::Joined { known_as, .. } => Answer::Joined { epoch: 0, known_as },
        Answer::Refused(mut refusal) if refusal.code == ErrorCode::Busy => {
            refusal.detail = None;
            Answer::Refused(refusal)
        }
        answer => answer,
    }
}

/// The store before the two.
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
        Command::AddGroup {
            operation: op(2),
            session: BOUND,
            group: g,
            password,
        },
    )];
    for n in [2, 3] {
        commands.push((
            n,
            Command::JoinGroup {
                operation: op(2),
                session: BOUND,
                group: g,
                password,
            },
        ));
    }
    commands.push((
        1,
        Command::SetRole {
            operation: op(3),
            session: BOUND,
            group: g,
            user: user("bob"),
            role: Role::Moderator,
        },
    ));
    commands.push((
        1,
        Command::Ban {
            operation: op(4),
            session: BOUND,
            group: g,
            user: sender("eve"),
        },
    ));
    commands.push((
        1,
        Command::Claim {
            operation: op(5),
            session: BOUND,
            code: Password(b"open sesame"),
        },
    ));
    for (n, command) in commands {
        let answer = give(&realm, n, &Request::from(command).to_bytes()).await;
        assert_eq!(answer, Answer::Done);
    }
    let join = PeerRequest::Join {
        group: g,
        user: user("zoe"),
        password,
    };
    let answer = give(&realm, BETA, &join.to_bytes()).await;
    assert!(matches!(answer, Answer::Joined { .. }), "{answer:?}");
    let memory = store.memory();
    memory.clone()
}

async fn handles(memory: &Memory) -> Vec<Handle> {
    let realm = realm_of(&Held::over(memory.clone()));
    let command = Command::Sessions { session: BOUND };
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

/// All that anybody can see afterwards, and what everybody may still do.
async fn seen(realm: &Realm<Held>, devices: u8) -> Vec<Answer> {
    let mut seen = Vec::new();
    let all = Options {
        after: Some(0),
        ..Options::NONE
    };
    for n in 1..=devices {
        let session = BOUND;
        let mut reads: Vec<Request<'_>> = vec![
            Command::WhoAmI { session }.into(),
            Command::Groups { session }.into(),
            Command::Sessions { session }.into(),
            Command::Realms { session }.into(),
        ];
        for name in ["g", "h"] {
            let group = group(name);
            reads.push(Command::Members { session, group }.into());
            let command = Command::InboxGroup { session, group };
            reads.push(Request {
                options: all,
                command,
            });
        }
        reads.push(Request {
            options: all,
            command: Command::Inbox { session },
        });
        for read in reads {
            seen.push(comparable(give(realm, n, &read.to_bytes()).await));
        }
    }
    for request in [
        PeerRequest::Join {
            group: group("g"),
            user: user("yan"),
            password: Password(b""),
        },
        PeerRequest::Leave {
            group: group("g"),
            user: user("zoe"),
        },
    ] {
        for key in [BETA, 51, 60] {
            seen.push(comparable(give(realm, key, &request.to_bytes()).await));
        }
    }
    for n in 1..=devices {
        for command in [
            Command::JoinGroup {
                operation: op(200),
                session: BOUND,
                group: group("g"),
                password: Password(b""),
            },
            Command::LeaveGroup {
                operation: op(201),
                session: BOUND,
                group: group("g"),
            },
            Command::AddGroup {
                operation: op(202),
                session: BOUND,
                group: group("g"),
                password: Password(b""),
            },
        ] {
            seen.push(comparable(
                give(realm, n, &Request::from(command).to_bytes()).await,
            ));
        }
    }
    seen
}

/// What came of two commands.
#[derive(Debug, PartialEq)]
struct Outcome {
    answers: [Answer; 2],
    seen: Vec<Answer>,
}

const NUMBERS: [u64; 2] = [90, 91];

async fn one_after_the_other(
    (memory, devices): (&Memory, u8),
    acts: [&Act; 2],
    is_turned: bool,
) -> Outcome {
    let realm = realm_of(&Held::over(memory.clone()));
    let mut answers = [Answer::Done, Answer::Done];
    for at in if is_turned { [1, 0] } else { [0, 1] } {
        let command = (acts[at].command)(NUMBERS[at]);
        answers[at] = comparable(give(&realm, acts[at].device, &command).await);
    }
    let seen = seen(&realm, devices).await;
    Outcome { answers, seen }
}

/// The second is done while the first is held at one of its steps; nothing when the first has fewer.
async fn one_within_the_other(
    (memory, devices): (&Memory, u8),
    acts: [&Act; 2],
    step: usize,
) -> Option<Outcome> {
    let store = Held::over(memory.clone());
    let realm = realm_of(&store);
    let commands = [0, 1].map(|at| (acts[at].command)(NUMBERS[at]));
    store.hold.left.store(step, Ordering::SeqCst);
    let mut first = core::pin::pin!(give(&realm, acts[0].device, &commands[0]));
    tokio::select! {
        biased;
        _ = &mut first => return None,
        () = store.hold.held.notified() => {}
    }
    let second = give(&realm, acts[1].device, &commands[1]).await;
    store.hold.release.notify_one();
    let answers = [first.await, second].map(comparable);
    let seen = seen(&realm, devices).await;
    Some(Outcome { answers, seen })
}

/// Tries all pairs. Afterwards so many devices look at what there is.
async fn check_all(memory: &Memory, acts: &[Act], devices: u8) {
    let at = (memory, devices);
    let mut wrong = Vec::new();
    let mut tried = 0;
    for first in acts {
        for second in acts {
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

/// EXACT-13, GRP-6, GRP-7
#[tokio::test(start_paused = true)]
async fn commands_about_one_group_have_an_order() {
    let memory = before().await;
    let mut acts = of_peers();
    for (n, who) in [(1, "ann"), (2, "bob"), (3, "cat"), (4, "dan"), (5, "eve")] {
        acts.extend(of_groups(n, who));
    }
    check_all(&memory, &acts, 5).await;
}

/// EXACT-13, ACC-4, SES-6
#[tokio::test(start_paused = true)]
async fn commands_about_one_account_have_an_order() {
    let memory = before().await;
    let handles = handles(&memory).await;
    check_all(&memory, &of_sessions(&handles), 10).await;
}

/// EXACT-13, PEER-1, PEER-13
#[tokio::test(start_paused = true)]
async fn commands_about_one_realm_have_an_order() {
    let memory = before().await;
    check_all(&memory, &of_realms(), 4).await;
}
