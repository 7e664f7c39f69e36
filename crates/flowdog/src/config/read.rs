//! From the document to [`Config`]: which keys there are and what each may hold.

use dataplane::Congestion;
use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use proxy::starttls::StartTls;
use sdk::{ByteSize, Chain, HookLink, Hooks};
use toml::de::{DeTable, DeValue};

use super::acceptor::Acceptors;
use super::extensions::{ExtensionNames, Named, names_in};
use super::fault::{Collector, Faults};
use super::hosts;
use super::section::{Section, integer, list};
use super::value;
use super::{
    Action, Application, Config, Drain, Ech, FlowLog, FlowLogFormat, FlowLogOutput, Flows, Gwlb,
    Health, Kinds, Log, LogFormat, MidFlow, Records, ReplyMode, Root, Rule, Rules, Tls,
};

/// An hour: more than any time-out here needs, and far from overflow.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Every key that was asked for, with the numbers of tables in arrays left out.
pub(super) type KnownKeys = BTreeSet<String>;

pub(super) fn read(
    text: &str,
    file: &Path,
    kinds: &Kinds<'_>,
) -> Result<(Config, KnownKeys), Faults> {
    let mut faults = Collector::new(file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        faults.add(
            offset,
            "",
            format!("is not TOML: {}", error.message()),
            None,
        );
    }
    let mut reader = Reader {
        faults,
        known: KnownKeys::new(),
        has_directory: false,
    };
    let mut root = Section::new("", 0, Some(document.get_ref()));
    let config = reader.document(&mut root, kinds);
    reader.close(&root);
    let Reader { faults, known, .. } = reader;
    faults.finish((config, known))
}

pub(super) struct Reader<'t> {
    pub(super) faults: Collector<'t>,
    known: KnownKeys,
    /// Whether there is someone to ask about hosts.
    has_directory: bool,
}

impl Reader<'_> {
    fn document(&mut self, root: &mut Section<'_>, kinds: &Kinds<'_>) -> Config {
        let gwlb = root.table("gwlb", &mut self.faults);
        let flows = root.table("flows", &mut self.faults);
        let health = root.table("health", &mut self.faults);
        let mut control_section = root.table("control", &mut self.faults);
        let control = control_section.path("socket", &mut self.faults);
        self.close(&control_section);
        let tls = root.table("tls", &mut self.faults);
        let proxy = root.table("proxy", &mut self.faults);
        let log = root.table("log", &mut self.faults);
        let flow_log = root.table("flow-log", &mut self.faults);
        let flow_metrics = root.table("flow-metrics", &mut self.faults);
        let records = root.table("records", &mut self.faults);
        let drain = root.table("drain", &mut self.faults);
        let mut capture = root.table("capture", &mut self.faults);
        #[cfg(feature = "aws")]
        let ec2 = {
            let section = root.table("ec2", &mut self.faults);
            self.ec2(section)
        };
        #[cfg(not(feature = "aws"))]
        let ec2 = None;
        self.has_directory = ec2.is_some();
        let links = self.interceptors(root, kinds.interceptors);
        let hooks = self.hooks(root, &kinds.hooks);
        let acceptors = self.acceptors(root);
        Config {
            gwlb: self.gwlb(gwlb),
            flows: self.flows(flows),
            health: self.health(health),
            control,
            tls: self.tls(tls),
            proxy: self.proxy(proxy),
            log: self.log(log),
            flow_log: self.flow_log(flow_log),
            flow_metrics: self.flow_metrics(flow_metrics),
            records: self.records(records),
            drain: self.drain(drain),
            capture: {
                let read = super::capture::read(&mut capture, &mut self.faults);
                self.close(&capture);
                read
            },
            ec2,
            rules: self.rules(
                root,
                &Named {
                    links: &links,
                    hooks: &hooks,
                },
                &acceptors,
            ),
            hooks: hooks.into_values().collect(),
            acceptors: acceptors.into_values().collect(),
            interceptors: links.into_values().collect(),
        }
    }

    fn gwlb(&mut self, mut section: Section<'_>) -> Gwlb {
        let default = Gwlb::default();
        let faults = &mut self.faults;
        let read = Gwlb {
            listen: section
                .parsed(
                    "listen",
                    "an IPv4 address and a port, as \"0.0.0.0:6081\"",
                    faults,
                    |text| text.parse::<SocketAddrV4>().ok(),
                )
                .unwrap_or(default.listen),
            shards: section
                .number("shards", 1, 256, faults)
                .map_or(default.shards, |n| n as usize),
            receive_buffer: section
                .size(
                    "receive-buffer",
                    ByteSize::kib(64),
                    ByteSize::mib(1024),
                    faults,
                )
                .unwrap_or(default.receive_buffer),
            send_buffer: section
                .size(
                    "send-buffer",
                    ByteSize::kib(64),
                    ByteSize::mib(1024),
                    faults,
                )
                .unwrap_or(default.send_buffer),
            reply: section
                .word(
                    "reply",
                    &[
                        ("auto", ReplyMode::Auto),
                        ("bound", ReplyMode::Bound),
                        ("raw", ReplyMode::Raw),
                    ],
                    faults,
                )
                .unwrap_or(default.reply),
            reply_sockets: section
                .number("reply-sockets", 1, 60_000, faults)
                .map_or(default.reply_sockets, |n| n as usize),
            allowed_sources: section
                .optional_list("allowed-sources", NETWORKS, faults, |v| {
                    v.as_str().and_then(value::network)
                })
                .unwrap_or(default.allowed_sources),
        };
        self.close(&section);
        read
    }

    fn flows(&mut self, mut section: Section<'_>) -> Flows {
        let default = Flows::default();
        let faults = &mut self.faults;
        let idle = |section: &mut Section<'_>, key, default, faults: &mut Collector<'_>| {
            section
                .duration(key, SECOND, Duration::from_secs(86_400), faults)
                .unwrap_or(default)
        };
        let read = Flows {
            tcp_idle: idle(&mut section, "tcp-idle", default.tcp_idle, faults),
            other_idle: idle(&mut section, "other-idle", default.other_idle, faults),
            max: section
                .number("max", 1, 1 << 26, faults)
                .map_or(default.max, |n| n as usize),
            max_intercepted: section
                .number("max-intercepted", 0, 1 << 24, faults)
                .map_or(default.max_intercepted, |n| n as usize),
            pass_when_full: section
                .word("when-full", &[("drop", false), ("pass", true)], faults)
                .unwrap_or(default.pass_when_full),
            park_packets: section
                .number("park-packets", 1, 4096, faults)
                .map_or(default.park_packets, |n| n as usize),
            park_total: section
                .size(
                    "park-total",
                    ByteSize::kib(64),
                    ByteSize::mib(65_536),
                    faults,
                )
                .unwrap_or(default.park_total),
            hold_total: section
                .size(
                    "hold-total",
                    ByteSize::kib(64),
                    ByteSize::mib(65_536),
                    faults,
                )
                .unwrap_or(default.hold_total),
            tcp_memory: section
                .size(
                    "tcp-memory",
                    ByteSize::mib(1),
                    ByteSize::mib(1 << 20),
                    faults,
                )
                .unwrap_or(default.tcp_memory),
            hold_time: section
                .duration("hold-time", Duration::from_millis(1), 10 * SECOND, faults)
                .unwrap_or(default.hold_time),
            mss_ipv4: section
                .number("mss-ipv4", 536, 8460, faults)
                .map_or(default.mss_ipv4, |n| n as u16),
            mss_ipv6: section
                .number("mss-ipv6", 1220, 8440, faults)
                .map_or(default.mss_ipv6, |n| n as u16),
        };
        self.close(&section);
        read
    }

    fn health(&mut self, mut section: Section<'_>) -> Health {
        let default = Health::default();
        let read = Health {
            listen: section
                .parsed(
                    "listen",
                    "an address and a port, as \"0.0.0.0:8080\"",
                    &mut self.faults,
                    |text| text.parse::<SocketAddr>().ok(),
                )
                .unwrap_or(default.listen),
            stall: section
                .duration("stall", SECOND, HOUR, &mut self.faults)
                .unwrap_or(default.stall),
        };
        self.close(&section);
        read
    }

    fn tls(&mut self, mut section: Section<'_>) -> Tls {
        let mut ca_section = section.table("ca", &mut self.faults);
        let mut upstream = section.table("upstream", &mut self.faults);
        let mut learn = section.table("learn", &mut self.faults);
        let learned = super::authority::read_learn(&mut learn, &mut self.faults);
        self.close(&learn);
        let mut revocation_section = section.table("revocation", &mut self.faults);
        let revocation =
            super::authority::read_revocation(&mut revocation_section, &mut self.faults);
        self.close(&revocation_section);
        let mut secrets = section.table("key-log", &mut self.faults);
        let key_log = secrets.path("file", &mut self.faults);
        self.close(&secrets);
        let before = self.faults.count();
        let ca = super::authority::read(&mut ca_section, &mut self.faults);
        let roots = self.roots(&mut upstream);
        self.close(&ca_section);
        self.close(&upstream);
        self.close(&section);
        let roots_entry = upstream.peek("roots");
        // Files are read only when their names are right; else one slip would be told twice.
        let impersonator = if self.faults.count() == before {
            let loaded = crate::trust::load(ca.as_ref(), &roots, &revocation, key_log.as_deref());
            match loaded {
                Ok(impersonator) => impersonator,
                Err(fault) => {
                    let (offset, key) = match (fault.key, &roots_entry) {
                        ("roots", Some(entry)) => (entry.offset, entry.key.clone()),
                        ("lists", _) => (
                            revocation_section.offset_of("lists"),
                            revocation_section.name_of("lists"),
                        ),
                        ("roots", None) => (upstream.offset(), upstream.name_of("roots")),
                        (key, _) => (ca_section.offset_of(key), ca_section.name_of(key)),
                    };
                    self.faults
                        .add(offset, key, fault.what, Some(fault.allowed));
                    None
                }
            }
        } else {
            None
        };
        Tls {
            ca,
            roots,
            revocation,
            impersonator,
            key_log,
            learned,
        }
    }

    fn roots(&mut self, section: &mut Section<'_>) -> Vec<Root> {
        let folder = self.faults.folder();
        let allowed = "\"system\" and paths of PEM files";
        let roots = section.several("roots", allowed, &mut self.faults, |v| {
            match v.as_str()? {
                "" => None,
                "system" => Some(Root::System),
                path => Some(Root::File(folder.join(path))),
            }
        });
        roots.unwrap_or_else(|| Tls::default().roots)
    }

    fn log(&mut self, mut section: Section<'_>) -> Log {
        let default = Log::default();
        let faults = &mut self.faults;
        let read = Log {
            format: section
                .word(
                    "format",
                    &[("json", LogFormat::Json), ("text", LogFormat::Text)],
                    faults,
                )
                .unwrap_or(default.format),
            level: section
                .parsed(
                    "level",
                    "error, warn, info, debug, trace, or directives such as \"info,flowdog=debug\"",
                    faults,
                    |text| is_level(text).then(|| text.to_owned()),
                )
                .unwrap_or(default.level),
        };
        self.close(&section);
        read
    }

    fn flow_log(&mut self, mut section: Section<'_>) -> FlowLog {
        let default = FlowLog::default();
        let faults = &mut self.faults;
        let read = FlowLog {
            output: output(&mut section, faults).unwrap_or(default.output),
            format: section
                .word(
                    "format",
                    &[("json", FlowLogFormat::Json), ("text", FlowLogFormat::Text)],
                    faults,
                )
                .unwrap_or(default.format),
            queue: section
                .number("queue", 1, 1 << 24, faults)
                .map_or(default.queue, |n| n as usize),
            interval: section.duration("interval", SECOND, 24 * HOUR, faults),
        };
        self.close(&section);
        read
    }

    fn records(&mut self, mut section: Section<'_>) -> Records {
        let default = Records::default();
        let faults = &mut self.faults;
        let read = Records {
            output: output(&mut section, faults).unwrap_or(default.output),
            queue: section
                .number("queue", 1, 1 << 24, faults)
                .map_or(default.queue, |n| n as usize),
        };
        self.close(&section);
        read
    }

    fn drain(&mut self, mut section: Section<'_>) -> Drain {
        let default = Drain::default();
        let read = Drain {
            deadline: section
                .duration("deadline", Duration::ZERO, 24 * HOUR, &mut self.faults)
                .unwrap_or(default.deadline),
            grace: section
                .duration("grace", Duration::ZERO, HOUR, &mut self.faults)
                .unwrap_or(default.grace),
        };
        self.close(&section);
        read
    }

    fn rules(&mut self, root: &mut Section<'_>, named: &Named<'_>, acceptors: &Acceptors) -> Rules {
        // A name whose interceptor is faulty itself is not told a second time.
        let declared = ExtensionNames {
            interceptors: root.declared_names("interceptor"),
            hooks: root.declared_names("hook"),
        };
        let mut rules = Vec::new();
        let sections = root.tables("rule", &mut self.faults);
        if sections.len() > MOST_RULES {
            let what = format!("there are {} rules", sections.len());
            self.faults
                .add(root.offset(), "rule", what, Some("at most 10000"));
            return Rules::default();
        }
        for (index, mut section) in sections.into_iter().enumerate() {
            let asked = self.asked(&mut section, acceptors, root);
            rules.extend(
                self.rule(&mut section, index + 1, named, &declared)
                    .map(|rule| Rule {
                        acceptor: asked.0,
                        accept_on_error: asked.1,
                        ..rule
                    }),
            );
            self.close(&section);
        }
        Rules::new(rules)
    }

    fn rule(
        &mut self,
        section: &mut Section<'_>,
        number: usize,
        named: &Named<'_>,
        declared: &ExtensionNames,
    ) -> Option<Rule> {
        let has_directory = self.has_directory;
        let faults = &mut self.faults;
        const ACTIONS: [(&str, Action); 6] = [
            ("ask", Action::Ask),
            ("bypass", Action::Pass),
            ("drop", Action::Drop),
            ("intercept", Action::Intercept),
            ("pass", Action::Pass),
            ("reset", Action::Reset),
        ];
        let action = section.word("action", &ACTIONS, faults);
        if section.peek("action").is_none() {
            let allowed = list(ACTIONS.iter().map(|(word, _)| *word));
            faults.add(
                section.offset(),
                section.name_of("action"),
                "is missing",
                Some(&allowed),
            );
        }
        let chain = names_in(
            section,
            "interceptors",
            "interceptor",
            &declared.interceptors,
            faults,
        )
        .iter()
        .filter_map(|name| named.links.get(name).cloned())
        .collect();
        let hooks: Vec<HookLink> = names_in(section, "hooks", "hook", &declared.hooks, faults)
            .iter()
            .filter_map(|name| named.hooks.get(name).cloned())
            .collect();
        let hooks = Hooks::new(hooks);
        if let (Some(entry), Some(action)) = (section.peek("interceptors"), action)
            && !matches!(action, Action::Ask | Action::Intercept)
        {
            faults.add(
                entry.offset,
                entry.key,
                "interceptors run only where flows are intercepted",
                Some("action = \"intercept\" or \"ask\", or a rule without `interceptors`"),
            );
        }
        if let (Some(entry), Some(action)) = (section.peek("hooks"), action)
            && !matches!(action, Action::Pass | Action::Intercept)
        {
            faults.add(
                entry.offset,
                entry.key,
                "hooks run only where flows are passed or intercepted",
                Some("action = \"pass\" or \"intercept\", or a rule without `hooks`"),
            );
        }
        if let (Some(entry), Some(action)) = (section.peek("unseen"), action)
            && action == Action::Ask
        {
            faults.add(
                entry.offset,
                entry.key,
                "`on-error` says what holds for a rule that asks",
                Some("a rule without `unseen`"),
            );
        }
        let client_certificate = client_certificate(section, faults);
        let starttls = section.optional_list("starttls", STARTTLS, faults, |v| {
            StartTls::from_word(v.as_str()?)
        });
        if let (Some(entry), Some(action)) = (section.peek("starttls"), action)
            && !matches!(action, Action::Ask | Action::Intercept)
        {
            faults.add(
                entry.offset,
                entry.key,
                "only flows that are intercepted are followed to TLS",
                Some("action = \"intercept\" or \"ask\", or a rule without `starttls`"),
            );
        }
        let line = faults.line_of(section.offset());
        let name = section
            .parsed("name", "a name of up to 64 characters", faults, |text| {
                let fits = !text.is_empty() && text.chars().count() <= 64;
                (fits && !text.contains(char::is_control)).then(|| text.to_owned())
            })
            .unwrap_or_else(|| format!("rule[{number}]"));
        let rule = Rule {
            name: name.into(),
            line,
            acceptor: None,
            accept_on_error: false,
            unseen_matches: section
                .word("unseen", &[("match", true), ("skip", false)], faults)
                .unwrap_or(false),
            action: action.unwrap_or(Action::Pass),
            chain: Chain::new(chain),
            hooks_streams: hooks.sees_streams(),
            hooks,
            verify: section
                .word(
                    "verify",
                    &[
                        ("bypass", tls::Verify::Bypass),
                        ("mirror", tls::Verify::Mirror),
                        ("strict", tls::Verify::Strict),
                        ("tag", tls::Verify::Tag),
                    ],
                    faults,
                )
                .unwrap_or_default(),
            congestion: section
                .word(
                    "congestion",
                    &[("bbr", Congestion::Bbr), ("cubic", Congestion::Cubic)],
                    faults,
                )
                .unwrap_or_default(),
            client_certificate,
            refuse_old_tls: section
                .word("old-tls", &[("pass", false), ("refuse", true)], faults)
                .unwrap_or(false),
            ech: section
                .word(
                    "ech",
                    &[
                        ("intercept", Ech::Intercept),
                        ("pass", Ech::Pass),
                        ("refuse", Ech::Refuse),
                    ],
                    faults,
                )
                .unwrap_or_default(),
            starttls: starttls.into_iter().flatten().collect(),
            mid_flow: section
                .word(
                    "mid-flow",
                    &[("pass", MidFlow::Pass), ("reset", MidFlow::Reset)],
                    faults,
                )
                .unwrap_or(MidFlow::Pass),
            endpoint: section.several(
                "endpoint",
                "ids as \"vpce-0123456789abcdef0\"",
                faults,
                |v| v.as_str().and_then(value::endpoint),
            ),
            source: section.several("source", NETWORKS, faults, |v| {
                v.as_str().and_then(value::network)
            }),
            destination: section.several("destination", NETWORKS, faults, |v| {
                v.as_str().and_then(value::network)
            }),
            source_host: hosts::conditions(section, &hosts::SOURCE, has_directory, faults),
            destination_host: hosts::conditions(
                section,
                &hosts::DESTINATION,
                has_directory,
                faults,
            ),
            port: section.several(
                "port",
                "ports as 443, ranges as \"8000-8999\"",
                faults,
                |v| match v {
                    DeValue::Integer(_) => {
                        let port = u16::try_from(integer(v)?).ok()?;
                        Some(port..=port)
                    }
                    _ => v.as_str().and_then(value::ports),
                },
            ),
            protocol: section.several(
                "protocol",
                "tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, or a number up to 255",
                faults,
                protocol,
            ),
            server_name: section.several("server-name", HOST_NAMES, faults, |v| {
                v.as_str()?.parse().ok()
            }),
            http_host: section.several("http-host", HOST_NAMES, faults, |v| {
                v.as_str()?.parse().ok()
            }),
            application: section.several(
                "application",
                "http1, http2, other, quic, tls",
                faults,
                |v| Application::from_word(v.as_str()?),
            ),
        };
        Some(rule)
    }

    /// No more keys will be asked for.
    pub(super) fn close(&mut self, section: &Section<'_>) {
        self.remember(section);
        section.refuse_unknown(&mut self.faults);
    }

    pub(super) fn remember(&mut self, section: &Section<'_>) {
        self.known
            .extend(section.known_names().map(|name| strip_numbers(&name)));
    }
}

/// The certificate of `client-certificate` with its key: in `client-key`, or in the same file.
fn client_certificate(
    section: &mut Section<'_>,
    faults: &mut Collector<'_>,
) -> Option<tls::ClientCertificate> {
    let certificate = section.path("client-certificate", faults);
    let key = section.path("client-key", faults);
    let Some(certificate) = certificate else {
        if let Some(entry) = section.peek("client-key") {
            let what = "stands without its certificate";
            faults.add(entry.offset, entry.key, what, Some("`client-certificate`"));
        }
        return None;
    };
    let key = key.unwrap_or_else(|| certificate.clone());
    match tls::ClientCertificate::from_files(&certificate, &key) {
        Ok(read) => Some(read),
        Err(error) => {
            let name = if error.path == certificate {
                "client-certificate"
            } else {
                "client-key"
            };
            faults.add(
                section.offset_of(name),
                section.name_of(name),
                error.to_string(),
                Some("PEM files with the certificate and its unencrypted private key"),
            );
            None
        }
    }
}

/// Where lines go.
fn output(section: &mut Section<'_>, faults: &mut Collector<'_>) -> Option<FlowLogOutput> {
    let folder = faults.folder();
    section.parsed(
        "output",
        "\"off\", \"stdout\", or the path of a file",
        faults,
        |text| match text {
            "" => None,
            "off" => Some(FlowLogOutput::Off),
            "stdout" => Some(FlowLogOutput::Stdout),
            path => Some(FlowLogOutput::File(folder.join(path))),
        },
    )
}

/// More would make the tables of the rules large; lists of networks in few rules cost less.
const MOST_RULES: usize = 10_000;
const STARTTLS: &str = "imap, ldap, mysql, pop3, postgres, smtp";
const HOST_NAMES: &str = "host names, with * for any characters, as \"*.example.com\"";
const NETWORKS: &str = "networks as \"10.0.0.0/8\" or \"2001:db8::/32\", or single addresses";

/// IANA's protocol numbers, as such or by the names people use.
fn protocol(value: &DeValue<'_>) -> Option<u8> {
    if value.is_integer() {
        return u8::try_from(integer(value)?).ok();
    }
    value::protocol(value.as_str()?)
}

/// `EnvFilter` takes any word for a target; a single word here is meant as a level.
fn is_level(text: &str) -> bool {
    let directives = text.split(',').map(str::trim).all(|part| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
    });
    directives && tracing_subscriber::EnvFilter::try_new(text).is_ok()
}

fn strip_numbers(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut inside = false;
    for c in name.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}
