//! A restored realm. Once all users are in all groups, its disk is copied, while it runs or after
//! it has stopped. Some time later its process is killed, and the next process finds the copy. What
//! the realm acknowledged in between is lost there, and nothing else.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

use super::{
    history::{Message, Said, To},
    plan::Plan,
    world::World,
};

/// The interval of looks at whether all users are in all groups.
const LOOK: Duration = Duration::from_secs(1);
/// The longest time until the copy is taken, and then until it is restored, in seconds.
const SPELL_S: u64 = 60;
/// The additional turns of each user, so that there are turns before and after the restore.
const TURNS_MORE: u32 = 20;

/// Returns the additional turns of each user in a world.
pub const fn turns_more(plan: &Plan) -> u32 {
    if plan.kinds.restored.is_some() {
        TURNS_MORE
    } else {
        0
    }
}

/// The outcome of each message when a realm was copied.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(Vec<Message>);

/// Restores one realm during the storm, if all users are in all groups early enough.
pub(super) async fn restore_one(world: &World, mut rng: StdRng) {
    let Some(which) = world.plan.kinds.restored else {
        return std::future::pending().await;
    };
    let people = world.population.people.len();
    while world.history.count_in_groups() < people {
        tokio::time::sleep(LOOK).await;
    }
    let mut pause = || Duration::from_millis(rng.random_range(0..SPELL_S * 1000));
    let (before, between) = (pause(), pause());
    tokio::time::sleep(before).await;
    let (site, life) = &world.sites[which];
    if rng.random_bool(0.5) {
        copy(world, which, true);
    } else {
        site.state.lock().unwrap().is_to_be_copied = true;
        life.stop();
        while site.state.lock().unwrap().copy.is_none() {
            tokio::time::sleep(LOOK).await;
        }
    }
    tokio::time::sleep(between).await;
    site.state.lock().unwrap().is_to_be_restored = true;
    life.kill();
    std::future::pending::<()>().await;
}

fn copy(world: &World, which: usize, is_in_use: bool) {
    let (site, _) = &world.sites[which];
    world.note(site.id.as_str(), || {
        format!("is copied, in use: {is_in_use}")
    });
    let snapshot = Snapshot(world.history.so_far());
    site.state.lock().unwrap().copy = Some((site.disk.copy(), snapshot, is_in_use));
}

/// Copies or restores the disk of a realm. No process may be serving from it.
pub(super) fn copy_or_restore(world: &World, which: usize) {
    let (site, _) = &world.sites[which];
    let is_to_be_copied = std::mem::take(&mut site.state.lock().unwrap().is_to_be_copied);
    if is_to_be_copied {
        copy(world, which, false);
    }
    let restored = {
        let mut state = site.state.lock().unwrap();
        let is_due = std::mem::take(&mut state.is_to_be_restored);
        state.copy.take_if(|_| is_due)
    };
    let Some((memory, snapshot, was_in_use)) = restored else {
        return;
    };
    world.note(site.id.as_str(), || "is restored".into());
    site.disk.restore(memory);
    // An operator does the same for a store that was copied in use: the copy knows the life of
    // the lost store.
    site.state.lock().unwrap().is_restored = was_in_use;
    excuse(world, which, &snapshot);
}

/// Changes what is expected of messages that were written since the copy. Messages that are
/// written later must arrive as usual.
fn excuse(world: &World, which: usize, snapshot: &Snapshot) {
    let people = &world.population.people;
    let is_here = |person: usize| people[person].1 == which;
    let here = (0..people.len()).filter(|person| is_here(*person));
    world.history.restore_realm(here, |id, message| {
        let (is_from_here, is_to_here) = (
            is_here(message.from),
            match message.to {
                To::SimulatedUser(person) => is_here(person),
                To::Group(realm) => realm == which,
            },
        );
        // A message is in the copy if its sender had been told by then that it has arrived, or
        // that this realm keeps it.
        let was = snapshot.0.get(id);
        // The clock of the copy is behind, too, so the lifetime of a returned message is not
        // over there (PEER-29).
        message.may_come_late = is_from_here && !is_to_here && message.is_worth_a_while(id);
        let is_in_copy = was
            .is_some_and(|was| was.has_arrived || (is_from_here && matches!(was.said, Said::Kept)));
        if is_in_copy || !(is_from_here || is_to_here) {
            return;
        }
        (message.may_be_lost, message.is_forgotten) = (true, true);
        // An attacker who recorded the Init that carried a lost message may replay it.
        message.may_come_late |= world.plan.kinds.replays;
        // A message that the realm forwarded and forgot comes once more, to the other realm or
        // to the replicas of its group there. Its author repeats it, or an attacker replays the
        // Init that carried it.
        let is_passed_on = match message.to {
            To::SimulatedUser(_) => is_from_here && !is_to_here,
            To::Group(_) => true,
        };
        message.doubles += usize::from(is_passed_on);
    });
}
