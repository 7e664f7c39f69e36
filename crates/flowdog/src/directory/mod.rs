//! Which host is behind an address: what EC2 says, in memory, replaced as a whole.
//!
//! Shards look into a snapshot when a flow opens; nothing on the packet path waits for EC2. Addresses
//! alone do not name a host: VPCs may overlap, so the VPC of the flow's endpoint decides.

#[cfg(feature = "aws")]
pub(crate) mod refresh;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use arc_swap::{ArcSwap, Guard};
use dataplane::VpcEndpointId;
use ipnet::IpNet;
use sdk::{Ec2Host, Ec2Interface, Ec2Listing};

use crate::telemetry;

/// Hosts by address, and what tells equal addresses apart.
#[derive(Debug, Default)]
pub struct Directory {
    hosts: HashMap<IpAddr, Vec<Arc<Ec2Host>>>,
    endpoints: HashMap<VpcEndpointId, String>,
    endpoint_names: HashMap<VpcEndpointId, String>,
    networks: HashMap<String, Vec<IpNet>>,
    interfaces: usize,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'d> {
    Host(&'d Arc<Ec2Host>),
    /// No host has it, as far as is known.
    Nobody,
    /// Several have it, and nothing says which one is meant.
    Several,
}

impl Directory {
    /// From what accounts have in their regions.
    #[must_use]
    pub fn new<'l>(listings: impl IntoIterator<Item = &'l Ec2Listing>) -> Self {
        let mut directory = Self::default();
        for listing in listings {
            for interface in &listing.interfaces {
                directory.add(interface);
            }
            for (endpoint, vpc) in &listing.endpoints {
                if let Ok(id) = crate::config::endpoint_id(endpoint) {
                    directory.endpoints.insert(id, vpc.clone());
                }
            }
            for (endpoint, name) in &listing.endpoint_names {
                if let Ok(id) = crate::config::endpoint_id(endpoint) {
                    directory.endpoint_names.insert(id, name.clone());
                }
            }
            for (vpc, blocks) in &listing.vpcs {
                let networks = blocks
                    .iter()
                    .filter_map(|block| block.parse::<IpNet>().ok());
                let known = directory.networks.entry(vpc.clone()).or_default();
                known.extend(networks);
            }
        }
        directory
    }

    /// From JSON as `flowdog ec2` prints it.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let listing: Ec2Listing = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self::new([&listing]))
    }

    fn add(&mut self, interface: &Ec2Interface) {
        let host = Arc::new(interface.host.clone());
        self.interfaces += 1;
        for address in &interface.addresses {
            let others = self.hosts.entry(*address).or_default();
            // Two sources may show the same interface, of a shared subnet for instance.
            if !others
                .iter()
                .any(|other| other.interface_id == host.interface_id)
            {
                others.push(Arc::clone(&host));
            }
        }
    }

    /// The host that a flow through this endpoint means by an address.
    ///
    /// One in the endpoint's own VPC comes first. If that VPC has the address in its networks but
    /// nobody with it, it is nobody's: a host of another VPC with the same address is another host.
    /// Otherwise, as when the endpoint is in a VPC for inspection, the only host that has it is meant.
    #[must_use]
    pub fn host(&self, endpoint: VpcEndpointId, address: IpAddr) -> Option<&Arc<Ec2Host>> {
        match self.find(endpoint, address) {
            Found::Host(host) => Some(host),
            Found::Nobody | Found::Several => None,
        }
    }

    pub(crate) fn find(&self, endpoint: VpcEndpointId, address: IpAddr) -> Found<'_> {
        let Some(hosts) = self.hosts.get(&address) else {
            return Found::Nobody;
        };
        if let Some(vpc) = self.endpoints.get(&endpoint) {
            if let Some(host) = hosts.iter().find(|host| host.vpc_id == *vpc) {
                return Found::Host(host);
            }
            let networks = self.networks.get(vpc);
            let is_inside =
                |networks: &Vec<IpNet>| networks.iter().any(|one| one.contains(&address));
            if networks.is_some_and(is_inside) {
                return Found::Nobody;
            }
        }
        match hosts.as_slice() {
            [one] => Found::Host(one),
            _ => Found::Several,
        }
    }

    /// The VPC that an endpoint is in.
    pub(crate) fn vpc(&self, endpoint: VpcEndpointId) -> Option<&str> {
        self.endpoints.get(&endpoint).map(String::as_str)
    }

    /// What its owner calls an endpoint.
    pub(crate) fn endpoint_name(&self, endpoint: VpcEndpointId) -> Option<&str> {
        self.endpoint_names.get(&endpoint).map(String::as_str)
    }

    /// How many network interfaces it knows.
    pub(crate) fn interfaces(&self) -> usize {
        self.interfaces
    }
}

/// The directory of an appliance: the present snapshot, how its sources are, and what was looked up.
#[derive(Default)]
pub(crate) struct Lookup {
    present: ArcSwap<Directory>,
    /// One for each configured source, in order.
    pub(crate) sources: Vec<SourceState>,
    pub(crate) found: AtomicU64,
    pub(crate) nobody: AtomicU64,
    pub(crate) several: AtomicU64,
}

/// How one source is.
#[derive(Debug, Default)]
pub(crate) struct SourceState {
    /// What it is called in logs and metrics.
    pub(crate) name: String,
    pub(crate) refreshes: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) events: AtomicU64,
    /// When everything was listed last, in seconds since 1970; 0 for never.
    pub(crate) listed_at: AtomicI64,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup")
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl Lookup {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let source = |name| SourceState {
            name,
            ..SourceState::default()
        };
        Self {
            sources: names.into_iter().map(source).collect(),
            ..Self::default()
        }
    }

    /// The present snapshot, for a look that is over at once.
    pub(crate) fn view(&self) -> Guard<Arc<Directory>> {
        self.present.load()
    }

    /// The present snapshot.
    pub(crate) fn present(&self) -> Arc<Directory> {
        self.present.load_full()
    }

    #[cfg(any(test, feature = "aws"))]
    pub(crate) fn replace(&self, directory: Directory) {
        self.present.store(Arc::new(directory));
    }

    /// The hosts at both ends of a flow.
    pub(crate) fn ends(
        &self,
        endpoint: VpcEndpointId,
        client: IpAddr,
        server: IpAddr,
    ) -> [Option<Arc<Ec2Host>>; 2] {
        let present = self.present.load();
        if present.interfaces == 0 {
            return [None, None];
        }
        [client, server].map(|address| match present.find(endpoint, address) {
            Found::Host(host) => {
                telemetry::add(&self.found);
                Some(Arc::clone(host))
            }
            Found::Nobody => {
                telemetry::add(&self.nobody);
                None
            }
            Found::Several => {
                telemetry::add(&self.several);
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(vpc: &str, endpoint: Option<&str>, hosts: &[(&str, &str)]) -> Ec2Listing {
        let interface = |(address, id): &(&str, &str)| Ec2Interface {
            addresses: vec![address.parse().unwrap()],
            host: Ec2Host {
                instance_id: Some(format!("i-{id}")),
                interface_id: Some(format!("eni-{id}")),
                vpc_id: vpc.to_owned(),
                ..Ec2Host::default()
            },
        };
        let endpoints = endpoint.map(|id| (id.to_owned(), vpc.to_owned()));
        Ec2Listing {
            interfaces: hosts.iter().map(interface).collect(),
            endpoints: endpoints.into_iter().collect(),
            vpcs: [(vpc.to_owned(), vec!["10.0.0.0/16".to_owned()])].into(),
            endpoint_names: endpoint
                .map(|id| (id.to_owned(), format!("of {vpc}")))
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn threat_56_the_endpoints_vpc_tells_equal_addresses_apart() {
        let (one, two) = ("vpce-00000000000000001", "vpce-00000000000000002");
        let directory = Directory::new(&[
            listing("vpc-1", Some(one), &[("10.0.0.5", "a"), ("10.0.0.6", "b")]),
            listing("vpc-2", Some(two), &[("10.0.0.5", "c")]),
            listing("vpc-3", None, &[("10.9.0.9", "d"), ("10.0.0.7", "e")]),
        ]);
        let name = |endpoint, address: &str| {
            let host = directory.host(VpcEndpointId(endpoint), address.parse().unwrap());
            host.and_then(|host| host.instance_id.as_deref())
        };
        assert_eq!(name(1, "10.0.0.5"), Some("i-a"));
        assert_eq!(name(2, "10.0.0.5"), Some("i-c"));
        assert_eq!(name(9, "10.0.0.5"), None, "nobody says which");
        assert_eq!(name(9, "10.0.0.6"), Some("i-b"), "there is only one");
        assert_eq!(name(2, "10.0.0.6"), None, "an unknown host of its own VPC");
        assert_eq!(name(1, "10.0.0.7"), None, "the same");
        assert_eq!(name(1, "10.9.0.9"), Some("i-d"), "elsewhere, and only one");
        assert_eq!(name(1, "192.0.2.1"), None);
        assert_eq!(directory.endpoint_name(VpcEndpointId(2)), Some("of vpc-2"));
        assert_eq!(directory.endpoint_name(VpcEndpointId(3)), None);
    }

    #[test]
    fn an_interface_that_two_sources_show_is_one_host_and_json_reads_back() {
        let shared = listing("vpc-1", None, &[("10.0.0.5", "a")]);
        let directory = Directory::new([&shared, &shared]);
        let address = "10.0.0.5".parse().unwrap();
        assert!(directory.host(VpcEndpointId(1), address).is_some());
        let text = serde_json::to_string(&shared).unwrap();
        let again = Directory::from_json(&text).unwrap();
        assert!(again.host(VpcEndpointId(1), address).is_some());
        assert!(Directory::from_json("{\"interfaces\": 1}").is_err());
    }
}
