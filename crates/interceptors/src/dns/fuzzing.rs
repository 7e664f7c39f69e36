//! Any bytes as a DNS message: read, answered, changed.

use core::net::IpAddr;

use super::ask::DnsVerdict;
use super::message::{Message, kind};
use super::record::{Transport, told};
use super::rewrite::{Edits, NXDOMAIN, Reply, edit, reply};

/// What holds of every message that can be read.
pub(crate) fn message(bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else {
        return;
    };
    for found in &message.records {
        assert!(found.data.end <= bytes.len());
        let _ = message.name(found.data.start);
    }
    let addresses = vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([1; 16])];
    for answer in [Reply::Code(NXDOMAIN), Reply::Addresses(addresses, 60)] {
        let made = reply(&message, &answer);
        assert_eq!(made.is_some(), message.question.is_some());
        let Some(made) = made else { continue };
        // A name that points into what is not repeated makes a question that cannot be read; its
        // sender's own doing.
        if let Ok(again) = Message::parse(&made) {
            assert!(again.is_response() && again.id() == message.id());
        }
    }
    judged(&message);
    let edits = Edits {
        addresses: [(IpAddr::from([192, 0, 2, 1]), IpAddr::from([10, 0, 0, 1]))].into(),
        max_ttl: Some(60),
        strip_ech: true,
    };
    let Some((changed, _)) = edits.apply(&message) else {
        return;
    };
    assert_eq!(changed.len(), bytes.len());
    // A record may lie about names that others point into; what can be read again has the same
    // shape, and at most a name inside what was changed differs.
    if let Ok(again) = Message::parse(&changed) {
        let kinds = |message: &Message<'_>| -> Vec<u16> {
            message.records.iter().map(|found| found.kind).collect()
        };
        assert_eq!(kinds(&again), kinds(&message));
        let ttls = again.records.iter().filter(|one| one.kind != kind::OPT);
        assert!(ttls.into_iter().all(|one| again.ttl(one) <= 60));
    }
}

/// What a judge is told of a message can be said back, and changed where that is allowed.
fn judged(message: &Message<'_>) {
    let event = told(message, Transport::Udp, true);
    let mut said = serde_json::Value::Object(event.clone());
    assert_eq!(DnsVerdict::from_json(&said, &event), Ok(DnsVerdict::Pass));
    let Some(answers) = said["answers"].as_array_mut() else {
        return;
    };
    for answer in answers.iter_mut() {
        answer["ttl"] = 7.into();
        if answer["type"] == "A" && !answer["data"].is_null() {
            answer["data"] = "10.0.0.1".into();
        }
    }
    let verdict = DnsVerdict::from_json(&said, &event);
    assert!(verdict.is_ok(), "an edit that is allowed is refused");
    if let Ok(DnsVerdict::Edit(edits)) = verdict {
        let edited = edit(message, &edits);
        assert_eq!(edited.map(|bytes| bytes.len()), Some(message.bytes().len()));
    }
}
