//! From an observed handshake to two connections.

use core::time::Duration;

use tcp::{Takeover, TimestampSeed};

use super::{Half, Track};
use crate::Config;

impl Track {
    /// What the client leg starts from: it speaks to the client in the server's place.
    pub(crate) fn client_takeover(&self, is_v6: bool, config: &Config) -> Takeover {
        self.takeover(
            &self.server,
            &self.client,
            (self.server_shift(), self.client_shift()),
            self.client_rtt,
            is_v6,
            config,
        )
    }

    /// What the server leg starts from: it speaks to the server in the client's place.
    pub(crate) fn server_takeover(&self, is_v6: bool, config: &Config) -> Takeover {
        self.takeover(
            &self.client,
            &self.server,
            (self.client_shift(), self.server_shift()),
            self.server_rtt,
            is_v6,
            config,
        )
    }

    fn takeover(
        &self,
        own: &Half,
        peer: &Half,
        (own_shift, peer_shift): (u8, u8),
        srtt: Option<Duration>,
        is_v6: bool,
        config: &Config,
    ) -> Takeover {
        // RFC 9293 §3.7.1: without the option, 536 in IPv4 and 1220 in IPv6.
        let (default_mss, clamp) = if is_v6 {
            (1220, config.mss_clamp_v6)
        } else {
            (536, config.mss_clamp_v4)
        };
        Takeover {
            snd_nxt: own.next,
            rcv_nxt: peer.next,
            snd_wnd: peer.window,
            snd_shift: peer_shift,
            rcv_shift: own_shift,
            rcv_right_edge: match own.acked {
                Some(_) => own.right_edge,
                None => peer.next + own.window,
            },
            mss: peer.mss.unwrap_or(default_mss).min(clamp),
            sack: own.sack && peer.sack,
            timestamps: (own.has_timestamps && peer.has_timestamps).then_some(TimestampSeed {
                tsval: own.tsval,
                at: own.tsval_at,
                ts_recent: peer.tsval,
            }),
            ecn: self.client.ecn && self.server.ecn,
            srtt,
        }
    }
}
