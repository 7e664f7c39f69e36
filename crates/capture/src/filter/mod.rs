//! Capture filters in libpcap's language, for packets that begin with their IP header.
//!
//! [`Filter::parse`] reads what `pcap-filter(7)` describes for link type RAW (101), and
//! [`Filter::matches`] gives what libpcap's program would: the tests ask tcpdump about the same
//! packets. Names of hosts are not looked up: a filter must not make the appliance ask a name
//! server. What needs a link layer (`ether`, `vlan`, `arp`) is refused rather than never true.
//!
//! Beside that language there are four words that it does not know: `endpoint vpce-...`,
//! `instance i-...`, `tag KEY=VALUE` and `sni NAME`, the latter two with `*` for any characters. An
//! instance or a tag is that of either end; a server name is known once the ClientHello is there, so
//! the answer for a packet may be [`Verdict::Later`].
//!
//! A filter is a small tree that is walked for each packet. Its text, its depth and its number of
//! parts are bounded, so neither reading it nor using it can take the machine.

mod lexer;
mod packet;
mod parser;
mod pattern;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use wire::gwlb::VpcEndpointId;

use crate::names::{Names, Question};
use packet::Inner;

pub use pattern::Pattern;

/// Longest text of a filter, in bytes.
pub const MAX_TEXT: usize = 4096;
/// Deepest nesting of a filter.
pub(crate) const MAX_DEPTH: usize = 48;
/// Most parts of a filter.
pub(crate) const MAX_PARTS: usize = 1024;

/// A filter that is ready to look at packets.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// None lets everything through.
    test: Option<Test>,
}

/// The answer to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is let through.
    Yes,
    /// It is not.
    No,
    /// The server name decides, and is not known yet.
    Later,
}

impl From<bool> for Verdict {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// What is known around a packet.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The VPC endpoint that it belongs to.
    pub endpoint: VpcEndpointId,
    /// Who knows hosts, if anybody.
    pub names: Option<&'a dyn Names>,
    /// The server name of its connection; the outer `None` if it may still come.
    pub server_name: Option<Option<&'a str>>,
}

impl Default for Around<'_> {
    fn default() -> Self {
        Self {
            endpoint: VpcEndpointId(0),
            names: None,
            server_name: None,
        }
    }
}

/// What is wrong with a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FilterError {
    /// Byte of the text at which it goes wrong.
    pub position: usize,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.position + 1, self.message)
    }
}

impl Filter {
    /// Reads a filter; the empty text lets everything through.
    ///
    /// # Errors
    /// When the text is not in the language, is too long or nested too deeply, or asks for what a
    /// packet without a link layer does not have.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parser::parse(text).map(|test| Self { test })
    }

    /// Whether a packet, from its IP header on, is let through. Nothing is known around it: no
    /// endpoint, no host, no server name.
    #[must_use]
    pub fn matches(&self, packet: &[u8]) -> bool {
        let around = Around {
            server_name: Some(None),
            ..Around::default()
        };
        self.judge(packet, &around) == Verdict::Yes
    }

    /// Whether a packet, from its IP header on, is let through, with what is known around it.
    #[must_use]
    pub fn judge(&self, packet: &[u8], around: &Around<'_>) -> Verdict {
        let Some(test) = &self.test else {
            return Verdict::Yes;
        };
        // A load from beyond the end of the packet ends libpcap's program with "no".
        test.holds(&Inner::new(packet), around)
            .unwrap_or(Verdict::No)
    }

    /// Whether it asks for the server name of connections.
    #[must_use]
    pub fn asks_server_name(&self) -> bool {
        self.test.as_ref().is_some_and(Test::asks_server_name)
    }

    /// Whether it lets everything through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.test.is_none()
    }
}

/// Which addresses or ports of a packet are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Direction {
    Source,
    Destination,
    #[default]
    Either,
    Both,
}

impl Direction {
    fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Self::Source => source,
            Self::Destination => destination,
            Self::Either => source || destination,
            Self::Both => source && destination,
        }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

#[derive(Clone, Debug)]
pub(crate) enum Test {
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Version(Version),
    Protocol {
        version: Option<Version>,
        number: u8,
    },
    Address {
        direction: Direction,
        address: IpAddr,
        prefix: u8,
    },
    Port {
        direction: Direction,
        /// TCP, UDP and SCTP where none is named.
        protocol: Option<u8>,
        version: Option<Version>,
        low: u16,
        high: u16,
    },
    Multicast(Version),
    Endpoint(VpcEndpointId),
    /// Of either end.
    Instance(String),
    /// Of either end.
    Tag {
        key: String,
        value: Pattern,
    },
    ServerName(Pattern),
    Relation(Arithmetic, Comparison, Arithmetic),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

/// Where a load begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// At the IPv4 header.
    Ipv4,
    /// At the IPv6 header.
    Ipv6,
    /// After the header of an IPv4 packet of that protocol that is no later fragment.
    OverIpv4(u8),
    /// After the fixed header of an IPv6 packet of that protocol.
    OverIpv6(u8),
}

/// Numbers as libpcap's machine has them: 32 bits, wrapping.
#[derive(Clone, Debug)]
pub(crate) enum Arithmetic {
    Number(u32),
    Length,
    Load {
        base: Base,
        offset: Box<Self>,
        size: u8,
    },
    Negative(Box<Self>),
    Binary(Operator, Box<Self>, Box<Self>),
}

impl Test {
    /// None when the packet is too short for what is asked of it.
    fn holds(&self, packet: &Inner<'_>, around: &Around<'_>) -> Option<Verdict> {
        let yes = match self {
            Self::Not(test) => {
                return Some(match test.holds(packet, around)? {
                    Verdict::Yes => Verdict::No,
                    Verdict::No => Verdict::Yes,
                    Verdict::Later => Verdict::Later,
                });
            }
            Self::And(left, right) => {
                let left = left.holds(packet, around)?;
                if left == Verdict::No {
                    return Some(left);
                }
                let right = right.holds(packet, around)?;
                return Some(if right == Verdict::Yes { left } else { right });
            }
            Self::Or(left, right) => {
                let left = left.holds(packet, around)?;
                if left == Verdict::Yes {
                    return Some(left);
                }
                let right = right.holds(packet, around)?;
                return Some(if right == Verdict::No { left } else { right });
            }
            Self::ServerName(pattern) => match around.server_name {
                Some(name) => name.is_some_and(|name| pattern.matches(name)),
                None => return Some(Verdict::Later),
            },
            Self::Endpoint(endpoint) => *endpoint == around.endpoint,
            Self::Instance(id) => packet.has_host(around, Question::Instance(id)),
            Self::Tag { key, value } => packet.has_host(around, Question::Tag(key, value)),
            Self::Version(version) => packet.version() == Some(*version),
            Self::Protocol { version, number } => packet.is_protocol(*version, *number)?,
            Self::Address {
                direction,
                address,
                prefix,
            } => packet.has_address(*direction, *address, *prefix)?,
            Self::Port {
                direction,
                protocol,
                version,
                low,
                high,
            } => packet.has_port(*direction, *protocol, *version, *low..=*high)?,
            Self::Multicast(version) => packet.is_multicast(*version)?,
            Self::Relation(left, comparison, right) => {
                // A load asks first whether the packet has what it loads from.
                if !left.applies(packet)? || !right.applies(packet)? {
                    return Some(Verdict::No);
                }
                let (left, right) = (left.value(packet)?, right.value(packet)?);
                match comparison {
                    Comparison::Equal => left == right,
                    Comparison::NotEqual => left != right,
                    Comparison::Greater => left > right,
                    Comparison::GreaterOrEqual => left >= right,
                    Comparison::Less => left < right,
                    Comparison::LessOrEqual => left <= right,
                }
            }
        };
        Some(yes.into())
    }

    fn asks_server_name(&self) -> bool {
        match self {
            Self::Not(test) => test.asks_server_name(),
            Self::And(left, right) | Self::Or(left, right) => {
                left.asks_server_name() || right.asks_server_name()
            }
            Self::ServerName(_) => true,
            _ => false,
        }
    }
}

impl Arithmetic {
    fn applies(&self, packet: &Inner<'_>) -> Option<bool> {
        Some(match self {
            Self::Number(_) | Self::Length => true,
            Self::Load { base, offset, .. } => packet.has(*base)? && offset.applies(packet)?,
            Self::Negative(value) => value.applies(packet)?,
            Self::Binary(_, left, right) => left.applies(packet)? && right.applies(packet)?,
        })
    }

    fn value(&self, packet: &Inner<'_>) -> Option<u32> {
        Some(match self {
            Self::Number(number) => *number,
            Self::Length => packet.len(),
            Self::Load { base, offset, size } => {
                packet.load(*base, offset.value(packet)?, *size)?
            }
            Self::Negative(value) => value.value(packet)?.wrapping_neg(),
            Self::Binary(operator, left, right) => {
                operator.apply(left.value(packet)?, right.value(packet)?)?
            }
        })
    }
}

impl Operator {
    /// None for a division by zero, which ends the program with "no".
    pub(crate) fn apply(self, left: u32, right: u32) -> Option<u32> {
        Some(match self {
            Self::Add => left.wrapping_add(right),
            Self::Subtract => left.wrapping_sub(right),
            Self::Multiply => left.wrapping_mul(right),
            Self::Divide => left.checked_div(right)?,
            Self::Remainder => left.checked_rem(right)?,
            Self::And => left & right,
            Self::Or => left | right,
            Self::Xor => left ^ right,
            Self::ShiftLeft => left.checked_shl(right).unwrap_or(0),
            Self::ShiftRight => left.checked_shr(right).unwrap_or(0),
        })
    }
}
