//! The fuzz target of the detectors.

use super::{StartTls, StartTlsSet, Verdict, Watch};
use crate::error::Side;

/// A conversation: each turn is a byte whose lowest bit says who speaks and whose others, how many
/// bytes; those follow. Whole and byte by byte, the watch must come to the same end.
pub fn conversation(mut bytes: &[u8]) {
    let all: StartTlsSet = StartTls::ALL.into_iter().collect();
    let mut whole = Watch::new(all);
    let mut split = Watch::new(all);
    while let Some((turn, rest)) = bytes.split_first() {
        let from = if turn & 1 == 0 {
            Side::Server
        } else {
            Side::Client
        };
        let (said, rest) = rest.split_at(usize::from(turn >> 1).min(rest.len()));
        bytes = rest;
        let verdict = whole.feed(from, said);
        let mut piecewise = Verdict::Forward;
        for (index, byte) in said.iter().enumerate() {
            match split.feed(from, std::slice::from_ref(byte)) {
                Verdict::Forward => {}
                Verdict::Tls { .. } if from == Side::Server && index + 1 < said.len() => {
                    piecewise = Verdict::Refuse(super::Refusal::ServerAhead);
                    break;
                }
                Verdict::Tls { .. } => {
                    piecewise = Verdict::Tls { clear: index + 1 };
                    break;
                }
                other => {
                    piecewise = other;
                    break;
                }
            }
        }
        assert_eq!(verdict, piecewise);
        if let Verdict::Tls { clear } = verdict {
            assert!(clear <= said.len() && whole.protocol().is_some());
        }
        if verdict != Verdict::Forward {
            return;
        }
        assert_eq!(whole.protocol(), split.protocol());
    }
}
