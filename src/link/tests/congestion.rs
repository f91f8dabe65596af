//! Congestion control alone, on a path with a bottleneck.

use super::*;
use crate::link::congestion::{Pace, Stamp};
#[cfg(test)]
use crate::simulation::path::{Fate, Node, Rate, carry};

/// A packet in flight.
struct Flying {
    sent: Time,
    /// When it is acknowledged, or known to be lost.
    known: Time,
    stamp: Stamp,
    is_lost: bool,
}

/// Sends packets of 1000 bytes for `seconds` seconds over a path that carries `rate` bytes per
/// second, has a queue, and loses some packets. Returns the used share of the path in per mille,
/// and the longest queueing delay of a packet in the second half.
fn run(rate: u64, delay: Duration, loss: f64, limit: Option<u64>, seconds: u64) -> (u64, Duration) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let bottleneck = Rate::new(rate * 8);
    let mut path = [Node::Rate(bottleneck), Node::Delay(delay)];
    let (mut pace, mut now) = (Pace::new(limit), Time(1));
    let (mut carried, mut longest) = (0_u64, Duration::ZERO);
    let mut in_flight: VecDeque<Flying> = VecDeque::new();
    let end = Time(seconds * 1_000_000);
    while now < end {
        while pace.allows(now, in_flight.len() * 1000, 1000) {
            let stamp = pace.sent(now, 1000, in_flight.len() * 1000, false);
            let fates = carry(&mut path, now - Time(0), 1000, &mut rng);
            let [Fate::Arrives { at, .. }] = fates[..] else {
                panic!("its queue has no bound");
            };
            if now > Time(end.0 / 2) {
                let least = (now - Time(0)) + bottleneck.takes(1000) + delay;
                longest = longest.max(at.saturating_sub(least));
            }
            let is_lost = carry(&mut [Node::Loss(loss)], at, 1000, &mut rng) == [Fate::Lost];
            in_flight.push_back(Flying {
                sent: now,
                known: Time(0) + at,
                stamp,
                is_lost,
            });
        }
        let known = in_flight.front().map(|packet| packet.known);
        let timeout = pace.timeout(in_flight.len() * 1000, 1000);
        let next = known.into_iter().chain(timeout).filter(|at| *at > now);
        now = next.min().unwrap();
        while in_flight.front().is_some_and(|packet| packet.known <= now)
            && let Some(packet) = in_flight.pop_front()
        {
            if packet.is_lost {
                pace.lost(1000);
            } else {
                pace.arrived(now, packet.stamp, packet.sent, 1000);
            }
            carried += 1000;
        }
    }
    (carried * 1000 / (rate * seconds), longest)
}

/// LINK-14: the path is used, its queue stays short, and random loss does not count as
/// congestion.
#[test]
fn congestion_control_fills_path_and_keeps_its_queue_short() {
    for (rate, delay, loss) in [
        (1_200, 1000, 0.0),
        (125_000, 100, 0.0),
        (125_000, 100, 0.1),
        (125_000, 100, 0.3),
        (12_500, 600, 0.05),
        (1_000_000, 20, 0.0),
    ] {
        let delay = Duration::from_millis(delay);
        let (used, longest) = run(rate, delay, loss, None, 120);
        assert!(used > 850, "{used} of {rate} B/s at {delay:?}, {loss} lost");
        let packet = Duration::from_micros(1_000_000_000 / rate);
        let allowed = packet * 2 + delay / 2;
        assert!(
            longest <= allowed,
            "{longest:?} > {allowed:?} in the queue at {rate} B/s"
        );
    }
}

/// LINK-14: the rate limit is never exceeded.
#[test]
fn congestion_rate_limit_is_never_exceeded() {
    let delay = Duration::from_millis(100);
    let (used, _) = run(125_000, delay, 0.0, Some(10_000), 60);
    assert!((76..=82).contains(&used), "{used}");
}
