use http::HeaderValue;

use super::*;
use crate::{Target, testing};

fn request(target: &str) -> Request {
    let method = Method::POST;
    let target = Target::parse(&method, target.as_bytes()).unwrap();
    let mut request = Request::new(method, target);
    for (name, value) in [
        ("Host", "WWW.Example.com.:8080"),
        ("X-Team", "red"),
        ("x-team", "blue"),
    ] {
        request
            .headers
            .append(name.parse().unwrap(), HeaderValue::from_static(value));
    }
    request
}

fn exchange(request: &Request) -> Exchange {
    let mut flow = testing::flow();
    flow.context
        .insert("owner".to_owned(), serde_json::json!("payments"));
    flow.context.insert("size".to_owned(), serde_json::json!(3));
    Exchange::new(flow.into(), request)
}

fn matches(filter: &str) -> bool {
    let request = request("/v1/users?id=7");
    let exchange = exchange(&request);
    let filter: Filter = filter.parse().unwrap();
    filter.matches(&Subject::request(&request, &exchange))
}

#[test]
fn every_field_and_comparison_of_a_request() {
    for (filter, expected) in [
        (r#"host == "www.example.com""#, true),
        (r#"host != "www.example.com""#, false),
        (r#"host like "*.EXAMPLE.com""#, true),
        (r#"host like ["a.*", "www.*.com"]"#, true),
        (r#"host like "example.com""#, false),
        (r#"host =~ "^www\.""#, true),
        (r#"path == "/v1/users""#, true),
        (r#"path == "/V1/users""#, false),
        (r#"path =~ '^/v[0-9]+/'"#, true),
        (r#"path !~ '^/v[0-9]+/'"#, false),
        (r#"query"#, true),
        (r#"query == "id=7""#, true),
        (r#"method in ["GET", "POST"]"#, true),
        (r#"not method in ["GET", "HEAD"]"#, true),
        (r#"method == "post""#, false),
        (r#"version == "1.1""#, true),
        (r#"header "x-team""#, true),
        (r#"header "X-TEAM" == "blue""#, true),
        (r#"header "X-Team" != "blue""#, false),
        (r#"header "X-None" != "blue""#, true),
        (r#"header "X-None""#, false),
        (r#"tag "owner" == "payments""#, true),
        (r#"tag "size" == "3""#, true),
        (r#"tag "none""#, false),
        (r#"port in [80, 443]"#, true),
        (r#"port > 1024"#, false),
        (r#"method == "GET" or path like "/v1/*" and query"#, true),
        (
            r#"(method == "GET" or path like "/v1/*") and not query"#,
            false,
        ),
        (r#"not not query"#, true),
    ] {
        assert_eq!(matches(filter), expected, "{filter}");
    }
}

#[test]
fn what_ec2_knows_of_the_hosts_can_be_asked() {
    let host = Ec2Host {
        instance_id: Some("i-1".into()),
        account_id: "123456789012".into(),
        security_groups: vec!["sg-1".into(), "sg-2".into()],
        tags: [("team".into(), "blue".into())].into(),
        ..Ec2Host::default()
    };
    let request = request("/");
    let mut exchange = exchange(&request);
    let mut flow = FlowInfo::clone(&exchange.flow);
    flow.client_ec2 = Some(host.into());
    exchange.flow = flow.into();
    for (filter, expected) in [
        (r#"source-tag "team" == "blue""#, true),
        (r#"source-tag "none""#, false),
        (r#"source-security-group == "sg-2""#, true),
        (r#"source-instance in ["i-1"] and source-account"#, true),
        (r#"destination-tag "team""#, false),
        (r#"not destination-vpc"#, true),
        (r#"source-interface"#, false),
    ] {
        let parsed: Filter = filter.parse().unwrap();
        let subject = Subject::request(&request, &exchange);
        assert_eq!(parsed.matches(&subject), expected, "{filter}");
    }
    for wrong in ["source-tag", "source-size", "source", "client-vpc"] {
        assert!(wrong.parse::<Filter>().is_err(), "{wrong}");
    }
}

#[test]
fn what_is_not_known_yet_compares_as_false() {
    for filter in [
        "status == 200",
        "status != 200",
        "status < 600",
        "response-header \"server\"",
    ] {
        assert!(!matches(filter), "{filter}");
        assert!(filter.parse::<Filter>().unwrap().needs_response());
    }
    let request = request("/");
    let exchange = exchange(&request);
    let mut response = Response::new(StatusCode::BAD_GATEWAY);
    response
        .headers
        .append("Server".parse().unwrap(), HeaderValue::from_static("nginx"));
    for (filter, expected) in [
        ("status >= 500 and status != 503", true),
        ("status in [502, 504]", true),
        ("status <= 502", true),
        ("response-header \"server\" like \"ngin*\"", true),
        ("path == \"/\" and status < 500", false),
    ] {
        let filter: Filter = filter.parse().unwrap();
        let subject = Subject::response(&response, &exchange);
        assert_eq!(filter.matches(&subject), expected, "{filter}");
    }
}

#[test]
fn faults_say_what_and_where() {
    for (filter, expected) in [
        ("", "a condition is missing; it begins with host, path"),
        (
            "hots == \"a\"",
            "\"hots\" is nothing to look at; there are host",
        ),
        ("host", "==, !=, =~, !~, like or in is missing at column 5"),
        ("host == a", "a text in quotes is missing at column 9"),
        ("host == \"a", "a text has no closing quote at column 9"),
        ("status == \"200\"", "a number is missing at column 11"),
        (
            "status == 70000",
            "a number is larger than 65535 at column 11",
        ),
        (
            "status ~ 200",
            "a character that means nothing in a filter at column 8",
        ),
        ("(query", "a closing parenthesis is missing at column 7"),
        (
            "query query",
            "\"and\", \"or\" or the end of the filter is missing at column 7",
        ),
        (
            "path =~ \"(\"",
            "not a regular expression: unclosed group at column 9",
        ),
        (
            "method in [\"a\" \"b\"]",
            "a comma or a closing bracket is missing at column 16",
        ),
        ("header \"a b\"", "not the name of a field at column 8"),
    ] {
        let error = filter.parse::<Filter>().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{filter}: {error}");
    }
}

#[test]
fn threat_70_length_depth_tests_and_regular_expressions_are_bounded() {
    let deep = format!("{}query{}", "(".repeat(40), ")".repeat(40));
    let nots = format!("{}query", "not ".repeat(2000));
    let many = vec!["query"; 300].join(" or ");
    let long = format!("path == \"{}\"", "x".repeat(9000));
    let large = "path =~ \"(a{1000}){1000}\"".to_owned();
    for filter in [deep, nots, many, long, large] {
        assert!(filter.parse::<Filter>().is_err(), "{filter:.60}");
    }
    let start = std::time::Instant::now();
    let evil: Filter = "path =~ \"^(/a+)+$\"".parse().unwrap();
    let request = request(&format!("/{}!", "a".repeat(4000)));
    assert!(!evil.matches(&Subject::request(&request, &exchange(&request))));
    let stars: Filter = "path like \"*a*a*a*a*a*a*a*a*b\"".parse().unwrap();
    assert!(!stars.matches(&Subject::request(&request, &exchange(&request))));
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_filter_or_a_fault(text in ".{0,60}") {
        let _ = text.parse::<Filter>();
    }

    #[test]
    fn any_words_are_a_filter_or_a_fault(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "not", "and", "or", "(", ")", "[", "]", ",", "host", "status", "header", "\"x\"",
            "==", "in", "like", "=~", "200", "query", "tag",
        ]), 0..20)
    ) {
        if let Ok(filter) = words.join(" ").parse::<Filter>() {
            assert_eq!(filter.to_string().parse::<Filter>().unwrap(), filter);
        }
    }
}
