//! What a statement needs of the table, as a text: what SQLite carries from its planner to a scan.

use archive::reading::{self, Bounds, FILE, Kind, Wanted};

/// The columns by which files and parts of files are left out.
pub(crate) const BOUNDED: [&str; 3] = ["date", "etld1", "time"];

/// How a column is compared to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Equal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

const ORDERS: [(Order, char); 5] = [
    (Order::Equal, '='),
    (Order::Less, '<'),
    (Order::LessOrEqual, 'l'),
    (Order::More, '>'),
    (Order::MoreOrEqual, 'm'),
];

/// Which columns are read, and which comparisons come with a value each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// A bit for each column; the last one stands for all that have no bit.
    pub(crate) columns: u64,
    /// The place in [`BOUNDED`], and the comparison.
    pub(crate) comparisons: Vec<(usize, Order)>,
}

impl Plan {
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{:x} ", self.columns);
        for (column, order) in &self.comparisons {
            text.push_str(&column.to_string());
            let known = ORDERS.iter().find(|(known, _)| known == order);
            text.extend(known.map(|(_, sign)| sign));
        }
        text
    }

    /// What [`Self::to_text`] made of it.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (columns, rest) = text.split_once(' ')?;
        let mut comparisons = Vec::new();
        let mut signs = rest.chars();
        while let Some(column) = signs.next() {
            let column = column.to_digit(10)? as usize;
            let sign = signs.next()?;
            let (order, _) = ORDERS.iter().find(|(_, known)| *known == sign)?;
            comparisons.push((column, *order));
        }
        Some(Self {
            columns: u64::from_str_radix(columns, 16).ok()?,
            comparisons,
        })
    }

    /// With the values to which columns are compared; `None` for those that are no text, with which
    /// nothing is left out.
    pub(crate) fn wanted(&self, values: &[Option<&str>]) -> Wanted {
        let mut wanted = Wanted {
            columns: (0..reading::columns().len())
                .map(|at| self.columns >> at.min(63) & 1 == 1)
                .collect(),
            ..Wanted::default()
        };
        for ((column, order), value) in self.comparisons.iter().zip(values) {
            let bounds: &mut Bounds = match BOUNDED.get(*column) {
                Some(&"date") => &mut wanted.date,
                Some(&"etld1") => &mut wanted.etld1,
                Some(&"time") => &mut wanted.time,
                _ => continue,
            };
            let Some(value) = value else { continue };
            if matches!(order, Order::Equal | Order::More | Order::MoreOrEqual) {
                bounds.at_least(value, *order != Order::More);
            }
            if matches!(order, Order::Equal | Order::Less | Order::LessOrEqual) {
                bounds.at_most(value, *order != Order::Less);
            }
        }
        wanted
    }

    /// What a scan costs, for the planner: the fewer the better.
    pub(crate) fn cost(&self) -> f64 {
        let mut cost = 1e9;
        for (column, order) in &self.comparisons {
            cost *= match (BOUNDED.get(*column), order) {
                (Some(&"date"), Order::Equal) => 0.01,
                (_, Order::Equal) => 0.1,
                _ => 0.3,
            };
        }
        cost
    }
}

/// The table, in SQLite's language.
pub(crate) fn declaration() -> String {
    let columns = reading::columns().into_iter().map(|column| {
        let name = column.name;
        match column.kind {
            Kind::Integer => format!("{name} INTEGER"),
            // A name for each row is more than most want to see.
            _ if name == FILE => format!("{name} TEXT HIDDEN"),
            _ => format!("{name} TEXT"),
        }
    });
    let columns: Vec<_> = columns.collect();
    format!("CREATE TABLE exchanges({})", columns.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_survive_their_journey() {
        let plan = Plan {
            columns: 0x8000_0000_0000_0005,
            comparisons: vec![(0, Order::MoreOrEqual), (2, Order::Less), (1, Order::Equal)],
        };
        assert_eq!(Plan::from_text(&plan.to_text()), Some(plan));
        let nothing = Plan::default();
        assert_eq!(Plan::from_text(&nothing.to_text()), Some(nothing));
        for text in ["", "x ", "1 0", "1 0?", "1 =0"] {
            assert_eq!(Plan::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn comparisons_become_bounds() {
        let plan = Plan {
            columns: 2,
            comparisons: vec![
                (0, Order::MoreOrEqual),
                (0, Order::Less),
                (1, Order::Equal),
                (2, Order::More),
            ],
        };
        let values = [Some("2026-01-01"), None, Some("a.example"), Some("2026")];
        let wanted = plan.wanted(&values);
        let mut expected = Wanted {
            columns: vec![false; reading::columns().len()],
            ..Wanted::default()
        };
        expected.columns[1] = true;
        expected.date.at_least("2026-01-01", true);
        expected.etld1.at_least("a.example", true);
        expected.etld1.at_most("a.example", true);
        expected.time.at_least("2026", false);
        assert_eq!(wanted, expected);
        assert!(plan.cost() < Plan::default().cost());
    }
}
