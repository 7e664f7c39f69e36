//! Hellos that are odd but allowed get through; what TLS has given up is given up here too.

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;

/// Runs parts of the program and compares what it prints.
fn outcomes(parts: &str, expected: &[(&str, &str)]) -> Result<()> {
    let lab =
        Lab::new()?.config("[tls.learn]\nbypass = \"off\"\n[[rule]]\naction = \"intercept\"\n")?;
    let program = lab.folder().join("odd_hellos.py");
    std::fs::write(&program, include_str!("tls/odd_hellos.py"))?;
    let python = flowdog_tests::python();
    let outcome = lab.shell(&format!(
        "exec {} {} {parts}",
        python.display(),
        program.display()
    ))?;
    let lines: Vec<(&str, &str)> = outcome
        .stdout
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    for (line, expected) in lines.iter().zip(expected) {
        ensure!(line == expected, "{line:?} instead of {expected:?}");
    }
    ensure!(lines.len() == expected.len(), "{}", outcome.stdout);
    Ok(())
}

#[test]
fn threat_38_any_split_padding_and_grease_is_intercepted() -> Result<()> {
    let splits = [
        "1 None", "1 7", "3 None", "100 50", "None 1", "None 5", "250 251",
    ];
    let mut expected = Vec::new();
    for version in ["TLSv1.2", "TLSv1.3"] {
        for split in splits {
            expected.push((format!("split {split}"), format!("{version} 200 flowdog")));
        }
    }
    for minor in [3, 4] {
        for hello in ["padded 500", "padded 16384", "padded 40960", "grease"] {
            let name = match hello.split_once(' ') {
                Some((word, size)) => format!("{word} {minor} {size}"),
                None => format!("{hello} {minor}"),
            };
            expected.push((name, format!("(3, {minor}) 200 flowdog")));
        }
    }
    let expected: Vec<(&str, &str)> = expected
        .iter()
        .map(|(name, outcome)| (name.as_str(), outcome.as_str()))
        .collect();
    outcomes("splits hellos", &expected)
}

#[test]
fn threat_38_44_first_flights_by_hand_have_one_reading_and_nothing_old_is_spoken() -> Result<()> {
    /// ECDHE-ECDSA-AES128-GCM-SHA256, no compression, no heartbeat.
    const GOOD: &str = "hello 0xc02b compression 0 heartbeat False";
    /// The descriptions of RFC 8446 §6.2.
    const UNEXPECTED: &str = "alert 2 10";
    const FAILURE: &str = "alert 2 40";
    const ILLEGAL: &str = "alert 2 47";
    const DECODE: &str = "alert 2 50";
    const VERSION: &str = "alert 2 70";
    outcomes(
        "flights",
        &[
            ("good", GOOD),
            ("two hellos in one record", UNEXPECTED),
            // The second one is judged after the answer to the first.
            ("two hellos in two records", GOOD),
            ("something else inside a hello", UNEXPECTED),
            ("empty record first", DECODE),
            // Not TLS to anyone; the server's own end.
            ("alert first", "closed"),
            ("record over 16 KiB", UNEXPECTED),
            ("hello of 16 MB announced", DECODE),
            ("lengths that do not fit", DECODE),
            ("twice the same extension", ILLEGAL),
            ("compression offered", GOOD),
            ("compression only", ILLEGAL),
            ("heartbeat offered", GOOD),
            ("export suites", FAILURE),
            ("null and anonymous suites", FAILURE),
            ("static RSA and 3DES", FAILURE),
            ("TLS 1.0", VERSION),
            ("SSL 3", VERSION),
            ("SSL 2 hello", DECODE),
            ("heartbeat instead of a hello", DECODE),
        ],
    )
}

#[test]
fn threat_44_renegotiation_and_heartbeats_are_refused_inside_a_connection() -> Result<()> {
    outcomes(
        "inside",
        &[
            // no_renegotiation (RFC 5246 §7.2.2), and the connection could go on.
            ("renegotiation 1.2", "alert 100"),
            ("a second hello in 1.3", "alert 10"),
            ("heartbeat that asks for more than it sent 3", "alert 50"),
            ("heartbeat that asks for more than it sent 4", "alert 50"),
        ],
    )
}
