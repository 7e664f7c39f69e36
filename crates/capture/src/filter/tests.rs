//! tcpdump is asked about the same packets.

use std::collections::BTreeMap;
use std::process::Command;

use etherparse::{IpFragOffset, PacketBuilder};
use proptest::prelude::*;

use super::*;

/// Packets of many kinds, each from its IP header on.
fn packets() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut add = |bytes: Vec<u8>| packets.push(bytes);
    let v4 = |source: [u8; 4], destination: [u8; 4]| PacketBuilder::ipv4(source, destination, 64);
    let v6 = |last: u8| {
        let mut server = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        server[15] = last;
        let client = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
        PacketBuilder::ipv6(client, server, 64)
    };
    let built = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes
    };
    for (source, destination) in [
        (50_000, 443),
        (443, 50_000),
        (50_001, 80),
        (22, 22),
        (53, 53),
        (6005, 9000),
    ] {
        for (from, to) in [
            ([10, 1, 0, 5], [192, 0, 2, 1]),
            ([192, 0, 2, 1], [10, 1, 0, 5]),
            ([10, 1, 2, 3], [10, 2, 0, 1]),
        ] {
            let tcp = || v4(from, to).tcp(source, destination, 1, 1000);
            add(built(&|out| tcp().syn().write(out, b"").unwrap()));
            add(built(&|out| {
                tcp()
                    .ack(7)
                    .psh()
                    .write(out, b"GET / HTTP/1.1\r\n")
                    .unwrap()
            }));
            add(built(&|out| {
                tcp().ack(7).fin().write(out, &[0; 900]).unwrap()
            }));
            add(built(&|out| {
                v4(from, to)
                    .udp(source, destination)
                    .write(out, b"question")
                    .unwrap()
            }));
        }
        add(built(&|out| {
            v6(1)
                .tcp(source, destination, 1, 1000)
                .syn()
                .ack(1)
                .write(out, b"")
                .unwrap()
        }));
        add(built(&|out| {
            v6(2).udp(source, destination).write(out, b"x").unwrap()
        }));
    }
    add(built(&|out| {
        v4([10, 1, 0, 5], [192, 0, 2, 1])
            .icmpv4_echo_request(1, 2)
            .write(out, b"ping")
            .unwrap()
    }));
    add(built(&|out| {
        v4([192, 0, 2, 1], [10, 1, 0, 5])
            .icmpv4_echo_reply(1, 2)
            .write(out, b"ping")
            .unwrap()
    }));
    add(built(&|out| {
        v4([10, 1, 0, 5], [224, 0, 0, 251])
            .udp(5353, 5353)
            .write(out, b"mdns")
            .unwrap()
    }));
    add(built(&|out| {
        v6(1).icmpv6_echo_request(1, 2).write(out, b"ping").unwrap()
    }));
    // A later fragment, a longer header, a packet that ends in its TCP header.
    let mut fragment = built(&|out| {
        v4([10, 1, 0, 5], [192, 0, 2, 1])
            .udp(50_000, 53)
            .write(out, &[0; 64])
            .unwrap()
    });
    fragment[6..8].copy_from_slice(&IpFragOffset::try_new(100).unwrap().value().to_be_bytes());
    add(fragment);
    let mut options = built(&|out| {
        v4([10, 1, 0, 5], [192, 0, 2, 1])
            .tcp(50_000, 443, 1, 1)
            .write(out, b"")
            .unwrap()
    });
    options[0] = 0x46;
    options.splice(20..20, [1, 1, 1, 1]);
    add(options);
    let cut = built(&|out| {
        v4([10, 1, 0, 5], [192, 0, 2, 1])
            .tcp(50_000, 443, 1, 1)
            .write(out, b"")
            .unwrap()
    });
    add(cut[..30].to_vec());
    packets
}

/// Which packets tcpdump lets through; the error text if it refuses the filter.
fn tcpdump(packets: &[Vec<u8>], filter: &str) -> Result<Vec<usize>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("packets.pcap");
    // The time of each packet is its number, and so tells which ones are printed.
    let mut bytes = Vec::new();
    bytes.extend(0xa1b2_c3d4_u32.to_le_bytes());
    bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(65_535_u32.to_le_bytes());
    bytes.extend(101_u32.to_le_bytes());
    for (number, packet) in packets.iter().enumerate() {
        bytes.extend((number as u32 + 1).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((packet.len() as u32).to_le_bytes());
        bytes.extend((packet.len() as u32).to_le_bytes());
        bytes.extend(packet);
    }
    std::fs::write(&file, bytes).unwrap();
    let out = Command::new("tcpdump")
        .args(["-tt", "-n", "-q", "-r"])
        .arg(&file)
        .arg(filter)
        .output()
        .expect("tcpdump is installed");
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('.')?.0.parse::<usize>().ok())
        .map(|second| second - 1)
        .collect())
}

fn ours(packets: &[Vec<u8>], filter: &Filter) -> Vec<usize> {
    (0..packets.len())
        .filter(|number| filter.matches(&packets[*number]))
        .collect()
}

const SAME_AS_TCPDUMP: &[&str] = &[
    "",
    "ip",
    "ip6",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "not tcp",
    "tcp or udp",
    "host 10.1.0.5",
    "src host 10.1.0.5",
    "dst 10.1.0.5",
    "ip host 192.0.2.1",
    "ip6 host 2001:db8::1",
    "host 2001:db8:0:1::9 and tcp",
    "src or dst host 10.1.0.5",
    "src and dst net 10.0.0.0/8",
    "net 10",
    "net 10.1",
    "net 10.1.0",
    "net 10.1.0.0/16",
    "net 10.1.0.0 mask 255.255.0.0",
    "src net 192.0.2.0/24",
    "net 2001:db8::/32",
    "dst net 2001:db8:0:1::/64",
    "port 443",
    "tcp port 443",
    "udp port 53",
    "port domain",
    "tcp port https or http",
    "src port 443",
    "dst port 443 or 80",
    "tcp dst port 443",
    "port 80 or 443",
    "(port 80 or 443)",
    "port (80 or 443)",
    "tcp port (80 or 443 or 22)",
    "portrange 6000-6008",
    "tcp src portrange 6000-6008",
    "src and dst port 22",
    "host 10.1.0.5 and (port 80 or port 443)",
    "host 10.1.0.5 or 10.1.2.3 and port 80",
    "tcp and not port 22",
    "port not 22",
    "not host 10.1.0.5 and port 443",
    "not (host 10.1.0.5 and port 443)",
    "! tcp && ! udp",
    "tcp || icmp && host 10.1.0.5",
    "less 60",
    "greater 100",
    "len > 60",
    "len <= 60 and tcp",
    "ip proto 6",
    "ip proto \\tcp",
    "ip6 proto 17",
    "proto 1",
    "ip multicast",
    "ip6 multicast",
    "tcp[13] & 2 != 0",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[tcpflags] & tcp-syn != 0 and tcp[tcpflags] & tcp-ack == 0",
    "tcp[tcpflags] == tcp-syn",
    "icmp[icmptype] == icmp-echo",
    "icmp[icmptype] = icmp-echoreply or icmp[0] = 8",
    "icmp6[icmp6type] == icmp6-echo",
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "tcp[(tcp[12] >> 4) * 4 : 4] = 0x47455420",
    "ip[0] & 0xf != 5",
    "ip[2:2] > 100",
    "ip[8] = 64",
    "ip[6:2] & 0x1fff != 0",
    "ip6[6] = 6",
    "udp[4:2] > 15",
    "tcp[0:2] = 443 or tcp[2:2] = 443",
    "ip[0] | ip[1] & 3 = 69",
    "ip[9] - 5 = 1",
    "ip[9] % 2 == 0",
    "ip[9] ^ 6 = 0",
    "1 + 1 = 2",
    "len - 20 > ip[9] * 2 + 1",
    "tcp[2000] = 0",
    "not tcp[2000] = 0",
    "udp[1000] = 0 or tcp",
];

#[test]
fn filters_let_through_what_tcpdump_lets_through() {
    let packets = packets();
    let mut different = BTreeMap::new();
    for text in SAME_AS_TCPDUMP {
        let theirs = tcpdump(&packets, text);
        let own = Filter::parse(text).map(|filter| ours(&packets, &filter));
        match (&own, &theirs) {
            (Ok(own), Ok(theirs)) if own == theirs => {}
            _ => {
                different.insert(*text, format!("ours {own:?}, tcpdump {theirs:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{different:#?}");
    let some = ours(&packets, &Filter::parse("tcp dst port 443").unwrap());
    assert!(!some.is_empty() && some.len() < packets.len());
}

#[test]
fn what_is_wrong_with_a_filter_is_said_with_its_place() {
    for (text, position, part) in [
        ("tcp port", 8, "a port or"),
        ("tcp port 70000", 9, "no port"),
        ("host example.com", 5, "not looked up"),
        ("port 80 port 90", 8, "`and`, `or`"),
        ("(port 80", 8, "`)`"),
        ("ether host 1", 0, "link layer"),
        ("vlan 5", 0, "link layer"),
        ("frobnicate", 0, "not known"),
        ("tcp[13", 6, "`]`"),
        ("tcp[0:3] = 1", 6, "1, 2 or 4"),
        ("net 10.1.0.1/16", 15, "bits set"),
        ("host 10.1", 9, "four parts"),
        ("icmp port 5", 11, "no ports"),
        ("port 80 and", 11, "expected"),
        ("len / 0 = 1", 8, "division by zero"),
        ("port \u{1b}[31m", 5, "has no meaning"),
    ] {
        let error = Filter::parse(text).expect_err(text);
        assert!(error.message.contains(part), "{text}: {error}");
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(!error.message.contains('\u{1b}'));
    }
}

#[test]
fn threat_70_a_filter_is_bounded_in_text_depth_and_parts() {
    let long = format!("port 1{}", " or 2".repeat(1000));
    assert!(Filter::parse(&long).unwrap_err().message.contains("longer"));
    let deep = format!("{}tcp{}", "(".repeat(1000), ")".repeat(1000));
    assert!(
        Filter::parse(&deep)
            .unwrap_err()
            .message
            .contains("nesting")
    );
    let deep = format!("{}tcp", "not ".repeat(1000));
    assert!(
        Filter::parse(&deep)
            .unwrap_err()
            .message
            .contains("nesting")
    );
    let deep = format!("{}1 = 1", "-".repeat(1000));
    assert!(Filter::parse(&deep).is_err());
    let wide = format!("1{} = 1", "+1".repeat(1500));
    assert!(Filter::parse(&wide).is_err());
    // The longest chain that is allowed works and takes little.
    let wide = format!("port 1{}", " or 2".repeat(500));
    let filter = Filter::parse(&wide).unwrap();
    let packets = packets();
    assert!(ours(&packets, &filter).is_empty());
}

proptest! {
    #[test]
    fn no_text_and_no_packet_makes_a_filter_panic(
        text in "((tcp|udp|ip|ip6|port|host|net|src|dst|and|or|not|len|\\(|\\)|\\[|\\]|:|/|-|&|=|[0-9]{1,5}|10\\.1\\.0\\.5|::1|\\PC) ?){0,24}",
        packet in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        if let Ok(filter) = Filter::parse(&text) {
            let _ = filter.matches(&packet);
        }
    }
}

#[derive(Debug)]
struct Hosts;

impl Names for Hosts {
    fn is(&self, endpoint: VpcEndpointId, address: IpAddr, question: Question<'_>) -> bool {
        if endpoint != VpcEndpointId(7) || address.to_string() != "10.1.0.5" {
            return false;
        }
        match question {
            Question::Instance(id) => id == "i-0abc",
            Question::Tag(key, value) => key == "Name" && value.matches("web 1"),
        }
    }

    fn endpoint(&self, _endpoint: VpcEndpointId) -> Option<String> {
        None
    }
}

#[test]
fn endpoints_instances_tags_and_server_names_stand_beside_libpcaps_words() {
    let mut packet = Vec::new();
    PacketBuilder::ipv4([192, 0, 2, 1], [10, 1, 0, 5], 64)
        .tcp(443, 50_000, 1, 1)
        .write(&mut packet, b"")
        .unwrap();
    let judge = |filter: &str, endpoint: u64, server_name| {
        let around = Around {
            endpoint: VpcEndpointId(endpoint),
            names: Some(&Hosts),
            server_name,
        };
        Filter::parse(filter).unwrap().judge(&packet, &around)
    };
    let www = Some(Some("www.example.com"));
    for (filter, endpoint, name, verdict) in [
        ("endpoint vpce-00000000000000007", 7, None, Verdict::Yes),
        ("endpoint vpce-00000000000000007", 8, None, Verdict::No),
        ("instance i-0abc", 7, None, Verdict::Yes),
        ("instance i-0abc and tcp port 80", 7, None, Verdict::No),
        ("instance i-0abc", 8, None, Verdict::No),
        ("instance i-0def", 7, None, Verdict::No),
        ("tag \"Name=web 1\"", 7, None, Verdict::Yes),
        ("not (tag Name=web* or tag Role=db)", 7, None, Verdict::No),
        ("tag Role=*", 7, None, Verdict::No),
        ("sni *.example.com", 7, www, Verdict::Yes),
        ("sni *.Example.com and tcp port 443", 7, www, Verdict::Yes),
        ("not sni *.example.com", 7, www, Verdict::No),
        ("sni example.org", 7, www, Verdict::No),
        ("sni example.org", 7, Some(None), Verdict::No),
        ("sni example.org", 7, None, Verdict::Later),
        ("tcp port 80 and sni example.org", 7, None, Verdict::No),
        ("sni example.org and tcp port 80", 7, None, Verdict::No),
        ("tcp port 443 or sni example.org", 7, None, Verdict::Yes),
        ("sni example.org or tcp port 443", 7, None, Verdict::Yes),
        ("not sni example.org", 7, None, Verdict::Later),
        ("(sni a or sni b)and host 10.1.0.5", 7, None, Verdict::Later),
    ] {
        assert_eq!(judge(filter, endpoint, name), verdict, "{filter}");
    }
    for wrong in [
        "endpoint",
        "endpoint web",
        "instance 5",
        "tag Name",
        "tag \"Name=open",
        "sni ()",
        "sni a b",
        "sni *********",
        "tag",
    ] {
        assert!(Filter::parse(wrong).is_err(), "{wrong}");
    }
}
