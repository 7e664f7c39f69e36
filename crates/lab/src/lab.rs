//! A whole lab: hosts in namespaces, links, load balancer; the appliance is added by the caller.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use ipnet::IpNet;
use tempfile::TempDir;
use wire::gwlb::VpcEndpointId;

use crate::addresses;
use crate::appliance::{Appliance, ApplianceCommand};
use crate::command::{self, Resolver};
use crate::driver::{Driver, End, LabHandle, Port};
use crate::fabric::Fabric;
use crate::host_net::HostNetwork;
use crate::link::LinkConfig;
use crate::netns::{Device, DeviceKind, Namespace, NamespaceError};
use crate::report::LabReport;
use crate::sim::{GwlbConfig, Side};

/// MTU of the hosts' devices, in bytes: the most that the load balancer carries.
const MTU: u32 = 8_500;
/// MTU between load balancer and appliance, as on AWS: room for the GENEVE header.
const JUMBO_MTU: u32 = 9_001;
/// The environment variable that tells a command where the appliance's process id stands.
pub const PID_VARIABLE: &str = "FLOWDOG_LAB_APPLIANCE_PID";
/// How often the appliance is looked after while a command runs.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// How long a healthy start may take.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Why a lab could not be built or used.
#[derive(Debug)]
pub enum LabError {
    /// The machine does not allow namespaces.
    Namespaces(NamespaceError),
    /// A step failed.
    Step {
        /// The step, in words.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespaces(error) => error.fmt(f),
            Self::Step { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl std::error::Error for LabError {}

impl From<NamespaceError> for LabError {
    fn from(error: NamespaceError) -> Self {
        Self::Namespaces(error)
    }
}

fn step(what: &'static str) -> impl FnOnce(io::Error) -> LabError {
    move |source| LabError::Step { what, source }
}

/// What is on the server side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// A namespace whose servers answer for every address of the lab's networks.
    #[default]
    Lab,
    /// The host's own network, through user-space address translation.
    Host,
}

/// Describes a lab.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    endpoints: usize,
    client_link: LinkConfig,
    server_link: LinkConfig,
    network: Network,
    gwlb: GwlbConfig,
    mtu: u32,
    allow_tun: bool,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            endpoints: 1,
            client_link: LinkConfig::default(),
            server_link: LinkConfig::default(),
            network: Network::default(),
            gwlb: GwlbConfig {
                client_networks: addresses::client_networks(),
                appliance: addresses::APPLIANCE,
                zones: addresses::ZONES.to_vec(),
                ports: (41_000..41_008).collect(),
                ..GwlbConfig::default()
            },
            mtu: MTU,
            allow_tun: true,
        }
    }
}

impl LabBuilder {
    /// How many endpoints, each with a client and a server host of the same addresses; at least one.
    #[must_use]
    pub fn endpoints(mut self, endpoints: usize) -> Self {
        self.endpoints = endpoints.max(1);
        self
    }

    /// The links of clients and of servers, each in both directions.
    #[must_use]
    pub fn links(mut self, client: LinkConfig, server: LinkConfig) -> Self {
        (self.client_link, self.server_link) = (client, server);
        self
    }

    /// What is on the server side.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Changes the load balancer: time-outs, zones, switches. Its endpoints are set by the lab.
    #[must_use]
    pub fn gwlb(mut self, change: impl FnOnce(&mut GwlbConfig)) -> Self {
        change(&mut self.gwlb);
        self
    }

    /// MTU of the hosts' devices, in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Uses virtual Ethernet pairs even where a TUN device is possible.
    #[must_use]
    pub fn without_tun(mut self) -> Self {
        self.allow_tun = false;
        self
    }

    /// Makes the namespaces and starts the packets' way. [`crate::netns::enter`] must have succeeded.
    ///
    /// # Errors
    /// The system refused a step.
    pub fn build(self) -> Result<Lab, LabError> {
        let mut gwlb = self.gwlb.clone();
        gwlb.endpoints = (1..=self.endpoints as u64)
            .map(|number| VpcEndpointId(0x00f1_0d09_0000_0000 + number))
            .collect();
        let appliance_namespace = Namespace::new("appliance")?;
        // Apart from the appliance, which may take port 6081 on every address it has.
        let gwlb_namespace = Namespace::new("load balancer")?;
        let zones: Vec<IpNet> = gwlb
            .zones
            .iter()
            .map(|zone| addresses::in_appliance_network(*zone))
            .collect();
        let appliance = [addresses::in_appliance_network(*gwlb.appliance.ip())];
        gwlb_namespace
            .join(&zones, &appliance_namespace, &appliance, JUMBO_MTU)
            .map_err(step("connect load balancer and appliance"))?;
        let mut hosts = Vec::new();
        let mut ports = Vec::new();
        let mut host_networks = Vec::new();
        for endpoint in 0..self.endpoints {
            let client = Namespace::new("client")?;
            let device = client
                .add_device(&addresses::client_interface(), self.mtu, self.allow_tun)
                .map_err(step("give the client a network device"))?;
            let device_kind = device.kind();
            ports.push(Port {
                endpoint,
                side: Side::Client,
                end: End::Device(device),
            });
            let server = Namespace::new("server")?;
            let end = match self.network {
                Network::Lab => End::Device(self.server_device(&server)?),
                Network::Host => {
                    let (network, end) = HostNetwork::start(self.mtu as usize)
                        .map_err(step("open a way to the host's network"))?;
                    host_networks.push(network);
                    End::Stack(end)
                }
            };
            ports.push(Port {
                endpoint,
                side: Side::Server,
                end,
            });
            hosts.push(Hosts {
                client,
                server,
                device_kind,
            });
        }
        let fabric = Fabric::new(gwlb, &self.client_link, &self.server_link);
        let driver = Driver::start(fabric, ports, Some(&gwlb_namespace))
            .map_err(step("open the load balancer's sockets"))?;
        let directory =
            TempDir::with_prefix("flowdog-lab-").map_err(step("make a temporary directory"))?;
        let resolver =
            Resolver::write(directory.path()).map_err(step("write the resolver's files"))?;
        Ok(Lab {
            appliance: None,
            driver,
            _host_networks: host_networks,
            hosts,
            appliance_namespace,
            resolver,
            directory,
            restarts: 0,
        })
    }
}

impl LabBuilder {
    /// Gives a server namespace its device, and makes it answer for every address of the lab.
    fn server_device(&self, server: &Namespace) -> Result<Device, LabError> {
        let device = server
            .add_device(&[], self.mtu, self.allow_tun)
            .map_err(step("give the server a network device"))?;
        for network in addresses::server_networks() {
            server
                .own_network(network)
                .map_err(step("route the lab's addresses to the server"))?;
        }
        for address in addresses::server_addresses() {
            server
                .add_loopback_address(address)
                .map_err(step("give the server an address"))?;
        }
        Ok(device)
    }
}

#[derive(Debug)]
struct Hosts {
    client: Namespace,
    server: Namespace,
    device_kind: DeviceKind,
}

/// A running lab. Dropping it ends the appliance, the packets and the namespaces.
#[derive(Debug)]
pub struct Lab {
    appliance: Option<Appliance>,
    driver: Driver,
    _host_networks: Vec<HostNetwork>,
    hosts: Vec<Hosts>,
    appliance_namespace: Namespace,
    resolver: Resolver,
    directory: TempDir,
    restarts: u64,
}

impl Lab {
    /// A lab with one endpoint and perfect links, to be changed.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.hosts.len()
    }

    /// The client host of an endpoint, counted from zero.
    #[must_use]
    pub fn client(&self, endpoint: usize) -> Option<&Namespace> {
        self.hosts.get(endpoint).map(|hosts| &hosts.client)
    }

    /// The server host of an endpoint, counted from zero; empty with [`Network::Host`].
    #[must_use]
    pub fn server(&self, endpoint: usize) -> Option<&Namespace> {
        self.hosts.get(endpoint).map(|hosts| &hosts.server)
    }

    /// Where the appliance runs.
    #[must_use]
    pub fn appliance_namespace(&self) -> &Namespace {
        &self.appliance_namespace
    }

    /// What the hosts' packets travel on.
    #[must_use]
    pub fn device_kind(&self) -> Option<DeviceKind> {
        self.hosts.first().map(|hosts| hosts.device_kind)
    }

    /// Starts the appliance and waits until `health` answers.
    ///
    /// # Errors
    /// It does not start or is not healthy in time.
    pub fn start_appliance(
        &mut self,
        command: ApplianceCommand,
        health: SocketAddr,
    ) -> Result<(), LabError> {
        let namespace = Some(&self.appliance_namespace);
        let mut appliance =
            Appliance::start(command, namespace).map_err(step("start the appliance"))?;
        appliance
            .wait_healthy(namespace, health, START_LIMIT)
            .map_err(step("start the appliance"))?;
        self.appliance = Some(appliance);
        Ok(())
    }

    /// The appliance, to signal or kill it.
    pub fn appliance_mut(&mut self) -> Option<&mut Appliance> {
        self.appliance.as_mut()
    }

    /// Kills the appliance and starts it again.
    ///
    /// # Errors
    /// It does not come back.
    pub fn restart_appliance(&mut self, health: SocketAddr) -> Result<(), LabError> {
        let namespace = Some(&self.appliance_namespace);
        if let Some(appliance) = self.appliance.as_mut() {
            appliance
                .restart(namespace)
                .map_err(step("restart the appliance"))?;
            appliance
                .wait_healthy(namespace, health, START_LIMIT)
                .map_err(step("restart the appliance"))?;
        }
        Ok(())
    }

    /// Starts a program as the client of an endpoint; `configure` may redirect its input and output.
    ///
    /// # Errors
    /// There is no such endpoint or program.
    pub fn spawn(
        &self,
        endpoint: usize,
        command: &[OsString],
        environment: &[(String, String)],
        configure: impl FnOnce(&mut Command) + Send,
    ) -> io::Result<Child> {
        let client = self.client_or_error(endpoint)?;
        command::spawn(client, &self.resolver, command, environment, configure)
    }

    /// Runs a program as the first client, on the caller's terminal, and waits for it. `roots` is
    /// the PEM file that it is told to trust; the file that [`PID_VARIABLE`] names tells the
    /// appliance's process id. An appliance that ends meanwhile is started anew.
    ///
    /// # Errors
    /// The program cannot be started, or the appliance cannot be started again.
    pub fn run_command(&mut self, command: &[OsString], roots: &Path) -> io::Result<ExitStatus> {
        let pid_file = self.directory.path().join("appliance.pid");
        let mut environment = command::certificate_environment(roots);
        environment.push((PID_VARIABLE.to_owned(), pid_file.display().to_string()));
        if let Some(appliance) = &self.appliance {
            write_pid(&pid_file, appliance)?;
        }
        let (appliance, restarts) = (&mut self.appliance, &mut self.restarts);
        let appliance_namespace = &self.appliance_namespace;
        let client = self
            .hosts
            .first()
            .map(|hosts| &hosts.client)
            .ok_or(io::ErrorKind::NotFound)?;
        let resolver = &self.resolver;
        std::thread::scope(|scope| {
            let running = scope.spawn(|| command::run(client, resolver, command, &environment));
            while !running.is_finished() {
                std::thread::sleep(WATCH_INTERVAL);
                let Some(appliance) = appliance.as_mut() else {
                    continue;
                };
                if let Some(status) = appliance.ended()? {
                    tracing::warn!(%status, "the appliance ended; starting it again");
                    appliance.restart(Some(appliance_namespace))?;
                    write_pid(&pid_file, appliance)?;
                    *restarts += 1;
                }
            }
            running
                .join()
                .map_err(|_panic| io::Error::other("the command's thread panicked"))?
        })
    }

    fn client_or_error(&self, endpoint: usize) -> io::Result<&Namespace> {
        self.client(endpoint).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no endpoint {endpoint}"),
            )
        })
    }

    /// A handle on the numbers and switches, usable from any thread.
    #[must_use]
    pub fn handle(&self) -> LabHandle {
        self.driver.handle().clone()
    }

    /// The numbers so far.
    #[must_use]
    pub fn report(&self) -> LabReport {
        LabReport {
            appliance_restarts: self.restarts,
            ..self.driver.handle().report()
        }
    }

    /// What the appliance's metrics page at `health` says at this moment; empty without an appliance.
    ///
    /// # Errors
    /// It does not answer.
    pub fn appliance_metrics(&self, health: SocketAddr) -> io::Result<BTreeMap<String, f64>> {
        match &self.appliance {
            Some(appliance) => appliance.metrics(Some(&self.appliance_namespace), health),
            None => Ok(BTreeMap::new()),
        }
    }
}

/// Tells a program in the lab which process to kill.
fn write_pid(file: &Path, appliance: &Appliance) -> io::Result<()> {
    // Readers must never see half a number.
    let new = file.with_extension("new");
    std::fs::write(&new, appliance.id().to_string())?;
    std::fs::rename(new, file)
}
