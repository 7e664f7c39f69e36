//! From words to a tree. `and` and `or` bind equally and from the left, as in `pcap-filter(7)`.

use std::net::{IpAddr, Ipv4Addr};

use wire::gwlb::VpcEndpointId;

use super::lexer::{NAMING, Placed, Token, tokens};
use super::words::{LINK_LAYER, NUMBERS, SERVICES};
use super::{
    Arithmetic, Base, Comparison, Direction, FilterError, MAX_DEPTH, MAX_PARTS, Operator, Pattern,
    Test, Version,
};

type Result<T> = std::result::Result<T, FilterError>;

pub(super) fn parse(text: &str) -> Result<Option<Test>> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        end: text.len(),
        depth: 0,
        parts: 0,
    };
    let mut last = Qualifiers::default();
    let test = parser.expression(&mut last)?;
    if parser.at < tokens.len() {
        return Err(parser.fault("`and`, `or` or the end of the filter was expected"));
    }
    Ok(Some(test))
}

/// What stands before an address, a port or a protocol; the next one without takes it over.
#[derive(Clone, Copy, Debug, Default)]
struct Qualifiers {
    protocol: Option<Named>,
    direction: Option<Direction>,
    kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Protocol,
}

/// A protocol that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Ip,
    Ip6,
    /// Over IPv4 or IPv6.
    Over(u8),
    /// Over IPv4 only.
    OverIpv4(u8),
    /// Over IPv6 only.
    OverIpv6(u8),
}

impl Named {
    fn version(self) -> Option<Version> {
        match self {
            Self::Ip | Self::OverIpv4(_) => Some(Version::V4),
            Self::Ip6 | Self::OverIpv6(_) => Some(Version::V6),
            Self::Over(_) => None,
        }
    }

    fn test(self) -> Test {
        match self {
            Self::Ip => Test::Version(Version::V4),
            Self::Ip6 => Test::Version(Version::V6),
            Self::Over(number) | Self::OverIpv4(number) | Self::OverIpv6(number) => {
                Test::Protocol {
                    version: self.version(),
                    number,
                }
            }
        }
    }

    fn base(self) -> Base {
        match self {
            Self::Ip => Base::Ipv4,
            Self::Ip6 => Base::Ipv6,
            Self::Over(number) | Self::OverIpv4(number) => Base::OverIpv4(number),
            Self::OverIpv6(number) => Base::OverIpv6(number),
        }
    }
}

const PROTOCOLS: [(&str, Named); 13] = [
    ("ip", Named::Ip),
    ("ip6", Named::Ip6),
    ("tcp", Named::Over(6)),
    ("udp", Named::Over(17)),
    ("sctp", Named::Over(132)),
    ("icmp", Named::OverIpv4(1)),
    ("icmp6", Named::OverIpv6(58)),
    ("igmp", Named::OverIpv4(2)),
    ("igrp", Named::OverIpv4(9)),
    ("esp", Named::Over(50)),
    ("ah", Named::Over(51)),
    ("pim", Named::Over(103)),
    ("vrrp", Named::OverIpv4(112)),
];

fn named<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
    table
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, value)| *value)
}

struct Parser<'t> {
    tokens: &'t [Placed<'t>],
    at: usize,
    end: usize,
    depth: usize,
    parts: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<&'t Token<'t>> {
        self.tokens.get(self.at).map(|placed| &placed.token)
    }

    fn fault(&self, message: impl Into<String>) -> FilterError {
        FilterError {
            position: self
                .tokens
                .get(self.at)
                .map_or(self.end, |placed| placed.position),
            message: message.into(),
        }
    }

    fn word(&mut self, wanted: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if *word == wanted);
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, wanted: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(sign)) if *sign == wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: &str) -> Result<()> {
        if self.sign(wanted) {
            Ok(())
        } else {
            Err(self.fault(format!("`{wanted}` was expected")))
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(format!("more than {MAX_DEPTH} levels of nesting")));
        }
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn part<T>(&mut self, part: T) -> Result<T> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(self.fault(format!("more than {MAX_PARTS} parts")));
        }
        Ok(part)
    }

    fn expression(&mut self, last: &mut Qualifiers) -> Result<Test> {
        let mut left = self.term(last)?;
        loop {
            let and = if self.word("and") || self.sign("&&") {
                true
            } else if self.word("or") || self.sign("||") {
                false
            } else {
                return Ok(left);
            };
            let right = self.term(last)?;
            let (left_box, right_box) = (Box::new(left), Box::new(right));
            left = self.part(if and {
                Test::And(left_box, right_box)
            } else {
                Test::Or(left_box, right_box)
            })?;
        }
    }

    fn term(&mut self, last: &mut Qualifiers) -> Result<Test> {
        if self.word("not") || self.sign("!") {
            let test = self.deeper(|parser| parser.term(last))?;
            return self.part(Test::Not(Box::new(test)));
        }
        if let Some(relation) = self.relation()? {
            return Ok(relation);
        }
        if self.sign("(") {
            let test = self.deeper(|parser| parser.expression(last))?;
            self.expect(")")?;
            return Ok(test);
        }
        self.primitive(last)
    }

    /// `len > 60`, `tcp[13] & 2 != 0`, `(ip[0] & 15) * 4 > 20`; none if something else begins here.
    fn relation(&mut self) -> Result<Option<Test>> {
        if self.word("less") || self.word("greater") {
            let less = matches!(
                self.tokens.get(self.at - 1).map(|placed| &placed.token),
                Some(Token::Word("less"))
            );
            let Some(Token::Number(number)) = self.peek() else {
                return Err(self.fault("a number of bytes was expected"));
            };
            self.at += 1;
            let comparison = if less {
                Comparison::LessOrEqual
            } else {
                Comparison::GreaterOrEqual
            };
            let relation =
                Test::Relation(Arithmetic::Length, comparison, Arithmetic::Number(*number));
            return self.part(relation).map(Some);
        }
        if !self.begins_arithmetic() {
            return Ok(None);
        }
        let (begin, parts, depth) = (self.at, self.parts, self.depth);
        let whole = self.arithmetic(0).and_then(|left| {
            let comparison = self
                .comparison()
                .ok_or_else(|| self.fault("a comparison was expected, as `= 0`"))?;
            Ok((left, comparison))
        });
        match whole {
            Ok((left, comparison)) => {
                let right = self.arithmetic(0)?;
                self.part(Test::Relation(left, comparison, right)).map(Some)
            }
            // A load or `len` can be nothing but the beginning of a relation.
            Err(fault) if self.surely_arithmetic(begin) => Err(fault),
            Err(_) => {
                (self.at, self.parts, self.depth) = (begin, parts, depth);
                Ok(None)
            }
        }
    }

    fn begins_arithmetic(&self) -> bool {
        match self.peek() {
            Some(Token::Number(_) | Token::Sign("(" | "-")) => true,
            Some(Token::Word(word)) => {
                self.surely_arithmetic(self.at) || named(&NUMBERS, word).is_some()
            }
            _ => false,
        }
    }

    fn surely_arithmetic(&self, at: usize) -> bool {
        let token = |at: usize| self.tokens.get(at).map(|placed| &placed.token);
        match token(at) {
            Some(Token::Word("len")) => true,
            Some(Token::Word(_)) => matches!(token(at + 1), Some(Token::Sign("["))),
            _ => false,
        }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let Some(Token::Sign(sign)) = self.peek() else {
            return None;
        };
        let comparison = match *sign {
            "=" | "==" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            _ => return None,
        };
        self.at += 1;
        Some(comparison)
    }

    /// Precedence climbing; libpcap's grammar has `|` and `^` below `&`, and so on as in C.
    fn arithmetic(&mut self, least: u8) -> Result<Arithmetic> {
        let mut left = self.deeper(Self::operand)?;
        loop {
            let Some(Token::Sign(sign)) = self.peek() else {
                return Ok(left);
            };
            let (operator, strength) = match *sign {
                "|" => (Operator::Or, 1),
                "^" => (Operator::Xor, 1),
                "&" => (Operator::And, 2),
                "<<" => (Operator::ShiftLeft, 3),
                ">>" => (Operator::ShiftRight, 3),
                "+" => (Operator::Add, 4),
                "-" => (Operator::Subtract, 4),
                "*" => (Operator::Multiply, 5),
                "/" => (Operator::Divide, 5),
                "%" => (Operator::Remainder, 5),
                _ => return Ok(left),
            };
            if strength <= least {
                return Ok(left);
            }
            self.at += 1;
            let right = self.deeper(|parser| parser.arithmetic(strength))?;
            if matches!(operator, Operator::Divide | Operator::Remainder)
                && matches!(right, Arithmetic::Number(0))
            {
                return Err(self.fault("division by zero"));
            }
            left = self.part(Arithmetic::Binary(
                operator,
                Box::new(left),
                Box::new(right),
            ))?;
        }
    }

    fn operand(&mut self) -> Result<Arithmetic> {
        if self.sign("-") {
            let value = self.deeper(Self::operand)?;
            return self.part(Arithmetic::Negative(Box::new(value)));
        }
        if self.sign("(") {
            let value = self.arithmetic(0)?;
            self.expect(")")?;
            return Ok(value);
        }
        match self.peek() {
            Some(Token::Number(number)) => {
                self.at += 1;
                self.part(Arithmetic::Number(*number))
            }
            Some(Token::Word("len")) => {
                self.at += 1;
                self.part(Arithmetic::Length)
            }
            Some(Token::Word(word)) => {
                if let Some(number) = named(&NUMBERS, word) {
                    self.at += 1;
                    return self.part(Arithmetic::Number(number));
                }
                let Some(protocol) = named(&PROTOCOLS, word) else {
                    return Err(self.unknown(word));
                };
                self.at += 1;
                self.load(protocol.base())
            }
            _ => Err(self.fault("a number, `len` or a load as `tcp[13]` was expected")),
        }
    }

    fn load(&mut self, base: Base) -> Result<Arithmetic> {
        self.expect("[")?;
        let offset = Box::new(self.arithmetic(0)?);
        let size = if self.sign(":") {
            match self.peek() {
                Some(Token::Number(size @ (1 | 2 | 4))) => {
                    self.at += 1;
                    u8::try_from(*size).unwrap_or(4)
                }
                _ => return Err(self.fault("a load has 1, 2 or 4 bytes")),
            }
        } else {
            1
        };
        self.expect("]")?;
        self.part(Arithmetic::Load { base, offset, size })
    }

    fn unknown(&self, word: &str) -> FilterError {
        if LINK_LAYER.contains(&word) {
            self.fault(format!(
                "`{word}` needs a link layer, and these packets begin with their IP header"
            ))
        } else {
            self.fault(format!("`{}` is not known", word.escape_default()))
        }
    }

    fn primitive(&mut self, last: &mut Qualifiers) -> Result<Test> {
        if let Some(named) = self.naming()? {
            return self.part(named);
        }
        let mut own = Qualifiers::default();
        let begin = self.at;
        if let Some(Token::Word(word)) = self.peek()
            && let Some(protocol) = named(&PROTOCOLS, word)
        {
            self.at += 1;
            own.protocol = Some(protocol);
            if self.word("multicast") {
                return match protocol {
                    Named::Ip => self.part(Test::Multicast(Version::V4)),
                    Named::Ip6 => self.part(Test::Multicast(Version::V6)),
                    _ => Err(self.fault("only `ip multicast` and `ip6 multicast` exist")),
                };
            }
        }
        own.direction = self.direction()?;
        own.kind = self.kind();
        let bare = self.at == begin;
        if self.ends_here() {
            return match (bare, own) {
                (
                    false,
                    Qualifiers {
                        protocol: Some(protocol),
                        direction: None,
                        kind: None,
                    },
                ) => {
                    *last = own;
                    self.part(protocol.test())
                }
                _ => Err(self.fault("an address, a port or a protocol was expected")),
            };
        }
        if bare {
            // `port 80 or 443`: the second one is a port too.
            own = *last;
        }
        *last = own;
        self.qualified(own, last)
    }

    /// `endpoint vpce-...`, `instance i-...`, `tag KEY=VALUE`, `sni NAME`; none if something else
    /// begins here.
    fn naming(&mut self) -> Result<Option<Test>> {
        let Some(Token::Word(word)) = self.peek() else {
            return Ok(None);
        };
        if !NAMING.contains(word) {
            return Ok(None);
        }
        self.at += 1;
        let Some(Token::Text(text)) = self.peek() else {
            return Err(self.fault(format!("a name was expected behind `{word}`")));
        };
        let pattern = |text: &str| {
            Pattern::new(text).ok_or_else(|| self.fault("there are too many stars in this name"))
        };
        let test = match *word {
            "endpoint" => {
                let digits = text.strip_prefix("vpce-").unwrap_or(text);
                let id = u64::from_str_radix(digits, 16)
                    .map_err(|_| self.fault("an endpoint is written vpce-0123456789abcdef0"))?;
                Test::Endpoint(VpcEndpointId(id))
            }
            "instance" => {
                if !text.starts_with("i-") {
                    return Err(self.fault("an instance is written i-0123456789abcdef0"));
                }
                Test::Instance((*text).to_owned())
            }
            "sni" => Test::ServerName(pattern(&text.to_ascii_lowercase())?),
            _ => {
                let (key, value) = text
                    .split_once('=')
                    .ok_or_else(|| self.fault("a tag is written KEY=VALUE"))?;
                Test::Tag {
                    key: key.to_owned(),
                    value: pattern(value)?,
                }
            }
        };
        self.at += 1;
        Ok(Some(test))
    }

    /// What stands behind qualifiers: one address, port or protocol, or several in parentheses.
    fn qualified(&mut self, own: Qualifiers, last: &mut Qualifiers) -> Result<Test> {
        if self.word("not") || self.sign("!") {
            let test = self.deeper(|parser| parser.qualified(own, last))?;
            return self.part(Test::Not(Box::new(test)));
        }
        if self.sign("(") {
            let test = self.deeper(|parser| parser.expression(last))?;
            self.expect(")")?;
            return Ok(test);
        }
        let test = self.identifier(own)?;
        self.part(test)
    }

    fn ends_here(&self) -> bool {
        matches!(
            self.peek(),
            None | Some(Token::Sign(")" | "&&" | "||") | Token::Word("and" | "or"))
        )
    }

    fn direction(&mut self) -> Result<Option<Direction>> {
        let (first, other) = if self.word("src") {
            (Direction::Source, "dst")
        } else if self.word("dst") {
            (Direction::Destination, "src")
        } else {
            return Ok(None);
        };
        let begin = self.at;
        for (word, both) in [("or", Direction::Either), ("and", Direction::Both)] {
            if self.word(word) {
                if self.word(other) {
                    return Ok(Some(both));
                }
                self.at = begin;
            }
        }
        Ok(Some(first))
    }

    fn kind(&mut self) -> Option<Kind> {
        [
            ("host", Kind::Host),
            ("net", Kind::Net),
            ("port", Kind::Port),
            ("portrange", Kind::PortRange),
            ("proto", Kind::Protocol),
        ]
        .into_iter()
        .find_map(|(word, kind)| self.word(word).then_some(kind))
    }

    fn identifier(&mut self, own: Qualifiers) -> Result<Test> {
        match own.kind {
            Some(Kind::Port) => {
                let port = self.port()?;
                self.ports(own, port, port)
            }
            Some(Kind::PortRange) => {
                let low = self.port()?;
                self.expect("-")?;
                let high = self.port()?;
                self.ports(own, low.min(high), low.max(high))
            }
            Some(Kind::Protocol) => self.protocol(own),
            Some(Kind::Host) | None => self.address(own, false),
            Some(Kind::Net) => self.address(own, true),
        }
    }

    fn port(&mut self) -> Result<u16> {
        let port = match self.peek() {
            Some(Token::Number(number)) => u16::try_from(*number)
                .map_err(|_| self.fault(format!("{number} is no port: they end at 65535")))?,
            Some(Token::Word(word)) => named(&SERVICES, word).ok_or_else(|| {
                self.fault(format!(
                    "`{}` is no service known here: write the port's number",
                    word.escape_default()
                ))
            })?,
            _ => return Err(self.fault("a port was expected")),
        };
        self.at += 1;
        Ok(port)
    }

    fn ports(&self, own: Qualifiers, low: u16, high: u16) -> Result<Test> {
        let (protocol, version) = match own.protocol {
            None => (None, None),
            Some(Named::Over(number @ (6 | 17 | 132))) => (Some(number), None),
            Some(named @ (Named::Ip | Named::Ip6)) => (None, named.version()),
            Some(_) => return Err(self.fault("that protocol has no ports")),
        };
        Ok(Test::Port {
            direction: own.direction.unwrap_or_default(),
            protocol,
            version,
            low,
            high,
        })
    }

    fn protocol(&mut self, own: Qualifiers) -> Result<Test> {
        if own.direction.is_some() {
            return Err(self.fault("a protocol has no direction"));
        }
        let version = match own.protocol {
            None => None,
            Some(named @ (Named::Ip | Named::Ip6)) => named.version(),
            Some(_) => return Err(self.fault("only `ip proto` and `ip6 proto` exist")),
        };
        let number = match self.peek() {
            Some(Token::Number(number)) => u8::try_from(*number)
                .map_err(|_| self.fault(format!("{number} is no protocol: they end at 255")))?,
            Some(Token::Word(word)) => match named(&PROTOCOLS, word) {
                Some(Named::Over(number) | Named::OverIpv4(number) | Named::OverIpv6(number)) => {
                    number
                }
                _ => return Err(self.unknown(word)),
            },
            _ => return Err(self.fault("a protocol was expected")),
        };
        self.at += 1;
        Ok(Test::Protocol { version, number })
    }

    fn address(&mut self, own: Qualifiers, net: bool) -> Result<Test> {
        let (address, given) = match self.peek() {
            Some(Token::Ipv6(address)) => (IpAddr::V6(*address), 128),
            Some(Token::Dotted(text)) => self.ipv4(text)?,
            Some(Token::Number(first)) if net => {
                let first = u8::try_from(*first)
                    .map_err(|_| self.fault(format!("{first} begins no IPv4 address")))?;
                (IpAddr::V4(Ipv4Addr::new(first, 0, 0, 0)), 8)
            }
            Some(Token::Word(word)) => {
                return Err(if own.kind.is_none() {
                    self.unknown(word)
                } else {
                    self.fault("names are not looked up: write an address")
                });
            }
            _ => return Err(self.fault("an address was expected")),
        };
        self.at += 1;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let explicit = if self.sign("/") {
            Some(self.prefix(whole)?)
        } else if net && self.word("mask") {
            Some(self.mask()?)
        } else {
            None
        };
        if !net && own.kind.is_some() && explicit.is_some() {
            return Err(self.fault("a host has no prefix: write `net`"));
        }
        if !net && explicit.is_none() && given != whole {
            return Err(self.fault("an IPv4 address has four parts; `net` takes fewer"));
        }
        let prefix = explicit.unwrap_or(given);
        if has_bits_after(address, prefix) {
            return Err(self.fault(format!("the network has bits set after its first {prefix}")));
        }
        let version = if address.is_ipv4() {
            Version::V4
        } else {
            Version::V6
        };
        match own.protocol {
            None => {}
            Some(named @ (Named::Ip | Named::Ip6)) if named.version() == Some(version) => {}
            Some(Named::Ip | Named::Ip6) => {
                return Err(self.fault("the address is of the other IP version"));
            }
            Some(_) => return Err(self.fault("that protocol has no addresses of its own")),
        }
        Ok(Test::Address {
            direction: own.direction.unwrap_or_default(),
            address,
            prefix,
        })
    }

    fn ipv4(&self, text: &str) -> Result<(IpAddr, u8)> {
        let mut octets = [0; 4];
        let mut count = 0_u8;
        for part in text.split('.') {
            let (Some(octet), Ok(value)) = (octets.get_mut(usize::from(count)), part.parse())
            else {
                return Err(self.fault(format!("{text} is no IPv4 address")));
            };
            *octet = value;
            count += 1;
        }
        Ok((IpAddr::V4(octets.into()), count * 8))
    }

    fn prefix(&mut self, whole: u8) -> Result<u8> {
        match self.peek() {
            Some(Token::Number(number)) if *number <= u32::from(whole) => {
                self.at += 1;
                Ok(u8::try_from(*number).unwrap_or(whole))
            }
            _ => Err(self.fault(format!("a prefix length up to {whole} was expected"))),
        }
    }

    fn mask(&mut self) -> Result<u8> {
        let Some(Token::Dotted(text)) = self.peek() else {
            return Err(self.fault("a mask as 255.255.255.0 was expected"));
        };
        let (IpAddr::V4(mask), 32) = self.ipv4(text)? else {
            return Err(self.fault("a mask has four parts"));
        };
        let bits = u32::from(mask);
        if bits.leading_ones() + bits.trailing_zeros() < 32 {
            return Err(self.fault("a mask with gaps is not understood"));
        }
        self.at += 1;
        Ok(u8::try_from(bits.leading_ones()).unwrap_or(32))
    }
}

fn has_bits_after(address: IpAddr, prefix: u8) -> bool {
    let shift = u32::from(prefix);
    match address {
        IpAddr::V4(address) => u32::from(address).checked_shl(shift).unwrap_or(0) != 0,
        IpAddr::V6(address) => u128::from(address).checked_shl(shift).unwrap_or(0) != 0,
    }
}
