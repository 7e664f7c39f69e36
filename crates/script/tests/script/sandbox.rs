//! What a function cannot do to others, and what becomes of one that tries.

use std::time::{Duration, Instant};

use sdk::testing::{Playbook, Seen};

use crate::{GET, Script, play, value_of};

async fn reason(play: &mut Playbook) -> String {
    match play.request(GET).await {
        Seen::Failed(failure) => {
            assert_eq!(failure.status.as_u16(), 503);
            failure.reason
        }
        other => panic!("it did not fail: {other:?}"),
    }
}

/// Runs `body` with a small budget, expects a fault, and that the next call is as if nothing had been.
async fn fails(body: &str, config: &str, expected: &str) {
    let source = format!(
        "function handler(event) {{ if (event.request.uri === '/well') return event.request; {body} }}"
    );
    let (mut play, _script) = play(&source, config);
    let begin = Instant::now();
    let reason = reason(&mut play).await;
    assert!(reason.contains(expected), "{body}: {reason}");
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{body}: {:?}",
        begin.elapsed()
    );
    let well = "GET /well HTTP/1.1\nHost: a.example\n\n";
    assert_eq!(play.request(well).await.to_server(), well, "{body}");
}

const SLOW: &str = "took more than 10 ms of processor time";

#[tokio::test]
async fn threat_61_an_endless_loop_is_interrupted() {
    for body in [
        "for (;;);",
        "try { for (;;); } catch (e) { return event.request } finally { for (;;); }",
        "[3, 2, 1].sort(() => { for (;;); })",
        "const o = {get value() { for (;;); }}; event.request.headers.a = o; return event.request",
        "throw {get message() { for (;;); }, name: 'x'}",
        "return new Proxy(event.request, {get() { for (;;); }})",
        "event.request.headers = new Proxy({}, {ownKeys() { for (;;); }}); return event.request",
        "'x'.replace(/x/, () => { for (;;); })",
    ] {
        fails(body, "cpu = '10ms'", SLOW).await;
    }
}

#[tokio::test]
async fn threat_61_regular_expressions_that_backtrack_are_interrupted() {
    fails("/^(a+)+$/.test('a'.repeat(40) + '!')", "cpu = '10ms'", SLOW).await;
    fails("/(x*)*y/.test('x'.repeat(40))", "cpu = '10ms'", SLOW).await;
}

#[tokio::test]
async fn threat_61_memory_growth_ends_at_the_cap() {
    let over = "more than 2097152 bytes of memory";
    for body in [
        "const a = []; for (;;) a.push('x'.repeat(1000) + a.length)",
        "return 'x'.repeat(3000000)",
        "const a = []; for (;;) a.push(new Uint8Array(100000))",
        "let o = {}; for (;;) o = {o, p: [1, 2, 3]}",
        "return new Map(Array.from({length: 1e6}, (_, i) => [i, {}]))",
    ] {
        fails(body, "cpu = '1s'\ngive-up = '4s'", over).await;
    }
}

#[tokio::test]
async fn threat_61_deep_recursion_ends_at_the_cap() {
    fails(
        "const f = () => f() + 1; f()",
        "cpu = '1s'\ngive-up = '4s'",
        "Maximum call stack",
    )
    .await;
    fails(
        "let s = '['.repeat(100000); JSON.parse(s)",
        "cpu = '1s'\ngive-up = '4s'",
        "stack",
    )
    .await;
    fails(
        "let o = {}; for (let i = 0; i < 5000; i++) o = {o}; JSON.stringify(o)",
        "cpu = '1s'\ngive-up = '4s'\nmemory = '16MiB'",
        "stack",
    )
    .await;
}

#[tokio::test]
async fn threat_61_a_promise_that_never_settles_fails_at_once() {
    let begin = Instant::now();
    fails("return new Promise(() => {})", "", "never settles").await;
    fails(
        "return (async () => { await new Promise(() => {}); return event.request })()",
        "",
        "never settles",
    )
    .await;
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn threat_61_a_loop_of_promises_is_interrupted() {
    fails(
        "return (async () => { for (;;) await null })()",
        "cpu = '10ms'",
        SLOW,
    )
    .await;
    fails(
        "const f = () => { Promise.resolve().then(f); }; f(); return event.request",
        "cpu = '10ms'",
        SLOW,
    )
    .await;
}

#[tokio::test]
async fn threat_61_a_native_call_that_cannot_be_interrupted_costs_its_thread_and_no_more() {
    let stuck = "event.request.uri === '/stuck' && new Array(1e9) + ''; return event.request";
    let (mut stuck_play, _one) = play(
        &format!("function handler(event) {{ {stuck} }}"),
        "give-up = '100ms'\nmemory = '256MiB'",
    );
    let (mut other, _two) = play("function handler(e) { return e.request }", "");
    let begin = Instant::now();
    for _ in 0..2 {
        let failed = stuck_play.request("GET /stuck HTTP/1.1\nHost: a\n\n").await;
        assert!(
            format!("{failed:?}").contains("its thread was given up"),
            "{failed:?}"
        );
    }
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    // It holds two threads, so it is not called any more; others are.
    assert!(reason(&mut stuck_play).await.contains("too many calls"));
    for _ in 0..20 {
        assert_eq!(other.request(GET).await.to_server(), GET);
    }
    assert!(flowdog_script::stats().given_up >= 2);
    assert!(flowdog_script::stats().threads >= 1);
}

#[tokio::test]
async fn threat_61_nothing_leaks_from_one_call_to_the_next() {
    // Each tries to leave something, and says what it finds.
    for (leave, find) in [
        ("globalThis.left = 1", "globalThis.left"),
        ("Object.prototype.left = 1", "({}).left"),
        ("Array.prototype.left = 1", "[].left"),
        ("String.prototype.left = 1", "''.left"),
        (
            "Object.getPrototypeOf(async function () {}).left = 1",
            "(async function () {}).left",
        ),
        (
            "Object.getPrototypeOf(function* () {}).prototype.left = 1",
            "(function* () {})().left",
        ),
        (
            "Object.getPrototypeOf([][Symbol.iterator]()).left = 1",
            "[][Symbol.iterator]().left",
        ),
        (
            "Object.getPrototypeOf(''.matchAll(/x/g)).left = 1",
            "''.matchAll(/x/g).left",
        ),
        (
            "Object.getPrototypeOf(new Map().entries()).left = 1",
            "new Map().entries().left",
        ),
        (
            "Object.getPrototypeOf([].values().map(x => x)).left = 1",
            "[].values().map(x => x).left",
        ),
        (
            "Object.getPrototypeOf(Uint8Array).left = 1",
            "Uint8Array.left",
        ),
        (
            "Object.getPrototypeOf(Iterator.from({next() {}})).left = 1",
            "Iterator.from({next() {}}).left",
        ),
        (
            "Object.getPrototypeOf(new (class { #x = 1 })()).left = 1",
            "({}).left",
        ),
        ("Math.left = 1", "Math.left"),
        (
            "Object.getPrototypeOf(Iterator.concat([])).left = 1",
            "Iterator.concat([]).left",
        ),
        (
            "(function () { return Object.getOwnPropertyDescriptor(arguments, 'callee').get; })().left = 1",
            "(function () { return Object.getOwnPropertyDescriptor(arguments, 'callee').get; })().left",
        ),
        (
            "new TextEncoder().constructor.left = 1; TextDecoder.prototype.left = 1",
            "TextEncoder.left || new TextDecoder().left",
        ),
        (
            "new DisposableStack().constructor.left = 1",
            "DisposableStack.left",
        ),
        (
            "Object.setPrototypeOf(Object.prototype, {left: 1})",
            "({}).left",
        ),
        (
            "Object.prototype.__defineGetter__('left', () => 1)",
            "({}).left",
        ),
        (
            "Object.prototype.toString = () => 'l'",
            "String({}) === 'l'",
        ),
        (
            "Error.prototype.name = 'l'; new Error().__proto__.message = 'l'",
            "new Error().name === 'l' || new Error().message === 'l'",
        ),
        ("JSON.parse = () => 1", "JSON.parse('2') === 1"),
        ("console.left = 1", "console.left"),
        (
            "Buffer.left = 1; Buffer.prototype.left = 1",
            "Buffer.left || Buffer.alloc(1).left",
        ),
        ("require('crypto').left = 1", "require('crypto').left"),
        (
            "require('querystring').unescape = () => 'l'",
            "require('querystring').unescape('a') === 'l'",
        ),
        ("cf.left = 1", "cf.left"),
        (
            "crypto.createHash('md5').constructor.left = 1",
            "crypto.createHash('md5').constructor.left",
        ),
        ("cf.kvs().left = 1", "cf.kvs().left"),
        ("/x/.left = 1; RegExp.prototype.left = 1", "/x/.left"),
        ("const t = (s) => s; t`a`.left = 1", "(s => s)`a`.left"),
        ("state = 2", "state === 2"),
        ("shared.left = 1", "shared.left"),
        ("handler.left = 1", "handler.left"),
        ("Promise.resolve().then(() => { state = 2 })", "state === 2"),
        ("event.request.left = 1", "event.request.left"),
        (
            "Symbol.left = 1; Symbol.for('a').left = 1",
            "Symbol.left || Symbol.for('a').left",
        ),
        (
            "Error.prepareStackTrace = () => 'l'; Error.stackTraceLimit = 0",
            "new Error().stack === 'l' || Error.prepareStackTrace",
        ),
        (
            "Date.now = () => 1; Date.prototype.left = 1",
            "Date.now() === 1 || new Date().left",
        ),
        ("(function f() { f.caller.left = 1 })()", "handler.left"),
        (
            "const d = Object.getOwnPropertyDescriptor(event.request, 'headers'); d.get.left = 1; d.set.left = 1; event.request.rawQueryString.left = 1",
            "Object.getOwnPropertyDescriptor(event.request, 'headers').get.left || Object.getOwnPropertyDescriptor(event.request, 'headers').set.left || event.request.rawQueryString.left",
        ),
        (
            "event.context.left = 1; event.request.headers.left = {value: '1'}; event.request.cookies.left = {value: '1'}; delete event.request.headers.left; delete event.request.cookies.left",
            "event.context.left || event.request.headers.left || event.request.cookies.left",
        ),
    ] {
        let source = format!(
            "import cf from 'cloudfront'; import crypto from 'crypto'; let state = 1; const shared = {{}};\n\
             function handler(event) {{\n\
               const found = {find};\n\
               try {{ {leave} }} catch (e) {{}}\n\
               event.request.headers.found = {{value: String(found)}}; return event.request }}"
        );
        let script = Script::new(&source);
        let kvs = script.write("kvs.json", "{}");
        for realm in ["auto", "fresh"] {
            let mut play = script.play(&format!(
                "realm = '{realm}'\nkvs = [{{id = 'k', file = {kvs:?}}}]"
            ));
            let first = play.request(GET).await.to_server();
            for _ in 0..8 {
                assert_eq!(play.request(GET).await.to_server(), first, "{leave}");
            }
            assert!(
                !first.contains("Found: 1") && !first.contains("Found: true"),
                "{leave}: {first}"
            );
        }
    }
}

#[tokio::test]
async fn threat_61_code_from_text_and_host_objects_are_out_of_reach() {
    for body in [
        "return eval('1')",
        "return (0, eval)('1')",
        "return new Function('return 1')()",
        "return Function('return 1')()",
        "return (() => {}).constructor('return 1')()",
        "return (async () => {}).constructor('return 1')()",
        "return (function* () {}).constructor('return 1')().next().value",
        "return (async function* () {}).constructor('return 1')()",
        "return Object.getPrototypeOf((async () => {}).constructor)('return 1')()",
        "return Reflect.construct(Function, ['return 1'])()",
        "class F extends Function {} return new F('return 1')()",
        "return new (Object.getPrototypeOf(class {}).constructor)('return 1')()",
        "return await import('crypto')",
        "return require('fs')",
        "return setTimeout(() => 1)",
    ] {
        let value = value_of("", body).await;
        assert!(value.contains("Failed"), "{body}: {value}");
    }
    assert_eq!(value_of("", "return Object.getOwnPropertyNames(globalThis).filter((n) => /^(flowdog|__flowdog|host|std|os|print|load)/i.test(n)).join()").await, "");
    assert_eq!(
        value_of(
            "",
            "return (() => {}) instanceof Function && (async () => {}) instanceof Function"
        )
        .await,
        "true"
    );
}

#[tokio::test]
async fn a_function_that_changes_its_realm_at_the_top_gets_one_for_each_call() {
    let (mut play, _script) = play(
        "String.prototype.shout = function () { return this.toUpperCase() + '!' };\n\
         if (Object.left) throw new Error('leaked'); Object.left = 1;\n\
         function handler(e) { e.request.headers.a = {value: 'x'.shout()}; return e.request }",
        "",
    );
    for _ in 0..3 {
        assert!(play.request(GET).await.to_server().contains("A: X!"));
    }
}

#[test]
fn a_realm_is_shared_unless_the_top_level_changes_it() {
    for (source, own) in [
        ("function handler(e) { return e.request }", false),
        (
            "import cf from 'cloudfront'; const a = [1].map((x) => x + NaN); const f = async () => {}; f(); \
             class X extends Map {} const r = /x/g; r.test('x'); const b = Buffer.from('x'); const d = new Date(); \
             function handler(e) { return e.request }",
            false,
        ),
        (
            "Array.prototype.last = 1; function handler(e) { return e.request }",
            true,
        ),
        (
            "globalThis.x = 1; function handler(e) { return e.request }",
            true,
        ),
        (
            "delete Object.prototype.toString; function handler(e) { return e.request }",
            true,
        ),
        (
            "JSON.parse = null; function handler(e) { return e.request }",
            true,
        ),
    ] {
        let script = Script::new(source);
        let function =
            flowdog_script::Function::load(script.file(), flowdog_script::Settings::default());
        assert_eq!(function.unwrap().has_own_realm(), own, "{source}");
    }
}

#[tokio::test]
async fn many_calls_leave_no_memory_behind() {
    // Each leaves a knot of objects that only the collector undoes, of a third of the cap.
    let (mut play, _script) = play(
        "function handler(e) { const a = {big: 'x'.repeat(700000)}; a.self = a; class C { m() { return a } } a.c = new C(); return e.request }",
        "",
    );
    for round in 0..200 {
        assert_eq!(play.request(GET).await.to_server(), GET, "round {round}");
    }
}

#[tokio::test]
async fn the_log_is_kept_up_to_its_cap() {
    let script = Script::new(
        "function handler(e) { console.log('a', 1, {b: [2]}, undefined, 'two\\nlines'); for (let i = 0; i < 2000; i++) console.log('x'.repeat(100)); return e.request }",
    );
    let function = flowdog_script::Function::load(
        script.file(),
        flowdog_script::Settings {
            limits: flowdog_script::Limits {
                cpu: Duration::from_secs(1),
                ..Default::default()
            },
            ..Default::default()
        },
    )
    .unwrap();
    let event = r#"{"version":"1.0","context":{"eventType":"viewer-request"},"request":{"method":"GET","uri":"/","headers":{},"cookies":{},"querystring":{}}}"#;
    let done = function
        .call(flowdog_script::Call::new(
            flowdog_script::Entry::ViewerRequest,
            event.to_owned(),
            std::time::SystemTime::now(),
        ))
        .await;
    assert_eq!(done.log[0], "a 1 {\"b\":[2]} undefined two\nlines");
    let size: usize = done.log.iter().map(String::len).sum();
    assert!(size <= 10 * 1024 + 100, "{size}");
    assert!(done.log.last().unwrap().ends_with("(log cut here)"));
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_a_broken_one_keeps_the_old() {
    let source = |word: &str| {
        format!(
            "function handler(e) {{ e.request.headers.word = {{value: '{word}'}}; return e.request }}"
        )
    };
    let script = Script::new(&source("one"));
    let mut play = script.play("");
    assert!(play.request(GET).await.to_server().contains("Word: one"));
    for (text, expected) in [
        (source("second"), "Word: second"),
        ("function handler( {".to_owned(), "Word: second"),
        (source("third!"), "Word: third!"),
    ] {
        let reloads = flowdog_script::stats();
        script.write("function.js", &text);
        let begin = Instant::now();
        loop {
            let stats = flowdog_script::stats();
            if (stats.reloads, stats.reload_failures) != (reloads.reloads, reloads.reload_failures)
            {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{expected}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let sent = play.request(GET).await.to_server();
        assert!(sent.contains(expected), "{sent}");
    }
}

#[test]
fn faults_of_the_config_name_the_key_and_what_is_allowed() {
    let script = Script::new("function handler(e) { return e.request }");
    for (config, expected) in [
        ("cpu = '2s'", "cpu: 2s is out of range; allowed: "),
        ("cpu = 'fast'", "cpu: "),
        ("memory = '1KiB'", "memory: 1KiB is out of range"),
        ("stack = '1GiB'", "stack: 1GiB is out of range"),
        ("give-up = '1ms'", "give-up: 1ms is out of range"),
        (
            "events = ['viewer']",
            "events[0]: there is no event \"viewer\"; allowed: viewer-request, viewer-response",
        ),
        ("profile = 'lax'", "profile: unknown variant"),
        (
            "kvs = [{id = 'a', file = '/nowhere.json'}]",
            "kvs: /nowhere.json",
        ),
        ("colour = 1", "colour: unknown key"),
    ] {
        let fault = script.build(config).unwrap_err().to_string();
        assert!(fault.starts_with(expected), "{config}: {fault}");
    }
    for (source, expected) in [
        ("function handler( {", "SyntaxError"),
        ("let a = 1;", "there is no handler"),
        (
            "}}}); globalThis.x = 1; (function () { return () => { function handler() {}",
            "SyntaxError",
        ),
        (
            "throw new Error('at the top'); function handler() {}",
            "at the top",
        ),
        (
            "import fs from 'fs'; function handler() {}",
            "there is no module 'fs'",
        ),
        ("for (;;); function handler() {}", "processor time"),
        ("await 1; function handler() {}", "SyntaxError"),
        ("export function handler() {}", "SyntaxError"),
    ] {
        let fault = Script::new(source).build("").unwrap_err();
        assert_eq!(fault.key.as_deref(), Some("file"), "{source}");
        assert!(fault.message.contains(expected), "{source}: {fault}");
    }
    let only = Script::new("function onRequest(e) { return e.request }");
    let fault = only.build("events = ['viewer-response']").unwrap_err();
    assert_eq!(fault.key.as_deref(), Some("events"));
}
