//! `flowdog fn test`: a function in JavaScript on an event from a file.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use script::{Function, Limits, Profile, Settings, StorePlace, StoreSource, Trial};

use crate::exit;

/// The event or the function is wrong (`EX_DATAERR` of sysexits.h).
const DATA: u8 = 65;

/// Try functions in JavaScript.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a function on an event; print the result, the budget used and the log
    #[command(after_help = "\
The event has CloudFront's shape; its context.eventType says which handler is called.
Example: flowdog fn test rick.js --event event.json
Exit codes: 0 when the result is valid, 1 when the exchange would fail, 65 when the file or the event is faulty.")]
    Test(Test),
}

#[derive(Debug, clap::Args)]
struct Test {
    /// The function
    file: PathBuf,
    /// The event, as JSON; - for the standard input
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
    /// Judge by CloudFront's lists of hidden and read-only headers
    #[arg(long)]
    strict: bool,
    /// Processor time it may take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1.0)]
    cpu: f64,
    /// A key value store; may be repeated
    #[arg(long, value_name = "ID=FILE", value_parser = store)]
    kvs: Vec<StoreSource>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn store(text: &str) -> Result<StoreSource, &'static str> {
    let (id, file) = text.split_once('=').ok_or("expected ID=FILE")?;
    Ok(StoreSource {
        id: id.to_owned(),
        place: StorePlace::File(file.into()),
    })
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let Command::Test(args) = &args.command;
    let Some(cpu) = Duration::try_from_secs_f64(args.cpu / 1e3)
        .ok()
        .filter(|cpu| !cpu.is_zero())
    else {
        eprintln!("flowdog fn test: --cpu is no time");
        return ExitCode::from(exit::USAGE);
    };
    match trial(args, cpu) {
        Ok(trial) => {
            if args.json {
                print_json(&trial, cpu);
            } else {
                print(&trial, cpu);
            }
            ExitCode::from(u8::from(trial.fault.is_some()))
        }
        Err(error) => {
            eprintln!("flowdog fn test: {error}");
            ExitCode::from(DATA)
        }
    }
}

fn trial(args: &Test, cpu: Duration) -> anyhow::Result<Trial> {
    let settings = Settings {
        limits: Limits {
            cpu,
            ..Limits::default()
        },
        stores: args.kvs.clone(),
        ..Settings::default()
    };
    let function = Function::load(&args.file, settings)?;
    let event = if args.event == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        std::fs::read_to_string(&args.event)
            .map_err(|error| anyhow::anyhow!("{}: {error}", args.event.display()))?
    };
    let profile = if args.strict {
        Profile::Strict
    } else {
        Profile::Appliance
    };
    Ok(function.try_on(&event, profile, SystemTime::now())?)
}

/// What the function gave, as JSON.
fn result(trial: &Trial) -> Option<serde_json::Value> {
    let text = trial.result.as_deref()?;
    serde_json::from_str(text).ok()
}

/// Percent of what it may take, as in CloudFront.
fn utilization(trial: &Trial, cpu: Duration) -> f64 {
    let share = trial.cpu.as_secs_f64() / cpu.as_secs_f64();
    (100.0 * share).round().min(100.0)
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn print_json(trial: &Trial, cpu: Duration) {
    let report = serde_json::json!({
        "result": result(trial),
        "error": trial.fault.as_ref().map(ToString::to_string),
        "status": trial.fault.as_ref().map(|fault| fault.status().as_u16()),
        "log": trial.log,
        "cpuMilliseconds": milliseconds(trial.cpu),
        "computeUtilization": utilization(trial, cpu),
    });
    println!("{report:#}");
}

fn print(trial: &Trial, cpu: Duration) {
    match result(trial) {
        Some(result) => println!("Result: {result:#}"),
        None => println!("Result: none"),
    }
    if let Some(fault) = &trial.fault {
        println!(
            "Error: {fault}; the client gets {}",
            fault.status().as_u16()
        );
    }
    println!(
        "Compute utilization: {} % ({} of {} ms)",
        utilization(trial, cpu),
        milliseconds(trial.cpu),
        milliseconds(cpu)
    );
    println!("Log: {} lines", trial.log.len());
    for line in &trial.log {
        // A line is the function's own: it must not move the cursor.
        println!("  {}", line.escape_debug());
    }
}
