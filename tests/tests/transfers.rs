//! Large transfers in good and bad weather arrive byte for byte.

use std::fmt::Write as _;

use anyhow::Result;
use flowdog_tests::lab::Lab;
use sha1::{Digest, Sha1};

/// The SHA-1 of what the origin serves at `/bytes/LEN?seed=SEED`: SplitMix64, little endian.
fn expected(seed: u64, len: usize) -> String {
    let mut sha1 = Sha1::new();
    let mut chunk = Vec::with_capacity(1 << 16);
    let mut state = seed;
    for _ in 0..len / 8 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.extend((z ^ (z >> 31)).to_le_bytes());
        if chunk.len() == 1 << 16 {
            sha1.update(&chunk);
            chunk.clear();
        }
    }
    sha1.update(&chunk);
    sha1.finalize().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

/// 100 MB down and 100 MB up, each in clear and inside TLS.
#[expect(
    clippy::print_stdout,
    reason = "the rates belong into the test's output"
)]
fn transfers(link: Option<&str>) -> Result<()> {
    const LEN: usize = 100_000_000;
    let mut lab = Lab::new()?;
    if let Some(link) = link {
        lab = lab.link(link);
    }
    let script = format!(
        "cd {folder}; head -c {LEN} /dev/urandom > up; sha1sum < up; \
         for url in http://any.lab.name https://any.lab.name; do \
            curl -sS --fail --max-time 400 -w '%{{speed_download}} B/s down\\n' -o down \"$url/bytes/{LEN}?seed=9\"; \
            sha1sum < down; \
            curl -sS --fail --max-time 400 -w ' %{{speed_upload}} B/s up\\n' -T up $url/upload; \
         done",
        folder = lab.folder().display()
    );
    let outcome = lab.shell(&script)?;
    println!("{link:?}\n{}", outcome.stdout);
    let uploaded = outcome.stdout.split_whitespace().next().unwrap_or_default();
    assert_eq!(
        outcome.stdout.matches(&expected(9, LEN)).count(),
        2,
        "downloads differ"
    );
    assert_eq!(
        outcome.stdout.matches(uploaded).count(),
        3,
        "uploads differ"
    );
    assert_eq!(
        outcome.stdout.matches(&format!("\"bytes\":{LEN}")).count(),
        2
    );
    Ok(())
}

#[test]
fn a_hundred_megabytes_arrive_byte_for_byte() -> Result<()> {
    transfers(None)
}

#[test]
fn a_hundred_megabytes_arrive_at_one_percent_loss_with_reordering() -> Result<()> {
    transfers(Some("loss=1%,reorder=1%,duplicate=0.1%,delay=1ms,seed=11"))
}

#[test]
fn a_hundred_megabytes_arrive_at_five_percent_loss_with_reordering() -> Result<()> {
    transfers(Some("loss=5%,reorder=2%,seed=12"))
}

/// `congestion = "bbr"` reaches both legs: the same rule with and without it, on a link that loses
/// packets by chance, where CUBIC keeps little in flight.
#[test]
fn a_rule_chooses_the_congestion_control_of_its_flows() -> Result<()> {
    const LEN: usize = 6_000_000;
    let run = |congestion: &str| -> Result<(f64, f64)> {
        let lab = Lab::new()?
            .config(&format!(
                "[[rule]]\nport = 80\naction = \"intercept\"\n{congestion}"
            ))?
            .link("loss=2%,delay=5ms,seed=5");
        let outcome = lab.shell(&format!(
            "curl -sS --fail --max-time 60 http://any.lab.name/bytes/{LEN}?seed=9 | sha1sum"
        ))?;
        assert!(
            outcome.stdout.contains(&expected(9, LEN)),
            "{}",
            outcome.stdout
        );
        Ok((
            outcome.metric("flowdog_dataplane_congestion_bbr_total", ""),
            outcome.metric("flowdog_dataplane_takeovers_total", ""),
        ))
    };
    assert_eq!(run("congestion = \"bbr\"\n")?, (1.0, 1.0));
    assert_eq!(run("")?, (0.0, 1.0));
    Ok(())
}
