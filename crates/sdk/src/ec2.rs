//! What EC2 knows about the hosts behind addresses, as far as rules and extensions care.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The instance, or the bare network interface, that has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ec2Host {
    /// The instance; none for an interface of a managed service, such as a NAT gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// The network interface that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_id: Option<String>,
    /// The account that owns the interface.
    #[serde(default)]
    pub account_id: String,
    /// The VPC of the interface.
    #[serde(default)]
    pub vpc_id: String,
    /// The subnet of the interface.
    #[serde(default)]
    pub subnet_id: String,
    /// Ids of the interface's security groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<String>,
    /// The instance's tags; those of the interface where there is no instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// A network interface: its addresses, and the host behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ec2Interface {
    /// Private IPv4 addresses and IPv6 addresses: what packets inside a VPC carry.
    pub addresses: Vec<IpAddr>,
    /// Who has them.
    #[serde(flatten)]
    pub host: Ec2Host,
}

/// What one account in one region has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ec2Listing {
    /// Every network interface.
    pub interfaces: Vec<Ec2Interface>,
    /// The VPC of each Gateway Load Balancer endpoint, by the endpoint's id (`vpce-…`).
    pub endpoints: BTreeMap<String, String>,
    /// The tag `Name` of those that have it, by the endpoint's id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoint_names: BTreeMap<String, String>,
    /// The networks (CIDR) of each VPC, by the VPC's id.
    pub vpcs: BTreeMap<String, Vec<String>>,
}
