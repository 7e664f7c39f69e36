//! What is known about the flow an exchange belongs to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

pub use dataplane::{AttachmentId, FlowCookie, FlowId, Leg, Protocol, VpcEndpointId};

use crate::Ec2Host;

/// One inner 5-tuple behind one VPC endpoint, both directions. Shared by all stages.
#[derive(Clone, Debug)]
pub struct FlowInfo {
    /// Names the flow inside this appliance while it lives.
    pub id: FlowId,
    /// The Gateway Load Balancer endpoint the flow came through. Addresses alone do not tell
    /// flows apart: two endpoints may carry the same ones.
    pub endpoint: VpcEndpointId,
    /// The attachment the flow came through; zero in practice.
    pub attachment: AttachmentId,
    /// The load balancer's flow cookie at the time the flow was opened.
    pub cookie: FlowCookie,
    /// The upper-layer protocol.
    pub protocol: Protocol,
    /// Address and port of the host that opened the flow.
    pub client: SocketAddr,
    /// Address and port the client asked for.
    pub server: SocketAddr,
    /// What EC2 knows of the host that opened the flow; `None` without `[ec2]`, and for hosts that
    /// are not in it.
    pub client_ec2: Option<Arc<Ec2Host>>,
    /// The same for the other end.
    pub server_ec2: Option<Arc<Ec2Host>>,
    /// When the flow's first packet came.
    pub opened_at: SystemTime,
    /// What the client's first bytes say, for acceptors that are asked once they are seen; `None`
    /// elsewhere.
    pub recognised: Option<Arc<Recognised>>,
    /// What the two handshakes said, when the flow is TLS and was impersonated.
    pub tls: Option<TlsInfo>,
    /// What the acceptor had to say about the flow: free-form, seen by all later stages.
    pub context: serde_json::Map<String, serde_json::Value>,
}

/// What the first bytes of a client say about the flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recognised {
    /// What it speaks, in the words of the configuration: `http1`, `http2`, `tls`, `quic`, `other`.
    pub application: &'static str,
    /// The name in the ClientHello's server_name extension (RFC 6066 §3).
    pub server_name: Option<String>,
    /// The host of the first HTTP/1 request in clear, without its port.
    pub http_host: Option<String>,
    /// The JA4 fingerprint of the ClientHello.
    pub ja4: Option<String>,
}

/// What the two TLS handshakes of an impersonated flow agreed on.
///
/// Versions and suites are the code points of the TLS registry: 0x0303 is TLS 1.2, 0x0304 is
/// TLS 1.3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// The name in the client's server_name extension (RFC 6066 §3).
    pub server_name: Option<String>,
    /// The JA4 fingerprint of the client's hello (FoxIO's method), such as
    /// `t13d1516h2_8daaf6152771_e5627efa2ab1`; empty if no hello was read.
    pub ja4: String,
    /// The protocol both sides agreed on (RFC 7301), such as `h2`.
    pub alpn: Option<Vec<u8>>,
    /// The version spoken with the client.
    pub client_version: u16,
    /// The version spoken with the server.
    pub server_version: u16,
    /// The cipher suite spoken with the client.
    pub client_cipher_suite: u16,
    /// The cipher suite spoken with the server.
    pub server_cipher_suite: u16,
}
