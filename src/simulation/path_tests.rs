//! Tests of the model of a path. They are not in its file, which tests and benchmarks include.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::path::{Bursts, Fate, InFlight, Node, Rate, carry};

const NOW: Duration = Duration::from_secs(100);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

/// Returns the fates of `count` datagrams of 100 bytes that are sent at once.
fn fates(nodes: &mut [Node], count: usize) -> Vec<Fate> {
    let mut rng = rng();
    let each = (0..count).flat_map(|_| carry(nodes, NOW, 100, &mut rng));
    each.collect()
}

const fn arrives(at: Duration) -> Fate {
    Fate::Arrives { at, flipped: None }
}

/// Returns how long each datagram took.
fn delays(nodes: &mut [Node], count: usize) -> Vec<Duration> {
    let delay = |fate| match fate {
        Fate::Arrives { at, .. } => at.saturating_sub(NOW),
        other => panic!("{other:?}"),
    };
    fates(nodes, count).into_iter().map(delay).collect()
}

fn count(fates: &[Fate], of: Fate) -> usize {
    fates.iter().filter(|fate| **fate == of).count()
}

#[test]
fn path_without_nodes_delivers_at_once() {
    assert_eq!(fates(&mut [], 2), [arrives(NOW); 2]);
}

#[test]
fn path_mtu_drops_longer_datagrams() {
    let mut nodes = [Node::Mtu(100)];
    assert_eq!(carry(&mut nodes, NOW, 100, &mut rng()), [arrives(NOW)]);
    assert_eq!(carry(&mut nodes, NOW, 101, &mut rng()), [Fate::TooLong]);
}

#[test]
fn path_rate_sends_datagrams_one_after_another() {
    // 100 bytes take 100 ms.
    let mut nodes = [Node::Rate(Rate::new(8_000))];
    assert_eq!(delays(&mut nodes, 3), [ms(100), ms(200), ms(300)]);
    let later = NOW + ms(1000);
    let after_pause = carry(&mut nodes, later, 100, &mut rng());
    assert_eq!(after_pause, [arrives(later + ms(100))]);
    let mut nodes = [Node::Rate(Rate::new(8_000).with_headers(28))];
    assert_eq!(delays(&mut nodes, 2), [ms(128), ms(256)]);
}

#[test]
fn path_rate_with_full_queue_drops_at_tail() {
    let rate = Rate::new(8_000);
    let mut nodes = [Node::Rate(rate.with_queue(rate.takes(200)))];
    let sent = fates(&mut nodes, 5);
    assert_eq!(sent[..3], [100, 200, 300].map(|at| arrives(NOW + ms(at))));
    assert_eq!(sent[3..], [Fate::QueueFull; 2]);
    // One that was dropped takes no time.
    let later = NOW + ms(100);
    let next = carry(&mut nodes, later, 100, &mut rng());
    assert_eq!(next, [arrives(NOW + ms(400))]);
}

#[test]
fn path_loss_drops_its_share_the_same_for_each_seed() {
    let sent = fates(&mut [Node::Loss(0.3)], 10_000);
    let lost = count(&sent, Fate::Lost);
    assert!((2_800..3_200).contains(&lost), "{lost}");
    assert_eq!(sent, fates(&mut [Node::Loss(0.3)], 10_000));
    assert_eq!(count(&fates(&mut [Node::Loss(0.0)], 1_000), Fate::Lost), 0);
    assert_eq!(
        count(&fates(&mut [Node::Loss(1.0)], 1_000), Fate::Lost),
        1_000
    );
}

#[test]
fn path_bursts_lose_many_in_a_row() {
    // A fifth is lost, ten in a row on average.
    let sent = fates(&mut [Node::Bursts(Bursts::new(0.025, 0.1))], 100_000);
    let lost = count(&sent, Fate::Lost);
    let is_begin = |pair: &&[Fate]| pair[0] != Fate::Lost && pair[1] == Fate::Lost;
    let bursts = sent.windows(2).filter(is_begin).count();
    assert!((17_000..23_000).contains(&lost), "{lost}");
    assert!(
        (9 * bursts..11 * bursts).contains(&lost),
        "{lost} in {bursts}"
    );
}

#[test]
fn path_duplicate_sends_copies_through_later_nodes() {
    let mut nodes = [Node::Duplicate(1.0), Node::Rate(Rate::new(8_000))];
    assert_eq!(delays(&mut nodes, 1), [ms(100), ms(200)]);
    let mut nodes = [Node::Rate(Rate::new(8_000)), Node::Duplicate(1.0)];
    assert_eq!(delays(&mut nodes, 1), [ms(100), ms(100)]);
}

#[test]
fn path_delay_keeps_order_and_jitter_does_not() {
    assert_eq!(delays(&mut [Node::Delay(ms(30))], 3), [ms(30); 3]);
    let late = delays(&mut [Node::Delay(ms(30)), Node::Jitter(ms(10))], 1_000);
    assert!(late.iter().all(|late| (ms(30)..ms(40)).contains(late)));
    assert!(!late.is_sorted());
    assert!(late.iter().any(|late| *late < ms(31)));
    assert!(late.iter().any(|late| *late > ms(39)));
}

#[test]
fn path_reorder_holds_back_its_share() {
    let late = delays(&mut [Node::Reorder(0.1, ms(50))], 10_000);
    let held = late.iter().filter(|late| **late == ms(50)).count();
    let others = late.iter().filter(|late| late.is_zero()).count();
    assert!((900..1_100).contains(&held), "{held}");
    assert_eq!(held + others, late.len());
}

#[test]
fn path_corrupt_flips_one_bit() {
    let sent = [0xff_u8; 100];
    let changed: Vec<u32> = fates(&mut [Node::Corrupt(0.5)], 1_000)
        .into_iter()
        .map(|fate| {
            let (at, bytes) = fate.arrival(&sent).unwrap();
            assert_eq!((at, bytes.len()), (NOW, sent.len()));
            bytes.iter().map(|byte| byte.count_zeros()).sum()
        })
        .collect();
    assert!(changed.iter().all(|bits| *bits <= 1));
    let bent = changed.iter().filter(|bits| **bits == 1).count();
    assert!((400..600).contains(&bent), "{bent}");
    let empty = carry(&mut [Node::Corrupt(1.0)], NOW, 0, &mut rng());
    assert_eq!(empty, [arrives(NOW)]);
}

/// The seeds of worlds rely on what is drawn for a datagram, and in which order: whether it is
/// lost; whether it is doubled; and for one copy after the other its delay, whether it is bent, and
/// where.
#[test]
fn path_draws_by_nodes_and_one_copy_after_another() {
    let (loss, doubled, bent, spread) = (0.2, 0.3, 0.4, ms(25));
    let mut nodes = [
        Node::Loss(loss),
        Node::Duplicate(doubled),
        Node::Delay(ms(40)),
        Node::Jitter(spread),
        Node::Corrupt(bent),
    ];
    let (mut ours, mut by_hand) = (rng(), rng());
    for len in 0..10_000 {
        let len = len % 1200;
        let mut wanted = Vec::new();
        if by_hand.random_bool(loss) {
            wanted.push(Fate::Lost);
        } else {
            let copies = 1 + usize::from(by_hand.random_bool(doubled));
            for _ in 0..copies {
                let late = spread.mul_f64(by_hand.random());
                let flipped = (len > 0 && by_hand.random_bool(bent))
                    .then(|| by_hand.random_range(0..len * 8));
                let at = NOW + ms(40) + late;
                wanted.push(Fate::Arrives { at, flipped });
            }
        }
        assert_eq!(carry(&mut nodes, NOW, len, &mut ours), wanted);
    }
    assert_eq!(ours.random::<u64>(), by_hand.random::<u64>());
}

#[test]
fn path_in_flight_returns_datagrams_by_arrival() {
    let mut in_flight = InFlight::new();
    for (at, what) in [(3, "c"), (1, "a"), (3, "d"), (2, "b")] {
        in_flight.push(ms(at), what);
    }
    assert_eq!(in_flight.next_at(), Some(ms(1)));
    assert_eq!(in_flight.take(Duration::ZERO), None);
    let by_two: Vec<_> = std::iter::from_fn(|| in_flight.take(ms(2))).collect();
    assert_eq!(by_two, ["a", "b"]);
    let rest: Vec<_> = std::iter::from_fn(|| in_flight.take(ms(9))).collect();
    assert_eq!(rest, ["c", "d"]);
    assert_eq!(in_flight.next_at(), None);
}
