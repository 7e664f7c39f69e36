//! GENEVE (RFC 8926) as cloud load balancers speak it: UDP port 6081, VNI 0, an IP packet without an
//! Ethernet header inside, and options that name the endpoint, the attachment and the flow.

use crate::gwlb::{AttachmentId, FlowCookie, VpcEndpointId};
use crate::ip::Family;

/// The UDP port of GENEVE (RFC 8926 §3.3).
pub const PORT: u16 = 6081;
/// The length of the fixed header in bytes (RFC 8926 §3.4).
pub const BASE_LEN: usize = 8;
/// The length of the header that AWS and Tencent send: fixed header and three options.
pub const TEMPLATE_LEN: usize = 40;
/// The longest header there can be: Opt Len is 6 bits of 4-byte words.
pub const MAX_HEADER_LEN: usize = BASE_LEN + 63 * 4;

/// Whose options a header carries.
///
/// | cloud | class | endpoint | attachment | cookie |
/// |---|---|---|---|---|
/// | AWS GWLB | 0x0108 | type 1, 8 bytes | type 2, 8 bytes | type 3, 4 bytes |
/// | Tencent GWLB | 0x0167 | type 1, 8 bytes | type 2, 8 bytes | type 3, 4 bytes |
/// | Google NSI | 0x0132 | type 2, 4 or 8 bytes | type 1 (network id), 4 or 8 bytes, optional | none: always 0 |
///
/// Google says that its options may change in number and order; an id of 4 bytes is widened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cloud {
    /// Amazon's Gateway Load Balancer.
    #[default]
    Aws,
    /// Tencent's Gateway Load Balancer.
    Tencent,
    /// Google Cloud's in-band Network Security Integration.
    Google,
}

impl Cloud {
    /// Every cloud.
    pub const ALL: [Self; 3] = [Self::Aws, Self::Tencent, Self::Google];

    /// The option class (IANA "Geneve Option Class").
    pub const fn option_class(self) -> u16 {
        match self {
            Self::Aws => 0x0108,
            Self::Tencent => 0x0167,
            Self::Google => 0x0132,
        }
    }

    const fn of_class(class: u16) -> Option<Self> {
        match class {
            0x0108 => Some(Self::Aws),
            0x0167 => Some(Self::Tencent),
            0x0132 => Some(Self::Google),
            _ => None,
        }
    }

    /// What an option type of this cloud's class means.
    const fn field(self, kind: u8) -> Option<Field> {
        match (self, kind) {
            (Self::Aws | Self::Tencent, 1) | (Self::Google, 2) => Some(Field::Endpoint),
            (Self::Aws | Self::Tencent, 2) | (Self::Google, 1) => Some(Field::Attachment),
            (Self::Aws | Self::Tencent, 3) => Some(Field::Cookie),
            _ => None,
        }
    }

    const fn kind(self, field: Field) -> Option<u8> {
        match (self, field) {
            (Self::Aws | Self::Tencent, Field::Endpoint) | (Self::Google, Field::Attachment) => {
                Some(1)
            }
            (Self::Aws | Self::Tencent, Field::Attachment) | (Self::Google, Field::Endpoint) => {
                Some(2)
            }
            (Self::Aws | Self::Tencent, Field::Cookie) => Some(3),
            (Self::Google, Field::Cookie) => None,
        }
    }

    /// The number that an option's data holds, if its length is right.
    fn value(self, field: Field, data: &[u8]) -> Option<u64> {
        let wide = <[u8; 8]>::try_from(data).ok().map(u64::from_be_bytes);
        let narrow = <[u8; 4]>::try_from(data)
            .ok()
            .map(|b| u64::from(u32::from_be_bytes(b)));
        match (self, field) {
            (Self::Google, _) => wide.or(narrow),
            (_, Field::Cookie) => narrow,
            (_, Field::Endpoint | Field::Attachment) => wide,
        }
    }
}

/// What an option tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// The endpoint that the packet came through.
    Endpoint,
    /// The attachment.
    Attachment,
    /// The flow cookie.
    Cookie,
}

/// Why a datagram is not a packet from a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than the fixed header.
    Truncated,
    /// The version is not 0.
    BadVersion,
    /// Opt Len reaches past the datagram's end.
    OptionsTruncated,
    /// An option reaches past Opt Len.
    OptionTruncated,
    /// A known option has another length than its cloud's layout.
    BadOptionLength,
    /// A known option comes twice; which one counts is anybody's guess.
    DuplicateOption,
    /// An unknown option with the critical bit (RFC 8926 §3.5: must drop).
    UnknownCriticalOption,
    /// No option names the endpoint.
    MissingEndpoint,
    /// No option names the attachment.
    MissingAttachment,
    /// No option holds the flow cookie.
    MissingCookie,
    /// The protocol type is neither IPv4 (0x0800) nor IPv6 (0x86dd).
    BadProtocolType,
    /// The inner packet's version differs from the protocol type.
    FamilyMismatch,
    /// The inner packet is shorter than its header or its length field says.
    InnerTruncated,
}

impl Malformed {
    /// Every variant, for registering counters.
    pub const ALL: [Self; 13] = [
        Self::Truncated,
        Self::BadVersion,
        Self::OptionsTruncated,
        Self::OptionTruncated,
        Self::BadOptionLength,
        Self::DuplicateOption,
        Self::UnknownCriticalOption,
        Self::MissingEndpoint,
        Self::MissingAttachment,
        Self::MissingCookie,
        Self::BadProtocolType,
        Self::FamilyMismatch,
        Self::InnerTruncated,
    ];

    /// A label for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "geneve_truncated",
            Self::BadVersion => "geneve_bad_version",
            Self::OptionsTruncated => "geneve_options_truncated",
            Self::OptionTruncated => "geneve_option_truncated",
            Self::BadOptionLength => "geneve_bad_option_length",
            Self::DuplicateOption => "geneve_duplicate_option",
            Self::UnknownCriticalOption => "geneve_unknown_critical_option",
            Self::MissingEndpoint => "geneve_missing_endpoint",
            Self::MissingAttachment => "geneve_missing_attachment",
            Self::MissingCookie => "geneve_missing_cookie",
            Self::BadProtocolType => "geneve_bad_protocol_type",
            Self::FamilyMismatch => "geneve_family_mismatch",
            Self::InnerTruncated => "geneve_inner_truncated",
        }
    }
}

/// What is unusual about a header without being wrong; worth counting, never a reason to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Oddities(u8);

impl Oddities {
    /// The VNI is not 0.
    pub const VNI: Self = Self(0x01);
    /// The O bit (control packet) is set.
    pub const CONTROL: Self = Self(0x02);
    /// The C bit (critical options present) is set.
    pub const CRITICAL: Self = Self(0x04);
    /// A reserved bit is set in the fixed header or in an option.
    pub const RESERVED: Self = Self(0x08);
    /// The attachment id is not 0.
    pub const ATTACHMENT: Self = Self(0x10);
    /// An unknown, non-critical option is present.
    pub const UNKNOWN_OPTION: Self = Self(0x20);
    /// The options stand in another order or number than the cloud's template.
    pub const LAYOUT: Self = Self(0x40);

    /// Every oddity with a label for metrics.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::VNI, "vni"),
        (Self::CONTROL, "control_bit"),
        (Self::CRITICAL, "critical_bit"),
        (Self::RESERVED, "reserved_bits"),
        (Self::ATTACHMENT, "attachment"),
        (Self::UNKNOWN_OPTION, "unknown_option"),
        (Self::LAYOUT, "option_layout"),
    ];

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every oddity of `other` is present.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn with_if(self, other: Self, present: bool) -> Self {
        if present {
            Self(self.0 | other.0)
        } else {
            self
        }
    }
}

/// A checked view of a GENEVE datagram.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8],
    inner: &'a [u8],
    endpoint: VpcEndpointId,
    attachment: AttachmentId,
    cookie: FlowCookie,
    family: Family,
    cloud: Cloud,
    oddities: Oddities,
}

impl<'a> Packet<'a> {
    /// Checks a UDP payload received on [`PORT`]: fixed header, options, and that the inner packet is
    /// of the announced family and as long as it says.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let base: &[u8; BASE_LEN] = datagram.first_chunk().ok_or(Malformed::Truncated)?;
        if base[0] >> 6 != 0 {
            return Err(Malformed::BadVersion);
        }
        let header_len = BASE_LEN + usize::from(base[0] & 0x3f) * 4;
        let (header, inner) = datagram
            .split_at_checked(header_len)
            .ok_or(Malformed::OptionsTruncated)?;
        let fields = match Fields::from_template(header) {
            Some(fields) => fields,
            None => Fields::from_walk(header.get(BASE_LEN..).unwrap_or_default())?,
        };
        let family = match u16::from_be_bytes([base[2], base[3]]) {
            0x0800 => Family::V4,
            0x86dd => Family::V6,
            _ => return Err(Malformed::BadProtocolType),
        };
        check_inner(family, inner)?;
        let oddities = fields
            .oddities
            .with_if(Oddities::VNI, (base[4], base[5], base[6]) != (0, 0, 0))
            .with_if(Oddities::CONTROL, base[1] & 0x80 != 0)
            .with_if(Oddities::CRITICAL, base[1] & 0x40 != 0)
            .with_if(Oddities::RESERVED, base[1] & 0x3f != 0 || base[7] != 0)
            .with_if(Oddities::ATTACHMENT, fields.attachment.0 != 0);
        Ok(Self {
            header,
            inner,
            endpoint: fields.endpoint,
            attachment: fields.attachment,
            cookie: fields.cookie,
            family,
            cloud: fields.cloud,
            oddities,
        })
    }

    /// The fixed header and all options, as received. A reply must carry exactly these bytes.
    pub fn header(&self) -> &'a [u8] {
        self.header
    }

    /// The inner IP packet, with any padding behind it.
    pub fn inner(&self) -> &'a [u8] {
        self.inner
    }

    /// The endpoint that the packet came through.
    pub fn endpoint(&self) -> VpcEndpointId {
        self.endpoint
    }

    /// The attachment id.
    pub fn attachment(&self) -> AttachmentId {
        self.attachment
    }

    /// The flow cookie.
    pub fn cookie(&self) -> FlowCookie {
        self.cookie
    }

    /// The inner packet's IP version.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whose options these are.
    pub fn cloud(&self) -> Cloud {
        self.cloud
    }

    /// What is unusual about the header.
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }
}

/// The attachment and the cookie that a header, fixed part and options, names; `None` if it is not
/// one that [`Packet::parse`] takes.
pub fn identity(header: &[u8]) -> Option<(AttachmentId, FlowCookie)> {
    let fields = match Fields::from_template(header) {
        Some(fields) => fields,
        None => Fields::from_walk(header.get(BASE_LEN..)?).ok()?,
    };
    Some((fields.attachment, fields.cookie))
}

/// What the options say.
struct Fields {
    endpoint: VpcEndpointId,
    attachment: AttachmentId,
    cookie: FlowCookie,
    cloud: Cloud,
    oddities: Oddities,
}

impl Fields {
    /// The fast path: the three options of AWS or Tencent in their usual order and nothing else.
    fn from_template(header: &[u8]) -> Option<Self> {
        let header = <&[u8; TEMPLATE_LEN]>::try_from(header).ok()?;
        let ([_, _, endpoint, e0, e1, attachment, a0, a1, cookie, c0], []) =
            header.as_chunks::<4>()
        else {
            return None;
        };
        let (cloud, class) = match [endpoint[0], endpoint[1]] {
            class @ [0x01, 0x08] => (Cloud::Aws, class),
            class @ [0x01, 0x67] => (Cloud::Tencent, class),
            _ => return None,
        };
        let [hi, lo] = class;
        // Type, then length in words with three reserved bits above it.
        if *endpoint != [hi, lo, 1, 2] || *attachment != [hi, lo, 2, 2] || *cookie != [hi, lo, 3, 1]
        {
            return None;
        }
        let wide = |high: &[u8; 4], low: &[u8; 4]| {
            u64::from(u32::from_be_bytes(*high)) << 32 | u64::from(u32::from_be_bytes(*low))
        };
        Some(Self {
            endpoint: VpcEndpointId(wide(e0, e1)),
            attachment: AttachmentId(wide(a0, a1)),
            cookie: FlowCookie(u32::from_be_bytes(*c0)),
            cloud,
            oddities: Oddities::default(),
        })
    }

    /// The slow path: options in any order, with unknown ones among them.
    fn from_walk(mut options: &[u8]) -> Result<Self, Malformed> {
        let mut cloud = None;
        let mut endpoint = None;
        let mut attachment = None;
        let mut cookie = None;
        let mut oddities = Oddities::LAYOUT;
        while !options.is_empty() {
            let (fixed, rest) = options
                .split_first_chunk::<4>()
                .ok_or(Malformed::OptionTruncated)?;
            let data_len = usize::from(fixed[3] & 0x1f) * 4;
            let (data, rest) = rest
                .split_at_checked(data_len)
                .ok_or(Malformed::OptionTruncated)?;
            options = rest;
            oddities = oddities.with_if(Oddities::RESERVED, fixed[3] & 0xe0 != 0);
            let known = Cloud::of_class(u16::from_be_bytes([fixed[0], fixed[1]]))
                // The first known option decides whose layout holds; another cloud's are strangers.
                .filter(|of_option| cloud.is_none_or(|cloud| cloud == *of_option))
                .and_then(|of_option| Some((of_option, of_option.field(fixed[2])?)));
            let Some((of_option, field)) = known else {
                // RFC 8926 §3.5: the high bit of the type says that who does not know it must drop.
                if fixed[2] & 0x80 != 0 {
                    return Err(Malformed::UnknownCriticalOption);
                }
                oddities = oddities.with_if(Oddities::UNKNOWN_OPTION, true);
                continue;
            };
            cloud = Some(of_option);
            let value = of_option
                .value(field, data)
                .ok_or(Malformed::BadOptionLength)?;
            let slot = match field {
                Field::Endpoint => &mut endpoint,
                Field::Attachment => &mut attachment,
                Field::Cookie => &mut cookie,
            };
            if slot.replace(value).is_some() {
                return Err(Malformed::DuplicateOption);
            }
        }
        let cloud = cloud.ok_or(Malformed::MissingEndpoint)?;
        let optional = |value: Option<u64>| match cloud {
            Cloud::Aws | Cloud::Tencent => value,
            Cloud::Google => Some(value.unwrap_or(0)),
        };
        let cookie = optional(cookie);
        Ok(Self {
            endpoint: VpcEndpointId(endpoint.ok_or(Malformed::MissingEndpoint)?),
            attachment: AttachmentId(optional(attachment).ok_or(Malformed::MissingAttachment)?),
            cookie: FlowCookie(
                cookie
                    .and_then(|cookie| u32::try_from(cookie).ok())
                    .ok_or(Malformed::MissingCookie)?,
            ),
            cloud,
            oddities,
        })
    }
}

/// Checks what can be checked without walking the inner packet's headers.
fn check_inner(family: Family, inner: &[u8]) -> Result<(), Malformed> {
    let version = inner.first().ok_or(Malformed::InnerTruncated)? >> 4;
    let (fixed_len, total_len) = match (family, version) {
        (Family::V4, 4) => {
            let fixed: &[u8; 20] = inner.first_chunk().ok_or(Malformed::InnerTruncated)?;
            (20, usize::from(u16::from_be_bytes([fixed[2], fixed[3]])))
        }
        (Family::V6, 6) => {
            let fixed: &[u8; 40] = inner.first_chunk().ok_or(Malformed::InnerTruncated)?;
            (
                40,
                40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]])),
            )
        }
        _ => return Err(Malformed::FamilyMismatch),
    };
    if inner.len() < total_len.max(fixed_len) {
        return Err(Malformed::InnerTruncated);
    }
    Ok(())
}

/// The meaning of a GENEVE header, for who plays the load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr<'a> {
    /// The endpoint that the packet came through.
    pub endpoint: VpcEndpointId,
    /// The attachment id; 0 in practice.
    pub attachment: AttachmentId,
    /// The flow cookie. Not sent in Google's layout.
    pub cookie: FlowCookie,
    /// The inner packet's IP version.
    pub family: Family,
    /// Whose options to write.
    pub cloud: Cloud,
    /// The order of the options.
    pub order: [Field; 3],
    /// The virtual network identifier, 24 bits; 0 in practice.
    pub vni: u32,
    /// The O bit: a control packet.
    pub control: bool,
    /// The C bit: critical options are present.
    pub critical: bool,
    /// More options, already encoded, a multiple of 4 bytes and at most 220; written behind the
    /// cloud's own.
    pub extra: &'a [u8],
}

impl Default for Repr<'_> {
    fn default() -> Self {
        Self {
            endpoint: VpcEndpointId(0),
            attachment: AttachmentId(0),
            cookie: FlowCookie(0),
            family: Family::V4,
            cloud: Cloud::Aws,
            order: [Field::Endpoint, Field::Attachment, Field::Cookie],
            vni: 0,
            control: false,
            critical: false,
            extra: &[],
        }
    }
}

impl Repr<'_> {
    /// How many bytes fixed header and options take.
    pub fn header_len(&self) -> usize {
        let own: usize = self.order.iter().map(|field| self.option_len(*field)).sum();
        BASE_LEN + own + self.extra.len() / 4 * 4
    }

    /// Writes fixed header and options to the start of `buf`.
    ///
    /// A buffer shorter than [`Self::header_len`] is a bug of the caller; the header is cut then.
    pub fn emit(&self, buf: &mut [u8]) {
        let header_len = self.header_len();
        debug_assert!(
            buf.len() >= header_len,
            "buffer shorter than the GENEVE header"
        );
        debug_assert!(
            header_len <= MAX_HEADER_LEN,
            "more options than Opt Len can count"
        );
        let words = ((header_len - BASE_LEN) / 4) as u8 & 0x3f;
        let flags = if self.control { 0x80 } else { 0 } | if self.critical { 0x40 } else { 0 };
        let [p0, p1] = match self.family {
            Family::V4 => [0x08, 0x00],
            Family::V6 => [0x86, 0xdd],
        };
        let [_, v0, v1, v2] = self.vni.to_be_bytes();
        let mut rest = put(buf, &[words, flags, p0, p1, v0, v1, v2, 0]);
        for field in self.order {
            let Some(kind) = self.cloud.kind(field) else {
                continue;
            };
            let len = self.option_len(field) - 4;
            let [c0, c1] = self.cloud.option_class().to_be_bytes();
            rest = put(rest, &[c0, c1, kind, (len / 4) as u8]);
            rest = match field {
                Field::Endpoint => put(rest, &self.endpoint.0.to_be_bytes()),
                Field::Attachment => put(rest, &self.attachment.0.to_be_bytes()),
                Field::Cookie => put(rest, &self.cookie.0.to_be_bytes()),
            };
        }
        put(
            rest,
            self.extra
                .get(..self.extra.len() / 4 * 4)
                .unwrap_or_default(),
        );
    }

    fn option_len(&self, field: Field) -> usize {
        match (self.cloud.kind(field), field) {
            (None, _) => 0,
            (Some(_), Field::Endpoint | Field::Attachment) => 12,
            (Some(_), Field::Cookie) => 8,
        }
    }
}

/// Writes bytes to the start of a buffer and returns what is behind them.
fn put<'b>(buf: &'b mut [u8], bytes: &[u8]) -> &'b mut [u8] {
    match buf.split_at_mut_checked(bytes.len()) {
        Some((start, rest)) => {
            start.copy_from_slice(bytes);
            rest
        }
        None => &mut [],
    }
}

#[cfg(test)]
mod tests;
