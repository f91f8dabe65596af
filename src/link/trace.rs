//! Link tracing for diagnosis: one `tracing` event for each step, with the feature `tracing`, under
//! the target [`TARGET`] and at the level TRACE. Events have their qlog names
//! (draft-ietf-quic-qlog-quic-events) where qlog defines one. No event contains the contents of
//! messages.

use core::{fmt, net::SocketAddr, time::Duration};

#[cfg(feature = "tracing")]
use crate::wire::Packet;
use crate::wire::{AckFrame, Frame, Frames, MessageId, PacketNumber};

/// The target of all these events.
pub const TARGET: &str = "merpati::trace";

/// Identifies a link in its events.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TraceId {
    #[cfg(feature = "tracing")]
    link: u32,
}

impl TraceId {
    /// Creates the id of the link with that number at its endpoint.
    #[cfg_attr(
        not(feature = "tracing"),
        expect(unused_variables, reason = "nobody looks")
    )]
    pub(crate) const fn new(link: u32) -> Self {
        Self {
            #[cfg(feature = "tracing")]
            link,
        }
    }
}

/// An event of a link. Lengths are in bytes, and those of packets are UDP payload.
#[derive(Clone, Copy)]
pub(crate) enum Trace<'a> {
    /// The link begins.
    Started {
        /// This side has opened it; else the other side has.
        is_ours: bool,
        /// The other side's address, if known.
        remote: Option<&'a dyn fmt::Display>,
    },
    /// The payload of its handshake's first message is assembled.
    Early {
        /// The frames of that payload.
        frames: FrameList<'a>,
    },
    /// A handshake packet was sent or received.
    Handshake {
        /// It was sent; else it was received.
        is_sent: bool,
        /// `init`, `accept`, `retry`, `resume`, `resumed` or `reset`.
        packet: &'static str,
        /// Its length.
        bytes: usize,
        /// Its frames, unless [`Trace::Early`] has reported them.
        frames: Option<FrameList<'a>>,
        /// The wait before it is sent again, if nothing arrives.
        again: Option<Duration>,
    },
    /// A packet was sent.
    Sent {
        /// Its number.
        number: PacketNumber,
        /// Its length.
        bytes: usize,
        /// Its frames.
        frames: Option<FrameList<'a>>,
    },
    /// An authentic and new packet was received.
    Received {
        /// Its number.
        number: PacketNumber,
        /// Its length.
        bytes: usize,
        /// Its frames.
        frames: FrameList<'a>,
    },
    /// A packet was received and had no effect.
    Dropped {
        /// Its length.
        bytes: usize,
        /// The reason.
        reason: &'static str,
    },
    /// A packet of this side counts as lost (LINK-6).
    Lost {
        /// Its number.
        number: PacketNumber,
        /// Its length.
        bytes: usize,
    },
    /// A round-trip time was sampled; the current path estimates.
    Metrics(Metrics),
    /// A timer has expired.
    TimerExpired {
        /// Its name.
        timer: &'static str,
    },
    /// The other side has moved to another address, or its address has become known.
    Moved {
        /// The new address.
        remote: &'a dyn fmt::Display,
    },
    /// This side has reopened the link: packet numbers restart.
    Restarted,
    /// The link has ended.
    Ended {
        /// The reason sent or received; `None` if there was none.
        reason: Option<&'static str>,
    },
}

/// The path estimates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metrics {
    /// The latest sample.
    pub latest: Duration,
    /// The smoothed round-trip time.
    pub smoothed: Duration,
    /// The variation of the round-trip time.
    pub variation: Duration,
    /// The retransmission timeout.
    pub timeout: Duration,
    /// The recent loss rate of the other side's packets, in 1/1024.
    pub loss: u32,
    /// The largest datagram that the path is assumed to carry.
    pub datagram: usize,
    /// Small packets are currently sent twice.
    pub is_redundant: bool,
}

/// The frames of a packet, each as its kind, number and length, as in `ack 7, request 3 (38)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameList<'a>(pub &'a [u8]);

impl fmt::Display for FrameList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut padding = 0;
        let mut between = "";
        for frame in Frames::of(self.0) {
            let Ok(frame) = frame else {
                return write!(f, "{between}malformed");
            };
            if frame == Frame::Padding {
                padding += 1;
                continue;
            }
            f.write_str(between)?;
            between = ", ";
            write_frame(f, &frame)?;
        }
        if padding > 0 {
            write!(f, "{between}padding ({padding})")?;
        }
        Ok(())
    }
}

fn write_frame(f: &mut fmt::Formatter<'_>, frame: &Frame<'_>) -> fmt::Result {
    match frame {
        Frame::Padding => f.write_str("padding"),
        Frame::Ping => f.write_str("ping"),
        Frame::Ack(ack) => write_ack(f, ack),
        Frame::Request { number, command } => write!(f, "request {} ({})", number.0, command.len()),
        Frame::Reply { number, answer } => write!(f, "reply {} ({})", number.0, answer.len()),
        Frame::Event { number, event } => write!(f, "event {} ({})", number.0, event.len()),
        Frame::Fragment {
            message,
            total,
            offset,
            bytes,
        } => {
            let (kind, number) = match message {
                MessageId::Request(id) => ("request", id.0),
                MessageId::Reply(id) => ("reply", id.0),
                MessageId::Event(id) => ("event", id.0),
            };
            let end = offset + bytes.len() as u64;
            write!(f, "{kind} {number} from {offset} to {end} of {total}")
        }
        Frame::PathChallenge(_) => f.write_str("path_challenge"),
        Frame::PathResponse(_) => f.write_str("path_response"),
        Frame::Close(reason) => write!(f, "close {}", reason.name()),
        Frame::Open(_) => f.write_str("open"),
        Frame::Welcome(_) => f.write_str("welcome"),
        Frame::Update(_) => f.write_str("update"),
    }
}

/// Writes the acknowledged numbers as ranges in descending order: `ack 9 5-7 (25 ms)`.
fn write_ack(f: &mut fmt::Formatter<'_>, ack: &AckFrame) -> fmt::Result {
    f.write_str("ack")?;
    let covers = |number| ack.covers(PacketNumber(number));
    let mut next = Some(ack.largest.0);
    while let Some(last) = next.filter(|number| ack.largest.0 - number <= 64) {
        let mut first = last;
        while covers(last) && first > 0 && covers(first - 1) {
            first -= 1;
        }
        if first < last {
            write!(f, " {first}-{last}")?;
        } else if covers(last) {
            write!(f, " {last}")?;
        }
        next = first.checked_sub(1);
    }
    if ack.delay_ms > 0 {
        write!(f, " ({} ms)", ack.delay_ms)?;
    }
    Ok(())
}

/// Reports a link's event; `what` is only called if a subscriber listens.
#[cfg(not(feature = "tracing"))]
#[inline(always)]
pub(crate) fn trace<'a>(_: TraceId, _: impl FnOnce() -> Trace<'a>) {}

/// Reports a link's event; `what` is only called if a subscriber listens.
#[cfg(feature = "tracing")]
#[inline]
pub(crate) fn trace<'a>(link: TraceId, what: impl FnOnce() -> Trace<'a>) {
    if tracing::enabled!(target: TARGET, tracing::Level::TRACE) {
        tell(link, &what());
    }
}

/// Reports what the first message of a link's handshake carries.
pub(super) fn trace_early(link: TraceId, payload: &[u8]) {
    trace(link, || Trace::Early {
        frames: FrameList(payload),
    });
}

/// Reports a received datagram that has no effect and belongs to no known link.
#[cfg_attr(
    not(feature = "tracing"),
    expect(unused_variables, reason = "nobody listens")
)]
pub(crate) fn trace_stray(remote: &SocketAddr, bytes: usize, reason: &'static str) {
    #[cfg(feature = "tracing")]
    {
        let remote = known(remote).map(tracing::field::display);
        tracing::event!(target: TARGET, tracing::Level::TRACE, remote, bytes, reason, "packet_dropped");
    }
}

/// Reports a sent datagram that belongs to no link.
#[cfg_attr(
    not(feature = "tracing"),
    expect(unused_variables, reason = "nobody listens")
)]
pub(crate) fn trace_answer(remote: &SocketAddr, datagram: &[u8]) {
    #[cfg(feature = "tracing")]
    if tracing::enabled!(target: TARGET, tracing::Level::TRACE) {
        let packet = packet_name(datagram);
        let bytes = datagram.len();
        let remote = known(remote).map(tracing::field::display);
        tracing::event!(target: TARGET, tracing::Level::TRACE, remote, packet, bytes, "datagram_sent");
    }
}

/// Returns an address if it is specified: a client's endpoint does not know its own (`path_updated`
/// reports it).
#[cfg(feature = "tracing")]
fn known(remote: &SocketAddr) -> Option<&SocketAddr> {
    Some(remote).filter(|remote| !remote.ip().is_unspecified())
}

#[cfg(feature = "tracing")]
fn packet_name(datagram: &[u8]) -> &'static str {
    match Packet::parse(datagram) {
        Ok(Packet::Hello(_)) => "hello",
        Ok(Packet::HelloReply(_)) => "hello_reply",
        Ok(Packet::Init(_)) => "init",
        Ok(Packet::Accept { .. }) => "accept",
        Ok(Packet::Retry { .. }) => "retry",
        Ok(Packet::Reset { .. }) => "reset",
        Ok(Packet::Resume(_)) => "resume",
        Ok(Packet::Resumed { .. }) => "resumed",
        Ok(Packet::Link(_)) => "link",
        Err(_) => "none",
    }
}

#[cfg(feature = "tracing")]
fn tell(TraceId { link }: TraceId, what: &Trace<'_>) {
    macro_rules! tell {
        ($($fields:tt)*) => {
            tracing::event!(target: TARGET, tracing::Level::TRACE, link, $($fields)*)
        };
    }
    match *what {
        Trace::Started { is_ours, remote } => {
            let role = if is_ours { "initiator" } else { "responder" };
            let remote = remote.map(tracing::field::display);
            tell!(role, remote, "connection_started");
        }
        Trace::Handshake {
            is_sent,
            packet,
            bytes,
            frames,
            again,
        } => {
            let frames = frames.map(tracing::field::display);
            if is_sent {
                let again_ms = again.map(millis);
                tell!(packet, bytes, frames, again_ms, "handshake_sent");
            } else {
                tell!(packet, bytes, frames, "handshake_received");
            }
        }
        Trace::Early { frames } => tell!(%frames, "early_data"),
        Trace::Sent {
            number,
            bytes,
            frames,
        } => {
            let frames = frames.map(tracing::field::display);
            tell!(number = number.0, bytes, frames, "packet_sent");
        }
        Trace::Received {
            number,
            bytes,
            frames,
        } => tell!(number = number.0, bytes, %frames, "packet_received"),
        Trace::Dropped { bytes, reason } => tell!(bytes, reason, "packet_dropped"),
        Trace::Lost { number, bytes } => tell!(number = number.0, bytes, "packet_lost"),
        Trace::Metrics(metrics) => tell!(
            latest_rtt_ms = millis(metrics.latest),
            smoothed_rtt_ms = millis(metrics.smoothed),
            rtt_variance_ms = millis(metrics.variation),
            timeout_ms = millis(metrics.timeout),
            loss = f64::from(metrics.loss) / 1024.0,
            datagram = metrics.datagram,
            redundant = metrics.is_redundant,
            "metrics_updated"
        ),
        Trace::TimerExpired { timer } => tell!(timer, "timer_expired"),
        Trace::Moved { remote } => tell!(%remote, "path_updated"),
        Trace::Restarted => tell!("restarted"),
        Trace::Ended { reason } => tell!(reason, "connection_closed"),
    }
}

#[cfg(feature = "tracing")]
fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec::Vec};

    use super::*;
    use crate::wire::RequestId;

    #[test]
    fn trace_names_frames_without_their_content() {
        let secret = b"the password";
        let mut payload = Vec::new();
        let ack = AckFrame {
            largest: PacketNumber(7),
            delay_ms: 25,
            bitmap: 0b11,
        };
        Frame::Ack(ack).emit(false, &mut payload);
        Frame::Ping.emit(false, &mut payload);
        Frame::PathChallenge(*b"a secret").emit(false, &mut payload);
        Frame::Fragment {
            message: MessageId::Request(RequestId(2)),
            total: 100,
            offset: 10,
            bytes: secret,
        }
        .emit(false, &mut payload);
        payload.extend([0, 0]);
        Frame::Request {
            number: RequestId(3),
            command: secret,
        }
        .emit(true, &mut payload);
        assert_eq!(
            FrameList(&payload).to_string(),
            "ack 5-7 (25 ms), ping, path_challenge, request 2 from 10 to 22 of 100, \
             request 3 (12), padding (2)"
        );
        let mut payload = Vec::new();
        let ack = AckFrame {
            largest: PacketNumber(69),
            delay_ms: 0,
            bitmap: 1 << 63 | 0b1101,
        };
        Frame::Ack(ack).emit(true, &mut payload);
        assert_eq!(FrameList(&payload).to_string(), "ack 68-69 65-66 5");
        assert_eq!(FrameList(&[0xff]).to_string(), "malformed");
        assert_eq!(FrameList(&[]).to_string(), "");
    }
}
