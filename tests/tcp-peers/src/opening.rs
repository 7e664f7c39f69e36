//! The handshake with a kernel, spoken for an end whose place the engine then takes.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use flowdog_tcp::{Flags, Options, Repr, Seq, Takeover, Timestamps};
use wire::{ip, tcp};

use crate::case::Path;
use crate::kernel::Kernel;
use crate::sim::peer::Offer;
use crate::sim::{IP_HEADER, PORT};
use crate::world::Clock;

/// How long the kernel may take for each of its segments.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// An end of the path that has no host yet: it stands between `local` and the kernel at `remote`.
pub(crate) struct Opening<'a> {
    kernel: &'a mut Kernel,
    local: Ipv4Addr,
    remote: Ipv4Addr,
    offer: Offer,
    /// What one round trip is to take.
    rtt: Duration,
    clock: Clock,
}

impl<'a> Opening<'a> {
    pub(crate) fn new(
        kernel: &'a mut Kernel,
        local: Ipv4Addr,
        remote: Ipv4Addr,
        path: &Path,
        clock: Clock,
        seed: u64,
    ) -> Self {
        Self {
            kernel,
            local,
            remote,
            offer: Offer {
                isn: seed as u32 ^ 0x8000_0000,
                mss: path.mtu - 40,
                shift: Some(8),
                sack: true,
                timestamps: true,
                window: 65_535,
            },
            rtt: path.rtt,
            clock,
        }
    }

    /// Answers the kernel, which connects.
    pub(crate) fn answer(&mut self) -> io::Result<Takeover> {
        // The kernel repeats what a fresh device has lost.
        let syn = self
            .next()
            .or_else(|_| self.next())
            .or_else(|_| self.next())?;
        if syn.flags.contains(Flags::ACK) || !syn.flags.contains(Flags::SYN) {
            return Err(io::Error::other("the kernel's first segment is no SYN"));
        }
        let answer = Repr {
            src_port: PORT,
            dst_port: PORT,
            seq: Seq(self.offer.isn),
            ack: syn.seq + 1,
            flags: Flags::SYN.with(Flags::ACK),
            window: self.offer.window,
            options: self.offer.options(Some(&syn.options)),
            ..Repr::default()
        };
        std::thread::sleep(self.rtt);
        let ack = loop {
            self.say(&answer)?;
            let ack = self.next()?;
            // A SYN once more: the answer was lost.
            if !ack.flags.contains(Flags::SYN) {
                break ack;
            }
        };
        let mut takeover = self.offer.takeover(&answer, &syn, &ack, self.clock.now());
        takeover.srtt = Some(self.rtt);
        Ok(takeover)
    }

    /// Connects to the kernel, which listens.
    pub(crate) fn ask(&mut self) -> io::Result<Takeover> {
        let syn = Repr {
            src_port: PORT,
            dst_port: PORT,
            seq: Seq(self.offer.isn),
            flags: Flags::SYN,
            window: self.offer.window,
            options: self.offer.options(None),
            ..Repr::default()
        };
        // A fresh device may lose the first packets.
        let mut tries = 0;
        let answer = loop {
            self.say(&syn)?;
            tries += 1;
            match self.next() {
                Err(error) if tries == 20 => return Err(error),
                Err(_) => {}
                Ok(answer) => break answer,
            }
        };
        if !answer.flags.contains(Flags::SYN) {
            return Err(io::Error::other("the kernel does not listen"));
        }
        let timestamps = syn.options.timestamps.zip(answer.options.timestamps);
        let ack = Repr {
            seq: syn.seq + 1,
            ack: answer.seq + 1,
            flags: Flags::ACK,
            options: Options {
                timestamps: timestamps.map(|(own, peer)| Timestamps {
                    tsval: own.tsval,
                    tsecr: peer.tsval,
                }),
                ..Options::default()
            },
            ..syn
        };
        std::thread::sleep(self.rtt);
        self.say(&ack)?;
        let mut takeover = self
            .offer
            .takeover(&syn, &answer, &answer, self.clock.now());
        takeover.srtt = Some(self.rtt);
        Ok(takeover)
    }

    fn say(&mut self, repr: &Repr) -> io::Result<()> {
        let (src, dst) = (IpAddr::from(self.local), IpAddr::from(self.remote));
        let mut packet = vec![0; IP_HEADER + repr.header_len()];
        let (network, segment) = packet.split_at_mut(IP_HEADER);
        ip::Repr {
            src,
            dst,
            protocol: ip::Protocol::TCP,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: true,
            ident: 0,
            payload_len: segment.len(),
        }
        .emit(network);
        repr.emit(segment);
        tcp::fill_checksum(segment, src, dst);
        self.kernel.device().send(&packet)
    }

    fn next(&mut self) -> io::Result<Repr> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            while let Some(packet) = self.kernel.device().receive()? {
                let Ok(packet) = ip::Packet::parse(&packet) else {
                    continue;
                };
                if packet.protocol() == ip::Protocol::TCP
                    && packet.dst() == IpAddr::from(self.local)
                    && let Ok(segment) = tcp::Segment::parse(packet.payload())
                {
                    return Ok(segment.repr());
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Err(io::Error::other("the kernel says nothing"))
    }
}
