//! A source file, made ready to be called.

use std::fmt::Write as _;

use crate::fault::Fault;

/// Largest source, in bytes. CloudFront allows 10 KB; there is no reason to be as strict.
pub const MAX_SOURCE: usize = 256 * 1024;

/// What a function may be called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A request from the client, before it goes on.
    ViewerRequest,
    /// A response, before it goes to the client.
    ViewerResponse,
    /// A WebSocket message, either way.
    WebSocketMessage,
    /// A flow that opens: whether it may.
    Flow,
    /// A DNS message, either way.
    Dns,
}

impl Entry {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::ViewerRequest,
        Self::ViewerResponse,
        Self::WebSocketMessage,
        Self::Flow,
        Self::Dns,
    ];

    /// `context.eventType` of its events.
    #[must_use]
    pub fn event_type(self) -> &'static str {
        match self {
            Self::ViewerRequest => "viewer-request",
            Self::ViewerResponse => "viewer-response",
            Self::WebSocketMessage => "websocket-message",
            Self::Flow => "flow",
            Self::Dns => "dns",
        }
    }

    /// The one with this `context.eventType`.
    #[must_use]
    pub fn from_event_type(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|entry| entry.event_type() == word)
    }

    /// The function of its own, which takes this event and no other.
    pub(crate) fn own_name(self) -> &'static str {
        match self {
            Self::ViewerRequest => "onRequest",
            Self::ViewerResponse => "onResponse",
            Self::WebSocketMessage => "onWebSocketMessage",
            Self::Flow => "onFlow",
            Self::Dns => "onDns",
        }
    }

    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::ViewerRequest | Self::ViewerResponse)
    }
}

/// CloudFront's function, for whichever of the two events it is attached to.
pub(crate) const HANDLER: &str = "handler";

/// A source with what is known about it.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The file's name, for stack traces.
    pub(crate) name: String,
    /// The source as it was written.
    pub(crate) source: String,
    /// The source as one expression: a function that makes a function that runs the top level and
    /// gives the handlers. Lines keep their numbers.
    pub(crate) wrapped: String,
    /// The handlers that are there.
    pub(crate) handlers: Vec<String>,
    /// Whether each call gets a realm of its own, because the top level changes the realm.
    pub(crate) own_realm: bool,
}

impl Program {
    /// Wraps a source; it has not been compiled yet.
    pub(crate) fn new(name: &str, source: &str) -> Result<Self, Fault> {
        if source.len() > MAX_SOURCE {
            return Err(Fault::Thrown(format!(
                "the source has {} bytes, allowed are {MAX_SOURCE}",
                source.len()
            )));
        }
        if source.contains('\0') {
            return Err(Fault::Thrown("the source holds a NUL".to_owned()));
        }
        let body = without_imports(source).map_err(Fault::Thrown)?;
        let mut wrapped =
            String::from("(function(require,__flowdog_import){return function(){\"use strict\";");
        wrapped.push_str(&body);
        wrapped.push_str("\nreturn{");
        let names = Entry::ALL.into_iter().map(Entry::own_name);
        for name in names.chain([HANDLER]) {
            let _ = write!(
                wrapped,
                "{name}:typeof {name}===\"function\"?{name}:undefined,"
            );
        }
        wrapped.push_str("}}})");
        Ok(Self {
            name: name.to_owned(),
            source: body,
            wrapped,
            handlers: Vec::new(),
            own_realm: false,
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.handlers.iter().any(|handler| handler == name)
    }

    /// The name of the function that takes an event.
    pub(crate) fn handler(&self, entry: Entry) -> Option<&'static str> {
        if self.has(entry.own_name()) {
            Some(entry.own_name())
        } else {
            (entry.is_http() && self.has(HANDLER)).then_some(HANDLER)
        }
    }
}

/// Replaces the imports at the top by constants, line by line. A module as CloudFront knows it does
/// not export its handler, so it cannot be run as a module.
fn without_imports(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source.strip_prefix('\u{feff}').unwrap_or(source);
    loop {
        let skipped = blank_length(rest)?;
        let (blank, code) = rest.split_at(skipped);
        out.push_str(blank);
        let is_import = code.strip_prefix("import").is_some_and(|after| {
            after.starts_with(|c: char| c.is_whitespace() || matches!(c, '{' | '*' | '\'' | '"'))
        });
        if !is_import {
            let directive = ["\"use strict\"", "'use strict'"]
                .into_iter()
                .find(|d| code.starts_with(d));
            let Some(directive) = directive else {
                out.push_str(code);
                return Ok(out);
            };
            // The wrapper is strict already.
            rest = code
                .get(directive.len()..)
                .unwrap_or_default()
                .trim_start_matches([' ', ';']);
            continue;
        }
        let (statement, after) = import(code)?;
        out.push_str(&statement);
        // A statement over several lines keeps its lines.
        let used = code.len() - after.len();
        let lines = code.get(..used).unwrap_or_default().matches('\n').count();
        out.push_str(&"\n".repeat(lines));
        rest = after;
    }
}

/// The length of white space and comments in front.
fn blank_length(text: &str) -> Result<usize, String> {
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        if let Some(comment) = trimmed.strip_prefix("//") {
            rest = comment
                .find('\n')
                .and_then(|at| comment.get(at..))
                .unwrap_or("");
        } else if let Some(comment) = trimmed.strip_prefix("/*") {
            let end = comment.find("*/").ok_or("a comment has no end")?;
            rest = comment.get(end + 2..).unwrap_or("");
        } else {
            return Ok(text.len() - trimmed.len());
        }
    }
}

/// Reads `import ... from 'module';`; gives a `const` and what follows.
fn import(code: &str) -> Result<(String, &str), String> {
    let odd = || {
        "an import has an unknown form; known are: import a from 'm', import {a, b as c} from 'm', import * as a from 'm'".to_owned()
    };
    let after = code.strip_prefix("import").ok_or_else(odd)?;
    let quote_at = after.find(['\'', '"']).ok_or_else(odd)?;
    let (bindings, quoted) = after.split_at(quote_at);
    let quote = quoted.chars().next().ok_or_else(odd)?;
    let (module, rest) = quoted
        .get(1..)
        .and_then(|text| text.split_once(quote))
        .ok_or_else(odd)?;
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'))
    };
    if !module
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '/' | '.'))
    {
        return Err(odd());
    }
    let rest = rest.strip_prefix(';').unwrap_or(rest);
    let module = module.strip_prefix("node:").unwrap_or(module);
    let bindings = bindings.trim();
    let wanted = format!("__flowdog_import(\"{module}\")");
    if bindings.is_empty() {
        return Ok((format!("{wanted};"), rest));
    }
    let bindings = bindings.strip_suffix("from").ok_or_else(odd)?.trim();
    let (default, others) = match bindings.split_once(['{', '*']) {
        None => (bindings, None),
        Some((default, _)) => (
            default.trim().trim_end_matches(',').trim(),
            bindings.get(default.len()..),
        ),
    };
    let mut statement = String::new();
    if !default.is_empty() {
        if !is_name(default) {
            return Err(odd());
        }
        let _ = write!(statement, "const {default}={wanted}.default;");
    }
    match others.map(str::trim) {
        None => {}
        Some(all) if all.starts_with('*') => {
            let name = all
                .get(1..)
                .map(str::trim)
                .and_then(|all| all.strip_prefix("as "));
            let name = name
                .map(str::trim)
                .filter(|name| is_name(name))
                .ok_or_else(odd)?;
            let _ = write!(statement, "const {name}={wanted};");
        }
        Some(list) => {
            let list = list
                .strip_prefix('{')
                .and_then(|list| list.strip_suffix('}'))
                .ok_or_else(odd)?;
            statement.push_str("const{");
            for one in list.split(',').map(str::trim).filter(|one| !one.is_empty()) {
                let (name, alias) = one
                    .split_once(" as ")
                    .map_or((one, one), |(name, alias)| (name.trim(), alias.trim()));
                if !is_name(name) || !is_name(alias) {
                    return Err(odd());
                }
                let _ = write!(statement, "{name}:{alias},");
            }
            let _ = write!(statement, "}}={wanted};");
        }
    }
    Ok((statement, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_at_the_top_become_constants_on_their_lines() {
        for (source, expected) in [
            (
                "import cf from 'cloudfront';\nlet a;",
                "const cf=__flowdog_import(\"cloudfront\").default;\nlet a;",
            ),
            (
                "// a\n/* b\n */import crypto from \"crypto\"\nx",
                "// a\n/* b\n */const crypto=__flowdog_import(\"crypto\").default;\nx",
            ),
            (
                "import {\n a as b,\n c,\n} from 'm';\nx",
                "const{a:b,c:c,}=__flowdog_import(\"m\");\n\n\n\nx",
            ),
            (
                "import * as q from 'querystring'",
                "const q=__flowdog_import(\"querystring\");",
            ),
            (
                "import d, {e} from 'm';import 'n';y",
                "const d=__flowdog_import(\"m\").default;const{e:e,}=__flowdog_import(\"m\");__flowdog_import(\"n\");y",
            ),
            (
                "'use strict';\nimport a from 'node:crypto';",
                "\nconst a=__flowdog_import(\"crypto\").default;",
            ),
            ("function important(){}", "function important(){}"),
            ("importa()", "importa()"),
        ] {
            assert_eq!(without_imports(source).as_deref(), Ok(expected));
        }
        for bad in [
            "import a from m",
            "import {a b} from 'm'",
            "import a, b from 'm'",
            "import * as 1-2 from 'm'",
            "/* no end",
            "import a from 'm",
        ] {
            assert!(without_imports(bad).is_err(), "{bad}");
        }
    }
}
