//! Tests of peers that claim another address (PEER-23).

use std::net::{IpAddr, Ipv4Addr};

use super::*;

const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));

impl Scene {
    /// Lets the peer claim another address.
    fn claims(&mut self) {
        let peer = self.peers.remove(0);
        self.peers.push(peer.claiming("192.0.2.77", 6377));
        self.happens(Input::AddressClaimed(beta()));
    }

    /// Lets this many seconds pass. Returns the tries of claimed addresses and the writes of their
    /// results.
    fn passes(&mut self, seconds: u64) -> Vec<(StepId, Step)> {
        let until = self.seconds + seconds;
        let mut done = Vec::new();
        loop {
            while let Some((id, step)) = self.machine.poll_step() {
                let outcome = self.read(&step);
                if matches!(step, Step::StoreClaim(..) | Step::TryClaim { .. }) {
                    done.push((id, step));
                }
                if let Some(outcome) = outcome {
                    self.happens(Input::StepDone(id, outcome));
                }
            }
            let next = self.machine.poll_timeout().map(|at| at.as_secs() + 1);
            match next {
                Some(next) if next <= until => self.seconds = self.seconds.max(next),
                _ => break,
            }
            self.machine.handle_timeout(self.now());
        }
        self.seconds = until;
        done
    }
}

/// PEER-23: an address at which a peer answered is stored once the disk has space. Found by the
/// simulator (seed 14260168): a peer answered at its claimed address while the disk was full, and
/// the write was not retried. The old address was used for good, and the peer's queue stood still.
#[test]
fn claim_confirmed_on_full_disk_is_stored_once_disk_has_space() {
    let mut scene = Scene::introduced();
    assert!(scene.passes(0).is_empty());
    scene.is_full = true;
    scene.claims();
    let tried = scene.passes(0);
    assert!(
        matches!(tried[..], [(_, Step::TryClaim { .. })]),
        "{tried:?}"
    );
    let answer = Some((Answer::Done.to_bytes(), ELSEWHERE));
    scene.happens(Input::StepDone(tried[0].0, StepResult::Tried(answer)));

    let believed =
        |(_, step): &(StepId, Step)| matches!(step, Step::StoreClaim(_, at) if *at == ELSEWHERE);
    let written = scene.passes(600);
    assert!(
        written.iter().all(believed),
        "it is not tried again: {written:?}"
    );
    assert!(
        (4..=10).contains(&written.len()),
        "soon, and not as fast as can be: {}",
        written.len()
    );
    scene.is_full = false;
    let written = scene.passes(600);
    assert_eq!(written.len(), 1, "{written:?}");
    assert!(written.iter().all(believed));
    assert_eq!(scene.machine.poll_timeout(), None, "nothing is to be done");
}

/// PEER-23: if the peer's state could not be read, its claim is tried once it can be read, and not
/// only when the peer repeats it.
#[test]
fn claim_of_peer_that_could_not_be_read_is_tried_later() {
    let mut scene = Scene::introduced();
    assert!(scene.passes(0).is_empty());
    scene.claims();
    let failure = Failure::Refused(ErrorCode::Busy.into());
    let (id, look) = scene.machine.poll_step().unwrap();
    assert!(matches!(look, Step::Look { .. }), "{look:?}");
    scene.happens(Input::StepDone(id, StepResult::Looked(Err(failure))));
    let tried = scene.passes(60);
    assert!(
        matches!(tried[..], [(_, Step::TryClaim { .. })]),
        "{tried:?}"
    );
}

/// PEER-23: a peer that is silent at its stored address is tried again at its hostname, first after
/// an hour, then after growing waits. Its IP address may have changed unnoticed. Fixed fault: the
/// old address was used until the peer itself sent a packet.
#[test]
fn peer_silent_at_stored_address_is_tried_at_its_hostname() {
    let mut scene = Scene::introduced();
    let peer = scene.peers.remove(0);
    scene.peers.push(peer.claiming("beta.example", 6377));
    scene.queue(1);
    let mut tried = Vec::new();
    while scene.seconds < 72 * 3600 {
        while let Some((id, step)) = scene.machine.poll_step() {
            let done = match &step {
                Step::TryClaim { peer, .. } => {
                    tried.push((scene.seconds, peer.address().0.to_owned()));
                    StepResult::Tried(None)
                }
                Step::Ask { .. } => StepResult::Answered(None),
                _ => match scene.read(&step) {
                    Some(done) => done,
                    None => continue,
                },
            };
            scene.happens(Input::StepDone(id, done));
        }
        let next = scene.machine.poll_timeout().expect("it is asked again");
        scene.seconds = scene.seconds.max(next.as_secs() + 1);
        scene.machine.handle_timeout(scene.now());
    }
    assert!((6..=8).contains(&tried.len()), "{tried:?}");
    assert!(tried.iter().all(|(_, host)| host == "beta.example"));
    assert!(tried.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 3600));
}
