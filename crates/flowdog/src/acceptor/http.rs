//! `http-acceptor`: asks a web service about each flow.

use ::http::Uri;
use bytes::Bytes;
use sdk::{AcceptError, Acceptor, Decision, FlowInfo, async_trait};

use super::client::{Client, judge_status, post_json};
use super::wire_form;

/// POSTs the question as JSON to a URL and reads the answer from the response.
#[derive(Debug)]
pub(crate) struct HttpAcceptor {
    url: Uri,
    client: Client,
}

impl HttpAcceptor {
    /// For an `http` or `https` URL.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let url: Uri = url
            .parse()
            .map_err(|error| format!("is not a URL: {error}"))?;
        let client = Client::new(&url)?;
        Ok(Self { url, client })
    }
}

#[async_trait(?Send)]
impl Acceptor for HttpAcceptor {
    async fn accept(&self, flow: &FlowInfo) -> Result<Decision, AcceptError> {
        let question = Bytes::from(wire_form::question(flow));
        let reply = self
            .client
            .call(async || post_json(&self.url, &question), judge_status)
            .await
            .map_err(|error| AcceptError(error.what))?;
        wire_form::answer(&reply.body)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::tests::flow;
    use super::super::{AcceptorLink, AcceptorSettings, Desk, NoAnswer, Ruling};
    use super::*;

    fn reply(status: &str, body: &str) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    /// Answers the n-th request with the n-th reply, and every further one with the last. An empty
    /// reply closes the connection.
    async fn server(replies: Vec<Vec<u8>>, pause: Duration) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ask", listener.local_addr().unwrap());
        let served = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&served);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (replies, counter) = (replies.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    let mut buffer = [0; 4096];
                    loop {
                        let count = stream.read(&mut buffer).await.unwrap_or(0);
                        if count == 0 {
                            return;
                        }
                        seen.extend_from_slice(&buffer[..count]);
                        // The question is JSON and ends with both its objects.
                        if !seen.ends_with(b"}}") {
                            continue;
                        }
                        seen.clear();
                        let number = counter.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(pause).await;
                        let reply = &replies[number.min(replies.len() - 1)];
                        if reply.is_empty() || stream.write_all(reply).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (url, served)
    }

    async fn ask(url: &str) -> Result<Ruling, NoAnswer> {
        let desk = Desk::start().unwrap();
        let settings = AcceptorSettings {
            deadline: Duration::from_millis(600),
            ..AcceptorSettings::default()
        };
        let acceptor = Arc::new(HttpAcceptor::new(url).unwrap());
        let link = Arc::new(AcceptorLink::new("test".into(), settings, acceptor));
        let flow = flow("10.0.0.1:1000", "192.0.2.1:443");
        desk.ask(&link, flow, Duration::from_secs(5))
            .await
            .map(|answer| answer.ruling)
    }

    #[tokio::test]
    async fn a_service_accepts_and_refuses() {
        let none = Duration::ZERO;
        let (url, _) = server(vec![reply("200 OK", r#"{"Accept": true}"#)], none).await;
        assert_eq!(ask(&url).await, Ok(Ruling::Accept));
        let (url, _) = server(vec![reply("200 OK", r#"{"Accept": false}"#)], none).await;
        assert_eq!(ask(&url).await, Ok(Ruling::Verdict(sdk::Verdict::Reset)));
    }

    #[tokio::test]
    async fn threat_63_throttles_faults_and_cut_connections_are_asked_again_within_the_deadline() {
        for first in [
            reply("429 Too Many Requests", ""),
            reply("503 Service Unavailable", "<html>"),
            Vec::new(),
        ] {
            let replies = vec![first, reply("200 OK", r#"{"Accept": true}"#)];
            let (url, served) = server(replies, Duration::ZERO).await;
            assert_eq!(ask(&url).await, Ok(Ruling::Accept));
            assert_eq!(served.load(Ordering::Relaxed), 2);
        }
    }

    #[tokio::test]
    async fn threat_63_an_acceptor_that_never_works_costs_no_more_than_the_deadline() {
        let giant = format!(r#"{{"Accept": true, "pad": "{}"}}"#, "x".repeat(6_000_000));
        let refused = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            format!("http://{}/", listener.local_addr().unwrap())
        };
        let mut urls = vec![refused];
        let mut keep = Vec::new();
        for (answer, pause) in [
            (reply("429 Too Many Requests", ""), 0),
            (reply("500 Internal Server Error", "{\"Accept\": true}"), 0),
            (reply("404 Not Found", "{\"Accept\": true}"), 0),
            (reply("200 OK", "<html>"), 0),
            (reply("200 OK", &giant), 0),
            (reply("200 OK", r#"{"Accept": true}"#), 3000),
            (b"SSH-2.0-x\r\n".to_vec(), 0),
        ] {
            let (url, served) = server(vec![answer], Duration::from_millis(pause)).await;
            urls.push(url);
            keep.push(served);
        }
        for url in urls {
            let began = Instant::now();
            assert_eq!(ask(&url).await, Err(NoAnswer), "{url}");
            assert!(began.elapsed() < Duration::from_secs(2), "{url}");
        }
    }

    #[tokio::test]
    async fn connections_are_used_again() {
        let (url, served) =
            server(vec![reply("200 OK", r#"{"Accept": true}"#)], Duration::ZERO).await;
        let acceptor = HttpAcceptor::new(&url).unwrap();
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                for _ in 0..10 {
                    acceptor
                        .accept(&flow("10.0.0.1:1", "192.0.2.1:443"))
                        .await
                        .unwrap();
                }
            })
            .await;
        assert_eq!(served.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn urls_that_cannot_be_asked_are_refused() {
        for url in ["", "/path", "ftp://a/", "a b"] {
            assert!(HttpAcceptor::new(url).is_err(), "{url}");
        }
    }
}
