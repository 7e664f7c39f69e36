//! `[capture]`: who may watch packets, and how much of them.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::fault::Collector;
use super::section::Section;
use sdk::ByteSize;

/// `[capture]`: who may watch packets. Nobody, unless `listen` says where.
///
/// This crate only reads it; the service is the `flowdog` command's, through
/// [`Tap`](crate::Tap).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// `listen`: where readers attach. Nowhere.
    pub listen: Option<CaptureListen>,
    /// `secrets`: whether readers may have the TLS secrets of what they watch. No.
    pub secrets: bool,
    /// `users`: user ids that may use the UNIX socket, beside the appliance's own and root.
    pub users: Vec<u32>,
    /// `token-file`: a file with what a reader over TCP must show.
    pub token_file: Option<PathBuf>,
    /// `certificate` and `key`: TLS of the service, PEM files.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `client-ca`: readers over TCP must show a certificate signed by this one.
    pub client_ca: Option<PathBuf>,
    /// `access = "anyone-on-loopback"`: any user of this host, over TCP.
    pub anyone_on_loopback: bool,
    /// `readers`: most at once. 8.
    pub readers: usize,
    /// `queue`: packets that may wait for one reader. 16,384.
    pub queue: usize,
    /// `queue-memory`: bytes of them. 32 MiB.
    pub queue_memory: ByteSize,
    /// `rate`: bytes per second for one reader. 128 MiB.
    pub rate: ByteSize,
    /// `pcap-over-ip`: where programs of this host read what intercepted connections say in clear.
    /// Nowhere.
    pub pcap_over_ip: Option<SocketAddr>,
}

/// Where readers attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureListen {
    /// A UNIX socket.
    Unix(PathBuf),
    /// An address and a port.
    Tcp(SocketAddr),
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            listen: None,
            secrets: false,
            users: Vec::new(),
            token_file: None,
            certificate: None,
            client_ca: None,
            anyone_on_loopback: false,
            readers: 8,
            queue: 16_384,
            queue_memory: ByteSize::mib(32),
            rate: ByteSize::mib(128),
            pcap_over_ip: None,
        }
    }
}

/// Reads `[capture]`.
pub(super) fn read(section: &mut Section<'_>, faults: &mut Collector<'_>) -> Capture {
    let default = Capture::default();
    let folder = faults.folder();
    let listen = section.parsed(
        "listen",
        "\"off\", a UNIX socket as \"unix:/run/flowdog/capture.sock\", or an address and port as \"127.0.0.1:7081\"",
        faults,
        |text| match text.strip_prefix("unix:") {
            _ if text == "off" => Some(None),
            Some("") => None,
            Some(path) => Some(Some(CaptureListen::Unix(folder.join(path)))),
            None => text.parse().ok().map(CaptureListen::Tcp).map(Some),
        },
    );
    let switch = [("on", true), ("off", false)];
    let secrets = section.word("secrets", &switch, faults);
    let users = section.optional_list("users", "user ids, as [1000]", faults, |value| {
        super::section::integer(value).and_then(|id| u32::try_from(id).ok())
    });
    let token_file = section.path("token-file", faults);
    let files = (
        section.path("certificate", faults),
        section.path("key", faults),
    );
    let client_ca = section.path("client-ca", faults);
    let access = section.word(
        "access",
        &[("credentials", false), ("anyone-on-loopback", true)],
        faults,
    );
    let read = Capture {
        listen: listen.flatten(),
        secrets: secrets.unwrap_or(default.secrets),
        users: users.unwrap_or_default(),
        token_file,
        certificate: match files {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                faults.add(
                    section.offset(),
                    section.name_of("certificate"),
                    "needs `key`, and `key` needs `certificate`",
                    Some("both, or none"),
                );
                None
            }
        },
        client_ca,
        anyone_on_loopback: access.unwrap_or(default.anyone_on_loopback),
        readers: section
            .number("readers", 1, 1024, faults)
            .map_or(default.readers, |n| n as usize),
        queue: section
            .number("queue", 1, 1 << 22, faults)
            .map_or(default.queue, |n| n as usize),
        queue_memory: section
            .size(
                "queue-memory",
                ByteSize::kib(64),
                ByteSize::mib(4096),
                faults,
            )
            .unwrap_or(default.queue_memory),
        rate: section
            .size("rate", ByteSize::kib(64), ByteSize::mib(65_536), faults)
            .unwrap_or(default.rate),
        pcap_over_ip: section
            .parsed(
                "pcap-over-ip",
                "\"off\", or an address of this host's loopback and a port, as \"127.0.0.1:57012\": whoever connects is asked for no credential",
                faults,
                |text| match text.parse::<SocketAddr>() {
                    _ if text == "off" => Some(None),
                    Ok(address) if address.ip().is_loopback() => Some(Some(address)),
                    _ => None,
                },
            )
            .flatten(),
    };
    refuse_open_doors(&read, section, faults);
    read
}

/// Over TCP nobody knows who is calling: packets are worth a credential.
fn refuse_open_doors(read: &Capture, section: &Section<'_>, faults: &mut Collector<'_>) {
    let Some(CaptureListen::Tcp(address)) = &read.listen else {
        return;
    };
    let loopback = address.ip().is_loopback();
    let what = if read.client_ca.is_some() && read.certificate.is_none() {
        "needs `certificate` and `key` beside `client-ca`"
    } else if !loopback && read.certificate.is_none() {
        "can be reached from other hosts without TLS: set `certificate` and `key`, or listen on 127.0.0.1"
    } else if !loopback && read.anyone_on_loopback {
        "is not on loopback, and `access` says that anyone there may read"
    } else if read.token_file.is_none() && read.client_ca.is_none() && !read.anyone_on_loopback {
        "lets anyone in: set `token-file` or `client-ca`, or listen on a UNIX socket"
    } else {
        return;
    };
    faults.add(
        section.offset_of("listen"),
        section.name_of("listen"),
        what,
        None,
    );
}
