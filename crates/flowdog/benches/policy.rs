//! What it costs to find the rule that decides, among a thousand.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and one that cannot go on fails"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use flowdog::config::endpoint_id;
use flowdog::sdk::Ec2Host;
use flowdog::{ClientTls, Config, Question, first_rule};

/// Rules as a platform team writes them: a network, a port and a name each; a tag, a security group or
/// an account in every third.
fn rules(count: usize) -> Config {
    let mut text = "[ec2]\n".to_owned();
    for number in 0..count {
        let (high, low) = (number / 256, number % 256);
        let port = 1000 + number % 50;
        let _ = write!(
            text,
            "[[rule]]\naction = 'drop'\nsource = ['10.{high}.{low}.0/24', '172.16.{low}.0/25']\nport = [{port}, '8000-8099']\n"
        );
        let _ = match number % 6 {
            0 => writeln!(
                text,
                "source-tag = {{ team = 't{}', env = ['prod', 'dev'] }}",
                number % 40
            ),
            1 => writeln!(
                text,
                "server-name = ['*.n{number}.example', 'n{number}.example']"
            ),
            2 => writeln!(text, "destination-security-group = 'sg-{number:08x}'"),
            3 => writeln!(text, "source-account = '{number:012}'"),
            4 => writeln!(text, "destination = '203.0.{low}.0/24'"),
            _ => writeln!(text, "protocol = 'tcp'"),
        };
    }
    text += "[[rule]]\naction = 'pass'\n";
    Config::parse(&text, Path::new("flowdog.toml"), &[]).unwrap()
}

fn questions() -> Vec<Question> {
    let host = |number: usize| {
        Arc::new(Ec2Host {
            instance_id: Some(format!("i-{number:08x}")),
            account_id: format!("{number:012}"),
            security_groups: vec![format!("sg-{number:08x}"), "sg-1".to_owned()],
            tags: [
                ("team", format!("t{}", number % 40)),
                ("env", "prod".to_owned()),
            ]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
            ..Ec2Host::default()
        })
    };
    (0..256)
        .map(|number| Question {
            endpoint: endpoint_id("vpce-00000000000000001").unwrap(),
            protocol: 6,
            from: format!("10.{}.{}.7:40000", number / 64, number)
                .parse()
                .unwrap(),
            to: format!("203.0.{number}.9:{}", 1000 + number % 60)
                .parse()
                .unwrap(),
            client_ec2: Some(host(number)),
            server_ec2: (number % 2 == 0).then(|| host(number * 3)),
            mid_flow: false,
            application: None,
            tls: ClientTls::default(),
            server_name: Some(format!("www.n{number}.example")),
            http_host: None,
        })
        .collect()
}

/// Nanoseconds per flow: the best of several rounds, since whatever else runs only adds.
fn measure(config: &Config, questions: &[Question]) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let began = Instant::now();
        let mut found = 0;
        for _ in 0..20 {
            for question in questions {
                found += std::hint::black_box(first_rule(config, question)).unwrap_or(0);
            }
        }
        assert!(found > 0);
        let each = began.elapsed().as_nanos() as f64 / (20 * questions.len()) as f64;
        best = best.min(each);
    }
    best
}

fn main() {
    let questions = questions();
    let yardstick = measure(&rules(1), &questions);
    for count in [100, 1000] {
        let value = measure(&rules(count), &questions);
        let bound = (count == 1000).then_some(1000.0);
        println!(
            "{}",
            serde_json::json!({"measure": format!("the deciding rule of {count} / of 1"), "value": value,
                "unit": "ns", "yardstick": yardstick, "bound": bound, "kind": "max"})
        );
    }
}
