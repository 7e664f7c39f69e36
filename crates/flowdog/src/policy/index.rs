//! The rules in a form that finds the matching ones without looking at each.
//!
//! Every condition that is known when a flow opens becomes a table from its value to the set of
//! rules that the value satisfies, one bit per rule: sorted intervals for addresses and ports, maps
//! for the rest. The sets of one flow's values, put together with "and", are the rules that match;
//! the lowest bit is the first of them. Cost grows with the number of rules divided by 64.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::hosts::Hosts;
use super::{Application, FirstSight};
use crate::config::{NameGlob, Rule};
use crate::policy::Facts;

/// The tables of one list of rules.
#[derive(Debug, Default)]
pub(crate) struct Index {
    words: usize,
    endpoint: ByValue<u64>,
    protocol: ByValue<u8>,
    application: ByValue<Application>,
    /// Ports, for protocols that have them.
    port: Intervals<u16>,
    /// Rules without a condition on ports, for the other protocols.
    portless: Set,
    source: Networks,
    destination: Networks,
    client_host: Hosts,
    server_host: Hosts,
    server_name: Names,
    http_host: Names,
    /// Whether a rule wants to know if a UDP flow is QUIC.
    quic: bool,
}

/// A set of rules by their place in the list.
pub(super) type Set = Vec<u64>;

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let words = rules.len().div_ceil(64);
        let plain = |has_none: fn(&Rule) -> bool| plain(rules, has_none);
        Self {
            words,
            endpoint: ByValue::new(
                plain(|rule| rule.endpoint.is_none()),
                pairs(rules, |rule| &rule.endpoint, |id| id.0),
            ),
            protocol: ByValue::new(
                plain(|rule| rule.protocol.is_none()),
                pairs(rules, |rule| &rule.protocol, |protocol| *protocol),
            ),
            application: ByValue::new(
                plain(|rule| rule.application.is_none()),
                pairs(rules, |rule| &rule.application, |application| *application),
            ),
            port: Intervals::new(
                &plain(|rule| rule.port.is_none()),
                pairs(
                    rules,
                    |rule| &rule.port,
                    |ports| (*ports.start(), ports.end().checked_add(1)),
                ),
            ),
            portless: plain(|rule| rule.port.is_none()),
            source: Networks::new(
                &plain(|rule| rule.source.is_none()),
                &pairs(rules, |rule| &rule.source, |network| *network),
            ),
            destination: Networks::new(
                &plain(|rule| rule.destination.is_none()),
                &pairs(rules, |rule| &rule.destination, |network| *network),
            ),
            client_host: Hosts::new(rules, |rule| &rule.source_host),
            server_host: Hosts::new(rules, |rule| &rule.destination_host),
            server_name: Names::new(
                plain(|rule| rule.server_name.is_none()),
                pairs(rules, |rule| &rule.server_name, NameGlob::clone),
            ),
            http_host: Names::new(
                plain(|rule| rule.http_host.is_none()),
                pairs(rules, |rule| &rule.http_host, NameGlob::clone),
            ),
            quic: rules.iter().any(asks_quic),
        }
    }

    /// The rules whose conditions on the flow itself hold, in order. Conditions on its first bytes
    /// are not looked at.
    pub(crate) fn of_flow(&self, facts: &Facts) -> Matches {
        let mut set = self.source.of(facts.client.ip()).to_vec();
        set.resize(self.words, 0);
        both(&mut set, self.destination.of(facts.server.ip()));
        both(&mut set, self.endpoint.of(&facts.endpoint.0));
        both(&mut set, self.protocol.of(&facts.protocol.0));
        if facts.has_ports() {
            both(&mut set, self.port.of(facts.server.port()));
        } else {
            both(&mut set, &self.portless);
        }
        self.client_host
            .narrow(&mut set, facts.client_ec2.as_deref());
        self.server_host
            .narrow(&mut set, facts.server_ec2.as_deref());
        Matches(set)
    }

    /// The rules all of whose conditions hold, in order.
    pub(crate) fn of_first_bytes(&self, facts: &Facts, sight: &FirstSight<'_>) -> Matches {
        let mut matches = self.of_flow(facts);
        both(&mut matches.0, self.application.of(&sight.application));
        self.server_name.narrow(&mut matches.0, sight.server_name);
        self.http_host.narrow(&mut matches.0, sight.http_host);
        matches
    }

    /// Whether any rule may be met by QUIC for what its first datagrams say.
    pub(crate) fn asks_quic(&self) -> bool {
        self.quic
    }

    /// Whether any rule asks for the host of an HTTP request.
    pub(crate) fn asks_http_host(&self) -> bool {
        self.http_host.is_asked
    }
}

fn asks_quic(rule: &Rule) -> bool {
    let is_udp = rule.protocol.as_ref().is_none_or(|list| list.contains(&17));
    let is_quic = match &rule.application {
        Some(list) => list.contains(&Application::Quic),
        None => rule.server_name.is_some(),
    };
    is_udp && is_quic && rule.http_host.is_none()
}

/// Numbers of rules, ascending.
#[derive(Debug)]
pub(crate) struct Matches(Set);

impl Iterator for Matches {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        for (at, word) in self.0.iter_mut().enumerate() {
            if *word != 0 {
                let bit = word.trailing_zeros() as usize;
                *word &= *word - 1;
                return Some(at * 64 + bit);
            }
        }
        None
    }
}

/// The rules that something holds for.
pub(super) fn plain(rules: &[Rule], holds: impl Fn(&Rule) -> bool) -> Set {
    let mut set = vec![0; rules.len().div_ceil(64)];
    for (number, rule) in rules.iter().enumerate() {
        if holds(rule) {
            insert(&mut set, number);
        }
    }
    set
}

/// Every value of a condition with the rule that it stands in.
pub(super) fn pairs<T, V>(
    rules: &[Rule],
    condition: impl Fn(&Rule) -> &Option<Vec<T>>,
    value: impl Fn(&T) -> V,
) -> Vec<(V, usize)> {
    let mut pairs = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        for one in condition(rule).iter().flatten() {
            pairs.push((value(one), number));
        }
    }
    pairs
}

pub(super) fn insert(set: &mut [u64], number: usize) {
    if let Some(word) = set.get_mut(number / 64) {
        *word |= 1 << (number % 64);
    }
}

fn remove(set: &mut [u64], number: usize) {
    if let Some(word) = set.get_mut(number / 64) {
        *word &= !(1 << (number % 64));
    }
}

/// What is in both; a shorter set has no further members.
pub(super) fn both(set: &mut [u64], other: &[u64]) {
    for (at, word) in set.iter_mut().enumerate() {
        *word &= other.get(at).copied().unwrap_or_default();
    }
}

/// Rules by one value out of many.
#[derive(Debug)]
pub(super) struct ByValue<K> {
    named: HashMap<K, Set>,
    others: Set,
}

impl<K> Default for ByValue<K> {
    fn default() -> Self {
        Self {
            named: HashMap::new(),
            others: Set::new(),
        }
    }
}

impl<K: Eq + std::hash::Hash> ByValue<K> {
    pub(super) fn new(plain: Set, pairs: Vec<(K, usize)>) -> Self {
        let mut named: HashMap<K, Set> = HashMap::new();
        for (value, rule) in pairs {
            insert(named.entry(value).or_insert_with(|| plain.clone()), rule);
        }
        Self {
            named,
            others: plain,
        }
    }

    pub(super) fn of<Q>(&self, value: &Q) -> &[u64]
    where
        K: Borrow<Q>,
        Q: Eq + std::hash::Hash + ?Sized,
    {
        self.named.get(value).unwrap_or(&self.others)
    }

    /// The same where there may be no value: only rules without the condition hold then.
    pub(super) fn of_some<Q>(&self, value: Option<&Q>) -> &[u64]
    where
        K: Borrow<Q>,
        Q: Eq + std::hash::Hash + ?Sized,
    {
        value.map_or(&self.others, |value| self.of(value))
    }

    /// Whether any rule has the condition.
    pub(super) fn is_asked(&self) -> bool {
        !self.named.is_empty()
    }
}

/// Rules by an ordered value: between two neighbouring starts the set is the same.
#[derive(Debug)]
struct Intervals<K> {
    starts: Vec<K>,
    /// Which set holds from the start on.
    which: Vec<usize>,
    sets: Vec<Set>,
}

impl<K> Default for Intervals<K> {
    fn default() -> Self {
        Self {
            starts: Vec::new(),
            which: Vec::new(),
            sets: Vec::new(),
        }
    }
}

impl<K: Copy + Ord + Default> Intervals<K> {
    /// `ranges` hold a start, an end that is not in the range (none: up to the last value), and a
    /// rule.
    fn new(plain: &[u64], ranges: Vec<((K, Option<K>), usize)>) -> Self {
        let mut changes: BTreeMap<K, Vec<(usize, i32)>> = BTreeMap::new();
        changes.entry(K::default()).or_default();
        for ((start, end), rule) in ranges {
            changes.entry(start).or_default().push((rule, 1));
            if let Some(end) = end {
                changes.entry(end).or_default().push((rule, -1));
            }
        }
        let mut intervals = Self::default();
        let mut known: HashMap<Set, usize> = HashMap::new();
        let mut set = plain.to_vec();
        // One rule's ranges may overlap: it leaves the set with the last of them.
        let mut depth: HashMap<usize, i32> = HashMap::new();
        for (start, changes) in changes {
            for (rule, change) in changes {
                let depth = depth.entry(rule).or_default();
                *depth += change;
                if *depth > 0 {
                    insert(&mut set, rule);
                } else {
                    remove(&mut set, rule);
                }
            }
            let next = intervals.sets.len();
            let which = *known.entry(set.clone()).or_insert(next);
            if which == next {
                intervals.sets.push(set.clone());
            }
            intervals.starts.push(start);
            intervals.which.push(which);
        }
        intervals
    }

    fn of(&self, value: K) -> &[u64] {
        let at = self.starts.partition_point(|start| *start <= value);
        let which = at.checked_sub(1).and_then(|at| self.which.get(at));
        which
            .and_then(|which| self.sets.get(*which))
            .map_or(&[], Vec::as_slice)
    }
}

/// Rules by address.
#[derive(Debug, Default)]
struct Networks {
    v4: Intervals<u32>,
    v6: Intervals<u128>,
}

impl Networks {
    fn new(plain: &[u64], pairs: &[(IpNet, usize)]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, rule) in pairs {
            match network {
                IpNet::V4(network) => {
                    let end = network.broadcast().to_bits().checked_add(1);
                    v4.push(((network.network().to_bits(), end), *rule));
                }
                IpNet::V6(network) => {
                    let end = network.broadcast().to_bits().checked_add(1);
                    v6.push(((network.network().to_bits(), end), *rule));
                }
            }
        }
        Self {
            v4: Intervals::new(plain, v4),
            v6: Intervals::new(plain, v6),
        }
    }

    fn of(&self, address: IpAddr) -> &[u64] {
        match address {
            IpAddr::V4(address) => self.v4.of(address.to_bits()),
            IpAddr::V6(address) => self.v6.of(address.to_bits()),
        }
    }
}

/// Rules by a name: whole names and `*.suffix` by look-up, other patterns one by one.
#[derive(Debug, Default)]
struct Names {
    plain: Set,
    whole: HashMap<String, Set>,
    /// By what follows the star: `.example.com`.
    endings: HashMap<String, Set>,
    /// Each pattern once, with the rules that have it.
    patterns: Vec<(NameGlob, Set)>,
    is_asked: bool,
}

impl Names {
    fn new(plain: Set, pairs: Vec<(NameGlob, usize)>) -> Self {
        let mut names = Self {
            whole: HashMap::new(),
            endings: HashMap::new(),
            patterns: Vec::new(),
            is_asked: !pairs.is_empty(),
            plain,
        };
        let empty = vec![0; names.plain.len()];
        for (glob, rule) in pairs {
            let text = glob.as_str();
            let set = match text.strip_prefix('*') {
                None if !text.contains('*') => names.whole.entry(text.to_owned()),
                Some(rest) if rest.starts_with('.') && !rest.contains('*') => {
                    names.endings.entry(rest.to_owned())
                }
                _ => {
                    let known = names.patterns.iter().position(|(known, _)| *known == glob);
                    let at = known.unwrap_or_else(|| {
                        names.patterns.push((glob, empty.clone()));
                        names.patterns.len() - 1
                    });
                    if let Some((_, set)) = names.patterns.get_mut(at) {
                        insert(set, rule);
                    }
                    continue;
                }
            };
            insert(set.or_insert_with(|| empty.clone()), rule);
        }
        names
    }

    /// Leaves the rules that a name satisfies. Rules that ask for a name match nothing nameless.
    fn narrow(&self, set: &mut [u64], name: Option<&str>) {
        if !self.is_asked {
            return;
        }
        let mut holds = self.plain.clone();
        if let Some(name) = name {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            either(&mut holds, self.whole.get(&name).map(Vec::as_slice));
            for (dot, _) in name.match_indices('.') {
                if let Some(ending) = name.get(dot..) {
                    either(&mut holds, self.endings.get(ending).map(Vec::as_slice));
                }
            }
            for (glob, rules) in &self.patterns {
                // Patterns of rules that are out already need not be tried.
                if meet(set, rules) && glob.matches(&name) {
                    either(&mut holds, Some(rules));
                }
            }
        }
        both(set, &holds);
    }
}

fn meet(set: &[u64], other: &[u64]) -> bool {
    set.iter().zip(other).any(|(one, other)| one & other != 0)
}

pub(super) fn either(set: &mut [u64], other: Option<&[u64]>) {
    for (word, other) in set.iter_mut().zip(other.into_iter().flatten()) {
        *word |= other;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Instant;

    use dataplane::{Protocol, VpcEndpointId};
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};
    use sdk::Ec2Host;

    use super::*;
    use crate::config::Config;

    /// A rule file that no human would write, and flows that hit it here and there.
    fn random_rules(random: &mut SmallRng, count: usize) -> Config {
        let mut text = "[ec2]\n".to_owned();
        for _ in 0..count {
            text += "[[rule]]\naction = 'drop'\n";
            if random.random_bool(0.6) {
                let (octet, prefix) = (random.random_range(0..4), random.random_range(6..=32));
                text += &format!(
                    "source = ['10.{octet}.{octet}.1/{prefix}', '10.1.0.0/16', '2001:db8::/{prefix}']\n"
                );
            }
            if random.random_bool(0.6) {
                let octet = random.random_range(0..3);
                text += &format!(
                    "destination = ['203.0.{octet}.0/24', '0.0.0.0/1', '255.255.255.255', '::/0']\n"
                );
            }
            if random.random_bool(0.5) {
                let low = random.random_range(0..3000);
                text += &format!("port = [{low}, '{}-{}', '65535']\n", low / 2, low + 100);
            }
            if random.random_bool(0.4) {
                text += "protocol = ['tcp', 1]\n";
            }
            if random.random_bool(0.4) {
                text += &format!("endpoint = 'vpce-{:017x}'\n", random.random_range(0..3));
            }
            if random.random_bool(0.3) {
                let name = ["a.example", "*.example", "*b*.example", "*", "*.a.example"]
                    [random.random_range(0..5)];
                text += &format!("server-name = '{name}'\n");
            }
            if random.random_bool(0.2) {
                text += "http-host = '*.example'\n";
            }
            let id = random.random_range(0..3);
            for (share, condition) in [
                (0.1, format!("source-instance = ['i-{id}', 'i-9']")),
                (
                    0.1,
                    format!("destination-security-group = ['sg-{id}', 'sg-1']"),
                ),
                (0.1, format!("source-vpc = 'vpc-{id}'")),
                (0.1, format!("destination-subnet = 'subnet-{id}'")),
                (0.1, format!("source-account = '00000000000{id}'")),
                (0.1, format!("destination-interface = 'eni-{id}'")),
                (
                    0.2,
                    format!("source-tag = {{ env = ['{id}', 'x'], team = '*' }}"),
                ),
                (0.1, format!("destination-tag = {{ team = '{id}' }}")),
            ] {
                if random.random_bool(share) {
                    text += &condition;
                    text += "\n";
                }
            }
            if random.random_bool(0.2) {
                text += "application = ['tls', 'other']\n";
            }
        }
        Config::parse(&text, Path::new("flowdog.toml"), &[]).unwrap()
    }

    fn random_host(random: &mut SmallRng) -> Option<Arc<Ec2Host>> {
        let mut id = || random.random_range(0..3u8);
        let (one, two, three) = (id(), id(), id());
        let host = Ec2Host {
            instance_id: (one > 0).then(|| format!("i-{two}")),
            interface_id: Some(format!("eni-{one}")),
            account_id: format!("00000000000{two}"),
            vpc_id: format!("vpc-{three}"),
            subnet_id: format!("subnet-{one}"),
            security_groups: (0..two).map(|n| format!("sg-{n}")).collect(),
            tags: [("env", one), ("team", three)]
                .into_iter()
                .filter(|(_, value)| *value != two)
                .map(|(key, value)| (key.to_owned(), value.to_string()))
                .collect(),
        };
        random.random_bool(0.7).then(|| Arc::new(host))
    }

    fn random_facts(random: &mut SmallRng) -> Facts {
        let v6 = random.random_bool(0.2);
        let mut octet = || random.random_range(0..4u8);
        let (client, server) = if v6 {
            (
                "[2001:db8::1]:1".to_owned(),
                format!("[2001:db8::{}]", octet()),
            )
        } else {
            (
                format!("10.{}.{}.{}:1", octet(), octet(), octet()),
                match octet() {
                    0 => "255.255.255.255".to_owned(),
                    other => format!("203.0.{other}.9"),
                },
            )
        };
        let port = [0, 80, 443, 1500, 65535][random.random_range(0..5)];
        Facts {
            endpoint: VpcEndpointId(random.random_range(0..4)),
            protocol: Protocol([1, 6, 17, 47][random.random_range(0..4)]),
            client: client.parse().unwrap(),
            server: format!("{server}:{port}").parse().unwrap(),
            client_ec2: random_host(random),
            server_ec2: random_host(random),
        }
    }

    #[test]
    fn the_tables_find_what_looking_at_each_rule_finds() {
        let mut random = SmallRng::seed_from_u64(4);
        for count in [0, 1, 5, 63, 64, 65, 200] {
            let config = random_rules(&mut random, count);
            for _ in 0..300 {
                let facts = random_facts(&mut random);
                let names = [
                    None,
                    Some("a.example"),
                    Some("X.A.Example."),
                    Some("bb.example"),
                    Some(""),
                ];
                let sight = FirstSight {
                    application: [Application::Tls, Application::Http1, Application::Other]
                        [random.random_range(0..3)],
                    server_name: names[random.random_range(0..5)],
                    http_host: names[random.random_range(0..5)],
                };
                let slow = |all: bool| -> Vec<usize> {
                    (0..config.rules.len())
                        .filter(|at| {
                            let rule = &config.rules[*at];
                            let seen = all.then_some(&sight);
                            super::super::explain::unmet(rule, &facts, seen).is_none()
                        })
                        .collect()
                };
                let index = config.rules.index();
                assert_eq!(index.of_flow(&facts).collect::<Vec<_>>(), slow(false));
                assert_eq!(
                    index.of_first_bytes(&facts, &sight).collect::<Vec<_>>(),
                    slow(true),
                    "{facts:?} {sight:?}"
                );
            }
        }
    }

    #[test]
    fn a_thousand_rules_cost_microseconds_and_not_milliseconds() {
        let mut random = SmallRng::seed_from_u64(1);
        let config = random_rules(&mut random, 1000);
        let facts: Vec<Facts> = (0..64).map(|_| random_facts(&mut random)).collect();
        let sight = FirstSight {
            application: Application::Tls,
            server_name: Some("www.a.example"),
            http_host: None,
        };
        let began = Instant::now();
        let (mut found, rounds) = (0, 200);
        for _ in 0..rounds {
            for facts in &facts {
                found += usize::from(
                    config
                        .rules
                        .index()
                        .of_first_bytes(facts, &sight)
                        .next()
                        .is_some(),
                );
            }
        }
        let each = began.elapsed() / (rounds * 64);
        assert!(found > 0);
        // Wide margins, for busy machines; what it really takes is printed.
        println!("1,000 rules: {each:?} per flow");
        let most = if cfg!(debug_assertions) { 200 } else { 20 };
        assert!(each.as_micros() < most, "{each:?} per flow");
    }
}
