//! Whenever flowdog takes a connection over, the two applications see what they would have seen
//! without it.
//!
//! The verdict may come with any packet and the decision after any number of first bytes; any packet
//! of the handshake and of the first bytes may be lost, doubled, late or corrupt, before the data
//! plane or behind it.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod bench;
mod world;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use world::{Dialogue, End, Fault, Hop, Policy, Scenario, Seen, World};

/// First bytes of the client: several segments.
const BYTES: usize = 5_000;
const FAULTS: [Fault; 4] = [Fault::Drop, Fault::Duplicate, Fault::Delay, Fault::Corrupt];
/// Packets that a handshake and the first bytes take.
const PACKETS: usize = 8;
const DIALOGUES: [Dialogue; 4] = [
    Dialogue::Echo,
    Dialogue::Refused,
    Dialogue::ServerAborts,
    Dialogue::ClientAborts,
];

/// What the shell wants to see before it decides: nothing but a byte, the boundaries of segments,
/// everything, more than there will be.
const WANTS: [usize; 6] = [1, 1_000, 1_461, 2_921, BYTES, BYTES + 1];

fn scenario(policy: Policy, dialogue: Dialogue) -> Scenario {
    Scenario {
        bytes: BYTES,
        dialogue,
        ..Scenario::clean(9, policy)
    }
}

fn run(scenario: Scenario) -> (Seen, usize) {
    let world = World::new(scenario).run();
    (world.seen.expect("the connection ended"), world.relayed)
}

/// Compares a run with one without flowdog; answers how many connections were taken over.
fn compare(scenario: Scenario) -> usize {
    let (without, _) = run(Scenario {
        faults: Vec::new(),
        verdict_at: 0,
        ..self::scenario(Policy::Absent, scenario.dialogue)
    });
    let what = format!("{scenario:?}");
    let (with, relayed) = run(scenario);
    assert!(
        with == without,
        "{what}: {:?} {:?}",
        with.client.1,
        with.server.1
    );
    relayed
}

#[test]
fn without_flowdog_the_dialogues_end_in_their_own_ways() {
    let said = |dialogue| {
        let (seen, _) = run(scenario(Policy::Absent, dialogue));
        let (client, server) = (seen.client, seen.server);
        ((client.0.len(), client.1), (server.0.len(), server.1))
    };
    let (finished, reset, aborted) = (End::Finished, End::Reset, End::Aborted);
    assert_eq!(said(Dialogue::Echo), ((BYTES, finished), (BYTES, finished)));
    assert_eq!(said(Dialogue::Refused), ((0, reset), (0, reset)));
    let server_aborts = said(Dialogue::ServerAborts);
    assert_eq!(server_aborts, ((0, reset), (BYTES, aborted)));
    let client_aborts = said(Dialogue::ClientAborts);
    assert_eq!(client_aborts, ((BYTES, aborted), (BYTES, reset)));
}

#[test]
fn applications_see_the_same_whenever_the_verdict_comes() {
    let mut relayed = 0;
    for dialogue in DIALOGUES {
        for policy in [Policy::Intercept, Policy::Bypass] {
            for wants in WANTS {
                for verdict_at in 0..=3 {
                    relayed += compare(Scenario {
                        wants,
                        verdict_at,
                        ..scenario(policy, dialogue)
                    });
                }
            }
        }
    }
    // Three dialogues, each at six moments of the first bytes and four of the verdict; and some
    // whose first bytes waited too long for a decision to bypass.
    assert!(relayed >= 3 * 6 * 4, "only {relayed}");
}

/// Each fault on each packet, for each moment of the take-over.
fn every_fault(dialogue: Dialogue) {
    let mut relayed = 0;
    for hop in [Hop::Before, Hop::After] {
        for n in 1..=PACKETS {
            for fault in FAULTS {
                for wants in WANTS {
                    relayed += compare(Scenario {
                        wants,
                        faults: vec![(hop, n, fault)],
                        ..scenario(Policy::Intercept, dialogue)
                    });
                }
            }
        }
    }
    let runs = 2 * PACKETS * FAULTS.len() * WANTS.len();
    assert!(relayed * 10 > runs * 9, "{relayed} of {runs}");
}

#[test]
fn an_echo_survives_every_fault_at_every_moment_of_the_take_over() {
    every_fault(Dialogue::Echo);
}

#[test]
fn a_reset_by_the_server_survives_every_fault_at_every_moment_of_the_take_over() {
    every_fault(Dialogue::ServerAborts);
}

#[test]
fn a_reset_by_the_client_survives_every_fault_at_every_moment_of_the_take_over() {
    every_fault(Dialogue::ClientAborts);
}

#[test]
fn applications_see_the_same_under_several_faults() {
    let seeds = std::env::var("FLOWDOG_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let only: Option<u64> = std::env::var("FLOWDOG_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let range = match only {
        Some(seed) => seed..seed + 1,
        None => 0..seeds.unwrap_or(300),
    };
    for seed in range {
        let random = &mut SmallRng::seed_from_u64(seed);
        let faults = (0..random.random_range(1..=4))
            .map(|_| {
                let hop = if random.random_bool(0.5) {
                    Hop::Before
                } else {
                    Hop::After
                };
                let fault = FAULTS[random.random_range(0..FAULTS.len())];
                (hop, random.random_range(1..=PACKETS), fault)
            })
            .collect();
        println!("replay with FLOWDOG_SEED={seed}");
        compare(Scenario {
            wants: WANTS[random.random_range(0..WANTS.len())],
            verdict_at: random.random_range(0..4),
            faults,
            ..scenario(
                if random.random_bool(0.8) {
                    Policy::Intercept
                } else {
                    Policy::Bypass
                },
                [
                    Dialogue::Echo,
                    Dialogue::ServerAborts,
                    Dialogue::ClientAborts,
                ][random.random_range(0..3)],
            )
        });
    }
}
