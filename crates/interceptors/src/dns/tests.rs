use std::time::SystemTime;

use sdk::testing::flow;
use sdk::{HookLink, HookSight, Hooks, RecordQueue, StreamOutput, VpcEndpointId};
use serde_json::json;

use super::message::{kind, read_u16};
use super::*;

fn name(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// A query for one name, with an OPT record or without.
fn query(text: &str, kind: u16, edns: bool) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0x10, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    out.extend(name(text));
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    if edns {
        out.extend([0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    }
    out
}

/// An answer to a query for a name of three letters, with these records; a name in them may point
/// to byte 12.
fn answer(kind: u16, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = query("a.b", kind, false);
    out[2] = 0x81;
    out[3] = 0xa0;
    out[7] = records.len() as u8;
    for (kind, data) in records {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0x0e, 0x10]);
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}

fn hooks(config: &str) -> Hooks {
    let table: ConfigTable = config.parse().unwrap();
    Hooks::new(vec![HookLink::new("dns", build(&table).unwrap())])
}

/// IPv4 and UDP headers around data; checksums are not looked at.
fn packet(from: Leg, data: &[u8]) -> Vec<u8> {
    let total = (28 + data.len() as u16).to_be_bytes();
    let length = (8 + data.len() as u16).to_be_bytes();
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let (src, dst) = if from == Leg::Client { (a, b) } else { (b, a) };
    let mut out = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
    out.extend([src, dst].concat());
    out.extend([0x30, 0x39, 0, 53, length[0], length[1], 0, 0]);
    out.extend(data);
    out
}

/// What a hook makes of a datagram: its data, and whether it goes back.
fn shown(
    hooks: &Hooks,
    from: Leg,
    data: &[u8],
    records: Option<&RecordQueue>,
) -> Option<(Vec<u8>, bool)> {
    let (flow, bytes) = (flow(), packet(from, data));
    let sight = HookSight {
        flow: &flow,
        from,
        now: SystemTime::UNIX_EPOCH,
        records,
    };
    let mut packet = InnerPacket::parse(VpcEndpointId(1), &bytes).unwrap();
    let before = packet.dst();
    let step = hooks.on_packet(&mut packet, &sight);
    let data = packet.udp().unwrap().data.to_vec();
    (step == sdk::Shown::Pass).then_some((data, packet.dst() != before))
}

const RULES: &str = r#"
strip-ech = true
max-ttl = 60
rule = [
    { name = ["good.ads.example"], action = "pass" },
    { name = ["*.ads.example", "ads.example"], action = "nxdomain" },
    { name = ["*.refused.example"], type = ["TXT"], action = "refuse" },
    { name = ["null.example"], action = "null", ttl = 5 },
    { name = ["mine.example"], action = "answer", address = ["10.9.8.7", "2001:db8::7"] },
    { name = ["silent.example"], action = "drop" },
]
replace = [{ from = "203.0.113.5", to = "10.0.0.5" }]
"#;

#[test]
fn rules_answer_in_the_servers_place_and_the_first_one_counts() {
    let hooks = hooks(RULES);
    let ask = |text: &str, kind| shown(&hooks, Leg::Client, &query(text, kind, false), None);
    for passed in ["other.example", "good.ads.example", "x.refused.example"] {
        let bytes = query(passed, kind::A, false);
        assert_eq!(ask(passed, kind::A), Some((bytes, false)), "{passed}");
    }
    assert_eq!(ask("silent.example", kind::A), None);
    for (text, kind, code, answers) in [
        ("x.ads.example", kind::A, 3, &[][..]),
        ("ADS.example", kind::AAAA, 3, &[]),
        ("x.refused.example", 16, 5, &[]),
        ("null.example", kind::A, 0, &[&[0, 0, 0, 0][..]]),
        ("null.example", kind::AAAA, 0, &[&[0; 16]]),
        ("null.example", 16, 0, &[]),
        ("mine.example", kind::A, 0, &[&[10, 9, 8, 7]]),
    ] {
        let (bytes, is_back) = ask(text, kind).unwrap();
        assert!(is_back, "{text}");
        let message = Message::parse(&bytes).unwrap();
        assert!(message.is_response() && message.id() == 0x1234);
        assert_eq!(message.rcode(), code, "{text}");
        assert_eq!(message.question.as_ref().unwrap().name, text);
        let found: Vec<_> = message
            .records
            .iter()
            .map(|one| message.data(one))
            .collect();
        assert_eq!(found, answers, "{text}");
        assert!(message.opt().is_none());
        // Recursion desired and checking disabled come back; authentic data is never said.
        assert_eq!(message.flags() & 0x0130, 0x0110);
    }
    let notes = hooks.links().next().unwrap().stats().notes;
    assert_eq!(
        (notes["nxdomain"], notes["null"], notes["dropped"]),
        (2, 3, 1)
    );
}

#[test]
fn a_query_with_edns_gets_an_answer_with_edns_that_says_why() {
    let hooks = hooks(RULES);
    let (bytes, _) = shown(
        &hooks,
        Leg::Client,
        &query("x.ads.example", kind::A, true),
        None,
    )
    .unwrap();
    let message = Message::parse(&bytes).unwrap();
    let opt = message.opt().unwrap();
    assert_eq!(message.data(opt), [0, 15, 0, 2, 0, 15]);
    assert_eq!(message.rcode(), 3);
}

#[test]
fn answers_change_in_place_and_keep_their_length() {
    let hooks = hooks(RULES);
    let cname = vec![1, b'c', 0xc0, 14];
    let before = answer(
        kind::A,
        &[
            (kind::CNAME, cname),
            (kind::A, vec![203, 0, 113, 5]),
            (kind::A, vec![203, 0, 113, 6]),
        ],
    );
    let (after, is_back) = shown(&hooks, Leg::Server, &before, None).unwrap();
    assert!(!is_back);
    assert_eq!(after.len(), before.len());
    let message = Message::parse(&after).unwrap();
    assert_eq!(message.data(&message.records[1]), [10, 0, 0, 5]);
    assert_eq!(message.data(&message.records[2]), [203, 0, 113, 6]);
    assert!(message.records.iter().all(|found| message.ttl(found) == 60));
    assert_eq!(message.flags() & 0x20, 0, "no longer authentic");
    assert_eq!(message.name(message.records[0].data.start).unwrap(), "c.b");
}

/// Priority, target, parameters.
fn https(parameters: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = vec![0, 1, 0];
    for (key, value) in parameters {
        out.extend(key.to_be_bytes());
        out.extend((value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
    out
}

#[test]
fn the_keys_of_encrypted_client_hello_go_and_the_rest_stays() {
    let hooks = hooks("strip-ech = true");
    let (alpn, hint) = (&b"\x02h2"[..], &[192, 0, 2, 1][..]);
    for (parameters, expected) in [
        (
            https(&[(1, alpn), (4, hint), (5, b"ech-config")]),
            https(&[(1, alpn), (4, hint), (65280, &[0; 10])]),
        ),
        (
            https(&[(5, b""), (6, &[1; 16])]),
            https(&[(6, &[1; 16]), (65280, b"")]),
        ),
        (
            https(&[(0, &[0, 1, 0, 5]), (1, alpn), (5, b"xyz")]),
            https(&[(0, &[0, 1]), (1, alpn), (65280, &[0; 5])]),
        ),
        (
            https(&[(0, &[0, 5]), (5, b"xyz"), (65300, b"q")]),
            https(&[(65300, b"q"), (65301, &[0; 9])]),
        ),
    ] {
        let before = answer(
            kind::HTTPS,
            &[(kind::HTTPS, parameters), (kind::A, vec![1; 4])],
        );
        let (after, _) = shown(&hooks, Leg::Server, &before, None).unwrap();
        let message = Message::parse(&after).unwrap();
        assert_eq!(message.data(&message.records[0]), expected);
        assert_eq!(after.len(), before.len());
    }
    for untouched in [
        https(&[(1, alpn)]),
        https(&[(1, alpn), (5, b"xyz")])[..12].to_vec(),
        vec![0],
    ] {
        let before = answer(kind::HTTPS, &[(kind::HTTPS, untouched)]);
        assert_eq!(shown(&hooks, Leg::Server, &before, None).unwrap().0, before);
    }
    assert_eq!(
        hooks.links().next().unwrap().stats().notes["ech-stripped"],
        4
    );
}

#[test]
fn messages_are_recorded_with_what_they_say_and_nothing_they_inject() {
    let (hooks, records) = (hooks(RULES), RecordQueue::new(10));
    let mut odd = query("xyz.example", kind::A, false);
    odd[13..16].copy_from_slice(b"\n.\x1b");
    shown(&hooks, Leg::Client, &odd, Some(&records)).unwrap();
    shown(
        &hooks,
        Leg::Client,
        &query("x.ads.example", kind::AAAA, false),
        Some(&records),
    )
    .unwrap();
    let records_of_answer = answer(
        kind::MX,
        &[
            (kind::MX, vec![0, 10, 1, b'm', 0xc0, 12]),
            (kind::A, vec![192, 0, 2, 9]),
            (16, b"\x01x".to_vec()),
            (kind::A, vec![1, 2, 3]),
        ],
    );
    shown(&hooks, Leg::Server, &records_of_answer, Some(&records)).unwrap();
    let told: Vec<_> = records
        .take(10)
        .into_iter()
        .map(|record| serde_json::Value::Object(record.fields))
        .collect();
    assert_eq!(told[0]["name"], "\\010\\046\\027.example");
    assert_eq!(told[0]["message"], "query");
    assert_eq!(
        (&told[1]["action"], &told[1]["recordType"]),
        (&json!("nxdomain"), &json!("AAAA"))
    );
    assert_eq!(
        told[2]["answers"],
        json!([
            { "type": "MX", "ttl": 3600, "data": "10 m.a.b" },
            { "type": "A", "ttl": 3600, "data": "192.0.2.9" },
            { "type": "TXT", "ttl": 3600 },
            { "type": "A", "ttl": 3600 },
        ])
    );
    assert_eq!(
        (&told[2]["rcode"], &told[2]["action"]),
        (&json!("NOERROR"), &json!("edited"))
    );
}

#[test]
fn what_is_no_dns_message_passes_untouched_or_is_dropped_and_is_counted() {
    let (passes, drops) = (hooks(""), hooks("malformed = \"drop\""));
    let mut looped = query("a.b", kind::A, false);
    looped[12..14].copy_from_slice(&[0xc0, 12]);
    let mut short = answer(kind::A, &[(kind::A, vec![1; 4])]);
    short.pop();
    for bytes in [&b""[..], b"x", &[0xff; 40], &looped, &short] {
        assert_eq!(
            shown(&passes, Leg::Client, bytes, None),
            Some((bytes.to_vec(), false))
        );
        assert_eq!(shown(&drops, Leg::Client, bytes, None), None);
    }
    assert_eq!(passes.links().next().unwrap().stats().notes["malformed"], 5);
    assert_eq!(drops.links().next().unwrap().stats().dropped, 5);
}

#[test]
fn a_reserved_bit_or_an_unknown_class_does_not_hide_a_name() {
    let hooks = hooks(RULES);
    let mut odd = query("x.ads.example", kind::A, false);
    odd[3] |= 0x40;
    let last = odd.len() - 1;
    odd[last] = 77;
    assert!(shown(&hooks, Leg::Client, &odd, None).unwrap().1);
    // Two questions: no answer of ours would be right.
    let mut two = query("x.ads.example", kind::A, false);
    two[5] = 2;
    two.extend(name("good.example"));
    two.extend([0, 1, 0, 1]);
    assert_eq!(shown(&hooks, Leg::Client, &two, None), None);
}

#[test]
fn over_tcp_messages_are_treated_however_they_are_cut() {
    let hooks = hooks(RULES);
    let framed = |message: &[u8]| {
        let length = (message.len() as u16).to_be_bytes();
        [&length[..], message].concat()
    };
    let pass = framed(&query("other.example", kind::A, false));
    let block = framed(&query("x.ads.example", kind::A, false));
    let all = [&pass[..], &block, &pass, &block[..7]].concat();
    for step in [1, 2, 5, 30, 1000] {
        let (flow, mut streams) = (flow(), hooks.streams().unwrap());
        let mut output = StreamOutput::default();
        let sight = |from| HookSight {
            flow: &flow,
            from,
            now: SystemTime::UNIX_EPOCH,
            records: None,
        };
        for piece in all.chunks(step) {
            streams.on_bytes(piece, false, &sight(Leg::Client), &mut output);
        }
        assert_eq!(output.onward, [&pass[..], &pass].concat(), "{step}");
        let length = usize::from(read_u16(&output.back, 0).unwrap());
        let back = Message::parse(&output.back[2..]).unwrap();
        assert_eq!((back.rcode(), output.back.len()), (3, length + 2));
        // The end: what is there of a message goes on.
        let mut output = StreamOutput::default();
        streams.on_bytes(b"", true, &sight(Leg::Client), &mut output);
        assert_eq!(output.onward, block[..7]);
        // And the other way.
        let answer = framed(&answer(kind::A, &[(kind::A, vec![203, 0, 113, 5])]));
        let mut output = StreamOutput::default();
        for piece in answer.chunks(step) {
            streams.on_bytes(piece, false, &sight(Leg::Server), &mut output);
        }
        assert!(output.onward.ends_with(&[10, 0, 0, 5]) && output.onward.len() == answer.len());
    }
}

#[test]
fn faults_in_the_config_name_the_key() {
    for (config, fault) in [
        (
            "rule = [{ name = [], action = \"drop\" }]",
            "rule[0].name: is empty",
        ),
        (
            "rule = [{ name = [\"a b\"], action = \"drop\" }]",
            "rule[0].name: \"a b\" is no name",
        ),
        (
            "rule = [{ name = [\"a\"], type = [\"AAAAA\"], action = \"drop\" }]",
            "rule[0].type: there is no type \"AAAAA\"",
        ),
        (
            "rule = [{ name = [\"a\"], action = \"answer\" }]",
            "rule[0].address: is missing",
        ),
        (
            "replace = [{ from = \"1.2.3.4\", to = \"::1\" }]",
            "replace[0].to: is of another family",
        ),
        ("strip = true", "strip: unknown key"),
    ] {
        let found = build(&config.parse().unwrap()).unwrap_err().to_string();
        assert!(found.starts_with(fault), "{found}");
    }
}
