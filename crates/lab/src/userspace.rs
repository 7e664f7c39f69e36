//! The lab where namespaces are forbidden: hosts are user-space TCP stacks, the appliance runs on a
//! loopback address of the host. The load balancer, its judgement and the links are the same.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use wire::gwlb::VpcEndpointId;

use crate::addresses::{self, CLIENT_V4, CLIENT_V6};
use crate::appliance::{Appliance, ApplianceCommand};
use crate::driver::{Driver, End, LabHandle, Port};
use crate::fabric::Fabric;
use crate::link::LinkConfig;
use crate::report::LabReport;
use crate::sim::{GENEVE_PORT, GwlbConfig, Side};
use crate::stack::{Arrivals, Stack};

const MTU: usize = 8_500;
const START_LIMIT: Duration = Duration::from_secs(20);

/// A lab without namespaces. Its hosts are driven by the async runtime it was made in.
#[derive(Debug)]
pub struct UserspaceLab {
    appliance: Option<Appliance>,
    driver: Driver,
    hosts: Vec<Hosts>,
    tasks: Vec<AbortHandle>,
}

/// Addresses on the loopback network that nobody else uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopbackAddresses {
    /// Where the appliance takes GENEVE.
    pub appliance: SocketAddrV4,
    /// Where the appliance answers health checks.
    pub health: SocketAddr,
    /// The load balancer's zones.
    pub zones: [Ipv4Addr; 2],
}

#[derive(Debug)]
struct Hosts {
    client: Stack,
    server: Stack,
    arrivals: [Option<Arrivals>; 2],
}

impl UserspaceLab {
    /// Addresses in a loopback network of this process's own, so that several labs run side by side.
    ///
    /// # Errors
    /// The loopback network is closed to us.
    pub fn free_addresses() -> io::Result<LoopbackAddresses> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let process = std::process::id();
        let lab = (LABS.fetch_add(1, Ordering::Relaxed) % 16) as u8 * 16;
        let loopback = |last: u8| {
            Ipv4Addr::new(
                127,
                64 | (process >> 8) as u8 & 0x3f,
                process as u8,
                lab + last,
            )
        };
        Ok(LoopbackAddresses {
            appliance: SocketAddrV4::new(loopback(1), GENEVE_PORT),
            health: TcpListener::bind((loopback(1), 0))?.local_addr()?,
            zones: [loopback(2), loopback(3)],
        })
    }

    /// Makes hosts for `endpoints` endpoints. `change` must at least set zones and appliance, for
    /// example to [`UserspaceLab::free_addresses`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The load balancer's loopback sockets cannot be opened.
    pub fn new(
        endpoints: usize,
        client_link: &LinkConfig,
        server_link: &LinkConfig,
        change: impl FnOnce(&mut GwlbConfig),
    ) -> io::Result<Self> {
        let mut gwlb = GwlbConfig {
            client_networks: addresses::client_networks(),
            ports: (41_000..41_008).collect(),
            ..GwlbConfig::default()
        };
        change(&mut gwlb);
        let endpoints = endpoints.max(1);
        gwlb.endpoints = (1..=endpoints as u64)
            .map(|number| VpcEndpointId(0x00f1_0d09_0000_0000 + number))
            .collect();
        let (mut hosts, mut ports, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        for endpoint in 0..endpoints {
            // The same seed behind each endpoint: the same ports, so that tuples do coincide.
            let (client, at_client, end) =
                Stack::new(&[CLIENT_V4.into(), CLIENT_V6.into()], MTU, 1)?;
            ports.push(Port {
                endpoint,
                side: Side::Client,
                end: End::Stack(end),
            });
            let own: Vec<IpAddr> = addresses::server_addresses().to_vec();
            let (server, at_server, end) = Stack::new(&own, MTU, 2)?;
            ports.push(Port {
                endpoint,
                side: Side::Server,
                end: End::Stack(end),
            });
            for stack in [&client, &server] {
                tasks.push(tokio::spawn(stack.clone().run()).abort_handle());
            }
            hosts.push(Hosts {
                client,
                server,
                arrivals: [Some(at_client), Some(at_server)],
            });
        }
        let driver = Driver::start(Fabric::new(gwlb, client_link, server_link), ports, None)?;
        Ok(Self {
            appliance: None,
            driver,
            hosts,
            tasks,
        })
    }

    /// The client host of an endpoint.
    #[must_use]
    pub fn client(&self, endpoint: usize) -> Option<&Stack> {
        self.hosts.get(endpoint).map(|hosts| &hosts.client)
    }

    /// The server host of an endpoint.
    #[must_use]
    pub fn server(&self, endpoint: usize) -> Option<&Stack> {
        self.hosts.get(endpoint).map(|hosts| &hosts.server)
    }

    /// What arrives unasked at a host of an endpoint; once.
    pub fn take_arrivals(&mut self, endpoint: usize, side: Side) -> Option<Arrivals> {
        let [client, server] = &mut self.hosts.get_mut(endpoint)?.arrivals;
        match side {
            Side::Client => client.take(),
            Side::Server => server.take(),
        }
    }

    /// Starts the appliance and waits until `health` answers. Blocks.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_appliance(
        &mut self,
        command: ApplianceCommand,
        health: SocketAddr,
    ) -> io::Result<()> {
        let mut appliance = Appliance::start(command, None)?;
        appliance.wait_healthy(None, health, START_LIMIT)?;
        self.appliance = Some(appliance);
        Ok(())
    }

    /// The appliance, to signal or kill it.
    pub fn appliance_mut(&mut self) -> Option<&mut Appliance> {
        self.appliance.as_mut()
    }

    /// A handle on the numbers and switches, usable from any thread.
    #[must_use]
    pub fn handle(&self) -> LabHandle {
        self.driver.handle().clone()
    }

    /// The numbers so far.
    #[must_use]
    pub fn report(&self) -> LabReport {
        self.driver.handle().report()
    }
}

impl Drop for UserspaceLab {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
