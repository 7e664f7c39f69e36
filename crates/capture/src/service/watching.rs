//! `flowdog.capture.v1.Capture`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wire::gwlb::VpcEndpointId;

use super::access::Access;
use crate::decrypted::MadeUp;
use crate::filter::Filter;
use crate::hub::{Counts, Direction, Hub, Seen, Side, Subject, Subscription, Wish};
use crate::proto::{
    self, CheckFilterRequest, CheckFilterResponse, DescribeRequest, DescribeResponse, WatchRequest,
    WatchResponse, capture_server, watch_response,
};
use crate::watch::{Item, Options, Packet, Watch};

/// Answers that may wait in the transport; the bounded queue proper is the hub's.
const ANSWERS: usize = 64;
/// How often a reader is told its statistics.
const TELL: Duration = Duration::from_secs(1);

pub(super) struct Watching {
    hub: Arc<Hub>,
    access: Arc<Access>,
}

impl Watching {
    pub(super) fn new(hub: Arc<Hub>, access: Arc<Access>) -> Self {
        Self { hub, access }
    }
}

#[tonic::async_trait]
impl capture_server::Capture for Watching {
    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        self.access
            .check(request.metadata(), request.extensions())?;
        let names = self.hub.names();
        let endpoints = self.hub.endpoints().into_iter().map(|id| proto::Endpoint {
            id: id.0,
            name: id.to_string(),
            label: names
                .and_then(|names| names.endpoint(id))
                .unwrap_or_default(),
        });
        Ok(Response::new(DescribeResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: hostname(),
            endpoints: endpoints.collect(),
            secrets: self.hub.gives_secrets(),
        }))
    }

    async fn check_filter(
        &self,
        request: Request<CheckFilterRequest>,
    ) -> Result<Response<CheckFilterResponse>, Status> {
        self.access
            .check(request.metadata(), request.extensions())?;
        let answer = match Filter::parse(&request.get_ref().filter) {
            Ok(_) => CheckFilterResponse {
                valid: true,
                ..CheckFilterResponse::default()
            },
            Err(error) => CheckFilterResponse {
                valid: false,
                position: u32::try_from(error.position).unwrap_or(u32::MAX),
                message: error.message,
            },
        };
        Ok(Response::new(answer))
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = self
            .access
            .check(request.metadata(), request.extensions())?;
        let request = request.into_inner();
        let filter = parse(&request.filter)?;
        let (subject, sides, outer) = sides(&request)?;
        if subject != Subject::Datagrams && filter.asks_server_name() {
            return Err(Status::invalid_argument(
                "filter: `sni` needs the packets themselves; what is decrypted has no ClientHello",
            ));
        }
        let secrets = request.secrets && self.hub.gives_secrets() && subject == Subject::Datagrams;
        let wish = Wish {
            subject,
            filter: filter.clone(),
            endpoint: (request.endpoint != 0).then_some(VpcEndpointId(request.endpoint)),
            secrets,
        };
        let options = Options {
            sides,
            outer,
            sample: request.sample,
            secrets,
            filter,
            names: self.hub.names().cloned(),
        };
        let subscription = attach(&self.hub, wish, &peer, &request.filter)?;
        let sample = u64::from(request.sample).max(1);
        let form = Form {
            snap_length: usize::try_from(request.snap_length)
                .ok()
                .filter(|length| *length > 0)
                .unwrap_or(usize::MAX),
            sides: options.sides.clone(),
            outer,
        };
        let (answers, stream) = mpsc::channel(ANSWERS);
        tokio::spawn(async move {
            run(
                subscription,
                Watch::new(options),
                answers,
                |item, answers| {
                    form.write(item, answers);
                },
                |packet| {
                    let shown = packet.flow.is_multiple_of(sample);
                    shown.then(|| form.made_up(packet))
                },
            )
            .await;
            tracing::info!(target: "audit", peer, "capture detached");
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

pub(super) fn parse(filter: &str) -> Result<Filter, Status> {
    Filter::parse(filter).map_err(|error| Status::invalid_argument(format!("filter: {error}")))
}

pub(super) fn attach(
    hub: &Arc<Hub>,
    wish: Wish,
    peer: &str,
    filter: &str,
) -> Result<Subscription, Status> {
    let (endpoint, secrets) = (wish.endpoint, wish.secrets && hub.gives_secrets());
    let subscription = hub.attach(wish).map_err(|error| {
        tracing::warn!(target: "audit", peer, %error, "capture refused");
        Status::resource_exhausted(error.to_string())
    })?;
    tracing::info!(target: "audit", peer, filter = ?filter, ?endpoint, secrets, "capture attached");
    Ok(subscription)
}

fn sides(request: &WatchRequest) -> Result<(Subject, Vec<Side>, bool), Status> {
    let (mut sides, mut outer) = (Vec::new(), false);
    let (mut client, mut server) = (false, false);
    for side in &request.sides {
        match proto::Side::try_from(*side) {
            Ok(proto::Side::Client) => sides.push(Side::Client),
            Ok(proto::Side::Server) => sides.push(Side::Server),
            Ok(proto::Side::Outer) => outer = true,
            Ok(proto::Side::DecryptedClient) => client = true,
            Ok(proto::Side::DecryptedServer) => server = true,
            Ok(proto::Side::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "sides: {side} is not one of 1 (client), 2 (server), 3 (outer), 4 and 5 (decrypted)"
                )));
            }
        }
    }
    if client || server {
        if outer || !sides.is_empty() {
            return Err(Status::invalid_argument(
                "sides: what is decrypted has the addresses of the packets it came in; watch it in a capture of its own",
            ));
        }
        return Ok((Subject::Decrypted { client, server }, sides, false));
    }
    if sides.is_empty() && !outer {
        sides = vec![Side::Client, Side::Server];
    }
    Ok((Subject::Datagrams, sides, outer))
}

/// A form in which a kind of answers can tell counts.
pub(super) trait Answer: Send + 'static {
    fn statistics(counts: Counts) -> Option<Self>
    where
        Self: Sized;
}

impl Answer for WatchResponse {
    fn statistics(counts: Counts) -> Option<Self> {
        Some(Self {
            item: Some(watch_response::Item::Statistics(proto::Statistics {
                seen: counts.seen,
                dropped: counts.dropped,
                secrets_dropped: counts.secrets_dropped,
            })),
        })
    }
}

fn direction(direction: Direction) -> proto::Direction {
    match direction {
        Direction::Received => proto::Direction::Received,
        Direction::Sent => proto::Direction::Sent,
    }
}

/// Shows one reader what it wants to see, until it or the hub goes. A reader that does not read makes
/// this wait, the hub's queue fill, and packets be lost and counted there.
pub(super) async fn run<A: Answer>(
    mut subscription: Subscription,
    mut watch: Watch,
    answers: mpsc::Sender<Result<A, Status>>,
    mut form: impl FnMut(Item, &mut Vec<A>),
    made_up: impl Fn(MadeUp) -> Option<A>,
) {
    let mut tell = tokio::time::interval(TELL);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ready = Vec::new();
    loop {
        let now = now();
        while let Some(item) = watch.poll(now) {
            form(item, &mut ready);
        }
        for answer in ready.drain(..) {
            if answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
        let wait = watch.due().map_or(Duration::from_secs(3600), |due| {
            Duration::from_nanos(due.saturating_sub(now)).max(Duration::from_millis(1))
        });
        tokio::select! {
            seen = subscription.next() => match seen {
                Some(Seen::Datagram(datagram)) => watch.datagram(datagram),
                Some(Seen::Secret(secret)) => watch.secret(secret),
                Some(Seen::MadeUp(packet)) => {
                    if let Some(answer) = made_up(packet)
                        && answers.send(Ok(answer)).await.is_err()
                    {
                        return;
                    }
                }
                None => return,
            },
            () = answers.closed() => return,
            () = tokio::time::sleep(wait) => {}
            _ = tell.tick() => {
                if let Some(answer) = A::statistics(subscription.counts())
                    && answers.send(Ok(answer)).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

/// How one reader wants its packets.
struct Form {
    snap_length: usize,
    sides: Vec<Side>,
    outer: bool,
}

impl Form {
    fn made_up(&self, packet: MadeUp) -> WatchResponse {
        let side = match packet.side {
            Side::Client => proto::Side::DecryptedClient,
            Side::Server => proto::Side::DecryptedServer,
        };
        let length = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
        let mut data = Vec::from(packet.bytes);
        data.truncate(self.snap_length);
        WatchResponse {
            item: Some(watch_response::Item::Packet(proto::Packet {
                time: packet.time,
                side: side.into(),
                direction: direction(packet.direction).into(),
                endpoint: packet.endpoint.0,
                flow: packet.flow,
                length,
                data,
            })),
        }
    }

    fn write(&self, item: Item, answers: &mut Vec<WatchResponse>) {
        match item {
            Item::Packet(packet) => {
                if self.sides.contains(&packet.side) {
                    let side = match packet.side {
                        Side::Client => proto::Side::Client,
                        Side::Server => proto::Side::Server,
                    };
                    let inner = packet.datagram.bytes.get(packet.datagram.inner..);
                    answers.push(self.packet(&packet, side, inner.unwrap_or_default(), &[]));
                }
                if self.outer {
                    let header = outer_header(&packet);
                    let bytes = &packet.datagram.bytes;
                    answers.push(self.packet(&packet, proto::Side::Outer, bytes, &header));
                }
            }
            Item::Secret { flow, secret } => {
                let side = match secret.side {
                    Side::Client => proto::Side::Client,
                    Side::Server => proto::Side::Server,
                };
                answers.push(WatchResponse {
                    item: Some(watch_response::Item::Secret(proto::Secret {
                        side: side.into(),
                        flow,
                        line: secret.line(),
                    })),
                });
            }
        }
    }

    fn packet(
        &self,
        packet: &Packet,
        side: proto::Side,
        bytes: &[u8],
        before: &[u8],
    ) -> WatchResponse {
        let mut data = Vec::with_capacity(before.len() + bytes.len().min(self.snap_length));
        data.extend(before.iter().chain(bytes).take(self.snap_length));
        let direction = direction(packet.datagram.direction);
        WatchResponse {
            item: Some(watch_response::Item::Packet(proto::Packet {
                time: packet.datagram.time,
                side: side.into(),
                direction: direction.into(),
                endpoint: packet.datagram.endpoint.0,
                flow: packet.flow,
                length: u32::try_from(before.len() + bytes.len()).unwrap_or(u32::MAX),
                data,
            })),
        }
    }
}

/// The IPv4 and UDP headers that the datagram had or will have outside.
fn outer_header(packet: &Packet) -> [u8; 28] {
    let datagram = &packet.datagram;
    let (gwlb, own) = (datagram.gwlb.ip().octets(), datagram.local.octets());
    // Answers go to the port for GENEVE, from the port that the load balancer chose.
    let (source, destination) = match datagram.direction {
        Direction::Received => (gwlb, own),
        Direction::Sent => (own, gwlb),
    };
    let udp_len = u16::try_from(datagram.bytes.len() + 8).unwrap_or(u16::MAX);
    let mut header = [0; 28];
    let mut ip = vec![0x45, 0];
    ip.extend(udp_len.saturating_add(20).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(source);
    ip.extend(destination);
    let checksum = wire::checksum::Sum::default().add_bytes(&ip).checksum();
    if let Some(place) = ip.get_mut(10..12) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    ip.extend(datagram.gwlb.port().to_be_bytes());
    ip.extend(wire::geneve::PORT.to_be_bytes());
    ip.extend(udp_len.to_be_bytes());
    ip.extend([0, 0]); // no checksum, as the load balancer sends
    for (place, byte) in header.iter_mut().zip(ip) {
        *place = byte;
    }
    header
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}
