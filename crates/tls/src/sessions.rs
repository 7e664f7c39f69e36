//! Sessions that we resume with servers, each in the scope of the flow that made it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

use crate::client_certificate::Credentials;
use crate::resume::Scope;
use crate::verifier::FlowVerifier;

/// Scopes with sessions. At some 20 KiB each at the most, 40 MiB.
const SCOPES: u64 = 2048;
/// Sessions in parallel of one scope: browsers open several connections at once.
const PARALLEL: usize = 2;
/// Tickets of one session; servers send two.
const TICKETS: usize = 2;
/// A session is resumed for so long after its full handshake. Servers' tickets live longer, but what was
/// found out about a server is not believed for ever.
const LIFE: Duration = Duration::from_secs(2 * 3600);

/// What belongs to a session: the library resumes one only with the very verifier and credentials that it
/// began with. One flow at a time holds it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) verifier: Arc<FlowVerifier>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) store: Arc<Store>,
}

/// The sessions that wait for the next flow of their scope.
pub(crate) struct Sessions(Cache<Scope, Arc<Mutex<Vec<Session>>>>);

impl Default for Sessions {
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(SCOPES).time_to_live(LIFE);
        Self(cache.build())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// A session to go on with, that nobody else has from here on.
    pub(crate) async fn take(&self, scope: Scope) -> Option<Session> {
        let waiting = self.0.get(&scope).await?;
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.pop()
    }

    /// Keeps a session for the next flow. Tickets that come later still find their place in it.
    pub(crate) async fn give(&self, scope: Scope, session: Session) {
        let waiting = self.0.get_with(scope, async { Arc::default() }).await;
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < PARALLEL {
            waiting.push(session);
        }
    }

    /// Scopes that have sessions.
    pub(crate) fn len(&self) -> u64 {
        self.0.entry_count()
    }
}

/// What the library remembers of one session.
#[derive(Default)]
pub(crate) struct Store(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    fn with<T>(&self, act: impl FnOnce(&mut Remembered) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientSessionStore for Store {
    // The client's own order of groups is kept, so nothing is learned about them.
    fn set_kx_hint(&self, _server_name: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.with(|remembered| remembered.tls12 = Some(value));
    }

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(|remembered| remembered.tls12.clone())
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {
        self.with(|remembered| remembered.tls12 = None);
    }

    fn insert_tls13_ticket(
        &self,
        _server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.with(|remembered| {
            if remembered.tls13.len() >= TICKETS {
                remembered.tls13.pop_front();
            }
            remembered.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(
        &self,
        _server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.with(|remembered| remembered.tls13.pop_back())
    }
}
