//! Functions on exchanges, without sockets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod events;
mod language;
mod samples;
mod sandbox;
mod values;

use std::path::PathBuf;
use std::sync::Arc;

use sdk::testing::Playbook;
use sdk::{ConfigFault, Interceptor};
use tempfile::TempDir;

/// A function in a file of its own.
pub(crate) struct Script {
    folder: TempDir,
}

impl Script {
    pub(crate) fn new(source: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("function.js"), source).unwrap();
        Self { folder }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("function.js")
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The interceptor. Tests run unoptimised and many at once, so the budget is larger than usual.
    pub(crate) fn build(&self, config: &str) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let budget = if config.contains("cpu =") {
            ""
        } else {
            "cpu = '200ms'\n"
        };
        let table = format!("file = {:?}\n{budget}{config}", self.file());
        (flowdog_script::KIND.build)(&table.parse().unwrap())
    }

    pub(crate) fn play(&self, config: &str) -> Playbook {
        Playbook::from_arc(self.build(config).unwrap())
    }
}

/// A playbook of a function, with the folder that must outlive it.
pub(crate) fn play(source: &str, config: &str) -> (Playbook, Script) {
    let script = Script::new(source);
    (script.play(config), script)
}

pub(crate) const GET: &str = "GET / HTTP/1.1\nHost: a.example\n\n";

/// Runs the body of a handler, and gives what it returned, as text in a header.
pub(crate) async fn value_of(top: &str, body: &str) -> String {
    let source = format!(
        "{top}\nasync function handler(event) {{ const f = async () => {{ {body} }}; const v = await f();\n\
         event.request.headers['x-value'] = {{value: typeof v === 'string' ? v : JSON.stringify(v) || 'undefined'}}; return event.request; }}"
    );
    let script = Script::new(&source);
    let kvs = script.write("kvs.json", r#"{"plain": "text", "json": "{\"a\":[1]}"}"#);
    let mut play = script.play(&format!("kvs = [{{id = 'one', file = {kvs:?}}}]"));
    let sent = match play.request(GET).await {
        sdk::testing::Seen::ToServer(sent) => sent,
        other => return format!("{other:?}"),
    };
    let line = sent.lines().find_map(|line| line.strip_prefix("X-Value: "));
    line.unwrap_or(&sent).to_owned()
}
