//! Indexed directories: leaves sorted by the hash of their names under a tree of hashes.
//!
//! Sources: <https://docs.kernel.org/filesystems/ext4/directory.html#hash-tree-directories>; the hash is that of
//! the kernel's `fs/ext4/hash.c` with `half_md4` over signed bytes.

use super::BLOCK;
use super::checksum::crc;
use super::dir::{Name, TAIL, entry_bytes, leaf};
use crate::image::bytes::{low32, put16, put32};

/// Bytes before the index entries of the root: `.`, `..` and eight bytes of description.
const ROOT_HEAD: usize = 32;
/// Bytes before the index entries of a node: one unused directory entry.
const NODE_HEAD: usize = 8;
/// An index entry: hash and block.
const ENTRY: usize = 8;
/// The checksum at the end of an index block.
const INDEX_TAIL: usize = 8;
const ROOT_ENTRIES: usize = (BLOCK - ROOT_HEAD - INDEX_TAIL) / ENTRY;
const NODE_ENTRIES: usize = (BLOCK - NODE_HEAD - INDEX_TAIL) / ENTRY;
const HALF_MD4: u8 = 1;
/// The length of an unused entry that fills a block.
const BLOCK_LENGTH: u16 = 4096;
/// The length of `..` in the root: it covers the index.
const ROOT_PARENT_BYTES: u16 = BLOCK_LENGTH - 12;

/// The blocks of an indexed directory: root, index nodes if one level does not do, leaves.
///
/// Holds about 258,000 leaves, twenty million names; the format's limit without `large_dir`.
pub(super) fn blocks(
    own: u32,
    parent: u32,
    names: &[Name<'_>],
    hash_seed: [u32; 4],
    seed: u32,
) -> Vec<u8> {
    let mut hashed: Vec<(u32, &Name<'_>)> = names
        .iter()
        .map(|name| (hash(name.name, hash_seed), name))
        .collect();
    hashed.sort_by_key(|(hash, name)| (*hash, name.name));
    let leaves = split(&hashed);
    // The first hash of each leaf; a leaf that goes on with the hash of the one before says so in the lowest bit.
    let mut starts: Vec<u32> = Vec::with_capacity(leaves.len());
    for (index, leaf) in leaves.iter().enumerate() {
        let goes_on = index > 0
            && leaves[index - 1]
                .last()
                .is_some_and(|last| last.0 == leaf[0].0);
        starts.push(leaf[0].0 | u32::from(goes_on));
    }

    let nodes = if leaves.len() > ROOT_ENTRIES {
        leaves.len().div_ceil(NODE_ENTRIES)
    } else {
        0
    };
    assert!(
        nodes <= ROOT_ENTRIES,
        "more names than the number of inodes allows"
    );
    let first_leaf = block_number(1 + nodes);
    let mut out = if nodes == 0 {
        root(own, parent, &starts, 1, 0, seed)
    } else {
        let upper: Vec<u32> = starts.chunks(NODE_ENTRIES).map(|chunk| chunk[0]).collect();
        root(own, parent, &upper, 1, 1, seed)
    };
    if nodes > 0 {
        let mut child = first_leaf;
        for chunk in starts.chunks(NODE_ENTRIES) {
            let mut block = vec![0; BLOCK];
            put16(&mut block, 4, BLOCK_LENGTH);
            index(&mut block, NODE_HEAD, NODE_ENTRIES, chunk, child, seed);
            child += block_number(chunk.len());
            out.extend_from_slice(&block);
        }
    }
    for names in leaves {
        let names: Vec<&Name<'_>> = names.iter().map(|(_, name)| *name).collect();
        out.extend_from_slice(&leaf(&names, seed));
    }
    out
}

/// Blocks of an indexed directory whose names take so many bytes, or a few more.
pub(super) fn most_blocks(bytes: usize) -> u64 {
    // A leaf is left when the next name does not fit, and that has at most 255 bytes.
    let leaves = bytes / (BLOCK - TAIL - entry_bytes(&[0; 255])) + 1;
    (1 + leaves / NODE_ENTRIES + 1 + leaves) as u64
}

fn block_number(index: usize) -> u32 {
    u32::try_from(index).expect("a directory has fewer than 2^32 blocks")
}

/// Cuts hashed names into blocks.
fn split<'a, 'b>(hashed: &'b [(u32, &'a Name<'a>)]) -> Vec<&'b [(u32, &'a Name<'a>)]> {
    let (mut leaves, mut start, mut used) = (Vec::new(), 0, 0);
    for (index, (_, name)) in hashed.iter().enumerate() {
        let bytes = entry_bytes(name.name);
        if used + bytes > BLOCK - TAIL {
            leaves.push(&hashed[start..index]);
            (start, used) = (index, 0);
        }
        used += bytes;
    }
    leaves.push(&hashed[start..]);
    leaves
}

fn root(own: u32, parent: u32, starts: &[u32], first_child: u32, levels: u8, seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    put32(&mut block, 0, own);
    put16(&mut block, 4, 12);
    block[6..9].copy_from_slice(&[1, 2, b'.']);
    put32(&mut block, 12, parent);
    put16(&mut block, 16, ROOT_PARENT_BYTES);
    block[18..22].copy_from_slice(&[2, 2, b'.', b'.']);
    block[28] = HALF_MD4;
    block[29] = 8; // bytes of this description
    block[30] = levels;
    index(
        &mut block,
        ROOT_HEAD,
        ROOT_ENTRIES,
        starts,
        first_child,
        seed,
    );
    block
}

/// Fills in index entries for consecutive blocks and the checksum. The first entry's hash is implied; its place
/// holds the limit and the count.
fn index(block: &mut [u8], head: usize, limit: usize, starts: &[u32], first_child: u32, seed: u32) {
    for (slot, start) in starts.iter().enumerate() {
        put32(block, head + ENTRY * slot, *start);
        put32(
            block,
            head + ENTRY * slot + 4,
            first_child + block_number(slot),
        );
    }
    put16(
        block,
        head,
        u16::try_from(limit).expect("at most 510 entries"),
    );
    put16(
        block,
        head + 2,
        u16::try_from(starts.len()).expect("at most 510 entries"),
    );
    let end = head + ENTRY * starts.len();
    // The tail is a reserved word and the checksum, which counts as zero.
    let checksum = crc(crc(seed, &block[..end]), &[0; INDEX_TAIL]);
    put32(block, BLOCK - 4, checksum);
}

/// `ext4fs_dirhash` for `DX_HASH_HALF_MD4`.
pub(super) fn hash(name: &[u8], seed: [u32; 4]) -> u32 {
    const END_OF_DIRECTORY: u32 = 0x7fff_ffff << 1;
    let mut state = if seed == [0; 4] {
        [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476]
    } else {
        seed
    };
    for start in (0..name.len()).step_by(32) {
        half_md4(&mut state, &words(&name[start..]));
    }
    match state[1] & !1 {
        END_OF_DIRECTORY => END_OF_DIRECTORY - 2,
        hash => hash,
    }
}

/// Up to 32 bytes of a name as eight words, padded with the length of what is left of it.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = low32(rest.len() as u64);
    let mut pad = length | length << 8;
    pad |= pad << 16;
    let mut words = [pad; 8];
    for (word, chunk) in words.iter_mut().zip(rest.chunks(4)) {
        for byte in chunk {
            *word = (*word << 8).wrapping_add(i32::from(byte.cast_signed()).cast_unsigned());
        }
    }
    words
}

/// Three of MD4's rounds, each half as long.
fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    const ROUNDS: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (
            |x, y, z| z ^ (x & (y ^ z)),
            0,
            [0, 1, 2, 3, 4, 5, 6, 7],
            [3, 7, 11, 19],
        ),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            |x, y, z| x ^ y ^ z,
            0x6ed9_eba1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for (step, word) in order.into_iter().enumerate() {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[word])
                .wrapping_add(constant)
                .rotate_left(shifts[step % 4]);
            (a, b, c, d) = (d, sum, b, c);
        }
    }
    for (word, value) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers from `debugfs -R "dx_hash -h half_md4 [-s seed] name"` (e2fsprogs 1.47.0).
    #[test]
    fn hashes_are_those_of_e2fsprogs() {
        let uuid = uuid::uuid!("01234567-89ab-cdef-0123-456789abcdef");
        let mut seed = [0; 4];
        for (word, bytes) in seed.iter_mut().zip(uuid.as_bytes().chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().unwrap());
        }
        let long = b"a-name-of-some-length-0000001-and-then-some-more-to-pass-32";
        assert_eq!(hash(b"hello", seed), 0xa26e_4a80);
        assert_eq!(hash(long, seed), 0xa09e_cfb2);
        assert_eq!(hash(b"\xfc\xe9x", seed), 0x6300_b310);
        assert_eq!(hash(b"hello", [0; 4]), 0x1746_da32);
    }
}
