//! `flowdog explain` at the command line: what EC2 knows of hosts, and what rules say about TLS.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use flowdog_tests::flowdog;
use serde_json::Value;

/// A host at 10.7.0.50 of which everything is known, one at 10.7.0.51 without an instance, and two VPCs
/// that both have 10.7.0.60.
const DIRECTORY: &str = r#"{
 "interfaces": [
  {"addresses": ["10.7.0.50", "2001:db8::50"], "instanceId": "i-0000000000000aaaa", "interfaceId": "eni-0000000000000aaaa",
   "accountId": "111111111111", "vpcId": "vpc-0000000000000aaaa", "subnetId": "subnet-0000000000000aaaa",
   "securityGroups": ["sg-0000000000000aaaa", "sg-0000000000000bbbb"], "tags": {"team": "red", "env": "prod"}},
  {"addresses": ["10.7.0.51"], "interfaceId": "eni-0000000000000cccc", "accountId": "111111111111",
   "vpcId": "vpc-0000000000000aaaa", "subnetId": "subnet-0000000000000aaaa"},
  {"addresses": ["10.7.0.60"], "instanceId": "i-0000000000000dddd", "interfaceId": "eni-0000000000000dddd", "accountId": "111111111111",
   "vpcId": "vpc-0000000000000aaaa", "subnetId": "subnet-0000000000000aaaa"},
  {"addresses": ["10.7.0.60"], "instanceId": "i-0000000000000eeee", "interfaceId": "eni-0000000000000eeee", "accountId": "222222222222",
   "vpcId": "vpc-0000000000000bbbb", "subnetId": "subnet-0000000000000bbbb"}],
 "endpoints": {"vpce-0000000000000aaaa": "vpc-0000000000000aaaa", "vpce-0000000000000bbbb": "vpc-0000000000000bbbb"},
 "vpcs": {"vpc-0000000000000aaaa": ["10.7.0.0/16"], "vpc-0000000000000bbbb": ["10.7.0.0/16"]}
}"#;

/// Explains a flow by these rules, as JSON.
fn explain(folder: &Path, rules: &str, more: &[&str]) -> Result<Value> {
    let file = folder.join("flowdog.toml");
    std::fs::write(&file, rules)?;
    let told = flowdog()
        .args(["explain", "--json", "--config"])
        .arg(&file)
        .args(more)
        .output()?;
    ensure!(told.status.success(), "{told:?}");
    Ok(serde_json::from_slice(&told.stdout)?)
}

/// Every condition on a host: its key, a value that the host at 10.7.0.50 has, one that it has not, and
/// what it has in the words of an explanation.
const CONDITIONS: [(&str, &str, &str, &str); 8] = [
    (
        "account",
        "'111111111111'",
        "'222222222222'",
        "111111111111",
    ),
    (
        "instance",
        "'i-0000000000000aaaa'",
        "'i-0000000000000ffff'",
        "i-0000000000000aaaa",
    ),
    (
        "interface",
        "'eni-0000000000000aaaa'",
        "'eni-0000000000000ffff'",
        "eni-0000000000000aaaa",
    ),
    (
        "subnet",
        "'subnet-0000000000000aaaa'",
        "'subnet-0000000000000ffff'",
        "subnet-0000000000000aaaa",
    ),
    (
        "vpc",
        "'vpc-0000000000000aaaa'",
        "'vpc-0000000000000ffff'",
        "vpc-0000000000000aaaa",
    ),
    (
        "security-group",
        "['sg-0000000000000ffff', 'sg-0000000000000bbbb']",
        "'sg-0000000000000ffff'",
        "sg-0000000000000aaaa, sg-0000000000000bbbb",
    ),
    (
        "tag",
        "{ team = ['blue', 'red'], env = '*' }",
        "{ team = 'red', env = 'test' }",
        "env is prod",
    ),
    (
        "tag",
        "{ env = 'prod' }",
        "{ owner = '*' }",
        "owner is nothing",
    ),
];

#[test]
fn every_condition_on_what_ec2_knows_is_explained_for_both_ends() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let directory = folder.path().join("directory.json");
    std::fs::write(&directory, DIRECTORY)?;
    let directory = directory.to_str().context("UTF-8")?;
    let rules = |key: &str, value: &str| {
        format!("[ec2]\n[[rule]]\nname = 'one'\naction = 'drop'\n{key} = {value}\n")
    };
    for (end, known, stranger) in [
        (
            "source",
            ["10.7.0.50:9", "192.0.2.9:443"],
            ["10.9.9.9:9", "192.0.2.9:443"],
        ),
        (
            "destination",
            ["192.0.2.9:9", "10.7.0.50:443"],
            ["192.0.2.9:9", "10.9.9.9:443"],
        ),
        (
            "source",
            ["[2001:db8::50]:9", "[2001:db8::1]:443"],
            ["[2001:db8::51]:9", "[2001:db8::1]:443"],
        ),
    ] {
        for (condition, meets, misses, found) in CONDITIONS {
            let key = format!("{end}-{condition}");
            let ask = |value: &str, [from, to]: [&str; 2]| {
                let more = ["--from", from, "--to", to, "--directory", directory];
                explain(folder.path(), &rules(&key, value), &more)
            };
            let told = ask(meets, known)?;
            assert_eq!(told["decidedBy"], "one", "{key} = {meets}: {told}");
            assert_eq!(told["outcome"], "drop");
            let told = ask(misses, known)?;
            assert_eq!(told["decidedBy"], Value::Null, "{key} = {misses}: {told}");
            let unmet = told["rules"][0]["unmet"].as_str().context("a reason")?;
            assert!(unmet.starts_with(&key) && unmet.ends_with(found), "{unmet}");
            let told = ask(meets, stranger)?;
            let unmet = told["rules"][0]["unmet"].as_str().context("a reason")?;
            assert!(unmet.ends_with("is nothing"), "nobody knows it: {unmet}");
        }
    }
    Ok(())
}

#[test]
fn a_host_without_an_instance_and_the_endpoints_vpc_are_explained() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let directory = folder.path().join("directory.json");
    std::fs::write(&directory, DIRECTORY)?;
    let directory = directory.to_str().context("UTF-8")?;
    let rules = "[ec2]\n[[rule]]\nname = 'd'\naction = 'drop'\nsource-instance = 'i-0000000000000dddd'\n\
                 [[rule]]\nname = 'e'\naction = 'reset'\nsource-account = '222222222222'\n";
    for (from, endpoint, decided_by) in [
        ("10.7.0.60:9", "vpce-0000000000000aaaa", Value::from("d")),
        ("10.7.0.60:9", "vpce-0000000000000bbbb", Value::from("e")),
        // Two have it, and nobody says which is meant.
        ("10.7.0.60:9", "vpce-0000000000000cccc", Value::Null),
        ("10.7.0.51:9", "vpce-0000000000000aaaa", Value::Null),
    ] {
        let more = [
            "--from",
            from,
            "--to",
            "192.0.2.9:443",
            "--endpoint",
            endpoint,
            "--directory",
            directory,
        ];
        let told = explain(folder.path(), rules, &more)?;
        assert_eq!(told["decidedBy"], decided_by, "{from} {endpoint}: {told}");
    }
    let broken = folder.path().join("broken.json");
    std::fs::write(&broken, "{")?;
    let told = flowdog()
        .args(["explain", "--from", "10.0.0.1:1", "--to", "10.0.0.2:2"])
        .arg("--config")
        .arg(folder.path().join("flowdog.toml"))
        .arg("--directory")
        .arg(&broken)
        .output()?;
    assert_eq!(told.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&told.stderr).contains("broken.json"));
    Ok(())
}

#[test]
fn what_a_rule_says_about_tls_is_explained() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let made = flowdog()
        .args(["ca", "create", "--common-name", "Test Root", "--out"])
        .args([&path("ca.pem"), "--new-key", &path("ca.key")])
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let ca =
        "[tls.ca]\ncertificate = 'ca.pem'\nkey = 'ca.key'\n[tls.upstream]\nroots = ['ca.pem']\n";
    let client: &[&str] = &["--sni", "www.example"];
    for (rule, client, outcome, why) in [
        ("", client, "intercept", "all its conditions hold"),
        (
            "",
            &["--sni", "www.example", "--ech"],
            "intercept",
            "all its conditions hold",
        ),
        (
            "ech = 'pass'",
            &["--sni", "www.example", "--ech"],
            "pass",
            "ech = \"pass\"",
        ),
        (
            "ech = 'pass'",
            client,
            "intercept",
            "all its conditions hold",
        ),
        ("ech = 'refuse'", &["--ech"], "refuse", "access_denied"),
        ("", &["--old-tls"], "pass", "old-tls = \"pass\""),
        (
            "old-tls = 'refuse'",
            &["--old-tls"],
            "refuse",
            "protocol_version",
        ),
        (
            "ech = 'refuse'",
            &["--old-tls", "--ech"],
            "refuse",
            "access_denied",
        ),
        (
            "starttls = ['smtp']",
            &["--starttls", "smtp"],
            "intercept",
            "all its conditions hold",
        ),
        (
            "starttls = ['imap']",
            &["--starttls", "smtp"],
            "pass",
            "(`starttls`)",
        ),
    ] {
        let rules = format!("{ca}[[rule]]\nname = 'one'\naction = 'intercept'\n{rule}\n");
        let mut more = vec!["--from", "10.0.0.5:9", "--to", "192.0.2.9:443"];
        more.extend(client);
        let told = explain(folder.path(), &rules, &more)?;
        assert_eq!(told["outcome"], outcome, "{rule} {client:?}: {told}");
        let said = told["why"].as_str().context("a reason")?;
        assert!(said.contains(why), "{rule} {client:?}: {said}");
        assert_eq!(told["tls"].is_object(), outcome == "intercept", "{told}");
    }
    let rules = format!("{ca}[[rule]]\naction = 'intercept'\nverify = 'mirror'\nech = 'refuse'\n");
    let file = folder.path().join("flowdog.toml");
    std::fs::write(&file, rules)?;
    let told = flowdog()
        .args([
            "explain",
            "--from",
            "10.0.0.5:9",
            "--to",
            "192.0.2.9:443",
            "--config",
        ])
        .arg(&file)
        .output()?;
    let told = String::from_utf8(told.stdout)?;
    let expected = "TLS: verify = mirror, ech = refuse, old-tls = pass\n";
    assert!(told.contains(expected), "{told}");
    assert!(told.contains("flowdog learned list"), "{told}");
    Ok(())
}
