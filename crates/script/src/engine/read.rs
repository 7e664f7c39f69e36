//! The value boundary: what a function gave becomes Rust values, or is refused.

use core::fmt;

use rquickjs::{Atom, Error, Object, Value};

use crate::origin::OriginUpdate;
use crate::program::Entry;

/// Most members of one object: header fields, cookies, query parameters.
const MOST_MEMBERS: usize = 1000;
/// Most values of one name.
const MOST_VALUES: u16 = 1000;
/// Most bytes of names and values in one result, without the body.
const MOST_TEXT: usize = 256 * 1024;

/// One value of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) value: String,
    /// Of a cookie that is set: `Secure; Path=/`.
    pub(crate) attributes: Option<String>,
}

/// What a function says about one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Values {
    pub(crate) first: Item,
    pub(crate) multi: Option<Vec<Item>>,
}

pub(crate) type Members = Vec<(String, Values)>;

/// What came out of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Request(RequestOut),
    Response(ResponseOut),
    /// Any value, as JSON.
    Json(String),
    /// `undefined`.
    Nothing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestOut {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) query: QueryOut,
    pub(crate) headers: Members,
    pub(crate) cookies: Members,
    pub(crate) origin: Option<OriginUpdate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueryOut {
    Text(String),
    Members(Members),
}

impl Default for QueryOut {
    fn default() -> Self {
        Self::Members(Members::new())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseOut {
    pub(crate) status: u16,
    pub(crate) description: Option<String>,
    pub(crate) headers: Members,
    pub(crate) cookies: Members,
    pub(crate) body: Option<BodyOut>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BodyOut {
    pub(crate) data: String,
    pub(crate) is_base64: bool,
}

/// Why a value was not read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The engine failed: a getter threw, memory or time ran out.
    Engine(Error),
    /// It has not the shape.
    Odd(String),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

fn odd<T>(what: impl fmt::Display) -> Result<T, Unread> {
    Err(Unread::Odd(what.to_string()))
}

/// Reads the result of an event.
pub(crate) fn read(
    value: &Value<'_>,
    entry: Entry,
    json: Option<&str>,
    origin: Option<OriginUpdate>,
) -> Result<Reply, Unread> {
    if !entry.is_http() {
        return Ok(json.map_or(Reply::Nothing, |json| Reply::Json(json.to_owned())));
    }
    let Some(object) = value
        .as_object()
        .filter(|_| !value.is_array() && !value.is_function())
    else {
        let what = match entry {
            Entry::ViewerRequest => "a request or a response",
            _ => "a response",
        };
        return odd(format_args!(
            "the function gave {} where {what} is expected",
            value.type_name()
        ));
    };
    let mut text = Text(0);
    let status: Value<'_> = object.get("statusCode")?;
    if entry == Entry::ViewerRequest && status.is_undefined() {
        return Ok(Reply::Request(RequestOut {
            method: required(object, "method", &mut text)?,
            uri: required(object, "uri", &mut text)?,
            query: query(object, &mut text)?,
            headers: members(object, "headers", false, &mut text)?,
            cookies: members(object, "cookies", false, &mut text)?,
            origin,
        }));
    }
    let Some(status) = status
        .as_number()
        .filter(|n| n.fract() == 0.0 && (100.0..=999.0).contains(n))
    else {
        return odd("statusCode is no status");
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 100 and 999"
    )]
    let status = status as u16;
    Ok(Reply::Response(ResponseOut {
        status,
        description: optional(object, "statusDescription", &mut text)?,
        headers: members(object, "headers", false, &mut text)?,
        cookies: members(object, "cookies", true, &mut text)?,
        body: body(object)?,
    }))
}

/// Counts what was read.
struct Text(usize);

impl Text {
    fn of(&mut self, value: &rquickjs::String<'_>, what: &str) -> Result<String, Unread> {
        match value.to_string() {
            Ok(text) => {
                self.0 += text.len();
                if self.0 > MOST_TEXT {
                    return odd(format_args!("it is longer than {MOST_TEXT} bytes"));
                }
                Ok(text)
            }
            Err(Error::Utf8(_)) => odd(format_args!("{what} holds half a character")),
            Err(error) => Err(error.into()),
        }
    }
}

fn optional(object: &Object<'_>, name: &str, text: &mut Text) -> Result<Option<String>, Unread> {
    let value: Value<'_> = object.get(name)?;
    if value.is_undefined() || value.is_null() {
        return Ok(None);
    }
    match value.as_string() {
        Some(string) => text.of(string, name).map(Some),
        None => odd(format_args!(
            "{name} is {} where a string is expected",
            value.type_name()
        )),
    }
}

fn required(object: &Object<'_>, name: &str, text: &mut Text) -> Result<String, Unread> {
    match optional(object, name, text)? {
        Some(value) => Ok(value),
        None => odd(format_args!("{name} is missing")),
    }
}

fn query(object: &Object<'_>, text: &mut Text) -> Result<QueryOut, Unread> {
    let value: Value<'_> = object.get("querystring")?;
    match value.as_string() {
        Some(string) => text.of(string, "querystring").map(QueryOut::Text),
        None => members(object, "querystring", false, text).map(QueryOut::Members),
    }
}

fn members(
    object: &Object<'_>,
    name: &str,
    with_attributes: bool,
    text: &mut Text,
) -> Result<Members, Unread> {
    let value: Value<'_> = object.get(name)?;
    if value.is_undefined() || value.is_null() {
        return Ok(Members::new());
    }
    let Some(object) = value.as_object().filter(|_| !value.is_array()) else {
        return odd(format_args!(
            "{name} is {} where an object is expected",
            value.type_name()
        ));
    };
    let mut members = Members::new();
    for member in object.props::<Atom<'_>, Value<'_>>() {
        let (key, value) = member?;
        let key = match key.to_string() {
            Ok(key) => key,
            Err(Error::Utf8(_)) => {
                return odd(format_args!("a name in {name} holds half a character"));
            }
            Err(error) => return Err(error.into()),
        };
        text.0 += key.len();
        if members.len() >= MOST_MEMBERS {
            return odd(format_args!("{name} has more than {MOST_MEMBERS} members"));
        }
        let Some(given) = value.as_object().filter(|_| !value.is_array()) else {
            return odd(format_args!(
                "{name}.{key:.80} is {} where an object with a value is expected",
                value.type_name()
            ));
        };
        let values = values(given, with_attributes, text).map_err(|unread| match unread {
            Unread::Odd(what) => Unread::Odd(format!("{name}.{key:.80}: {what}")),
            engine @ Unread::Engine(_) => engine,
        })?;
        members.push((key, values));
    }
    Ok(members)
}

fn values(given: &Object<'_>, with_attributes: bool, text: &mut Text) -> Result<Values, Unread> {
    let multi: Value<'_> = given.get("multiValue")?;
    let multi = match multi.as_array() {
        None if multi.is_undefined() || multi.is_null() => None,
        None => return odd("multiValue is no array"),
        Some(array) => {
            // Lengths beyond 31 bits make the binding's own accessor panic.
            let length: f64 = array.as_object().get("length")?;
            if !(0.0..=f64::from(MOST_VALUES)).contains(&length) {
                return odd(format_args!(
                    "multiValue has more than {MOST_VALUES} values"
                ));
            }
            let mut items = Vec::new();
            for value in array.iter::<Value<'_>>() {
                let value = value?;
                let Some(object) = value.as_object() else {
                    return odd("multiValue holds something else than objects");
                };
                items.push(item(object, with_attributes, text)?);
            }
            Some(items)
        }
    };
    let first = match &multi {
        // A name with several values needs no value beside them.
        Some(items) if given.get::<_, Value<'_>>("value")?.is_undefined() => {
            items.first().cloned().unwrap_or_default()
        }
        _ => item(given, with_attributes, text)?,
    };
    Ok(Values { first, multi })
}

fn item(object: &Object<'_>, with_attributes: bool, text: &mut Text) -> Result<Item, Unread> {
    Ok(Item {
        value: required(object, "value", text)?,
        attributes: match with_attributes {
            true => optional(object, "attributes", text)?,
            false => None,
        },
    })
}

fn body(object: &Object<'_>) -> Result<Option<BodyOut>, Unread> {
    let value: Value<'_> = object.get("body")?;
    if value.is_undefined() || value.is_null() {
        return Ok(None);
    }
    // The memory of the realm bounds what a body can be.
    let text = |value: &Value<'_>| match value.as_string().map(rquickjs::String::to_string) {
        Some(Ok(data)) => Ok(data),
        Some(Err(Error::Utf8(_))) => odd("the body holds half a character"),
        Some(Err(error)) => Err(error.into()),
        None => odd("the body is neither a string nor {encoding, data}"),
    };
    if value.is_string() {
        return Ok(Some(BodyOut {
            data: text(&value)?,
            is_base64: false,
        }));
    }
    let Some(given) = value.as_object() else {
        return odd("the body is neither a string nor {encoding, data}");
    };
    let encoding = optional(given, "encoding", &mut Text(0))?;
    let is_base64 = match encoding.as_deref() {
        None | Some("text") => false,
        Some("base64") => true,
        Some(_) => return odd("body.encoding is neither \"text\" nor \"base64\""),
    };
    Ok(Some(BodyOut {
        data: text(&given.get("data")?)?,
        is_base64,
    }))
}
