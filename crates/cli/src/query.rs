//! `flowdog query`: questions in SQL to the tables that the interceptor `parquet` writes.

use std::io::{self, BufWriter, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use query::{Engine, Fault, Format, Printer, Style, Tables, Watch};

use crate::exit;

/// Ask tables of exchanges in SQL.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The statement is one SELECT in the language of SQLite. Its table is exchanges, with the columns that
docs/records.md describes; --columns lists them. Rows are partitioned by date and etld1: a WHERE with
them, or with time, reads less. Times are texts in UTC, headers and tags are JSON objects.

Examples:
  flowdog query --from /var/lib/flowdog/table \\
    \"SELECT etld1, count(*) AS calls, avg(duration_millis) AS millis FROM exchanges
     WHERE date = '2026-01-02' AND status_code >= 500 GROUP BY 1 ORDER BY 2 DESC\"
  flowdog query --from s3://my-tables/web --format jsonl \\
    \"SELECT time, url FROM exchanges WHERE time > datetime('now', '-1 hour')\"
  flowdog query --from /var/lib/flowdog/table \\
    \"SELECT request_headers ->> 'user-agent' AS agent, count(*) FROM exchanges GROUP BY 1\"
  flowdog query --from /var/lib/flowdog/table \\
    \"SELECT key, count(*) FROM exchanges, json_each(response_headers) GROUP BY 1\"

Exit codes: 0 when there is an answer, even if files were left out, each with a warning; 64 when the
command line or the statement is wrong; 1 when the tables cannot be read, with --strict each of them.")]
pub(crate) struct Args {
    /// Where the tables are, as `to` of the interceptor has it: a folder, s3://BUCKET/PREFIX,
    /// gs://BUCKET/PREFIX or az://ACCOUNT/CONTAINER/PREFIX; or a single file
    #[arg(
        long,
        value_name = "PLACE",
        env = "FLOWDOG_TABLES",
        required_unless_present = "columns"
    )]
    from: Option<String>,
    /// The region of the bucket; otherwise that of the environment or the instance
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Another endpoint than the service's own
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// How the answer is written: table, csv, json or jsonl
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// End at a file that cannot be read, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// List the columns instead of asking
    #[arg(long, exclusive = true)]
    columns: bool,
    /// The statement; - for the standard input
    #[arg(value_name = "SQL", required_unless_present = "columns")]
    statement: Option<String>,
}

/// The longest statement.
const MOST: u64 = 1 << 20;

pub(crate) fn run(args: Args) -> ExitCode {
    if args.columns {
        let mut out = io::stdout().lock();
        for (name, kind) in query::columns() {
            // Whoever does not read to the end has seen enough.
            if writeln!(out, "{name:<20} {kind}").is_err() {
                break;
            }
        }
        return ExitCode::SUCCESS;
    }
    let from = args.from.unwrap_or_default();
    let tables = match Tables::new(&from, args.region, args.endpoint) {
        Ok(tables) => tables,
        Err(fault) => {
            let key = match fault.key.as_deref() {
                None | Some("to") => "from",
                Some(key) => key,
            };
            let allowed = fault.allowed.map(|allowed| format!("; allowed: {allowed}"));
            let allowed = allowed.unwrap_or_default();
            eprintln!("flowdog query: --{key}: {}{allowed}", fault.message);
            return ExitCode::from(exit::USAGE);
        }
    };
    let statement = match args.statement.as_deref() {
        Some("-") => {
            let mut text = String::new();
            match io::stdin().take(MOST).read_to_string(&mut text) {
                Ok(_) => text,
                Err(error) => {
                    eprintln!("flowdog query: the standard input: {error}");
                    return ExitCode::FAILURE;
                }
            }
        }
        statement => statement.unwrap_or_default().to_owned(),
    };
    let told = ask(tables, &statement, args.format, args.strict);
    match told {
        Ok(()) => ExitCode::SUCCESS,
        // Such as `| head`.
        Err(Fault::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("flowdog query: {fault}");
            match fault {
                Fault::Statement(_) => ExitCode::from(exit::USAGE),
                Fault::Engine(_) | Fault::Output(_) | Fault::Tables(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn ask(tables: Tables, statement: &str, format: Format, is_strict: bool) -> Result<(), Fault> {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let style = Style {
        terminal,
        colour: terminal && std::env::var_os("NO_COLOR").is_none(),
    };
    // Rows on a terminal are in the way of the line that says how far it is.
    let progress = io::stderr().is_terminal().then(Progress::new);
    let progress = std::sync::Arc::new(progress);
    let watch = Teller(std::sync::Arc::clone(&progress));
    let engine = Engine::new(tables, is_strict, Box::new(watch))?;
    let mut out = Quiet {
        out: BufWriter::new(stdout.lock()),
        progress: terminal.then_some(&*progress),
    };
    let asked = engine.ask(statement, &mut Printer::new(&mut out, format, style));
    // What was printed before a fault is a part of the answer.
    let flushed = out.flush();
    if let Some(progress) = &*progress {
        progress.end();
    }
    match engine.skipped() {
        0 => {}
        skipped => eprintln!(
            "flowdog query: {skipped} file(s) could not be read, or not to the end: the answer is \
             without them; --strict makes that a fault"
        ),
    }
    asked?;
    Ok(flushed?)
}

/// One line that says how far reading is, written over itself.
#[derive(Debug)]
struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    is_over: AtomicBool,
    told: Mutex<Instant>,
}

/// Between two lines of it.
const PAUSE: Duration = Duration::from_millis(200);

impl Progress {
    fn new() -> Self {
        Self {
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            told: Mutex::new(Instant::now()),
        }
    }

    fn done(&self, bytes: u64) {
        let files = self.files.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Ok(mut told) = self.told.lock() else {
            return;
        };
        if told.elapsed() >= PAUSE && !self.is_over.load(Ordering::Relaxed) {
            *told = Instant::now();
            eprint!("\r{files} files of {} MiB\u{1b}[K", bytes >> 20);
        }
    }

    /// Takes the line away, once.
    fn end(&self) {
        let Ok(_told) = self.told.lock() else {
            return;
        };
        if !self.is_over.swap(true, Ordering::Relaxed) {
            eprint!("\r\u{1b}[K");
        }
    }
}

/// Says what happens while files are read.
struct Teller(std::sync::Arc<Option<Progress>>);

impl Watch for Teller {
    fn skipped(&self, file: &str, why: &str) {
        let over = if self.0.is_some() { "\r\u{1b}[K" } else { "" };
        // Names of files and what is wrong with them may be anybody's words.
        let (file, why) = (file.escape_debug(), why.escape_debug());
        eprintln!("{over}flowdog query: left out: {file}: {why}");
    }

    fn done(&self, bytes: u64) {
        if let Some(progress) = &*self.0 {
            progress.done(bytes);
        }
    }
}

/// Takes the line of progress away before there is something else on the terminal.
struct Quiet<'a, W> {
    out: W,
    progress: Option<&'a Option<Progress>>,
}

impl<W: io::Write> io::Write for Quiet<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(Some(progress)) = self.progress {
            progress.end();
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
