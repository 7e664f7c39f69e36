//! Origins and tour on kernel sockets in the lab's namespaces.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tokio::task::LocalSet;
use wire::gwlb::VpcEndpointId;

use crate::addresses::DNS_V4;
use crate::dns;
use crate::driver::LabHandle;
use crate::lab::Lab;
use crate::origins::{Origins, Sockets};
use crate::tour::{Connect, Environment, KernelConnect};

/// The thread that serves the origins of every endpoint; dropping it ends them.
#[derive(Debug)]
pub struct OriginServers {
    root_pem: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OriginServers {
    /// Binds the origins in every server namespace of a lab and serves them on a thread of their own.
    ///
    /// # Errors
    /// A port is taken, or no key could be made.
    pub fn start(lab: &Lab) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for server in (0..lab.endpoints()).filter_map(|endpoint| lab.server(endpoint)) {
            sockets.push(server.run(Sockets::bind)?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell_root, root) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("lab-origins".to_owned())
            .spawn(move || {
                let origins = match Origins::new() {
                    Ok(origins) => Rc::new(origins),
                    Err(error) => {
                        // The starter waits for one of the two and gives up on an error.
                        let _ = tell_root.send(Err(error));
                        return;
                    }
                };
                let _ = tell_root.send(Ok(origins.root_pem().to_owned()));
                let tasks = LocalSet::new();
                for sockets in sockets {
                    let origins = Rc::clone(&origins);
                    tasks.spawn_local(async move {
                        if let Err(error) = sockets.serve(origins).await {
                            tracing::error!(%error, "the lab's origins stopped");
                        }
                    });
                }
                // An error means that the handle is gone: the same as a message.
                let _ = tasks.block_on(&runtime, stopped);
            })?;
        let root_pem = root.recv().map_err(io::Error::other)??;
        Ok(Self {
            root_pem,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The root that origins' certificates lead to, in PEM: the appliance must trust it.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }
}

impl Drop for OriginServers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the lab's origins panicked");
        }
    }
}

/// The tour's surroundings in a lab of namespaces.
#[derive(Debug)]
pub struct KernelEnvironment {
    clients: Vec<KernelConnect>,
    endpoints: Vec<VpcEndpointId>,
    trusted_pem: String,
    handle: LabHandle,
}

impl KernelEnvironment {
    /// Clients in every client namespace of `lab` that trust `trusted_pem`.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new(lab: &Lab, trusted_pem: String) -> io::Result<Self> {
        let mut clients = Vec::new();
        for client in (0..lab.endpoints()).filter_map(|endpoint| lab.client(endpoint)) {
            let namespace = client.try_clone()?;
            let open = move |domain, kind: socket2::Type| {
                namespace.run(|| socket2::Socket::new(domain, kind.nonblocking().cloexec(), None))
            };
            clients.push(KernelConnect::with_sockets(
                SocketAddr::new(DNS_V4.into(), dns::PORT),
                Box::new(open),
            ));
        }
        let handle = lab.handle();
        let endpoints = handle.endpoints();
        Ok(Self {
            clients,
            endpoints,
            trusted_pem,
            handle,
        })
    }
}

impl Environment for KernelEnvironment {
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
