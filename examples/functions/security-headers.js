// Adds the usual security headers to responses that lack them.
const HEADERS = {
    "strict-transport-security": "max-age=63072000; includeSubDomains; preload",
    "content-security-policy": "default-src 'self'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
};

function onResponse(event) {
    const response = event.response;
    for (const name of Object.keys(HEADERS)) {
        if (!response.headers[name]) {
            response.headers[name] = { value: HEADERS[name] };
        }
    }
    return response;
}
