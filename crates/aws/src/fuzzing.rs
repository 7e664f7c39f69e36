//! What the fuzz targets in `fuzz/` run, and what the replay of their committed corpora runs in the
//! ordinary tests.

use crate::xml::Element;

/// A service's bytes as an answer of EC2.
pub fn ec2_answer(bytes: &[u8]) {
    let Ok(answer) = Element::parse(&String::from_utf8_lossy(bytes)) else {
        return;
    };
    crate::ec2::fuzzing::page(&answer);
    crate::events::fuzzing::messages(&answer);
}

/// A message's bytes as an event of EventBridge.
pub fn ec2_event(bytes: &[u8]) {
    crate::events::fuzzing::body(&String::from_utf8_lossy(bytes));
}
