//! Asks the server at the end of a route for its key, for trust on first use (HS-6).

use std::time::Duration;

use tokio::time::Instant;

use super::{
    ask::AskError,
    route::{DATAGRAM_BYTES_MAX, REALM, Ready, Route, sleep_until},
};
use crate::{
    crypto::PublicKey,
    endpoint::{Endpoint, Event},
    link::Time,
    wire::{HelloReply, PROTOCOL_VERSION},
};

/// Returns the key in a reply, if both sides speak a common version of the protocol.
pub fn found(reply: HelloReply) -> Result<PublicKey, AskError> {
    if reply.versions.contains(&PROTOCOL_VERSION) {
        Ok(PublicKey(reply.key))
    } else {
        Err(AskError::OtherVersion(reply.versions))
    }
}

/// Asks the server at the end of the route for its key.
pub async fn ask_who(
    route: &mut Route,
    endpoint: &mut Endpoint,
    deadline: Instant,
) -> Result<PublicKey, AskError> {
    let started = Instant::now();
    let time = |at: Instant| Time(0) + at.saturating_duration_since(started);
    let (mut buffer, mut datagram) = (vec![0; DATAGRAM_BYTES_MAX], Vec::new());
    let mut is_asking = false;
    loop {
        route.advance().await;
        if route.is_ready() && !std::mem::replace(&mut is_asking, true) {
            endpoint.ask_hello(time(Instant::now()), REALM);
        }
        while endpoint
            .poll_transmit(time(Instant::now()), &mut datagram)
            .is_some()
        {
            // It counts as lost on the path, and is sent again.
            route.send(&datagram).await;
        }
        let again = endpoint
            .poll_timeout()
            .map(|at| started + Duration::from_micros(at.0));
        let again = again.into_iter().chain(route.timeout()).min();
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline) => {
                return Err(if route.is_ready() {
                    let refused = route.is_refused();
                    AskError::Expired { heard: false, refused, left: true }
                } else {
                    AskError::NoRoute(route.cause())
                });
            }
            () = sleep_until(again) => {}
            ready = route.wait() => match ready {
                Ready::Readable(which) => {
                    while let Some(datagram) = route.try_recv(which, &mut buffer) {
                        endpoint.handle_datagram(time(Instant::now()), REALM, datagram);
                        if let Some(Event::Hello { reply, .. }) = endpoint.poll_event() {
                            route.heard(which);
                            return found(reply);
                        }
                    }
                }
                Ready::Resolved(found) => drop(route.resolved(found).await),
            },
        }
    }
}
