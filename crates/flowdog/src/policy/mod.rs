//! From rules to decisions: once when a flow opens, and once when its first bytes are there.
//!
//! A rule that asks for a server name, an HTTP host or the protocol spoken cannot be judged before
//! the client's first bytes are seen, so the first decision may be to inspect. Rules are judged in
//! order in both places; the first that matches decides, and a flow that no rule matches is passed.
//! A rule that asks an acceptor is a gate: once the flow is accepted, the rules below it decide. It asks
//! when the flow opens, or when the first bytes are seen if it takes those to tell that it matches.

mod datagrams;
pub(crate) mod explain;
mod follow;
mod guard;
mod hosts;
pub(crate) mod index;
mod tls_policy;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::{FlowView, Protocol, Verdict, VpcEndpointId};
use proxy::detect::{Sniff, sniff};
use proxy::starttls::{self, ClientFirst};
use sdk::Ec2Host;
use tls::hello::{self, Parsed};

use crate::config::{Action, Config, Ech, MidFlow, Rule};
use crate::directory::Lookup;
pub(crate) use datagrams::{Datagrams, QuicSight, at_open_of, look_at_datagrams};
pub(crate) use follow::followed;
pub(crate) use guard::guard;
use tls_policy::with_tls_policy;
pub use tls_policy::{ClientTls, TlsTerms};

const TCP: Protocol = Protocol(6);
const UDP: Protocol = Protocol(17);

/// What rules may ask about a flow.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) endpoint: VpcEndpointId,
    pub(crate) protocol: Protocol,
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    /// What EC2 knows of the client's host.
    pub(crate) client_ec2: Option<Arc<Ec2Host>>,
    /// The same of the server's.
    pub(crate) server_ec2: Option<Arc<Ec2Host>>,
}

impl Facts {
    /// What there is to know about a flow when it opens.
    pub(crate) fn new(view: &FlowView, directory: &Lookup) -> Self {
        let (client, server) = (view.client.ip(), view.server.ip());
        let [client_ec2, server_ec2] = directory.ends(view.endpoint, client, server);
        Self {
            endpoint: view.endpoint,
            protocol: view.protocol,
            client: view.client,
            server: view.server,
            client_ec2,
            server_ec2,
        }
    }

    /// What EC2 knows of both ends.
    pub(crate) fn hosts(&self) -> [Option<Arc<Ec2Host>>; 2] {
        [self.client_ec2.clone(), self.server_ec2.clone()]
    }

    fn has_ports(&self) -> bool {
        self.protocol == TCP || self.protocol == UDP
    }
}

/// What a client turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Application {
    /// HTTP/1.0 or HTTP/1.1 in clear.
    Http1,
    /// HTTP/2 in clear, with prior knowledge.
    Http2,
    /// TLS.
    Tls,
    /// None of the others.
    Other,
    /// QUIC, over UDP.
    Quic,
}

impl Application {
    /// The words of the configuration.
    pub(crate) const WORDS: [(&'static str, Self); 5] = [
        ("http1", Self::Http1),
        ("http2", Self::Http2),
        ("other", Self::Other),
        ("quic", Self::Quic),
        ("tls", Self::Tls),
    ];

    /// What a word of the configuration means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let found = Self::WORDS.iter().find(|(name, _)| *name == word);
        found.map(|(_, application)| *application)
    }

    /// The word of the configuration.
    pub(crate) fn as_str(self) -> &'static str {
        let word = Self::WORDS.iter().find(|(_, one)| *one == self);
        word.map_or("other", |(word, _)| word)
    }
}

/// What the first bytes of a client say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstSight<'a> {
    pub(crate) application: Application,
    /// The name in the TLS ClientHello.
    pub(crate) server_name: Option<&'a str>,
    /// The host of the first HTTP/1 request in clear, without its port.
    pub(crate) http_host: Option<&'a str>,
}

/// What to do with a flow that was seen for the first time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'c> {
    pub(crate) step: OpenStep,
    /// The rule that decided; none if no rule matches, or if it takes the first bytes to tell.
    pub(crate) rule: Option<&'c Rule>,
    /// Its place in the list, from 0.
    pub(crate) number: Option<usize>,
}

/// The step that a new flow takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenStep {
    /// Tell the data plane.
    Verdict(Verdict),
    /// Ask the rule's acceptor, and go on below the rule if it accepts.
    Ask,
}

/// What to do with a flow whose first bytes are known, and which rule says so.
#[derive(Clone, Debug)]
pub(crate) struct Judgement<'c> {
    pub(crate) decision: Decision,
    pub(crate) rule: Option<&'c Rule>,
    pub(crate) application: Option<Application>,
    pub(crate) server_name: Option<String>,
    pub(crate) http_host: Option<String>,
    /// The JA4 fingerprint of a TLS client.
    pub(crate) ja4: Option<String>,
}

/// What to do with a flow whose first bytes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Not enough bytes to tell.
    NeedMore,
    /// Ask the rule's acceptor; the number is the rule's place in the list.
    Ask(usize),
    /// Forward the bytes as they are.
    Pass(PassReason),
    /// Swallow.
    Drop,
    /// Reset both ends.
    Reset,
    /// Take over; the rule has the interceptors.
    Intercept(Protocols),
}

impl Decision {
    /// Whether a flow is passed instead while the appliance drains: what is taken over now would be reset
    /// soon. What has to be followed for the rules to be judged is followed all the same.
    pub(crate) fn is_spared_by_a_drain(self) -> bool {
        match self {
            Self::Intercept(protocols) => protocols != Protocols::Clear,
            _ => false,
        }
    }
}

/// Why first bytes are passed on unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassReason {
    /// A rule says so, or none says anything.
    Rule,
    /// A rule says to intercept, and the appliance drains.
    Draining,
    /// A rule says to intercept, and the protocol is none that can be.
    Opaque,
    /// A rule says to intercept TLS, and there is no certificate authority.
    NoAuthority,
    /// A rule says to intercept TLS, and the client offers no version or suite that we have.
    UnsupportedHello,
    /// A rule intercepts TLS except where the hello carries Encrypted ClientHello.
    EncryptedHello,
    /// A rule says to intercept TLS, and earlier flows showed that this client and server do not let
    /// themselves be intercepted.
    Learned,
}

/// The protocols that can be intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocols {
    /// One that may change to TLS.
    Clear,
    Http1,
    Http2,
    Tls,
    /// Bytes for the hooks of the rule.
    Hooked,
}

/// What to do with a flow that was seen for the first time. `from` is the number of the first rule
/// to look at: those above it have had their say.
pub(crate) fn at_open<'c>(
    config: &'c Config,
    facts: &Facts,
    mid_flow: bool,
    from: usize,
) -> Opening<'c> {
    let inspectable = facts.protocol == TCP && !mid_flow;
    let nobody = |verdict| Opening {
        step: OpenStep::Verdict(verdict),
        rule: None,
        number: None,
    };
    // Whether a rule above may yet match by what the first bytes say, and change anything.
    let (mut later, mut later_counts) = (false, false);
    let matches = config.rules.index().of_flow(facts);
    for number in matches.skip_while(|number| *number < from) {
        let Some(rule) = config.rules.get(number) else {
            continue;
        };
        if rule.needs_first_bytes() {
            // Without bytes to read such a rule matches nothing.
            later |= inspectable;
            later_counts |= inspectable && rule.action != Action::Pass;
            continue;
        }
        let verdict = match (rule.action, rule.mid_flow) {
            // One above may spare the flow the question.
            (Action::Ask, _) if later => return nobody(inspection(config, facts)),
            (Action::Ask, _) => {
                return Opening {
                    step: OpenStep::Ask,
                    rule: Some(rule),
                    number: Some(number),
                };
            }
            (Action::Intercept, MidFlow::Reset) if mid_flow => Verdict::Reset,
            (Action::Intercept, _) if !inspectable => Verdict::Pass,
            (Action::Intercept, _) => Verdict::Inspect,
            (Action::Pass, _) => Verdict::Pass,
            (Action::Drop, _) => Verdict::Drop,
            (Action::Reset, _) => Verdict::Reset,
        };
        // One above that passes changes nothing for flows that are passed anyway, so those need no
        // inspection.
        if later_counts || later && verdict != Verdict::Pass {
            return nobody(inspection(config, facts));
        }
        let verdict = match verdict {
            Verdict::Inspect => inspection(config, facts),
            other => other,
        };
        return Opening {
            step: OpenStep::Verdict(verdict),
            rule: Some(rule),
            number: Some(number),
        };
    }
    nobody(if later_counts {
        inspection(config, facts)
    } else {
        Verdict::Pass
    })
}

/// Inspection, of the server's first bytes too where a rule follows a protocol in which it greets.
pub(crate) fn inspection(config: &Config, facts: &Facts) -> Verdict {
    if followed(config, facts).has_greeting() {
        Verdict::InspectEither
    } else {
        Verdict::Inspect
    }
}

/// Who spoke first in a TCP flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum First<'b> {
    /// The client has sent these bytes so far.
    Client(&'b [u8]),
    /// The server, so it is none of the protocols that are known here.
    Server,
}

/// What acceptors have said about a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard<'g> {
    /// One wants it intercepted, whatever the rules below say.
    pub(crate) intercept: bool,
    /// The rules whose acceptors have accepted it.
    pub(crate) passed: &'g [usize],
}

/// The decision on a TCP flow in which somebody has spoken.
pub(crate) fn at_first_bytes<'c>(
    config: &'c Config,
    facts: &Facts,
    first: First<'_>,
    heard: Heard<'_>,
) -> Judgement<'c> {
    let more = Judgement {
        decision: Decision::NeedMore,
        rule: None,
        application: None,
        server_name: None,
        http_host: None,
        ja4: None,
    };
    let (mut server_name, mut http_host, mut ja4) = (None, None, None);
    let (mut unsupported, mut may_change, mut has_ech) = (false, false, false);
    let (sniffed, bytes) = match first {
        First::Client(bytes) => (sniff(bytes), bytes),
        First::Server => (Sniff::Opaque, &[][..]),
    };
    let application = match sniffed {
        Sniff::NeedMore => return more,
        Sniff::Tls => {
            match hello::parse(bytes) {
                Parsed::NeedMore => return more,
                Parsed::Hello(hello) => {
                    unsupported = config
                        .tls
                        .impersonator
                        .as_ref()
                        .is_some_and(|i| i.can_intercept(&hello).is_err());
                    has_ech = hello.has_ech;
                    ja4 = Some(hello.ja4(hello::Transport::Tcp));
                    server_name = hello.server_name;
                }
                // The impersonator refuses it in the words of TLS, if it comes to that.
                Parsed::Malformed(_) | Parsed::NotTls => {}
            }
            Application::Tls
        }
        Sniff::Http1 => {
            if config.rules.index().asks_http_host() {
                match first_host(bytes, config.proxy.head_bytes) {
                    Some(host) => http_host = host,
                    None => return more,
                }
            }
            Application::Http1
        }
        Sniff::Http2PriorKnowledge => Application::Http2,
        Sniff::Opaque if matches!(first, First::Server) => Application::Other,
        Sniff::Opaque => {
            let followed = followed(config, facts);
            match starttls::sniff_client(bytes, followed) {
                ClientFirst::NeedMore => return more,
                ClientFirst::Is(_) => may_change = true,
                // One that talks before it was greeted.
                ClientFirst::No => may_change = followed.has_greeting(),
            }
            Application::Other
        }
    };
    let sight = FirstSight {
        application,
        server_name: server_name.as_deref(),
        http_host: http_host.as_deref(),
    };
    let found = decider(config, facts, &sight, heard.passed).filter(|_| !heard.intercept);
    let rule = found.map(|(_, rule)| rule);
    let decision = match (rule.map(|rule| rule.action), application) {
        (Some(Action::Ask), _) => {
            found.map_or(Decision::NeedMore, |(number, _)| Decision::Ask(number))
        }
        // The rule for TLS may be another one.
        (None | Some(Action::Intercept), Application::Other) if may_change => {
            Decision::Intercept(Protocols::Clear)
        }
        _ if heard.intercept => intercept(config, None, application, unsupported),
        (None | Some(Action::Pass), _) => Decision::Pass(PassReason::Rule),
        (Some(Action::Drop), _) => Decision::Drop,
        (Some(Action::Reset), _) => Decision::Reset,
        (Some(Action::Intercept), _) => intercept(config, rule, application, unsupported),
    };
    let decision = with_tls_policy(decision, rule, has_ech);
    let refuses_ech = has_ech && rule.is_some_and(|rule| rule.ech == Ech::Refuse);
    let tls = Decision::Intercept(Protocols::Tls);
    let learned = || {
        let name = learned_name(server_name.as_deref(), facts.server.ip());
        config.tls.learned.as_ref().is_some_and(|learned| {
            let (endpoint, source) = (facts.endpoint.0, facts.client.ip());
            learned.passes(endpoint, source, &name, tls::UnixTime::now())
        })
    };
    // What a rule refuses is no matter of lessons.
    let decision = if decision == tls && !refuses_ech && learned() {
        Decision::Pass(PassReason::Learned)
    } else {
        decision
    };
    Judgement {
        decision,
        rule,
        application: Some(application),
        server_name,
        http_host,
        ja4,
    }
}

/// Under which name is learned: the server's name, or its address where the client gives no name.
pub(crate) fn learned_name(server_name: Option<&str>, server: IpAddr) -> String {
    server_name.map_or_else(|| server.to_string(), str::to_owned)
}

/// What interception means for a protocol. Hooks get what nothing else reads; without interceptors
/// they get everything.
pub(crate) fn intercept(
    config: &Config,
    rule: Option<&Rule>,
    application: Application,
    unsupported: bool,
) -> Decision {
    let hooked = rule.is_some_and(|rule| {
        rule.hooks_streams && (application == Application::Other || rule.chain.is_empty())
    });
    match application {
        _ if hooked => Decision::Intercept(Protocols::Hooked),
        Application::Other | Application::Quic => Decision::Pass(PassReason::Opaque),
        Application::Tls if config.tls.impersonator.is_none() => {
            Decision::Pass(PassReason::NoAuthority)
        }
        Application::Tls if config.tls.passes_without_signer() => {
            Decision::Pass(PassReason::NoAuthority)
        }
        Application::Tls if unsupported => Decision::Pass(PassReason::UnsupportedHello),
        Application::Tls => Decision::Intercept(Protocols::Tls),
        Application::Http1 => Decision::Intercept(Protocols::Http1),
        Application::Http2 => Decision::Intercept(Protocols::Http2),
    }
}

/// The rule that decides once everything is known, or asks, with its place in the list. Those whose
/// acceptors have accepted the flow have had their say.
fn decider<'c>(
    config: &'c Config,
    facts: &Facts,
    sight: &FirstSight<'_>,
    passed: &[usize],
) -> Option<(usize, &'c Rule)> {
    config
        .rules
        .index()
        .of_first_bytes(facts, sight)
        .filter(|number| !passed.contains(number))
        .find_map(|number| Some((number, config.rules.get(number)?)))
}

/// The host that the first request of an HTTP/1 connection names, without its port (RFC 9112 §3.2):
/// that of an absolute target, or else the only Host field. `None` while the head is incomplete;
/// `Some(None)` when it names no host, or leaves doubt about which.
fn first_host(bytes: &[u8], limit: usize) -> Option<Option<String>> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return (bytes.len() >= limit).then_some(None);
        };
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    Some(host_of(&lines))
}

fn host_of(lines: &[&[u8]]) -> Option<String> {
    let (request, fields) = lines.split_first()?;
    let target = std::str::from_utf8(request).ok()?.split(' ').nth(1)?;
    let hosts: Vec<&str> = fields
        .iter()
        .filter_map(|line| {
            let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
            name.eq_ignore_ascii_case("host").then(|| value.trim())
        })
        .collect();
    let authority = match target.split_once("://") {
        Some((_, after)) if !target.starts_with('/') => after.split(['/', '?']).next()?,
        _ => match hosts.as_slice() {
            [one] => one,
            _ => return None,
        },
    };
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let host = match authority.rsplit_once(':') {
        // The colons of an IPv6 address stand inside brackets.
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    (!host.is_empty()).then(|| host.to_owned())
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
            client_ec2: None,
            server_ec2: None,
        }
    }

    fn web() -> Facts {
        flow(6, "10.0.0.1:40000", "203.0.113.5:443")
    }

    fn verdict(config: &Config, facts: &Facts, mid_flow: bool) -> Verdict {
        match at_open(config, facts, mid_flow, 0).step {
            OpenStep::Verdict(verdict) => verdict,
            OpenStep::Ask => panic!("an acceptor is asked"),
        }
    }

    fn decision(config: &Config, facts: &Facts, bytes: &[u8]) -> Decision {
        at_first_bytes(config, facts, First::Client(bytes), Heard::default()).decision
    }

    const HTTP: &[u8] = b"GET / HTTP/1.1\r\n";
    const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.9\r\n";

    #[test]
    fn an_empty_file_passes_everything() {
        let config = config("");
        for protocol in [1, 6, 17, 47] {
            let facts = flow(protocol, "10.0.0.1:1", "10.0.0.2:2");
            assert_eq!(verdict(&config, &facts, false), Verdict::Pass);
            assert_eq!(verdict(&config, &facts, true), Verdict::Pass);
        }
        assert!(matches!(
            decision(&config, &web(), HTTP),
            Decision::Pass(PassReason::Rule)
        ));
    }

    #[test]
    fn a_rule_without_conditions_inspects_tcp_and_passes_what_cannot_be_intercepted() {
        let config = config("[[rule]]\naction = 'intercept'\n");
        assert_eq!(verdict(&config, &web(), false), Verdict::Inspect);
        assert_eq!(
            verdict(&config, &web(), true),
            Verdict::Pass,
            "gwlb_b13: a restart resets nothing"
        );
        assert_eq!(
            verdict(&config, &flow(17, "10.0.0.1:1", "10.0.0.2:443"), false),
            Verdict::Pass
        );
        assert_eq!(
            verdict(&config, &flow(1, "10.0.0.1:0", "10.0.0.2:0"), false),
            Verdict::Pass
        );
        assert!(matches!(
            decision(&config, &web(), HTTP),
            Decision::Intercept(Protocols::Http1)
        ));
        assert!(matches!(
            decision(&config, &web(), SSH),
            Decision::Pass(PassReason::Opaque)
        ));
        assert!(matches!(
            decision(&config, &web(), b"GE"),
            Decision::NeedMore
        ));
    }

    #[test]
    fn gwlb_b13_mid_flow_policy_is_per_rule() {
        let config = config("[[rule]]\naction = 'intercept'\nport = 443\nmid-flow = 'reset'\n");
        assert_eq!(verdict(&config, &web(), true), Verdict::Reset);
        assert_eq!(verdict(&config, &web(), false), Verdict::Inspect);
        assert_eq!(
            verdict(&config, &flow(6, "10.0.0.1:1", "10.0.0.2:22"), true),
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
                verdict(&config, &there(flow(6, "10.0.0.1:1", server)), false),
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
            assert_eq!(verdict(&config, &other, false), Verdict::Pass, "{other:?}");
        }
    }

    #[test]
    fn a_port_condition_never_matches_a_protocol_without_ports() {
        let config = config("[[rule]]\naction = 'drop'\nport = '0-65535'\n");
        assert_eq!(
            verdict(&config, &flow(1, "10.0.0.1:0", "10.0.0.2:0"), false),
            Verdict::Pass
        );
        assert_eq!(
            verdict(&config, &flow(17, "10.0.0.1:9", "10.0.0.2:9"), false),
            Verdict::Drop
        );
    }

    #[test]
    fn a_server_name_needs_inspection_and_decides_on_the_hello() {
        let config = config(
            "[[rule]]\naction = 'reset'\nserver-name = '*.bad.example'\n\
             [[rule]]\naction = 'pass'\nport = 443\n[[rule]]\naction = 'drop'\n",
        );
        assert_eq!(verdict(&config, &web(), false), Verdict::Inspect);
        assert_eq!(
            verdict(&config, &flow(17, "10.0.0.1:9", "10.0.0.2:443"), false),
            Verdict::Pass
        );
        assert!(matches!(
            decision(&config, &web(), &hello("www.bad.example")),
            Decision::Reset
        ));
        assert!(matches!(
            decision(&config, &web(), &hello("good.example")),
            Decision::Pass(_)
        ));
        let hello = hello("www.bad.example");
        assert!(matches!(
            decision(&config, &web(), &hello[..hello.len() - 1]),
            Decision::NeedMore
        ));
    }

    #[test]
    fn a_name_that_passes_is_exempt_from_a_wider_rule_below() {
        let config = config(
            "[[rule]]\naction = 'pass'\nserver-name = 'bank.example'\n[[rule]]\naction = 'reset'\n",
        );
        assert_eq!(verdict(&config, &web(), false), Verdict::Inspect);
        assert!(matches!(
            decision(&config, &web(), &hello("bank.example")),
            Decision::Pass(_)
        ));
        assert!(matches!(decision(&config, &web(), HTTP), Decision::Reset));
    }

    #[test]
    fn a_name_that_passes_costs_no_inspection_where_all_is_passed() {
        let config = config("[[rule]]\naction = 'pass'\nserver-name = 'bank.example'\n");
        assert_eq!(verdict(&config, &web(), false), Verdict::Pass);
    }

    #[test]
    fn the_host_of_the_first_request_decides_unless_there_is_doubt_about_it() {
        let config = config("[[rule]]\naction = 'reset'\nhttp-host = '*.bad.example'\n");
        assert_eq!(verdict(&config, &web(), false), Verdict::Inspect);
        for (request, expected) in [
            (
                "GET / HTTP/1.1\r\nHost: a.bad.example\r\n\r\n",
                Decision::Reset,
            ),
            (
                "GET / HTTP/1.1\r\nhost:A.BAD.example:80 \r\nX: y\r\n\r\n",
                Decision::Reset,
            ),
            (
                "GET http://a.bad.example/ HTTP/1.1\r\nHost: good\r\n\r\n",
                Decision::Reset,
            ),
            (
                "GET /?u=http://a.bad.example/ HTTP/1.1\r\nHost: good\r\n\r\n",
                Decision::Pass(PassReason::Rule),
            ),
            (
                "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n",
                Decision::Pass(PassReason::Rule),
            ),
            (
                "GET / HTTP/1.1\r\nHost: a.bad.example\r\nHost: b\r\n\r\n",
                Decision::Pass(PassReason::Rule),
            ),
            ("GET / HTTP/1.0\r\n\r\n", Decision::Pass(PassReason::Rule)),
            ("GET / HTTP/1.1\r\nHost: a.bad.example", Decision::NeedMore),
        ] {
            assert_eq!(
                decision(&config, &web(), request.as_bytes()),
                expected,
                "{request}"
            );
        }
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(64 * 1024));
        assert_ne!(
            decision(&config, &web(), endless.as_bytes()),
            Decision::NeedMore
        );
    }

    #[test]
    fn what_the_client_speaks_decides() {
        let config = config(
            "[[rule]]\naction = 'drop'\napplication = 'other'\n\
             [[rule]]\naction = 'intercept'\napplication = ['http1', 'tls']\n",
        );
        assert_eq!(verdict(&config, &web(), false), Verdict::Inspect);
        assert_eq!(verdict(&config, &web(), true), Verdict::Pass);
        assert_eq!(decision(&config, &web(), SSH), Decision::Drop);
        assert_eq!(
            decision(&config, &web(), HTTP),
            Decision::Intercept(Protocols::Http1)
        );
        let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_eq!(
            decision(&config, &web(), http2),
            Decision::Pass(PassReason::Rule)
        );
    }

    #[test]
    fn a_rule_that_asks_is_a_gate_before_the_rules_below_it() {
        let config = config(
            "[[acceptor]]\nname = 'a'\nuse = 'http-acceptor'\nurl = 'http://127.0.0.1:9/'\n\
             [[rule]]\naction = 'drop'\nport = 25\n\
             [[rule]]\naction = 'ask'\nacceptor = 'a'\n\
             [[rule]]\naction = 'intercept'\n",
        );
        let opening = at_open(&config, &web(), false, 0);
        assert_eq!((opening.step, opening.number), (OpenStep::Ask, Some(1)));
        let opening = at_open(&config, &web(), false, 2);
        assert_eq!(opening.step, OpenStep::Verdict(Verdict::Inspect));
        let heard = Heard {
            passed: &[1],
            ..Heard::default()
        };
        assert_eq!(
            at_first_bytes(&config, &web(), First::Client(HTTP), heard).decision,
            Decision::Intercept(Protocols::Http1)
        );
        let mail = flow(6, "10.0.0.1:1", "192.0.2.1:25");
        assert_eq!(verdict(&config, &mail, false), Verdict::Drop);
    }

    #[test]
    fn a_rule_that_asks_may_need_first_bytes_or_stand_below_one_that_does() {
        let config = config(
            "[[acceptor]]\nname = 'a'\nuse = 'http-acceptor'\nurl = 'http://127.0.0.1:9/'\n\
             [[rule]]\naction = 'pass'\nserver-name = 'free.example'\n\
             [[rule]]\naction = 'ask'\nacceptor = 'a'\nserver-name = '*.example'\n\
             [[rule]]\naction = 'ask'\nacceptor = 'a'\nsource = '10.0.0.0/8'\n\
             [[rule]]\naction = 'drop'\napplication = 'other'\n",
        );
        assert_eq!(verdict(&config, &web(), false), Verdict::Inspect);
        let judge = |first, passed| {
            let heard = Heard {
                passed,
                ..Heard::default()
            };
            at_first_bytes(&config, &web(), first, heard).decision
        };
        let (free, asked) = (hello("free.example"), hello("a.example"));
        let pass = Decision::Pass(PassReason::Rule);
        assert_eq!(judge(First::Client(&free), &[]), pass);
        assert_eq!(judge(First::Client(&asked), &[]), Decision::Ask(1));
        assert_eq!(judge(First::Client(&asked), &[1]), Decision::Ask(2));
        assert_eq!(judge(First::Client(&asked), &[1, 2]), pass);
        // A server that speaks first is asked about too, and judged by the rules below.
        assert_eq!(judge(First::Server, &[]), Decision::Ask(2));
        assert_eq!(judge(First::Server, &[2]), Decision::Drop);
        // What is in the middle, or no TCP, has no first bytes to wait for.
        for (facts, mid_flow) in [
            (web(), true),
            (flow(17, "10.0.0.1:9", "10.0.0.2:53"), false),
        ] {
            let opening = at_open(&config, &facts, mid_flow, 0);
            assert_eq!((opening.step, opening.number), (OpenStep::Ask, Some(2)));
        }
    }

    #[test]
    fn tls_without_an_authority_is_passed_and_says_why() {
        let config = config("[[rule]]\naction = 'intercept'\n");
        let decision = decision(&config, &web(), &hello("any.example"));
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
