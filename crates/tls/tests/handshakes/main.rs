//! Whole interceptions: a client, an [`Impersonator`](tls::Impersonator) and a server, joined by
//! pipes in memory or by real sockets.

// The name that the other crates of the workspace use.
extern crate flowdog_tls as tls;

mod established;
mod openssl;
mod refused;
mod rig;
mod secrets;
