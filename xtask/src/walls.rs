//! The walls between crates: `cargo metadata` against `walls.toml`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run::{cargo, root};

#[derive(Deserialize)]
struct Walls {
    /// Crate to the crates of ours that it may name.
    internal: BTreeMap<String, Vec<String>>,
    /// Outside crate to those of ours that may name it.
    external: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: std::path::PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for a normal dependency, `dev` or `build` otherwise.
    kind: Option<String>,
    path: Option<std::path::PathBuf>,
}

/// Fails with a line for each arrow that the table does not have.
pub(crate) fn check() -> Result<()> {
    let table = root().join("xtask/walls.toml");
    let walls: Walls = toml::from_str(&std::fs::read_to_string(&table)?)
        .with_context(|| format!("{}", table.display()))?;
    let locked = cargo(&["metadata", "--locked", "--format-version", "1"]).output()?;
    if !locked.status.success() {
        bail!(
            "Cargo.lock does not fit the manifests; run cargo check and commit it:\n{}",
            String::from_utf8_lossy(&locked.stderr)
        );
    }
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"]).output()?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let faults = faults(&walls, &metadata);
    if !faults.is_empty() {
        bail!("walls (xtask/walls.toml):\n  {}", faults.join("\n  "));
    }
    println!("==> walls: {} crates keep to them", metadata.packages.len());
    Ok(())
}

/// The short name of a crate: its folder.
fn folder(path: &std::path::Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn faults(walls: &Walls, metadata: &Metadata) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let Some(directory) = package.manifest_path.parent() else {
            continue;
        };
        let from = folder(directory);
        let inside_crates = directory
            .parent()
            .is_some_and(|parent| folder(parent) == "crates");
        for dependency in package.dependencies.iter().filter(|d| d.kind.is_none()) {
            if let Some(path) = &dependency.path {
                let to = folder(path);
                let allowed = match walls.internal.get(&from) {
                    Some(allowed) => allowed.contains(&to),
                    // Tests, examples and tools stand outside and may name anything.
                    None => !inside_crates,
                };
                if !allowed {
                    faults.push(format!("{} may not name {to}", package.name));
                }
            } else if let Some((pattern, allowed)) = walls
                .external
                .iter()
                .find(|(pattern, _)| matches(pattern, &dependency.name))
                && inside_crates
                && !allowed.contains(&from)
            {
                faults.push(format!(
                    "{} may not name {} ({pattern})",
                    package.name, dependency.name
                ));
            }
        }
    }
    faults
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(from: &str, dependency: Dependency) -> Metadata {
        Metadata {
            packages: vec![Package {
                name: format!("flowdog-{from}"),
                manifest_path: format!("/x/crates/{from}/Cargo.toml").into(),
                dependencies: vec![dependency],
            }],
        }
    }

    fn walls() -> Walls {
        toml::from_str(
            "[internal]\ntcp = [\"wire\"]\n[external]\n\"aws-*\" = []\ntokio = [\"cli\"]\n",
        )
        .unwrap()
    }

    #[test]
    fn an_arrow_that_points_up_is_a_fault() {
        let up = Dependency {
            name: "flowdog-cli".into(),
            kind: None,
            path: Some("/x/crates/cli".into()),
        };
        assert_eq!(
            faults(&walls(), &metadata("tcp", up)),
            ["flowdog-tcp may not name cli"]
        );
        let down = Dependency {
            name: "flowdog-wire".into(),
            kind: None,
            path: Some("/x/crates/wire".into()),
        };
        assert!(faults(&walls(), &metadata("tcp", down)).is_empty());
    }

    #[test]
    fn an_outside_crate_is_kept_to_those_who_may_name_it() {
        for name in ["tokio", "aws-sdk-ec2"] {
            let outside = Dependency {
                name: name.into(),
                kind: None,
                path: None,
            };
            assert_eq!(
                faults(&walls(), &metadata("tcp", outside)).len(),
                1,
                "{name}"
            );
            let in_tests = Dependency {
                name: name.into(),
                kind: Some("dev".into()),
                path: None,
            };
            assert!(
                faults(&walls(), &metadata("tcp", in_tests)).is_empty(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_crate_that_the_table_does_not_know_may_name_none_of_ours() {
        let down = Dependency {
            name: "flowdog-wire".into(),
            kind: None,
            path: Some("/x/crates/wire".into()),
        };
        assert_eq!(faults(&walls(), &metadata("new", down)).len(), 1);
    }
}
