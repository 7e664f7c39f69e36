//! DNS messages put before a judge that may take its time: the message is held meanwhile.

use core::fmt;
use core::net::IpAddr;
use std::sync::Arc;

use sdk::{
    HookContext, InnerPacket, Leg, PacketHook, PacketStep, StreamHook, StreamOutput, StreamStep,
    async_trait,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Treated;
use super::message::{Message, rcode_of};
use super::record::{Transport, told};
use super::rewrite::{self, Reply, SERVFAIL};
use super::stream::{frame, split};

/// Longest time to live that an answer may have (RFC 2181 §8).
const MAX_TTL: u32 = i32::MAX as u32;
/// Most addresses of an answer: they fit into one datagram.
const MAX_ADDRESSES: usize = 32;

/// Says what becomes of DNS messages.
#[async_trait(?Send)]
pub trait DnsJudge: Send + Sync + fmt::Debug {
    /// Whether it is to be asked about a query, or an answer, for this name. Called on the packet
    /// path.
    fn wants(&self, is_answer: bool, name: &str) -> bool;

    /// A message: `message` (`query` or `answer`), `transport`, `id`, `name`, `type`, and of answers
    /// `rcode`, `answers` with `type`, `ttl` and `data`, and `truncated`. `None`: there is no verdict,
    /// and the policy for errors holds.
    async fn judge(
        &self,
        message: Map<String, Value>,
        context: &HookContext<'_>,
    ) -> Option<DnsVerdict>;
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsVerdict {
    /// It goes on.
    Pass,
    /// It is lost.
    Drop,
    /// The client gets this answer.
    Answer {
        /// The response code.
        code: u16,
        /// Addresses; those of the type asked for are told.
        addresses: Vec<IpAddr>,
        /// Seconds for which the addresses hold.
        ttl: u32,
    },
    /// The answer goes on with these changes.
    Edit(Vec<DnsEdit>),
}

/// A change of one record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsEdit {
    /// The number of the record, from 0.
    pub record: usize,
    /// Its time to live.
    pub ttl: Option<u32>,
    /// Its address, of the family that it had.
    pub address: Option<IpAddr>,
}

/// What becomes of messages without a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsOnError {
    /// They are lost; the client asks again.
    Drop,
    /// They go on.
    Pass,
    /// The client is told that it failed.
    #[default]
    Servfail,
}

impl DnsVerdict {
    /// Reads what a judge says in JSON about the message that it was given: the message, with changed
    /// `ttl` or `data` of answers; `null` to drop it; `{rcode, addresses, ttl}` as an answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(said: &Value, message: &Map<String, Value>) -> Result<Self, String> {
        let said = match said {
            Value::Null => return Ok(Self::Drop),
            Value::Object(said) => said,
            _ => return Err("it is neither the message, nor an answer, nor null".to_owned()),
        };
        if said.contains_key("id") {
            return edits(said, message);
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Answer {
            rcode: Option<String>,
            #[serde(default)]
            addresses: Vec<IpAddr>,
            ttl: Option<u32>,
        }
        let answer: Answer = serde_json::from_value(Value::Object(said.clone()))
            .map_err(|error| format!("it is no answer: {error}"))?;
        if answer.rcode.is_none() && answer.addresses.is_empty() {
            return Err("an answer has rcode, addresses or both".to_owned());
        }
        if answer.addresses.len() > MAX_ADDRESSES {
            return Err(format!("an answer has at most {MAX_ADDRESSES} addresses"));
        }
        let code = match &answer.rcode {
            None => 0,
            Some(name) => {
                rcode_of(name).ok_or_else(|| format!("there is no rcode \"{name:.20}\""))?
            }
        };
        if code != 0 && !answer.addresses.is_empty() {
            return Err("only an answer with NOERROR has addresses".to_owned());
        }
        Ok(Self::Answer {
            code,
            addresses: answer.addresses,
            ttl: answer.ttl.unwrap_or_else(super::default_ttl).min(MAX_TTL),
        })
    }
}

/// What was changed in a message that came back.
fn edits(said: &Map<String, Value>, message: &Map<String, Value>) -> Result<DnsVerdict, String> {
    for (key, value) in message.iter().filter(|(key, _)| *key != "answers") {
        if said.get(key) != Some(value) {
            return Err(format!("{key} of a message cannot be changed"));
        }
    }
    let none = Vec::new();
    let list = |object: &Map<String, Value>| object.get("answers").cloned();
    let (old, new) = (list(message), list(said));
    let old = old.as_ref().and_then(Value::as_array).unwrap_or(&none);
    let new = new.as_ref().and_then(Value::as_array).unwrap_or(&none);
    if old.len() != new.len() {
        let what = "records of an answer cannot be added or taken away; give {addresses} instead";
        return Err(what.to_owned());
    }
    let mut edits = Vec::new();
    for (record, (old, new)) in old.iter().zip(new).enumerate() {
        if old == new {
            continue;
        }
        let changed = |key: &str| new.get(key).filter(|value| old.get(key) != Some(value));
        if old.get("type") != new.get("type") {
            return Err(format!("answers[{record}].type cannot be changed"));
        }
        let ttl = match changed("ttl") {
            None => None,
            Some(ttl) => {
                let ttl = ttl.as_u64().and_then(|ttl| u32::try_from(ttl).ok());
                let ttl = ttl.filter(|ttl| *ttl <= MAX_TTL);
                Some(ttl.ok_or_else(|| format!("answers[{record}].ttl is no time to live"))?)
            }
        };
        let address = match changed("data") {
            None => None,
            Some(data) => {
                let read = |value: Option<&Value>| value?.as_str()?.parse::<IpAddr>().ok();
                let address = read(Some(data)).zip(read(old.get("data")));
                let address = address.filter(|(new, old)| new.is_ipv4() == old.is_ipv4());
                let wrong = "can only be changed from one address to another of its family";
                Some(
                    address
                        .ok_or_else(|| format!("answers[{record}].data {wrong}"))?
                        .0,
                )
            }
        };
        edits.push(DnsEdit {
            record,
            ttl,
            address,
        });
    }
    Ok(if edits.is_empty() {
        DnsVerdict::Pass
    } else {
        DnsVerdict::Edit(edits)
    })
}

/// A hook that asks a judge about DNS messages. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DnsAsk {
    judge: Arc<dyn DnsJudge>,
    on_error: DnsOnError,
}

impl DnsAsk {
    /// A hook that asks this judge.
    #[must_use]
    pub fn new(judge: Arc<dyn DnsJudge>, on_error: DnsOnError) -> Self {
        Self { judge, on_error }
    }

    /// What is known without the judge; `None` if it is to be asked.
    fn at_once(&self, bytes: &[u8], context: &HookContext<'_>) -> Option<Treated> {
        let Ok(message) = Message::parse(bytes) else {
            context.note("malformed");
            // A server may still understand what we do not.
            return Some(match self.on_error {
                DnsOnError::Pass => Treated::Pass,
                DnsOnError::Drop | DnsOnError::Servfail => Treated::Dropped,
            });
        };
        let is_answer = match (context.from, message.is_response()) {
            (Leg::Client, false) => false,
            (Leg::Server, true) => true,
            _ => return Some(Treated::Pass),
        };
        let Some(question) = message.question.as_ref().filter(|_| message.opcode() == 0) else {
            return Some(Treated::Pass);
        };
        if !self.judge.wants(is_answer, &question.name) {
            return Some(Treated::Pass);
        }
        // Servers answer the first of several questions or none (RFC 9619): a judge who sees one of
        // them has not judged the others.
        (message.questions > 1).then(|| {
            context.note("several-questions");
            Treated::Dropped
        })
    }

    async fn ask(&self, bytes: &[u8], transport: Transport, context: &HookContext<'_>) -> Treated {
        let Ok(message) = Message::parse(bytes) else {
            return Treated::Dropped;
        };
        let is_answer = context.from == Leg::Server;
        let event = told(&message, transport, is_answer);
        let Some(verdict) = self.judge.judge(event, context).await else {
            return self.failed(&message, context);
        };
        let (treated, word) = match verdict {
            DnsVerdict::Pass => (Some(Treated::Pass), "passed"),
            DnsVerdict::Drop => (Some(Treated::Dropped), "dropped"),
            DnsVerdict::Answer {
                code,
                addresses,
                ttl,
            } => {
                let reply = if addresses.is_empty() {
                    Reply::Code(code)
                } else {
                    Reply::Addresses(addresses, ttl)
                };
                (replied(&message, &reply, is_answer), "answered")
            }
            DnsVerdict::Edit(edits) => {
                let edited = rewrite::edit(&message, &edits);
                (edited.map(Treated::Changed), "edited")
            }
        };
        let Some(treated) = treated else {
            return self.failed(&message, context);
        };
        context.note(word);
        treated
    }

    /// What the policy for errors says.
    fn failed(&self, message: &Message<'_>, context: &HookContext<'_>) -> Treated {
        match self.on_error {
            DnsOnError::Drop => {
                context.note("failed-dropped");
                Treated::Dropped
            }
            DnsOnError::Pass => {
                context.note("failed-passed");
                Treated::Pass
            }
            DnsOnError::Servfail => {
                context.note("failed-servfail");
                let is_answer = context.from == Leg::Server;
                replied(message, &Reply::Code(SERVFAIL), is_answer).unwrap_or(Treated::Dropped)
            }
        }
    }

    fn apply(
        treated: Treated,
        packet: &mut InnerPacket<'_>,
        context: &HookContext<'_>,
    ) -> PacketStep {
        let edited = match treated {
            Treated::Pass => return PacketStep::Pass,
            Treated::Dropped => return PacketStep::Drop,
            Treated::Changed(bytes) => packet.set_udp_data(&bytes),
            Treated::Answered(bytes) => packet.answer(&bytes),
        };
        match edited {
            Ok(()) => PacketStep::Pass,
            Err(_) => {
                context.note("not-editable");
                PacketStep::Drop
            }
        }
    }
}

/// An answer of ours: to a query it goes back, an answer it takes the place of.
fn replied(message: &Message<'_>, reply: &Reply, is_answer: bool) -> Option<Treated> {
    let bytes = rewrite::reply(message, reply)?;
    Some(if is_answer {
        Treated::Changed(bytes)
    } else {
        Treated::Answered(bytes)
    })
}

#[async_trait(?Send)]
impl PacketHook for DnsAsk {
    fn on_packet(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep {
        if packet.protocol() != sdk::Protocol::UDP {
            return PacketStep::Pass;
        }
        // A fragment, or a length that is wrong, is no message either.
        let data = packet.udp().map_or(&[][..], |udp| udp.data);
        match self.at_once(data, context) {
            Some(treated) => Self::apply(treated, packet, context),
            None => PacketStep::Hold,
        }
    }

    async fn on_held(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep {
        let Some(udp) = packet.udp() else {
            return PacketStep::Drop;
        };
        let treated = self.ask(udp.data, Transport::Udp, context).await;
        Self::apply(treated, packet, context)
    }

    fn on_unheld(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep {
        let message = packet.udp().and_then(|udp| Message::parse(udp.data).ok());
        let Some(message) = message else {
            return PacketStep::Drop;
        };
        let treated = self.failed(&message, context);
        Self::apply(treated, packet, context)
    }

    fn stream(&self) -> Option<Box<dyn StreamHook>> {
        Some(Box::new(AskStream {
            hook: self.clone(),
            partial: Default::default(),
        }))
    }
}

/// DNS over TCP. What is kept of each direction is at most one message and what came with it.
#[derive(Debug)]
struct AskStream {
    hook: DnsAsk,
    partial: [Vec<u8>; 2],
}

impl AskStream {
    fn partial(&mut self, from: Leg) -> &mut Vec<u8> {
        let [client, server] = &mut self.partial;
        match from {
            Leg::Client => client,
            Leg::Server => server,
        }
    }
}

fn put(treated: &Treated, message: &[u8], output: &mut StreamOutput) {
    match treated {
        Treated::Pass => frame(message, &mut output.onward),
        Treated::Changed(changed) => frame(changed, &mut output.onward),
        Treated::Answered(answer) => frame(answer, &mut output.back),
        Treated::Dropped => {}
    }
}

#[async_trait(?Send)]
impl StreamHook for AskStream {
    fn on_bytes(
        &mut self,
        bytes: &[u8],
        output: &mut StreamOutput,
        context: &HookContext<'_>,
    ) -> StreamStep {
        let mut kept = core::mem::take(self.partial(context.from));
        kept.extend_from_slice(bytes);
        let (mut rest, mut step) = (kept.as_slice(), StreamStep::Continue);
        while let Some((message, after)) = split(rest) {
            let Some(treated) = self.hook.at_once(message, context) else {
                step = StreamStep::Wait;
                break;
            };
            put(&treated, message, output);
            rest = after;
        }
        let done = kept.len() - rest.len();
        kept.drain(..done);
        *self.partial(context.from) = kept;
        step
    }

    async fn on_wait(
        &mut self,
        output: &mut StreamOutput,
        context: &HookContext<'_>,
    ) -> StreamStep {
        let mut kept = core::mem::take(self.partial(context.from));
        let mut rest = kept.as_slice();
        while let Some((message, after)) = split(rest) {
            let treated = match self.hook.at_once(message, context) {
                Some(treated) => treated,
                None => self.hook.ask(message, Transport::Tcp, context).await,
            };
            put(&treated, message, output);
            rest = after;
        }
        let done = kept.len() - rest.len();
        kept.drain(..done);
        *self.partial(context.from) = kept;
        StreamStep::Continue
    }

    fn on_end(&mut self, output: &mut StreamOutput, context: &HookContext<'_>) {
        let left = core::mem::take(self.partial(context.from));
        if !left.is_empty() {
            context.note("malformed");
            if self.hook.on_error == DnsOnError::Pass {
                output.onward.extend_from_slice(&left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::future::{Future, ready};
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};
    use std::time::SystemTime;

    use sdk::testing::flow;
    use sdk::{HookLink, HookSight, Hooks, Shown, VpcEndpointId};
    use serde_json::json;

    use super::*;

    fn message(answers: Value) -> Map<String, Value> {
        let mut message = Map::new();
        message.insert("id".to_owned(), 1.into());
        message.insert("name".to_owned(), "a.b".into());
        message.insert("answers".to_owned(), answers);
        message
    }

    #[test]
    fn every_form_of_a_verdict_is_read_and_every_other_refused_with_a_reason() {
        let old = message(
            json!([{"type": "A", "ttl": 9, "data": "192.0.2.1"}, {"type": "TXT", "ttl": 9}]),
        );
        let read = |said: Value| DnsVerdict::from_json(&said, &old);
        let back = |answers: Value| read(Value::Object(message(answers)));
        assert_eq!(read(Value::Null), Ok(DnsVerdict::Drop));
        assert_eq!(read(Value::Object(old.clone())), Ok(DnsVerdict::Pass));
        assert_eq!(
            read(json!({"addresses": ["10.0.0.1", "::1"]})),
            Ok(DnsVerdict::Answer {
                code: 0,
                addresses: vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
                ttl: 60,
            })
        );
        let Ok(DnsVerdict::Answer { code: 5, .. }) = read(json!({"rcode": "REFUSED"})) else {
            panic!("REFUSED is 5");
        };
        assert_eq!(
            back(json!([{"type": "A", "ttl": 5, "data": "10.0.0.1"}, {"type": "TXT", "ttl": 9}])),
            Ok(DnsVerdict::Edit(vec![DnsEdit {
                record: 0,
                ttl: Some(5),
                address: Some("10.0.0.1".parse().unwrap()),
            }]))
        );
        let txt = json!({"type": "TXT", "ttl": 9});
        for (said, expected) in [
            (json!(true), "neither the message"),
            (json!({}), "rcode, addresses or both"),
            (json!({"rcode": "no"}), "no rcode"),
            (json!({"addresses": ["x"]}), "no answer"),
            (
                json!({"rcode": "NXDOMAIN", "addresses": ["::1"]}),
                "NOERROR",
            ),
            (json!({"addresses": vec!["::1"; 33]}), "at most 32"),
            (json!({"address": "::1"}), "unknown field"),
            (
                json!({"id": 1, "name": "c.d", "answers": old["answers"]}),
                "name of a message",
            ),
            (
                json!({"id": 1, "name": "a.b", "answers": [txt]}),
                "added or taken away",
            ),
            (
                json!({"id": 1, "name": "a.b", "answers": [txt, txt]}),
                "type cannot",
            ),
            (
                json!({"id": 1, "name": "a.b", "answers": [{"type": "A", "ttl": -1, "data": "192.0.2.1"}, txt]}),
                "ttl is no",
            ),
            (
                json!({"id": 1, "name": "a.b", "answers": [{"type": "A", "ttl": 9, "data": "::1"}, txt]}),
                "of its family",
            ),
            (
                json!({"id": 1, "name": "a.b", "answers": [{"type": "A", "ttl": 9, "data": "192.0.2.1"}, {"type": "TXT", "ttl": 9, "data": "::1"}]}),
                "of its family",
            ),
        ] {
            let error = read(said.clone()).unwrap_err();
            assert!(error.contains(expected), "{said}: {error}");
        }
    }

    /// Answers by the first label: `x` is unknown to it, `never` waits for ever.
    #[derive(Debug)]
    struct ByName;

    #[async_trait(?Send)]
    impl DnsJudge for ByName {
        fn wants(&self, is_answer: bool, name: &str) -> bool {
            !is_answer && name != "free"
        }

        async fn judge(
            &self,
            message: Map<String, Value>,
            _: &HookContext<'_>,
        ) -> Option<DnsVerdict> {
            match message["name"].as_str()? {
                "never" => core::future::pending().await,
                "gone" => Some(DnsVerdict::Drop),
                "x" => None,
                _ => Some(DnsVerdict::Answer {
                    code: 3,
                    addresses: Vec::new(),
                    ttl: 0,
                }),
            }
        }
    }

    fn hooks(on_error: DnsOnError) -> Hooks {
        let hook = DnsAsk::new(Arc::new(ByName), on_error);
        Hooks::new(vec![HookLink::new("ask", Arc::new(hook))])
    }

    fn query(name: &str) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    fn done<T>(future: impl Future<Output = T>) -> T {
        let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(value) = polled else {
            panic!("it waits");
        };
        value
    }

    /// What becomes of a query over UDP: the code of the answer, `Ok` if it goes on, `None` if it is
    /// lost. `late`: time is up at once.
    fn asked(hooks: &Hooks, data: &[u8], late: bool) -> Option<Result<(), u8>> {
        let total = (28 + data.len() as u16).to_be_bytes();
        let length = (8 + data.len() as u16).to_be_bytes();
        let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
        bytes.extend([
            10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 53, length[0], length[1], 0, 0,
        ]);
        bytes.extend(data);
        let mut packet = InnerPacket::parse(VpcEndpointId(1), &bytes).unwrap();
        let flow = flow();
        let sight = HookSight {
            flow: &flow,
            from: Leg::Client,
            now: SystemTime::UNIX_EPOCH,
            records: None,
        };
        let is_sent = match hooks.on_packet(&mut packet, &sight) {
            Shown::Pass => true,
            Shown::Drop => false,
            Shown::Held(held) if late => done(hooks.on_held(held, &mut packet, &sight, ready(()))),
            Shown::Held(held) => {
                done(hooks.on_held(held, &mut packet, &sight, core::future::pending()))
            }
        };
        let is_answer = packet.src() == IpAddr::from([10, 0, 0, 2]);
        let code = packet
            .udp()
            .and_then(|udp| udp.data.get(3).map(|byte| byte & 0xf));
        is_sent.then(|| {
            if is_answer {
                Err(code.unwrap())
            } else {
                Ok(())
            }
        })
    }

    #[test]
    fn what_has_no_verdict_follows_the_policy() {
        for (policy, without) in [
            (DnsOnError::Servfail, Some(Err(2))),
            (DnsOnError::Drop, None),
            (DnsOnError::Pass, Some(Ok(()))),
        ] {
            let hooks = hooks(policy);
            assert_eq!(asked(&hooks, &query("name"), false), Some(Err(3)));
            assert_eq!(asked(&hooks, &query("gone"), false), None);
            assert_eq!(asked(&hooks, &query("free"), false), Some(Ok(())));
            assert_eq!(asked(&hooks, &query("x"), false), without, "{policy:?}");
            assert_eq!(asked(&hooks, &query("never"), true), without, "{policy:?}");
            let passes = policy == DnsOnError::Pass;
            assert_eq!(asked(&hooks, b"no dns", false).is_some(), passes);
            let mut two = query("name");
            two[5] = 2;
            two.extend([1, b'c', 0, 0, 1, 0, 1]);
            assert_eq!(asked(&hooks, &two, false), None, "two questions");
        }
    }

    #[test]
    fn messages_over_tcp_wait_their_turn() {
        let (hooks, flow) = (hooks(DnsOnError::Servfail), flow());
        let mut streams = hooks.streams().unwrap();
        let sight = HookSight {
            flow: &flow,
            from: Leg::Client,
            now: SystemTime::UNIX_EPOCH,
            records: None,
        };
        let mut bytes = Vec::new();
        for name in ["free", "name", "free", "x", "gone"] {
            frame(&query(name), &mut bytes);
        }
        let (head, tail) = bytes.split_at(bytes.len() - 3);
        let mut output = StreamOutput::default();
        let step = streams.on_bytes(head, false, &sight, &mut output);
        assert_eq!(step, StreamStep::Wait);
        assert_eq!(
            done(streams.wait(&sight, &mut output)),
            StreamStep::Continue
        );
        let step = streams.on_bytes(tail, true, &sight, &mut output);
        assert_eq!(step, StreamStep::Wait);
        assert_eq!(
            done(streams.wait(&sight, &mut output)),
            StreamStep::Continue
        );
        let mut free = Vec::new();
        frame(&query("free"), &mut free);
        assert_eq!(output.onward, [&free[..], &free].concat());
        let (first, rest) = split(&output.back).unwrap();
        let (second, rest) = split(rest).unwrap();
        assert_eq!((first[3] & 0xf, second[3] & 0xf, rest.len()), (3, 2, 0));
    }
}
