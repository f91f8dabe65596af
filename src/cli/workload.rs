//! The command mix of a load: the kinds of commands and the share of each.

use std::{fmt, str::FromStr};

use merpati::wire::{
    Body, Command, Cursors, GroupName, Operation, OperationNumber, Options, Request, SessionRef,
    Username, command,
};

/// A kind of command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Send,
    SendGroup,
    Inbox,
    Unread,
    WhoAmI,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Send,
        Self::SendGroup,
        Self::Inbox,
        Self::Unread,
        Self::WhoAmI,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::SendGroup => "sendgroup",
            Self::Inbox => "inbox",
            Self::Unread => "unread",
            Self::WhoAmI => "whoami",
        }
    }

    /// True if the command changes something and so has an operation number.
    pub const fn is_numbered(self) -> bool {
        matches!(self, Self::Send | Self::SendGroup)
    }

    /// Returns the command. A message goes to `to`, or to `group`.
    pub fn command(
        self,
        operation: OperationNumber,
        to: Username,
        group: GroupName,
        message: &[u8],
    ) -> Request<'_> {
        let session = SessionRef::Bound;
        let operation = Operation {
            number: operation,
            ..Operation::UNNUMBERED
        };
        let command = match self {
            Self::Send => Command::Send(command::Send {
                operation,
                session,
                to,
                message: Body(message),
            }),
            Self::SendGroup => Command::SendGroup(command::SendGroup {
                operation,
                session,
                group,
                message: Body(message),
            }),
            Self::Inbox => Command::Inbox(command::Inbox { session }),
            Self::Unread => Command::Unread(command::Unread {
                session,
                cursors: Cursors::default(),
            }),
            Self::WhoAmI => Command::WhoAmI(command::WhoAmI { session }),
        };
        let options = match self {
            // Nothing is confirmed, so each command reads the same page.
            Self::Inbox => Options {
                after: Some(0),
                limit: Some(10),
                ..Options::NONE
            },
            Self::Send | Self::SendGroup | Self::Unread | Self::WhoAmI => Options::NONE,
        };
        Request { options, command }
    }
}

/// A command mix: the number of commands of each kind in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix([u16; Kind::ALL.len()]);

impl Mix {
    /// Returns the kind of command number `n`.
    pub fn kind(&self, n: u64) -> Kind {
        let whole: u64 = self.0.iter().map(|share| u64::from(*share)).sum();
        let mut at = n % whole.max(1);
        for (kind, share) in Kind::ALL.into_iter().zip(self.0) {
            match at.checked_sub(u64::from(share)) {
                Some(rest) => at = rest,
                None => return kind,
            }
        }
        Kind::Send
    }

    /// True if the mix has messages to a group.
    pub fn needs_group(&self) -> bool {
        Kind::ALL
            .into_iter()
            .zip(self.0)
            .any(|(kind, share)| kind == Kind::SendGroup && share > 0)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = Kind::ALL
            .into_iter()
            .zip(self.0)
            .filter(|(_, share)| *share > 0);
        for (at, (kind, share)) in some.enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{}={share}", kind.name())?;
        }
        Ok(())
    }
}

/// The error for a text that is not a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write send, sendgroup, inbox, unread or whoami, each with its share from 1 to 1000, as in send=8,unread=1"
)]
pub struct InvalidMix;

impl FromStr for Mix {
    type Err = InvalidMix;

    fn from_str(text: &str) -> Result<Self, InvalidMix> {
        let mut shares = [0; Kind::ALL.len()];
        for one in text.split(',') {
            let (name, share) = one.split_once('=').unwrap_or((one, "1"));
            let mut places = Kind::ALL.into_iter().zip(&mut shares);
            let (_, place) = places
                .find(|(kind, _)| kind.name() == name)
                .ok_or(InvalidMix)?;
            *place = match share.parse() {
                Ok(share @ 1..=1000) if *place == 0 => share,
                _ => return Err(InvalidMix),
            };
        }
        Ok(Self(shares))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_mix_is_parsed_as_displayed_and_keeps_its_shares() {
        let mix: Mix = "unread,send=8".parse().unwrap();
        assert_eq!(mix.to_string(), "send=8,unread=1");
        assert_eq!(mix.to_string().parse(), Ok(mix));
        let sends = (0..90).filter(|n| mix.kind(*n) == Kind::Send).count();
        assert_eq!(sends, 80);
        for wrong in [
            "",
            "send=0",
            "send=1001",
            "fetch",
            "send,send=2",
            "send=x",
            "send,",
        ] {
            assert_eq!(wrong.parse::<Mix>(), Err(InvalidMix), "{wrong}");
        }
    }
}
