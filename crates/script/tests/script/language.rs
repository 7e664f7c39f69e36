//! What functions find in their realm.

use crate::value_of;

async fn check(cases: &[(&str, &str)]) {
    for (body, expected) in cases {
        assert_eq!(value_of("import cf from 'cloudfront'; import crypto from 'crypto'; import qs from 'querystring';", body).await, *expected, "{body}");
    }
}

#[tokio::test]
async fn hashes_agree_with_the_standards() {
    // RFC 1321 A.5, FIPS 180 and RFC 4231 test case 2.
    check(&[
        ("return crypto.createHash('md5').update('abc').digest('hex')", "900150983cd24fb0d6963f7d28e17f72"),
        ("return crypto.createHash('sha1').update('a').update('bc').digest('hex')", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("return crypto.createHash('sha256').update('abc').digest('base64')", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="),
        ("return crypto.createHash('sha256').update('abc').digest('base64url')", "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"),
        ("return crypto.createHmac('sha256', 'Jefe').update('what do ya want for nothing?').digest('hex')", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ("return crypto.createHmac('sha256', 'Jefe').update('what do ya want for nothing?').digest('base64')", "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="),
        ("return crypto.createHmac('sha256', 'Jefe').update('what do ya want for nothing?').digest('base64url')", "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM"),
        ("return crypto.createHmac('sha256', Buffer.from('Jefe')).update('what do ya ').update('want for nothing?').digest().toString('hex').slice(0, 8)", "5bdcc146"),
        // RFC 2202, test case 2 of both.
        ("return crypto.createHmac('md5', 'Jefe').update('what do ya want for nothing?').digest('hex')", "750c783e6ab0b503eaa86e310a5db738"),
        ("return crypto.createHmac('sha1', 'Jefe').update('what do ya want for nothing?').digest('hex')", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ("const a = crypto.createHash('sha256').update('ab'); const b = a.copy(); a.update('x'); return b.update('c').digest('hex').slice(0, 8)", "ba7816bf"),
        ("const a = crypto.createHash('md5'); a.digest(); try { a.copy() } catch (e) { return e.message }", "Digest already called"),
        ("return typeof crypto.subtle", "undefined"),
        ("return crypto.createHash('sha256').update(Buffer.from([97, 98, 99])).digest().toString('hex').slice(0, 8)", "ba7816bf"),
        ("return require('crypto').createHash('sha256').update('\u{e9}').digest('hex').slice(0, 8)", "4a99557e"),
        ("try { crypto.createHash('crc32') } catch (e) { return e.message.slice(0, 12) }", "unknown hash"),
    ])
    .await;
}

#[tokio::test]
async fn buffers_and_text_codings_behave_as_in_node() {
    check(&[
        ("return Buffer.from('h\u{e9}llo').toString('hex')", "68c3a96c6c6f"),
        ("return Buffer.from('aGk', 'base64').toString() + Buffer.from('6869zz', 'hex').toString() + Buffer.from('_-8', 'base64url').toString('base64')", "hihi/+8="),
        ("return Buffer.concat([Buffer.from('a'), Buffer.from([98])]).toString('latin1') + Buffer.byteLength('\u{20ac}') + Buffer.alloc(2, 'x')", "ab3xx"),
        ("const b = Buffer.alloc(4); b.writeUInt16BE(513, 1); return [b.readUInt8(1), b.readUInt16LE(1), b.equals(Buffer.from([0, 2, 1, 0])), Buffer.isBuffer(b), b.indexOf('\\x01')]", "[2,258,true,true,2]"),
        ("return JSON.stringify(Buffer.from('ab')) + Buffer.from('abc').slice(1).toString()", r#"{"type":"Buffer","data":[97,98]}bc"#),
        ("return Buffer.from('hi', 'utf16le').toString('hex') + Buffer.compare(Buffer.from('a'), Buffer.from('b'))", "68006900-1"),
        ("return btoa('\u{ff}') + atob('aGk=') + new TextDecoder().decode(new TextEncoder().encode('\u{20ac}')).length", "/w==hi1"),
        ("try { atob('!') } catch (e) { return 'refused' }", "refused"),
        ("try { new TextDecoder('utf-8', {fatal: true}).decode(new Uint8Array([255])) } catch (e) { return e.name }", "TypeError"),
        ("return encodeURIComponent(Buffer.from([0xff, 0x41]).toString())", "%EF%BF%BDA"),
    ])
    .await;
}

#[tokio::test]
async fn querystring_parses_and_writes() {
    check(&[
        ("return qs.parse('a=1&b=2&a=3&c&d=%41+%zz')", r#"{"a":["1","3"],"b":"2","c":"","d":"A %zz"}"#),
        ("return qs.stringify({a: [1, 'x y'], b: true, c: null})", "a=1&a=x%20y&b=true&c="),
        ("return Object.keys(qs.parse('a&b&c', null, null, {maxKeys: 2})).join() + qs.escape('/') + qs.unescape('%2F')", "a,b%2F/"),
        ("return qs.parse('a:1;b:2', ';', ':')", r#"{"a":"1","b":"2"}"#),
        ("return qs.parse('__proto__=1').__proto__ + qs.decode('x=y').x + qs.encode({k: 'v'})", "1yk=v"),
    ])
    .await;
}

#[tokio::test]
async fn key_value_stores_are_read() {
    check(&[
        ("return await cf.kvs('one').get('plain') + await cf.kvs().get('plain')", "texttext"),
        ("return (await cf.kvs().get('json', {format: 'json'})).a", "[1]"),
        ("return (await cf.kvs().get('plain', {format: 'bytes'})).length", "4"),
        ("return [await cf.kvs().exists('plain'), await cf.kvs().exists('none'), await cf.kvs().count(), (await cf.kvs().meta()).keyCount]", "[true,false,2,2]"),
        ("try { await cf.kvs().get('none') } catch (e) { return e.message }", "KeyNotFound: none"),
        ("try { cf.kvs('two') } catch (e) { return e.message.slice(0, 27) }", "there is no key value store"),
        ("return cf.edgeLocation.name", "flowdog"),
    ])
    .await;
}

#[tokio::test]
async fn the_language_is_the_modern_one_and_the_old_one() {
    check(&[
        ("const {a, ...rest} = {a: 1, b: 2}; class X { #p = a; get p() { return this.#p } } return [new X().p, rest.b, [...'ab'].at(-1), 2 ** 3, null ?? 'd']", r#"[1,2,"b",8,"d"]"#),
        ("var m = 'k=v'.match(/(?<key>\\w)=(?<value>\\w)/); return m.groups.value + 'a-b'.replaceAll('-', '+')", "va+b"),
        ("const e = new Error(); e.message = 'own'; e.name = 'Mine'; return String(e)", "Mine: own"),
        ("const o = {}; o.toString = () => 'mine'; o.constructor = 1; return o + o.constructor", "mine1"),
        ("function F() {} F.prototype.toString = function () { return 'f' }; return String(new F())", "f"),
        ("class E extends Error { constructor(m) { super(m); this.name = 'E' } } try { throw new E('x') } catch (e) { return e.name + (e instanceof Error) }", "Etrue"),
        ("return [typeof setTimeout, typeof fetch, typeof process, typeof performance, typeof SharedArrayBuffer, typeof WeakRef, typeof eval]", r#"["undefined","undefined","undefined","undefined","undefined","undefined","undefined"]"#),
        ("const a = Date.now(), b = new Date().getTime(), c = +new Date(0); for (let i = 0; i < 1e4; i++); return [a === b, a === Date.now(), c, new Date() instanceof Date, typeof Date(), a > 1.7e12]", r#"[true,true,0,true,"string",true]"#),
        ("return (await Promise.all([1, Promise.resolve(2)])).join()", "1,2"),
    ])
    .await;
}
