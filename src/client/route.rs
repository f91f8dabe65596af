//! The route to a realm: resolves its name, sends to the candidate addresses and keeps the one that
//! answers first.
//!
//! Happy eyeballs (RFC 8305) for UDP. A handshake does not depend on addresses, so each candidate
//! gets the same datagrams: the first candidate at once, the next one when nothing was heard for
//! 250 ms or two round trips, and so on. The candidate that sends the first authentic datagram
//! becomes active, and the others are dropped.

use std::{
    collections::VecDeque,
    future::{Future, pending, poll_fn},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use super::Meter;
use crate::{
    faults::{Fault, is_planted},
    host::{Host, Socket, is_too_long},
    subnet::Subnet,
};

/// A realm sends no datagram longer than this, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;
/// The endpoint's address for the realm, whichever candidate of the route is active.
pub const REALM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// The minimum delay between two candidates.
const STAGGER_MIN: Duration = Duration::from_millis(250);
/// The delay before the first repeated name look-up. It doubles each time.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest delay between two name look-ups.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The minimum interval between replacements of a socket that cannot send.
const REBIND_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of addresses of a name that are tried. Others are ignored.
const CANDIDATES_MAX: usize = 8;

type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// The event that [`Route::wait`] returned for.
pub enum Ready {
    /// The name look-up has ended. Pass its result to [`Route::resolved`].
    Resolved(io::Result<Vec<SocketAddr>>),
    /// The candidate with this index may have received a datagram.
    Readable(usize),
}

/// A candidate in use. Its socket is connected, so that ICMP errors are seen.
struct Candidate {
    address: SocketAddr,
    socket: Socket,
    rebound: Option<Instant>,
}

/// The route to one realm.
pub struct Route {
    host: Host,
    meter: Meter,
    name: String,
    port: u16,
    /// The candidates that datagrams are sent to. The active one is the first. After something was
    /// heard, it is the only one.
    candidates: Vec<Candidate>,
    untried: VecDeque<SocketAddr>,
    /// When the next untried candidate is added.
    add_at: Option<Instant>,
    stagger: Duration,
    /// The last datagram. Each new candidate gets it first.
    last: Vec<u8>,
    /// The system accepted the last datagram for no candidate.
    is_stuck: bool,
    resolving: Option<Resolving>,
    resolve_at: Option<Instant>,
    backoff: Duration,
    /// A host reported that nothing listens on the port.
    refused: bool,
    /// Why there is no candidate.
    cause: Option<String>,
}

impl Route {
    /// Returns a route to port `port` of the host `name`. `rtt` is the round-trip time when it was
    /// last used. Nothing is resolved before [`Route::advance`].
    pub fn new(host: Host, meter: Meter, name: String, port: u16, rtt: Option<Duration>) -> Self {
        Self {
            host,
            meter,
            name,
            port,
            candidates: Vec::new(),
            untried: VecDeque::new(),
            add_at: None,
            stagger: STAGGER_MIN.max(rtt.unwrap_or_default() * 2),
            last: Vec::new(),
            is_stuck: false,
            resolving: None,
            resolve_at: Some(Instant::now()),
            backoff: BACKOFF_MIN,
            refused: false,
            cause: None,
        }
    }

    /// True if there is an address to send to.
    pub fn is_ready(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// Returns the address of the active candidate.
    pub fn address(&self) -> Option<SocketAddr> {
        self.candidates.first().map(|active| active.address)
    }

    /// Returns this machine's network on the path to the active candidate.
    pub fn network(&self) -> Option<Subnet> {
        self.candidates.first()?.socket.network()
    }

    /// Returns the time of day of this machine.
    pub fn time_of_day(&self) -> Duration {
        self.host.time_of_day()
    }

    /// True if this machine's address on the path to the active candidate has changed. Later
    /// datagrams are sent from the new address.
    pub async fn has_moved(&mut self) -> bool {
        let Some(active) = self.candidates.first_mut() else {
            return false;
        };
        match self.host.connect(active.address).await {
            Ok(socket) if socket.local_ip() != active.socket.local_ip() => {
                active.socket = socket;
                true
            }
            // No network at present: this is checked again later.
            Ok(_) | Err(_) => false,
        }
    }

    /// Returns the number of candidates in use.
    pub fn candidates(&self) -> usize {
        self.candidates.len()
    }

    /// True if a host reported that nothing listens on the port.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Returns why there is no candidate.
    pub fn cause(&self) -> String {
        let cause = self.cause.as_deref();
        cause
            .unwrap_or("the name look-up has not been answered")
            .into()
    }

    /// Resolves the name again: its addresses may have changed.
    pub fn look_up(&mut self, now: Instant) {
        if !is_planted(Fault::LookUpOnce) {
            self.resolve_at.get_or_insert(now);
        }
    }

    /// Returns when to call [`Route::advance`] next.
    pub fn timeout(&self) -> Option<Instant> {
        let resolve = self.resolve_at.filter(|_| self.resolving.is_none());
        resolve.into_iter().chain(self.add_at).min()
    }

    /// Does what is due: starts a name look-up, or adds a candidate. True if a datagram was sent.
    pub async fn advance(&mut self) -> bool {
        let now = Instant::now();
        if self.resolving.is_none() && self.resolve_at.is_some_and(|at| at <= now) {
            self.resolve_at = None;
            let (host, name, port) = (self.host.clone(), self.name.clone(), self.port);
            self.resolving = Some(Box::pin(async move { host.resolve(&name, port).await }));
        }
        if self.add_at.is_some_and(|at| at <= now) {
            return self.add_candidate(now).await;
        }
        false
    }

    /// Waits for the end of a name look-up, or for a datagram.
    pub async fn wait(&mut self) -> Ready {
        tokio::select! {
            biased;
            found = resolution(&mut self.resolving) => Ready::Resolved(found),
            (which, ready) = readable(&self.candidates) => {
                if let Err(error) = ready {
                    self.note(which, &error);
                }
                Ready::Readable(which)
            }
        }
    }

    /// Handles the result of a name look-up. True if a datagram was sent.
    pub async fn resolved(&mut self, found: io::Result<Vec<SocketAddr>>) -> bool {
        let now = Instant::now();
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.failed(now, error.to_string());
                return false;
            }
        };
        // Realms listen on IPv4 by default.
        let (mut addresses, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(SocketAddr::is_ipv4);
        addresses.extend(others);
        let mut active = true;
        // The active candidate stays until another one answers: the name server may be wrong.
        self.candidates
            .retain(|known| std::mem::take(&mut active) || addresses.contains(&known.address));
        self.untried.clear();
        let most = if is_planted(Fault::FirstAddressOnly) {
            1
        } else {
            CANDIDATES_MAX
        };
        for address in addresses.into_iter().take(most) {
            let mut known = self.candidates.iter().map(|known| known.address);
            if !known.any(|known| known == address) && !self.untried.contains(&address) {
                self.untried.push_back(address);
            }
        }
        let left = if self.is_stuck && self.rebind(0).await {
            self.send_last(0).await
        } else {
            false
        };
        if !self.is_ready() {
            self.cause = Some("the name has no address".into());
        }
        if !left || !self.is_ready() {
            return self.add_candidate(now).await || left;
        }
        self.add_at = (!self.untried.is_empty()).then(|| now + self.stagger);
        left
    }

    /// Sends a datagram to all candidates in use. True if the system accepted it for one of them.
    pub async fn send(&mut self, datagram: &[u8]) -> bool {
        self.last.clear();
        self.last.extend_from_slice(datagram);
        self.is_stuck = false;
        let mut left = false;
        for which in 0..self.candidates.len() {
            left |= self.send_last(which).await;
        }
        self.is_stuck &= !left;
        left
    }

    /// Makes sure that later candidates do not get the last datagram.
    pub fn forget_last(&mut self) {
        self.last.clear();
        self.is_stuck = false;
    }

    /// Receives a datagram from a candidate. `None` if there are no more.
    pub fn try_recv<'b>(&mut self, which: usize, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        loop {
            let candidate = self.candidates.get(which)?;
            match candidate.socket.try_recv_from(buffer) {
                Ok((len, _)) => {
                    self.meter.down(len);
                    return buffer.get(..len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => self.note(which, &error),
            }
        }
    }

    /// Handles an authentic datagram from a candidate: it becomes active, and the others are
    /// dropped.
    pub fn heard(&mut self, which: usize) {
        if which < self.candidates.len() {
            self.candidates.swap(0, which);
        }
        self.candidates.truncate(1);
        self.untried.clear();
        self.add_at = None;
        self.backoff = BACKOFF_MIN;
        // A server listens there again.
        self.refused = false;
    }

    /// Adds the next candidate that has a route, and sends it the last datagram. True if that was
    /// sent.
    async fn add_candidate(&mut self, now: Instant) -> bool {
        let mut left = false;
        self.add_at = None;
        while let Some(address) = self.untried.pop_front() {
            match self.host.connect(address).await {
                Ok(socket) => {
                    self.candidates.push(Candidate {
                        address,
                        socket,
                        rebound: None,
                    });
                    if !self.last.is_empty() {
                        left = self.send_last(self.candidates.len() - 1).await;
                    }
                    self.add_at = (!self.untried.is_empty()).then(|| now + self.stagger);
                    break;
                }
                Err(error) => self.cause = Some(error.to_string()),
            }
        }
        if !self.is_ready() || self.is_stuck {
            self.retry(now);
        }
        left
    }

    async fn send_last(&mut self, which: usize) -> bool {
        let Some(candidate) = self.candidates.get(which) else {
            return false;
        };
        self.meter.up(self.last.len());
        let mut sent = candidate.socket.send(&self.last).await;
        if let Err(error) = &sent {
            let is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
            if is_refused || is_too_long(error) {
                // The error is about an earlier datagram, and this one was not sent.
                self.refused |= is_refused;
                sent = candidate.socket.send(&self.last).await;
            }
        }
        match sent {
            Ok(()) => {
                self.is_stuck = false;
                true
            }
            // It counts as lost on the path: another socket would not accept it either.
            Err(error) if is_too_long(&error) => false,
            Err(error) => {
                self.is_stuck |= is_unreachable(&error);
                self.note(which, &error);
                self.rebind(which).await;
                false
            }
        }
    }

    /// Replaces a candidate's socket. A socket is bound to this machine's address at its creation.
    /// If that address is gone, as after a change of networks, another socket is needed.
    async fn rebind(&mut self, which: usize) -> bool {
        let Some(candidate) = self.candidates.get_mut(which) else {
            return false;
        };
        let now = Instant::now();
        if candidate
            .rebound
            .is_some_and(|at| now - at < REBIND_INTERVAL)
        {
            return false;
        }
        candidate.rebound = Some(now);
        match self.host.connect(candidate.address).await {
            Ok(socket) => {
                candidate.socket = socket;
                true
            }
            // No network at present: unsent data is sent again later.
            Err(_) => false,
        }
    }

    /// Handles an ICMP error for a datagram. It is only a hint: a realm that is restarting looks
    /// the same.
    fn note(&mut self, which: usize, error: &io::Error) {
        if is_too_long(error) {
            // This says nothing about whether a server is there.
            return;
        }
        let now = Instant::now();
        self.refused |= error.kind() == io::ErrorKind::ConnectionRefused;
        if self.add_at.is_some() {
            self.add_at = Some(now);
        } else if which == 0 && is_unreachable(error) {
            self.retry(now);
        }
    }

    fn failed(&mut self, now: Instant, cause: String) {
        self.cause = Some(cause);
        if !self.is_ready() || self.is_stuck {
            self.retry(now);
        }
    }

    /// Schedules the next name look-up, with a longer delay each time.
    fn retry(&mut self, now: Instant) {
        if self.resolve_at.is_none()
            && self.resolving.is_none()
            && !is_planted(Fault::NeedNetworkAtOnce)
        {
            self.resolve_at = Some(now + self.backoff);
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }
}

/// True if there is no route to the host at present, as opposed to a datagram that is too long.
fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
    )
}

async fn resolution(resolving: &mut Option<Resolving>) -> io::Result<Vec<SocketAddr>> {
    match resolving {
        Some(running) => {
            let found = running.await;
            *resolving = None;
            found
        }
        None => pending().await,
    }
}

async fn readable(candidates: &[Candidate]) -> (usize, io::Result<()>) {
    if let [only] = candidates {
        return (0, only.socket.readable().await);
    }
    let waits = candidates.iter();
    let waits = waits.map(|candidate| Box::pin(candidate.socket.readable()));
    let mut waits: Vec<_> = waits.collect();
    poll_fn(|context| {
        for (which, wait) in waits.iter_mut().enumerate() {
            if let Poll::Ready(ready) = wait.as_mut().poll(context) {
                return Poll::Ready((which, ready));
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits until `at`, such as [`Route::timeout`]. Without a time it waits for ever.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}
