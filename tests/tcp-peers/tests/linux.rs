//! The engine against the kernel's TCP: every combination of options, sizes, controllers and loss.
#![cfg(target_os = "linux")]
#![expect(
    clippy::print_stdout,
    reason = "a test harness tells its results there"
)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flowdog_tcp::Algorithm;
use flowdog_tcp_peers::kernel::{Settings, controllers};
use flowdog_tcp_peers::{Case, Path, takeover};
use lab::netns;

#[path = "../../../crates/lab/tests/harness/mod.rs"]
mod harness;

use harness::Outcome;

/// Transfers at the same time: they mostly wait.
const AT_ONCE: usize = 12;

fn main() -> ExitCode {
    harness::run(&[
        (
            "engine_and_linux_agree_under_every_option_size_controller_and_loss",
            matrix,
        ),
        (
            "linux_applications_see_the_same_under_every_fault_of_a_take_over",
            take_over,
        ),
    ])
}

fn cases(with_bbr: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for kernel_sends in [false, true] {
        for bbr in [false, true] {
            if bbr && kernel_sends && !with_bbr {
                continue;
            }
            for mtu in [576, 1280, 1500, 8500] {
                for loss in [0.0, 0.01] {
                    for options in 0..8u8 {
                        let bytes = [u64::from(mtu) * 400, 20_000];
                        cases.push(Case {
                            settings: Settings {
                                mtu,
                                congestion: if bbr && kernel_sends { "bbr" } else { "cubic" },
                                sack: options & 1 == 0,
                                timestamps: options & 2 == 0,
                                window_scaling: options & 4 == 0,
                                buffers: None,
                            },
                            algorithm: if bbr && !kernel_sends {
                                Algorithm::Bbr
                            } else {
                                Algorithm::Cubic
                            },
                            bytes: if kernel_sends {
                                [bytes[1], bytes[0]]
                            } else {
                                bytes
                            },
                            kernel_connects: options.count_ones() % 2 == 0,
                            path: Path {
                                mtu,
                                rate: 100_000_000,
                                rtt: Duration::from_millis(4),
                                loss,
                                queue: 250_000,
                            },
                            seed: cases.len() as u64,
                            limit: Duration::from_secs(60),
                        });
                    }
                }
            }
        }
    }
    cases
}

/// Each fault on each packet of the handshake and of the first bytes, for each moment of the take-over.
fn take_over() -> Outcome {
    use takeover::{BYTES, Dialogue, Fault};
    const PACKETS: usize = 8;
    // Segments have 1448 bytes.
    const WANTS: [usize; 6] = [1, 1_000, 1_449, 2_897, BYTES, BYTES + 1];
    let mut cases = Vec::new();
    for dialogue in [
        Dialogue::Echo,
        Dialogue::ServerAborts,
        Dialogue::ClientAborts,
    ] {
        for is_behind in [false, true] {
            for nth in 1..=PACKETS {
                for fault in [Fault::Drop, Fault::Duplicate, Fault::Delay, Fault::Corrupt] {
                    cases.extend(WANTS.map(|wants| takeover::Case {
                        dialogue,
                        wants,
                        is_behind,
                        nth,
                        fault,
                    }));
                }
            }
        }
    }
    let (taken_over, failures) = takeover::run(&cases)?;
    println!(
        "{taken_over} of {} connections were taken over",
        cases.len()
    );
    if !failures.is_empty() {
        return Err(failures.join("\n").into());
    }
    if taken_over * 10 < cases.len() * 9 {
        return Err("too few were taken over".into());
    }
    Ok(())
}

fn matrix() -> Outcome {
    let with_bbr = controllers().iter().any(|name| name == "bbr");
    if !with_bbr {
        println!("this kernel has no BBR: the kernel sends with CUBIC only");
    }
    let cases = cases(with_bbr);
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Err(failure) = case.run() else { continue };
                    if let Ok(mut failures) = failures.lock() {
                        failures.push(format!("{failure}\n  in {case:?}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner()?;
    println!(
        "{} of {} transfers are as they have to be",
        cases.len() - failures.len(),
        cases.len()
    );
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}
