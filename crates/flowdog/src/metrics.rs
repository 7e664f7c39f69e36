//! Counters as Prometheus text (exposition format 0.0.4), asked of the shards when someone looks.

mod layer7;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::{BypassReason, DropReason};
use sdk::OutletStats;

use crate::directory::SourceState;
use crate::endpoints::EndpointCounters;
use crate::health::State;
use crate::shard::Snapshot;
use crate::telemetry::read;

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
    interceptors(&mut text, state);
    outlets(&mut text, state);
    hooks(&mut text, state);
    acceptors(&mut text, state);
    directory(&mut text, state, snapshots);
    for metric in state.tap.iter().flat_map(|tap| tap.metrics()) {
        text.single(metric.name, metric.kind, metric.help, metric.value);
    }
    flows_by_label(&mut text, state);
    #[cfg(feature = "script")]
    scripts(&mut text);
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
        "Tasks of flows that panicked: a defect, contained.",
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

#[cfg(feature = "script")]
fn scripts(text: &mut Exposition) {
    let stats = script::stats();
    let gauges = [
        (
            "flowdog_script_threads",
            "Threads that run scripts; none before the first call.",
            stats.threads,
        ),
        (
            "flowdog_script_threads_given_up",
            "Threads held by calls that do not come back.",
            stats.given_up,
        ),
        (
            "flowdog_script_calls_waiting",
            "Calls that wait for a thread.",
            stats.waiting,
        ),
    ];
    for (name, help, value) in gauges {
        text.single(name, "gauge", help, value as u64);
    }
    text.single(
        "flowdog_script_calls_total",
        "counter",
        "Calls of functions in JavaScript since the start.",
        stats.calls,
    );
    text.family(
        "flowdog_script_cpu_seconds_total",
        "counter",
        "Processor time of the threads for scripts since the start.",
    );
    text.sample(&[], stats.cpu.as_secs_f64());
    text.single(
        "flowdog_script_reloads_total",
        "counter",
        "Functions read again because a file of theirs changed.",
        stats.reloads,
    );
    text.single(
        "flowdog_script_reload_failures_total",
        "counter",
        "Functions not read again because the changed file is broken; the one before stayed.",
        stats.reload_failures,
    );
    text.single(
        "flowdog_script_store_reads_total",
        "counter",
        "Key value stores in AWS that were read again, changed or not.",
        stats.store_reads,
    );
    text.single(
        "flowdog_script_store_failures_total",
        "counter",
        "Key value stores in AWS that could not be read again; the one before stayed.",
        stats.store_failures,
    );
}

fn acceptors(text: &mut Exposition, state: &State) {
    let config = state.config.load();
    if config.acceptors.is_empty() {
        return;
    }
    text.family(
        "flowdog_acceptor_answers_total",
        "counter",
        "Answers about flows since the configuration was loaded, by how they came about.",
    );
    for link in &config.acceptors {
        let counters = &link.counters;
        for (kind, count) in [
            ("accepted", &counters.accepted),
            ("cached", &counters.cached),
            ("failed", &counters.failed),
            ("joined", &counters.joined),
            ("late", &counters.late),
            ("overloaded", &counters.overloaded),
            ("refused", &counters.refused),
            ("stale", &counters.stale),
        ] {
            text.sample(&[("acceptor", &link.name()), ("kind", &kind)], read(count));
        }
    }
    text.family(
        "flowdog_acceptor_questions_total",
        "counter",
        "Questions put to the acceptor itself.",
    );
    for link in &config.acceptors {
        text.sample(&[("acceptor", &link.name())], read(&link.counters.asked));
    }
    text.family(
        "flowdog_acceptor_cache_entries",
        "gauge",
        "Answers that are kept.",
    );
    for link in &config.acceptors {
        let entries = link.cached_entries() as u64;
        text.sample(&[("acceptor", &link.name())], entries);
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

fn interceptors(text: &mut Exposition, state: &State) {
    let config = state.config.load();
    let stats: Vec<_> = config
        .interceptors
        .iter()
        .map(|link| (link.name().to_owned(), link.stats()))
        .collect();
    text.family(
        "flowdog_interceptor_calls_total",
        "counter",
        "What an interceptor was shown since the configuration was loaded.",
    );
    for (name, s) in &stats {
        for (stage, count) in [
            ("request", s.requests),
            ("response", s.responses),
            ("message", s.messages),
        ] {
            text.sample(&[("interceptor", name), ("stage", &stage)], count);
        }
    }
    text.family(
        "flowdog_interceptor_actions_total",
        "counter",
        "Requests that an interceptor answered or gave up itself.",
    );
    for (name, s) in &stats {
        for (action, count) in [("answered", s.answered), ("aborted", s.aborted)] {
            text.sample(&[("interceptor", name), ("action", &action)], count);
        }
    }
    text.family(
        "flowdog_interceptor_failures_total",
        "counter",
        "Calls of an interceptor that failed.",
    );
    for (name, s) in &stats {
        for (kind, count) in [("error", s.errors), ("panic", s.panics)] {
            text.sample(&[("interceptor", name), ("kind", &kind)], count);
        }
    }
    text.family(
        "flowdog_interceptor_notes_total",
        "counter",
        "What an interceptor counted itself.",
    );
    for (name, s) in &stats {
        for (note, count) in &s.notes {
            text.sample(&[("interceptor", name), ("note", note)], count);
        }
    }
}

fn outlets(text: &mut Exposition, state: &State) {
    let config = state.config.load();
    let stats: Vec<(String, Vec<OutletStats>)> = config
        .interceptors
        .iter()
        .map(|link| {
            let outlets = link.outlets();
            let stats = outlets.iter().map(|outlet| outlet.stats()).collect();
            (link.name().to_owned(), stats)
        })
        .filter(|(_, stats): &(_, Vec<_>)| !stats.is_empty())
        .collect();
    if stats.is_empty() {
        return;
    }
    let total =
        |stats: &[OutletStats], of: fn(&OutletStats) -> u64| stats.iter().map(of).sum::<u64>();
    let families: [(&str, &str, &str, fn(&OutletStats) -> u64); 9] = [
        (
            "flowdog_outlet_taken_total",
            "counter",
            "Records that an interceptor offered to where it keeps them.",
            |s| s.taken,
        ),
        (
            "flowdog_outlet_written_total",
            "counter",
            "Records that were delivered.",
            |s| s.written,
        ),
        (
            "flowdog_outlet_dropped_total",
            "counter",
            "Records for which there was no room.",
            |s| s.dropped,
        ),
        (
            "flowdog_outlet_failed_total",
            "counter",
            "Records that were given up.",
            |s| s.failed,
        ),
        (
            "flowdog_outlet_retried_total",
            "counter",
            "Records that were sent once more.",
            |s| s.retried,
        ),
        (
            "flowdog_outlet_diverted_total",
            "counter",
            "Records put with others, for want of a place of their own.",
            |s| s.diverted,
        ),
        (
            "flowdog_outlet_errors_total",
            "counter",
            "Deliveries that failed, in whole or in part.",
            |s| s.errors,
        ),
        (
            "flowdog_outlet_waiting",
            "gauge",
            "Records that wait or are on their way.",
            |s| s.waiting,
        ),
        (
            "flowdog_outlet_waiting_bytes",
            "gauge",
            "Bytes of the records that wait.",
            |s| s.waiting_bytes,
        ),
    ];
    for (name, kind, help, of) in families {
        text.family(name, kind, help);
        for (interceptor, stats) in &stats {
            text.sample(&[("interceptor", interceptor)], total(stats, of));
        }
    }
    text.family(
        "flowdog_outlet_lag_seconds",
        "gauge",
        "How long the oldest record that is not delivered has waited.",
    );
    for (interceptor, stats) in &stats {
        let lag = stats.iter().map(|stats| stats.lag).max();
        let lag = lag.unwrap_or_default().as_secs_f64();
        text.sample(&[("interceptor", interceptor)], lag);
    }
}

fn hooks(text: &mut Exposition, state: &State) {
    let config = state.config.load();
    if config.hooks.is_empty() {
        return;
    }
    let stats: Vec<_> = config
        .hooks
        .iter()
        .map(|link| (link.name().to_owned(), link.stats()))
        .collect();
    text.family(
        "flowdog_hook_calls_total",
        "counter",
        "Packets and TCP connections that a hook was shown since the configuration was loaded.",
    );
    for (name, s) in &stats {
        for (kind, count) in [("packet", s.packets), ("stream", s.streams)] {
            text.sample(&[("hook", name), ("kind", &kind)], count);
        }
    }
    text.family(
        "flowdog_hook_actions_total",
        "counter",
        "Packets that a hook changed, answered, dropped or had held, and those that could not be held.",
    );
    for (name, s) in &stats {
        for (action, count) in [
            ("edited", s.edited),
            ("dropped", s.dropped),
            ("held", s.held),
            ("unheld", s.unheld),
        ] {
            text.sample(&[("hook", name), ("action", &action)], count);
        }
    }
    text.family(
        "flowdog_hook_panics_total",
        "counter",
        "Calls of a hook that panicked: a defect, contained.",
    );
    for (name, s) in &stats {
        text.sample(&[("hook", name)], s.panics);
    }
    text.family(
        "flowdog_hook_notes_total",
        "counter",
        "What a hook counted itself.",
    );
    for (name, s) in &stats {
        for (note, count) in &s.notes {
            text.sample(&[("hook", name), ("note", note)], count);
        }
    }
}

/// Text under construction.
#[derive(Debug, Default)]
struct Exposition {
    out: String,
    name: String,
}

impl Exposition {
    /// Begins a metric.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        name.clone_into(&mut self.name);
        let help = help.trim().replace('\\', "\\\\").replace('\n', " ");
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value of the metric begun last.
    fn sample(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.out.push_str(&self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let text = text
                .to_string()
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.out, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    fn per_shard(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        snapshots: &[Snapshot],
        read: fn(&Snapshot) -> u64,
    ) {
        self.family(name, kind, help);
        for snapshot in snapshots {
            self.sample(&[("shard", &snapshot.index)], read(snapshot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_so_that_no_value_can_end_its_line() {
        let mut text = Exposition::default();
        text.family("a_total", "counter", "Two\nlines.");
        text.sample(&[("name", &"say \"hi\"\n\\")], 3);
        assert_eq!(
            text.out,
            "# HELP a_total Two lines.\n# TYPE a_total counter\na_total{name=\"say \\\"hi\\\"\\n\\\\\"} 3\n"
        );
    }
}
