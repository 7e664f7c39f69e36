//! The TLS secrets of intercepted flows, for a reader of their packets in the same process.
//!
//! A [`Tap`](crate::Tap) sees packets that nobody can read; whoever records them subscribes here to
//! what decrypts them. Nothing is kept for anyone without a subscription.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use dataplane::{FlowId, Leg};
use tls::{KeyLog, KeyLogs};
use zeroize::Zeroizing;

/// One secret of one leg of one flow.
///
/// Each leg has keys of its own: those of [`Leg::Client`] decrypt what client and flowdog sent each
/// other, those of [`Leg::Server`] the rest.
#[derive(Clone)]
pub struct Secret {
    /// The shard of the flow, as [`Tap`](crate::Tap) has it.
    pub shard: usize,
    /// The flow; unique in its shard.
    pub flow: FlowId,
    /// The leg.
    pub leg: Leg,
    /// The kind of secret, a word of the NSS key log format such as `CLIENT_RANDOM`.
    pub label: String,
    /// The random of the hello on this leg: names the handshake.
    pub client_random: Vec<u8>,
    /// Overwritten when dropped.
    pub secret: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("shard", &self.shard)
            .field("flow", &self.flow)
            .field("leg", &self.leg)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl Secret {
    /// The line of a key log in the NSS format, with its end.
    #[must_use]
    pub fn line(&self) -> Zeroizing<String> {
        Zeroizing::new(tls::key_log_line(
            &self.label,
            &self.client_random,
            &self.secret,
        ))
    }
}

/// Where shards put secrets; given to the appliance's builder.
pub struct SecretFeed {
    queue: SyncSender<Secret>,
    lost: AtomicU64,
    wanted: AtomicBool,
}

impl fmt::Debug for SecretFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFeed")
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

impl SecretFeed {
    /// A feed, and the end to read from, with room for so many secrets between them. A connection
    /// has one for TLS 1.2 and five for TLS 1.3 on each leg.
    ///
    /// Shards never wait: what finds no room is lost and counted, and so is everything once the
    /// receiver is gone.
    #[must_use]
    pub fn new(room: usize) -> (Arc<Self>, Receiver<Secret>) {
        let (queue, receiver) = sync_channel(room);
        let feed = Self {
            queue,
            lost: AtomicU64::new(0),
            wanted: AtomicBool::new(true),
        };
        (Arc::new(feed), receiver)
    }

    /// Whether secrets are wanted at all; they are from the start. While they are not, none leaves its
    /// connection.
    pub fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Secrets that found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn put(&self, secret: Secret) {
        if self.queue.try_send(secret).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The feed as a shard's flows see it, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets(Option<(usize, Arc<SecretFeed>)>);

impl Secrets {
    pub(crate) fn new(shard: usize, feed: Option<Arc<SecretFeed>>) -> Self {
        Self(feed.map(|feed| (shard, feed)))
    }

    /// Who is told the secrets of this flow.
    pub(crate) fn of(&self, flow: FlowId) -> Option<KeyLogs> {
        let (shard, feed) = self.0.as_ref()?;
        let of = |leg| -> Arc<dyn KeyLog> {
            Arc::new(OfLeg {
                shard: *shard,
                flow,
                leg,
                feed: Arc::clone(feed),
            })
        };
        Some(KeyLogs {
            client_leg: of(Leg::Client),
            server_leg: of(Leg::Server),
        })
    }
}

#[derive(Debug)]
struct OfLeg {
    shard: usize,
    flow: FlowId,
    leg: Leg,
    feed: Arc<SecretFeed>,
}

impl KeyLog for OfLeg {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if !self.feed.wanted.load(Ordering::Relaxed) {
            return;
        }
        self.feed.put(Secret {
            shard: self.shard,
            flow: self.flow,
            leg: self.leg,
            label: label.to_owned(),
            client_random: client_random.to_vec(),
            secret: Zeroizing::new(secret.to_vec()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_with_flow_and_leg_and_what_has_no_room_is_counted() {
        let (feed, receiver) = SecretFeed::new(2);
        let flow = sdk::testing::flow().id;
        let logs = Secrets::new(3, Some(Arc::clone(&feed))).of(flow).unwrap();
        logs.client_leg.log("CLIENT_RANDOM", &[0xab], &[0xcd, 0xef]);
        logs.server_leg.log("EXPORTER_SECRET", &[1], &[2]);
        logs.server_leg.log("CLIENT_RANDOM", &[1], &[3]);
        assert_eq!(feed.lost(), 1);
        let first = receiver.recv().unwrap();
        assert_eq!((first.shard, first.flow, first.leg), (3, flow, Leg::Client));
        assert_eq!(first.line().as_str(), "CLIENT_RANDOM ab cdef\n");
        let printed = format!("{first:?} {feed:?} {logs:?}");
        assert!(
            !printed.contains("205") && !printed.contains("cd"),
            "{printed}"
        );
        assert_eq!(receiver.recv().unwrap().leg, Leg::Server);
        feed.set_wanted(false);
        logs.client_leg.log("CLIENT_RANDOM", &[1], &[4]);
        assert!(receiver.try_recv().is_err());
        feed.set_wanted(true);
        drop(receiver);
        logs.client_leg.log("CLIENT_RANDOM", &[1], &[3]);
        assert_eq!(feed.lost(), 2);
        assert!(Secrets::default().of(flow).is_none());
    }
}
