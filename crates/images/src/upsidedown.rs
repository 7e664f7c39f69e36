//! The interceptor: which answers are images, and what is told about them.

use std::sync::Arc;
use std::time::Duration;

use sdk::{
    ByteSize, Coding, ConfigFault, ConfigTable, ContentError, ContentLimits, Exchange, FieldName,
    Filter, HeaderValue, Headers, InterceptError, Interceptor, InterceptorKind, Method, Request,
    Response, StatusCode, Step, Subject, async_trait, from_table,
};
use serde::Deserialize;

use crate::pool::{self, Refusal};
use crate::turn::Bounds;
use crate::validators::{Asked, Tags};

/// What the config calls it.
pub const KIND: InterceptorKind = InterceptorKind {
    name: "upsidedown",
    summary: "Turns images by 180 degrees and blurs them.",
    build: UpsideDown::build,
};

/// Turns images upside down and blurs them.
#[derive(Debug)]
pub struct UpsideDown {
    when: Option<Filter>,
    blur: f32,
    content: ContentLimits,
    bounds: Bounds,
    time: Duration,
    tags: Tags,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Config {
    /// Which exchanges. Default: all.
    when: Option<Filter>,
    /// How many pixels wide the blur is; 0 for none. Default: 2.
    blur: f32,
    /// Images with more bytes than this pass as they are. Default: 8MiB.
    max_body: ByteSize,
    /// Pictures with more pixels than this, width times height, pass as they are.
    max_pixels: u64,
    /// Animations with more frames than this pass as they are. Default: 250.
    max_frames: u32,
    /// How long an image may be held up, waiting included, in milliseconds. Default: 5000.
    max_milliseconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            when: None,
            blur: 2.0,
            max_body: ByteSize(8 << 20),
            max_pixels: 16 << 20,
            max_frames: 250,
            max_milliseconds: 5_000,
        }
    }
}

impl UpsideDown {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Config = from_table(table)?;
        let check = |is_fine: bool, key: &str, what: String, allowed: &str| {
            let fault = || ConfigFault::new(key, format!("{what} is out of range"));
            is_fine
                .then_some(())
                .ok_or_else(|| fault().allowed(allowed))
        };
        let (blur, body) = (config.blur, config.max_body);
        check(
            (0.0..=100.0).contains(&blur),
            "blur",
            blur.to_string(),
            "0 to 100",
        )?;
        let body_fits = (1..=64 << 20).contains(&body.0);
        check(body_fits, "max-body", body.to_string(), "1B to 64MiB")?;
        let pixels = config.max_pixels;
        let pixels_fit = (1..=64 << 20).contains(&pixels);
        check(
            pixels_fit,
            "max-pixels",
            pixels.to_string(),
            "1 to 67108864",
        )?;
        let frames = config.max_frames;
        check(
            (1..=10_000).contains(&frames),
            "max-frames",
            frames.to_string(),
            "1 to 10000",
        )?;
        let time = config.max_milliseconds;
        let time_fits = (1..=60_000).contains(&time);
        check(
            time_fits,
            "max-milliseconds",
            time.to_string(),
            "1 to 60000",
        )?;
        Ok(Arc::new(Self {
            when: config.when,
            blur,
            content: ContentLimits {
                encoded: body.0,
                decoded: body.0,
                ..ContentLimits::default()
            },
            bounds: Bounds {
                pixels,
                frames,
                // What was compressed with loss before, or frame upon frame, is not any more.
                output: body.0.saturating_mul(4),
            },
            time: Duration::from_millis(time),
            tags: Tags::new(blur),
        }))
    }
}

/// Whether the answer to a request will be an image, for all that the request says.
fn asks_for_image(request: &Request) -> bool {
    const ENDINGS: [&str; 7] = [".png", ".apng", ".jpg", ".jpeg", ".jpe", ".gif", ".webp"];
    if ![Method::GET, Method::HEAD].contains(&request.method) {
        return false;
    }
    let headers = &request.headers;
    let accepts = headers
        .get_str("accept")
        .is_some_and(|accept| accept.trim_start().starts_with("image/"));
    let path = request.path().as_bytes();
    let has_ending = |ending: &&str| {
        let start = path.len().checked_sub(ending.len());
        start
            .and_then(|start| path.get(start..))
            .is_some_and(|end| end.eq_ignore_ascii_case(ending.as_bytes()))
    };
    headers.get_str("sec-fetch-dest") == Some("image") || accepts || ENDINGS.iter().any(has_ending)
}

/// Formats that clients ask for and that are not turned.
const NOT_TURNED: [&str; 4] = [
    "image/avif",
    "image/avif-sequence",
    "image/heic",
    "image/jxl",
];

/// Takes the formats out of Accept that are not turned, so that a server that chooses sends another.
fn accept_what_is_turned(headers: &mut Headers) {
    const ACCEPT: FieldName = FieldName::from_static("Accept");
    let is_turned = |item: &&str| {
        let kind = item.split(';').next().unwrap_or_default().trim();
        !NOT_TURNED
            .iter()
            .any(|name| kind.eq_ignore_ascii_case(name))
    };
    let all = headers.list("accept").count();
    let kept: Vec<&str> = headers.list("accept").filter(is_turned).collect();
    if kept.is_empty() || kept.len() == all {
        return;
    }
    if let Ok(value) = HeaderValue::try_from(kept.join(",")) {
        headers.set_value(&ACCEPT, value);
    }
}

/// Whether an answer says that it is an image of a kind that is turned. Without a type that says
/// anything it is what was asked for.
fn is_image(headers: &Headers, was_asked_for: bool) -> bool {
    let kind = headers.get_str("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind.to_ascii_lowercase().as_str() {
        "" | "application/octet-stream" | "binary/octet-stream" => was_asked_for,
        // Drawings are text.
        "image/svg+xml" => false,
        kind => kind.starts_with("image/"),
    }
}

/// What the request has told.
#[derive(Clone, Copy, Debug)]
struct Seen {
    asked: Asked,
    is_image: bool,
}

#[async_trait(?Send)]
impl Interceptor for UpsideDown {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        // A filter on the answer cannot be asked yet: what it may choose is prepared.
        let is_meant = self.when.as_ref().is_none_or(|when| {
            when.needs_response() || when.matches(&Subject::request(request, exchange))
        });
        if !is_meant {
            return Ok(Step::Continue);
        }
        let signature = request.signature();
        let may_change = |name: &str| {
            let signature = signature.as_ref();
            signature.is_none_or(|signature| !signature.covers_field(name))
        };
        let is_image = asks_for_image(request);
        if is_image && may_change("accept") {
            accept_what_is_turned(&mut request.headers);
        }
        let asked = self
            .tags
            .correct_request(&mut request.headers, is_image, may_change);
        exchange.extensions.insert(Seen { asked, is_image });
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let Some(seen) = exchange.extensions.remove::<Seen>() else {
            return Ok(());
        };
        let is_meant = self
            .when
            .as_ref()
            .is_none_or(|when| when.matches(&Subject::response(response, exchange)));
        if !is_meant {
            return Ok(());
        }
        let server_tag = response.headers.get_str("etag").map(str::to_owned);
        if response.status == StatusCode::NOT_MODIFIED {
            if seen.asked.by_own_tag {
                self.tags
                    .correct_response(&mut response.headers, server_tag.as_deref());
            }
            return Ok(());
        }
        if !is_image(&response.headers, seen.is_image) {
            return Ok(());
        }
        if response.status == StatusCode::PARTIAL_CONTENT {
            exchange.note("partial");
            return Ok(());
        }
        if exchange.request.method == Method::HEAD {
            let kind = response.headers.get_str("content-type").unwrap_or_default();
            if NOT_TURNED.iter().any(|name| kind.starts_with(name)) {
                return Ok(());
            }
            // How long the turned image is cannot be told without it.
            response.headers.remove("content-length");
            self.tags
                .correct_response(&mut response.headers, server_tag.as_deref());
            return Ok(());
        }
        if response.body.is_empty() {
            return Ok(());
        }
        let content = match response.content(&self.content).await {
            Ok(content) => content,
            Err(error) => {
                exchange.note(match error {
                    ContentError::Partial => "partial",
                    ContentError::TooLarge { .. } => "body-too-large",
                    ContentError::UnknownCoding(_) => "coding-unknown",
                    _ => "body-broken",
                });
                // Whatever was wrong, the body is as it came.
                return Ok(());
            }
        };
        match pool::turn(content.data, self.blur, self.bounds, self.time).await {
            Ok(turned) => {
                exchange.note("turned");
                response.set_content(turned, Coding::Identity);
                self.tags
                    .correct_response(&mut response.headers, server_tag.as_deref());
            }
            Err(Refusal::Busy) => exchange.note("busy"),
            Err(Refusal::Fault(fault)) => {
                tracing::debug!(%fault, "an image passes as it is");
                exchange.note(fault.note());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
