//! What AWS's public sample functions are for, each in a few lines of our own.

use crate::{GET, Script};

/// What the server gets, or the client at once.
async fn run(source: &str, kvs: Option<&str>, request: &str) -> String {
    let script = Script::new(source);
    let config = kvs.map_or_else(String::new, |text| {
        let file = script.write("store.json", text);
        format!("kvs = [{{id = 'store', file = {file:?}}}]")
    });
    match script.play(&config).request(request).await {
        sdk::testing::Seen::ToServer(text) | sdk::testing::Seen::ToClient(text) => text,
        other => format!("{other:?}"),
    }
}

/// What the client gets of a response.
async fn respond(source: &str, request: &str, response: &str) -> String {
    let script = Script::new(source);
    let mut play = script.play("events = ['viewer-response']");
    play.request(request).await;
    play.response(response).await
}

#[tokio::test]
async fn add_a_cache_control_header() {
    let source = "function handler(event) { var response = event.response; \
        if (!response.headers['cache-control']) response.headers['cache-control'] = {value: 'public, max-age=63072000'}; return response; }";
    let sent = respond(source, GET, "HTTP/1.1 200 OK\n\nx").await;
    assert_eq!(
        sent,
        "HTTP/1.1 200 OK\nCache-Control: public, max-age=63072000\n\nx"
    );
    let kept = "HTTP/1.1 200 OK\nCache-Control: no-store\n\nx";
    assert_eq!(respond(source, GET, kept).await, kept);
}

#[tokio::test]
async fn add_a_cors_header_when_the_request_has_an_origin() {
    let source = "function handler({request, response}) { \
        if (request.headers.origin && !response.headers['access-control-allow-origin']) \
            response.headers['access-control-allow-origin'] = {value: request.headers.origin.value}; return response; }";
    let with = "GET / HTTP/1.1\nHost: a\nOrigin: https://b.example\n\n";
    let sent = respond(source, with, "HTTP/1.1 200 OK\n\n").await;
    assert_eq!(
        sent,
        "HTTP/1.1 200 OK\nAccess-Control-Allow-Origin: https://b.example\n\n"
    );
    assert_eq!(
        respond(source, GET, "HTTP/1.1 200 OK\n\n").await,
        "HTTP/1.1 200 OK\n\n"
    );
}

#[tokio::test]
async fn add_an_origin_header_and_the_true_client_address() {
    let source = "function handler(event) { const h = event.request.headers; \
        if (h.host && !h.origin) h.origin = {value: 'https://' + h.host.value}; h['true-client-ip'] = {value: event.viewer.ip}; return event.request; }";
    assert_eq!(
        run(source, None, GET).await,
        "GET / HTTP/1.1\nHost: a.example\nOrigin: https://a.example\nTrue-Client-Ip: 10.0.0.10\n\n"
    );
}

#[tokio::test]
async fn rewrite_urls_to_index_files() {
    let source = "function handler(event) { var request = event.request; var uri = request.uri; \
        if (uri.endsWith('/')) request.uri += 'index.html'; else if (!uri.includes('.')) request.uri += '/index.html'; return request; }";
    for (uri, expected) in [
        ("/", "/index.html"),
        ("/blog", "/blog/index.html"),
        ("/a.css", "/a.css"),
        ("/blog/?x=1", "/blog/index.html?x=1"),
    ] {
        let sent = run(source, None, &format!("GET {uri} HTTP/1.1\nHost: a\n\n")).await;
        assert_eq!(sent, format!("GET {expected} HTTP/1.1\nHost: a\n\n"));
    }
}

#[tokio::test]
async fn normalise_the_query_for_the_cache() {
    let source = "function handler(event) { var q = event.request.querystring; var parts = []; \
        Object.keys(q).sort().forEach(function (name) { (q[name].multiValue || [q[name]]).forEach(function (v) { parts.push(name.toLowerCase() + '=' + v.value); }); }); \
        event.request.querystring = parts.join('&'); return event.request; }";
    let sent = run(source, None, "GET /?B=2&a=1&B=3 HTTP/1.1\nHost: a\n\n").await;
    assert_eq!(sent, "GET /?b=2&b=3&a=1 HTTP/1.1\nHost: a\n\n");
}

/// A token of RFC 7519 with HMAC-SHA256, checked with the crypto and Buffer modules.
const TOKEN: &str = "import crypto from 'crypto';\n\
    import cf from 'cloudfront';\n\
    const refused = {statusCode: 401, statusDescription: 'Unauthorized'};\n\
    function claims(token, key) {\n\
        const [head, body, signature] = token.split('.');\n\
        if (!signature) throw new Error('not a token');\n\
        const expected = crypto.createHmac('sha256', key).update(head + '.' + body).digest('base64url');\n\
        if (expected !== signature) throw new Error('wrong signature');\n\
        const claims = JSON.parse(Buffer.from(body, 'base64url').toString());\n\
        if (claims.exp && Date.now() > claims.exp * 1000) throw new Error('expired');\n\
        return claims;\n\
    }\n\
    async function handler(event) {\n\
        const request = event.request;\n\
        if (!request.querystring.jwt) return refused;\n\
        try { claims(request.querystring.jwt.value, await cf.kvs().get('key')); } catch (e) { console.log(e.message); return refused; }\n\
        delete request.querystring.jwt;\n\
        return request;\n\
    }";

#[tokio::test]
async fn verify_a_token_with_a_key_from_a_store() {
    use base64::Engine as _;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let token = |claims: &str, key: &str| {
        let text = format!(
            "{}.{}",
            base64.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
            base64.encode(claims)
        );
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        format!("{text}.{}", base64.encode(mac.finalize().into_bytes()))
    };
    let ask = async |token: &str| {
        let request = format!("GET /x?jwt={token}&a=1 HTTP/1.1\nHost: a\n\n");
        run(TOKEN, Some(r#"{"key": "secret"}"#), &request).await
    };
    assert_eq!(
        ask(&token(r#"{"exp":4102444800}"#, "secret")).await,
        "GET /x?a=1 HTTP/1.1\nHost: a\n\n"
    );
    for bad in [
        token(r#"{"exp":4102444800}"#, "guess"),
        token(r#"{"exp":1}"#, "secret"),
        "a.b.c".to_owned(),
        "x".to_owned(),
    ] {
        assert!(
            ask(&bad).await.starts_with("HTTP/1.1 401 Unauthorized"),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_store_decides_where_viewers_are_sent() {
    let source = "import cf from 'cloudfront'; const store = cf.kvs('store');\n\
        async function handler(event) { const request = event.request;\n\
        try { const to = await store.get(request.uri, {format: 'json'}); return {statusCode: to.status, headers: {location: {value: to.location}}}; }\n\
        catch (e) { return request; } }";
    let store =
        r#"{"data": [{"key": "/old", "value": "{\"status\": 301, \"location\": \"/new\"}"}]}"#;
    let sent = run(source, Some(store), "GET /old HTTP/1.1\nHost: a\n\n").await;
    assert_eq!(sent, "HTTP/1.1 301 Moved Permanently\nLocation: /new\n\n");
    assert_eq!(run(source, Some(store), GET).await, GET);
}

#[tokio::test]
async fn the_origin_follows_the_viewers_country() {
    let source = "import cf from 'cloudfront';\n\
        function handler(event) { const country = event.request.headers['cloudfront-viewer-country'];\n\
        if (country && country.value === 'DE') cf.updateRequestOrigin({domainName: 'eu.example.com', timeouts: {connectionTimeout: 3}}); return event.request; }";
    let request = "GET / HTTP/1.1\nHost: a.example\nCloudFront-Viewer-Country: DE\n\n";
    assert_eq!(
        run(source, None, request).await,
        request.replace("a.example", "eu.example.com")
    );
    assert_eq!(run(source, None, GET).await, GET);
}

#[tokio::test]
async fn add_security_headers() {
    let source = include_str!("../../../../examples/functions/security-headers.js");
    let sent = respond(
        source,
        GET,
        "HTTP/1.1 200 OK\nX-Frame-Options: SAMEORIGIN\n\nx",
    )
    .await;
    for line in [
        "X-Frame-Options: SAMEORIGIN\n",
        "X-Content-Type-Options: nosniff\n",
        "Strict-Transport-Security: max-age=",
    ] {
        assert!(sent.contains(line), "{line} is not in {sent}");
    }
    assert!(!sent.contains("DENY"), "{sent}");
}

#[tokio::test]
async fn redirect_by_country_and_keep_the_query() {
    let source = include_str!("../../../../examples/functions/redirect-by-country.js");
    let request = |uri: &str, country: &str| {
        format!("GET {uri} HTTP/1.1\nHost: a\nCloudFront-Viewer-Country: {country}\n\n")
    };
    for (uri, expected) in [
        ("/x", "/de/x"),
        ("/x?a=1&b=%20&a=2", "/de/x?a=1&b=%20&a=2"),
        ("/?", "/de/"),
    ] {
        let sent = run(source, None, &request(uri, "DE")).await;
        let location = format!("Location: {expected}\n");
        assert!(
            sent.starts_with("HTTP/1.1 302 Found\n") && sent.contains(&location),
            "{sent}"
        );
    }
    let elsewhere = request("/x", "US");
    assert_eq!(run(source, None, &elsewhere).await, elsewhere);
}

#[tokio::test]
async fn one_domain_for_all_viewers() {
    let source = "function handler(event) { const request = event.request, host = request.headers.host.value;\n\
        if (host === 'www.example.com') return request;\n\
        const pairs = Object.entries(request.querystring).flatMap(([name, entry]) =>\n\
            (entry.multiValue || [entry]).map((one) => one.value === '' ? name : name + '=' + one.value));\n\
        const query = pairs.length ? '?' + pairs.join('&') : '';\n\
        return {statusCode: 301, headers: {location: {value: 'https://www.example.com' + request.uri + query}}}; }";
    let request = |host: &str| format!("GET /p?a=1&a=2&b HTTP/1.1\nHost: {host}\n\n");
    assert_eq!(
        run(source, None, &request("example.com")).await,
        "HTTP/1.1 301 Moved Permanently\nLocation: https://www.example.com/p?a=1&a=2&b\n\n"
    );
    let www = request("www.example.com");
    assert_eq!(run(source, None, &www).await, www);
}

#[tokio::test]
async fn a_store_has_two_variants_and_a_cookie_keeps_a_viewer_with_one() {
    let source = "import cf from 'cloudfront'; const store = cf.kvs();\n\
        async function handler(event) { const request = event.request;\n\
        if (!await store.exists(request.uri)) return request;\n\
        const weights = await store.get(request.uri, {format: 'json'});\n\
        const cookie = request.cookies.variant;\n\
        const draw = cookie ? Number(cookie.value) : parseInt(event.context.requestId.length, 10) % 100;\n\
        request.uri = draw < weights.share ? weights.b : weights.a;\n\
        return request; }";
    let store = r#"{"/": {"share": 50, "a": "/a.html", "b": "/b.html"}}"#;
    for (draw, expected) in [(10, "/b.html"), (90, "/a.html")] {
        let request = format!("GET / HTTP/1.1\nHost: a\nCookie: variant={draw}\n\n");
        let sent = run(source, Some(store), &request).await;
        assert_eq!(
            sent,
            request.replacen("GET /", &format!("GET {expected}"), 1)
        );
    }
    let other = "GET /x HTTP/1.1\nHost: a\n\n";
    assert_eq!(run(source, Some(store), other).await, other);
}

#[tokio::test]
async fn a_share_of_viewers_by_hash_goes_to_the_new_origin() {
    let source = "import cf from 'cloudfront'; import crypto from 'crypto';\n\
        function handler(event) { const id = event.request.headers['x-viewer'];\n\
        const hash = parseInt(crypto.createHash('sha256').update(id ? id.value : event.viewer.ip).digest('hex').slice(0, 8), 16);\n\
        if (hash % 100 < 50) cf.updateRequestOrigin({domainName: 'new.example.com', originAccessControlConfig: {enabled: false}});\n\
        return event.request; }";
    let mut hosts = Vec::new();
    for viewer in 0..20 {
        let request = format!("GET / HTTP/1.1\nHost: old.example\nX-Viewer: {viewer}\n\n");
        let sent = run(source, None, &request).await;
        assert_eq!(
            sent,
            run(source, None, &request).await,
            "the same viewer, the same origin"
        );
        hosts.push(sent.contains("new.example.com"));
    }
    assert!(hosts.contains(&true) && hosts.contains(&false), "{hosts:?}");
}

#[tokio::test]
async fn origins_that_cloudfront_has_by_name_are_refused_with_the_reason() {
    for call in [
        "selectRequestOriginById('a')",
        "createRequestOriginGroup({originIds: ['a', 'b']})",
    ] {
        let source = format!(
            "import cf from 'cloudfront'; function handler(event) {{ try {{ cf.{call}; }} catch (e) {{ return {{statusCode: 500, body: e.message}}; }} }}"
        );
        let sent = run(&source, None, GET).await;
        assert!(sent.contains("is not possible here"), "{sent}");
    }
}

#[tokio::test]
async fn parameters_of_the_query_are_validated_as_a_bundler_leaves_the_code() {
    // What compilers of TypeScript emit: classes, helpers, and the handler as a variable's value.
    let source = "\"use strict\";\nvar Invalid = class extends Error { constructor(name, why) { super(name + ' ' + why); this.name = 'Invalid'; } };\n\
        var __checks = { id: (v) => /^[0-9]+$/.test(v), sort: (v) => ['asc', 'desc'].includes(v) };\n\
        function validate(q) { for (const [name, one] of Object.entries(q)) { const check = __checks[name];\n\
          if (!check) throw new Invalid(name, 'is unknown'); if (!check(one.value)) throw new Invalid(name, 'is invalid'); } }\n\
        var handler = (event) => { try { validate(event.request.querystring); return event.request; }\n\
          catch (e) { if (e instanceof Invalid) return { statusCode: 400, body: { encoding: 'text', data: e.message } }; throw e; } };";
    let fine = "GET /?id=12&sort=asc HTTP/1.1\nHost: a\n\n";
    assert_eq!(run(source, None, fine).await, fine);
    for (query, expected) in [("id=x", "id is invalid"), ("other=1", "other is unknown")] {
        let sent = run(
            source,
            None,
            &format!("GET /?{query} HTTP/1.1\nHost: a\n\n"),
        )
        .await;
        assert!(
            sent.starts_with("HTTP/1.1 400 Bad Request\n") && sent.ends_with(expected),
            "{sent}"
        );
    }
}
