//! One exchange on its way into a table: everything owned, nothing formatted yet.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use records::Caller;
use sdk::{FlowInfo, Headers, RequestHead};

use crate::budget::Share;

/// One exchange.
#[derive(Debug)]
pub(super) struct Row {
    /// When the head of the request was there.
    pub(super) at: SystemTime,
    /// How long the exchange took.
    pub(super) took: Duration,
    /// The flow it belongs to.
    pub(super) flow: Arc<FlowInfo>,
    /// Who has signed it for AWS.
    pub(super) caller: Option<Arc<Caller>>,
    /// What was asked.
    pub(super) request: RequestHead,
    /// What was answered; `None` when the exchange ended before there was an answer.
    pub(super) answer: Option<Answer>,
    /// The memory this row holds.
    pub(super) share: Share,
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// The reason phrase, as far as it is text.
    pub(super) reason: Option<String>,
    /// The fields.
    pub(super) headers: Headers,
}
