//! Which shard a datagram belongs to: the same for both directions of a flow, whatever outer port
//! or cookie its packets carry.
//!
//! The kernel runs [`program`] on each datagram before it chooses a socket. The program knows the
//! usual outer header and inner packets without options, and sends the rest to the first shard;
//! [`owner`] knows them all, and a shard hands over what is not its own.

use std::io;
use std::os::fd::AsFd;

use nix::libc::{sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt};

/// Where the inner packet begins behind the usual outer header (base header and three options).
const INNER: u32 = 40;
/// Spreads the sum's entropy into the high bits (the golden ratio, as in Fibonacci hashing).
const SPREAD: u32 = 0x9E37_79B1;

/// The shard that a datagram belongs to.
///
/// A datagram that cannot be understood belongs to the first shard.
pub(crate) fn owner(datagram: &[u8], shards: usize) -> usize {
    if shards <= 1 {
        return 0;
    }
    let shards = u32::try_from(shards).unwrap_or(u32::MAX);
    hash(datagram).map_or(0, |hash| (hash % shards) as usize)
}

/// Lets the kernel choose among sockets that share a port; `socket` is the group's first.
pub(crate) fn attach(socket: &impl AsFd, shards: usize) -> io::Result<()> {
    let mut filter = program(u32::try_from(shards).unwrap_or(u32::MAX));
    let program = sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    Ok(setsockopt(
        &socket.as_fd(),
        sockopt::AttachReusePortCbpf,
        &program,
    )?)
}

/// Addresses and, for whole TCP and UDP packets over IPv4, ports: all symmetric in direction.
///
/// Fragments have no ports in all but the first, so no fragment's ports count; they are passed
/// raw and need no common shard with their flow.
fn hash(datagram: &[u8]) -> Option<u32> {
    // RFC 8926 §3.4: the length of the options in words of four bytes, behind eight bytes.
    let at = 8 + (byte(datagram, 0)? & 0x3f) * 4;
    let mixed = match half(datagram, 2)? {
        0x0800 => {
            let addresses = word(datagram, at + 12)? ^ word(datagram, at + 16)?;
            let whole = half(datagram, at + 6)? & 0x3fff == 0;
            if matches!(byte(datagram, at + 9)?, 6 | 17) && whole {
                // RFC 791 §3.1: the length of the header in words of four bytes.
                let ports = at + (byte(datagram, at)? & 0x0f) * 4;
                addresses ^ half(datagram, ports)? ^ half(datagram, ports + 2)?
            } else {
                addresses
            }
        }
        // The addresses alone: extension headers may stand before the ports.
        0x86dd => {
            let mut mixed = 0;
            for offset in (8..40).step_by(4) {
                mixed ^= word(datagram, at + offset)?;
            }
            mixed
        }
        _ => return None,
    };
    Some(mixed.wrapping_mul(SPREAD) >> 16)
}

fn byte(datagram: &[u8], at: u32) -> Option<u32> {
    datagram.get(at as usize).map(|byte| u32::from(*byte))
}

fn half(datagram: &[u8], at: u32) -> Option<u32> {
    let bytes = datagram.get(at as usize..)?.first_chunk::<2>()?;
    Some(u32::from(u16::from_be_bytes(*bytes)))
}

fn word(datagram: &[u8], at: u32) -> Option<u32> {
    datagram
        .get(at as usize..)?
        .first_chunk::<4>()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

/// [`hash`] in classic BPF, for the usual headers. A load past the end makes the program return 0: the first shard.
fn program(shards: u32) -> Vec<sock_filter> {
    use op::*;
    let at = INNER;
    let mut code = vec![
        // 0: the first word tells the usual header and the family.
        insn(LD_WORD, 0, 0, 0),
        insn(JEQ, 2, 0, 0x0800_0800),
        insn(JEQ, 21, 0, 0x0800_86dd),
        insn(RETURN, 0, 0, 0),
        // 4: IPv4 without options.
        insn(LD_BYTE, 0, 0, at),
        insn(JEQ, 1, 0, 0x45),
        insn(RETURN, 0, 0, 0),
        // 7: scratch 0 = addresses.
        insn(LD_WORD, 0, 0, at + 12),
        insn(TO_X, 0, 0, 0),
        insn(LD_WORD, 0, 0, at + 16),
        insn(XOR_X, 0, 0, 0),
        insn(STORE, 0, 0, 0),
        // 12: ports of whole TCP and UDP packets.
        insn(LD_HALF, 0, 0, at + 6),
        insn(JSET, 30, 0, 0x3fff),
        insn(LD_BYTE, 0, 0, at + 9),
        insn(JEQ, 1, 0, 6),
        insn(JEQ, 0, 27, 17),
        insn(LD_HALF, 0, 0, at + 20),
        insn(TO_X, 0, 0, 0),
        insn(LD_HALF, 0, 0, at + 22),
        insn(XOR_X, 0, 0, 0),
        insn(LOAD_X, 0, 0, 0),
        insn(XOR_X, 0, 0, 0),
        insn(JUMP, 0, 0, 21),
        // 24: IPv6, its eight words of addresses.
        insn(LD_WORD, 0, 0, at + 8),
    ];
    for offset in (12..40).step_by(4) {
        code.push(insn(TO_X, 0, 0, 0));
        code.push(insn(LD_WORD, 0, 0, at + offset));
        code.push(insn(XOR_X, 0, 0, 0));
    }
    debug_assert_eq!(code.len(), 46, "the jumps above count on it");
    // 46 (from 24): skip the reload.
    code.push(insn(JUMP, 0, 0, 1));
    // 47: without ports.
    code.push(insn(LOAD, 0, 0, 0));
    // 48: mix and choose.
    code.push(insn(MUL, 0, 0, SPREAD));
    code.push(insn(SHIFT_RIGHT, 0, 0, 16));
    code.push(insn(MODULO, 0, 0, shards));
    code.push(insn(RETURN_A, 0, 0, 0));
    fix_jumps(&mut code);
    code
}

/// Jumps to the two places whose distance depends on the loop above.
fn fix_jumps(code: &mut [sock_filter]) {
    const RELOAD: usize = 47;
    const MIX: usize = 48;
    code[13].jt = (RELOAD - 14) as u8;
    code[16].jf = (RELOAD - 17) as u8;
    code[23].k = (MIX - 24) as u32;
}

fn insn(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// `linux/bpf_common.h`: class, size or operation, and mode.
mod op {
    pub(super) const LD_WORD: u16 = 0x20;
    pub(super) const LD_HALF: u16 = 0x28;
    pub(super) const LD_BYTE: u16 = 0x30;
    pub(super) const LOAD: u16 = 0x60;
    pub(super) const LOAD_X: u16 = 0x61;
    pub(super) const STORE: u16 = 0x02;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const JEQ: u16 = 0x15;
    pub(super) const JSET: u16 = 0x45;
    pub(super) const MUL: u16 = 0x24;
    pub(super) const MODULO: u16 = 0x94;
    pub(super) const SHIFT_RIGHT: u16 = 0x74;
    pub(super) const XOR_X: u16 = 0xac;
    pub(super) const TO_X: u16 = 0x07;
    pub(super) const RETURN: u16 = 0x06;
    pub(super) const RETURN_A: u16 = 0x16;
}

#[cfg(test)]
mod tests;
