//! Where credentials and the region are looked for, in the order of AWS's own tools: environment,
//! files, container, instance.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Full;

use crate::client::Client;
use crate::credentials::{Credentials, Region};
use crate::error::{Fault, plain};
use crate::ini;

/// The variables and files of a process, or a test's own.
#[derive(Clone, Default)]
pub struct Environment {
    variables: Option<Vec<(String, String)>>,
}

/// Values may be secrets; names are not.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variables {
            None => f.write_str("Environment(process)"),
            Some(own) => f
                .debug_set()
                .entries(own.iter().map(|(name, _)| name))
                .finish(),
        }
    }
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self { variables: None }
    }

    /// These variables and no others.
    #[must_use]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            variables: Some(variables.iter().map(own).collect()),
        }
    }

    /// A variable, unless it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let value = match &self.variables {
            Some(own) => own
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone()),
            None => std::env::var(name).ok(),
        };
        value.filter(|value| !value.is_empty())
    }

    fn profile(&self) -> String {
        self.get("AWS_PROFILE")
            .unwrap_or_else(|| "default".to_owned())
    }

    /// The text of `~/.aws/NAME`, or of the file that a variable names.
    fn file(&self, variable: &str, name: &str) -> Option<String> {
        let path = match self.get(variable) {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(self.get("HOME")?).join(".aws").join(name),
        };
        std::fs::read_to_string(path).ok()
    }
}

/// The instance metadata service, which is at the same address on every instance.
const METADATA: &str = "http://169.254.169.254";
/// The same for containers that are told a path only.
const CONTAINER: &str = "http://169.254.170.2";

/// The region: what the configuration says, then `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile,
/// and the instance.
pub(crate) async fn region(
    configured: Option<&Region>,
    environment: &Environment,
    client: &Client,
) -> Result<Region, Fault> {
    if let Some(region) = configured {
        return Ok(region.clone());
    }
    let profile = environment.profile();
    let section = if profile == "default" {
        profile
    } else {
        format!("profile {profile}")
    };
    let name = environment
        .get("AWS_REGION")
        .or_else(|| environment.get("AWS_DEFAULT_REGION"))
        .or_else(|| {
            ini::value(
                &environment.file("AWS_CONFIG_FILE", "config")?,
                &section,
                "region",
            )
        });
    let name = match name {
        Some(name) => name,
        None => metadata(environment, client, "/latest/meta-data/placement/region")
            .await
            .map_err(|fault| {
                Fault::NotConfigured(format!("no region; set AWS_REGION (instance: {fault})"))
            })?,
    };
    Region::new(name.trim())
        .ok_or_else(|| Fault::NotConfigured(format!("\"{}\" is no region", plain(&name))))
}

/// The first credentials that are found.
pub(crate) async fn credentials(
    environment: &Environment,
    client: &Client,
) -> Result<Credentials, Fault> {
    if let (Some(id), Some(secret)) = (
        environment.get("AWS_ACCESS_KEY_ID"),
        environment.get("AWS_SECRET_ACCESS_KEY"),
    ) {
        return Ok(Credentials {
            access_key_id: id,
            secret_access_key: secret,
            session_token: environment.get("AWS_SESSION_TOKEN"),
            expires: None,
            source: "environment",
        });
    }
    if let Some(found) = from_files(environment) {
        return Ok(found);
    }
    if let Some(found) = from_container(environment, client).await {
        return found;
    }
    from_instance(environment, client).await.map_err(|fault| {
        Fault::NotConfigured(format!(
            "no credentials in the environment, files, container or instance (instance: {fault})"
        ))
    })
}

fn from_files(environment: &Environment) -> Option<Credentials> {
    let profile = environment.profile();
    let text = environment.file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
    let get = |key| ini::value(&text, &profile, key);
    Some(Credentials {
        access_key_id: get("aws_access_key_id")?,
        secret_access_key: get("aws_secret_access_key")?,
        session_token: get("aws_session_token"),
        expires: None,
        source: "file",
    })
}

/// ECS tasks and EKS pods (Pod Identity).
async fn from_container(
    environment: &Environment,
    client: &Client,
) -> Option<Result<Credentials, Fault>> {
    let url = match environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        Some(path) => format!("{CONTAINER}{path}"),
        None => environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")?,
    };
    let token = match environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => std::fs::read_to_string(file).ok(),
        None => environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    let token = token.map(|token| token.trim().to_owned());
    let headers: Vec<(&str, &str)> = token
        .iter()
        .map(|token| ("authorization", token.as_str()))
        .collect();
    let answer = plain_request(client, Method::GET, &url, &headers).await;
    Some(answer.and_then(|text| from_json(&text, "container")))
}

async fn from_instance(environment: &Environment, client: &Client) -> Result<Credentials, Fault> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let roles = metadata(environment, client, ROLES).await?;
    let role = roles
        .lines()
        .next()
        .filter(|role| !role.is_empty())
        .ok_or_else(|| Fault::NotConfigured("the instance has no role".to_owned()))?;
    let text = metadata(environment, client, &format!("{ROLES}{role}")).await?;
    from_json(&text, "instance")
}

/// A value of the instance metadata service, version 2: first a token, then the question.
async fn metadata(environment: &Environment, client: &Client, path: &str) -> Result<String, Fault> {
    let disabled = environment.get("AWS_EC2_METADATA_DISABLED");
    if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(Fault::NotConfigured(
            "the instance metadata service is disabled".to_owned(),
        ));
    }
    let base = environment
        .get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
        .unwrap_or_else(|| METADATA.to_owned());
    let base = base.trim_end_matches('/');
    let token = plain_request(
        client,
        Method::PUT,
        &format!("{base}/latest/api/token"),
        &[("x-aws-ec2-metadata-token-ttl-seconds", "60")],
    )
    .await?;
    plain_request(
        client,
        Method::GET,
        &format!("{base}{path}"),
        &[("x-aws-ec2-metadata-token", token.trim())],
    )
    .await
}

async fn plain_request(
    client: &Client,
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
) -> Result<String, Fault> {
    let wrong = |what: String| Fault::NotConfigured(plain(&what));
    let uri: Uri = url
        .parse()
        .map_err(|error| wrong(format!("{url}: {error}")))?;
    let host = uri
        .authority()
        .ok_or_else(|| wrong(format!("{url} has no host")))?
        .to_string();
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::new()))
        .map_err(|_private| wrong(format!("{url}: a token or path cannot stand in a request")))?;
    // The metadata services are a hop away; where there is none, packets vanish.
    let answer = tokio::time::timeout(Duration::from_secs(2), client.send(request))
        .await
        .map_err(|_elapsed| Fault::Away(format!("{url}: no answer within 2s")))??;
    if answer.status != 200 {
        return Err(Fault::Refused(format!("{url}: status {}", answer.status)));
    }
    String::from_utf8(answer.body.to_vec())
        .map_err(|_binary| Fault::Garbled(format!("{url}: not text")))
}

/// The form that containers and instances give credentials in.
fn from_json(text: &str, source: &'static str) -> Result<Credentials, Fault> {
    // The text is not repeated in the fault: it holds the secret.
    let garbled = || Fault::Garbled(format!("the {source}'s credentials cannot be read"));
    let json: serde_json::Value = serde_json::from_str(text).map_err(|_private| garbled())?;
    let get = |key: &str| {
        json.get(key)
            .and_then(|value| value.as_str())
            .map(str::to_owned)
    };
    Ok(Credentials {
        access_key_id: get("AccessKeyId").ok_or_else(garbled)?,
        secret_access_key: get("SecretAccessKey").ok_or_else(garbled)?,
        session_token: get("Token"),
        // They are asked for anew before each use, so their end does not matter.
        expires: None::<SystemTime>,
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::client::ClientConfig;

    /// Answers each request by its first line, as the metadata service of an instance.
    fn metadata_service() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut seen = Vec::new();
                let mut byte = [0; 1024];
                while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
                    let count = stream.read(&mut byte).unwrap();
                    seen.extend(&byte[..count]);
                }
                let text = String::from_utf8(seen).unwrap();
                let authorised = text.contains("x-aws-ec2-metadata-token: the-token");
                let (status, body) = match text.lines().next().unwrap() {
                    "PUT /latest/api/token HTTP/1.1" => (200, "the-token"),
                    _ if !authorised => (401, ""),
                    "GET /latest/meta-data/placement/region HTTP/1.1" => (200, "eu-north-1"),
                    "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1" => (200, "a-role"),
                    "GET /latest/meta-data/iam/security-credentials/a-role HTTP/1.1" => (
                        200,
                        r#"{"AccessKeyId":"ASIA1","SecretAccessKey":"s","Token":"t"}"#,
                    ),
                    _ => (404, ""),
                };
                write!(
                    stream,
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
        });
        format!("http://{address}/")
    }

    fn client() -> Client {
        Client::new(ClientConfig::default()).unwrap()
    }

    #[tokio::test]
    async fn the_environment_comes_before_the_file_and_the_file_before_the_instance() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        std::fs::write(
            &file,
            "[default]\naws_access_key_id=FILE\naws_secret_access_key=s\n[other]\naws_access_key_id=OTHER\naws_secret_access_key=s\n",
        )
        .unwrap();
        let service = metadata_service();
        let all = [
            ("AWS_ACCESS_KEY_ID", "ENV"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.as_str()),
        ];
        let found = async |variables: &[(&str, &str)]| {
            credentials(&Environment::of(variables), &client())
                .await
                .map(|found| (found.access_key_id, found.source))
                .unwrap()
        };
        assert_eq!(found(&all).await, ("ENV".to_owned(), "environment"));
        assert_eq!(found(&all[1..]).await, ("FILE".to_owned(), "file"));
        let other = [all[2], ("AWS_PROFILE", "other")];
        assert_eq!(found(&other).await, ("OTHER".to_owned(), "file"));
        assert_eq!(found(&all[3..]).await, ("ASIA1".to_owned(), "instance"));
        let region = region(None, &Environment::of(&all[3..]), &client()).await;
        assert_eq!(region.unwrap().as_str(), "eu-north-1");
    }

    #[tokio::test]
    async fn without_any_source_the_fault_says_where_was_looked() {
        let none = Environment::of(&[("AWS_EC2_METADATA_DISABLED", "true")]);
        let fault = credentials(&none, &client()).await.unwrap_err();
        assert!(
            fault
                .to_string()
                .contains("environment, files, container or instance")
        );
        let fault = region(None, &none, &client()).await.unwrap_err();
        assert!(fault.to_string().contains("AWS_REGION"), "{fault}");
    }

    #[test]
    fn credentials_that_cannot_be_read_are_not_repeated_in_the_fault() {
        let fault = from_json(r#"{"SecretAccessKey":"planted-secret""#, "container").unwrap_err();
        assert!(!format!("{fault:?}").contains("planted"), "{fault}");
    }
}
