//! The baseline: datagrams of the same size to an echo server that does nothing else, and back.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::{
    Failure, Plan, cpu,
    load::{Load, histogram},
};

/// The time for which the echo is measured.
const SPAN: Duration = Duration::from_secs(2);
/// An echo that does not arrive within this time counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// The results of the echo.
#[derive(Debug)]
pub struct Echo {
    pub done: u64,
    pub took: Duration,
    pub latency: Histogram<u64>,
    /// The processor time of the echo's thread.
    pub used: Duration,
}

/// Measures an echo with as many datagrams in flight as the load had commands.
pub async fn run(plan: Plan, load: &Load) -> Result<Echo, Failure> {
    let socket = UdpSocket::bind((loopback(load.address), 0))?;
    let address = socket.local_addr()?;
    let question = vec![0x55; mean(load.sent.bytes, load.sent.datagrams)?];
    let answer = vec![0x55; mean(load.received.bytes, load.received.datagrams)?];
    let (told, used) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = thread::Builder::new().name("echo".into()).spawn(move || {
        let served = serve(socket, &answer, stopped);
        // If the measurement has failed, nobody waits for this result.
        let _ = told.send(served.and_then(|()| cpu::of_this_thread()));
    })?;
    let latency = Rc::new(RefCell::new(histogram()?));
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..plan.connections {
        let question = question.clone();
        let latency = Rc::clone(&latency);
        asking.spawn_local(ask(
            address,
            question,
            plan.in_flight,
            begun + SPAN,
            latency,
        ));
    }
    while let Some(asked) = asking.join_next().await {
        asked.map_err(Failure::local)??;
    }
    let took = begun.elapsed();
    drop(stop);
    let used = used.recv().map_err(Failure::local)??;
    // The thread has sent its result, so its end adds nothing.
    let _ = serving.join();
    let latency = latency.borrow().clone();
    Ok(Echo {
        done: latency.len(),
        took,
        latency,
        used,
    })
}

fn mean(bytes: u64, datagrams: u64) -> Result<usize, Failure> {
    let mean = bytes / datagrams.max(1);
    usize::try_from(mean.max(1)).map_err(Failure::local)
}

/// Returns the loopback address of the same family as `like`.
fn loopback(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Runs the echo server: a tokio socket and nothing else.
fn serve(
    socket: UdpSocket,
    answer: &[u8],
    stopped: tokio::sync::oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let mut buffer = vec![0; 65_535];
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                _ = &mut stopped => return Ok(()),
                came = socket.recv_from(&mut buffer) => {
                    let (_, from) = came?;
                    socket.send_to(answer, from).await?;
                }
            }
        }
    })
}

async fn ask(
    echo: SocketAddr,
    question: Vec<u8>,
    in_flight: usize,
    until: Instant,
    latency: Rc<RefCell<Histogram<u64>>>,
) -> Result<(), Failure> {
    let socket = tokio::net::UdpSocket::bind((loopback(echo), 0)).await?;
    socket.connect(echo).await?;
    let mut buffer = vec![0; 65_535];
    // Echoes arrive in the order of sending.
    let mut left = std::collections::VecDeque::new();
    while Instant::now() < until {
        while left.len() < in_flight {
            // As with a command, the time begins before the datagram is sent.
            left.push_back(Instant::now());
            socket.send(&question).await?;
        }
        match tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await {
            Ok(came) => {
                came?;
                if let Some(begun) = left.pop_front() {
                    let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    latency.borrow_mut().saturating_record(took);
                }
            }
            Err(_) => left.clear(),
        }
    }
    Ok(())
}
