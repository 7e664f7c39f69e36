//! `[[interceptor]]` and `[[hook]]`: extensions made from their tables, and named by rules.

use std::collections::{BTreeMap, BTreeSet};

use sdk::{ConfigFault, HookKind, HookLink, InterceptorKind, Link, OnError};

use super::fault::Collector;
use super::read::Reader;
use super::section::{Section, list};
use super::value;

/// The extensions that rules may name, made and ready.
pub(super) struct Named<'l> {
    pub(super) links: &'l BTreeMap<String, Link>,
    pub(super) hooks: &'l BTreeMap<String, HookLink>,
}

/// The names of all extensions, faulty ones too: those are not told a second time.
pub(super) struct ExtensionNames {
    pub(super) interceptors: BTreeSet<String>,
    pub(super) hooks: BTreeSet<String>,
}

/// The names of extensions in a rule.
pub(super) fn names_in(
    section: &mut Section<'_>,
    key: &'static str,
    table: &str,
    declared: &BTreeSet<String>,
    faults: &mut Collector<'_>,
) -> Vec<String> {
    let known = if declared.is_empty() {
        format!("names of [[{table}]] tables, of which there are none")
    } else {
        list(declared.iter().map(String::as_str))
    };
    let names = section.optional_list(key, &known, faults, |v| {
        v.as_str()
            .filter(|name| declared.contains(*name))
            .map(str::to_owned)
    });
    names.unwrap_or_default()
}

impl Reader<'_> {
    pub(super) fn interceptors(
        &mut self,
        root: &mut Section<'_>,
        kinds: &[InterceptorKind],
    ) -> BTreeMap<String, Link> {
        let mut links = BTreeMap::new();
        let names: Vec<_> = kinds.iter().map(|kind| kind.name).collect();
        for mut section in root.tables("interceptor", &mut self.faults) {
            let on_error = section
                .word(
                    "on-error",
                    &[("continue", OnError::Continue), ("fail", OnError::Fail)],
                    &mut self.faults,
                )
                .unwrap_or_default();
            let taken = |name: &str| links.contains_key(name);
            let made = self.extension(
                &mut section,
                "an interceptor",
                &names,
                taken,
                |at, table| kinds.get(at).map(|kind| (kind.build)(table)),
            );
            if let Some((name, interceptor)) = made {
                links.insert(name.clone(), Link::new(name, interceptor, on_error));
            }
        }
        links
    }

    pub(super) fn hooks(
        &mut self,
        root: &mut Section<'_>,
        kinds: &[HookKind],
    ) -> BTreeMap<String, HookLink> {
        let mut links = BTreeMap::new();
        let names: Vec<_> = kinds.iter().map(|kind| kind.name).collect();
        for mut section in root.tables("hook", &mut self.faults) {
            let taken = |name: &str| links.contains_key(name);
            let made = self.extension(&mut section, "a hook", &names, taken, |at, table| {
                kinds.get(at).map(|kind| (kind.build)(table))
            });
            if let Some((name, hook)) = made {
                links.insert(name.clone(), HookLink::new(name, hook));
            }
        }
        links
    }

    /// Makes an extension from its table: `name`, `use`, and the keys of its kind.
    fn extension<T>(
        &mut self,
        section: &mut Section<'_>,
        what: &str,
        kinds: &[&'static str],
        taken: impl Fn(&str) -> bool,
        build: impl Fn(usize, &toml::Table) -> Option<Result<T, ConfigFault>>,
    ) -> Option<(String, T)> {
        let faults = &mut self.faults;
        let name = section.string("name", faults);
        let kind_name = section.string("use", faults);
        self.remember(section);
        let faults = &mut self.faults;
        if section.peek("name").is_none() {
            faults.add(
                section.offset(),
                section.name_of("name"),
                "is missing",
                Some("a name of your choice"),
            );
        }
        let all_kinds = list(kinds.iter().copied());
        let Some(written) = kind_name else {
            if section.peek("use").is_none() {
                faults.add(
                    section.offset(),
                    section.name_of("use"),
                    "is missing",
                    Some(&all_kinds),
                );
            }
            return None;
        };
        let Some(at) = kinds.iter().position(|kind| *kind == written) else {
            let mut text = format!(
                "there is no kind of {what} \"{written}\"",
                what = what.trim_start_matches("an ").trim_start_matches("a ")
            );
            if let Some(near) = value::did_you_mean(&written, kinds.iter().copied()) {
                text = format!("{text}; did you mean \"{near}\"?");
            }
            let offset = section.offset_of("use");
            faults.add(offset, section.name_of("use"), text, Some(&all_kinds));
            return None;
        };
        let made = match build(at, &section.remaining())? {
            Ok(made) => made,
            Err(fault) => {
                let key = fault.key.as_deref().unwrap_or("");
                let whole = section.name_of(if key.is_empty() { "use" } else { key });
                let offset = section.offset_of(key);
                faults.add(offset, whole, fault.message, fault.allowed.as_deref());
                return None;
            }
        };
        let name = name?;
        if taken(&name) {
            let offset = section.offset_of("name");
            let text = format!("the name \"{name}\" is taken by {what} above");
            faults.add(
                offset,
                section.name_of("name"),
                text,
                Some("a name of its own for each"),
            );
            return None;
        }
        Some((name, made))
    }
}
