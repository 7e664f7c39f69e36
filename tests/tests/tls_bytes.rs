//! What TLS carries arrives as it was sent: records of any size, and each end as the host made it.

use anyhow::{Result, ensure};
use flowdog_tests::lab::{Lab, Outcome};
use flowdog_tests::pki;

/// A program of the folder `tls` as server and as client.
fn run(program: &str, port: u16) -> Result<Outcome> {
    let lab = Lab::new()?;
    pki::certificates(lab.folder(), &["ends.lab.name"])?;
    let folder = lab.folder().display().to_string();
    let path = format!("{}/tests/tls/{program}", env!("CARGO_MANIFEST_DIR"));
    lab.config(
        "[tls.upstream]\nroots = ['system', 'root.pem']\n[tls.learn]\nbypass = 'off'\n\
         [[rule]]\naction = 'intercept'\n",
    )?
    .server(&format!(
        "import os, sys\n\
         os.execv(sys.executable, [sys.executable, '{path}', 'serve', '{folder}'])\n"
    ))?
    .shell(&format!(
        "until (exec 3<>/dev/tcp/ends.lab.name/{port}) 2>/dev/null; do sleep 0.1; done; \
         exec {} {path} ask",
        flowdog_tests::python().display(),
    ))
}

#[test]
fn each_end_reaches_the_other_host_as_it_was_made_and_the_other_direction_goes_on() -> Result<()> {
    let outcome = run("ends.py", 9601)?;
    let mut expected = Vec::new();
    for version in ["TLSv1_2", "TLSv1_3"] {
        for who in ["client", "server"] {
            expected.push(format!(
                "{version} {who} announced: True announced, then True announced"
            ));
        }
        for who in ["client", "server"] {
            expected.push(format!("{version} {who} cut: True cut"));
        }
        // What was on its way may be lost, as it would be between the two hosts.
        expected.push(format!("{version} client reset: reset"));
        expected.push(format!("{version} server reset: reset"));
    }
    for (line, expected) in outcome.stdout.lines().zip(&expected) {
        let (what, how) = expected.split_once(": ").unwrap_or_default();
        let fits = if how == "reset" {
            line.starts_with(what) && line.ends_with(how)
        } else {
            line == expected
        };
        ensure!(fits, "{line:?} instead of {expected:?}\n{}", outcome.stdout);
    }
    ensure!(
        outcome.stdout.lines().count() == expected.len(),
        "{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
    Ok(())
}

#[test]
fn records_from_one_byte_to_sixteen_kilobytes_arrive_in_both_directions() -> Result<()> {
    let outcome = run("records.py", 9602)?;
    ensure!(
        outcome.stdout == "TLSv1_2 26 sizes\nTLSv1_3 26 sizes\n",
        "{}",
        outcome.stdout
    );
    let intercepted = outcome.metric("flowdog_tls_handshakes_total", "intercepted");
    ensure!(intercepted == 2.0, "{intercepted}");
    Ok(())
}
