//! `flowdog explain`: which rule decides about a flow, and why.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flowdog::config::{Application, endpoint_id, protocol_number};
use flowdog::sdk::VpcEndpointId;
use flowdog::{ClientTls, Config, Directory, Question, StartTls};

use crate::exit;

/// Say which rule decides about a flow, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Acceptors are not asked: they are taken to accept, and named.
Example: flowdog explain -c flowdog.toml --from 10.0.0.5:1234 --to 1.2.3.4:443 --sni example.com
Exit codes: 0 when there is an answer, 64 when the command line is wrong, 78 when the configuration is faulty.")]
pub(crate) struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "FLOWDOG_CONFIG")]
    config: PathBuf,
    /// Address and port of the host that opens the flow
    #[arg(long, value_name = "ADDRESS:PORT")]
    from: SocketAddr,
    /// Address and port it opens the flow to
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// The IP protocol, by name or number
    #[arg(long, default_value = "tcp", value_parser = protocol_number)]
    protocol: u8,
    /// The VPC endpoint that the flow comes through
    #[arg(long, value_name = "ID", default_value = "vpce-00000000000000000", value_parser = endpoint_id)]
    endpoint: VpcEndpointId,
    /// The server name in the TLS ClientHello
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The host of the first HTTP/1 request in clear
    #[arg(long, value_name = "NAME", conflicts_with = "sni")]
    http_host: Option<String>,
    /// What the client speaks: http1, http2, quic, tls or other; by default what the rest suggests
    #[arg(long, value_parser = application)]
    application: Option<Application>,
    /// The client's hello carries Encrypted ClientHello, in earnest or as a decoy, as those of browsers do
    #[arg(long, conflicts_with = "http_host")]
    ech: bool,
    /// The client offers neither TLS 1.2 nor 1.3, or no safe cipher suite
    #[arg(long, conflicts_with = "http_host")]
    old_tls: bool,
    /// The protocol that began in clear and has changed to TLS: imap, ldap, mysql, pop3, postgres or smtp
    #[arg(long, value_name = "PROTOCOL", conflicts_with = "http_host", value_parser = starttls)]
    starttls: Option<StartTls>,
    /// What EC2 knows, as `flowdog ec2` prints it, for rules that ask about hosts
    #[arg(long, value_name = "FILE")]
    directory: Option<PathBuf>,
    /// A connection whose handshake was not seen, as after a restart
    #[arg(long)]
    mid_flow: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

fn application(word: &str) -> Result<Application, &'static str> {
    Application::from_word(word).ok_or("allowed: http1, http2, quic, tls, other")
}

fn starttls(word: &str) -> Result<StartTls, &'static str> {
    StartTls::from_word(word).ok_or("allowed: imap, ldap, mysql, pop3, postgres, smtp")
}

fn directory(file: &Path) -> Result<Directory, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
    text.and_then(|text| Directory::from_json(&text))
        .map_err(|what| format!("--directory {}: {what}", file.display()))
}

pub(crate) fn run(args: Args) -> ExitCode {
    let config = match Config::load(&args.config, &flowdog::built_in()) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    if args.from.is_ipv4() != args.to.is_ipv4() {
        eprintln!("flowdog explain: --from and --to are of different families");
        return ExitCode::from(exit::USAGE);
    }
    let directory = match args.directory.as_deref().map(directory).transpose() {
        Ok(directory) => directory.unwrap_or_default(),
        Err(fault) => {
            eprintln!("flowdog explain: {fault}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let host = |address: SocketAddr| directory.host(args.endpoint, address.ip()).cloned();
    let told = flowdog::explain(
        &config,
        &Question {
            endpoint: args.endpoint,
            protocol: args.protocol,
            from: args.from,
            to: args.to,
            client_ec2: host(args.from),
            server_ec2: host(args.to),
            mid_flow: args.mid_flow,
            application: args.application,
            tls: ClientTls {
                ech: args.ech,
                old: args.old_tls,
                via: args.starttls,
            },
            server_name: args.sni,
            http_host: args.http_host,
        },
    );
    if args.json {
        println!("{:#}", told.to_json());
    } else {
        println!("{told}");
    }
    ExitCode::SUCCESS
}
