//! Reads a `ClientHello` out of a client's first bytes, without answering it.
//!
//! The parser is a pure function of the bytes received so far: however they were cut into TCP
//! segments or TLS records, the result is the same. It never panics, reads at most
//! [`MAX_BYTES`], and what it allocates is bounded by a small multiple of what it read.
//! It decides nothing: whether a flow is intercepted is the caller's business.

mod ja4;
mod name;

pub use ja4::Transport;
pub use name::NameFault;

/// How many bytes of a client's stream may be looked at before a complete hello is there.
///
/// A hello with post-quantum key shares is about 2 KiB and TLS libraries accept no handshake
/// message above 64 KiB; record headers fit in the same bound for every sane record size.
pub const MAX_BYTES: usize = 64 * 1024;

/// Most entries accepted in the ALPN list; browsers send two, the longest lists seen have about
/// a dozen. Each entry is an allocation, which is why this list alone has a limit of its own.
const MAX_ALPN: usize = 64;

/// RFC 8446 §5.1: a plaintext record carries at most 2^14 bytes.
const MAX_RECORD: usize = 1 << 14;

const RECORD_HEADER: usize = 5;
const CONTENT_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const HANDSHAKE_HEADER: usize = 4;

/// Extension numbers, from the IANA registry "TLS ExtensionType Values".
mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const SUPPORTED_GROUPS: u16 = 10;
    pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(super) const ALPN: u16 = 16;
    pub(super) const EARLY_DATA: u16 = 42;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
}

/// What a client's first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The first bytes cannot be the start of a TLS handshake: another protocol.
    NotTls,
    /// So far it is a TLS hello, and there is more to come.
    NeedMore,
    /// It is TLS, and the hello breaks the rules of RFC 8446 §4.1.2 or a limit of ours.
    Malformed(HelloFault),
    /// A complete hello. Bytes after it are ignored.
    Hello(ClientHello),
}

/// Why a hello is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HelloFault {
    /// The hello is longer than [`MAX_BYTES`].
    #[error("ClientHello longer than 64 KiB")]
    TooLarge,
    /// A record is empty, oversized, or of another type in the middle of the hello (RFC 8446 §5.1).
    #[error("a record of the ClientHello is empty, too long or of another type")]
    BadRecord,
    /// The first handshake message is not a ClientHello.
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    /// A length field points outside its container, or bytes are left over.
    #[error("a length in the ClientHello is wrong")]
    BadLength,
    /// An extension appears twice (RFC 8446 §4.2).
    #[error("an extension appears twice in the ClientHello")]
    DuplicateExtension,
    /// The ALPN list has an empty name or more than 64 names.
    #[error("the ALPN list is malformed or too long")]
    BadAlpn,
}

impl HelloFault {
    /// The label used in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::BadRecord => "bad_record",
            Self::NotClientHello => "not_client_hello",
            Self::BadLength => "bad_length",
            Self::DuplicateExtension => "duplicate_extension",
            Self::BadAlpn => "bad_alpn",
        }
    }
}

/// The parts of a ClientHello that decisions and the handshake with the server need
/// (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2). Numbers are kept as sent, GREASE (RFC 8701) included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// `legacy_version`: the highest version when there is no `supported_versions`.
    pub legacy_version: u16,
    /// The `host_name` of the server name extension (RFC 6066 §3) in lower case and without a
    /// trailing dot. With Encrypted ClientHello this is the outer name.
    pub server_name: Option<String>,
    /// Why a name that was sent is not in `server_name`.
    pub server_name_fault: Option<NameFault>,
    /// Protocol names in the client's order (RFC 7301); empty when not offered.
    pub alpn: Vec<Vec<u8>>,
    /// `supported_versions` in the client's order; empty when the extension is absent.
    pub versions: Vec<u16>,
    /// Cipher suites in the client's order, signalling values included.
    pub cipher_suites: Vec<u16>,
    /// `supported_groups` in the client's order.
    pub groups: Vec<u16>,
    /// `signature_algorithms` in the client's order.
    pub signature_schemes: Vec<u16>,
    /// Extension numbers in the order sent.
    pub extensions: Vec<u16>,
    /// An `encrypted_client_hello` extension is there. It may be GREASE: the two cannot be told
    /// apart from outside (RFC 9849 §6.2).
    pub has_ech: bool,
    /// The client sends, or wants to send, early data (0-RTT).
    pub has_early_data: bool,
}

/// TLS 1.2 on the wire.
pub const TLS12: u16 = 0x0303;
/// TLS 1.3 on the wire.
pub const TLS13: u16 = 0x0304;
/// RFC 7507: the client repeats a connection attempt with a lower version than it could.
pub const FALLBACK_SCSV: u16 = 0x5600;

impl ClientHello {
    /// Whether the client would speak this version (RFC 8446 §4.2.1).
    ///
    /// Without `supported_versions` everything from TLS 1.0 up to `legacy_version` is on offer,
    /// but never TLS 1.3.
    #[must_use]
    pub fn offers_version(&self, version: u16) -> bool {
        if self.extensions.contains(&extension::SUPPORTED_VERSIONS) {
            self.versions.contains(&version)
        } else {
            (0x0301..=self.legacy_version.min(TLS12)).contains(&version)
        }
    }

    /// Whether the client names this signature scheme. Without the extension, RFC 5246
    /// §7.4.1.4.1 lets the server assume SHA-1 with each key type and nothing else.
    #[must_use]
    pub fn offers_scheme(&self, scheme: u16) -> bool {
        self.signature_schemes.contains(&scheme)
    }
}

/// Looks at everything a client has sent so far.
///
/// A prefix of a stream that gives [`Parsed::Hello`], [`Parsed::NotTls`] or
/// [`Parsed::Malformed`] gives the same for every longer prefix.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    match reassemble(bytes) {
        Reassembled::NotTls => Parsed::NotTls,
        Reassembled::NeedMore => Parsed::NeedMore,
        Reassembled::Malformed(fault) => Parsed::Malformed(fault),
        Reassembled::Body(body) => match parse_body(&body) {
            Ok(hello) => Parsed::Hello(hello),
            Err(fault) => Parsed::Malformed(fault),
        },
    }
}

/// Looks at the beginning of a handshake without records around it, as QUIC carries it.
pub(crate) fn parse_message(bytes: &[u8]) -> Parsed {
    let [kind, a, b, c, body @ ..] = bytes else {
        return Parsed::NeedMore;
    };
    if *kind != HANDSHAKE_CLIENT_HELLO {
        return Parsed::Malformed(HelloFault::NotClientHello);
    }
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    if length > MAX_BYTES {
        return Parsed::Malformed(HelloFault::TooLarge);
    }
    match body.get(..length).map(parse_body) {
        None => Parsed::NeedMore,
        Some(Ok(hello)) => Parsed::Hello(hello),
        Some(Err(fault)) => Parsed::Malformed(fault),
    }
}

enum Reassembled {
    NotTls,
    NeedMore,
    Malformed(HelloFault),
    /// The ClientHello without its handshake header.
    Body(Vec<u8>),
}

/// Joins the handshake fragments of consecutive records until the first message is whole.
fn reassemble(stream: &[u8]) -> Reassembled {
    let whole = stream.len();
    let mut rest = stream.get(..MAX_BYTES).unwrap_or(stream);
    let mut message: Vec<u8> = Vec::new();
    let mut first = true;
    loop {
        // The header is judged byte by byte, so that other protocols are told apart as early
        // as their bytes allow.
        if let Some(&kind) = rest.first()
            && kind != CONTENT_HANDSHAKE
        {
            return if first {
                Reassembled::NotTls
            } else {
                Reassembled::Malformed(HelloFault::BadRecord)
            };
        }
        if let Some(&major) = rest.get(1)
            && major != 3
        {
            return if first {
                Reassembled::NotTls
            } else {
                Reassembled::Malformed(HelloFault::BadRecord)
            };
        }
        let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) else {
            return need_more(whole);
        };
        let length = match header {
            [_, _, _, high, low] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        };
        // RFC 8446 §5.1: no zero-length fragments of handshake messages.
        if length == 0 || length > MAX_RECORD {
            return if first {
                Reassembled::NotTls
            } else {
                Reassembled::Malformed(HelloFault::BadRecord)
            };
        }
        let available = length.min(after.len());
        let (fragment, next) = after.split_at(available);
        message.extend_from_slice(fragment);

        match message.first() {
            None | Some(&HANDSHAKE_CLIENT_HELLO) => {}
            Some(_) => return Reassembled::Malformed(HelloFault::NotClientHello),
        }
        if let [_, a, b, c, body @ ..] = message.as_slice() {
            let announced = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if announced > MAX_BYTES - HANDSHAKE_HEADER - RECORD_HEADER {
                return Reassembled::Malformed(HelloFault::TooLarge);
            }
            if let Some(body) = body.get(..announced) {
                return Reassembled::Body(body.to_vec());
            }
        }
        if available < length {
            return need_more(whole);
        }
        rest = next;
        first = false;
    }
}

fn need_more(received: usize) -> Reassembled {
    if received >= MAX_BYTES {
        Reassembled::Malformed(HelloFault::TooLarge)
    } else {
        Reassembled::NeedMore
    }
}

fn parse_body(body: &[u8]) -> Result<ClientHello, HelloFault> {
    let mut reader = Reader(body);
    let mut hello = ClientHello {
        legacy_version: reader.u16()?,
        ..ClientHello::default()
    };
    reader.take(32)?; // random
    let session_id = reader.vector8()?;
    if session_id.0.len() > 32 {
        return Err(HelloFault::BadLength);
    }
    hello.cipher_suites = reader.vector16()?.u16_list()?;
    let compression = reader.vector8()?;
    if compression.0.is_empty() || hello.cipher_suites.is_empty() {
        return Err(HelloFault::BadLength);
    }
    // RFC 5246 §7.4.1.2: a hello may end here, without any extension.
    if reader.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = reader.vector16()?;
    if !reader.0.is_empty() {
        return Err(HelloFault::BadLength);
    }
    let mut seen = SeenExtensions::default();
    while !extensions.0.is_empty() {
        let number = extensions.u16()?;
        let data = extensions.vector16()?;
        if !seen.insert(number) {
            return Err(HelloFault::DuplicateExtension);
        }
        hello.extensions.push(number);
        hello.read_extension(number, data)?;
    }
    Ok(hello)
}

impl ClientHello {
    fn read_extension(&mut self, number: u16, mut data: Reader<'_>) -> Result<(), HelloFault> {
        match number {
            extension::SERVER_NAME => match name::read(data)? {
                Ok(name) => self.server_name = Some(name),
                Err(fault) => self.server_name_fault = Some(fault),
            },
            extension::SUPPORTED_GROUPS => self.groups = data.only(Reader::vector16)?.u16_list()?,
            extension::SIGNATURE_ALGORITHMS => {
                self.signature_schemes = data.only(Reader::vector16)?.u16_list()?;
            }
            extension::SUPPORTED_VERSIONS => {
                self.versions = data.only(Reader::vector8)?.u16_list()?
            }
            extension::ALPN => {
                let mut list = data.only(Reader::vector16)?;
                while !list.0.is_empty() {
                    let protocol = list.vector8()?;
                    if protocol.0.is_empty() || self.alpn.len() == MAX_ALPN {
                        return Err(HelloFault::BadAlpn);
                    }
                    self.alpn.push(protocol.0.to_vec());
                }
            }
            extension::EARLY_DATA => self.has_early_data = true,
            extension::ENCRYPTED_CLIENT_HELLO => self.has_ech = true,
            _ => {}
        }
        Ok(())
    }
}

/// Which extension numbers were there: a bit each, so that a hello full of tiny extensions
/// costs no quadratic search.
struct SeenExtensions(Vec<u64>);

impl Default for SeenExtensions {
    fn default() -> Self {
        Self(vec![0; (1 << 16) / 64])
    }
}

impl SeenExtensions {
    /// False when the number was there already.
    fn insert(&mut self, number: u16) -> bool {
        let Some(word) = self.0.get_mut(usize::from(number >> 6)) else {
            return false;
        };
        let bit = 1u64 << (number & 63);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// A cursor that checks every length.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HelloFault> {
        let (head, tail) = self
            .0
            .split_at_checked(length)
            .ok_or(HelloFault::BadLength)?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, HelloFault> {
        self.take(1)?.first().copied().ok_or(HelloFault::BadLength)
    }

    fn u16(&mut self) -> Result<u16, HelloFault> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn vector8(&mut self) -> Result<Self, HelloFault> {
        let length = usize::from(self.u8()?);
        self.take(length).map(Reader)
    }

    fn vector16(&mut self) -> Result<Self, HelloFault> {
        let length = usize::from(self.u16()?);
        self.take(length).map(Reader)
    }

    /// Reads one thing that must fill the whole of this.
    fn only(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Self, HelloFault>,
    ) -> Result<Self, HelloFault> {
        let inner = read(self)?;
        if self.0.is_empty() {
            Ok(inner)
        } else {
            Err(HelloFault::BadLength)
        }
    }

    fn u16_list(mut self) -> Result<Vec<u16>, HelloFault> {
        let mut list = Vec::with_capacity(self.0.len() / 2);
        while !self.0.is_empty() {
            list.push(self.u16()?);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests;
