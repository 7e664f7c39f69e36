//! `lambda-acceptor`: asks a Lambda function about each flow.

use std::sync::{Arc, Mutex};

use ::http::Uri;
use aws::{LambdaFunction, LambdaSettings};
use bytes::Bytes;
use sdk::{AcceptError, Acceptor, Decision, FlowInfo, async_trait};

use super::client::{CallError, Client, Reply, judge_status};
use super::{lock, wire_form};

/// Invokes the function with the question as its event and reads the answer from its result.
#[derive(Debug)]
pub(crate) struct LambdaAcceptor {
    function: LambdaFunction,
    /// Made with the first question: the endpoint may depend on a region that has to be asked for.
    client: Mutex<Option<(Uri, Arc<Client>)>>,
}

impl LambdaAcceptor {
    /// For a function; nothing is sent yet.
    ///
    /// # Errors
    /// What is wrong with the function's name or endpoint.
    pub(crate) fn new(settings: LambdaSettings) -> Result<Self, String> {
        Ok(Self {
            function: LambdaFunction::new(settings).map_err(|error| error.to_string())?,
            client: Mutex::default(),
        })
    }

    fn client(&self, endpoint: &Uri) -> Result<Arc<Client>, AcceptError> {
        let mut kept = lock(&self.client);
        if let Some((known, client)) = &*kept
            && known == endpoint
        {
            return Ok(Arc::clone(client));
        }
        let client = Client::new(endpoint)
            .map(Arc::new)
            .map_err(|what| AcceptError(format!("{endpoint} {what}")))?;
        *kept = Some((endpoint.clone(), Arc::clone(&client)));
        Ok(client)
    }
}

#[async_trait(?Send)]
impl Acceptor for LambdaAcceptor {
    async fn accept(&self, flow: &FlowInfo) -> Result<Decision, AcceptError> {
        let question = Bytes::from(wire_form::question(flow));
        let first = self.function.invocation(question.clone()).await;
        let (endpoint, _) = first.map_err(|error| AcceptError(error.to_string()))?;
        // A signature has a time in it, so each attempt has its own.
        let sign = async || {
            let signed = self.function.invocation(question.clone()).await;
            signed
                .map(|(_, request)| request)
                .map_err(CallError::lasting)
        };
        let reply = self
            .client(&endpoint)?
            .call(sign, judge)
            .await
            .map_err(|error| AcceptError(error.what))?;
        wire_form::answer(&reply.body)
    }
}

/// A function that failed answers with success and says so in a header; asking it again is for its
/// owner to decide.
fn judge(reply: &Reply) -> Result<(), CallError> {
    judge_status(reply)?;
    if reply.headers.contains_key("x-amz-function-error") {
        return Err(CallError::lasting("the function failed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::tests::flow;
    use super::*;

    /// Answers one request after the other, and keeps what it was asked.
    async fn service(replies: &'static [&'static str]) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for reply in replies {
                let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
                while !seen.ends_with(b"}}") {
                    let count = stream.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        return;
                    }
                    seen.extend_from_slice(&buffer[..count]);
                }
                lock(&kept).push(String::from_utf8_lossy(&seen).into_owned());
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        (url, asked)
    }

    async fn ask(url: &str) -> Result<Decision, AcceptError> {
        let acceptor = LambdaAcceptor::new(LambdaSettings {
            function: "gate:live".to_owned(),
            region: aws::Region::new("eu-west-1"),
            endpoint: Some(url.to_owned()),
            environment: aws::Environment::of(&[
                ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
                ("AWS_SECRET_ACCESS_KEY", "planted-secret"),
            ]),
        });
        let (acceptor, flow) = (acceptor.unwrap(), flow("10.0.0.1:1", "192.0.2.1:443"));
        let local = tokio::task::LocalSet::new();
        let asked = tokio::time::timeout(Duration::from_secs(5), acceptor.accept(&flow));
        local.run_until(asked).await.unwrap()
    }

    #[tokio::test]
    async fn a_function_is_invoked_by_a_signed_request_and_again_after_a_throttle() {
        let (url, asked) = service(&[
            "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"Accept\": true}",
        ])
        .await;
        assert_eq!(ask(&url).await.unwrap().accept, Some(true));
        let asked = lock(&asked).clone();
        assert_eq!(asked.len(), 2, "{asked:?}");
        for request in asked {
            assert!(
                request.starts_with("POST /2015-03-31/functions/gate%3Alive/invocations HTTP/1.1"),
                "{request}"
            );
            assert!(request.contains("Credential=AKIDEXAMPLE/"), "{request}");
            assert!(
                request.contains("/eu-west-1/lambda/aws4_request"),
                "{request}"
            );
            assert!(!request.contains("planted-secret"));
        }
    }

    #[tokio::test]
    async fn threat_63_a_function_that_fails_has_not_accepted() {
        let (url, asked) = service(&[
            "HTTP/1.1 200 OK\r\nX-Amz-Function-Error: Unhandled\r\nContent-Length: 16\r\n\r\n{\"Accept\": true}",
        ])
        .await;
        assert_eq!(ask(&url).await.unwrap_err().0, "the function failed");
        assert_eq!(lock(&asked).len(), 1);
    }
}
