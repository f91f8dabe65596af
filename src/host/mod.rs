//! The interface to the machine: sockets, the time of day, randomness. A process knows the outside
//! world only through this module, so tests can run it in a simulated world.

#[cfg(feature = "client")]
mod connected_socket;
#[cfg(feature = "server")]
mod listening;
#[cfg(feature = "server")]
mod send_batch;

use std::io;

#[cfg(feature = "client")]
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

#[cfg(feature = "client")]
pub use connected_socket::{Socket, is_too_long};
#[cfg(feature = "server")]
pub use listening::{Bound, Listening, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, Received};
use rand::{SeedableRng as _, TryRng as _, rngs::StdRng, rngs::SysRng};
#[cfg(feature = "server")]
pub use send_batch::{SEND_BATCH, SendBatch};
use tokio::{io::Interest, net::UdpSocket};

/// Returns random bytes from the system.
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
    /// The real machine.
    #[default]
    Real,
    /// A machine of a simulated world.
    #[cfg(all(test, feature = "client", feature = "embedded"))]
    Simulated(crate::simulation::Machine),
}

impl Host {
    /// Resolves a name to its addresses, each with the port.
    #[cfg(feature = "client")]
    pub async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Real => resolve(name, port).await,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => machine.resolve(name, port).await,
        }
    }

    /// Returns a socket that is connected to `address`, and receives only from there.
    #[cfg(feature = "client")]
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        match self {
            Self::Real => connected_socket::connect(address).await.map(Socket::Real),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => machine.connect(address).await.map(Socket::Simulated),
        }
    }

    /// Returns a random number generator, seeded by the system.
    pub fn rng(&self) -> io::Result<StdRng> {
        match self {
            Self::Real => Ok(StdRng::from_seed(drawn()?)),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => Ok(machine.rng()),
        }
    }

    /// Returns the salt that distinguishes two attempts at the same operation (EXACT-10).
    #[cfg(feature = "client")]
    pub fn salt(&self) -> io::Result<[u8; 2]> {
        match self {
            Self::Real => drawn(),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => Ok(machine.salt()),
        }
    }

    /// Returns the time since 1970. A clock before 1970 counts as 1970.
    pub fn time_of_day(&self) -> std::time::Duration {
        match self {
            Self::Real => std::time::UNIX_EPOCH.elapsed().unwrap_or_default(),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(machine) => machine.time_of_day(),
        }
    }
}

/// Resolves a name on a thread of its own: a name server may take long to answer, and a runtime
/// that ends waits for its own blocking threads.
#[cfg(feature = "client")]
async fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (answer, answered) = tokio::sync::oneshot::channel();
    let name = name.to_string();
    std::thread::Builder::new().spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs();
        // The caller may have stopped waiting.
        let _ = answer.send(found.map(Iterator::collect));
    })?;
    let found = answered.await;
    found.map_err(|_| io::Error::other("the look-up of a name has panicked"))?
}

/// Waits until a datagram may have arrived. Returns the network's error for a sent one.
async fn readable(socket: &UdpSocket) -> io::Result<()> {
    let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
    if !ready.is_error() {
        return Ok(());
    }
    // The error is taken, so that it does not wake the task again.
    let _ = socket.try_io(Interest::ERROR, || {
        Err::<(), _>(io::ErrorKind::WouldBlock.into())
    });
    socket.take_error()?.map_or(Ok(()), Err)
}
