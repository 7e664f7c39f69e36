// Gets a page over TLS with Node.js, and says which version and authority it met.
import https from "node:https";

https.get("https://any.lab.name/echo", { agent: false }, (response) => {
  const certificate = response.socket.getPeerCertificate(true);
  console.log(response.statusCode, response.socket.getProtocol(), certificate.issuer.CN);
  response.resume();
});
