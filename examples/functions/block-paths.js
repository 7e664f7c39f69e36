// Refuses paths that a key value store lists. The store is a JSON file that is read again when it
// changes: { "/admin": "403", "/old": "410" }. A key stands for everything below it, too.
import cf from 'cloudfront';

const store = cf.kvs();

async function handler(event) {
    const request = event.request;
    const parts = request.uri.split("/");
    // The longest path first: /a/b/c, /a/b, /a.
    for (let count = Math.min(parts.length, 10); count > 1; count--) {
        const path = parts.slice(0, count).join("/");
        if (path !== "" && await store.exists(path)) {
            const status = Number(await store.get(path));
            console.log("blocked", path, event.viewer.ip);
            return { statusCode: status || 403, headers: { "cache-control": { value: "no-store" } } };
        }
    }
    return request;
}
