//! The expression that says which exchanges something is meant for: `when = "…"`.
//!
//! ```text
//! host like "*.example.com" and not method in ["GET", "HEAD"]
//! path =~ "^/v[0-9]+/users" and (status >= 500 or response-header "retry-after")
//! ```
//!
//! docs/filters.md describes it for users. Expressions are bounded in length, depth and number of
//! tests, and regular expressions take time linear in the text, whatever they are.

use core::fmt;
use core::str::FromStr;

use http::{Method, StatusCode, Version};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de};

use crate::{
    Ec2Host, Exchange, FieldName, FlowInfo, Headers, Request, RequestHead, Response, Target,
};

/// Longest expression, in bytes.
const MAX_LENGTH: usize = 8 << 10;
/// Most parentheses and `not`s inside one another.
const MAX_DEPTH: usize = 32;
/// Most tests in one expression.
const MAX_TESTS: usize = 256;
/// Most memory for a compiled regular expression, in bytes.
const MAX_REGEX: usize = 1 << 20;

/// What a filter looks at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    flow: &'a FlowInfo,
    method: &'a Method,
    target: &'a Target,
    version: Version,
    headers: &'a Headers,
    response: Option<(StatusCode, &'a Headers)>,
}

impl<'a> Subject<'a> {
    /// A request as it is now. Nothing is known of its response.
    #[must_use]
    pub fn request(request: &'a Request, exchange: &'a Exchange) -> Self {
        Self {
            flow: &exchange.flow,
            method: &request.method,
            target: &request.target,
            version: request.version,
            headers: &request.headers,
            response: None,
        }
    }

    /// A response, and the request as the client sent it.
    #[must_use]
    pub fn response(response: &'a Response, exchange: &'a Exchange) -> Self {
        Self {
            response: Some((response.status, &response.headers)),
            ..Self::asked(exchange)
        }
    }

    /// The request as the client sent it, for stages that have no head at hand.
    #[must_use]
    pub fn asked(exchange: &'a Exchange) -> Self {
        let request: &RequestHead = &exchange.request;
        Self {
            flow: &exchange.flow,
            method: &request.method,
            target: &request.target,
            version: request.version,
            headers: &request.headers,
            response: None,
        }
    }

    /// Only looked for when somebody asks: most conditions do not.
    fn host(&self) -> Option<&'a str> {
        crate::message::host(self.target, self.headers)
    }
}

/// A condition on exchanges, read from text.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Number(Number, Vec<(Order, u16)>),
    Text(Text, Match),
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Port,
    Status,
}

#[derive(Clone, Debug)]
enum Text {
    Ec2(End, Ec2Field),
    Endpoint,
    Header(FieldName),
    Host,
    Method,
    Path,
    Query,
    ResponseHeader(FieldName),
    ServerName,
    Tag(String),
    Version,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
enum End {
    Client,
    Server,
}

/// One thing that EC2 knows of a host.
#[derive(Clone, Debug)]
enum Ec2Field {
    Account,
    Instance,
    Interface,
    SecurityGroup,
    Subnet,
    Tag(String),
    Vpc,
}

impl Ec2Field {
    /// Whether any of the values makes `test` true; a host may have several security groups.
    fn any(&self, host: &Ec2Host, mut test: impl FnMut(&str) -> bool) -> bool {
        match self {
            Self::Account => test(&host.account_id),
            Self::Instance => host.instance_id.as_deref().is_some_and(test),
            Self::Interface => host.interface_id.as_deref().is_some_and(test),
            Self::SecurityGroup => host.security_groups.iter().any(|group| test(group)),
            Self::Subnet => test(&host.subnet_id),
            Self::Tag(name) => host.tags.get(name).is_some_and(|value| test(value)),
            Self::Vpc => test(&host.vpc_id),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    NotEqual,
}

#[derive(Clone, Debug)]
enum Match {
    /// There is such a thing.
    Present,
    /// It is one of these; without case for names of hosts.
    OneOf(Vec<String>),
    /// It looks like one of these, where `*` stands for any characters.
    Like(Vec<String>),
    Regex(Regex),
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at column {column}")]
pub struct FilterError {
    /// What is wrong, and what would be right.
    pub what: String,
    /// Where, counted in characters from one.
    pub column: usize,
}

impl Filter {
    /// Whether the exchange is meant.
    ///
    /// What is not there, such as the status before the response has come, equals nothing, looks like
    /// nothing and is neither less nor more than anything.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.root.matches(subject)
    }

    /// Whether it looks at responses, so that it cannot be decided before there is one.
    #[must_use]
    pub fn needs_response(&self) -> bool {
        self.root.needs_response()
    }
}

impl Node {
    fn needs_response(&self) -> bool {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::needs_response),
            Self::Not(part) => part.needs_response(),
            Self::Number(field, _) => matches!(field, Number::Status),
            Self::Text(field, _) => matches!(field, Text::ResponseHeader(_)),
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(subject)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(subject)),
            Self::Not(part) => !part.matches(subject),
            Self::Number(field, tests) => {
                let value = match field {
                    Number::Port => Some(subject.flow.server.port()),
                    Number::Status => subject.response.map(|(status, _)| status.as_u16()),
                };
                value.is_some_and(|value| tests.iter().any(|(order, to)| order.holds(value, *to)))
            }
            Self::Text(field, test) => field.any(subject, |value| test.matches(field, value)),
        }
    }
}

impl Order {
    fn holds(self, value: u16, to: u16) -> bool {
        match self {
            Self::Equal => value == to,
            Self::Less => value < to,
            Self::LessOrEqual => value <= to,
            Self::More => value > to,
            Self::MoreOrEqual => value >= to,
            Self::NotEqual => value != to,
        }
    }
}

impl Text {
    /// Whether any of the values makes `test` true; a field of a header may have several.
    fn any(&self, subject: &Subject<'_>, mut test: impl FnMut(&str) -> bool) -> bool {
        let mut fields = |headers: &Headers, name: &FieldName| {
            headers
                .get_all(name.as_str())
                .any(|value| test(&String::from_utf8_lossy(value.as_bytes())))
        };
        match self {
            Self::Header(name) => fields(subject.headers, name),
            Self::ResponseHeader(name) => subject
                .response
                .is_some_and(|(_, headers)| fields(headers, name)),
            Self::Ec2(end, field) => {
                let host = match end {
                    End::Client => &subject.flow.client_ec2,
                    End::Server => &subject.flow.server_ec2,
                };
                host.as_ref().is_some_and(|host| field.any(host, test))
            }
            Self::Endpoint => test(&subject.flow.endpoint.to_string()),
            Self::Host => subject
                .host()
                .is_some_and(|host| test(host.strip_suffix('.').unwrap_or(host))),
            Self::Method => test(subject.method.as_str()),
            Self::Path => test(subject.target.path()),
            Self::Query => subject.target.query().is_some_and(test),
            Self::ServerName => {
                let tls = subject.flow.tls.as_ref();
                tls.and_then(|tls| tls.server_name.as_deref())
                    .is_some_and(test)
            }
            Self::Tag(name) => match subject.flow.context.get(name) {
                None | Some(serde_json::Value::Null) => false,
                Some(serde_json::Value::String(value)) => test(value),
                Some(other) => test(&other.to_string()),
            },
            Self::Version => test(match subject.version {
                Version::HTTP_10 => "1.0",
                Version::HTTP_2 => "2",
                _ => "1.1",
            }),
        }
    }

    fn ignores_case(&self) -> bool {
        matches!(self, Self::Host | Self::ServerName)
    }
}

impl Match {
    fn matches(&self, field: &Text, value: &str) -> bool {
        let same = |a: &str, b: &str| {
            if field.ignores_case() {
                a.eq_ignore_ascii_case(b)
            } else {
                a == b
            }
        };
        match self {
            Self::Present => true,
            Self::OneOf(all) => all.iter().any(|one| same(one, value)),
            Self::Like(all) => all
                .iter()
                .any(|pattern| is_like(pattern.as_bytes(), value.as_bytes(), field.ignores_case())),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Whether a text looks like a pattern in which `*` stands for any characters. Takes time
/// proportional to the product of both lengths at most.
pub(crate) fn is_like(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let same = |a: u8, b: u8| a == b || (ignore_case && a.eq_ignore_ascii_case(&b));
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it stands for.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(want) if same(*want, *byte) => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                None => return false,
                Some((at, from)) => {
                    *from += 1;
                    p = *at + 1;
                    t = *from;
                }
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Filter;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a filter such as `host == \"example.com\"`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Filter, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_LENGTH {
            return Err(FilterError {
                what: format!("the filter is longer than {MAX_LENGTH} bytes"),
                column: MAX_LENGTH,
            });
        }
        let tokens = tokens(text)?;
        let mut parser = Parser {
            tokens: &tokens,
            at: 0,
            end: text.chars().count() + 1,
            tests: 0,
        };
        let root = parser.any(0)?;
        match parser.peek() {
            None => Ok(Self {
                text: text.to_owned(),
                root,
            }),
            Some(_) => Err(parser.error("\"and\", \"or\" or the end of the filter is missing")),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    String(String),
    Number(u16),
    Symbol(&'static str),
}

/// Takes a text apart; each token has its column.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    const SYMBOLS: [&str; 13] = [
        "==", "!=", "=~", "!~", "<=", ">=", "<", ">", "(", ")", "[", "]", ",",
    ];
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let column = text.chars().count() - rest.chars().count() + 1;
        let error = |what: &str| {
            Err(FilterError {
                what: what.to_owned(),
                column,
            })
        };
        let Some(first) = rest.chars().next() else {
            return Ok(tokens);
        };
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push((column, Token::Symbol(symbol)));
            rest = rest.strip_prefix(symbol).unwrap_or_default();
        } else if first == '"' || first == '\'' {
            let Some((value, after)) = string(rest, first) else {
                return error("a text has no closing quote");
            };
            tokens.push((column, Token::String(value)));
            rest = after;
        } else if first.is_ascii_digit() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let (digits, after) = rest.split_at(end);
            let Ok(number) = digits.parse() else {
                return error("a number is larger than 65535");
            };
            tokens.push((column, Token::Number(number)));
            rest = after;
        } else if first.is_ascii_alphabetic() {
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            tokens.push((column, Token::Word(word.to_owned())));
            rest = after;
        } else {
            return error("a character that means nothing in a filter");
        }
    }
}

/// A text in quotes and what follows it. In double quotes `\"` and `\\` stand for themselves, and a
/// backslash before anything else is a backslash; between single quotes nothing is special.
fn string(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((value, text.get(at + 1..)?));
        }
        match chars.peek() {
            Some((_, next @ ('"' | '\\'))) if c == '\\' && quote == '"' => {
                value.push(*next);
                chars.next();
            }
            _ => value.push(c),
        }
    }
    None
}

/// `source-vpc`, `destination-tag "NAME"` and the like.
fn ec2_field(word: &str, name: String) -> Option<Text> {
    let (end, field) = word.split_once('-')?;
    let end = match end {
        "source" => End::Client,
        "destination" => End::Server,
        _ => return None,
    };
    let field = match field {
        "account" => Ec2Field::Account,
        "instance" => Ec2Field::Instance,
        "interface" => Ec2Field::Interface,
        "security-group" => Ec2Field::SecurityGroup,
        "subnet" => Ec2Field::Subnet,
        "tag" => Ec2Field::Tag(name),
        "vpc" => Ec2Field::Vpc,
        _ => return None,
    };
    Some(Text::Ec2(end, field))
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    end: usize,
    tests: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn error(&self, what: impl Into<String>) -> FilterError {
        FilterError {
            what: what.into(),
            column: self.tokens.get(self.at).map_or(self.end, |(at, _)| *at),
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found)) if found == word);
        self.at += usize::from(found);
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut parts = vec![self.all(depth)?];
        while self.take_word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => {
                parts.extend(last);
                Node::Any(parts)
            }
        })
    }

    fn all(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut parts = vec![self.part(depth)?];
        while self.take_word("and") {
            parts.push(self.part(depth)?);
        }
        Ok(match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => {
                parts.extend(last);
                Node::All(parts)
            }
        })
    }

    fn part(&mut self, depth: usize) -> Result<Node, FilterError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!(
                "more than {MAX_DEPTH} conditions inside one another"
            )));
        }
        if self.take_word("not") {
            return Ok(Node::Not(Box::new(self.part(depth + 1)?)));
        }
        if self.take_symbol("(") {
            let inner = self.any(depth + 1)?;
            if !self.take_symbol(")") {
                return Err(self.error("a closing parenthesis is missing"));
            }
            return Ok(inner);
        }
        self.tests += 1;
        if self.tests > MAX_TESTS {
            return Err(self.error(format!("more than {MAX_TESTS} tests")));
        }
        self.test()
    }

    fn test(&mut self) -> Result<Node, FilterError> {
        const FIELDS: &str = "host, path, query, method, version, status, port, server-name, endpoint, \
                              header \"NAME\", response-header \"NAME\", tag \"NAME\", and \
                              source- or destination- with account, instance, interface, \
                              security-group, subnet, vpc or tag \"NAME\"";
        let Some(Token::Word(word)) = self.peek().cloned() else {
            return Err(self.error(format!("a condition is missing; it begins with {FIELDS}")));
        };
        let field = match word.as_str() {
            "status" | "port" => {
                self.at += 1;
                let field = if word == "status" {
                    Number::Status
                } else {
                    Number::Port
                };
                return self.number(field);
            }
            "endpoint" => Text::Endpoint,
            "host" => Text::Host,
            "method" => Text::Method,
            "path" => Text::Path,
            "query" => Text::Query,
            "server-name" => Text::ServerName,
            "version" => Text::Version,
            "header" | "response-header" | "tag" => {
                self.at += 1;
                let name = self.string()?;
                self.at -= 1;
                let field = || {
                    name.parse()
                        .map_err(|_| self.error("not the name of a field"))
                };
                match word.as_str() {
                    "header" => Text::Header(field()?),
                    "response-header" => Text::ResponseHeader(field()?),
                    _ => Text::Tag(name),
                }
            }
            _ if ec2_field(&word, String::new()).is_some() => {
                let mut name = String::new();
                if word.ends_with("-tag") {
                    self.at += 1;
                    name = self.string()?;
                    self.at -= 1;
                }
                let found = ec2_field(&word, name);
                found.ok_or_else(|| self.error("not a property of a host"))?
            }
            _ => {
                return Err(self.error(format!(
                    "{word:?} is nothing to look at; there are {FIELDS}"
                )));
            }
        };
        self.at += 1;
        self.text(field)
    }

    fn number(&mut self, field: Number) -> Result<Node, FilterError> {
        if self.take_word("in") {
            let tests = self.list(|parser| Ok((Order::Equal, parser.integer()?)))?;
            return Ok(Node::Number(field, tests));
        }
        let order = match self.peek() {
            Some(Token::Symbol("==")) => Order::Equal,
            Some(Token::Symbol("!=")) => Order::NotEqual,
            Some(Token::Symbol("<")) => Order::Less,
            Some(Token::Symbol("<=")) => Order::LessOrEqual,
            Some(Token::Symbol(">")) => Order::More,
            Some(Token::Symbol(">=")) => Order::MoreOrEqual,
            _ => return Err(self.error("==, !=, <, <=, >, >= or in is missing")),
        };
        self.at += 1;
        Ok(Node::Number(field, vec![(order, self.integer()?)]))
    }

    fn text(&mut self, field: Text) -> Result<Node, FilterError> {
        let not = |node| Node::Not(Box::new(node));
        if self.take_word("in") {
            let all = self.list(Self::string)?;
            return Ok(Node::Text(field, Match::OneOf(all)));
        }
        if self.take_word("like") {
            let all = if matches!(self.peek(), Some(Token::Symbol("["))) {
                self.list(Self::string)?
            } else {
                vec![self.string()?]
            };
            return Ok(Node::Text(field, Match::Like(all)));
        }
        let symbol = match self.peek() {
            Some(Token::Symbol(symbol)) => *symbol,
            _ => "",
        };
        match symbol {
            "==" | "!=" => {
                self.at += 1;
                let node = Node::Text(field, Match::OneOf(vec![self.string()?]));
                Ok(if symbol == "==" { node } else { not(node) })
            }
            "=~" | "!~" => {
                self.at += 1;
                let column = self.tokens.get(self.at).map_or(self.end, |(at, _)| *at);
                let text = self.string()?;
                let regex = RegexBuilder::new(&text)
                    .size_limit(MAX_REGEX)
                    .dfa_size_limit(MAX_REGEX)
                    .case_insensitive(field.ignores_case())
                    .build()
                    .map_err(|error| FilterError {
                        what: format!(
                            "not a regular expression: {}",
                            last_line(&error.to_string())
                        ),
                        column,
                    })?;
                let node = Node::Text(field, Match::Regex(regex));
                Ok(if symbol == "=~" { node } else { not(node) })
            }
            _ if matches!(
                field,
                Text::Ec2(..)
                    | Text::Header(_)
                    | Text::ResponseHeader(_)
                    | Text::Tag(_)
                    | Text::Query
                    | Text::ServerName
            ) =>
            {
                Ok(Node::Text(field, Match::Present))
            }
            _ => Err(self.error("==, !=, =~, !~, like or in is missing")),
        }
    }

    fn string(&mut self) -> Result<String, FilterError> {
        let Some(Token::String(value)) = self.peek().cloned() else {
            return Err(self.error("a text in quotes is missing"));
        };
        self.at += 1;
        Ok(value)
    }

    fn integer(&mut self) -> Result<u16, FilterError> {
        let Some(Token::Number(value)) = self.peek().cloned() else {
            return Err(self.error("a number is missing"));
        };
        self.at += 1;
        Ok(value)
    }

    /// `[a, b, c]`, of which at most [`MAX_TESTS`].
    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, FilterError>,
    ) -> Result<Vec<T>, FilterError> {
        if !self.take_symbol("[") {
            return Err(self.error("a list in brackets is missing"));
        }
        let mut all = vec![item(self)?];
        while self.take_symbol(",") {
            if all.len() >= MAX_TESTS {
                return Err(self.error(format!("more than {MAX_TESTS} things in a list")));
            }
            all.push(item(self)?);
        }
        if self.take_symbol("]") {
            Ok(all)
        } else {
            Err(self.error("a comma or a closing bracket is missing"))
        }
    }
}

/// A regular expression's fault is drawn over several lines; the last one says it in words.
fn last_line(text: &str) -> &str {
    let line = text.lines().last().unwrap_or(text).trim();
    line.strip_prefix("error: ").unwrap_or(line)
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
