//! What a process has of the machine it runs on: sockets, the time of day, randomness. Everything else it knows
//! of the world comes through these, so that tests can run it in a world of their own.

#[cfg(feature = "embedded")]
mod batch;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

#[cfg(feature = "client")]
use std::net::ToSocketAddrs as _;

#[cfg(feature = "embedded")]
pub use batch::{Arrived, BATCH, Leaving};
use rand::{SeedableRng as _, TryRng as _, rngs::StdRng, rngs::SysRng};
use tokio::{io::Interest, net::UdpSocket};

/// Random bytes of the system's.
fn drawn<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// The machine that a process runs on.
#[derive(Clone, Debug, Default)]
pub enum Host {
    /// The one there is.
    #[default]
    Real,
    /// One of a simulated world.
    #[cfg(all(test, feature = "client", feature = "embedded"))]
    Simulated(crate::simulation::Machine),
}

/// A socket of its own.
#[derive(Debug)]
pub enum Socket {
    /// The kernel's.
    Real(UdpSocket),
    /// One on a simulated network.
    #[cfg(all(test, feature = "client", feature = "embedded"))]
    Simulated(crate::simulation::Socket),
}

impl Host {
    /// The addresses of a name, each with the port.
    #[cfg(feature = "client")]
    pub async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Real => resolve(name, port).await,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => machine.resolve(name, port).await,
        }
    }

    /// A socket that has a way to `address`, and takes in what comes from there only.
    #[cfg(feature = "client")]
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        match self {
            Self::Real => {
                let any: IpAddr = match address {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((any, 0)).await?;
                socket.connect(address).await?;
                Ok(Socket::Real(socket))
            }
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => machine.connect(address).await.map(Socket::Simulated),
        }
    }

    /// A generator of random numbers, seeded by the system.
    pub fn rng(&self) -> io::Result<StdRng> {
        match self {
            Self::Real => Ok(StdRng::from_seed(drawn()?)),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => Ok(machine.rng()),
        }
    }

    /// What tells two attempts at the same apart (EXACT-10).
    #[cfg(feature = "client")]
    pub fn salt(&self) -> io::Result<[u8; 2]> {
        match self {
            Self::Real => drawn(),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => Ok(machine.salt()),
        }
    }

    /// The time of day, since 1970. A clock before 1970 counts as 1970.
    pub fn time_of_day(&self) -> std::time::Duration {
        match self {
            Self::Real => std::time::UNIX_EPOCH.elapsed().unwrap_or_default(),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => machine.time_of_day(),
        }
    }
}

/// Resolves in a thread of its own: a name server may not answer for long, and a runtime that ends waits for the
/// blocking threads that it has made itself.
#[cfg(feature = "client")]
async fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (answer, answered) = tokio::sync::oneshot::channel();
    let name = name.to_string();
    std::thread::Builder::new().spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs();
        // Whoever asked may have stopped waiting.
        let _ = answer.send(found.map(Iterator::collect));
    })?;
    let found = answered.await;
    found.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

impl Socket {
    /// The socket of a listener, which is bound already.
    #[cfg(feature = "embedded")]
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        Ok(Self::Real(UdpSocket::from_std(socket)?))
    }

    /// Waits until something may have arrived; or gives what the network says of what was sent.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Real(socket) => {
                let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
                if !ready.is_error() {
                    return Ok(());
                }
                // Taken, so that it wakes nobody again.
                let _ = socket.try_io(Interest::ERROR, || {
                    Err::<(), _>(io::ErrorKind::WouldBlock.into())
                });
                socket.take_error()?.map_or(Ok(()), Err)
            }
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.readable().await,
        }
    }

    /// Takes in a datagram and where it came from; `WouldBlock` when nothing has arrived.
    #[cfg(feature = "client")]
    pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Real(socket) => socket.try_recv_from(buffer),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.try_recv_from(buffer),
        }
    }

    /// Takes in datagrams that have arrived, several at a time; `WouldBlock` when none has.
    #[cfg(feature = "embedded")]
    pub fn try_recv_many(&self, arrived: &mut Arrived) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Real(socket) => socket.try_io(Interest::READABLE, || {
                batch::kernel::receive(socket, arrived)
            }),
            #[cfg(not(target_os = "linux"))]
            Self::Real(socket) => arrived.fill(|room| socket.try_recv_from(room)),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => arrived.fill(|room| socket.try_recv_from(room)),
        }
    }

    /// Sends all that is to leave. What the system refuses is told of, and as good as lost on the way.
    #[cfg(feature = "embedded")]
    pub async fn send_many(&self, leaving: &mut Leaving, mut refused: impl FnMut(io::Error)) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Real(socket) => {
                let mut left = 0;
                while leaving.iter().nth(left).is_some() {
                    let sent = socket
                        .async_io(Interest::WRITABLE, || {
                            batch::kernel::send(socket, leaving, left)
                        })
                        .await;
                    left += match sent {
                        Ok(count) => count.max(1),
                        Err(error) => {
                            refused(error);
                            1
                        }
                    };
                }
            }
            #[cfg(not(target_os = "linux"))]
            Self::Real(socket) => {
                for (datagram, to) in leaving.iter() {
                    if let Err(error) = socket.send_to(datagram, to).await {
                        refused(error);
                    }
                }
            }
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => {
                for (datagram, to) in leaving.iter() {
                    if let Err(error) = socket.send_to(datagram, to).await {
                        refused(error);
                    }
                }
            }
        }
        leaving.clear();
    }

    /// Sends a datagram to where the socket is connected to.
    #[cfg(feature = "client")]
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self {
            Self::Real(socket) => socket.send(datagram).await.map(drop),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.send(datagram).await,
        }
    }
}
