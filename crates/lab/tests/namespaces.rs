//! The lab with kernel TCP, UDP and ICMP on both ends and a strict reflector as the appliance.
//!
//! Has its own `main`: user namespaces can only be entered while the process has one thread.
#![expect(
    clippy::print_stdout,
    reason = "a test harness tells its results there"
)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use flowdog_lab::addresses::{APPLIANCE, CLIENT_V4, CLIENT_V6};
use flowdog_lab::netns::{self, Namespace};
use flowdog_lab::sim::Violation;
use flowdog_lab::{Lab, LinkConfig, Network};
use socket2::{Domain, Protocol, Socket, Type};

mod harness;
mod reflector;

use harness::Outcome;
use reflector::Reflector;

/// Set in the copy of this program that runs as a user without rights.
const UNPRIVILEGED: &str = "FLOWDOG_LAB_TEST_UNPRIVILEGED";
const LIMIT: Duration = Duration::from_secs(20);

const TESTS: [(&str, fn() -> Outcome); 10] = [
    ("tcp_udp_and_ping_pass_over_tun_with_no_violation", over_tun),
    (
        "tcp_udp_and_ping_pass_over_veth_with_no_violation",
        over_veth,
    ),
    (
        "two_endpoints_with_the_same_tuple_do_not_mix",
        two_endpoints,
    ),
    ("a_closed_port_refuses_at_once", closed_port),
    (
        "a_transfer_survives_loss_reordering_and_duplication",
        lossy_transfer,
    ),
    (
        "mid_flow_changes_of_port_zone_and_cookie_do_not_disturb",
        mid_flow_changes,
    ),
    ("an_appliance_that_swaps_ports_is_found_out", swapped_ports),
    (
        "the_hosts_network_is_reached_by_address_translation",
        host_network,
    ),
    (
        "a_command_runs_as_the_client_with_the_labs_resolver",
        command_in_lab,
    ),
    ("a_user_without_rights_gets_the_same_lab", unprivileged),
];

fn main() -> ExitCode {
    harness::run(&TESTS)
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome {
    if condition {
        Ok(())
    } else {
        Err(message().into())
    }
}

fn ensure_clean(lab: &Lab) -> Outcome {
    let report = lab.report();
    ensure(report.is_clean(), || format!("{:?}", report.violations))?;
    ensure(report.device_errors == 0, || format!("{report:?}"))
}

/// A server that sends back what it gets, after one line that says whom it sees and who it is.
fn echo_server(namespace: &Namespace, port: u16, name: &'static str) -> io::Result<()> {
    let listener = namespace.run(|| TcpListener::bind(("::", port)))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || -> io::Result<()> {
                let mut reader = stream.try_clone()?;
                let mut writer = stream;
                writeln!(writer, "{name} {}", writer.peer_addr()?.ip().to_canonical())?;
                io::copy(&mut reader, &mut writer)?;
                writer.shutdown(Shutdown::Write)
            });
        }
    });
    Ok(())
}

/// Sends `len` bytes to an echo server and returns its greeting; the echo must be identical.
fn exchange(
    namespace: &Namespace,
    target: SocketAddr,
    from_port: u16,
    len: usize,
) -> io::Result<String> {
    namespace.run(|| {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        let any: IpAddr = if target.is_ipv4() {
            CLIENT_V4.into()
        } else {
            CLIENT_V6.into()
        };
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, from_port).into())?;
        socket.connect_timeout(&target.into(), LIMIT)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let sent: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
        let mut writer = stream.try_clone()?;
        let received = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                writer.write_all(&sent)?;
                writer.shutdown(Shutdown::Write)
            });
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            writing
                .join()
                .map_err(|_| io::Error::other("writer panicked"))??;
            io::Result::Ok(received)
        })?;
        let end = received
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        if received[end + 1..] != sent {
            return Err(io::Error::other(format!(
                "{} of {len} bytes came back, or others",
                received.len() - end - 1
            )));
        }
        Ok(String::from_utf8_lossy(&received[..end]).into_owned())
    })
}

fn everything_passes(lab: &Lab) -> Outcome {
    let (client, server) = (
        lab.client(0).ok_or("no client")?,
        lab.server(0).ok_or("no server")?,
    );
    let _reflector = Reflector::start(APPLIANCE, Some(lab.appliance_namespace()), false)?;
    echo_server(server, 8000, "one")?;
    for (target, seen) in [
        ("198.18.7.7:8000", "one 10.0.0.10"),
        ("[fd00:c612::7:7]:8000", "one fd00:a::10"),
    ] {
        let greeting = exchange(client, target.parse()?, 0, 3_000_000)?;
        ensure(greeting == seen, || format!("{target} said {greeting}"))?;
    }
    for (target, bind) in [
        ("198.18.9.9:5353", "198.18.9.9:5353"),
        ("[fd00:c612::9]:5353", "[fd00:c612::9]:5353"),
    ] {
        let answering = server.run(|| UdpSocket::bind(bind))?;
        answering.set_read_timeout(Some(LIMIT))?;
        let asking = client.run(|| {
            UdpSocket::bind("[::]:0".replace(
                "[::]",
                if target.starts_with('[') {
                    "[::]"
                } else {
                    "0.0.0.0"
                },
            ))
        })?;
        asking.set_read_timeout(Some(LIMIT))?;
        asking.send_to(b"question", target)?;
        let mut buffer = [0; 64];
        let (len, from) = answering.recv_from(&mut buffer)?;
        answering.send_to(&buffer[..len], from)?;
        let (len, from) = asking.recv_from(&mut buffer)?;
        ensure(
            &buffer[..len] == b"question" && from == target.parse()?,
            || format!("{from} answered"),
        )?;
    }
    ping(client, "198.18.1.2:0".parse()?)?;
    ping(client, "[fd00:c612::1:2]:0".parse()?)?;
    ensure_clean(lab)?;
    let report = lab.report();
    ensure(
        report.gwlb.flows >= 6 && report.gwlb.packets_to_hosts > 500,
        || format!("{report:?}"),
    )
}

fn ping(client: &Namespace, target: SocketAddr) -> Outcome {
    let (domain, protocol, echo) = if target.is_ipv4() {
        (Domain::IPV4, Protocol::ICMPV4, [8_u8, 0, 0, 0, 0, 0, 0, 1])
    } else {
        (
            Domain::IPV6,
            Protocol::ICMPV6,
            [128_u8, 0, 0, 0, 0, 0, 0, 1],
        )
    };
    let answer = client.run(|| {
        let mut socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.send_to(&echo, &target.into())?;
        let mut buffer = [0; 64];
        let len = socket.read(&mut buffer)?;
        buffer[..len]
            .first()
            .copied()
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    })?;
    ensure(answer == if target.is_ipv4() { 0 } else { 129 }, || {
        format!("ICMP type {answer} from {target}")
    })
}

fn over_tun() -> Outcome {
    everything_passes(&Lab::builder().build()?)
}

fn over_veth() -> Outcome {
    let lab = Lab::builder().without_tun().build()?;
    ensure(lab.device_kind() == Some(netns::DeviceKind::Veth), || {
        "not a veth".to_owned()
    })?;
    everything_passes(&lab)
}

fn two_endpoints() -> Outcome {
    let lab = Lab::builder().endpoints(2).build()?;
    let _reflector = Reflector::start(APPLIANCE, Some(lab.appliance_namespace()), false)?;
    let names = ["left", "right"];
    for (endpoint, name) in names.into_iter().enumerate() {
        echo_server(lab.server(endpoint).ok_or("no server")?, 8000, name)?;
    }
    let target: SocketAddr = "198.18.0.1:8000".parse()?;
    std::thread::scope(|scope| -> Outcome {
        let running: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(endpoint, name)| {
                let client = lab.client(endpoint);
                (
                    name,
                    scope.spawn(move || {
                        exchange(
                            client.ok_or(io::ErrorKind::NotFound)?,
                            target,
                            33_333,
                            1_000_000,
                        )
                    }),
                )
            })
            .collect();
        for (name, task) in running {
            let greeting = task.join().map_err(|_| "panicked")??;
            ensure(greeting == format!("{name} 10.0.0.10"), || {
                format!("{name} reached {greeting}")
            })?;
        }
        Ok(())
    })?;
    ensure_clean(&lab)
}

fn closed_port() -> Outcome {
    let lab = Lab::builder().build()?;
    let _reflector = Reflector::start(APPLIANCE, Some(lab.appliance_namespace()), false)?;
    let client = lab.client(0).ok_or("no client")?;
    let start = Instant::now();
    let error = exchange(client, "198.18.3.3:9".parse()?, 0, 1)
        .err()
        .ok_or("it connected")?;
    ensure(error.kind() == io::ErrorKind::ConnectionRefused, || {
        error.to_string()
    })?;
    ensure(start.elapsed() < Duration::from_secs(2), || {
        format!("after {:?}", start.elapsed())
    })?;
    ensure_clean(&lab)
}

fn lossy_transfer() -> Outcome {
    let link: LinkConfig =
        "loss=1%,reorder=2%,duplicate=1%,corrupt=0.5%,delay=2ms,seed=5".parse()?;
    let lab = Lab::builder()
        .links(link.clone(), link)
        .mtu(1_500)
        .build()?;
    let _reflector = Reflector::start(APPLIANCE, Some(lab.appliance_namespace()), false)?;
    echo_server(lab.server(0).ok_or("no server")?, 8000, "far")?;
    exchange(
        lab.client(0).ok_or("no client")?,
        "198.18.3.3:8000".parse()?,
        0,
        500_000,
    )?;
    let links = lab.report().links;
    ensure(
        links.lost > 0 && links.reordered > 0 && links.corrupted > 0,
        || format!("{links:?}"),
    )?;
    ensure_clean(&lab)
}

fn mid_flow_changes() -> Outcome {
    let lab = Lab::builder()
        .gwlb(|gwlb| {
            gwlb.switches.change_port_every = Some(7);
            gwlb.switches.change_zone_every = Some(11);
            gwlb.switches.change_cookie_every = Some(101);
        })
        .build()?;
    let _reflector = Reflector::start(APPLIANCE, Some(lab.appliance_namespace()), false)?;
    echo_server(lab.server(0).ok_or("no server")?, 8000, "far")?;
    exchange(
        lab.client(0).ok_or("no client")?,
        "198.18.3.3:8000".parse()?,
        0,
        3_000_000,
    )?;
    let report = lab.report();
    ensure(report.gwlb.cookies > 4, || format!("{report:?}"))?;
    ensure_clean(&lab)
}

fn swapped_ports() -> Outcome {
    let lab = Lab::builder().build()?;
    let _reflector = Reflector::start(APPLIANCE, Some(lab.appliance_namespace()), true)?;
    let client = lab.client(0).ok_or("no client")?;
    let asking = client.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    asking.send_to(b"question", "198.18.9.9:53")?;
    let start = Instant::now();
    while lab.report().violations.count(Violation::PortsSwapped) == 0 {
        ensure(start.elapsed() < LIMIT, || format!("{:?}", lab.report()))?;
        std::thread::sleep(Duration::from_millis(5));
    }
    ensure(lab.report().gwlb.packets_to_hosts == 0, || {
        "a wrong answer was delivered".to_owned()
    })
}

fn host_network() -> Outcome {
    // A namespace plays the host, so that the test needs no network and disturbs none.
    let host = Namespace::new("host")?;
    host.add_loopback_address("203.0.113.5".parse()?)?;
    echo_server(&host, 8000, "outside")?;
    let resolving = host.run(|| UdpSocket::bind("203.0.113.5:5353"))?;
    let lab = host.run(|| {
        Lab::builder()
            .network(Network::Host)
            .build()
            .map_err(io::Error::other)
    })?;
    let _reflector = Reflector::start(APPLIANCE, Some(lab.appliance_namespace()), false)?;
    let client = lab.client(0).ok_or("no client")?;
    // The translation hides the lab's client behind the host's own address.
    let greeting = exchange(client, "203.0.113.5:8000".parse()?, 0, 2_000_000)?;
    ensure(greeting == "outside 203.0.113.5", || greeting.clone())?;
    let refused = exchange(client, "203.0.113.5:9".parse()?, 0, 1)
        .err()
        .ok_or("it connected")?;
    ensure(refused.kind() == io::ErrorKind::ConnectionRefused, || {
        refused.to_string()
    })?;
    let asking = client.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    asking.set_read_timeout(Some(LIMIT))?;
    resolving.set_read_timeout(Some(LIMIT))?;
    asking.send_to(b"question", "203.0.113.5:5353")?;
    let mut buffer = [0; 64];
    let (len, from) = resolving.recv_from(&mut buffer)?;
    resolving.send_to(&buffer[..len], from)?;
    let (len, from) = asking.recv_from(&mut buffer)?;
    ensure(
        &buffer[..len] == b"question" && from == "203.0.113.5:5353".parse()?,
        || format!("{from} answered"),
    )?;
    ensure_clean(&lab)
}

fn command_in_lab() -> Outcome {
    let mut lab = Lab::builder().build()?;
    let roots = std::path::Path::new("/nowhere/roots.pem");
    let script = "grep -q 198.18.0.53 /etc/resolv.conf && test \"$SSL_CERT_FILE\" = /nowhere/roots.pem && exit 42";
    let command = ["sh", "-c", script].map(Into::into);
    let status = lab.run_command(&command, roots)?;
    ensure(flowdog_lab::command::exit_code(status) == 42, || {
        format!("{status}")
    })?;
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    ensure(!host.contains("198.18.0.53"), || {
        "the host's own resolver was changed".to_owned()
    })?;
    let missing = lab
        .run_command(&["/nowhere/program".into()], roots)
        .err()
        .ok_or("it ran")?;
    ensure(missing.to_string().contains("/nowhere/program"), || {
        missing.to_string()
    })
}

/// Runs two tests again as `nobody`, who owns nothing and may not open `/dev/net/tun` here.
fn unprivileged() -> Outcome {
    if std::env::var_os(UNPRIVILEGED).is_some() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    if std::fs::read_to_string("/proc/self/uid_map")?
        .split_whitespace()
        .nth(2)
        == Some("1")
    {
        // Already inside a user namespace of one user: every test here ran without rights.
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))?;
    let program = directory.path().join("namespaces");
    std::fs::copy(std::env::current_exe()?, &program)?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    for filter in ["over_tun", "as_the_client", "over_veth"] {
        let output = Command::new(&program)
            .arg(filter)
            .env(UNPRIVILEGED, "1")
            .env_remove("LD_LIBRARY_PATH")
            .current_dir("/")
            .uid(65_534)
            .gid(65_534)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure(output.status.success() && text.contains("... ok"), || text)?;
    }
    Ok(())
}
