//! Reads scripts in packetdrill's language, as far as our own use it: times, system calls, and TCP
//! segments of IPv4.

/// A line of a script.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    /// Microseconds since the beginning.
    pub(crate) at: u64,
    pub(crate) event: Event,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A segment arrives.
    Inject(Segment),
    /// This one has to leave next.
    Expect(Segment),
    /// A system call.
    Call(Call),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Numbers; what is no number is 0.
    pub(crate) arguments: Vec<i64>,
    pub(crate) result: i64,
    /// The name of the error.
    pub(crate) errno: Option<String>,
}

/// A segment, its numbers relative to the initial ones of each end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Segment {
    /// Header bits in the order of the wire: FIN is 1.
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) len: u32,
    pub(crate) ack: Option<u32>,
    pub(crate) window: Option<u16>,
    /// `None` where they do not matter.
    pub(crate) options: Option<Vec<TcpOption>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TcpOption {
    Nop,
    Mss(u16),
    SackPermitted,
    WindowScale(u8),
    Timestamps(u32, u32),
    /// The edges of one block.
    Sack(u32, u32),
}

/// The steps of a script, or the line that makes no sense.
pub(crate) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut at = 0;
    for (index, full) in text.lines().enumerate() {
        let line = full.split("//").next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let fault = || format!("line {}: {full}", index + 1);
        let (time, rest) = line.split_once(char::is_whitespace).ok_or_else(fault)?;
        let seconds = |text: &str| text.parse::<f64>().map_err(|_| fault());
        at = match time.strip_prefix('+') {
            Some(later) => at + (seconds(later)? * 1e6).round() as u64,
            None => (seconds(time)? * 1e6).round() as u64,
        };
        let rest = rest.trim();
        let event = match rest.split_at_checked(1) {
            Some(("<", segment)) => Event::Inject(segment_of(segment).ok_or_else(fault)?),
            Some((">", segment)) => Event::Expect(segment_of(segment).ok_or_else(fault)?),
            _ => Event::Call(call_of(rest).ok_or_else(fault)?),
        };
        steps.push(Step {
            line: index + 1,
            at,
            event,
        });
    }
    Ok(steps)
}

fn call_of(text: &str) -> Option<Call> {
    let (call, result) = text.rsplit_once(") = ")?;
    let (name, arguments) = call.split_once('(')?;
    let mut words = result.split_whitespace();
    let number = |word: &str| {
        let word = word.trim().trim_matches(['[', ']']);
        match word {
            "SHUT_WR" => 1,
            "SHUT_RDWR" => 2,
            word => word.parse().unwrap_or(0),
        }
    };
    Some(Call {
        name: name.to_owned(),
        arguments: arguments.split(',').map(number).collect(),
        result: words.next()?.parse().ok()?,
        errno: words.next().map(str::to_owned),
    })
}

fn segment_of(text: &str) -> Option<Segment> {
    let (head, options) = match text.split_once('<') {
        Some((head, options)) => (head, Some(options.trim().strip_suffix('>')?)),
        None => (text, None),
    };
    let mut words = head.split_whitespace();
    let mut segment = Segment::default();
    for letter in words.next()?.chars() {
        segment.flags |= match letter {
            'F' => 0x01,
            'S' => 0x02,
            'R' => 0x04,
            'P' => 0x08,
            '.' => 0x10,
            'E' => 0x40,
            'W' => 0x80,
            _ => return None,
        };
    }
    let (range, length) = words.next()?.strip_suffix(')')?.split_once('(')?;
    segment.seq = range.split_once(':')?.0.parse().ok()?;
    segment.len = length.parse().ok()?;
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word {
            "ack" => segment.ack = Some(value.parse().ok()?),
            "win" => segment.window = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    segment.options = match options {
        None => Some(Vec::new()),
        Some("...") => None,
        Some(options) => Some(options_of(options)?),
    };
    Some(segment)
}

fn options_of(text: &str) -> Option<Vec<TcpOption>> {
    let mut options = Vec::new();
    for option in text.split(',') {
        let words: Vec<&str> = option.split_whitespace().collect();
        match words[..] {
            ["nop"] => options.push(TcpOption::Nop),
            ["sackOK"] => options.push(TcpOption::SackPermitted),
            ["mss", size] => options.push(TcpOption::Mss(size.parse().ok()?)),
            ["wscale", shift] => options.push(TcpOption::WindowScale(shift.parse().ok()?)),
            ["TS", "val", value, "ecr", echo] => {
                let stamps = (value.parse().ok()?, echo.parse().ok()?);
                options.push(TcpOption::Timestamps(stamps.0, stamps.1));
            }
            ["sack", ref blocks @ ..] => {
                for block in blocks {
                    let (left, right) = block.split_once(':')?;
                    options.push(TcpOption::Sack(left.parse().ok()?, right.parse().ok()?));
                }
            }
            _ => return None,
        }
    }
    Some(options)
}
