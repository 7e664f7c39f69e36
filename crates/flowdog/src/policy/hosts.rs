//! The tables of conditions on what EC2 knows of a host, in the form of [`index`](super::index).

use sdk::Ec2Host;

use super::index::{ByValue, Set, both, either, insert, pairs, plain};
use crate::config::{HostConditions, Rule};

/// The conditions on one end of a flow.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    is_asked: bool,
    account: ByValue<String>,
    instance: ByValue<String>,
    interface: ByValue<String>,
    security_group: ByValue<String>,
    subnet: ByValue<String>,
    vpc: ByValue<String>,
    /// Each tag that some rule asks for.
    tags: Vec<(String, Tag)>,
}

/// Rules by the value of one tag.
#[derive(Debug)]
struct Tag {
    named: ByValue<String>,
    /// Rules that a host without the tag does not fail.
    absent: Set,
}

type Ids = fn(&HostConditions) -> &Option<Vec<String>>;

impl Hosts {
    pub(super) fn new(rules: &[Rule], end: fn(&Rule) -> &HostConditions) -> Self {
        let table = |ids: Ids| {
            ByValue::new(
                plain(rules, |rule| ids(end(rule)).is_none()),
                pairs(rules, |rule| ids(end(rule)), String::clone),
            )
        };
        let mut tags: Vec<(String, Tag)> = Vec::new();
        for rule in rules {
            for (key, _) in &end(rule).tags {
                if !tags.iter().any(|(known, _)| known == key) {
                    tags.push((key.clone(), Tag::new(rules, end, key)));
                }
            }
        }
        Self {
            is_asked: rules
                .iter()
                .any(|rule| *end(rule) != HostConditions::default()),
            account: table(|host| &host.account),
            instance: table(|host| &host.instance),
            interface: table(|host| &host.interface),
            security_group: table(|host| &host.security_group),
            subnet: table(|host| &host.subnet),
            vpc: table(|host| &host.vpc),
            tags,
        }
    }

    /// Leaves the rules whose conditions on this end hold.
    pub(super) fn narrow(&self, set: &mut [u64], host: Option<&Ec2Host>) {
        if !self.is_asked {
            return;
        }
        let id = |table: &ByValue<String>, set: &mut [u64], value: Option<&str>| {
            if table.is_asked() {
                both(set, table.of_some(value));
            }
        };
        id(
            &self.account,
            set,
            host.map(|host| host.account_id.as_str()),
        );
        id(
            &self.instance,
            set,
            host.and_then(|host| host.instance_id.as_deref()),
        );
        id(
            &self.interface,
            set,
            host.and_then(|host| host.interface_id.as_deref()),
        );
        id(&self.subnet, set, host.map(|host| host.subnet_id.as_str()));
        id(&self.vpc, set, host.map(|host| host.vpc_id.as_str()));
        if self.security_group.is_asked() {
            let mut holds = self.security_group.of_some::<str>(None).to_vec();
            for group in host.into_iter().flat_map(|host| &host.security_groups) {
                either(&mut holds, Some(self.security_group.of(group.as_str())));
            }
            both(set, &holds);
        }
        for (key, tag) in &self.tags {
            let value = host.and_then(|host| host.tags.get(key));
            both(
                set,
                match value {
                    Some(value) => tag.named.of(value.as_str()),
                    None => &tag.absent,
                },
            );
        }
    }
}

impl Tag {
    fn new(rules: &[Rule], end: fn(&Rule) -> &HostConditions, key: &str) -> Self {
        let absent = plain(rules, |rule| {
            !end(rule).tags.iter().any(|(known, _)| known == key)
        });
        // What any value satisfies.
        let mut present = absent.clone();
        let mut named = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let tags = end(rule).tags.iter().filter(|(known, _)| known == key);
            for value in tags.flat_map(|(_, values)| values) {
                if value == "*" {
                    insert(&mut present, number);
                } else {
                    named.push((value.clone(), number));
                }
            }
        }
        Self {
            named: ByValue::new(present, named),
            absent,
        }
    }
}
