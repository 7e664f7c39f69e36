//! Rules on what EC2 knows of hosts, with moto as EC2, STS and SQS.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flowdog_tests::appliance::Appliance;
use flowdog_tests::gwlb::{Zone, udp_packet};
use flowdog_tests::kms::{ENVIRONMENT, FaultProxy, Kind, Kms};
use flowdog_tests::python;
use serde_json::Value;

/// Two VPCs with the same addresses, an endpoint in each, and more instances than fit one page.
const SETUP: &str = r#"
import boto3, json, sys
url = sys.argv[1]
ec2 = boto3.client("ec2", endpoint_url=url)
out = {}
for name, team in (("one", "red"), ("two", "blue")):
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.0.0/16")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet,
        PrivateIpAddress="10.7.0.50", SecurityGroupIds=[group],
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": team}]}])["Instances"][0]
    endpoint = ""
    # Real ids fit the 64 bits that a load balancer has for them; moto's do now and then.
    while not endpoint.startswith("vpce-0"):
        endpoint = ec2.create_vpc_endpoint(VpcId=vpc, VpcEndpointType="GatewayLoadBalancer", SubnetIds=[subnet],
            ServiceName="com.amazonaws.vpce.eu-central-1.vpce-svc-0123456789abcdef0")["VpcEndpoint"]["VpcEndpointId"]
    ec2.create_tags(Resources=[endpoint], Tags=[{"Key": "Name", "Value": f"inspection {name}"}])
    out[name] = {"vpc": vpc, "endpoint": endpoint, "instance": instance["InstanceId"], "group": group, "subnet": subnet}
ec2.run_instances(ImageId=image, MinCount=520, MaxCount=520, SubnetId=out["two"]["subnet"])
sqs = boto3.client("sqs", endpoint_url=url)
out["queue"] = sqs.create_queue(QueueName="events")["QueueUrl"]
print(json.dumps(out))
"#;

/// Gives an instance another team and says so in the queue.
const CHANGE: &str = r#"
import boto3, json, sys
url, instance, queue = sys.argv[1:]
boto3.client("ec2", endpoint_url=url).create_tags(Resources=[instance], Tags=[{"Key": "team", "Value": "green"}])
sqs = boto3.client("sqs", endpoint_url=url)
sqs.send_message(QueueUrl=queue, MessageBody="not JSON")
sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"source": "aws.tag",
    "resources": ["arn:aws:ec2:eu-central-1:123456789012:instance/" + instance], "detail": {"instance-id": instance}}))
"#;

fn script(text: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(python())
        .args(["-c", text])
        .args(args)
        .envs(ENVIRONMENT)
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

struct Cloud {
    moto: Kms,
    ids: Value,
}

impl Cloud {
    fn start() -> Result<Self> {
        let moto = Kms::start(Kind::Moto)?;
        let url = format!("http://127.0.0.1:{}", moto.port());
        let ids = serde_json::from_str(&script(SETUP, &[&url])?)?;
        Ok(Self { moto, ids })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.moto.port())
    }

    fn id<'a>(&'a self, vpc: &str, what: &str) -> Result<&'a str> {
        self.ids[vpc][what].as_str().context("an id")
    }

    fn endpoint(&self, vpc: &str) -> Result<u64> {
        let id = self.id(vpc, "endpoint")?;
        Ok(u64::from_str_radix(id.trim_start_matches("vpce-"), 16)?)
    }

    /// Asks EC2 at `url`, as a role of another account; drops what the red team sends.
    fn config(&self, url: &str) -> Result<String> {
        let queue = self.ids["queue"].as_str().context("a queue")?;
        Ok(format!(
            "[ec2]\nrefresh = '1h'\nstart-wait = '8s'\n[[ec2.source]]\nregion = 'eu-central-1'\nendpoint = '{url}'\n\
             queue = '{queue}'\nrole = 'arn:aws:iam::123456789012:role/flowdog'\nexternal-id = 'x'\n\
             [[rule]]\nname = 'red'\naction = 'drop'\nsource-tag = {{ team = 'red' }}\n\
             [[rule]]\nname = 'group'\naction = 'drop'\nport = 99\nsource-security-group = '{}'\n",
            self.id("two", "group")?
        ))
    }
}

/// Whether a new flow from the host in question gets through.
fn passes(zone: &Zone, endpoint: u64, port: u16) -> Result<bool> {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(2000);
    let from = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let from = SocketAddrV4::new(Ipv4Addr::new(10, 7, 0, 50), from);
    let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), port);
    let stranger = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), from.port());
    let asked = udp_packet(endpoint, 1, from, to, b"asked");
    // What follows is always passed: it tells that the first is not on its way any more.
    let other = udp_packet(endpoint, 2, stranger, to, b"other");
    zone.send(&asked)?;
    zone.send(&other)?;
    let (answer, _) = zone.receive()?;
    if answer == asked {
        zone.receive()?;
        return Ok(true);
    }
    ensure!(answer == other, "neither of both");
    Ok(false)
}

#[test]
fn rules_know_hosts_by_ec2_and_an_event_brings_a_change_at_once() -> Result<()> {
    let cloud = Cloud::start()?;
    let environment = [ENVIRONMENT[0], ENVIRONMENT[1], ENVIRONMENT[3]];
    let url = cloud.url();
    let mut variables = environment.to_vec();
    variables.push(("AWS_ENDPOINT_URL", &url));
    let config = cloud.config(&url)?;
    let appliance = Appliance::start_with(Ipv4Addr::new(127, 77, 21, 1), &config, &variables)?;
    let zone = Zone::new(Ipv4Addr::new(127, 77, 21, 2), appliance.gwlb())?;
    let (one, two) = (cloud.endpoint("one")?, cloud.endpoint("two")?);
    assert!(!passes(&zone, one, 53)?, "red in the first VPC");
    assert!(
        passes(&zone, two, 53)?,
        "blue in the second VPC, with the same address"
    );
    assert!(!passes(&zone, two, 99)?, "by its security group");
    assert!(
        passes(&zone, 77, 53)?,
        "two have it, and the endpoint is unknown"
    );
    assert!(
        appliance.metric("flowdog_ec2_interfaces", "")? >= 522.0,
        "more than one page"
    );
    assert_eq!(
        appliance.metric("flowdog_ec2_lookups_total", "ambiguous")?,
        1.0
    );
    let info = format!("vpc=\"{}\"", cloud.id("one", "vpc")?);
    assert_eq!(appliance.metric("flowdog_endpoint_info", &info)?, 1.0);

    let queue = cloud.ids["queue"].as_str().context("a queue")?;
    script(CHANGE, &[&url, cloud.id("one", "instance")?, queue])?;
    let began = Instant::now();
    while !passes(&zone, one, 53)? {
        ensure!(
            began.elapsed() < Duration::from_secs(15),
            "{}",
            appliance.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(appliance.metric("flowdog_ec2_events_total", "")? >= 1.0);

    // The listing as a file answers what a rule would do.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flowdog.toml");
    std::fs::write(&file, cloud.config(&url)?)?;
    let listing = flowdog_tests::flowdog()
        .arg("ec2")
        .arg("--config")
        .arg(&file)
        .envs(variables)
        .output()?;
    ensure!(
        listing.status.success(),
        "{}",
        String::from_utf8_lossy(&listing.stderr)
    );
    let directory = folder.path().join("directory.json");
    std::fs::write(&directory, &listing.stdout)?;
    let told = flowdog_tests::flowdog()
        .args([
            "explain",
            "--from",
            "10.7.0.50:1",
            "--to",
            "192.0.2.9:99",
            "--protocol",
            "udp",
        ])
        .args(["--endpoint", cloud.id("two", "endpoint")?])
        .arg("--config")
        .arg(&file)
        .arg("--directory")
        .arg(&directory)
        .output()?;
    let told = String::from_utf8(told.stdout)?;
    assert!(
        told.contains("red (drop): no, source-tag team is blue"),
        "{told}"
    );
    assert!(told.contains("drop: group decides"), "{told}");
    Ok(())
}

#[test]
fn the_start_works_while_ec2_is_away_and_hosts_are_known_once_it_is_back() -> Result<()> {
    let cloud = Cloud::start()?;
    let proxy = FaultProxy::start(cloud.moto.port())?;
    proxy.cut();
    let endpoint = proxy.endpoint();
    let mut variables = ENVIRONMENT.to_vec();
    variables.push(("AWS_ENDPOINT_URL", &endpoint));
    let config = cloud.config(&endpoint)?.replace("'8s'", "'1s'");
    let appliance = Appliance::start_with(Ipv4Addr::new(127, 77, 22, 1), &config, &variables)?;
    let zone = Zone::new(Ipv4Addr::new(127, 77, 22, 2), appliance.gwlb())?;
    let one = cloud.endpoint("one")?;
    assert!(passes(&zone, one, 53)?, "nobody is known");
    let health = appliance.get("/health")?;
    assert!(
        health.starts_with("HTTP/1.1 200") && health.contains("\"listed\":false"),
        "{health}"
    );
    assert!(appliance.metric("flowdog_ec2_failures_total", "")? >= 1.0);
    proxy.heal();
    let began = Instant::now();
    while passes(&zone, one, 53)? {
        ensure!(
            began.elapsed() < Duration::from_secs(25),
            "{}",
            appliance.log()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// flowdogshark writes what passes a filter until it is told to stop; returns how many packets did.
struct Watcher(std::process::Child);

impl Watcher {
    fn start(socket: &str, filter: &str) -> Result<Self> {
        let child = Command::new(flowdog_tests::flowdogshark())
            .args([
                "capture",
                "-w",
                "/dev/null",
                "--target",
                socket,
                "-f",
                filter,
            ])
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    fn stop(self) -> Result<String> {
        let pid = i32::try_from(self.0.id())?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGTERM,
        )?;
        let output = self.0.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}");
        Ok(said)
    }
}

#[test]
fn captures_are_filtered_by_instance_and_tag_and_interfaces_have_names() -> Result<()> {
    let cloud = Cloud::start()?;
    let url = cloud.url();
    let mut variables = ENVIRONMENT.to_vec();
    variables.push(("AWS_ENDPOINT_URL", &url));
    let folder = tempfile::tempdir()?;
    let socket = format!("unix:{}/capture.sock", folder.path().display());
    let config = format!("[capture]\nlisten = '{socket}'\n{}", cloud.config(&url)?);
    let appliance = Appliance::start_with(Ipv4Addr::new(127, 77, 23, 1), &config, &variables)?;
    let zone = Zone::new(Ipv4Addr::new(127, 77, 23, 2), appliance.gwlb())?;
    let (one, two) = (cloud.endpoint("one")?, cloud.endpoint("two")?);
    let instance = cloud.id("two", "instance")?;
    let filters = [
        (format!("instance {instance}"), 2),
        ("tag team=bl*".to_owned(), 2),
        ("tag team=*".to_owned(), 3),
        ("tag team=red and udp".to_owned(), 1),
        (
            format!(
                "endpoint {} and not tag team=*",
                cloud.id("one", "endpoint")?
            ),
            1,
        ),
        ("tag team=green".to_owned(), 0),
    ];
    let mut watchers = Vec::new();
    for (filter, packets) in &filters {
        watchers.push((Watcher::start(&socket, filter)?, filter, packets));
    }
    let began = Instant::now();
    while appliance.log().matches("capture attached").count() < filters.len() {
        ensure!(
            began.elapsed() < Duration::from_secs(10),
            "{}",
            appliance.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!passes(&zone, one, 53)?);
    assert!(passes(&zone, two, 53)?);
    assert!(passes(&zone, two, 53)?);
    std::thread::sleep(Duration::from_millis(500));
    for (watcher, filter, packets) in watchers {
        let said = watcher.stop()?;
        ensure!(
            said.contains(&format!("{packets} packets written")),
            "{filter}: {said}"
        );
    }
    let listed = Command::new(flowdog_tests::flowdogshark())
        .args(["interfaces", "--json", "--target", &socket])
        .output()?;
    let listed: Value = serde_json::from_slice(&listed.stdout)?;
    let label = &listed["labels"][cloud.id("one", "endpoint")?];
    ensure!(label == "inspection one", "{listed}");
    let lists = Command::new(flowdog_tests::flowdogshark())
        .args(["--extcap-interfaces", "--target", &socket])
        .output()?;
    let lists = String::from_utf8(lists.stdout)?;
    ensure!(lists.contains(": inspection two (vpce-"), "{lists}");
    Ok(())
}
