//! What the fuzz target in `fuzz/` runs, and what the replay of its committed corpus runs in the
//! ordinary tests.

use std::time::{Duration, Instant, UNIX_EPOCH};

use regex::Regex;
use sdk::{Bytes, Direction};

use crate::control::{Control, DocumentRules};
use crate::delivery;
use crate::document::{DocumentAction, DocumentRule};
use crate::message::AgentMessage;
use crate::recorder::Recorder;
use crate::session::{Asked, Outcome, Policy, Session, Step, Tools};
use crate::typed::{LineAction, LineRule};
use crate::whereabouts::{Now, Whereabouts};

/// Longest message in a seed.
const MAX_MESSAGE: usize = 1 << 16;

/// Messages of a channel, each after its direction (one byte) and length (two bytes): first byte even, a
/// session; odd, a control channel. Bit 1 says whether there are rules.
///
/// # Panics
/// When a message is not written as it was read, or what is sent on cannot be read.
pub fn channel(seed: &[u8]) {
    let Some((&first, mut rest)) = seed.split_first() else {
        return;
    };
    let now = Now {
        wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        clock: Instant::now(),
    };
    let (tools, rules) = tools(first & 2 != 0);
    let at = whereabouts();
    let mut session = Session::new("s", at.clone(), Asked::default(), now);
    let mut control = Control::new("i-1", at.clone());
    while let [direction, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(MAX_MESSAGE);
        let (raw, after) = after.split_at(length.min(after.len()));
        rest = after;
        let direction = if direction & 1 == 0 {
            Direction::ToClient
        } else {
            Direction::ToServer
        };
        if let Ok(text) = core::str::from_utf8(raw) {
            let _ = session.open(text);
            let _ = control.open(text, now);
            let _ = delivery::messages(text, &rules.commands, &at, now);
            let _ = delivery::reply(text, &at, now);
        }
        let raw = Bytes::copy_from_slice(raw);
        let Ok(message) = AgentMessage::parse(&raw) else {
            continue;
        };
        assert_eq!(message.clone().into_bytes(), raw);
        let outcome = if first & 1 == 0 {
            session.message(&message, direction, &tools, now)
        } else {
            control.message(&message, direction, &rules, &tools, now).0
        };
        check(&message, outcome);
    }
    let _ = session.finish("over", &tools, now);
}

/// What is sent on is whole, and an edited message keeps its name and its place.
fn check(message: &AgentMessage, outcome: Outcome) {
    if let Step::Replace(bytes) = outcome.step {
        let edited = AgentMessage::parse(&bytes);
        let same = edited.is_ok_and(|edited| {
            (edited.kind, edited.id, edited.sequence)
                == (message.kind, message.id, message.sequence)
        });
        assert!(same, "an edit is not the same message any more");
    }
    for (_, bytes) in outcome.inject {
        assert!(
            AgentMessage::parse(&bytes).is_ok(),
            "a message of ours is malformed"
        );
    }
    for record in outcome.records {
        let text = serde_json::Value::Object(record.fields).to_string();
        assert!(!text.contains('\n'), "a record is more than a line");
    }
}

fn tools(has_rules: bool) -> (Tools, DocumentRules) {
    let mut policy = Policy {
        records: true,
        records_input: true,
        ..Policy::default()
    };
    let mut rules = DocumentRules::default();
    let find = Regex::new("rm|curl");
    if let (true, Ok(find)) = (has_rules, find) {
        let name = "r".to_owned();
        let action = LineAction::Replace("# no".to_owned());
        let line = LineRule {
            name: name.clone(),
            find: find.clone(),
            action,
        };
        policy.lines.push(line);
        for action in [
            DocumentAction::Edit("x".to_owned()),
            DocumentAction::Block("no".to_owned()),
        ] {
            let rule = DocumentRule {
                name: name.clone(),
                find: find.clone(),
                action,
            };
            rules.commands.push(rule.clone());
            rules.sessions.push(rule);
        }
    }
    let tools = Tools {
        policy,
        // Writes nothing.
        recorder: Recorder::default(),
        ids: Default::default(),
    };
    (tools, rules)
}

fn whereabouts() -> Whereabouts {
    let nowhere = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
    Whereabouts {
        host: "ssmmessages.eu-west-1.amazonaws.com".to_owned(),
        endpoint: "vpce-1".to_owned(),
        source: nowhere,
        server: nowhere,
        ec2: None,
    }
}
