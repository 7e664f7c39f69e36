//! `javascript-acceptor`: asks the `onFlow` of a function in JavaScript about each flow.

use std::path::PathBuf;
use std::time::SystemTime;

use script::{Call, Entry, Function, Settings};
use sdk::{AcceptError, Acceptor, Decision, FlowInfo, async_trait};

use super::wire_form;

/// Calls a function, on the threads for scripts, and reads what it returns.
#[derive(Debug)]
pub(crate) struct JavascriptAcceptor {
    function: Function,
}

impl JavascriptAcceptor {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(file: PathBuf, settings: Settings) -> Result<Self, String> {
        let function = Function::load(file, settings).map_err(|error| error.to_string())?;
        if !function.handles(Entry::Flow) {
            return Err("the file has no function onFlow".to_owned());
        }
        Ok(Self { function })
    }
}

#[async_trait(?Send)]
impl Acceptor for JavascriptAcceptor {
    async fn accept(&self, flow: &FlowInfo) -> Result<Decision, AcceptError> {
        let question = String::from_utf8(wire_form::question(flow))
            .map_err(|_| AcceptError("the question is no text".into()))?;
        // The same question as to other acceptors, and what every event has.
        let event = question.replacen(
            '{',
            "{\"version\":\"1.0\",\"context\":{\"eventType\":\"flow\"},",
            1,
        );
        let done = self
            .function
            .call(Call::new(Entry::Flow, event, SystemTime::now()))
            .await;
        for line in &done.log {
            tracing::debug!(target: "script", flow = %flow.id, line, "console.log");
        }
        if let Some(fault) = done.fault() {
            return Err(AcceptError(fault.to_string()));
        }
        match done.json.as_deref() {
            None => Err(AcceptError("onFlow returned nothing".into())),
            Some("true") => Ok(accepted(true)),
            Some("false") => Ok(accepted(false)),
            Some(answer) => wire_form::answer(answer.as_bytes()),
        }
    }
}

fn accepted(accept: bool) -> Decision {
    Decision {
        accept: Some(accept),
        ..Decision::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use script::Limits;

    use super::super::tests::flow;
    use super::*;

    fn acceptor(source: &str) -> Result<JavascriptAcceptor, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("accept.js");
        std::fs::write(&file, source).unwrap();
        let limits = Limits {
            cpu: Duration::from_millis(200),
            ..Limits::default()
        };
        let settings = Settings {
            limits,
            ..Settings::default()
        };
        // The folder may go: the source is read.
        JavascriptAcceptor::new(file, settings)
    }

    #[tokio::test]
    async fn a_function_accepts_refuses_and_says_more() {
        let acceptor = acceptor(
            "function onFlow(event) {\n\
             if (event.Destination.Port === 25) return false;\n\
             if (event.Destination.Port === 22) return {action: 'drop', reason: 'no ' + event.context.eventType, context: {team: 'blue'}, ttl: 5};\n\
             if (event.Destination.Port === 1) return {};\n\
             if (event.Destination.Port === 2) return;\n\
             if (event.Destination.Port === 3) throw new Error('three');\n\
             return event.Source.IpAddress.startsWith('10.') && event.GeneveOptions.VpcEndpointId.startsWith('vpce-'); }",
        )
        .unwrap();
        let ask = async |port: u16| {
            acceptor
                .accept(&flow("10.0.0.5:1234", &format!("192.0.2.1:{port}")))
                .await
        };
        assert_eq!(ask(443).await.unwrap().accept, Some(true));
        assert_eq!(ask(25).await.unwrap().accept, Some(false));
        let rich = ask(22).await.unwrap();
        assert_eq!(rich.verdict, Some(sdk::Verdict::Drop));
        assert_eq!(rich.reason.as_deref(), Some("no flow"));
        assert_eq!(rich.valid_for, Some(Duration::from_secs(5)));
        for (port, expected) in [
            (1, "neither"),
            (2, "nothing"),
            (3, "Error: three at onFlow (accept.js:6:"),
        ] {
            let error = ask(port).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{port}: {error}");
        }
    }

    #[test]
    fn a_file_without_on_flow_is_refused() {
        let error = acceptor("function handler(event) { return event.request }").unwrap_err();
        assert!(error.contains("onFlow"), "{error}");
        assert!(acceptor("function onFlow( {").is_err());
    }
}
