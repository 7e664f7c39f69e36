//! The interceptor: which exchanges are Systems Manager's, and what its keys mean.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use sdk::{
    ByteSize, Bytes, ConfigFault, ConfigTable, ContentLimits, Direction, Exchange, InterceptError,
    Interceptor, InterceptorKind, Message, MessageStep, Method, NameGlob, Outlet, Payload,
    RecordQueue, Request, Response, StatusCode, Step, async_trait, from_table,
};
use serde::Deserialize;

use crate::control::{Control, DocumentRules, News};
use crate::delivery::{self, Operation};
use crate::desk::{Attached, Desk, Setup};
use crate::document::{DocumentAction, DocumentRule, cut, text_field};
use crate::message::AgentMessage;
use crate::moving::Moving;
use crate::recorder::Limits;
use crate::session::{Outcome, Policy, Step as SessionStep};
use crate::typed::{LineAction, LineRule};
use crate::whereabouts::{Now, Whereabouts};

/// The kind that `use = "ssm"` names.
pub const KIND: InterceptorKind = InterceptorKind {
    name: "ssm",
    summary: "Records sessions and commands of AWS Systems Manager, and edits or blocks them by rule.",
    build: Ssm::build,
};

const TARGET: &str = "x-amz-target";
/// Close code for a policy (RFC 6455 §7.4.1).
const POLICY_VIOLATION: u16 = 1008;
/// Most bytes of an answer to GetMessages, and of a SendReply. A document has at most 64 KiB.
const MAX_BODY: usize = 4 << 20;
/// Longest name of a rule.
const MAX_NAME: usize = 64;

/// Records, edits and blocks what passes between Systems Manager and its agents.
#[derive(Debug)]
pub struct Ssm {
    hosts: Vec<NameGlob>,
    message_hosts: Vec<NameGlob>,
    closes_malformed: bool,
    desk: Arc<Desk>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Config {
    /// Hosts of the Message Gateway Service.
    hosts: Vec<String>,
    /// Hosts of the Message Delivery Service.
    message_hosts: Vec<String>,
    /// The folder for recordings. Default: none are made.
    folder: Option<PathBuf>,
    /// The object store that finished recordings are moved to. Default: they stay in the folder.
    to: Option<String>,
    /// The region of the bucket, if it is not that of the environment.
    region: Option<String>,
    /// Another endpoint than the service's own.
    endpoint: Option<String>,
    /// Whether a plain text is written beside each recording. Default: true.
    transcripts: bool,
    /// Whether recordings hold what is typed, passwords too. Default: false.
    input: bool,
    /// Bytes of one recording. Default: 64MiB.
    max_recording: ByteSize,
    /// Sessions at a time; further ones are not recorded. Default: 256.
    max_sessions: usize,
    /// A session in which nothing happens for so long is over. Default: 70m.
    idle: String,
    /// What becomes of messages whose lengths or digest lie: `pass` or `close`. Default: `close` with
    /// rules, `pass` without.
    malformed: Option<Malformed>,
    /// What becomes of sessions with KMS encryption: `pass` or `end`. Default: pass.
    encrypted: Unseen,
    /// What becomes of sessions that cannot be recorded: `pass` or `end`. Default: pass.
    unrecorded: Unseen,
    /// What to block and edit.
    rule: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Malformed {
    Close,
    Pass,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Unseen {
    End,
    #[default]
    Pass,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Rule {
    /// For records and marks in recordings.
    name: String,
    /// What it looks at.
    on: On,
    /// A regular expression.
    find: String,
    #[serde(default)]
    action: Action,
    /// What comes in the place of what is blocked or found.
    with: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum On {
    Command,
    Input,
    Session,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    #[default]
    Block,
    Edit,
    End,
}

impl Default for Config {
    fn default() -> Self {
        let gateway = ["ssmmessages", "ssmmessages-fips"];
        let delivery = ["ec2messages", "ec2messages-fips"];
        let hosts = |names: [&str; 2]| {
            let [plain, fips] = names;
            [
                format!("{plain}.*.amazonaws.com"),
                format!("{plain}.*.amazonaws.com.cn"),
                format!("{plain}.*.api.aws"),
                format!("{fips}.*.amazonaws.com"),
                format!("*.{plain}.*.vpce.amazonaws.com"),
                format!("{plain}.*.lab.name"),
            ]
            .to_vec()
        };
        Self {
            hosts: hosts(gateway),
            message_hosts: hosts(delivery),
            folder: None,
            to: None,
            region: None,
            endpoint: None,
            transcripts: true,
            input: false,
            max_recording: ByteSize(64 << 20),
            max_sessions: 256,
            idle: "70m".to_owned(),
            malformed: None,
            encrypted: Unseen::Pass,
            unrecorded: Unseen::Pass,
            rule: Vec::new(),
        }
    }
}

impl Ssm {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        Ok(Arc::new(Self::from_config(table)?))
    }

    fn from_config(table: &ConfigTable) -> Result<Self, ConfigFault> {
        let config: Config = from_table(table)?;
        let mut policy = Policy {
            records: config.folder.is_some(),
            records_input: config.input,
            ends_encrypted: config.encrypted == Unseen::End,
            ends_unrecorded: config.unrecorded == Unseen::End,
            lines: Vec::new(),
        };
        if policy.ends_unrecorded && !policy.records {
            let fault = ConfigFault::new("unrecorded", "nothing is recorded without \"folder\"");
            return Err(fault.allowed("a folder for recordings, or \"pass\""));
        }
        let mut rules = DocumentRules::default();
        for (at, rule) in config.rule.iter().enumerate() {
            add(rule, at, &mut policy, &mut rules)?;
        }
        let folder = config.folder.clone();
        if let Some(folder) = folder.as_deref().filter(|folder| !folder.is_dir()) {
            let fault = ConfigFault::new("folder", format!("{} is no folder", folder.display()));
            return Err(fault.allowed("a folder that is there"));
        }
        let moving = match (config.to, &folder) {
            (None, _) => Moving::default(),
            (Some(to), Some(_)) => Moving::new(&to, config.region, config.endpoint)?,
            (Some(_), None) => {
                let fault =
                    ConfigFault::new("folder", "recordings wait in it until they are moved");
                return Err(fault.allowed("a folder that is there"));
            }
        };
        let bytes = config.max_recording.0;
        if !(64 << 10..=16 << 30).contains(&bytes) {
            let fault = ConfigFault::new(
                "max-recording",
                format!("{} is out of range", config.max_recording),
            );
            return Err(fault.allowed("64KiB to 16GiB"));
        }
        if !(1..=10_000).contains(&config.max_sessions) {
            let fault = ConfigFault::new(
                "max-sessions",
                format!("{} is out of range", config.max_sessions),
            );
            return Err(fault.allowed("1 to 10000"));
        }
        let idle = humantime::parse_duration(&config.idle)
            .ok()
            .filter(|idle| (Duration::from_secs(60)..=Duration::from_secs(172_800)).contains(idle))
            .ok_or_else(|| {
                ConfigFault::new("idle", format!("{:?} is no such duration", config.idle))
                    .allowed("1m to 48h")
            })?;
        let has_rules = !config.rule.is_empty();
        let by_default = if has_rules {
            Malformed::Close
        } else {
            Malformed::Pass
        };
        let setup = Setup {
            policy,
            rules,
            files: folder.map(|folder| Limits {
                folder,
                transcripts: config.transcripts,
                bytes: bytes as u64,
                moving,
            }),
            most: config.max_sessions,
            idle,
        };
        let desk = Desk::new(setup);
        Ok(Self {
            hosts: globs("hosts", &config.hosts)?,
            message_hosts: globs("message-hosts", &config.message_hosts)?,
            closes_malformed: config.malformed.unwrap_or(by_default) == Malformed::Close,
            desk,
        })
    }

    /// A message of the Message Gateway Service.
    fn binary(
        &self,
        bytes: &Bytes,
        message: &mut Message,
        exchange: &mut Exchange,
        now: Now,
        (endpoint, source): (u64, IpAddr),
    ) -> Result<MessageStep, InterceptError> {
        let direction = message.direction;
        let Some(seat) = exchange.extensions.get_mut::<Seat>() else {
            return Ok(MessageStep::Forward);
        };
        if matches!(seat, Seat::Refused | Seat::Messages(_) | Seat::Waiting(..)) {
            return Ok(MessageStep::Forward);
        }
        let parsed = match AgentMessage::parse(bytes) {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::debug!(%error, flow = %exchange.flow.id, "a message of Systems Manager is malformed");
                exchange.note("malformed");
                return Ok(if self.closes_malformed {
                    MessageStep::Close(POLICY_VIOLATION)
                } else {
                    MessageStep::Forward
                });
            }
        };
        let outcome = match seat {
            Seat::Control(control) => {
                let (rules, tools) = (&self.desk.rules, &self.desk.tools);
                let (outcome, news) = control.message(&parsed, direction, rules, tools, now);
                match news {
                    Some(News::Asked(session, asked)) => self.desk.asked(session, asked),
                    Some(News::Closed(session)) => self.desk.closed(endpoint, source, &session),
                    None => {}
                }
                outcome
            }
            Seat::Data(attached) => attached.message(&parsed, direction, now),
            Seat::Refused | Seat::Messages(_) | Seat::Waiting(..) => Outcome::default(),
        };
        Ok(self.apply(outcome, message, exchange))
    }

    /// Commands cannot be looked at. Where some are to be blocked, none gets by like that.
    fn unread(
        &self,
        why: &dyn core::fmt::Display,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        exchange.note("commands-unreadable");
        if self.desk.rules.commands.is_empty() {
            return Ok(());
        }
        Err(InterceptError::fail(format!(
            "commands from ec2messages cannot be read: {why}"
        )))
    }

    fn apply(
        &self,
        outcome: Outcome,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> MessageStep {
        for note in outcome.notes {
            exchange.note(note);
        }
        for record in outcome.records {
            self.desk.emit(record);
        }
        for (direction, bytes) in outcome.inject {
            let payload = Payload::Binary(bytes);
            exchange.inject(Message { direction, payload });
        }
        match outcome.step {
            SessionStep::Forward => MessageStep::Forward,
            SessionStep::Replace(bytes) => {
                message.payload = Payload::Binary(bytes);
                MessageStep::Forward
            }
            SessionStep::Drop => MessageStep::Drop,
        }
    }
}

fn globs(key: &str, names: &[String]) -> Result<Vec<NameGlob>, ConfigFault> {
    let parse = |(at, name): (usize, &String)| {
        name.parse().map_err(|error: sdk::InvalidNameGlob| {
            ConfigFault::new(
                format!("{key}[{at}]"),
                format!("{name:?} is no pattern for hosts"),
            )
            .allowed(error.to_string())
        })
    };
    names.iter().enumerate().map(parse).collect()
}

/// Puts a rule where it belongs.
fn add(
    rule: &Rule,
    at: usize,
    policy: &mut Policy,
    rules: &mut DocumentRules,
) -> Result<(), ConfigFault> {
    let fault = |key: &str, message: String| ConfigFault::new(format!("rule[{at}].{key}"), message);
    if rule.name.is_empty() || rule.name.len() > MAX_NAME || rule.name.contains(char::is_control) {
        let fault = fault("name", format!("{:?} is no name", rule.name));
        return Err(fault.allowed("1 to 64 printable characters"));
    }
    let find = Regex::new(&rule.find).map_err(|error| {
        fault("find", error.to_string()).allowed("a regular expression, as of the Rust crate regex")
    })?;
    let with = |default: &str| rule.with.clone().unwrap_or_else(|| default.to_owned());
    if rule.action == Action::Edit && rule.with.is_none() {
        return Err(fault("with", "missing key".to_owned())
            .allowed("what to put in place of what is found"));
    }
    let name = rule.name.clone();
    let action = match (rule.on, rule.action) {
        (On::Input, action) => {
            if with("").contains(char::is_control) {
                return Err(fault("with", "holds a control character".to_owned())
                    .allowed("what could be typed"));
            }
            let action = match action {
                Action::Block => LineAction::Replace(with("# blocked by policy")),
                Action::Edit => LineAction::Edit(with("")),
                Action::End => LineAction::End,
            };
            policy.lines.push(LineRule { name, find, action });
            return Ok(());
        }
        (On::Command | On::Session, Action::Block) => {
            DocumentAction::Block(with("blocked by policy"))
        }
        (On::Command, Action::Edit) => DocumentAction::Edit(with("")),
        (On::Command, Action::End) => {
            return Err(
                fault("action", "a command is no session".to_owned()).allowed("block, edit")
            );
        }
        (On::Session, _) => {
            return Err(fault(
                "action",
                "a session that is asked for can be blocked only".to_owned(),
            )
            .allowed("block"));
        }
    };
    let list = match rule.on {
        On::Session => &mut rules.sessions,
        On::Command | On::Input => &mut rules.commands,
    };
    list.push(DocumentRule { name, find, action });
    Ok(())
}

/// What is remembered of an exchange.
#[derive(Debug)]
enum Seat {
    /// A WebSocket of an agent.
    Control(Box<Control>),
    /// A WebSocket of a session, of which nothing has come yet.
    Waiting(String, Box<Whereabouts>),
    /// A WebSocket of a session.
    Data(Box<Attached>),
    /// A WebSocket of a session that is one too many.
    Refused,
    /// A request for commands.
    Messages(Box<Whereabouts>),
}

/// The kind and the name in the path of a channel: `/v1/KIND/NAME`.
fn channel_of(path: &str) -> Option<(String, String)> {
    let mut parts = path
        .split('/')
        .rev()
        .filter(|part| !part.is_empty())
        .map(decoded);
    let (name, kind, version) = (parts.next()?, parts.next()?, parts.next()?);
    (version == "v1").then_some((kind, name))
}

/// Whether the first message of a session's WebSocket is an agent's.
fn is_agent(first: &Payload) -> bool {
    let Payload::Text(text) = first else {
        return false;
    };
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    text_field(&value, "ClientInstanceId").is_some()
}

/// A part of a path without percent signs.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = |at: usize| char::from(*after.get(at)?).to_digit(16);
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    cut(&String::from_utf8_lossy(&bytes), 256)
}

#[async_trait(?Send)]
impl Interceptor for Ssm {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let name = exchange
            .flow
            .tls
            .as_ref()
            .and_then(|tls| tls.server_name.as_deref());
        let is_one_of = |hosts: &[NameGlob]| {
            let mut names = [request.host(), name].into_iter().flatten();
            names.any(|name| hosts.iter().any(|host| host.matches(name)))
        };
        if request.method == Method::GET && is_one_of(&self.hosts) {
            let at = Whereabouts::of(exchange);
            let seat = match channel_of(request.path()) {
                Some((kind, name)) if kind == "control-channel" => {
                    Seat::Control(Box::new(Control::new(&name, at)))
                }
                Some((kind, name)) if kind == "data-channel" => Seat::Waiting(name, Box::new(at)),
                _ => return Ok(Step::Continue),
            };
            exchange.extensions.insert(seat);
        } else if request.method == Method::POST && is_one_of(&self.message_hosts) {
            let at = Whereabouts::of(exchange);
            match request.headers.get_str(TARGET).and_then(Operation::of) {
                Some(Operation::GetMessages) => {
                    exchange.extensions.insert(Seat::Messages(Box::new(at)));
                }
                Some(Operation::SendReply) => {
                    let content = request.content(&limits()).await;
                    let record = content
                        .ok()
                        .and_then(|content| delivery::reply(content.text()?, &at, Now::read()));
                    match record {
                        Some(record) => self.desk.emit(record),
                        None => exchange.note("reply-unreadable"),
                    }
                }
                None => {}
            }
        }
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let Some(Seat::Messages(at)) = exchange.extensions.get::<Seat>() else {
            return Ok(());
        };
        if response.status != StatusCode::OK {
            return Ok(());
        }
        let rules = &self.desk.rules.commands;
        let content = match response.content(&limits()).await {
            Ok(content) => content,
            Err(error) => return self.unread(&error, exchange),
        };
        let found = content
            .text()
            .and_then(|text| delivery::messages(text, rules, at, Now::read()));
        let Some(found) = found else {
            return self.unread(&"it is no JSON", exchange);
        };
        for note in found.notes {
            exchange.note(note);
        }
        for record in found.records {
            self.desk.emit(record);
        }
        if let Some(text) = found.instead {
            response.set_content(text, content.coding);
        }
        Ok(())
    }

    async fn on_message(
        &self,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> Result<MessageStep, InterceptError> {
        let now = Now::read();
        let endpoint = exchange.flow.endpoint.0;
        let source = exchange.flow.client.ip();
        let Some(seat) = exchange.extensions.get_mut::<Seat>() else {
            return Ok(MessageStep::Forward);
        };
        if let Seat::Waiting(name, at) = seat {
            match self
                .desk
                .attach(endpoint, name, is_agent(&message.payload), at, now)
            {
                Some(attached) => *seat = Seat::Data(Box::new(attached)),
                None => {
                    *seat = Seat::Refused;
                    exchange.note("session-refused");
                    if self.desk.tools.policy.ends_unrecorded {
                        return Ok(MessageStep::Close(POLICY_VIOLATION));
                    }
                    return Ok(MessageStep::Forward);
                }
            }
        }
        let bytes = match &message.payload {
            Payload::Text(text) => {
                if message.direction == Direction::ToServer {
                    match seat {
                        Seat::Control(control) => {
                            let record = control.open(text, now);
                            self.desk.emit(record);
                        }
                        Seat::Data(attached) => {
                            if let Some(record) = attached.open(text) {
                                self.desk.emit(record);
                            }
                        }
                        Seat::Waiting(..) | Seat::Refused | Seat::Messages(_) => {}
                    }
                }
                return Ok(MessageStep::Forward);
            }
            Payload::Binary(bytes) => bytes.clone(),
        };
        self.binary(&bytes, message, exchange, now, (endpoint, source))
    }

    fn connect(&self, records: &Arc<RecordQueue>) {
        self.desk.connect(records);
    }

    fn outlets(&self) -> Vec<Arc<dyn Outlet>> {
        vec![Arc::clone(&self.desk) as Arc<dyn Outlet>]
    }

    fn wants_messages(&self) -> bool {
        true
    }
}

fn limits() -> ContentLimits {
    ContentLimits {
        encoded: MAX_BODY,
        decoded: MAX_BODY,
        ..ContentLimits::default()
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod command_tests;
#[cfg(test)]
#[path = "interceptor_tests.rs"]
mod tests;
