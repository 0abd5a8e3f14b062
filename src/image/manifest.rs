//! The blocks of a disk, each with its checksum: what two disks differ in, and what an upload needs to send.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes in a block of an EBS snapshot. A block's index is its offset on the disk divided by this
/// (<https://docs.aws.amazon.com/ebs/latest/userguide/ebsapi-elements.html>).
pub const BLOCK_BYTES: u64 = 524_288;

/// The blocks of a disk that are not all zeros, in the order of their indexes.
///
/// As JSON, `{"block_bytes":524288,"size_bytes":N,"blocks":[[INDEX,"CHECKSUM"],…]}`: the index as in
/// `ListSnapshotBlocks`, the checksum as in `PutSnapshotBlock`, which is SHA-256 in base64. The size of
/// a disk is a multiple of a block's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockManifest {
    /// [`BLOCK_BYTES`].
    pub block_bytes: u64,
    /// Size of the disk.
    pub size_bytes: u64,
    pub blocks: Vec<Block>,
}

impl BlockManifest {
    /// Indexes of the blocks that differ from those of the disk `before`, as `ListChangedBlocks` tells them; what has
    /// become zeros is among them.
    #[must_use]
    pub fn changed_since(&self, before: &Self) -> Vec<u64> {
        let by_index = |manifest: &Self| -> BTreeMap<u64, [u8; 32]> {
            manifest
                .blocks
                .iter()
                .map(|block| (block.0, block.1))
                .collect()
        };
        let (old, new) = (by_index(before), by_index(self));
        let mut indexes: Vec<u64> = old.keys().chain(new.keys()).copied().collect();
        indexes.sort_unstable();
        indexes.dedup();
        indexes.retain(|index| old.get(index) != new.get(index));
        indexes
    }
}

/// Index and SHA-256 of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block(
    pub u64,
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")] pub [u8; 32],
);

fn to_base64<S: Serializer>(sum: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(sum))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = BASE64_STANDARD.decode(text).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| serde::de::Error::custom("a checksum is a SHA-256 in base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_compact_and_reads_back() {
        let manifest = BlockManifest {
            block_bytes: BLOCK_BYTES,
            size_bytes: 8 << 30,
            blocks: vec![Block(3, [0; 32]), Block(16_383, [255; 32])],
        };
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(
            text,
            "{\"block_bytes\":524288,\"size_bytes\":8589934592,\"blocks\":[\
             [3,\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"],\
             [16383,\"//////////////////////////////////////////8=\"]]}"
        );
        let read: BlockManifest = serde_json::from_str(&text).unwrap();
        assert_eq!(read, manifest);
        let other = BlockManifest {
            blocks: vec![Block(0, [7; 32]), Block(3, [0; 32])],
            ..manifest.clone()
        };
        assert_eq!(other.changed_since(&manifest), [0, 16_383]);
        assert!(serde_json::from_str::<Block>("[3,\"AAAA\"]").is_err());
    }
}
