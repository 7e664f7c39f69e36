//! Puts the parts together, runs them, and takes them apart again in good order.

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use sdk::{HookKind, InterceptorKind, Sink};
use tokio::sync::{mpsc, oneshot};

use crate::acceptor::Desk;
use crate::config::{Config, Ec2Place, Faults, Kinds};
use crate::control_socket::{self, ControlSocket};
use crate::directory::Lookup;
#[cfg(feature = "aws")]
use crate::directory::refresh::Refresh;
use crate::flow_log::{FlowLog, Keeper};
use crate::health::{self, State};
use crate::process;
use crate::records::Records;
use crate::renewal::Renewal;
use crate::retired::{self, Retired};
use crate::secrets::{SecretFeed, Secrets};
use crate::shard::{self, Command, Pulse, ShardParts};
use crate::socket::reply::ReplySockets;
use crate::socket::send::Sender;
use crate::socket::{self, PacketSocket, Wish, steer};
use crate::stream::Clock;
use crate::tap::{Hosts, OptionalTap, Tap};
use crate::telemetry::{self, Telemetry};

/// Commands that may wait for a shard; they are few and answered at once.
const COMMANDS: usize = 64;
/// How long the end of the appliance waits for what interceptors keep to be delivered.
const LAST_DELIVERY: Duration = Duration::from_secs(15);
/// Datagrams that may wait to be handed from one shard to another.
const STRAYS: usize = 1024;

/// An appliance that is ready to run: its ports are open, no packet has been looked at.
#[derive(Debug)]
pub struct Appliance {
    config: Arc<ArcSwap<Config>>,
    file: Option<PathBuf>,
    kinds: Vec<InterceptorKind>,
    hook_kinds: Vec<HookKind>,
    tap: OptionalTap,
    secrets: Option<Arc<SecretFeed>>,
    sinks: Vec<Arc<dyn Sink>>,
    sockets: Vec<PacketSocket>,
    listener: std::net::TcpListener,
    control: Option<ControlSocket>,
}

/// Says what an appliance is made of.
#[derive(Debug, Default)]
pub struct Builder {
    config: Config,
    file: Option<PathBuf>,
    kinds: Vec<InterceptorKind>,
    hook_kinds: Vec<HookKind>,
    tap: OptionalTap,
    secrets: Option<Arc<SecretFeed>>,
    sinks: Vec<Arc<dyn Sink>>,
}

/// Why an appliance cannot start or had to stop.
#[derive(Debug)]
pub enum RunError {
    /// A port cannot be opened.
    Open {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's word.
        error: io::Error,
    },
    /// A thread, a runtime or a signal handler cannot be had.
    System(io::Error),
    /// The file of the flow log cannot be written.
    FlowLog(io::Error),
    /// The file of the records cannot be written.
    Records(io::Error),
    /// The control socket cannot be made.
    Control {
        /// Where.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// The certificate authority's key signs nothing, and the configuration says to refuse then.
    Authority(String),
    /// A shard's thread ended by itself.
    ShardEnded(usize),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open {
                key,
                address,
                error,
            } => {
                write!(f, "{key}: cannot open {address}: {error}")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        f.write_str("; another program has it: stop that one, or choose another")
                    }
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE")
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("; no interface of this host has that address")
                    }
                    _ => Ok(()),
                }
            }
            Self::System(error) => write!(f, "cannot start: {error}"),
            Self::Control { path, error } => write!(
                f,
                "control.socket: cannot make {}: {error}; its folder must be there, and no other appliance may use it",
                path.display()
            ),
            Self::FlowLog(error) => write!(f, "cannot write to flow-log.output: {error}"),
            Self::Records(error) => write!(f, "cannot write to records.output: {error}"),
            Self::Authority(error) => write!(
                f,
                "tls.ca: {error}; `when-away = \"bypass\"` starts without TLS interception"
            ),
            Self::ShardEnded(index) => {
                write!(f, "shard {index} ended unexpectedly; see the log above")
            }
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { error, .. }
            | Self::System(error)
            | Self::FlowLog(error)
            | Self::Records(error)
            | Self::Control { error, .. } => Some(error),
            Self::Authority(_) | Self::ShardEnded(_) => None,
        }
    }
}

impl Builder {
    /// The configuration to run with. Without it, everything is passed.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The file that [`Running::reload`] and SIGHUP read again.
    #[must_use]
    pub fn config_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// A kind of interceptor that a reloaded configuration may use. Give the same ones to
    /// [`Config::load`].
    #[must_use]
    pub fn kind(mut self, kind: InterceptorKind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Several kinds.
    #[must_use]
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = InterceptorKind>) -> Self {
        self.kinds.extend(kinds);
        self
    }

    /// A kind of hook beside the built-in ones that a reloaded configuration may use. Give the same
    /// to [`Config::load`], with [`Kinds::with_hooks`].
    #[must_use]
    pub fn hook_kind(mut self, kind: HookKind) -> Self {
        self.hook_kinds.push(kind);
        self
    }

    /// Someone who watches packets before and after rewriting.
    #[must_use]
    pub fn tap(mut self, tap: Arc<dyn Tap>) -> Self {
        self.tap = Some(tap);
        self
    }

    /// Someone who reads what decrypts intercepted flows. Their secrets leave the impersonator for no
    /// other reason than this and `[tls.key-log]`.
    #[must_use]
    pub fn secrets(mut self, feed: Arc<SecretFeed>) -> Self {
        self.secrets = Some(feed);
        self
    }

    /// Someone who keeps the records of flows, beside what `[flow-log]` says. Each sink has a queue of
    /// `flow-log.queue` records and a thread of its own.
    #[must_use]
    pub fn sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Opens the ports.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub fn build(self) -> Result<Appliance, RunError> {
        let gwlb = &self.config.gwlb;
        let open_error = |error| RunError::Open {
            key: "gwlb.listen",
            address: gwlb.listen.into(),
            error,
        };
        process::raise_descriptor_limit();
        if let Err(error) = process::forbid_core_dumps() {
            tracing::warn!(%error, "core dumps are not forbidden: they would hold keys");
        }
        let shared = gwlb.shards > 1;
        let mut wish = Wish {
            listen: gwlb.listen,
            receive_buffer: gwlb.receive_buffer.as_usize(),
            send_buffer: gwlb.send_buffer.as_usize(),
            shared: false,
        };
        // Sockets that share a port also share it with another instance of this program, silently.
        // The first is therefore opened alone, to learn whether the port is free.
        let alone = PacketSocket::open(&wish).map_err(open_error)?;
        let mut sockets = Vec::new();
        if shared {
            wish.listen = alone.listen();
            wish.shared = true;
            drop(alone);
            for _ in 0..gwlb.shards {
                sockets.push(PacketSocket::open(&wish).map_err(open_error)?);
            }
            if let Some(first) = sockets.first()
                && let Err(error) = steer::attach(first, gwlb.shards)
            {
                // The shards then hand packets over among themselves.
                tracing::warn!(%error, "the kernel does not steer packets to shards");
            }
        } else {
            sockets.push(alone);
        }
        let address = self.config.health.listen;
        let listener = health::listen(address).map_err(|error| RunError::Open {
            key: "health.listen",
            address,
            error,
        })?;
        let control = self.config.control.as_deref().map(|path| {
            control_socket::listen(path).map_err(|error| RunError::Control {
                path: path.to_owned(),
                error,
            })
        });
        let control = control.transpose()?;
        Ok(Appliance {
            config: Arc::new(ArcSwap::from_pointee(self.config)),
            file: self.file,
            kinds: self.kinds,
            hook_kinds: self.hook_kinds,
            tap: self.tap,
            secrets: self.secrets,
            sinks: self.sinks,
            sockets,
            listener,
            control,
        })
    }
}

impl Appliance {
    /// Begins to say what an appliance is made of.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where packets are received, with the real port if the configured one was 0.
    pub fn gwlb_address(&self) -> Option<SocketAddrV4> {
        self.sockets.first().map(PacketSocket::listen)
    }

    /// Where health checks are answered, with the real port if the configured one was 0.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Runs until SIGTERM or SIGINT, drains, and returns. SIGHUP reloads the configuration.
    /// Must not be called from within an async runtime.
    ///
    /// # Errors
    /// When a part cannot be started, or ends by itself.
    pub fn run(self) -> Result<(), RunError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RunError::System)?;
        runtime.block_on(async move {
            // Before the shards start: a signal that comes early must not kill the process.
            let signals = crate::control::Signals::install().map_err(RunError::System)?;
            let running = self.start()?;
            crate::control::run(running, signals).await
        })
    }

    /// Starts the threads and returns at once; for tests and for programs with signals of their own.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(self) -> Result<Running, RunError> {
        let config = self.config.load_full();
        crate::renewal::prepare(&config, None).map_err(RunError::Authority)?;
        let clock = Clock::start();
        let telemetry = Arc::new(Telemetry::default());
        log_start(&config, &self.sockets, self.health_address());

        let desk = Desk::start().map_err(RunError::System)?;
        let places = config.ec2.iter().flat_map(|ec2| &ec2.sources);
        let directory = Arc::new(Lookup::new(places.map(Ec2Place::name)));
        #[cfg(feature = "aws")]
        let refresh = match &config.ec2 {
            Some(ec2) => Some(Refresh::start(ec2, &directory).map_err(RunError::System)?),
            None => None,
        };
        if let Some(tap) = &self.tap {
            tap.on_start(&Hosts::new(Arc::clone(&directory)));
        }
        let (flow_log, keeper) = FlowLog::start(&config.flow_log, &self.sinks, &telemetry)
            .map_err(RunError::FlowLog)?
            .unzip();
        let records = Records::start(&config.records, &telemetry).map_err(RunError::Records)?;
        connect(&config, records.as_ref());
        let count = self.sockets.len();
        let (mut stray_senders, mut stray_receivers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (sender, receiver) = mpsc::channel(STRAYS);
            stray_senders.push(sender);
            stray_receivers.push(receiver);
        }
        let (mut pulses, mut commands, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (socket, strays)) in self.sockets.into_iter().zip(stray_receivers).enumerate() {
            let pulse = Arc::new(Pulse::default());
            let (sender, receiver) = mpsc::channel(COMMANDS);
            let gwlb = &config.gwlb;
            let replies =
                ReplySockets::new(gwlb.reply, gwlb.reply_sockets, gwlb.send_buffer.as_usize())
                    .map_err(|error| RunError::Open {
                        key: "gwlb.reply",
                        address: gwlb.listen.into(),
                        error,
                    })?;
            let parts = ShardParts {
                index,
                sender: Sender::new(replies, socket.listen().port()),
                socket,
                config: Arc::clone(&self.config),
                telemetry: Arc::clone(&telemetry),
                desk: desk.clone(),
                directory: Arc::clone(&directory),
                flow_log: flow_log.clone(),
                records: records.as_ref().map(Records::queue),
                tap: self.tap.clone(),
                secrets: Secrets::new(index, self.secrets.clone()),
                pulse: Arc::clone(&pulse),
                commands: receiver,
                strays,
                others: stray_senders.clone(),
                seed: random_seed().map_err(RunError::System)?,
            };
            threads.push(shard::spawn(parts, clock).map_err(RunError::System)?);
            pulses.push(pulse);
            commands.push(sender);
        }
        wait_for_first_turn(&pulses, clock);
        let state = Arc::new(State {
            clock,
            config: Arc::clone(&self.config),
            telemetry,
            directory,
            tap: self.tap,
            pulses,
            commands,
            secrets: self.secrets,
            draining: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        });
        #[cfg(feature = "script")]
        script::start();
        let renewal = Renewal::spawn(Arc::clone(&self.config)).map_err(RunError::System)?;
        let (stop, stopped) = oneshot::channel();
        let health =
            health::spawn(self.listener, Arc::clone(&state), stopped).map_err(RunError::System)?;
        let control = self.control.map(|socket| {
            let (stop, stopped) = oneshot::channel();
            let thread = control_socket::spawn(socket, Arc::clone(&state), stopped);
            thread.map(|thread| (stop, thread))
        });
        let control = control.transpose().map_err(RunError::System)?;
        Ok(Running {
            state,
            control,
            file: self.file,
            kinds: self.kinds,
            hook_kinds: self.hook_kinds,
            threads,
            flow_log: keeper,
            _renewal: renewal,
            #[cfg(feature = "aws")]
            _refresh: refresh,
            records,
            health: Some((stop, health)),
            retired: Retired::default(),
        })
    }
}

/// An appliance at work.
#[derive(Debug)]
pub struct Running {
    state: Arc<State>,
    file: Option<PathBuf>,
    kinds: Vec<InterceptorKind>,
    hook_kinds: Vec<HookKind>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    flow_log: Option<Keeper>,
    /// Ends with the appliance.
    _renewal: Renewal,
    /// The same.
    #[cfg(feature = "aws")]
    _refresh: Option<Refresh>,
    /// Written to the end after the last shard has ended.
    records: Option<Records>,
    health: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    control: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    /// What configurations that were replaced still have to deliver.
    retired: Retired,
}

impl Running {
    /// Reads the configuration file again. Flows that are intercepted keep the configuration they
    /// began with; the next one has the new.
    ///
    /// # Errors
    /// Everything that is wrong with the file; the configuration before stays in force.
    pub fn reload(&self) -> Result<(), Faults> {
        let Some(file) = &self.file else {
            tracing::warn!("there is no configuration file to read again");
            return Ok(());
        };
        if let Some(log) = &self.flow_log {
            // Also when the file turns out faulty: whoever moved the log away waits for a new one.
            log.reopen();
        }
        let before = self.state.config.load_full();
        let kinds = Kinds::from(&self.kinds).with_hooks(self.hook_kinds.iter().copied());
        let loaded = Config::load(file, kinds).and_then(|config| {
            crate::renewal::prepare(&config, Some(&before))
                .map_err(|error| Faults::about(file, "tls.ca", error))?;
            Ok(config)
        });
        match loaded {
            Ok(config) => {
                warn_about_restart(&self.state.config.load(), &config);
                connect(&config, self.records.as_ref());
                self.state.config.store(Arc::new(config));
                self.retired.add(outlets(&before));
                telemetry::add(&self.state.telemetry.reloads);
                tracing::info!(file = %file.display(), "configuration reloaded");
                Ok(())
            }
            Err(faults) => {
                telemetry::add(&self.state.telemetry.reload_failures);
                for fault in faults.iter() {
                    tracing::error!(%fault, "configuration not reloaded");
                }
                Err(faults)
            }
        }
    }

    /// Health checks fail from here on, and nothing more is intercepted.
    pub fn begin_drain(&self) {
        self.state.draining.store(true, Ordering::Relaxed);
        self.tell(|| Command::BeginDrain);
    }

    /// Resets every intercepted flow, at both ends.
    pub fn reset_all(&self) {
        self.tell(|| Command::ResetAll);
    }

    /// Ends all threads and waits for them.
    pub fn stop(mut self) {
        self.end();
    }

    /// How many flows are intercepted; `None` while a shard does not answer.
    pub(crate) async fn intercepted(&self) -> Option<usize> {
        let snapshots = self.state.snapshots().await;
        (snapshots.len() == self.state.commands.len()).then(|| {
            snapshots
                .iter()
                .map(|snapshot| snapshot.flows_intercepted)
                .sum()
        })
    }

    /// Looks after what goes on beside flows; called ten times a second.
    pub(crate) fn tend(&self) {
        self.retired.tend();
    }

    /// The first shard whose thread has ended; health checks fail once there is one.
    pub(crate) fn ended_shard(&self) -> Option<usize> {
        let ended = self.threads.iter().position(JoinHandle::is_finished);
        if ended.is_some() {
            self.state.broken.store(true, Ordering::Relaxed);
        }
        ended
    }

    /// The timing of a drain, as configured.
    pub(crate) fn drain_times(&self) -> (Duration, Duration) {
        let config = self.state.config.load();
        (config.drain.deadline, config.drain.grace)
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for (index, commands) in self.state.commands.iter().enumerate() {
            if commands.try_send(command()).is_err() {
                tracing::warn!(shard = index, "the shard takes no commands");
            }
        }
    }

    fn end(&mut self) {
        self.tell(|| Command::Stop);
        for (index, thread) in self.threads.drain(..).enumerate() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(shard = index, %error, "shard failed"),
                Err(_) => tracing::error!(shard = index, "shard panicked"),
            }
        }
        if let Some(log) = self.flow_log.take() {
            log.finish();
        }
        let mut outlets = outlets(&self.state.config.load());
        outlets.extend(self.retired.take());
        // After the last flow, which may have had something to keep.
        retired::finish(&outlets, LAST_DELIVERY);
        drop(self.records.take());
        for (stop, thread) in [self.control.take(), self.health.take()]
            .into_iter()
            .flatten()
        {
            // An error means that the thread is gone already.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() || self.health.is_some() {
            self.end();
        }
    }
}

/// What takes what the interceptors of a configuration keep.
fn outlets(config: &Config) -> Vec<Arc<dyn sdk::Outlet>> {
    let links = config.interceptors.iter();
    links.flat_map(sdk::Link::outlets).collect()
}

/// Tells interceptors where records go.
fn connect(config: &Config, records: Option<&Records>) {
    if let Some(records) = records {
        let queue = records.queue();
        for link in &config.interceptors {
            link.connect(&queue);
        }
    }
}

/// The first health check must not come before the shards are there. One that never comes is told
/// by the checks.
fn wait_for_first_turn(pulses: &[Arc<Pulse>], clock: Clock) {
    for _ in 0..2000 {
        if pulses.iter().all(|pulse| pulse.age(&clock).is_some()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn log_start(config: &Config, sockets: &[PacketSocket], health: Option<SocketAddr>) {
    for (index, socket) in sockets.iter().enumerate() {
        let granted = socket.granted();
        tracing::info!(
            shard = index,
            listen = %socket.listen(),
            receive_buffer = granted.receive_buffer,
            send_buffer = granted.send_buffer,
            gro = granted.gro,
            "packet socket open"
        );
        if granted.receive_buffer < config.gwlb.receive_buffer.0 {
            tracing::warn!(
                asked = config.gwlb.receive_buffer.0,
                granted = granted.receive_buffer,
                "the receive buffer is smaller than asked for, and bursts may be lost: raise net.core.rmem_max, or give CAP_NET_ADMIN"
            );
        }
    }
    for (interface, mtu) in socket::small_mtu(*config.gwlb.listen.ip()) {
        tracing::warn!(
            interface,
            mtu,
            "the MTU is below 8568: inner packets of up to 8500 bytes do not fit behind a Gateway Load Balancer"
        );
    }
    if let Some(health) = health {
        tracing::info!(listen = %health, "health checks and metrics");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        shards = sockets.len(),
        rules = config.rules.len(),
        interceptors = config.interceptors.len(),
        tls = config.tls.impersonator.is_some(),
        "flowdog is running"
    );
}

/// Keys that are read once, at the start.
fn warn_about_restart(old: &Config, new: &Config) {
    let text = |config: &Config| {
        [
            (
                "gwlb",
                format!(
                    "{:?}",
                    (
                        config.gwlb.listen,
                        config.gwlb.shards,
                        config.gwlb.receive_buffer,
                        config.gwlb.send_buffer,
                        config.gwlb.reply,
                        config.gwlb.reply_sockets
                    )
                ),
            ),
            ("flows", format!("{:?}", config.flows)),
            ("ec2", format!("{:?}", config.ec2)),
            ("flow-log", format!("{:?}", config.flow_log)),
            ("records", format!("{:?}", config.records)),
            ("control", format!("{:?}", config.control)),
            ("health.listen", format!("{:?}", config.health.listen)),
            ("log", format!("{:?}", config.log)),
            ("capture", format!("{:?}", config.capture)),
        ]
    };
    for ((key, before), (_, after)) in text(old).into_iter().zip(text(new)) {
        if before != after {
            tracing::warn!(key, "the change takes effect at the next start");
        }
    }
}

/// Keys the flow table's hash, so that nobody outside can aim at one bucket.
fn random_seed() -> io::Result<u64> {
    use rand::TryRngCore as _;
    rand::rngs::OsRng.try_next_u64().map_err(io::Error::other)
}
