//! The event, and the way back: CloudFront's writing and deleting rules.

use sdk::Failure;
use sdk::testing::{Seen, request};

use crate::{GET, Script, play};

fn failure(seen: Seen) -> Failure {
    match seen {
        Seen::Failed(failure) => failure,
        other => panic!("it did not fail: {other:?}"),
    }
}

/// Runs a body on a request; gives what the server gets, or the failure as text.
async fn edit(body: &str, request: &str, config: &str) -> String {
    let (mut play, _script) = play(
        &format!("function handler(event) {{ const request = event.request; {body} }}"),
        config,
    );
    match play.request(request).await {
        Seen::ToServer(text) | Seen::ToClient(text) => text,
        Seen::Failed(failure) => format!("{}: {}", failure.status.as_u16(), failure.reason),
        Seen::Reset => "reset".to_owned(),
    }
}

/// Runs a body on a response.
async fn answer(body: &str, response: &str, config: &str) -> String {
    let source = format!("function handler(event) {{ const response = event.response; {body} }}");
    let (mut play, _script) = play(&source, &format!("events = ['viewer-response']\n{config}"));
    play.request(GET).await;
    match play.answer(sdk::testing::response(response)).await {
        Ok(response) => sdk::testing::print_response(response).await,
        Err(failure) => format!("{}: {}", failure.status.as_u16(), failure.reason),
    }
}

const RICH: &str = "GET /media/index.mpd?ID=42&NoValue&mv=val1&mv=val2,val3 HTTP/1.1\nHost: video.example.com\n\
    Accept: application/json\nUser-Agent: curl\nACCEPT: text/html\nCookie: Cookie1=value1; other=a=b; bare\nCookie: Cookie1=value2\n\n";

#[tokio::test]
async fn the_event_has_cloudfronts_shape() {
    let (mut play, _script) = play(
        "function handler(event) { const raw = event.request.rawQueryString(); \
         return {statusCode: 200, body: JSON.stringify({raw, event})} }",
        "distribution-id = 'E1'\ndistribution-domain-name = 'd.example'",
    );
    let body = play.request(RICH).await.to_client();
    let value: serde_json::Value =
        serde_json::from_str(body.split_once("\n\n").unwrap().1).unwrap();
    assert_eq!(value["raw"], "ID=42&NoValue&mv=val1&mv=val2,val3");
    let event = &value["event"];
    let request_id = event["context"]["requestId"].as_str().unwrap();
    assert_eq!(request_id.len(), 22);
    let expected = serde_json::json!({
        "version": "1.0",
        "context": {
            "distributionDomainName": "d.example", "distributionId": "E1", "eventType": "viewer-request", "requestId": request_id,
            "flow": {
                "endpointId": "vpce-00123456789abcdef", "flowCookie": "feed0001", "protocol": 6,
                "client": {"address": "10.0.0.10", "port": 40000}, "server": {"address": "192.0.2.80", "port": 443},
            },
        },
        "viewer": {"ip": "10.0.0.10"},
        "request": {
            "method": "GET", "uri": "/media/index.mpd",
            "querystring": {"ID": {"value": "42"}, "NoValue": {"value": ""},
                "mv": {"value": "val1", "multiValue": [{"value": "val1"}, {"value": "val2,val3"}]}},
            "headers": {"host": {"value": "video.example.com"}, "user-agent": {"value": "curl"},
                "accept": {"value": "application/json", "multiValue": [{"value": "application/json"}, {"value": "text/html"}]}},
            "cookies": {"Cookie1": {"value": "value1", "multiValue": [{"value": "value1"}, {"value": "value2"}]},
                "other": {"value": "a=b"}, "bare": {"value": ""}},
        },
    });
    assert_eq!(*event, expected);
}

#[tokio::test]
async fn the_response_event_has_cookies_with_attributes() {
    let text = answer(
        "return {statusCode: 201, body: JSON.stringify(event)}",
        "HTTP/1.1 200 Fine\nServer: x\nSet-Cookie: a=1; Secure; Path=/\nset-cookie: a=2\nSet-Cookie: b=3;HttpOnly\n\nold",
        "",
    )
    .await;
    let value: serde_json::Value =
        serde_json::from_str(text.split_once("\n\n").unwrap().1).unwrap();
    assert_eq!(value["context"]["eventType"], "viewer-response");
    assert_eq!(value["request"]["headers"]["host"]["value"], "a.example");
    assert_eq!(
        value["response"],
        serde_json::json!({
            "statusCode": 200, "statusDescription": "Fine", "headers": {"server": {"value": "x"}},
            "cookies": {"a": {"value": "1", "attributes": "Secure; Path=/",
                    "multiValue": [{"value": "1", "attributes": "Secure; Path=/"}, {"value": "2", "attributes": ""}]},
                "b": {"value": "3", "attributes": "HttpOnly"}},
        })
    );
}

#[tokio::test]
async fn what_is_not_touched_stays_byte_for_byte() {
    for config in ["", "profile = 'strict'"] {
        assert_eq!(edit("return request", RICH, config).await, RICH);
    }
    let response = "HTTP/1.1 200 Fine\nsERVER: x\nX-A: 1\nx-a: 2\nSet-Cookie: a=1; Secure;  Path=/\nContent-Length: 3\n\nold";
    for config in ["", "profile = 'strict'"] {
        assert_eq!(answer("return response", response, config).await, response);
    }
}

#[tokio::test]
async fn headers_are_written_added_and_deleted_by_the_rules() {
    let base = "GET / HTTP/1.1\nHost: a.example\nX-One: 1\nX-Two: a\nx-two: b\n\n";
    for (body, fields) in [
        (
            "request.headers['x-new-field'] = {value: 'n'}",
            "X-One: 1\nX-Two: a\nx-two: b\nX-New-Field: n\n",
        ),
        ("delete request.headers['x-one']", "X-Two: a\nx-two: b\n"),
        ("delete request.headers['x-two']", "X-One: 1\n"),
        (
            "request.headers['x-one'].value = '2'",
            "X-One: 2\nX-Two: a\nx-two: b\n",
        ),
        // A changed value is the first; the others stay.
        (
            "request.headers['x-two'].value = 'c'",
            "X-One: 1\nX-Two: c\nX-Two: b\n",
        ),
        // A changed multiValue counts, and value does not.
        (
            "request.headers['x-two'].multiValue.push({value: 'd'}); request.headers['x-two'].value = 'z'",
            "X-One: 1\nX-Two: a\nX-Two: b\nX-Two: d\n",
        ),
        (
            "request.headers['x-two'].multiValue = [{value: 'e'}]",
            "X-One: 1\nX-Two: e\n",
        ),
        (
            "request.headers['x-one'].multiValue = [{value: '1'}, {value: '2'}]",
            "X-One: 1\nX-Two: a\nx-two: b\nX-One: 2\n",
        ),
        (
            "request.headers['x-two'] = {value: 'f'}",
            "X-One: 1\nX-Two: f\n",
        ),
        (
            "request.headers['x-empty'] = {value: ''}",
            "X-One: 1\nX-Two: a\nx-two: b\nX-Empty: \n",
        ),
        (
            "request.headers['__proto__'] = {value: 'p'}; request.headers['x-one'].value = '2'",
            "X-One: 2\nX-Two: a\nx-two: b\n",
        ),
    ] {
        let sent = edit(&format!("{body}; return request"), base, "").await;
        // The spelling of a field that was there may stay.
        assert_eq!(
            sent.to_lowercase(),
            format!("GET / HTTP/1.1\nHost: a.example\n{fields}\n").to_lowercase(),
            "{body}"
        );
    }
}

#[tokio::test]
async fn cookies_and_queries_are_written_by_the_rules() {
    let base =
        "GET /p?a=1&b=2&a=3&bare&c=%20x HTTP/1.1\nHost: a.example\nCookie: one=1; two=2; one=3\n\n";
    for (body, line, cookie) in [
        (
            "request.cookies.new = {value: 'n'}",
            "/p?a=1&b=2&a=3&bare&c=%20x",
            "one=1; one=3; two=2; new=n",
        ),
        (
            "delete request.cookies.one",
            "/p?a=1&b=2&a=3&bare&c=%20x",
            "two=2",
        ),
        (
            "request.cookies.two.value = 'x'",
            "/p?a=1&b=2&a=3&bare&c=%20x",
            "one=1; one=3; two=x",
        ),
        (
            "delete request.querystring.b",
            "/p?a=1&a=3&bare&c=%20x",
            "one=1; two=2; one=3",
        ),
        (
            "request.querystring.d = {value: '%41'}",
            "/p?a=1&a=3&b=2&bare&c=%20x&d=%41",
            "one=1; two=2; one=3",
        ),
        ("request.querystring = {}", "/p", "one=1; two=2; one=3"),
        (
            "request.querystring = 'q=1&q=2'",
            "/p?q=1&q=2",
            "one=1; two=2; one=3",
        ),
        (
            "request.querystring = {a: {value: '', multiValue: [{value: 'x'}, {value: 'y'}]}}",
            "/p?a=x&a=y",
            "one=1; two=2; one=3",
        ),
        (
            "request.uri = '/new'",
            "/new?a=1&b=2&a=3&bare&c=%20x",
            "one=1; two=2; one=3",
        ),
    ] {
        let sent = edit(&format!("{body}; return request"), base, "").await;
        assert_eq!(
            sent,
            format!("GET {line} HTTP/1.1\nHost: a.example\nCookie: {cookie}\n\n"),
            "{body}"
        );
    }
    let sent = edit("request.cookies = {}; return request", base, "").await;
    assert_eq!(
        sent,
        "GET /p?a=1&b=2&a=3&bare&c=%20x HTTP/1.1\nHost: a.example\n\n"
    );
}

#[tokio::test]
async fn set_cookies_are_written_by_the_rules() {
    let base = "HTTP/1.1 200 OK\nSet-Cookie: a=1; Secure\nX: y\nSet-Cookie: b=2\n\n";
    for (body, fields) in [
        ("delete response.cookies.a", "X: y\nSet-Cookie: b=2\n"),
        (
            "response.cookies.b.value = '3'; response.cookies.b.attributes = 'Path=/'",
            "Set-Cookie: a=1; Secure\nX: y\nSet-Cookie: b=3; Path=/\n",
        ),
        (
            "response.cookies.c = {value: '4', attributes: 'Max-Age=1'}",
            "Set-Cookie: a=1; Secure\nX: y\nSet-Cookie: b=2\nSet-Cookie: c=4; Max-Age=1\n",
        ),
        (
            "response.cookies.b = {value: '', multiValue: [{value: '5'}, {value: '6', attributes: 'Secure'}]}",
            "Set-Cookie: a=1; Secure\nX: y\nSet-Cookie: b=5\nSet-Cookie: b=6; Secure\n",
        ),
    ] {
        let sent = answer(&format!("{body}; return response"), base, "").await;
        assert_eq!(sent, format!("HTTP/1.1 200 OK\n{fields}\n"), "{body}");
    }
}

#[tokio::test]
async fn a_response_to_a_request_is_an_answer_and_the_server_sees_nothing() {
    let sent = edit(
        "return {statusCode: 302, statusDescription: 'Found', headers: {location: {value: 'https://b.example/'}}, \
         cookies: {c: {value: '1', attributes: 'Secure'}}}",
        GET,
        "",
    )
    .await;
    assert_eq!(
        sent,
        "HTTP/1.1 302 Found\nLocation: https://b.example/\nSet-Cookie: c=1; Secure\n\n"
    );
    for (body, expected) in [
        ("'text'", "HTTP/1.1 200 OK\n\ntext"),
        (
            "{encoding: 'text', data: 'more'}",
            "HTTP/1.1 200 OK\n\nmore",
        ),
        (
            "{encoding: 'base64', data: 'aGVsbG8='}",
            "HTTP/1.1 200 OK\n\nhello",
        ),
        ("''", "HTTP/1.1 200 OK\n\n"),
    ] {
        assert_eq!(
            edit(
                &format!("return {{statusCode: 200, body: {body}}}"),
                GET,
                ""
            )
            .await,
            expected
        );
    }
}

#[tokio::test]
async fn a_body_of_a_response_is_replaced_removed_or_left() {
    let base = "HTTP/1.1 200 OK\nContent-Encoding: gzip\nETag: \"1\"\nContent-Length: 3\n\nold";
    assert_eq!(answer("return response", base, "").await, base);
    let new = answer("response.body = 'new content'; return response", base, "").await;
    assert!(
        new.ends_with("\n\nnew content") && !new.to_lowercase().contains("content-encoding"),
        "{new}"
    );
    let gone = answer("response.body = ''; return response", base, "").await;
    assert!(gone.ends_with("\n\n"), "{gone}");
    let coded = answer("response.body = {encoding: 'base64', data: 'AAEC'}; response.headers['content-encoding'].value = 'br'; return response", base, "").await;
    assert!(
        coded.to_lowercase().contains("content-encoding: br"),
        "{coded}"
    );
}

#[tokio::test]
async fn strict_hides_and_protects_what_cloudfront_does() {
    let base = "GET / HTTP/1.1\nHost: a.example\nVia: 1.1 p\nExpect: 100-continue\nX-Amzn-RequestId: 1\nX-Edge-Foo: 2\n\n";
    let names = "return {statusCode: 200, body: Object.keys(request.headers).join()}";
    assert!(
        edit(names, base, "profile = 'strict'")
            .await
            .ends_with("\n\nhost,via")
    );
    assert!(
        edit(names, base, "")
            .await
            .ends_with("\n\nhost,via,expect,x-amzn-requestid,x-edge-foo")
    );
    for name in [
        "connection",
        "expect",
        "x-edge-a",
        "x-amz-cf-id",
        "x-cache",
        "x-real-ip",
        "x-forwarded-proto",
        "upgrade",
        "via",
        "content-length",
        "transfer-encoding",
    ] {
        let body = format!("request.headers[{name:?}] = {{value: 'close'}}; return request");
        let sent = edit(&body, base, "profile = 'strict'").await;
        assert!(sent.starts_with("502: "), "{name}: {sent}");
    }
    for body in [
        "request.headers.host.value = 'b.example'",
        "delete request.headers.host",
        "delete request.headers.via",
    ] {
        let sent = edit(
            &format!("{body}; return request"),
            base,
            "profile = 'strict'",
        )
        .await;
        assert!(sent.starts_with("502: "), "{body}: {sent}");
    }
    for name in ["via", "warning", "x-cache"] {
        let sent = answer(
            &format!("response.headers[{name:?}] = {{value: 'a'}}; return response"),
            "HTTP/1.1 200 OK\n\n",
            "profile = 'strict'",
        )
        .await;
        assert!(sent.starts_with("502: "), "{name}: {sent}");
    }
    let error = "HTTP/1.1 404 Not Found\n\n";
    let add = "response.headers.seen = {value: '1'}; return response";
    assert_eq!(answer(add, error, "profile = 'strict'").await, error);
    assert!(answer(add, error, "").await.contains("Seen: 1"));
}

#[tokio::test]
async fn threat_62_outputs_that_break_the_framing_are_refused_in_every_profile() {
    for config in ["", "profile = 'strict'"] {
        for name in [
            "connection",
            "content-length",
            "transfer-encoding",
            "te",
            "trailer",
            "upgrade",
            "keep-alive",
            "http2-settings",
            "proxy-connection",
        ] {
            let sent = edit(
                &format!("request.headers[{name:?}] = {{value: 'chunked'}}; return request"),
                GET,
                config,
            )
            .await;
            assert!(sent.starts_with("502: "), "{name}: {sent}");
            let sent = answer(
                &format!("response.headers[{name:?}] = {{value: 'chunked'}}; return response"),
                "HTTP/1.1 200 OK\n\n",
                config,
            )
            .await;
            assert!(sent.starts_with("502: "), "{name}: {sent}");
        }
    }
}

#[tokio::test]
async fn threat_62_line_ends_and_wrong_types_are_refused() {
    for body in [
        r"request.headers['x-a'] = {value: 'a\r\nEvil: 1'}",
        r"request.headers['x-a'] = {value: 'a\nEvil: 1'}",
        r"request.headers['x-a'] = {value: 'a\0b'}",
        r"request.headers['x-a\r\nEvil'] = {value: 'a'}",
        "request.headers['x a'] = {value: 'a'}",
        "request.headers[''] = {value: 'a'}",
        "request.headers['x-a:'] = {value: 'a'}",
        "request.headers['X-Upper'] = {value: 'a'}",
        "request.headers['cookie'] = {value: 'a=b'}",
        "request.headers['x-a'] = {value: 1}",
        "request.headers['x-a'] = {value: null}",
        "request.headers['x-a'] = {}",
        "request.headers['x-a'] = 'a'",
        "request.headers['x-a'] = {multiValue: 'a'}",
        "request.headers['x-a'] = {multiValue: [1]}",
        "request.headers = []",
        "request.headers = 'a'",
        r"request.headers['x-a'] = {value: '\ud800'}",
        "request.headers.host = {multiValue: [{value: 'a'}, {value: 'b'}]}",
        r"request.uri = '/a b'",
        r"request.uri = '/a\r\nEvil: 1'",
        "request.uri = 'a'",
        "request.uri = ''",
        "request.uri = 7",
        "request.uri = '/a?b'",
        "request.uri = '/a#b'",
        "delete request.uri",
        "request.uri = '/' + 'a'.repeat(9000)",
        "request.method = 'POST'",
        "request.method = 1",
        r"request.querystring = 'a b'",
        r"request.querystring = 'a\r\nb'",
        "request.querystring = 'a#b'",
        "request.querystring = {a: 1}",
        "request.querystring = {'a b': {value: ''}}",
        r"request.cookies = {'a': {value: 'b; c=d'}}",
        r"request.cookies = {'a=b': {value: 'c'}}",
        r"request.cookies = {'a': {value: 'b\r\nEvil: 1'}}",
        "return {statusCode: '200'}",
        "return {statusCode: 99}",
        "return {statusCode: 600}",
        "return {statusCode: 101}",
        "return {statusCode: 200.5}",
        "return {statusCode: NaN}",
        "return {statusCode: null}",
        "return {statusCode: 200, statusDescription: 1}",
        r"return {statusCode: 200, statusDescription: 'a\r\nEvil: 1'}",
        "return {statusCode: 200, body: 1}",
        "return {statusCode: 200, body: {encoding: 'gzip', data: ''}}",
        "return {statusCode: 200, body: {encoding: 'base64', data: '!'}}",
        "return {statusCode: 200, body: {data: 1}}",
        "return {statusCode: 200, headers: {'set-cookie': {value: 'a=b'}}}",
        "return {statusCode: 200, headers: {connection: {value: 'close'}}}",
        r"return {statusCode: 200, cookies: {a: {value: 'b', attributes: 'c\r\nEvil: 1'}}}",
        "return undefined",
        "return null",
        "return 1",
        "return 'text'",
        "return []",
        "return event",
        "return () => 1",
        "return {}",
        "return new Proxy({}, {get() { return 1 }})",
        "return Promise.resolve(3)",
    ] {
        let sent = edit(&format!("{body}; return request"), GET, "").await;
        assert!(sent.starts_with("502: "), "{body}: {sent}");
        assert!(!sent.contains('\r'), "{body}: {sent}");
    }
}

#[tokio::test]
async fn threat_61_huge_outputs_are_refused() {
    for body in [
        "for (let n = 0; n < 2000; n++) request.headers['x-' + n] = {value: 'a'}",
        "request.headers['x-a'] = {value: 'a'.repeat(100000)}",
        "request.headers['x-a'] = {multiValue: Array(5000).fill({value: 'a'})}",
        "const a = []; a.length = 4e9; request.headers['x-a'] = {multiValue: a}",
        "return {statusCode: 200, body: 'a'.repeat(1200000)}",
    ] {
        let sent = edit(&format!("{body}; return request"), GET, "memory = '64MiB'").await;
        assert!(sent.starts_with("502: "), "{body}: {sent:.200}");
    }
}

#[tokio::test]
async fn the_host_may_be_changed_by_the_appliances_rules() {
    let sent = edit(
        "request.headers.host.value = 'b.example'; return request",
        GET,
        "",
    )
    .await;
    assert_eq!(sent, "GET / HTTP/1.1\nHost: b.example\n\n");
    let mut http2 = request("GET https://a.example/x HTTP/2\n\n");
    http2.headers.clear();
    let (mut play, _script) = play(
        "function handler(e) { e.request.headers.host.value += ':1'; return e.request }",
        "",
    );
    assert_eq!(
        play.send(http2).await.to_server(),
        "GET https://a.example:1/x HTTP/2\n\n"
    );
}

#[tokio::test]
async fn threat_64_a_function_cannot_choose_a_host_of_the_inside() {
    for body in [
        "request.headers.host.value = '169.254.169.254'",
        "request.headers.host.value = 'localhost'",
        "cf.updateRequestOrigin({domainName: '169.254.169.254'})",
        "cf.updateRequestOrigin({domainName: 'metadata.google.internal'})",
        "cf.updateRequestOrigin({domainName: 'good.example\\r\\nEvil: 1'})",
        "cf.updateRequestOrigin({originAccessControlConfig: {enabled: true}})",
        "cf.selectRequestOriginById('a')",
        "cf.createRequestOriginGroup({originIds: ['a', 'b']})",
    ] {
        let script = Script::new(&format!(
            "import cf from 'cloudfront';\nfunction handler(event) {{ const request = event.request; {body}; return request }}"
        ));
        let failed = failure(script.play("").request(GET).await);
        assert!(failed.status.is_server_error(), "{body}: {failed:?}");
    }
    let script = Script::new(
        "import cf from 'cloudfront';\nfunction handler(e) { cf.updateRequestOrigin({domainName: 'new.example', originPath: '/v2', customHeaders: {'X-From': 'f'}}); return e.request }",
    );
    let sent = script
        .play("")
        .request("GET /a?b=c HTTP/1.1\nHost: a.example\n\n")
        .await
        .to_server();
    assert_eq!(
        sent,
        "GET /v2/a?b=c HTTP/1.1\nHost: new.example\nX-From: f\n\n"
    );
    let failed = failure(
        script
            .play("origins = ['*.other.example']")
            .request(GET)
            .await,
    );
    assert!(failed.reason.contains("origins"), "{failed:?}");
}

#[tokio::test]
async fn the_originals_names_of_handlers_and_both_at_once_work() {
    let (mut play, _script) = play(
        "function onRequest(e) { e.request.headers.a = {value: '1'}; return e.request }\n\
         function onResponse(e) { e.response.headers.b = {value: e.request.headers.a ? 'changed' : 'as the client sent it'}; return e.response }",
        "",
    );
    assert!(play.request(GET).await.to_server().contains("A: 1"));
    assert_eq!(
        play.response("HTTP/1.1 204 No Content\n\n").await,
        "HTTP/1.1 204 No Content\nB: as the client sent it\n\n"
    );
}

#[tokio::test]
async fn a_failing_function_is_503_and_an_invalid_result_502_or_the_exchange_goes_on() {
    use sdk::{Chain, Link, OnError};
    let script = Script::new(
        "function handler(e) { if (e.request.uri === '/throw') throw new Error('no'); return 1 }",
    );
    let seen = failure(
        script
            .play("")
            .request("GET /throw HTTP/1.1\nHost: a\n\n")
            .await,
    );
    assert_eq!(seen.status.as_u16(), 503);
    assert!(
        seen.reason.contains("Error: no at handler (function.js:1:"),
        "{}",
        seen.reason
    );
    let seen = failure(script.play("").request(GET).await);
    assert_eq!(seen.status.as_u16(), 502);
    let link = Link::new("f", script.build("").unwrap(), OnError::Continue);
    let mut play = sdk::testing::Playbook::with_chain(Chain::new(vec![link]));
    assert_eq!(play.request(GET).await.to_server(), GET);
    assert_eq!(play.stats().notes.get("script-invalid-result"), Some(&1));
}

#[tokio::test]
async fn websocket_messages_are_changed_dropped_and_answered_with_a_close() {
    use sdk::{Direction, Message, Payload};
    let (mut play, _script) = play(
        "function onWebSocketMessage(e) { const m = e.message;\n\
         if (m.data === 'drop') return null; if (m.data === 'close') return {close: 1008};\n\
         if (m.encoding === 'text') m.data = m.direction + ' ' + m.data; return m }",
        "",
    );
    play.request(GET).await;
    let text = |text: &str| Message {
        direction: Direction::ToServer,
        payload: Payload::Text(text.to_owned()),
    };
    assert_eq!(
        play.message(text("hi")).await.unwrap().payload,
        Payload::Text("to-server hi".to_owned())
    );
    assert_eq!(play.message(text("drop")).await, None);
    assert_eq!(play.message(text("close")).await, None);
    assert_eq!(play.stats().aborted, 1);
    let binary = Message {
        direction: Direction::ToClient,
        payload: Payload::Binary(vec![0, 255].into()),
    };
    assert_eq!(play.message(binary.clone()).await, Some(binary));
}
