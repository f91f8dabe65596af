//! How long links live: when they end, hibernate, and have to be processed.

use std::time::Duration;

use super::{
    super::{
        ACCEPTS_LINKS,
        config::Config,
        holder::SlotKind,
        limits::{STRANGER_IDLE, UNPROVEN_LIFETIME},
    },
    entry::LinkEntry,
    stage::{Role, Stage},
};
use crate::link::{Time, earliest};

/// Silence after which a link may become dormant: no packet is in flight for longer.
const HIBERNATES_AFTER: Duration = Duration::from_mins(3);
/// Granularity of the silence.
const GRAIN: Duration = Duration::from_secs(30);
/// The end of a silence is rounded up to this fraction of the idle time.
const GRAINS: u128 = 256;
/// How long an initiator without open requests continues a handshake.
const DIAL_PATIENCE: Duration = Duration::from_mins(3);

/// Returns when the endpoint has to process a link next.
pub(in crate::endpoint) fn timeout(entry: &LinkEntry, config: &Config) -> Option<Time> {
    let stage = match entry.stage() {
        Stage::Calling | Stage::Open => None,
        Stage::Dialing(dial) => Some(dial.timeout()),
        Stage::Accepting(accepting) => accepting.welcomed.map(|_| accepting.due),
    };
    let proof = entry.previous_path_until();
    let stage = earliest(stage, proof);
    let rest = earliest(hibernates_at(entry), end(entry, config));
    if entry.link.is_dormant() {
        return earliest(stage, rest);
    }
    earliest(earliest(stage, entry.link.poll_timeout()), rest)
}

/// Returns when a link ends if nothing arrives.
fn end(entry: &LinkEntry, config: &Config) -> Option<Time> {
    match (entry.role(), entry.stage()) {
        (Role::Initiator, Stage::Open)
            if entry.is_shared() && entry.link.is_idle() && !entry.link.is_kept_alive() =>
        {
            Some(entry.heard_or_opened() + config.shared_idle)
        }
        (Role::Initiator, Stage::Open) => None,
        (Role::Initiator, _) if entry.link.is_waiting() => None,
        (Role::Initiator, _) => Some(entry.opened() + DIAL_PATIENCE),
        (Role::Responder, _) if !entry.link.is_dormant() && entry.is_unproven() => {
            Some(entry.opened() + UNPROVEN_LIFETIME)
        }
        (Role::Responder, _) => {
            let idle = match entry.holding().slot() {
                SlotKind::Account(..) => config.idle,
                SlotKind::Own
                | SlotKind::Unverified
                | SlotKind::TicketAddress(_)
                | SlotKind::Cookie(_)
                | SlotKind::Stranger(_) => config.idle.min(STRANGER_IDLE),
            };
            Some(end_of_silence(entry.heard_or_opened(), idle))
        }
    }
}

/// True if a link is to end.
pub(in crate::endpoint) fn is_over(entry: &LinkEntry, now: Time, config: &Config) -> bool {
    let is_dead = entry.role() == Role::Initiator && entry.link.is_dead();
    let has_waited = entry
        .stage()
        .dial()
        .is_some_and(|dial| dial.timeout() <= now);
    (is_dead || has_waited && entry.is_dialed_out())
        || end(entry, config).is_some_and(|end| end <= now)
}

/// Returns when a link may become dormant, if it may.
pub(in crate::endpoint) fn hibernates_at(entry: &LinkEntry) -> Option<Time> {
    let may_hibernate = ACCEPTS_LINKS
        && entry.role() == Role::Responder
        && entry.stage().is_open()
        && !entry.link.is_dormant()
        && entry.previous_path().is_none()
        && !entry.holds_requests()
        && entry.link.may_hibernate();
    // Rounded to the granularity, so that the timer does not change with each packet.
    let grain = u64::try_from(GRAIN.as_micros()).unwrap_or(u64::MAX);
    let at = (entry.heard_or_opened() + HIBERNATES_AFTER).0;
    may_hibernate.then(|| Time(at.checked_next_multiple_of(grain).unwrap_or(u64::MAX)))
}

/// Returns when a link last heard at `heard` has been silent for `idle`. Rounded up, so that the
/// timer does not change with each packet.
fn end_of_silence(heard: Time, idle: Duration) -> Time {
    let grain = u64::try_from(idle.as_micros() / GRAINS)
        .unwrap_or(u64::MAX)
        .max(1);
    let end = heard + idle;
    Time(end.0.checked_next_multiple_of(grain).unwrap_or(u64::MAX))
}
