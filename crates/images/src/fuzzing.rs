//! What the fuzz target in `fuzz/` runs, and what the replay of its committed corpus runs in the
//! ordinary tests.
#![expect(
    clippy::missing_panics_doc,
    reason = "panicking is how a fuzz target reports a bug"
)]

use crate::turn::{Bounds, Fault, upside_down};

/// A peer's bytes as an image: whatever they are, the work is bounded, and what comes out is an image
/// of the same kind that can be turned again.
pub fn image(bytes: &[u8]) {
    let bounds = Bounds {
        pixels: 1 << 16,
        frames: 8,
        output: 1 << 20,
    };
    let turn = |bytes: &[u8], bounds: &Bounds| upside_down(bytes, 1.0, bounds, &|| false);
    if let Ok(turned) = turn(bytes, &bounds) {
        assert!(turned.len() <= bounds.output, "a result over the limit");
        let more = Bounds {
            output: 4 << 20,
            ..bounds
        };
        match turn(&turned, &more) {
            Ok(_) | Err(Fault::ResultTooLarge) => {}
            Err(fault) => unreachable!("what was turned cannot be read: {fault}"),
        }
    }
}
