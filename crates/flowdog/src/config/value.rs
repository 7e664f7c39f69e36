//! Values with their unit in them: durations, networks, ports.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use dataplane::VpcEndpointId;
use ipnet::IpNet;

/// A duration with its unit: `"350s"`, `"200ms"`, `"5m"`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// A network in CIDR notation, or one address.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    if let Ok(network) = text.parse::<IpNet>() {
        return Some(network);
    }
    text.parse::<IpAddr>().ok().map(IpNet::from)
}

/// One port (`"443"`) or a range with both ends in it (`"8000-8999"`).
pub(crate) fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    match text.split_once('-') {
        None => text.trim().parse().ok().map(|port| port..=port),
        Some((low, high)) => {
            let (low, high): (u16, u16) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            (low <= high).then_some(low..=high)
        }
    }
}

/// `vpce-` and 17 hexadecimal digits, or 8 in ids of old.
pub(crate) fn endpoint(text: &str) -> Option<VpcEndpointId> {
    let digits = text.strip_prefix("vpce-")?;
    let right = matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !right {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(VpcEndpointId)
}

/// IANA's protocol numbers by the names people use.
pub(crate) fn protocol(name: &str) -> Option<u8> {
    Some(match name {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "icmpv6" => 58,
        "sctp" => 132,
        _ => return None,
    })
}

/// The id of a VPC endpoint, as the configuration and the command line have it.
///
/// # Errors
/// What is allowed.
pub fn endpoint_id(text: &str) -> Result<VpcEndpointId, &'static str> {
    endpoint(text).ok_or("an id as vpce-0123456789abcdef0 is allowed")
}

/// An IP protocol, by name or number.
///
/// # Errors
/// What is allowed.
pub fn protocol_number(text: &str) -> Result<u8, &'static str> {
    protocol(text)
        .or_else(|| text.parse().ok())
        .ok_or("allowed: tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, or a number up to 255")
}

/// The known word nearest to what was written, if it is near enough to be meant.
pub(crate) fn did_you_mean<'w>(
    written: &str,
    known: impl IntoIterator<Item = &'w str>,
) -> Option<&'w str> {
    known
        .into_iter()
        .map(|word| {
            (
                edit_distance(&written.to_ascii_lowercase().replace('_', "-"), word),
                word,
            )
        })
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_or_ranges_in_order() {
        assert_eq!(ports("443"), Some(443..=443));
        assert_eq!(ports("8000-8999"), Some(8000..=8999));
        for text in ["", "a", "65536", "9-8", "-1", "1-"] {
            assert_eq!(ports(text), None, "{text}");
        }
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["listen", "shards", "receive-buffer"];
        assert_eq!(did_you_mean("lisen", known), Some("listen"));
        assert_eq!(
            did_you_mean("receive_buffer", known),
            Some("receive-buffer")
        );
        assert_eq!(did_you_mean("zzz", known), None);
    }
}
