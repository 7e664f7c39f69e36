//! The lab as a process: `flowdog lab -- PROGRAM`.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

/// A lab to run programs in.
#[derive(Debug)]
pub struct Lab {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: TempDir,
}

/// What a program in the lab did, and what the simulated load balancer saw.
#[derive(Debug)]
pub struct Outcome {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The appliance's log.
    pub log: String,
    /// The exit code of the program.
    pub code: Option<i32>,
    /// The lab's report.
    pub report: Value,
}

impl Lab {
    /// A lab with the default rules: everything is intercepted.
    ///
    /// # Errors
    /// If no temporary folder can be made.
    pub fn new() -> Result<Self> {
        Ok(Self {
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: tempfile::tempdir()?,
        })
    }

    /// With links like `loss=1%,delay=10ms`.
    #[must_use]
    pub fn link(self, spec: &str) -> Self {
        self.argument("--link").argument(spec)
    }

    /// With more arguments.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With a variable in the environment of everything in the lab.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a Python program as one more server, in the network of the lab's own servers. It may use
    /// [`Lab::folder`].
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn server(self, program: &str) -> Result<Self> {
        let path = self.folder.path().join("server.py");
        std::fs::write(&path, program)?;
        let command = format!("exec {} {}", crate::python().display(), path.display());
        Ok(self.argument("--server").argument(&command))
    }

    /// With this configuration instead of the default one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn config(self, text: &str) -> Result<Self> {
        let path = self.folder.path().join("lab.toml");
        std::fs::write(&path, text)?;
        let path = path.to_str().context("folder name")?.to_owned();
        Ok(self.argument("--config").argument(&path))
    }

    /// A folder that programs in the lab can reach.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    fn run_raw(&self, program: &[&str]) -> Result<(Output, Value)> {
        let report = self.folder.path().join("report.json");
        let mut command: Command = crate::flowdog();
        let environment = self.environment.iter();
        command
            .envs(environment.map(|(name, value)| (name, value)))
            .arg("lab")
            .args(&self.arguments)
            .arg("--report")
            .arg(&report);
        command
            .arg("--log")
            .arg(self.folder.path().join("appliance.log"));
        if !program.is_empty() {
            command.arg("--").args(program);
        }
        let output = command.output().context("start flowdog lab")?;
        let text = std::fs::read_to_string(&report).with_context(|| {
            format!(
                "no report; the lab said:\n{}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok((output, serde_json::from_str(&text)?))
    }

    /// Runs a program in the lab; without one, the tour.
    ///
    /// # Errors
    /// If the lab does not start.
    pub fn run(&self, program: &[&str]) -> Result<Outcome> {
        let (output, report) = self.run_raw(program)?;
        Ok(Outcome {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            log: std::fs::read_to_string(self.folder.path().join("appliance.log"))
                .unwrap_or_default(),
            code: output.status.code(),
            report,
        })
    }

    /// Runs a shell script in the lab that must succeed, with no violation counted; returns its output.
    ///
    /// # Errors
    /// If the script fails or the load balancer counted a violation.
    pub fn shell(&self, script: &str) -> Result<Outcome> {
        let outcome = self.run(&["bash", "-euo", "pipefail", "-c", script])?;
        if outcome.code != Some(0) {
            bail!(
                "script failed with {:?}\n--- stdout\n{}\n--- stderr\n{}\n--- report\n{:#}\n--- appliance\n{}",
                outcome.code,
                outcome.stdout,
                outcome.stderr,
                outcome.report,
                outcome.log
            );
        }
        let violations = outcome.violations();
        if violations != 0 {
            bail!(
                "{violations} violations\n{:#}\n--- appliance\n{}",
                outcome.report,
                outcome.log
            );
        }
        Ok(outcome)
    }

    /// Runs a Python program in the lab that must succeed.
    ///
    /// # Errors
    /// If the program fails or the load balancer counted a violation.
    pub fn python(&self, program: &str) -> Result<Outcome> {
        let path = self.folder.path().join("program.py");
        std::fs::write(&path, program)?;
        self.shell(&format!(
            "exec {} {}",
            crate::python().display(),
            path.display()
        ))
    }
}

impl Outcome {
    /// The sum of all series of one of the appliance's metrics whose labels contain `label`, at the end.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let series = self.report.get("metrics").and_then(Value::as_object);
        series
            .into_iter()
            .flatten()
            .filter(|(series, _)| series.starts_with(name) && series.contains(label))
            .filter_map(|(_, value)| value.as_f64())
            .sum()
    }

    /// All violations that the simulated load balancer counted, of whatever kind.
    pub fn violations(&self) -> u64 {
        fn sum(value: &Value) -> u64 {
            match value {
                Value::Number(number) => number.as_u64().unwrap_or(0),
                Value::Object(map) => map.values().map(sum).sum(),
                _ => 0,
            }
        }
        self.report.get("violations").map_or(u64::MAX, sum)
    }
}
