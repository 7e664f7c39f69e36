//! Who may talk to whom: the trait of extensions that decide about flows.

use core::fmt;
use core::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;

use crate::{FlowInfo, Verdict};

/// Decides what becomes of a new flow.
///
/// The flow's packets are parked meanwhile, bounded in bytes and time. Whoever runs the acceptor
/// gives it a deadline, after which the configured verdict is taken.
#[async_trait(?Send)]
pub trait Acceptor: Send + Sync + fmt::Debug {
    /// Decides about `flow`. What acceptors before this one had to say is in its `context`.
    ///
    /// # Errors
    /// [`AcceptError`] when no decision could be made; the configured verdict is taken then.
    async fn accept(&self, flow: &FlowInfo) -> Result<Decision, AcceptError>;
}

/// What an acceptor says about a flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// What becomes of the flow; `None` leaves it to the next acceptor, and at last to the rules.
    pub verdict: Option<Verdict>,
    /// Whether the flow may be opened at all, when there is no verdict: `false` refuses it in the
    /// way that the configuration says, anything else leaves it to the next acceptor and the rules.
    pub accept: Option<bool>,
    /// Why, for records; one line.
    pub reason: Option<String>,
    /// What the answer depends on, by the words of `cache-key` in the configuration, where that is
    /// not what is configured: `["source"]` is one answer for all flows of a host.
    pub same_for: Option<Vec<String>>,
    /// Put into [`FlowInfo::context`], where later acceptors, interceptors and sinks see it. A
    /// key that is there already is overwritten.
    pub context: serde_json::Map<String, serde_json::Value>,
    /// For how long the same answer may be given to the same kind of flow without asking again.
    pub valid_for: Option<Duration>,
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict: Some(verdict),
            ..Self::default()
        }
    }
}

/// An acceptor could not decide.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AcceptError(pub String);

/// Acceptors in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct Acceptors {
    acceptors: Arc<[Arc<dyn Acceptor>]>,
    on_error: Option<Verdict>,
}

impl Acceptors {
    /// `on_error` is the verdict when an acceptor fails or panics; `None` asks the next one.
    #[must_use]
    pub fn new(acceptors: Vec<Arc<dyn Acceptor>>, on_error: Option<Verdict>) -> Self {
        Self {
            acceptors: acceptors.into(),
            on_error,
        }
    }

    /// Asks one after the other until one has a verdict, and collects their context in `flow`.
    pub async fn decide(&self, flow: &mut FlowInfo) -> Option<Verdict> {
        for acceptor in self.acceptors.iter() {
            let decided = match AssertUnwindSafe(acceptor.accept(flow)).catch_unwind().await {
                Ok(Ok(decision)) => {
                    flow.context.extend(decision.context);
                    decision.verdict
                }
                Ok(Err(error)) => {
                    tracing::debug!(flow = %flow.id, ?acceptor, %error, "acceptor failed");
                    self.on_error
                }
                Err(_) => {
                    tracing::warn!(flow = %flow.id, ?acceptor, "acceptor panicked");
                    self.on_error
                }
            };
            if decided.is_some() {
                return decided;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::flow;

    #[derive(Debug)]
    enum Says {
        Nothing(&'static str),
        Verdict(Verdict),
        IfTold(&'static str, Verdict),
        Fails,
        Panics,
    }

    #[async_trait(?Send)]
    impl Acceptor for Says {
        async fn accept(&self, flow: &FlowInfo) -> Result<Decision, AcceptError> {
            match self {
                Self::Nothing(key) => {
                    let context = [((*key).to_owned(), true.into())].into_iter().collect();
                    Ok(Decision {
                        context,
                        ..Decision::default()
                    })
                }
                Self::Verdict(verdict) => Ok((*verdict).into()),
                Self::IfTold(key, verdict) => Ok(Decision {
                    verdict: flow.context.contains_key(*key).then_some(*verdict),
                    ..Decision::default()
                }),
                Self::Fails => Err(AcceptError("no answer".into())),
                Self::Panics => panic!("a bug"),
            }
        }
    }

    async fn decide(says: Vec<Says>, on_error: Option<Verdict>) -> Option<Verdict> {
        let acceptors = says
            .into_iter()
            .map(|says| Arc::new(says) as Arc<dyn Acceptor>)
            .collect();
        Acceptors::new(acceptors, on_error)
            .decide(&mut flow())
            .await
    }

    #[tokio::test]
    async fn the_first_verdict_counts_and_context_is_handed_on() {
        use Says::{IfTold, Nothing};
        assert_eq!(decide(vec![], Some(Verdict::Drop)).await, None);
        let says = vec![
            Nothing("tag"),
            Says::Verdict(Verdict::Reset),
            Says::Verdict(Verdict::Pass),
        ];
        assert_eq!(decide(says, None).await, Some(Verdict::Reset));
        let says = vec![
            IfTold("tag", Verdict::Drop),
            Nothing("tag"),
            IfTold("tag", Verdict::Pass),
        ];
        assert_eq!(decide(says, None).await, Some(Verdict::Pass));
    }

    #[tokio::test]
    async fn a_failing_acceptor_gives_the_configured_verdict_or_the_word_to_the_next() {
        for bad in [|| Says::Fails, || Says::Panics] {
            let says = || vec![bad(), Says::Verdict(Verdict::Pass)];
            assert_eq!(
                decide(says(), Some(Verdict::Drop)).await,
                Some(Verdict::Drop)
            );
            assert_eq!(decide(says(), None).await, Some(Verdict::Pass));
        }
    }
}
