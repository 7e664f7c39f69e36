//! The capture service beside the appliance, on a thread of its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use capture::Address;
use capture::decrypted::Conversation;
use capture::hub::{Direction, Hub, Limits, Side, Totals};
use capture::names::{Names, Question};
use capture::service::{self, Access, pcap_over_ip};
use flowdog::config::{Capture, CaptureListen};
use flowdog::{
    ClearConnection, ClearText, Hosts, Leg, Outer, SecretFeed, Tap, TapMetric, VpcEndpointId,
};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// Secrets that may wait between the shards and the hub: some hundred handshakes.
const SECRETS: usize = 4096;

/// A running capture service. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    hub: Arc<Hub>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Opens the port that the configuration names, if it names one.
    pub(crate) fn start(config: &Capture) -> Result<Option<Self>> {
        let Some(listen) = &config.listen else {
            return Ok(None);
        };
        let address = match listen {
            CaptureListen::Unix(path) => Address::Unix(path.clone()),
            CaptureListen::Tcp(address) => Address::Tcp(*address),
        };
        let limits = Limits {
            readers: config.readers,
            queue: config.queue,
            queue_bytes: config.queue_memory.as_usize(),
            rate: config.rate.0 as u64,
        };
        let hub = Arc::new(Hub::new(limits, config.secrets));
        let access = Access {
            users: config.users.clone(),
            token: config.token_file.as_deref().map(token).transpose()?,
            certificate: config.client_ca.is_some(),
            anyone_on_loopback: config.anyone_on_loopback,
        };
        let tls = match &config.certificate {
            None => None,
            Some((certificate, key)) => Some(service::Tls {
                certificate: read("certificate", certificate)?,
                key: read("key", key)?.into(),
                client_ca: config
                    .client_ca
                    .as_deref()
                    .map(|file| read("client-ca", file))
                    .transpose()?,
            }),
        };
        let service = service::Service::open(Arc::clone(&hub), &address, access, tls)
            .with_context(|| format!("capture.listen: cannot open {address}"))?;
        tracing::info!(listen = %address, secrets = config.secrets, "capture service open");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the capture service")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let clear = config.pcap_over_ip.map(|address| {
            let listener = std::net::TcpListener::bind(address)
                .with_context(|| format!("capture.pcap-over-ip: cannot open {address}"));
            listener.map(|listener| (Arc::clone(&hub), listener))
        });
        let clear = clear.transpose()?;
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || {
                let served = runtime.block_on(async {
                    if let Some((hub, listener)) = clear {
                        // Ends with the runtime.
                        tokio::spawn(async move {
                            let never = std::future::pending();
                            if let Err(error) = pcap_over_ip::serve(hub, listener, never).await {
                                tracing::error!(%error, "pcap-over-ip ended");
                            }
                        });
                    }
                    let ends = async {
                        // Either way the appliance ends.
                        let _ = stopped.await;
                    };
                    service.serve(ends).await
                });
                if let Err(error) = served {
                    tracing::error!(%error, "the capture service ended");
                }
            })
            .context("cannot start the capture service")?;
        Ok(Some(Self {
            hub,
            stop: Some(stop),
            thread: Some(thread),
        }))
    }

    /// Gives the appliance what it must call.
    pub(crate) fn watch(&self, builder: flowdog::Builder) -> Result<flowdog::Builder> {
        let builder = builder.tap(Arc::new(HubTap(Arc::clone(&self.hub))));
        if !self.hub.gives_secrets() {
            return Ok(builder);
        }
        let (feed, secrets) = SecretFeed::new(SECRETS);
        // Without a reader that asks, no secret leaves its connection.
        feed.set_wanted(false);
        let gate = Arc::clone(&feed);
        self.hub
            .on_secrets_wanted(move |wanted| gate.set_wanted(wanted));
        let hub = Arc::clone(&self.hub);
        std::thread::Builder::new()
            .name("capture-secrets".to_owned())
            .spawn(move || {
                // Ends with the appliance, which holds the other end.
                while let Ok(secret) = secrets.recv() {
                    let side = match secret.leg {
                        Leg::Client => Side::Client,
                        Leg::Server => Side::Server,
                    };
                    hub.secret(side, &secret.label, &secret.client_random, &secret.secret);
                }
            })
            .context("cannot start the capture service")?;
        Ok(builder.secrets(feed))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Readers that are attached would be waited for; the process is ending anyway.
        drop(self.thread.take());
    }
}

/// The first thing to get wrong is a file that was never filled.
pub(crate) fn token(file: &Path) -> Result<Zeroizing<String>> {
    let text = Zeroizing::new(read("token-file", file)?);
    let token = text.trim();
    if token.is_empty() {
        bail!(
            "capture.token-file: {} is empty; write a long random word into it",
            file.display()
        );
    }
    Ok(Zeroizing::new(token.to_owned()))
}

fn read(key: &str, file: &Path) -> Result<String> {
    fs::read_to_string(file)
        .with_context(|| format!("capture.{key}: cannot read {}", file.display()))
}

/// The appliance's words for the hub's.
#[derive(Debug)]
struct HubTap(Arc<Hub>);

impl Tap for HubTap {
    fn is_watched(&self) -> bool {
        self.0.is_attached()
    }

    fn on_received(&self, _shard: usize, datagram: &[u8], outer: &Outer) {
        self.0
            .datagram(Direction::Received, datagram, outer.gwlb, outer.local);
    }

    fn on_sent(&self, _shard: usize, datagram: &[u8], outer: &Outer) {
        self.0
            .datagram(Direction::Sent, datagram, outer.gwlb, outer.local);
    }

    fn on_flow_opened(&self, endpoint: VpcEndpointId) {
        self.0.see_endpoint(endpoint);
    }

    fn on_start(&self, hosts: &Hosts) {
        self.0.set_names(Arc::new(HostNames(hosts.clone())));
    }

    fn on_clear(&self, connection: &ClearConnection) -> Option<Box<dyn ClearText>> {
        let side = match connection.leg {
            Leg::Client => Side::Client,
            Leg::Server => Side::Server,
        };
        self.0.wants_decrypted(side).then(|| {
            let conversation = Conversation::new(
                Arc::clone(&self.0),
                side,
                connection.endpoint,
                [connection.client, connection.server],
                connection.tls,
            );
            Box::new(Told(conversation)) as Box<dyn ClearText>
        })
    }

    fn metrics(&self) -> Vec<TapMetric> {
        let Totals {
            readers,
            refused,
            seen,
            dropped,
            secrets_dropped,
        } = self.0.totals();
        let counter = |name, help, value| TapMetric {
            name,
            kind: "counter",
            help,
            value,
        };
        vec![
            TapMetric {
                name: "flowdog_capture_readers",
                kind: "gauge",
                help: "Readers of the capture service.",
                value: readers as u64,
            },
            counter(
                "flowdog_capture_readers_refused_total",
                "Readers refused because there were too many.",
                refused,
            ),
            counter(
                "flowdog_capture_packets_total",
                "Packets that a reader's filter let through.",
                seen,
            ),
            counter(
                "flowdog_capture_packets_dropped_total",
                "Of these, lost because the reader or its rate was too slow.",
                dropped,
            ),
            counter(
                "flowdog_capture_secrets_dropped_total",
                "TLS secrets that found no room in a reader's queue.",
                secrets_dropped,
            ),
        ]
    }
}

/// A connection's cleartext on its way to readers.
#[derive(Debug)]
struct Told(Conversation);

impl ClearText for Told {
    fn said(&mut self, by_client: bool, bytes: &[u8]) {
        self.0.said(by_client, bytes);
    }

    fn finished(&mut self, by_client: bool) {
        self.0.finished(by_client);
    }
}

/// The appliance's directory for the hub's filters.
#[derive(Debug)]
struct HostNames(Hosts);

impl Names for HostNames {
    fn is(
        &self,
        endpoint: VpcEndpointId,
        address: std::net::IpAddr,
        question: Question<'_>,
    ) -> bool {
        let answer = self.0.host(endpoint, address, |host| match question {
            Question::Instance(id) => host.instance_id.as_deref() == Some(id),
            Question::Tag(key, value) => {
                host.tags.get(key).is_some_and(|found| value.matches(found))
            }
        });
        answer.unwrap_or(false)
    }

    fn endpoint(&self, endpoint: VpcEndpointId) -> Option<String> {
        self.0.endpoint_name(endpoint)
    }
}
