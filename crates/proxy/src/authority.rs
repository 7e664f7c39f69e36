//! Whether a request names one host, and the same one everywhere.

use http::Version;
use sdk::{Authority, Headers, Target};

use crate::error::Fault;

/// Checks the Host field against RFC 9112 §3.2 and against the request target.
///
/// A target that names an authority must name the one in Host: recipients differ in which of the
/// two they believe.
pub(crate) fn check_host(
    target: &Target,
    headers: &Headers,
    version: Version,
) -> Result<(), Fault> {
    let mut values = headers.get_all("host");
    let Some(value) = values.next() else {
        return if version == Version::HTTP_11 {
            Err(Fault::Host)
        } else {
            Ok(())
        };
    };
    if values.next().is_some() {
        return Err(Fault::Host);
    }
    let host = Authority::parse(value.as_bytes()).map_err(|_| Fault::Host)?;
    match target {
        Target::Absolute {
            scheme, authority, ..
        } if !same_authority(&host, authority, scheme.as_str()) => Err(Fault::Host),
        Target::Authority(authority) if !same_host(&host, authority) => Err(Fault::Host),
        _ => Ok(()),
    }
}

/// Whether two authorities name one origin under a scheme; a port left out is the scheme's own.
pub(crate) fn same_authority(one: &Authority, other: &Authority, scheme: &str) -> bool {
    let default = if scheme.eq_ignore_ascii_case("https") {
        443
    } else {
        80
    };
    same_host(one, other) && one.port().unwrap_or(default) == other.port().unwrap_or(default)
}

fn same_host(one: &Authority, other: &Authority) -> bool {
    one.host().eq_ignore_ascii_case(other.host())
}
