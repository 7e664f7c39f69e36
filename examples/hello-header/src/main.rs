//! An appliance of one's own: flowdog with one more kind of interceptor.
//!
//! ```text
//! cargo run -p hello-header -- examples/hello-header/flowdog.toml
//! ```
//!
//! Everything else, from the packet socket to metrics, drain and reload, is flowdog's.

mod hello;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flowdog::{Appliance, Config};

fn main() -> ExitCode {
    let file = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("flowdog.toml"), PathBuf::from);
    match run(&file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello-header: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until SIGTERM; SIGHUP reads the file again.
fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    // The built-in kinds, and ours.
    let mut kinds = flowdog::built_in();
    kinds.push(hello::KIND);

    let config = Config::load(file, &kinds)?;
    flowdog::init_logging(&config.log);
    Appliance::builder()
        .config(config)
        .config_file(file)
        .kinds(kinds)
        .build()?
        .run()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_beside_this_example_uses_the_new_kind() {
        let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/flowdog.toml"));
        let config = Config::load(&file, &[hello::KIND]).unwrap();
        assert_eq!(config.rules.len(), 1);
        assert!(
            Config::load(&file, &flowdog::built_in()).is_err(),
            "only with our kind the file is valid"
        );
    }
}
