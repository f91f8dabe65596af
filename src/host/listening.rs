//! A listener's socket. Each datagram says which of this machine's addresses it came to, and may leave from a given one;
//! several arrive, or leave one way, in one call; and IP fragments none, so that what is lost for its size shows what a path
//! carries (LINK-15).

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

/// Buffers of a socket: as many bursts of datagrams arrive in one call.
pub const RECEIVE_BUFFERS: usize = 16;
/// Bytes of a buffer. The kernel joins datagrams of one sender that arrive together (GRO), and cuts off what does not fit: as
/// much as an IP packet holds always does.
pub const RECEIVE_BUFFER_BYTES: usize = 65_535;

/// So long the datagrams that leave together may wait for room in the socket; those that still do are dropped, and the network might
/// have dropped them as well. Longer, whatever else waits for the socket's thread would wait, too.
const BLOCKED_MAX: Duration = Duration::from_millis(50);

/// A listener's socket.
#[derive(Debug)]
pub enum Listening {
    /// The kernel's.
    Real(Udp),
    /// One on a simulated network.
    #[cfg(all(test, feature = "client", feature = "embedded"))]
    Simulated(crate::simulation::Socket),
}

impl Listening {
    /// Begins to use a socket, in the runtime there is.
    pub fn start(bound: Bound) -> io::Result<Self> {
        Ok(Self::Real(Udp {
            socket: UdpSocket::from_std(bound.socket)?,
            state: bound.state,
            is_any: bound.is_any,
            burst_max: bound.burst_max,
        }))
    }

    /// Waits until something may have arrived; or gives what the network says of what was sent.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Real(Udp { socket, .. }) => super::readable(socket).await,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.readable().await,
        }
    }

    /// Takes in datagrams that have arrived, several at a time; `WouldBlock` when none has.
    pub fn try_recv(&self, received: &mut Received) -> io::Result<()> {
        match self {
            Self::Real(socket) => socket.try_recv(received),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => received.fill(|buffer| socket.try_recv_from(buffer)),
        }
    }

    /// Sends all that is to leave. What the system refuses is told of, and as good as lost on the way. What is too long for
    /// this machine's network is not told of: that is how a path's size is found out. A socket that is blocked is told of once, as
    /// `WouldBlock`, and all that has not left yet is dropped.
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

    /// Its network device does not take several datagrams at a time.
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

    /// True when it left from the address it was to leave from.
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

/// A socket that is bound, and whose options are set.
#[derive(Debug)]
pub struct Bound {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
    is_any: bool,
    burst_max: usize,
}

impl Bound {
    /// Sets the options of a socket that is bound.
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

/// One of the kernel's sockets.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    /// It is bound to all addresses of its machine, so which of them a datagram came to is worth knowing.
    is_any: bool,
    /// Datagrams that leave in one call at most. `state` has a number of its own, which it sets to 1 for ever when a source address
    /// is not this machine's.
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
            // A subnet's broadcast address looks like any other. A realm at the other side may follow to the address that the kernel
            // chooses.
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

/// Sends as soon as there is room in the socket; `WouldBlock` if there is none `until` then, which is [`BLOCKED_MAX`] from now where
/// nothing has waited yet.
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

/// True when the address that a datagram was to leave from may be why it was refused: it is not this machine's any more, or
/// never was. What is refused for now, as without room, is not to leave from another: it is as good as lost.
fn is_sources_fault(error: &io::Error) -> bool {
    // The last is what Linux says of most such addresses. Where there is really no way, there is none from another address either.
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// True when it may be why several datagrams were refused that they were several.
fn is_bursts_fault(error: &io::Error) -> bool {
    /// What Linux says for a network device that cannot compute checksums.
    const EIO: i32 = 5;
    error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(EIO)
}

/// True for an address that a datagram may leave from, as far as the address itself says: one may come to a group's, or to
/// everybody's.
fn is_answerable(address: IpAddr) -> bool {
    let is_everybodys = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_multicast() || address.is_unspecified() || is_everybodys)
}

/// Datagrams that have arrived together.
#[derive(Debug)]
pub struct Received {
    buffers: Vec<u8>,
    bursts: Vec<RecvMeta>,
    longest: usize,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// What it says.
    pub bytes: &'a [u8],
    /// Where it came from.
    pub from: SocketAddr,
    /// Which of this machine's addresses it came to, where the socket has several and it is one that can be answered from.
    pub to: Option<IpAddr>,
}

impl Received {
    /// Room for datagrams. Those of more than `longest` bytes are left out.
    pub fn new(longest: usize) -> Self {
        Self {
            buffers: vec![0; RECEIVE_BUFFER_BYTES * RECEIVE_BUFFERS],
            bursts: Vec::with_capacity(RECEIVE_BUFFERS),
            longest,
        }
    }

    /// The datagrams.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        let buffers = self.buffers.chunks_exact(RECEIVE_BUFFER_BYTES);
        buffers.zip(&self.bursts).flat_map(|(buffer, burst)| {
            let bytes = buffer.get(..burst.len).unwrap_or_default();
            // Those that were joined are of the same length, but for the last. One that is empty has no length to go by.
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

    /// Takes datagrams in one by one, from a simulated network, until `receive` has none; `WouldBlock` when it had none at
    /// all.
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
                // It is told when nothing else is.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
