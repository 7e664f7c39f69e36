//! One end of a flow in JSON, as the first flowdog wrote it: in questions to acceptors and in records.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::ec2::Ec2Host;

/// `{"IpAddress": ..., "Port": ..., "EC2": {...}}`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndJson<'a> {
    ip_address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(rename = "EC2", skip_serializing_if = "Option::is_none")]
    ec2: Option<HostJson<'a>>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<&'a str>,
    account_id: &'a str,
    vpc_id: &'a str,
    subnet_id: &'a str,
    tags: &'a BTreeMap<String, String>,
}

impl<'a> EndJson<'a> {
    /// An end, and what EC2 knows of its host.
    #[must_use]
    pub fn new(address: SocketAddr, host: Option<&'a Ec2Host>) -> Self {
        Self {
            ip_address: address.ip(),
            port: Some(address.port()),
            ec2: host.map(|host| HostJson {
                instance_id: host.instance_id.as_deref(),
                account_id: &host.account_id,
                vpc_id: &host.vpc_id,
                subnet_id: &host.subnet_id,
                tags: &host.tags,
            }),
        }
    }

    /// Of a protocol without ports.
    #[must_use]
    pub fn without_port(self) -> Self {
        Self { port: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_first_flowdog() {
        let host = Ec2Host {
            instance_id: Some("i-1".to_owned()),
            account_id: "012345678901".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            subnet_id: "subnet-1".to_owned(),
            tags: [("Name".to_owned(), "web".to_owned())].into(),
            ..Ec2Host::default()
        };
        let json = |end: &EndJson<'_>| serde_json::to_string(end).unwrap();
        let end = EndJson::new("10.0.0.1:443".parse().unwrap(), Some(&host));
        assert_eq!(
            json(&end),
            r#"{"IpAddress":"10.0.0.1","Port":443,"EC2":{"InstanceId":"i-1","AccountId":"012345678901","VpcId":"vpc-1","SubnetId":"subnet-1","Tags":{"Name":"web"}}}"#
        );
        let end = EndJson::new("[2001:db8::1]:0".parse().unwrap(), None).without_port();
        assert_eq!(json(&end), r#"{"IpAddress":"2001:db8::1"}"#);
    }
}
