//! The root in the stores of other programs, as docs/certificates.md tells people to put it there:
//! each program verifies what flowdog shows it, by its own rules.

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;

fn lab() -> Result<Lab> {
    Lab::new()?.config("[tls.learn]\nbypass = \"off\"\n[[rule]]\naction = \"intercept\"\n")
}

/// What the names of minted leaves' issuers begin with.
const OURS: &str = "flowdog intermediate";

#[test]
fn gnutls_verifies_a_minted_leaf_in_both_versions() -> Result<()> {
    let outcome = lab()?.shell(
        r#"for version in TLS1.2 TLS1.3; do
             printf 'GET /echo HTTP/1.1\r\nHost: any.lab.name\r\nConnection: close\r\n\r\n' |
               gnutls-cli --x509cafile "$SSL_CERT_FILE" --priority "NORMAL:-VERS-ALL:+VERS-$version" \
                 --verify-hostname any.lab.name -p 443 any.lab.name
           done"#,
    )?;
    let count = |what: &str| outcome.stdout.matches(what).count();
    ensure!(
        count("The certificate is trusted") == 2,
        "{}",
        outcome.stdout
    );
    ensure!(count("HTTP/1.1 200") == 2, "{}", outcome.stdout);
    ensure!(outcome.stdout.contains(OURS), "{}", outcome.stdout);
    Ok(())
}

#[test]
fn a_debian_store_with_the_root_serves_curl_openssl_and_python() -> Result<()> {
    let lab = lab()?;
    let python = flowdog_tests::python();
    let outcome = lab.shell(&format!(
        r#"cd {folder}
           root=$SSL_CERT_FILE
           unset SSL_CERT_FILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE
           mkdir local etc hooks
           # The lab's file holds the root of its servers too, and a file in here has one certificate.
           awk '/BEGIN/ {{ n++ }} {{ print > "local/flowdog-" n ".crt" }}' "$root"
           PATH=$PATH:/usr/sbin update-ca-certificates --localcertsdir $PWD/local --etccertsdir $PWD/etc --hooksdir $PWD/hooks >&2
           curl -sS --fail -o /dev/null https://any.lab.name/echo && echo 'trusted without the root'
           for store in '--capath etc' '--cacert etc/ca-certificates.crt'; do
             curl -sS --fail $store -o /dev/null -w 'curl %{{http_code}} %{{ssl_verify_result}}\n' https://any.lab.name/echo
           done
           openssl s_client -verify_return_error -CApath etc -servername any.lab.name -connect any.lab.name:443 </dev/null 2>/dev/null | grep -o 'Verify return code: 0 (ok)' | sort -u | wc -l
           cat >verify.py <<'END'
import ssl, urllib.request, requests
url = "https://any.lab.name/echo"
print("ssl", urllib.request.urlopen(url).status)
print("requests", requests.get(url).status_code)
END
           SSL_CERT_FILE=etc/ca-certificates.crt REQUESTS_CA_BUNDLE=etc/ca-certificates.crt {python} verify.py
        "#,
        folder = lab.folder().display(),
        python = python.display(),
    ))?;
    ensure!(
        outcome.stdout == "curl 200 0\ncurl 200 0\n1\nssl 200\nrequests 200\n",
        "{}",
        outcome.stdout
    );
    Ok(())
}

/// Runs a script if a program is there; most machines have the one or the other.
fn if_there(program: &str, script: &str) -> Result<Option<String>> {
    let lab = lab()?;
    let script = format!(
        "cd {}\nif ! command -v {program} >/dev/null; then echo absent; exit; fi\n{script}",
        lab.folder().display()
    );
    for (name, text) in [
        ("get.mjs", include_str!("tls/get.mjs")),
        ("Get.java", include_str!("tls/Get.java")),
    ] {
        std::fs::write(lab.folder().join(name), text)?;
    }
    let outcome = lab.shell(&script)?;
    if outcome.stdout == "absent\n" {
        eprintln!("skipped: {program} is not installed");
        return Ok(None);
    }
    Ok(Some(outcome.stdout))
}

#[test]
fn node_with_the_root_in_its_variable_verifies_a_minted_leaf() -> Result<()> {
    // In a lab, NODE_EXTRA_CA_CERTS is set.
    let script = "node get.mjs; (NODE_EXTRA_CA_CERTS= node get.mjs 2>&1 || true) | grep -om1 UNABLE_TO_GET_ISSUER_CERT_LOCALLY";
    if let Some(said) = if_there("node", script)? {
        ensure!(said.starts_with(&format!("200 TLSv1.3 {OURS}")), "{said}");
        ensure!(
            said.ends_with("UNABLE_TO_GET_ISSUER_CERT_LOCALLY\n"),
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn java_with_the_root_in_a_trust_store_verifies_a_minted_leaf() -> Result<()> {
    let script = r#"
        # What `-cacerts` names, in a copy: the machine's own store is not the test's to change.
        cp -L "$(java -XshowSettings:properties -version 2>&1 | sed -n 's/ *java.home = //p')/lib/security/cacerts" store
        chmod u+w store
        keytool -importcert -noprompt -alias flowdog -file "$SSL_CERT_FILE" -keystore store -storepass changeit >&2
        for versions in TLSv1.2 TLSv1.3; do
          java -Djavax.net.ssl.trustStore=store -Djavax.net.ssl.trustStorePassword=changeit \
               -Djdk.tls.client.protocols=$versions Get.java
        done
        (java Get.java 2>&1 || true) | grep -om1 'unable to find valid certification path'"#;
    if let Some(said) = if_there("javac", script)? {
        ensure!(said.matches(&format!("CN={OURS}")).count() == 2, "{said}");
        ensure!(said.matches("200 TLS_").count() == 2, "{said}");
        ensure!(said.ends_with("certification path\n"), "{said}");
    }
    Ok(())
}
