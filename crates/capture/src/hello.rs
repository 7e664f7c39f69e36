//! The server name of a TLS ClientHello (RFC 6066 §3), as far as its bytes have come.

/// Longest hello that is waited for.
pub(crate) const MAX: usize = 16 * 1024;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// Too few bytes to tell.
    NeedMore,
    /// It asks for this server.
    Is(String),
    /// There is no name, or this is no TLS.
    None,
}

/// Reads the name from the first bytes that a client sent.
pub(crate) fn server_name(bytes: &[u8]) -> Name {
    let mut handshake = Vec::new();
    let mut rest = bytes;
    // A hello may be cut into several records.
    loop {
        match *rest {
            [22, 3, _, high, low, ref body @ ..] => {
                let len = usize::from(u16::from_be_bytes([high, low]));
                if len == 0 || handshake.len() > MAX {
                    if handshake.is_empty() {
                        return Name::None;
                    }
                    break;
                }
                handshake.extend(body.iter().take(len));
                match body.get(len..) {
                    Some(after) => rest = after,
                    None => break,
                }
            }
            // The beginning of a record's header.
            [] | [22] | [22, 3] | [22, 3, _] | [22, 3, _, _] => break,
            _ if handshake.is_empty() => return Name::None,
            _ => break,
        }
    }
    let [kind, l0, l1, l2, hello @ ..] = handshake.as_slice() else {
        return Name::NeedMore;
    };
    let len = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
    if *kind != 1 || len > MAX {
        return Name::None;
    }
    match hello.get(..len) {
        None => Name::NeedMore,
        Some(hello) => in_hello(hello).map_or(Name::None, Name::Is),
    }
}

fn in_hello(hello: &[u8]) -> Option<String> {
    // Version and random.
    let rest = hello.get(34..)?;
    let rest = skip(rest, 1)?; // session id
    let rest = skip(rest, 2)?; // cipher suites
    let rest = skip(rest, 1)?; // compression methods
    let (mut extensions, _) = take(rest, 2)?;
    while let [t0, t1, after @ ..] = extensions {
        let (body, next) = take(after, 2)?;
        if [*t0, *t1] == [0, 0] {
            let (names, _) = take(body, 2)?;
            let (kind, name) = names.split_first()?;
            let (name, _) = take(name, 2)?;
            let name = std::str::from_utf8(name).ok()?;
            return (*kind == 0).then(|| name.to_ascii_lowercase());
        }
        extensions = next;
    }
    None
}

/// What a length of so many bytes counts, and what follows it.
fn take(bytes: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(size)?;
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

fn skip(bytes: &[u8], size: usize) -> Option<&[u8]> {
    take(bytes, size).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let mut names = vec![0];
        names.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        names.extend(name.as_bytes());
        let mut extension = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
        extension.extend(names);
        let mut extensions = vec![0, 23, 0, 0, 0, 0];
        extensions.extend(u16::try_from(extension.len()).unwrap().to_be_bytes());
        extensions.extend(extension);
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.extend([1, 7, 0, 2, 0x13, 1, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut handshake = vec![1, 0];
        handshake.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        handshake.extend(body);
        handshake
    }

    fn records(handshake: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in handshake.chunks(size) {
            bytes.extend([22, 3, 1]);
            bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend(part);
        }
        bytes
    }

    #[test]
    fn the_name_is_there_once_the_hello_is_whole_in_however_many_records() {
        for size in [1, 7, 1000] {
            let bytes = records(&hello("WWW.example.com"), size);
            for len in 0..bytes.len() {
                assert_eq!(
                    server_name(&bytes[..len]),
                    Name::NeedMore,
                    "{len} of {size}"
                );
            }
            assert_eq!(server_name(&bytes), Name::Is("www.example.com".to_owned()));
        }
    }

    #[test]
    fn what_is_no_hello_has_no_name() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            &[22, 3, 1, 0, 0, 1],
            &[22, 3, 1, 0, 4, 2, 0, 0, 0],
            &[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(server_name(bytes), Name::None, "{bytes:?}");
        }
        let mut broken = records(&hello("x"), 1000);
        for at in 9..broken.len() {
            broken[at] ^= 0xff;
            let _ = server_name(&broken);
            broken[at] ^= 0xff;
        }
    }
}
