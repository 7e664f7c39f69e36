//! Who signs leaves at this moment: an intermediate that lives in memory for a few days.
//!
//! The root's key signs one certificate per renewal and never a leaf, so it may live in a key
//! service that is slow, throttled or away: running traffic does not notice. What is in memory
//! is worth stealing for days and not for years.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls_pki_types::UnixTime;

use crate::authority::{Authority, AuthorityError, seconds};

/// How an [`Issuing`] makes its intermediates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuingConfig {
    /// Validity of an intermediate. Default 7 days.
    pub lifetime: Duration,
}

impl Default for IssuingConfig {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// The root and, below it, the intermediate of these days. Shared by all shards.
pub struct Issuing {
    root: Arc<Authority>,
    /// Leaves are signed by the root itself.
    direct: bool,
    config: IssuingConfig,
    state: RwLock<State>,
    /// Held during a renewal: two at once would be one too many.
    renewing: Mutex<()>,
    renewals: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug, Clone, Default)]
struct State {
    current: Option<Arc<Authority>>,
    /// When to renew, in seconds since 1970.
    due: i64,
    /// Attempts in a row that failed.
    failed: u32,
}

/// First pause after an attempt that failed, in seconds; each further one doubles it.
const RETRY_FIRST: i64 = 5;
/// Longest pause between attempts, in seconds.
const RETRY_MOST: i64 = 600;

impl fmt::Debug for Issuing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuing")
            .field("direct", &self.direct)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Issuing {
    /// An authority whose own key signs leaves. For keys in memory only.
    #[must_use]
    pub fn direct(root: Arc<Authority>) -> Self {
        let state = State {
            current: Some(Arc::clone(&root)),
            due: i64::MAX,
            failed: 0,
        };
        Self::new(root, true, IssuingConfig::default(), state)
    }

    /// An authority that signs intermediates. There is none until [`renew`](Self::renew).
    ///
    /// # Errors
    ///
    /// When the authority's certificate forbids intermediates.
    pub fn intermediate(
        root: Arc<Authority>,
        config: IssuingConfig,
    ) -> Result<Self, AuthorityError> {
        if !root.may_have_intermediates() {
            return Err(AuthorityError::NoIntermediates {
                what: "[tls.ca] certificate".to_owned(),
            });
        }
        Ok(Self::new(root, false, config, State::default()))
    }

    fn new(root: Arc<Authority>, direct: bool, config: IssuingConfig, state: State) -> Self {
        Self {
            root,
            direct,
            config,
            state: RwLock::new(state),
            renewing: Mutex::new(()),
            renewals: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The authority that signs leaves, if there is one that is valid at `now`.
    #[must_use]
    pub fn current(&self, now: UnixTime) -> Option<Arc<Authority>> {
        let now = seconds(now);
        self.read()
            .current
            .filter(|current| now <= current.validity().1)
    }

    /// Whether it is time for [`renew`](Self::renew).
    #[must_use]
    pub fn is_due(&self, now: UnixTime) -> bool {
        seconds(now) >= self.read().due
    }

    /// Makes a new intermediate and puts it in the place of the one before, which stays where
    /// this fails. Blocks as long as the root's signer does: not for the packet path.
    ///
    /// # Errors
    ///
    /// When the root's signer gives no right signature.
    pub fn renew(&self, now: UnixTime) -> Result<(), AuthorityError> {
        if self.direct {
            return Ok(());
        }
        let _one_at_a_time = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let made = self.root.intermediate(self.config.lifetime, now);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(made) => {
                let left = (made.validity().1 - seconds(now)).max(0);
                // Between one half and two thirds of its life: early enough for days of retries,
                // and not at the same moment on every appliance of a fleet.
                state.due = seconds(now) + left / 2 + spread(left / 6);
                state.failed = 0;
                state.current = Some(Arc::new(made));
                self.renewals.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                let most = RETRY_FIRST
                    .saturating_mul(1 << state.failed.min(16))
                    .min(RETRY_MOST);
                state.failed = state.failed.saturating_add(1);
                state.due = seconds(now) + most / 2 + spread(most / 2);
                self.failures.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Goes on with another one's intermediate, if both have the same root and settings: a
    /// reload of the configuration needs no signature.
    pub fn adopt(&self, other: &Self) {
        let same = self.direct == other.direct
            && self.config == other.config
            && self.root.certificate() == other.root.certificate();
        if same {
            let state = other.read();
            self.renewals.store(other.renewals(), Ordering::Relaxed);
            self.failures.store(other.failures(), Ordering::Relaxed);
            *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        }
    }

    /// The authority whose certificate clients install.
    #[must_use]
    pub fn root(&self) -> &Arc<Authority> {
        &self.root
    }

    /// When the present intermediate ends, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        self.read().current.map(|current| current.validity().1)
    }

    /// Intermediates made since the start.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// Attempts to make one that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn read(&self) -> State {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A random number of seconds from 0 up to and with `most`.
fn spread(most: i64) -> i64 {
    let mut bytes = [0u8; 8];
    // Without randomness there is no spread, and no certificate either.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() || most <= 0 {
        return 0;
    }
    (i64::from_le_bytes(bytes) & i64::MAX) % (most + 1)
}

#[cfg(test)]
mod tests;
