//! From rules to decisions: once when a flow opens, and once when its first bytes are there.
//!
//! A rule with a server name cannot be judged before the client's hello is seen, so the first
//! decision may be to inspect. Rules are judged in order in both places; the first that matches
//! decides, and a flow that no rule matches is passed.

use std::net::SocketAddr;

use dataplane::{FlowView, Protocol, Verdict, VpcEndpointId};
use ipnet::IpNet;
use proxy::detect::{Sniff, sniff};
use tls::hello::{self, Parsed};

use crate::config::{Action, Config, MidFlow, Rule};

const TCP: Protocol = Protocol(6);
const UDP: Protocol = Protocol(17);

/// What rules may ask about a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) endpoint: VpcEndpointId,
    pub(crate) protocol: Protocol,
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
}

impl From<&FlowView> for Facts {
    fn from(view: &FlowView) -> Self {
        Self {
            endpoint: view.endpoint,
            protocol: view.protocol,
            client: view.client,
            server: view.server,
        }
    }
}

/// What to do with a flow whose first bytes are known.
#[derive(Clone, Debug)]
pub(crate) enum Decision<'c> {
    /// Not enough bytes to tell.
    NeedMore,
    /// Forward the bytes as they are.
    Pass(PassReason),
    /// Swallow.
    Drop,
    /// Reset both ends.
    Reset,
    /// Take over.
    Intercept { rule: &'c Rule, protocol: Protocols },
}

/// Why first bytes are passed on unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassReason {
    /// A rule says so, or none says anything.
    Rule,
    /// A rule says to intercept, and the protocol is none that can be.
    Opaque,
    /// A rule says to intercept TLS, and there is no certificate authority.
    NoAuthority,
    /// A rule says to intercept TLS, and the client offers no version or suite that we have.
    UnsupportedHello,
}

/// The protocols that can be intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocols {
    Http1,
    Http2,
    Tls,
}

/// The verdict on a flow that was seen for the first time.
pub(crate) fn at_open(config: &Config, facts: &Facts, mid_flow: bool) -> Verdict {
    let inspectable = facts.protocol == TCP && !mid_flow;
    let mut named = false;
    for rule in config.rules.iter().filter(|rule| matches_flow(rule, facts)) {
        if rule.server_name.is_some() {
            // Without a hello to read such a rule matches nothing.
            named |= inspectable && rule.action != Action::Pass;
            continue;
        }
        let verdict = match (rule.action, rule.mid_flow) {
            (Action::Intercept, MidFlow::Reset) if mid_flow => Verdict::Reset,
            (Action::Intercept, _) if !inspectable => Verdict::Pass,
            (Action::Intercept, _) => Verdict::Inspect,
            (Action::Pass, _) => Verdict::Pass,
            (Action::Drop, _) => Verdict::Drop,
            (Action::Reset, _) => Verdict::Reset,
        };
        // A rule above may yet match by name. One that passes changes nothing for flows that are
        // passed anyway, so those need no inspection.
        let above = named || verdict != Verdict::Pass && has_named_rule_above(config, facts, rule);
        return if inspectable && above {
            Verdict::Inspect
        } else {
            verdict
        };
    }
    if named {
        Verdict::Inspect
    } else {
        Verdict::Pass
    }
}

/// The decision on a TCP flow whose client has sent `bytes` so far.
pub(crate) fn at_first_bytes<'c>(config: &'c Config, facts: &Facts, bytes: &[u8]) -> Decision<'c> {
    let protocol = sniff(bytes);
    let mut server_name = None;
    let mut unsupported = false;
    match protocol {
        Sniff::NeedMore => return Decision::NeedMore,
        Sniff::Tls => match hello::parse(bytes) {
            Parsed::NeedMore => return Decision::NeedMore,
            Parsed::Hello(hello) => {
                unsupported = config
                    .tls
                    .impersonator
                    .as_ref()
                    .is_some_and(|i| i.can_intercept(&hello).is_err());
                server_name = hello.server_name;
            }
            // The impersonator refuses it in the words of TLS, if it comes to that.
            Parsed::Malformed(_) | Parsed::NotTls => {}
        },
        Sniff::Http1 | Sniff::Http2PriorKnowledge | Sniff::Opaque => {}
    }
    let rule = config
        .rules
        .iter()
        .find(|rule| matches_flow(rule, facts) && matches_name(rule, server_name.as_deref()));
    let Some(rule) = rule else {
        return Decision::Pass(PassReason::Rule);
    };
    let protocol = match (rule.action, protocol) {
        (Action::Pass, _) => return Decision::Pass(PassReason::Rule),
        (Action::Drop, _) => return Decision::Drop,
        (Action::Reset, _) => return Decision::Reset,
        (Action::Intercept, Sniff::Opaque | Sniff::NeedMore) => {
            return Decision::Pass(PassReason::Opaque);
        }
        (Action::Intercept, Sniff::Tls) if config.tls.impersonator.is_none() => {
            return Decision::Pass(PassReason::NoAuthority);
        }
        (Action::Intercept, Sniff::Tls) if unsupported => {
            return Decision::Pass(PassReason::UnsupportedHello);
        }
        (Action::Intercept, Sniff::Tls) => Protocols::Tls,
        (Action::Intercept, Sniff::Http1) => Protocols::Http1,
        (Action::Intercept, Sniff::Http2PriorKnowledge) => Protocols::Http2,
    };
    Decision::Intercept { rule, protocol }
}

fn has_named_rule_above(config: &Config, facts: &Facts, below: &Rule) -> bool {
    config
        .rules
        .iter()
        .take_while(|rule| !std::ptr::eq(*rule, below))
        .any(|rule| rule.server_name.is_some() && matches_flow(rule, facts))
}

fn matches_flow(rule: &Rule, facts: &Facts) -> bool {
    let has_ports = facts.protocol == TCP || facts.protocol == UDP;
    holds(&rule.endpoint, |endpoint| *endpoint == facts.endpoint)
        && holds(&rule.protocol, |protocol| *protocol == facts.protocol.0)
        && holds(&rule.port, |ports| {
            has_ports && ports.contains(&facts.server.port())
        })
        && holds(&rule.source, |network: &IpNet| {
            network.contains(&facts.client.ip())
        })
        && holds(&rule.destination, |network: &IpNet| {
            network.contains(&facts.server.ip())
        })
}

fn matches_name(rule: &Rule, server_name: Option<&str>) -> bool {
    holds(&rule.server_name, |glob| {
        server_name.is_some_and(|name| glob.matches(name))
    })
}

/// A condition that is not there holds.
fn holds<T>(condition: &Option<Vec<T>>, matches: impl Fn(&T) -> bool) -> bool {
    condition
        .as_ref()
        .is_none_or(|values| values.iter().any(matches))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("flowdog.toml"), &interceptors::all()).unwrap()
    }

    fn flow(protocol: u8, client: &str, server: &str) -> Facts {
        Facts {
            endpoint: VpcEndpointId(0x0123_4567_89ab_cdef),
            protocol: Protocol(protocol),
            client: client.parse().unwrap(),
            server: server.parse().unwrap(),
        }
    }

    fn web() -> Facts {
        flow(6, "10.0.0.1:40000", "203.0.113.5:443")
    }

    const HTTP: &[u8] = b"GET / HTTP/1.1\r\n";
    const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.9\r\n";

    #[test]
    fn an_empty_file_passes_everything() {
        let config = config("");
        for protocol in [1, 6, 17, 47] {
            let facts = flow(protocol, "10.0.0.1:1", "10.0.0.2:2");
            assert_eq!(at_open(&config, &facts, false), Verdict::Pass);
            assert_eq!(at_open(&config, &facts, true), Verdict::Pass);
        }
        assert!(matches!(
            at_first_bytes(&config, &web(), HTTP),
            Decision::Pass(PassReason::Rule)
        ));
    }

    #[test]
    fn a_rule_without_conditions_inspects_tcp_and_passes_what_cannot_be_intercepted() {
        let config = config("[[rule]]\naction = 'intercept'\n");
        assert_eq!(at_open(&config, &web(), false), Verdict::Inspect);
        assert_eq!(
            at_open(&config, &web(), true),
            Verdict::Pass,
            "gwlb_b13: a restart resets nothing"
        );
        assert_eq!(
            at_open(&config, &flow(17, "10.0.0.1:1", "10.0.0.2:443"), false),
            Verdict::Pass
        );
        assert_eq!(
            at_open(&config, &flow(1, "10.0.0.1:0", "10.0.0.2:0"), false),
            Verdict::Pass
        );
        assert!(matches!(
            at_first_bytes(&config, &web(), HTTP),
            Decision::Intercept {
                protocol: Protocols::Http1,
                ..
            }
        ));
        assert!(matches!(
            at_first_bytes(&config, &web(), SSH),
            Decision::Pass(PassReason::Opaque)
        ));
        assert!(matches!(
            at_first_bytes(&config, &web(), b"GE"),
            Decision::NeedMore
        ));
    }

    #[test]
    fn gwlb_b13_mid_flow_policy_is_per_rule() {
        let config = config("[[rule]]\naction = 'intercept'\nport = 443\nmid-flow = 'reset'\n");
        assert_eq!(at_open(&config, &web(), true), Verdict::Reset);
        assert_eq!(at_open(&config, &web(), false), Verdict::Inspect);
        assert_eq!(
            at_open(&config, &flow(6, "10.0.0.1:1", "10.0.0.2:22"), true),
            Verdict::Pass
        );
    }

    #[test]
    fn every_condition_of_a_rule_must_hold() {
        let config = config(
            "[[rule]]\naction = 'drop'\nendpoint = 'vpce-0123456789abcdef0'\nsource = '10.0.0.0/8'\n\
             destination = ['203.0.113.0/24', '2001:db8::/32']\nport = [443, '8000-8999']\nprotocol = 'tcp'\n",
        );
        let there = |facts: Facts| Facts {
            endpoint: VpcEndpointId(0x1234_5678_9abc_def0),
            ..facts
        };
        for server in ["203.0.113.5:443", "203.0.113.5:8000", "203.0.113.5:8999"] {
            assert_eq!(
                at_open(&config, &there(flow(6, "10.0.0.1:1", server)), false),
                Verdict::Drop
            );
        }
        for other in [
            web(),
            there(flow(6, "11.0.0.1:1", "203.0.113.5:443")),
            there(flow(6, "10.0.0.1:1", "203.0.114.5:443")),
            there(flow(6, "10.0.0.1:1", "203.0.113.5:444")),
            there(flow(17, "10.0.0.1:1", "203.0.113.5:443")),
        ] {
            assert_eq!(at_open(&config, &other, false), Verdict::Pass, "{other:?}");
        }
    }

    #[test]
    fn a_port_condition_never_matches_a_protocol_without_ports() {
        let config = config("[[rule]]\naction = 'drop'\nport = '0-65535'\n");
        assert_eq!(
            at_open(&config, &flow(1, "10.0.0.1:0", "10.0.0.2:0"), false),
            Verdict::Pass
        );
        assert_eq!(
            at_open(&config, &flow(17, "10.0.0.1:9", "10.0.0.2:9"), false),
            Verdict::Drop
        );
    }

    #[test]
    fn a_server_name_needs_inspection_and_decides_on_the_hello() {
        let config = config(
            "[[rule]]\naction = 'reset'\nserver-name = '*.bad.example'\n\
             [[rule]]\naction = 'pass'\nport = 443\n[[rule]]\naction = 'drop'\n",
        );
        assert_eq!(at_open(&config, &web(), false), Verdict::Inspect);
        assert_eq!(
            at_open(&config, &flow(17, "10.0.0.1:9", "10.0.0.2:443"), false),
            Verdict::Pass
        );
        assert!(matches!(
            at_first_bytes(&config, &web(), &hello("www.bad.example")),
            Decision::Reset
        ));
        assert!(matches!(
            at_first_bytes(&config, &web(), &hello("good.example")),
            Decision::Pass(_)
        ));
        let hello = hello("www.bad.example");
        assert!(matches!(
            at_first_bytes(&config, &web(), &hello[..hello.len() - 1]),
            Decision::NeedMore
        ));
    }

    #[test]
    fn a_name_that_passes_is_exempt_from_a_wider_rule_below() {
        let config = config(
            "[[rule]]\naction = 'pass'\nserver-name = 'bank.example'\n[[rule]]\naction = 'reset'\n",
        );
        assert_eq!(at_open(&config, &web(), false), Verdict::Inspect);
        assert!(matches!(
            at_first_bytes(&config, &web(), &hello("bank.example")),
            Decision::Pass(_)
        ));
        assert!(matches!(
            at_first_bytes(&config, &web(), HTTP),
            Decision::Reset
        ));
    }

    #[test]
    fn a_name_that_passes_costs_no_inspection_where_all_is_passed() {
        let config = config("[[rule]]\naction = 'pass'\nserver-name = 'bank.example'\n");
        assert_eq!(at_open(&config, &web(), false), Verdict::Pass);
    }

    #[test]
    fn tls_without_an_authority_is_passed_and_says_why() {
        let config = config("[[rule]]\naction = 'intercept'\n");
        let decision = at_first_bytes(&config, &web(), &hello("any.example"));
        assert!(matches!(decision, Decision::Pass(PassReason::NoAuthority)));
    }

    /// A ClientHello with a server name, by hand (RFC 8446 §4.1.2, RFC 6066 §3).
    fn hello(name: &str) -> Vec<u8> {
        let mut sni = vec![0];
        sni.extend((name.len() as u16).to_be_bytes());
        sni.extend(name.as_bytes());
        let mut extensions = vec![0, 0];
        extensions.extend((sni.len() as u16 + 2).to_be_bytes());
        extensions.extend((sni.len() as u16).to_be_bytes());
        extensions.extend(sni);
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![22, 3, 1];
        message.extend((body.len() as u16 + 4).to_be_bytes());
        message.extend([1, 0]);
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        message
    }
}
