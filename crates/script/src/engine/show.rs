//! The event of an exchange as objects of the engine, made as far as the function looks at it.
//!
//! Most functions look at one or two parts of what they are told. The event is therefore a frame whose
//! larger parts are accessors of its own, to be listed and copied like any other property; a part is made
//! when it is read for the first time. What was made is remembered until the end of the call: a part or
//! member that comes back as it was given is neither read nor written again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rquickjs::atom::PredefinedAtom;
use rquickjs::object::{AsProperty, Property, PropertyFlags};
use rquickjs::{
    Array, Atom, Ctx, Function, IntoJs as _, Object, Persistent, Result, String as Text, Undefined,
    Value, qjs,
};

use crate::engine::Item;
use crate::event::{Names, SeenRequest, Shown, What};

/// A part of an event that is made when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Context,
    Viewer,
    /// The request, in events about something else.
    Request,
    Query,
    Headers,
    Cookies,
    ResponseHeaders,
    ResponseCookies,
}

impl Part {
    /// In the order of the prelude's list.
    const ALL: [Self; 8] = [
        Self::Context,
        Self::Viewer,
        Self::Request,
        Self::Query,
        Self::Headers,
        Self::Cookies,
        Self::ResponseHeaders,
        Self::ResponseCookies,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Viewer => "viewer",
            Self::Request => "request",
            Self::Query => "querystring",
            Self::Headers | Self::ResponseHeaders => "headers",
            Self::Cookies | Self::ResponseCookies => "cookies",
        }
    }

    const fn at(self) -> usize {
        self as usize
    }
}

type Kept<T> = Persistent<T>;

/// What all events of a realm are made of.
pub(crate) struct Kit {
    accessors: Vec<(Kept<Function<'static>>, Kept<Function<'static>>)>,
    raw_query: Kept<Function<'static>>,
    version: Kept<Value<'static>>,
    multi_value: Kept<Atom<'static>>,
    /// The parts that were made, for the accessors.
    memo: Kept<Array<'static>>,
    /// An event, so that the layouts of objects stay known to the engine.
    sample: RefCell<Vec<Kept<Value<'static>>>>,
}

impl Kit {
    /// Takes what the prelude gives.
    pub(crate) fn new<'js>(ctx: &Ctx<'js>, given: &Object<'js>) -> Result<Self> {
        let accessors = given.get::<_, Array<'js>>("accessors")?;
        let pair = |pair: Result<Object<'js>>| {
            let pair = pair?;
            let part = |name| pair.get::<_, Function<'js>>(name);
            let (get, set) = (part("get")?, part("set")?);
            Ok((Persistent::save(ctx, get), Persistent::save(ctx, set)))
        };
        let kit = Self {
            accessors: accessors.iter().map(pair).collect::<Result<_>>()?,
            raw_query: Persistent::save(ctx, given.get::<_, Function<'js>>("rawQueryString")?),
            version: Persistent::save(ctx, "1.0".into_js(ctx)?),
            multi_value: Persistent::save(ctx, Atom::from_str(ctx.clone(), "multiValue")?),
            memo: Persistent::save(ctx, given.get::<_, Array<'js>>("memo")?),
            sample: RefCell::default(),
        };
        let names = [crate::event::Named {
            name: "host".to_owned(),
            values: vec![Item::default()],
            is_bare: false,
        }];
        for what in [What::Request, What::Response(Default::default())] {
            let (event, _) = kit.event(ctx, &SeenRequest::default(), &what)?;
            let (members, _) = kit.members(ctx, &names.to_vec())?;
            let mut sample = kit.sample.borrow_mut();
            sample.push(Persistent::save(ctx, event.into_value()));
            sample.push(Persistent::save(ctx, members.into_value()));
        }
        Ok(kit)
    }

    /// Makes an event. Gives the two values beside its parts that are compared when they come back.
    pub(crate) fn event<'js>(
        &self,
        ctx: &Ctx<'js>,
        request: &SeenRequest,
        what: &What,
    ) -> Result<(Object<'js>, [Value<'js>; 2])> {
        let event = Object::new(ctx.clone())?;
        put(&event, "version", self.version.clone().restore(ctx)?)?;
        self.leave(&event, Part::Context)?;
        self.leave(&event, Part::Viewer)?;
        let undefined = || Value::new_undefined(ctx.clone());
        let given = match what {
            What::Request => {
                let (request, given) = self.request(ctx, request)?;
                put(&event, "request", request.into_value())?;
                given
            }
            What::Response(seen) => {
                self.leave(&event, Part::Request)?;
                let response = Object::new(ctx.clone())?;
                put(&response, "statusCode", seen.status.into_js(ctx)?)?;
                let description = text(ctx, &seen.description)?;
                put(&response, "statusDescription", description.clone())?;
                self.leave(&response, Part::ResponseHeaders)?;
                self.leave(&response, Part::ResponseCookies)?;
                put(&event, "response", response.into_value())?;
                [description, undefined()]
            }
            What::Message {
                direction,
                encoding,
                data,
            } => {
                self.leave(&event, Part::Request)?;
                let message = Object::new(ctx.clone())?;
                put(&message, "direction", text(ctx, direction)?)?;
                put(&message, "encoding", text(ctx, encoding)?)?;
                put(&message, "data", text(ctx, data)?)?;
                put(&event, "message", message.into_value())?;
                [undefined(), undefined()]
            }
        };
        Ok((event, given))
    }

    fn request<'js>(
        &self,
        ctx: &Ctx<'js>,
        seen: &SeenRequest,
    ) -> Result<(Object<'js>, [Value<'js>; 2])> {
        let request = Object::new(ctx.clone())?;
        let (method, uri) = (text(ctx, &seen.method)?, text(ctx, &seen.uri)?);
        put(&request, "method", method.clone())?;
        put(&request, "uri", uri.clone())?;
        self.leave(&request, Part::Query)?;
        self.leave(&request, Part::Headers)?;
        self.leave(&request, Part::Cookies)?;
        let raw_query = self.raw_query.clone().restore(ctx)?;
        let property = Property::from(raw_query).writable().configurable();
        request.prop("rawQueryString", property)?;
        Ok((request, [method, uri]))
    }

    /// Leaves a part to whoever reads it.
    fn leave<'js>(&self, object: &Object<'js>, part: Part) -> Result<()> {
        let ctx = object.ctx();
        match self.accessors.get(part.at()) {
            Some((get, set)) => object.prop(
                part.name(),
                Lazy {
                    get: get.clone().restore(ctx)?,
                    set: set.clone().restore(ctx)?,
                },
            ),
            None => Ok(()),
        }
    }

    /// Makes an object of names and values.
    fn members<'js>(&self, ctx: &Ctx<'js>, names: &Names) -> Result<(Object<'js>, Given)> {
        let all = Object::new(ctx.clone())?;
        let mut given = Vec::with_capacity(names.len());
        let empty = Item::default();
        for named in names {
            let name = Atom::from_str(ctx.clone(), &named.name)?;
            let (object, first) = item(ctx, named.values.first().unwrap_or(&empty))?;
            // Only a name that is there twice or more has it.
            let is_single = named.values.len() <= 1;
            if !is_single {
                let array = Array::new(ctx.clone())?;
                for (at, one) in named.values.iter().enumerate() {
                    array.set(at, item(ctx, one)?.0)?;
                }
                let property = Property::from(array.into_value());
                object.prop(self.multi_value.clone().restore(ctx)?, open(property))?;
            }
            let is_plain = named.values.iter().all(|one| one.attributes.is_none());
            let property = open(Property::from(object.clone().into_value()));
            all.prop(name.clone(), property)?;
            given.push(GivenMember {
                name: Persistent::save(ctx, name),
                object: Persistent::save(ctx, object.into_value()),
                only: (is_single && is_plain).then(|| Persistent::save(ctx, first)),
            });
        }
        Ok((all, Given(given)))
    }
}

/// A property whose value is made when it is read.
struct Lazy<'js> {
    get: Function<'js>,
    set: Function<'js>,
}

impl<'js> AsProperty<'js, ()> for Lazy<'js> {
    fn config(self, ctx: &Ctx<'js>) -> Result<(PropertyFlags, Value<'js>, Value<'js>, Value<'js>)> {
        const FLAGS: PropertyFlags = (qjs::JS_PROP_HAS_GET
            | qjs::JS_PROP_HAS_SET
            | qjs::JS_PROP_HAS_ENUMERABLE
            | qjs::JS_PROP_ENUMERABLE
            | qjs::JS_PROP_HAS_CONFIGURABLE
            | qjs::JS_PROP_CONFIGURABLE)
            .cast_signed();
        let value = Undefined.into_js(ctx)?;
        Ok((FLAGS, value, self.get.into_value(), self.set.into_value()))
    }
}

fn open<T>(property: Property<T>) -> Property<T> {
    property.writable().enumerable().configurable()
}

/// Sets a property as `JSON.parse` does: whatever its name, and whatever the prototype says.
fn put<'js>(object: &Object<'js>, name: &str, value: Value<'js>) -> Result<()> {
    object.prop(name, open(Property::from(value)))
}

fn text<'js>(ctx: &Ctx<'js>, text: &str) -> Result<Value<'js>> {
    Text::from_str(ctx.clone(), text).map(Text::into_value)
}

fn item<'js>(ctx: &Ctx<'js>, item: &Item) -> Result<(Object<'js>, Value<'js>)> {
    let object = Object::new(ctx.clone())?;
    let value = text(ctx, &item.value)?;
    object.prop(PredefinedAtom::Value, open(Property::from(value.clone())))?;
    if let Some(attributes) = &item.attributes {
        put(&object, "attributes", text(ctx, attributes)?)?;
    }
    Ok((object, value))
}

/// Names and values as the function got them.
pub(crate) struct Given(Vec<GivenMember>);

struct GivenMember {
    name: Kept<Atom<'static>>,
    object: Kept<Value<'static>>,
    /// The value, when there is one and nothing beside it.
    only: Option<Kept<Value<'static>>>,
}

impl Given {
    /// Where a name is, looked for from `from` on.
    pub(crate) fn find(&self, from: usize, name: &Kept<Atom<'static>>) -> Option<usize> {
        let (before, after) = self.0.split_at_checked(from)?;
        let is_it = |member: &GivenMember| member.name == *name;
        let after = after.iter().position(is_it).map(|at| from + at);
        after.or_else(|| before.iter().position(is_it))
    }

    /// Whether a member is the one that was given, with the value that it had.
    pub(crate) fn is_untouched<'js>(
        &self,
        at: usize,
        value: &Value<'js>,
        kit: &Kit,
    ) -> Result<bool> {
        let ctx = value.ctx();
        let (Some(member), Some(object)) = (self.0.get(at), value.as_object()) else {
            return Ok(false);
        };
        let Some(only) = &member.only else {
            return Ok(false);
        };
        if Persistent::save(ctx, value.clone()) != member.object {
            return Ok(false);
        }
        // Strings do not change, so that the same one has the same text.
        let now: Value<'js> = object.get(PredefinedAtom::Value)?;
        if Persistent::save(ctx, now) != *only {
            return Ok(false);
        }
        let multi: Value<'js> = object.get(kit.multi_value.clone().restore(ctx)?)?;
        Ok(multi.is_undefined())
    }
}

/// What of an event was made in one call, and what comes back of it.
#[derive(Default)]
pub(crate) struct Parts {
    shown: RefCell<Option<Arc<Shown>>>,
    kit: RefCell<Option<Rc<Kit>>>,
    made: RefCell<[Option<Rc<Given>>; Part::ALL.len()]>,
    /// The result, and the part of it that is being read.
    subject: RefCell<Option<Kept<Value<'static>>>>,
    reading: Cell<Option<Part>>,
    is_untouched: Cell<bool>,
}

impl Parts {
    pub(crate) fn begin(&self, shown: &Arc<Shown>, kit: &Rc<Kit>) {
        *self.shown.borrow_mut() = Some(Arc::clone(shown));
        *self.kit.borrow_mut() = Some(Rc::clone(kit));
    }

    /// Forgets everything of the call.
    pub(crate) fn end(&self, ctx: Option<&Ctx<'_>>) {
        self.shown.take();
        self.subject.take();
        self.reading.set(None);
        let (kit, made) = (self.kit.take(), self.made.take());
        let (Some(kit), Some(ctx)) = (kit, ctx) else {
            return;
        };
        let Ok(memo) = kit.memo.clone().restore(ctx) else {
            return;
        };
        for (at, made) in made.iter().enumerate() {
            if made.is_some() {
                // An element that is there can be set.
                let _ = memo.set(at, Undefined);
            }
        }
    }

    pub(crate) fn shown(&self) -> Option<Arc<Shown>> {
        self.shown.borrow().clone()
    }

    pub(crate) fn kit(&self) -> Option<Rc<Kit>> {
        self.kit.borrow().clone()
    }

    fn is_made(&self, part: Part) -> bool {
        let made = self.made.borrow();
        made.get(part.at()).is_some_and(Option::is_some)
    }

    /// Makes the part with a number; the accessors remember it.
    pub(crate) fn make<'js>(
        &self,
        ctx: &Ctx<'js>,
        number: usize,
        this: &Value<'js>,
    ) -> Result<Value<'js>> {
        let undefined = Value::new_undefined(ctx.clone());
        let part = Part::ALL.get(number);
        let (Some(part), Some(shown), Some(kit)) = (part, self.shown(), self.kit()) else {
            return Ok(undefined);
        };
        if self.reading.get() == Some(*part) && !self.is_made(*part) && self.is_subject(ctx, this) {
            self.is_untouched.set(true);
            return Ok(undefined);
        }
        let (value, given) = match part {
            Part::Context => (ctx.json_parse(shown.context())?, None),
            Part::Viewer => {
                let viewer = Object::new(ctx.clone())?;
                let address = shown.place.flow.client.ip().to_string();
                put(&viewer, "ip", text(ctx, &address)?)?;
                (viewer.into_value(), None)
            }
            Part::Request => (kit.request(ctx, &shown.request)?.0.into_value(), None),
            Part::Query | Part::Headers | Part::Cookies => {
                let names = match part {
                    Part::Query => shown.request.query(),
                    Part::Headers => shown.request.headers(),
                    _ => shown.request.cookies(),
                };
                let (members, given) = kit.members(ctx, &names)?;
                (members.into_value(), Some(given))
            }
            Part::ResponseHeaders | Part::ResponseCookies => {
                let Some(seen) = shown.response() else {
                    return Ok(undefined);
                };
                let names = match part {
                    Part::ResponseHeaders => seen.headers(),
                    _ => seen.cookies(),
                };
                let (members, given) = kit.members(ctx, &names)?;
                (members.into_value(), Some(given))
            }
        };
        if let Some(made) = self.made.borrow_mut().get_mut(part.at()) {
            *made = Some(Rc::new(given.unwrap_or(Given(Vec::new()))));
        }
        Ok(value)
    }

    fn is_subject<'js>(&self, ctx: &Ctx<'js>, this: &Value<'js>) -> bool {
        let this = Persistent::save(ctx, this.clone());
        self.subject
            .borrow()
            .as_ref()
            .is_some_and(|subject| *subject == this)
    }

    /// From here on a part that `subject` still leaves open counts as untouched.
    pub(crate) fn read_from(&self, subject: &Object<'_>) {
        let subject = Persistent::save(subject.ctx(), subject.clone().into_value());
        *self.subject.borrow_mut() = Some(subject);
    }

    /// Reads a part of a result; `None` when nobody has touched it.
    pub(crate) fn read<'js>(&self, object: &Object<'js>, part: Part) -> Result<Option<Value<'js>>> {
        self.is_untouched.set(false);
        self.reading.set(Some(part));
        let value = object.get::<_, Value<'js>>(part.name());
        self.reading.set(None);
        let value = value?;
        Ok(Some(value).filter(|value| !(self.is_untouched.get() && value.is_undefined())))
    }

    /// What a part was made of.
    pub(crate) fn given(&self, part: Part) -> Option<Rc<Given>> {
        self.made.borrow().get(part.at()).cloned().flatten()
    }
}

impl core::fmt::Debug for Parts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}
