//! `dns`: queries and answers as records; answers blocked, given or edited by rule; the keys of
//! Encrypted ClientHello taken out.

mod ask;
pub(crate) mod fuzzing;
mod message;
mod record;
mod rewrite;
mod stream;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::sync::Arc;

use sdk::{
    ConfigFault, ConfigTable, HookContext, HookKind, InnerPacket, Leg, NameGlob, PacketHook,
    PacketStep, StreamHook, from_table,
};
use serde::Deserialize;

pub use ask::{DnsAsk, DnsEdit, DnsJudge, DnsOnError, DnsVerdict};
use message::{Message, Question, kind_of};
use record::Transport;
use rewrite::{Edits, NXDOMAIN, REFUSED, Reply};

/// How `dns` is named and made.
pub(crate) const KIND: HookKind = HookKind {
    name: "dns",
    summary: "Records, blocks, answers and edits DNS messages.",
    build,
};

/// Most rules of a hook: they are tried one by one.
const MAX_RULES: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Config {
    record: bool,
    malformed: OnMalformed,
    strip_ech: bool,
    max_ttl: Option<u32>,
    rule: Vec<RuleConfig>,
    replace: Vec<Replace>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            record: true,
            malformed: OnMalformed::Pass,
            strip_ech: false,
            max_ttl: None,
            rule: Vec::new(),
            replace: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnMalformed {
    Drop,
    Pass,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleConfig {
    name: Vec<String>,
    #[serde(default, rename = "type")]
    kinds: Vec<String>,
    action: ActionConfig,
    #[serde(default)]
    address: Vec<IpAddr>,
    #[serde(default = "default_ttl")]
    ttl: u32,
}

fn default_ttl() -> u32 {
    60
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ActionConfig {
    Answer,
    Drop,
    Null,
    Nxdomain,
    Pass,
    Refuse,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Replace {
    from: IpAddr,
    to: IpAddr,
}

/// Reads DNS messages and does with them what its rules say. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dns(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    record: bool,
    malformed: OnMalformed,
    rules: Vec<Rule>,
    edits: Edits,
}

#[derive(Debug)]
struct Rule {
    names: Vec<NameGlob>,
    kinds: Vec<u16>,
    action: Action,
    /// The word for records and metrics.
    word: &'static str,
}

#[derive(Debug)]
enum Action {
    Drop,
    Pass,
    Reply(Reply),
}

impl Rule {
    fn matches(&self, question: &Question) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&question.kind))
            && self.names.iter().any(|name| name.matches(&question.name))
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
enum Treated {
    Pass,
    Changed(Vec<u8>),
    Answered(Vec<u8>),
    Dropped,
}

fn build(table: &ConfigTable) -> Result<Arc<dyn PacketHook>, ConfigFault> {
    Ok(Arc::new(Dns::new(from_table(table)?)?))
}

impl Dns {
    fn new(config: Config) -> Result<Self, ConfigFault> {
        if config.rule.len() > MAX_RULES {
            let message = format!("there are {} rules", config.rule.len());
            return Err(ConfigFault::new("rule", message).allowed("at most 1000"));
        }
        let rules = config.rule.into_iter().enumerate();
        let rules = rules.map(|(at, rule)| read_rule(at, rule));
        let mut edits = Edits {
            max_ttl: config.max_ttl,
            strip_ech: config.strip_ech,
            ..Edits::default()
        };
        for (at, Replace { from, to }) in config.replace.into_iter().enumerate() {
            if from.is_ipv4() != to.is_ipv4() {
                let key = format!("replace[{at}].to");
                let fault = ConfigFault::new(key, "is of another family than `from`");
                return Err(fault.allowed("two IPv4 or two IPv6 addresses"));
            }
            edits.addresses.insert(from, to);
        }
        Ok(Self(Arc::new(Settings {
            record: config.record,
            malformed: config.malformed,
            rules: rules.collect::<Result<_, _>>()?,
            edits,
        })))
    }

    /// Judges one message and says what becomes of it.
    fn treat(&self, bytes: &[u8], transport: Transport, context: &HookContext<'_>) -> Treated {
        let Ok(message) = Message::parse(bytes) else {
            return match self.takes_malformed(context) {
                true => Treated::Pass,
                false => Treated::Dropped,
            };
        };
        let (treated, action) = match (context.from, message.is_response()) {
            (Leg::Client, false) => self.query(&message),
            (Leg::Server, true) => self.answer(&message, context),
            // A query from a server, or an answer from a client: not ours to judge.
            _ => (Treated::Pass, None),
        };
        if let Some(action) = action {
            context.note(action);
        }
        if self.0.record && context.keeps_records() {
            context.record(record::record(&message, transport, action, context));
        }
        treated
    }

    fn query(&self, message: &Message<'_>) -> (Treated, Option<&'static str>) {
        if message.opcode() != 0 {
            return (Treated::Pass, None);
        }
        let Some(question) = &message.question else {
            return (Treated::Pass, None);
        };
        let Some(rule) = self.0.rules.iter().find(|rule| rule.matches(question)) else {
            return (Treated::Pass, None);
        };
        let treated = match &rule.action {
            Action::Pass => return (Treated::Pass, None),
            Action::Drop => Treated::Dropped,
            // Servers answer the first of several questions or none (RFC 9619): no answer of ours
            // would be right.
            Action::Reply(_) if message.questions > 1 => Treated::Dropped,
            Action::Reply(reply) => {
                rewrite::reply(message, reply).map_or(Treated::Dropped, Treated::Answered)
            }
        };
        (treated, Some(rule.word))
    }

    fn answer(
        &self,
        message: &Message<'_>,
        context: &HookContext<'_>,
    ) -> (Treated, Option<&'static str>) {
        let Some((bytes, changes)) = self.0.edits.apply(message) else {
            return (Treated::Pass, None);
        };
        for (changed, note) in [
            (changes.addresses, "address-replaced"),
            (changes.ech, "ech-stripped"),
            (changes.ttl, "ttl-lowered"),
        ] {
            if changed {
                context.note(note);
            }
        }
        (Treated::Changed(bytes), Some("edited"))
    }

    /// Counts something that is no DNS message; whether it goes on.
    fn takes_malformed(&self, context: &HookContext<'_>) -> bool {
        context.note("malformed");
        self.0.malformed == OnMalformed::Pass
    }
}

impl PacketHook for Dns {
    fn on_packet(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep {
        if packet.protocol() != sdk::Protocol::UDP {
            return PacketStep::Pass;
        }
        let Some(udp) = packet.udp() else {
            // A fragment, or a length that is wrong.
            return if self.takes_malformed(context) {
                PacketStep::Pass
            } else {
                PacketStep::Drop
            };
        };
        let edited = match self.treat(udp.data, Transport::Udp, context) {
            Treated::Pass => return PacketStep::Pass,
            Treated::Dropped => return PacketStep::Drop,
            Treated::Changed(bytes) => packet.set_udp_data(&bytes),
            Treated::Answered(bytes) => packet.answer(&bytes),
        };
        // What was to be changed must not go on as it was.
        match edited {
            Ok(()) => PacketStep::Pass,
            Err(_) => {
                context.note("not-editable");
                PacketStep::Drop
            }
        }
    }

    fn stream(&self) -> Option<Box<dyn StreamHook>> {
        Some(Box::new(stream::DnsStream::new(self.clone())))
    }
}

fn read_rule(at: usize, rule: RuleConfig) -> Result<Rule, ConfigFault> {
    let key = |name: &str| format!("rule[{at}].{name}");
    if rule.name.is_empty() {
        return Err(ConfigFault::new(key("name"), "is empty").allowed("\"*\" for every name"));
    }
    let names = rule.name.iter().map(|name| {
        name.parse::<NameGlob>().map_err(|error| {
            let fault = ConfigFault::new(key("name"), format!("\"{name}\" is no name"));
            fault.allowed(error.to_string())
        })
    });
    let kinds = rule.kinds.iter().map(|kind| {
        kind_of(kind).ok_or_else(|| {
            let fault = ConfigFault::new(key("type"), format!("there is no type \"{kind}\""));
            fault.allowed("A, AAAA, CNAME, HTTPS, MX, TXT and so on, or TYPE123")
        })
    });
    let is_answer = rule.action == ActionConfig::Answer;
    if is_answer == rule.address.is_empty() {
        let (message, allowed) = if is_answer {
            ("is missing", "addresses to answer with")
        } else {
            ("means nothing for this action", "action = \"answer\"")
        };
        return Err(ConfigFault::new(key("address"), message).allowed(allowed));
    }
    let null = || vec![IpAddr::from([0; 4]), IpAddr::from([0; 16])];
    let (action, word) = match rule.action {
        ActionConfig::Answer => (
            Action::Reply(Reply::Addresses(rule.address, rule.ttl)),
            "answered",
        ),
        ActionConfig::Drop => (Action::Drop, "dropped"),
        ActionConfig::Null => (Action::Reply(Reply::Addresses(null(), rule.ttl)), "null"),
        ActionConfig::Nxdomain => (Action::Reply(Reply::Code(NXDOMAIN)), "nxdomain"),
        ActionConfig::Pass => (Action::Pass, "passed"),
        ActionConfig::Refuse => (Action::Reply(Reply::Code(REFUSED)), "refused"),
    };
    Ok(Rule {
        names: names.collect::<Result<_, _>>()?,
        kinds: kinds.collect::<Result<_, _>>()?,
        action,
        word,
    })
}
