//! Protocols that change from clear text to TLS, with real clients.

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::pki;

const ORIGINS: &str = include_str!("tls/starttls_origins.py");

/// Until the origins listen.
const WAIT: &str = "until (exec 3<>/dev/tcp/mail.lab.name/9305) 2>/dev/null; do sleep 0.1; done; ";

/// The same in Python.
const READY: &str = "
import socket, time
def ready():
    for _ in range(200):
        try:
            return socket.create_connection(('mail.lab.name', 9305)).close()
        except OSError:
            time.sleep(0.1)
ready()
";

/// A lab with the origins, where `rules` hold.
fn lab(rules: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    pki::certificates(lab.folder(), &["mail.lab.name"])?;
    let config = format!("[tls.upstream]\nroots = ['system', 'root.pem']\n{rules}");
    lab.config(&config)?.server(ORIGINS)
}

const FOLLOW: &str = "[[rule]]\naction = 'intercept'\n\
    starttls = ['imap', 'ldap', 'mysql', 'pop3', 'postgres', 'smtp']\n";

#[test]
fn openssl_is_intercepted_behind_the_change_to_tls_in_every_protocol() -> Result<()> {
    let outcome = lab(FOLLOW)?.shell(&format!(
        "{WAIT} port=9300; for protocol in smtp imap pop3 ldap postgres mysql; do for version in tls1_2 tls1_3; do \
            (echo PROBE; sleep 2) | timeout 10 openssl s_client -starttls $protocol -connect mail.lab.name:$port \
                -servername mail.lab.name -verify_hostname mail.lab.name -verify_return_error -$version -crlf \
                2>&1 | grep -oE 'inside .*|issuer=.*' & \
         done; port=$((port + 1)); done; wait"
    ))?;
    for (protocol, _) in PROTOCOLS {
        for version in ["TLSv1.2", "TLSv1.3"] {
            let line = format!("inside {protocol} {version}");
            ensure!(outcome.stdout.contains(&line), "{line}: {}", outcome.stdout);
        }
        let label = format!("protocol=\"{protocol}\",outcome=\"tls\"");
        let count = outcome.metric("flowdog_starttls_total", &label);
        ensure!(count == 2.0, "{protocol}: {count}");
    }
    let issued = outcome.stdout.matches("flowdog intermediate").count();
    ensure!(issued == 12, "{issued}: {}", outcome.stdout);
    let intercepted = outcome.metric("flowdog_tls_handshakes_total", "\"intercepted\"");
    ensure!(intercepted == 12.0, "{intercepted}");
    Ok(())
}

const PROTOCOLS: [(&str, u16); 6] = [
    ("smtp", 9300),
    ("imap", 9301),
    ("pop3", 9302),
    ("ldap", 9303),
    ("postgres", 9304),
    ("mysql", 9305),
];

#[test]
fn curl_psql_and_pythons_libraries_keep_working() -> Result<()> {
    let lab = lab(FOLLOW)?;
    let outcome = lab.python(&format!(
        "{READY}{}",
        r#"
import imaplib, os, poplib, smtplib, ssl, subprocess
context = ssl.create_default_context()
def issuer(sock):
    return dict(pair[0] for pair in sock.getpeercert()["issuer"])["commonName"]
smtp = smtplib.SMTP("mail.lab.name", 9300)
smtp.starttls(context=context)
print("smtplib", issuer(smtp.sock))
print(smtp.sendmail("a@lab.name", ["b@lab.name"], "Subject: x\r\n\r\nhello\r\n"), smtp.noop())
smtp.quit()
imap = imaplib.IMAP4("mail.lab.name", 9301)
imap.starttls(context)
print("imaplib", issuer(imap.sock), imap.noop()[0])
pop = poplib.POP3("mail.lab.name", 9302)
pop.stls(context)
print("poplib", issuer(pop.sock), pop.stat())
# In clear, nothing changes.
smtp = smtplib.SMTP("mail.lab.name", 9300)
smtp.helo()
smtp.mail("a@lab.name"); smtp.rcpt("b@lab.name")
print("clear", smtp.data("STARTTLS\r\nhello\r\n"))
smtp.quit()
mail = subprocess.run(["curl", "-sS", "--ssl-reqd", "smtp://mail.lab.name:9300", "--mail-from", "a@lab.name",
    "--mail-rcpt", "b@lab.name", "-T", "-"], input=b"Subject: y\r\n\r\nhello\r\n", capture_output=True)
print("curl", mail.returncode, mail.stderr.decode())
query = subprocess.run(["psql", "host=mail.lab.name port=9304 user=me dbname=db sslmode=verify-full sslrootcert="
    + os.environ["SSL_CERT_FILE"], "-Atc", "select 1"], capture_output=True)
print("psql", query.stdout.decode(), query.stderr.decode())
"#
    ))?;
    for expected in [
        "smtplib flowdog intermediate ",
        "imaplib flowdog intermediate ",
        "poplib flowdog intermediate ",
        "clear (250, b'clear mail of 2 lines')",
        "curl 0",
        "psql inside postgres TLSv1.3",
    ] {
        ensure!(
            outcome.stdout.contains(expected),
            "{expected}: {}\n{}",
            outcome.stdout,
            outcome.log
        );
    }
    let clear = outcome.metric("flowdog_starttls_total", "outcome=\"clear\"");
    ensure!(clear == 1.0, "{clear}");
    Ok(())
}

#[test]
fn commands_slipped_in_before_tls_reset_the_connection() -> Result<()> {
    let lab = lab(FOLLOW)?;
    let outcome = lab.python(&format!(
        "{READY}{}",
        r#"
import socket
for port, said in [(9300, b"STARTTLS\r\nRSET\r\n"), (9301, b"a STARTTLS\r\nb LOGIN x y\r\n"),
                   (9302, b"STLS\r\nUSER x\r\n"), (9304, b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x08")]:
    sock = socket.create_connection(("mail.lab.name", port))
    if port != 9304:
        sock.recv(4096)
    sock.sendall(said)
    try:
        print(port, sock.recv(4096))
    except ConnectionResetError:
        print(port, "RESET")
"#
    ))?;
    let resets = outcome.stdout.matches("RESET").count();
    ensure!(resets == 4, "{}", outcome.stdout);
    let refused = outcome.metric("flowdog_starttls_total", "client_ahead");
    ensure!(refused == 4.0, "{refused}");
    Ok(())
}

#[test]
fn the_name_in_the_hello_decides_which_rule_holds_behind_starttls() -> Result<()> {
    let rules = format!("[[rule]]\naction = 'pass'\nserver-name = 'mail.*'\n{FOLLOW}");
    let outcome = lab(&rules)?.shell(&format!(
        "{WAIT} for name in mail.lab.name other.lab.name; do (echo PROBE; sleep 1) | timeout 10 openssl s_client -starttls smtp \
            -connect mail.lab.name:9300 -servername $name -crlf 2>&1 | grep -oE 'inside .*|issuer=.*' || echo none; done"
    ))?;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    ensure!(lines.len() == 3, "{lines:?}");
    ensure!(
        lines[0].contains("test origins") && lines[1].starts_with("inside smtp"),
        "passed: {lines:?}"
    );
    ensure!(
        lines[2] == "none",
        "the origin has no such name, so nobody is served: {lines:?}"
    );
    Ok(())
}
