//! `[ec2]`, and the conditions of rules on what EC2 knows of a host.

#[cfg(feature = "aws")]
use std::time::Duration;

use toml::de::DeValue;

use super::fault::Collector;
#[cfg(feature = "aws")]
use super::read::{HOUR, Reader, SECOND};
use super::section::{Section, found};
#[cfg(feature = "aws")]
use super::{Ec2, Ec2Place};

/// Conditions on the host at one end of a flow. A host that EC2 does not know meets none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConditions {
    /// `…-account`: 12 digits.
    pub account: Option<Vec<String>>,
    /// `…-instance`: `i-…`.
    pub instance: Option<Vec<String>>,
    /// `…-interface`: `eni-…`.
    pub interface: Option<Vec<String>>,
    /// `…-security-group`: `sg-…`, one of which the interface must have.
    pub security_group: Option<Vec<String>>,
    /// `…-subnet`: `subnet-…`.
    pub subnet: Option<Vec<String>>,
    /// `…-tag`: keys, all of which the host must have, with one of the values; `*` is any value.
    pub tags: Vec<(String, Vec<String>)>,
    /// `…-vpc`: `vpc-…`.
    pub vpc: Option<Vec<String>>,
}

/// The keys for one end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostKeys {
    pub(crate) account: &'static str,
    pub(crate) instance: &'static str,
    pub(crate) interface: &'static str,
    pub(crate) security_group: &'static str,
    pub(crate) subnet: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) vpc: &'static str,
}

pub(crate) const SOURCE: HostKeys = HostKeys {
    account: "source-account",
    instance: "source-instance",
    interface: "source-interface",
    security_group: "source-security-group",
    subnet: "source-subnet",
    tag: "source-tag",
    vpc: "source-vpc",
};

pub(crate) const DESTINATION: HostKeys = HostKeys {
    account: "destination-account",
    instance: "destination-instance",
    interface: "destination-interface",
    security_group: "destination-security-group",
    subnet: "destination-subnet",
    tag: "destination-tag",
    vpc: "destination-vpc",
};

impl HostKeys {
    fn all(&self) -> [&'static str; 7] {
        [
            self.account,
            self.instance,
            self.interface,
            self.security_group,
            self.subnet,
            self.tag,
            self.vpc,
        ]
    }
}

/// Reads the conditions on one end. `has_directory` says whether there is an `[ec2]` table.
pub(super) fn conditions(
    section: &mut Section<'_>,
    keys: &HostKeys,
    has_directory: bool,
    faults: &mut Collector<'_>,
) -> HostConditions {
    if !has_directory {
        for key in keys.all() {
            if let Some(entry) = section.peek(key) {
                let what = "it takes EC2 to know, and there is no [ec2] table";
                faults.add(entry.offset, entry.key, what, Some("an [ec2] table"));
            }
        }
    }
    let mut ids = |key, prefix: &str| {
        let allowed = format!("ids as \"{prefix}0123456789abcdef0\"");
        section.several(key, &allowed, faults, |v| id(v.as_str()?, prefix))
    };
    HostConditions {
        instance: ids(keys.instance, "i-"),
        interface: ids(keys.interface, "eni-"),
        security_group: ids(keys.security_group, "sg-"),
        subnet: ids(keys.subnet, "subnet-"),
        vpc: ids(keys.vpc, "vpc-"),
        account: section.several(keys.account, "accounts of 12 digits", faults, |v| {
            let text = v.as_str()?;
            let right = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
            right.then(|| text.to_owned())
        }),
        tags: tags(section, keys.tag, faults),
    }
}

fn id(text: &str, prefix: &str) -> Option<String> {
    let digits = text.strip_prefix(prefix)?;
    let right =
        !digits.is_empty() && digits.len() <= 17 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    right.then(|| text.to_owned())
}

fn tags(
    section: &mut Section<'_>,
    key: &'static str,
    faults: &mut Collector<'_>,
) -> Vec<(String, Vec<String>)> {
    const ALLOWED: &str =
        "a table of tags, as { env = \"prod\", team = [\"blue\", \"red\"] }; \"*\" is any value";
    let Some(entry) = section.entry(key) else {
        return Vec::new();
    };
    let Some(table) = entry.value.as_table().filter(|table| !table.is_empty()) else {
        faults.add(entry.offset, &entry.key, entry.found(), Some(ALLOWED));
        return Vec::new();
    };
    let mut tags = Vec::new();
    for (name, value) in table {
        let value = value.get_ref();
        let values: Option<Vec<String>> = match value {
            DeValue::Array(items) if !items.is_empty() => items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect(),
            other => other.as_str().map(|one| vec![one.to_owned()]),
        };
        match values {
            Some(values) => tags.push((name.get_ref().to_string(), values)),
            None => faults.add(
                name.span().start,
                format!("{}.{}", entry.key, name.get_ref()),
                found(value),
                Some(ALLOWED),
            ),
        }
    }
    tags
}

#[cfg(feature = "aws")]
impl Reader<'_> {
    pub(super) fn ec2(&mut self, mut section: Section<'_>) -> Option<Ec2> {
        let mut sources = Vec::new();
        for mut place in section.tables("source", &mut self.faults) {
            let faults = &mut self.faults;
            let read = Ec2Place {
                region: place.parsed("region", "a region as \"eu-central-1\"", faults, |text| {
                    aws::Region::new(text).map(|region| region.as_str().to_owned())
                }),
                role: place.parsed("role", "the ARN of an IAM role", faults, |text| {
                    let right = text.starts_with("arn:") && text.contains(":role/");
                    right.then(|| text.to_owned())
                }),
                external_id: place.string("external-id", faults),
                endpoint: place.parsed("endpoint", URL, faults, url),
                queue: place.parsed("queue", URL, faults, url),
            };
            if let (Some(entry), None) = (place.peek("external-id"), &read.role) {
                let what = "only a role asks for it";
                faults.add(entry.offset, entry.key, what, Some("a role beside it"));
            }
            self.close(&place);
            sources.push(read);
        }
        let default = Ec2::default();
        let faults = &mut self.faults;
        let read = Ec2 {
            refresh: section
                .duration("refresh", 10 * SECOND, 24 * HOUR, faults)
                .unwrap_or(default.refresh),
            start_wait: section
                .duration("start-wait", Duration::ZERO, 60 * SECOND, faults)
                .unwrap_or(default.start_wait),
            sources: if sources.is_empty() {
                default.sources
            } else {
                sources
            },
        };
        let is_present = section.is_present();
        self.close(&section);
        is_present.then_some(read)
    }
}

#[cfg(feature = "aws")]
const URL: &str = "an http:// or https:// URL";

#[cfg(feature = "aws")]
fn url(text: &str) -> Option<String> {
    let uri: http::Uri = text.parse().ok()?;
    let right = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    right.then(|| text.to_owned())
}
