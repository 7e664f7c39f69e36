//! Which flows are followed from clear text to TLS.

use proxy::starttls::StartTlsSet;

use super::{Facts, TCP};
use crate::config::{Action, Config};

/// The protocols in which a flow may change to TLS and then be intercepted: those of every rule that may
/// still decide about it. Which one does is known with the ClientHello.
pub(crate) fn followed(config: &Config, facts: &Facts) -> StartTlsSet {
    let none = StartTlsSet::default();
    if facts.protocol != TCP || config.tls.impersonator.is_none() || !config.rules.follow_starttls()
    {
        return none;
    }
    let mut all = none;
    for number in config.rules.index().of_flow(facts) {
        let Some(rule) = config.rules.get(number) else {
            continue;
        };
        all = all.union(rule.starttls);
        if !rule.needs_first_bytes() && rule.action != Action::Ask {
            break;
        }
    }
    all
}
