//! What a minted leaf takes over from the server's own certificate.
//!
//! The leaf carries no name that the server's certificate does not have, so the client's own
//! check of the name stays meaningful, and a client can coalesce connections exactly where it
//! could without us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::leaf_key::KeyType;
use crate::mint::MintError;

/// A certificate up to this size is mirrored with all its names; the size itself is the bound.
/// The largest ones of content networks, with some 150 names, stay below 6 KiB.
pub(crate) const WHOLE: usize = 8 * 1024;

/// From larger certificates this many names are taken: the one asked for, then the first ones.
pub(crate) const MAX_NAMES: usize = 100;

/// RFC 5280 appendix A: `ub-common-name`.
const MAX_COMMON_NAME: usize = 64;

/// How far `notBefore` lies in the past, for clients whose clock is behind.
const BACKDATE: i64 = 3600;

/// Since March 2026 public certificates live 200 days at most (CA/Browser Forum ballot SC-081);
/// some clients hold all certificates to that.
pub(crate) const MAX_LIFETIME: Duration = Duration::days(199);

/// The parts of a server's leaf that are repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) common_name: Option<String>,
    pub(crate) names: Vec<Name>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// A name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Dns(String),
    Ip(IpAddr),
}

/// Who the client wants to reach; decides only which names survive the cap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) server_name: Option<&'a str>,
    pub(crate) address: IpAddr,
}

impl Mirror {
    /// Reads a server's leaf. What cannot be repeated safely is left out.
    pub(crate) fn of(leaf: &[u8], wanted: Wanted<'_>) -> Result<Self, MintError> {
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|_opaque| MintError::UnreadableLeaf)?;
        let common_name = certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .filter(|name| is_plain(name))
            .map(str::to_owned);
        let mut names = Vec::new();
        // Two extensions of this kind are an error in the certificate; such names are no names.
        if let Ok(Some(extension)) = certificate.subject_alternative_name() {
            let all = || extension.value.general_names.iter().filter_map(read_name);
            if leaf.len() <= WHOLE {
                names.extend(all());
            } else {
                names.extend(all().find(|name| name.covers(wanted)));
                for name in all() {
                    if names.len() == MAX_NAMES {
                        break;
                    }
                    if names.first() != Some(&name) {
                        names.push(name);
                    }
                }
            }
        }
        Ok(Self {
            common_name,
            names,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// The certificate to be signed: valid inside the server's and the authority's validity.
    pub(crate) fn params(
        &self,
        now: i64,
        lifetime: Duration,
        authority: (i64, i64),
        key: KeyType,
        serial: [u8; 16],
    ) -> Result<CertificateParams, MintError> {
        let not_before = (now - BACKDATE).max(self.not_before).max(authority.0);
        let lifetime = lifetime.min(MAX_LIFETIME).whole_seconds();
        // RFC 5280 §4.1.2.5: both ends belong to the validity, hence the second less.
        let not_after = not_before
            .saturating_add(lifetime - 1)
            .min(self.not_after)
            .min(authority.1);
        if not_after < now || not_before > now {
            return Err(MintError::NotValidNow);
        }
        let mut params = CertificateParams::default();
        params.not_before = date(not_before)?;
        params.not_after = date(not_after)?;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &self.common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        for name in &self.names {
            params.subject_alt_names.push(match name {
                Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                Name::Ip(address) => SanType::IpAddress(*address),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = match key {
            KeyType::EcdsaP256 => vec![KeyUsagePurpose::DigitalSignature],
            KeyType::Rsa2048 => vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyEncipherment,
            ],
        };
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl Mirror {
    /// The same for a server that was not believed: with all its dates, good or bad.
    pub(crate) fn broken_params(
        &self,
        now: i64,
        lifetime: Duration,
        key: KeyType,
        serial: [u8; 16],
    ) -> Result<CertificateParams, MintError> {
        // As if it were minted at the nearest moment at which the server's is valid.
        let at = now.min(self.not_after).max(self.not_before);
        self.params(at, lifetime, (i64::MIN, i64::MAX), key, serial)
    }

    /// Takes away the dates, for a leaf that is to be valid whatever the server's is.
    pub(crate) fn without_dates(self) -> Self {
        Self {
            not_before: i64::MIN,
            not_after: i64::MAX,
            ..self
        }
    }
}

impl Name {
    /// Whether this is a name for what the client wants (RFC 9525 §6.3 for the wildcard).
    fn covers(&self, wanted: Wanted<'_>) -> bool {
        match (self, wanted.server_name) {
            (Self::Dns(pattern), Some(name)) => match pattern.strip_prefix("*.") {
                Some(parent) => name
                    .split_once('.')
                    .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
                None => pattern.eq_ignore_ascii_case(name),
            },
            (Self::Ip(address), None) => *address == wanted.address,
            (Self::Dns(_), None) | (Self::Ip(_), Some(_)) => false,
        }
    }
}

fn read_name(name: &GeneralName<'_>) -> Option<Name> {
    match name {
        GeneralName::DNSName(name) => is_dns_name(name).then(|| Name::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)))
                .or_else(|_not_v4| {
                    <[u8; 16]>::try_from(*bytes).map(|bytes| IpAddr::from(Ipv6Addr::from(bytes)))
                });
            address.ok().map(Name::Ip)
        }
        _ => None,
    }
}

/// A host name, or one below a wildcard label; nothing that a client might read in two ways.
fn is_dns_name(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    !host.is_empty()
        && name.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.chars().count() <= MAX_COMMON_NAME
        && !name.chars().any(char::is_control)
}

fn date(seconds: i64) -> Result<OffsetDateTime, MintError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_out_of_range| MintError::NotValidNow)
}

#[cfg(test)]
mod tests;
