//! Checks nonces in tests: no key may seal two packets under one number (LINK-1).

use std::{cell::RefCell, collections::HashSet};

#[derive(Default)]
struct Audit {
    used: HashSet<([u8; 16], u64)>,
    reused: Vec<u64>,
}

thread_local! {
    static AUDIT: RefCell<Option<Audit>> = const { RefCell::new(None) };
}

/// Starts the check of this thread's nonces.
pub fn begin() {
    AUDIT.set(Some(Audit::default()));
}

/// Notes that a packet is sealed.
pub fn note(key: &[u8; 32], number: u64) {
    AUDIT.with_borrow_mut(|audit| {
        let (Some(audit), Some(key)) = (audit, key.first_chunk()) else {
            return;
        };
        if !audit.used.insert((*key, number)) {
            audit.reused.push(number);
        }
    });
}

/// Returns the nonces that were used twice since the start.
pub fn reused() -> Vec<String> {
    let audit = AUDIT.take().unwrap_or_default();
    let reused = audit.reused.iter();
    reused
        .map(|number| format!("packet number {number} was sealed twice under one key"))
        .collect()
}
