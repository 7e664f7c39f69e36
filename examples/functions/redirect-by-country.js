// Sends viewers to the site of their country, by the header that a CDN or a proxy before us sets.
const SITES = { DE: "/de", FR: "/fr", JP: "/jp" };

function handler(event) {
    const request = event.request;
    const country = request.headers["cloudfront-viewer-country"];
    const site = country && SITES[country.value];
    if (!site || request.uri === site || request.uri.startsWith(site + "/")) {
        return request;
    }
    const query = request.rawQueryString();
    return {
        statusCode: 302,
        statusDescription: "Found",
        headers: {
            location: { value: site + request.uri + (query ? "?" + query : "") },
            vary: { value: "CloudFront-Viewer-Country" },
        },
    };
}
