//! `cloudfront-function`: runs a function on exchanges.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use base64::Engine as _;
use sdk::{
    ByteSize, ConfigFault, ConfigTable, Exchange, Filter, InterceptError, Interceptor,
    InterceptorKind, Message, MessageStep, Method, Payload, Request, Response, Step, Subject,
    async_trait, from_table,
};
use serde::Deserialize;

use crate::apply;
use crate::engine::{Call, Done, Reply};
use crate::event::{self, Place, SeenRequest, SeenResponse, Shown, What};
use crate::fault::Fault;
use crate::function::{Function, Settings};
use crate::kvs::StoreSource;
use crate::origin::OriginRules;
use crate::program::Entry;
use crate::rules::Profile;
use crate::settings::{LimitKeys, RealmKind, Time};

/// `use = "cloudfront-function"`.
pub const KIND: InterceptorKind = InterceptorKind {
    name: "cloudfront-function",
    summary: "Runs a JavaScript function, written for CloudFront Functions or for flowdog, on requests, responses and WebSocket messages.",
    build: CloudfrontFunction::build,
};

/// A function that is called for exchanges.
#[derive(Debug)]
pub struct CloudfrontFunction {
    function: Function,
    when: Option<Filter>,
    /// `None`: what the file's handlers say.
    events: Option<Vec<Entry>>,
    profile: Profile,
    origins: OriginRules,
    domain: Option<Arc<str>>,
    id: Arc<str>,
    edge: Arc<str>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    /// The source.
    file: PathBuf,
    /// Which exchanges. Default: all.
    when: Option<Filter>,
    /// Which events `handler` is called for. Default: viewer-request.
    events: Option<Vec<String>>,
    /// Whose rules about header fields hold.
    #[serde(default)]
    profile: Profile,
    cpu: Option<Time>,
    memory: Option<ByteSize>,
    stack: Option<ByteSize>,
    give_up: Option<Time>,
    #[serde(default)]
    realm: RealmKind,
    /// Key value stores.
    #[serde(default)]
    kvs: Vec<StoreSource>,
    /// Hosts that requests may be sent for.
    #[serde(default)]
    origins: Vec<String>,
    /// What `context.distributionDomainName` says. Default: the request's host.
    distribution_domain_name: Option<String>,
    /// What `context.distributionId` says. Default: FLOWDOG.
    distribution_id: Option<String>,
    /// What `cf.edgeLocation.name` says, such as the availability zone. Default: flowdog.
    edge_location: Option<String>,
}

/// What is remembered between the events of one exchange.
struct Remembered {
    request_id: Arc<str>,
    seen: Option<Arc<SeenRequest>>,
}

impl CloudfrontFunction {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Config = from_table(table)?;
        let limits = LimitKeys {
            cpu: config.cpu,
            memory: config.memory,
            stack: config.stack,
            give_up: config.give_up,
        };
        let settings = Settings {
            limits: limits.limits()?,
            stores: config.kvs,
            origins: config.origins.clone(),
            own_realm: matches!(config.realm, RealmKind::Fresh),
        };
        let known = [Entry::ViewerRequest, Entry::ViewerResponse];
        let events = config.events.map(|words| {
            let event = |(at, word): (usize, &String)| {
                known
                    .into_iter()
                    .find(|entry| entry.event_type() == word)
                    .ok_or_else(|| {
                        ConfigFault::new(
                            format!("events[{at}]"),
                            format!("there is no event {word:?}"),
                        )
                        .allowed("viewer-request, viewer-response")
                    })
            };
            words
                .iter()
                .enumerate()
                .map(event)
                .collect::<Result<Vec<_>, _>>()
        });
        let events = events.transpose()?;
        let function = Function::of_config(config.file, settings)?;
        for event in events.iter().flatten() {
            if !function.handles(*event) {
                let what = format!("the file has no handler for {}", event.event_type());
                return Err(
                    ConfigFault::new("events", what).allowed("events that it has a handler for")
                );
            }
        }
        let edge = config.edge_location.unwrap_or_else(|| "flowdog".to_owned());
        Ok(Arc::new(Self {
            function,
            when: config.when,
            events,
            profile: config.profile,
            origins: OriginRules {
                allowed: config.origins,
            },
            domain: config.distribution_domain_name.map(Into::into),
            id: config
                .distribution_id
                .map_or_else(|| "FLOWDOG".into(), Into::into),
            edge: serde_json::json!({"name": edge, "serverIp": "", "region": ""})
                .to_string()
                .into(),
        }))
    }

    /// Whether the function is attached to an event: by its name, or `handler` by the config.
    fn wants(&self, entry: Entry) -> bool {
        match &self.events {
            Some(events) => events.contains(&entry),
            None if entry == Entry::ViewerRequest => self.function.handles(entry),
            None => self.function.handles_by_name(entry),
        }
    }

    fn place(&self, exchange: &mut Exchange, host: Option<&str>) -> Place {
        let request_id = match exchange.extensions.get::<Remembered>() {
            Some(known) => Arc::clone(&known.request_id),
            None => {
                let request_id = request_id();
                exchange.extensions.insert(Remembered {
                    request_id: Arc::clone(&request_id),
                    seen: None,
                });
                request_id
            }
        };
        Place {
            domain: self
                .domain
                .clone()
                .unwrap_or_else(|| host.unwrap_or_default().into()),
            id: Arc::clone(&self.id),
            request_id,
            flow: Arc::clone(&exchange.flow),
        }
    }

    /// The request as the client sent it, made once for an exchange.
    fn seen_request(&self, exchange: &mut Exchange) -> Arc<SeenRequest> {
        if let Some(seen) = exchange
            .extensions
            .get::<Remembered>()
            .and_then(|known| known.seen.clone())
        {
            return seen;
        }
        let seen = Arc::new(SeenRequest::of_head(&exchange.request, self.profile));
        if let Some(known) = exchange.extensions.get_mut::<Remembered>() {
            known.seen = Some(Arc::clone(&seen));
        }
        seen
    }

    async fn call(
        &self,
        place: Place,
        request: Arc<SeenRequest>,
        what: What,
    ) -> (Done, Arc<Shown>) {
        let shown = Arc::new(Shown {
            place,
            edge: Arc::clone(&self.edge),
            request,
            what,
        });
        let call = Call::about(Arc::clone(&shown), SystemTime::now());
        let request_id = &shown.place.request_id;
        let done = self.function.call_and_log(call, request_id).await;
        (done, shown)
    }

    fn failed(fault: Fault, exchange: &mut Exchange) -> InterceptError {
        exchange.note(fault.word());
        let status = fault.status();
        InterceptError::new("the function failed")
            .answered_with(status)
            .caused_by(fault)
    }
}

/// Names one exchange, as CloudFront's do: opaque, unguessable, and not the same twice.
fn request_id() -> Arc<str> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut bytes = [0; 16];
    for (at, half) in bytes.chunks_exact_mut(8).enumerate() {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(count);
        hasher.write_usize(at);
        half.copy_from_slice(&hasher.finish().to_be_bytes());
    }
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode(bytes)
        .into()
}

#[async_trait(?Send)]
impl Interceptor for CloudfrontFunction {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let is_meant = self
            .when
            .as_ref()
            .is_none_or(|when| when.matches(&Subject::request(request, exchange)));
        // CloudFront has no CONNECT; there is neither a path nor a message to speak of.
        if !is_meant || !self.wants(Entry::ViewerRequest) || request.method == Method::CONNECT {
            return Ok(Step::Continue);
        }
        let place = self.place(exchange, request.host());
        let seen = Arc::new(SeenRequest::of(request, self.profile));
        let (done, _) = self.call(place, Arc::clone(&seen), What::Request).await;
        let applied = done.reply.and_then(|reply| match reply {
            Reply::Request(out) => {
                apply::request(request, &seen, &out, self.profile, &self.origins)?;
                Ok(Step::Continue)
            }
            Reply::Response(out) => apply::new_response(&out, self.profile).map(Step::Respond),
            Reply::Json(_) | Reply::Nothing => Err(Fault::Invalid(
                "it gave no request and no response".to_owned(),
            )),
        });
        applied.map_err(|fault| Self::failed(fault, exchange))
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let is_meant = self
            .when
            .as_ref()
            .is_none_or(|when| when.matches(&Subject::response(response, exchange)));
        let status = response.status.as_u16();
        if !is_meant
            || !self.wants(Entry::ViewerResponse)
            || !self.profile.shows_status(status)
            || status < 200
        {
            return Ok(());
        }
        let host = exchange.request.host().map(str::to_owned);
        let place = self.place(exchange, host.as_deref());
        let request = self.seen_request(exchange);
        let seen = SeenResponse::of(response, self.profile);
        let (done, shown) = self.call(place, request, What::Response(seen)).await;
        let applied = done
            .reply
            .and_then(|reply| match (reply, shown.response()) {
                (Reply::Response(out), Some(seen)) => {
                    apply::response(response, seen, &out, self.profile, &exchange.request.method)
                }
                _ => Err(Fault::Invalid("it gave no response".to_owned())),
            });
        applied.map_err(|fault| Self::failed(fault, exchange))
    }

    async fn on_message(
        &self,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> Result<MessageStep, InterceptError> {
        let host = exchange.request.host().map(str::to_owned);
        let place = self.place(exchange, host.as_deref());
        let request = self.seen_request(exchange);
        let what = event::message_part(message);
        let (done, _) = self.call(place, request, what).await;
        let step = done.reply.and_then(|reply| message_step(&reply, message));
        step.map_err(|fault| Self::failed(fault, exchange))
    }

    fn wants_messages(&self) -> bool {
        self.function.handles(Entry::WebSocketMessage)
    }
}

/// What a function said about a message: the message, changed or not; `null` to take it out;
/// `{close: 1008}`.
fn message_step(reply: &Reply, message: &mut Message) -> Result<MessageStep, Fault> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Close {
            close: u16,
        },
        Message {
            data: String,
            #[serde(default)]
            encoding: Option<String>,
        },
        Nothing(()),
    }
    let invalid = |what: &str| Err(Fault::Invalid(what.to_owned()));
    let Reply::Json(text) = reply else {
        return invalid(
            "onWebSocketMessage gave nothing; expected are event.message, null, or {close: code}",
        );
    };
    match serde_json::from_str(text) {
        Ok(Said::Nothing(())) => Ok(MessageStep::Drop),
        // RFC 6455 §7.4: codes that may be sent.
        Ok(Said::Close { close }) if matches!(close, 1000..=1003 | 1007..=1014 | 3000..=4999) => {
            Ok(MessageStep::Close(close))
        }
        Ok(Said::Close { .. }) => invalid("close is no code that may be sent"),
        Ok(Said::Message { data, encoding }) => {
            message.payload = match encoding.as_deref() {
                None | Some("text") => Payload::Text(data),
                Some("base64") => match base64::engine::general_purpose::STANDARD.decode(&data) {
                    Ok(bytes) => Payload::Binary(bytes.into()),
                    Err(_) => return invalid("message.data is not base64"),
                },
                Some(_) => return invalid("message.encoding is neither \"text\" nor \"base64\""),
            };
            Ok(MessageStep::Forward)
        }
        Err(_) => {
            invalid("onWebSocketMessage gave neither event.message, nor null, nor {close: code}")
        }
    }
}
