//! Counters as Prometheus text (exposition format 0.0.4), asked of the shards when someone looks.

mod exposition;
mod extensions;
mod layer7;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::{BypassReason, DropReason};

use crate::directory::SourceState;
use crate::endpoints::EndpointCounters;
use crate::health::State;
use crate::shard::Snapshot;
use crate::telemetry::read;
use exposition::Exposition;

/// Everything that is counted.
pub(crate) fn render(state: &State, snapshots: &[Snapshot]) -> String {
    let mut text = Exposition::default();
    text.family(
        "flowdog_build_info",
        "gauge",
        "Always 1; the labels say which build this is.",
    );
    text.sample(&[("version", &env!("CARGO_PKG_VERSION"))], 1);
    shell(&mut text, state);
    shards(&mut text, snapshots);
    dataplane(&mut text, snapshots);
    endpoints(&mut text, snapshots);
    extensions::interceptors(&mut text, state);
    extensions::outlets(&mut text, state);
    extensions::hooks(&mut text, state);
    extensions::acceptors(&mut text, state);
    directory(&mut text, state, snapshots);
    for metric in state.tap.iter().flat_map(|tap| tap.metrics()) {
        text.single(metric.name, metric.kind, metric.help, metric.value);
    }
    flows_by_label(&mut text, state);
    #[cfg(feature = "script")]
    extensions::scripts(&mut text);
    #[cfg(feature = "images")]
    layer7::images(&mut text);
    text.out
}

fn flows_by_label(text: &mut Exposition, state: &State) {
    let config = state.config.load();
    let Some(metrics) = &config.flow_metrics else {
        return;
    };
    let counts = metrics.snapshot();
    let labels = |values: &'_ [String]| -> Vec<(String, String)> {
        let names = metrics.names().iter().cloned();
        names.zip(values.iter().cloned()).collect()
    };
    text.family(
        "flowdog_labelled_flows_total",
        "counter",
        "Flows that have ended, by the labels of [flow-metrics].",
    );
    for (values, count) in &counts {
        let labels = labels(values);
        let labels: Vec<(&str, &dyn Display)> = labels
            .iter()
            .map(|(name, value)| (name.as_str(), value as &dyn Display))
            .collect();
        text.sample(&labels, count.flows);
    }
    text.family(
        "flowdog_labelled_bytes_total",
        "counter",
        "Inner bytes of flows that have ended, by who sent them and the labels of [flow-metrics].",
    );
    for (values, count) in &counts {
        let labels = labels(values);
        for (from, bytes) in ["client", "server"].iter().zip(count.bytes) {
            let mut all: Vec<(&str, &dyn Display)> = vec![("from", from)];
            all.extend(
                labels
                    .iter()
                    .map(|(name, value)| (name.as_str(), value as &dyn Display)),
            );
            text.sample(&all, bytes);
        }
    }
}

fn shell(text: &mut Exposition, state: &State) {
    let telemetry = &state.telemetry;
    let (status, ages) = state.status();
    text.single(
        "flowdog_healthy",
        "gauge",
        "1 if health checks are answered with success.",
        u64::from(status == crate::health::Status::Healthy),
    );
    text.family(
        "flowdog_shard_last_turn_seconds",
        "gauge",
        "Time since the shard's loop last turned.",
    );
    for (shard, age) in ages.iter().enumerate() {
        text.sample(
            &[("shard", &shard)],
            age.map_or(f64::NAN, |age| age.as_secs_f64()),
        );
    }
    text.family(
        "flowdog_tls_handshakes_total",
        "counter",
        "Attempts to intercept TLS, by how they ended.",
    );
    for (outcome, count) in telemetry.tls() {
        text.sample(&[("outcome", &outcome.as_str())], count);
    }
    if let Some(impersonator) = &state.config.load().tls.impersonator {
        text.single(
            "flowdog_tls_certificates_minted_total",
            "counter",
            "Leaf certificates made since the configuration was loaded.",
            impersonator.mint().minted(),
        );
        text.single(
            "flowdog_tls_certificates_cached",
            "gauge",
            "Leaf certificates kept for reuse.",
            impersonator.mint().cached(),
        );
        text.single(
            "flowdog_tls_certificates_waiting",
            "gauge",
            "Requests for a leaf certificate that are worked on or wait for their turn.",
            impersonator.mint().queued() as u64,
        );
        text.single(
            "flowdog_tls_certificates_refused_total",
            "counter",
            "Requests for a leaf certificate that found too many others waiting.",
            impersonator.mint().overloaded(),
        );
        text.family(
            "flowdog_tls_resumed_total",
            "counter",
            "Sessions that were resumed since the configuration was loaded, by leg.",
        );
        let resumed = impersonator.resumptions();
        text.sample(&[("leg", &"client")], resumed.client);
        text.sample(&[("leg", &"server")], resumed.server);
        text.single(
            "flowdog_tls_sessions",
            "gauge",
            "Scopes in which a session with a server waits to be resumed.",
            impersonator.sessions(),
        );
        let issuing = impersonator.mint().issuing();
        text.single(
            "flowdog_tls_intermediate_renewals_total",
            "counter",
            "Intermediates that the certificate authority signed since the start.",
            issuing.renewals(),
        );
        text.single(
            "flowdog_tls_intermediate_failures_total",
            "counter",
            "Attempts to have an intermediate signed that failed.",
            issuing.failures(),
        );
        text.single(
            "flowdog_tls_intermediate_expiry_seconds",
            "gauge",
            "When the present intermediate ends, in seconds since 1970; 0 without one.",
            u64::try_from(issuing.expires().unwrap_or(0)).unwrap_or(0),
        );
    }
    if let Some(learned) = &state.config.load().tls.learned {
        text.single(
            "flowdog_tls_learned_entries",
            "gauge",
            "Pairs of client and server name that earlier flows showed to be better passed.",
            learned.entries() as u64,
        );
    }
    text.family(
        "flowdog_flows_passed_total",
        "counter",
        "Flows that a rule would intercept and that were passed unread, by reason.",
    );
    text.sample(
        &[("reason", &"no_authority")],
        read(&telemetry.passed_no_authority),
    );
    text.sample(&[("reason", &"draining")], read(&telemetry.passed_draining));
    text.sample(&[("reason", &"learned")], read(&telemetry.passed_learned));
    text.sample(&[("reason", &"opaque")], read(&telemetry.passed_opaque));
    text.sample(
        &[("reason", &"unsupported_hello")],
        read(&telemetry.passed_unsupported_hello),
    );
    text.sample(
        &[("reason", &"encrypted_hello")],
        read(&telemetry.passed_encrypted_hello),
    );
    text.single(
        "flowdog_flows_refused_undecided_total",
        "counter",
        "Taken-over flows that were reset because their first bytes never told what they are, and no rule lets such pass.",
        read(&telemetry.refused_unseen),
    );
    text.single(
        "flowdog_flows_served_total",
        "counter",
        "Intercepted flows that ended in good order.",
        read(&telemetry.served),
    );
    text.family(
        "flowdog_flows_failed_total",
        "counter",
        "Intercepted flows that ended in an error, by reason.",
    );
    for (reason, count) in telemetry.failed.snapshot() {
        text.sample(&[("reason", &reason)], count);
    }
    text.family(
        "flowdog_starttls_total",
        "counter",
        "Flows that began in clear and were followed towards TLS, by protocol and by how that ended.",
    );
    for ((protocol, outcome), count) in telemetry.starttls.snapshot() {
        text.sample(&[("protocol", &protocol), ("outcome", &outcome)], count);
    }
    text.family(
        "flowdog_http_refused_total",
        "counter",
        "What HTTP and WebSocket peers sent that was refused, whether it ended a connection or a stream, by fault.",
    );
    for (fault, count) in proxy::refused() {
        text.sample(&[("fault", &fault.as_str())], count);
    }
    layer7::limits(text);
    if let Some(feed) = &state.secrets {
        text.single(
            "flowdog_tls_secrets_lost_total",
            "counter",
            "Secrets of TLS connections that their reader did not take in time.",
            feed.lost(),
        );
    }
    text.single(
        "flowdog_flow_panics_total",
        "counter",
        "Tasks of flows, and parts of exchanges let go of, that panicked: a defect, contained.",
        read(&telemetry.panics),
    );
    text.single(
        "flowdog_flow_records_total",
        "counter",
        "Records of flows that were written to the flow log.",
        read(&telemetry.flow_records),
    );
    text.single(
        "flowdog_flow_records_lost_total",
        "counter",
        "Records of flows that did not fit into the queue or could not be written.",
        read(&telemetry.flow_records_lost),
    );
    text.family(
        "flowdog_records_total",
        "counter",
        "Records of hooks: written, dropped because the queue was full, or failed to be written.",
    );
    for (result, count) in [
        ("written", &telemetry.records_written),
        ("dropped", &telemetry.records_dropped),
        ("failed", &telemetry.records_failed),
    ] {
        text.sample(&[("result", &result)], read(count));
    }
    text.single(
        "flowdog_config_reloads_total",
        "counter",
        "Configurations loaded since the start.",
        read(&telemetry.reloads),
    );
    text.single(
        "flowdog_config_reload_failures_total",
        "counter",
        "Configurations refused since the start; the one before stayed in force.",
        read(&telemetry.reload_failures),
    );
}

fn directory(text: &mut Exposition, state: &State, snapshots: &[Snapshot]) {
    let directory = &state.directory;
    if directory.sources.is_empty() {
        return;
    }
    let present = directory.present();
    text.single(
        "flowdog_ec2_interfaces",
        "gauge",
        "Network interfaces that the EC2 directory knows.",
        present.interfaces() as u64,
    );
    type Pick = fn(&SourceState) -> &AtomicU64;
    let counters: [(&str, &str, Pick); 3] = [
        (
            "flowdog_ec2_refreshes_total",
            "Times that everything in EC2 was listed.",
            |source| &source.refreshes,
        ),
        (
            "flowdog_ec2_failures_total",
            "Requests to EC2 and its queue of events that failed.",
            |source| &source.failures,
        ),
        (
            "flowdog_ec2_events_total",
            "Events of EC2 that were read.",
            |source| &source.events,
        ),
    ];
    for (name, help, pick) in counters {
        text.family(name, "counter", help);
        for source in &directory.sources {
            text.sample(&[("source", &source.name)], read(pick(source)));
        }
    }
    text.family(
        "flowdog_ec2_listed_timestamp_seconds",
        "gauge",
        "When everything in EC2 was listed last, in seconds since 1970; 0 for never.",
    );
    for source in &directory.sources {
        let at = source.listed_at.load(Ordering::Relaxed);
        text.sample(&[("source", &source.name)], at);
    }
    text.family(
        "flowdog_ec2_lookups_total",
        "counter",
        "Addresses looked up when flows opened, by what was found.",
    );
    for (result, counter) in [
        ("ambiguous", &directory.several),
        ("found", &directory.found),
        ("unknown", &directory.nobody),
    ] {
        text.sample(&[("result", &result)], read(counter));
    }
    text.family(
        "flowdog_endpoint_info",
        "gauge",
        "Always 1; the VPC of each endpoint that was seen and that EC2 knows.",
    );
    let seen = snapshots.iter().flat_map(|one| one.endpoints.ids());
    for endpoint in seen.collect::<BTreeSet<_>>() {
        if let Some(vpc) = present.vpc(endpoint) {
            text.sample(&[("endpoint", &endpoint), ("vpc", &vpc)], 1);
        }
    }
}

fn shards(text: &mut Exposition, snapshots: &[Snapshot]) {
    type Read = fn(&Snapshot) -> u64;
    let counters: [(&str, &str, Read); 17] = [
        (
            "receive_batches_total",
            "Batches taken from the socket.",
            |s| s.shard.batches,
        ),
        (
            "receive_messages_total",
            "Messages received; with GRO one may carry several datagrams.",
            |s| s.shard.messages,
        ),
        (
            "receive_foreign_total",
            "Datagrams from addresses that `allowed-sources` does not name.",
            |s| s.shard.foreign,
        ),
        (
            "receive_truncated_total",
            "Messages cut because they were larger than any buffer.",
            |s| s.shard.truncated,
        ),
        (
            "receive_errors_total",
            "Errors reported by the receiving socket.",
            |s| s.shard.receive_errors,
        ),
        (
            "receive_buffer_errors_total",
            "Datagrams lost because the receive buffer was full (RcvbufErrors of this socket).",
            |s| s.receive_drops,
        ),
        (
            "strays_sent_total",
            "Datagrams handed to the shard that they belong to.",
            |s| s.shard.strays_sent,
        ),
        (
            "strays_dropped_total",
            "Datagrams dropped because the shard they belong to had no room.",
            |s| s.shard.strays_dropped,
        ),
        (
            "turns_exhausted_total",
            "Turns of the loop that used up a budget.",
            |s| s.shard.exhausted,
        ),
        (
            "send_datagrams_total",
            "Datagrams that the kernel took.",
            |s| s.send.datagrams,
        ),
        (
            "send_bytes_total",
            "Bytes of datagrams that the kernel took.",
            |s| s.send.bytes,
        ),
        ("send_calls_total", "System calls made to send.", |s| {
            s.send.calls
        }),
        (
            "send_icmp_errors_total",
            "ICMP errors of earlier replies that were reported when sending; harmless.",
            |s| s.send.icmp_errors,
        ),
        (
            "send_gso_fallbacks_total",
            "Batches that had to be sent one by one.",
            |s| s.send.gso_fallbacks,
        ),
        ("reply_sockets_opened_total", "Reply sockets opened.", |s| {
            s.reply.0.opened
        }),
        (
            "reply_sockets_evicted_total",
            "Reply sockets closed to make room for another.",
            |s| s.reply.0.evicted,
        ),
        (
            "reply_sockets_failed_total",
            "Reply sockets that could not be bound.",
            |s| s.reply.0.failed,
        ),
    ];
    for (name, help, read) in counters {
        text.per_shard(
            &format!("flowdog_shard_{name}"),
            "counter",
            help,
            snapshots,
            read,
        );
    }
    text.family(
        "flowdog_shard_send_dropped_total",
        "counter",
        "Replies dropped on the way out, by reason.",
    );
    for s in snapshots {
        for (reason, count) in [
            ("buffer_full", s.send.full),
            ("no_port", s.send.no_port),
            ("refused", s.send.refused),
        ] {
            text.sample(&[("shard", &s.index), ("reason", &reason)], count);
        }
    }
    let gauges: [(&str, &str, Read); 4] = [
        ("reply_sockets", "Reply sockets open.", |s| s.reply.1 as u64),
        ("reply_sockets_limit", "Most reply sockets open.", |s| {
            s.reply.2 as u64
        }),
        ("flows", "Flows remembered.", |s| s.flows_active as u64),
        ("flows_intercepted", "Flows that are intercepted.", |s| {
            s.flows_intercepted as u64
        }),
    ];
    for (name, help, read) in gauges {
        text.per_shard(
            &format!("flowdog_shard_{name}"),
            "gauge",
            help,
            snapshots,
            read,
        );
    }
}

fn dataplane(text: &mut Exposition, snapshots: &[Snapshot]) {
    if let Some(first) = snapshots.first() {
        for (at, (name, help, _)) in first.dataplane.entries().enumerate() {
            text.family(&format!("flowdog_dataplane_{name}_total"), "counter", help);
            for snapshot in snapshots {
                let count = snapshot
                    .dataplane
                    .entries()
                    .nth(at)
                    .map_or(0, |(_, _, count)| count);
                text.sample(&[("shard", &snapshot.index)], count);
            }
        }
    }
    text.family(
        "flowdog_dataplane_packets_dropped_total",
        "counter",
        "Datagrams not answered, by reason.",
    );
    for snapshot in snapshots {
        for reason in DropReason::ALL {
            text.sample(
                &[("shard", &snapshot.index), ("reason", &reason.as_str())],
                snapshot.dataplane.dropped(*reason),
            );
        }
    }
    text.family(
        "flowdog_dataplane_flows_bypassed_total",
        "counter",
        "Flows to be inspected that are forwarded raw, by reason.",
    );
    for snapshot in snapshots {
        for reason in BypassReason::ALL {
            text.sample(
                &[("shard", &snapshot.index), ("reason", &reason.as_str())],
                snapshot.dataplane.bypassed(*reason),
            );
        }
    }
}

fn endpoints(text: &mut Exposition, snapshots: &[Snapshot]) {
    let mut sums = BTreeMap::<String, EndpointCounters>::new();
    for (endpoint, counters) in snapshots.iter().flat_map(|s| s.endpoints.entries()) {
        let sum = sums.entry(endpoint).or_default();
        sum.opened += counters.opened;
        sum.ended += counters.ended;
        sum.intercepted += counters.intercepted;
        for side in 0..2 {
            sum.packets[side] += counters.packets[side];
            sum.bytes[side] += counters.bytes[side];
        }
    }
    type Read = fn(&EndpointCounters) -> u64;
    let plain: [(&str, &str, Read); 3] = [
        ("flows_opened_total", "Flows opened.", |c| c.opened),
        ("flows_ended_total", "Flows ended.", |c| c.ended),
        (
            "flows_intercepted_total",
            "Flows ended that had been intercepted.",
            |c| c.intercepted,
        ),
    ];
    for (name, help, read) in plain {
        text.family(&format!("flowdog_endpoint_{name}"), "counter", help);
        for (endpoint, counters) in &sums {
            text.sample(&[("endpoint", endpoint)], read(counters));
        }
    }
    type Sides = fn(&EndpointCounters) -> [u64; 2];
    let sided: [(&str, &str, Sides); 2] = [
        (
            "packets_total",
            "Inner packets of flows that have ended, by their sender.",
            |c| c.packets,
        ),
        (
            "bytes_total",
            "Inner bytes of flows that have ended, by their sender.",
            |c| c.bytes,
        ),
    ];
    for (name, help, read) in sided {
        text.family(&format!("flowdog_endpoint_{name}"), "counter", help);
        for (endpoint, counters) in &sums {
            for (side, count) in ["client", "server"].iter().zip(read(counters)) {
                text.sample(&[("endpoint", endpoint), ("from", side)], count);
            }
        }
    }
}
