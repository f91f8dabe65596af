//! What a process has of the machine it runs on: sockets, the time of day, randomness. Everything else it knows
//! of the world comes through these, so that tests can run it in a world of their own.

#[cfg(feature = "client")]
mod connected_socket;
#[cfg(feature = "embedded")]
mod listening;
#[cfg(feature = "embedded")]
mod send_batch;

use std::io;

#[cfg(feature = "client")]
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

#[cfg(feature = "client")]
pub use connected_socket::{Socket, is_too_long};
#[cfg(feature = "embedded")]
pub use listening::{Bound, Listening, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, Received};
use rand::{SeedableRng as _, TryRng as _, rngs::StdRng, rngs::SysRng};
#[cfg(feature = "embedded")]
pub use send_batch::{SEND_BATCH, SendBatch};
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
            Self::Real => connected_socket::connect(address).await.map(Socket::Real),
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

/// Waits until something may have arrived; or gives what the network says of what was sent.
async fn readable(socket: &UdpSocket) -> io::Result<()> {
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
