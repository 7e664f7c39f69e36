//! Answers the operator's commands over HTTP on a UNIX socket that only its owner can open.
//!
//! | | |
//! |---|---|
//! | `GET /learned` | what was learned, as JSON |
//! | `DELETE /learned?source=…&name=…&endpoint=…` | forgets what fits all that is given |

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dataplane::VpcEndpointId;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::config::endpoint_id;
use crate::health::State;

/// How long one command may take.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// The open socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the socket. One that an appliance left behind when it was killed makes room; one that somebody
/// answers on does not.
pub(crate) fn listen(path: &Path) -> io::Result<ControlSocket> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    // Made under another name and readable by nobody else before it can be found.
    let unseen = path.with_extension(format!("{}.new", std::process::id()));
    let listener = UnixListener::bind(&unseen)?;
    let shown = std::fs::set_permissions(&unseen, std::fs::Permissions::from_mode(0o600))
        // A link, and no rename: it takes no place that is taken.
        .and_then(|()| std::fs::hard_link(&unseen, path));
    std::fs::remove_file(&unseen)?;
    shown?;
    listener.set_nonblocking(true)?;
    Ok(ControlSocket {
        listener,
        path: path.to_owned(),
    })
}

/// Starts the thread that answers; it ends when `stop` is dropped or told.
pub(crate) fn spawn(
    socket: ControlSocket,
    state: Arc<State>,
    stop: oneshot::Receiver<()>,
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let result = runtime.and_then(|runtime| {
                runtime.block_on(async {
                    tokio::select! {
                        result = serve(&socket, &state) => result,
                        _ = stop => Ok(()),
                    }
                })
            });
            if let Err(error) = result {
                tracing::error!(%error, "the control socket answers no more");
            }
        })
}

async fn serve(socket: &ControlSocket, state: &Arc<State>) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(socket.listener.try_clone()?)?;
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "control connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // One at a time: commands are rare, and each is bounded in time.
        let service = service_fn(|request| std::future::ready(answer(&request, state)));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let _ = tokio::time::timeout(COMMAND_TIME, served).await;
    }
}

fn answer(request: &Request<Incoming>, state: &State) -> Result<Response<Full<Bytes>>, Infallible> {
    let config = state.config.load();
    let learned = config.tls.learned.as_deref();
    let now = tls::UnixTime::now();
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/learned") => {
            let entries = learned.map(|learned| learned.list(now)).unwrap_or_default();
            let entries: Vec<Value> = entries.iter().map(entry).collect();
            (StatusCode::OK, json!({ "learned": entries }))
        }
        (&Method::DELETE, "/learned") => match which(request.uri().query().unwrap_or("")) {
            Ok(which) => {
                let forgotten = learned.map_or(0, |learned| learned.forget(&which, now));
                tracing::info!(?which, forgotten, "lessons forgotten by command");
                (StatusCode::OK, json!({ "forgotten": forgotten }))
            }
            Err(fault) => (StatusCode::BAD_REQUEST, json!({ "error": fault })),
        },
        _ => (
            StatusCode::NOT_FOUND,
            json!({ "error": "there are GET and DELETE of /learned" }),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

fn entry(entry: &tls::LearnedEntry) -> Value {
    json!({
        "endpoint": VpcEndpointId(entry.endpoint).to_string(),
        "source": entry.source,
        "server-name": entry.name,
        "reason": entry.lesson.as_str(),
        "passed": entry.is_certain,
        "until": entry.until,
    })
}

fn which(query: &str) -> Result<tls::Which, String> {
    let mut which = tls::Which::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let wrong = || format!("{value:?} is no {key}");
        match key {
            "source" => which.source = Some(value.parse::<IpAddr>().map_err(|_| wrong())?),
            "endpoint" => which.endpoint = Some(endpoint_id(value).map_err(|_| wrong())?.0),
            "name" => which.name = Some(value.to_ascii_lowercase()),
            _ => return Err(format!("{key:?} is none of source, endpoint, name")),
        }
    }
    Ok(which)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_its_owners_and_takes_no_place_that_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let first = listen(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(listen(&path).is_err(), "somebody answers there");
        drop(first);
        assert!(!path.exists());
        // What a killed process leaves behind.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        listen(&path).unwrap();
        std::fs::write(&path, "a file of somebody's").unwrap();
        assert!(listen(&path).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_to_forget_is_said_by_known_keys() {
        let some = which("source=10.0.0.1&name=A.example&endpoint=vpce-0123456789abcdef0").unwrap();
        assert_eq!(some.source, Some([10, 0, 0, 1].into()));
        assert_eq!(some.name.as_deref(), Some("a.example"));
        assert_eq!(some.endpoint, Some(0x1234_5678_9abc_def0));
        for wrong in ["source=me", "endpoint=7x", "host=a"] {
            assert!(which(wrong).is_err(), "{wrong}");
        }
    }
}
