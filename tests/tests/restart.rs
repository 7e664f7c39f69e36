//! The appliance ends and starts again under traffic.

use anyhow::Result;
use flowdog_tests::lab::Lab;

#[test]
fn gwlb_d05_a_bypassed_transfer_survives_a_killed_appliance() -> Result<()> {
    // Nothing is intercepted here, so every flow is the hosts' own.
    let lab = Lab::new()?.config("[[rule]]\naction = \"pass\"\n")?;
    let outcome = lab.python(
        r#"
import hashlib, os, signal, socket, time

s = socket.create_connection(("any.lab.name", 9999), 10)
s.settimeout(30)

def exchange():
    sent = os.urandom(200_000)
    s.sendall(sent)
    got = b""
    while len(got) < len(sent):
        part = s.recv(65536)
        assert part, "the connection ended"
        got += part
    assert got == sent

exchange()
for _ in range(2):
    before = open(os.environ["FLOWDOG_LAB_APPLIANCE_PID"]).read()
    os.kill(int(before), signal.SIGKILL)
    exchange()
    after = open(os.environ["FLOWDOG_LAB_APPLIANCE_PID"]).read()
    assert after != before, "the appliance was not restarted"
exchange()
print("OK")
"#,
    )?;
    assert!(outcome.stdout.contains("OK"), "{}", outcome.stdout);
    Ok(())
}
