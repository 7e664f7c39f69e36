//! An appliance of one file.
fn main() {}
