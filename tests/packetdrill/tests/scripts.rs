//! Runs the scripts in `scripts/` against the shared object, through its C interface and in
//! virtual time, as packetdrill itself does.
#![expect(unsafe_code, reason = "the shared object speaks C")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod script;

use core::ffi::{c_char, c_int};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use flowdog_packetdrill::abi::Interface;
use libloading::Library;
use script::{Call, Event, Segment, Step, TcpOption, parse};
use wire::{ip, tcp};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1));
const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const LOCAL_PORT: u16 = 8080;
const REMOTE_PORT: u16 = 40_000;
/// What a packet may be early or late, in microseconds; packetdrill's default.
const TOLERANCE: u64 = 4_000;

type Init = unsafe extern "C" fn(*const c_char, *mut Interface);

/// The loaded plug-in with one world in it.
struct Plugin {
    table: Interface,
    // After the table, whose functions it contains.
    _library: Library,
}

impl Plugin {
    fn load() -> Self {
        // Cargo puts it beside this program.
        let program = std::env::current_exe().expect("the path of this program");
        let path = program.with_file_name("libflowdog_packetdrill.so");
        // SAFETY: our own shared object, whose loading runs no code.
        let library = unsafe { Library::new(&path) };
        let library = library.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // SAFETY: the function has this type.
        let init = unsafe { library.get::<Init>(b"packetdrill_interface_init\0") };
        let init = init.expect("the function that packetdrill looks for");
        let mut table = core::mem::MaybeUninit::uninit();
        // SAFETY: the table is valid for writing.
        unsafe { init(c"".as_ptr(), table.as_mut_ptr()) };
        Self {
            // SAFETY: the call above has filled it in.
            table: unsafe { table.assume_init() },
            _library: library,
        }
    }

    fn now(&self) -> u64 {
        let mut time = libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        };
        let table = &self.table;
        // SAFETY: `time` is valid for writing.
        unsafe { (table.gettimeofday)(table.userdata, &raw mut time, core::ptr::null_mut()) };
        time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64
    }

    fn sleep_until(&self, at: u64) {
        let micros = at.saturating_sub(self.now()) as u32;
        // SAFETY: takes a number.
        unsafe { (self.table.usleep)(self.table.userdata, micros) };
    }

    fn inject(&self, packet: &[u8]) {
        let table = &self.table;
        // SAFETY: pointer and length belong to one slice.
        let result =
            unsafe { (table.netdev_send)(table.userdata, packet.as_ptr().cast(), packet.len()) };
        assert_eq!(result, 0);
    }

    /// The next packet that leaves, and when; empty if none does.
    fn sniff(&self) -> (u64, Vec<u8>) {
        let mut packet = vec![0; 65_536];
        let (mut count, mut at) = (packet.len(), 0);
        let (table, buffer) = (&self.table, packet.as_mut_ptr().cast());
        // SAFETY: the buffer has room for `count` bytes; the rest is valid for writing.
        let result =
            unsafe { (table.netdev_receive)(table.userdata, buffer, &raw mut count, &raw mut at) };
        assert_eq!(result, 0);
        packet.truncate(count);
        (at as u64, packet)
    }

    fn call(&self, call: &Call) -> i64 {
        let argument = |index: usize| call.arguments.get(index).copied().unwrap_or(0);
        let (table, fd) = (&self.table, argument(0) as c_int);
        let user = table.userdata;
        match call.name.as_str() {
            // SAFETY: takes numbers.
            "socket" => unsafe { (table.socket)(user, libc::AF_INET, 1, 6) }.into(),
            "setsockopt" => {
                // SAFETY: the plug-in does not look at the value.
                unsafe { (table.setsockopt)(user, fd, 0, 0, core::ptr::null(), 0) }.into()
            }
            "bind" => {
                let mut bytes = [0u8; size_of::<libc::sockaddr_in>()];
                bytes[2..4].copy_from_slice(&LOCAL_PORT.to_be_bytes());
                let address = bytes.as_ptr().cast();
                // SAFETY: a whole address of IPv4; only bytes are read.
                unsafe { (table.bind)(user, fd, address, bytes.len() as u32) }.into()
            }
            // SAFETY: takes numbers.
            "listen" => unsafe { (table.listen)(user, fd, argument(1) as c_int) }.into(),
            "accept" => {
                let null = core::ptr::null_mut();
                // SAFETY: null pointers ask for no address.
                unsafe { (table.accept)(user, fd, null, core::ptr::null_mut()) }.into()
            }
            "read" => {
                let mut bytes = vec![0u8; argument(2) as usize];
                let buffer = bytes.as_mut_ptr().cast();
                // SAFETY: pointer and length belong to one vector.
                unsafe { (table.read)(user, fd, buffer, bytes.len()) as i64 }
            }
            "write" => {
                let bytes = vec![0u8; argument(2) as usize];
                // SAFETY: pointer and length belong to one vector.
                unsafe { (table.write)(user, fd, bytes.as_ptr().cast(), bytes.len()) as i64 }
            }
            // SAFETY: takes numbers.
            "close" => unsafe { (table.close)(user, fd) }.into(),
            // SAFETY: takes numbers.
            "shutdown" => unsafe { (table.shutdown)(user, fd, argument(1) as c_int) }.into(),
            name => panic!("the runner has no {name}"),
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // SAFETY: freed once, with what `init` gave.
        unsafe { (self.table.free)(self.table.userdata) };
    }
}

/// A script under way.
struct Run {
    plugin: Plugin,
    /// When the script began.
    start: u64,
    /// The initial sequence number of the engine's end, once its SYN has left.
    isn: u32,
    /// The script's descriptors and the real ones.
    descriptors: Vec<(i64, i64)>,
}

impl Run {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match &step.event {
            Event::Expect(expected) => self.expect(expected, step.at),
            Event::Inject(segment) => {
                self.plugin.sleep_until(self.start + step.at);
                self.plugin.inject(&self.packet(segment));
                Ok(())
            }
            Event::Call(call) => {
                self.plugin.sleep_until(self.start + step.at);
                self.call(call)
            }
        }
    }

    fn call(&mut self, call: &Call) -> Result<(), String> {
        let mut real = call.clone();
        if let Some(first) = real.arguments.first_mut()
            && let Some((_, fd)) = self.descriptors.iter().find(|(script, _)| script == first)
        {
            *first = *fd;
        }
        let result = self.plugin.call(&real);
        let error = io::Error::last_os_error();
        let makes_descriptor = matches!(call.name.as_str(), "socket" | "accept");
        if makes_descriptor && call.result >= 0 && result >= 0 {
            self.descriptors.push((call.result, result));
            return Ok(());
        }
        if result != call.result {
            return Err(format!("answered {result} ({error})"));
        }
        let expected = match call.errno.as_deref() {
            None => return Ok(()),
            Some("EAGAIN") => libc::EAGAIN,
            Some("EPIPE") => libc::EPIPE,
            Some("EBADF") => libc::EBADF,
            Some(other) => return Err(format!("the runner does not know {other}")),
        };
        if error.raw_os_error() == Some(expected) {
            Ok(())
        } else {
            Err(format!("failed otherwise: {error}"))
        }
    }

    fn expect(&mut self, expected: &Segment, at: u64) -> Result<(), String> {
        let (left, packet) = self.plugin.sniff();
        if packet.is_empty() {
            return Err("nothing leaves".to_owned());
        }
        let packet = ip::Packet::parse(&packet).map_err(|error| format!("{error:?}"))?;
        if !packet.verify_checksum() || (packet.src(), packet.dst()) != (LOCAL, REMOTE) {
            return Err("a wrong IP header".to_owned());
        }
        let segment =
            tcp::Segment::parse(packet.payload()).map_err(|error| format!("{error:?}"))?;
        if !segment.verify_checksum(LOCAL, REMOTE) {
            return Err("a wrong checksum".to_owned());
        }
        let bytes = packet.payload();
        if expected.flags & 0x02 != 0 {
            self.isn = segment.repr().seq.0;
        }
        let found = self.relative(bytes, expected);
        if found != *expected {
            return Err(format!("what leaves is {found:?}"));
        }
        let left = left.saturating_sub(self.start);
        if left.abs_diff(at) > TOLERANCE {
            return Err(format!("it leaves at {left} us instead of {at}"));
        }
        Ok(())
    }

    /// A segment of the engine as a script would write it; fields that `like` leaves open are open.
    fn relative(&self, bytes: &[u8], like: &Segment) -> Segment {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let header = usize::from(bytes[12] >> 4) * 4;
        Segment {
            flags: bytes[13],
            seq: word(4).wrapping_sub(self.isn),
            len: (bytes.len() - header) as u32,
            ack: like.ack.map(|_| word(8)),
            window: like
                .window
                .map(|_| u16::from_be_bytes([bytes[14], bytes[15]])),
            options: like
                .options
                .as_ref()
                .map(|_| read_options(&bytes[20..header])),
        }
    }

    fn packet(&self, segment: &Segment) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[..2].copy_from_slice(&REMOTE_PORT.to_be_bytes());
        bytes[2..4].copy_from_slice(&LOCAL_PORT.to_be_bytes());
        bytes[4..8].copy_from_slice(&segment.seq.to_be_bytes());
        let ack = segment.ack.map_or(0, |ack| ack.wrapping_add(self.isn));
        bytes[8..12].copy_from_slice(&ack.to_be_bytes());
        bytes[13] = segment.flags;
        bytes[14..16].copy_from_slice(&segment.window.unwrap_or(0).to_be_bytes());
        write_options(
            segment.options.as_deref().unwrap_or(&[]),
            self.isn,
            &mut bytes,
        );
        bytes[12] = (bytes.len() / 4) as u8 * 16;
        bytes.resize(bytes.len() + segment.len as usize, 0);
        tcp::fill_checksum(&mut bytes, REMOTE, LOCAL);
        let network = ip::Repr {
            src: REMOTE,
            dst: LOCAL,
            protocol: ip::Protocol::TCP,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: true,
            ident: 0,
            payload_len: bytes.len(),
        };
        let mut packet = vec![0; network.header_len()];
        network.emit(&mut packet);
        packet.append(&mut bytes);
        packet
    }
}

/// Blocks in a script's segment are relative to the engine's initial number.
fn write_options(options: &[TcpOption], isn: u32, bytes: &mut Vec<u8>) {
    let blocks = options
        .iter()
        .filter(|one| matches!(one, TcpOption::Sack(..)));
    let mut sack_length = Some(2 + 8 * blocks.count() as u8);
    for option in options {
        match *option {
            TcpOption::Nop => bytes.push(1),
            TcpOption::Mss(size) => {
                bytes.extend([2, 4]);
                bytes.extend(size.to_be_bytes());
            }
            TcpOption::WindowScale(shift) => bytes.extend([3, 3, shift]),
            TcpOption::SackPermitted => bytes.extend([4, 2]),
            TcpOption::Sack(left, right) => {
                if let Some(length) = sack_length.take() {
                    bytes.extend([5, length]);
                }
                bytes.extend(left.wrapping_add(isn).to_be_bytes());
                bytes.extend(right.wrapping_add(isn).to_be_bytes());
            }
            TcpOption::Timestamps(value, echo) => {
                bytes.extend([8, 10]);
                bytes.extend(value.to_be_bytes());
                bytes.extend(echo.to_be_bytes());
            }
        }
    }
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
}

fn read_options(mut bytes: &[u8]) -> Vec<TcpOption> {
    let mut options = Vec::new();
    let word = |at: &[u8]| u32::from_be_bytes(at[..4].try_into().expect("4 bytes"));
    while let Some(&kind) = bytes.first() {
        if kind == 0 {
            break;
        }
        if kind == 1 {
            options.push(TcpOption::Nop);
            bytes = &bytes[1..];
            continue;
        }
        let (option, rest) = bytes.split_at(bytes[1].into());
        match kind {
            2 => options.push(TcpOption::Mss(u16::from_be_bytes([option[2], option[3]]))),
            3 => options.push(TcpOption::WindowScale(option[2])),
            4 => options.push(TcpOption::SackPermitted),
            5 => options.extend(
                option[2..]
                    .chunks(8)
                    .map(|block| TcpOption::Sack(word(block), word(&block[4..]))),
            ),
            8 => options.push(TcpOption::Timestamps(
                word(&option[2..]),
                word(&option[6..]),
            )),
            other => panic!("option {other}"),
        }
        bytes = rest;
    }
    options
}

fn run(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let plugin = Plugin::load();
    let mut run = Run {
        start: plugin.now(),
        plugin,
        isn: 0,
        descriptors: Vec::new(),
    };
    for step in parse(&text)? {
        run.step(&step)
            .map_err(|fault| format!("{}:{}: {fault}", path.display(), step.line))?;
    }
    Ok(())
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let entries = std::fs::read_dir(folder).expect("the scripts");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "pkt"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn the_engine_does_what_the_scripts_say() {
    let paths = scripts();
    assert!(paths.len() >= 8, "only {} scripts", paths.len());
    let faults: Vec<String> = paths.iter().filter_map(|path| run(path).err()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A runner that accepts everything shows nothing.
#[test]
fn a_script_that_expects_something_else_fails_where_it_does() {
    let path = scripts()
        .into_iter()
        .find(|path| path.ends_with("close.pkt"));
    let text = std::fs::read_to_string(path.expect("a script")).expect("a readable script");
    let folder = std::env::temp_dir().join(format!("packetdrill-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for (good, bad) in [
        ("> F. 101:101(0) ack 1", "> F. 102:102(0) ack 1"),
        ("> P. 1:101(100) ack 1", "> P. 1:101(100) ack 2"),
        ("= 100", "= 99"),
    ] {
        assert!(text.contains(good), "{good}");
        let path = folder.join("wrong.pkt");
        std::fs::write(&path, text.replacen(good, bad, 1)).expect("a writable folder");
        assert!(run(&path).is_err(), "{bad}");
    }
    std::fs::remove_dir_all(&folder).expect("a folder of our own");
}
