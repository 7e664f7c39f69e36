//! `har`: copies exchanges as they pass.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use records::{Pump, Redaction};
use sdk::{
    ConfigFault, ConfigTable, Exchange, Filter, InterceptError, Interceptor, InterceptorKind,
    Message, MessageStep, Request, Response, Step, Subject, async_trait,
};

use crate::budget::Budget;
use crate::config::Settings;
use crate::delivery::Delivery;
use crate::files::Files;
use crate::har::Writer;
use crate::pack::{Packing, Rules};
use crate::recording::{Limits, Outlet, Recording};
use crate::store::Objects;

/// Entries that wait, at most; memory is bounded besides.
const QUEUE: usize = 100_000;
/// Entries that are packed at once. Few, and soon: they are in the processor's cache still, and an
/// archive takes less memory than they do.
const BATCH: usize = 64;
const LINGER: Duration = Duration::from_millis(100);

/// Web traffic as HAR archives.
pub const KIND: InterceptorKind = InterceptorKind {
    name: "har",
    summary: "Writes HAR archives of exchanges to a folder or an object store while they happen.",
    build: Har::build,
};

/// Records what passes, where it stands in the chain.
#[derive(Debug)]
pub struct Har {
    when: Option<Filter>,
    messages: bool,
    limits: Limits,
    budget: Arc<Budget>,
    outlet: Arc<Outlet>,
}

/// A recording of one exchange, and who makes it: several may stand in a chain.
#[derive(Debug)]
struct Mine(usize, Recording);

impl Har {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let settings = Settings::read(table)?;
        let number = OsRng.try_next_u32().map_err(|error| {
            ConfigFault::new("key", format!("there is no randomness for {{id}}: {error}"))
        })?;
        let budget = Budget::new(settings.memory);
        let writer = Arc::new(Writer {
            redaction: Redaction::new(&settings.redaction),
            is_by_host: settings.template.is_by_host(),
        });
        let rules = Rules {
            template: settings.template,
            compression: settings.compression,
            entries: settings.entries,
            every: settings.every,
            object_size: settings.object_size,
            id: format!("{number:08x}"),
        };
        let delivery = Delivery {
            files: Files::new(Objects::new(settings.place, settings.remote)),
            packing: Packing::new(rules, &budget),
            writer: Arc::clone(&writer),
        };
        let limits = records::Limits {
            items: QUEUE,
            // What entries hold is bounded by their budget already.
            bytes: settings.memory,
            batch: BATCH,
            linger: LINGER,
            ..records::Limits::default()
        };
        Ok(Arc::new(Self {
            when: settings.when,
            messages: settings.messages,
            limits: Limits {
                body: settings.body,
                part: settings.every,
            },
            budget,
            outlet: Arc::new(Outlet {
                pump: Pump::new("archive", limits, delivery),
                numbers: AtomicU64::new(0),
                writer,
            }),
        }))
    }

    /// Tells this one from others in the same chain.
    fn number(&self) -> usize {
        Arc::as_ptr(&self.outlet).addr()
    }

    fn recording<'a>(&self, exchange: &'a Exchange) -> Option<&'a Recording> {
        let all = exchange.extensions.get::<Vec<Mine>>()?;
        let mine = all.iter().find(|Mine(whose, _)| *whose == self.number());
        mine.map(|Mine(_, recording)| recording)
    }
}

#[async_trait(?Send)]
impl Interceptor for Har {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let is_meant = match &self.when {
            Some(when) if !when.needs_response() => {
                when.matches(&Subject::request(request, exchange))
            }
            _ => true,
        };
        if is_meant {
            let memory = (self.limits, &self.budget);
            let recording = Recording::begin(request, exchange, memory, &self.outlet);
            exchange.extensions.push(Mine(self.number(), recording));
        }
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let Some(recording) = self.recording(exchange) else {
            return Ok(());
        };
        let is_meant = match &self.when {
            Some(when) if when.needs_response() => {
                when.matches(&Subject::response(response, exchange))
            }
            _ => true,
        };
        if is_meant {
            recording.answer(response);
        } else {
            recording.forget();
        }
        Ok(())
    }

    async fn on_message(
        &self,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> Result<MessageStep, InterceptError> {
        if let Some(recording) = self.recording(exchange) {
            recording.message(message);
        }
        Ok(MessageStep::Forward)
    }

    fn outlets(&self) -> Vec<Arc<dyn sdk::Outlet>> {
        vec![Arc::clone(&self.outlet.pump) as _]
    }

    fn wants_messages(&self) -> bool {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::path::Path;

    use sdk::OutletStats;
    use sdk::testing::Playbook;
    use serde_json::Value;

    use super::*;

    struct Stage {
        folder: tempfile::TempDir,
        har: Arc<dyn Interceptor>,
    }

    impl Stage {
        fn new(keys: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = format!(
                "to = '{}'\ncompression = 'none'\n{keys}",
                folder.path().display()
            );
            let har = Har::build(&text.parse().unwrap()).unwrap();
            Self { folder, har }
        }

        fn play(&self) -> Playbook {
            Playbook::from_arc(Arc::clone(&self.har))
        }

        /// All entries that were written, and what was counted.
        fn end(&self) -> (Vec<Value>, OutletStats) {
            let outlet = self.har.outlets().pop().unwrap();
            assert!(outlet.finish(Duration::from_secs(60)));
            let mut entries = Vec::new();
            read(self.folder.path(), &mut entries);
            let stats = outlet.stats();
            assert_eq!(stats.written, entries.len() as u64);
            assert_eq!(stats.taken, stats.written + stats.dropped + stats.failed);
            (entries, stats)
        }
    }

    async fn ask(play: &mut Playbook, request: &str) {
        let seen = play.request(request).await.to_server();
        assert_eq!(seen, request, "nothing is changed");
    }

    fn read(folder: &Path, entries: &mut Vec<Value>) {
        for found in std::fs::read_dir(folder).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                read(&path, entries);
            } else {
                let archive: Value =
                    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                entries.extend(
                    archive["log"]["entries"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .cloned(),
                );
            }
        }
    }

    #[tokio::test]
    async fn an_exchange_is_an_entry_once_its_bodies_have_passed() {
        let stage = Stage::new("body = '5B'");
        let mut play = stage.play();
        ask(
            &mut play,
            "POST /a?b=c HTTP/1.1\nHost: h\nContent-Type: text/plain\n\nhello, world",
        )
        .await;
        play.response("HTTP/1.1 201 Made\nContent-Type: text/html\n\nhi")
            .await;
        drop(play);
        let (entries, stats) = stage.end();
        assert_eq!((stats.taken, stats.written), (1, 1));
        let (request, response) = (&entries[0]["request"], &entries[0]["response"]);
        assert_eq!(request["url"], "http://h/a?b=c");
        assert_eq!(request["postData"]["text"], "hello");
        assert_eq!(request["postData"]["_truncated"], "long");
        assert_eq!(request["bodySize"], 12);
        assert_eq!(
            (&response["status"], &response["statusText"]),
            (&201.into(), &"Made".into())
        );
        assert_eq!(response["content"]["text"], "hi");
        assert_eq!(response["content"]["mimeType"], "text/html");
    }

    #[tokio::test]
    async fn an_exchange_without_an_answer_is_an_entry_too() {
        let stage = Stage::new("");
        let mut play = stage.play();
        ask(&mut play, "GET / HTTP/1.1\nHost: h\n\n").await;
        drop(play);
        let (entries, _) = stage.end();
        assert_eq!(entries[0]["response"]["status"], 0);
        assert_eq!(entries[0]["response"]["_error"], "no answer");
    }

    #[tokio::test]
    async fn only_what_is_meant_is_archived() {
        let stage = Stage::new("when = 'status >= 500'");
        for status in ["200 OK", "503 Away"] {
            let mut play = stage.play();
            ask(&mut play, "GET / HTTP/1.1\nHost: h\n\n").await;
            play.response(&format!("HTTP/1.1 {status}\n\n")).await;
        }
        let (entries, stats) = stage.end();
        assert_eq!((entries.len(), stats.taken), (1, 1));
        assert_eq!(entries[0]["response"]["status"], 503);
    }

    #[tokio::test]
    async fn threat_34_without_memory_entries_are_dropped_and_counted() {
        let stage = Stage::new("memory = '1MiB'\nbody = '1MiB'");
        let mut plays = Vec::new();
        for _ in 0..4 {
            let mut play = stage.play();
            let body = "x".repeat(400_000);
            ask(&mut play, &format!("PUT / HTTP/1.1\nHost: h\n\n{body}")).await;
            plays.push(play);
        }
        drop(plays);
        let (entries, stats) = stage.end();
        let cut = |entry: &&Value| entry["request"]["postData"]["_truncated"] == "memory";
        assert_eq!(entries.iter().filter(cut).count(), 2, "{stats:?}");
    }

    #[tokio::test]
    async fn threat_35_a_long_conversation_is_archived_in_parts_and_nothing_of_it_is_lost() {
        let stage = Stage::new("body = '2KiB'\nmemory = '1MiB'");
        let mut play = stage.play();
        ask(&mut play, "GET / HTTP/1.1\nHost: h\n\n").await;
        play.response("HTTP/1.1 101 Switching Protocols\n\n").await;
        for number in 0..100 {
            let message = Message {
                direction: sdk::Direction::ToServer,
                payload: sdk::Payload::Text(format!("{number:0500}")),
            };
            assert_eq!(play.message(message.clone()).await, Some(message));
        }
        drop(play);
        let (entries, _) = stage.end();
        assert!(entries.len() > 20, "{}", entries.len());
        let said: Vec<u64> = entries
            .iter()
            .flat_map(|entry| entry["_webSocketMessages"].as_array().unwrap())
            .map(|message| message["data"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(said, (0..100).collect::<Vec<_>>());
        let parts: Vec<_> = entries
            .iter()
            .map(|entry| entry["_part"].as_u64())
            .collect();
        assert_eq!(parts[..3], [None, Some(1), Some(2)]);
    }

    #[tokio::test]
    async fn objects_end_at_their_number_of_entries() {
        let stage = Stage::new("entries = 2");
        for _ in 0..5 {
            let mut play = stage.play();
            ask(&mut play, "GET / HTTP/1.1\nHost: h\n\n").await;
            play.response("HTTP/1.1 204 No Content\n\n").await;
        }
        let (entries, _) = stage.end();
        assert_eq!(entries.len(), 5);
        let day = std::fs::read_dir(stage.folder.path())
            .unwrap()
            .next()
            .unwrap();
        let endpoint = std::fs::read_dir(day.unwrap().path())
            .unwrap()
            .next()
            .unwrap();
        assert_eq!(
            std::fs::read_dir(endpoint.unwrap().path()).unwrap().count(),
            3
        );
    }

    #[test]
    fn threads_begin_with_the_first_exchange_only() {
        let stage = Stage::new("");
        assert_eq!(stage.end().1, OutletStats::default());
        // A folder that cannot be made is no fault of the configuration.
        let table = "to = '/proc/nowhere'".parse().unwrap();
        assert!(Har::build(&table).is_ok());
    }
}
