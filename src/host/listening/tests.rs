use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A listener at `ip`, and where it is.
fn listener(ip: IpAddr) -> (Listening, u16) {
    let socket = std::net::UdpSocket::bind((ip, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let bound = Bound::new(socket).unwrap();
    (Listening::start(bound).unwrap(), port)
}

/// A socket of somebody else on this machine.
async fn other(ip: IpAddr) -> UdpSocket {
    UdpSocket::bind((ip, 0)).await.unwrap()
}

/// The datagrams that arrive, `count` at least: their bytes, and which address each came to.
async fn receive(listening: &Listening, count: usize) -> Vec<(Vec<u8>, Option<IpAddr>)> {
    let mut received = Received::new(9000);
    let mut all = Vec::new();
    while all.len() < count {
        let _ = listening.readable().await;
        while listening.try_recv(&mut received).is_ok() {
            all.extend(received.iter().map(|one| (one.bytes.to_vec(), one.to)));
        }
    }
    all
}

fn leaving(datagrams: &[(&[u8], Way)]) -> SendBatch {
    let mut leaving = SendBatch::default();
    for (bytes, way) in datagrams {
        let written = leaving.add(|out| {
            *out = bytes.to_vec();
            Some(*way)
        });
        assert!(written);
    }
    leaving
}

/// Sends all, and panics if the system refuses any of it.
async fn send(listening: &mut Listening, datagrams: &[(&[u8], Way)]) {
    let refused = |error| panic!("{error}");
    listening.send(&mut leaving(datagrams), refused).await;
}

fn bursts(listening: &Listening) -> usize {
    listening.burst_max()
}

#[tokio::test]
async fn listener_answer_leaves_from_address_that_was_asked() {
    let (mut listening, port) = listener(Ipv4Addr::UNSPECIFIED.into());
    for asked in [IpAddr::from([127, 0, 0, 1]), SECOND] {
        let client = other([127, 0, 0, 1].into()).await;
        client.send_to(b"question", (asked, port)).await.unwrap();
        let came = receive(&listening, 1).await;
        assert_eq!(came, [(b"question".to_vec(), Some(asked))]);
        let way = (client.local_addr().unwrap(), Some(asked));
        send(&mut listening, &[(b"answer", way)]).await;
        let mut buffer = [0; 100];
        let (len, from) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!((len, from), (6, (asked, port).into()));
    }
}

/// Whoever listens at one address has no other to answer from.
#[tokio::test]
async fn listener_at_one_address_reports_no_destination() {
    let (listening, port) = listener(SECOND);
    let client = other([127, 0, 0, 1].into()).await;
    client.send_to(b"question", (SECOND, port)).await.unwrap();
    assert_eq!(receive(&listening, 1).await, [(b"question".to_vec(), None)]);
}

/// Many datagrams that leave in one call arrive as many, and so do empty ones and those that are
/// too long.
#[tokio::test]
async fn listener_burst_arrives_as_separate_datagrams() {
    let (mut sender, _) = listener([127, 0, 0, 1].into());
    let (listening, port) = listener(Ipv4Addr::UNSPECIFIED.into());
    let way = (SocketAddr::from(([127, 0, 0, 1], port)), None);
    let lengths = [1200, 1200, 1200, 700, 9000, 9001, 0, 1, 1, 1, 1];
    let datagrams: Vec<Vec<u8>> = (1..).zip(lengths).map(|(n, len)| vec![n; len]).collect();
    let all: Vec<(&[u8], Way)> = datagrams.iter().map(|one| (&one[..], way)).collect();
    send(&mut sender, &all).await;
    let fits = |one: &&Vec<u8>| (1..=9000).contains(&one.len());
    let wanted: Vec<&Vec<u8>> = datagrams.iter().filter(fits).collect();
    let came = receive(&listening, wanted.len()).await;
    let came: Vec<&Vec<u8>> = came.iter().map(|(bytes, _)| bytes).collect();
    assert_eq!(came, wanted);
}

/// As many as fit one buffer, and more than fit all of them: none is cut off.
#[tokio::test]
async fn listener_many_datagrams_at_once_are_not_truncated() {
    let (mut sender, _) = listener([127, 0, 0, 1].into());
    let (listening, port) = listener(Ipv4Addr::UNSPECIFIED.into());
    let way = (SocketAddr::from(([127, 0, 0, 1], port)), None);
    let datagram = [7; 1200];
    for _ in 0..2 {
        send(&mut sender, &[(&datagram[..], way); 32]).await;
    }
    let came = receive(&listening, 64).await;
    assert_eq!(came.len(), 64);
    assert!(came.iter().all(|(bytes, _)| bytes == &datagram));
}

/// A datagram may come to everybody's address, or its address be gone: then the kernel chooses
/// another, and bursts go on.
#[tokio::test]
async fn listener_unusable_source_address_does_not_stop_sending() {
    let gone = ["127.255.255.255", "203.0.113.9", "2001:db8::9"];
    for gone in gone.map(|gone| gone.parse::<IpAddr>().unwrap()) {
        let (any, client): (IpAddr, IpAddr) = if gone.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into())
        } else {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into())
        };
        // Not every machine has IPv6.
        let Ok(socket) = UdpSocket::bind((client, 0)).await else {
            continue;
        };
        let (mut listening, _) = listener(any);
        let before = bursts(&listening);
        let way = (socket.local_addr().unwrap(), Some(gone));
        send(&mut listening, &[(&b"answer"[..], way); 3]).await;
        for _ in 0..3 {
            let mut buffer = [0; 100];
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!((len, from.ip()), (6, client));
        }
        assert_eq!(bursts(&listening), before);
    }
}

/// What is refused for another reason does not leave from another address, and bursts are given up
/// for what bursts can be refused for.
#[cfg(target_os = "linux")]
#[test]
fn listener_send_errors_of_source_and_burst_are_distinguished() {
    use rustix::io::Errno;

    for (errno, is_sources, is_bursts) in [
        (Errno::INVAL, true, true),
        (Errno::ADDRNOTAVAIL, true, false),
        (Errno::IO, false, true),
        (Errno::NOBUFS, false, false),
        (Errno::PERM, false, false),
        (Errno::NETUNREACH, true, false),
        (Errno::HOSTUNREACH, false, false),
        (Errno::MSGSIZE, false, false),
        (Errno::AGAIN, false, false),
    ] {
        let error = io::Error::from(errno);
        assert_eq!(is_sources_fault(&error), is_sources, "{error}");
        assert_eq!(is_bursts_fault(&error), is_bursts, "{error}");
    }
}

#[test]
fn listener_multicast_and_broadcast_sources_are_not_used() {
    for odd in ["224.0.0.1", "255.255.255.255", "0.0.0.0", "ff02::1", "::"] {
        assert!(!is_answerable(odd.parse().unwrap()), "{odd}");
    }
    for own in ["127.0.0.2", "192.0.2.1", "::1", "fe80::1", "2001:db8::1"] {
        assert!(is_answerable(own.parse().unwrap()), "{own}");
    }
}

/// LINK-15: the kernel neither fragments what leaves nor believes what routers say of the path.
#[cfg(all(target_os = "linux", feature = "client"))]
#[tokio::test]
async fn mtu_sockets_forbid_ip_fragmentation() {
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu_discover, ipv6_mtu_discover,
    };

    let (Listening::Real(v4), port) = listener(Ipv4Addr::UNSPECIFIED.into()) else {
        panic!()
    };
    assert_eq!(
        ip_mtu_discover(&v4.socket).unwrap(),
        Ipv4PathMtuDiscovery::PROBE
    );
    let client = crate::host::connected_socket::connect(([127, 0, 0, 1], port).into());
    let client = client.await.unwrap();
    assert_eq!(
        ip_mtu_discover(&client).unwrap(),
        Ipv4PathMtuDiscovery::PROBE
    );
    // Not every machine has IPv6.
    let Ok(v6) = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) else {
        return;
    };
    let port = v6.local_addr().unwrap().port();
    let v6 = Bound::new(v6).unwrap().socket;
    assert_eq!(ipv6_mtu_discover(&v6).unwrap(), Ipv6PathMtuDiscovery::PROBE);
    let client = crate::host::connected_socket::connect((Ipv6Addr::LOCALHOST, port).into());
    let client = client.await.unwrap();
    assert_eq!(
        ipv6_mtu_discover(&client).unwrap(),
        Ipv6PathMtuDiscovery::PROBE
    );
}

/// A socket without room holds its thread up once for all that leaves together, and not for ever.
#[tokio::test(start_paused = true)]
async fn listener_blocked_socket_is_given_up_after_bounded_wait() {
    let socket = other(Ipv4Addr::LOCALHOST.into()).await;
    socket.writable().await.unwrap();
    let before = Instant::now();
    let (mut until, mut tries) = (None, 0);
    for _ in 0..3 {
        let blocked = when_writable(&socket, &mut until, || {
            tries += 1;
            Err(io::ErrorKind::WouldBlock.into())
        });
        assert!(is_blocked(&blocked.await.unwrap_err()));
    }
    assert!(tries > 0);
    assert_eq!(until, Some(before + BLOCKED_MAX));
    assert!(before.elapsed() < 2 * BLOCKED_MAX);
}
