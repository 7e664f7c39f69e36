//! Edits in a forwarded SYN or SYN-ACK: what would make a later take-over impossible goes.

use wire::tcp::{edit, kind};

use crate::Config;
use crate::counters::BypassReason;
use crate::seen::Seen;

/// Edits a SYN in place. Answers the datagram's new length and whether anything changed, or why the
/// connection can never be taken over.
pub(super) fn request(
    datagram: &mut [u8],
    seen: &Seen,
    config: &Config,
) -> Result<(usize, bool), BypassReason> {
    check(datagram, seen, |option| match option {
        // A signature covers what we would write (RFC 2385, RFC 5925); nobody can re-sign it.
        kind::MD5 | kind::AO => Some(BypassReason::Signed),
        _ => None,
    })?;
    let mut edited = edit_options(datagram, seen, config);
    let mut len = datagram.len();
    // Data on the SYN is the server's first look at what must be held. Unacknowledged, the client
    // sends it again after the handshake (RFC 7413 §4.1.3).
    if seen.tcp().is_some_and(|tcp| tcp.payload_len > 0)
        && let Some(packet) = datagram.get_mut(seen.inner_at..)
        && let Some(cut) = edit::cut_payload(packet)
    {
        len = seen.inner_at + cut.packet_len;
        edited = true;
    }
    Ok((len, edited))
}

/// Edits a SYN-ACK in place. Answers whether anything changed, or why the connection can never be
/// taken over.
pub(super) fn response(
    datagram: &mut [u8],
    seen: &Seen,
    config: &Config,
) -> Result<bool, BypassReason> {
    check(datagram, seen, |option| match option {
        kind::MD5 | kind::AO => Some(BypassReason::Signed),
        // The server agrees to what our SYN did not ask for.
        kind::MPTCP | kind::ENO => Some(BypassReason::Option),
        _ => None,
    })?;
    Ok(edit_options(datagram, seen, config))
}

fn check(
    datagram: &[u8],
    seen: &Seen,
    veto: impl Fn(u8) -> Option<BypassReason>,
) -> Result<(), BypassReason> {
    let segment = seen.segment(datagram).ok_or(BypassReason::Inconsistent)?;
    let mut options = segment.options();
    for (kind, _) in options.by_ref() {
        if let Some(reason) = veto(kind) {
            return Err(reason);
        }
    }
    if options.is_malformed() {
        return Err(BypassReason::Inconsistent);
    }
    Ok(())
}

fn edit_options(datagram: &mut [u8], seen: &Seen, config: &Config) -> bool {
    let Some(segment) = seen
        .tcp()
        .map(|tcp| tcp.segment_at)
        .and_then(|at| datagram.get_mut(at..seen.inner_end))
    else {
        return false;
    };
    // Fast open, multipath, encryption, accurate ECN, experiments and whatever comes after them: an
    // option that both ends understand and we do not cannot survive a take-over.
    let removed = edit::nop_out(segment, |option, _| {
        !matches!(
            option,
            kind::MSS | kind::WINDOW_SCALE | kind::SACK_PERMITTED | kind::TIMESTAMPS
        )
    });
    // Without AE, accurate ECN becomes classic ECN (RFC 9768 §3.1.2).
    let cleared = edit::clear_accurate_ecn(segment);
    let clamp = if seen.src.is_ipv6() {
        config.mss_clamp_v6
    } else {
        config.mss_clamp_v4
    };
    let clamped = edit::clamp_mss(segment, clamp).is_some();
    removed > 0 || cleared || clamped
}
