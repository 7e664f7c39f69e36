//! The lab without namespaces: user-space TCP on both ends, a reflector as the appliance.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use flowdog_lab::sim::Side;
use flowdog_lab::stack::{Arrivals, Datagram, Stack};
use flowdog_lab::{LinkConfig, UserspaceLab};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod reflector;

use reflector::Reflector;

/// Generous: after each loss at the end of a flight smoltcp waits at least a second of real time.
const LIMIT: Duration = Duration::from_secs(120);
const TARGETS: [&str; 2] = ["198.18.7.7:8000", "[fd00:c612::7:7]:8000"];

/// Echoes connections to port 8000 after a line with the client's address; refuses the rest.
async fn serve(mut arrivals: Arrivals, stack: Stack, name: &'static str) {
    loop {
        tokio::select! {
            Some(incoming) = arrivals.connections.recv() => {
                if incoming.server.port() != 8000 {
                    incoming.refuse();
                    continue;
                }
                tokio::spawn(async move {
                    let mut stream = incoming.accept().await?;
                    let greeting = format!("{name} {}\n", stream.peer_addr().ip());
                    stream.write_all(greeting.as_bytes()).await?;
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    tokio::io::copy(&mut reader, &mut writer).await?;
                    writer.shutdown().await
                });
            }
            Some(question) = arrivals.datagrams.recv() => {
                let answer = Datagram {
                    source: question.destination,
                    destination: question.source,
                    payload: question.payload,
                };
                assert!(stack.send_datagram(&answer).is_ok());
            }
            else => return,
        }
    }
}

async fn exchange(stack: &Stack, target: SocketAddr, len: usize) -> io::Result<String> {
    let stream = stack.connect(target, LIMIT).await?;
    let sent: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&copy).await?;
        writer.shutdown().await?;
        io::Result::Ok(writer)
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await?;
    writing.await.map_err(io::Error::other)??;
    let end = received
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    assert!(
        received[end + 1..] == sent,
        "{} of {len} bytes came back, or others",
        received.len() - end - 1
    );
    Ok(String::from_utf8_lossy(&received[..end]).into_owned())
}

#[tokio::test]
async fn tcp_and_udp_pass_between_user_space_hosts_with_no_violation() {
    let perfect = LinkConfig::default();
    let addresses = UserspaceLab::free_addresses().unwrap();
    let mut lab = UserspaceLab::new(1, &perfect, &perfect, |gwlb| {
        gwlb.zones = addresses.zones.to_vec();
        gwlb.appliance = addresses.appliance;
    })
    .unwrap();
    let _reflector = Reflector::start(addresses.appliance, None, false).unwrap();
    let server = lab.server(0).unwrap().clone();
    tokio::spawn(serve(
        lab.take_arrivals(0, Side::Server).unwrap(),
        server,
        "one",
    ));
    let client = lab.client(0).unwrap().clone();
    for (target, seen) in TARGETS.into_iter().zip(["one 10.0.0.10", "one fd00:a::10"]) {
        let greeting =
            tokio::time::timeout(LIMIT, exchange(&client, target.parse().unwrap(), 1_000_000))
                .await;
        assert_eq!(greeting.unwrap().unwrap(), seen);
    }
    let refused = client
        .connect("198.18.7.7:9".parse().unwrap(), LIMIT)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    let mut answers = lab.take_arrivals(0, Side::Client).unwrap().datagrams;
    for target in TARGETS {
        let destination = target.parse().unwrap();
        let source = client.source_for(destination).unwrap();
        let question = Datagram {
            source,
            destination,
            payload: b"question".to_vec(),
        };
        client.send_datagram(&question).unwrap();
        let answer = tokio::time::timeout(LIMIT, answers.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            answer,
            Datagram {
                source: destination,
                destination: source,
                ..question
            }
        );
    }
    let report = lab.report();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.device_errors, 0);
}

#[tokio::test]
async fn two_endpoints_and_bad_links_do_not_mix_or_damage_anything() {
    let link: LinkConfig = "loss=1%,reorder=2%,duplicate=1%,delay=1ms,seed=9"
        .parse()
        .unwrap();
    let addresses = UserspaceLab::free_addresses().unwrap();
    let mut lab = UserspaceLab::new(2, &link, &link, |gwlb| {
        gwlb.zones = addresses.zones.to_vec();
        gwlb.appliance = addresses.appliance;
    })
    .unwrap();
    let _reflector = Reflector::start(addresses.appliance, None, false).unwrap();
    let mut tasks = Vec::new();
    for (endpoint, name) in ["left", "right"].into_iter().enumerate() {
        let server = lab.server(endpoint).unwrap().clone();
        tokio::spawn(serve(
            lab.take_arrivals(endpoint, Side::Server).unwrap(),
            server,
            name,
        ));
        let client = lab.client(endpoint).unwrap().clone();
        tasks.push(tokio::spawn(async move {
            let greeting = exchange(&client, TARGETS[0].parse().unwrap(), 200_000)
                .await
                .unwrap();
            assert_eq!(greeting, format!("{name} 10.0.0.10"));
        }));
    }
    for task in tasks {
        tokio::time::timeout(LIMIT, task).await.unwrap().unwrap();
    }
    let report = lab.report();
    assert!(report.is_clean(), "{report:?}");
    assert!(report.links.lost > 0, "{report:?}");
}
