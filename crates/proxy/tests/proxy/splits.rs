//! However the bytes are cut into pieces, the result is the same.

use flowdog_proxy::{Limits, Protocol};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Bench, Mark};

const REQUESTS: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4;x\r\nabcd\r\n10\r\n0123456789abcdef\r\n0\r\nX-T: 1\r\n\r\nPUT /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

const RESPONSES: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi\
HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-S: 1\r\n\r\n\
HTTP/1.1 204 No Content\r\n\r\n";

/// Where each response begins, with the end.
fn response_starts() -> [usize; 4] {
    let text = std::str::from_utf8(RESPONSES).unwrap();
    let second = text.find("HTTP/1.1 100").unwrap();
    let third = text.find("HTTP/1.1 204").unwrap();
    [0, second, third, RESPONSES.len()]
}

/// The content of chunked bodies without their chunk boundaries, which follow the reads.
fn unchunk(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut out = String::new();
    let mut rest = &text[..];
    while let Some(at) = rest.find("chunked\r\n") {
        let body = at + rest[at..].find("\r\n\r\n").unwrap() + 4;
        out.push_str(&rest[..body]);
        rest = &rest[body..];
        loop {
            let line = rest.find("\r\n").unwrap();
            let size = usize::from_str_radix(&rest[..line], 16).unwrap();
            rest = &rest[line + 2..];
            if size == 0 {
                break;
            }
            out.push_str(&rest[..size]);
            rest = &rest[size + 2..];
        }
    }
    out.push_str(rest);
    out
}

/// Runs the three exchanges with both sides' bytes cut at the given places.
fn run(cuts: &[usize]) -> (String, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut client, mut origin, served) = crate::rig::connect(Bench::with(Mark));
        let talk = async {
            let (mut at_client, mut at_origin) = (Vec::new(), Vec::new());
            let mut from = 0;
            for cut in cuts.iter().copied().filter(|cut| *cut < REQUESTS.len()) {
                if cut > from {
                    client.write_all(&REQUESTS[from..cut]).await.unwrap();
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    from = cut;
                }
            }
            client.write_all(&REQUESTS[from..]).await.unwrap();
            let quiet = std::time::Duration::from_millis(5);
            for pair in response_starts().windows(2) {
                crate::rig::read_until_quiet(&mut origin, &mut at_origin, quiet).await;
                let mut from = pair[0];
                for cut in cuts.iter().copied().filter(|cut| *cut < pair[1]) {
                    if cut > from {
                        origin.write_all(&RESPONSES[from..cut]).await.unwrap();
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                        from = cut;
                    }
                }
                origin.write_all(&RESPONSES[from..pair[1]]).await.unwrap();
                crate::rig::read_until_quiet(&mut client, &mut at_client, quiet).await;
            }
            client.shutdown().await.unwrap();
            origin.read_to_end(&mut at_origin).await.unwrap();
            client.read_to_end(&mut at_client).await.unwrap();
            (unchunk(&at_client), unchunk(&at_origin))
        };
        let (result, seen) = tokio::join!(served, talk);
        assert_eq!(result.unwrap().exchanges, 3);
        seen
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_of_both_sides_bytes_gives_the_same_exchanges(
        mut cuts in prop::collection::vec(1..REQUESTS.len(), 0..12)
    ) {
        cuts.sort_unstable();
        prop_assert_eq!(run(&cuts), run(&[]));
    }

    #[test]
    fn garbage_never_panics_and_never_reaches_the_origin_as_a_request(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        at in 0..REQUESTS.len(),
    ) {
        let mut mangled = REQUESTS[..at].to_vec();
        mangled.extend_from_slice(&bytes);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let seen = runtime.block_on(
            Bench { limits: Limits::default(), protocol: Protocol::Http1, ..Bench::with(Mark) }
                .talk(&[&mangled], &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], false),
        );
        // Whatever passed has gone through the interceptor.
        let heads = seen.at_origin.matches(" HTTP/1.").count();
        prop_assert!(seen.at_origin.matches("X-Seen: request").count() >= heads.min(1));
    }
}
