//! What an endpoint still holds, for tests that expect nothing.

use super::Endpoint;

impl Endpoint {
    /// Returns what is held once all links have ended; empty if nothing leaks.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let counts = [
            ("links", self.slots.len()),
            ("addresses", self.by_address.len()),
            ("names", self.by_name.len()),
            ("plain links", self.by_plain.len()),
            ("keys", self.by_peer.len()),
            ("dialed links", self.dialed.len()),
            ("bytes held for others", self.memory.total()),
            ("places of links", self.standings.len()),
            ("accepts", self.accepts.len()),
            ("questions", self.asking.len()),
            ("timers", self.schedule.len()),
            ("bytes being put together", self.assembling.total()),
            ("datagrams to send", self.outbox.len()),
        ];
        let left = counts.iter().filter(|(_, count)| *count > 0);
        left.map(|(what, count)| format!("{count} {what} are left"))
            .collect()
    }
}
