//! Bytes that look random, follow from a seed and an offset, and so can be checked anywhere.

/// Writes the bytes of the pattern from `offset` on. Word number `n` of 8 bytes is the `n`-th output
/// of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
pub fn fill(seed: u64, mut offset: u64, out: &mut [u8]) {
    let mut rest = out;
    let within = (offset % 8) as usize;
    if within != 0 {
        let word = word(seed, offset / 8);
        let tail = word.get(within..).unwrap_or_default();
        let len = tail.len().min(rest.len());
        let (start, after) = rest.split_at_mut(len);
        start.copy_from_slice(tail.get(..len).unwrap_or_default());
        offset += len as u64;
        rest = after;
    }
    for (n, chunk) in (offset / 8..).zip(rest.chunks_mut(8)) {
        let word = word(seed, n);
        chunk.copy_from_slice(word.get(..chunk.len()).unwrap_or_default());
    }
}

fn word(seed: u64, n: u64) -> [u8; 8] {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_from_anywhere_equals_that_part_of_the_whole() {
        let mut whole = [0; 100];
        fill(7, 0, &mut whole);
        for start in 0..40 {
            for len in 0..40 {
                let mut piece = vec![0; len];
                fill(7, start as u64, &mut piece);
                assert_eq!(piece, whole[start..start + len], "{len} bytes from {start}");
            }
        }
        let mut other = [0; 100];
        fill(8, 0, &mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn the_first_word_of_seed_zero_is_splitmix64s() {
        let mut word = [0; 8];
        fill(0, 0, &mut word);
        assert_eq!(u64::from_le_bytes(word), 0xe220_a839_7b1d_cdaf);
    }
}
