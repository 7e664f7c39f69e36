//! DNS over TCP (RFC 7766): messages with their length before them.

use sdk::{HookContext, Leg, StreamHook, StreamOutput, StreamStep};

use super::record::Transport;
use super::{Dns, Treated};

/// One connection. What is kept of each direction is at most one message: 65,537 bytes.
#[derive(Debug)]
pub(super) struct DnsStream {
    hook: Dns,
    partial: [Vec<u8>; 2],
}

impl DnsStream {
    pub(super) fn new(hook: Dns) -> Self {
        Self {
            hook,
            partial: Default::default(),
        }
    }

    fn partial(&mut self, from: Leg) -> &mut Vec<u8> {
        let [client, server] = &mut self.partial;
        match from {
            Leg::Client => client,
            Leg::Server => server,
        }
    }
}

impl StreamHook for DnsStream {
    fn on_bytes(
        &mut self,
        bytes: &[u8],
        output: &mut StreamOutput,
        context: &HookContext<'_>,
    ) -> StreamStep {
        let mut kept = core::mem::take(self.partial(context.from));
        kept.extend_from_slice(bytes);
        let mut rest = kept.as_slice();
        while let Some((message, after)) = split(rest) {
            match self.hook.treat(message, Transport::Tcp, context) {
                Treated::Pass => frame(message, &mut output.onward),
                Treated::Changed(changed) => frame(&changed, &mut output.onward),
                Treated::Answered(answer) => frame(&answer, &mut output.back),
                Treated::Dropped => {}
            }
            rest = after;
        }
        let done = kept.len() - rest.len();
        kept.drain(..done);
        *self.partial(context.from) = kept;
        StreamStep::Continue
    }

    fn on_end(&mut self, output: &mut StreamOutput, context: &HookContext<'_>) {
        let left = core::mem::take(self.partial(context.from));
        if !left.is_empty() && self.hook.takes_malformed(context) {
            output.onward.extend_from_slice(&left);
        }
    }
}

/// The first whole message and what follows it.
pub(super) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

pub(super) fn frame(message: &[u8], out: &mut Vec<u8>) {
    // What came was framed, and what is made of it is never longer than 65,535 bytes.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
}
