//! What the fuzz targets in `fuzz/` run; the ordinary tests run the same on the committed corpora and
//! on random bytes.

use crate::control::Message;
use crate::file::Packets;
use crate::filter::{Around, Filter};
use crate::hello::{self, Name};

/// A filter's text and, behind a zero byte, a packet that it is asked about.
pub fn filter(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let packet = parts.next().unwrap_or_default();
    match Filter::parse(&text) {
        Ok(filter) => {
            let _ = filter.matches(packet);
            let _ = filter.judge(packet, &Around::default());
        }
        // Wireshark shows the place.
        Err(error) => assert!(error.position <= text.len()),
    }
}

/// A pcap or pcapng file.
pub fn file(bytes: &[u8]) {
    let Ok(packets) = Packets::open(bytes) else {
        return;
    };
    for packet in packets.flatten() {
        let _ = packet.ip();
    }
}

/// What a client says first.
pub fn hello(bytes: &[u8]) {
    let whole = hello::server_name(bytes);
    // More bytes never take a name back.
    if let Some(less) = bytes.len().checked_sub(1).and_then(|len| bytes.get(..len))
        && let Name::Is(name) = hello::server_name(less)
    {
        assert_eq!(whole, Name::Is(name));
    }
}

/// A control pipe of Wireshark.
pub fn control(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    runtime.block_on(async {
        let mut pipe = bytes;
        let mut read = 0;
        while let Ok(Some(message)) = Message::read(&mut pipe).await {
            let again = message.bytes();
            assert_eq!(bytes.get(read..read + again.len()), Some(&again[..]));
            read += again.len();
        }
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    #[test]
    fn the_committed_corpora_replay_without_panic() {
        let targets: [(&str, fn(&[u8])); 4] = [
            ("capture_filter", super::filter),
            ("capture_file", super::file),
            // Any hello is a seed.
            ("client_hello", super::hello),
            ("capture_control", super::control),
        ];
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (target, run) in targets {
            let mut replayed = 0;
            for entry in std::fs::read_dir(corpora.join(target)).unwrap() {
                let bytes = std::fs::read(entry.unwrap().path()).unwrap();
                run(&bytes);
                // Cut short and with each bit flipped, a seed reaches the checks next to it.
                for len in 0..bytes.len().min(200) {
                    run(&bytes[..len]);
                    for bit in 0..8 {
                        let mut flipped = bytes.clone();
                        flipped[len] ^= 1 << bit;
                        run(&flipped);
                    }
                }
                replayed += 1;
            }
            assert!(replayed >= 3, "the corpus of {target} has {replayed} seeds");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::filter(&bytes);
            super::file(&bytes);
            super::hello(&bytes);
            super::control(&bytes);
        }
    }
}
