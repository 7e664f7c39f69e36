//! The table `exchanges` for SQLite. What is unsafe about it is to promise that structures begin as SQLite
//! expects; nothing here touches a pointer.
#![expect(
    unsafe_code,
    reason = "virtual tables of rusqlite are unsafe traits; see each SAFETY comment"
)]

use core::ffi::{CStr, c_int};
use core::marker::PhantomData;
use std::borrow::Cow;
use std::ffi::CString;
use std::sync::Arc;

use archive::reading::{self, Batch, Cell};
use rusqlite::types::{Null, ValueRef};
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConfig, VTabConnection,
    VTabCursor, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error, Result};

use crate::feed::{Feed, Shared};
use crate::plan::{BOUNDED, Order, Plan, declaration};

const MODULE: &Module<'_, Exchanges> = &Module::eponymous_only_module();

/// Gives a connection the table.
pub(crate) fn add_table(connection: &Connection, shared: Arc<Shared>) -> Result<()> {
    connection.create_module(c"exchanges", MODULE, Some(shared))
}

/// The table.
#[repr(C)]
#[derive(Debug)]
struct Exchanges {
    base: sqlite3_vtab,
    shared: Arc<Shared>,
    /// For each column, its place in [`BOUNDED`].
    bounded: Vec<Option<usize>>,
}

/// A scan of it.
#[repr(C)]
#[derive(Debug)]
struct Scan<'table> {
    base: sqlite3_vtab_cursor,
    shared: Arc<Shared>,
    feed: Option<Feed>,
    batch: Option<Batch>,
    /// The row in the batch.
    row: usize,
    /// The row in the scan.
    number: i64,
    table: PhantomData<&'table Exchanges>,
}

// SAFETY: the structure is `repr(C)` and begins with the `sqlite3_vtab` that SQLite fills.
unsafe impl<'table> VTab<'table> for Exchanges {
    type Aux = Arc<Shared>;
    type Cursor = Scan<'table>;

    fn connect(
        connection: &mut VTabConnection,
        shared: Option<&Arc<Shared>>,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        let shared = shared.ok_or_else(|| failed("there are no tables"))?;
        // Not from within a view or a trigger, of which there are none.
        connection.config(VTabConfig::DirectOnly)?;
        let columns = reading::columns();
        let columns = columns.iter().map(|column| column.name);
        let bounded = columns.map(|name| BOUNDED.iter().position(|bounded| *bounded == name));
        let table = Self {
            base: sqlite3_vtab::default(),
            shared: Arc::clone(shared),
            bounded: bounded.collect(),
        };
        Ok((Cow::Owned(CString::new(declaration())?), table))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        let mut plan = Plan {
            columns: info.col_used(),
            comparisons: Vec::new(),
        };
        let mut taken = Vec::new();
        for (at, constraint) in info.constraints().enumerate() {
            let order = match constraint.operator() {
                IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => Order::Equal,
                IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT => Order::Less,
                IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => Order::LessOrEqual,
                IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT => Order::More,
                IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => Order::MoreOrEqual,
                _ => continue,
            };
            let column = usize::try_from(constraint.column()).ok();
            let column = column.and_then(|column| *self.bounded.get(column)?);
            if let Some(column) = column
                && constraint.is_usable()
                // Other collations have another order.
                && info.collation(at)?.eq_ignore_ascii_case("BINARY")
            {
                plan.comparisons.push((column, order));
                taken.push(at);
            }
        }
        for (place, at) in (1..).zip(taken) {
            // SQLite compares again: only whole files and parts of them are left out here.
            info.constraint_usage(at).set_argv_index(place);
        }
        info.set_estimated_cost(plan.cost());
        info.set_idx_str(&plan.to_text());
        Ok(true)
    }

    fn open(&'table mut self) -> Result<Scan<'table>> {
        Ok(Scan {
            base: sqlite3_vtab_cursor::default(),
            shared: Arc::clone(&self.shared),
            feed: None,
            batch: None,
            row: 0,
            number: 0,
            table: PhantomData,
        })
    }
}

fn failed(what: impl Into<String>) -> Error {
    Error::ModuleError(what.into())
}

impl Scan<'_> {
    /// Takes the next batch that has rows.
    fn advance(&mut self) -> Result<()> {
        self.row = 0;
        self.batch = match &self.feed {
            Some(feed) => feed.next().map_err(failed)?,
            None => None,
        };
        Ok(())
    }
}

// SAFETY: the structure is `repr(C)` and begins with the `sqlite3_vtab_cursor` that SQLite fills.
unsafe impl VTabCursor for Scan<'_> {
    fn filter(&mut self, _: c_int, plan: Option<&str>, values: &Filters<'_>) -> Result<()> {
        let plan = plan.and_then(Plan::from_text);
        let plan = plan.ok_or_else(|| failed("the plan is not one of ours"))?;
        let texts = values.iter().map(|value| match value {
            ValueRef::Text(text) => core::str::from_utf8(text).ok(),
            _ => None,
        });
        let texts: Vec<_> = texts.collect();
        // The scan before ends first.
        self.feed = None;
        self.feed = Some(Feed::new(&self.shared, plan.wanted(&texts)).map_err(failed)?);
        self.number = 0;
        self.advance()
    }

    fn next(&mut self) -> Result<()> {
        self.row += 1;
        self.number = self.number.saturating_add(1);
        if self
            .batch
            .as_ref()
            .is_some_and(|batch| self.row < batch.rows())
        {
            return Ok(());
        }
        self.advance()
    }

    fn eof(&self) -> bool {
        self.batch.is_none()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        let cell = match (&self.batch, usize::try_from(column)) {
            (Some(batch), Ok(column)) => batch.cell(self.row, column),
            _ => Cell::Null,
        };
        match cell {
            Cell::Null => context.set_result(Null),
            Cell::Integer(number) => context.set_result(number),
            Cell::Text(text) => context.set_result(&*text),
        }
    }

    fn rowid(&self) -> Result<i64> {
        Ok(self.number)
    }
}
