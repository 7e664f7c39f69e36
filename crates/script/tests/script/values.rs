//! What the console's test button does, and names that peers choose.

use std::time::{Duration, SystemTime};

use flowdog_script::{Function, Limits, Profile, Settings};

use crate::{Script, play};

#[tokio::test]
async fn names_that_mean_something_in_javascript_are_only_names() {
    let base = "GET /?__proto__=1&constructor=2&toString=3&0=4 HTTP/1.1\nHost: a.example\n__proto__: x\nconstructor: y\nvalueOf: z\nCookie: __proto__=1; hasOwnProperty=2\n\n";
    let (mut play, _script) = play(
        "function handler(e) { const h = e.request.headers; return {statusCode: 200, body: [h['__proto__'].value, h.constructor.value, h.valueof.value, \
         e.request.querystring.toString.value, Object.keys(e.request.cookies), ({}).value].join()} }",
        "",
    );
    assert!(
        play.request(base)
            .await
            .to_client()
            .ends_with("\n\nx,y,z,3,__proto__,hasOwnProperty,")
    );
    let (mut play, _script) = crate::play("function handler(e) { return e.request }", "");
    assert_eq!(play.request(base).await.to_server(), base);
}

#[tokio::test]
async fn bytes_that_are_no_text_survive() {
    let mut request = sdk::testing::request("GET / HTTP/1.1\nHost: a\n\n");
    let value = sdk::HeaderValue::from_bytes(b"caf\xe9").unwrap();
    request
        .headers
        .append(sdk::FieldName::from_static("X-Latin"), value.clone());
    let script = Script::new(
        "function handler(e) { e.request.headers.seen = {value: String(e.request.headers['x-latin'].value.charCodeAt(3))}; return e.request }",
    );
    let mut exchange = sdk::Exchange::new(std::sync::Arc::new(sdk::testing::flow()), &request);
    script
        .build("")
        .unwrap()
        .on_request(&mut request, &mut exchange)
        .await
        .unwrap();
    assert_eq!(request.headers.get("x-latin"), Some(&value));
    assert_eq!(request.headers.get_str("seen"), Some("233"));
}

#[test]
fn a_function_is_tried_on_an_event_as_with_the_consoles_button() {
    let script = Script::new(
        "function handler(e) { console.log('hi'); if (e.request.uri === '/bad') e.request.headers.host = {value: 'x'}; return e.request }",
    );
    let settings = Settings {
        limits: Limits {
            cpu: Duration::from_secs(1),
            ..Limits::default()
        },
        ..Settings::default()
    };
    let function = Function::load(script.file(), settings).unwrap();
    let event = |uri: &str| {
        format!(
            r#"{{"version":"1.0","context":{{"eventType":"viewer-request"}},"viewer":{{"ip":"1.2.3.4"}},
            "request":{{"method":"GET","uri":"{uri}","headers":{{"host":{{"value":"a.example"}}}},"cookies":{{}},"querystring":{{"a":{{"value":"1"}}}}}}}}"#
        )
    };
    let try_on = |event: &str| function.try_on(event, Profile::Strict, SystemTime::now());
    let good = try_on(&event("/")).unwrap();
    assert_eq!((good.fault, good.log), (None, vec!["hi".to_owned()]));
    assert!(good.result.unwrap().contains("\"uri\":\"/\""));
    let bad = try_on(&event("/bad")).unwrap();
    assert!(bad.fault.unwrap().to_string().contains("host is read-only"));
    for (event, expected) in [
        ("", "is not JSON"),
        ("{}", "context.eventType"),
        (event(" ").as_str(), "request.uri"),
    ] {
        assert!(
            try_on(event).unwrap_err().to_string().contains(expected),
            "{event}"
        );
    }
}

#[tokio::test]
async fn an_event_looks_like_any_other_object_though_its_parts_are_made_late() {
    let base = "GET /p?a=1&a=2 HTTP/1.1\nHost: a.example\nX-Odd: 1\nx-odd: 2\nCookie: c=1\n\n";
    for (body, expected) in [
        (
            "JSON.stringify(Object.keys(event)) + Object.keys(event.request)",
            r#"["version","context","viewer","request"]method,uri,querystring,headers,cookies"#,
        ),
        (
            "JSON.stringify({...event.request})",
            r#"{"method":"GET","uri":"/p","querystring":{"a":{"value":"1","multiValue":[{"value":"1"},{"value":"2"}]}},"headers":{"host":{"value":"a.example"},"x-odd":{"value":"1","multiValue":[{"value":"1"},{"value":"2"}]}},"cookies":{"c":{"value":"1"}}}"#,
        ),
        (
            "event.request.headers === event.request.headers && event.context === event.context && event.viewer.ip",
            "10.0.0.10",
        ),
        (
            "'' + (event.context.flow = 1, event.context.flow) + (event.context = 2, event.context) + (delete event.viewer, typeof event.viewer)",
            "12undefined",
        ),
        (
            "(() => { Object.freeze(event.request); try { event.request.cookies = {}; return 'set' } catch (e) { return e.name + event.request.cookies.c.value } })()",
            "TypeError1",
        ),
        (
            "(() => { const r = Object.create(event.request); r.headers = 1; return r.headers + event.request.headers.host.value })()",
            "1a.example",
        ),
        (
            "String(event.request.rawQueryString()) + Object.keys(event.request).includes('rawQueryString')",
            "a=1&a=2false",
        ),
    ] {
        let source = format!(
            "function handler(event) {{ return {{statusCode: 200, body: String({body})}} }}"
        );
        let (mut play, _script) = play(&source, "");
        let seen = play.request(base).await.to_client();
        assert!(seen.ends_with(&format!("\n\n{expected}")), "{body}: {seen}");
    }
    // What comes back untouched, in whatever wrapping, stays as it was sent.
    for untouched in [
        "event.request",
        "{...event.request}",
        "Object.assign({}, event.request)",
        "JSON.parse(JSON.stringify(event.request))",
        "Object.create(event.request)",
        "new Proxy(event.request, {})",
        "new Proxy({}, {get: (_, name) => event.request[name]})",
        "{method: 'GET', uri: '/p', get querystring() { return event.request.querystring }, get headers() { return event.request.headers }, \
         get cookies() { const all = event.request.cookies; all.c.value += ''; return all }}",
        "{...event.request, querystring: 'a=1&a=2'}",
        "(event.request.headers = {...event.request.headers}, event.request)",
        "(event.request.headers['x-odd'] = event.request.headers['x-odd'], event.request)",
    ] {
        let source = format!("function handler(event) {{ return {untouched} }}");
        let (mut play, _script) = play(&source, "");
        assert_eq!(play.request(base).await.to_server(), base, "{untouched}");
    }
    // What was changed is, even when the part had not been read.
    for (change, expected) in [
        (
            "delete event.request.cookies",
            base.replace("Cookie: c=1\n", ""),
        ),
        (
            "event.request.cookies = {}",
            base.replace("Cookie: c=1\n", ""),
        ),
        (
            "event.request.querystring = {}",
            base.replace("?a=1&a=2", ""),
        ),
        (
            "delete event.request.headers['x-odd']",
            base.replace("X-Odd: 1\nx-odd: 2\n", ""),
        ),
        (
            "event.request.headers['x-odd'].multiValue.pop()",
            base.replace("x-odd: 2\n", ""),
        ),
        (
            "event.request.cookies.c.value = '2'",
            base.replace("c=1", "c=2"),
        ),
        (
            "event.request.cookies.c.multiValue = [{value: '2'}]",
            base.replace("c=1", "c=2"),
        ),
    ] {
        let source = format!("function handler(event) {{ {change}; return event.request }}");
        let (mut play, _script) = play(&source, "");
        assert_eq!(play.request(base).await.to_server(), expected, "{change}");
    }
}
