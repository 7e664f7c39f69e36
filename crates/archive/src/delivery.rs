//! From the pump to the store: a batch of entries becomes objects, which are written one by one.

use async_trait::async_trait;
use records::{Deliver, Report};

use crate::entry::Entry;
use crate::pack::Packing;
use crate::store::Objects;

/// Writes batches to a place that is opened with the first of them.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) objects: Objects,
    pub(crate) packing: Packing,
}

#[async_trait]
impl Deliver<Entry> for Delivery {
    /// Entries whose object was not written come back, and make an object of the same name then:
    /// whatever became of the first attempt, there is one in the end.
    async fn deliver(&mut self, batch: Vec<Entry>) -> Report<Entry> {
        let mut report = Report::default();
        for group in self.packing.group(batch) {
            let mut rest = group;
            while !rest.is_empty() {
                let object = match self.packing.pack(&rest) {
                    Ok(object) => object,
                    Err(error) => {
                        report.error = Some(error.to_string());
                        report.refused += rest.len();
                        break;
                    }
                };
                let after = rest.split_off(object.entries.min(rest.len()));
                match self.objects.put(&object.key, object.data).await {
                    Ok(()) => report.written += rest.len(),
                    Err(error) => {
                        report.error = Some(format!("{}: {error}", object.key));
                        report.failed.append(&mut rest);
                    }
                }
                rest = after;
            }
        }
        report
    }
}
