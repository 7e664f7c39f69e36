//! What a Gateway Load Balancer says about a packet: endpoint, attachment and flow cookie.

use core::fmt;

/// The VPC endpoint (GWLB endpoint) a packet came through; GENEVE option class 0x0108, type 1.
///
/// Printed as AWS prints it: `vpce-` and 17 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VpcEndpointId(pub u64);

impl fmt::Display for VpcEndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vpce-{:017x}", self.0)
    }
}

/// The customer-visible attachment id; GENEVE option class 0x0108, type 2. Zero in practice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttachmentId(pub u64);

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The opaque flow cookie; GENEVE option class 0x0108, type 3. Unique neither alone nor for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowCookie(pub u32);

impl fmt::Display for FlowCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
