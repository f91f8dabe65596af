//! A listener's socket. It reports for each datagram to which of this machine's addresses it came,
//! and can send from a given one. It receives several in one call, and sends several on one way in
//! one call. IP fragments none, so that a loss for size shows the path's MTU (LINK-15).

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState, is_msg_size_err};
use smallvec::SmallVec;
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::send_batch::{SendBatch, Way};

/// The number of receive buffers of a socket: this many bursts of datagrams are received in one
/// call.
pub const RECEIVE_BUFFERS: usize = 16;
/// The size of a buffer, in bytes. The kernel joins datagrams of one sender that arrive together
/// (GRO), and truncates what does not fit: the contents of one IP packet always fit.
pub const RECEIVE_BUFFER_BYTES: usize = 65_535;

/// How long a batch of datagrams may wait for room in the socket. Those that do not fit by then are
/// dropped, as the network might have done. A longer wait would delay everything else on the
/// socket's thread.
const BLOCKED_MAX: Duration = Duration::from_millis(50);

/// A listener's socket.
#[derive(Debug)]
pub enum Listening {
    /// A socket of the kernel.
    Real(Udp),
    /// A socket on a simulated network.
    #[cfg(all(test, feature = "client", feature = "embedded"))]
    Simulated(crate::simulation::Socket),
}

impl Listening {
    /// Starts to use a socket in the current runtime.
    pub fn start(bound: Bound) -> io::Result<Self> {
        Ok(Self::Real(Udp {
            socket: UdpSocket::from_std(bound.socket)?,
            state: bound.state,
            is_any: bound.is_any,
            burst_max: bound.burst_max,
        }))
    }

    /// Waits until a datagram may have arrived. Returns the network's error for a sent one.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Real(Udp { socket, .. }) => super::readable(socket).await,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.readable().await,
        }
    }

    /// Receives datagrams that have arrived, several at a time; `WouldBlock` if there is none.
    pub fn try_recv(&self, received: &mut Received) -> io::Result<()> {
        match self {
            Self::Real(socket) => socket.try_recv(received),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => received.fill(|buffer| socket.try_recv_from(buffer)),
        }
    }

    /// Sends all datagrams of a batch. An error of the system is passed to `refused`, and the
    /// datagram is treated as lost. A datagram too long for this machine's network is not reported:
    /// MTU discovery relies on such losses. A blocked socket is reported once, as `WouldBlock`, and
    /// all datagrams not sent yet are dropped.
    pub async fn send(&mut self, leaving: &mut SendBatch, mut refused: impl FnMut(io::Error)) {
        let mut sent = 0;
        let mut until = None;
        'all: while let Some(burst) = leaving.burst(sent, self.burst_max()) {
            sent += burst.count;
            let mut failed = None;
            if burst.count > 1 {
                match self
                    .send_burst(burst.bytes, burst.each, burst.way, &mut until)
                    .await
                {
                    Ok(()) => continue,
                    Err(error) if is_blocked(&error) => {
                        refused(error);
                        break;
                    }
                    Err(error) => failed = Some(error),
                }
            }
            // Not every network device takes several at a time.
            let mut left_as_asked = true;
            for datagram in burst.bytes.chunks(burst.each.max(1)) {
                match self.send_one(datagram, burst.way, &mut until).await {
                    Ok(as_asked) => left_as_asked &= as_asked,
                    Err(error) if is_blocked(&error) => {
                        refused(error);
                        break 'all;
                    }
                    Err(error) => {
                        left_as_asked = false;
                        if !is_msg_size_err(&error) {
                            refused(error);
                        }
                    }
                }
            }
            if left_as_asked && failed.is_some_and(|error| is_bursts_fault(&error)) {
                self.refuse_bursts();
            }
        }
        leaving.clear();
    }

    fn burst_max(&self) -> usize {
        match self {
            Self::Real(socket) => socket.burst_max,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(_) => 1,
        }
    }

    /// Sends one datagram per call from now on: the network device does not take several.
    fn refuse_bursts(&mut self) {
        match self {
            Self::Real(socket) => socket.burst_max = 1,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(_) => {}
        }
    }

    async fn send_burst(
        &self,
        bytes: &[u8],
        each: usize,
        way: Way,
        until: &mut Option<Instant>,
    ) -> io::Result<()> {
        match self {
            Self::Real(socket) => socket.send(bytes, way, Some(each), until).await,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// True if the datagram left from the requested address.
    async fn send_one(
        &self,
        datagram: &[u8],
        way: Way,
        until: &mut Option<Instant>,
    ) -> io::Result<bool> {
        match self {
            Self::Real(socket) => socket.send_one(datagram, way, until).await,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.send_to(datagram, way.0).await.map(|()| true),
        }
    }
}

/// A bound socket with its options set.
#[derive(Debug)]
pub struct Bound {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
    is_any: bool,
    burst_max: usize,
}

impl Bound {
    /// Sets the options of a bound socket.
    pub fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self {
            burst_max: state.max_gso_segments(),
            state,
            is_any: socket.local_addr()?.ip().is_unspecified(),
            socket,
        })
    }
}

/// A socket of the kernel.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    /// True if it is bound to all addresses of its machine, so that the destination address of a
    /// datagram matters.
    is_any: bool,
    /// The maximum number of datagrams that leave in one call. `state` has a number of its own,
    /// which it sets to 1 for ever if a source address is not this machine's.
    burst_max: usize,
}

impl Udp {
    fn try_recv(&self, received: &mut Received) -> io::Result<()> {
        let Received {
            buffers, bursts, ..
        } = received;
        bursts.clear();
        let buffers = buffers.chunks_exact_mut(RECEIVE_BUFFER_BYTES);
        let mut buffers: SmallVec<[_; RECEIVE_BUFFERS]> = buffers.map(IoSliceMut::new).collect();
        bursts.resize(buffers.len(), RecvMeta::default());
        let came = self.socket.try_io(Interest::READABLE, || {
            let socket = UdpSockRef::from(&self.socket);
            self.state.recv(socket, &mut buffers, bursts)
        });
        bursts.truncate(came.as_ref().copied().unwrap_or_default());
        for burst in bursts {
            burst.dst_ip = burst.dst_ip.filter(|to| self.is_any && is_answerable(*to));
        }
        came.map(drop)
    }

    async fn send_one(
        &self,
        datagram: &[u8],
        (to, from): Way,
        until: &mut Option<Instant>,
    ) -> io::Result<bool> {
        match self.send(datagram, (to, from), None, until).await {
            // A subnet's broadcast address looks like any other address. The other side, if a
            // realm, may follow to the address that the kernel chooses.
            Err(error) if from.is_some() && is_sources_fault(&error) => {
                let sent = self.send(datagram, (to, None), None, until).await;
                sent.map(|()| false)
            }
            sent => sent.map(|()| true),
        }
    }

    async fn send(
        &self,
        contents: &[u8],
        (destination, src_ip): Way,
        segment_size: Option<usize>,
        until: &mut Option<Instant>,
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size,
            src_ip,
        };
        let send = || {
            let socket = UdpSockRef::from(&self.socket);
            self.state.try_send(socket, &transmit)
        };
        when_writable(&self.socket, until, send).await
    }
}

/// Sends as soon as the socket has room; `WouldBlock` if it has none at `until`, which is set to
/// [`BLOCKED_MAX`] from now if nothing has waited yet.
async fn when_writable(
    socket: &UdpSocket,
    until: &mut Option<Instant>,
    mut send: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    loop {
        match socket.try_io(Interest::WRITABLE, &mut send) {
            Err(error) if is_blocked(&error) => {}
            sent => return sent,
        }
        let until = *until.get_or_insert_with(|| Instant::now() + BLOCKED_MAX);
        match timeout_at(until, socket.writable()).await {
            Ok(ready) => ready?,
            Err(_) => return Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

fn is_blocked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// True if the source address may be why a datagram was refused: it is not this machine's any more,
/// or never was. A datagram that is refused temporarily, as for lack of room, is not sent from
/// another address: it is treated as lost.
fn is_sources_fault(error: &io::Error) -> bool {
    // Linux reports the last error for most such addresses. If there really is no route, there is
    // none from another address either.
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// True if several datagrams in one call may be why they were refused.
fn is_bursts_fault(error: &io::Error) -> bool {
    /// Linux's error for a network device that cannot compute checksums.
    const EIO: i32 = 5;
    error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(EIO)
}

/// True for an address that a datagram may leave from, as far as the address itself tells:
/// datagrams also arrive at multicast and broadcast addresses.
fn is_answerable(address: IpAddr) -> bool {
    let is_everybodys = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_multicast() || address.is_unspecified() || is_everybodys)
}

/// Datagrams that arrived together.
#[derive(Debug)]
pub struct Received {
    buffers: Vec<u8>,
    bursts: Vec<RecvMeta>,
    longest: usize,
}

/// One received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Its contents.
    pub bytes: &'a [u8],
    /// Its source address.
    pub from: SocketAddr,
    /// Which of this machine's addresses it came to, if the socket has several and this one can be
    /// used for an answer.
    pub to: Option<IpAddr>,
}

impl Received {
    /// Returns buffers for datagrams. Those of more than `longest` bytes are skipped.
    pub fn new(longest: usize) -> Self {
        Self {
            buffers: vec![0; RECEIVE_BUFFER_BYTES * RECEIVE_BUFFERS],
            bursts: Vec::with_capacity(RECEIVE_BUFFERS),
            longest,
        }
    }

    /// Returns the datagrams.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        let buffers = self.buffers.chunks_exact(RECEIVE_BUFFER_BYTES);
        buffers.zip(&self.bursts).flat_map(|(buffer, burst)| {
            let bytes = buffer.get(..burst.len).unwrap_or_default();
            // Joined datagrams have the same length, except for the last. An empty datagram gives
            // no length to split by.
            bytes
                .chunks(burst.stride.max(1))
                .filter(|bytes| bytes.len() <= self.longest)
                .map(|bytes| Datagram {
                    bytes,
                    from: burst.addr,
                    to: burst.dst_ip,
                })
        })
    }

    /// Receives datagrams one by one from a simulated network until `receive` has none;
    /// `WouldBlock` if it had none at all.
    #[cfg(test)]
    fn fill(
        &mut self,
        mut receive: impl FnMut(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
    ) -> io::Result<()> {
        self.bursts.clear();
        for buffer in self.buffers.chunks_exact_mut(RECEIVE_BUFFER_BYTES) {
            match receive(buffer) {
                Ok((len, from)) => {
                    let mut burst = RecvMeta::default();
                    (burst.addr, burst.len, burst.stride) = (from, len, len);
                    self.bursts.push(burst);
                }
                Err(error) if self.bursts.is_empty() => return Err(error),
                // The error is returned when there is no datagram.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
