//! What is refused, each with what the client is told and what the origin must not see.

use flowdog_proxy::{Fault, Limits, ProxyError, Side};

use crate::rig::Bench;

/// Sends a request that must be refused before the origin sees a byte.
async fn refused_with(request: &[u8], status: u16, fault: Fault) {
    let seen = Bench::default()
        .talk(
            &[request],
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
            false,
        )
        .await;
    let shown = request.escape_ascii().to_string();
    assert_eq!(seen.at_origin, "", "{shown}");
    assert!(
        seen.at_client.starts_with(&format!("HTTP/1.1 {status} ")),
        "{shown}: {}",
        seen.at_client
    );
    let reason = format!("x-flowdog-error: {}\r\n", fault.as_str());
    assert!(
        seen.at_client.contains(&reason),
        "{shown}: {}",
        seen.at_client
    );
    assert!(seen.at_client.contains("Connection: close\r\n"), "{shown}");
    match seen.result {
        Err(ProxyError::Peer {
            side: Side::Client,
            fault: found,
        }) => assert_eq!(found, fault, "{shown}"),
        other => panic!("{shown}: {other:?}"),
    }
}

async fn fields_refused(fields: &str, fault: Fault) {
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    refused_with(request.as_bytes(), 400, fault).await;
}

/// Sends a response that must be refused after an ordinary request.
async fn response_refused(response: &[u8], fault: Fault) {
    let seen = Bench::default()
        .talk(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], &[response], false)
        .await;
    let shown = response.escape_ascii().to_string();
    assert!(
        seen.at_client.starts_with("HTTP/1.1 502 "),
        "{shown}: {}",
        seen.at_client
    );
    let reason = format!("x-flowdog-error: {}\r\n", fault.as_str());
    assert!(
        seen.at_client.contains(&reason),
        "{shown}: {}",
        seen.at_client
    );
    assert!(
        seen.at_client
            .ends_with(&format!("flowdog: {}\n", fault.as_str()))
    );
}

#[tokio::test(start_paused = true)]
async fn threat_01_both_framings_are_refused_in_any_order() {
    fields_refused(
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        Fault::BothFramings,
    )
    .await;
    fields_refused(
        "Transfer-Encoding: chunked\r\ncontent-length: 3",
        Fault::BothFramings,
    )
    .await;
    response_refused(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Fault::BothFramings,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_02_transfer_encodings_other_than_one_chunked_are_refused() {
    for value in [
        "identity",
        "chunked, chunked",
        ",chunked",
        "chunked,",
        "chunked, identity",
        "gzip, chunked",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "chun\u{a0}ked",
        "chunked\u{a0}",
        "",
    ] {
        fields_refused(
            &format!("Transfer-Encoding: {value}"),
            Fault::TransferEncoding,
        )
        .await;
    }
    fields_refused(
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        Fault::TransferEncoding,
    )
    .await;
    fields_refused("Transfer-Encoding: chunked\x0b", Fault::FieldValue).await;
    fields_refused("Transfer-Encoding : chunked", Fault::FieldName).await;
    fields_refused("X: y\r\n\tTransfer-Encoding: chunked", Fault::ObsoleteFold).await;
    response_refused(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Fault::TransferEncoding,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_03_a_body_on_get_belongs_to_it_and_to_nothing_else() {
    let request =
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 27\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r";
    let seen = Bench::default()
        .talk(
            &[request.as_bytes()],
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
            false,
        )
        .await;
    assert_eq!(seen.at_origin, request);
    assert_eq!(seen.result.unwrap().exchanges, 1);
}

#[tokio::test(start_paused = true)]
async fn threat_04_content_lengths_with_two_readings_are_refused() {
    for value in [
        "",
        "+3",
        "-3",
        "0x3",
        "3_0",
        "03",
        "3 ",
        "3, 3",
        "3;",
        "1e1",
        "3.0",
        "٣",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        if value == "3 " {
            continue; // Trailing white space is not part of the value (RFC 9112 §5.1).
        }
        fields_refused(&format!("Content-Length: {value}"), Fault::ContentLength).await;
    }
    fields_refused(
        "Content-Length: 3\r\nContent-Length: 3",
        Fault::ContentLength,
    )
    .await;
    fields_refused(
        "Content-Length: \r\nContent-Length: 3",
        Fault::ContentLength,
    )
    .await;
    response_refused(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        Fault::ContentLength,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_05_a_bad_chunk_ends_the_connection_and_nothing_after_it_is_a_request() {
    let seen = Bench::default()
        .talk(
            &[b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n"],
            &[],
            false,
        )
        .await;
    assert!(!seen.at_origin.contains("GET /x"));
    assert!(
        !seen.at_origin.contains("0\r\n\r\n"),
        "the body must not look complete"
    );
    assert!(seen.at_client.starts_with("HTTP/1.1 400 "));
    assert!(seen.at_client.contains("x-flowdog-error: chunk-end"));
    assert_eq!(seen.result.unwrap_err().outcome(), "chunk-end");
}

#[tokio::test(start_paused = true)]
async fn threat_05_a_bad_chunk_of_the_server_cuts_the_response_off() {
    let seen = Bench::default()
        .talk(
            &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"],
            &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n+3\r\ndef\r\n0\r\n\r\n"],
            false,
        )
        .await;
    assert!(
        !seen.at_client.contains("0\r\n\r\n"),
        "the body must not look complete"
    );
    assert_eq!(seen.result.unwrap_err().outcome(), "chunk-size");
}

#[tokio::test(start_paused = true)]
async fn threat_06_bare_line_ends_and_nul_are_refused_everywhere() {
    refused_with(b"GET / HTTP/1.1\nHost: a\n\n", 400, Fault::BareLineFeed).await;
    refused_with(b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400, Fault::BareLineFeed).await;
    refused_with(
        b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        400,
        Fault::BareCarriageReturn,
    )
    .await;
    refused_with(
        b"GET / HTTP/1.1\r\nHost: a\r\n\rX",
        400,
        Fault::BareCarriageReturn,
    )
    .await;
    refused_with(
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        400,
        Fault::FieldValue,
    )
    .await;
    refused_with(
        b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        400,
        Fault::FieldName,
    )
    .await;
    refused_with(
        b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        Fault::RequestLine,
    )
    .await;
    response_refused(
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        Fault::BareLineFeed,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_07_field_names_that_are_no_tokens_are_refused() {
    for line in [
        "X : b",
        ": b",
        "no colon",
        "X\u{e9}: b",
        "X(y): b",
        "\u{a0}X: b",
        "X\u{85}: b",
    ] {
        fields_refused(line, Fault::FieldName).await;
    }
    refused_with(
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        400,
        Fault::ObsoleteFold,
    )
    .await;
    response_refused(
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        Fault::FieldName,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_08_folded_fields_are_refused_from_both_sides() {
    fields_refused("X: a\r\n b", Fault::ObsoleteFold).await;
    response_refused(
        b"HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length: 0\r\n\r\n",
        Fault::ObsoleteFold,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_09_versions_other_than_10_and_11_are_refused() {
    for version in [
        "HTTP/1.10",
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/0.9",
        "http/1.1",
        "HTTP/1.1 x",
        "HTTP/257.1",
        "",
    ] {
        let request = format!("GET / {version}\r\nHost: a\r\n\r\n");
        let seen = Bench::default()
            .talk(&[request.as_bytes()], &[], false)
            .await;
        assert_eq!(seen.at_origin, "", "{version}");
        assert!(seen.at_client.starts_with("HTTP/1.1 400 "), "{version}");
    }
    refused_with(b"GET /\r\n\r\n", 400, Fault::RequestLine).await;
    refused_with(
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        Fault::TransferEncoding,
    )
    .await;
    response_refused(
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Fault::TransferEncoding,
    )
    .await;
    response_refused(b"HTTP/2 200\r\n\r\n", Fault::Version).await;
}

#[tokio::test(start_paused = true)]
async fn threat_10_targets_and_hosts_that_disagree_are_refused() {
    for (line, fault) in [
        ("GET a HTTP/1.1\r\nHost: a", Fault::Target),
        ("GET * HTTP/1.1\r\nHost: a", Fault::Target),
        ("GET a:80 HTTP/1.1\r\nHost: a", Fault::Target),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a", Fault::Target),
        ("GET http://b/ HTTP/1.1\r\nHost: a", Fault::Host),
        ("GET http://a:81/ HTTP/1.1\r\nHost: a", Fault::Host),
        ("GET / HTTP/1.1\r\nX: a", Fault::Host),
        ("GET / HTTP/1.1\r\nHost: ", Fault::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a", Fault::Host),
        ("GET / HTTP/1.1\r\nHost: a, b", Fault::Host),
        ("GET / HTTP/1.1\r\nHost: a/b", Fault::Host),
        ("GET / HTTP/1.1\r\nHost: u@a", Fault::Host),
        ("GET / HTTP/1.1\r\nHost: a:b", Fault::Host),
        ("CONNECT a:443 HTTP/1.1\r\nHost: b:443", Fault::Host),
        ("GET  / HTTP/1.1\r\nHost: a", Fault::RequestLine),
        ("GET / / HTTP/1.1\r\nHost: a", Fault::RequestLine),
        ("GET\t/ HTTP/1.1\r\nHost: a", Fault::RequestLine),
        ("G(T / HTTP/1.1\r\nHost: a", Fault::RequestLine),
    ] {
        let seen = Bench::default()
            .talk(&[format!("{line}\r\n\r\n").as_bytes()], &[], false)
            .await;
        assert_eq!(seen.at_origin, "", "{line}");
        assert!(
            seen.at_client.starts_with("HTTP/1.1 400 "),
            "{line}: {}",
            seen.at_client
        );
        let outcome = seen.result.unwrap_err().outcome();
        if fault != Fault::RequestLine {
            assert_eq!(outcome, fault.as_str(), "{line}");
        }
    }
    for line in [
        "GET http://a/ HTTP/1.1\r\nHost: A:80",
        "OPTIONS * HTTP/1.1\r\nHost: a",
        "GET /x HTTP/1.1\r\nHost: [2001:db8::1]:8080",
    ] {
        let request = format!("{line}\r\n\r\n");
        let seen = Bench::default()
            .talk(
                &[request.as_bytes()],
                &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
                false,
            )
            .await;
        assert_eq!(seen.at_origin, request);
    }
}

#[tokio::test(start_paused = true)]
async fn threat_11_expectations_with_two_readings_and_floods_of_interims_are_refused() {
    fields_refused(
        "Expect: 100-continue, x\r\nContent-Length: 1",
        Fault::Expect,
    )
    .await;
    fields_refused("Expect: y 100-continue\r\nContent-Length: 1", Fault::Expect).await;
    fields_refused(
        "Expect: 100-continue\r\nExpect: 100-continue",
        Fault::Expect,
    )
    .await;
    let flood = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(Limits::default().interim_count + 1);
    let seen = Bench::default()
        .talk(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], &[&flood], false)
        .await;
    assert_eq!(seen.at_client.matches("100 Continue").count(), 32);
    assert_eq!(seen.result.unwrap_err().outcome(), "interim-flood");
}

#[tokio::test(start_paused = true)]
async fn threat_11_a_body_sent_after_a_refused_expectation_is_not_a_request() {
    let seen = Bench::default()
        .talk(
            &[
                b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 28\r\n\r\n",
                b"",
                b"",
                b"",
                b"",
                b"",
                b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
            &[b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"],
            false,
        )
        .await;
    assert!(!seen.at_origin.contains("GET /x"));
    assert_eq!(
        seen.at_client,
        "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
    );
}

#[tokio::test(start_paused = true)]
async fn threat_12_a_101_that_nobody_asked_for_is_refused() {
    response_refused(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        Fault::Upgrade,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_13_a_second_response_never_reaches_a_later_request() {
    let seen = Bench::default()
        .talk(
            &[
                b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
                b"",
                b"",
                b"",
                b"",
                b"",
                b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 Evil\r\nContent-Length: 1\r\n\r\n2"],
            false,
        )
        .await;
    assert!(!seen.at_client.contains("Evil"));
    assert!(!seen.at_origin.contains("/2"));
    assert_eq!(seen.result.unwrap_err().outcome(), "response-unasked");
}

#[tokio::test(start_paused = true)]
async fn threat_13_a_response_before_any_request_is_not_passed_on() {
    let (client, mut origin, served) = crate::rig::connect(Bench::default());
    let talk = async {
        use tokio::io::AsyncWriteExt as _;
        origin.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    };
    let (result, ()) = tokio::join!(served, talk);
    assert_eq!(result.unwrap_err().outcome(), "response-unasked");
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn threat_13_bodies_where_none_may_be_are_refused() {
    response_refused(
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nabcde",
        Fault::ContentLength,
    )
    .await;
    response_refused(
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Fault::TransferEncoding,
    )
    .await;
    response_refused(
        b"HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\nabcde",
        Fault::ContentLength,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_14_an_early_answer_does_not_make_the_body_a_request() {
    let seen = Bench::default()
        .talk(
            &[
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 31\r\n\r\nabc",
                b"",
                b"",
                b"",
                b"",
                b"",
                b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
            &[
                b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            ],
            false,
        )
        .await;
    // The first 28 bytes after the answer are the rest of the body; /y is the second request.
    assert_eq!(seen.result.unwrap().exchanges, 2);
    assert_eq!(seen.at_client.matches("HTTP/1.1").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn threat_15_connection_options_that_name_framing_are_refused() {
    for name in ["content-length", "Transfer-Encoding", "x, host"] {
        fields_refused(
            &format!("Content-Length: 0\r\nConnection: {name}"),
            Fault::ConnectionOption,
        )
        .await;
    }
    response_refused(
        b"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 0\r\n\r\n",
        Fault::ConnectionOption,
    )
    .await;
    // Others stay where they are: nothing is taken away that the origin might need.
    let request =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-for\r\nX-Forwarded-For: 1\r\n\r\n";
    let seen = Bench::default()
        .talk(
            &[request.as_bytes()],
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
            false,
        )
        .await;
    assert_eq!(seen.at_origin, request);
}

#[tokio::test(start_paused = true)]
async fn threat_16_trailers_that_frame_or_authorise_end_the_connection() {
    for name in [
        "Content-Length",
        "Host",
        "Authorization",
        "Transfer-Encoding",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{name}: 1\r\n\r\n"
        );
        let seen = Bench::default()
            .talk(&[request.as_bytes()], &[], false)
            .await;
        assert!(!seen.at_origin.contains("0\r\n"), "{name}");
        assert!(seen.at_client.starts_with("HTTP/1.1 400 "), "{name}");
        assert_eq!(seen.result.unwrap_err().outcome(), "trailer");
    }
}

#[tokio::test(start_paused = true)]
async fn threat_28_large_heads_have_their_own_answers() {
    let limits = Limits::default();
    let long = "a".repeat(limits.target_bytes + 1);
    let request = format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n");
    refused_with(request.as_bytes(), 414, Fault::TargetTooLong).await;
    let endless = format!("GET /{}", "a".repeat(limits.target_bytes + 1000));
    refused_with(endless.as_bytes(), 414, Fault::TargetTooLong).await;
    let field = format!("X: {}\r\n", "a".repeat(1000)).repeat(70);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n");
    refused_with(request.as_bytes(), 431, Fault::HeadTooLarge).await;
    let many = "X: y\r\n".repeat(limits.header_count);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    refused_with(request.as_bytes(), 431, Fault::TooManyFields).await;
    let most = "X: y\r\n".repeat(limits.header_count - 1);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{most}\r\n");
    let seen = Bench::default()
        .talk(
            &[request.as_bytes()],
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
            false,
        )
        .await;
    assert_eq!(seen.at_origin, request);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_cut_off_does_not_look_complete() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ] {
        let seen = Bench::default()
            .talk(
                &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"],
                &[reply.as_bytes()],
                true,
            )
            .await;
        assert!(!seen.at_client.contains("0\r\n\r\n"));
        assert_eq!(seen.result.unwrap_err().outcome(), "body-truncated");
    }
}
