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
