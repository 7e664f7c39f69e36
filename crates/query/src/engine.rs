//! A connection of SQLite that can do nothing but answer questions.

use std::sync::Arc;
use std::{fmt, io};

use archive::reading::Tables;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, ErrorCode};

use crate::feed::{Shared, Watch};
use crate::print::Printer;
use crate::sys;

/// Longest text or largest row, in bytes.
const MAX_VALUE: i32 = 256 << 20;
/// Longest statement, in bytes.
const MAX_STATEMENT: i32 = 1 << 20;

/// Why there is no answer, or only a part of one.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The statement is wrong, or no question.
    #[error("{0}")]
    Statement(String),
    /// The tables could not be read.
    #[error("{0}")]
    Tables(String),
    /// The answer could not be written.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] io::Error),
    /// SQLite could not do it.
    #[error("{0}")]
    Engine(String),
}

/// Answers questions.
pub struct Engine {
    connection: Connection,
    shared: Arc<Shared>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// To these tables. If it is strict, a file that cannot be read ends the answer.
    ///
    /// # Errors
    /// When SQLite cannot begin.
    pub fn new(tables: Tables, is_strict: bool, watch: Box<dyn Watch>) -> Result<Self, Fault> {
        let shared = Arc::new(Shared::new(tables, is_strict, watch));
        let connection = connect(&shared).map_err(|error| Fault::Engine(error.to_string()))?;
        Ok(Self { connection, shared })
    }

    /// Asks, and prints the answer while it comes.
    ///
    /// # Errors
    /// [`Fault`] says whose it is; what was printed until then is not all.
    pub fn ask(&self, statement: &str, printer: &mut Printer<'_>) -> Result<(), Fault> {
        let mut prepared = self
            .connection
            .prepare(statement)
            .map_err(|error| refused(statement, error))?;
        if prepared.column_count() == 0 || !prepared.readonly() {
            return Err(no_question());
        }
        let names = prepared.column_names().map(str::to_owned).collect();
        printer.begin(names)?;
        let columns = prepared.column_count();
        let mut rows = prepared.raw_query();
        loop {
            let row = rows.next().map_err(|error| self.failed(error))?;
            let Some(row) = row else { break };
            let values = (0..columns).map(|at| row.get_ref(at));
            let values: Vec<ValueRef<'_>> = values
                .collect::<Result<_, _>>()
                .map_err(|error| Fault::Engine(error.to_string()))?;
            printer.row(&values)?;
        }
        Ok(printer.end()?)
    }

    /// Files that were left out until now.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.shared.skipped()
    }

    /// Whose fault it is that there are no more rows.
    fn failed(&self, error: Error) -> Fault {
        if let Some(fault) = self.shared.take_fault() {
            return Fault::Tables(fault);
        }
        match error.sqlite_error_code() {
            // Such as malformed JSON: the text says it.
            Some(ErrorCode::Unknown) | None => Fault::Statement(told(&error)),
            // What is found out only on the way, such as pragmas that are read as tables.
            Some(ErrorCode::AuthorizationForStatementDenied) => no_question(),
            Some(_) => Fault::Engine(told(&error)),
        }
    }
}

fn connect(shared: &Arc<Shared>) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // A name that does not exist is a mistake, not a text.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT)?;
    sys::add_table(&connection, Arc::clone(shared))?;
    connection.authorizer(Some(may))?;
    Ok(connection)
}

/// What a statement may do: read, compute, and repeat itself. Not attach, write, set or load.
fn may(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => {
            Authorization::Allow
        }
        AuthAction::Function { function_name } => match function_name {
            "load_extension" | "fts3_tokenizer" => Authorization::Deny,
            _ => Authorization::Allow,
        },
        _ => Authorization::Deny,
    }
}

fn no_question() -> Fault {
    Fault::Statement(
        "the statement is no question; allowed: one SELECT, WITH or VALUES, which may read the table \
         exchanges and change nothing"
            .to_owned(),
    )
}

/// Why a statement was not even begun.
fn refused(statement: &str, error: Error) -> Fault {
    if error.sqlite_error_code() == Some(ErrorCode::AuthorizationForStatementDenied) {
        return no_question();
    }
    match error {
        Error::MultipleStatement => {
            Fault::Statement("there is more than one statement; allowed: one".to_owned())
        }
        Error::SqlInputError { msg, offset, .. } => {
            let place = usize::try_from(offset).ok();
            let rest = place.and_then(|place| statement.get(place..));
            let rest: Option<String> = rest.map(|rest| rest.chars().take(30).collect());
            Fault::Statement(match rest {
                Some(rest) if !rest.is_empty() => format!("{msg}, at {rest:?}"),
                _ => msg,
            })
        }
        Error::Empty => no_question(),
        error => Fault::Statement(told(&error)),
    }
}

/// SQLite's own words, without its number.
fn told(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(text)) => text.clone(),
        error => error.to_string(),
    }
}
