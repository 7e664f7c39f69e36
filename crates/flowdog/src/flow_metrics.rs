//! Flows and their bytes by what is known of them: rule, what acceptors said, EC2.
//!
//! Which labels there are says the configuration, and how many combinations of their values: what comes
//! beyond is counted as `other`, so that no client and no acceptor can fill a time series database.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use dataplane::FlowSummary;
use sdk::Ec2Host;
use serde_json::Value;

use crate::flow_log;
use crate::opening::Note;

/// Longest value of a label, in characters.
const LONGEST_VALUE: usize = 64;
/// The value of every label of a flow that found no room.
const OTHER: &str = "other";

/// What a label tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// `rule`: the rule that decided.
    Rule,
    /// `verdict`: what became of the flow.
    Verdict,
    /// `application`: what the client speaks.
    Application,
    /// `context.KEY`: what an acceptor said under this key.
    Context(String),
    /// `source-account` or `destination-account`.
    Account(End),
    /// `source-vpc` or `destination-vpc`.
    Vpc(End),
    /// `source-tag.KEY` or `destination-tag.KEY`: a tag of the host.
    Tag(End, String),
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The host that opens it.
    Source,
    /// The host it opens it to.
    Destination,
}

impl Label {
    /// What a word of the configuration means.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let keyed = |prefix: &str| {
            let key = word.strip_prefix(prefix)?;
            (!key.is_empty()).then(|| key.to_owned())
        };
        Some(match word {
            "rule" => Self::Rule,
            "verdict" => Self::Verdict,
            "application" => Self::Application,
            "source-account" => Self::Account(End::Source),
            "destination-account" => Self::Account(End::Destination),
            "source-vpc" => Self::Vpc(End::Source),
            "destination-vpc" => Self::Vpc(End::Destination),
            _ => keyed("context.")
                .map(Self::Context)
                .or_else(|| Some(Self::Tag(End::Source, keyed("source-tag.")?)))
                .or_else(|| Some(Self::Tag(End::Destination, keyed("destination-tag.")?)))?,
        })
    }

    fn value(&self, summary: &FlowSummary, note: &Note) -> String {
        let host = |end: End| -> Option<&Ec2Host> {
            let [source, destination] = &note.ec2;
            match end {
                End::Source => source.as_deref(),
                End::Destination => destination.as_deref(),
            }
        };
        let text = match self {
            Self::Rule => note.rule.as_deref(),
            Self::Verdict => Some(flow_log::verdict(summary, note)),
            Self::Application => note.application,
            Self::Context(key) => match note.context.get(key) {
                Some(Value::String(text)) => Some(text.as_str()),
                Some(other) => return clean(&other.to_string()),
                None => None,
            },
            Self::Account(end) => host(*end).map(|host| host.account_id.as_str()),
            Self::Vpc(end) => host(*end).map(|host| host.vpc_id.as_str()),
            Self::Tag(end, key) => {
                host(*end).and_then(|host| host.tags.get(key).map(String::as_str))
            }
        };
        clean(text.unwrap_or_default())
    }
}

fn clean(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(LONGEST_VALUE).collect()
}

/// The name of a label in Prometheus: letters, digits and underscores.
pub(crate) fn label_name(word: &str) -> String {
    let fitting = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    word.chars().map(fitting).collect()
}

/// What is counted for one combination of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Flows that have ended.
    pub(crate) flows: u64,
    /// Inner bytes from their clients and their servers.
    pub(crate) bytes: [u64; 2],
}

/// Flows counted by labels.
#[derive(Debug)]
pub struct FlowMetrics {
    names: Vec<String>,
    labels: Vec<Label>,
    most: usize,
    counts: Mutex<BTreeMap<Vec<String>, Counts>>,
}

impl FlowMetrics {
    /// Counts by these labels, under these names, with at most so many combinations beside `other`.
    pub(crate) fn new(labels: Vec<(String, Label)>, most: usize) -> Self {
        let (names, labels) = labels.into_iter().unzip();
        Self {
            names,
            labels,
            most,
            counts: Mutex::default(),
        }
    }

    /// The names of the labels.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// A flow has ended.
    pub(crate) fn count(&self, summary: &FlowSummary, note: &Note) {
        let values = self.labels.iter().map(|label| label.value(summary, note));
        let values: Vec<String> = values.collect();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let other = vec![OTHER.to_owned(); self.labels.len()];
        let is_known = counts.contains_key(&values);
        let taken = counts.len() - usize::from(counts.contains_key(&other));
        let key = if is_known || taken < self.most {
            values
        } else {
            other
        };
        let count = counts.entry(key).or_default();
        count.flows += 1;
        for (total, bytes) in count.bytes.iter_mut().zip(summary.bytes) {
            *total += bytes;
        }
    }

    /// All counts so far.
    pub(crate) fn snapshot(&self) -> Vec<(Vec<String>, Counts)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let all = counts.iter();
        all.map(|(values, count)| (values.clone(), *count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn summary() -> FlowSummary {
        let (client, server) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        FlowSummary {
            key: dataplane::FlowKey::new(
                dataplane::VpcEndpointId(1),
                dataplane::Protocol(6),
                client,
                server,
            ),
            client,
            server,
            opened_at: dataplane::Instant::ZERO,
            duration: std::time::Duration::ZERO,
            packets: [1, 1],
            bytes: [10, 20],
            intercepted: false,
            refused: None,
            retransmits: [0; 2],
            end: dataplane::FlowEnd::Finished,
        }
    }

    fn metrics(words: &[&str], most: usize) -> FlowMetrics {
        let label = |word: &&str| (label_name(word), Label::from_word(word).unwrap());
        FlowMetrics::new(words.iter().map(label).collect(), most)
    }

    #[test]
    fn labels_tell_what_is_known_and_nothing_of_the_rest() {
        let host = Ec2Host {
            account_id: "123456789012".into(),
            vpc_id: "vpc-1".into(),
            tags: [("env".into(), "prod".into())].into(),
            ..Ec2Host::default()
        };
        let words = [
            "rule",
            "verdict",
            "context.team",
            "context.risk",
            "source-tag.env",
            "source-vpc",
            "source-account",
            "destination-tag.env",
        ];
        let metrics = metrics(&words, 4);
        let note = Note {
            rule: Some("gate".into()),
            verdict: "drop",
            context: [
                ("team".to_owned(), "b\nlue".into()),
                ("risk".to_owned(), 7.into()),
                ("secret".to_owned(), "x".into()),
            ]
            .into_iter()
            .collect(),
            ec2: [Some(Arc::new(host)), None],
            ..Note::default()
        };
        metrics.count(&summary(), &note);
        metrics.count(&summary(), &note);
        let counts = metrics.snapshot();
        let values = [
            "gate",
            "drop",
            "blue",
            "7",
            "prod",
            "vpc-1",
            "123456789012",
            "",
        ];
        let expected = Counts {
            flows: 2,
            bytes: [20, 40],
        };
        assert_eq!(counts, [(values.map(str::to_owned).to_vec(), expected)]);
        assert_eq!(metrics.names()[4], "source_tag_env");
    }

    #[test]
    fn threat_63_an_acceptor_that_invents_values_fills_no_more_than_it_may() {
        let metrics = metrics(&["context.team"], 3);
        for team in 0..1000 {
            let note = Note {
                context: [("team".to_owned(), team.into())].into_iter().collect(),
                ..Note::default()
            };
            metrics.count(&summary(), &note);
        }
        let counts = metrics.snapshot();
        assert_eq!(counts.len(), 4);
        let other = counts.iter().find(|(values, _)| values[0] == OTHER);
        assert_eq!(other.map(|(_, count)| count.flows), Some(997));
    }

    #[test]
    fn words_that_name_no_label_are_refused() {
        for word in [
            "",
            "colour",
            "context.",
            "source-tag.",
            "tag.env",
            "source-instance",
        ] {
            assert_eq!(Label::from_word(word), None, "{word}");
        }
    }
}
