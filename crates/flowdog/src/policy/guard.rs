//! Flows of which it matters that their first bytes are seen before anything passes.
//!
//! Some connections never show their client's first bytes: the server speaks first, segments come in
//! fragments, a table is full. Left alone they would pass, whatever the rules say. Where a rule might
//! refuse the flow or ask about it, the data plane is told so before it lets the handshake through.

use dataplane::{Unseen, Verdict};

use super::{Application, Facts};
use crate::config::{Action, Config, Rule};

/// What holds for a flow that is to be inspected if it shows nothing; `None` if it passes whatever it
/// shows, or if all that matters are names. Rules with conditions on first bytes match nothing then,
/// unless they say otherwise (`unseen = "match"`); an acceptor that is not asked has given no answer.
pub(crate) fn guard(config: &Config, facts: &Facts, passed: &[usize]) -> Option<Unseen> {
    if !config.rules.refuse_or_ask() {
        return None;
    }
    let mut matters = false;
    for number in config.rules.index().of_flow(facts) {
        let Some(rule) = config
            .rules
            .get(number)
            .filter(|_| !passed.contains(&number))
        else {
            continue;
        };
        let is_sure = !rule.needs_first_bytes() || rule.unseen_matches;
        let refusal = match rule.action {
            Action::Drop => Unseen::Drop,
            Action::Reset => Unseen::Reset,
            Action::Ask => match rule.acceptor.as_ref().map(|link| link.refusal()) {
                _ if rule.accept_on_error => {
                    matters = true;
                    continue;
                }
                Some(Verdict::Drop) => return Some(Unseen::Drop),
                _ => return Some(Unseen::Reset),
            },
            Action::Pass | Action::Intercept if is_sure => break,
            Action::Pass | Action::Intercept => continue,
        };
        if is_sure {
            return Some(refusal);
        }
        matters |= may_meet_server_first(rule);
    }
    matters.then_some(Unseen::Pass)
}

/// Whether a rule may match a connection whose server speaks first: it speaks none of the protocols
/// that are known, and has no names.
fn may_meet_server_first(rule: &Rule) -> bool {
    let is_other = |list: &Vec<Application>| list.contains(&Application::Other);
    rule.server_name.is_none()
        && rule.http_host.is_none()
        && rule.application.as_ref().is_none_or(is_other)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn guarded(rules: &str) -> Option<Unseen> {
        let text = format!(
            "[[acceptor]]\nname = 'a'\nuse = 'http-acceptor'\nurl = 'http://127.0.0.1:9/'\n\
             [[acceptor]]\nname = 'silent'\nuse = 'http-acceptor'\nurl = 'http://127.0.0.1:9/'\nrefuse = 'drop'\n{rules}"
        );
        let config = Config::parse(&text, Path::new("flowdog.toml"), &interceptors::all()).unwrap();
        let facts = Facts {
            endpoint: dataplane::VpcEndpointId(1),
            protocol: dataplane::Protocol(6),
            client: "10.0.0.1:40000".parse().unwrap(),
            server: "203.0.113.5:443".parse().unwrap(),
            client_ec2: None,
            server_ec2: None,
        };
        guard(&config, &facts, &[])
    }

    #[test]
    fn threat_60_what_cannot_be_seen_is_refused_where_the_rules_leave_no_other_way() {
        let (name, tls) = ("server-name = '*.example'\n", "application = 'tls'\n");
        let other = "application = 'other'\n";
        let rule =
            |action: &str, conditions: &str| format!("[[rule]]\naction = '{action}'\n{conditions}");
        let ask = |conditions: &str| rule("ask", &format!("acceptor = 'a'\n{conditions}"));
        let open = "on-error = 'accept'\n";
        for (rules, expected) in [
            (rule("intercept", ""), None),
            (rule("reset", name) + &rule("intercept", ""), None),
            (rule("pass", name) + &rule("drop", ""), Some(Unseen::Drop)),
            (
                rule("intercept", tls) + &rule("reset", ""),
                Some(Unseen::Reset),
            ),
            (
                rule("drop", other) + &rule("intercept", ""),
                Some(Unseen::Pass),
            ),
            (
                rule("drop", &format!("{name}unseen = 'match'\n")),
                Some(Unseen::Drop),
            ),
            (ask(name) + &rule("intercept", ""), Some(Unseen::Reset)),
            (
                ask(&format!("{name}{open}")) + &rule("intercept", ""),
                Some(Unseen::Pass),
            ),
            (
                ask(&format!("{name}{open}")) + &rule("drop", ""),
                Some(Unseen::Drop),
            ),
            (
                rule("pass", name) + &rule("ask", "acceptor = 'silent'\n"),
                Some(Unseen::Drop),
            ),
            (rule("pass", "") + &rule("drop", ""), None),
        ] {
            assert_eq!(guarded(&rules), expected, "{rules}");
        }
    }
}
