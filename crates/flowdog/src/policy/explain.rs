//! Which rule decides about a flow, and why: the same decisions as at work, told step by step.

use std::fmt;
use std::sync::Arc;

use dataplane::{Protocol, Verdict, VpcEndpointId};
use sdk::Ec2Host;
use serde_json::{Value, json};

use super::{
    Application, ClientTls, Decision, Facts, FirstSight, OpenStep, PassReason, QuicSight, TlsTerms,
    UDP, at_open_of, decider, intercept, with_tls_policy,
};
use crate::config::{Action, Config, Ech, HostConditions, Rule, hosts};

/// A flow to be judged, as far as it is known.
#[derive(Clone, Debug)]
pub struct Question {
    /// The VPC endpoint it comes through.
    pub endpoint: VpcEndpointId,
    /// The IP protocol number.
    pub protocol: u8,
    /// Address and port of the host that opens it.
    pub from: std::net::SocketAddr,
    /// Address and port it opens it to.
    pub to: std::net::SocketAddr,
    /// What EC2 knows of the host that opens it.
    pub client_ec2: Option<Arc<Ec2Host>>,
    /// The same of the host at `to`.
    pub server_ec2: Option<Arc<Ec2Host>>,
    /// Whether its handshake was not seen.
    pub mid_flow: bool,
    /// What the client speaks. Without it: TLS if there is a server name, HTTP/1 if there is a
    /// host, and otherwise what `to`'s port suggests.
    pub application: Option<Application>,
    /// What else is known of a client that speaks TLS.
    pub tls: ClientTls,
    /// The name in the TLS ClientHello.
    pub server_name: Option<String>,
    /// The host of the first HTTP/1 request in clear.
    pub http_host: Option<String>,
}

impl Question {
    fn facts(&self) -> Facts {
        Facts {
            endpoint: self.endpoint,
            protocol: Protocol(self.protocol),
            client: self.from,
            server: self.to,
            client_ec2: self.client_ec2.clone(),
            server_ec2: self.server_ec2.clone(),
        }
    }

    fn application(&self) -> Application {
        self.application.unwrap_or_else(|| {
            if self.protocol == UDP.0 && self.server_name.is_some() {
                Application::Quic
            } else if self.server_name.is_some() || self.tls.says_tls() {
                Application::Tls
            } else if self.http_host.is_some() {
                Application::Http1
            } else {
                match self.to.port() {
                    443 | 8443 => Application::Tls,
                    80 | 8080 => Application::Http1,
                    _ => Application::Other,
                }
            }
        })
    }
}

/// The answer to a [`Question`]. `Display` is for people.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Every rule up to the one that decides, in order.
    pub rules: Vec<RuleSeen>,
    /// The name of the rule that decides; `None` if no rule matches.
    pub decided_by: Option<String>,
    /// What happens: `pass`, `drop`, `reset`, `intercept`, or `refuse` for an alert of TLS.
    pub outcome: &'static str,
    /// Why, in a sentence.
    pub why: String,
    /// Whether it takes the first bytes of the client to tell.
    pub at_first_bytes: bool,
    /// What the client is taken to speak.
    pub application: Option<Application>,
    /// The interceptors that run, in order.
    pub interceptors: Vec<String>,
    /// The hooks that see its packets or bytes, in order.
    pub hooks: Vec<String>,
    /// The acceptors that are asked first, in order; they are taken to accept.
    pub acceptors: Vec<String>,
    /// What the rule says about TLS, if it intercepts TLS.
    pub tls: Option<TlsTerms>,
}

/// A rule, and whether it matches.
#[derive(Clone, Debug)]
pub struct RuleSeen {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// The word of its action.
    pub action: &'static str,
    /// The first condition that does not hold; `None` if all do.
    pub unmet: Option<String>,
}

/// The number, from 0, of the first rule all of whose conditions hold, found as at work; `None` if there
/// is none. A rule that asks an acceptor counts as any other.
#[must_use]
pub fn first_rule(config: &Config, question: &Question) -> Option<usize> {
    let sight = FirstSight {
        application: question.application(),
        server_name: question.server_name.as_deref(),
        http_host: question.http_host.as_deref(),
    };
    let mut matches = config
        .rules
        .index()
        .of_first_bytes(&question.facts(), &sight);
    matches.next()
}

/// Says which rule decides about a flow, and why.
#[must_use]
pub fn explain(config: &Config, question: &Question) -> Explanation {
    let facts = question.facts();
    let is_quic = question.protocol == UDP.0 && question.application() == Application::Quic;
    let quic = is_quic.then(|| QuicSight {
        server_name: question.server_name.clone(),
        ja4: None,
    });
    let mut from = 0;
    let mut acceptors = Vec::new();
    // Each acceptor is taken to accept; what it may refuse is in its hands.
    let opening = loop {
        let opening = at_open_of(config, &facts, question.mid_flow, from, quic.as_ref());
        match (opening.step, opening.number) {
            (OpenStep::Ask, Some(number)) => {
                acceptors.extend(opening.rule.and_then(|rule| rule.acceptor_name()));
                from = number + 1;
            }
            _ => break opening,
        }
    };
    let inspected = matches!(
        opening.step,
        OpenStep::Verdict(Verdict::Inspect | Verdict::InspectEither)
    );
    let application = question.application();
    let sight = FirstSight {
        application,
        server_name: question.server_name.as_deref(),
        http_host: question.http_host.as_deref(),
    };
    let (rule, outcome, why) = if inspected {
        let mut passed = Vec::new();
        let rule = loop {
            let found = decider(config, &facts, &sight, &passed);
            match found {
                Some((number, rule)) if rule.action == Action::Ask => {
                    if number >= from {
                        acceptors.extend(rule.acceptor_name());
                    }
                    passed.push(number);
                }
                _ => break found.map(|(_, rule)| rule),
            }
        };
        let (outcome, why) = at_bytes(config, rule, application, question.tls);
        (rule, outcome, why)
    } else {
        let (outcome, why) = at_start(&opening.step, opening.rule, question);
        (opening.rule, outcome, why)
    };
    let seen = (inspected || is_quic).then_some(&sight);
    let mut rules = Vec::new();
    for one in config.rules.iter() {
        rules.push(RuleSeen {
            name: one.name.to_string(),
            line: one.line,
            action: one.action.as_str(),
            unmet: unmet(one, &facts, seen).or_else(|| {
                let unseen = seen.is_none() && one.needs_first_bytes();
                unseen.then(|| "it asks for first bytes, which are not looked at here".to_owned())
            }),
        });
        if rule.is_some_and(|rule| std::ptr::eq(rule, one)) {
            break;
        }
    }
    let interceptors = match (outcome, rule) {
        ("intercept", Some(rule)) => rule
            .chain
            .links()
            .map(|link| link.name().to_owned())
            .collect(),
        _ => Vec::new(),
    };
    let hooks = match (outcome, rule) {
        ("intercept" | "pass", Some(rule)) => rule
            .hooks
            .links()
            .map(|link| link.name().to_owned())
            .collect(),
        _ => Vec::new(),
    };
    Explanation {
        rules,
        decided_by: rule.map(|rule| rule.name.to_string()),
        outcome,
        why,
        at_first_bytes: inspected,
        application: seen.map(|sight| sight.application),
        interceptors,
        hooks,
        acceptors,
        tls: rule
            .filter(|_| outcome == "intercept" && application == Application::Tls)
            .map(|rule| TlsTerms::of(config, rule)),
    }
}

fn at_start(step: &OpenStep, rule: Option<&Rule>, question: &Question) -> (&'static str, String) {
    let Some(rule) = rule else {
        return ("pass", "no rule matches".to_owned());
    };
    let why = "all its conditions hold when the flow opens".to_owned();
    match (step, rule.action) {
        (OpenStep::Verdict(Verdict::Drop), _) => ("drop", why),
        (OpenStep::Verdict(Verdict::Reset), Action::Intercept) => (
            "reset",
            "the handshake was not seen, and the rule says mid-flow = \"reset\"".to_owned(),
        ),
        (OpenStep::Verdict(Verdict::Reset), _) => ("reset", why),
        (_, Action::Intercept) if question.mid_flow => (
            "pass",
            "the handshake was not seen, so the connection cannot be intercepted".to_owned(),
        ),
        (_, Action::Intercept) => ("pass", "only TCP can be intercepted".to_owned()),
        _ => ("pass", why),
    }
}

fn at_bytes(
    config: &Config,
    rule: Option<&Rule>,
    application: Application,
    client: ClientTls,
) -> (&'static str, String) {
    let Some(rule) = rule else {
        let why = "no rule matches once the first bytes are seen".to_owned();
        return ("pass", why);
    };
    let why = "all its conditions hold once the first bytes are seen".to_owned();
    match rule.action {
        Action::Pass | Action::Ask => ("pass", why),
        Action::Drop => ("drop", why),
        Action::Reset => ("reset", why),
        Action::Intercept => {
            let decision = intercept(config, Some(rule), application, client.old);
            let is_tls = application == Application::Tls;
            match with_tls_policy(decision, Some(rule), client.ech && is_tls) {
                Decision::Pass(reason) => ("pass", why_passed(reason).to_owned()),
                _ if client.via.is_some_and(|via| !rule.starttls.contains(via)) => (
                    "pass",
                    "it says to intercept, and not to follow this protocol to TLS (`starttls`)"
                        .to_owned(),
                ),
                _ if is_tls && client.ech && rule.ech == Ech::Refuse => (
                    "refuse",
                    "the hello carries Encrypted ClientHello, and the rule says ech = \"refuse\": the alert access_denied".to_owned(),
                ),
                _ if is_tls && client.old => (
                    "refuse",
                    "the client offers no TLS that can be intercepted, and the rule says old-tls = \"refuse\": the alert protocol_version".to_owned(),
                ),
                _ => ("intercept", why),
            }
        }
    }
}

fn why_passed(reason: PassReason) -> &'static str {
    match reason {
        PassReason::NoAuthority => "it says to intercept TLS, and there is no [tls.ca]",
        PassReason::EncryptedHello => {
            "it says to intercept, and the hello carries Encrypted ClientHello: ech = \"pass\""
        }
        PassReason::UnsupportedHello => {
            "it says to intercept, and the client offers no TLS that can be: old-tls = \"pass\""
        }
        _ => {
            "it says to intercept, and the protocol is neither TLS nor HTTP (protocols in `starttls` are followed to TLS)"
        }
    }
}

/// The first condition of a rule that does not hold, in words. Without first bytes, conditions on
/// them are left out.
pub(crate) fn unmet(rule: &Rule, facts: &Facts, sight: Option<&FirstSight<'_>>) -> Option<String> {
    let is = |holds: bool, condition: &str, found: &dyn fmt::Display| {
        (!holds).then(|| format!("{condition} is {found}"))
    };
    let nothing = "nothing";
    is(
        holds(&rule.endpoint, |one| *one == facts.endpoint),
        "endpoint",
        &facts.endpoint,
    )
    .or_else(|| {
        is(
            holds(&rule.source, |one| one.contains(&facts.client.ip())),
            "source",
            &facts.client.ip(),
        )
    })
    .or_else(|| {
        is(
            holds(&rule.destination, |one| one.contains(&facts.server.ip())),
            "destination",
            &facts.server.ip(),
        )
    })
    .or_else(|| {
        is(
            holds(&rule.protocol, |one| *one == facts.protocol.0),
            "protocol",
            &facts.protocol.0,
        )
    })
    .or_else(|| match (&rule.port, facts.has_ports()) {
        (Some(_), false) => is(false, "port", &nothing),
        _ => is(
            holds(&rule.port, |one| one.contains(&facts.server.port())),
            "port",
            &facts.server.port(),
        ),
    })
    .or_else(|| {
        let host = facts.client_ec2.as_deref();
        unmet_host(&rule.source_host, &hosts::SOURCE, host)
    })
    .or_else(|| {
        let host = facts.server_ec2.as_deref();
        unmet_host(&rule.destination_host, &hosts::DESTINATION, host)
    })
    .or_else(|| {
        let sight = sight?;
        is(
            holds(&rule.application, |one| *one == sight.application),
            "application",
            &sight.application.as_str(),
        )
    })
    .or_else(|| {
        let name = sight?.server_name;
        is(
            holds(&rule.server_name, |glob| {
                name.is_some_and(|name| glob.matches(name))
            }),
            "server-name",
            &name.unwrap_or(nothing),
        )
    })
    .or_else(|| {
        let name = sight?.http_host;
        is(
            holds(&rule.http_host, |glob| {
                name.is_some_and(|name| glob.matches(name))
            }),
            "http-host",
            &name.unwrap_or(nothing),
        )
    })
}

/// The first condition on a host that does not hold, in words.
fn unmet_host(
    conditions: &HostConditions,
    keys: &hosts::HostKeys,
    host: Option<&Ec2Host>,
) -> Option<String> {
    let id = |condition: &Option<Vec<String>>, key: &str, value: Option<&str>| {
        let holds = holds(condition, |one| value == Some(one.as_str()));
        (!holds).then(|| format!("{key} is {}", value.unwrap_or("nothing")))
    };
    let groups = host.map_or(&[][..], |host| &host.security_groups);
    id(
        &conditions.account,
        keys.account,
        host.map(|host| host.account_id.as_str()),
    )
    .or_else(|| {
        let value = host.and_then(|host| host.instance_id.as_deref());
        id(&conditions.instance, keys.instance, value)
    })
    .or_else(|| {
        let value = host.and_then(|host| host.interface_id.as_deref());
        id(&conditions.interface, keys.interface, value)
    })
    .or_else(|| {
        id(
            &conditions.subnet,
            keys.subnet,
            host.map(|host| host.subnet_id.as_str()),
        )
    })
    .or_else(|| {
        id(
            &conditions.vpc,
            keys.vpc,
            host.map(|host| host.vpc_id.as_str()),
        )
    })
    .or_else(|| {
        let holds = holds(&conditions.security_group, |one| groups.contains(one));
        let none = "nothing".to_owned();
        let found = if groups.is_empty() {
            none
        } else {
            groups.join(", ")
        };
        (!holds).then(|| format!("{} is {found}", keys.security_group))
    })
    .or_else(|| {
        let (key, found) = conditions.tags.iter().find_map(|(key, values)| {
            let value = host.and_then(|host| host.tags.get(key));
            let holds =
                value.is_some_and(|value| values.iter().any(|one| one == "*" || one == value));
            (!holds).then_some((key, value))
        })?;
        let found = found.map_or("nothing", String::as_str);
        Some(format!("{} {key} is {found}", keys.tag))
    })
}

/// A condition that is not there holds.
fn holds<T>(condition: &Option<Vec<T>>, matches: impl Fn(&T) -> bool) -> bool {
    condition
        .as_ref()
        .is_none_or(|values| values.iter().any(matches))
}

impl Explanation {
    /// The same for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let rules: Vec<Value> = self
            .rules
            .iter()
            .map(|rule| {
                json!({
                    "name": rule.name,
                    "line": rule.line,
                    "action": rule.action,
                    "matches": rule.unmet.is_none(),
                    "unmet": rule.unmet,
                })
            })
            .collect();
        json!({
            "outcome": self.outcome,
            "decidedBy": self.decided_by,
            "why": self.why,
            "stage": if self.at_first_bytes { "first-bytes" } else { "open" },
            "application": self.application.map(Application::as_str),
            "interceptors": self.interceptors,
            "hooks": self.hooks,
            "acceptors": self.acceptors,
            "tls": self.tls.as_ref().map(TlsTerms::to_json),
            "rules": rules,
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            let RuleSeen {
                name,
                line,
                action,
                unmet,
            } = rule;
            match unmet {
                Some(unmet) => writeln!(f, "line {line}, {name} ({action}): no, {unmet}")?,
                None => writeln!(f, "line {line}, {name} ({action}): matches")?,
            }
        }
        for acceptor in &self.acceptors {
            writeln!(f, "the acceptor {acceptor} is asked first, and may refuse")?;
        }
        match &self.decided_by {
            Some(rule) => write!(f, "{}: {rule} decides; {}", self.outcome, self.why)?,
            None => write!(f, "{}: {}", self.outcome, self.why)?,
        }
        if let Some(application) = self.application {
            write!(f, " (first bytes taken for: {})", application.as_str())?;
        }
        if !self.interceptors.is_empty() {
            write!(f, "\ninterceptors: {}", self.interceptors.join(", "))?;
        }
        if !self.hooks.is_empty() {
            write!(f, "\nhooks: {}", self.hooks.join(", "))?;
        }
        if let Some(tls) = &self.tls {
            write!(f, "\n{tls}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const RULES: &str = "[[rule]]\nname = 'bank'\naction = 'pass'\nserver-name = '*.bank.example'\n\
        [[rule]]\naction = 'reset'\nport = 25\n\
        [[rule]]\naction = 'drop'\nhttp-host = 'bad.example'\n\
        [[rule]]\nname = 'web'\naction = 'intercept'\napplication = ['http1', 'tls']\n";

    fn ask(to: &str, change: impl FnOnce(&mut Question)) -> Explanation {
        ask_of(RULES, to, change)
    }

    fn ask_of(rules: &str, to: &str, change: impl FnOnce(&mut Question)) -> Explanation {
        let config = Config::parse(rules, Path::new("flowdog.toml"), &[]).unwrap();
        let mut question = Question {
            endpoint: VpcEndpointId(1),
            protocol: 6,
            from: "10.0.0.5:1234".parse().unwrap(),
            to: to.parse().unwrap(),
            client_ec2: None,
            server_ec2: None,
            mid_flow: false,
            application: None,
            tls: ClientTls::default(),
            server_name: None,
            http_host: None,
        };
        change(&mut question);
        explain(&config, &question)
    }

    #[test]
    fn acceptors_are_named_that_are_asked_once_the_first_bytes_are_seen() {
        let rules = "[[acceptor]]\nname = 'a'\nuse = 'http-acceptor'\nurl = 'http://127.0.0.1:9/'\n\
            [[acceptor]]\nname = 'b'\nuse = 'http-acceptor'\nurl = 'http://127.0.0.1:9/'\n\
            [[rule]]\naction = 'ask'\nacceptor = 'a'\nport = 443\n\
            [[rule]]\naction = 'pass'\nserver-name = 'free.example'\n\
            [[rule]]\naction = 'ask'\nacceptor = 'b'\nserver-name = '*.example'\n\
            [[rule]]\naction = 'intercept'\n";
        for (name, acceptors, decided_by) in [
            ("free.example", &["a"][..], "rule[2]"),
            ("other.example", &["a", "b"], "rule[4]"),
            ("elsewhere", &["a"], "rule[4]"),
        ] {
            let told = ask_of(rules, "1.2.3.4:443", |q| q.server_name = Some(name.into()));
            assert_eq!(told.acceptors, acceptors, "{name}");
            assert_eq!(told.decided_by.as_deref(), Some(decided_by), "{name}");
        }
    }

    fn short(told: &Explanation) -> (&'static str, Option<&str>) {
        (told.outcome, told.decided_by.as_deref())
    }

    #[test]
    fn the_rule_that_decides_is_named_with_its_line_and_those_above_with_what_did_not_hold() {
        let told = ask("1.2.3.4:443", |q| {
            q.server_name = Some("a.bank.example".into())
        });
        assert_eq!(short(&told), ("pass", Some("bank")));
        let told = ask("1.2.3.4:25", |_| {});
        assert_eq!(short(&told), ("reset", Some("rule[2]")));
        assert_eq!(
            told.to_string(),
            "line 1, bank (pass): no, server-name is nothing\n\
             line 5, rule[2] (reset): matches\n\
             reset: rule[2] decides; all its conditions hold once the first bytes are seen \
             (first bytes taken for: other)"
        );
        let told = ask("1.2.3.4:80", |q| q.http_host = Some("BAD.example".into()));
        assert_eq!(short(&told), ("drop", Some("rule[3]")));
        let told = ask("1.2.3.4:80", |_| {});
        assert_eq!(short(&told), ("intercept", Some("web")));
        let json = told.to_json();
        assert_eq!(json["decidedBy"], "web");
        assert_eq!(json["rules"][1]["unmet"], "port is 80");
        assert_eq!(json["stage"], "first-bytes");
    }

    #[test]
    fn what_keeps_a_rule_from_intercepting_is_told() {
        let told = ask("1.2.3.4:443", |_| {});
        assert_eq!(short(&told), ("pass", Some("web")));
        assert!(told.why.contains("[tls.ca]"), "{}", told.why);
        let told = ask("1.2.3.4:53", |q| q.protocol = 17);
        assert_eq!(short(&told), ("pass", None));
        let told = ask("1.2.3.4:22", |_| {});
        assert_eq!(short(&told), ("pass", None));
    }
}
