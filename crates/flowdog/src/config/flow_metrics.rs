//! `[flow-metrics]`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::read::Reader;
use super::section::Section;
use crate::flow_metrics::{FlowMetrics, Label, label_name};

/// Most labels: each multiplies the combinations.
const MOST_LABELS: usize = 8;
const LABELS: &str = "up to 8 of rule, verdict, application, context.KEY, source-tag.KEY, destination-tag.KEY, source-account, source-vpc, destination-account, destination-vpc, each once";

impl Reader<'_> {
    /// Flows counted by labels, if there are any.
    pub(super) fn flow_metrics(&mut self, mut section: Section<'_>) -> Option<Arc<FlowMetrics>> {
        let faults = &mut self.faults;
        let labels = section.several("labels", LABELS, faults, |v| {
            let word = v.as_str()?;
            Some((label_name(word), Label::from_word(word)?))
        });
        let series = section.number("series", 1, 4096, faults);
        let labels = labels.unwrap_or_default();
        let names: BTreeSet<&String> = labels.iter().map(|(name, _)| name).collect();
        if names.len() < labels.len() || labels.len() > MOST_LABELS {
            let (offset, key) = (section.offset_of("labels"), section.name_of("labels"));
            let what = "too many labels, or two of the same name in Prometheus";
            faults.add(offset, key, what, Some(LABELS));
        }
        self.close(&section);
        if labels.is_empty() {
            return None;
        }
        let series = series.map_or(256, |series| series as usize);
        Some(Arc::new(FlowMetrics::new(labels, series)))
    }
}
