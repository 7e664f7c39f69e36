//! What is wrong with a configuration file, where, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong in one place of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// Line number, from 1.
    pub line: usize,
    /// The key with the tables it stands in, as `gwlb.listen` or `rule[2].port`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What is allowed there, where a short answer exists.
    pub allowed: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        // One line per fault, whatever the text that was quoted holds.
        f.write_str(&one_line(&self.what))?;
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {}", one_line(allowed))?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults in the order of their lines.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// A file that could not be read at all.
    pub(crate) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self(vec![Fault {
            file: file.to_owned(),
            line: 1,
            key: String::new(),
            what: format!("cannot read the file: {error}"),
            allowed: None,
        }])
    }
}

impl Faults {
    /// One fault of a file that was read well, found when it was put to use.
    pub(crate) fn about(file: &Path, key: &str, what: String) -> Self {
        Self(vec![Fault {
            file: file.to_owned(),
            line: 1,
            key: key.to_owned(),
            what,
            allowed: None,
        }])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Collects faults while a document is read; knows where its lines begin.
#[derive(Debug)]
pub(crate) struct Collector<'t> {
    file: &'t Path,
    text: &'t str,
    faults: Vec<Fault>,
}

impl<'t> Collector<'t> {
    pub(crate) fn new(file: &'t Path, text: &'t str) -> Self {
        Self {
            file,
            text,
            faults: Vec::new(),
        }
    }

    /// Notes a fault at a byte offset of the document.
    pub(crate) fn add(
        &mut self,
        offset: usize,
        key: impl Into<String>,
        what: impl Into<String>,
        allowed: Option<&str>,
    ) {
        self.faults.push(Fault {
            file: self.file.to_owned(),
            line: self.line_of(offset),
            key: key.into(),
            what: what.into(),
            allowed: allowed.map(str::to_owned),
        });
    }

    /// The number of the line, from 1, that a byte offset of the document is on.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        let text = self.text.as_bytes();
        let before = text.get(..offset).unwrap_or(text);
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// How many faults there are so far.
    pub(crate) fn count(&self) -> usize {
        self.faults.len()
    }

    /// The folder that relative paths in the document start from.
    pub(crate) fn folder(&self) -> &'t Path {
        self.file.parent().unwrap_or_else(|| Path::new(""))
    }

    /// `value` if nothing was wrong.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, Faults> {
        if self.faults.is_empty() {
            return Ok(value);
        }
        self.faults.sort_by_key(|fault| fault.line);
        self.faults.dedup();
        Err(Faults(self.faults))
    }
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for part in text
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.extend(part.chars().filter(|c| !c.is_control()));
    }
    line
}
