//! Extended attributes: in the inode where they fit, else in one block.
//!
//! Source: <https://docs.kernel.org/filesystems/ext4/attributes.html>.

use std::collections::BTreeMap;

use super::BLOCK;
use super::checksum::crc;
use super::inode::ATTRIBUTE_BYTES;
use crate::image::bytes::{put16, put32};

const MAGIC: u32 = 0xea02_0000;
/// An entry without its name.
const ENTRY: usize = 16;
/// Header of an attribute block.
const BLOCK_HEADER: usize = 32;
/// Header of the attributes within an inode.
const INODE_HEADER: usize = 4;

/// Where a node's attributes go.
pub(super) enum Attributes {
    None,
    Inode([u8; ATTRIBUTE_BYTES]),
    /// A block, to be given its checksum by [`seal`] once its place is known.
    Block(Vec<u8>),
}

struct Entry {
    prefix: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Encodes attributes as `getxattr(2)` names and gives them.
///
/// # Errors
/// The reason, when they are more than a block holds or one is malformed.
pub(super) fn encode(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Attributes, String> {
    if xattrs.is_empty() {
        return Ok(Attributes::None);
    }
    let mut entries = xattrs
        .iter()
        .map(|(name, value)| entry(name, value))
        .collect::<Result<Vec<Entry>, String>>()?;
    // The kernel searches a block in this order.
    entries
        .sort_by(|a, b| (a.prefix, a.name.len(), &a.name).cmp(&(b.prefix, b.name.len(), &b.name)));

    let needed: usize = entries
        .iter()
        .map(|entry| entry.head_bytes() + padded(entry.value.len()))
        .sum();
    // Four zero bytes end the list.
    if INODE_HEADER + needed + 4 <= ATTRIBUTE_BYTES {
        let mut area = [0; ATTRIBUTE_BYTES];
        put32(&mut area, 0, MAGIC);
        // Offsets of values count from the first entry.
        fill(&mut area[INODE_HEADER..], 0, &entries);
        return Ok(Attributes::Inode(area));
    }
    if BLOCK_HEADER + needed + 4 > BLOCK {
        return Err(format!(
            "its extended attributes need {needed} bytes and ext4 keeps about 4000"
        ));
    }
    let mut block = vec![0; BLOCK];
    put32(&mut block, 0x0, MAGIC);
    put32(&mut block, 0x4, 1); // users
    put32(&mut block, 0x8, 1); // blocks
    let hash = fill(&mut block, BLOCK_HEADER, &entries);
    put32(&mut block, 0xc, hash);
    Ok(Attributes::Block(block))
}

/// Puts the checksum into an attribute block that lies at `place`.
pub(super) fn seal(block: &mut [u8], filesystem_seed: u32, place: u64) {
    let checksum = crc(crc(filesystem_seed, &place.to_le_bytes()), block);
    put32(block, 0x10, checksum);
}

/// Writes entries from `first` upwards and their values from the end downwards; returns the hash of them all.
fn fill(area: &mut [u8], first: usize, entries: &[Entry]) -> u32 {
    let (mut head, mut tail, mut all) = (first, area.len(), 0u32);
    for entry in entries {
        tail -= padded(entry.value.len());
        let hash = entry.hash();
        area[head] = u8::try_from(entry.name.len()).expect("names are checked");
        area[head + 1] = entry.prefix;
        if !entry.value.is_empty() {
            put16(
                area,
                head + 2,
                u16::try_from(tail).expect("an offset in a block"),
            );
        }
        put32(
            area,
            head + 8,
            u32::try_from(entry.value.len()).expect("values fit in a block"),
        );
        put32(area, head + 12, hash);
        area[head + ENTRY..head + ENTRY + entry.name.len()].copy_from_slice(&entry.name);
        area[tail..tail + entry.value.len()].copy_from_slice(&entry.value);
        head += entry.head_bytes();
        all = all.rotate_left(16) ^ hash;
    }
    all
}

impl Entry {
    fn head_bytes(&self) -> usize {
        ENTRY + padded(self.name.len())
    }

    /// `ext4_xattr_hash_entry`: name and value, by which equal blocks are found.
    fn hash(&self) -> u32 {
        let name = self
            .name
            .iter()
            .fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        self.value.chunks(4).fold(name, |hash, chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn entry(name: &[u8], value: &[u8]) -> Result<Entry, String> {
    let shown = || String::from_utf8_lossy(name).into_owned();
    let (prefix, rest) = match name {
        b"system.posix_acl_access" => (2, &name[..0]),
        b"system.posix_acl_default" => (3, &name[..0]),
        _ => [(1, "user."), (4, "trusted."), (6, "security.")]
            .into_iter()
            .find_map(|(prefix, text)| Some((prefix, name.strip_prefix(text.as_bytes())?)))
            .ok_or_else(|| format!("ext4 has no place for the extended attribute {}", shown()))?,
    };
    if rest.len() > 255 {
        return Err(format!(
            "the name of the extended attribute {} is too long",
            shown()
        ));
    }
    let value = if prefix == 2 || prefix == 3 {
        acl(value).ok_or_else(|| format!("the access control list {} is malformed", shown()))?
    } else {
        value.to_vec()
    };
    Ok(Entry {
        prefix,
        name: rest.to_vec(),
        value,
    })
}

/// A POSIX ACL from the form of `getxattr(2)` (`linux/posix_acl_xattr.h`) to the one ext4 stores (`fs/ext4/acl.h`),
/// which leaves the id out where the tag needs none.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let mut stored = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let length = if tag == USER || tag == GROUP { 8 } else { 4 };
        stored.extend_from_slice(&entry[..length]);
    }
    Some(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        [(name.as_bytes().to_vec(), value.to_vec())].into()
    }

    #[test]
    fn a_capability_fits_in_the_inode() {
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let Ok(Attributes::Inode(area)) = encode(&one("security.capability", &capability)) else {
            panic!("it needs no block")
        };
        assert_eq!(area[4..6], [10, 6]);
        assert_eq!(&area[20..30], b"capability");
        assert_eq!(area[ATTRIBUTE_BYTES - 20..], capability);
    }

    #[test]
    fn long_values_take_a_block_and_longer_ones_are_refused() {
        assert!(matches!(
            encode(&one("user.a", &[7; 3000])),
            Ok(Attributes::Block(_))
        ));
        assert!(encode(&one("user.a", &[7; 4080])).is_err());
        assert!(encode(&one("strange.a", b"")).is_err());
    }

    #[test]
    fn an_acl_loses_the_ids_that_mean_nothing() {
        let entry = |tag: u16, id: u32| {
            [
                &tag.to_le_bytes()[..],
                &7u16.to_le_bytes(),
                &id.to_le_bytes(),
            ]
            .concat()
        };
        let value = [
            2u32.to_le_bytes().to_vec(),
            entry(1, u32::MAX),
            entry(8, 42),
        ]
        .concat();
        let stored = acl(&value).unwrap();
        assert_eq!(stored, [1, 0, 0, 0, 1, 0, 7, 0, 8, 0, 7, 0, 42, 0, 0, 0]);
        assert!(acl(b"\x02\0\0\0\x01").is_none());
    }
}
