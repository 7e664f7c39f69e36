// On www.youtube.com there is one video. Everything else leads to it.
const VIDEO = "dQw4w9WgXcQ";
const PAGE = "https://www.youtube.com/watch?v=" + VIDEO;

function onRequest(event) {
    const request = event.request;
    const headers = request.headers;
    if (!headers.host || headers.host.value !== "www.youtube.com") {
        return request;
    }
    // What the page itself asks for.
    if (headers.referer && headers.referer.value === PAGE) {
        return request;
    }
    const video = request.querystring.v;
    if (request.uri === "/watch" && video && video.value === VIDEO) {
        return request;
    }
    return {
        statusCode: 302,
        statusDescription: "Found",
        headers: { location: { value: PAGE } },
    };
}
