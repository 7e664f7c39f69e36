//! The engine behind packetdrill's shared-object interface, in virtual time.
//!
//! `packetdrill --so_filename=libflowdog_packetdrill.so --local_ip=192.168.0.1 SCRIPT` runs a script
//! against it; the runner in `tests/` does the same with the scripts in `scripts/`, which it reads
//! itself. The engine opens nothing, so the stack here shakes hands for it and hands it the
//! connection as the data plane does.

pub mod abi;
pub mod plugin;
mod stack;

// The offer of a handshake, shared with the engine's own tests.
#[path = "../../../crates/tcp/tests/sim/mod.rs"]
mod sim;
