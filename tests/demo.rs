//! Test of the demonstration at the beginning of the README: it does what it says.

mod support;

use support::{finished, program};

#[test]
fn demo_with_loss_delivers_everything_once_in_order() {
    let mut demo = program();
    demo.args(["demo", "--loss", "0.08", "--rtt", "20ms", "--seed", "7"]);
    let run = finished(demo.arg("--verbose"));
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    assert!(
        run.out
            .contains("Nothing lost, nothing doubled, everything in order."),
        "{}",
        run.out
    );
    assert!(run.out.contains("✗ lost"), "{}", run.out);
    assert!(
        run.out
            .contains("bob's inbox: message 1 to bob | message 2 to bob | message 3 to bob")
    );
}

#[test]
fn demo_without_verbose_prints_seed_and_no_datagrams() {
    let mut demo = program();
    let run = finished(demo.args(["demo", "--loss", "0", "--rtt", "5ms"]));
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    let (_, seed) = run.out.split_once("--seed ").unwrap();
    assert!(seed.lines().next().unwrap().parse::<u64>().is_ok());
    assert!(!run.out.contains("sealed"), "{}", run.out);
    let widest = run.out.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "{}", run.out);
}

#[test]
fn demo_with_excessive_loss_is_refused() {
    let mut demo = program();
    let run = finished(demo.args(["demo", "--loss", "1"]));
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("0.8"), "{}", run.err);
}
