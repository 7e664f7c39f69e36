//! Some rows, column by column.

use std::borrow::Cow;

use parquet::data_type::ByteArray;

/// The values of a column.
#[derive(Debug)]
pub(super) enum Values {
    /// Milliseconds since 1970.
    Times(Vec<Option<i64>>),
    Integers(Vec<Option<i64>>),
    /// Slices of pages, not copies.
    Texts(Vec<Option<ByteArray>>),
    /// JSON.
    Maps(Vec<Option<String>>),
    /// The same for each row.
    Same(Option<String>),
}

/// Some rows; of columns that were not asked for there are no values.
#[derive(Debug)]
pub struct Batch {
    pub(super) rows: usize,
    pub(super) columns: Vec<Values>,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// Nothing.
    Null,
    /// A number.
    Integer(i64),
    /// Text.
    Text(Cow<'a, str>),
}

impl Batch {
    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The value of a row in the column at this place of [`columns`](super::columns()).
    #[must_use]
    pub fn cell(&self, row: usize, column: usize) -> Cell<'_> {
        fn at<T>(values: &[Option<T>], row: usize) -> Option<&T> {
            values.get(row)?.as_ref()
        }
        let text = match self.columns.get(column) {
            Some(Values::Integers(numbers)) => {
                return at(numbers, row).map_or(Cell::Null, |number| Cell::Integer(*number));
            }
            Some(Values::Times(times)) => at(times, row)
                .and_then(|millis| moment(*millis))
                .map(Cow::Owned),
            Some(Values::Texts(texts)) => {
                at(texts, row).map(|text| String::from_utf8_lossy(text.data()))
            }
            Some(Values::Maps(maps)) => at(maps, row).map(|map| map.as_str().into()),
            Some(Values::Same(same)) => same.as_deref().map(Cow::Borrowed),
            None => None,
        };
        text.map_or(Cell::Null, Cell::Text)
    }
}

const DAY: i64 = 86_400_000;

/// Milliseconds since 1970 as `2026-11-28 20:32:07.123`: what SQL compares and computes with. `None`
/// outside of the years 0 to 9999, in which the order of such texts is that of time.
pub(super) fn moment(millis: i64) -> Option<String> {
    let (days, millis) = (millis.div_euclid(DAY), millis.rem_euclid(DAY));
    // Days since 0000-03-01, in eras of 400 years: then the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + later;
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    (0..=9999).contains(&year).then(|| {
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_as_sql_writes_them() {
        for (millis, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (1_795_897_927_123, "2026-11-28 20:32:07.123"),
            (951_782_400_000, "2000-02-29 00:00:00.000"),
            (951_868_799_999, "2000-02-29 23:59:59.999"),
            (-1, "1969-12-31 23:59:59.999"),
            (253_402_300_799_999, "9999-12-31 23:59:59.999"),
            (-62_167_219_200_000, "0000-01-01 00:00:00.000"),
        ] {
            assert_eq!(moment(millis).as_deref(), Some(text), "{millis}");
        }
        for millis in [253_402_300_800_000, -62_167_219_200_001, i64::MAX, i64::MIN] {
            assert_eq!(moment(millis), None, "{millis}");
        }
    }
}
