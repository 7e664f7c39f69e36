//! The functions that the prelude calls. Bytes are text whose characters are the bytes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{
    GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rquickjs::function::Func;
use rquickjs::{Ctx, Error, Exception, Object, Result, Value};
use sha1::Digest as _;

use super::show::{Kit, Parts};
use crate::event::Shown;
use crate::kvs::Stores;
use crate::origin::{OriginRules, OriginUpdate};

/// Most bytes of log kept of one call, as in CloudFront.
pub(crate) const MAX_LOG: usize = 10 * 1024;

/// What one call may use and leaves behind.
#[derive(Debug, Default)]
pub(crate) struct CallState {
    pub(crate) log: RefCell<Vec<String>>,
    logged: Cell<usize>,
    pub(crate) origin: RefCell<Option<OriginUpdate>>,
    /// Where the request may be sent; `None` where there is no request to send.
    pub(crate) origins: RefCell<Option<Arc<OriginRules>>>,
    pub(crate) stores: RefCell<Arc<Stores>>,
    /// What `cf.edgeLocation` and `request.rawQueryString()` give.
    pub(crate) edge: RefCell<Option<Arc<str>>>,
    pub(crate) raw_query: RefCell<Option<String>>,
    pub(crate) parts: Parts,
}

impl CallState {
    /// Forgets the call before.
    pub(crate) fn begin(&self, stores: Arc<Stores>, origins: Option<Arc<OriginRules>>) {
        *self.edge.borrow_mut() = None;
        *self.raw_query.borrow_mut() = None;
        self.log.borrow_mut().clear();
        self.logged.set(0);
        *self.origin.borrow_mut() = None;
        *self.origins.borrow_mut() = origins;
        *self.stores.borrow_mut() = stores;
    }

    /// Gives the call an exchange to look at.
    pub(crate) fn show(&self, shown: &Arc<Shown>, kit: &Rc<Kit>) {
        *self.edge.borrow_mut() = Some(Arc::clone(&shown.edge));
        self.parts.begin(shown, kit);
    }

    /// What `request.rawQueryString()` gives.
    fn raw_query(&self) -> Option<String> {
        match self.parts.shown() {
            Some(shown) => shown.request.raw_query.clone(),
            None => self.raw_query.borrow().clone(),
        }
    }

    fn log(&self, text: &str) {
        let left = MAX_LOG.saturating_sub(self.logged.get());
        if left == 0 {
            return;
        }
        let mut line = text.to_owned();
        if line.len() > left {
            let cut = (0..=left)
                .rev()
                .find(|at| line.is_char_boundary(*at))
                .unwrap_or(0);
            line.truncate(cut);
            line.push_str(" (log cut here)");
        }
        // An empty line costs something too.
        self.logged.set(self.logged.get() + line.len() + 1);
        self.log.borrow_mut().push(line);
    }
}

/// Makes the object that the prelude gets.
pub(crate) fn host<'js>(ctx: &Ctx<'js>, state: &Rc<CallState>) -> Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    let log = Rc::clone(state);
    host.set("log", Func::from(move |text: String| log.log(&text)))?;
    host.set("encode", Func::from(encode))?;
    host.set("decode", Func::from(decode))?;
    host.set("unescape", Func::from(|text: String| unescape(&text)))?;
    host.set("digest", Func::from(digest))?;
    let kvs = Rc::clone(state);
    host.set(
        "kvs",
        Func::from(
            move |ctx: Ctx<'js>, id: String, what: String, key: rquickjs::function::Opt<String>| {
                let stores = kvs.stores.borrow();
                let store = stores.find(&id).map_err(|what| thrown(&ctx, &what))?;
                Ok::<_, Error>(match what.as_str() {
                    "get" => key.0.and_then(|key| store.value(&key).map(str::to_owned)),
                    "meta" => Some(store.meta()),
                    _ => None,
                })
            },
        ),
    )?;
    let parts = Rc::clone(state);
    host.set(
        "part",
        Func::from(move |ctx: Ctx<'js>, number: usize, this: Value<'js>| {
            parts.parts.make(&ctx, number, &this)
        }),
    )?;
    let edge = Rc::clone(state);
    host.set(
        "edge",
        Func::from(move || edge.edge.borrow().as_deref().unwrap_or("{}").to_owned()),
    )?;
    let raw_query = Rc::clone(state);
    host.set("rawQuery", Func::from(move || raw_query.raw_query()))?;
    let origin = Rc::clone(state);
    host.set(
        "origin",
        Func::from(move |ctx: Ctx<'js>, text: String| {
            let rules = origin.origins.borrow();
            let Some(rules) = rules.as_deref() else {
                return Err(thrown(
                    &ctx,
                    "an origin can be chosen for a viewer request only",
                ));
            };
            match rules.read(&text) {
                Ok(update) => {
                    *origin.origin.borrow_mut() = Some(update);
                    Ok(())
                }
                Err(what) => Err(thrown(&ctx, &what)),
            }
        }),
    )?;
    Ok(host)
}

fn thrown(ctx: &Ctx<'_>, what: &str) -> Error {
    Exception::throw_message(ctx, what)
}

fn bytes(ctx: &Ctx<'_>, binary: &str) -> Result<Vec<u8>> {
    binary
        .chars()
        .map(|c| u8::try_from(u32::from(c)))
        .collect::<core::result::Result<_, _>>()
        .map_err(|_| thrown(ctx, "a character is no byte"))
}

fn binary(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Base64 as Node reads it: padding or not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Text to bytes.
fn encode(ctx: Ctx<'_>, text: String, encoding: String) -> Result<String> {
    Ok(match encoding.as_str() {
        "utf8" => binary(text.as_bytes()),
        "latin1" | "ascii" => text
            .encode_utf16()
            .map(|unit| char::from(unit.to_le_bytes()[0]))
            .collect(),
        "utf16le" => text
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .map(char::from)
            .collect(),
        "hex" => {
            let digits = text.as_bytes().chunks_exact(2).map_while(|pair| {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(*pair.first()?)?, digit(*pair.get(1)?)?);
                char::from_u32(high * 16 + low)
            });
            digits.collect()
        }
        "base64-strict" => {
            let decoded = LENIENT.decode(&text);
            binary(&decoded.map_err(|_| thrown(&ctx, "atob: not base64"))?)
        }
        // "base64", "base64url": both alphabets, what is in neither is skipped, `=` ends it.
        _ => {
            let clean: String = text
                .chars()
                .take_while(|c| *c != '=')
                .filter_map(|c| match c {
                    '-' => Some('+'),
                    '_' => Some('/'),
                    '+' | '/' => Some(c),
                    c if c.is_ascii_alphanumeric() => Some(c),
                    _ => None,
                })
                .collect();
            // A single character at the end holds no byte.
            let whole = if clean.len() % 4 == 1 {
                clean.len() - 1
            } else {
                clean.len()
            };
            let decoded = LENIENT.decode(clean.get(..whole).unwrap_or_default());
            binary(&decoded.map_err(|_| thrown(&ctx, "not base64"))?)
        }
    })
}

/// Bytes to text.
fn decode(ctx: Ctx<'_>, data: String, encoding: String) -> Result<String> {
    if encoding == "latin1" {
        return Ok(data);
    }
    let data = bytes(&ctx, &data)?;
    Ok(match encoding.as_str() {
        "ascii" => data.iter().map(|byte| char::from(byte & 0x7f)).collect(),
        "utf16le" => {
            let units: Vec<u16> = data
                .chunks_exact(2)
                .map(|pair| {
                    u16::from_le_bytes([
                        pair.first().copied().unwrap_or(0),
                        pair.get(1).copied().unwrap_or(0),
                    ])
                })
                .collect();
            String::from_utf16_lossy(&units)
        }
        "hex" => hex(&data),
        "base64" => STANDARD.encode(&data),
        "base64url" => URL_SAFE_NO_PAD.encode(&data),
        "utf8-fatal" => String::from_utf8(data)
            .map_err(|_| Exception::throw_type(&ctx, "the bytes are not UTF-8"))?,
        _ => String::from_utf8_lossy(&data).into_owned(),
    })
}

fn hex(data: &[u8]) -> String {
    data.iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// Percent-decodes what can be, and leaves the rest as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digit = |at: usize| {
            bytes
                .get(at)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        if *byte == b'%'
            && let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2))
            && let Ok(byte) = u8::try_from(high * 16 + low)
        {
            out.push(byte);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A hash of the bytes, or with a key their HMAC (RFC 2104).
fn digest(
    ctx: Ctx<'_>,
    name: String,
    data: String,
    key: rquickjs::function::Opt<Value<'_>>,
) -> Result<String> {
    let data = bytes(&ctx, &data)?;
    let key = match key.0.as_ref().and_then(Value::as_string) {
        Some(key) => Some(bytes(&ctx, &key.to_string()?)?),
        None => None,
    };
    macro_rules! digest {
        ($kind:ty) => {
            match key {
                None => binary(&<$kind>::digest(&data)),
                Some(key) => {
                    let mac = Hmac::<$kind>::new_from_slice(&key);
                    let mut mac = mac.map_err(|_| thrown(&ctx, "the key has a wrong length"))?;
                    mac.update(&data);
                    binary(&mac.finalize().into_bytes())
                }
            }
        };
    }
    Ok(match name.as_str() {
        "md5" => digest!(md5::Md5),
        "sha1" => digest!(sha1::Sha1),
        "sha256" => digest!(sha2::Sha256),
        "sha384" => digest!(sha2::Sha384),
        "sha512" => digest!(sha2::Sha512),
        _ => {
            return Err(thrown(
                &ctx,
                "unknown hash; there are: md5, sha1, sha256, sha384, sha512",
            ));
        }
    })
}
