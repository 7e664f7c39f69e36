//! The value boundary: what a function gave becomes Rust values, or is refused.

use core::fmt;

use rquickjs::{Atom, Error, Object, Persistent, Value};

use super::show::{Part, Parts};
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

/// One name of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// As it was given, at this place of what was given.
    Kept(usize),
    /// What the function says about a name, new or not.
    Said(String, Values),
}

pub(crate) type Members = Vec<Member>;

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

/// A request; what is `None` was not touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestOut {
    pub(crate) method: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) query: Option<QueryOut>,
    pub(crate) headers: Option<Members>,
    pub(crate) cookies: Option<Members>,
    pub(crate) origin: Option<OriginUpdate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueryOut {
    Text(String),
    Members(Members),
}

/// A response; headers and cookies that are `None` were not touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseOut {
    pub(crate) status: u16,
    /// `None` as well when it was not touched.
    pub(crate) description: Option<String>,
    pub(crate) headers: Option<Members>,
    pub(crate) cookies: Option<Members>,
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

/// Reads the result of an event. `given` are values of the event that come back when nobody touched them:
/// method and URI of a request, the description of a response.
pub(crate) fn read<'js>(
    value: &Value<'js>,
    entry: Entry,
    json: Option<&str>,
    origin: Option<OriginUpdate>,
    parts: &Parts,
    given: Option<&[Value<'js>; 2]>,
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
    parts.read_from(object);
    let mut reader = Reader { parts, text: 0 };
    let status: Value<'_> = object.get("statusCode")?;
    if entry == Entry::ViewerRequest && status.is_undefined() {
        let [method, uri] = given.map_or([None, None], |[a, b]| [Some(a), Some(b)]);
        return Ok(Reply::Request(RequestOut {
            method: reader.required(object, "method", method)?,
            uri: reader.required(object, "uri", uri)?,
            query: reader.query(object)?,
            headers: reader.members(object, Some(Part::Headers), "headers", false)?,
            cookies: reader.members(object, Some(Part::Cookies), "cookies", false)?,
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
    // A response in place of the server's has nothing that was given.
    let is_given = entry == Entry::ViewerResponse;
    let part = |part: Part| Some(part).filter(|_| is_given);
    let description = given.map(|[description, _]| description);
    Ok(Reply::Response(ResponseOut {
        status,
        description: reader.optional(
            object,
            "statusDescription",
            description.filter(|_| is_given),
        )?,
        headers: reader.members(object, part(Part::ResponseHeaders), "headers", false)?,
        cookies: reader.members(object, part(Part::ResponseCookies), "cookies", true)?,
        body: body(object)?,
    }))
}

struct Reader<'a> {
    parts: &'a Parts,
    /// How much was read.
    text: usize,
}

impl Reader<'_> {
    fn text(&mut self, value: &rquickjs::String<'_>, what: &str) -> Result<String, Unread> {
        match value.to_string() {
            Ok(text) => {
                self.count(text.len())?;
                Ok(text)
            }
            Err(Error::Utf8(_)) => odd(format_args!("{what} holds half a character")),
            Err(error) => Err(error.into()),
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), Unread> {
        self.text += bytes;
        if self.text > MOST_TEXT {
            return odd(format_args!("it is longer than {MOST_TEXT} bytes"));
        }
        Ok(())
    }

    /// A string; `None` when there is none, or the one that was given.
    fn optional<'js>(
        &mut self,
        object: &Object<'js>,
        name: &str,
        given: Option<&Value<'js>>,
    ) -> Result<Option<String>, Unread> {
        let value: Value<'_> = object.get(name)?;
        if value.is_undefined() || value.is_null() || given == Some(&value) {
            return Ok(None);
        }
        match value.as_string() {
            Some(string) => self.text(string, name).map(Some),
            None => odd(format_args!(
                "{name} is {} where a string is expected",
                value.type_name()
            )),
        }
    }

    /// A string; `None` when it is the one that was given.
    fn required<'js>(
        &mut self,
        object: &Object<'js>,
        name: &str,
        given: Option<&Value<'js>>,
    ) -> Result<Option<String>, Unread> {
        let value: Value<'_> = object.get(name)?;
        if given == Some(&value) {
            return Ok(None);
        }
        match value.as_string() {
            Some(string) => self.text(string, name).map(Some),
            None if value.is_undefined() || value.is_null() => {
                odd(format_args!("{name} is missing"))
            }
            None => odd(format_args!(
                "{name} is {} where a string is expected",
                value.type_name()
            )),
        }
    }

    fn query(&mut self, object: &Object<'_>) -> Result<Option<QueryOut>, Unread> {
        let Some(value) = self.parts.read(object, Part::Query)? else {
            return Ok(None);
        };
        let query = match value.as_string() {
            Some(string) => QueryOut::Text(self.text(string, "querystring")?),
            None => QueryOut::Members(self.members_of(
                &value,
                Some(Part::Query),
                "querystring",
                false,
            )?),
        };
        Ok(Some(query))
    }

    /// Names and values; `None` when they are a part that nobody has touched.
    fn members(
        &mut self,
        object: &Object<'_>,
        part: Option<Part>,
        name: &str,
        with_attributes: bool,
    ) -> Result<Option<Members>, Unread> {
        let value = match part {
            Some(part) => self.parts.read(object, part)?,
            None => Some(object.get(name)?),
        };
        value
            .map(|value| self.members_of(&value, part, name, with_attributes))
            .transpose()
    }

    fn members_of<'js>(
        &mut self,
        value: &Value<'js>,
        part: Option<Part>,
        name: &str,
        with_attributes: bool,
    ) -> Result<Members, Unread> {
        if value.is_undefined() || value.is_null() {
            return Ok(Members::new());
        }
        let Some(object) = value.as_object().filter(|_| !value.is_array()) else {
            return odd(format_args!(
                "{name} is {} where an object is expected",
                value.type_name()
            ));
        };
        let ctx = object.ctx();
        let given = part
            .and_then(|part| self.parts.given(part))
            .zip(self.parts.kit());
        // Most members come back in the order in which they went.
        let mut next = 0;
        let mut said = 0;
        let mut members = Members::new();
        for member in object.props::<Atom<'_>, Value<'_>>() {
            let (key, value) = member?;
            let key = Persistent::save(ctx, key);
            if let Some((given, kit)) = &given
                && let Some(at) = given.find(next, &key)
            {
                next = at + 1;
                if given.is_untouched(at, &value, kit)? {
                    members.push(Member::Kept(at));
                    continue;
                }
            }
            let key = match key.restore(ctx)?.to_string() {
                Ok(key) => key,
                Err(Error::Utf8(_)) => {
                    return odd(format_args!("a name in {name} holds half a character"));
                }
                Err(error) => return Err(error.into()),
            };
            self.count(key.len())?;
            said += 1;
            if said > MOST_MEMBERS {
                return odd(format_args!("{name} has more than {MOST_MEMBERS} members"));
            }
            let Some(object) = value.as_object().filter(|_| !value.is_array()) else {
                return odd(format_args!(
                    "{name}.{key:.80} is {} where an object with a value is expected",
                    value.type_name()
                ));
            };
            let values = self
                .values(object, with_attributes)
                .map_err(|unread| match unread {
                    Unread::Odd(what) => Unread::Odd(format!("{name}.{key:.80}: {what}")),
                    engine @ Unread::Engine(_) => engine,
                })?;
            members.push(Member::Said(key, values));
        }
        Ok(members)
    }

    fn values(&mut self, given: &Object<'_>, with_attributes: bool) -> Result<Values, Unread> {
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
                    items.push(self.item(object, with_attributes)?);
                }
                Some(items)
            }
        };
        let first = match &multi {
            // A name with several values needs no value beside them.
            Some(items) if given.get::<_, Value<'_>>("value")?.is_undefined() => {
                items.first().cloned().unwrap_or_default()
            }
            _ => self.item(given, with_attributes)?,
        };
        Ok(Values { first, multi })
    }

    fn item(&mut self, object: &Object<'_>, with_attributes: bool) -> Result<Item, Unread> {
        Ok(Item {
            value: self.required(object, "value", None)?.unwrap_or_default(),
            attributes: match with_attributes {
                true => self.optional(object, "attributes", None)?,
                false => None,
            },
        })
    }
}

fn body(object: &Object<'_>) -> Result<Option<BodyOut>, Unread> {
    let value: Value<'_> = object.get("body")?;
    if value.is_undefined() || value.is_null() {
        return Ok(None);
    }
    // The memory of the realm bounds what a body can be.
    let text_of = |string: &rquickjs::String<'_>| match string.to_string() {
        Err(Error::Utf8(_)) => odd("the body holds half a character"),
        text => text.map_err(Unread::from),
    };
    let text = |value: &Value<'_>| match value.as_string() {
        Some(string) => text_of(string),
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
    let encoding: Value<'_> = given.get("encoding")?;
    let is_base64 = match encoding.as_string().map(text_of).transpose()?.as_deref() {
        None if encoding.is_undefined() || encoding.is_null() => false,
        Some("text") => false,
        Some("base64") => true,
        _ => return odd("body.encoding is neither \"text\" nor \"base64\""),
    };
    Ok(Some(BodyOut {
        data: text(&given.get("data")?)?,
        is_base64,
    }))
}
