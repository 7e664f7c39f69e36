use std::process::Command;

use super::*;

/// Runs openssl in a directory; the tests' independent maker of keys and certificates.
fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .current_dir(directory)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A CA of openssl's making, with the key converted by the last command.
fn openssl_ca(key: &str, convert: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    openssl(directory.path(), &format!("genpkey {key} -out pkcs8.pem"));
    openssl(
        directory.path(),
        "req -x509 -new -key pkcs8.pem -subj /C=DE/O=Example/CN=Corporate-Root -days 30 -out ca.pem \
         -addext keyUsage=critical,keyCertSign,cRLSign",
    );
    openssl(directory.path(), convert);
    directory
}

fn load(directory: &Path) -> Result<Authority, AuthorityError> {
    Authority::from_files(&directory.join("ca.pem"), &directory.join("key.pem"))
}

#[test]
fn every_usual_kind_and_form_of_key_is_read() {
    let kinds = [
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            "pkcs8 -topk8 -nocrypt -in pkcs8.pem -out key.pem",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            "ec -in pkcs8.pem -out key.pem",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
            "pkcs8 -topk8 -nocrypt -in pkcs8.pem -out key.pem",
        ),
        (
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            "pkcs8 -topk8 -nocrypt -in pkcs8.pem -out key.pem",
        ),
        (
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            "rsa -traditional -in pkcs8.pem -out key.pem",
        ),
        (
            "-algorithm ED25519",
            "pkcs8 -topk8 -nocrypt -in pkcs8.pem -out key.pem",
        ),
    ];
    for (key, convert) in kinds {
        let directory = openssl_ca(key, convert);
        let authority =
            load(directory.path()).unwrap_or_else(|error| panic!("{key} {convert}: {error}"));
        assert_eq!(authority.chain_to_send().count(), 0);
        assert!(
            authority
                .root_pem()
                .starts_with("-----BEGIN CERTIFICATE-----\n")
        );
    }
}

#[test]
fn a_new_root_is_kept_in_files_that_load_again_and_only_the_owner_can_read_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        directory.path().join("ca.pem"),
        directory.path().join("key.pem"),
    );
    let made = Authority::create_files("Example Root", &certificate, &key).unwrap();
    let loaded = load(directory.path()).unwrap();
    assert_eq!(loaded.public_key(), made.public_key());
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    openssl(
        directory.path(),
        "verify -x509_strict -CAfile ca.pem ca.pem",
    );
    // Never over an existing key.
    let again = Authority::create_files("Example Root", &certificate, &key);
    assert!(matches!(again, Err(AuthorityError::Write { path, .. }) if path == key));
}

#[test]
fn what_is_wrong_is_said_with_the_files_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let message = || load(path).unwrap_err().to_string();
    assert!(
        message().contains("cannot read") && message().contains("ca.pem"),
        "{}",
        message()
    );

    fs::write(path.join("ca.pem"), "nothing here").unwrap();
    fs::write(path.join("key.pem"), "nothing here").unwrap();
    assert!(
        message().contains("no private key") && message().contains("key.pem"),
        "{}",
        message()
    );

    openssl(
        path,
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem",
    );
    assert!(message().contains("no certificate"), "{}", message());

    fs::write(
        path.join("ca.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(message().contains("not a valid X.509"), "{}", message());

    openssl(
        path,
        "req -x509 -new -key key.pem -subj /CN=x -days 1 -out ca.pem -addext basicConstraints=CA:FALSE",
    );
    assert!(message().contains("not a CA certificate"), "{}", message());

    openssl(
        path,
        "req -x509 -new -key key.pem -subj /CN=x -days 1 -out ca.pem -addext keyUsage=digitalSignature",
    );
    assert!(message().contains("keyCertSign"), "{}", message());

    openssl(
        path,
        "req -x509 -new -key key.pem -subj /CN=x -days 1 -out ca.pem",
    );
    load(path).unwrap();
    openssl(
        path,
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem",
    );
    assert!(message().contains("does not belong"), "{}", message());

    openssl(path, "genpkey -algorithm X25519 -out key.pem");
    assert!(
        message().contains("not a usable private key"),
        "{}",
        message()
    );
}

#[test]
fn an_authority_is_refused_outside_its_validity() {
    let (made, _key) = Authority::make("Example Root").unwrap();
    let at = |seconds: i64| {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(seconds).unwrap(),
        ));
        Authority::from_parts("here", made.chain.clone(), Arc::clone(&made.signer), time)
            .map(|_authority| ())
    };
    let (from, to) = made.validity();
    at(from).unwrap();
    at(to).unwrap();
    assert!(matches!(
        at(from - 1),
        Err(AuthorityError::NotYetValid { .. })
    ));
    assert!(matches!(at(to + 1), Err(AuthorityError::Expired { .. })));
}

#[test]
fn an_intermediate_is_sent_and_its_root_is_not() {
    let directory = openssl_ca("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "version");
    let path = directory.path();
    openssl(
        path,
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key.pem",
    );
    openssl(
        path,
        "req -new -key key.pem -subj /CN=Issuing-CA -out issuing.csr",
    );
    fs::write(
        path.join("ext"),
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n",
    )
    .unwrap();
    openssl(
        path,
        "x509 -req -in issuing.csr -CA ca.pem -CAkey pkcs8.pem -days 9 -extfile ext -out issuing.pem",
    );
    let root = fs::read_to_string(path.join("ca.pem")).unwrap();
    let issuing = fs::read_to_string(path.join("issuing.pem")).unwrap();
    fs::write(path.join("ca.pem"), format!("{issuing}{root}")).unwrap();
    let authority = load(path).unwrap();
    assert_eq!(authority.root_pem(), root);
    let sent: Vec<_> = authority
        .chain_to_send()
        .map(|der| pem("CERTIFICATE", &der))
        .collect();
    assert_eq!(sent, [issuing]);
}
