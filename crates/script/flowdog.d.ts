// Types of what functions see and return, for editors:
//     /// <reference path="flowdog.d.ts" />
// The events of requests and responses are those of CloudFront Functions, and `context.flow`.

/** A value of a header, cookie or query parameter; `multiValue` when the name comes twice or more. */
interface FlowdogValue {
    value: string;
    multiValue?: { value: string }[];
}
/** A cookie of a response, with its attributes as text: `Secure; Path=/`. */
interface FlowdogSetCookie {
    value: string;
    attributes?: string;
    multiValue?: { value: string; attributes?: string }[];
}
interface FlowdogValues {
    [name: string]: FlowdogValue;
}
interface FlowdogSetCookies {
    [name: string]: FlowdogSetCookie;
}

interface FlowdogAddress {
    address: string;
    /** 0 where the protocol has none. */
    port: number;
}
/** What EC2 knows of an address. */
interface FlowdogInstance {
    InstanceId?: string;
    AccountId?: string;
    VpcId?: string;
    SubnetId?: string;
    InterfaceId?: string;
    SecurityGroups?: string[];
    Tags?: { [key: string]: string };
}
/** The flow that an exchange belongs to. CloudFront has nothing like it. */
interface FlowdogFlow {
    /** `vpce-` and 17 hexadecimal digits. */
    endpointId: string;
    /** 8 hexadecimal digits. */
    flowCookie: string;
    /** The number of the IP protocol: 6 is TCP. */
    protocol: number;
    client: FlowdogAddress;
    server: FlowdogAddress;
    tls?: {
        serverName?: string;
        alpn?: string;
        /** Code points of the TLS registry: 0x0304 is TLS 1.3. */
        clientVersion: number;
        serverVersion: number;
        clientCipherSuite: number;
        serverCipherSuite: number;
    };
    sourceInstance?: FlowdogInstance;
    destinationInstance?: FlowdogInstance;
    /** What an acceptor said about the flow. */
    context?: { [key: string]: unknown };
}

interface FlowdogContext<EventType extends string> {
    distributionDomainName: string;
    distributionId: string;
    eventType: EventType;
    /** The same in all events of one exchange. */
    requestId: string;
    flow: FlowdogFlow;
}

interface FlowdogRequest {
    readonly method: string;
    /** The path, without the query. */
    uri: string;
    /** Neither decoded nor encoded; may be set to a string. */
    querystring: FlowdogValues | string;
    headers: FlowdogValues;
    cookies: FlowdogValues;
    /** The query as it came; undefined where there is none. */
    rawQueryString(): string | undefined;
}
interface FlowdogResponse {
    statusCode: number;
    statusDescription?: string;
    headers?: FlowdogValues;
    cookies?: FlowdogSetCookies;
    /** Replaces the body; an empty one takes it away. */
    body?: string | { encoding: "text" | "base64"; data: string };
}

interface FlowdogRequestEvent {
    version: "1.0";
    context: FlowdogContext<"viewer-request">;
    viewer: { ip: string };
    request: FlowdogRequest & { querystring: FlowdogValues };
}
interface FlowdogResponseEvent {
    version: "1.0";
    context: FlowdogContext<"viewer-response">;
    viewer: { ip: string };
    /** What the client sent, before anybody changed it. */
    readonly request: FlowdogRequest & { querystring: FlowdogValues };
    response: FlowdogResponse & { statusDescription: string; headers: FlowdogValues; cookies: FlowdogSetCookies };
}
interface FlowdogMessage {
    readonly direction: "to-server" | "to-client";
    encoding: "text" | "base64";
    data: string;
}
interface FlowdogMessageEvent {
    version: "1.0";
    context: FlowdogContext<"websocket-message">;
    viewer: { ip: string };
    readonly request: FlowdogRequest & { querystring: FlowdogValues };
    message: FlowdogMessage;
}
interface FlowdogFlowEvent {
    version: "1.0";
    context: { eventType: "flow" };
    GeneveOptions: { VpcEndpointId: string; FlowCookie: string; AttachmentId?: string };
    NetworkProtocol: "IPv4" | "IPv6";
    TransportProtocol: "TCP" | "UDP" | "";
    Source: { IpAddress: string; Port?: number; EC2?: FlowdogInstance };
    Destination: { IpAddress: string; Port?: number; EC2?: FlowdogInstance };
}
type FlowdogFlowAnswer =
    | boolean
    | ({ Accept: boolean } | { action: "allow" | "deny" | "pass" | "intercept" | "drop" | "reset" }) & {
          reason?: string;
          context?: { [key: string]: string | number | boolean };
          /** Seconds for which the answer holds. */
          ttl?: number;
          cacheKey?: string[];
      };

/** A record of a DNS answer. */
interface FlowdogDnsRecord {
    /** `A`, `AAAA`, `CNAME` and so on, or `TYPE123`. */
    readonly type: string;
    ttl: number;
    /** Of types whose data is an address or a name. Addresses may be changed. */
    data?: string;
}
interface FlowdogDnsMessage {
    readonly message: "query" | "answer";
    readonly transport: "udp" | "tcp";
    readonly id: number;
    /** Without a dot at the end. */
    readonly name: string;
    readonly type: string;
    /** Of answers. */
    readonly rcode?: string;
    readonly answers?: FlowdogDnsRecord[];
    readonly truncated?: boolean;
}
interface FlowdogDnsEvent {
    version: "1.0";
    context: { eventType: "dns"; flow: FlowdogFlow };
    viewer: { ip: string };
    dns: FlowdogDnsMessage;
}
/** An answer in the place of the query or of the server's answer. */
interface FlowdogDnsAnswer {
    /** Default: NOERROR. */
    rcode?: "NOERROR" | "FORMERR" | "SERVFAIL" | "NXDOMAIN" | "NOTIMP" | "REFUSED";
    /** Those of the type that was asked for are told. */
    addresses?: string[];
    /** Seconds. Default: 60. */
    ttl?: number;
}

type FlowdogOrPromise<T> = T | Promise<T>;
type FlowdogOnRequest = (event: FlowdogRequestEvent) => FlowdogOrPromise<FlowdogRequest | FlowdogResponse>;
type FlowdogOnResponse = (event: FlowdogResponseEvent) => FlowdogOrPromise<FlowdogResponse>;
type FlowdogOnWebSocketMessage = (event: FlowdogMessageEvent) => FlowdogOrPromise<FlowdogMessage | null | { close: number }>;
type FlowdogOnFlow = (event: FlowdogFlowEvent) => FlowdogOrPromise<FlowdogFlowAnswer>;
/** `null` drops the message; `event.dns` lets it go on, with the changes made to `answers`. */
type FlowdogOnDns = (event: FlowdogDnsEvent) => FlowdogOrPromise<FlowdogDnsMessage | FlowdogDnsAnswer | null>;

declare module "cloudfront" {
    interface KeyValueStore {
        get(key: string, options?: { format: "string" }): Promise<string>;
        get(key: string, options: { format: "json" }): Promise<any>;
        get(key: string, options: { format: "bytes" }): Promise<Uint8Array>;
        exists(key: string): Promise<boolean>;
        count(): Promise<number>;
        meta(): Promise<{ creationDateTime: string; lastUpdatedDateTime: string; keyCount: number }>;
    }
    const cf: {
        /** The store of this id; without one, the only store of the function. */
        kvs(id?: string): KeyValueStore;
        /** In requests only. The request still goes to the server that the client has connected to. */
        updateRequestOrigin(origin: { domainName?: string; originPath?: string; customHeaders?: { [name: string]: string }; [setting: string]: unknown }): void;
        readonly edgeLocation: { name: string; serverIp: string; region: string };
    };
    export default cf;
}
declare module "crypto" {
    interface Hash {
        update(data: string | ArrayBuffer | ArrayBufferView, encoding?: string): Hash;
        /** One that goes on from here on its own. */
        copy(): Hash;
        digest(): Uint8Array;
        digest(encoding: "hex" | "base64" | "base64url"): string;
    }
    type Algorithm = "md5" | "sha1" | "sha256" | "sha384" | "sha512";
    const crypto: {
        createHash(algorithm: Algorithm): Hash;
        createHmac(algorithm: Algorithm, key: string | ArrayBuffer | ArrayBufferView): Hash;
    };
    export default crypto;
}
declare module "querystring" {
    const querystring: {
        parse(text: string, separator?: string | null, equals?: string | null, options?: { maxKeys?: number }): { [name: string]: string | string[] };
        stringify(object: object, separator?: string | null, equals?: string | null): string;
        escape(text: string): string;
        unescape(text: string): string;
    };
    export default querystring;
}
