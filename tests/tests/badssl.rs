//! Every class of badssl.com times every policy, with curl as the client. docs/certificates.md says the same
//! as a table.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::pki;

/// A class of `tls/badssl_origins.py`, in its order of ports, and what curl gets: under `strict`, `mirror`,
/// `mirror` with `curl -k`, `tag`, and `bypass` at the first and at the second try. `+` is the server's
/// answer, `-` is none.
const EXPECTED: [(&str, &str); 28] = [
    // Odd, and good.
    ("good", "++++++"),
    ("reversed-chain", "++++++"),
    ("no-subject", "++++++"),
    ("no-common-name", "++++++"),
    ("thousand-names", "++++++"),
    ("rsa-8192", "++++++"),
    ("idn", "++++++"),
    // What is passed the second time is refused by curl itself.
    ("expired", "--++--"),
    ("not-yet-valid", "--++--"),
    ("self-signed", "--++--"),
    ("untrusted-root", "--++--"),
    ("incomplete-chain", "--++--"),
    // The client refuses it for its names, which are the server's.
    ("wrong-host", "--+---"),
    ("no-names", "--+---"),
    ("wrong-purpose", "--++--"),
    ("bad-signature", "--++--"),
    ("sha1", "--++--"),
    ("sha1-intermediate", "--++--"),
    ("weak-intermediate", "--++--"),
    // The server signs the handshake with its weak key, and nobody would know who it is.
    ("weak-key-1024", "------"),
    ("weak-key-512", "------"),
    // A quarter of a megabyte; curl does not take it from the server either.
    ("ten-thousand-names", "------"),
    ("rc4", "------"),
    ("3des", "------"),
    ("null", "------"),
    ("dh-512", "------"),
    ("tls-1-0", "------"),
    ("tls-1-1", "------"),
];

#[test]
fn threat_36_every_class_of_bad_server_is_treated_as_each_policy_says() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_str().unwrap_or_default().to_owned();
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
    let program = format!("{tests}/badssl_origins.py");
    pki::python_now(program.as_ref(), &[&folder, "make"])?;
    let mut rules = "[tls.upstream]\nroots = ['system', 'root.pem']\n".to_owned();
    for policy in ["strict", "mirror", "tag", "bypass"] {
        rules += &format!(
            "[[rule]]\naction = 'intercept'\nserver-name = '*-{policy}.lab.name'\nverify = '{policy}'\n"
        );
    }
    let classes: Vec<&str> = EXPECTED.iter().map(|(class, _)| *class).collect();
    let outcome = lab
        .config(&rules)?
        .server(&format!(
            "import os, sys\n\
             os.execv(sys.executable, [sys.executable, '{program}', '{folder}'])\n"
        ))?
        .shell(
            &r#"
            cd FOLDER
            cat "$SSL_CERT_FILE" root.pem >both.pem
            export CURL_CA_BUNDLE=$PWD/both.pem
            ask() { curl -sS --max-time 60 ${3-} -o /dev/null https://$1.lab.name:$2/ 2>>said && printf + || printf -- -; }
            one() {
              name=$1; [ $name = idn ] && name=xn--bcher-kva-idn
              until (exec 3<>/dev/tcp/good.lab.name/$2) 2>/dev/null; do sleep 0.1; done
              got=$(ask $name-strict $2; ask $name-mirror $2; ask $name-mirror $2 -k; ask $name-tag $2; ask $name-bypass $2; ask $name-bypass $2)
              echo "$1 $got"
            }
            port=9500
            for class in CLASSES; do one $class $port & port=$((port + 1)); done
            wait
            "#
            .replace("FOLDER", &folder)
            .replace("CLASSES", &classes.join(" ")),
        )?;
    let got: BTreeMap<&str, &str> = outcome
        .stdout
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let wrong: Vec<String> = EXPECTED
        .iter()
        .filter(|(class, expected)| got.get(class) != Some(expected))
        .map(|(class, expected)| format!("{class}: {:?} instead of {expected}", got.get(class)))
        .collect();
    ensure!(wrong.is_empty(), "{wrong:#?}\n{}", outcome.log);
    for (fault, least) in [
        ("expired", 3.0),
        ("not_yet_valid", 3.0),
        ("self_signed", 3.0),
        // Stranger, missing intermediate.
        ("unknown_issuer", 6.0),
        // Forged, both with SHA-1, weak intermediate, weak keys.
        ("bad_signature", 12.0),
        ("wrong_name", 6.0),
        ("wrong_purpose", 3.0),
    ] {
        let label = format!("server_certificate_{fault}\"");
        let count = outcome.metric("flowdog_tls_handshakes_total", &label);
        ensure!(count >= least, "{fault}: {count}\n{}", outcome.log);
    }
    Ok(())
}
