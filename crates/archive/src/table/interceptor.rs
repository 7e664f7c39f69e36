//! `parquet`: notes exchanges as they pass.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use records::{Caller, Pump, Redaction};
use sdk::{
    ConfigFault, ConfigTable, Exchange, Filter, InterceptError, Interceptor, InterceptorKind,
    Request, Response, Step, Subject, async_trait,
};

use super::columns::Writer;
use super::config::Settings;
use super::delivery::Delivery;
use super::partitions::{Limits, Partitions};
use super::row::{Answer, Row};
use crate::budget::{Budget, Share};
use crate::recording::{cost, head_cost};
use crate::store::Objects;

/// Rows that wait to be sorted, at most; memory is bounded besides.
const QUEUE: usize = 100_000;
/// Rows that are sorted at once.
const BATCH: usize = 1000;

/// Web traffic as tables.
pub const PARQUET: InterceptorKind = InterceptorKind {
    name: "parquet",
    summary: "Writes a row for each exchange into Parquet files in a folder or an object store.",
    build: Parquet::build,
};

/// Makes a row of each exchange.
#[derive(Debug)]
pub struct Parquet {
    when: Option<Filter>,
    budget: Arc<Budget>,
    pump: Arc<Pump<Row>>,
}

/// A row that is not complete; handed on when the exchange is over, however it ended.
struct Draft {
    /// Who makes it: several may stand in a chain.
    whose: usize,
    /// `None` if nobody wants the row after all.
    pump: Option<Arc<Pump<Row>>>,
    since: Instant,
    /// `None` if there is no memory for it.
    row: Option<Row>,
}

impl Parquet {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let settings = Settings::read(table)?;
        let number = OsRng.try_next_u32().map_err(|error| {
            ConfigFault::new("to", format!("there is no randomness for names: {error}"))
        })?;
        let delivery = Delivery::new(
            Objects::new(settings.place, settings.remote),
            Writer::new(settings.compression, Redaction::new(&settings.redaction)),
            Partitions::new(Limits {
                rows: settings.rows,
                every: settings.every,
                // Half of the memory fills while the other half is written.
                bytes: settings.memory / 2,
                partitions: settings.partitions,
            }),
            format!("{number:08x}"),
        );
        let limits = records::Limits {
            items: QUEUE,
            // What rows hold is bounded by their budget already.
            bytes: settings.memory,
            batch: BATCH,
            ..records::Limits::default()
        };
        Ok(Arc::new(Self {
            when: settings.when,
            budget: Budget::new(settings.memory),
            pump: Pump::new("parquet", limits, delivery),
        }))
    }

    /// Tells this one from others in the same chain.
    fn number(&self) -> usize {
        Arc::as_ptr(&self.pump).addr()
    }

    fn is_meant(&self, subject: &Subject<'_>) -> bool {
        self.when.as_ref().is_none_or(|when| when.matches(subject))
    }

    fn row(&self, exchange: &mut Exchange) -> Option<Row> {
        let mut share = Share::of(&self.budget);
        share.grow(head_cost(&exchange.request)).then(|| Row {
            at: SystemTime::now(),
            took: core::time::Duration::ZERO,
            flow: Arc::clone(&exchange.flow),
            caller: Caller::of_exchange(exchange),
            request: exchange.request.clone(),
            answer: None,
            share,
        })
    }
}

#[async_trait(?Send)]
impl Interceptor for Parquet {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let needs_response = self.when.as_ref().is_some_and(Filter::needs_response);
        if !needs_response && !self.is_meant(&Subject::request(request, exchange)) {
            return Ok(Step::Continue);
        }
        let row = self.row(exchange);
        exchange.extensions.push(Draft {
            whose: self.number(),
            pump: Some(Arc::clone(&self.pump)),
            since: Instant::now(),
            row,
        });
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let is_meant = self.is_meant(&Subject::response(response, exchange));
        let number = self.number();
        let mut drafts = exchange.extensions.get_mut::<Vec<Draft>>().into_iter();
        let mine = drafts.find_map(|all| all.iter_mut().find(|draft| draft.whose == number));
        let Some(draft) = mine else {
            return Ok(());
        };
        if !is_meant {
            draft.pump = None;
        } else if let Some(row) = &mut draft.row {
            if row.share.grow(cost(&response.headers)) {
                let reason = response.reason.as_ref();
                row.answer = Some(Answer {
                    status: response.status.as_u16(),
                    reason: reason
                        .map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned()),
                    headers: response.headers.clone(),
                });
            } else {
                draft.row = None;
            }
        }
        Ok(())
    }

    fn outlets(&self) -> Vec<Arc<dyn sdk::Outlet>> {
        vec![Arc::clone(&self.pump) as _]
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some(pump) = self.pump.take() else {
            return;
        };
        match self.row.take() {
            Some(mut row) => {
                row.took = self.since.elapsed();
                let bytes = row.share.bytes();
                // What is not taken has been counted.
                let _ = pump.push(row, bytes);
            }
            None => pump.drop_one(),
        }
    }
}

#[cfg(test)]
mod tests;
