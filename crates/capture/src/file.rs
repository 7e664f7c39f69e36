//! Reads the packets of pcap and pcapng files, whoever wrote them.
//!
//! A file is read piece by piece and never held as a whole; a block that is larger than any packet
//! ends it with an error, and so does whatever else is no file of these kinds.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;

use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};

use wire::geneve;
use wire::ip::Fragment;

use crate::pcapng::Way;

/// Bytes read ahead at first, and the longest block.
const BUFFER: usize = 64 * 1024;
const MAX_BLOCK: usize = 16 << 20;
/// Most interfaces of a section.
const INTERFACES: usize = 4096;
/// The magic numbers of pcap with times in nanoseconds.
const NANOSECONDS: [u32; 2] = [0xa1b2_3c4d, 0x4d3c_b2a1];
const SECOND: u64 = 1_000_000_000;

/// A packet of a file.
#[derive(Clone, Debug)]
pub struct FilePacket {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The name of its interface, if it has one.
    pub interface: Option<Arc<str>>,
    /// Which way it went, if the file says.
    pub way: Option<Way>,
    /// LINKTYPE of what `data` begins with.
    pub link: i32,
    /// What was captured of it.
    pub data: Vec<u8>,
    /// Whether that is all of it.
    pub is_whole: bool,
}

impl FilePacket {
    /// From the IP header on. None if it is no IP packet, or its link layer is not known.
    #[must_use]
    pub fn ip(&self) -> Option<&[u8]> {
        ip_of(self.link, &self.data)
    }

    /// If it is a GENEVE datagram: where it goes, and its bytes from the GENEVE header on.
    #[must_use]
    pub fn geneve(&self) -> Option<(IpAddr, &[u8])> {
        let packet = wire::ip::Packet::parse(self.ip()?).ok()?;
        if packet.protocol().0 != 17 || packet.fragment() != Fragment::Whole {
            return None;
        }
        let datagram = wire::udp::Datagram::parse(packet.payload()).ok()?;
        let is_geneve = datagram.dst_port() == geneve::PORT
            && geneve::Packet::parse(datagram.payload()).is_ok();
        is_geneve.then(|| (packet.dst(), datagram.payload()))
    }
}

/// Why a file cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is neither pcap nor pcapng.
    #[error("this is neither a pcap nor a pcapng file")]
    Unknown,
    /// It cannot be read.
    #[error("it cannot be read on from byte {0}")]
    Read(u64),
    /// Something in it is wrong.
    #[error("what stands at byte {0} is no block of such a file")]
    Broken(u64),
    /// A block is larger than any packet.
    #[error("the block at byte {0} is larger than {MAX_BLOCK} bytes")]
    TooLarge(u64),
    /// It ends within a packet.
    #[error("it ends in the middle of a packet, at byte {0}")]
    Cut(u64),
}

/// The packets of a file, one after the other.
pub struct Packets<'f> {
    reader: Box<dyn PcapReaderIterator + Send + 'f>,
    /// The bytes before the next block.
    position: u64,
    size: usize,
    interfaces: Vec<Interface>,
    /// Nothing more is read.
    ended: bool,
}

impl fmt::Debug for Packets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packets")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Interface {
    name: Option<Arc<str>>,
    link: i32,
    /// Units of a second, and seconds to add.
    resolution: u64,
    offset: i64,
}

/// What is kept of a block while the reader is borrowed.
enum Found {
    Section,
    Interface(Interface),
    Packet(FilePacket),
    Other,
}

impl<'f> Packets<'f> {
    /// Begins to read.
    ///
    /// # Errors
    /// When it is no file of these kinds.
    pub fn open(file: impl Read + Send + 'f) -> Result<Self, FileError> {
        let reader = create_reader(BUFFER, file).map_err(|error| match error {
            PcapError::ReadError => FileError::Read(0),
            _ => FileError::Unknown,
        })?;
        Ok(Self {
            reader,
            position: 0,
            size: BUFFER,
            interfaces: Vec::new(),
            ended: false,
        })
    }

    fn read(&mut self) -> Result<Option<FilePacket>, FileError> {
        loop {
            let (len, found) = match self.reader.next() {
                Ok((len, block)) => (len, look(&block, &self.interfaces)),
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) => {
                    self.refill()?;
                    continue;
                }
                Err(PcapError::BufferTooSmall) => {
                    self.grow()?;
                    self.refill()?;
                    continue;
                }
                Err(PcapError::UnexpectedEof) => return Err(FileError::Cut(self.position)),
                Err(PcapError::ReadError) => return Err(FileError::Read(self.position)),
                Err(_) => return Err(FileError::Broken(self.position)),
            };
            self.reader.consume(len);
            self.position += len as u64;
            match found {
                Found::Section => self.interfaces.clear(),
                Found::Interface(interface) => {
                    if self.interfaces.len() >= INTERFACES {
                        return Err(FileError::Broken(self.position));
                    }
                    self.interfaces.push(interface);
                }
                Found::Packet(packet) => return Ok(Some(packet)),
                Found::Other => {}
            }
        }
    }

    fn refill(&mut self) -> Result<(), FileError> {
        let before = self.reader.data().len();
        self.reader
            .refill()
            .map_err(|_| FileError::Read(self.position))?;
        // At the end of the file the next look tells whether something is missing.
        if self.reader.data().len() > before || self.reader.reader_exhausted() {
            return Ok(());
        }
        // There was no room.
        self.grow()
    }

    /// The block is larger than the buffer.
    fn grow(&mut self) -> Result<(), FileError> {
        self.size *= 2;
        if self.size > MAX_BLOCK || !self.reader.grow(self.size) {
            return Err(FileError::TooLarge(self.position));
        }
        Ok(())
    }
}

impl Iterator for Packets<'_> {
    type Item = Result<FilePacket, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

fn look(block: &PcapBlockOwned<'_>, interfaces: &[Interface]) -> Found {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let nanoseconds = NANOSECONDS.contains(&header.magic_number);
            Found::Interface(Interface {
                name: None,
                link: header.network.0,
                resolution: if nanoseconds { SECOND } else { 1_000_000 },
                offset: 0,
            })
        }
        PcapBlockOwned::Legacy(packet) => {
            let Some(interface) = interfaces.first() else {
                return Found::Other;
            };
            let fraction = u64::from(packet.ts_usec).saturating_mul(SECOND / interface.resolution);
            let time = u64::from(packet.ts_sec) * SECOND + fraction;
            Found::Packet(FilePacket {
                time,
                interface: None,
                way: None,
                link: interface.link,
                data: packet.data.to_vec(),
                is_whole: packet.caplen >= packet.origlen,
            })
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => Found::Section,
        PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
            let name = description.if_name().and_then(Result::ok);
            Found::Interface(Interface {
                name: name.map(Arc::from),
                link: description.linktype.0,
                resolution: description.ts_resolution().unwrap_or(1_000_000).max(1),
                offset: description.ts_offset(),
            })
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let interface = usize::try_from(packet.if_id)
                .ok()
                .and_then(|number| interfaces.get(number));
            let Some(interface) = interface else {
                return Found::Other;
            };
            let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let flags = packet.options.iter().find(|option| option.code.0 == 2);
            Found::Packet(FilePacket {
                time: interface.time(units),
                interface: interface.name.clone(),
                way: match flags
                    .and_then(|option| option.value.first())
                    .map(|flags| flags & 3)
                {
                    Some(1) => Some(Way::Inbound),
                    Some(2) => Some(Way::Outbound),
                    _ => None,
                },
                link: interface.link,
                data: packet.packet_data().to_vec(),
                is_whole: packet.caplen >= packet.origlen,
            })
        }
        // Without a time there is nothing to be played back.
        PcapBlockOwned::NG(_) => Found::Other,
    }
}

impl Interface {
    fn time(&self, units: u64) -> u64 {
        let (seconds, rest) = (units / self.resolution, units % self.resolution);
        let fraction = u128::from(rest) * u128::from(SECOND) / u128::from(self.resolution);
        let seconds = seconds.saturating_add_signed(self.offset);
        seconds
            .saturating_mul(SECOND)
            .saturating_add(u64::try_from(fraction).unwrap_or(0))
    }
}

/// From the IP header on, by the numbers of LINKTYPE.
fn ip_of(link: i32, data: &[u8]) -> Option<&[u8]> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    let at = |place: usize| -> Option<u16> {
        let bytes = data.get(place..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    };
    let behind = |kind: u16, place: usize| match kind {
        IPV4 | IPV6 => data.get(place..),
        _ => None,
    };
    match link {
        // Raw IP, and what BSDs call it.
        101 | 228 | 229 | 12 | 14 => Some(data),
        // Ethernet, with up to two VLAN tags.
        1 => {
            let mut place = 12;
            for _ in 0..2 {
                if matches!(at(place)?, 0x8100 | 0x88a8) {
                    place += 4;
                }
            }
            behind(at(place)?, place + 2)
        }
        // Linux's "any", in its two forms.
        113 => behind(at(14)?, 16),
        276 => behind(at(0)?, 20),
        // BSD's loopback: a number of the address family, whose order nobody knows.
        0 | 108 => data.get(4..),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcapng::{self, Interface as Described, Packet, Section};

    fn pcap(nanoseconds: bool, link: u32, packets: &[&[u8]]) -> Vec<u8> {
        let magic: u32 = if nanoseconds {
            0xa1b2_3c4d
        } else {
            0xa1b2_c3d4
        };
        let mut bytes = magic.to_le_bytes().to_vec();
        bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(65_535_u32.to_le_bytes());
        bytes.extend(link.to_le_bytes());
        for packet in packets {
            let len = u32::try_from(packet.len()).unwrap().to_le_bytes();
            bytes.extend(7_u32.to_le_bytes());
            bytes.extend(5_u32.to_le_bytes());
            bytes.extend(len);
            bytes.extend(len);
            bytes.extend(*packet);
        }
        bytes
    }

    fn ours() -> Vec<u8> {
        let mut bytes = Vec::new();
        pcapng::section_header(&mut bytes, &Section::default());
        for name in ["client side", "server side"] {
            let described = Described {
                name: name.to_owned(),
                ..Described::default()
            };
            pcapng::interface_description(&mut bytes, &described);
        }
        pcapng::decryption_secrets(&mut bytes, "CLIENT_RANDOM 00 11\n");
        for (interface, way) in [(1, Way::Outbound), (0, Way::Inbound)] {
            let packet = Packet {
                interface,
                time: 1_700_000_000_123_456_789,
                length: 9,
                data: b"\x45packet",
                way,
                comment: "a comment",
            };
            pcapng::enhanced_packet(&mut bytes, &packet);
        }
        bytes
    }

    #[test]
    fn what_we_write_is_read_as_it_was_written() {
        let bytes = ours();
        let packets: Vec<_> = Packets::open(&bytes[..])
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].interface.as_deref(), Some("server side"));
        assert_eq!(packets[0].way, Some(Way::Outbound));
        assert_eq!(packets[0].time, 1_700_000_000_123_456_789);
        assert_eq!(packets[1].way, Some(Way::Inbound));
        assert_eq!(packets[1].ip(), Some(&b"\x45packet"[..]));
        assert!(!packets[1].is_whole);
    }

    #[test]
    fn pcap_is_read_with_its_times_and_link_layers() {
        for (nanoseconds, time) in [(false, 7_000_005_000), (true, 7_000_000_005)] {
            let bytes = pcap(nanoseconds, 101, &[b"E1", b"E2"]);
            let times: Vec<_> = Packets::open(&bytes[..])
                .unwrap()
                .map(|packet| packet.unwrap().time)
                .collect();
            assert_eq!(times, [time, time]);
        }
        let mut ethernet = vec![0; 12];
        ethernet.extend([0x81, 0, 0, 5, 8, 0, 0x45]);
        let mut any = vec![0; 14];
        any.extend([0x86, 0xdd, 0x60]);
        for (link, data, first) in [(1, &ethernet, 0x45), (113, &any, 0x60)] {
            let bytes = pcap(false, link, &[data]);
            let packet = Packets::open(&bytes[..]).unwrap().next().unwrap().unwrap();
            assert_eq!(packet.ip(), Some(&[first][..]), "{link}");
        }
    }

    #[test]
    fn threat_75_a_hostile_file_ends_in_an_error_that_says_where() {
        assert_eq!(
            Packets::open(&b"not a capture at all, but text"[..]).err(),
            Some(FileError::Unknown)
        );
        assert!(Packets::open(&b""[..]).is_err());
        let whole = ours();
        for len in 0..whole.len() {
            if let Ok(packets) = Packets::open(&whole[..len]) {
                let errors = packets.filter(Result::is_err).count();
                assert!(errors <= 1);
            }
        }
        for file in [whole, pcap(false, 101, &[b"E1"])] {
            for at in 0..file.len() {
                for byte in [0, 0x7f, 0xff] {
                    let mut broken = file.clone();
                    broken[at] = byte;
                    crate::fuzzing::file(&broken);
                }
            }
        }
        // Packets that fill more than what is read ahead, and one larger than that.
        let large = vec![0x45; 100_000];
        let bytes = pcap(false, 101, &[&[0x45; 40_000], &[0x45; 40_000], &large]);
        let read: Vec<_> = Packets::open(&bytes[..])
            .unwrap()
            .map(|packet| packet.unwrap().data.len())
            .collect();
        assert_eq!(read, [40_000, 40_000, 100_000]);
        // A packet that says it has 4 GB.
        let mut large = pcap(false, 101, &[]);
        large.extend([0; 8]);
        large.extend([0xff; 8]);
        let error = Packets::open(&large[..]).unwrap().find_map(Result::err);
        assert!(error.is_some(), "{error:?}");
    }
}
