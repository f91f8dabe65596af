//! Several datagrams at a time: to ask the kernel once for all that have arrived, and once to send all that leave,
//! costs less than to ask for each.

#[cfg(any(test, not(target_os = "linux")))]
use std::io;
use std::net::SocketAddr;

/// Datagrams at a time, at most.
pub const BATCH: usize = 32;

/// Datagrams that have arrived together.
pub struct Arrived {
    room: Vec<u8>,
    /// Room of each, in bytes.
    each: usize,
    /// The lengths of those that are there, and where they came from.
    got: Vec<(usize, SocketAddr)>,
}

impl Arrived {
    /// Room for datagrams of up to `longest` bytes.
    pub fn new(longest: usize) -> Self {
        // A byte more, which tells those that are longer.
        let each = longest + 1;
        Self {
            room: vec![0; each * BATCH],
            each,
            got: Vec::with_capacity(BATCH),
        }
    }

    /// The datagrams, and where they came from. Those that were too long are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let places = self.room.chunks_exact(self.each).zip(&self.got);
        places
            .filter(|(_, (len, _))| *len < self.each)
            .filter_map(|(place, (len, from))| Some((place.get(..*len)?, *from)))
    }

    /// Takes datagrams in one by one, where the kernel gives no more and in a simulated world, until `receive` has
    /// none; `WouldBlock` when it had none at all.
    #[cfg(any(test, not(target_os = "linux")))]
    pub fn fill(
        &mut self,
        mut receive: impl FnMut(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
    ) -> io::Result<()> {
        self.got.clear();
        for place in self.room.chunks_exact_mut(self.each) {
            match receive(place) {
                Ok(one) => self.got.push(one),
                Err(error) if self.got.is_empty() => return Err(error),
                // It is told when nothing else is.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

/// Datagrams that are to leave together.
#[derive(Debug, Default)]
pub struct Leaving {
    /// Those beyond the count are kept for their room.
    datagrams: Vec<(Vec<u8>, Option<SocketAddr>)>,
    count: usize,
}

impl Leaving {
    /// True when no more may be added.
    pub const fn is_full(&self) -> bool {
        self.count == BATCH
    }

    /// Adds what `write` writes and says where it goes; false when it says nothing.
    pub fn add(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<SocketAddr>) -> bool {
        if self.datagrams.len() == self.count {
            self.datagrams.push((Vec::new(), None));
        }
        let Some((datagram, to)) = self.datagrams.get_mut(self.count) else {
            return false;
        };
        *to = write(datagram);
        let is_there = to.is_some();
        self.count += usize::from(is_there);
        is_there
    }

    /// Those that are to leave.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let leaving = self.datagrams.iter().take(self.count);
        leaving.filter_map(|(datagram, to)| Some((datagram.as_slice(), (*to)?)))
    }

    /// None is to leave any more.
    pub const fn clear(&mut self) {
        self.count = 0;
    }
}

/// How Linux does it.
#[cfg(target_os = "linux")]
pub mod kernel {
    use std::{
        array,
        cell::RefCell,
        io::{self, IoSlice, IoSliceMut},
        net::{SocketAddr, SocketAddrV4, SocketAddrV6},
        os::fd::AsRawFd as _,
    };

    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
    use rustix::net::{
        MMsgHdr, SendAncillaryBuffer, SendFlags, addr::SocketAddrArg as _, sendmmsg,
    };
    use smallvec::SmallVec;
    use tokio::net::UdpSocket;

    use super::{Arrived, BATCH, Leaving};

    thread_local! {
        static HEADERS: RefCell<MultiHeaders<SockaddrStorage>> =
            RefCell::new(MultiHeaders::preallocate(BATCH, None));
    }

    fn address(of: &SockaddrStorage) -> Option<SocketAddr> {
        let v4 = of.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into());
        v4.or_else(|| {
            of.as_sockaddr_in6()
                .map(|v6| SocketAddrV6::from(*v6).into())
        })
    }

    /// Takes in what has arrived; `WouldBlock` when nothing has.
    pub fn receive(socket: &UdpSocket, arrived: &mut Arrived) -> io::Result<()> {
        let Arrived { room, each, got } = arrived;
        got.clear();
        let mut room = room.chunks_exact_mut(*each);
        HEADERS.with_borrow_mut(|headers| {
            let mut places: [[IoSliceMut<'_>; 1]; BATCH] =
                array::from_fn(|_| [IoSliceMut::new(room.next().unwrap_or_default())]);
            let flags = MsgFlags::MSG_DONTWAIT;
            let came = recvmmsg(socket.as_raw_fd(), headers, places.iter_mut(), flags, None)?;
            // Every datagram has a source; one without would be as good as too long.
            let unknown = (*each, SocketAddr::from(([0, 0, 0, 0], 0)));
            got.extend(came.map(|one| {
                let from = one.address.as_ref().and_then(address);
                from.map_or(unknown, |from| (one.bytes, from))
            }));
            Ok(())
        })
    }

    /// Sends what is to leave from the `first` on; says how much of it has left.
    pub fn send(socket: &UdpSocket, leaving: &Leaving, first: usize) -> io::Result<usize> {
        let datagrams: SmallVec<[_; BATCH]> = leaving
            .iter()
            .skip(first)
            .map(|(datagram, to)| ([IoSlice::new(datagram)], to.as_any()))
            .collect();
        let mut nothing_else: [SendAncillaryBuffer<'_, '_, '_>; BATCH] = Default::default();
        let mut headers: SmallVec<[MMsgHdr<'_>; BATCH]> = datagrams
            .iter()
            .zip(&mut nothing_else)
            .map(|((slices, to), nothing)| MMsgHdr::new_with_addr(to, slices, nothing))
            .collect();
        Ok(sendmmsg(socket, &mut headers, SendFlags::DONTWAIT)?)
    }
}
