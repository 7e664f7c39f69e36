//! What is known of the hosts behind addresses, and of endpoints, for filters and lists.

use std::fmt::Debug;
use std::net::IpAddr;

use wire::gwlb::VpcEndpointId;

use crate::filter::Pattern;

/// What a filter may ask of a host.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// Is it this EC2 instance?
    Instance(&'a str),
    /// Does it have this tag with such a value?
    Tag(&'a str, &'a Pattern),
}

/// Somebody who knows hosts and endpoints.
pub trait Names: Debug + Send + Sync {
    /// Whether the host that this endpoint means by an address is such a one. Asked for each packet
    /// while a reader's filter asks it: must not wait.
    fn is(&self, endpoint: VpcEndpointId, address: IpAddr, question: Question<'_>) -> bool;

    /// What its owner calls an endpoint.
    fn endpoint(&self, endpoint: VpcEndpointId) -> Option<String>;
}
