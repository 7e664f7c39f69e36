//! Faults with their place, and the example file against the code.

use super::*;

fn parse(text: &str) -> Result<Config, Faults> {
    Config::parse(text, Path::new("dir/flowdog.toml"), &interceptors::all())
}

fn faults(text: &str) -> Vec<Fault> {
    parse(text).unwrap_err().iter().cloned().collect()
}

/// Document, and of its only fault: line, key, a part of what is wrong, a part of what is allowed.
type Row = (
    &'static str,
    usize,
    &'static str,
    &'static str,
    &'static str,
);

const TABLE: &[Row] = &[
    (
        "[gwlb]\nlisen = '0.0.0.0:6081'\n",
        2,
        "gwlb.lisen",
        "did you mean `listen`",
        "listen",
    ),
    (
        "[gwlb]\n\nlisten = '6081'\n",
        3,
        "gwlb.listen",
        "\"6081\" is not valid",
        "0.0.0.0:6081",
    ),
    (
        "[gwlb]\nlisten = 6081\n",
        2,
        "gwlb.listen",
        "6081 is not valid",
        "an IPv4 address and a port",
    ),
    (
        "[gwlb]\nlisten = '[::]:6081'\n",
        2,
        "gwlb.listen",
        "not valid",
        "IPv4",
    ),
    (
        "[gwlb]\nshards = 0\n",
        2,
        "gwlb.shards",
        "0 is not valid",
        "from 1 to 256",
    ),
    (
        "[gwlb]\nshards = -1\n",
        2,
        "gwlb.shards",
        "-1 is not valid",
        "from 1 to 256",
    ),
    (
        "[gwlb]\nshards = 99999999999999999999\n",
        2,
        "gwlb.shards",
        "not valid",
        "from 1 to 256",
    ),
    (
        "[gwlb]\nreceive-buffer = 16777216\n",
        2,
        "gwlb.receive-buffer",
        "not valid",
        "MiB",
    ),
    (
        "[gwlb]\nreceive-buffer = '16XB'\n",
        2,
        "gwlb.receive-buffer",
        "\"16XB\"",
        "KiB",
    ),
    (
        "[gwlb]\nreceive_buffer = '16MiB'\n",
        2,
        "gwlb.receive_buffer",
        "did you mean `receive-buffer`",
        "",
    ),
    (
        "[gwlb]\nreply = 'tcp'\n",
        2,
        "gwlb.reply",
        "\"tcp\"",
        "auto, bound, raw",
    ),
    (
        "[gwlb]\nallowed-sources = ['10.0.0.0/8', '10.0.0.0/33']\n",
        2,
        "gwlb.allowed-sources",
        "/33",
        "10.0.0.0/8",
    ),
    ("gwlb = 3\n", 1, "gwlb", "3 is not valid", "a table, [gwlb]"),
    ("[gwbl]\n", 1, "gwbl", "did you mean `gwlb`", "drain"),
    (
        "[flows]\ntcp-idle = 350\n",
        2,
        "flows.tcp-idle",
        "350 is not valid",
        "a duration with its unit",
    ),
    (
        "[flows]\ntcp-idle = '350'\n",
        2,
        "flows.tcp-idle",
        "\"350\"",
        "from 1s to 1day",
    ),
    (
        "[flows]\nmss-ipv4 = 9000\n",
        2,
        "flows.mss-ipv4",
        "9000",
        "from 536 to 8460",
    ),
    (
        "[health]\nlisten = 'localhost'\n",
        2,
        "health.listen",
        "\"localhost\"",
        "0.0.0.0:8080",
    ),
    (
        "[log]\nlevel = 'loud'\n",
        2,
        "log.level",
        "\"loud\"",
        "error, warn, info",
    ),
    (
        "[log]\nformat = 'xml'\n",
        2,
        "log.format",
        "\"xml\"",
        "json, text",
    ),
    (
        "[drain]\ndeadline = '5 parsecs'\n",
        2,
        "drain.deadline",
        "parsecs",
        "duration",
    ),
    (
        "[tls.ca]\ncertificate = 'ca.pem'\n",
        1,
        "tls.ca.key",
        "is missing",
        "private key",
    ),
    (
        "[tls.ca]\nkey = 'ca.key'\n",
        1,
        "tls.ca.certificate",
        "is missing",
        "certificate",
    ),
    (
        "[tls.ca]\n",
        1,
        "tls.ca.certificate",
        "the table is empty",
        "no [tls.ca] at all",
    ),
    (
        "[tls.ca]\ncertificate = 'ca.pem'\nkey = 'ca.key'\nkms-key = 'alias/a'\n",
        4,
        "tls.ca.kms-key",
        "beside `key`",
        "`kms-key`",
    ),
    (
        "[tls.ca]\ncertificate = 'no.pem'\nkey = 'no.key'\n",
        2,
        "tls.ca.certificate",
        "dir/no.pem",
        "PEM",
    ),
    (
        "[tls.upstream]\nroots = ['no.pem']\n",
        2,
        "tls.upstream.roots",
        "dir/no.pem",
        "system",
    ),
    (
        "[tls.upstream]\nroots = []\n",
        2,
        "tls.upstream.roots",
        "is empty",
        "system",
    ),
    (
        "[proxy]\nhead = '1GiB'\n",
        2,
        "proxy.head",
        "1GiB",
        "from \"1KiB\" to \"1MiB\"",
    ),
    (
        "[proxy]\nerror-page = 'no.html'\n",
        2,
        "proxy.error-page",
        "No such file",
        "{{status}}",
    ),
    (
        "[proxy]\n[proxy.error-texts]\nversion = 'x'\n",
        1,
        "proxy.error-page",
        "is missing",
        "the path of a file",
    ),
    (
        "[[interceptor]]\nuse = 'geneve-headers'\n",
        1,
        "interceptor[1].name",
        "is missing",
        "name",
    ),
    (
        "[[interceptor]]\nname = 'a'\n",
        1,
        "interceptor[1].use",
        "is missing",
        "edit-headers, geneve-headers",
    ),
    (
        "[[interceptor]]\nname = 'a'\nuse = 'geneve-header'\n",
        3,
        "interceptor[1].use",
        "did you mean \"geneve-headers\"",
        "edit-headers",
    ),
    (
        "[[interceptor]]\nname = 'a'\nuse = 'geneve-headers'\ncolour = 'red'\n",
        4,
        "interceptor[1].colour",
        "unknown key",
        "",
    ),
    (
        "[[interceptor]]\nname = 'a'\nuse = 'geneve-headers'\n[[interceptor]]\nname = 'a'\nuse = 'geneve-headers'\n",
        5,
        "interceptor[2].name",
        "is taken",
        "",
    ),
    (
        "[[rule]]\nport = 443\n",
        1,
        "rule[1].action",
        "is missing",
        "ask, bypass, drop, intercept, pass, reset",
    ),
    (
        "[[rule]]\naction = 'ignore'\n",
        2,
        "rule[1].action",
        "\"ignore\"",
        "ask, bypass, drop, intercept, pass, reset",
    ),
    (
        "[[rule]]\naction = 'intercept'\ninterceptors = ['who']\n",
        3,
        "rule[1].interceptors",
        "\"who\"",
        "names of [[interceptor]] tables, of which there are none",
    ),
    (
        "[[interceptor]]\nname = 'a'\nuse = 'geneve-headers'\n[[rule]]\naction = 'pass'\ninterceptors = ['a']\n",
        6,
        "rule[1].interceptors",
        "only where flows are intercepted",
        "intercept",
    ),
    (
        "[[rule]]\naction = 'pass'\n[[rule]]\naction = 'drop'\nport = [80, 70000]\n",
        5,
        "rule[2].port",
        "70000",
        "8000-8999",
    ),
    (
        "[[rule]]\naction = 'pass'\nendpoint = 'vpce-123'\n",
        3,
        "rule[1].endpoint",
        "vpce-123",
        "vpce-0123456789abcdef0",
    ),
    (
        "[[rule]]\naction = 'pass'\nsource = '10.0.0'\n",
        3,
        "rule[1].source",
        "10.0.0",
        "networks",
    ),
    (
        "[[rule]]\naction = 'pass'\nprotocol = 'quic'\n",
        3,
        "rule[1].protocol",
        "quic",
        "tcp, udp",
    ),
    (
        "[[rule]]\naction = 'pass'\nserver-name = 'a b'\n",
        3,
        "rule[1].server-name",
        "a b",
        "*.example.com",
    ),
    (
        "[[rule]]\naction = 'intercept'\ncongestion = 'reno'\n",
        3,
        "rule[1].congestion",
        "reno",
        "bbr, cubic",
    ),
    (
        "[[rule]]\naction = 'pass'\nmid-flow = 'drop'\n",
        3,
        "rule[1].mid-flow",
        "drop",
        "pass, reset",
    ),
    (
        "[rule]\naction = 'pass'\n",
        1,
        "rule",
        "a table is not valid",
        "[[rule]]",
    ),
];

#[test]
fn every_fault_names_line_key_and_what_is_allowed() {
    for (text, line, key, what, allowed) in TABLE {
        let faults = faults(text);
        let [fault] = faults.as_slice() else {
            panic!("{text}\n{faults:#?}")
        };
        assert_eq!(
            (fault.line, fault.key.as_str()),
            (*line, *key),
            "{text}\n{fault}"
        );
        assert!(fault.what.contains(what), "{text}\n{fault}");
        assert!(
            fault.allowed.as_deref().unwrap_or("").contains(allowed),
            "{text}\n{fault}"
        );
        let shown = fault.to_string();
        assert!(
            shown.starts_with(&format!("dir/flowdog.toml:{line}: {key}: ")),
            "{shown}"
        );
        assert!(!shown.contains('\n'), "{shown}");
    }
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_their_lines() {
    let text = "[[rule]]\naction = 'pas'\nport = 'x'\n[gwlb]\nlisten = ''\nfoo = 1\n[drain]\ndeadline = 3\n";
    let lines: Vec<_> = faults(text).iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [2, 3, 5, 6, 8]);
}

#[test]
fn what_is_no_toml_is_a_fault_with_its_line() {
    let faults = faults("[gwlb]\nlisten = \n");
    assert_eq!(faults[0].line, 2);
    assert!(faults[0].what.contains("not TOML"), "{}", faults[0]);
    let faults = self::faults("[gwlb]\nshards = 1\nshards = 2\n");
    assert!(faults.iter().any(|fault| fault.line == 3), "{faults:?}");
}

#[test]
fn a_missing_file_is_a_fault_and_not_a_panic() {
    let faults = Config::load(Path::new("/nonexistent/flowdog.toml"), &[]).unwrap_err();
    assert!(
        faults
            .to_string()
            .starts_with("/nonexistent/flowdog.toml:1: cannot read the file"),
        "{faults}"
    );
}

#[test]
fn no_bytes_make_the_reader_panic() {
    // Every prefix and every single-byte change of a file that uses all there is.
    let whole = uncommented();
    // Files are read by other tests; here they would only take time.
    let whole = whole
        .replace("certificate = \"ca.pem\"", "")
        .replace("key = \"ca.key\"", "")
        .replace("function = \"flowdog-gatekeeper\"", "");
    for cut in (0..whole.len())
        .filter(|cut| whole.is_char_boundary(*cut))
        .step_by(11)
    {
        let _ = parse(&whole[..cut]);
    }
    for at in (0..whole.len())
        .step_by(23)
        .filter(|at| whole.is_char_boundary(*at))
    {
        for c in ['"', '[', '\u{0}', '9', '='] {
            let mut changed = whole.clone();
            changed.insert(at, c);
            let _ = parse(&changed);
        }
    }
}

#[test]
fn an_empty_file_is_a_valid_configuration() {
    let config = parse("").unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    assert!(config.rules.is_empty() && config.tls.impersonator.is_none());
}

#[test]
fn the_engine_runs_with_its_own_defaults_unless_told_otherwise() {
    let engine = dataplane::Config::default();
    assert_eq!(
        format!("{:?}", Flows::default().engine()),
        format!("{engine:?}")
    );
}

#[test]
fn acceptors_and_the_rules_that_ask_them_are_put_together() {
    let config = parse(
        "[[acceptor]]\nname = 'gate'\nuse = 'http-acceptor'\nurl = 'http://127.0.0.1:9/'\nttl = '0s'\n\
         [[rule]]\nname = 'ask first'\naction = 'ask'\nacceptor = 'gate'\non-error = 'accept'\n\
         [[rule]]\naction = 'bypass'\nhttp-host = 'a.example'\napplication = 'http1'\n",
    )
    .unwrap();
    let first = &config.rules[0];
    assert_eq!(
        first.acceptor.as_ref().map(|link| link.name()),
        Some("gate")
    );
    assert!(first.accept_on_error && first.line == 6 && &*first.name == "ask first");
    assert_eq!(&*config.rules[1].name, "rule[2]");
    assert_eq!(config.rules[1].action, Action::Pass);
    assert_eq!(config.acceptors.len(), 1);
}

#[test]
fn threat_71_faults_of_acceptors_are_told_at_their_keys() {
    let acceptor = "[[acceptor]]\nname = 'gate'\nuse = 'http-acceptor'\nurl = 'http://h/'\n";
    for (text, line, key) in [
        (
            "[[acceptor]]\nuse = 'http-acceptor'\nurl = 'http://h/'\n",
            1,
            "acceptor[1].name",
        ),
        (
            "[[acceptor]]\nname = 'a'\nuse = 'magic'\n",
            3,
            "acceptor[1].use",
        ),
        (
            "[[acceptor]]\nname = 'a'\nuse = 'http-acceptor'\n",
            1,
            "acceptor[1].url",
        ),
        (
            "[[acceptor]]\nname = 'a'\nuse = 'http-acceptor'\nurl = 'ftp://h/'\n",
            4,
            "acceptor[1].url",
        ),
        (
            &format!("{acceptor}deadline = '9s'\n"),
            5,
            "acceptor[1].deadline",
        ),
        (
            &format!("{acceptor}cache-key = ['colour']\n"),
            5,
            "acceptor[1].cache-key",
        ),
        (&format!("{acceptor}colour = 1\n"), 5, "acceptor[1].colour"),
        (&format!("{acceptor}{acceptor}"), 6, "acceptor[2].name"),
        (
            "[[acceptor]]\nname = 'a'\nuse = 'lambda-acceptor'\n",
            1,
            "acceptor[1].function",
        ),
        (
            "[[acceptor]]\nname = 'a'\nuse = 'lambda-acceptor'\nfunction = 'f'\nregion = 'x/y'\n",
            5,
            "acceptor[1].region",
        ),
        (
            "[[acceptor]]\nname = 'a'\nuse = 'lambda-acceptor'\nfunction = 'f'\nendpoint = 'x y'\n",
            5,
            "acceptor[1].endpoint",
        ),
        ("[[rule]]\naction = 'ask'\n", 1, "rule[1].acceptor"),
        (
            "[[rule]]\naction = 'ask'\nacceptor = 'ghost'\n",
            3,
            "rule[1].acceptor",
        ),
        (
            "[[rule]]\naction = 'pass'\non-error = 'accept'\n",
            3,
            "rule[1].on-error",
        ),
        (
            &format!("{acceptor}[[rule]]\naction = 'ask'\nacceptor = 'gate'\nunseen = 'match'\n"),
            8,
            "rule[1].unseen",
        ),
        (
            "[[rule]]\naction = 'drop'\napplication = 'carrier-pigeon'\n",
            3,
            "rule[1].application",
        ),
    ] {
        let faults = parse(text).unwrap_err();
        let told: Vec<_> = faults
            .iter()
            .map(|fault| (fault.line, fault.key.as_str()))
            .collect();
        assert_eq!(told, [(line, key)], "{text}\n{faults}");
    }
}

#[test]
fn conditions_on_hosts_are_read_and_their_faults_told_at_their_keys() {
    let config = parse(
        "[ec2]\n[[rule]]\naction = 'drop'\nsource-tag = { env = 'prod', team = ['a', 'b'] }\n\
         destination-security-group = ['sg-0123456789abcdef0', 'sg-1']\nsource-account = '123456789012'\n",
    )
    .unwrap();
    let rule = &config.rules[0];
    assert_eq!(rule.source_host.tags.len(), 2);
    assert_eq!(rule.source_host.tags[1].1, ["a", "b"]);
    let groups = rule.destination_host.security_group.as_ref().unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!(config.ec2.unwrap().sources.len(), 1);
    for (rule, key) in [
        ("source-tag = 'env'", "rule[1].source-tag"),
        ("source-tag = {}", "rule[1].source-tag"),
        ("source-tag = { env = 1 }", "rule[1].source-tag.env"),
        ("source-tag = { env = [] }", "rule[1].source-tag.env"),
        ("source-instance = 'web'", "rule[1].source-instance"),
        ("destination-account = '12'", "rule[1].destination-account"),
        ("destination-vpc = []", "rule[1].destination-vpc"),
    ] {
        let told = faults(&format!("[ec2]\n[[rule]]\naction = 'drop'\n{rule}\n"));
        let keys: Vec<_> = told.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, [key], "{rule}");
    }
    let told = faults("[[rule]]\naction = 'drop'\nsource-vpc = 'vpc-1'\n");
    assert!(told[0].to_string().contains("[ec2]"), "{}", told[0]);
    for (place, key) in [
        ("region = 'a/b'", "ec2.source[1].region"),
        ("queue = 'q'", "ec2.source[1].queue"),
        ("role = 'admin'", "ec2.source[1].role"),
        ("external-id = 'x'", "ec2.source[1].external-id"),
        ("regoin = 'x'", "ec2.source[1].regoin"),
    ] {
        let told = faults(&format!("[[ec2.source]]\n{place}\n"));
        assert_eq!(told[0].key, key);
    }
}

#[test]
fn interceptors_and_rules_are_put_together() {
    let config = parse(
        "[[interceptor]]\nname = 'who'\nuse = 'geneve-headers'\non-error = 'continue'\n\
         [[rule]]\naction = 'intercept'\ninterceptors = ['who']\nport = [443, '8000-8999']\n",
    )
    .unwrap();
    assert_eq!(config.interceptors.len(), 1);
    let names: Vec<_> = config.rules[0].chain.links().map(Link::name).collect();
    assert_eq!(names, ["who"]);
    assert_eq!(config.rules[0].port, Some(vec![443..=443, 8000..=8999]));
}

const EXAMPLE: &str = include_str!("../../../../flowdog.example.toml");

/// The example with its commented settings switched on.
fn uncommented() -> String {
    let on = |line: &str| {
        let begins = line.starts_with('#')
            && line[1..].starts_with(|c: char| c == '[' || c.is_ascii_lowercase());
        if begins {
            line[1..].to_owned()
        } else {
            line.to_owned()
        }
    };
    EXAMPLE.lines().map(|line| on(line) + "\n").collect()
}

#[test]
fn the_example_file_is_the_defaults() {
    let config = Config::parse(
        EXAMPLE,
        Path::new("flowdog.example.toml"),
        &interceptors::all(),
    );
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(format!("{config:#?}"), format!("{:#?}", Config::default()));
}

#[test]
fn the_example_file_has_every_key_and_all_of_it_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
    tls::Authority::create_files("Example", &certificate, &key).unwrap();
    let (workload, its_key) = (
        dir.path().join("workload.pem"),
        dir.path().join("workload.key"),
    );
    tls::Authority::create_files("Workload", &workload, &its_key).unwrap();
    std::fs::write(dir.path().join("error.html"), "{{status}} {{text}}").unwrap();
    let text = uncommented();
    let (config, known) = read::read(
        &text,
        &dir.path().join("flowdog.toml"),
        &Kinds::from(&interceptors::all()),
    )
    .unwrap_or_else(|faults| panic!("{faults}"));
    assert!(config.tls.impersonator.is_some());
    assert_eq!(config.rules.len(), 2);

    let document: toml::Table = toml::from_str(&text).unwrap();
    let mut written = std::collections::BTreeSet::new();
    collect("", &document, &mut written);
    // They cannot be switched on beside `key`.
    for key in ["kms-key", "kms-region", "kms-endpoint", "pkcs11"] {
        assert!(EXAMPLE.contains(&format!("# {key} = ")), "{key}");
        written.insert(format!("tls.ca.{key}"));
    }
    let missing: Vec<_> = known.difference(&written).collect();
    assert!(missing.is_empty(), "flowdog.example.toml lacks {missing:?}");
}

#[test]
fn files_of_the_authority_that_do_not_fit_are_faults_at_their_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    tls::Authority::create_files("One", &path("one.pem"), &path("one.key")).unwrap();
    tls::Authority::create_files("Two", &path("two.pem"), &path("two.key")).unwrap();
    std::fs::write(path("empty.pem"), "").unwrap();
    for (certificate, key, at) in [
        ("one.pem", "two.key", "tls.ca.key"),
        ("one.pem", "empty.pem", "tls.ca.key"),
        ("empty.pem", "one.key", "tls.ca.certificate"),
        ("one.pem", "absent", "tls.ca.key"),
    ] {
        let text = format!("[tls.ca]\ncertificate = '{certificate}'\nkey = '{key}'\n");
        let faults = Config::parse(&text, &path("flowdog.toml"), &[]).unwrap_err();
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, [at], "{faults}");
    }
}

#[test]
fn the_authoritys_key_is_in_a_file_in_kms_or_in_a_token_and_in_one_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    tls::Authority::create_files("One", &path("one.pem"), &path("one.key")).unwrap();
    let read = |keys: &str| {
        let text = format!("[tls.ca]\ncertificate = 'one.pem'\n{keys}");
        Config::parse(&text, &path("flowdog.toml"), &[]).map_err(|faults| faults.to_string())
    };
    let kms =
        read("kms-key = 'alias/a'\nkms-region = 'eu-west-1'\nwhen-away = 'bypass'\n").unwrap();
    assert!(kms.tls.passes_without_signer(), "nobody was asked yet");
    let token = read("pkcs11 = 'pkcs11:object=a?module-path=/none.so'\nwhen-away = 'bypass'\n");
    assert!(token.unwrap().tls.passes_without_signer());
    let file = read("key = 'one.key'\nintermediate-life = '1d'\n").unwrap();
    assert!(file.tls.impersonator.unwrap().can_sign());
    for (keys, at) in [
        (
            "key = 'one.key'\nkms-key = 'alias/a'",
            "tls.ca.kms-key: stands beside",
        ),
        (
            "kms-key = 'alias/a'\npkcs11 = 'pkcs11:object=a?module-path=/a.so'",
            "tls.ca.pkcs11: stands beside `kms-key`",
        ),
        ("pkcs11 = 'alias/a'", "tls.ca.pkcs11: \"alias/a\""),
        (
            "pkcs11 = 'pkcs11:object=a'",
            "tls.ca.pkcs11: `module-path` is missing",
        ),
        (
            "key = 'one.key'\nkms-region = 'eu-west-1'",
            "tls.ca.kms-region: says where",
        ),
        (
            "kms-key = 'alias/a'\nkms-region = 'EU/'",
            "tls.ca.kms-region: \"EU/\"",
        ),
        (
            "kms-key = 'alias/a'\nkms-endpoint = 'kms'",
            "tls.ca.kms-endpoint: \"kms\"",
        ),
        (
            "key = 'one.key'\nintermediate-life = '5m'",
            "tls.ca.intermediate-life: \"5m\"",
        ),
        (
            "key = 'one.key'\nwhen-away = 'ignore'",
            "tls.ca.when-away: \"ignore\"",
        ),
    ] {
        let fault = read(keys).unwrap_err();
        assert!(fault.contains(at), "{keys}: {fault}");
    }
}

fn collect(path: &str, table: &toml::Table, out: &mut std::collections::BTreeSet<String>) {
    for (key, value) in table {
        let name = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match value {
            toml::Value::Table(table) => collect(&name, table, out),
            toml::Value::Array(items) => {
                for item in items {
                    if let toml::Value::Table(table) = item {
                        collect(&name, table, out);
                    }
                }
            }
            _ => {}
        }
        out.insert(name);
    }
}
