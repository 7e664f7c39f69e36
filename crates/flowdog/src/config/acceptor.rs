//! `[[acceptor]]`, and what rules say about asking one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "aws")]
use aws::{Environment, LambdaSettings, Region};
use dataplane::Verdict;
use sdk::Acceptor;

use super::Action;
use super::read::{HOUR, Reader};
use super::section::{Section, list};
#[cfg(feature = "script")]
use crate::acceptor::JavascriptAcceptor;
#[cfg(feature = "aws")]
use crate::acceptor::LambdaAcceptor;
use crate::acceptor::{AcceptorLink, AcceptorSettings, HttpAcceptor, KeyField};

/// The acceptors that were declared, by name.
pub(super) type Acceptors = BTreeMap<String, Arc<AcceptorLink>>;

/// Every kind of acceptor that this build has.
const KINDS: &[&str] = &[
    "http-acceptor",
    #[cfg(feature = "script")]
    "javascript-acceptor",
    #[cfg(feature = "aws")]
    "lambda-acceptor",
];

impl Reader<'_> {
    pub(super) fn acceptors(&mut self, root: &mut Section<'_>) -> Acceptors {
        let mut acceptors = Acceptors::new();
        for mut section in root.tables("acceptor", &mut self.faults) {
            let name = self.required(&mut section, "name", "a name of your choice");
            let kind = self.required(&mut section, "use", &list(KINDS.iter().copied()));
            let settings = self.acceptor_settings(&mut section);
            let acceptor = match kind.as_deref() {
                Some("http-acceptor") => self.http_acceptor(&mut section),
                #[cfg(feature = "script")]
                Some("javascript-acceptor") => self.javascript_acceptor(&mut section),
                #[cfg(feature = "aws")]
                Some("lambda-acceptor") => self.lambda_acceptor(&mut section),
                Some(_) => {
                    let (offset, key) = (section.offset_of("use"), section.name_of("use"));
                    let what = "there is no such kind of acceptor";
                    self.faults
                        .add(offset, key, what, Some(&list(KINDS.iter().copied())));
                    // Its own keys are not known, so they are not told to be wrong.
                    continue;
                }
                None => None,
            };
            self.close(&section);
            let (Some(name), Some(acceptor)) = (name, acceptor) else {
                continue;
            };
            if acceptors.contains_key(&name) {
                let (offset, key) = (section.offset_of("name"), section.name_of("name"));
                let what = format!("the name \"{name}\" is taken by an acceptor above");
                let allowed = Some("a name of its own for each");
                self.faults.add(offset, key, what, allowed);
                continue;
            }
            let link = AcceptorLink::new(name.clone(), settings, acceptor);
            acceptors.insert(name, Arc::new(link));
        }
        acceptors
    }

    fn required(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        allowed: &str,
    ) -> Option<String> {
        let value = section.string(key, &mut self.faults);
        if section.peek(key).is_none() {
            let (offset, name) = (section.offset(), section.name_of(key));
            self.faults.add(offset, name, "is missing", Some(allowed));
        }
        value
    }

    fn http_acceptor(&mut self, section: &mut Section<'_>) -> Option<Arc<dyn Acceptor>> {
        let url = self.required(section, "url", "an http:// or https:// URL")?;
        match HttpAcceptor::new(&url) {
            Ok(acceptor) => Some(Arc::new(acceptor)),
            Err(what) => {
                let (offset, key) = (section.offset_of("url"), section.name_of("url"));
                let allowed = Some("an http:// or https:// URL");
                self.faults.add(offset, key, what, allowed);
                None
            }
        }
    }

    #[cfg(feature = "script")]
    fn javascript_acceptor(&mut self, section: &mut Section<'_>) -> Option<Arc<dyn Acceptor>> {
        let allowed = "a file with a function onFlow";
        let file = self.required(section, "file", allowed)?;
        match JavascriptAcceptor::new(file.into(), script::Settings::default()) {
            Ok(acceptor) => Some(Arc::new(acceptor)),
            Err(what) => {
                let (offset, key) = (section.offset_of("file"), section.name_of("file"));
                self.faults.add(offset, key, what, Some(allowed));
                None
            }
        }
    }

    #[cfg(feature = "aws")]
    fn lambda_acceptor(&mut self, section: &mut Section<'_>) -> Option<Arc<dyn Acceptor>> {
        let allowed = "the name, name:alias or ARN of a Lambda function";
        let function = self.required(section, "function", allowed);
        let faults = &mut self.faults;
        let region = section.parsed(
            "region",
            "a region as \"eu-central-1\"",
            faults,
            Region::new,
        );
        let endpoint = section.string("endpoint", faults);
        let settings = LambdaSettings {
            function: function?,
            region,
            endpoint,
            environment: Environment::of_process(),
        };
        match LambdaAcceptor::new(settings) {
            Ok(acceptor) => Some(Arc::new(acceptor)),
            Err(what) => {
                let key = if what.contains("URL") {
                    "endpoint"
                } else {
                    "function"
                };
                let (offset, name) = (section.offset_of(key), section.name_of(key));
                self.faults.add(offset, name, what, Some(allowed));
                None
            }
        }
    }

    fn acceptor_settings(&mut self, section: &mut Section<'_>) -> AcceptorSettings {
        let default = AcceptorSettings::default();
        let faults = &mut self.faults;
        let millisecond = Duration::from_millis(1);
        AcceptorSettings {
            deadline: section
                .duration("deadline", 10 * millisecond, 4000 * millisecond, faults)
                .unwrap_or(default.deadline),
            ttl: section
                .duration("ttl", Duration::ZERO, HOUR, faults)
                .unwrap_or(default.ttl),
            negative_ttl: section
                .duration("negative-ttl", Duration::ZERO, HOUR, faults)
                .unwrap_or(default.negative_ttl),
            stale: section
                .duration("stale", Duration::ZERO, 24 * HOUR, faults)
                .unwrap_or(default.stale),
            cache_entries: section
                .number("cache-entries", 0, 1 << 22, faults)
                .map_or(default.cache_entries, |n| n as usize),
            cache_key: section
                .several(
                    "cache-key",
                    &list(KeyField::WORDS.iter().map(|(word, _)| *word)),
                    faults,
                    |v| KeyField::from_word(v.as_str()?),
                )
                .unwrap_or(default.cache_key),
            concurrency: section
                .number("concurrency", 1, 4096, faults)
                .map_or(default.concurrency, |n| n as usize),
            refuse: section
                .word(
                    "refuse",
                    &[("drop", Verdict::Drop), ("reset", Verdict::Reset)],
                    faults,
                )
                .unwrap_or(default.refuse),
        }
    }

    /// Whom a rule asks, and what holds when there is no answer.
    pub(super) fn asked(
        &mut self,
        section: &mut Section<'_>,
        acceptors: &Acceptors,
        root: &Section<'_>,
    ) -> (Option<Arc<AcceptorLink>>, bool) {
        let faults = &mut self.faults;
        let declared = root.declared_names("acceptor");
        let known = if declared.is_empty() {
            "names of [[acceptor]] tables, of which there are none".to_owned()
        } else {
            list(declared.iter().map(String::as_str))
        };
        let name = section.parsed("acceptor", &known, faults, |name| {
            declared.contains(name).then(|| name.to_owned())
        });
        let words = [("accept", true), ("refuse", false)];
        let accept_on_error = section.word("on-error", &words, faults);
        let asks = section
            .peek("action")
            .is_some_and(|entry| entry.value.as_str() == Some(Action::Ask.as_str()));
        if !asks {
            for key in ["acceptor", "on-error"] {
                if let Some(entry) = section.peek(key) {
                    let what = "only a rule that asks has it";
                    faults.add(entry.offset, entry.key, what, Some("action = \"ask\""));
                }
            }
            return (None, false);
        }
        if section.peek("acceptor").is_none() {
            let (offset, key) = (section.offset(), section.name_of("acceptor"));
            faults.add(offset, key, "is missing", Some(&known));
        }
        let acceptor = name.and_then(|name| acceptors.get(&name).cloned());
        (acceptor, accept_on_error.unwrap_or(false))
    }
}
