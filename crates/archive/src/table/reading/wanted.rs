//! What is asked for: columns, and what their values are between.

use percent_encoding::percent_decode_str;

/// Between which texts a column's values are, in the order of their bytes.
///
/// Rows outside may be told all the same; rows inside are never left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    least: Option<(String, bool)>,
    most: Option<(String, bool)>,
}

impl Bounds {
    /// At least this, or more than it.
    pub fn at_least(&mut self, text: &str, or_equal: bool) {
        let is_closer = match &self.least {
            None => true,
            Some((least, equal)) => (text, !or_equal) > (least, !equal),
        };
        if is_closer {
            self.least = Some((text.to_owned(), or_equal));
        }
    }

    /// At most this, or less than it.
    pub fn at_most(&mut self, text: &str, or_equal: bool) {
        let is_closer = match &self.most {
            None => true,
            Some((most, equal)) => (text, or_equal) < (most, *equal),
        };
        if is_closer {
            self.most = Some((text.to_owned(), or_equal));
        }
    }

    /// Whether any value is inside.
    fn is_any(&self) -> bool {
        self.least.is_none() && self.most.is_none()
    }

    /// Whether a value is inside. What is null is not, if there is a bound.
    pub(super) fn hold(&self, value: Option<&str>) -> bool {
        match value {
            Some(value) => self.may_hold(value, value),
            None => self.is_any(),
        }
    }

    /// Whether a value from this range may be inside.
    pub(super) fn may_hold(&self, low: &str, high: &str) -> bool {
        let is_too_low = self
            .least
            .as_ref()
            .is_some_and(|(least, or_equal)| high < least.as_str() || (high == least && !or_equal));
        let is_too_high = self
            .most
            .as_ref()
            .is_some_and(|(most, or_equal)| low > most.as_str() || (low == most && !or_equal));
        !is_too_low && !is_too_high
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// For each of [`columns`](super::columns()), whether it is read; those that are missing are not.
    pub columns: Vec<bool>,
    /// Bounds of the column `date`.
    pub date: Bounds,
    /// Bounds of the column `etld1`.
    pub etld1: Bounds,
    /// Bounds of the column `time`, by which parts of files are left out.
    pub time: Bounds,
}

impl Wanted {
    /// All columns of all rows.
    #[must_use]
    pub fn all() -> Self {
        Self {
            columns: vec![true; super::columns().len()],
            ..Self::default()
        }
    }

    /// Whether the column at this place is read.
    pub(super) fn has(&self, column: usize) -> bool {
        self.columns.get(column).copied().unwrap_or(false)
    }

    /// Whether a folder may hold rows that are asked for, by its name alone.
    pub(super) fn may_be_in(&self, folder: &str) -> bool {
        let Some((name, value)) = partition(folder) else {
            return true;
        };
        let value = value.as_deref();
        match name {
            "date" => self.date.hold(value),
            "etld1" => self.etld1.hold(value),
            _ => true,
        }
    }
}

/// What Hive takes for null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Name and value of a folder such as `date=2026-11-28`. Hive writes what may not stand in names
/// percent-encoded.
pub(super) fn partition(folder: &str) -> Option<(&str, Option<String>)> {
    let (name, value) = folder.split_once('=')?;
    let decoded = || percent_decode_str(value).decode_utf8_lossy().into_owned();
    Some((name, (value != NULL).then(decoded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closer_bound_counts() {
        let mut bounds = Bounds::default();
        assert!(bounds.hold(None) && bounds.hold(Some("")));
        bounds.at_least("b", true);
        assert!(bounds.hold(Some("b")) && !bounds.hold(Some("a")) && !bounds.hold(None));
        bounds.at_least("b", false);
        bounds.at_least("a", true);
        assert!(!bounds.hold(Some("b")) && bounds.hold(Some("ba")));
        bounds.at_most("d", false);
        bounds.at_most("d", true);
        bounds.at_most("e", true);
        assert!(!bounds.hold(Some("d")) && bounds.hold(Some("c")));
        assert!(bounds.may_hold("a", "c") && bounds.may_hold("c", "z"));
        assert!(!bounds.may_hold("a", "b") && !bounds.may_hold("d", "z"));
    }

    #[test]
    fn folders_of_hive_are_understood() {
        for (folder, found) in [
            ("date=2026-11-28", Some(("date", Some("2026-11-28")))),
            ("etld1=__HIVE_DEFAULT_PARTITION__", Some(("etld1", None))),
            ("a=b%20c%3d%zz%4", Some(("a", Some("b c=%zz%4")))),
            ("web", None),
        ] {
            let found = found.map(|(name, value)| (name, value.map(str::to_owned)));
            assert_eq!(partition(folder), found, "{folder}");
        }
    }
}
