//! An acceptor in a Lambda function: who may open which flow.
//!
//! Built for a `provided` runtime: the binary is called `bootstrap` and asks Lambda's runtime interface
//! for one event after the other. The question and the answer are described in docs/acceptors.md.
#![forbid(unsafe_code)]

mod runtime;

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

fn main() -> Result<(), runtime::Error> {
    runtime::serve(gatekeeper)
}

/// What everyone may not reach.
const MAIL: [u64; 3] = [25, 465, 587];

/// Decides about one flow.
fn gatekeeper(event: &Value) -> Value {
    let (source, destination) = (&event["Source"], &event["Destination"]);
    let address = source["IpAddress"]
        .as_str()
        .and_then(|text| text.parse().ok());
    if address.is_some_and(is_in_quarantine) {
        // The answer depends on the source alone: one question settles all flows of the host.
        return json!({"action": "deny", "reason": "the host is in quarantine", "ttl": 60, "cacheKey": ["source"]});
    }
    if let Some(port) = destination["Port"]
        .as_u64()
        .filter(|port| MAIL.contains(port))
    {
        return json!({"action": "deny", "reason": format!("port {port} is closed for you")});
    }
    // What EC2 knows of the host, if [ec2] is configured and the host is known.
    let team = source["EC2"]["Tags"]["team"].as_str().unwrap_or("unknown");
    json!({"action": "allow", "context": {"team": team}, "ttl": 300})
}

fn is_in_quarantine(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address & Ipv4Addr::new(255, 255, 0, 0) == Ipv4Addr::new(10, 66, 0, 0)
        }
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarantine_comes_before_ports_and_tags() {
        let ask = |from: &str, port: u16| {
            gatekeeper(
                &json!({"Source": {"IpAddress": from, "EC2": {"Tags": {"team": "blue"}}},
                "Destination": {"IpAddress": "192.0.2.9", "Port": port}}),
            )
        };
        assert_eq!(ask("10.66.0.1", 25)["cacheKey"][0], "source");
        assert_eq!(ask("10.1.0.1", 25)["reason"], "port 25 is closed for you");
        assert_eq!(ask("10.1.0.1", 443)["context"]["team"], "blue");
        assert_eq!(gatekeeper(&json!({}))["action"], "allow");
    }
}
