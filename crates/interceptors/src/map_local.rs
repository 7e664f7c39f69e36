//! `map-local`: answers with files of the operator's instead of asking the server.
//!
//! Files are read when the config is: an answer costs no disk access, and nothing that a request says
//! can name another file.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sdk::{
    Body, Bytes, ConfigFault, ConfigTable, Exchange, FieldName, Filter, HeaderValue,
    InterceptError, Interceptor, InterceptorKind, Method, Request, Response, StatusCode, Step,
    Subject, async_trait, from_table,
};
use serde::Deserialize;

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "map-local",
    summary: "Answers with files of yours instead of asking the server.",
    build: MapLocal::build,
};

const CONTENT_TYPE: FieldName = FieldName::from_static("Content-Type");
const ETAG: FieldName = FieldName::from_static("ETag");

/// Most bytes of all files of one interceptor.
const MAX_BYTES: u64 = 64 << 20;
/// Most files of one interceptor.
const MAX_FILES: usize = 10_000;

/// Answers GET and HEAD from memory.
#[derive(Debug)]
pub struct MapLocal {
    when: Option<Filter>,
    status: StatusCode,
    files: Files,
}

#[derive(Debug)]
enum Files {
    /// One file, whatever the path.
    One(File),
    /// A folder under a prefix of the path.
    Folder {
        prefix: String,
        files: BTreeMap<String, File>,
    },
}

#[derive(Debug)]
struct File {
    content_type: HeaderValue,
    etag: HeaderValue,
    content: Bytes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Config {
    /// Which requests. Default: all.
    when: Option<Filter>,
    /// The file that is the answer to all of them.
    file: Option<PathBuf>,
    /// The folder in which the path, without `prefix`, names a file.
    folder: Option<PathBuf>,
    /// What paths begin with, for `folder`. Default: "/".
    prefix: Option<String>,
    /// The status of answers. Default: 200.
    status: Option<u16>,
    /// The type of the content, for `file`. Default: by the name's ending.
    content_type: Option<String>,
}

impl MapLocal {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Config = from_table(table)?;
        if config.when.as_ref().is_some_and(Filter::needs_response) {
            return Err(ConfigFault::new(
                "when",
                "looks at the response, of which there will be none",
            )
            .allowed("conditions on the request"));
        }
        let number = config.status.unwrap_or(200);
        let status = StatusCode::from_u16(number)
            .ok()
            .filter(|status| (200..600).contains(&number) && ![204, 304].contains(&status.as_u16()))
            .ok_or_else(|| {
                ConfigFault::new("status", format!("{number} has no content"))
                    .allowed("200 to 599 without 204 and 304")
            })?;
        let files = match (config.file, config.folder) {
            (Some(file), None) => {
                if config.prefix.is_some() {
                    return Err(ConfigFault::new("prefix", "does not go with \"file\""));
                }
                Files::One(read("file", &file, config.content_type.as_deref(), &mut 0)?)
            }
            (None, Some(folder)) => {
                if config.content_type.is_some() {
                    return Err(ConfigFault::new(
                        "content-type",
                        "does not go with \"folder\"",
                    ));
                }
                let prefix = config.prefix.unwrap_or_else(|| "/".to_owned());
                if !prefix.starts_with('/') {
                    return Err(ConfigFault::new("prefix", "does not begin with a slash")
                        .allowed("the beginning of a path, such as \"/static/\""));
                }
                let mut files = BTreeMap::new();
                collect(&folder, &folder, &mut files, &mut 0)?;
                Files::Folder { prefix, files }
            }
            _ => {
                return Err(ConfigFault {
                    key: None,
                    message: "exactly one of \"file\" and \"folder\" is needed".to_owned(),
                    allowed: Some("file = PATH or folder = PATH".to_owned()),
                });
            }
        };
        Ok(Arc::new(Self {
            when: config.when,
            status,
            files,
        }))
    }

    fn find(&self, path: &str) -> Option<&File> {
        match &self.files {
            Files::One(file) => Some(file),
            Files::Folder { prefix, files } => {
                let name = path.strip_prefix(prefix.as_str())?.trim_start_matches('/');
                if name.is_empty() || name.ends_with('/') {
                    return files.get(&format!("{name}index.html"));
                }
                files.get(name)
            }
        }
    }
}

fn collect(
    root: &Path,
    folder: &Path,
    files: &mut BTreeMap<String, File>,
    total: &mut u64,
) -> Result<(), ConfigFault> {
    let unreadable = |error: std::io::Error| {
        ConfigFault::new(
            "folder",
            format!("cannot read {}: {error}", folder.display()),
        )
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(unreadable)?);
        // A link may lead anywhere, and in circles.
        if kind.is_dir() {
            collect(root, &path, files, total)?;
        } else if kind.is_file()
            && let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str)
        {
            if files.len() >= MAX_FILES {
                return Err(ConfigFault::new("folder", "holds too many files")
                    .allowed(format!("at most {MAX_FILES}")));
            }
            files.insert(name.to_owned(), read("folder", &path, None, total)?);
        }
    }
    Ok(())
}

fn read(
    key: &str,
    path: &Path,
    content_type: Option<&str>,
    total: &mut u64,
) -> Result<File, ConfigFault> {
    let fault = |error: std::io::Error| {
        ConfigFault::new(key, format!("cannot read {}: {error}", path.display()))
    };
    *total += std::fs::metadata(path).map_err(fault)?.len();
    if *total > MAX_BYTES {
        return Err(
            ConfigFault::new(key, format!("{} is too much", path.display()))
                .allowed(format!("at most {MAX_BYTES} bytes in all")),
        );
    }
    let content = Bytes::from(std::fs::read(path).map_err(fault)?);
    let content_type = content_type.unwrap_or_else(|| type_of(path));
    let mut hash = DefaultHasher::new();
    content.hash(&mut hash);
    Ok(File {
        content_type: HeaderValue::try_from(content_type).map_err(|_| {
            ConfigFault::new("content-type", "holds a control character").allowed("a media type")
        })?,
        etag: HeaderValue::try_from(format!("\"{:016x}\"", hash.finish()))
            .map_err(|_| ConfigFault::new(key, "has no hash"))?,
        content,
    })
}

/// The usual type of files with this ending.
fn type_of(path: &Path) -> &'static str {
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default();
    match ending.to_ascii_lowercase().as_str() {
        "css" => "text/css; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "gif" => "image/gif",
        "htm" | "html" => "text/html; charset=utf-8",
        "ico" => "image/x-icon",
        "jpeg" | "jpg" => "image/jpeg",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "txt" => "text/plain; charset=utf-8",
        "wasm" => "application/wasm",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "xml" => "application/xml",
        _ => "application/octet-stream",
    }
}

#[async_trait(?Send)]
impl Interceptor for MapLocal {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let is_read = request.method == Method::GET || request.method == Method::HEAD;
        let is_meant = is_read
            && self
                .when
                .as_ref()
                .is_none_or(|when| when.matches(&Subject::request(request, exchange)));
        if !is_meant {
            return Ok(Step::Continue);
        }
        let Some(file) = self.find(request.path()) else {
            exchange.note("no-such-file");
            return Ok(Step::Continue);
        };
        exchange.note("mapped");
        let is_known = self.status == StatusCode::OK
            && request
                .headers
                .list("if-none-match")
                .any(|tag| tag.trim_start_matches("W/").as_bytes() == file.etag.as_bytes());
        let mut response = Response::new(if is_known {
            StatusCode::NOT_MODIFIED
        } else {
            self.status
        });
        response.headers.append(ETAG, file.etag.clone());
        if !is_known {
            response
                .headers
                .append(CONTENT_TYPE, file.content_type.clone());
            response.body = Body::from(file.content.clone());
        }
        Ok(Step::Respond(response))
    }
}

#[cfg(test)]
mod tests {
    use sdk::testing::Playbook;

    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("flowdog-map-local-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("css")).unwrap();
        std::fs::write(folder.join("index.html"), "<p>mine").unwrap();
        std::fs::write(folder.join("css/a.css"), "p {}").unwrap();
        folder
    }

    fn play(config: &str) -> Playbook {
        Playbook::from_arc(MapLocal::build(&config.parse().unwrap()).unwrap())
    }

    #[tokio::test]
    async fn files_answer_and_what_is_not_there_passes() {
        let config = format!("folder = {:?}\nprefix = \"/static/\"", folder());
        let mut play = play(&config);
        let page = play
            .request("GET /static/ HTTP/1.1\nHost: h\n\n")
            .await
            .to_client();
        assert!(page.starts_with("HTTP/1.1 200 OK\nETag: \""), "{page}");
        assert!(
            page.ends_with("\nContent-Type: text/html; charset=utf-8\n\n<p>mine"),
            "{page}"
        );
        let style = play
            .request("GET /static/css/a.css?v=2 HTTP/1.1\nHost: h\n\n")
            .await;
        assert!(
            style
                .to_client()
                .ends_with("text/css; charset=utf-8\n\np {}")
        );
        for request in [
            "GET /static/none HTTP/1.1\nHost: h\n\n",
            "GET /static/../index.html HTTP/1.1\nHost: h\n\n",
            "GET /static/%2e%2e/index.html HTTP/1.1\nHost: h\n\n",
            "GET /other HTTP/1.1\nHost: h\n\n",
            "POST /static/ HTTP/1.1\nHost: h\n\nx",
        ] {
            assert_eq!(play.request(request).await.to_server(), request);
        }
    }

    #[tokio::test]
    async fn a_client_that_has_the_file_is_told_so() {
        let file = folder().join("index.html");
        let mut play = play(&format!("file = {file:?}"));
        let page = play
            .request("GET /any HTTP/1.1\nHost: h\n\n")
            .await
            .to_client();
        let tag = page.split('"').nth(1).unwrap().to_owned();
        let again = play
            .request(
                format!("GET /any HTTP/1.1\nHost: h\nIf-None-Match: \"x\", W/\"{tag}\"\n\n")
                    .as_str(),
            )
            .await;
        assert_eq!(
            again.to_client(),
            format!("HTTP/1.1 304 Not Modified\nETag: \"{tag}\"\n\n")
        );
    }

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, expected) in [
            ("", "exactly one of \"file\" and \"folder\" is needed"),
            (
                "file = \"/no/such/file\"",
                "file: cannot read /no/such/file: ",
            ),
            ("folder = \"/no/such\"", "folder: cannot read /no/such: "),
            (
                "file = \"/etc/hostname\"\nstatus = 304",
                "status: 304 has no content",
            ),
            (
                "file = \"/etc/hostname\"\nprefix = \"/\"",
                "prefix: does not go with \"file\"",
            ),
            (
                "folder = \"/etc/ssl\"\nprefix = \"x\"",
                "prefix: does not begin with a slash",
            ),
            (
                "file = \"/etc/hostname\"\nwhen = \"status == 1\"",
                "when: looks at the response",
            ),
        ] {
            let fault = MapLocal::build(&config.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(fault.starts_with(expected), "{config}: {fault}");
        }
    }
}
