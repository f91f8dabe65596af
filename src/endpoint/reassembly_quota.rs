//! Quota for reassembly (LINK-13): a limit for all, and for each holder at most an eighth of the
//! rest. Unfinished messages are held for minutes, and would otherwise leave no room for those of
//! others.

use std::collections::BTreeMap;

use super::{
    ACCEPTS_LINKS,
    holder::Holder,
    limits::{ASSEMBLING_MAX, STRANGERS_ASSEMBLING_MAX},
};

/// The divisor of a holder's share of the free bytes.
const SHARE: usize = 8;

/// The bytes in reassembly of one group of holders.
#[derive(Debug, Default)]
struct Pool {
    total: usize,
    by_holder: BTreeMap<Holder, usize>,
}

impl Pool {
    fn change(&mut self, holder: Holder, before: usize, after: usize) {
        self.total = self.total.saturating_sub(before).saturating_add(after);
        if !ACCEPTS_LINKS || before == after {
            return;
        }
        let theirs = self.by_holder.remove(&holder).unwrap_or_default();
        let theirs = theirs.saturating_sub(before).saturating_add(after);
        if theirs > 0 {
            self.by_holder.insert(holder, theirs);
        }
    }

    /// Returns how many more bytes a holder may have of `max`.
    fn remaining(&self, holder: Holder, max: usize) -> usize {
        let free = max.saturating_sub(self.total);
        if !ACCEPTS_LINKS || holder == Holder::Own {
            return free;
        }
        let theirs = self.by_holder.get(&holder).copied().unwrap_or_default();
        // After it takes this much, it holds an eighth of the rest.
        (free / SHARE).saturating_sub(theirs) * SHARE / (SHARE + 1)
    }
}

/// The bytes in reassembly: for links of accounts and of this side, and for all others.
#[derive(Debug, Default)]
pub(super) struct ReassemblyQuota {
    accounts: Pool,
    strangers: Pool,
}

impl ReassemblyQuota {
    fn pool(&mut self, holder: Holder) -> &mut Pool {
        match holder {
            Holder::Own | Holder::Account(_) => &mut self.accounts,
            Holder::Nobody | Holder::Network(_) => &mut self.strangers,
        }
    }

    /// Changes the bytes of a holder's link from `before` to `after`.
    pub fn change(&mut self, holder: Holder, before: usize, after: usize) {
        self.pool(holder).change(holder, before, after);
    }

    /// Moves a link's bytes to another holder.
    pub fn hand_over(&mut self, held: usize, (from, to): (Holder, Holder)) {
        if from != to && held > 0 {
            self.change(from, held, 0);
            self.change(to, 0, held);
        }
    }

    /// Returns how many more bytes a holder's link may hold.
    pub fn remaining(&self, holder: Holder) -> usize {
        match holder {
            Holder::Own | Holder::Account(_) => self.accounts.remaining(holder, ASSEMBLING_MAX),
            Holder::Nobody | Holder::Network(_) => {
                self.strangers.remaining(holder, STRANGERS_ASSEMBLING_MAX)
            }
        }
    }

    /// Returns the bytes of all holders.
    pub fn total(&self) -> usize {
        self.accounts.total + self.strangers.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::AccountId;

    #[test]
    fn reassembly_quota_of_large_holders_leaves_room_for_others() {
        let mut assembling = ReassemblyQuota::default();
        let account = |n| Holder::Account(AccountId::new(n));
        for n in 1..20 {
            // In messages of 16 KiB, as many as there is room for.
            while assembling.remaining(account(n)) >= 16 << 10 {
                assembling.change(account(n), 0, 16 << 10);
            }
            assert!(assembling.remaining(account(n + 1)) >= 64 << 10, "{n}");
        }
        let before = assembling.total();
        assert!(before < ASSEMBLING_MAX);
        // Strangers have a limit of their own.
        assert_eq!(
            assembling.remaining(Holder::Nobody),
            STRANGERS_ASSEMBLING_MAX / SHARE * SHARE / (SHARE + 1)
        );
        assembling.change(Holder::Nobody, 0, 1000);
        assembling.hand_over(1000, (Holder::Nobody, account(99)));
        assembling.change(account(99), 1000, 0);
        assert_eq!(assembling.total(), before);
        assert!(!assembling.accounts.by_holder.contains_key(&account(99)));
    }
}
