//! The only place where answers are made that neither the server nor an interceptor wrote.
//!
//! They are few, name their reason in `x-flowdog-error`, and never repeat anything that a peer sent.
//! An operator may style them with an [`ErrorPage`].

use std::collections::BTreeMap;

use http::StatusCode;
use sdk::{FieldName, HeaderValue, Response};

use crate::error::{Fault, Side};

/// The field that names the reason of an answer of flowdog's own.
pub const ERROR_FIELD: FieldName = FieldName::from_static("x-flowdog-error");

const CONTENT_TYPE: FieldName = FieldName::from_static("Content-Type");
const CONNECTION: FieldName = FieldName::from_static("Connection");

/// Why flowdog answers by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// An interceptor failed and its policy is to fail closed.
    InterceptorFailed(StatusCode),
    /// A peer sent something that is refused.
    Refused(Side, Fault),
}

impl Reason {
    /// The status of the answer (RFC 9110 §15).
    pub fn status(self) -> StatusCode {
        match self {
            Self::InterceptorFailed(status) => status,
            Self::Refused(Side::Server, _) => StatusCode::BAD_GATEWAY,
            Self::Refused(Side::Client, fault) => match fault {
                Fault::HeadTooLarge | Fault::TooManyFields => {
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                }
                Fault::SlowBody | Fault::SlowHead => StatusCode::REQUEST_TIMEOUT,
                Fault::TargetTooLong => StatusCode::URI_TOO_LONG,
                _ => StatusCode::BAD_REQUEST,
            },
        }
    }

    /// The word in `x-flowdog-error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InterceptorFailed(_) => INTERCEPTOR_FAILED,
            Self::Refused(_, fault) => fault.as_str(),
        }
    }

    /// A sentence for people.
    fn text(self) -> &'static str {
        match self {
            Self::InterceptorFailed(_) => "The request could not be processed.",
            Self::Refused(Side::Client, _) => "The request was refused.",
            Self::Refused(Side::Server, _) => "The answer of the server was refused.",
        }
    }
}

/// The word of [`Reason::InterceptorFailed`].
const INTERCEPTOR_FAILED: &str = "interceptor-failed";

/// How the answers look: HTML with `{{status}}`, `{{reason}}` and `{{text}}` in it.
///
/// Nothing else is ever put in, so a page cannot be made to repeat what a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    pieces: Vec<Piece>,
    /// What `{{text}}` is, by the word of the reason.
    texts: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Html(String),
    Reason,
    Status,
    Text,
}

impl ErrorPage {
    /// The largest template, in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// Reads a template. `texts` has HTML for `{{text}}` by the words of reasons; a sentence that says
    /// who was at fault stands for the others.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn new(template: &str, texts: BTreeMap<String, String>) -> Result<Self, String> {
        let size = template.len() + texts.values().map(String::len).sum::<usize>();
        if size > Self::MAX_BYTES {
            return Err(format!("{size} bytes are more than {}", Self::MAX_BYTES));
        }
        let is_known = |word: &str| {
            word == INTERCEPTOR_FAILED || Fault::ALL.iter().any(|fault| fault.as_str() == word)
        };
        if let Some(word) = texts.keys().find(|word| !is_known(word)) {
            return Err(format!("{word:?} is not the word of a reason"));
        }
        let mut pieces = Vec::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{{") {
            pieces.push(Piece::Html(before.to_owned()));
            let Some((name, after)) = after.split_once("}}") else {
                return Err("a {{ has no }}".to_owned());
            };
            pieces.push(match name.trim() {
                "reason" => Piece::Reason,
                "status" => Piece::Status,
                "text" => Piece::Text,
                _ => return Err(format!("{{{{{name}}}}} is not status, reason or text")),
            });
            rest = after;
        }
        pieces.push(Piece::Html(rest.to_owned()));
        Ok(Self { pieces, texts })
    }

    fn render(&self, reason: Reason) -> String {
        let word = reason.as_str();
        let text = self
            .texts
            .get(word)
            .map_or_else(|| reason.text(), String::as_str);
        let piece = |piece: &Piece| match piece {
            Piece::Html(html) => html.clone(),
            Piece::Reason => word.to_owned(),
            Piece::Status => reason.status().as_u16().to_string(),
            Piece::Text => text.to_owned(),
        };
        self.pieces.iter().map(piece).collect()
    }
}

/// Makes the answer.
pub fn answer(reason: Reason, page: Option<&ErrorPage>) -> Response {
    let mut response = match page {
        None => Response::text(reason.status(), format!("flowdog: {}\n", reason.as_str())),
        Some(page) => {
            let mut response = Response::text(reason.status(), page.render(reason));
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            response.headers.set(CONTENT_TYPE, html);
            response
        }
    };
    response
        .headers
        .append(ERROR_FIELD, HeaderValue::from_static(reason.as_str()));
    response
}

/// Makes the answer for HTTP/1, after which the connection is closed.
pub fn answer_and_close(reason: Reason, page: Option<&ErrorPage>) -> Response {
    answer(reason, page).with_header(CONNECTION, HeaderValue::from_static("close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_28_sizes_have_their_own_statuses() {
        let status = |fault| Reason::Refused(Side::Client, fault).status().as_u16();
        assert_eq!(status(Fault::HeadTooLarge), 431);
        assert_eq!(status(Fault::TooManyFields), 431);
        assert_eq!(status(Fault::TargetTooLong), 414);
        assert_eq!(status(Fault::SlowHead), 408);
        assert_eq!(status(Fault::SlowBody), 408);
        assert_eq!(status(Fault::BothFramings), 400);
        let server = Reason::Refused(Side::Server, Fault::HeadTooLarge);
        assert_eq!(server.status().as_u16(), 502);
    }
    fn page(template: &str, texts: &[(&str, &str)]) -> Result<ErrorPage, String> {
        let texts = texts
            .iter()
            .map(|(word, text)| ((*word).to_owned(), (*text).to_owned()));
        ErrorPage::new(template, texts.collect())
    }

    #[tokio::test]
    async fn a_page_has_status_reason_and_text_and_nothing_else() {
        let texts = [("head-too-large", "<b>Fewer cookies.</b>")];
        let page = page("<p>{{ status }} {{reason}}: {{text}}</p> {a}", &texts).unwrap();
        for (reason, expected) in [
            (
                Reason::Refused(Side::Client, Fault::HeadTooLarge),
                "<p>431 head-too-large: <b>Fewer cookies.</b></p> {a}",
            ),
            (
                Reason::Refused(Side::Server, Fault::Version),
                "<p>502 version: The answer of the server was refused.</p> {a}",
            ),
            (
                Reason::InterceptorFailed(StatusCode::SERVICE_UNAVAILABLE),
                "<p>503 interceptor-failed: The request could not be processed.</p> {a}",
            ),
        ] {
            let mut response = answer(reason, Some(&page));
            let content = response.body.buffer(1000).await.unwrap().data;
            assert_eq!(content, expected);
            assert_eq!(
                response.headers.get_str("x-flowdog-error"),
                Some(reason.as_str())
            );
            let kind = response.headers.get_str("content-type");
            assert_eq!(kind, Some("text/html; charset=utf-8"));
            assert_eq!(response.headers.len(), 2);
        }
    }

    #[test]
    fn faults_of_a_page_are_named() {
        for (template, texts, expected) in [
            ("a {{b", &[][..], "a {{ has no }}"),
            ("a {{url}}", &[], "{{url}} is not status, reason or text"),
            (
                "",
                &[("no-such", "")],
                "\"no-such\" is not the word of a reason",
            ),
        ] {
            assert_eq!(page(template, texts).unwrap_err(), expected);
        }
        let long = "a".repeat(ErrorPage::MAX_BYTES + 1);
        assert_eq!(
            page(&long, &[]).unwrap_err(),
            "65537 bytes are more than 65536"
        );
    }
}
