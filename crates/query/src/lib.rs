//! Questions in SQL to tables of exchanges, wherever they are: SQLite, with a table that is not its own.
//!
//! SQLite parses, plans and computes; [`archive::reading`] reads files, on a thread of its own, and only
//! the columns, days and domains that the statement needs. Start reading at [`Engine::ask`].
//!
//! What it refuses: statements that are no questions, any other file than those tables, and to hold more
//! than some rows in memory, whatever the tables' size. What has to be sorted or grouped and does not fit
//! goes to temporary files of SQLite, which have no name.

mod engine;
mod feed;
mod plan;
mod print;
mod sys;

pub use archive::reading::Tables;
pub use engine::{Engine, Fault};
pub use feed::Watch;
pub use print::{Format, Printer, Style};

/// The columns of the table `exchanges`: their names, and what SQL sees in them.
#[must_use]
pub fn columns() -> Vec<(&'static str, &'static str)> {
    use archive::reading::Kind;
    let columns = archive::reading::columns().into_iter();
    let columns = columns.map(|column| {
        let kind = match column.kind {
            Kind::Time => "time in UTC, as '2026-11-28 20:32:07.123'",
            Kind::Integer => "number",
            Kind::Text => "text",
            Kind::Map => "JSON object",
        };
        (column.name, kind)
    });
    columns.collect()
}
