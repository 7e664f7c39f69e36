//! The tour: what a newcomer sees first.

use anyhow::Result;
use flowdog_tests::lab::Lab;

#[test]
fn the_tour_is_right_in_every_step() -> Result<()> {
    let outcome = Lab::new()?.run(&[])?;
    println!("{}\n{}", outcome.stdout, outcome.stderr);
    assert_eq!(
        outcome.code,
        Some(0),
        "{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
    assert_eq!(outcome.violations(), 0, "{:#}", outcome.report);
    assert!(
        !outcome.stdout.contains('\u{1b}'),
        "colours belong on terminals only"
    );
    Ok(())
}

#[test]
fn the_tour_runs_where_namespaces_are_forbidden() -> Result<()> {
    let outcome = Lab::new()?.argument("--user-space").run(&[])?;
    println!("{}\n{}", outcome.stdout, outcome.stderr);
    assert_eq!(
        outcome.code,
        Some(0),
        "{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
    assert_eq!(outcome.violations(), 0, "{:#}", outcome.report);
    Ok(())
}
