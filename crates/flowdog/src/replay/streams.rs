//! What both ends of a recorded connection said, in the order in which they said it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use wire::tcp::{Flags, Segment};

/// Segments of one direction that may wait for one before them.
const WAITING: usize = 256;

/// A piece of a conversation: whether the client said it, and what.
pub(super) type Turn = (bool, Vec<u8>);

#[derive(Debug)]
pub(super) struct Conversation {
    client: SocketAddr,
    /// What the client says, and the server.
    halves: [Half; 2],
    turns: Vec<Turn>,
    len: usize,
    /// Something was left out.
    is_cut: bool,
    has_hole: bool,
}

#[derive(Debug, Default)]
struct Half {
    /// The next sequence number; none before the SYN.
    next: Option<u32>,
    /// What came too early, by its distance from `next` when it came.
    waiting: BTreeMap<u32, Vec<u8>>,
}

impl Conversation {
    pub(super) fn new(client: SocketAddr) -> Self {
        Self {
            client,
            halves: [Half::default(), Half::default()],
            turns: Vec::new(),
            len: 0,
            is_cut: false,
            has_hole: false,
        }
    }

    /// Bytes kept.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes a segment, as long as no more than `room` bytes are kept.
    pub(super) fn listen(&mut self, source: SocketAddr, segment: &Segment<'_>, room: usize) {
        let by_client = source == self.client;
        let [client, server] = &mut self.halves;
        let half = if by_client { client } else { server };
        if segment.flags().contains(Flags::SYN) {
            half.next = Some(segment.seq().0.wrapping_add(1));
            return;
        }
        let (Some(next), false) = (half.next, segment.payload().is_empty()) else {
            return;
        };
        if self.is_cut || self.len + segment.payload().len() > room {
            self.is_cut = true;
            return;
        }
        if half.waiting.len() >= WAITING {
            // What is missing was lost where the recording was made.
            self.has_hole = true;
            return;
        }
        self.len += segment.payload().len();
        half.waiting
            .insert(segment.seq().0, segment.payload().to_vec());
        let mut next = next;
        while let Some((&sequence, _)) = half
            .waiting
            .iter()
            .find(|(sequence, _)| next.wrapping_sub(**sequence) < 1 << 31)
        {
            let Some(bytes) = half.waiting.remove(&sequence) else {
                break;
            };
            self.len -= bytes.len();
            // Sent again, in whole or in part.
            let known = next.wrapping_sub(sequence) as usize;
            let Some(fresh) = bytes.get(known..).filter(|fresh| !fresh.is_empty()) else {
                continue;
            };
            next = next.wrapping_add(u32::try_from(fresh.len()).unwrap_or(0));
            self.len += fresh.len();
            match self.turns.last_mut() {
                Some((last, said)) if *last == by_client => said.extend_from_slice(fresh),
                _ => self.turns.push((by_client, fresh.to_vec())),
            }
        }
        half.next = Some(next);
    }

    /// Why not everything is there.
    pub(super) fn note(&self) -> Option<String> {
        if self.is_cut {
            Some("the conversation is longer than a replay keeps".to_owned())
        } else if self.has_hole || self.halves.iter().any(|half| !half.waiting.is_empty()) {
            Some("the recording lacks packets".to_owned())
        } else {
            None
        }
    }

    pub(super) fn into_turns(self) -> Vec<Turn> {
        self.turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: Flags, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let repr = wire::tcp::Repr {
            src_port: 1,
            dst_port: 2,
            seq: wire::tcp::Seq(sequence),
            flags,
            ..wire::tcp::Repr::default()
        };
        let mut bytes = vec![0; repr.header_len()];
        repr.emit(&mut bytes);
        bytes.extend(payload);
        bytes
    }

    fn heard(room: usize, segments: &[(bool, u32, &str)]) -> (Vec<String>, Option<String>) {
        let ends: [SocketAddr; 2] = ["10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap()];
        let mut said = Conversation::new(ends[0]);
        for (by_client, sequence, text) in segments {
            let flags = if text.is_empty() {
                Flags::SYN
            } else {
                Flags::ACK
            };
            let bytes = segment(flags, *sequence, text.as_bytes());
            let source = ends[usize::from(!by_client)];
            said.listen(source, &Segment::parse(&bytes).unwrap(), room);
        }
        let note = said.note();
        let kept: usize = said.turns.iter().map(|(_, bytes)| bytes.len()).sum();
        let waiting: usize = said
            .halves
            .iter()
            .flat_map(|half| half.waiting.values())
            .map(Vec::len)
            .sum();
        assert_eq!(said.len(), kept + waiting);
        let words = said
            .into_turns()
            .into_iter()
            .map(|(by_client, bytes)| format!("{by_client} {}", String::from_utf8(bytes).unwrap()));
        (words.collect(), note)
    }

    #[test]
    fn segments_are_put_in_order_whatever_came_first_or_twice() {
        let last = u32::MAX;
        let (words, note) = heard(
            1000,
            &[
                (true, last, ""),
                (false, 99, ""),
                (true, 3, "def"),
                (true, 0, "abc"),
                (true, 0, "abc"),
                (true, 4, "efg"),
                (false, 100, "xyz"),
                (true, 7, "h"),
            ],
        );
        assert_eq!(words, ["true abcdefg", "false xyz", "true h"]);
        assert_eq!(note, None);
    }

    #[test]
    fn what_is_missing_or_too_much_is_told() {
        let (words, note) = heard(1000, &[(true, 0, ""), (true, 1, "a"), (true, 3, "c")]);
        assert_eq!(words, ["true a"]);
        assert!(note.unwrap().contains("lacks"));
        let (words, note) = heard(4, &[(true, 0, ""), (true, 1, "abc"), (true, 4, "de")]);
        assert_eq!(words, ["true abc"]);
        assert!(note.unwrap().contains("longer"));
        // Without its beginning nothing is known.
        let (words, _) = heard(1000, &[(true, 1, "abc")]);
        assert!(words.is_empty());
    }
}
