//! UDP flows by what their client's first datagrams say: so far, whether they are QUIC.

use dataplane::Verdict;
use tls::hello;
use tls::quic::{self, Initial};

use super::{Application, Facts, FirstSight, OpenStep, Opening, UDP, at_open};
use crate::config::{Action, Config};

/// What the first datagrams of a QUIC client say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuicSight {
    /// The name in the ClientHello.
    pub(crate) server_name: Option<String>,
    /// The JA4 fingerprint.
    pub(crate) ja4: Option<String>,
}

impl QuicSight {
    /// What acceptors are told.
    pub(crate) fn recognised(&self) -> sdk::Recognised {
        sdk::Recognised {
            application: Application::Quic.as_str(),
            server_name: self.server_name.clone(),
            http_host: None,
            ja4: self.ja4.clone(),
        }
    }

    fn first_sight(&self) -> FirstSight<'_> {
        FirstSight {
            application: Application::Quic,
            server_name: self.server_name.as_deref(),
            http_host: None,
        }
    }
}

/// What a UDP flow is, as far as its parked datagrams say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Datagrams {
    /// Not enough to tell.
    NeedMore,
    /// Something else, or nobody wants to know.
    Other,
    Quic(QuicSight),
}

/// Looks at the datagrams that the client of a UDP flow has sent so far, if a rule wants to know.
/// `is_late` says that no more are waited for.
pub(crate) fn look_at_datagrams<'d>(
    config: &Config,
    facts: &Facts,
    packets: impl Iterator<Item = &'d [u8]>,
    is_late: bool,
) -> Datagrams {
    if facts.protocol != UDP || !config.rules.index().asks_quic() {
        return Datagrams::Other;
    }
    let payloads = packets.filter_map(|packet| {
        let packet = wire::ip::Packet::parse(packet).ok()?;
        let whole = packet.fragment() == wire::ip::Fragment::Whole;
        let from_client = whole && packet.src() == facts.client.ip();
        let datagram = wire::udp::Datagram::parse(packet.payload()).ok()?;
        from_client.then_some(datagram.payload())
    });
    match quic::parse(payloads) {
        Initial::NotQuic => Datagrams::Other,
        Initial::NeedMore if !is_late => Datagrams::NeedMore,
        Initial::NeedMore | Initial::Unreadable => Datagrams::Quic(QuicSight::default()),
        Initial::Hello(hello) => Datagrams::Quic(QuicSight {
            ja4: Some(hello.ja4(hello::Transport::Quic)),
            server_name: hello.server_name,
        }),
    }
}

/// What to do with a flow that was seen for the first time, as [`at_open`] does; `quic` is there if it
/// is QUIC, and then everything is known of it that ever will be.
pub(crate) fn at_open_of<'c>(
    config: &'c Config,
    facts: &Facts,
    mid_flow: bool,
    from: usize,
    quic: Option<&QuicSight>,
) -> Opening<'c> {
    let Some(quic) = quic else {
        return at_open(config, facts, mid_flow, from);
    };
    let sight = quic.first_sight();
    let mut matches = config.rules.index().of_first_bytes(facts, &sight);
    let number = matches.find(|number| *number >= from);
    let rule = number.and_then(|number| config.rules.get(number));
    let step = match rule.map(|rule| rule.action) {
        Some(Action::Ask) => OpenStep::Ask,
        // There is no QUIC of ours to put in the client's and the server's place.
        None | Some(Action::Pass | Action::Intercept) => OpenStep::Verdict(Verdict::Pass),
        Some(Action::Drop) => OpenStep::Verdict(Verdict::Drop),
        Some(Action::Reset) => OpenStep::Verdict(Verdict::Reset),
    };
    Opening { step, rule, number }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("flowdog.toml"), &interceptors::all()).unwrap()
    }

    fn facts(protocol: u8) -> Facts {
        Facts {
            endpoint: dataplane::VpcEndpointId(1),
            protocol: dataplane::Protocol(protocol),
            client: "10.0.0.1:40000".parse().unwrap(),
            server: "203.0.113.5:443".parse().unwrap(),
            client_ec2: None,
            server_ec2: None,
        }
    }

    fn opening(config: &Config, name: Option<&str>) -> OpenStep {
        let sight = QuicSight {
            server_name: name.map(str::to_owned),
            ja4: None,
        };
        at_open_of(config, &facts(17), false, 0, Some(&sight)).step
    }

    #[test]
    fn quic_is_judged_by_its_name_and_by_what_it_is() {
        let config = config(
            "[[rule]]\naction = 'pass'\nserver-name = 'good.example'\napplication = 'quic'\n\
             [[rule]]\naction = 'drop'\nserver-name = '*.bad.example'\n\
             [[rule]]\naction = 'reset'\napplication = 'quic'\n\
             [[rule]]\naction = 'intercept'\n",
        );
        for (name, verdict) in [
            (Some("good.example"), Verdict::Pass),
            (Some("x.bad.example"), Verdict::Drop),
            (Some("other.example"), Verdict::Reset),
            (None, Verdict::Reset),
        ] {
            assert_eq!(
                opening(&config, name),
                OpenStep::Verdict(verdict),
                "{name:?}"
            );
        }
        // Other UDP meets the rules that ask for neither.
        let other = at_open_of(&config, &facts(17), false, 0, None).step;
        assert_eq!(other, OpenStep::Verdict(Verdict::Pass));
    }

    #[test]
    fn datagrams_are_looked_at_only_where_a_rule_wants_to_know() {
        let look = |text: &str, protocol| {
            let (config, facts) = (config(text), facts(protocol));
            look_at_datagrams(&config, &facts, std::iter::empty(), false)
        };
        for (rule, protocol, looked) in [
            ("application = 'quic'", 17, true),
            ("application = 'quic'", 6, false),
            ("server-name = '*.example'", 17, true),
            ("server-name = '*.example'\nprotocol = 'tcp'", 17, false),
            ("server-name = '*.example'\napplication = 'tls'", 17, false),
            ("port = 443", 17, false),
        ] {
            let text = format!("[[rule]]\naction = 'drop'\n{rule}\n");
            let expected = if looked {
                Datagrams::NeedMore
            } else {
                Datagrams::Other
            };
            assert_eq!(look(&text, protocol), expected, "{rule}");
        }
    }

    #[test]
    fn quic_whose_hello_never_completes_is_quic_without_a_name() {
        let config = config("[[rule]]\naction = 'reset'\napplication = 'quic'\n");
        let late = look_at_datagrams(&config, &facts(17), std::iter::empty(), true);
        assert_eq!(late, Datagrams::Quic(QuicSight::default()));
    }
}
