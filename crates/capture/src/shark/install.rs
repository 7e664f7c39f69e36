//! `flowdogshark install`: puts the program where Wireshark looks for such programs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Put this program into Wireshark's personal folders for external capture programs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Into this folder instead
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Remove it again
    #[arg(long)]
    remove: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let folders = match &args.folder {
        Some(folder) => vec![folder.clone()],
        None => folders()?,
    };
    let name = format!("flowdogshark{}", env::consts::EXE_SUFFIX);
    for folder in folders {
        let place = folder.join(&name);
        if args.remove {
            match fs::remove_file(&place) {
                Ok(()) => println!("removed {}", place.display()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => bail!("cannot remove {}: {error}", place.display()),
            }
            continue;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        if place.exists() && same(&place, &program) {
            println!("{} is this program already", place.display());
            continue;
        }
        // A running Wireshark may have the old one open.
        let fresh = folder.join(format!(".{name}.new"));
        fs::copy(&program, &fresh)
            .and_then(|_| fs::rename(&fresh, &place))
            .with_context(|| format!("cannot write {}", place.display()))?;
        println!("installed {}", place.display());
    }
    Ok(())
}

/// Older versions look into the configuration folder only, newer ones into the library folder.
fn folders() -> Result<Vec<PathBuf>> {
    let variable = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if cfg!(windows) {
        let roaming = variable("APPDATA").context("APPDATA is not set")?;
        return Ok(vec![roaming.join("Wireshark").join("extcap")]);
    }
    let home = variable("HOME").context("HOME is not set")?;
    let configuration = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    Ok(vec![
        configuration.join("wireshark/extcap"),
        home.join(".local/lib/wireshark/extcap"),
    ])
}

fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}
