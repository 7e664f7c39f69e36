//! `cloudfront-function`, `javascript-acceptor` and `flowdog fn test`, seen from outside.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flowdog_tests::flowdog;
use flowdog_tests::lab::Lab;
use flowdog_tests::moto;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/functions")
        .join(name)
}

#[test]
fn the_examples_work_on_real_traffic_in_http1_and_http2() -> Result<()> {
    let lab = Lab::new()?;
    let store = lab.folder().join("paths.json");
    std::fs::write(&store, r#"{"/status": "410"}"#)?;
    let lab = lab.config(&format!(
        r#"
[[interceptor]]
name = "rick"
use = "cloudfront-function"
file = {rick:?}
cpu = "50ms"
[[interceptor]]
name = "paths"
use = "cloudfront-function"
file = {paths:?}
kvs = [{{ id = "paths", file = {store:?} }}]
cpu = "50ms"
[[interceptor]]
name = "country"
use = "cloudfront-function"
file = {country:?}
cpu = "50ms"
[[interceptor]]
name = "headers"
use = "cloudfront-function"
file = {headers:?}
profile = "strict"
cpu = "50ms"
[[rule]]
action = "intercept"
interceptors = ["rick", "paths", "country", "headers"]
"#,
        rick = example("rick.js"),
        paths = example("block-paths.js"),
        country = example("redirect-by-country.js"),
        headers = example("security-headers.js"),
    ))?;
    let outcome = lab.shell(
        "for version in --http1.1 --http2; do \
           curl -sS $version -o /dev/null -w 'rick %{http_code} %{http_version} %{redirect_url}\\n' -H 'Host: www.youtube.com' https://any.lab.name/; \
           curl -sS $version -o /dev/null -w 'video %{http_code}\\n' -H 'Host: www.youtube.com' 'https://any.lab.name/watch?v=dQw4w9WgXcQ'; \
           curl -sS $version -o /dev/null -w 'path %{http_code}\\n' https://any.lab.name/status/200; \
           curl -sS $version -o /dev/null -w 'country %{http_code} %{redirect_url}\\n' -H 'CloudFront-Viewer-Country: DE' 'https://any.lab.name/x?a=b'; \
           curl -sS $version -D - -o /dev/null https://any.lab.name/ | grep -ci 'x-frame-options: deny'; \
         done",
    )?;
    let out = &outcome.stdout;
    let page = "https://www.youtube.com/watch?v=dQw4w9WgXcQ";
    for expected in [
        format!("rick 302 1.1 {page}\n"),
        format!("rick 302 2 {page}\n"),
        "country 302 https://any.lab.name/de/x?a=b\n".to_owned(),
    ] {
        assert!(out.contains(&expected), "{expected:?} is missing in {out}");
    }
    assert_eq!(out.matches("path 410\n").count(), 2, "{out}");
    assert_eq!(out.matches("country 302").count(), 2, "{out}");
    assert!(!out.contains("video 302"), "{out}");
    assert_eq!(out.lines().filter(|line| *line == "1").count(), 2, "{out}");
    assert!(outcome.metric("flowdog_script_calls_total", "") > 20.0);
    Ok(())
}

#[test]
fn a_function_decides_about_flows() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.folder().join("accept.js");
    std::fs::write(
        &file,
        "function onFlow(event) { return event.Destination.Port !== 80; }",
    )?;
    let lab = lab.config(&format!(
        "[[acceptor]]\nname = 'js'\nuse = 'javascript-acceptor'\nfile = {file:?}\n\
         [[rule]]\naction = 'ask'\nacceptor = 'js'\nprotocol = 'tcp'\n[[rule]]\naction = 'intercept'\n"
    ))?;
    let outcome = lab.shell(
        "curl -sS -o /dev/null -w 'tls %{http_code}\\n' https://any.lab.name/; \
         curl -sS -o /dev/null --max-time 5 http://any.lab.name/ 2>&1 || echo code $?",
    )?;
    assert!(outcome.stdout.contains("tls 200"), "{}", outcome.stdout);
    // Refused with a reset: nobody listens, as far as the client can see.
    let refused = ["code 7", "code 56"]
        .iter()
        .any(|code| outcome.stdout.contains(code));
    assert!(refused, "{}", outcome.stdout);
    Ok(())
}

/// Functions that answer with the event they got.
const ECHO: &str = "function onRequest(event) { return event.request.uri === '/echo' ? {statusCode: 200, body: JSON.stringify(event)} : event.request; }\n\
    function onResponse(event) { if (event.request.uri === '/cookies') event.response.cookies = {a: {value: '1', attributes: 'Secure', multiValue: [{value: '1', attributes: 'Secure'}, {value: '2', attributes: ''}]}}; return event.response; }";
const ECHO_RESPONSE: &str = "function onResponse(event) { event.response.body = JSON.stringify(event); return event.response; }";

/// Compiles a TypeScript file; gives what the compiler complains about.
fn type_check(folder: &Path, name: &str, source: &str) -> Result<String> {
    let file = folder.join(name);
    std::fs::write(&file, source)?;
    let python = flowdog_tests::python();
    let tools = python
        .parent()
        .and_then(Path::parent)
        .context("the folder of the tools")?;
    let packages = tools.join("node_modules");
    let output = Command::new(tools.join("bin/node"))
        .arg(packages.join("typescript/lib/tsc.js"))
        .args([
            "--noEmit",
            "--strict",
            "--target",
            "es2023",
            "--skipLibCheck",
            "false",
        ])
        .arg(&file)
        .current_dir(folder)
        .output()
        .context("start node; cargo xtask test installs it")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn events_of_real_traffic_fit_the_types_that_functions_are_written_against() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_owned();
    std::fs::write(folder.join("echo.js"), ECHO)?;
    std::fs::write(folder.join("echo-response.js"), ECHO_RESPONSE)?;
    let kinds = ["echo-response", "echo"].map(|name| {
        let file = folder.join(format!("{name}.js"));
        format!("[[interceptor]]\nname = '{name}'\nuse = 'cloudfront-function'\nfile = {file:?}\ncpu = '50ms'\n")
    });
    let lab = lab.config(&format!(
        "{}[[rule]]\naction = 'intercept'\ninterceptors = ['echo-response', 'echo']\n",
        kinds.concat()
    ))?;
    // The first interceptor shows the second one's answer as the response's event, which is why the
    // request's event is its body.
    let outcome = lab.shell(
        "curl -sS --http2 -b 'a=1; a=2; b' -H 'X-A: 1' -H 'X-A: 2' 'https://any.lab.name/cookies?a=1&a=2&b'; echo; \
         curl -sS --http1.1 https://any.lab.name/nothing; echo",
    )?;
    let events: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| line.starts_with('{'))
        .collect();
    let [rich, plain] = events[..] else {
        bail!("two events were expected: {}", outcome.stdout);
    };
    assert!(
        rich.contains("\"multiValue\":[{\"value\":\"1\",\"attributes\":\"Secure\"}"),
        "{rich}"
    );
    assert!(
        rich.contains("\"tls\":{") && rich.contains("\"alpn\":\"h2\""),
        "{rich}"
    );
    let types = flowdog_tests::python();
    let types = types
        .parent()
        .and_then(Path::parent)
        .context("the folder of the tools")?;
    let amazon = types.join("node_modules/@types/aws-cloudfront-function/index.d.ts");
    let complaints = type_check(
        &folder,
        "amazon.ts",
        &format!(
            "/// <reference path={amazon:?} />\n\
             type Seen = Omit<AWSCloudFrontFunction.Event, 'request'> & {{ request: AWSCloudFrontFunction.Request }};\n\
             function fits<T extends Seen>(_: T) {{}}\n\
             fits({rich});\nfits({plain});\n\
             // @ts-expect-error\nfits({});\n// @ts-expect-error\nfits({});\n",
            plain.replace("\"ip\":", "\"address\":"),
            plain.replace("\"statusCode\":", "\"status\":"),
        ),
    )?;
    assert_eq!(complaints, "");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/script/flowdog.d.ts");
    let complaints = type_check(
        &folder,
        "ours.ts",
        &format!(
            "/// <reference path={ours:?} />\n\
             import cf from 'cloudfront';\n\
             type Seen = Omit<FlowdogResponseEvent, 'request'> & {{ request: Omit<FlowdogRequest, 'rawQueryString'> }};\n\
             function fits<T extends Seen>(_: T) {{}}\n\
             fits({rich});\nfits({plain});\n\
             // @ts-expect-error\nfits({});\n\
             export const onRequest: FlowdogOnRequest = async (event) => {{\n\
               if (await cf.kvs().exists(event.request.uri)) return {{ statusCode: 403 }};\n\
               event.request.headers['x-from'] = {{ value: event.context.flow.client.address }};\n\
               return event.request;\n}};\n\
             export const onFlow: FlowdogOnFlow = (event) => event.Destination.Port === 443 || {{ action: 'drop', ttl: 5 }};\n\
             export const onWebSocketMessage: FlowdogOnWebSocketMessage = (event) => event.message.encoding === 'text' ? event.message : null;\n\
             export const onDns: FlowdogOnDns = (event) => event.dns.message === 'answer' ? event.dns : {{ rcode: 'NXDOMAIN' }};\n\
             // @ts-expect-error\nexport const odd: FlowdogOnDns = (event) => ({{ rcode: 'NO' }});\n\
             // @ts-expect-error\nexport const wrong: FlowdogOnResponse = (event) => event.request;\n",
            plain.replace("\"endpointId\":", "\"endpoint\":"),
        ),
    )?;
    assert_eq!(complaints, "");
    Ok(())
}

#[test]
fn fn_test_prints_the_result_the_budget_and_the_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let event = folder.path().join("event.json");
    std::fs::write(
        &event,
        r#"{"version":"1.0","context":{"eventType":"viewer-request"},"viewer":{"ip":"198.51.100.11"},
            "request":{"method":"GET","uri":"/admin/x","querystring":{},"headers":{"host":{"value":"a.example"}},"cookies":{}}}"#,
    )?;
    let store = folder.path().join("store.json");
    std::fs::write(&store, r#"{"data":[{"key":"/admin","value":"451"}]}"#)?;
    let run = |file: &Path, more: &[String]| {
        flowdog()
            .args(["fn", "test"])
            .arg(file)
            .arg("--event")
            .arg(&event)
            .args(["--cpu", "100", "--json"])
            .args(more)
            .output()
    };
    let told = run(
        &example("block-paths.js"),
        &[format!("--kvs=paths={}", store.display())],
    )?;
    assert_eq!(
        told.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
    let json: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    assert_eq!(json["result"]["statusCode"], 451);
    assert_eq!(json["log"][0], "blocked /admin 198.51.100.11");
    assert!(
        json["cpuMilliseconds"]
            .as_f64()
            .is_some_and(|used| used > 0.0)
    );
    let text = flowdog()
        .args(["fn", "test"])
        .arg(example("block-paths.js"))
        .arg("--event")
        .arg(&event)
        .arg(format!("--kvs=paths={}", store.display()))
        .args(["--cpu", "100"])
        .output()?;
    let text = String::from_utf8(text.stdout)?;
    for expected in [
        "Result: {",
        "\"statusCode\": 451",
        "Compute utilization: ",
        " of 100 ms)",
        "Log: 1 lines\n  blocked /admin 198.51.100.11\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    let bad = folder.path().join("bad.js");
    std::fs::write(
        &bad,
        "function handler(event) { event.request.headers.connection = {value: 'close'}; return event.request; }",
    )?;
    let told = run(&bad, &[])?;
    assert_eq!(told.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    assert_eq!(json["status"], 502);
    std::fs::write(&bad, "function handler( {")?;
    let told = run(&bad, &[])?;
    assert_eq!(told.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&told.stderr).contains("SyntaxError"));
    Ok(())
}

/// An instance with the address of the lab's client, in a VPC that has the lab's first endpoint's address
/// space, and nobody at the address of its server.
const INSTANCE: &str = r#"
import boto3, os
ec2 = boto3.client("ec2", endpoint_url=os.environ["URL"])
vpc = ec2.create_vpc(CidrBlock="10.0.0.0/24")["Vpc"]["VpcId"]
subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
group = ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
image = ec2.describe_images()["Images"][0]["ImageId"]
instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet, PrivateIpAddress="10.0.0.10",
    SecurityGroupIds=[group], TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "red \"one\""}]}])
print("MADE", instance["Instances"][0]["InstanceId"], vpc, subnet, group)
"#;

#[test]
fn a_function_sees_what_ec2_knows_of_the_client() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_owned();
    std::fs::write(folder.join("echo.js"), ECHO)?;
    let file = folder.join("echo.js");
    let lab = moto::with_credentials(lab.config(&format!(
        "[ec2]\nrefresh = '10s'\nstart-wait = '0s'\n[[ec2.source]]\nregion = 'eu-central-1'\nendpoint = '{}'\n\
         [[interceptor]]\nname = 'echo'\nuse = 'cloudfront-function'\nfile = {file:?}\ncpu = '50ms'\n\
         [[rule]]\naction = 'intercept'\ninterceptors = ['echo']\n",
        moto::ENDPOINT
    ))?);
    let steps = "for n in $(seq 300); do
             curl -4 -sS https://any.lab.name/echo >event.json && grep -q sourceInstance event.json && break
             sleep 0.2
         done
         echo \"EVENT $(cat event.json)\"";
    let outcome = lab.shell(&moto::script(&lab, INSTANCE, steps, "")?)?;
    let out = &outcome.stdout;
    let line = |word: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(word));
        line.with_context(|| format!("no {word} in {out}{}{}", outcome.stderr, outcome.log))
    };
    let ids: Vec<&str> = line("MADE ")?.split(' ').collect();
    let event: serde_json::Value = serde_json::from_str(line("EVENT ")?)?;
    let flow = &event["context"]["flow"];
    let host = &flow["sourceInstance"];
    assert_eq!(host["InstanceId"], ids[0], "{event:#}");
    assert_eq!(host["VpcId"], ids[1]);
    assert_eq!(host["SubnetId"], ids[2]);
    assert_eq!(host["SecurityGroups"], serde_json::json!([ids[3]]));
    assert_eq!(host["AccountId"], "123456789012");
    assert_eq!(host["Tags"], serde_json::json!({"team": "red \"one\""}));
    assert!(flow["destinationInstance"].is_null(), "{event:#}");
    assert_eq!(flow["client"]["address"], "10.0.0.10");
    Ok(())
}
