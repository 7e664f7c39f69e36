//! Two independent TCP stacks talk through the data plane over a bad network, in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]

mod bench;
mod world;

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use world::{Fault, Hop, Policy, Scenario, World};

const POLICIES: [Policy; 5] = [
    Policy::Pass,
    Policy::Bypass,
    Policy::Intercept,
    Policy::NeverDecide,
    Policy::Silent,
];

#[test]
fn bytes_arrive_the_same_on_a_clean_path_under_every_policy() {
    for policy in POLICIES {
        for v6 in [false, true] {
            let world = World::new(Scenario {
                v6,
                bytes: 200_000,
                ..Scenario::clean(1, policy)
            })
            .run();
            let taken = usize::from(!matches!(policy, Policy::Pass | Policy::Bypass));
            assert_eq!(world.relayed, taken, "{policy:?}");
            assert_eq!(world.changed, 0, "{policy:?}: smoltcp's SYN needs no edit");
        }
    }
}

#[test]
fn a_take_over_without_loss_makes_nobody_send_anything_twice() {
    let world = World::new(Scenario::clean(2, Policy::Intercept)).run();
    let counters = world.dataplane.counters();
    assert_eq!((counters.takeovers, counters.relays), (1, 0));
    assert_eq!(counters.segments_retransmitted, 0);
}

#[test]
fn every_packet_of_the_handshake_may_be_lost_doubled_late_or_corrupt() {
    for policy in POLICIES {
        for fault in [Fault::Drop, Fault::Duplicate, Fault::Delay, Fault::Corrupt] {
            for n in 1..=10 {
                World::new(Scenario {
                    faults: vec![(Hop::Before, n, fault)],
                    bytes: 6000,
                    ..Scenario::clean(n as u64, policy)
                })
                .run();
            }
        }
    }
}

#[test]
fn a_server_that_speaks_first_is_bypassed() {
    for seed in 0..5 {
        let world = World::new(Scenario {
            banner: 500,
            ..Scenario::clean(seed, Policy::Intercept)
        })
        .run();
        assert_eq!(world.relayed, 0);
        let reason = flowdog_dataplane::BypassReason::ServerFirst;
        assert_eq!(world.dataplane.counters().bypassed(reason), 1);
    }
}

#[test]
fn bytes_arrive_the_same_over_a_bad_network() {
    // `FLOWDOG_SEEDS=20000` makes it a long run.
    let seeds = std::env::var("FLOWDOG_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(100) {
        let policy = POLICIES[seed as usize % POLICIES.len()];
        let mut random = SmallRng::seed_from_u64(seed);
        World::new(Scenario {
            v6: seed % 2 == 1,
            bytes: random.random_range(1..60_000),
            loss: random.random_range(0.0..0.08),
            reorder: random.random_range(0.0..0.3),
            duplicate: random.random_range(0.0..0.1),
            corrupt: random.random_range(0.0..0.02),
            delay: Duration::from_micros(random.random_range(50..40_000)),
            ..Scenario::clean(seed, policy)
        })
        .run();
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = || {
        let world = World::new(Scenario {
            loss: 0.05,
            reorder: 0.2,
            ..Scenario::clean(11, Policy::Intercept)
        })
        .run();
        (world.now, world.dataplane.counters().clone())
    };
    assert_eq!(run(), run());
}
