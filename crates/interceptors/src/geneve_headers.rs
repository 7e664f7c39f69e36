//! `geneve-headers`: tells both ends which load balancer endpoint a request came through.

use std::sync::Arc;

use sdk::{
    ConfigFault, ConfigTable, Exchange, FieldName, FlowInfo, HeaderValue, Headers, InterceptError,
    Interceptor, InterceptorKind, Request, Response, Step, async_trait, from_table,
};
use serde::Deserialize;

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "geneve-headers",
    summary: "Adds the VPC endpoint, attachment and flow cookie of the Gateway Load Balancer as header fields.",
    build: GeneveHeaders::build,
};

const ENDPOINT: FieldName = FieldName::from_static("X-Gwlb-Vpc-Endpoint-Id");
const ATTACHMENT: FieldName = FieldName::from_static("X-Gwlb-Attachment-Id");
const COOKIE: FieldName = FieldName::from_static("X-Gwlb-Flow-Cookie");

/// Adds what the load balancer said about the flow to requests and responses.
///
/// Fields of the same names that a peer brought are replaced, so that nobody can claim to have
/// come through another endpoint.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct GeneveHeaders {
    /// Whether requests get the fields. Default: true.
    requests: bool,
    /// Whether responses get the fields. Default: true.
    responses: bool,
}

impl Default for GeneveHeaders {
    fn default() -> Self {
        Self {
            requests: true,
            responses: true,
        }
    }
}

impl GeneveHeaders {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        Ok(Arc::new(from_table::<Self>(table)?))
    }
}

#[async_trait(?Send)]
impl Interceptor for GeneveHeaders {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        if self.requests {
            put(&mut request.headers, &exchange.flow)?;
        }
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        if self.responses {
            put(&mut response.headers, &exchange.flow)?;
        }
        Ok(())
    }
}

fn put(headers: &mut Headers, flow: &FlowInfo) -> Result<(), InterceptError> {
    for (name, id) in [
        (ENDPOINT, flow.endpoint.to_string()),
        (ATTACHMENT, flow.attachment.to_string()),
        (COOKIE, flow.cookie.to_string()),
    ] {
        // Ids print as hexadecimal digits, which every field value may hold.
        let value = HeaderValue::try_from(id)
            .map_err(|error| InterceptError::fail("an id does not print").caused_by(error))?;
        headers.set(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sdk::testing::{Playbook, flow};
    use sdk::{AttachmentId, FlowCookie, VpcEndpointId};

    use super::*;

    fn play(config: &str) -> Playbook {
        let interceptor = GeneveHeaders::build(&config.parse().unwrap()).unwrap();
        Playbook::from_arc(interceptor).on_flow(FlowInfo {
            endpoint: VpcEndpointId(0x0a1b_2c3d_4e5f_6071),
            attachment: AttachmentId(7),
            cookie: FlowCookie(0xc0ffee),
            ..flow()
        })
    }

    const ADDED: &str = "X-Gwlb-Vpc-Endpoint-Id: vpce-00a1b2c3d4e5f6071\n\
                         X-Gwlb-Attachment-Id: 0000000000000007\n\
                         X-Gwlb-Flow-Cookie: 00c0ffee\n";

    #[tokio::test]
    async fn requests_and_responses_bear_the_ids_in_full_width() {
        let mut play = play("");
        let request = play
            .request("GET / HTTP/1.1\nHost: a\n\n")
            .await
            .to_server();
        assert_eq!(request, format!("GET / HTTP/1.1\nHost: a\n{ADDED}\n"));
        let response = play.response("HTTP/1.1 200 OK\nServer: b\n\nhi").await;
        assert_eq!(response, format!("HTTP/1.1 200 OK\nServer: b\n{ADDED}\nhi"));
    }

    #[tokio::test]
    async fn ids_that_a_peer_claims_are_replaced() {
        let mut play = play("");
        let claims = "x-gwlb-vpc-endpoint-id: vpce-0\nX-GWLB-Attachment-Id: 1\nx-gwlb-flow-cookie: 2\nX-Gwlb-Flow-Cookie: 3\n";
        let request = play
            .request(&format!("GET / HTTP/1.1\n{claims}\n"))
            .await
            .to_server();
        assert_eq!(request, format!("GET / HTTP/1.1\n{ADDED}\n"));
        let response = play.response(&format!("HTTP/1.1 200 OK\n{claims}\n")).await;
        assert_eq!(response, format!("HTTP/1.1 200 OK\n{ADDED}\n"));
    }

    #[tokio::test]
    async fn either_direction_can_be_left_alone() {
        let (get, ok) = ("GET / HTTP/1.1\n\n", "HTTP/1.1 200 OK\n\n");
        let mut one = play("responses = false");
        assert_eq!(
            one.request(get).await.to_server(),
            format!("GET / HTTP/1.1\n{ADDED}\n")
        );
        assert_eq!(one.response(ok).await, ok);
        let mut other = play("requests = false");
        assert_eq!(other.request(get).await.to_server(), get);
        assert_eq!(
            other.response(ok).await,
            format!("HTTP/1.1 200 OK\n{ADDED}\n")
        );
    }
}
