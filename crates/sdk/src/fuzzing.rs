//! What the fuzz targets in `fuzz/` run, one function for each parser of this crate that a peer
//! can reach; the ordinary tests run the same functions on the committed corpora and on random
//! bytes.
#![expect(
    clippy::missing_panics_doc,
    reason = "panicking is how a fuzz target reports a bug"
)]

use http::Method;

use crate::coding;
use crate::{
    ByteSize, Coding, ContentLimits, FieldName, Filter, InnerPacket, Target, VpcEndpointId,
};

/// Small enough that a fuzzer reaches the caps.
const LIMITS: ContentLimits = ContentLimits {
    encoded: 64 << 10,
    decoded: 256 << 10,
    ratio: 100,
};

/// Content as a peer encoded it: the first byte chooses the coding, the rest is the content.
pub fn content(bytes: &[u8]) {
    let Some((choice, encoded)) = bytes.split_first() else {
        return;
    };
    let all = [Coding::Deflate, Coding::Gzip, Coding::Brotli, Coding::Zstd];
    let coding = all[usize::from(choice & 3)];
    let Ok(data) = coding::decode(encoded, coding, &LIMITS) else {
        return;
    };
    assert!(data.len() <= LIMITS.decoded);
    let again = coding::encode(&data, coding).unwrap_or_default();
    let wide = ContentLimits {
        ratio: usize::MAX,
        ..LIMITS
    };
    assert_eq!(coding::decode(&again, coding, &wide), Ok(data));
}

/// A filter, as an operator might write it.
pub fn filter(bytes: &[u8]) {
    if let Ok(filter) = String::from_utf8_lossy(bytes).parse::<Filter>() {
        assert_eq!(filter.to_string().parse(), Ok(filter));
    }
}

/// A request target, a field name and a size: texts that are kept as they were written.
pub fn texts(bytes: &[u8]) {
    for method in [Method::GET, Method::OPTIONS, Method::CONNECT] {
        if let Ok(target) = Target::parse(&method, bytes) {
            let text = target.to_string();
            assert!(!text.bytes().any(|b| b <= b' ' || b == 0x7f));
            assert_eq!(Target::parse(&method, text.as_bytes()), Ok(target));
        }
    }
    if let Ok(name) = FieldName::parse(bytes) {
        assert_eq!(name.as_str().as_bytes(), bytes);
        assert!(
            http::HeaderName::from_bytes(bytes).is_ok(),
            "nothing is lost on HTTP/2"
        );
    }
    if let Some(size) = core::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse::<ByteSize>().ok())
    {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
}

/// An inner packet, edited: the result is a valid packet with the new payload.
pub fn packet_edit(bytes: &[u8]) {
    let Ok(mut packet) = InnerPacket::parse(VpcEndpointId(1), bytes) else {
        return;
    };
    let (before, mut payload) = (packet.bytes().to_vec(), packet.payload().to_vec());
    payload.reverse();
    if packet.set_payload(&payload).is_err() {
        assert_eq!(packet.bytes(), before);
        return;
    }
    let again = InnerPacket::parse(VpcEndpointId(1), packet.bytes());
    assert!(
        again.is_ok_and(
            |again| again.payload().len() == payload.len() && again.dst() == packet.dst()
        )
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    #[test]
    fn the_committed_corpora_replay_without_panic() {
        let targets: [(&str, fn(&[u8])); 3] = [
            ("content", super::content),
            ("texts", super::texts),
            // Any inner packet is a seed.
            ("ip", super::packet_edit),
        ];
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (target, run) in targets {
            let mut replayed = 0;
            for entry in std::fs::read_dir(corpora.join(target)).expect("a corpus for each target")
            {
                let bytes =
                    std::fs::read(entry.expect("a readable corpus").path()).expect("a seed");
                run(&bytes);
                // Cut short and with each bit flipped, a seed reaches the checks next to it.
                for len in 0..bytes.len().min(120) {
                    run(&bytes[..len]);
                    for bit in 0..8 {
                        let mut flipped = bytes.clone();
                        flipped[len] ^= 1 << bit;
                        run(&flipped);
                    }
                }
                replayed += 1;
            }
            assert!(
                replayed >= 3,
                "the corpus of {target} has only {replayed} seeds"
            );
        }
    }

    proptest! {
        #[test]
        fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::content(&bytes);
            super::texts(&bytes);
            super::packet_edit(&bytes);
        }

        #[test]
        fn random_targets_are_kept_as_written(text in "(/|http://[a-z.:\\[\\]0-9@]{1,12})[!-~ \u{e9}]{0,20}") {
            super::texts(text.as_bytes());
        }
    }
}
