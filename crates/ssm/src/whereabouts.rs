//! Where a channel runs, for whom, and when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sdk::{Ec2Host, Exchange};
use serde_json::{Map, Value, json};

/// The time, twice: for people and for differences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) clock: Instant,
}

impl Now {
    /// This moment.
    pub(crate) fn read() -> Self {
        Self {
            wall: SystemTime::now(),
            clock: Instant::now(),
        }
    }
}

/// Where a channel runs, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Whereabouts {
    pub(crate) host: String,
    pub(crate) endpoint: String,
    pub(crate) source: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) ec2: Option<Arc<Ec2Host>>,
}

impl Whereabouts {
    /// Those of an exchange.
    pub(crate) fn of(exchange: &Exchange) -> Self {
        let flow = &exchange.flow;
        let host = exchange.request.host().unwrap_or_default();
        Self {
            host: crate::document::cut(host, 256).to_ascii_lowercase(),
            endpoint: flow.endpoint.to_string(),
            source: flow.client,
            server: flow.server,
            ec2: flow.client_ec2.clone(),
        }
    }

    /// The region in the host's name: `ssmmessages.REGION.amazonaws.com`.
    fn region(&self) -> Option<&str> {
        let mut labels = self.host.split('.');
        labels
            .find(|label| label.starts_with("ssmmessages") || label.starts_with("ec2messages"))?;
        labels.next().filter(|region| region.contains('-'))
    }

    /// The instance that EC2 knows behind the address.
    pub(crate) fn instance(&self) -> Option<&str> {
        self.ec2.as_ref()?.instance_id.as_deref()
    }

    /// Puts what is known into a record.
    pub(crate) fn describe(&self, fields: &mut Map<String, Value>) {
        put(fields, "host", &self.host);
        put(fields, "region", self.region());
        put(fields, "endpoint", &self.endpoint);
        put(fields, "source", self.source.to_string());
        put(fields, "server", self.server.to_string());
        put(fields, "sourceEc2", json!(self.ec2.as_deref()));
    }
}

/// Adds a field, if there is anything to say.
pub(crate) fn put(fields: &mut Map<String, Value>, name: &str, value: impl serde::Serialize) {
    let value = json!(value);
    if !value.is_null() {
        fields.insert(name.to_owned(), value);
    }
}
