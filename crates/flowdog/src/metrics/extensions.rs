//! Metrics of what an operator adds: acceptors, interceptors and what they keep, functions, hooks.

use sdk::OutletStats;

use super::Exposition;
use crate::health::State;
use crate::telemetry::read;

#[cfg(feature = "script")]
pub(super) fn scripts(text: &mut Exposition) {
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

pub(super) fn acceptors(text: &mut Exposition, state: &State) {
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

pub(super) fn interceptors(text: &mut Exposition, state: &State) {
    let config = state.config.load();
    let stats: Vec<_> = config
        .interceptors
        .iter()
        .map(|link| (link.name().to_owned(), link.stats()))
        .collect();
    text.by_kind(
        "flowdog_interceptor_calls_total",
        "What an interceptor was shown since the configuration was loaded.",
        ["interceptor", "stage"],
        &stats,
        |s| {
            vec![
                ("request", s.requests),
                ("response", s.responses),
                ("message", s.messages),
            ]
        },
    );
    text.by_kind(
        "flowdog_interceptor_actions_total",
        "Requests that an interceptor answered or gave up itself.",
        ["interceptor", "action"],
        &stats,
        |s| vec![("answered", s.answered), ("aborted", s.aborted)],
    );
    text.by_kind(
        "flowdog_interceptor_failures_total",
        "Calls of an interceptor that failed.",
        ["interceptor", "kind"],
        &stats,
        |s| vec![("error", s.errors), ("panic", s.panics)],
    );
    text.by_kind(
        "flowdog_interceptor_notes_total",
        "What an interceptor counted itself.",
        ["interceptor", "note"],
        &stats,
        |s| s.notes.clone().into_iter().collect(),
    );
}

pub(super) fn outlets(text: &mut Exposition, state: &State) {
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

pub(super) fn hooks(text: &mut Exposition, state: &State) {
    let config = state.config.load();
    if config.hooks.is_empty() {
        return;
    }
    let stats: Vec<_> = config
        .hooks
        .iter()
        .map(|link| (link.name().to_owned(), link.stats()))
        .collect();
    text.by_kind(
        "flowdog_hook_calls_total",
        "Packets and TCP connections that a hook was shown since the configuration was loaded.",
        ["hook", "kind"],
        &stats,
        |s| vec![("packet", s.packets), ("stream", s.streams)],
    );
    text.by_kind(
        "flowdog_hook_actions_total",
        "Packets that a hook changed, answered, dropped or had held, and those that could not be held.",
        ["hook", "action"],
        &stats,
        |s| {
            vec![
                ("edited", s.edited),
                ("dropped", s.dropped),
                ("held", s.held),
                ("unheld", s.unheld),
            ]
        },
    );
    text.family(
        "flowdog_hook_panics_total",
        "counter",
        "Calls of a hook that panicked: a defect, contained.",
    );
    for (name, s) in &stats {
        text.sample(&[("hook", name)], s.panics);
    }
    text.by_kind(
        "flowdog_hook_notes_total",
        "What a hook counted itself.",
        ["hook", "note"],
        &stats,
        |s| s.notes.clone().into_iter().collect(),
    );
}
