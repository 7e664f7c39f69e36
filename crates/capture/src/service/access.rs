//! Who may attach.

use tonic::metadata::MetadataMap;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Extensions, Status};
use zeroize::Zeroizing;

/// Who may attach. Nobody, as it is by default.
#[derive(Default)]
pub struct Access {
    /// User ids that may use the UNIX socket; the appliance's own and root may in any case.
    pub users: Vec<u32>,
    /// What a reader must show as `authorization: Bearer TOKEN`.
    pub token: Option<Zeroizing<String>>,
    /// A client certificate is enough: the TLS handshake has checked it.
    pub certificate: bool,
    /// Every user of this host may attach over loopback.
    pub anyone_on_loopback: bool,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("users", &self.users)
            .field("token", &self.token.is_some())
            .field("certificate", &self.certificate)
            .field("anyone_on_loopback", &self.anyone_on_loopback)
            .finish()
    }
}

impl Access {
    /// Names the caller, if it may attach.
    pub(super) fn check(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<String, Status> {
        if let Some(info) = extensions.get::<UdsConnectInfo>() {
            let uid = info.peer_cred.map(|credentials| credentials.uid());
            return match uid {
                Some(uid) if self.users.contains(&uid) => Ok(format!("uid {uid}")),
                _ => Err(refused(
                    &format!("uid {uid:?}"),
                    "this user is not in capture.users",
                )),
            };
        }
        let certificates = extensions
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .and_then(TlsConnectInfo::peer_certs)
            .is_some_and(|chain| !chain.is_empty());
        let address = extensions
            .get::<TcpConnectInfo>()
            .or_else(|| {
                extensions
                    .get::<TlsConnectInfo<TcpConnectInfo>>()
                    .map(TlsConnectInfo::get_ref)
            })
            .and_then(TcpConnectInfo::remote_addr);
        let peer = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        if self.certificate && certificates {
            return Ok(format!("{peer} with a certificate"));
        }
        // An empty token is none: it would let everyone in.
        if let Some(token) = self.token.as_ref().filter(|token| !token.is_empty()) {
            let shown = metadata
                .get("authorization")
                .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
            return if shown.is_some_and(|shown| is_same(shown, token.as_bytes())) {
                Ok(format!("{peer} with the token"))
            } else {
                Err(refused(&peer, "the token is missing or wrong"))
            };
        }
        if self.anyone_on_loopback && address.is_some_and(|address| address.ip().is_loopback()) {
            return Ok(peer);
        }
        Err(refused(&peer, "a token or a client certificate is needed"))
    }
}

fn refused(peer: &str, why: &'static str) -> Status {
    tracing::warn!(target: "audit", peer, why, "capture refused");
    Status::unauthenticated(why)
}

/// Takes the same time wherever the first difference is.
fn is_same(shown: &[u8], token: &[u8]) -> bool {
    let difference = shown
        .iter()
        .zip(token)
        .fold(0, |sum, (left, right)| sum | (left ^ right));
    shown.len() == token.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(access: &Access, token: Option<&str>) -> bool {
        let mut metadata = MetadataMap::new();
        if let Some(token) = token {
            metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        access.check(&metadata, &Extensions::new()).is_ok()
    }

    #[test]
    fn threat_65_only_the_whole_token_lets_in_and_an_empty_one_lets_nobody_in() {
        let access = Access {
            token: Some("right".to_owned().into()),
            ..Access::default()
        };
        assert!(shows(&access, Some("right")));
        for wrong in [None, Some(""), Some("righ"), Some("rightx"), Some("wrong")] {
            assert!(!shows(&access, wrong), "{wrong:?}");
        }
        let empty = Access {
            token: Some(String::new().into()),
            ..Access::default()
        };
        for shown in [None, Some(""), Some("x")] {
            assert!(!shows(&empty, shown), "{shown:?}");
            assert!(!shows(&Access::default(), shown), "{shown:?}");
        }
    }
}
