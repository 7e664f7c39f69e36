//! The origins and the tour's client on kernel sockets, in one namespace and with nothing in between.
//!
//! Has its own `main`: user namespaces can only be entered while the process has one thread.
#![expect(
    clippy::print_stdout,
    reason = "a test harness of its own tells what it ran"
)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use flowdog_lab::addresses::{DNS_V4, DNS_V6, server_networks};
use flowdog_lab::dns;
use flowdog_lab::netns::{self, Namespace};
use flowdog_lab::origins::{Origins, Sockets};
use flowdog_lab::tour::{self, Connect, Environment, KernelConnect, Style, open_socket};
use tokio::task::LocalSet;
use wire::gwlb::VpcEndpointId;

mod harness;

use harness::Outcome;

const TEST: &str = "the_steps_that_need_no_appliance_are_right_on_kernel_sockets";

/// What the origins and the kernel do by themselves.
const RIGHT: [&str; 8] = [
    "The server sees the client itself",
    "Server-sent events arrive as they are sent",
    "A server that speaks first",
    "A protocol that nobody knows",
    "UDP",
    "A closed port",
    "20 MB down",
    "20 MB up",
];

fn main() -> ExitCode {
    harness::run(&[(TEST, test)])
}

fn test() -> Outcome {
    let namespace = Rc::new(Namespace::new("all")?);
    for network in server_networks() {
        namespace.own_network(network)?;
    }
    for address in [DNS_V4.into(), DNS_V6.into()] {
        namespace.add_loopback_address(address)?;
    }
    let sockets = namespace.run(Sockets::bind)?;
    let origins = Rc::new(Origins::new()?);
    let root = origins.root_pem().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut out = Vec::new();
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(async move {
            if let Err(error) = sockets.serve(origins).await {
                eprintln!("the origins ended: {error}");
            }
        });
        for server in [DNS_V4.into(), DNS_V6.into()] {
            let client = host(&namespace, server);
            let found = client.resolve("any.lab.name").await?;
            if Some(found) != dns::addresses("any.lab.name") {
                return Err(format!("{server} answered otherwise").into());
            }
            if client.resolve("example.com").await.is_ok() {
                return Err("example.com was found".into());
            }
        }
        let environment = OneHost {
            client: host(&namespace, DNS_V4.into()),
            root,
        };
        let all_right = tour::run(&environment, Style::Json, &mut out).await?;
        if all_right {
            return Err("there is no appliance, and yet all was right".into());
        }
        Ok::<(), Box<dyn std::error::Error>>(())
    })?;
    let told = String::from_utf8(out)?;
    for title in RIGHT {
        let step = told
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|step| step["step"] == title)
            .ok_or_else(|| format!("no step {title:?}"))?;
        if step["outcome"] != "right" {
            return Err(format!("{step:#}").into());
        }
    }
    Ok(())
}

/// A client in the namespace that asks the name server at an address.
fn host(namespace: &Rc<Namespace>, dns_server: std::net::IpAddr) -> KernelConnect {
    let namespace = Rc::clone(namespace);
    KernelConnect::with_sockets(
        SocketAddr::new(dns_server, dns::PORT),
        Box::new(move |domain, kind| namespace.run(|| open_socket(domain, kind))),
    )
}

struct OneHost {
    client: KernelConnect,
    root: String,
}

impl Environment for OneHost {
    fn clients(&self) -> Vec<&dyn Connect> {
        vec![&self.client]
    }

    fn endpoint(&self, _client: usize) -> VpcEndpointId {
        VpcEndpointId(1)
    }

    fn trusted_pem(&self) -> &str {
        &self.root
    }
}
