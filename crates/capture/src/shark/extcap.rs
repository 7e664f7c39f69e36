//! Wireshark's calls: extcap 1.0, as its developer's guide describes it.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use flowdog_capture::client::Target;
use flowdog_capture::control::{Command, Message};
use flowdog_capture::filter::Filter;
use flowdog_capture::proto::{self, DescribeRequest, DescribeResponse, Endpoint};
use flowdog_capture::recorder::About;
use flowdog_capture::recording::{self, Ends, Live, OneFile, What};
use tokio::fs::File;
use tokio::sync::watch;

use crate::capture::{self, SideArg};
use crate::target::TargetArgs;

/// The interface for all VPC endpoints; the others have the endpoint's name behind it.
const ALL: &str = "flowdog";
/// How long a list may take: Wireshark waits for it at its start.
const LIST: Duration = Duration::from_secs(2);

// The numbers of the toolbar's controls.
const FILTER: u8 = 0;
const SIDE: u8 = 1;
const PAUSE: u8 = 2;
const SECRETS: u8 = 3;

/// Whether the arguments are Wireshark's.
pub(crate) fn is_call(arguments: &[String]) -> bool {
    arguments
        .iter()
        .any(|argument| argument.starts_with("--extcap-") || argument == "--capture")
}

/// Answers a call on the standard output.
pub(crate) async fn answer(arguments: &[String]) -> Result<()> {
    let options = Options::read(arguments);
    let mut out = String::new();
    if options.has("--extcap-interfaces") {
        interfaces(&mut out, describe(&options).await.as_ref());
    } else if options.has("--extcap-dlts") {
        out.push_str("dlt {number=101}{name=LINKTYPE_RAW}{display=Raw IP}\n");
    } else if options.has("--extcap-config") {
        match options.get("--extcap-reload-option") {
            Some("endpoint") => endpoints(&mut out, &options, describe(&options).await.as_ref()),
            Some(other) => bail!("option {} has no list", other.escape_debug()),
            None => {
                configuration(&mut out);
                endpoints(&mut out, &options, describe(&options).await.as_ref());
            }
        }
    } else if options.has("--capture") {
        return capture(&options).await;
    } else if let Some(filter) = options.get("--extcap-capture-filter") {
        // Called at each keystroke: any text on the output says that the filter is not valid yet.
        if let Err(error) = Filter::parse(filter) {
            out = format!("{error}\n");
        }
    }
    print!("{out}");
    std::io::stdout().flush()?;
    Ok(())
}

/// `--name value` and `--name=value`; Wireshark passes what its own configuration has, in any order.
struct Options {
    values: HashMap<String, String>,
}

impl Options {
    fn read(arguments: &[String]) -> Self {
        let mut values = HashMap::new();
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => {
                    let value = rest.next_if(|next| !next.starts_with("--"));
                    (argument.as_str(), value.cloned().unwrap_or_default())
                }
            };
            values.insert(name.to_owned(), value);
        }
        Self { values }
    }

    fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<u32> {
        self.get(name).map_or(Ok(0), |text| {
            text.parse()
                .with_context(|| format!("{name}: `{}` is no number", text.escape_debug()))
        })
    }

    fn target(&self) -> Result<Target> {
        let path = |name| self.get(name).map(Into::into);
        TargetArgs {
            target: self
                .get("--target")
                .map_or_else(default_target, str::to_owned),
            token_file: path("--token-file")
                .or_else(|| variable("FLOWDOGSHARK_TOKEN_FILE").map(Into::into)),
            ca: path("--ca"),
            server_name: self.get("--server-name").map(str::to_owned),
            certificate: path("--certificate"),
            key: path("--key"),
        }
        .read()
    }

    /// The endpoint of the interface, or the one chosen in its options.
    fn endpoint(&self) -> Result<Option<u64>> {
        let interface = self.get("--extcap-interface").unwrap_or(ALL);
        let chosen = interface
            .strip_prefix("flowdog-")
            .or_else(|| self.get("--endpoint").filter(|name| *name != "all"));
        chosen
            .map(|name| capture::endpoint(name).map_err(anyhow::Error::msg))
            .transpose()
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn default_target() -> String {
    variable("FLOWDOGSHARK_TARGET").unwrap_or_else(|| Target::DEFAULT.to_owned())
}

/// None if the appliance is not there: the lists are shorter then, and Wireshark starts all the same.
async fn describe(options: &Options) -> Option<DescribeResponse> {
    let target = options.target().ok()?;
    let asked = async {
        let mut client = target.connect().await.ok()?;
        let answer = client.describe(DescribeRequest {}).await.ok()?;
        Some(answer.into_inner())
    };
    tokio::time::timeout(LIST, asked).await.ok()?
}

fn interfaces(out: &mut String, about: Option<&DescribeResponse>) {
    let host = about
        .map(|about| clean(&about.hostname))
        .filter(|host| !host.is_empty())
        .map(|host| format!(" on {host}"))
        .unwrap_or_default();
    out.push_str(concat!(
        "extcap {version=",
        env!("CARGO_PKG_VERSION"),
        "}{help=https://www.wireshark.org/docs/man-pages/extcap.html}{display=flowdog}\n"
    ));
    out.push_str(&format!(
        "interface {{value={ALL}}}{{display=flowdog{host}: all VPC endpoints}}\n"
    ));
    for endpoint in about.iter().flat_map(|about| &about.endpoints) {
        let name = capture::name(endpoint.id);
        let display = display(endpoint);
        out.push_str(&format!(
            "interface {{value=flowdog-{name}}}{{display=flowdog{host}: {display}}}\n"
        ));
    }
    out.push_str(&format!(
        "control {{number={FILTER}}}{{type=string}}{{display=Filter}}{{tooltip=Capture filter of the inner packets; Enter applies it}}{{placeholder=tcp port 443}}\n\
         control {{number={SIDE}}}{{type=selector}}{{display=Side}}{{tooltip=Before rewriting, after it, or both}}\n\
         control {{number={PAUSE}}}{{type=boolean}}{{display=Pause}}{{default=false}}{{tooltip=Leave packets out until released}}\n\
         control {{number={SECRETS}}}{{type=boolean}}{{display=Keys}}{{default=true}}{{tooltip=TLS secrets of new connections}}\n\
         value {{control={SIDE}}}{{value=client}}{{display=Client side}}{{default=true}}\n\
         value {{control={SIDE}}}{{value=server}}{{display=Server side}}\n\
         value {{control={SIDE}}}{{value=both}}{{display=Both sides}}\n"
    ));
}

/// An endpoint with the name that its owner gave it.
fn display(endpoint: &Endpoint) -> String {
    let name = capture::name(endpoint.id);
    let label = clean(&endpoint.label);
    if label.is_empty() {
        name
    } else {
        format!("{label} ({name})")
    }
}

/// What stands in a list must not end it.
fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| (c.is_ascii_graphic() || *c == ' ') && !matches!(c, '{' | '}'))
        .take(128)
        .collect()
}

fn configuration(out: &mut String) {
    out.push_str(&format!(
        "arg {{number=0}}{{call=--target}}{{display=Appliance}}{{type=string}}{{default={}}}{{tooltip=unix:/path or ADDRESS:PORT of the capture service}}{{group=Appliance}}\n\
         arg {{number=1}}{{call=--token-file}}{{display=Token file}}{{type=fileselect}}{{mustexist=true}}{{tooltip=A file with the token that the appliance asks for}}{{group=Appliance}}\n\
         arg {{number=2}}{{call=--ca}}{{display=CA certificate}}{{type=fileselect}}{{mustexist=true}}{{fileext=PEM (*.pem *.crt)}}{{tooltip=Who signed the appliance's certificate; speaks TLS}}{{group=Appliance}}\n\
         arg {{number=3}}{{call=--server-name}}{{display=Name in its certificate}}{{type=string}}{{group=Appliance}}\n\
         arg {{number=4}}{{call=--certificate}}{{display=Our certificate}}{{type=fileselect}}{{mustexist=true}}{{group=Appliance}}\n\
         arg {{number=5}}{{call=--key}}{{display=Our key}}{{type=fileselect}}{{mustexist=true}}{{group=Appliance}}\n\
         arg {{number=6}}{{call=--endpoint}}{{display=VPC endpoint}}{{type=selector}}{{reload=true}}{{placeholder=Load}}{{group=Packets}}\n\
         arg {{number=7}}{{call=--side}}{{display=Side}}{{type=selector}}{{tooltip=Before rewriting, after it, or GENEVE itself}}{{group=Packets}}\n\
         arg {{number=8}}{{call=--secrets}}{{display=TLS secrets}}{{type=boolean}}{{default=true}}{{tooltip=Decrypts what flowdog intercepts}}{{group=Packets}}\n\
         arg {{number=9}}{{call=--snap-length}}{{display=Bytes of each packet}}{{type=unsigned}}{{default=0}}{{tooltip=0 keeps all}}{{group=Packets}}\n\
         arg {{number=10}}{{call=--sample}}{{display=One of so many flows}}{{type=unsigned}}{{default=1}}{{range=1,1000000}}{{group=Packets}}\n\
         value {{arg=7}}{{value=client}}{{display=Client side, before rewriting}}{{default=true}}\n\
         value {{arg=7}}{{value=server}}{{display=Server side, after rewriting}}{{default=false}}\n\
         value {{arg=7}}{{value=both}}{{display=Both sides}}{{default=false}}\n\
         value {{arg=7}}{{value=outer}}{{display=GENEVE}}{{default=false}}\n\
         value {{arg=7}}{{value=decrypted}}{{display=Decrypted, for tools that cannot decrypt}}{{default=false}}\n",
        // Wireshark passes the default back as if it had been chosen.
        clean(&default_target())
    ));
}

fn endpoints(out: &mut String, options: &Options, about: Option<&DescribeResponse>) {
    let chosen = options.endpoint().ok().flatten();
    out.push_str(&format!(
        "value {{arg=6}}{{value=all}}{{display=All}}{{default={}}}\n",
        chosen.is_none()
    ));
    for endpoint in about.iter().flat_map(|about| &about.endpoints) {
        let name = capture::name(endpoint.id);
        let display = display(endpoint);
        out.push_str(&format!(
            "value {{arg=6}}{{value={name}}}{{display={display}}}{{default={}}}\n",
            chosen == Some(endpoint.id)
        ));
    }
}

fn sides(word: &str) -> Option<Vec<proto::Side>> {
    let sides = match word {
        "both" => vec![SideArg::Client, SideArg::Server],
        "client" => vec![SideArg::Client],
        "server" => vec![SideArg::Server],
        "outer" => vec![SideArg::Outer],
        "decrypted" => vec![SideArg::Decrypted],
        _ => return None,
    };
    Some(sides.into_iter().map(SideArg::proto).collect())
}

async fn capture(options: &Options) -> Result<()> {
    let fifo = options.get("--fifo").context("--fifo is missing")?;
    let chosen = sides(options.get("--side").unwrap_or("client"))
        .context("--side is one of both, client, server, outer, decrypted")?;
    let filter = options.get("--extcap-capture-filter").unwrap_or_default();
    let toolbar = options
        .get("--extcap-control-in")
        .zip(options.get("--extcap-control-out"));
    // The toolbar may change between these two: both have their interface from the beginning.
    let both = [proto::Side::Client, proto::Side::Server];
    let declared = if toolbar.is_some() && both.contains(chosen.first().unwrap_or(&both[0])) {
        both.to_vec()
    } else {
        chosen.clone()
    };
    let about = About {
        sides: declared,
        filter: filter.to_owned(),
        snap_length: options.number("--snap-length")?,
        ..About::default()
    };
    let what = What {
        endpoint: options.endpoint()?,
        snap_length: about.snap_length,
        sample: options.number("--sample")?,
    };
    let target = options.target()?;
    let (changes, live) = watch::channel(Live {
        filter: filter.to_owned(),
        sides: chosen,
        secrets: options.get("--secrets") != Some("false"),
        paused: false,
    });
    // Opening waits until Wireshark reads.
    let out = OpenOptions::new()
        .write(true)
        .open(fifo)
        .with_context(|| format!("cannot open {}", fifo.escape_debug()))?;
    let toolbar = toolbar.map(|(input, output)| (input.to_owned(), output.to_owned()));
    let controls = tokio::spawn(async move {
        if let Some((input, output)) = toolbar
            && let Err(error) = listen(&input, &output, &changes).await
        {
            eprintln!("flowdogshark: {error:#}");
        }
    });
    let begin = |appliance: &str| {
        let appliance = appliance.to_owned();
        OneFile::begin(Box::new(out), &About { appliance, ..about })
    };
    let done = recording::record(&target, &what, begin, Ends::default(), live, stop()).await;
    controls.abort();
    done?;
    Ok(())
}

/// Wireshark stops a capture with SIGTERM, people with Ctrl-C.
pub(crate) async fn stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Follows the toolbar until its pipe ends.
async fn listen(input: &str, output: &str, changes: &watch::Sender<Live>) -> Result<()> {
    let mut input = File::open(input)
        .await
        .context("cannot open the control pipe")?;
    let mut output = OpenOptions::new()
        .write(true)
        .open(output)
        .context("cannot open the control pipe")?;
    while let Some(message) = Message::read(&mut input).await? {
        let reply = turn(&message, changes);
        if let Some(text) = reply {
            let message = Message {
                control: 0,
                command: Command::Statusbar,
                payload: text.into_bytes(),
            };
            output
                .write_all(&message.bytes())
                .context("cannot write to the control pipe")?;
        }
    }
    Ok(())
}

/// Does what a message says; returns what the status bar should tell.
fn turn(message: &Message, changes: &watch::Sender<Live>) -> Option<String> {
    if message.command == Command::Initialized {
        return Some("flowdog: watching".to_owned());
    }
    if message.command != Command::Set {
        return None;
    }
    let text = String::from_utf8_lossy(&message.payload).into_owned();
    let on = message.payload.first().is_some_and(|byte| *byte != 0);
    match message.control {
        FILTER => match Filter::parse(&text) {
            Ok(_) => {
                changes.send_modify(|live| live.filter = text);
                None
            }
            Err(error) => Some(format!("flowdog: filter not changed: {error}")),
        },
        SIDE => {
            let sides = sides(&text)?;
            changes.send_modify(|live| live.sides = sides);
            None
        }
        PAUSE => {
            changes.send_modify(|live| live.paused = on);
            Some(
                if on {
                    "flowdog: paused"
                } else {
                    "flowdog: watching"
                }
                .to_owned(),
            )
        }
        SECRETS => {
            changes.send_modify(|live| live.secrets = on);
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(control: u8, payload: &[u8]) -> Message {
        Message {
            control,
            command: Command::Set,
            payload: payload.to_vec(),
        }
    }

    #[test]
    fn the_toolbar_changes_what_is_watched() {
        let (changes, live) = watch::channel(Live::default());
        turn(&set(FILTER, b"tcp port 443"), &changes);
        turn(&set(SIDE, b"server"), &changes);
        turn(&set(SECRETS, &[1]), &changes);
        assert!(
            turn(&set(PAUSE, &[1]), &changes)
                .unwrap()
                .contains("paused")
        );
        let now = live.borrow().clone();
        assert_eq!(now.filter, "tcp port 443");
        assert_eq!(now.sides, [proto::Side::Server]);
        assert!(now.paused && now.secrets);
        // What is wrong changes nothing, and a filter that is says why.
        assert!(
            turn(&set(FILTER, b"tcp port"), &changes)
                .unwrap()
                .contains("not changed")
        );
        assert!(turn(&set(SIDE, b"inside"), &changes).is_none());
        assert!(turn(&set(9, b"?"), &changes).is_none());
        assert_eq!(*live.borrow(), now);
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let arguments = [
            "--capture",
            "--fifo",
            "/tmp/f",
            "--side=client",
            "--secrets",
            "--extcap-interface",
            "flowdog-vpce-0123456789abcdef0",
        ];
        let arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        let options = Options::read(&arguments);
        assert!(is_call(&arguments) && options.has("--capture") && options.has("--secrets"));
        assert_eq!(options.get("--fifo"), Some("/tmp/f"));
        assert_eq!(options.get("--side"), Some("client"));
        assert_eq!(options.endpoint().unwrap(), Some(0x1234_5678_9abc_def0));
    }

    #[test]
    fn threat_66_a_name_from_the_appliance_ends_no_list() {
        let mut out = String::new();
        let about = DescribeResponse {
            hostname: "evil}{value=x}\ninterface {value=y".to_owned(),
            ..DescribeResponse::default()
        };
        interfaces(&mut out, Some(&about));
        let lines: Vec<_> = out
            .lines()
            .filter(|line| line.starts_with("interface"))
            .collect();
        assert_eq!(lines.len(), 1, "{out}");
        assert_eq!(lines[0].matches('{').count(), 2);
    }
}
