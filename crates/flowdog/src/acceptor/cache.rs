//! What acceptors said, kept for a while and bounded.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sdk::{Ec2Host, FlowInfo, VpcEndpointId};

use super::Answer;

/// One thing about a flow that an answer may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyField {
    /// The VPC endpoint.
    Endpoint,
    /// The IP protocol.
    Protocol,
    /// Address of the host that opens the flow.
    Source,
    /// Its port.
    SourcePort,
    /// Address it opens the flow to.
    Destination,
    /// The port there.
    DestinationPort,
    /// What the client speaks, where the rule knows.
    Application,
    /// The name in the ClientHello, where the rule knows.
    ServerName,
    /// The host of the first HTTP/1 request, where the rule knows.
    HttpHost,
}

impl KeyField {
    /// The words of the configuration and of answers.
    pub(crate) const WORDS: [(&'static str, Self); 9] = [
        ("application", Self::Application),
        ("destination", Self::Destination),
        ("destination-port", Self::DestinationPort),
        ("endpoint", Self::Endpoint),
        ("http-host", Self::HttpHost),
        ("protocol", Self::Protocol),
        ("server-name", Self::ServerName),
        ("source", Self::Source),
        ("source-port", Self::SourcePort),
    ];

    /// The field that a word means.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let found = Self::WORDS.iter().find(|(name, _)| *name == word);
        found.map(|(_, field)| *field)
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// Which fields of a flow make up its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyFields(u16);

impl KeyFields {
    pub(crate) fn of(fields: &[KeyField]) -> Self {
        Self(fields.iter().fold(0, |bits, field| bits | field.bit()))
    }

    fn has(self, field: KeyField) -> bool {
        self.0 & field.bit() != 0
    }
}

impl Default for KeyFields {
    /// Everything but the client's own port, which is another one for each connection.
    fn default() -> Self {
        Self(!KeyField::SourcePort.bit())
    }
}

/// A flow, as far as an answer depends on it. A field that it does not depend on is absent, so
/// keys of different fields never meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    fields: KeyFields,
    endpoint: Option<VpcEndpointId>,
    protocol: Option<u8>,
    source: Option<(IpAddr, Option<Host>)>,
    source_port: Option<u16>,
    destination: Option<(IpAddr, Option<Host>)>,
    destination_port: Option<u16>,
    /// Not the fingerprint: clients have too many.
    application: Option<&'static str>,
    server_name: Option<String>,
    http_host: Option<String>,
}

/// What EC2 knows of the host behind an address, which questions tell: an address that another instance
/// has now, or an instance with other tags, is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host(Arc<Ec2Host>);

impl Hash for Host {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.interface_id.hash(state);
        self.0.instance_id.hash(state);
        self.0.tags.hash(state);
    }
}

impl Key {
    pub(crate) fn new(fields: KeyFields, flow: &FlowInfo) -> Self {
        let end = |address: SocketAddr, host: &Option<Arc<Ec2Host>>| {
            let host = host.as_ref().map(|host| Host(Arc::clone(host)));
            (address.ip(), host)
        };
        let recognised = flow.recognised.as_deref();
        Self {
            fields,
            endpoint: fields.has(KeyField::Endpoint).then_some(flow.endpoint),
            protocol: fields.has(KeyField::Protocol).then_some(flow.protocol.0),
            source: fields
                .has(KeyField::Source)
                .then(|| end(flow.client, &flow.client_ec2)),
            source_port: fields
                .has(KeyField::SourcePort)
                .then_some(flow.client.port()),
            destination: fields
                .has(KeyField::Destination)
                .then(|| end(flow.server, &flow.server_ec2)),
            destination_port: fields
                .has(KeyField::DestinationPort)
                .then_some(flow.server.port()),
            application: recognised
                .filter(|_| fields.has(KeyField::Application))
                .map(|recognised| recognised.application),
            server_name: recognised
                .filter(|_| fields.has(KeyField::ServerName))
                .and_then(|recognised| recognised.server_name.clone()),
            http_host: recognised
                .filter(|_| fields.has(KeyField::HttpHost))
                .and_then(|recognised| recognised.http_host.clone()),
        }
    }
}

/// Answers by key. The oldest makes room when there are too many.
#[derive(Debug)]
pub(crate) struct Cache {
    limit: usize,
    entries: HashMap<Key, Entry>,
    /// In the order in which they were written; one that was written again stands here twice.
    order: VecDeque<(Key, u64)>,
    written: u64,
    /// Fields that answers named instead of the usual ones.
    narrowed: Vec<KeyFields>,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    number: u64,
    fresh_until: Instant,
    kept_until: Instant,
}

/// Most different sets of fields that answers may name; each costs a look-up per flow.
const MOST_FIELD_SETS: usize = 8;

impl Cache {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            entries: HashMap::new(),
            order: VecDeque::new(),
            written: 0,
            narrowed: Vec::new(),
        }
    }

    /// The answer about a flow, if there is one that holds at `now`.
    pub(crate) fn fresh(&self, usual: KeyFields, flow: &FlowInfo, now: Instant) -> Option<Answer> {
        self.find(usual, flow, |entry| now < entry.fresh_until)
    }

    /// The answer about a flow, even if it is past its time.
    pub(crate) fn stale(&self, usual: KeyFields, flow: &FlowInfo, now: Instant) -> Option<Answer> {
        self.find(usual, flow, |entry| now < entry.kept_until)
    }

    fn find(
        &self,
        usual: KeyFields,
        flow: &FlowInfo,
        holds: impl Fn(&Entry) -> bool,
    ) -> Option<Answer> {
        if self.entries.is_empty() {
            return None;
        }
        let sets = std::iter::once(&usual).chain(&self.narrowed);
        sets.filter_map(|fields| self.entries.get(&Key::new(*fields, flow)))
            .find(|entry| holds(entry))
            .map(|entry| entry.answer.clone())
    }

    /// Keeps an answer for `fresh`, and for `stale` longer in case of errors.
    pub(crate) fn put(
        &mut self,
        usual: KeyFields,
        fields: Option<KeyFields>,
        flow: &FlowInfo,
        answer: Answer,
        now: Instant,
        (fresh, stale): (Duration, Duration),
    ) {
        let mut fields = fields.unwrap_or(usual);
        if fields != usual && !self.narrowed.contains(&fields) {
            if self.narrowed.len() < MOST_FIELD_SETS {
                self.narrowed.push(fields);
            } else {
                fields = usual;
            }
        }
        if fresh.is_zero() || self.limit == 0 {
            return;
        }
        let key = Key::new(fields, flow);
        self.written += 1;
        let entry = Entry {
            answer,
            number: self.written,
            fresh_until: now + fresh,
            kept_until: now + fresh + stale,
        };
        self.order.push_back((key.clone(), self.written));
        self.entries.insert(key, entry);
        while self.entries.len() > self.limit || self.order.len() > 2 * self.limit {
            let Some((oldest, number)) = self.order.pop_front() else {
                return;
            };
            let is_current = self
                .entries
                .get(&oldest)
                .is_some_and(|e| e.number == number);
            if is_current {
                self.entries.remove(&oldest);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::flow;
    use super::super::{Answer, Ruling, Source};
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn answer(ruling: Ruling) -> Answer {
        Answer::new(ruling, Source::Asked)
    }

    #[test]
    fn threat_63_no_two_flows_that_may_be_judged_differently_share_a_key() {
        let fields = KeyFields::default();
        let one = flow("10.0.0.1:1000", "192.0.2.1:443");
        let mut others = vec![
            flow("10.0.0.2:1000", "192.0.2.1:443"),
            flow("10.0.0.1:1000", "192.0.2.2:443"),
            flow("10.0.0.1:1000", "192.0.2.1:444"),
            flow("10.0.0.1:1000", "192.0.2.1:443"),
            flow("10.0.0.1:1000", "192.0.2.1:443"),
        ];
        others[3].endpoint = VpcEndpointId(77);
        others[4].protocol = sdk::Protocol(17);
        let known = |application, server_name: &str| {
            let mut one = flow("10.0.0.1:1000", "192.0.2.1:443");
            let recognised = sdk::Recognised {
                application,
                server_name: Some(server_name.to_owned()),
                ..sdk::Recognised::default()
            };
            one.recognised = Some(recognised.into());
            one
        };
        let named = known("tls", "a.example");
        others.push(named.clone());
        for other in [known("tls", "b.example"), known("quic", "a.example")] {
            assert_ne!(Key::new(fields, &named), Key::new(fields, &other));
            others.push(other);
        }
        for other in &others {
            assert_ne!(Key::new(fields, &one), Key::new(fields, other), "{other:?}");
        }
        let same = flow("10.0.0.1:2000", "192.0.2.1:443");
        assert_eq!(Key::new(fields, &one), Key::new(fields, &same));
        // Fields that are left out never make a key look like one of other fields.
        let (source, destination) = (
            KeyFields::of(&[KeyField::Source]),
            KeyFields::of(&[KeyField::Destination]),
        );
        let twin = flow("10.0.0.1:1", "10.0.0.1:1");
        assert_ne!(Key::new(source, &twin), Key::new(destination, &twin));
    }

    #[test]
    fn threat_63_an_address_that_another_instance_has_now_is_another_question() {
        let source = KeyFields::of(&[KeyField::Source]);
        let host = |instance: &str, team: &str| Ec2Host {
            instance_id: Some(instance.to_owned()),
            tags: [("team".to_owned(), team.to_owned())].into(),
            ..Ec2Host::default()
        };
        let of = |host: Option<Ec2Host>| {
            let mut one = flow("10.0.0.1:1", "192.0.2.1:443");
            one.client_ec2 = host.map(Arc::new);
            Key::new(source, &one)
        };
        let one = of(Some(host("i-1", "blue")));
        assert_eq!(one, of(Some(host("i-1", "blue"))));
        for other in [None, Some(host("i-2", "blue")), Some(host("i-1", "red"))] {
            assert_ne!(one, of(other));
        }
    }

    #[test]
    fn an_answer_holds_for_its_time_and_longer_only_for_errors() {
        let (mut cache, now, usual) = (Cache::new(10), Instant::now(), KeyFields::default());
        let one = flow("10.0.0.1:1000", "192.0.2.1:443");
        cache.put(
            usual,
            None,
            &one,
            answer(Ruling::Accept),
            now,
            (MINUTE, MINUTE),
        );
        assert!(cache.fresh(usual, &one, now + MINUTE / 2).is_some());
        assert!(cache.fresh(usual, &one, now + MINUTE).is_none());
        assert!(cache.stale(usual, &one, now + MINUTE).is_some());
        assert!(cache.stale(usual, &one, now + 2 * MINUTE).is_none());
        cache.put(
            usual,
            None,
            &one,
            answer(Ruling::Accept),
            now,
            (Duration::ZERO, MINUTE),
        );
        assert_eq!(cache.len(), 1, "no time means that nothing is kept");
    }

    #[test]
    fn an_answer_may_hold_for_more_flows_than_the_one_that_was_asked_about() {
        let (mut cache, now, usual) = (Cache::new(10), Instant::now(), KeyFields::default());
        let one = flow("10.0.0.1:1000", "192.0.2.1:443");
        let fields = Some(KeyFields::of(&[KeyField::Source]));
        cache.put(
            usual,
            fields,
            &one,
            answer(Ruling::Accept),
            now,
            (MINUTE, MINUTE),
        );
        assert!(
            cache
                .fresh(usual, &flow("10.0.0.1:9", "198.51.100.7:25"), now)
                .is_some()
        );
        assert!(
            cache
                .fresh(usual, &flow("10.0.0.2:9", "198.51.100.7:25"), now)
                .is_none()
        );
    }

    #[test]
    fn the_oldest_answer_makes_room_and_nothing_grows_without_bound() {
        let (mut cache, now, usual) = (Cache::new(10), Instant::now(), KeyFields::default());
        for round in 0..100u8 {
            let one = flow(&format!("10.0.0.{round}:1"), "192.0.2.1:443");
            for _ in 0..5 {
                cache.put(
                    usual,
                    None,
                    &one,
                    answer(Ruling::Accept),
                    now,
                    (MINUTE, MINUTE),
                );
            }
            assert!(cache.len() <= 10 && cache.order.len() <= 20);
            assert!(cache.fresh(usual, &one, now).is_some());
        }
    }
}
