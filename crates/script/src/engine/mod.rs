//! One realm of JavaScript with its limits.
//!
//! A realm is made once for a function and a thread. Everything in it that two calls could both
//! reach is frozen, and the function's own top level runs anew for each call, so that nothing of a
//! call is left for the next. A function whose top level changes the realm (a polyfill) gets a new
//! realm for each call: slower, and the same to look at.

mod budget;
mod host;
mod read;
mod show;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use rquickjs::context::EvalOptions;
use rquickjs::context::intrinsic;
use rquickjs::promise::PromiseState;
use rquickjs::{Context, Ctx, Function, Module, Object, Persistent, Promise, Runtime, Value};
use serde::Deserialize;

use crate::event::Shown;
use crate::fault::Fault;
use crate::kvs::Stores;
use crate::origin::OriginRules;
use crate::program::{Entry, Program};
use budget::Budget;
pub(crate) use budget::thread_time;
pub(crate) use host::CallState;
pub(crate) use read::{
    BodyOut, Item, Member, Members, QueryOut, Reply, RequestOut, ResponseOut, Values,
};
use show::Kit;

const PRELUDE: &str = include_str!("prelude.js");

/// Garbage that may lie around before it is collected, in bytes.
const SLACK: usize = 256 * 1024;
/// Processor time in which a realm is made and a top level tried out: reading a file is not a call.
const LOAD_TIME: Duration = Duration::from_millis(500);
/// Jobs of promises that run between two looks at the clock.
const JOBS: u32 = 64;

/// What one call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processor time. 1 ms.
    pub cpu: Duration,
    /// Memory beside that of the realm itself, in bytes. 2 MiB.
    pub memory: usize,
    /// Stack, in bytes. 256 KiB.
    pub stack: usize,
    /// Time after which a call that cannot be interrupted is given up with its thread. 500 ms.
    pub give_up: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_millis(1),
            memory: 2 << 20,
            stack: 256 << 10,
            give_up: Duration::from_millis(500),
        }
    }
}

/// One question to a function.
#[derive(Clone, Debug)]
pub struct Call {
    /// What kind of event.
    pub(crate) entry: Entry,
    pub(crate) event: Event,
    /// The time at which the function's clock stands.
    pub(crate) now: SystemTime,
    /// Whether this is a trial: the result is wanted as JSON, too, and the time exactly.
    pub(crate) is_trial: bool,
}

/// What a function is asked about.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Somebody else's event, as JSON.
    Text {
        event: String,
        /// What `request.rawQueryString()` gives.
        raw_query: Option<String>,
        /// What `cf.edgeLocation` gives, as JSON.
        edge: Arc<str>,
    },
    /// An exchange.
    Shown(Arc<Shown>),
}

impl Call {
    /// A call with an event in JSON, now.
    #[must_use]
    pub fn new(entry: Entry, event: String, now: SystemTime) -> Self {
        Self {
            entry,
            event: Event::Text {
                event,
                raw_query: None,
                edge: "{}".into(),
            },
            now,
            is_trial: false,
        }
    }

    /// A call about an exchange.
    pub(crate) fn about(shown: Arc<Shown>, now: SystemTime) -> Self {
        Self {
            entry: shown.entry(),
            event: Event::Shown(shown),
            now,
            is_trial: false,
        }
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Done {
    /// The result.
    pub(crate) reply: Result<Reply, Fault>,
    /// The result as JSON: of trials and of events that are no HTTP, when there is one.
    pub json: Option<String>,
    /// What the function logged.
    pub log: Vec<String>,
    /// Processor time it took; measured in trials only.
    pub(crate) cpu: Duration,
}

impl Done {
    /// A call that was never made, or never came back.
    pub(crate) fn failed(fault: Fault) -> Self {
        Self {
            reply: Err(fault),
            json: None,
            log: Vec::new(),
            cpu: Duration::ZERO,
        }
    }

    /// Why there is no result.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.reply.as_ref().err()
    }
}

/// The functions that the prelude gives.
struct Prelude {
    /// Kept, because its names are to stay known to the engine.
    _names: Persistent<Object<'static>>,
    invoke: Persistent<Function<'static>>,
    invoke_text: Persistent<Function<'static>>,
    json: Persistent<Function<'static>>,
    factory: Persistent<Function<'static>>,
    kit: Rc<Kit>,
}

/// A function, ready to be called on this thread.
pub(crate) struct Realm {
    // In the order in which they must go: values, their context, its runtime.
    prelude: Option<Prelude>,
    context: Option<Context>,
    runtime: Runtime,
    budget: Rc<Budget>,
    state: Rc<CallState>,
    limits: Limits,
    base: usize,
    pub(crate) program: Arc<Program>,
}

/// The language as CloudFront has it: no `performance`, no weak references.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
);

impl Realm {
    /// Makes a realm for a program that was [inspected](Self::inspect).
    pub(crate) fn new(
        program: Arc<Program>,
        limits: Limits,
        given_up: Arc<AtomicBool>,
    ) -> Result<Self, Fault> {
        let mut realm = Self::bare(program, limits, given_up)?;
        if !realm.program.own_realm {
            let context = realm.context()?;
            realm.prelude = Some(realm.enter(&context, true)?);
            realm.context = Some(context);
        }
        realm.settle();
        Ok(realm)
    }

    fn bare(
        program: Arc<Program>,
        limits: Limits,
        given_up: Arc<AtomicBool>,
    ) -> Result<Self, Fault> {
        let runtime = Runtime::new().map_err(|error| Fault::Thrown(error.to_string()))?;
        runtime.set_max_stack_size(limits.stack);
        runtime.set_memory_limit(limits.memory + (8 << 20));
        let budget = Rc::new(Budget::new(given_up));
        let spent = Rc::clone(&budget);
        runtime.set_interrupt_handler(Some(Box::new(move || spent.is_spent())));
        Ok(Self {
            prelude: None,
            context: None,
            runtime,
            budget,
            state: Rc::default(),
            limits,
            base: 0,
            program,
        })
    }

    fn context(&self) -> Result<Context, Fault> {
        Context::custom::<Intrinsics>(&self.runtime)
            .map_err(|error| Fault::Thrown(error.to_string()))
    }

    /// Runs the prelude and compiles the program.
    fn enter(&self, context: &Context, harden: bool) -> Result<Prelude, Fault> {
        self.budget.begin(LOAD_TIME);
        context.with(|ctx| {
            let made = || {
                let options = |name: &str| {
                    let mut options = EvalOptions::default();
                    options.filename = Some(name.to_owned());
                    options
                };
                let prelude: Function<'_> =
                    ctx.eval_with_options(PRELUDE, options("(built in)"))?;
                let given: Object<'_> = prelude.call((host::host(&ctx, &self.state)?,))?;
                let factory: Function<'_> = ctx.eval_with_options(
                    self.program.wrapped.as_str(),
                    options(&self.program.name),
                )?;
                let part = |name| given.get::<_, Function<'_>>(name);
                if harden {
                    part("harden")?.call::<_, ()>(())?;
                }
                Ok::<_, rquickjs::Error>(Prelude {
                    _names: Persistent::save(&ctx, given.get::<_, Object<'_>>("names")?),
                    invoke: Persistent::save(&ctx, part("invoke")?),
                    invoke_text: Persistent::save(&ctx, part("invokeText")?),
                    json: Persistent::save(&ctx, part("json")?),
                    factory: Persistent::save(&ctx, factory),
                    kit: Rc::new(Kit::new(&ctx, &given)?),
                })
            };
            made().map_err(|error| self.fault_of(&ctx, &error))
        })
    }

    /// Compiles a program and tries its top level: which handlers are there, and whether it can share
    /// a realm.
    pub(crate) fn inspect(
        mut program: Program,
        limits: Limits,
        stores: &Arc<Stores>,
        now: SystemTime,
    ) -> Result<Program, Fault> {
        #[derive(Deserialize)]
        struct Seen {
            handlers: Vec<String>,
            changed: Option<String>,
        }
        let realm = Self::bare(Arc::new(program.clone()), limits, Arc::default())?;
        let context = realm.context()?;
        realm.state.begin(Arc::clone(stores), None);
        realm.budget.begin(LOAD_TIME);
        let seen = context.with(|ctx| {
            // A source that is right by itself has as many closing braces as opening ones, and so
            // stays inside the function that is put around it.
            let looked = || {
                Module::declare(ctx.clone(), program.name.as_str(), program.source.as_str())?;
                let mut options = EvalOptions::default();
                options.filename = Some("(built in)".to_owned());
                let prelude: Function<'_> = ctx.eval_with_options(PRELUDE, options)?;
                let given: Object<'_> = prelude.call((host::host(&ctx, &realm.state)?,))?;
                let inspect: Function<'_> = given.get("inspect")?;
                let mut options = EvalOptions::default();
                options.filename = Some(program.name.clone());
                let factory: Function<'_> =
                    ctx.eval_with_options(program.wrapped.as_str(), options)?;
                inspect.call::<_, String>((factory, milliseconds(now)))
            };
            looked().map_err(|error| realm.fault_of(&ctx, &error))
        })?;
        let seen: Seen =
            serde_json::from_str(&seen).map_err(|error| Fault::Thrown(error.to_string()))?;
        program.handlers = seen.handlers;
        program.own_realm |= seen.changed.is_some();
        drop(context);
        Ok(program)
    }

    /// Calls the function.
    pub(crate) fn call(
        &mut self,
        call: &Call,
        stores: Arc<Stores>,
        origins: Option<Arc<OriginRules>>,
    ) -> Done {
        let Some(handler) = self.program.handler(call.entry) else {
            return Done::failed(Fault::NoHandler);
        };
        let fresh = if self.program.own_realm {
            match self.fresh() {
                Ok(fresh) => Some(fresh),
                Err(fault) => return Done::failed(fault),
            }
        } else {
            None
        };
        self.state.begin(stores, origins);
        if call.is_trial {
            self.budget.begin_exactly(self.limits.cpu);
        } else {
            self.budget.begin(self.limits.cpu);
        }
        let (context, prelude) = match &fresh {
            Some((prelude, context)) => (Some(context), Some(prelude)),
            None => (self.context.as_ref(), self.prelude.as_ref()),
        };
        let (reply, json) = match (context, prelude) {
            (Some(context), Some(prelude)) => context.with(|ctx| {
                let mut json = None;
                let reply = self.run(&ctx, prelude, call, handler, &mut json);
                self.state.parts.end(Some(&ctx));
                (reply, json)
            }),
            _ => (Err(Fault::Overloaded), None),
        };
        let cpu = if call.is_trial {
            self.budget.spent()
        } else {
            Duration::ZERO
        };
        drop(fresh);
        if self.program.own_realm {
            // A realm is a knot of objects that only the collector undoes.
            self.runtime.set_memory_limit(usize::MAX);
            self.runtime.run_gc();
        }
        self.rearm();
        Done {
            reply,
            json,
            log: std::mem::take(&mut *self.state.log.borrow_mut()),
            cpu,
        }
    }

    /// The event of an exchange as JSON.
    pub(crate) fn event(&self, shown: &Arc<Shown>) -> Result<String, Fault> {
        let (Some(context), Some(prelude)) = (&self.context, &self.prelude) else {
            return Err(Fault::Overloaded);
        };
        self.budget.begin(LOAD_TIME);
        context.with(|ctx| {
            self.state.show(shown, &prelude.kit);
            let made = || {
                let kit = &prelude.kit;
                let (event, _) = kit.event(&ctx, &shown.request, &shown.what)?;
                let stringify = prelude.json.clone().restore(&ctx)?;
                stringify.call::<_, String>((event,))
            };
            let made = made().map_err(|error| self.fault_of(&ctx, &error));
            self.state.parts.end(Some(&ctx));
            made
        })
    }

    fn fresh(&mut self) -> Result<(Prelude, Context), Fault> {
        self.runtime.set_memory_limit(usize::MAX);
        let context = self.context()?;
        let prelude = self.enter(&context, false)?;
        self.settle();
        Ok((prelude, context))
    }

    /// What is in use now is the realm's own.
    fn settle(&mut self) {
        self.runtime.run_gc();
        self.base = usize::try_from(self.runtime.memory_usage().malloc_size).unwrap_or(0);
        self.rearm();
    }

    fn rearm(&self) {
        self.runtime.set_gc_threshold(self.base + SLACK);
        self.runtime
            .set_memory_limit(self.base + SLACK + self.limits.memory);
    }

    fn run(
        &self,
        ctx: &Ctx<'_>,
        prelude: &Prelude,
        call: &Call,
        handler: &str,
        json: &mut Option<String>,
    ) -> Result<Reply, Fault> {
        let fault = |error: rquickjs::Error| self.fault_of(ctx, &error);
        let factory = prelude.factory.clone().restore(ctx).map_err(fault)?;
        let now = milliseconds(call.now);
        let (mut value, given): (Value<'_>, _) = match &call.event {
            Event::Shown(shown) => {
                self.state.show(shown, &prelude.kit);
                let (event, given) = prelude
                    .kit
                    .event(ctx, &shown.request, &shown.what)
                    .map_err(fault)?;
                let invoke = prelude.invoke.clone().restore(ctx).map_err(fault)?;
                let value = invoke.call((factory, handler, event, now));
                (value.map_err(fault)?, Some(given))
            }
            Event::Text {
                event,
                raw_query,
                edge,
            } => {
                self.state.raw_query.borrow_mut().clone_from(raw_query);
                *self.state.edge.borrow_mut() = Some(Arc::clone(edge));
                let invoke = prelude.invoke_text.clone().restore(ctx).map_err(fault)?;
                let event = ctx.json_parse(event.as_str()).map_err(fault)?;
                let value = invoke.call((factory, handler, event, now));
                (value.map_err(fault)?, None)
            }
        };
        if let Some(promise) = value.as_promise().cloned() {
            value = self.settled(ctx, &promise)?;
        }
        // What was begun and not waited for ends here, too: it must not run in the next call.
        self.run_jobs(ctx)?;
        if call.is_trial || !call.entry.is_http() {
            let stringify = prelude.json.clone().restore(ctx).map_err(fault)?;
            *json = stringify.call((value.clone(),)).map_err(fault)?;
        }
        let reply = read::read(
            &value,
            call.entry,
            json.as_deref(),
            self.state.origin.borrow_mut().take(),
            &self.state.parts,
            given.as_ref(),
        );
        match reply {
            Err(read::Unread::Engine(error)) => Err(self.fault_of(ctx, &error)),
            Err(read::Unread::Odd(what)) if !self.budget.has_fired() => Err(Fault::Invalid(what)),
            Err(read::Unread::Odd(_)) => Err(Fault::TooSlow(self.limits.cpu)),
            Ok(reply) => Ok(reply),
        }
    }

    fn settled<'js>(&self, ctx: &Ctx<'js>, promise: &Promise<'js>) -> Result<Value<'js>, Fault> {
        for round in 1_u32.. {
            match promise.state() {
                PromiseState::Resolved | PromiseState::Rejected => break,
                PromiseState::Pending => {}
            }
            if !ctx.execute_pending_job() {
                return Err(if self.budget.has_fired() {
                    Fault::TooSlow(self.limits.cpu)
                } else {
                    Fault::NeverSettles
                });
            }
            self.look(round)?;
        }
        match promise.result::<Value<'js>>() {
            Some(result) => result.map_err(|error| self.fault_of(ctx, &error)),
            None => Err(Fault::NeverSettles),
        }
    }

    fn run_jobs(&self, ctx: &Ctx<'_>) -> Result<(), Fault> {
        let mut round = 0_u32;
        while ctx.execute_pending_job() {
            round += 1;
            self.look(round)?;
        }
        Ok(())
    }

    fn look(&self, round: u32) -> Result<(), Fault> {
        if self.budget.has_fired() || (round.is_multiple_of(JOBS) && self.budget.is_spent()) {
            return Err(Fault::TooSlow(self.limits.cpu));
        }
        Ok(())
    }

    /// What an error of the engine means.
    fn fault_of(&self, ctx: &Ctx<'_>, error: &rquickjs::Error) -> Fault {
        if !error.is_exception() {
            // Text that cannot be UTF-8, an argument of a wrong type.
            return Fault::Invalid(error.to_string());
        }
        let thrown = ctx.catch();
        if self.budget.has_fired() {
            return Fault::TooSlow(self.limits.cpu);
        }
        if thrown.is_null() {
            return Fault::OutOfMemory(self.limits.memory);
        }
        let text = describe(&thrown);
        // What was thrown may have methods that run for ever.
        if self.budget.has_fired() {
            return Fault::TooSlow(self.limits.cpu);
        }
        match text {
            Some(text) if text.contains("out of memory") => Fault::OutOfMemory(self.limits.memory),
            Some(text) => Fault::Thrown(text),
            None => Fault::Thrown("it threw something that is no error".to_owned()),
        }
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        // The engine may have panicked in a call; its values must go before it does.
        self.state.parts.end(None);
    }
}

impl core::fmt::Debug for Realm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Realm")
            .field("program", &self.program.name)
            .finish_non_exhaustive()
    }
}

/// Longest text of an error that is kept, in characters.
const LONGEST_ERROR: usize = 500;

fn describe(thrown: &Value<'_>) -> Option<String> {
    let text = match thrown.as_object() {
        None => {
            return thrown
                .as_string()?
                .to_string()
                .ok()
                .map(|text| clean(&text));
        }
        Some(object) => {
            let part = |name: &str| {
                object
                    .get::<_, Value<'_>>(name)
                    .ok()?
                    .as_string()?
                    .to_string()
                    .ok()
            };
            let (name, message) = (part("name")?, part("message").unwrap_or_default());
            let stack = part("stack").unwrap_or_default();
            let place = stack
                .lines()
                .map(str::trim)
                .find(|line| line.starts_with("at ") && !line.contains("(built in)"));
            match place {
                Some(place) => format!("{name}: {message} {place}"),
                None => format!("{name}: {message}"),
            }
        }
    };
    Some(clean(&text))
}

/// Text from a function goes to logs: no control characters, and not too much of it.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_ERROR)
        .collect()
}

/// What `Date.now()` gives.
#[expect(
    clippy::cast_precision_loss,
    reason = "JavaScript's times are such numbers"
)]
fn milliseconds(now: SystemTime) -> f64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as f64
}
