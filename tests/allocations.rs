//! Memory allocations of a packet on an established link: the command is allocated, and nothing
//! else.

use std::{net::SocketAddr, time::Duration};

use merpati::{
    crypto::SecretKey,
    endpoint::{AccountId, Config, EarlyData, Endpoint, Event, LinkId},
    link::Time,
    wire::{OperationNumber, Protection},
};

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

const RTT: Duration = Duration::from_millis(60);

fn endpoint(accept: Option<Protection>, key: u8) -> Endpoint {
    let config = Config {
        accept,
        ..Config::default()
    };
    Endpoint::new(config, &SecretKey::from_bytes([key; 32]).into(), [key; 32])
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 6377))
}

/// A client, a realm, and the network between them.
struct Talk {
    now: Time,
    client: Endpoint,
    realm: Endpoint,
    link: LinkId,
    answer: Vec<Vec<u8>>,
    out: Vec<u8>,
    /// Blocks allocated while the realm was at work.
    taken: u64,
}

impl Talk {
    /// Counts the blocks that `work` allocates.
    fn at_realm<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = dhat::HeapStats::get().total_blocks;
        let done = work(self);
        self.taken += dhat::HeapStats::get().total_blocks - before;
        done
    }

    /// Sends one command and handles its answer.
    fn exchange(&mut self) {
        let deadline = self.now + Duration::from_secs(30);
        let asked = vec![7; 30];
        self.client
            .request(self.now, self.link, asked, deadline, EarlyData::Forbidden)
            .unwrap();
        let mut is_answered = false;
        while !is_answered {
            while self.client.poll_transmit(self.now, &mut self.out).is_some() {
                self.at_realm(|talk| {
                    talk.realm.handle_datagram(talk.now, at(1), &talk.out);
                });
            }
            self.now = self.now + RTT / 2;
            while let Some(event) = self.at_realm(|talk| talk.realm.poll_event()) {
                match event {
                    Event::Incoming { link, .. } => {
                        let highest = OperationNumber(0);
                        self.realm
                            .welcome(self.now, link, Some(AccountId::new(1)), highest);
                    }
                    Event::Request { link, number, .. } => {
                        let answer = self.answer.pop().unwrap();
                        self.at_realm(|talk| talk.realm.reply(talk.now, link, number, answer));
                    }
                    _ => {}
                }
            }
            while self
                .at_realm(|talk| talk.realm.poll_transmit(talk.now, &mut talk.out))
                .is_some()
            {
                self.client.handle_datagram(self.now, at(2), &self.out);
            }
            self.now = self.now + RTT / 2;
            while let Some(event) = self.client.poll_event() {
                is_answered |= matches!(event, Event::Reply { .. });
            }
            self.at_realm(|talk| {
                talk.realm.handle_timeout(talk.now);
                talk.realm.poll_timeout()
            });
        }
    }
}

#[test]
fn allocation_per_exchange_is_only_its_command() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut client = endpoint(None, 1);
    let key = SecretKey::from_bytes([2; 32]).public();
    let link = client.connect(Time(0), at(2), key, Some(RTT));
    let mut talk = Talk {
        now: Time(0),
        client,
        realm: endpoint(Some(Protection::Sealed), 2),
        link,
        answer: vec![vec![1]; 2000],
        out: Vec::with_capacity(1500),
        taken: 0,
    };
    // Warms up until all state of the link has its final size.
    for _ in 0..1000 {
        talk.exchange();
    }
    talk.taken = 0;
    for _ in 0..1000 {
        talk.exchange();
    }
    println!("{} blocks for 1000 exchanges", talk.taken);
    assert_eq!(talk.taken, 1000, "one a command: the command");
}
