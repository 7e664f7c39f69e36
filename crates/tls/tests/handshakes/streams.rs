//! What established legs do with bytes: in pieces of any size, against a leg that takes little, and
//! after a fault.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;

use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tls::Handling;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::rig::*;

/// Writes all of it in slices of changing length, several at a time.
async fn write_in_slices<W: AsyncWrite + Unpin>(to: &mut W, mut data: &[u8]) {
    let mut length = 1;
    while !data.is_empty() {
        let mut rest = data;
        let mut slices = Vec::new();
        while !rest.is_empty() && slices.len() < 5 {
            length = (length * 7 + 3) % 40_000;
            let (slice, behind) = rest.split_at(length.min(rest.len()));
            slices.push(IoSlice::new(slice));
            rest = behind;
        }
        let written = poll_fn(|cx| Pin::new(&mut *to).poll_write_vectored(cx, &slices));
        let count = written.await.unwrap();
        assert!(count > 0);
        data = &data[count..];
    }
    to.flush().await.unwrap();
}

#[tokio::test]
async fn slices_and_short_reads_pass_over_legs_that_take_little_at_a_time() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let data: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    for versions in [ONLY12, ONLY13] {
        // Enough for the tickets that end a handshake.
        for room in [2_000, 20_000, 100_000] {
            let (near, client_leg) = tokio::io::duplex(room);
            let (server_leg, far) = tokio::io::duplex(room);
            let origin = pki.issue(&leaf_params(&["www.example.com"]));
            let connector = TlsConnector::from(Arc::new(client(&impersonator, BOTH, &[])));
            let acceptor = TlsAcceptor::from(Arc::new(origin.server(versions, &[])));
            let name = ServerName::try_from("www.example.com").unwrap();
            let (near, between, far) = tokio::join!(
                connector.connect(name, near),
                impersonator.intercept_as(client_leg, server_leg, ADDRESS, Handling::default()),
                acceptor.accept(far),
            );
            let (mut near, mut between, mut far) = (near.unwrap(), between.unwrap(), far.unwrap());
            // To the client in slices, from the server in short reads.
            let down = async {
                write_in_slices(&mut between.client, &data).await;
                between.client.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let ((), read) = tokio::join!(down, near.read_to_end(&mut got));
            read.unwrap();
            assert!(got == data, "{versions:?} {room}");
            let send = async {
                far.write_all(&data).await.unwrap();
                far.shutdown().await.unwrap();
            };
            let read = async {
                let mut got = Vec::new();
                let mut length = 1;
                loop {
                    length = (length * 7 + 3) % 1_000;
                    let mut piece = vec![0; length + 1];
                    let count = between.server.read(&mut piece).await.unwrap();
                    if count == 0 {
                        return got;
                    }
                    got.extend_from_slice(&piece[..count]);
                }
            };
            let ((), got) = tokio::join!(send, read);
            assert!(got == data, "{versions:?} {room}");
        }
    }
}

#[tokio::test]
async fn threat_38_a_record_that_does_not_decrypt_ends_the_leg_with_an_alert_and_once() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for versions in [ONLY12, ONLY13] {
        let run = run(
            &impersonator,
            client(&impersonator, BOTH, &[]),
            "www.example.com",
            pki.issue(&leaf_params(&["www.example.com"]))
                .server(versions, &[]),
        )
        .await;
        let (mut near, mut leg) = (run.client.unwrap(), run.between.unwrap().client);
        near.write_all(b"good").await.unwrap();
        let mut record = vec![23, 3, 3, 0, 40];
        record.extend([7; 40]);
        // Twice: what comes behind the fault is not looked at.
        near.get_mut().0.write_all(&record).await.unwrap();
        near.get_mut().0.write_all(&record).await.unwrap();
        let mut got = [0; 16];
        assert_eq!(leg.read(&mut got).await.unwrap(), 4);
        for _ in 0..2 {
            let error = leg.read(&mut got).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(leg.write(b"too late").await.is_err());
        leg.shutdown().await.unwrap();
        let told = near.read(&mut got).await;
        assert_eq!(
            tls_error(&told),
            Some(&rustls::Error::AlertReceived(
                AlertDescription::BadRecordMac
            )),
            "{versions:?}"
        );
    }
}
