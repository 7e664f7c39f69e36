//! `sts-rickroll`: answers the question "who am I?" with a song.
//!
//! The AWS Security Token Service answers `GetCallerIdentity` with the caller's user id. This
//! interceptor puts another text in its place: a harmless and visible proof that answers inside
//! TLS can be rewritten.

use std::sync::Arc;

use sdk::{
    ByteSize, ConfigFault, ConfigTable, ContentError, ContentLimits, Exchange, InterceptError,
    Interceptor, InterceptorKind, Response, StatusCode, async_trait, from_table,
};
use serde::Deserialize;

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "sts-rickroll",
    summary: "Puts another user id into the answers of the AWS STS operation GetCallerIdentity.",
    build: StsRickroll::build,
};

/// Rewrites `UserId` in answers to `GetCallerIdentity`; touches nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct StsRickroll {
    /// Hosts whose answers are looked at; `*` stands for one label. Default: the public endpoints
    /// of STS, and `sts.lab.name` with its regions.
    hosts: Vec<String>,
    /// The new user id. Default: a link to the video.
    user_id: String,
    /// Answers with more bytes than this, encoded or decoded, pass unmodified. Default: 256KiB;
    /// a real answer has about 500 bytes.
    max_body: ByteSize,
}

impl Default for StsRickroll {
    fn default() -> Self {
        let hosts = [
            "sts.amazonaws.com",
            "sts.*.amazonaws.com",
            "sts.*.amazonaws.com.cn",
            "sts-fips.*.amazonaws.com",
            "sts.*.api.aws",
            "*.sts.*.vpce.amazonaws.com",
            "sts.lab.name",
            "sts.*.lab.name",
        ];
        Self {
            hosts: hosts.map(str::to_owned).to_vec(),
            user_id: "https://www.youtube.com/watch?v=dQw4w9WgXcQ".to_owned(),
            max_body: ByteSize(256 << 10),
        }
    }
}

impl StsRickroll {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Self = from_table(table)?;
        for (at, pattern) in config.hosts.iter().enumerate() {
            let good = |label: &str| {
                label == "*" || (!label.is_empty() && label.bytes().all(is_host_byte))
            };
            if !pattern.split('.').all(good) {
                return Err(ConfigFault::new(format!("hosts[{at}]"), format!("{pattern:?} is not a host pattern"))
                    .allowed("labels of letters, digits and hyphens with dots between them; * for one whole label"));
            }
        }
        if let Some(bad) = config.user_id.chars().find(|c| c.is_control()) {
            return Err(ConfigFault::new(
                "user-id",
                format!("holds the control character {bad:?}"),
            )
            .allowed("printable text"));
        }
        if config.max_body.0 == 0 || config.max_body.0 > 16 << 20 {
            return Err(ConfigFault::new(
                "max-body",
                format!("{} is out of range", config.max_body),
            )
            .allowed("1B to 16MiB"));
        }
        Ok(Arc::new(config))
    }

    fn is_sts(&self, exchange: &Exchange) -> bool {
        let name = exchange
            .flow
            .tls
            .as_ref()
            .and_then(|tls| tls.server_name.as_deref());
        let Some(host) = exchange.request.host().or(name) else {
            return false;
        };
        self.hosts.iter().any(|pattern| host_matches(pattern, host))
    }
}

const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Label by label, without regard to case; a dot at the end of the host does not matter.
fn host_matches(pattern: &str, host: &str) -> bool {
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let same = pattern.split('.').all(|want| {
        labels.next().is_some_and(|label| {
            (want == "*" && !label.is_empty()) || want.eq_ignore_ascii_case(label)
        })
    });
    same && labels.next().is_none()
}

#[async_trait(?Send)]
impl Interceptor for StsRickroll {
    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        if response.status != StatusCode::OK || !self.is_sts(exchange) {
            return Ok(());
        }
        let limits = ContentLimits {
            encoded: self.max_body.0,
            decoded: self.max_body.0,
            ..ContentLimits::default()
        };
        let content = match response.content(&limits).await {
            Ok(content) => content,
            // The body is intact and passes as it came; if it is broken, the client will see that.
            Err(error) => {
                exchange.note(match error {
                    ContentError::TooLarge { .. } => "body-too-large",
                    ContentError::UnknownCoding(_) => "coding-unknown",
                    ContentError::Partial => "body-partial",
                    _ => "body-broken",
                });
                return Ok(());
            }
        };
        if let Some(text) = content.text().and_then(|text| rewrite(text, &self.user_id)) {
            response.set_content(text, content.coding);
            exchange.note("rewritten");
        }
        Ok(())
    }
}

/// The answer with another user id, or `None` when it is not an answer to `GetCallerIdentity`.
fn rewrite(text: &str, user_id: &str) -> Option<String> {
    let (start, end, new) = match text
        .trim_start_matches('\u{feff}')
        .trim_start()
        .chars()
        .next()?
    {
        '<' => {
            let (start, end) = xml_user_id(text)?;
            (start, end, xml_text(user_id))
        }
        '{' => {
            let (start, end) = json_user_id(text)?;
            (start, end, serde_json::to_string(user_id).ok()?)
        }
        _ => return None,
    };
    Some([text.get(..start)?, &new, text.get(end..)?].concat())
}

/// Where the text of `<UserId>` begins and ends.
fn xml_user_id(text: &str) -> Option<(usize, usize)> {
    let result = find(text, "<GetCallerIdentityResult", 0)?;
    let result_end = find(text, "</GetCallerIdentityResult>", result)?;
    let start = find(text, "<UserId>", result)? + "<UserId>".len();
    let end = find(text, "</UserId>", start)?;
    (end < result_end).then_some((start, end))
}

/// Where the value of `"UserId"`, quotes included, begins and ends.
fn json_user_id(text: &str) -> Option<(usize, usize)> {
    let result = find(text, "\"GetCallerIdentityResult\"", 0)?;
    let key = find(text, "\"UserId\"", result)? + "\"UserId\"".len();
    let bytes = text.as_bytes();
    let blanks = |from: usize| {
        bytes
            .iter()
            .skip(from)
            .take_while(|b| b.is_ascii_whitespace())
            .count()
    };
    let colon = key + blanks(key);
    if bytes.get(colon) != Some(&b':') {
        return None;
    }
    let start = colon + 1 + blanks(colon + 1);
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate().skip(start + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((start, at + 1)),
            _ => {}
        }
    }
    None
}

fn find(text: &str, what: &str, from: usize) -> Option<usize> {
    Some(from + text.get(from..)?.find(what)?)
}

/// Text as XML writes it.
fn xml_text(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use sdk::testing::{Playbook, response};
    use sdk::{Body, BodyError, Coding, Frame};

    use super::*;

    const LINK: &str = "https://www.youtube.com/watch?v=dQw4w9WgXcQ";

    fn play(config: &str) -> Playbook {
        Playbook::from_arc(StsRickroll::build(&config.parse().unwrap()).unwrap())
    }

    fn xml(user_id: &str) -> String {
        format!(
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  \
             <GetCallerIdentityResult>\n    <Arn>arn:aws:iam::123456789012:user/Alice</Arn>\n    \
             <UserId>{user_id}</UserId>\n    <Account>123456789012</Account>\n  </GetCallerIdentityResult>\n  \
             <ResponseMetadata>\n    <RequestId>01234567-89ab</RequestId>\n  </ResponseMetadata>\n\
             </GetCallerIdentityResponse>\n"
        )
    }

    fn ok(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\nContent-Type: text/xml\nContent-Length: {}\n\n{body}",
            body.len()
        )
    }

    async fn ask(play: &mut Playbook, host: &str) {
        let request =
            format!("POST / HTTP/1.1\nHost: {host}\n\nAction=GetCallerIdentity&Version=2011-06-15");
        assert_eq!(play.request(&request).await.to_server(), request);
    }

    #[tokio::test]
    async fn the_user_id_becomes_a_link_and_the_length_is_right() {
        let mut play = play("");
        ask(&mut play, "sts.amazonaws.com").await;
        assert_eq!(
            play.response(&ok(&xml("AIDAEXAMPLE"))).await,
            ok(&xml(LINK))
        );
        assert_eq!(play.stats().notes.get("rewritten"), Some(&1));
    }

    #[tokio::test]
    async fn gzip_goes_in_and_out() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let mut play = play("");
            ask(&mut play, "sts.eu-west-1.amazonaws.com:443").await;
            let mut answer = response("HTTP/1.1 200 OK\nContent-Type: text/xml\n\n");
            answer.set_content(xml("AIDAEXAMPLE"), coding);
            let mut answer = play.answer(answer).await.unwrap();
            let content = answer.content(&ContentLimits::default()).await.unwrap();
            assert_eq!(
                (content.text(), content.coding),
                (Some(xml(LINK).as_str()), coding)
            );
            let length: u64 = answer
                .headers
                .get_str("content-length")
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(answer.body.known_length(), Some(length));
        }
    }

    #[tokio::test]
    async fn a_streamed_body_in_pieces_is_put_together() {
        let mut play = play("");
        ask(&mut play, "sts.amazonaws.com").await;
        let mut answer = response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n");
        answer.body = pieces(&xml("AIDAEXAMPLE"), 7);
        let answer = play.answer(answer).await.unwrap();
        assert!(!answer.headers.contains("transfer-encoding"));
        assert_eq!(
            answer.headers.get_str("content-length"),
            Some(xml(LINK).len().to_string().as_str())
        );
        assert!(
            sdk::testing::print_response(answer)
                .await
                .ends_with(&xml(LINK))
        );
    }

    /// A body of unknown length in pieces of `size` bytes.
    fn pieces(text: &str, size: usize) -> Body {
        let mut frames: Vec<_> = text
            .as_bytes()
            .chunks(size)
            .map(|piece| Frame::Data(piece.to_vec().into()))
            .collect();
        frames.reverse();
        Body::stream(None, PopStream(frames.into_iter().map(Ok).collect()))
    }

    struct PopStream(Vec<Result<Frame, BodyError>>);

    impl sdk::Stream for PopStream {
        type Item = Result<Frame, BodyError>;
        fn poll_next(
            mut self: core::pin::Pin<&mut Self>,
            _: &mut core::task::Context<'_>,
        ) -> core::task::Poll<Option<Self::Item>> {
            core::task::Poll::Ready(self.0.pop())
        }
    }

    #[tokio::test]
    async fn json_answers_are_rewritten_too() {
        let json = |user_id: &str| {
            format!(
                r#"{{"GetCallerIdentityResponse":{{"GetCallerIdentityResult":{{"Account":"1","Arn":"a","UserId" : "{user_id}"}},"ResponseMetadata":{{}}}}}}"#
            )
        };
        let mut play = play(r#"user-id = 'a"b\c'"#);
        ask(&mut play, "sts.lab.name").await;
        assert_eq!(
            play.response(&ok(&json(r#"A\"B\\"#))).await,
            ok(&json(r#"a\"b\\c"#))
        );
    }

    #[tokio::test]
    async fn the_new_id_is_escaped_in_xml() {
        let mut play = play(r#"user-id = "<&>""#);
        ask(&mut play, "sts.us-east-1.lab.name").await;
        assert_eq!(
            play.response(&ok(&xml("A"))).await,
            ok(&xml("&lt;&amp;&gt;"))
        );
    }

    #[tokio::test]
    async fn other_answers_are_not_touched() {
        let assume_role = "<AssumeRoleResponse><AssumeRoleResult><UserId>A</UserId></AssumeRoleResult></AssumeRoleResponse>";
        let outside = "<GetCallerIdentityResult></GetCallerIdentityResult><UserId>A</UserId>";
        let id_is_number = r#"{"GetCallerIdentityResult":{"UserId":7}}"#;
        let id_never_ends = r#"{"GetCallerIdentityResult":{"UserId":"A\"#;
        for body in [
            assume_role,
            outside,
            id_is_number,
            id_never_ends,
            "",
            "   ",
            "plain",
            "<UserId>A</UserId>",
            "\u{e9}",
        ] {
            let mut play = play("");
            ask(&mut play, "sts.amazonaws.com").await;
            assert_eq!(play.response(&ok(body)).await, ok(body));
        }
        let mut play = play("");
        ask(&mut play, "sts.amazonaws.com").await;
        let denied = format!("HTTP/1.1 403 Forbidden\n\n{}", xml("A"));
        assert_eq!(play.response(&denied).await, denied);
    }

    #[tokio::test]
    async fn other_hosts_are_not_touched() {
        for host in [
            "example.com",
            "sts.amazonaws.com.evil.example",
            "xsts.amazonaws.com",
            "sts..amazonaws.com",
            "sts.a.b.amazonaws.com",
        ] {
            let mut play = play("");
            ask(&mut play, host).await;
            assert_eq!(play.response(&ok(&xml("A"))).await, ok(&xml("A")), "{host}");
        }
        let mut play = play(r#"hosts = ["*.example"]"#);
        ask(&mut play, "STS.Example.").await;
        assert_eq!(play.response(&ok(&xml("A"))).await, ok(&xml(LINK)));
    }

    #[tokio::test]
    async fn threat_29_a_body_over_the_limit_passes_unmodified_and_is_counted() {
        let padded = format!("{}<!-- {} -->", xml("A"), "x".repeat(2000));
        for encoded in [false, true] {
            let mut play = play(r#"max-body = "2KiB""#);
            ask(&mut play, "sts.amazonaws.com").await;
            let mut answer = response("HTTP/1.1 200 OK\n\n");
            if encoded {
                answer.set_content(padded.clone(), Coding::Gzip);
            } else {
                answer.body = pieces(&padded, 100);
            }
            let mut answer = play.answer(answer).await.unwrap();
            let content = answer.content(&ContentLimits::default()).await.unwrap();
            assert_eq!(content.text(), Some(padded.as_str()));
            assert_eq!(play.stats().notes.get("body-too-large"), Some(&1));
            assert_eq!(play.stats().notes.get("rewritten"), None);
        }
    }

    #[tokio::test]
    async fn an_unknown_coding_or_a_broken_body_passes_as_it_came() {
        for (encoding, body, note) in [
            ("compress", "??", "coding-unknown"),
            ("gzip", "no gzip", "body-broken"),
        ] {
            let mut play = play("");
            ask(&mut play, "sts.amazonaws.com").await;
            let answer = format!("HTTP/1.1 200 OK\nContent-Encoding: {encoding}\n\n{body}");
            assert_eq!(play.response(&answer).await, answer);
            assert_eq!(play.stats().notes.get(note), Some(&1), "{note}");
        }
    }

    #[test]
    fn a_damaged_answer_is_rewritten_in_the_id_alone_or_not_at_all() {
        let json = r#"{"GetCallerIdentityResponse":{"GetCallerIdentityResult":{"UserId":"A\"1","Account":"1"}}}"#;
        for whole in [xml("AIDA1"), json.to_owned()] {
            assert!(rewrite(&whole, "new").is_some());
            for at in 0..whole.len() {
                let mut damaged = whole.clone().into_bytes();
                for texts in [whole.as_bytes()[..at].to_vec(), {
                    damaged[at] ^= 0x15;
                    damaged
                }] {
                    let Ok(text) = core::str::from_utf8(&texts) else {
                        continue;
                    };
                    let Some(new) = rewrite(text, "new") else {
                        continue;
                    };
                    let same = |a: &str, b: &str| {
                        a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
                    };
                    let reversed = |text: &str| text.chars().rev().collect::<String>();
                    let kept = same(text, &new) + same(&reversed(text), &reversed(&new));
                    assert!(
                        kept + 12 >= text.len() && new.contains("new"),
                        "{text}\n{new}"
                    );
                }
            }
        }
    }

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, expected) in [
            (
                r#"hosts = ["a", "sts*.x"]"#,
                "hosts[1]: \"sts*.x\" is not a host pattern; allowed: labels of",
            ),
            (
                r#"hosts = ["a..b"]"#,
                "hosts[0]: \"a..b\" is not a host pattern",
            ),
            (
                r#"hosts = "a""#,
                "hosts: invalid type: string \"a\"; allowed: a sequence",
            ),
            (
                r#"user-id = "a\nb""#,
                "user-id: holds the control character '\\n'; allowed: printable text",
            ),
            (
                r#"max-body = 5"#,
                "max-body: invalid type: integer \"5\"; allowed: a size with its unit",
            ),
            (
                r#"max-body = "5""#,
                "max-body: \"5\" is not a size; allowed: a whole number and a unit",
            ),
            (
                r#"max-body = "1GiB""#,
                "max-body: 1GiB is out of range; allowed: 1B to 16MiB",
            ),
            (
                r#"userid = "a""#,
                "userid: unknown key; allowed: hosts, user-id, max-body",
            ),
        ] {
            let fault = StsRickroll::build(&config.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(fault.starts_with(expected), "{config}\n  {fault}");
        }
    }
}
