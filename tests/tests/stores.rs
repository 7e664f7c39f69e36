//! Key value stores of functions in S3 and DynamoDB, with moto as both.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flowdog_tests::appliance::Appliance;
use flowdog_tests::gwlb::{Zone, udp_packet};
use flowdog_tests::kms::{ENVIRONMENT, FaultProxy, Kind, Kms};
use flowdog_tests::{flowdog, python};
use tempfile::TempDir;

/// An object, and a table of several pages: a scan reads a megabyte for each.
const SETUP: &str = r#"
import boto3, json, sys
url = sys.argv[1]
s3 = boto3.client("s3", endpoint_url=url)
s3.create_bucket(Bucket="tables", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
s3.put_object(Bucket="tables", Key="a b/paths.json", Body=json.dumps({"/status": "41"}))
s3.put_object(Bucket="tables", Key="large.json", Body=json.dumps({str(i): "v" * 1000 for i in range(100)}))
db = boto3.resource("dynamodb", endpoint_url=url)
table = db.create_table(TableName="flags", BillingMode="PAY_PER_REQUEST",
    KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
    AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}])
with table.batch_writer() as batch:
    for at in range(3000):
        batch.put_item(Item={"key": f"k{at}", "value": "x" * 1000, "more": "y"})
    batch.put_item(Item={"key": "flag", "value": "1"})
"#;

/// Changes the object and the table.
const CHANGE: &str = r#"
import boto3, json, sys
url = sys.argv[1]
boto3.client("s3", endpoint_url=url).put_object(Bucket="tables", Key="a b/paths.json", Body=json.dumps({"/status": "51"}))
boto3.resource("dynamodb", endpoint_url=url).Table("flags").put_item(Item={"key": "flag", "value": "2"})
"#;

/// Tells what is in the stores, as an address.
const TELLS: &str = "import cf from 'cloudfront';\n\
    async function onDns(event) {\n\
      const status = await cf.kvs('paths').get('/status');\n\
      const flags = cf.kvs('flags');\n\
      return {addresses: [[status, await flags.get('flag'), await flags.count() % 100, 0].join('.')]};\n\
    }";

fn script(text: &str, url: &str) -> Result<()> {
    let mut command = Command::new(python());
    let output = command.args(["-c", text, url]).envs(ENVIRONMENT).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The appliance with a function on DNS queries, whose stores are at `url`.
struct Stand {
    appliance: Appliance,
    zone: Zone,
    _folder: TempDir,
}

impl Stand {
    fn start(last: u8, url: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("tells.js");
        std::fs::write(&file, TELLS)?;
        let config = format!(
            "[[hook]]\nname = 'js'\nuse = 'dns-function'\nfile = {file:?}\ncpu = '50ms'\nkvs = [\n\
             {{ id = 'paths', s3 = 's3://tables/a b/paths.json', endpoint = '{url}', interval = '1s' }},\n\
             {{ id = 'flags', dynamodb = 'flags', endpoint = '{url}', region = 'eu-central-1', interval = '1s', max-size = '8MiB' }},\n\
             ]\n[[rule]]\naction = 'pass'\nport = 53\nhooks = ['js']\n"
        );
        let address = Ipv4Addr::new(127, 77, 31, last);
        let appliance = Appliance::start_with(address, &config, &ENVIRONMENT)?;
        let zone = Zone::new(Ipv4Addr::new(127, 77, 31, last + 1), appliance.gwlb())?;
        Ok(Self {
            appliance,
            zone,
            _folder: folder,
        })
    }

    /// Asks for an address: the answer, or the response code of a refusal.
    fn ask(&self) -> Result<std::result::Result<Ipv4Addr, u8>> {
        static NEXT: AtomicU16 = AtomicU16::new(2000);
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 7, 0, 50), port);
        let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), 53);
        let query =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01";
        self.zone
            .send(&udp_packet(7, u32::from(port), from, to, query))?;
        let (datagram, _) = self.zone.receive()?;
        let message = datagram.get(40 + 28..).context("a datagram")?;
        ensure!(message.first_chunk() == Some(b"\x12\x34"), "another answer");
        let code = message[3] & 0xf;
        if code != 0 {
            return Ok(Err(code));
        }
        let address = message.last_chunk::<4>().context("an address")?;
        Ok(Ok(Ipv4Addr::from(*address)))
    }

    /// Asks until the answer is this one.
    fn expect(&self, address: [u8; 4]) -> Result<()> {
        let (start, wanted) = (Instant::now(), Ok(Ipv4Addr::from(address)));
        loop {
            let said = self.ask()?;
            if said == wanted {
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(60) {
                bail!("{said:?}, not {address:?}\n{}", self.appliance.log());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn stores_in_s3_and_dynamodb_are_read_and_read_again() -> Result<()> {
    let moto = Kms::start(Kind::Moto)?;
    let url = format!("http://127.0.0.1:{}", moto.port());
    script(SETUP, &url)?;
    let stand = Stand::start(1, &url)?;
    let first = stand.ask()?;
    assert_eq!(
        first,
        Ok(Ipv4Addr::new(41, 1, 1, 0)),
        "{}",
        stand.appliance.log()
    );
    script(CHANGE, &url)?;
    stand.expect([51, 2, 1, 0])?;
    let reads = stand
        .appliance
        .metric("flowdog_script_store_reads_total", "")?;
    assert!(reads >= 2.0, "{reads}");
    let log = stand.appliance.log();
    // What has not changed is not taken for something new: one change of each.
    let changes = log.matches("key value store read").count();
    assert_eq!(changes, 2, "{log}");
    assert!(!log.contains("testing"), "a credential in the log: {log}");
    Ok(())
}

#[test]
fn it_starts_while_aws_is_away_and_an_old_store_outlives_an_outage() -> Result<()> {
    let moto = Kms::start(Kind::Moto)?;
    script(SETUP, &format!("http://127.0.0.1:{}", moto.port()))?;
    let proxy = FaultProxy::start(moto.port())?;
    proxy.cut();
    let stand = Stand::start(11, &proxy.endpoint())?;
    assert_eq!(stand.ask()?, Err(2), "SERVFAIL: there is no store yet");
    proxy.heal();
    stand.expect([41, 1, 1, 0])?;
    proxy.cut();
    let failures = || {
        stand
            .appliance
            .metric("flowdog_script_store_failures_total", "")
    };
    let (start, before) = (Instant::now(), failures()?);
    while failures()? <= before + 1.0 {
        ensure!(start.elapsed() < Duration::from_secs(60), "nothing failed");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(stand.ask()?, Ok(Ipv4Addr::new(41, 1, 1, 0)));
    Ok(())
}

#[test]
fn a_required_store_and_one_that_is_too_large_are_refused_with_the_reason() -> Result<()> {
    let moto = Kms::start(Kind::Moto)?;
    let url = format!("http://127.0.0.1:{}", moto.port());
    script(SETUP, &url)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tells.js");
    std::fs::write(&file, TELLS)?;
    for (object, size, expected) in [
        ("large.json", "16KiB", "s3://tables/large.json"),
        ("none.json", "16KiB", "NoSuchKey"),
    ] {
        let path = folder.path().join("flowdog.toml");
        std::fs::write(
            &path,
            format!(
                "[[interceptor]]\nname = 'js'\nuse = 'cloudfront-function'\nfile = {file:?}\n\
                 kvs = [{{ id = 'a', s3 = 's3://tables/{object}', endpoint = '{url}', region = 'eu-central-1', max-size = '{size}', required = true }}]\n\
                 [[rule]]\naction = 'intercept'\ninterceptors = ['js']\n"
            ),
        )?;
        let check = |more: &[&str]| -> Result<(bool, String)> {
            let told = flowdog()
                .args(["check", "--config"])
                .arg(&path)
                .args(more)
                .envs(ENVIRONMENT)
                .output()?;
            let text =
                String::from_utf8_lossy(&told.stderr) + String::from_utf8_lossy(&told.stdout);
            Ok((told.status.success(), text.into_owned()))
        };
        let (is_right, text) = check(&["--online"])?;
        assert!(!is_right && text.contains(expected), "{text}");
        // Without the option nobody is asked, and it says so.
        let (is_right, text) = check(&[])?;
        assert!(is_right && text.contains("1 key value store"), "{text}");
    }
    Ok(())
}
