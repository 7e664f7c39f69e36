//! What one account in one region has: network interfaces with their instances, endpoints, VPCs.
//!
//! Four operations of the EC2 API (version 2016-11-15), page by page: DescribeNetworkInterfaces gives
//! addresses, owners and security groups, DescribeInstances the tags, DescribeVpcEndpoints and
//! DescribeVpcs what tells equal addresses in different VPCs apart. Everything is asked of one role.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sdk::{Ec2Host, Ec2Interface, Ec2Listing};

use crate::client::{Client, ClientConfig};
use crate::credentials::Region;
use crate::error::{AwsError, Fault};
use crate::session::{Role, Session, parse_endpoint};
use crate::sources::Environment;
use crate::xml::Element;

/// Most results on a page; EC2 allows 5 to 1,000.
const PAGE: &str = "500";
/// Most pages of one answer: a million interfaces is more than any account may have.
const MOST_PAGES: usize = 2000;
/// Most ids in one filter (EC2 allows 200 values).
const MOST_IDS: usize = 200;
/// Longest tag value that EC2 allows is 256 characters, the most tags are 50: longer ones are not
/// EC2's, and what comes from outside has a limit.
const MOST_TAGS: usize = 64;

/// Where to look and as whom.
#[derive(Debug, Clone)]
pub struct Ec2Settings {
    /// The region; otherwise that of the environment, or the instance.
    pub region: Option<Region>,
    /// ARN of a role to assume (sts:AssumeRole); otherwise one's own credentials are used.
    pub role: Option<String>,
    /// The external id that the role asks for.
    pub external_id: Option<String>,
    /// Another endpoint of EC2 than the region's own.
    pub endpoint: Option<String>,
    /// URL of an SQS queue that EventBridge puts EC2's events into.
    pub queue: Option<String>,
    /// Where credentials are looked for.
    pub environment: Environment,
}

/// One account in one region.
#[derive(Debug)]
pub struct Ec2Source {
    pub(crate) session: Session,
    pub(crate) client: Client,
    /// Patient enough for a long poll.
    pub(crate) poller: Client,
    endpoint: Option<String>,
    pub(crate) queue: Option<String>,
}

impl Ec2Source {
    /// A source to be asked later; nothing is sent.
    ///
    /// # Errors
    /// When an endpoint is no URL, or the TLS library refuses its configuration.
    pub fn new(settings: Ec2Settings) -> Result<Self, AwsError> {
        let wrong = |fault| error("ec2", fault);
        let answer = 16 * 1024 * 1024;
        let client = ClientConfig {
            attempt: Duration::from_secs(30),
            answer,
            ..ClientConfig::default()
        };
        // Whoever polls comes back by itself.
        let poller = ClientConfig {
            attempts: 1,
            ..client.clone()
        };
        for url in [&settings.endpoint, &settings.queue].into_iter().flatten() {
            parse_endpoint(url).map_err(wrong)?;
        }
        let external_id = settings.external_id;
        let role = settings.role.map(|arn| Role { arn, external_id });
        Ok(Self {
            session: Session::new(settings.region, role, settings.environment),
            client: Client::new(client).map_err(wrong)?,
            poller: Client::new(poller).map_err(wrong)?,
            endpoint: settings.endpoint,
            queue: settings.queue,
        })
    }

    /// Everything that the account has in the region.
    ///
    /// # Errors
    /// When one of the operations gives no whole answer.
    pub async fn list(&self) -> Result<Ec2Listing, AwsError> {
        let mut listing = Ec2Listing {
            interfaces: self.interfaces(&[], &[]).await?,
            ..Ec2Listing::default()
        };
        let endpoints = self.pages("DescribeVpcEndpoints", &[], "vpcEndpointSet");
        for item in endpoints.await?.iter().flat_map(items) {
            if let (Some(id), Some(vpc)) = (item.text("vpcEndpointId"), item.text("vpcId")) {
                listing.endpoints.insert(id.to_owned(), vpc.to_owned());
                if let Some(name) = tags_of(item, "tagSet").remove("Name") {
                    listing.endpoint_names.insert(id.to_owned(), name);
                }
            }
        }
        let vpcs = self.pages("DescribeVpcs", &[], "vpcSet");
        for item in vpcs.await?.iter().flat_map(items) {
            let Some(id) = item.text("vpcId") else {
                continue;
            };
            let more = item
                .items("cidrBlockAssociationSet")
                .filter_map(|one| one.text("cidrBlock"));
            let v6 = item
                .items("ipv6CidrBlockAssociationSet")
                .filter_map(|one| one.text("ipv6CidrBlock"));
            let first = item.text("cidrBlock").into_iter();
            let mut blocks: Vec<String> = first.chain(more).chain(v6).map(str::to_owned).collect();
            blocks.sort();
            blocks.dedup();
            listing.vpcs.insert(id.to_owned(), blocks);
        }
        Ok(listing)
    }

    /// The interfaces of these instances, and these interfaces; those that are no more are left out.
    ///
    /// # Errors
    /// When an operation gives no whole answer.
    pub async fn list_some(
        &self,
        instances: &[String],
        interfaces: &[String],
    ) -> Result<Vec<Ec2Interface>, AwsError> {
        let mut found: Vec<Ec2Interface> = Vec::new();
        for ids in instances.chunks(MOST_IDS) {
            found.extend(self.interfaces(ids, &[]).await?);
        }
        for ids in interfaces.chunks(MOST_IDS) {
            found.extend(self.interfaces(&[], ids).await?);
        }
        // An interface may have been found by its instance and by itself.
        let mut seen = HashSet::new();
        found.retain(|one| seen.insert(one.host.interface_id.clone()));
        Ok(found)
    }

    /// All interfaces, or those of some instances, or some by id.
    async fn interfaces(
        &self,
        instances: &[String],
        interfaces: &[String],
    ) -> Result<Vec<Ec2Interface>, AwsError> {
        let mut filters = filter("attachment.instance-id", instances);
        filters.extend(filter("network-interface-id", interfaces));
        let pages = self
            .pages("DescribeNetworkInterfaces", &filters, "networkInterfaceSet")
            .await?;
        let mut found: Vec<Ec2Interface> = pages.iter().flat_map(items).map(interface).collect();
        let known: Vec<String> = if interfaces.is_empty() {
            instances.to_vec()
        } else {
            let attached = found.iter().filter_map(|one| one.host.instance_id.clone());
            attached.collect()
        };
        if !interfaces.is_empty() && known.is_empty() {
            return Ok(found);
        }
        let mut tags = HashMap::new();
        let wanted = filter("instance-id", &known);
        let pages = self
            .pages("DescribeInstances", &wanted, "reservationSet")
            .await?;
        let instances = pages
            .iter()
            .flat_map(items)
            .flat_map(|reservation| reservation.items("instancesSet"));
        for instance in instances {
            tags.insert(instance.string("instanceId"), tags_of(instance, "tagSet"));
        }
        for one in &mut found {
            if let Some(id) = &one.host.instance_id {
                one.host.tags = tags.get(id).cloned().unwrap_or_default();
            }
        }
        Ok(found)
    }

    /// Every page of an operation; each is the element that holds the results.
    async fn pages(
        &self,
        action: &'static str,
        filters: &[(String, String)],
        results: &'static str,
    ) -> Result<Vec<Element>, AwsError> {
        let what = |fault| error(&format!("ec2:{action}"), fault);
        let (mut pages, mut token) = (Vec::new(), String::new());
        for _ in 0..MOST_PAGES {
            let mut params = vec![("Action", action), ("Version", "2016-11-15")];
            // With ids in a filter everything fits one page, and EC2 then allows no other size.
            params.push(("MaxResults", PAGE));
            if !token.is_empty() {
                params.push(("NextToken", &token));
            }
            params.extend(filters.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            let mut root = self.ask(&params).await.map_err(what)?;
            let next = root.string("nextToken");
            if let Some(page) = root.take(results) {
                pages.push(page);
            }
            if next.is_empty() {
                return Ok(pages);
            }
            if next == token {
                return Err(what(Fault::Garbled(
                    "the same page is to come twice".to_owned(),
                )));
            }
            token = next;
        }
        Err(what(Fault::Garbled(format!(
            "there are more than {MOST_PAGES} pages"
        ))))
    }

    async fn ask(&self, params: &[(&str, &str)]) -> Result<Element, Fault> {
        let known = self.session.known(&self.client).await?;
        let configured = self.endpoint.as_deref();
        let endpoint = self.session.endpoint("ec2", configured, &known.region)?;
        let answer = self
            .client
            .query(&endpoint, "ec2", params, &known.credentials, &known.region)
            .await;
        if matches!(&answer, Err(Fault::Refused(_))) {
            // Credentials may have been revoked: the next time others are looked for.
            self.session.forget().await;
        }
        answer
    }
}

pub(crate) fn error(what: &str, fault: Fault) -> AwsError {
    AwsError {
        what: what.to_owned(),
        fault,
    }
}

fn items(page: &Element) -> impl Iterator<Item = &Element> {
    page.children("item")
}

/// `Filter.1.Name=…&Filter.1.Value.1=…`; nothing for no values.
fn filter(name: &str, values: &[String]) -> Vec<(String, String)> {
    if values.is_empty() {
        return Vec::new();
    }
    let mut params = vec![("Filter.1.Name".to_owned(), name.to_owned())];
    for (number, value) in values.iter().enumerate() {
        params.push((format!("Filter.1.Value.{}", number + 1), value.clone()));
    }
    params
}

fn interface(item: &Element) -> Ec2Interface {
    let v4 = item
        .items("privateIpAddressesSet")
        .filter_map(|one| one.text("privateIpAddress"));
    let v6 = item
        .items("ipv6AddressesSet")
        .filter_map(|one| one.text("ipv6Address"));
    let first = item.text("privateIpAddress").into_iter();
    let mut addresses: Vec<std::net::IpAddr> = first
        .chain(v4)
        .chain(v6)
        .filter_map(|text| text.parse().ok())
        .collect();
    addresses.sort();
    addresses.dedup();
    let attachment = item.child("attachment");
    let groups = item
        .items("groupSet")
        .filter_map(|group| group.text("groupId"));
    Ec2Interface {
        addresses,
        host: Ec2Host {
            instance_id: attachment
                .and_then(|one| one.text("instanceId"))
                .map(str::to_owned),
            interface_id: item.text("networkInterfaceId").map(str::to_owned),
            account_id: item.string("ownerId"),
            vpc_id: item.string("vpcId"),
            subnet_id: item.string("subnetId"),
            security_groups: groups.map(str::to_owned).collect(),
            tags: tags_of(item, "tagSet"),
        },
    }
}

fn tags_of(item: &Element, set: &str) -> BTreeMap<String, String> {
    let tags = item.items(set).take(MOST_TAGS);
    tags.map(|tag| (tag.string("key"), tag.string("value")))
        .collect()
}

pub(crate) mod fuzzing {
    use super::*;

    /// Reads a page of any of EC2's lists.
    pub(crate) fn page(answer: &Element) {
        for item in items(answer) {
            let interface = interface(item);
            assert!(interface.host.tags.len() <= MOST_TAGS, "tags have a limit");
            let tags = tags_of(item, "tagSet");
            assert!(tags.len() <= MOST_TAGS, "tags have a limit");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_read_with_all_its_addresses_and_its_instance() {
        let item = Element::parse(
            "<item><networkInterfaceId>eni-1</networkInterfaceId><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId>\
             <ownerId>123456789012</ownerId><privateIpAddress>10.0.0.5</privateIpAddress>\
             <groupSet><item><groupId>sg-1</groupId><groupName>a</groupName></item><item><groupId>sg-2</groupId></item></groupSet>\
             <attachment><instanceId>i-1</instanceId></attachment><tagSet><item><key>a</key><value>b &lt; c</value></item></tagSet>\
             <privateIpAddressesSet><item><privateIpAddress>10.0.0.5</privateIpAddress></item>\
             <item><privateIpAddress>10.0.0.6</privateIpAddress></item></privateIpAddressesSet>\
             <ipv6AddressesSet><item><ipv6Address>2001:db8::5</ipv6Address></item></ipv6AddressesSet></item>",
        )
        .unwrap();
        let one = interface(&item);
        let addresses: Vec<String> = one.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.5", "10.0.0.6", "2001:db8::5"]);
        assert_eq!(one.host.instance_id.as_deref(), Some("i-1"));
        assert_eq!(one.host.security_groups, ["sg-1", "sg-2"]);
        assert_eq!(one.host.tags["a"], "b < c");
        assert_eq!(one.host.account_id, "123456789012");
    }

    /// Answers one request per connection with what `answer` makes of it.
    fn service(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> String {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut seen, mut part) = (Vec::new(), [0; 4096]);
                let request = loop {
                    let count = stream.read(&mut part).unwrap();
                    seen.extend_from_slice(&part[..count]);
                    let text = String::from_utf8_lossy(&seen).into_owned();
                    let length = text.to_ascii_lowercase();
                    let length = length.split("content-length: ").nth(1);
                    let length = length.and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
                    match (text.split_once("\r\n\r\n"), length) {
                        (Some((_, body)), Some(length)) if body.len() >= length => break text,
                        _ if count == 0 => break text,
                        _ => {}
                    }
                };
                let (status, body) = answer(&request);
                write!(
                    stream,
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
        });
        url
    }

    fn source(endpoint: &str) -> Ec2Source {
        Ec2Source::new(Ec2Settings {
            region: Region::new("eu-west-1"),
            role: None,
            external_id: None,
            endpoint: Some(endpoint.to_owned()),
            queue: None,
            environment: Environment::of(&[
                ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
                ("AWS_SECRET_ACCESS_KEY", "planted-secret"),
            ]),
        })
        .unwrap()
    }

    #[tokio::test]
    async fn every_page_is_asked_for_and_a_throttle_in_between_costs_only_time() {
        let throttled = std::sync::atomic::AtomicBool::new(false);
        let url = service(move |request| {
            assert!(request.contains("/eu-west-1/ec2/aws4_request"), "{request}");
            assert!(!request.contains("planted-secret"));
            let page = match request {
                _ if !request.contains("Action=DescribeNetworkInterfaces") => "<r/>".to_owned(),
                _ if request.contains("NextToken=two%2F%3D") => {
                    if !throttled.swap(true, std::sync::atomic::Ordering::Relaxed) {
                        let error = "<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>";
                        return (503, error.to_owned());
                    }
                    "<r><networkInterfaceSet><item><networkInterfaceId>eni-2</networkInterfaceId></item></networkInterfaceSet></r>".to_owned()
                }
                _ => "<r><networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId></item></networkInterfaceSet><nextToken>two/=</nextToken></r>".to_owned(),
            };
            (200, page)
        });
        let listing = source(&url).list().await.unwrap();
        let ids = listing
            .interfaces
            .iter()
            .map(|one| one.host.interface_id.as_deref());
        assert_eq!(ids.collect::<Vec<_>>(), [Some("eni-1"), Some("eni-2")]);
    }

    #[tokio::test]
    async fn pages_that_go_in_circles_and_refusals_are_errors_that_say_what_was_asked() {
        let circle = "<r><networkInterfaceSet/><nextToken>again</nextToken></r>";
        let url = service(move |_| (200, circle.to_owned()));
        let error = source(&url).list().await.unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
        let refusal = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized</Message></Error></Errors></Response>";
        let url = service(move |_| (403, refusal.to_owned()));
        let error = source(&url).list().await.unwrap_err().to_string();
        assert!(
            error.contains("ec2:DescribeNetworkInterfaces")
                && error.contains("UnauthorizedOperation"),
            "{error}"
        );
    }

    #[test]
    fn a_queue_or_endpoint_that_is_no_url_is_refused_at_once() {
        let settings = |endpoint: Option<&str>, queue: Option<&str>| Ec2Settings {
            region: None,
            role: None,
            external_id: None,
            endpoint: endpoint.map(str::to_owned),
            queue: queue.map(str::to_owned),
            environment: Environment::of(&[]),
        };
        assert!(Ec2Source::new(settings(None, None)).is_ok());
        assert!(Ec2Source::new(settings(Some("x y"), None)).is_err());
        assert!(Ec2Source::new(settings(None, Some("queue"))).is_err());
    }
}
