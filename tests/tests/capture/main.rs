//! Watching packets with flowdogshark, read by tshark.

mod files;
mod readers;
mod sessions;
mod watching;
