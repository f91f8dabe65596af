use std::collections::BTreeMap;

use super::{entry::body_key, *};
use crate::{
    client::store::{Memory, Store, write},
    wire::{self, Body, Command, Operation, Password, SessionRef, command},
};

const NOW: Duration = Duration::from_secs(1_000_000);
const SPAN: Duration = Duration::from_secs(10);

fn account(name: &str) -> Account {
    Account {
        realm: RealmNumber(0),
        username: name.into(),
    }
}

fn send<'a>(to: &str, text: &'a str) -> Request<'a> {
    Request::from(Command::Send(command::Send {
        operation: Operation::new(0, [1, 2]),
        session: SessionRef::Bound,
        to: to.parse().unwrap(),
        message: Body(text.as_bytes()),
    }))
}

fn join(group: &str) -> Request<'static> {
    Request::from(Command::JoinGroup(command::JoinGroup {
        operation: Operation::UNNUMBERED,
        session: SessionRef::Bound,
        group: group.parse().unwrap(),
        password: Password(b"battery staple"),
    }))
}

fn situation<'a>(
    account: &'a Account,
    now: Duration,
    on_the_way: &'a BTreeMap<EntryId, Aim>,
) -> Situation<'a> {
    Situation {
        account,
        now,
        on_the_way,
        is_logged_in: true,
        most: ON_THE_WAY_MAX,
    }
}

/// An outbox in memory.
#[derive(Default)]
struct Box(Memory);

impl Box {
    fn write<T>(&self, work: impl FnOnce(&mut dyn Records) -> Result<T, ProfileError>) -> T {
        write(&self.0 as &dyn Store, work).unwrap()
    }

    fn add_with(&self, request: &Request<'_>, token: Option<&str>) -> Added {
        self.add_as("ann", request, token)
    }

    fn add_as(&self, user: &str, request: &Request<'_>, token: Option<&str>) -> Added {
        let token = token.map(|token| token.parse().unwrap());
        let new = New {
            account: account(user),
            request,
            waiting: Waiting::new(NOW, SPAN),
            now: NOW,
        };
        self.write(|records| Outbox::of(records).add(&new, token.as_ref()))
    }

    fn add(&self, request: &Request<'_>) -> EntryId {
        match self.add_with(request, None) {
            Added::Entry(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn pick_at(&self, now: Duration, on_the_way: &[EntryId]) -> Vec<Picked> {
        let on_the_way = on_the_way.iter().map(|id| (*id, Aim::Do)).collect();
        self.write(|records| {
            let account = account("ann");
            Outbox::of(records).pick(&situation(&account, now, &on_the_way))
        })
        .picked
    }

    fn ids(&self, on_the_way: &[EntryId]) -> Vec<EntryId> {
        self.pick_at(NOW, on_the_way)
            .iter()
            .map(|picked| picked.id)
            .collect()
    }

    fn settle(&self, id: EntryId) {
        self.write(|records| Outbox::of(records).settle(id, &Outcome::Answer(vec![0])));
    }
}

/// EXACT-7: commands of one conversation keep their order, and other commands do not wait for them.
#[test]
fn outbox_conversation_keeps_order_and_others_do_not_wait() {
    let outbox = Box::default();
    let first = outbox.add(&send("bob", "one"));
    let second = outbox.add(&send("bob", "two"));
    let other = outbox.add(&send("cid", "three"));
    assert_eq!(outbox.ids(&[]), [first, other]);
    assert_eq!(outbox.ids(&[first, other]), []);
    outbox.settle(first);
    assert_eq!(outbox.ids(&[other]), [second]);
}

/// EXACT-7: a command that must come first is completed first, even if only a process with the
/// password can execute it.
#[test]
fn outbox_join_is_completed_before_messages_to_group() {
    let outbox = Box::default();
    let join = outbox.add(&join("devs"));
    let write = Request::from(Command::SendGroup(command::SendGroup {
        operation: Operation::UNNUMBERED,
        session: SessionRef::Bound,
        group: "devs".parse().unwrap(),
        message: Body(b"hello"),
    }));
    let write = outbox.add(&write);
    assert_eq!(outbox.ids(&[]), []);
    // No process has the password any more. The entry's number is used up, and the group's commands
    // follow.
    let picked = outbox
        .write(|records| Outbox::of(records).begin_now(join, NOW))
        .unwrap();
    assert_eq!(picked.number.0, 1);
    let later = NOW + SPAN * 2;
    let picked = outbox.pick_at(later, &[]);
    assert_eq!(
        (picked[0].id, picked[0].aim),
        (join, Aim::Cancel(Reason::NotKept))
    );
    assert!(picked[0].body.is_none(), "no password is written down");
    outbox.settle(join);
    assert_eq!(outbox.pick_at(later, &[])[0].id, write);
}

/// EXACT-12: no number is issued that is 256 above an incomplete one, because the realm would
/// forget that.
#[test]
fn outbox_number_is_not_issued_256_above_incomplete_one() {
    let outbox = Box::default();
    let stuck = outbox.add(&send("bob", "stuck"));
    assert_eq!(outbox.ids(&[]), [stuck]);
    for n in 0..300 {
        let id = outbox.add(&send(&format!("u{n}"), "text"));
        match outbox.ids(&[stuck]).as_slice() {
            [picked] => {
                assert!(n < 255);
                assert_eq!(*picked, id);
                outbox.settle(id);
            }
            [] => assert!(n >= 255),
            more => panic!("{more:?}"),
        }
    }
    outbox.settle(stuck);
    assert_eq!(outbox.ids(&[]).len(), 45);
}

#[test]
fn outbox_caller_that_stops_waiting_is_told_what_is_certain() {
    let outbox = Box::default();
    let stop =
        |id, afterwards| outbox.write(|records| Outbox::of(records).stop_waiting(id, afterwards));
    let unsent = outbox.add(&send("bob", "a"));
    assert_eq!(stop(unsent, Afterwards::Keep), Left::Kept);
    assert_eq!(stop(unsent, Afterwards::GiveUp), Left::NotDone);
    let sent = outbox.add(&send("bob", "b"));
    outbox.ids(&[]);
    assert_eq!(stop(sent, Afterwards::Keep), Left::KeptUnknown);
    assert_eq!(stop(sent, Afterwards::GiveUp), Left::Unknown);
    // A command that is no longer wanted is not sent again: its number is used up.
    assert_eq!(
        outbox.pick_at(NOW, &[])[0].aim,
        Aim::Cancel(Reason::NotKept)
    );
    let settled = outbox.add(&send("cid", "c"));
    outbox.settle(settled);
    assert_eq!(
        stop(settled, Afterwards::Keep),
        Left::Settled(Outcome::Answer(vec![0]))
    );
}

#[test]
fn outbox_cancel_of_unsent_entry_is_certain() {
    let outbox = Box::default();
    let cancelled = |id| outbox.write(|records| Outbox::of(records).cancel(id, NOW));
    let id = outbox.add(&send("bob", "a"));
    assert_eq!(cancelled(id), Cancelled::Certainly);
    assert_eq!(cancelled(id), Cancelled::NoSuchEntry);
    let id = outbox.add(&send("bob", "b"));
    outbox.ids(&[]);
    assert_eq!(cancelled(id), Cancelled::Asked);
    assert_eq!(
        outbox.pick_at(NOW, &[])[0].aim,
        Aim::Cancel(Reason::Cancelled)
    );
}

#[test]
fn outbox_repeat_with_same_token_is_same_command() {
    let outbox = Box::default();
    let Added::Entry(id) = outbox.add_with(&send("bob", "a"), Some("t1")) else {
        panic!("not added");
    };
    // A repeat with another salt is the same command.
    let mut again = send("bob", "a");
    *again.command.operation_mut().unwrap() = Operation::new(0, [9, 9]);
    assert_eq!(outbox.add_with(&again, Some("t1")), Added::Entry(id));
    // A repeat with another session reference is the same command, too.
    *again.command.session_mut().unwrap() = SessionRef::Named(crate::wire::SessionId([7; 16]));
    assert_eq!(outbox.add_with(&again, Some("t1")), Added::Entry(id));
    assert_eq!(
        outbox.add_with(&send("bob", "b"), Some("t1")),
        Added::TokenReused
    );
    outbox.settle(id);
    let done = Added::Done(id, Outcome::Answer(vec![0]));
    assert_eq!(outbox.add_with(&again, Some("t1")), done);
    assert_eq!(outbox.add_with(&again, Some("t1")), done);
    assert_ne!(
        outbox.add(&send("bob", "a")),
        id,
        "without a token it is another"
    );
}

#[test]
fn outbox_ttl_counts_while_entry_waits() {
    let outbox = Box::default();
    let mut request = send("bob", "a");
    request.options.ttl = Some(100);
    let first = outbox.add(&request);
    let picked = outbox.pick_at(NOW + Duration::from_secs(40), &[]);
    let body = picked[0].body.clone().unwrap();
    assert_eq!(Request::parse(&body).unwrap().options.ttl, Some(60));
    outbox.settle(first);
    let second = outbox.add(&request);
    assert!(
        outbox
            .pick_at(NOW + Duration::from_secs(100), &[])
            .is_empty()
    );
    let outcome = outbox.write(|records| Outbox::of(records).take_done(second));
    assert_eq!(outcome, Some(Outcome::NotDone(Reason::Expired)));
}

#[test]
fn outbox_is_bounded_in_bytes() {
    let outbox = Box::default();
    let text = "x".repeat(1 << 20);
    for _ in 0..15 {
        outbox.add(&send("bob", &text));
    }
    assert!(matches!(
        outbox.add_with(&send("bob", &text), None),
        Added::Full(_)
    ));
    outbox.add(&send("bob", "short"));
}

#[test]
fn outbox_entries_of_other_account_are_not_sent() {
    let outbox = Box::default();
    let id = outbox.add(&send("bob", "a"));
    let other = outbox.write(|records| {
        Outbox::of(records).pick(&situation(&account("cid"), NOW, &BTreeMap::new()))
    });
    assert!(other.picked.is_empty());
    assert_eq!(outbox.ids(&[]), [id]);
    // Without a login, entries that no caller waits for are held.
    outbox.settle(id);
    let held = outbox.add(&send("bob", "b"));
    outbox.write(|records| Outbox::of(records).stop_waiting(held, Afterwards::Keep));
    let nobody = outbox.write(|records| {
        let (account, nothing) = (account("ann"), BTreeMap::new());
        let situation = Situation {
            is_logged_in: false,
            ..situation(&account, NOW, &nothing)
        };
        Outbox::of(records).pick(&situation)
    });
    assert!(nobody.picked.is_empty());
    // Found by the simulator: the carrier looked again every millisecond.
    assert_eq!(nobody.next, None);
}

#[test]
fn outbox_wait_set_by_wrong_clock_is_ignored() {
    let outbox = Box::default();
    let id = outbox.add(&send("bob", "a"));
    outbox.write(|records| Outbox::of(records).pause(id, NOW + SPAN));
    assert!(outbox.ids(&[]).is_empty());
    outbox.write(|records| Outbox::of(records).pause(id, NOW * 2));
    assert_eq!(outbox.ids(&[]), [id]);
}

/// A lifetime is not shortened by the fraction of the second in which the message was typed.
#[test]
fn outbox_ttl_typed_late_in_second_is_not_shortened() {
    let outbox = Box::default();
    let mut request = send("bob", "soon");
    request.options.ttl = Some(1);
    let now = NOW + Duration::from_millis(950);
    let new = New {
        account: account("ann"),
        request: &request,
        waiting: Waiting::new(now, SPAN),
        now,
    };
    outbox.write(|records| Outbox::of(records).add_unnamed(&new));
    let picked = outbox.pick_at(now + Duration::from_millis(100), &[]);
    let body = picked[0].body.clone().unwrap();
    assert_eq!(Request::parse(&body).unwrap().options.ttl, Some(1));
}

/// An entry whose lifetime ends while it is in flight is cancelled: an attempt may take longer than
/// the lifetime.
#[test]
fn outbox_ttl_ended_in_flight_cancels_entry() {
    let outbox = Box::default();
    let mut request = send("bob", "soon");
    request.options.ttl = Some(5);
    let id = outbox.add(&request);
    assert_eq!(outbox.ids(&[]), [id]);
    let on_the_way = BTreeMap::from([(id, Aim::Do)]);
    let due = |after| {
        let now = NOW + Duration::from_secs(after);
        outbox.write(|records| {
            let account = account("ann");
            Outbox::of(records).pick(&situation(&account, now, &on_the_way))
        })
    };
    assert_eq!(due(1).next, Some(NOW + Duration::from_secs(5)));
    let picked = &due(5).picked[0];
    assert_eq!((picked.id, picked.aim), (id, Aim::Cancel(Reason::Expired)));
}

/// EXACT-11: the outcome of a login is notified to the user that it logged in. No user is logged in
/// while an account is created; the user is known from the answer.
#[test]
fn outbox_login_outcome_is_reported_to_user_it_logged_in() {
    let outbox = Box::default();
    let id = outbox.add(&Request::from(Command::Auth(command::Auth {
        operation: Operation::UNNUMBERED,
        username: "bob".parse().unwrap(),
        password: Password(b"battery staple"),
    })));
    let bob = wire::Account {
        operator: false,
        username: "bob".parse().unwrap(),
        full_name: "Bob".into(),
        country: "id".into(),
    };
    let outcome = Outcome::Answer(Answer::Account(bob).to_bytes());
    outbox.write(|records| Outbox::of(records).settle(id, &outcome));
    let later = NOW + SPAN;
    let untold =
        |name| outbox.write(|records| Outbox::of(records).take_untold(&account(name), later));
    assert!(untold("ann").is_empty());
    assert_eq!(untold("bob").len(), 1);
}

/// Found by the simulator: two processes that got the same answer gave an entry two numbers, and it
/// was executed under both.
#[test]
fn outbox_used_number_is_replaced_once_by_two_processes() {
    let outbox = Box::default();
    let id = outbox.add(&send("bob", "a"));
    let first = outbox.pick_at(NOW, &[]).remove(0).number;
    let realm = RealmNumber(0);
    let highest = OperationNumber(9);
    outbox.write(|records| Outbox::of(records).renumber(id, realm, first, highest));
    let second = outbox.pick_at(NOW, &[]).remove(0).number;
    assert_eq!(second.0, 10);
    outbox.write(|records| Outbox::of(records).renumber(id, realm, first, highest));
    let again = outbox.pick_at(NOW, &[]).remove(0);
    assert_eq!((again.number, again.left), (second, true));
}

/// A process that has waited for the records knows an older time than the entries that it finds in
/// them.
#[test]
fn outbox_entry_with_password_newer_than_clock_is_kept() {
    let outbox = Box::default();
    let id = outbox.add(&join("devs"));
    assert!(
        outbox
            .pick_at(NOW.checked_sub(Duration::from_millis(20)).unwrap(), &[])
            .is_empty()
    );
    assert!(
        outbox
            .write(|records| OutboxView::of(records).find(id))
            .is_some()
    );
}

/// EXACT-7: a command that was typed before the logged-in user was known belongs to that user if it
/// was typed in the session. Otherwise it is not executed.
#[test]
fn outbox_entry_typed_before_login_goes_to_user_of_session() {
    for is_new_session in [true, false] {
        let outbox = Box::default();
        let nobodys = |request: &Request<'_>, token| match outbox.add_as("", request, token) {
            Added::Entry(id) => id,
            other => panic!("{other:?}"),
        };
        let done = nobodys(&send("cid", "done"), Some("done"));
        outbox.settle(done);
        let before = nobodys(&send("bob", "before"), Some("before"));
        let named = Request::from(Command::Send(command::Send {
            operation: Operation::new(0, [3, 4]),
            session: SessionRef::Named(wire::SessionId([7; 16])),
            to: "dia".parse().unwrap(),
            message: Body(b"named"),
        }));
        let named = nobodys(&named, None);
        let login = nobodys(&join("crew"), None);
        let after = nobodys(&send("eve", "after"), Some("after"));
        assert!(outbox.ids(&[]).is_empty(), "they are nobody's");
        let login = is_new_session.then_some(login);
        outbox.write(|records| Outbox::of(records).adopt(&account("ann"), login));
        let mut expected = vec![named, after];
        if !is_new_session {
            expected.insert(0, before);
        }
        assert_eq!(outbox.ids(&[]), expected);
        let told = outbox.write(|records| Outbox::of(records).take_done(before));
        let not_done = Some(Outcome::NotDone(Reason::NoSession));
        assert_eq!(told, not_done.filter(|_| is_new_session));
        assert_eq!(
            outbox.add_with(&send("eve", "after"), Some("after")),
            Added::Entry(after)
        );
        // A script that repeats a command that was not done executes it now. A command that was
        // done stays done.
        let again = outbox.add_with(&send("bob", "before"), Some("before"));
        assert_eq!(again == Added::Entry(before), !is_new_session);
        let again = outbox.add_with(&send("cid", "done"), Some("done"));
        assert!(
            matches!(again, Added::Done(id, _) if id == done),
            "{again:?}"
        );
    }
}

/// EXACT-7: no number is issued while the outcome of a login is unknown, because a number above the
/// login's may belong to the next user.
#[test]
fn outbox_number_is_not_issued_while_login_outcome_is_unknown() {
    let outbox = Box::default();
    let sent = outbox.add(&send("bob", "a"));
    let login = Request::from(Command::Auth(command::Auth {
        operation: Operation::UNNUMBERED,
        username: "cid".parse().unwrap(),
        password: Password(b"correct horse"),
    }));
    let login = outbox.add(&login);
    let first = outbox.pick_at(NOW, &[])[0].number;
    outbox.write(|records| Outbox::of(records).begin_now(login, NOW));
    // The command was not executed under its number, because a session has been opened since.
    outbox.write(|records| Outbox::of(records).renumber(sent, RealmNumber(0), first, first));
    assert!(outbox.ids(&[]).is_empty());
    outbox.settle(login);
    assert_eq!(outbox.ids(&[]), [sent]);
}

/// An entry whose command cannot be read ends, with what is certain of it, and stops no other.
#[test]
fn outbox_entry_without_its_command_ends_alone() {
    for is_gone in [true, false] {
        let outbox = Box::default();
        let damage = |id| {
            outbox.write(|records| {
                if is_gone {
                    records.delete(&body_key(id))
                } else {
                    save_body(records, id, b"no command")
                }
            });
        };
        let outcome = |id| outbox.write(|records| OutboxView::of(records).done(id));
        let sent = outbox.add(&send("bob", "sent"));
        assert_eq!(outbox.ids(&[]), [sent]);
        let mut mortal = send("cid", "unsent");
        mortal.options.ttl = Some(100);
        let unsent = match outbox.add_with(&mortal, Some("token")) {
            Added::Entry(id) => id,
            other => panic!("{other:?}"),
        };
        let whole = outbox.add(&send("dia", "whole"));
        damage(sent);
        damage(unsent);
        let due = outbox.write(|records| {
            Outbox::of(records).pick(&situation(&account("ann"), NOW, &BTreeMap::new()))
        });
        let picked: Vec<_> = due.picked.iter().map(|picked| picked.id).collect();
        assert_eq!(picked, [whole]);
        assert!(due.has_settled);
        assert_eq!(due.damaged, [sent], "the outcome of the other says it");
        assert_eq!(outcome(sent), Some(Outcome::Unknown));
        assert_eq!(outcome(unsent), Some(Outcome::NotDone(Reason::Damaged)));
        // It was certainly not executed: a script that repeats it executes it now.
        let again = outbox.add_with(&mortal, Some("token"));
        assert!(
            matches!(again, Added::Entry(id) if id != unsent),
            "{again:?}"
        );
    }
}

/// To cancel an entry or to end it after its lifetime, its command is not needed.
#[test]
fn outbox_entry_without_its_command_can_be_cancelled_and_expires() {
    for (is_cancelled, reason) in [(true, Reason::Cancelled), (false, Reason::Expired)] {
        let outbox = Box::default();
        let id = outbox.add(&send("bob", "sent"));
        let number = outbox.pick_at(NOW, &[])[0].number;
        outbox.write(|records| save_body(records, id, b"no command"));
        let now = if is_cancelled {
            let cancelled = outbox.write(|records| Outbox::of(records).cancel(id, NOW));
            assert_eq!(cancelled, Cancelled::Asked);
            NOW
        } else {
            NOW + entry::ENTRY_LIFETIME
        };
        let picked = outbox.pick_at(now, &[]).remove(0);
        assert_eq!((picked.id, picked.number), (id, number));
        assert_eq!((picked.aim, picked.body), (Aim::Cancel(reason), None));
    }
}

/// The process that waits for an entry, and sends it in the carrier's place, ends it as well.
#[test]
fn outbox_entry_without_its_command_ends_beside_carrier() {
    let outbox = Box::default();
    let id = outbox.add(&send("bob", "a"));
    outbox.write(|records| records.delete(&body_key(id)));
    let due = outbox.write(|records| Outbox::of(records).pick_one(id, NOW));
    assert!(due.picked.is_empty() && due.has_settled);
    assert!(outbox.write(|records| OutboxView::of(records).is_done(id)));
}

/// A login is learnt of, whatever an entry from before it looks like.
#[test]
fn outbox_entry_without_its_command_does_not_stop_login() {
    let outbox = Box::default();
    let Added::Entry(id) = outbox.add_as("", &send("bob", "before"), None) else {
        panic!("not added");
    };
    outbox.write(|records| save_body(records, id, b"no command"));
    let login = Some(EntryId(id.0 + 1));
    outbox.write(|records| Outbox::of(records).adopt(&account("ann"), login));
    assert!(outbox.ids(&[]).is_empty());
    let outcome = outbox.write(|records| Outbox::of(records).take_done(id));
    assert_eq!(outcome, Some(Outcome::NotDone(Reason::NoSession)));
}
