//! What is recorded of flows.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::acceptors::{acceptor, asking};
use crate::bench::{Bench, udp};

/// Lines of a file, once there are so many of them.
fn lines_of(path: &Path, count: usize) -> Vec<String> {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count && text.ends_with('\n') {
            return lines;
        }
        assert!(began.elapsed() < Duration::from_secs(8), "only {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_flow_has_a_record_that_says_who_decided_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let (url, _) = acceptor(
        r#"{"action": "deny", "reason": "list\n7", "context": {"team": "blue"}}"#,
        Duration::ZERO,
    );
    let rest = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\noutput = '{}'\n{}[[rule]]\nname = 'rest'\naction = 'pass'\n",
        path.display(),
        asking(&url, "", "name = 'gate rule'"),
    );
    let bench = Bench::new(47, &rest);
    let passed = udp(40_000, 54, &[1; 100]);
    for _ in 0..3 {
        bench.send(&passed);
        bench.expect(&passed);
    }
    bench.send(&udp(40_000, 53, &[1; 10]));
    let records: Vec<serde_json::Value> = lines_of(&path, 2)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |port: u16| {
        records
            .iter()
            .find(|one| one["serverPort"] == port)
            .unwrap()
    };
    let passed = of(54);
    assert_eq!(passed["verdict"], "pass");
    assert_eq!(passed["rule"], "rest");
    assert_eq!(passed["clientAddress"], "10.0.0.1");
    assert_eq!(passed["endpoint"], "vpce-00123456789abcdef");
    assert_eq!(
        (
            passed["clientPackets"].clone(),
            passed["clientBytes"].clone()
        ),
        (3.into(), 384.into())
    );
    assert_eq!(passed["closed"], "idle");
    let refused = of(53);
    assert_eq!(refused["verdict"], "reset");
    assert_eq!(
        (&refused["rule"], &refused["acceptor"]),
        (&"gate rule".into(), &"gate".into())
    );
    assert_eq!(refused["reason"], "list 7", "threat_66: one line");
    assert_eq!(refused["context"]["team"], "blue");
    assert_eq!(bench.metric("flowdog_flow_records_total"), 2.0);
    assert_eq!(bench.metric("flowdog_flow_records_lost_total"), 0.0);
}

#[test]
fn the_text_form_has_the_fields_of_vpc_flow_logs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.log");
    let rest = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\nformat = 'text'\noutput = '{}'\n[[rule]]\naction = 'drop'\nport = 53\n",
        path.display()
    );
    let bench = Bench::new(48, &rest);
    bench.send(&udp(40_000, 53, &[1; 10]));
    let passed = udp(40_000, 54, &[1; 100]);
    bench.send(&passed);
    bench.expect(&passed);
    for line in lines_of(&path, 2) {
        let fields: Vec<&str> = line.split(' ').collect();
        assert_eq!(fields.len(), 14, "{line}");
        assert_eq!(
            fields[..6],
            [
                "2",
                "-",
                "vpce-00123456789abcdef",
                "10.0.0.1",
                "192.0.2.9",
                "40000"
            ]
        );
        let (port, action) = (fields[6], fields[12]);
        assert_eq!(
            action,
            if port == "53" { "REJECT" } else { "ACCEPT" },
            "{line}"
        );
        let (start, end): (u64, u64) = (fields[10].parse().unwrap(), fields[11].parse().unwrap());
        assert!(start <= end && start > 1_700_000_000);
    }
}

#[test]
fn gwlb_b10_a_flow_log_that_nobody_reads_costs_records_and_not_packets() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A reader that never reads: the writer fills the pipe and then waits for ever.
    let _reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    let rest = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\nqueue = 10\noutput = '{}'\n",
        pipe.display()
    );
    let bench = std::mem::ManuallyDrop::new(Bench::new(49, &rest));
    for port in 0..1500 {
        let datagram = udp(10_000 + port, 54, &[1; 100]);
        bench.send(&datagram);
        bench.expect(&datagram);
    }
    bench.wait_for("flowdog_flow_records_lost_total", 1.0);
    let datagram = udp(9, 54, b"still here");
    bench.send(&datagram);
    bench.expect(&datagram);
}

/// Keeps what it is given, for tests, and takes its time if told to.
#[derive(Debug, Default)]
struct Keeps {
    records: Mutex<Vec<sdk::Record>>,
    flushed: AtomicU64,
    never: bool,
}

#[flowdog::sdk::async_trait]
impl sdk::Sink for Keeps {
    async fn write(&self, batch: &[sdk::Record]) -> Result<(), sdk::SinkError> {
        if self.never {
            std::future::pending::<()>().await;
        }
        self.records.lock().unwrap().extend_from_slice(batch);
        Ok(())
    }

    async fn flush(&self) -> Result<(), sdk::SinkError> {
        self.flushed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_sink_gets_records_of_flows_that_live_and_of_those_that_outlive_the_appliance() {
    let sink = Arc::new(Keeps::default());
    let stuck = Arc::new(Keeps {
        never: true,
        ..Keeps::default()
    });
    let rest = "[flow-log]\ninterval = '1s'\nqueue = 2\n[[rule]]\nname = 'all'\naction = 'pass'\n";
    let bench = Bench::start(62, rest, |builder| {
        builder
            .sink(Arc::clone(&sink) as _)
            .sink(Arc::clone(&stuck) as _)
    });
    let datagram = udp(40_000, 54, &[1; 100]);
    for _ in 0..2 {
        bench.send(&datagram);
        bench.expect(&datagram);
    }
    let began = Instant::now();
    while sink.records.lock().unwrap().len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(8));
        std::thread::sleep(Duration::from_millis(20));
    }
    {
        let records = sink.records.lock().unwrap();
        let first = &records[0];
        assert_eq!(first.kind, "flow-interval");
        assert_eq!(first.fields["clientPackets"], 2);
        assert_eq!(first.fields["rule"], "all");
        assert!(!first.fields.contains_key("closed"));
        assert!(records[1].fields["end"].as_f64() > first.fields["end"].as_f64());
    }
    // The sink that takes nothing has room for no more, and is counted; the other gets everything.
    bench.wait_for("flowdog_flow_records_lost_total", 1.0);
    let before = Instant::now();
    bench.running.stop();
    assert!(
        before.elapsed() < Duration::from_secs(9),
        "a stuck sink holds nobody for long"
    );
    let records = sink.records.lock().unwrap();
    let last = records.last().unwrap();
    assert_eq!(
        (last.kind, &last.fields["closed"]),
        ("flow", &"stopped".into())
    );
    assert_eq!(sink.flushed.load(Ordering::Relaxed), 1);
}
