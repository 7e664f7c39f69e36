//! What must hold for any bytes that are read as WebSocket frames.

use bytes::BytesMut;

use super::frame::FrameHeader;
use super::messages::decode_all;
use super::relay::admit_all;

/// A header that passes is written back the same, and neither the messages nor what may be relayed
/// depend on how the bytes are cut.
pub(crate) fn frames(bytes: &[u8]) {
    if let Ok(Some(header)) = FrameHeader::parse(bytes) {
        let mut written = BytesMut::new();
        header.emit(&mut written);
        assert_eq!(FrameHeader::parse(&written), Ok(Some(header)));
        assert_eq!(written.len(), header.header_len);
        assert!(bytes.starts_with(&written));
    }
    let step = bytes.len() / 16 + 1;
    for from_client in [true, false] {
        let whole = decode_all(bytes, bytes.len().max(1), from_client);
        assert_eq!(decode_all(bytes, step, from_client), whole);
        let whole = admit_all(bytes, bytes.len().max(1), from_client);
        assert_eq!(admit_all(bytes, step, from_client), whole);
    }
}
