//! One request over HTTP/2.

use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends a GET request and reads the whole answer; the connection ends with it.
pub(super) async fn get<S>(
    stream: S,
    uri: &str,
    user_agent: &str,
) -> Result<(StatusCode, HeaderMap, Vec<u8>), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |error: h2::Error| format!("HTTP/2 failed: {error}");
    let request = Request::get(uri)
        .header(http::header::USER_AGENT, user_agent)
        .body(())
        .map_err(|error| format!("{uri} makes no request: {error}"))?;
    let (send, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    let exchange = async {
        let mut send = send.ready().await.map_err(failed)?;
        let (response, _) = send.send_request(request, true).map_err(failed)?;
        let (head, mut body) = response.await.map_err(failed)?.into_parts();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(failed)?;
            bytes.extend_from_slice(&data);
            body.flow_control()
                .release_capacity(data.len())
                .map_err(failed)?;
        }
        Ok((head.status, head.headers, bytes))
    };
    tokio::select! {
        biased;
        answer = exchange => answer,
        ended = connection => match ended {
            Ok(()) => Err("the HTTP/2 connection ended before the answer".to_owned()),
            Err(error) => Err(failed(error)),
        },
    }
}
