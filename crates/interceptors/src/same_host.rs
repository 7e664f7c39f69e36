//! `same-host`: sends requests elsewhere whose host is not the one that the TLS connection was made for.

use std::sync::Arc;

use sdk::{
    Body, ConfigFault, ConfigTable, Exchange, InterceptError, Interceptor, InterceptorKind,
    Request, Response, StatusCode, Step, async_trait,
};

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "same-host",
    summary: "Answers 421 to requests for another host than the server name of their TLS connection.",
    build: SameHost::build,
};

/// Answers 421 (Misdirected Request, RFC 9110 §15.5.20) where the host of a request is not the server
/// name in the client's hello, or where there is none.
///
/// A rule that was chosen by the name in the hello then holds for what is asked inside as well, and a
/// client that shared a connection between hosts opens another one for the other host.
#[derive(Debug)]
pub struct SameHost;

impl SameHost {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        match table.keys().next() {
            Some(key) => {
                Err(ConfigFault::new(key.as_str(), "unknown key").allowed("no key at all"))
            }
            None => Ok(Arc::new(Self)),
        }
    }
}

#[async_trait(?Send)]
impl Interceptor for SameHost {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        // In clear there is no name to compare with: rules ask for `http-host` there.
        let Some(tls) = &exchange.flow.tls else {
            return Ok(Step::Continue);
        };
        let Some(server_name) = &tls.server_name else {
            return Ok(Step::Continue);
        };
        let host = request.host().map(|host| host.trim_end_matches('.'));
        if host.is_some_and(|host| host.eq_ignore_ascii_case(server_name)) {
            return Ok(Step::Continue);
        }
        exchange.note("misdirected");
        let mut response = Response::new(StatusCode::MISDIRECTED_REQUEST);
        response.body = Body::from("this connection was made for another host\n".to_owned());
        Ok(Step::Respond(response))
    }
}

#[cfg(test)]
mod tests {
    use sdk::testing::{Playbook, flow};
    use sdk::{FlowInfo, TlsInfo};

    use super::*;

    fn play(server_name: Option<&str>) -> Playbook {
        let tls = TlsInfo {
            server_name: server_name.map(str::to_owned),
            ..TlsInfo::default()
        };
        Playbook::new(SameHost).on_flow(FlowInfo {
            tls: Some(tls),
            ..flow()
        })
    }

    #[tokio::test]
    async fn threat_40_a_request_for_another_host_than_the_connections_is_misdirected() {
        let mut play = play(Some("front.example"));
        for request in [
            "GET / HTTP/1.1\nHost: hidden.example\n\n",
            "GET / HTTP/1.1\nHost: front.example.evil\n\n",
            "GET / HTTP/1.1\nHost: 192.0.2.1\n\n",
            "GET https://hidden.example/ HTTP/1.1\nHost: front.example\n\n",
        ] {
            let answer = play.request(request).await.to_client();
            assert!(answer.starts_with("HTTP/1.1 421 "), "{request}: {answer}");
        }
        for request in [
            "GET / HTTP/1.1\nHost: front.example\n\n",
            "GET / HTTP/1.1\nHost: FRONT.example.:8443\n\n",
        ] {
            assert_eq!(play.request(request).await.to_server(), request);
        }
    }

    #[tokio::test]
    async fn without_a_server_name_there_is_nothing_to_compare() {
        let request = "GET / HTTP/1.1\nHost: any.example\n\n";
        assert_eq!(play(None).request(request).await.to_server(), request);
        let mut clear = Playbook::new(SameHost);
        assert_eq!(clear.request(request).await.to_server(), request);
    }
}
