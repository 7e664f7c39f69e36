//! `flowdog learned`: what a running appliance has learned not to intercept.

use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::exit;

/// Show or revoke what the appliance has learned not to intercept.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The appliance needs [control] socket in its configuration.
Exit codes: 0, 64 when the command line is wrong, 1 when the appliance gives no answer.")]
pub(crate) struct Args {
    /// The appliance's control socket
    #[arg(
        short,
        long,
        value_name = "PATH",
        env = "FLOWDOG_CONTROL_SOCKET",
        default_value = "/run/flowdog/control.sock",
        global = true
    )]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the lessons: who is passed unread to where, why, and until when
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget lessons, so that the next connection is intercepted again
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
    Forget {
        /// Those of this client
        #[arg(long, value_name = "ADDRESS", group = "which")]
        source: Option<IpAddr>,
        /// Those about this server name
        #[arg(long, value_name = "NAME", group = "which")]
        server_name: Option<String>,
        /// Those behind this VPC endpoint
        #[arg(long, value_name = "ID", group = "which")]
        endpoint: Option<String>,
        /// All of them
        #[arg(long, group = "which", conflicts_with_all = ["source", "server_name", "endpoint"])]
        all: bool,
    },
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let answer = match &args.command {
        Command::List { .. } => ask(&args.socket, "GET", "/learned"),
        Command::Forget {
            source,
            server_name,
            endpoint,
            all: _,
        } => {
            let pairs = [
                ("source", source.map(|source| source.to_string())),
                ("name", server_name.clone()),
                ("endpoint", endpoint.clone()),
            ];
            let mut query = Vec::new();
            for (key, value) in pairs {
                let Some(value) = value else { continue };
                let plain = |c: char| c.is_ascii_alphanumeric() || "-._:*".contains(c);
                if !value.chars().all(plain) || value.is_empty() {
                    eprintln!("flowdog learned: {value:?} is no {key}");
                    return ExitCode::from(exit::USAGE);
                }
                query.push(format!("{key}={value}"));
            }
            ask(
                &args.socket,
                "DELETE",
                &format!("/learned?{}", query.join("&")),
            )
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("flowdog learned: {}: {error}", args.socket.display());
            return ExitCode::FAILURE;
        }
    };
    if let Some(error) = answer["error"].as_str() {
        eprintln!("flowdog learned: {error}");
        return ExitCode::from(exit::USAGE);
    }
    match &args.command {
        Command::List { json: false } => print_table(&answer),
        Command::List { json: true } => println!("{:#}", answer["learned"]),
        Command::Forget { .. } => println!("{} forgotten", answer["forgotten"]),
    }
    ExitCode::SUCCESS
}

fn print_table(answer: &Value) {
    println!(
        "{:<22} {:<39} {:<20} {:<6} {:<11} server name",
        "endpoint", "source", "reason", "passed", "until"
    );
    for entry in answer["learned"].as_array().into_iter().flatten() {
        let text = |key: &str| {
            entry[key]
                .as_str()
                .unwrap_or("")
                .replace(char::is_control, "?")
        };
        println!(
            "{:<22} {:<39} {:<20} {:<6} {:<11} {}",
            text("endpoint"),
            text("source"),
            text("reason"),
            if entry["passed"] == true { "yes" } else { "no" },
            entry["until"],
            text("server-name"),
        );
    }
}

/// The longest answer: a full table of lessons.
const MOST: u64 = 64 << 20;

fn ask(socket: &Path, method: &str, target: &str) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(io::Error::other)
}
