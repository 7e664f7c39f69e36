//! The few DER values (X.690 §8, §10) that tokens and certificates write differently.

/// ECDSA-Sig-Value (RFC 3279 §2.2.3) from r and s as tokens write them: next to each other, of the
/// same length (PKCS#11 §6.3.1). `None` if that is not what it is.
pub(crate) fn ecdsa_signature(raw: &[u8]) -> Option<Vec<u8>> {
    let half = raw.len() / 2;
    if raw.is_empty() || raw.len() != 2 * half {
        return None;
    }
    let (r, s) = raw.split_at(half);
    Some(sequence(&[unsigned(r), unsigned(s)].concat()))
}

/// RSAPublicKey (RFC 8017 appendix A.1.1).
pub(crate) fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    sequence(&[unsigned(modulus), unsigned(exponent)].concat())
}

/// The content of an OCTET STRING, as CKA_EC_POINT is wrapped in one (PKCS#11 §6.3.3). Some
/// libraries leave the wrapping out; a point itself begins with 4 too, but its length does not fit.
pub(crate) fn octet_string(bytes: &[u8]) -> &[u8] {
    match bytes {
        [4, length, content @ ..] if usize::from(*length) == content.len() => content,
        [4, 0x81, length, content @ ..] if usize::from(*length) == content.len() => content,
        _ => bytes,
    }
}

fn sequence(content: &[u8]) -> Vec<u8> {
    value(0x30, content)
}

/// A non-negative INTEGER in its shortest form (X.690 §8.3.2).
fn unsigned(big_endian: &[u8]) -> Vec<u8> {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let digits = big_endian.get(zeros..).unwrap_or_default();
    match digits.first() {
        Some(first) if *first < 0x80 => value(2, digits),
        // The sign bit must be clear, and zero has one octet.
        _ => value(2, &[&[0], digits].concat()),
    }
}

fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let digits = length.get(zeros..).unwrap_or_default();
    let mut out = vec![tag];
    match *digits {
        [] => out.push(0),
        [short] if short < 0x80 => out.push(short),
        // At most eight, so it fits beside the flag.
        _ => {
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_their_shortest_form_and_a_clear_sign() {
        assert_eq!(unsigned(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0, 0]), [2, 1, 0]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
    }

    #[test]
    fn lengths_of_128_and_more_take_more_octets() {
        assert_eq!(value(4, &[7; 127]).get(..2).unwrap(), [4, 127]);
        assert_eq!(value(4, &[7; 128]).get(..3).unwrap(), [4, 0x81, 128]);
        assert_eq!(value(4, &[7; 300]).get(..4).unwrap(), [4, 0x82, 1, 44]);
    }

    #[test]
    fn a_signature_is_two_integers() {
        assert_eq!(
            ecdsa_signature(&[0, 1, 0x80, 2]).unwrap(),
            [0x30, 8, 2, 1, 1, 2, 3, 0, 0x80, 2]
        );
        assert_eq!(ecdsa_signature(&[1, 2, 3]), None);
        assert_eq!(ecdsa_signature(&[]), None);
    }

    #[test]
    fn a_point_is_found_with_and_without_its_wrapping() {
        let point = [4; 65];
        let wrapped = value(4, &point);
        assert_eq!(octet_string(&wrapped), point);
        assert_eq!(octet_string(&point), point);
        let point = [4; 97];
        assert_eq!(octet_string(&value(4, &point)), point);
    }
}
