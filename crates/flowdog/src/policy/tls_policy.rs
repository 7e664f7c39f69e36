//! What a rule says about TLS beyond "intercept": at work, and in words.

use std::fmt;

use proxy::starttls::StartTls;
use serde_json::{Value, json};

use super::{Decision, PassReason, Protocols};
use crate::config::{Config, Ech, Rule};

/// What a rule's `ech` and `old-tls` make of a decision about a ClientHello. What is refused is taken over,
/// so that it is refused in the words of TLS.
pub(crate) fn with_tls_policy(decision: Decision, rule: Option<&Rule>, has_ech: bool) -> Decision {
    let refuses_old = rule.is_some_and(|rule| rule.refuse_old_tls);
    let ech = rule.filter(|_| has_ech).map_or(Ech::Intercept, |r| r.ech);
    let tls = Decision::Intercept(Protocols::Tls);
    match (decision, ech) {
        (Decision::Pass(PassReason::UnsupportedHello), Ech::Refuse) => tls,
        (Decision::Pass(PassReason::UnsupportedHello), _) if refuses_old => tls,
        (decision, Ech::Pass) if decision == tls => Decision::Pass(PassReason::EncryptedHello),
        (other, _) => other,
    }
}

/// What a question says of a client that speaks TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientTls {
    /// Its hello carries Encrypted ClientHello, in earnest or as a decoy.
    pub ech: bool,
    /// It offers nothing that can be intercepted: neither TLS 1.2 nor 1.3, or no safe cipher suite.
    pub old: bool,
    /// The protocol that began in clear and changed to TLS.
    pub via: Option<StartTls>,
}

impl ClientTls {
    /// Whether this tells that the client speaks TLS.
    pub(crate) fn says_tls(self) -> bool {
        self.ech || self.old || self.via.is_some()
    }
}

/// What the rule that intercepts a TLS flow says about its TLS.
#[derive(Clone, Debug)]
pub struct TlsTerms {
    verify: &'static str,
    ech: &'static str,
    old: &'static str,
    client_certificate: bool,
    learns: bool,
}

impl TlsTerms {
    pub(crate) fn of(config: &Config, rule: &Rule) -> Self {
        Self {
            verify: match rule.verify {
                tls::Verify::Strict => "strict",
                tls::Verify::Mirror => "mirror",
                tls::Verify::Tag => "tag",
                tls::Verify::Bypass => "bypass",
            },
            ech: match rule.ech {
                Ech::Intercept => "intercept",
                Ech::Pass => "pass",
                Ech::Refuse => "refuse",
            },
            old: if rule.refuse_old_tls {
                "refuse"
            } else {
                "pass"
            },
            client_certificate: rule.client_certificate.is_some(),
            learns: config.tls.learned.is_some(),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "verify": self.verify,
            "ech": self.ech,
            "oldTls": self.old,
            "clientCertificate": self.client_certificate,
            "learns": self.learns,
        })
    }
}

impl fmt::Display for TlsTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verify, ech, old, ..
        } = self;
        write!(f, "TLS: verify = {verify}, ech = {ech}, old-tls = {old}")?;
        if self.client_certificate {
            f.write_str(", with a certificate for servers that ask for the client's")?;
        }
        if self.learns {
            f.write_str(
                "\nclients and servers that turned out not to let themselves be intercepted are passed \
                 (flowdog learned list)",
            )?;
        }
        Ok(())
    }
}
