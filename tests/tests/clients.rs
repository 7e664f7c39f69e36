//! Real clients through the simulated load balancer and the appliance to real kernel servers.

use anyhow::{Context, Result};
use flowdog_tests::lab::Lab;
use serde_json::Value;

/// What an origin's `/echo` reported of a request's field.
fn field<'a>(echo: &'a Value, name: &str) -> Vec<&'a str> {
    let fields = echo["headers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    fields
        .iter()
        .filter(|pair| {
            pair[0]
                .as_str()
                .is_some_and(|found| found.eq_ignore_ascii_case(name))
        })
        .filter_map(|pair| pair[1].as_str())
        .collect()
}

#[test]
fn curl_speaks_every_version_over_both_families_on_usual_and_odd_ports() -> Result<()> {
    let script = r#"
        for family in -4 -6; do
            for url in http://any.lab.name/echo http://any.lab.name:8080/echo; do
                for version in --http1.0 --http1.1 --http2-prior-knowledge; do
                    curl -sS $family $version -D headers -w '%{local_ip} %{local_port} %{http_version}\n' -o body "$url"
                    echo "CASE $family $version $url"; cat body; grep -ci x-gwlb- headers; 
                done
            done
            for url in https://any.lab.name/echo https://any.lab.name:8443/echo https://tls12.lab.name/echo; do
                for version in "--http1.1 --tls-max 1.2" "--http2 --tls-max 1.2" --http1.1 --http2; do
                    curl -sS $family $version -D headers -w '%{local_ip} %{local_port} %{http_version}\n' -o body "$url"
                    echo "CASE $family $version $url"; cat body; grep -ci x-gwlb- headers; 
                done
            done
        done
    "#;
    let lab = Lab::new()?;
    let script = format!("cd {}\n{script}", lab.folder().display());
    let outcome = lab.shell(&script)?;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let mut cases = 0;
    for case in lines.chunks(4) {
        let [ends, name, echo, answered] = case else {
            anyhow::bail!("odd output: {case:?}");
        };
        let echo: Value = serde_json::from_str(echo).with_context(|| name.to_string())?;
        let mut words = ends.split(' ');
        let (ip, port, version) = (words.next(), words.next(), words.next());
        let peer = echo["peer"].as_str().context("peer")?;
        let (ip, port) = (ip.context("ip")?, port.context("port")?);
        assert!(
            peer == format!("{ip}:{port}") || peer == format!("[{ip}]:{port}"),
            "{name}: the server saw {peer}, the client is {ip} {port}"
        );
        let expected = match name {
            name if name.contains("http2") => ("2", "HTTP/2"),
            name if name.contains("http1.0") => ("1", "HTTP/1.0"),
            _ => ("1.1", "HTTP/1.1"),
        };
        assert!(
            version.context("version")?.starts_with(expected.0),
            "{name}: {ends}"
        );
        assert_eq!(echo["protocol"], expected.1, "{name}");
        if name.contains("https://") {
            let tls12 = name.contains("tls-max") || name.contains("tls12");
            let tls = echo["tls"].as_str().context("tls")?;
            assert_eq!(
                tls.contains("1.2") || tls.contains("1_2"),
                tls12,
                "{name}: {tls}"
            );
        }
        // The interceptor's change arrived, on the request and on the answer.
        let endpoint = field(&echo, "x-gwlb-vpc-endpoint-id");
        assert_eq!(endpoint.len(), 1, "{name}: {echo}");
        let digits = endpoint[0].strip_prefix("vpce-").context("vpce-")?;
        assert!(
            digits.len() == 17 && digits.chars().all(|c| c.is_ascii_hexdigit()),
            "{name}: {digits}"
        );
        assert_eq!(field(&echo, "x-gwlb-attachment-id")[0].len(), 16, "{name}");
        assert_eq!(field(&echo, "x-gwlb-flow-cookie")[0].len(), 8, "{name}");
        assert_eq!(
            answered.trim(),
            "3",
            "{name}: the answer's own X-Gwlb- fields"
        );
        cases += 1;
    }
    assert_eq!(cases, 36);
    Ok(())
}

#[test]
fn a_name_changes_its_case_and_a_request_outgrows_its_packet() -> Result<()> {
    let long = "x".repeat(3000);
    let lab = Lab::new()?.config(&format!(
        "[[interceptor]]\nname = \"edit\"\nuse = \"edit-headers\"\n\
         request = [{{ rename = \"User-Agent\", to = \"user-agent\" }}, {{ set = \"X-Long\", value = \"{long}\" }}]\n\
         response = [{{ remove = \"Server\" }}]\n\
         [[rule]]\naction = \"intercept\"\ninterceptors = [\"edit\"]\n"
    ))?;
    let outcome = lab.shell("curl -sS -D /dev/stderr https://any.lab.name/echo --http1.1; curl -sS http://any.lab.name/echo")?;
    for line in outcome.stdout.lines() {
        let echo: Value = serde_json::from_str(line)?;
        let names: Vec<&str> = echo["headers"]
            .as_array()
            .context("headers")?
            .iter()
            .filter_map(|pair| pair[0].as_str())
            .collect();
        assert!(
            names.contains(&"user-agent") && !names.contains(&"User-Agent"),
            "{names:?}"
        );
        assert!(
            names.contains(&"Host") && names.contains(&"Accept"),
            "untouched names keep their case: {names:?}"
        );
        assert_eq!(field(&echo, "x-long"), [long.as_str()]);
    }
    assert_eq!(outcome.stdout.lines().count(), 2);
    assert!(!outcome.stderr.contains("server:"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn the_caller_identity_is_another_with_right_lengths_and_with_gzip() -> Result<()> {
    let outcome = Lab::new()?.shell(
        "for version in --http1.1 --http2; do for coding in identity gzip; do \
         curl -sS --fail $version -H \"Accept-Encoding: $coding\" -D headers.$$ --compressed \
            -d 'Action=GetCallerIdentity&Version=2011-06-15' https://sts.amazonaws.com/ | tr -d '\\n'; echo; \
         rm headers.$$; done; done",
    )?;
    assert_eq!(outcome.stdout.lines().count(), 4, "{}", outcome.stdout);
    for answer in outcome.stdout.lines() {
        let user = answer
            .split("<UserId>")
            .nth(1)
            .and_then(|rest| rest.split("</UserId>").next());
        let user = user.with_context(|| answer.to_owned())?;
        assert!(user.contains("youtu"), "not rolled: {user}");
        assert!(
            answer.contains("<Account>") && answer.contains("</GetCallerIdentityResponse>"),
            "{answer}"
        );
    }
    Ok(())
}

#[test]
fn openssl_and_nghttp_are_served() -> Result<()> {
    let outcome = Lab::new()?.shell(
        "for version in -tls1_2 -tls1_3; do \
           printf 'GET /echo HTTP/1.1\\r\\nHost: any.lab.name\\r\\nConnection: close\\r\\n\\r\\n' | \
           openssl s_client -quiet -ign_eof -verify_return_error -CAfile \"$SSL_CERT_FILE\" $version \
              -servername any.lab.name -connect any.lab.name:8443 2>/dev/null | tail -n 1; echo; \
         done; \
         nghttp -v https://any.lab.name/echo https://any.lab.name/bytes/100000 2>&1 | grep -aE 'x-gwlb|recv GOAWAY|:status' | sort | uniq -c",
    )?;
    let echoes: Vec<Value> = outcome
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(echoes.len(), 2, "{}", outcome.stdout);
    for echo in echoes {
        assert_eq!(field(&echo, "x-gwlb-vpc-endpoint-id").len(), 1);
    }
    assert!(
        outcome.stdout.contains(":status: 200"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome
            .stdout
            .to_lowercase()
            .contains("x-gwlb-vpc-endpoint-id"),
        "{}",
        outcome.stdout
    );
    Ok(())
}

#[test]
fn http2_in_clear_is_intercepted_although_the_servers_settings_may_come_first() -> Result<()> {
    let lab = Lab::new()?;
    std::fs::write(lab.folder().join("index.html"), "hello")?;
    let server = format!("exec nghttpd --no-tls -d {} 8088", lab.folder().display());
    let outcome = lab.argument("--server").argument(&server).shell(
        "until curl -s -o /dev/null http://any.lab.name:8088/ --http2-prior-knowledge; do sleep 0.1; done; \
         for i in $(seq 50); do \
            curl -sS --http2-prior-knowledge -D - -o /dev/null http://any.lab.name:8088/ | grep -i x-gwlb-flow-cookie; \
            nghttp -v http://any.lab.name:8088/ | grep -aim1 x-gwlb-flow-cookie; \
         done",
    )?;
    assert_eq!(outcome.stdout.lines().count(), 100, "{}", outcome.stdout);
    Ok(())
}

#[test]
fn websockets_echo_in_clear_and_inside_tls() -> Result<()> {
    let outcome = Lab::new()?.python(
        r#"
import asyncio, os, ssl, websockets

async def talk(url):
    async with websockets.connect(url, max_size=None) as ws:
        for message in ["hello", "ü" * 70000, b"\x00\xff" * 100, os.urandom(1 << 20), ""]:
            await ws.send(message)
            assert await ws.recv() == message
        async def parts():
            for part in ["in ", "several ", "frames"]:
                yield part
        await ws.send(parts())
        assert await ws.recv() == "in several frames"
        await (await ws.ping())
    assert ws.close_code == 1000, ws.close_code
    print("OK", url)

async def main():
    for host in ["any.lab.name", "any.lab.name:8080"]:
        await talk(f"ws://{host}/ws")
    for host in ["any.lab.name", "any.lab.name:8443", "tls12.lab.name"]:
        await talk(f"wss://{host}/ws")

asyncio.run(main())
"#,
    )?;
    assert_eq!(
        outcome.stdout.matches("OK").count(),
        5,
        "{}",
        outcome.stdout
    );
    Ok(())
}

#[test]
fn server_sent_events_arrive_as_they_are_sent() -> Result<()> {
    let outcome = Lab::new()?.python(
        r#"
import http.client, ssl, time

c = http.client.HTTPSConnection("any.lab.name", context=ssl.create_default_context())
c.request("GET", "/sse?count=10&interval-ms=100")
r = c.getresponse()
last, gaps = None, []
while line := r.readline():
    if line.startswith(b"id:"):
        now = time.monotonic()
        if last is not None:
            gaps.append(now - last)
        last = now
assert len(gaps) == 9, gaps
# Held back, they would come in one lump at the end.
assert sorted(gaps)[4] > 0.05, gaps
print("OK")
"#,
    )?;
    assert!(outcome.stdout.contains("OK"));
    Ok(())
}

#[test]
fn a_thousand_connections_at_once_are_all_served() -> Result<()> {
    let outcome = Lab::new()?.python(
        r#"
import asyncio, json, resource, ssl

resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
context = ssl.create_default_context()
N = 1000
met = asyncio.Event()
arrived = 0

async def one(i):
    global arrived
    reader, writer = await asyncio.open_connection("any.lab.name", 443, ssl=context, ssl_handshake_timeout=110)
    arrived += 1
    if arrived == N:
        met.set()
    await met.wait()
    writer.write(f"GET /echo?{i} HTTP/1.1\r\nHost: any.lab.name\r\nX-Number: {i}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    echo = json.loads(body)
    port = writer.get_extra_info("sockname")[1]
    assert echo["peer"].endswith(f":{port}"), (echo["peer"], port)
    assert ["X-Number", str(i)] in echo["headers"], echo
    assert b"x-gwlb-flow-cookie" in head.lower()
    writer.close()

async def main():
    await asyncio.wait_for(asyncio.gather(*(one(i) for i in range(N))), 120)
    print("OK")

asyncio.run(main())
"#,
    )?;
    assert!(outcome.stdout.contains("OK"));
    Ok(())
}
