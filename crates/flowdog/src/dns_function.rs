//! `dns-function`: asks the `onDns` of a function in JavaScript about DNS messages.

use std::sync::Arc;
use std::time::SystemTime;

use interceptors::{DnsAsk, DnsJudge, DnsOnError, DnsVerdict};
use script::{Call, Entry, Function};
use sdk::{
    ConfigFault, ConfigTable, HookContext, HookKind, NameGlob, PacketHook, async_trait, from_table,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// How `dns-function` is named and made.
pub(crate) const KIND: HookKind = HookKind {
    name: "dns-function",
    summary: "Asks a function in JavaScript what becomes of DNS messages.",
    build,
};

/// Most names of a hook: they are tried one by one.
const MAX_NAMES: usize = 1000;
/// The keys that are not the function's own.
const OWN_KEYS: [&str; 3] = ["messages", "names", "on-error"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    /// Which messages it is asked about.
    #[serde(default = "every_message")]
    messages: Vec<Kind>,
    /// For which names. Default: all.
    #[serde(default)]
    names: Vec<String>,
    /// What becomes of messages about which it gives no valid answer.
    #[serde(default)]
    on_error: DnsOnError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Query,
    Answer,
}

fn every_message() -> Vec<Kind> {
    vec![Kind::Query, Kind::Answer]
}

#[derive(Debug)]
struct Judge {
    function: Function,
    messages: Vec<Kind>,
    names: Vec<NameGlob>,
}

fn build(table: &ConfigTable) -> Result<Arc<dyn PacketHook>, ConfigFault> {
    let (mut own, mut of_function) = (ConfigTable::new(), ConfigTable::new());
    for (key, value) in table {
        let table = match OWN_KEYS.contains(&key.as_str()) {
            true => &mut own,
            false => &mut of_function,
        };
        table.insert(key.clone(), value.clone());
    }
    let keys: Keys = from_table(&own)?;
    if keys.names.len() > MAX_NAMES {
        let message = format!("there are {} names", keys.names.len());
        return Err(ConfigFault::new("names", message).allowed(format!("at most {MAX_NAMES}")));
    }
    let names = keys.names.iter().enumerate().map(|(at, name)| {
        name.parse::<NameGlob>().map_err(|error| {
            let fault = ConfigFault::new(format!("names[{at}]"), format!("\"{name}\" is no name"));
            fault.allowed(error.to_string())
        })
    });
    let names = names.collect::<Result<_, _>>()?;
    let function = Function::from_table(&of_function)?;
    if !function.handles(Entry::Dns) {
        let fault = ConfigFault::new("file", "there is no function onDns in it");
        return Err(fault.allowed("a file with `function onDns(event)`"));
    }
    let judge = Judge {
        function,
        messages: keys.messages,
        names,
    };
    Ok(Arc::new(DnsAsk::new(Arc::new(judge), keys.on_error)))
}

#[async_trait(?Send)]
impl DnsJudge for Judge {
    fn wants(&self, is_answer: bool, name: &str) -> bool {
        let kind = if is_answer { Kind::Answer } else { Kind::Query };
        self.messages.contains(&kind)
            && (self.names.is_empty() || self.names.iter().any(|glob| glob.matches(name)))
    }

    async fn judge(
        &self,
        message: Map<String, Value>,
        context: &HookContext<'_>,
    ) -> Option<DnsVerdict> {
        let message = Value::Object(message);
        let event = script::dns_event(&message.to_string(), context.flow);
        let call = Call::new(Entry::Dns, event, SystemTime::now());
        let name = message["name"].as_str().unwrap_or_default();
        let done = self.function.call_and_log(call, name).await;
        let failed = |word: &'static str, what: &dyn std::fmt::Display| {
            context.note(word);
            tracing::debug!(flow = %context.flow.id, name, %what, "onDns gives no verdict");
        };
        if let Some(fault) = done.fault() {
            failed(fault.word(), fault);
            return None;
        }
        let said = done.json.as_deref().unwrap_or("undefined");
        let verdict = serde_json::from_str(said)
            .map_err(|_| "it returned nothing".to_owned())
            .and_then(|said| {
                let Value::Object(message) = &message else {
                    return Err("there is no message".to_owned());
                };
                DnsVerdict::from_json(&said, message)
            });
        verdict
            .inspect_err(|what| failed("script-invalid-result", what))
            .ok()
    }
}
