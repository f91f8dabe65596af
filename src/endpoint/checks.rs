//! Invariants of an endpoint between any two calls, whatever has arrived. Checked in the library's
//! tests, in fuzzing and in simulation.

use super::{Endpoint, link_table::lifetime};

/// No checks with more links than this: they would dominate the run time of such a build.
const CHECKED_MAX: usize = 32;

impl Endpoint {
    /// Asserts all invariants of an endpoint: those of the link table, that each link's timer is
    /// set no later than the link requires, and that bytes in reassembly are counted.
    pub(super) fn check(&self) {
        let is_looked_at = cfg!(any(test, fuzzing)) && cfg!(debug_assertions);
        if !is_looked_at || self.links.len() > CHECKED_MAX {
            return;
        }
        self.links.check();
        let mut held = 0;
        for (id, entry) in self.links.iter() {
            if !self.schedule.is_ready(id) {
                let wanted = lifetime::timeout(entry, &self.config);
                let set = self.schedule.of(id);
                debug_assert!(
                    wanted.is_none_or(|wanted| set.is_some_and(|set| set <= wanted)),
                    "a link wants to be looked at by {wanted:?}, and will be at {set:?}"
                );
            }
            if !entry.link.is_dormant() {
                held += entry.link.assembling();
            }
        }
        debug_assert!(
            held <= self.accounting.reassembly(),
            "bytes of messages in reassembly are not counted"
        );
    }

    /// Returns what is held once all links have ended; empty if nothing leaks.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let counts = [
            ("bytes held for others", self.accounting.memory()),
            ("link slots", self.accounting.slots().len()),
            ("accepts", self.accept_cache.len()),
            ("Hellos", self.hellos.len()),
            ("timers", self.schedule.len()),
            ("bytes in reassembly", self.accounting.reassembly()),
            ("datagrams to send", self.outbox.len()),
        ];
        let counts = self.links.leftovers().into_iter().chain(counts);
        let left = counts.filter(|(_, count)| *count > 0);
        left.map(|(what, count)| format!("{count} {what} are left"))
            .collect()
    }
}
