//! Long messages over a path with a bottleneck, a queue, a delay and losses.

use super::*;
#[cfg(test)]
use crate::simulation::path::{InFlight, Node, Rate, carry};
use crate::wire::{Frame, MessageId};

/// One direction of a path, and what was sent in it.
pub struct Pipe {
    nodes: [Node; 4],
    in_flight: InFlight<Vec<u8>>,
    carried: u64,
    bytes: u64,
    /// The longest that a datagram waited for others.
    waited: Duration,
}

impl Pipe {
    fn new(bits_per_second: u64, delay: Duration, loss: f64) -> Self {
        Self {
            nodes: [
                Node::Rate(Rate::new(bits_per_second)),
                Node::Mtu(9000),
                Node::Loss(loss),
                Node::Delay(delay),
            ],
            in_flight: InFlight::new(),
            carried: 0,
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    /// Sets the largest datagram that gets through.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.nodes[1] = Node::Mtu(mtu);
    }

    fn send(&mut self, now: Time, datagram: &[u8], rng: &mut ChaCha20Rng) {
        self.carried += 1;
        self.bytes += datagram.len() as u64;
        let sent = now - Time(0);
        for fate in carry(&mut self.nodes, sent, datagram.len(), rng) {
            if let Some((at, bytes)) = fate.arrival(datagram) {
                let on_the_way = at.saturating_sub(sent + self.takes(datagram.len()));
                self.waited = self.waited.max(on_the_way);
                self.in_flight.push(at, bytes);
            }
        }
    }

    /// How long a datagram takes that waits for no others.
    fn takes(&self, len: usize) -> Duration {
        let each = self.nodes.iter().map(|node| match node {
            Node::Rate(rate) => rate.takes(len),
            Node::Delay(delay) => *delay,
            _ => Duration::ZERO,
        });
        each.sum()
    }

    fn next(&self) -> Option<Time> {
        self.in_flight.next_at().map(|at| Time(0) + at)
    }
}

pub struct Bulk {
    pub pair: Pair,
    pub up: Pipe,
    pub down: Pipe,
    rng: ChaCha20Rng,
}

impl Bulk {
    pub fn new(seed: u64, rate: u64, rtt: Duration, loss: f64) -> Self {
        Self::over(Pair::with(UNKNOWN_PATH), seed, rate, rtt, loss)
    }

    /// Puts a path between the two links.
    pub fn over(mut pair: Pair, seed: u64, rate: u64, rtt: Duration, loss: f64) -> Self {
        pair.server.opening_mut().trust();
        Self {
            pair,
            up: Pipe::new(rate, rtt / 2, loss),
            down: Pipe::new(rate, rtt / 2, loss),
            rng: ChaCha20Rng::seed_from_u64(seed),
        }
    }

    /// Sends everything that is due, and goes on to the next moment at which something happens.
    pub fn step(&mut self) {
        let Pair {
            now,
            client,
            server,
        } = &mut self.pair;
        while let Some(datagram) = transmit(client, *now) {
            self.up.send(*now, &datagram, &mut self.rng);
        }
        while let Some(datagram) = transmit(server, *now) {
            self.down.send(*now, &datagram, &mut self.rng);
        }
        let arrivals = [&self.up, &self.down].map(Pipe::next);
        let timers = [client.poll_timeout(), server.poll_timeout()];
        let next = arrivals.into_iter().chain(timers).flatten().min();
        // A timer that is already due has had its chance. What is left waits for something else.
        *now = next
            .expect("something happens")
            .max(*now + Duration::from_micros(1));
        for (pipe, link) in [(&mut self.up, &mut *server), (&mut self.down, &mut *client)] {
            while let Some(datagram) = pipe.in_flight.take(*now - Time(0)) {
                match deliver(link, *now, &datagram) {
                    Ok(()) | Err(Ignored::NoRoom) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        client.handle_timeout(*now);
        server.handle_timeout(*now);
    }

    /// Sends each message as a request that is answered with itself. Returns all replies.
    fn exchange(&mut self, messages: &[Vec<u8>], deadline: Time) -> Vec<(RequestId, Vec<u8>)> {
        for message in messages {
            self.pair
                .client
                .ask(message.clone(), deadline, false)
                .unwrap();
        }
        let mut replies = vec![];
        while replies.len() < messages.len() {
            self.step();
            assert!(self.pair.now < deadline, "{} came", replies.len());
            for event in events(&mut self.pair.server) {
                match event {
                    Event::Request { number, bytes, .. } => self.pair.server.reply(number, bytes),
                    other => panic!("{other:?}"),
                }
            }
            for event in events(&mut self.pair.client) {
                match event {
                    Event::Reply { number, bytes } => replies.push((number, bytes)),
                    other => panic!("{other:?}"),
                }
            }
        }
        replies.sort();
        replies
    }
}

pub const HOUR: Time = Time(3_600_000_000);

pub fn message(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| seed.wrapping_add(u8::try_from(at % 251).unwrap()))
        .collect()
}

/// LINK-13, LINK-14: long messages arrive whole in both directions, whatever the path does.
#[test]
fn fragments_of_long_messages_arrive_whole_on_any_path() {
    for (rate, rtt, loss) in [
        (10_000_000, 60, 0.0),
        (10_000_000, 60, 0.3),
        (10_000_000, 60, 0.6),
        (9_600, 1000, 0.0),
        (9_600, 1000, 0.3),
        (300, 1000, 0.0),
        (1_000_000, 60_000, 0.0),
        (1_000_000, 60_000, 0.3),
    ] {
        for seed in 0..3 {
            let mut bulk = Bulk::new(seed, rate, Duration::from_millis(rtt), loss);
            let messages: Vec<_> = [10_000, 20, 3_000].map(|len| message(len, 7)).to_vec();
            let replies = bulk.exchange(&messages, HOUR);
            let wanted: Vec<_> = (0..).map(RequestId).zip(messages).collect();
            assert!(replies == wanted, "at {rate} bit/s, {rtt} ms, {loss} lost");
        }
    }
}

/// LINK-14: a slow link is fully used, little is sent twice, and its queue stays short.
#[test]
fn congestion_on_slow_link_uses_it_and_keeps_its_queue_short() {
    let mut bulk = Bulk::new(1, 9_600, Duration::from_secs(1), 0.0);
    let messages = vec![message(19_000, 1); 8];
    let total = 8 * 19_000_u64;
    for message in &messages {
        bulk.pair.client.ask(message.clone(), HOUR, false).unwrap();
    }
    let mut whole = 0;
    while whole < messages.len() {
        bulk.step();
        for event in events(&mut bulk.pair.server) {
            if let Event::Request { number, .. } = event {
                bulk.pair.server.reply(number, b"ok".to_vec());
                whole += 1;
            }
        }
    }
    let sent = bulk.up.bytes;
    let carried = bulk.pair.now.0 * 9_600 / 8 / 1_000_000;
    assert!(total * 100 >= carried * 90, "{total} of {carried} bytes");
    assert!(sent * 100 <= total * 105, "{sent} for {total}");
    assert!(
        bulk.up.waited < Duration::from_secs(3),
        "{:?}",
        bulk.up.waited
    );
}

/// LINK-13: a message that is too long is refused, and fragments of strangers are not reassembled.
#[test]
fn fragments_of_too_long_message_are_refused() {
    let mut pair = Pair::new();
    let limit = pair.server.message_max();
    let refuse = |pair: &mut Pair, len, limit| {
        let number = pair.client.ask(vec![0; len], END, false).unwrap();
        pair.drive();
        let reported = events(&mut pair.server);
        assert_eq!(reported, [Event::Oversized { number, limit }]);
        pair.server.reply(number, b"no".to_vec());
        pair.drive();
        let bytes = b"no".to_vec();
        assert_eq!(events(&mut pair.client), [Event::Reply { number, bytes }]);
        assert!(!pair.client.queue.has_paced(), "the rest of it is not sent");
        assert_eq!(pair.server.assembling(), 0);
        pair.advance(100);
        pair.drive();
    };
    refuse(&mut pair, 5_000, limit);
    pair.server.opening_mut().trust();
    refuse(&mut pair, 20_001, 20_000);
}

/// LINK-13: incomplete requests that were given up make room. Before, only after 15 min.
#[test]
fn reassembly_of_requests_given_up_makes_room_for_next() {
    let mut pair = Pair::new();
    pair.server.opening_mut().trust();
    for held in [5_000, 10_000] {
        let brief = pair.now + Duration::from_secs(5);
        pair.client.ask(vec![1; 5_000], brief, false).unwrap();
        while pair.server.assembling() < held {
            match transmit(&mut pair.client, pair.now) {
                Some(up) => deliver(&mut pair.server, pair.now, &up).unwrap(),
                None => pair.advance(50),
            }
        }
        // Nothing else arrives.
        while pair.now < brief {
            while transmit(&mut pair.client, pair.now).is_some() {}
            while transmit(&mut pair.server, pair.now).is_some() {}
            pair.advance(50);
        }
    }
    assert_eq!(pair.server.assembling(), 10_000);
    events(&mut pair.client);
    let end = pair.now + Duration::from_mins(1);
    let number = pair.client.ask(vec![2; 5_000], end, false).unwrap();
    let mut got = vec![];
    while pair.now < end && got.is_empty() {
        pair.carry_what_is_taken();
        pair.advance(50);
        got.extend(events(&mut pair.server));
    }
    let bytes = vec![2; 5_000];
    let early = false;
    assert_eq!(
        got,
        [Event::Request {
            number,
            bytes,
            early
        }]
    );
}

/// LINK-9, LINK-13: a long request is executed again if its reply is lost and forgotten. Before, it
/// never was.
#[test]
fn fragments_of_request_are_sent_again_when_reply_is_forgotten() {
    let mut pair = Pair::new();
    pair.server.opening_mut().trust();
    let end = pair.now + Duration::from_mins(10);
    let number = pair.client.ask(vec![1; 5_000], end, false).unwrap();
    let (mut done, mut got) = (0, vec![]);
    while pair.now < end && got.is_empty() {
        while let Some(up) = transmit(&mut pair.client, pair.now) {
            deliver(&mut pair.server, pair.now, &up).unwrap();
        }
        for event in events(&mut pair.server) {
            assert!(matches!(event, Event::Request { .. }), "{event:?}");
            pair.server.reply(number, vec![2; 200]);
            done += 1;
        }
        while let Some(down) = transmit(&mut pair.server, pair.now) {
            // Acknowledgements of fragments arrive; the first reply never does.
            if done != 1 || down.len() < 200 {
                deliver(&mut pair.client, pair.now, &down).unwrap();
            }
        }
        got.extend(events(&mut pair.client));
        pair.advance(50);
    }
    assert!(matches!(&got[..], [Event::Reply { bytes, .. }] if bytes.len() == 200));
    assert_eq!(done, 2);
}

/// LINK-16: a long event that is held off comes again. Before, its fragments were acknowledged, and
/// neither it nor later events came again.
#[test]
fn push_of_long_event_held_off_comes_again() {
    let mut pair = Pair::new();
    // Its address is proven, and it sends keepalives.
    pair.client.ask(vec![0], END, false).unwrap();
    pair.drive();
    pair.client
        .keep_alive(Some(Silence::fixed(Duration::from_secs(30))));
    pair.client.hold_pushes();
    for event in [vec![1; 5_000], vec![2]] {
        pair.server.push(event, Urgency::Live).unwrap();
    }
    let mut got = vec![];
    for step in 0..12_000 {
        if step == 200 {
            assert!(got.is_empty(), "{got:?}");
            pair.client.accept_pushes();
        }
        pair.carry_what_is_taken();
        pair.advance(50);
        for event in events(&mut pair.client) {
            if let Event::Pushed { bytes } = event {
                got.push(bytes);
            }
        }
    }
    assert_eq!(got, [vec![1; 5_000], vec![2]]);
}

impl Pair {
    /// Carries datagrams until there are none. A packet without room counts as lost.
    fn carry_what_is_taken(&mut self) {
        let is_fair = |taken| matches!(taken, Ok(()) | Err(Ignored::NoRoom));
        while let Some(up) = transmit(&mut self.client, self.now) {
            assert!(is_fair(deliver(&mut self.server, self.now, &up)));
        }
        while let Some(down) = transmit(&mut self.server, self.now) {
            assert!(is_fair(deliver(&mut self.client, self.now, &down)));
        }
    }
}

/// LINK-19: where loss is high, small packets leave twice, and each request is executed once.
#[test]
fn redundancy_sends_small_packets_twice_at_high_loss() {
    use Redundancy::{Auto, Off, On};
    let cases = [
        (Auto, 0.0, 1.0, 1.1),
        (Auto, 0.3, 2.0, 4.0),
        (Auto, 0.5, 2.5, 5.0),
        (Off, 0.3, 1.2, 2.2),
        (On, 0.0, 2.0, 2.1),
    ];
    for (redundancy, loss, least, most) in cases {
        let mut pair = Pair::with(UNKNOWN_PATH);
        pair.client.recovery.set_redundancy(redundancy);
        let mut bulk = Bulk::over(pair, 3, 10_000_000, Duration::from_millis(60), loss);
        for round in 0..40_u8 {
            let before = bulk.up.carried;
            bulk.exchange_one(round);
            if round == 19 {
                // From here on the loss is known.
                bulk.up.carried = 0;
            } else {
                assert!(bulk.up.carried > before);
            }
        }
        let each = f64::from(u32::try_from(bulk.up.carried).unwrap()) / 20.0;
        assert!(
            (least..=most).contains(&each),
            "{each} at {loss}, {redundancy:?}"
        );
    }
}

impl Bulk {
    /// Sends one small request and waits for its reply.
    fn exchange_one(&mut self, n: u8) {
        self.pair.client.ask(vec![n; 20], HOUR, false).unwrap();
        let (mut asked, mut answered) = (0, false);
        while !answered {
            self.step();
            for event in events(&mut self.pair.server) {
                if let Event::Request { number, bytes, .. } = event {
                    asked += 1;
                    self.pair.server.reply(number, bytes);
                }
            }
            for event in events(&mut self.pair.client) {
                if let Event::Reply { bytes, .. } = event {
                    assert_eq!(bytes, [n; 20]);
                    answered = true;
                }
            }
        }
        assert_eq!(asked, 1, "it is done once");
    }
}

/// LINK-7: a path longer than the first timeout is measured. Found by the simulator: no RTT was
/// ever measured where each request was repeated before its answer could arrive, and all later
/// requests were sent many times too.
#[test]
fn rtt_longer_than_first_timeout_is_measured() {
    let mut bulk = Bulk::new(5, 1_000_000, Duration::from_secs(40), 0.0);
    let deadline = Time(1_200_000_000);
    bulk.exchange(&[vec![1; 20]], deadline);
    // The acknowledgement follows the first reply.
    bulk.exchange(&[vec![2; 20]], deadline);
    let rtt = bulk.pair.client.rtt().unwrap();
    assert!((39..42).contains(&rtt.as_secs()), "{rtt:?}");
    let before = bulk.up.carried;
    for n in 0..10 {
        bulk.exchange(&[vec![n; 20]], deadline);
    }
    let asked = bulk.up.carried - before;
    assert!(asked <= 12, "{asked} packets for ten requests");
}

/// LINK-7: an answer to early data gives no RTT sample. Found by the simulator: it was taken for an
/// answer to the repeat.
#[test]
fn rtt_is_not_sampled_by_answer_to_early_data() {
    let mut pair = Pair::with(UNKNOWN_PATH);
    let number = pair.client.ask(b"ask".to_vec(), END, true).unwrap();
    let carried = pair.client.init_payload(pair.now, 500);
    pair.server.handle_early(pair.now, &carried).unwrap();
    pair.client.early_arrived(pair.now);
    pair.server.reply(number, b"ok".to_vec());
    let down = transmit(&mut pair.server, pair.now).unwrap();
    while transmit(&mut pair.client, pair.now).is_none() {
        pair.now = pair.client.poll_timeout().unwrap();
        pair.client.handle_timeout(pair.now);
    }
    pair.now = pair.now + Duration::from_millis(1);
    deliver(&mut pair.client, pair.now, &down).unwrap();
    assert_eq!(events(&mut pair.client).len(), 1);
    assert_eq!(pair.client.rtt(), None);
}

/// LINK-13: a handshake carries no fragments, because the sender's memory quota is not known yet.
#[test]
fn fragments_in_handshake_are_refused() {
    let mut pair = Pair::new();
    pair.client.ask(vec![1; 20], END, true).unwrap();
    let mut carried = Vec::new();
    for offset in [0, 5] {
        let part = Frame::Fragment {
            message: MessageId::Request(RequestId(9)),
            total: 1100,
            offset,
            bytes: &[7],
        };
        part.emit(false, &mut carried);
    }
    carried.extend(pair.client.init_payload(pair.now, 500));
    let outcome = pair.server.handle_early(pair.now, &carried);
    assert_eq!(outcome, Err(Ignored::Violation));
    assert_eq!(pair.server.assembling(), 0);
}

/// LINK-5, LINK-8: a request is not repeated while its long reply is in flight. Found by the
/// simulator: on a slow and long path it was repeated every two seconds, for minutes.
#[test]
fn retransmission_of_request_stops_while_long_reply_is_in_flight() {
    let mut bulk = Bulk::new(7, 300, Duration::from_secs(40), 0.0);
    let number = bulk
        .pair
        .client
        .ask(vec![1; 20], Time(3_600_000_000), false)
        .unwrap();
    let mut has_come = false;
    while !has_come {
        bulk.step();
        for event in events(&mut bulk.pair.server) {
            if let Event::Request { number, .. } = event {
                bulk.pair.server.reply(number, vec![2; 2000]);
            }
        }
        has_come = events(&mut bulk.pair.client)
            .iter()
            .any(|event| matches!(event, Event::Reply { number: of, .. } if *of == number));
    }
    // Each packet with fragments is acknowledged.
    let (asked, answered) = (bulk.up.carried, bulk.down.carried);
    assert!(asked < answered + 15, "{asked} packets up, {answered} down");
    assert!(bulk.down.bytes < 8000, "{} bytes down", bulk.down.bytes);
}
