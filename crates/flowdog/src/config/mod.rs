//! The configuration: one TOML file, typed, checked once, refused when it holds an unknown key.
//!
//! Keys are kebab-case nouns; units stand in the value (`"350s"`, `"16MiB"`). Every key has a
//! default, so that an empty file is an appliance that passes everything. Reading collects *all*
//! faults, each with its line, and what is allowed instead.

mod acceptor;
mod authority;
mod capture;
mod extensions;
mod fault;
mod flow_metrics;
pub(crate) mod hosts;
mod http;
mod kinds;
mod read;
mod section;
mod value;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataplane::{Congestion, VpcEndpointId};
use ipnet::IpNet;
use proxy::starttls::StartTlsSet;
use sdk::{Chain, HookLink, Hooks, Link};

pub use authority::{Ca, CaKey, WhenAway};
pub use capture::{Capture, CaptureListen};
pub use fault::{Fault, Faults};
pub use hosts::HostConditions;
pub use kinds::Kinds;
pub use sdk::ByteSize;
pub use sdk::NameGlob;
pub use value::{endpoint_id, protocol_number};

use crate::acceptor::AcceptorLink;
use crate::flow_metrics::FlowMetrics;
pub use crate::policy::Application;
use crate::policy::index::Index;

/// The UDP port of GENEVE (RFC 8926 §3.3), the only one a GWLB target group can have.
pub const GENEVE_PORT: u16 = 6081;

/// Everything that can be configured. `Default` is what an empty file gives.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[gwlb]`: the packet socket.
    pub gwlb: Gwlb,
    /// `[flows]`: idle times and bounds of the flow table.
    pub flows: Flows,
    /// `[health]`: the health and metrics listener.
    pub health: Health,
    /// `[control] socket`: the UNIX socket for the operator's commands. None.
    pub control: Option<PathBuf>,
    /// `[tls]`: certificate authority and trust.
    pub tls: Tls,
    /// `[proxy]`: limits of HTTP and WebSocket.
    pub proxy: proxy::Limits,
    /// `[log]`: form and level.
    pub log: Log,
    /// `[flow-log]`: a line for each flow.
    pub flow_log: FlowLog,
    /// `[flow-metrics]`: flows counted by labels of one's own. `None`: they are not.
    pub flow_metrics: Option<Arc<FlowMetrics>>,
    /// `[records]`: where hooks' records go.
    pub records: Records,
    /// `[drain]`: how the appliance stops.
    pub drain: Drain,
    /// `[ec2]`: whom to ask about the hosts behind addresses. Nobody.
    pub ec2: Option<Ec2>,
    /// `[capture]`.
    pub capture: Capture,
    /// `[[interceptor]]`, made and ready.
    pub interceptors: Vec<Link>,
    /// `[[hook]]`, made and ready.
    pub hooks: Vec<HookLink>,
    /// `[[acceptor]]`, made and ready.
    pub acceptors: Vec<Arc<AcceptorLink>>,
    /// `[[rule]]`, in order; the first that matches decides.
    pub rules: Rules,
}

/// `[gwlb]`: where packets arrive and how replies leave.
#[derive(Clone, Debug)]
pub struct Gwlb {
    /// `listen`: address and UDP port. `0.0.0.0:6081`; GENEVE's port (RFC 8926 §3.3).
    pub listen: SocketAddrV4,
    /// `shards`: threads with their own socket and flow table. 1, until more has been measured.
    pub shards: usize,
    /// `receive-buffer`: asked of the kernel for each socket. 16 MiB: the default of 208 KiB loses
    /// packets in bursts.
    pub receive_buffer: ByteSize,
    /// `send-buffer`: the same for sending. 16 MiB.
    pub send_buffer: ByteSize,
    /// `reply`: how replies get the source port that the load balancer chose. `bound`.
    pub reply: ReplyMode,
    /// `reply-sockets`: most bound reply sockets per shard. 1,024, the usual limit of descriptors.
    pub reply_sockets: usize,
    /// `allowed-sources`: who may send; empty means anyone. Empty, because the load balancer's
    /// addresses are not known beforehand and a security group usually says it.
    pub allowed_sources: Vec<IpNet>,
}

impl Default for Gwlb {
    fn default() -> Self {
        Self {
            listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, GENEVE_PORT),
            shards: 1,
            receive_buffer: ByteSize::mib(16),
            send_buffer: ByteSize::mib(16),
            reply: ReplyMode::Bound,
            reply_sockets: 1024,
            allowed_sources: Vec::new(),
        }
    }
}

/// How a reply leaves from the source port that the load balancer chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// A raw socket where the process may have one (CAP_NET_RAW), bound sockets otherwise.
    Auto,
    /// Sockets bound to those ports, opened when needed; uses GSO.
    Bound,
    /// One raw socket per shard; needs CAP_NET_RAW.
    Raw,
}

/// `[flows]`: how long flows are remembered and how many.
#[derive(Clone, Debug)]
pub struct Flows {
    /// `tcp-idle`: 350 s, the load balancer's default (`tcp.idle_timeout.seconds`); keep both equal.
    pub tcp_idle: Duration,
    /// `other-idle`: UDP and all else. 120 s, fixed in the load balancer.
    pub other_idle: Duration,
    /// `max`: flows remembered per shard. 1,048,576.
    pub max: usize,
    /// `max-intercepted`: flows intercepted at once per shard; more bypass. 65,536.
    pub max_intercepted: usize,
    /// `when-full`: a new flow when the table is full is passed or dropped. `pass`.
    pub pass_when_full: bool,
    /// `park-packets`: packets of one flow that wait for its verdict. 32.
    pub park_packets: usize,
    /// `park-total`: bytes of all flows that wait for a verdict. 64 MiB.
    pub park_total: ByteSize,
    /// `hold-total`: first bytes of all flows held while the protocol is recognised. 64 MiB.
    pub hold_total: ByteSize,
    /// `tcp-memory`: bytes that the buffers of all intercepted connections of a shard hold; beyond
    /// three quarters none grows, beyond all of it each goes on with 16 KiB. 1 GiB.
    pub tcp_memory: ByteSize,
    /// `hold-time`: how long first bytes are held at most. 150 ms, below the least time-out after
    /// which a sender repeats a segment (200 ms).
    pub hold_time: Duration,
    /// `mss-ipv4`: largest TCP segment of ours to IPv4 peers. 8,460: a GWLB drops inner packets
    /// above 8,500 bytes.
    pub mss_ipv4: u16,
    /// `mss-ipv6`: the same for IPv6. 8,440.
    pub mss_ipv6: u16,
}

impl Default for Flows {
    fn default() -> Self {
        let engine = dataplane::Config::default();
        Self {
            tcp_idle: engine.tcp_idle,
            other_idle: engine.other_idle,
            max: engine.max_flows,
            max_intercepted: engine.max_intercepted,
            pass_when_full: engine.on_table_full == dataplane::Verdict::Pass,
            park_packets: engine.park_packets,
            park_total: ByteSize(engine.park_total_bytes),
            hold_total: ByteSize(engine.hold_total_bytes),
            tcp_memory: ByteSize(engine.tcp_memory_bytes),
            hold_time: engine.hold_time,
            mss_ipv4: engine.mss_clamp_v4,
            mss_ipv6: engine.mss_clamp_v6,
        }
    }
}

impl Flows {
    /// The same for the data plane.
    pub fn engine(&self) -> dataplane::Config {
        dataplane::Config {
            tcp_idle: self.tcp_idle,
            other_idle: self.other_idle,
            max_flows: self.max,
            max_intercepted: self.max_intercepted,
            on_table_full: if self.pass_when_full {
                dataplane::Verdict::Pass
            } else {
                dataplane::Verdict::Drop
            },
            park_packets: self.park_packets,
            park_total_bytes: self.park_total.as_usize(),
            hold_total_bytes: self.hold_total.as_usize(),
            tcp_memory_bytes: self.tcp_memory.as_usize(),
            hold_time: self.hold_time,
            mss_clamp_v4: self.mss_ipv4,
            mss_clamp_v6: self.mss_ipv6,
            ..dataplane::Config::default()
        }
    }
}

/// `[health]`: where health checks and metrics are answered.
#[derive(Clone, Debug)]
pub struct Health {
    /// `listen`: address and TCP port. `0.0.0.0:8080`; give the target group the same port.
    pub listen: SocketAddr,
    /// `stall`: a shard that has not turned for so long is unhealthy. 5 s, half of a GWLB's default
    /// interval between checks.
    pub stall: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8080).into(),
            stall: Duration::from_secs(5),
        }
    }
}

/// `[tls]`: what is needed to impersonate servers; without a certificate authority TLS bypasses.
#[derive(Clone, Debug)]
pub struct Tls {
    /// `[tls.ca]`.
    pub ca: Option<Ca>,
    /// `[tls.upstream] roots`: whom to believe about servers. `["system"]`.
    pub roots: Vec<Root>,
    /// `[tls.revocation]`: how it is found out that a server's certificate was revoked. Stapled answers
    /// are looked at, and there are no lists.
    pub revocation: tls::Revocation,
    /// All of it together, loaded.
    pub impersonator: Option<Arc<tls::Impersonator>>,
    /// `[tls.key-log] file`: where secrets of both legs go. Nowhere.
    pub key_log: Option<PathBuf>,
    /// `[tls.learn]`; `None` where nothing is to be learned.
    pub learned: Option<Arc<tls::Learned>>,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca: None,
            roots: vec![Root::System],
            revocation: tls::Revocation::default(),
            impersonator: None,
            key_log: None,
            learned: Some(Arc::default()),
        }
    }
}

impl Tls {
    /// What happens to TLS without a valid intermediate.
    pub(crate) fn when_away(&self) -> WhenAway {
        self.ca.as_ref().map_or(WhenAway::Refuse, |ca| ca.when_away)
    }

    /// Whether nobody can sign leaves at this moment, and TLS is passed therefore.
    pub(crate) fn passes_without_signer(&self) -> bool {
        self.when_away() == WhenAway::Bypass
            && self
                .impersonator
                .as_ref()
                .is_some_and(|impersonator| !impersonator.can_sign())
    }
}

/// One entry of `[tls.upstream] roots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// The roots of the operating system.
    System,
    /// A PEM file with one or more certificates.
    File(PathBuf),
}

/// `[log]`: what is written to the standard error.
#[derive(Clone, Debug)]
pub struct Log {
    /// `format`. `text`.
    pub format: LogFormat,
    /// `level`: `error`, `warn`, `info`, `debug`, `trace`, or directives of `tracing`'s `EnvFilter`
    /// such as `info,flowdog=debug`. `info`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Lines to read; coloured on a terminal.
    Text,
}

/// `[flow-log]`: where a line for each flow that has ended goes.
#[derive(Clone, Debug)]
pub struct FlowLog {
    /// `output`. `off`.
    pub output: FlowLogOutput,
    /// `format`. `json`.
    pub format: FlowLogFormat,
    /// `queue`: records that wait to be written; further ones are lost and counted. 65,536.
    pub queue: usize,
    /// `interval`: how often flows that go on have a record too. Never.
    pub interval: Option<Duration>,
}

impl Default for FlowLog {
    fn default() -> Self {
        Self {
            output: FlowLogOutput::Off,
            format: FlowLogFormat::Json,
            queue: 65_536,
            interval: None,
        }
    }
}

/// Where the flow log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowLogOutput {
    /// Nowhere.
    Off,
    /// The standard output.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

/// The form of the flow log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowLogFormat {
    /// One JSON object per flow.
    Json,
    /// The default fields of VPC flow logs, a line per direction.
    Text,
}

/// `[records]`: where what hooks have seen goes, a JSON object per line.
#[derive(Clone, Debug)]
pub struct Records {
    /// `output`. `off`.
    pub output: FlowLogOutput,
    /// `queue`: records that wait to be written; further ones are lost and counted. 65,536.
    pub queue: usize,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            output: FlowLogOutput::Off,
            queue: 65_536,
        }
    }
}

/// `[drain]`: how the appliance stops on SIGTERM.
#[derive(Clone, Debug)]
pub struct Drain {
    /// `deadline`: intercepted flows that are left then are reset. 300 s, the default
    /// deregistration delay of a target group; keep it at or below that.
    pub deadline: Duration,
    /// `grace`: how long to stay unhealthy, so that the load balancer sees it, before the process
    /// may end. 0 s: whoever drains by health check alone raises it to the unhealthy threshold times
    /// the interval (20 s by default).
    pub grace: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(300),
            grace: Duration::ZERO,
        }
    }
}

/// `[ec2]`: where the hosts behind addresses are looked up.
#[derive(Clone, Debug)]
pub struct Ec2 {
    /// `refresh`: how often everything is listed. 5 min: events bring changes sooner.
    pub refresh: Duration,
    /// `start-wait`: how long the start waits for the first listing. 10 s.
    pub start_wait: Duration,
    /// `[[ec2.source]]`. One, where and as whom the environment says.
    pub sources: Vec<Ec2Place>,
}

impl Default for Ec2 {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(300),
            start_wait: Duration::from_secs(10),
            sources: vec![Ec2Place::default()],
        }
    }
}

/// One `[[ec2.source]]`: an account in a region.
#[derive(Clone, Debug, Default)]
pub struct Ec2Place {
    /// `region`. That of the environment or the instance.
    pub region: Option<String>,
    /// `role`: ARN of a role to assume. None: one's own credentials.
    pub role: Option<String>,
    /// `external-id`: what the role asks for.
    pub external_id: Option<String>,
    /// `endpoint`: another endpoint of EC2 than the region's own.
    pub endpoint: Option<String>,
    /// `queue`: URL of an SQS queue with EC2's events.
    pub queue: Option<String>,
}

impl Ec2Place {
    /// What logs and metrics call it.
    pub(crate) fn name(&self) -> String {
        let region = self.region.as_deref().unwrap_or("default");
        // `arn:aws:iam::ACCOUNT:role/NAME`.
        let account = self.role.as_ref().and_then(|role| role.split(':').nth(4));
        account.map_or_else(|| region.to_owned(), |one| format!("{one}/{region}"))
    }
}

/// What becomes of a hello with Encrypted ClientHello in it, in earnest or as a decoy: nobody but the
/// server can tell which (RFC 9849 §6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ech {
    /// The outer name decides, and a client that was in earnest is learned.
    #[default]
    Intercept,
    /// The flow is passed unread.
    Pass,
    /// The client gets the alert `access_denied`.
    Refuse,
}

/// One `[[rule]]`: conditions, all of which must hold, and what then happens to a flow.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `name`: what explanations and flow logs call it. `rule[N]`, N from 1.
    pub name: Arc<str>,
    /// The line of the configuration file on which it begins.
    pub line: usize,
    /// `action`.
    pub action: Action,
    /// `interceptors`: by name, in the order in which requests meet them.
    pub chain: Chain,
    /// `hooks`: by name, in the order in which what the client sends meets them.
    pub hooks: Hooks,
    /// Whether one of the hooks sees the bytes of TCP connections.
    pub hooks_streams: bool,
    /// `verify`: what happens when the server's certificate is not believed. `strict`.
    pub verify: tls::Verify,
    /// `congestion`: what limits the data in flight on both legs of an intercepted connection.
    /// `cubic`.
    pub congestion: Congestion,
    /// `client-certificate` and `client-key`: what servers get that ask for the client's certificate.
    /// Nothing.
    pub client_certificate: Option<tls::ClientCertificate>,
    /// `old-tls`: whether clients are refused that offer nothing that can be intercepted. `pass`.
    pub refuse_old_tls: bool,
    /// `ech`: what happens to clients whose hello carries Encrypted ClientHello. `intercept`.
    pub ech: Ech,
    /// `starttls`: protocols that begin in clear and are followed to TLS. None.
    pub starttls: StartTlsSet,
    /// `mid-flow`: what happens to a matching connection of which the handshake was not seen and
    /// that therefore cannot be intercepted. `pass`, so that a restart leaves bypassed
    /// connections alone.
    pub mid_flow: MidFlow,
    /// `acceptor`: who is asked, if `action` is `ask`.
    pub acceptor: Option<Arc<AcceptorLink>>,
    /// `on-error`: whether a flow is accepted about which the acceptor gives no answer. `refuse`.
    pub accept_on_error: bool,
    /// `unseen`: whether a rule with conditions on first bytes matches a flow that cannot show them:
    /// `match` or `skip`. `skip`.
    pub unseen_matches: bool,
    /// `endpoint`: VPC endpoint ids.
    pub endpoint: Option<Vec<VpcEndpointId>>,
    /// `source`: networks of the host that opens the flow.
    pub source: Option<Vec<IpNet>>,
    /// `destination`: networks of the host it opens it to.
    pub destination: Option<Vec<IpNet>>,
    /// `source-…`: what EC2 knows of the host that opens the flow.
    pub source_host: HostConditions,
    /// `destination-…`: the same of the host it opens it to.
    pub destination_host: HostConditions,
    /// `port`: destination ports, TCP and UDP.
    pub port: Option<Vec<RangeInclusive<u16>>>,
    /// `protocol`: IP protocol numbers.
    pub protocol: Option<Vec<u8>>,
    /// `application`: what the client's first bytes are.
    pub application: Option<Vec<Application>>,
    /// `server-name`: names in the TLS ClientHello (SNI).
    pub server_name: Option<Vec<NameGlob>>,
    /// `http-host`: hosts of the first HTTP/1 request in clear.
    pub http_host: Option<Vec<NameGlob>>,
}

impl Rule {
    /// The name of the acceptor that it asks.
    pub(crate) fn acceptor_name(&self) -> Option<String> {
        self.acceptor.as_ref().map(|one| one.name().to_owned())
    }

    /// Whether it takes the client's first bytes to say if it matches.
    #[must_use]
    pub fn needs_first_bytes(&self) -> bool {
        self.server_name.is_some() || self.http_host.is_some() || self.application.is_some()
    }
}

/// Rules in order, with the tables by which the matching ones are found quickly.
#[derive(Clone, Default)]
pub struct Rules {
    list: Arc<[Rule]>,
    index: Arc<Index>,
    follow_starttls: bool,
    refuse_or_ask: bool,
}

impl Rules {
    /// Makes the tables.
    #[must_use]
    pub fn new(list: Vec<Rule>) -> Self {
        Self {
            index: Arc::new(Index::new(&list)),
            refuse_or_ask: list
                .iter()
                .any(|rule| matches!(rule.action, Action::Ask | Action::Drop | Action::Reset)),
            follow_starttls: list.iter().any(|rule| !rule.starttls.is_empty()),
            list: list.into(),
        }
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Whether any rule refuses flows, or asks about them.
    pub(crate) fn refuse_or_ask(&self) -> bool {
        self.refuse_or_ask
    }

    /// Whether any rule follows a protocol to TLS.
    pub(crate) fn follow_starttls(&self) -> bool {
        self.follow_starttls
    }
}

impl std::ops::Deref for Rules {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.list
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What a rule does with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask an acceptor; if it accepts, the rules below decide.
    Ask,
    /// Swallow silently.
    Drop,
    /// Take over, decrypt, run the interceptors. What is neither TLS nor HTTP is passed.
    Intercept,
    /// Forward raw, byte for byte.
    Pass,
    /// Refuse: RST, or an ICMP error for what is not TCP.
    Reset,
}

impl Action {
    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Drop => "drop",
            Self::Intercept => "intercept",
            Self::Pass => "pass",
            Self::Reset => "reset",
        }
    }
}

/// What a rule does with a connection whose handshake was not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MidFlow {
    /// Forward raw.
    Pass,
    /// Reset both ends.
    Reset,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load<'k>(file: &Path, kinds: impl Into<Kinds<'k>>) -> Result<Self, Faults> {
        let text =
            std::fs::read_to_string(file).map_err(|error| Faults::unreadable(file, &error))?;
        Self::parse(&text, file, kinds)
    }

    /// Reads a text as if it came from `file`: relative paths in it start from that file's folder.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse<'k>(text: &str, file: &Path, kinds: impl Into<Kinds<'k>>) -> Result<Self, Faults> {
        read::read(text, file, &kinds.into()).map(|(config, _)| config)
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
