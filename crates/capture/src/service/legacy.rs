//! `Vpcshark`, the service of the first flowdog, for its clients.

use std::sync::Arc;

use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::access::Access;
use super::watching::{Answer, attach, parse, run};
use crate::hub::{Counts, Direction, Hub, Wish};
use crate::vpcshark::{GetPacketsInput, GetPacketsOutput, PacketType, vpcshark_server};
use crate::watch::{Item, Options, Watch};

pub(super) struct Legacy {
    hub: Arc<Hub>,
    access: Arc<Access>,
}

impl Legacy {
    pub(super) fn new(hub: Arc<Hub>, access: Arc<Access>) -> Self {
        Self { hub, access }
    }
}

impl Answer for GetPacketsOutput {
    fn statistics(_counts: Counts) -> Option<Self> {
        None
    }
}

#[tonic::async_trait]
impl vpcshark_server::Vpcshark for Legacy {
    type GetPacketsStream = ReceiverStream<Result<GetPacketsOutput, Status>>;

    async fn get_packets(
        &self,
        request: Request<GetPacketsInput>,
    ) -> Result<Response<Self::GetPacketsStream>, Status> {
        let peer = self
            .access
            .check(request.metadata(), request.extensions())?;
        let input = request.into_inner();
        let wanted = match input.packet_type() {
            PacketType::Pre => Direction::Received,
            PacketType::Post => Direction::Sent,
            PacketType::Unknown => {
                return Err(Status::invalid_argument("PacketType: PRE or POST"));
            }
        };
        let secrets = self.hub.gives_secrets();
        let filter = parse(&input.filter)?;
        let wish = Wish {
            filter: filter.clone(),
            secrets,
            ..Wish::default()
        };
        let subscription = attach(&self.hub, wish, &peer, &input.filter)?;
        let watch = Watch::new(Options {
            secrets,
            filter,
            names: self.hub.names().cloned(),
            ..Options::default()
        });
        let (answers, stream) = mpsc::channel(64);
        tokio::spawn(async move {
            let form = move |item, answers: &mut Vec<_>| answers.extend(answer(item, wanted));
            // It asks for datagrams only.
            run(subscription, watch, answers, form, |_| None).await;
            tracing::info!(target: "audit", peer, "capture detached");
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn answer(item: Item, wanted: Direction) -> Option<GetPacketsOutput> {
    match item {
        Item::Packet(packet) => (packet.datagram.direction == wanted).then(|| GetPacketsOutput {
            time: Some(Timestamp {
                seconds: (packet.datagram.time / 1_000_000_000).cast_signed(),
                nanos: i32::try_from(packet.datagram.time % 1_000_000_000).unwrap_or(0),
            }),
            payload: packet.datagram.bytes.into_vec(),
            ssl_key_log: Vec::new(),
        }),
        Item::Secret { secret, .. } => Some(GetPacketsOutput {
            time: None,
            payload: Vec::new(),
            ssl_key_log: (secret.line() + "\n").into_bytes(),
        }),
    }
}
