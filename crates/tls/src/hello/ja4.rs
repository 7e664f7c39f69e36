//! The JA4 fingerprint of a TLS client: what a ClientHello offers, as a short text that is the same
//! for all connections of the same software. The method is FoxIO's, published as
//! "JA4: TLS Client Fingerprinting" under the BSD 3-Clause licence; the other fingerprints of that
//! family are under other terms and are not here.

use core::fmt::Write as _;

use aws_lc_rs::digest;

use super::{ClientHello, TLS12, TLS13, extension};

/// What carries the ClientHello: the first letter of the fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// QUIC (RFC 9001 §4).
    Quic,
    /// TCP.
    Tcp,
}

/// RFC 8701 §2: values that mean nothing, sent so that servers stay tolerant of new ones.
fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

fn without_grease(values: &[u16]) -> Vec<u16> {
    values
        .iter()
        .copied()
        .filter(|value| !is_grease(*value))
        .collect()
}

/// Four hexadecimal digits each, with commas between.
fn hex_list(values: &[u16]) -> String {
    let mut text = String::with_capacity(values.len() * 5);
    for value in values {
        if !text.is_empty() {
            text.push(',');
        }
        // A String takes everything.
        let _ = write!(text, "{value:04x}");
    }
    text
}

/// The first twelve hexadecimal digits of the SHA-256; zeros for nothing at all.
fn short_hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest
        .as_ref()
        .iter()
        .take(6)
        .fold(String::with_capacity(12), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

impl ClientHello {
    /// The JA4 fingerprint, such as `t13d1516h2_8daaf6152771_e5627efa2ab1`: 36 characters of
    /// `[0-9A-Za-z_]`.
    #[must_use]
    pub fn ja4(&self, transport: Transport) -> String {
        let mut suites = without_grease(&self.cipher_suites);
        let mut extensions = without_grease(&self.extensions);
        let mut text = String::with_capacity(36);
        text.push(match transport {
            Transport::Quic => 'q',
            Transport::Tcp => 't',
        });
        text.push_str(self.ja4_version());
        let has_name = extensions.contains(&extension::SERVER_NAME);
        text.push(if has_name { 'd' } else { 'i' });
        let _ = write!(
            text,
            "{:02}{:02}",
            suites.len().min(99),
            extensions.len().min(99)
        );
        text.push_str(&self.ja4_protocol());

        suites.sort_unstable();
        text.push('_');
        text.push_str(&short_hash(&hex_list(&suites)));

        extensions.retain(|number| *number != extension::SERVER_NAME && *number != extension::ALPN);
        extensions.sort_unstable();
        let mut last = hex_list(&extensions);
        let schemes = hex_list(&without_grease(&self.signature_schemes));
        if !schemes.is_empty() {
            last.push('_');
            last.push_str(&schemes);
        }
        text.push('_');
        text.push_str(&short_hash(&last));
        text
    }

    /// The highest version on offer.
    fn ja4_version(&self) -> &'static str {
        let offered = without_grease(&self.versions);
        match offered.iter().max().unwrap_or(&self.legacy_version) {
            &TLS13 => "13",
            &TLS12 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            0x0002 => "s2",
            _ => "00",
        }
    }

    /// The first and the last character of the first protocol name.
    fn ja4_protocol(&self) -> String {
        let name = self.alpn.first().map(Vec::as_slice).unwrap_or_default();
        let (Some(first), Some(last)) = (name.first(), name.last()) else {
            return "00".to_owned();
        };
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
            return [char::from(*first), char::from(*last)].iter().collect();
        }
        // Those of the name in hexadecimal digits: one digit of each.
        format!("{:x}{:x}", first >> 4, last & 0xf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chrome's hello, with GREASE where Chrome has it: the method's own example.
    fn chrome() -> ClientHello {
        ClientHello {
            legacy_version: TLS12,
            versions: vec![0x8a8a, TLS13, TLS12],
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            cipher_suites: vec![
                0x3a3a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8,
                0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
            ],
            extensions: vec![
                0x5a5a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005,
                0x0023, 0x0012, 0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
            ],
            signature_schemes: vec![
                0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
            ],
            ..ClientHello::default()
        }
    }

    #[test]
    fn the_published_example_has_its_published_fingerprint() {
        let expected = "t13d1516h2_8daaf6152771_e5627efa2ab1";
        assert_eq!(chrome().ja4(Transport::Tcp), expected);
        assert_eq!(
            chrome().ja4(Transport::Quic),
            format!("q{}", &expected[1..])
        );
    }

    #[test]
    fn neither_order_nor_grease_nor_the_rest_of_alpn_changes_it() {
        let mut other = chrome();
        other.cipher_suites.reverse();
        other.extensions.rotate_left(5);
        other.extensions.push(0xfafa);
        other.versions.reverse();
        other.alpn.truncate(1);
        assert_eq!(other.ja4(Transport::Tcp), chrome().ja4(Transport::Tcp));
        // The order of the signature schemes does.
        other.signature_schemes.reverse();
        assert_ne!(other.ja4(Transport::Tcp), chrome().ja4(Transport::Tcp));
    }

    #[test]
    fn a_second_clients_hello_without_grease() {
        let hello = ClientHello {
            legacy_version: TLS12,
            versions: vec![TLS13, TLS12],
            alpn: vec![b"h2".to_vec()],
            cipher_suites: vec![
                0x1302, 0x1301, 0x1303, 0xc02c, 0xc02b, 0xcca9, 0xc030, 0xc02f, 0xcca8, 0x00ff,
            ],
            extensions: vec![
                0x2b, 0x0b, 0x0a, 0x33, 0x17, 0x00, 0x0d, 0x05, 0x10, 0x2d, 0x23,
            ],
            signature_schemes: vec![
                0x0503, 0x0403, 0x0807, 0x0806, 0x0805, 0x0804, 0x0601, 0x0501, 0x0401,
            ],
            ..ClientHello::default()
        };
        let expected = "t13d1011h2_61a7ad8aa9b6_3fcd1a44f3e3";
        assert_eq!(hello.ja4(Transport::Tcp), expected);
    }

    #[test]
    fn what_is_missing_or_odd_has_its_own_letters() {
        let bare = ClientHello {
            legacy_version: 0x0301,
            cipher_suites: vec![0x0a0a],
            ..ClientHello::default()
        };
        assert_eq!(
            bare.ja4(Transport::Tcp),
            "t10i000000_000000000000_000000000000"
        );
        for (protocol, letters) in [
            (&b"http/1.1"[..], "h1"),
            (b"a", "aa"),
            (b"\xab\xcd", "ad"),
            (b"0\xab", "3b"),
        ] {
            let hello = ClientHello {
                legacy_version: 0x0304,
                alpn: vec![protocol.to_vec()],
                ..ClientHello::default()
            };
            assert_eq!(&hello.ja4(Transport::Tcp)[8..10], letters, "{protocol:?}");
        }
        let many = ClientHello {
            extensions: (100..300).collect(),
            cipher_suites: (100..300).collect(),
            ..ClientHello::default()
        };
        let text = many.ja4(Transport::Tcp);
        assert!(text.starts_with("t00i9999") && text.len() == 36, "{text}");
    }
}
