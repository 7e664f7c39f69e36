//! The registrable domain of a host, by the [public suffix list](https://publicsuffix.org/).
//!
//! A crate of its own because the list is 10,000 functions that are compiled into whoever asks: half a
//! minute of a processor each time that one changes. Here they are compiled once, and hardly optimised.

use std::cell::RefCell;

/// The registrable domain of a host, the part that somebody has registered under a public suffix:
/// `example.co.uk` of `www.example.co.uk`. Empty for addresses and for names that are suffixes
/// themselves.
#[must_use]
pub fn etld_plus_one(host: &str) -> &str {
    let host = host.trim_end_matches('.');
    LAST.with_borrow_mut(|(last, domain)| {
        if last != host {
            host.clone_into(last);
            let is_address = host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[');
            *domain = if is_address {
                0
            } else {
                psl::domain_str(host).unwrap_or_default().len()
            };
        }
        host.get(host.len() - *domain..).unwrap_or_default()
    })
}

std::thread_local! {
    /// The host that was asked for last, and how much of its end is its domain: whoever asks comes with
    /// the same one many times.
    static LAST: RefCell<(String, usize)> = const { RefCell::new((String::new(), 0)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrable_domain_follows_the_public_suffix_list() {
        for (host, domain) in [
            ("a.b.example.com", "example.com"),
            ("bucket.s3.amazonaws.com", "bucket.s3.amazonaws.com"),
            ("example.co.uk.", "example.co.uk"),
            ("co.uk", ""),
            ("10.0.0.1", ""),
            ("[::1]", ""),
            ("", ""),
        ] {
            assert_eq!(etld_plus_one(host), domain, "{host}");
            assert_eq!(etld_plus_one(host), domain, "{host} again");
        }
    }
}
