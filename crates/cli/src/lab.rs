//! `flowdog lab`: the whole system on one machine.
//!
//! A client, a server, a strict simulated load balancer and this program's own appliance as a child
//! process; then the tour, or a command of the user's as the client.

mod settings;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use lab::environment::{KernelEnvironment, OriginServers, UserspaceEnvironment, serve_user_space};
use lab::netns::{self, NamespaceError};
use lab::origins::Origins;
use lab::sim::Side;
use lab::tour::{self, Style};
use lab::{ApplianceCommand, Lab, LabReport, LinkConfig, Network, UserspaceLab};
use settings::Settings;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit;

/// What the machine would have to provide is missing (`EX_UNAVAILABLE` of sysexits.h).
const UNAVAILABLE: u8 = 69;
/// How long the appliance may take to drain at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Try everything on this machine: a private network with the appliance in its middle
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a command, a short tour shows what each interceptor does; exit code 0 means that all was right.
With one, it runs as the client of the private network and its exit code is passed on:

  flowdog lab -- curl -v https://any.lab.name/
  flowdog lab -- bash
  flowdog lab --net host -- curl https://example.com/
  flowdog lab --link loss=1%,delay=10ms,reorder=2%,rate=200mbit,seed=7

No root and no AWS account are needed.")]
pub(crate) struct Args {
    /// The appliance's configuration; without one, every flow is intercepted by the tour's interceptors
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Properties of the links of clients and servers, each in both directions: loss, delay, jitter,
    /// reorder, duplicate, corrupt, rate, queue, seed
    #[arg(long, value_name = "SPEC")]
    link: Option<LinkConfig>,
    /// Number of endpoints, all with the same addresses behind them; 2 for the tour, 1 for a command
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    endpoints: Option<u8>,
    /// What is behind the appliance: the lab's own servers, or the network of this machine
    #[arg(long, value_name = "NET", value_enum, default_value_t)]
    net: Net,
    /// A shell command to run as one more server, in the network of the lab's own servers
    #[arg(long, value_name = "SHELL", conflicts_with = "user_space")]
    server: Option<String>,
    /// Write what the load balancer counted to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Tell the tour as one JSON object a line
    #[arg(long)]
    json: bool,
    /// Append what the appliance logs to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Do without namespaces: the tour's client and servers run inside this program
    #[arg(long)]
    user_space: bool,
    /// The command to run as the client
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Net {
    /// The lab's own servers; no network is needed
    #[default]
    Lab,
    /// The network of this machine, through user-space address translation
    Host,
}

/// Runs the lab. Must be called while the process has a single thread.
pub(crate) fn run(args: &Args) -> ExitCode {
    match try_run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flowdog lab: {error:#}");
            let faulty_config = error.downcast_ref::<flowdog::Faults>().is_some();
            if faulty_config {
                ExitCode::from(exit::CONFIG)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn try_run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.net == Net::Host && args.command.is_empty() {
        bail!("--net host needs a command: the tour visits the lab's own servers");
    }
    if args.user_space {
        if !args.command.is_empty() {
            bail!("--user-space cannot run a command: a program needs a namespace of its own");
        }
        return in_user_space(args);
    }
    match netns::enter() {
        Ok(()) => in_namespaces(args),
        Err(error) => without_namespaces(args, &error),
    }
}

/// Says what to enable; the tour still runs, a command cannot.
fn without_namespaces(args: &Args, error: &NamespaceError) -> anyhow::Result<ExitCode> {
    let mut stderr = std::io::stderr().lock();
    writeln!(
        stderr,
        "flowdog lab: this machine does not allow private networks: {error}"
    )?;
    writeln!(stderr, "To allow them:")?;
    for advice in error.advice() {
        writeln!(stderr, "  {advice}")?;
    }
    if !args.command.is_empty() {
        writeln!(stderr, "A command cannot run in the lab without them.")?;
        return Ok(ExitCode::from(UNAVAILABLE));
    }
    writeln!(
        stderr,
        "The tour runs without them, with clients and servers inside this program.\n"
    )?;
    drop(stderr);
    in_user_space(args)
}

fn in_namespaces(args: &Args) -> anyhow::Result<ExitCode> {
    let is_tour = args.command.is_empty();
    let endpoints = args
        .endpoints
        .map_or(if is_tour { 2 } else { 1 }, usize::from);
    let link = args.link.clone().unwrap_or_default();
    let settings = Settings::new(
        args.config.as_deref(),
        lab::addresses::APPLIANCE,
        SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
    )?;
    let mut lab = Lab::builder()
        .endpoints(endpoints)
        .links(
            link.clone(),
            link.with_seed(link.seed.wrapping_add(1 << 32)),
        )
        .network(match args.net {
            Net::Lab => Network::Lab,
            Net::Host => Network::Host,
        })
        .gwlb(|gwlb| gwlb.appliance = settings.gwlb_address)
        .build()?;
    let origins = match args.net {
        Net::Lab => Some(OriginServers::start(&lab).context("cannot start the lab's servers")?),
        Net::Host => None,
    };
    let trust = settings.write_trust(origins.as_ref().map(OriginServers::root_pem))?;
    let command = appliance_command(args, &settings, &trust.appliance)?;
    let log = command.log.clone();
    lab.start_appliance(command, settings.health_address)
        .map_err(|error| with_log(error.into(), log.as_deref()))?;

    let _server = args
        .server
        .as_deref()
        .map(|script| start_server(&lab, script))
        .transpose()?;

    let code = if is_tour {
        let environment = KernelEnvironment::new(&lab, settings.authority_pem()?)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, tell(args, &environment))?
    } else {
        // The terminal's Ctrl-C is for the command; having a handler keeps it from ending the lab.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let _interrupts = {
            let _context = runtime.enter();
            signal(SignalKind::interrupt())?
        };
        let status = lab.run_command(&args.command, &trust.client)?;
        ExitCode::from(lab::command::exit_code(status))
    };
    let mut report = lab.report();
    report.metrics = lab
        .appliance_metrics(settings.health_address)
        .unwrap_or_default();
    if let Some(appliance) = lab.appliance_mut() {
        appliance.terminate(DRAIN_LIMIT)?;
    }
    // What the appliance sends while it drains is judged too.
    report.violations = lab.report().violations;
    conclude(args, &report, is_tour)?;
    Ok(code)
}

/// Runs a server of the user's beside the lab's own; it ends with what is returned.
fn start_server(lab: &Lab, script: &str) -> anyhow::Result<lab::appliance::Appliance> {
    let network = lab
        .server(0)
        .context("with --net host there is no network of servers to run one in")?;
    let command = ApplianceCommand {
        program: "sh".into(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        environment: Vec::new(),
        log: None,
    };
    lab::appliance::Appliance::start(command, Some(network))
        .context("cannot start the server of --server")
}

fn in_user_space(args: &Args) -> anyhow::Result<ExitCode> {
    let link = args.link.clone().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let endpoints = args.endpoints.map_or(2, usize::from);
        let addresses =
            UserspaceLab::free_addresses().context("cannot find a free loopback address")?;
        let settings = Settings::new(
            args.config.as_deref(),
            addresses.appliance,
            addresses.health,
        )?;
        let other = link.with_seed(link.seed.wrapping_add(1 << 32));
        let mut lab = UserspaceLab::new(endpoints, &link, &other, |gwlb| {
            gwlb.zones = addresses.zones.to_vec();
            gwlb.appliance = settings.gwlb_address;
        })
        .context("cannot open the load balancer's sockets")?;
        let origins = Rc::new(Origins::new()?);
        for endpoint in 0..endpoints {
            if let Some(arrivals) = lab.take_arrivals(endpoint, Side::Server)
                && let Some(server) = lab.server(endpoint)
            {
                tokio::task::spawn_local(serve_user_space(
                    Rc::clone(&origins),
                    server.clone(),
                    arrivals,
                ));
            }
        }
        let trust = settings.write_trust(Some(origins.root_pem()))?;
        let command = appliance_command(args, &settings, &trust.appliance)?;
        let log = command.log.clone();
        lab.start_appliance(command, settings.health_address)
            .map_err(|error| with_log(error.into(), log.as_deref()))?;
        let environment = UserspaceEnvironment::new(&mut lab, settings.authority_pem()?);
        let code = tell(args, &environment).await?;
        if let Some(appliance) = lab.appliance_mut() {
            appliance.terminate(DRAIN_LIMIT)?;
        }
        conclude(args, &lab.report(), true)?;
        Ok(code)
    })
}

/// Takes the tour on the standard output.
async fn tell(args: &Args, environment: &dyn tour::Environment) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout();
    let style = match (
        args.json,
        stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    ) {
        (true, _) => Style::Json,
        (false, true) => Style::Colour,
        (false, false) => Style::Plain,
    };
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    // Leaving in order removes the lab's files, the key of its authority among them.
    let all_right = tokio::select! {
        told = tour::run(environment, style, &mut stdout) => told?,
        _ = interrupts.recv() => bail!("interrupted"),
        _ = terminations.recv() => bail!("terminated"),
    };
    Ok(if all_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// This very program as the appliance.
fn appliance_command(
    args: &Args,
    settings: &Settings,
    roots: &Path,
) -> anyhow::Result<ApplianceCommand> {
    // "system" among the upstream roots means this file: the lab's servers are its public Internet.
    let mut environment = vec![
        ("SSL_CERT_FILE".to_owned(), roots.display().to_string()),
        (
            "SSL_CERT_DIR".to_owned(),
            settings.empty_directory().display().to_string(),
        ),
    ];
    environment.extend_from_slice(settings.environment());
    Ok(ApplianceCommand {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        arguments: vec![
            "run".to_owned(),
            "--config".to_owned(),
            settings.file().display().to_string(),
        ],
        environment,
        log: Some(args.log.clone().unwrap_or_else(|| settings.log())),
    })
}

/// Adds the end of the appliance's log to an error.
fn with_log(error: anyhow::Error, log: Option<&Path>) -> anyhow::Error {
    const LINES: usize = 20;
    let Some(text) = log.and_then(|log| std::fs::read_to_string(log).ok()) else {
        return error;
    };
    let lines: Vec<&str> = text.lines().collect();
    let last = lines
        .get(lines.len().saturating_sub(LINES)..)
        .unwrap_or_default()
        .join("\n");
    error.context(format!("the appliance said:\n{last}"))
}

/// Writes the report, and warns of what a real load balancer would have punished.
fn conclude(args: &Args, report: &LabReport, is_tour: bool) -> anyhow::Result<()> {
    if let Some(file) = &args.report {
        let mut text = serde_json::to_string_pretty(report)?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    // The tour tells about violations itself.
    if !is_tour && !report.is_clean() {
        let mut stderr = std::io::stderr().lock();
        for (kind, count) in &report.violations.by_kind {
            writeln!(
                stderr,
                "flowdog lab: a real load balancer would have dropped {count} answers: {kind}"
            )?;
        }
    }
    Ok(())
}
