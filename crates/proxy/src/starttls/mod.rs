//! Protocols that begin in clear and change to TLS on the same connection: recognised, followed to the
//! moment of the change, and not a byte further.
//!
//! [`Watch`] is fed every byte of both directions. It says when both ends have agreed on TLS, when they
//! no longer can, and when one of them sent bytes in a place where only an attacker would: behind the
//! request for TLS and before its answer (CVE-2011-0411 and its many relatives), or behind the answer.
//!
//! | | request | answer | source |
//! |---|---|---|---|
//! | SMTP, LMTP | `STARTTLS` | `220` | RFC 3207 §4 |
//! | IMAP | `tag STARTTLS` | `tag OK` | RFC 9051 §6.2.1 |
//! | POP3 | `STLS` | `+OK` | RFC 2595 §4 |
//! | LDAP | ExtendedRequest 1.3.6.1.4.1.1466.20037 | ExtendedResponse, success | RFC 4511 §4.14 |
//! | PostgreSQL | SSLRequest | `S` | PostgreSQL documentation, "SSL Session Encryption" |
//! | MySQL | SSLRequest after a greeting with CLIENT_SSL | none | MySQL documentation, "Protocol::SSLRequest" |

mod frames;
mod lines;
mod relay;

use crate::error::Side;
use frames::{Ldap, MySql, Postgres};
use lines::{Imap, Pop3, Smtp};

pub use relay::{Clear, until_tls};

/// A protocol that can change to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StartTls {
    /// Mail reading.
    Imap,
    /// Directories.
    Ldap,
    /// MySQL and MariaDB.
    MySql,
    /// Mail reading.
    Pop3,
    /// PostgreSQL and what speaks like it.
    Postgres,
    /// Mail delivery; LMTP too.
    Smtp,
}

impl StartTls {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 6] = [
        Self::Imap,
        Self::Ldap,
        Self::MySql,
        Self::Pop3,
        Self::Postgres,
        Self::Smtp,
    ];

    /// The word used in the configuration, in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Ldap => "ldap",
            Self::MySql => "mysql",
            Self::Pop3 => "pop3",
            Self::Postgres => "postgres",
            Self::Smtp => "smtp",
        }
    }

    /// What a word of the configuration means.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }

    /// Whether the server speaks before the client.
    pub fn server_greets(self) -> bool {
        !matches!(self, Self::Ldap | Self::Postgres)
    }
}

/// Some of the protocols.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartTlsSet(u8);

impl StartTlsSet {
    /// Whether this is one of them.
    pub fn contains(self, one: StartTls) -> bool {
        self.0 & (1 << one as u8) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a server may speak first in one of them.
    pub fn has_greeting(self) -> bool {
        self.iter().any(StartTls::server_greets)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = StartTls> {
        StartTls::ALL
            .into_iter()
            .filter(move |one| self.contains(*one))
    }
}

impl FromIterator<StartTls> for StartTlsSet {
    fn from_iter<I: IntoIterator<Item = StartTls>>(all: I) -> Self {
        Self(all.into_iter().fold(0, |set, one| set | 1 << one as u8))
    }
}

/// What a client's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFirst {
    /// None of the protocols in which the client speaks first.
    No,
    /// Too few bytes to tell.
    NeedMore,
    /// This one.
    Is(StartTls),
}

/// Says whether a client's first bytes are one of `allowed`.
pub fn sniff_client(bytes: &[u8], allowed: StartTlsSet) -> ClientFirst {
    let mut answer = ClientFirst::No;
    for (protocol, begins) in [
        (
            StartTls::Postgres,
            frames::is_postgres as fn(&[u8]) -> Option<bool>,
        ),
        (StartTls::Ldap, frames::is_ldap),
    ] {
        if !allowed.contains(protocol) {
            continue;
        }
        match begins(bytes) {
            Some(true) => return ClientFirst::Is(protocol),
            Some(false) => {}
            None => answer = ClientFirst::NeedMore,
        }
    }
    answer
}

/// Says which of the protocols a server's first bytes are. `Err` while there are too few.
fn sniff_server(bytes: &[u8], allowed: StartTlsSet) -> Result<Option<StartTls>, TooFew> {
    let mut unclear = false;
    let text: [(StartTls, &[u8]); 3] = [
        (StartTls::Smtp, b"220"),
        (StartTls::Pop3, b"+OK"),
        (StartTls::Imap, b"* "),
    ];
    for (protocol, begin) in text {
        if !allowed.contains(protocol) {
            continue;
        }
        if bytes.starts_with(begin) {
            return Ok(Some(protocol));
        }
        unclear |= begin.starts_with(bytes);
    }
    if allowed.contains(StartTls::MySql) {
        match bytes {
            // A packet of a few hundred bytes, the first of its exchange, protocol version 10.
            [_, 0..=1, 0, 0, 10, ..] => return Ok(Some(StartTls::MySql)),
            [] | [_] | [_, 0..=1] | [_, 0..=1, 0] | [_, 0..=1, 0, 0] => unclear = true,
            _ => {}
        }
    }
    if unclear { Err(TooFew) } else { Ok(None) }
}

struct TooFew;

/// What a byte did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It belongs to what is said in clear.
    Forward,
    /// The next byte of the client is its ClientHello.
    Tls,
    /// There will be no TLS that can be recognised.
    Clear,
    /// It stands where no byte may be.
    Refuse(Refusal),
}

/// Bytes in a place where only an attacker puts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The client sent more behind its request for TLS without waiting for the answer.
    ClientAhead,
    /// The server sent more behind its agreement to TLS.
    ServerAhead,
}

impl Refusal {
    /// The label used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientAhead => "client_ahead",
            Self::ServerAhead => "server_ahead",
        }
    }
}

/// What is to be done with bytes that were fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Forward all of them and feed what comes next.
    Forward,
    /// Forward so many of them; both ends have agreed on TLS. The rest is the client's ClientHello.
    Tls {
        /// Bytes in clear.
        clear: usize,
    },
    /// Forward them and everything that follows: there is no more to see.
    Clear,
    /// Forward nothing and end the connection.
    Refuse(Refusal),
}

/// Follows one connection to the change to TLS.
#[derive(Debug)]
pub struct Watch {
    allowed: StartTlsSet,
    protocol: Option<StartTls>,
    machine: Machine,
}

#[derive(Debug)]
enum Machine {
    /// What either side said before it was clear what they speak.
    Unknown {
        client: Vec<u8>,
        server: Vec<u8>,
    },
    Imap(Imap),
    Ldap(Ldap),
    MySql(MySql),
    Pop3(Pop3),
    Postgres(Postgres),
    Smtp(Smtp),
    /// Nothing more to see.
    Over,
}

/// Most bytes of a client that speaks before the server's greeting.
const MAX_EARLY: usize = 512;

impl Watch {
    /// A connection on which nothing was said yet.
    pub fn new(allowed: StartTlsSet) -> Self {
        Self {
            allowed,
            protocol: None,
            machine: Machine::Unknown {
                client: Vec::new(),
                server: Vec::new(),
            },
        }
    }

    /// What is spoken, as soon as it is known.
    pub fn protocol(&self) -> Option<StartTls> {
        self.protocol
    }

    /// Takes the next bytes of one side. However they are cut, the sum of the answers is the same.
    pub fn feed(&mut self, from: Side, bytes: &[u8]) -> Verdict {
        for (index, byte) in bytes.iter().enumerate() {
            let clear = index + 1;
            match self.step(from, *byte) {
                Step::Forward => {}
                Step::Clear => {
                    self.machine = Machine::Over;
                    return Verdict::Clear;
                }
                Step::Refuse(refusal) => return Verdict::Refuse(refusal),
                Step::Tls if from == Side::Server && clear < bytes.len() => {
                    return Verdict::Refuse(Refusal::ServerAhead);
                }
                Step::Tls => return Verdict::Tls { clear },
            }
        }
        Verdict::Forward
    }

    fn step(&mut self, from: Side, byte: u8) -> Step {
        match &mut self.machine {
            Machine::Unknown { client, server } => {
                let said = match from {
                    Side::Client => &mut *client,
                    Side::Server => &mut *server,
                };
                said.push(byte);
                if said.len() > MAX_EARLY {
                    return Step::Clear;
                }
                self.recognise()
            }
            Machine::Imap(machine) => machine.step(from, byte),
            Machine::Ldap(machine) => machine.step(from, byte),
            Machine::MySql(machine) => machine.step(from, byte),
            Machine::Pop3(machine) => machine.step(from, byte),
            Machine::Postgres(machine) => machine.step(from, byte),
            Machine::Smtp(machine) => machine.step(from, byte),
            Machine::Over => Step::Clear,
        }
    }

    fn recognise(&mut self) -> Step {
        let Machine::Unknown { client, server } = &self.machine else {
            return Step::Forward;
        };
        let protocol = if server.is_empty() {
            match sniff_client(client, self.allowed) {
                ClientFirst::Is(protocol) => protocol,
                // A client may talk before it was greeted; the greeting decides.
                ClientFirst::NeedMore => return Step::Forward,
                ClientFirst::No if self.allowed.has_greeting() => return Step::Forward,
                ClientFirst::No => return Step::Clear,
            }
        } else {
            match sniff_server(server, self.allowed) {
                Ok(Some(protocol)) => protocol,
                Ok(None) => return Step::Clear,
                Err(TooFew) => return Step::Forward,
            }
        };
        let machine = match protocol {
            StartTls::Imap => Machine::Imap(Imap::default()),
            StartTls::Ldap => Machine::Ldap(Ldap::default()),
            StartTls::MySql => Machine::MySql(MySql::default()),
            StartTls::Pop3 => Machine::Pop3(Pop3::default()),
            StartTls::Postgres => Machine::Postgres(Postgres::default()),
            StartTls::Smtp => Machine::Smtp(Smtp::default()),
        };
        self.protocol = Some(protocol);
        let before = std::mem::replace(&mut self.machine, machine);
        let Machine::Unknown { client, server } = before else {
            return Step::Forward;
        };
        let replay = server.iter().map(|byte| (Side::Server, *byte));
        for (from, byte) in replay.chain(client.iter().map(|byte| (Side::Client, *byte))) {
            match self.step(from, byte) {
                Step::Forward => {}
                // What was said before it was understood is gone already: no longer to be held back.
                Step::Tls => return Step::Clear,
                other => return other,
            }
        }
        Step::Forward
    }
}

#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;
