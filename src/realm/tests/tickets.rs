//! The resumption tickets that a realm keeps of devices (HS-20).

use core::time::Duration;

use super::*;
use crate::{
    crypto::ResumptionSecret,
    realm::{Pass, Returning},
    wire::ConnectionId,
};

const DAY: u32 = 86_400;

fn device(n: u8) -> PublicKey {
    SecretKey::from_bytes([n; 32]).public()
}

fn returning(n: u8, secret: u8) -> Returning {
    Returning {
        device: device(n),
        own: SecretKey::from_bytes([9; 32]).public(),
        secret: ResumptionSecret::from_bytes([secret; 32]),
        max_datagram: 1200,
        place: Some([192, 0, 2, 7].into()),
    }
}

impl Fixture {
    async fn keep(&self, id: u32, n: u8, secret: u8) {
        let id = ConnectionId(id);
        self.realm
            .tickets
            .keep(id, returning(n, secret), Duration::ZERO, self.now)
            .await;
    }

    /// Returns the first byte of the secret with which a device resumes by the ticket.
    async fn found(&self, id: u32) -> Option<u8> {
        match self.realm.tickets.find(ConnectionId(id), self.now).await {
            FoundTicket::Good(found) => Some(found.0.secret.as_bytes()[0]),
            FoundTicket::NotGood => None,
            FoundTicket::Unreadable => panic!("the store can be read"),
        }
    }

    async fn sweep(&self) {
        let mut next = Some(Pass::BEGIN);
        while let Some(pass) = next {
            next = self.realm.tidy(pass, &|| self.now).await;
        }
    }
}

/// HS-20: the copies of a profile have one ticket each, also if the tickets are written
/// concurrently.
#[tokio::test]
async fn tickets_written_concurrently_are_all_kept() {
    let fixture = Fixture::new();
    fixture.register(Some(device(1)), "ann").await;
    tokio::join!(
        fixture.keep(7, 1, 3),
        fixture.keep(8, 1, 4),
        fixture.keep(9, 1, 5)
    );
    for (id, secret) in [(7, 3), (8, 4), (9, 5)] {
        assert_eq!(fixture.found(id).await, Some(secret));
    }
}

/// HS-20: a ticket is found after a restart.
#[tokio::test]
async fn ticket_is_found_after_restart() {
    let fixture = Fixture::new();
    fixture.register(Some(device(1)), "ann").await;
    fixture.keep(7, 1, 3).await;
    let fixture = fixture.restart();
    let found = fixture
        .realm
        .tickets
        .find(ConnectionId(7), fixture.now)
        .await;
    let FoundTicket::Good(found) = found else {
        panic!("{found:?}")
    };
    let (found, account) = *found;
    assert_eq!(found.device, device(1));
    assert_eq!(found.place, Some([192, 0, 2, 7].into()));
    assert_eq!(account, Account::User("ann".parse().unwrap()));
    assert_eq!(fixture.found(8).await, None);
}

/// HS-20: no tickets are kept of strangers, and a ticket ends with its session.
#[tokio::test]
async fn ticket_is_valid_as_long_as_its_session() {
    let fixture = Fixture::new();
    fixture.keep(7, 1, 3).await;
    assert!(fixture.realm.tickets.are_none().await);
    fixture.register(Some(device(1)), "ann").await;
    fixture.keep(7, 1, 3).await;
    assert_eq!(fixture.found(7).await, Some(3));
    // Another user logs in on the device.
    session_in(&fixture.ask(Some(device(1)), register(2, "bob")).await);
    assert_eq!(fixture.found(7).await, None);
}

/// HS-20: a ticket is valid for a day, and is deleted after that.
#[tokio::test]
async fn ticket_older_than_one_day_is_deleted() {
    let mut fixture = Fixture::new();
    fixture.register(Some(device(1)), "ann").await;
    fixture.keep(7, 1, 3).await;
    fixture.now.running += DAY - 1;
    fixture.keep(8, 1, 4).await;
    assert_eq!(fixture.found(7).await, Some(3));
    fixture.now.running += 1;
    assert_eq!(fixture.found(7).await, None);
    fixture.sweep().await;
    assert_eq!(fixture.found(8).await, Some(4));
    fixture.now.running += DAY;
    fixture.sweep().await;
    assert!(fixture.realm.tickets.are_none().await);
}

/// HS-20: the day begins with the handshake, whenever the ticket is written, and goes on while the
/// realm is down. Before, a ticket was valid until the realm had been running for a day.
#[tokio::test]
async fn ticket_lifetime_begins_with_its_handshake() {
    let mut fixture = Fixture::new();
    fixture.now.running += DAY;
    fixture.now.wall += DAY;
    fixture.register(Some(device(1)), "ann").await;
    let age = Duration::from_secs(u64::from(DAY) - 10);
    for (id, age) in [(7, age), (8, Duration::ZERO), (9, age * 2)] {
        fixture
            .realm
            .tickets
            .keep(ConnectionId(id), returning(1, 3), age, fixture.now)
            .await;
    }
    assert_eq!(fixture.found(9).await, None);
    fixture.now.running += 9;
    assert_eq!(fixture.found(7).await, Some(3));
    fixture.now.running += 1;
    assert_eq!(fixture.found(7).await, None);
    // The realm is down for a day.
    let mut fixture = fixture.restart();
    fixture.now.wall += DAY;
    assert_eq!(fixture.found(8).await, None);
    fixture.sweep().await;
    assert!(fixture.realm.tickets.are_none().await);
}

/// HS-20: the copies of a profile have one ticket each, up to four.
#[tokio::test]
async fn tickets_of_one_device_are_at_most_four() {
    let fixture = Fixture::new();
    fixture.register(Some(device(1)), "ann").await;
    for id in 1..=6 {
        fixture.keep(id, 1, 3).await;
    }
    let mut good = Vec::new();
    for id in 1..=6 {
        if fixture.found(id).await.is_some() {
            good.push(id);
        }
    }
    assert_eq!(good, [3, 4, 5, 6]);
    // Keeping the same ticket again adds none.
    fixture.keep(6, 1, 5).await;
    assert_eq!(fixture.found(3).await, Some(3));
    assert_eq!(fixture.found(6).await, Some(5));
}

/// HS-21: the validated address of a ticket that was kept without one is kept once it is known, and
/// no other replaces it. For a ticket that does not exist nothing is kept.
#[tokio::test]
async fn ticket_without_address_keeps_first_validated_one() {
    let fixture = Fixture::new();
    fixture.register(Some(device(1)), "ann").await;
    let without = Returning {
        place: None,
        ..returning(1, 3)
    };
    let (id, now) = (ConnectionId(7), fixture.now);
    fixture
        .realm
        .tickets
        .keep(id, without, Duration::ZERO, now)
        .await;
    for (place, kept) in [([192, 0, 2, 8], 8), ([192, 0, 2, 9], 8)] {
        fixture.realm.tickets.note_place(id, place.into()).await;
        fixture
            .realm
            .tickets
            .note_place(ConnectionId(8), place.into())
            .await;
        let FoundTicket::Good(found) = fixture.realm.tickets.find(id, now).await else {
            panic!("it is there")
        };
        assert_eq!(found.0.place, Some([192, 0, 2, kept].into()));
        assert_eq!(fixture.found(8).await, None);
    }
}
