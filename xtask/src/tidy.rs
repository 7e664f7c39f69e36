//! Small habits that a machine can check.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::run::root;

/// Lines after which a file is surely more than one idea.
const MAX_LINES: usize = 1200;

/// Words that do not belong in committed Rust.
const LEFTOVERS: &[&str] = &["todo!(", "unimplemented!(", "dbg!("];

/// Fails with a line for each fault.
pub(crate) fn check() -> Result<()> {
    let root = root();
    let mut files = Vec::new();
    for folder in ["crates", "examples", "tests", "xtask", "fuzz"] {
        collect(&root.join(folder), &mut files)?;
    }
    let mut faults = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let name = file
            .strip_prefix(&root)
            .unwrap_or(file)
            .display()
            .to_string();
        faults.extend(file_faults(&name, &text));
    }
    faults.extend(fuzz_faults(&root)?);
    faults.extend(link_faults(&root)?);
    if !faults.is_empty() {
        bail!("tidy:\n  {}", faults.join("\n  "));
    }
    println!("==> tidy: {} files", files.len());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            let is_ours = |name| name != "target" && name != "generated";
            if path.file_name().is_some_and(is_ours) {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn file_faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!(
            "{name}: {lines} lines; split it (limit {MAX_LINES})"
        ));
    }
    if name != "xtask/src/tidy.rs" {
        for word in LEFTOVERS {
            for (number, line) in text.lines().enumerate() {
                if line.contains(word) {
                    faults.push(format!("{name}:{}: {word} left over", number + 1));
                }
            }
        }
    }
    if name.starts_with("crates/")
        && !name.ends_with("tests.rs")
        && !text.trim_start().starts_with("//!")
    {
        faults.push(format!("{name}: no module documentation"));
    }
    faults
}

/// Every fuzz target that a manifest names exists, and every target's file is named.
fn fuzz_faults(root: &Path) -> Result<Vec<String>> {
    let manifest = std::fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap_or_default();
    let mut files = Vec::new();
    collect(&root.join("fuzz/fuzz_targets"), &mut files)?;
    Ok(files
        .iter()
        .filter_map(|file| file.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !manifest.contains(name.as_str()))
        .map(|name| format!("fuzz/Cargo.toml does not name fuzz_targets/{name}"))
        .collect())
}

/// Every relative link in a Markdown page leads to a file.
fn link_faults(root: &Path) -> Result<Vec<String>> {
    let mut pages = Vec::new();
    for folder in [
        root.to_path_buf(),
        root.join("docs"),
        root.join("docs/adr"),
        root.join("docs/extend"),
    ] {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let mut faults = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page)?;
        let folder = page.parent().unwrap_or(root);
        for target in links(&text) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                let name = page.strip_prefix(root).unwrap_or(&page).display();
                faults.push(format!("{name}: link to {target} leads nowhere"));
            }
        }
    }
    Ok(faults)
}

/// The targets of `[text](target)` links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_is_named_with_its_line() {
        let text = "//! Module.\nfn f() {\n    todo!()\n}\n";
        assert_eq!(
            file_faults("crates/x/src/a.rs", text),
            ["crates/x/src/a.rs:3: todo!( left over"]
        );
    }

    #[test]
    fn a_crate_file_begins_with_its_documentation() {
        assert_eq!(file_faults("crates/x/src/a.rs", "fn f() {}\n").len(), 1);
        assert!(file_faults("tests/tests/a.rs", "fn f() {}\n").is_empty());
    }

    #[test]
    fn links_are_found() {
        assert_eq!(
            links("see [a](docs/a.md#x) and [b](b.md)").collect::<Vec<_>>(),
            ["docs/a.md#x", "b.md"]
        );
    }
}
