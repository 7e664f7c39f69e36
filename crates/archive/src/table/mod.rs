//! Exchanges as tables: Parquet files in folders that name the day and the registrable domain, as
//! Athena, DuckDB and others find them.

mod columns;
mod config;
mod delivery;
mod facts;
mod interceptor;
mod partitions;
#[cfg(feature = "reading")]
pub mod reading;
mod row;

pub use interceptor::{PARQUET, Parquet};
