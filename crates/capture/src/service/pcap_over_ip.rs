//! What intercepted connections say in clear, as a pcap file over TCP: whoever connects reads it, as
//! `nc 127.0.0.1 57012 | tcpdump -r -`. Intrusion detection reads packets so, and so does Wireshark.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::decrypted::MadeUp;
use crate::hub::{Hub, Seen, Subject, Wish};
use crate::pcapng::LINKTYPE_RAW;

/// Longest packet that the file says it may have.
const SNAP_LENGTH: u32 = 65_535;

/// Serves until `stop` is there. Each connection is a reader like those of the gRPC service, with the
/// same bounds, and is in the audit log. Nobody is asked for a credential.
///
/// # Errors
/// When the port fails.
pub async fn serve(
    hub: Arc<Hub>,
    listener: std::net::TcpListener,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let hub = Arc::clone(&hub);
                    let peer = peer.to_string();
                    tokio::spawn(async move {
                        // A reader that went away is no fault.
                        let _ = show(&hub, stream, &peer).await;
                        tracing::info!(target: "audit", peer, "capture detached");
                    });
                }
                // One connection failed, or there are no descriptors left: the next may do.
                Err(error) => {
                    tracing::warn!(%error, "pcap-over-ip: cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            () = &mut stop => return Ok(()),
        }
    }
}

async fn show(hub: &Arc<Hub>, mut stream: TcpStream, peer: &str) -> io::Result<()> {
    let wish = Wish {
        subject: Subject::Decrypted {
            client: true,
            server: false,
        },
        ..Wish::default()
    };
    // The log has the reason; the reader gets no file.
    let Ok(mut subscription) = super::watching::attach(hub, wish, peer, "decrypted") else {
        return Ok(());
    };
    stream.write_all(&header()).await?;
    let (mut input, mut out) = stream.split();
    // One that says nothing more may read on, as `nc` without an input does.
    let mut silent = false;
    loop {
        let mut byte = [0];
        tokio::select! {
            seen = subscription.next() => match seen {
                Some(Seen::MadeUp(packet)) => out.write_all(&record(&packet)).await?,
                Some(_) => {}
                None => return Ok(()),
            },
            // Nothing is expected from a reader but that its connection breaks.
            read = input.read(&mut byte), if !silent => silent = read? == 0,
        }
    }
}

/// The file's header, with times in microseconds: the form that every reader knows.
fn header() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xa1b2_c3d4_u32.to_le_bytes());
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(4_u16.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(SNAP_LENGTH.to_le_bytes());
    bytes.extend(u32::from(LINKTYPE_RAW).to_le_bytes());
    bytes
}

fn record(packet: &MadeUp) -> Vec<u8> {
    let micros = packet.time / 1000;
    let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let len = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(16 + packet.bytes.len());
    bytes.extend(word(micros / 1_000_000));
    bytes.extend(word(micros % 1_000_000));
    bytes.extend(len.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(&*packet.bytes);
    bytes
}
