//! A host that runs our connection and watches what it does.

use std::net::IpAddr;
use std::sync::Arc;

use flowdog_tcp::{
    Config, Connection, Events, Flags, Instant, Repr, Seq, State, Takeover, TransmitRun,
    continues_run,
};
use wire::{ip, tcp};

use super::app::App;
use super::{Host, IP_HEADER, PORT};

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) connection: Connection,
    pub(crate) app: App,
    local: IpAddr,
    remote: IpAddr,
    pub(crate) port: u16,
    shift: u8,
    right_edge: Seq,
    /// Most by which the right edge may move back: the rounding of the window scale.
    edge_tolerance: u32,
    closed_at: Option<u64>,
    /// The peer has reset the connection.
    pub(crate) was_reset: bool,
    pub(crate) sent_packets: u64,
    pub(crate) received_packets: u64,
    /// Whether segments are taken and given in runs where they follow each other.
    pub(crate) has_runs: bool,
    /// Packets of this instant that wait to be taken together.
    arrived: Vec<Vec<u8>>,
    /// How many segments were taken, and given, in company.
    pub(crate) in_runs: [u64; 2],
    buffer: Vec<u8>,
}

/// Most segments of a run on the way out.
const LONGEST_RUN: usize = 40;

impl Engine {
    pub(crate) fn new(
        config: &Arc<Config>,
        takeover: &Takeover,
        app: App,
        local: IpAddr,
        remote: IpAddr,
        now: u64,
    ) -> Self {
        Self {
            connection: Connection::new(config, takeover, Instant(now)),
            app,
            local,
            remote,
            port: PORT,
            shift: takeover.rcv_shift,
            right_edge: takeover.rcv_right_edge,
            edge_tolerance: (1 << takeover.rcv_shift) - 1,
            closed_at: None,
            was_reset: false,
            sent_packets: 0,
            received_packets: 0,
            has_runs: false,
            arrived: Vec::new(),
            in_runs: [0; 2],
            buffer: vec![0; 1 << 16],
        }
    }

    /// Takes what has arrived at this instant, segments that follow each other together.
    fn take_arrived(&mut self, now: u64) {
        let mut arrived = std::mem::take(&mut self.arrived);
        let (remote, local) = (self.remote, self.local);
        let segments = arrived
            .iter()
            .filter_map(|packet| tcp::Segment::parse(&packet[IP_HEADER..]).ok())
            .filter(|segment| segment.verify_checksum(remote, local));
        let (mut first, mut end) = (Repr::default(), Seq(0));
        let mut payloads: Vec<&[u8]> = Vec::new();
        for segment in segments {
            self.received_packets += 1;
            let (repr, payload) = (segment.repr(), segment.payload());
            let is_next =
                !payloads.is_empty() && end != first.seq && continues_run(&first, end, &repr);
            if !is_next || payload.is_empty() {
                self.take_run(&first, &payloads, now);
                payloads.clear();
                (first, end) = (repr, repr.seq);
            }
            payloads.push(payload);
            end += payload.len() as u32;
        }
        self.take_run(&first, &payloads, now);
        arrived.clear();
        self.arrived = arrived;
    }

    fn take_run(&mut self, first: &Repr, payloads: &[&[u8]], now: u64) {
        if payloads.len() > 1 {
            self.in_runs[0] += payloads.len() as u64;
        }
        self.connection
            .handle_run(first, payloads, false, Instant(now));
    }

    /// The next segments to send.
    fn poll(&mut self, now: u64) -> Option<TransmitRun> {
        if self.has_runs {
            return self.connection.poll_transmit_run(LONGEST_RUN, Instant(now));
        }
        let first = self.connection.poll_transmit(Instant(now))?;
        Some(TransmitRun {
            first,
            count: 1,
            last_flags: first.repr.flags,
        })
    }

    fn run_app(&mut self, now: u64) {
        if self.app.may_read(now) {
            loop {
                let limit = self.app.chunk.min(self.buffer.len());
                let count = self.connection.read(&mut self.buffer[..limit]);
                if count == 0 {
                    break;
                }
                self.app.consume(&self.buffer[..count], now);
                if self.app.read_pause > 0 {
                    break;
                }
            }
        }
        self.was_reset |= self.connection.take_events().contains(Events::RESET);
        self.app.saw_end |= self.connection.is_read_finished();
        loop {
            let count = self.app.produce(&mut self.buffer);
            let count = self.connection.write(&self.buffer[..count]);
            if count == 0 {
                break;
            }
            self.app.written += count as u64;
        }
        if self.app.wants_close() {
            self.app.closed = true;
            self.connection.shutdown();
        }
    }

    fn drain(&mut self, now: u64, out: &mut Vec<Vec<u8>>) {
        while let Some(run) = self.poll(now) {
            if run.count > 1 {
                self.in_runs[1] += run.count as u64;
            }
            let mut repr = run.first.repr;
            (repr.src_port, repr.dst_port) = (self.port, self.port);
            self.watch(&repr);
            let (local, remote) = (self.local, self.remote);
            let series = tcp::Series::new(&repr, local, remote, run.first.payload_len);
            let headers = IP_HEADER + series.header_len();
            for transmit in run.segments() {
                let mut packet = Vec::with_capacity(headers + transmit.payload_len);
                packet.resize(headers, 0);
                for part in self.connection.payload(&transmit) {
                    packet.extend_from_slice(part);
                }
                let (network, segment) = packet.split_at_mut(IP_HEADER);
                ip::Repr {
                    src: local,
                    dst: remote,
                    protocol: ip::Protocol::TCP,
                    hop_limit: 64,
                    traffic_class: 0,
                    dont_fragment: true,
                    ident: 0,
                    payload_len: segment.len(),
                }
                .emit(network);
                series.emit(transmit.repr.seq, transmit.repr.flags, segment);
                out.push(packet);
                self.sent_packets += 1;
            }
        }
    }

    /// What holds for every segment that leaves.
    fn watch(&mut self, repr: &Repr) {
        let is_reset = repr.flags.contains(Flags::RST);
        assert!(
            self.closed_at.is_none() || is_reset,
            "sent in CLOSED: {repr:?}"
        );
        if !is_reset {
            let edge = repr.ack + (u32::from(repr.window) << self.shift);
            assert!(
                edge >= self.right_edge
                    || self.right_edge.since(edge) as u32 <= self.edge_tolerance,
                "right edge retreats from {:?} to {edge:?}",
                self.right_edge
            );
            self.right_edge = self.right_edge.max(edge);
        }
    }
}

impl Host for Engine {
    fn receive(&mut self, packet: &[u8], now: u64) {
        if self.has_runs {
            self.arrived.push(packet.to_vec());
            return;
        }
        let segment = &packet[IP_HEADER..];
        let Ok(parsed) = tcp::Segment::parse(segment) else {
            return;
        };
        if !parsed.verify_checksum(self.remote, self.local) {
            return;
        }
        self.received_packets += 1;
        self.connection
            .handle_segment(&parsed.repr(), parsed.payload(), false, Instant(now));
    }

    fn receive_all(&mut self, packets: &mut Vec<Vec<u8>>, now: u64) {
        if self.has_runs {
            self.arrived.append(packets);
            return;
        }
        for packet in packets.drain(..) {
            self.receive(&packet, now);
        }
    }

    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) {
        self.take_arrived(now);
        if self.connection.poll_timeout().is_some_and(|at| at.0 <= now) {
            self.connection.handle_timeout(Instant(now));
        }
        // What has left makes room for more, as the event says.
        loop {
            self.run_app(now);
            let before = self.sent_packets;
            self.drain(now, out);
            let may_go_on = self.app.written < self.app.to_send && self.connection.writable() > 0;
            if self.sent_packets == before || !may_go_on {
                break;
            }
        }
        if self.connection.state() == State::Closed && self.closed_at.is_none() {
            self.closed_at = Some(now);
        }
        // Progress: whatever is queued has a timer that watches over it.
        if self.connection.unsent_or_unacked() > 0 {
            assert!(
                self.connection.poll_timeout().is_some(),
                "no timer: {}",
                self.describe()
            );
        }
    }

    fn wake_at(&mut self, _now: u64) -> Option<u64> {
        let app = self.app.wake_at(self.connection.readable() > 0);
        self.connection
            .poll_timeout()
            .map(|at| at.0)
            .into_iter()
            .chain(app)
            .min()
    }

    fn is_closed(&self) -> bool {
        self.connection.state() == State::Closed
    }

    fn app(&self) -> &App {
        &self.app
    }

    fn describe(&self) -> String {
        format!(
            "engine {:?} cwnd {} queued {} readable {} timeout {:?} sent {} of {} received {} of {} {:?}",
            self.connection.state(),
            self.connection.congestion_window(),
            self.connection.unsent_or_unacked(),
            self.connection.readable(),
            self.connection.poll_timeout(),
            self.app.written,
            self.app.to_send,
            self.app.received,
            self.app.expects,
            self.connection.stats(),
        )
    }
}
