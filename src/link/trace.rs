//! What happens on a link, step by step, for whoever looks for the cause of something: one event of `tracing` each, with
//! the feature `tracing`, under the target [`TARGET`] and at the level TRACE. They have the names that qlog gives them
//! (draft-ietf-quic-qlog-quic-events) where it has one. What a message says is in none of them.

use core::{fmt, net::SocketAddr, time::Duration};

#[cfg(feature = "tracing")]
use crate::wire::Packet;
use crate::wire::{AckFrame, Frame, Frames, MessageId, PacketNumber};

/// The target of all these events.
pub const TARGET: &str = "merpati::trace";

/// Names a link in its events.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TraceId {
    #[cfg(feature = "tracing")]
    link: u32,
}

impl TraceId {
    /// The link of that number at its endpoint.
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

/// Something that has happened on a link. Lengths are in bytes, and those of packets are UDP payload.
#[derive(Clone, Copy)]
pub(crate) enum Trace<'a> {
    /// It begins.
    Started {
        /// This side has opened it; else the other side has.
        is_ours: bool,
        /// Where the other side is, where that is known.
        remote: Option<&'a dyn fmt::Display>,
    },
    /// What travels in the first message of its handshake is put together.
    Early {
        /// What that is.
        frames: FrameList<'a>,
    },
    /// One of a handshake's packets has left or come.
    Handshake {
        /// It has left; else it has come.
        is_sent: bool,
        /// `init`, `accept`, `retry`, `resume`, `resumed` or `reset`.
        packet: &'static str,
        /// Its length.
        bytes: usize,
        /// What is in it, where that is not what [`Trace::Early`] has told.
        frames: Option<FrameList<'a>>,
        /// When it leaves again, should nothing come.
        again: Option<Duration>,
    },
    /// A packet has left.
    Sent {
        /// Its number.
        number: PacketNumber,
        /// Its length.
        bytes: usize,
        /// What is in it.
        frames: FrameList<'a>,
    },
    /// A packet has come that is genuine and new.
    ReceivedPackets {
        /// Its number.
        number: PacketNumber,
        /// Its length.
        bytes: usize,
        /// What is in it.
        frames: FrameList<'a>,
    },
    /// A packet has come and had no effect.
    Dropped {
        /// Its length.
        bytes: usize,
        /// Why.
        reason: &'static str,
    },
    /// A packet of this side counts as lost (LINK-6).
    Lost {
        /// Its number.
        number: PacketNumber,
        /// Its length.
        bytes: usize,
    },
    /// A round trip was measured; what is known of the path by now.
    Metrics(Metrics),
    /// A timer was due.
    TimerExpired {
        /// Its name.
        timer: &'static str,
    },
    /// The other side is at another address than before, or that is known now.
    Moved {
        /// It is there.
        remote: &'a dyn fmt::Display,
    },
    /// It is opened anew by this side: packet numbers begin again.
    Restarted,
    /// It has ended.
    Ended {
        /// What the other side was told, or has told; none where nothing was said.
        reason: Option<&'static str>,
    },
}

/// What is known of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metrics {
    /// What was measured.
    pub latest: Duration,
    /// The round trip, smoothed.
    pub smoothed: Duration,
    /// How far it varies.
    pub variation: Duration,
    /// How long is waited before something leaves again.
    pub timeout: Duration,
    /// Of the other side's packets, the share that did not come lately, in 1/1024.
    pub loss: u32,
    /// The largest datagram that the path is taken to carry.
    pub datagram: usize,
    /// What is small leaves twice at present.
    pub is_redundant: bool,
}

/// The frames of a packet, each as its kind, its number and its length, as in `ack 7, request 3 (38)`.
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
        Frame::Part {
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

/// The numbers that it acknowledges, as ranges from the largest on: `ack 9 5-7 (25 ms)`.
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

/// Tells of a link's event; `what` is asked for it only where somebody listens.
#[cfg(not(feature = "tracing"))]
#[inline(always)]
pub(crate) fn trace<'a>(_: TraceId, _: impl FnOnce() -> Trace<'a>) {}

/// Tells of a link's event; `what` is asked for it only where somebody listens.
#[cfg(feature = "tracing")]
#[inline]
pub(crate) fn trace<'a>(link: TraceId, what: impl FnOnce() -> Trace<'a>) {
    if tracing::enabled!(target: TARGET, tracing::Level::TRACE) {
        tell(link, &what());
    }
}

/// Tells what the first message of a link's handshake carries.
pub(super) fn trace_early(link: TraceId, payload: &[u8]) {
    trace(link, || Trace::Early {
        frames: FrameList(payload),
    });
}

/// Tells that a datagram came that has no effect, and is of no link that is known here.
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

/// Tells that a datagram has left that belongs to no link.
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

/// An address that is one: a client's endpoint knows none (`path_updated` does).
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
        } => tell!(number = number.0, bytes, %frames, "packet_sent"),
        Trace::ReceivedPackets {
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
    fn frames_are_named_and_what_they_say_is_not() {
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
        Frame::Part {
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
