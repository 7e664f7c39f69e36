//! Makes the certificates that clients see, and remembers them.

mod pace;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moka::future::Cache;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;

use crate::authority::{Authority, seconds};
use crate::issuing::Issuing;
use crate::leaf_key::{KeyPool, KeyType};
use crate::mirror::{MAX_LIFETIME, Mirror, WHOLE, Wanted};
use pace::Pace;

/// Limits of the mint.
#[derive(Debug, Clone)]
pub struct MintConfig {
    /// Leaves kept. At about 4 KiB each, the default of 4,096 is 16 MiB.
    pub cache_entries: u64,
    /// How long a leaf is handed out again. Default 12 hours.
    pub cache_time: Duration,
    /// Validity of a leaf, cut down to the server's own, the authority's, and 199 days.
    /// Default 30 days: far longer than a leaf is used, and short should it ever leak.
    pub leaf_lifetime: Duration,
    /// Leaves made at the same moment. Default 8.
    pub concurrent: usize,
    /// Requests that may wait for that; further ones fail at once. Default 1,024.
    pub waiting: usize,
    /// Leaves made in a second, however many are asked for. A leaf costs about a tenth of a
    /// millisecond, so the default of 1,000 is a tenth of one core. A thousand may come at once.
    pub per_second: u32,
}

impl Default for MintConfig {
    fn default() -> Self {
        Self {
            cache_entries: 4096,
            cache_time: Duration::from_secs(12 * 3600),
            leaf_lifetime: Duration::from_secs(30 * 24 * 3600),
            concurrent: 8,
            waiting: 1024,
            per_second: 1000,
        }
    }
}

/// Why there is no leaf.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MintError {
    /// The server's certificate cannot be read.
    #[error("the server's certificate cannot be read")]
    UnreadableLeaf,
    /// No moment is inside the validity of both the server's certificate and the authority's.
    #[error("the server's certificate or the CA certificate is not valid at this time")]
    NotValidNow,
    /// There is no intermediate: the authority's signer has been away too long.
    #[error("there is no valid intermediate, because the certificate authority's key is away")]
    NoIssuer,
    /// Too many leaves are being made.
    #[error("too many certificates are being made at once")]
    Overloaded,
    /// The thread that made a key or a signature is gone.
    #[error("interrupted")]
    Interrupted,
    /// The system's random number generator failed.
    #[error("no randomness")]
    NoRandomness,
    /// The TLS library does not take the key.
    #[error("the new key is not usable: {0}")]
    Key(rustls::Error),
    /// The certificate could not be written or signed.
    #[error("the certificate could not be signed: {0}")]
    Sign(#[from] rcgen::Error),
}

/// Makes leaves for servers. One for the whole appliance; all shards share it.
#[derive(Debug)]
pub struct Mint {
    issuing: Arc<Issuing>,
    cache: Cache<LeafId, Arc<Minted>>,
    keys: KeyPool,
    permits: Semaphore,
    pace: Pace,
    queued: AtomicUsize,
    minted: AtomicU64,
    overloaded: AtomicU64,
    clock: Arc<dyn TimeProvider>,
    config: MintConfig,
    /// Signs what nobody shall believe; made when first needed.
    untrusted: OnceLock<Arc<Authority>>,
}

/// What a client is to think of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// The server was believed, so is the leaf.
    Believed,
    /// The server was not believed, and the leaf fails in the same way.
    Broken,
    /// The server was not believed, and the leaf is.
    Vouched,
}

/// What a minted leaf depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LeafId {
    /// SHA-256 of the server's leaf.
    server_leaf: [u8; 32],
    key: KeyType,
    trust: Trust,
    /// The name or address asked for, when the leaf is too large to carry all names.
    wanted: Option<String>,
}

#[derive(Debug)]
struct Minted {
    key: Arc<CertifiedKey>,
    not_after: i64,
}

/// Leaves that may be made at once after a quiet time, as when an appliance starts.
const BURST: u32 = 1000;

/// A leaf this close to its end is made anew, in seconds.
const MARGIN: i64 = 300;

impl Mint {
    /// A mint with nothing in its cache.
    #[must_use]
    pub fn new(issuing: Arc<Issuing>, config: MintConfig, clock: Arc<dyn TimeProvider>) -> Self {
        Self {
            issuing,
            cache: Cache::builder()
                .max_capacity(config.cache_entries)
                .time_to_live(config.cache_time)
                .build(),
            keys: KeyPool::default(),
            permits: Semaphore::new(config.concurrent.max(1)),
            pace: Pace::new(config.per_second, config.per_second.min(BURST)),
            queued: AtomicUsize::new(0),
            minted: AtomicU64::new(0),
            overloaded: AtomicU64::new(0),
            clock,
            config,
            untrusted: OnceLock::new(),
        }
    }

    /// The certificate and key to show to a client, for a server that showed `server_leaf`.
    ///
    /// The server's certificate must have been verified. Requests for the same leaf at the same
    /// time make one certificate.
    ///
    /// # Errors
    ///
    /// When the server's certificate is not valid any more, or the authority does not sign.
    pub async fn leaf_for(
        &self,
        server_leaf: &CertificateDer<'_>,
        server_name: Option<&str>,
        server_address: IpAddr,
        key: KeyType,
    ) -> Result<Arc<CertifiedKey>, MintError> {
        self.leaf_with(
            server_leaf,
            server_name,
            server_address,
            key,
            Trust::Believed,
        )
        .await
    }

    /// The same for a server that may not have been believed.
    pub(crate) async fn leaf_with(
        &self,
        server_leaf: &CertificateDer<'_>,
        server_name: Option<&str>,
        server_address: IpAddr,
        key: KeyType,
        trust: Trust,
    ) -> Result<Arc<CertifiedKey>, MintError> {
        let wanted = Wanted {
            server_name,
            address: server_address,
        };
        let id = LeafId {
            server_leaf: sha256(server_leaf),
            key,
            trust,
            wanted: (server_leaf.len() > WHOLE)
                .then(|| server_name.map_or_else(|| server_address.to_string(), str::to_owned)),
        };
        let now = self.now()?;
        if let Some(minted) = self.cache.get(&id).await {
            if minted.not_after > now + MARGIN {
                return Ok(Arc::clone(&minted.key));
            }
            self.cache.invalidate(&id).await;
        }
        let minted = self
            .cache
            .try_get_with(id, self.mint(server_leaf, wanted, key, trust, now))
            .await
            .map_err(|shared| MintError::clone(&shared))?;
        Ok(Arc::clone(&minted.key))
    }

    /// How many leaves have been made since the start.
    #[must_use]
    pub fn minted(&self) -> u64 {
        self.minted.load(Ordering::Relaxed)
    }

    /// How many requests found the mint's queue full ([`MintError::Overloaded`]).
    #[must_use]
    pub fn overloaded(&self) -> u64 {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// How many requests are being worked on or wait; see [`MintConfig::waiting`] for the limit.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// How many leaves are in the cache, approximately.
    #[must_use]
    pub fn cached(&self) -> u64 {
        self.cache.entry_count()
    }

    /// The authority whose certificate clients install.
    #[must_use]
    pub fn authority(&self) -> &Arc<Authority> {
        self.issuing.root()
    }

    /// Who signs, and who is asked for the next intermediate.
    #[must_use]
    pub fn issuing(&self) -> &Arc<Issuing> {
        &self.issuing
    }

    async fn mint(
        &self,
        server_leaf: &[u8],
        wanted: Wanted<'_>,
        kind: KeyType,
        trust: Trust,
        now: i64,
    ) -> Result<Arc<Minted>, MintError> {
        let limit = self.config.concurrent.max(1) + self.config.waiting;
        let _place = Place::take(&self.queued, limit).inspect_err(|_full| {
            self.overloaded.fetch_add(1, Ordering::Relaxed);
        })?;
        self.pace.wait().await;
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|_closed| MintError::Interrupted)?;
        let authority = match trust {
            Trust::Believed | Trust::Vouched => self.issuer()?,
            Trust::Broken => self.untrusted()?,
        };
        let mirror = Mirror::of(server_leaf, wanted)?;
        let key = self.keys.take(kind).await?;
        let lifetime = time::Duration::try_from(self.config.leaf_lifetime).unwrap_or(MAX_LIFETIME);
        let (validity, serial) = (authority.validity(), random_serial()?);
        let params = match trust {
            Trust::Believed => mirror.params(now, lifetime, validity, kind, serial),
            Trust::Broken => mirror.broken_params(now, lifetime, kind, serial),
            Trust::Vouched => mirror
                .without_dates()
                .params(now, lifetime, validity, kind, serial),
        }?;
        let not_after = params.not_after.unix_timestamp();
        let leaf = if authority.signs_slowly() {
            let authority = Arc::clone(&authority);
            let public = Arc::clone(&key.public);
            tokio::task::spawn_blocking(move || authority.sign(&params, public.as_ref()))
                .await
                .map_err(|_panicked| MintError::Interrupted)??
        } else {
            authority.sign(&params, key.public.as_ref())?
        };
        self.minted.fetch_add(1, Ordering::Relaxed);
        let mut chain = vec![leaf];
        chain.extend(authority.chain_to_send());
        Ok(Arc::new(Minted {
            key: Arc::new(CertifiedKey::new(chain, key.signing)),
            not_after,
        }))
    }

    fn untrusted(&self) -> Result<Arc<Authority>, MintError> {
        if let Some(made) = self.untrusted.get() {
            return Ok(Arc::clone(made));
        }
        let made = Authority::generate("flowdog: the server's certificate is not trusted")
            .map_err(|_random| MintError::NoRandomness)?;
        Ok(Arc::clone(self.untrusted.get_or_init(|| Arc::new(made))))
    }

    fn issuer(&self) -> Result<Arc<Authority>, MintError> {
        let now = self.clock.current_time().ok_or(MintError::NotValidNow)?;
        self.issuing.current(now).ok_or(MintError::NoIssuer)
    }

    fn now(&self) -> Result<i64, MintError> {
        self.clock
            .current_time()
            .map(seconds)
            .ok_or(MintError::NotValidNow)
    }
}

/// A place in the queue for the mint, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(queued: &'a AtomicUsize, limit: usize) -> Result<Self, MintError> {
        let place = Self(queued);
        if queued.fetch_add(1, Ordering::Relaxed) >= limit {
            return Err(MintError::Overloaded);
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}

/// RFC 5280 §4.1.2.2: positive, at most 20 octets; CA/Browser Forum 7.1: at least 64 random bits.
fn random_serial() -> Result<[u8; 16], MintError> {
    let mut serial = [0u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_unspecified| MintError::NoRandomness)?;
    if let Some(first) = serial.first_mut() {
        // Positive, and of the same length every time.
        *first = *first & 0x7f | 0x40;
    }
    Ok(serial)
}

#[cfg(test)]
mod tests;
