//! Whole interceptions: a client, an [`Impersonator`](tls::Impersonator) and a server, joined by
//! pipes in memory or by real sockets.

// The name that the other crates of the workspace use.
extern crate flowdog_tls as tls;

#[cfg(test)]
mod established;
#[cfg(test)]
mod openssl;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod streams;
