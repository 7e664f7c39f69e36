//! Origins and tour on user-space hosts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use wire::gwlb::VpcEndpointId;

use crate::addresses::DNS_V4;
use crate::dns;
use crate::driver::LabHandle;
use crate::origins::{Ends, Origins, Service};
use crate::sim::Side;
use crate::stack::{Arrivals, Datagram, Stack, StackStream};
use crate::tour::{Connect, Environment, Stream};
use crate::userspace::UserspaceLab;

/// How long a TCP handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait for a datagram's answer, and how often to ask.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 4;

/// Serves the origins at a host until its packets end; must run inside a [`tokio::task::LocalSet`].
pub async fn serve_user_space(origins: Rc<Origins>, stack: Stack, mut arrivals: Arrivals) {
    loop {
        tokio::select! {
            Some(incoming) = arrivals.connections.recv() => {
                let Some(service) = Service::on_port(incoming.server.port()) else {
                    incoming.refuse();
                    continue;
                };
                let origins = Rc::clone(&origins);
                tokio::task::spawn_local(async move {
                    let ends = Ends { peer: incoming.client, local: incoming.server };
                    let served = match incoming.accept().await {
                        Ok(stream) => origins.serve_connection(service, stream, ends).await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = served {
                        tracing::debug!(%error, ?service, "connection to an origin ended");
                    }
                });
            }
            Some(question) = arrivals.datagrams.recv() => {
                let payload = match question.destination.port() {
                    dns::PORT => dns::answer(&question.payload),
                    Service::UDP_ECHO_PORT => Some(question.payload),
                    _ => None,
                };
                if let Some(payload) = payload {
                    let answer = Datagram { source: question.destination, destination: question.source, payload };
                    if let Err(error) = stack.send_datagram(&answer) {
                        tracing::debug!(%error, "datagram not answered");
                    }
                }
            }
            else => return,
        }
    }
}

/// The tour's surroundings in a lab without namespaces.
#[derive(Debug)]
pub struct UserspaceEnvironment {
    clients: Vec<StackConnect>,
    endpoints: Vec<VpcEndpointId>,
    trusted_pem: String,
    handle: LabHandle,
}

impl UserspaceEnvironment {
    /// Clients at every endpoint of `lab` that trust `trusted_pem`. Takes what arrives at the clients.
    #[must_use]
    pub fn new(lab: &mut UserspaceLab, trusted_pem: String) -> Self {
        let mut clients = Vec::new();
        let handle = lab.handle();
        let endpoints = handle.endpoints();
        for endpoint in 0..endpoints.len() {
            if let Some(arrivals) = lab.take_arrivals(endpoint, Side::Client)
                && let Some(stack) = lab.client(endpoint)
            {
                clients.push(StackConnect {
                    stack: stack.clone(),
                    datagrams: Mutex::new(arrivals.datagrams),
                });
            }
        }
        Self {
            clients,
            endpoints,
            trusted_pem,
            handle,
        }
    }
}

impl Environment for UserspaceEnvironment {
    fn clients(&self) -> Vec<&dyn Connect> {
        self.clients
            .iter()
            .map(|client| client as &dyn Connect)
            .collect()
    }

    fn endpoint(&self, client: usize) -> VpcEndpointId {
        self.endpoints
            .get(client)
            .copied()
            .unwrap_or(VpcEndpointId(0))
    }

    fn trusted_pem(&self) -> &str {
        &self.trusted_pem
    }

    fn violations(&self) -> Option<u64> {
        Some(self.handle.report().violations.total())
    }
}

#[derive(Debug)]
struct StackConnect {
    stack: Stack,
    /// One question at a time: whoever asks holds the receiver until the answer.
    datagrams: Mutex<mpsc::Receiver<Datagram>>,
}

impl Stream for StackStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(Self::local_addr(self))
    }
}

#[async_trait(?Send)]
impl Connect for StackConnect {
    async fn tcp(&self, to: SocketAddr, from_port: Option<u16>) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(
            self.stack
                .connect_from(from_port, to, CONNECT_LIMIT)
                .await?,
        ))
    }

    async fn udp(&self, to: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
        let mut datagrams = self.datagrams.lock().await;
        let source = self.stack.source_for(to)?;
        let question = Datagram {
            source,
            destination: to,
            payload: payload.to_vec(),
        };
        for _ in 0..ATTEMPTS {
            self.stack.send_datagram(&question)?;
            let answer = async {
                while let Some(answer) = datagrams.recv().await {
                    if answer.source == to && answer.destination == source {
                        return Some(answer.payload);
                    }
                }
                None
            };
            if let Ok(answer) = tokio::time::timeout(ANSWER_LIMIT, answer).await {
                return answer.ok_or_else(|| io::ErrorKind::BrokenPipe.into());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let server = SocketAddr::new(DNS_V4.into(), dns::PORT);
        let mut found = Vec::new();
        for (id, v6) in [(4, false), (6, true)] {
            let answer = self.udp(server, &dns::query(id, name, v6)).await?;
            found.extend(dns::parse_answer(id, &answer).ok_or(io::ErrorKind::NotFound)?);
        }
        Ok(found)
    }
}
