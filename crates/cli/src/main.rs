//! The `flowdog` command.
fn main() {}
