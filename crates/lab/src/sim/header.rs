//! Builds the GENEVE header of a flow and reads what a reply's header claims.

use wire::gwlb::{AttachmentId, FlowCookie, VpcEndpointId};

/// Amazon's GENEVE option class.
const AMAZON: u16 = 0x0108;
const ENDPOINT: u8 = 1;
const ATTACHMENT: u8 = 2;
const COOKIE: u8 = 3;

/// One more option in each GENEVE header, as a future load balancer might send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraOption {
    /// Option class.
    pub class: u16,
    /// Option type; the high bit marks it critical.
    pub kind: u8,
    /// Option data; cut to a multiple of four bytes and 124 bytes at most.
    pub data: Vec<u8>,
}

/// What goes into a header.
pub(crate) struct Header<'a> {
    pub(crate) endpoint: VpcEndpointId,
    pub(crate) attachment: AttachmentId,
    pub(crate) cookie: FlowCookie,
    pub(crate) ipv6: bool,
    /// The byte with the O and C bits.
    pub(crate) control: u8,
    /// 24-bit virtual network identifier.
    pub(crate) vni: u32,
    /// Order of the option types 1, 2 and 3.
    pub(crate) order: [u8; 3],
    pub(crate) extra: Option<&'a ExtraOption>,
}

impl Header<'_> {
    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut options = Vec::with_capacity(48);
        for kind in self.order {
            match kind {
                ENDPOINT => option(
                    &mut options,
                    AMAZON,
                    ENDPOINT,
                    &self.endpoint.0.to_be_bytes(),
                ),
                ATTACHMENT => option(
                    &mut options,
                    AMAZON,
                    ATTACHMENT,
                    &self.attachment.0.to_be_bytes(),
                ),
                _ => option(&mut options, AMAZON, COOKIE, &self.cookie.0.to_be_bytes()),
            }
        }
        if let Some(extra) = self.extra {
            let len = (extra.data.len() & !3).min(124);
            option(
                &mut options,
                extra.class,
                extra.kind,
                extra.data.get(..len).unwrap_or_default(),
            );
        }
        let ether_type: u16 = if self.ipv6 { 0x86dd } else { 0x0800 };
        let vni = self.vni.to_be_bytes();
        let mut header = Vec::with_capacity(8 + options.len());
        header.push((options.len() / 4) as u8);
        header.push(self.control);
        header.extend_from_slice(&ether_type.to_be_bytes());
        header.extend_from_slice(&vni[1..]);
        header.push(0);
        header.extend_from_slice(&options);
        header
    }
}

fn option(out: &mut Vec<u8>, class: u16, kind: u8, data: &[u8]) {
    out.extend_from_slice(&class.to_be_bytes());
    out.push(kind);
    out.push((data.len() / 4) as u8);
    out.extend_from_slice(data);
}

/// What a reply claims to be.
pub(crate) struct Claim<'a> {
    pub(crate) endpoint: VpcEndpointId,
    pub(crate) cookie: FlowCookie,
    /// Base header and options.
    pub(crate) header: &'a [u8],
    pub(crate) inner: &'a [u8],
}

/// Reads a reply's header by walking its options; `None` if it is not GENEVE with our options.
pub(crate) fn read(datagram: &[u8]) -> Option<Claim<'_>> {
    let base = datagram.first_chunk::<8>()?;
    if base[0] >> 6 != 0 {
        return None;
    }
    let end = 8 + usize::from(base[0] & 0x3f) * 4;
    let header = datagram.get(..end)?;
    let (mut endpoint, mut cookie) = (None, None);
    let mut rest = header.get(8..)?;
    while let Some(start) = rest.first_chunk::<4>() {
        let len = usize::from(start[3] & 0x1f) * 4;
        let data = rest.get(4..4 + len)?;
        if start[..2] == AMAZON.to_be_bytes() {
            match start[2] {
                ENDPOINT => endpoint = Some(u64::from_be_bytes(data.try_into().ok()?)),
                COOKIE => cookie = Some(u32::from_be_bytes(data.try_into().ok()?)),
                _ => {}
            }
        }
        rest = rest.get(4 + len..)?;
    }
    Some(Claim {
        endpoint: VpcEndpointId(endpoint?),
        cookie: FlowCookie(cookie?),
        header,
        inner: datagram.get(end..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gwlb_s11_the_golden_vector_is_emitted_and_read_back() {
        let header = Header {
            endpoint: VpcEndpointId(0x1234_5678_9abc_def0),
            attachment: AttachmentId(0),
            cookie: FlowCookie(0x1122_3344),
            ipv6: false,
            control: 0,
            vni: 0,
            order: [1, 2, 3],
            extra: None,
        };
        let mut datagram = header.emit();
        let golden = [
            0x08, 0, 0x08, 0, 0, 0, 0, 0, // base
            0x01, 0x08, 1, 2, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, // endpoint
            0x01, 0x08, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, // attachment
            0x01, 0x08, 3, 1, 0x11, 0x22, 0x33, 0x44, // cookie
        ];
        assert_eq!(datagram, golden);
        datagram.push(0x45);
        let claim = read(&datagram).unwrap();
        assert_eq!(claim.endpoint.to_string(), "vpce-0123456789abcdef0");
        assert_eq!(claim.cookie, FlowCookie(0x1122_3344));
        assert_eq!(claim.header, golden);
        assert_eq!(claim.inner, [0x45]);
        let v6 = Header {
            ipv6: true,
            ..header
        }
        .emit();
        assert_eq!(v6[2..4], [0x86, 0xdd]);
    }

    #[test]
    fn a_cut_header_is_not_read() {
        let header = Header {
            endpoint: VpcEndpointId(1),
            attachment: AttachmentId(0),
            cookie: FlowCookie(2),
            ipv6: false,
            control: 0,
            vni: 0,
            order: [3, 1, 2],
            extra: Some(&ExtraOption {
                class: 0x0108,
                kind: 9,
                data: vec![1, 2, 3, 4],
            }),
        };
        let whole = header.emit();
        assert!(read(&whole).is_some());
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_none(), "{len}");
        }
    }
}
