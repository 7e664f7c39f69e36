//! Any bytes as a DNS message: read, answered, changed.

use core::net::IpAddr;

use super::message::{Message, kind};
use super::rewrite::{Edits, NXDOMAIN, Reply, reply};

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
