//! The function behind a Lambda that runs it.

use std::path::Path;

use flowdog_tests::gatekeeper;
use flowdog_tests::ministack::Ministack;

#[test]
fn the_function_in_rust_decides_gives_its_reasons_and_what_they_depend_on() -> anyhow::Result<()> {
    let program = Path::new(env!("CARGO_BIN_EXE_bootstrap"));
    let stack = Ministack::start("provided.al2023", "bootstrap", "bootstrap", program)?;
    gatekeeper::check(&stack, 25)
}
