//! `[proxy]`: limits of HTTP and WebSocket, and how answers of flowdog's own look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proxy::respond::ErrorPage;

use super::fault::Collector;
use super::read::{HOUR, Reader, SECOND};
use super::section::Section;
use sdk::ByteSize;

impl Reader<'_> {
    pub(super) fn proxy(&mut self, mut section: Section<'_>) -> proxy::Limits {
        let default = proxy::Limits::default();
        let faults = &mut self.faults;
        let s = &mut section;
        let (kib, mib) = (ByteSize::kib(1), ByteSize::mib(1));
        let bytes =
            |size: Option<ByteSize>, default: usize| size.map_or(default, ByteSize::as_usize);
        let window =
            |size: Option<ByteSize>, default: u32| size.map_or(default, |size| size.0 as u32);
        // RFC 9113 §6.9.1: a flow-control window never exceeds 2^31-1 bytes.
        let most_window = ByteSize::mib(1024);
        let error_page = error_page(s, faults).map(Arc::new);
        let limits = proxy::Limits {
            error_page,
            head_bytes: bytes(s.size("head", kib, mib, faults), default.head_bytes),
            target_bytes: bytes(
                s.size("target", ByteSize(256), mib, faults),
                default.target_bytes,
            ),
            header_count: s
                .number("header-count", 16, 4096, faults)
                .map_or(default.header_count, |n| n as usize),
            trailer_bytes: bytes(
                s.size("trailer", ByteSize(256), mib, faults),
                default.trailer_bytes,
            ),
            head_time: s
                .duration("head-time", SECOND, HOUR, faults)
                .unwrap_or(default.head_time),
            body_rate: s
                .size("body-rate", ByteSize(0), ByteSize::mib(1), faults)
                .map_or(default.body_rate, |n| n.0 as u64),
            body_time: s
                .duration("body-time", SECOND, HOUR, faults)
                .unwrap_or(default.body_time),
            idle_time: s
                .duration("idle-time", SECOND, 24 * HOUR, faults)
                .unwrap_or(default.idle_time),
            interim_count: s
                .number("interim-count", 1, 1024, faults)
                .map_or(default.interim_count, |n| n as usize),
            drain_bytes: s
                .size("drain", ByteSize(0), ByteSize::mib(64), faults)
                .map_or(default.drain_bytes, |n| n.0 as u64),
            sniff_time: s
                .duration("sniff-time", Duration::from_millis(10), HOUR, faults)
                .unwrap_or(default.sniff_time),
            h2_streams: s
                .number("http2-streams", 1, 10_000, faults)
                .map_or(default.h2_streams, |n| n as u32),
            h2_resets: s
                .number("http2-resets", 1, 1_000_000, faults)
                .map_or(default.h2_resets, |n| n as u32),
            h2_header_table_bytes: window(
                s.size("http2-header-table", ByteSize(0), ByteSize::kib(64), faults),
                default.h2_header_table_bytes,
            ),
            h2_header_list_bytes: window(
                s.size("http2-header-list", kib, mib, faults),
                default.h2_header_list_bytes,
            ),
            h2_stream_window: window(
                s.size("http2-stream-window", ByteSize(65_535), most_window, faults),
                default.h2_stream_window,
            ),
            h2_connection_window: window(
                s.size(
                    "http2-connection-window",
                    ByteSize(65_535),
                    most_window,
                    faults,
                ),
                default.h2_connection_window,
            ),
            websocket_message_bytes: bytes(
                s.size("websocket-message", kib, ByteSize::mib(1024), faults),
                default.websocket_message_bytes,
            ),
            ..default
        };
        self.close(&section);
        limits
    }
}

/// `proxy.error-page` and `proxy.error-texts`: how answers of flowdog's own look.
fn error_page(section: &mut Section<'_>, faults: &mut Collector<'_>) -> Option<ErrorPage> {
    let texts = section.table("error-texts", faults).remaining();
    let path = section.path("error-page", faults);
    let offset = section.offset_of("error-page");
    let key = section.name_of("error-page");
    let Some(path) = path else {
        if !texts.is_empty() {
            let what = "is missing, and the texts have no page to stand in".to_owned();
            faults.add(offset, key, what, Some("the path of a file"));
        }
        return None;
    };
    let mut words = BTreeMap::new();
    for (word, text) in texts {
        let Some(text) = text.as_str() else {
            let key = section.name_of(&format!("error-texts.{word}"));
            faults.add(offset, key, "is no text".to_owned(), Some("HTML"));
            continue;
        };
        words.insert(word, text.to_owned());
    }
    let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    match read.and_then(|template| ErrorPage::new(&template, words)) {
        Ok(page) => Some(page),
        Err(what) => {
            let allowed = "HTML with {{status}}, {{reason}} and {{text}}, at most 64 KiB";
            faults.add(offset, key, what, Some(allowed));
            None
        }
    }
}
