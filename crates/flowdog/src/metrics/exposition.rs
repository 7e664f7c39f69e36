//! Text in which metrics are written (Prometheus exposition format 0.0.4).

use std::fmt::{Display, Write as _};

use crate::shard::Snapshot;

/// Text under construction.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    pub(super) out: String,
    name: String,
}

impl Exposition {
    /// Begins a metric.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        name.clone_into(&mut self.name);
        let help = help.trim().replace('\\', "\\\\").replace('\n', " ");
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value of the metric begun last.
    pub(super) fn sample(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.out.push_str(&self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let text = text
                .to_string()
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.out, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    pub(super) fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// A counter of extensions in several kinds. `owner` is the label with an extension's name, `label` the one
    /// that tells the kinds apart.
    pub(super) fn by_kind<S>(
        &mut self,
        name: &str,
        help: &str,
        [owner, label]: [&str; 2],
        stats: &[(String, S)],
        kinds: fn(&S) -> Vec<(&'static str, u64)>,
    ) {
        self.family(name, "counter", help);
        for (extension, stats) in stats {
            for (kind, count) in kinds(stats) {
                self.sample(&[(owner, extension), (label, &kind)], count);
            }
        }
    }

    pub(super) fn per_shard(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        snapshots: &[Snapshot],
        read: fn(&Snapshot) -> u64,
    ) {
        self.family(name, kind, help);
        for snapshot in snapshots {
            self.sample(&[("shard", &snapshot.index)], read(snapshot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_so_that_no_value_can_end_its_line() {
        let mut text = Exposition::default();
        text.family("a_total", "counter", "Two\nlines.");
        text.sample(&[("name", &"say \"hi\"\n\\")], 3);
        assert_eq!(
            text.out,
            "# HELP a_total Two lines.\n# TYPE a_total counter\na_total{name=\"say \\\"hi\\\"\\n\\\\\"} 3\n"
        );
    }
}
