// What a function finds in its realm beside the language itself: the modules of CloudFront Functions,
// Buffer, TextEncoder and TextDecoder, atob and btoa, console. `host` are the functions written in
// Rust. Bytes cross the border as text whose characters are the bytes ("binary").
(function (host) {
    "use strict";
    const { parse, stringify } = JSON;
    const { freeze, defineProperty, getOwnPropertyDescriptor, getPrototypeOf, keys, isFrozen } = Object;
    const { ownKeys, apply, construct } = Reflect;
    const RealDate = Date;

    // Names that are used somewhere need not be made anew for each event and result.
    const NAMES = [
        "version", "context", "viewer", "request", "response", "message", "distributionDomainName", "distributionId",
        "eventType", "requestId", "flow", "endpointId", "flowCookie", "protocol", "client", "server", "address", "port",
        "tls", "clientVersion", "serverVersion", "clientCipherSuite", "serverCipherSuite", "serverName", "alpn",
        "method", "uri", "querystring", "headers", "cookies", "value", "multiValue", "attributes", "statusCode",
        "statusDescription", "body", "encoding", "data", "accept", "accept-encoding", "accept-language", "authorization",
        "cache-control", "connection", "content-encoding", "content-length", "content-type", "date", "etag", "expires",
        "host", "if-modified-since", "if-none-match", "last-modified", "location", "origin", "pragma", "priority",
        "range", "referer", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user", "server",
        "transfer-encoding", "upgrade-insecure-requests", "user-agent", "vary", "via", "x-forwarded-for",
    ];
    const names = Object.fromEntries(NAMES.map((name) => [name, true]));

    // What belongs to one call; set by `invoke`.
    let now = 0;

    // ---- parts of an event, made when they are read: in the order of `Part` ----
    const PARTS = ["context", "viewer", "request", "querystring", "headers", "cookies", "headers", "cookies"];
    const memo = PARTS.map(() => undefined);
    const accessors = PARTS.map((name, at) => ({
        get() {
            const made = memo[at];
            return made === undefined ? (memo[at] = host.part(at, this)) : made;
        },
        set(value) { defineProperty(this, name, { value, writable: true, enumerable: true, configurable: true }); },
    }));
    const rawQueryString = () => host.rawQuery();

    // ---- bytes ----
    const binaryOf = (bytes) => {
        let text = "";
        for (let at = 0; at < bytes.length; at += 4096) {
            text += apply(String.fromCharCode, undefined, bytes.subarray(at, at + 4096));
        }
        return text;
    };
    const viewOf = (value) => {
        if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
        if (value instanceof ArrayBuffer) return new Uint8Array(value);
        throw new TypeError("expected a string, Buffer, TypedArray, DataView or ArrayBuffer");
    };
    const binary = (data, encoding) =>
        typeof data === "string" ? host.encode(data.toWellFormed(), normal(encoding)) : binaryOf(viewOf(data));
    const bytesOf = (text, Kind) => {
        const made = new Kind(text.length);
        for (let at = 0; at < text.length; at++) made[at] = text.charCodeAt(at);
        return made;
    };

    const ENCODINGS = {
        __proto__: null, utf8: "utf8", "utf-8": "utf8", hex: "hex", base64: "base64", base64url: "base64url",
        latin1: "latin1", binary: "latin1", ascii: "ascii", ucs2: "utf16le", "ucs-2": "utf16le",
        utf16le: "utf16le", "utf-16le": "utf16le",
    };
    const normal = (encoding) => {
        if (encoding === undefined || encoding === null) return "utf8";
        const known = ENCODINGS[String(encoding).toLowerCase()];
        if (known === undefined) throw new TypeError("unknown encoding: " + encoding);
        return known;
    };

    class Buffer extends Uint8Array {
        static from(value, encoding, length) {
            if (typeof value === "string") return bytesOf(binary(value, encoding), Buffer);
            if (value instanceof ArrayBuffer) return new Buffer(value, encoding, length);
            if (ArrayBuffer.isView(value)) { const copy = new Buffer(value.length); copy.set(value); return copy; }
            if (value && value.type === "Buffer" && Array.isArray(value.data)) return Buffer.from(value.data);
            if (value && typeof value === "object" && typeof value.length === "number") {
                const copy = new Buffer(value.length);
                for (let at = 0; at < copy.length; at++) copy[at] = value[at];
                return copy;
            }
            throw new TypeError("Buffer.from: expected a string, Buffer, ArrayBuffer or array");
        }
        static alloc(size, fill, encoding) {
            const made = new Buffer(size);
            return fill === undefined ? made : made.fill(fill, 0, size, encoding);
        }
        static allocUnsafe(size) { return new Buffer(size); }
        static isBuffer(value) { return value instanceof Buffer; }
        static isEncoding(name) { return ENCODINGS[String(name).toLowerCase()] !== undefined; }
        static byteLength(value, encoding) {
            return typeof value === "string" ? binary(value, encoding).length : viewOf(value).length;
        }
        static compare(a, b) { return Buffer.from(a).compare(b); }
        static concat(list, total) {
            let length = 0;
            for (const one of list) length += one.length;
            const all = new Buffer(total === undefined ? length : total);
            let at = 0;
            for (const one of list) {
                if (at >= all.length) break;
                all.set(one.subarray(0, all.length - at), at);
                at += one.length;
            }
            return all;
        }
        toString(encoding, start, end) {
            const part = this.subarray(start || 0, end === undefined ? this.length : end);
            return host.decode(binaryOf(part), normal(encoding));
        }
        toJSON() { return { type: "Buffer", data: Array.from(this) }; }
        equals(other) { return this.compare(other) === 0; }
        compare(other) {
            const length = Math.min(this.length, other.length);
            for (let at = 0; at < length; at++) {
                if (this[at] !== other[at]) return this[at] < other[at] ? -1 : 1;
            }
            return Math.sign(this.length - other.length);
        }
        slice(start, end) { return this.subarray(start, end); }
        write(text, offset, length, encoding) {
            if (typeof offset === "string") { encoding = offset; offset = 0; length = undefined; }
            if (typeof length === "string") { encoding = length; length = undefined; }
            offset = offset || 0;
            const bytes = Buffer.from(text, encoding);
            const count = Math.min(bytes.length, length === undefined ? Infinity : length, this.length - offset);
            this.set(bytes.subarray(0, count), offset);
            return count;
        }
        copy(target, at, start, end) {
            const part = this.subarray(start || 0, end === undefined ? this.length : end);
            const count = Math.min(part.length, target.length - (at || 0));
            target.set(part.subarray(0, count), at || 0);
            return count;
        }
        fill(value, start, end, encoding) {
            if (typeof value !== "string") return super.fill(value, start, end);
            const bytes = Buffer.from(value, encoding);
            const stop = end === undefined ? this.length : end;
            for (let at = start || 0, from = 0; at < stop; at++, from++) {
                this[at] = bytes.length ? bytes[from % bytes.length] : 0;
            }
            return this;
        }
        indexOf(value, from, encoding) {
            if (typeof value === "number") return super.indexOf(value, from);
            return binaryOf(this).indexOf(binary(value, encoding), from);
        }
        includes(value, from, encoding) { return this.indexOf(value, from, encoding) >= 0; }
    }
    const numbers = [["UInt8", 1, "Uint8"], ["Int8", 1, "Int8"], ["UInt16", 2, "Uint16"], ["Int16", 2, "Int16"],
        ["UInt32", 4, "Uint32"], ["Int32", 4, "Int32"], ["Float", 4, "Float32"], ["Double", 8, "Float64"]];
    for (const [name, size, view] of numbers) {
        for (const little of size === 1 ? [undefined] : [true, false]) {
            const end = little === undefined ? "" : little ? "LE" : "BE";
            const at = (buffer) => new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
            const read = function (offset) { return at(this)["get" + view](offset || 0, little); };
            const write = function (value, offset) { at(this)["set" + view](offset || 0, value, little); return (offset || 0) + size; };
            defineProperty(Buffer.prototype, "read" + name + end, { value: read, writable: true, configurable: true });
            defineProperty(Buffer.prototype, "write" + name + end, { value: write, writable: true, configurable: true });
        }
    }

    class TextEncoder {
        get encoding() { return "utf-8"; }
        encode(text) { return bytesOf(binary(text === undefined ? "" : String(text)), Uint8Array); }
        encodeInto(text, target) {
            let read = 0, written = 0;
            for (const one of String(text)) {
                const bytes = this.encode(one);
                if (written + bytes.length > target.length) break;
                target.set(bytes, written);
                written += bytes.length;
                read += one.length;
            }
            return { read, written };
        }
    }
    class TextDecoder {
        #fatal; #keep;
        constructor(label, options) {
            const name = label === undefined ? "utf-8" : String(label).trim().toLowerCase();
            if (name !== "utf-8" && name !== "utf8") throw new RangeError("TextDecoder: only utf-8 is known");
            this.#fatal = !!(options && options.fatal);
            this.#keep = !!(options && options.ignoreBOM);
        }
        get encoding() { return "utf-8"; }
        get fatal() { return this.#fatal; }
        get ignoreBOM() { return this.#keep; }
        decode(data) {
            if (data === undefined) return "";
            const text = host.decode(binaryOf(viewOf(data)), this.#fatal ? "utf8-fatal" : "utf8");
            return !this.#keep && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
        }
    }
    const atob = (text) => host.decode(host.encode(String(text).toWellFormed().replace(/[\t\n\f\r ]/g, ""), "base64-strict"), "latin1");
    const btoa = (text) => {
        text = String(text);
        for (let at = 0; at < text.length; at++) {
            if (text.charCodeAt(at) > 255) throw new TypeError("btoa: characters beyond U+00FF");
        }
        return host.decode(text, "base64");
    };

    // ---- crypto ----
    class Hash {
        #name; #key; #data = ""; #done = false;
        constructor(name, key) {
            this.#name = String(name).toLowerCase();
            this.#key = key;
            host.digest(this.#name, "", this.#key);
        }
        update(data, encoding) {
            if (this.#done) throw new Error("Digest already called");
            this.#data += binary(data, encoding);
            return this;
        }
        copy() {
            if (this.#done) throw new Error("Digest already called");
            const copy = new Hash(this.#name, this.#key);
            copy.#data = this.#data;
            return copy;
        }
        digest(encoding) {
            if (this.#done) throw new Error("Digest already called");
            this.#done = true;
            const bytes = host.digest(this.#name, this.#data, this.#key);
            return encoding === undefined || encoding === "buffer" ? bytesOf(bytes, Buffer) : host.decode(bytes, normal(encoding));
        }
    }
    const crypto = {
        createHash: (name) => new Hash(name),
        createHmac: (name, key) => new Hash(name, binary(key)),
    };

    // ---- querystring ----
    const unescape = (text) => { try { return decodeURIComponent(text); } catch (e) { return host.unescape(text.toWellFormed()); } };
    const escape = (text) => encodeURIComponent(text);
    const querystring = {
        escape, unescape,
        parse(text, separator, equals, options) {
            separator = separator || "&";
            equals = equals || "=";
            const found = Object.create(null);
            if (typeof text !== "string" || text === "") return found;
            const most = options && typeof options.maxKeys === "number" ? options.maxKeys : 1000;
            const decode = (options && options.decodeURIComponent) || querystring.unescape;
            let parts = text.split(separator);
            if (most > 0) parts = parts.slice(0, most);
            for (const part of parts) {
                if (part === "") continue;
                const cut = part.indexOf(equals);
                const clean = (piece) => decode(piece.replace(/\+/g, " "));
                const name = clean(cut < 0 ? part : part.slice(0, cut));
                const value = cut < 0 ? "" : clean(part.slice(cut + equals.length));
                if (!(name in found)) found[name] = value;
                else if (Array.isArray(found[name])) found[name].push(value);
                else found[name] = [found[name], value];
            }
            return found;
        },
        stringify(object, separator, equals, options) {
            separator = separator || "&";
            equals = equals || "=";
            if (object === null || typeof object !== "object") return "";
            const encode = (options && options.encodeURIComponent) || querystring.escape;
            const text = (value) =>
                ["string", "boolean", "bigint"].includes(typeof value) || (typeof value === "number" && isFinite(value)) ? encode(String(value)) : "";
            return keys(object).flatMap((name) => {
                const values = Array.isArray(object[name]) ? object[name] : [object[name]];
                return values.map((value) => encode(name) + equals + text(value));
            }).join(separator);
        },
    };
    querystring.decode = querystring.parse;
    querystring.encode = querystring.stringify;

    // ---- cloudfront ----
    const noSuch = (what) => () => {
        throw new Error(what + " is not possible here: the request goes to the server that the client has connected to");
    };
    const cf = {
        kvs(id) {
            const name = id === undefined ? "" : String(id);
            host.kvs(name, "open");
            return freeze({
                async get(key, options) {
                    const value = host.kvs(name, "get", String(key));
                    if (value === undefined) throw new Error("KeyNotFound: " + key);
                    const format = (options && options.format) || "string";
                    if (format === "json") return parse(value);
                    if (format === "bytes") return bytesOf(binary(value), Buffer);
                    if (format === "string") return value;
                    throw new TypeError("kvs: unknown format " + format);
                },
                async exists(key) { return host.kvs(name, "get", String(key)) !== undefined; },
                async count() { return parse(host.kvs(name, "meta")).keyCount; },
                async meta() { return parse(host.kvs(name, "meta")); },
            });
        },
        updateRequestOrigin(origin) {
            if (origin === null || typeof origin !== "object") throw new TypeError("updateRequestOrigin: expected an object");
            host.origin(stringify(origin));
        },
        selectRequestOriginById: noSuch("selectRequestOriginById"),
        createRequestOriginGroup: noSuch("createRequestOriginGroup"),
        get edgeLocation() { return parse(host.edge()); },
    };

    const modules = { __proto__: null, crypto, querystring, buffer: { Buffer }, cloudfront: cf };
    const load = (name) => {
        const found = modules[name];
        if (found === undefined) throw new Error("there is no module '" + name + "'; there are: " + keys(modules).join(", "));
        return found;
    };
    const imported = (name) => {
        const found = load(name);
        return name === "buffer" ? { default: Buffer, Buffer } : { ...found, default: found };
    };

    // ---- console ----
    const show = (value) => {
        if (typeof value === "string") return value;
        if (value instanceof Error) return String(value);
        if (typeof value !== "object" || value === null) return String(value);
        try { return stringify(value); } catch (e) { return String(value); }
    };
    const log = (...values) => { host.log(values.map(show).join(" ").toWellFormed()); };
    const console = { log, info: log, warn: log, error: log, debug: log };

    // ---- the clock stands still ----
    const Clock = function Date(...parts) {
        if (new.target === undefined) return new RealDate(now).toString();
        return construct(RealDate, parts.length === 0 ? [now] : parts, new.target);
    };
    defineProperty(Clock, "length", { value: 7 });
    Clock.prototype = RealDate.prototype;
    for (const name of ["UTC", "parse"]) defineProperty(Clock, name, getOwnPropertyDescriptor(RealDate, name));
    defineProperty(Clock, "now", { value: () => now, writable: true, configurable: true });
    defineProperty(RealDate.prototype, "constructor", { value: Clock, writable: true, configurable: true });

    // ---- no code from text ----
    const refuse = () => { throw new EvalError("code from text is not allowed"); };
    const kinds = [function () {}, async function () {}, function* () {}, async function* () {}];
    for (const kind of kinds) {
        const proto = getPrototypeOf(kind);
        const Refused = function Function() { refuse(); };
        defineProperty(Refused, "prototype", { value: proto, writable: false });
        defineProperty(proto, "constructor", { value: Refused, writable: false, configurable: false });
        if (proto === Function.prototype) defineProperty(globalThis, "Function", { value: Refused, writable: true, configurable: true });
    }
    for (const name of ["eval", "Atomics", "SharedArrayBuffer", "WeakRef", "FinalizationRegistry", "performance",
        "queueMicrotask", "navigator", "gc"]) delete globalThis[name];

    // Accessors with a state of their own, which freezing does not reach.
    for (const name of ["prepareStackTrace", "stackTraceLimit"]) delete Error[name];

    const globals = { Buffer, TextEncoder, TextDecoder, atob, btoa, console, Date: Clock, require: load };
    for (const name of keys(globals)) {
        defineProperty(globalThis, name, { value: globals[name], writable: true, configurable: true });
    }

    // ---- every object that two calls could both reach ----
    const everything = () => {
        const async = (async function* () {})();
        const roots = [globalThis, modules, accessors, rawQueryString, ...kinds, Reflect.getPrototypeOf(async),
            [][Symbol.iterator](), ""[Symbol.iterator](), new Map().entries(), new Set().values(),
            "".matchAll(/x/g), (function* () {})(), [].values().map((x) => x),
            Iterator.from({ next() {} }), Iterator.concat ? Iterator.concat([]) : [], Hash,
            (function () { return getOwnPropertyDescriptor(arguments, "callee").get; })()];
        const seen = new Set();
        while (roots.length) {
            const one = roots.pop();
            if (seen.has(one)) continue;
            seen.add(one);
            const next = (value) => { if (value !== null && (typeof value === "object" || typeof value === "function")) roots.push(value); };
            next(getPrototypeOf(one));
            for (const key of ownKeys(one)) {
                const property = getOwnPropertyDescriptor(one, key);
                next(property.value);
                next(property.get);
                next(property.set);
            }
        }
        return seen;
    };

    // A frozen prototype would forbid objects to have a property of their own that the prototype has
    // too, when it is made by assignment. These are the names that scripts do assign.
    const OVERRIDDEN = [
        [Object.prototype, ["constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf"]],
        [Function.prototype, ["name", "toString"]],
        [Array.prototype, ["constructor", "toString", "join", "push", "concat"]],
        ...[Error, TypeError, RangeError, SyntaxError, ReferenceError, EvalError, URIError]
            .map((kind) => [kind.prototype, ["constructor", "message", "name", "toString"]]),
    ];
    const overridable = (proto, name) => {
        const property = getOwnPropertyDescriptor(proto, name);
        if (!property || !property.configurable || !("value" in property)) return;
        const value = property.value;
        defineProperty(proto, name, {
            get() { return value; },
            set(own) {
                if (this === proto) throw new TypeError("the realm is shared by all calls and cannot be changed");
                defineProperty(this, name, { value: own, writable: true, enumerable: true, configurable: true });
            },
            enumerable: false, configurable: false,
        });
    };

    return {
        names,
        memo, accessors, rawQueryString,
        invoke(factory, name, event, at) {
            now = at;
            return factory(load, imported)()[name](event);
        },
        // The same with an event from outside.
        invokeText(factory, name, event, at) {
            now = at;
            if (event.request) {
                defineProperty(event.request, "rawQueryString", { value: rawQueryString, writable: true, configurable: true });
            }
            return factory(load, imported)()[name](event);
        },
        // Which handlers there are, and what the top level changed in the realm.
        inspect(factory, at) {
            now = at;
            const before = new Map();
            for (const one of everything()) before.set(one, ownKeys(one).map((key) => [key, getOwnPropertyDescriptor(one, key)]));
            const handlers = factory(load, imported)();
            let changed;
            for (const [one, properties] of before) {
                if (ownKeys(one).length !== properties.length) changed = ownKeys(one).map(String).pop();
                for (const [key, old] of properties) {
                    const property = getOwnPropertyDescriptor(one, key);
                    if (!property || !Object.is(property.value, old.value) || property.get !== old.get || property.set !== old.set) changed = String(key);
                }
            }
            return stringify({ handlers: keys(handlers).filter((name) => typeof handlers[name] === "function"), changed });
        },
        harden() {
            for (const [proto, names] of OVERRIDDEN) for (const name of names) overridable(proto, name);
            const all = everything();
            for (const one of all) freeze(one);
            for (const one of all) if (!isFrozen(one)) throw new Error("a shared object stays open");
        },
        json(value) { return stringify(value); },
    };
})
