//! The templates that are handed out pass the linter of those who define the language.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

#[test]
fn cfn_lint_finds_nothing_in_the_templates() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cloudformation");
    let mut templates = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        templates.push(entry?.path());
    }
    ensure!(!templates.is_empty());
    let output = Command::new(flowdog_tests::python().with_file_name("cfn-lint"))
        .arg("--include-checks=I")
        .args(&templates)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
