//! The GUID partition table.
//!
//! Source: UEFI specification 2.10, chapter 5 (<https://uefi.org/specs/UEFI/2.10/05_GUID_Partition_Table_Format.html>).

use uuid::{Uuid, uuid};

use super::Region;
use super::bytes::{low32, put16, put32, put64};

/// Bytes in a logical block.
pub const SECTOR: u64 = 512;
/// Sectors before the first and after the last that a partition may have: MBR, header and 128 entries.
pub const TABLE_SECTORS: u64 = 34;

/// Type of an EFI system partition.
pub const EFI_SYSTEM: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
/// Type of an x86-64 root partition (Discoverable Partitions Specification).
pub const LINUX_ROOT_X86_64: Uuid = uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");

const ENTRIES: usize = 128;
const ENTRY: usize = 128;
const ENTRIES_SECTORS: u64 = (ENTRIES * ENTRY) as u64 / SECTOR;
const HEADER: usize = 92;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for.
    pub kind: Uuid,
    /// Its own identifier (`PARTUUID`).
    pub guid: Uuid,
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub sectors: u64,
    /// ASCII, at most 36 characters.
    pub name: &'static str,
}

/// Writes the protective MBR and both copies of the table.
///
/// # Panics
/// When a partition lies outside of the usable sectors: the caller lays them out.
pub fn write(disk: &Region<'_, '_>, guid: Uuid, partitions: &[Partition]) {
    let sectors = disk.length() / SECTOR;
    let entries = entries(partitions, sectors);
    let entries_crc = crc32fast::hash(&entries);
    let last = sectors - 1;
    let backup_entries = last - ENTRIES_SECTORS;

    disk.write(0, protective_mbr(sectors));
    disk.write(SECTOR, header(guid, 1, last, 2, sectors, entries_crc));
    disk.write(2 * SECTOR, entries.as_slice());
    disk.write(backup_entries * SECTOR, entries);
    disk.write(
        last * SECTOR,
        header(guid, last, 1, backup_entries, sectors, entries_crc),
    );
}

/// A partition of type 0xEE over the whole disk, so that tools that know only MBRs keep off.
fn protective_mbr(sectors: u64) -> [u8; 512] {
    let mut raw = [0; 512];
    let entry = &mut raw[446..462];
    entry[1..8].copy_from_slice(&[0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    put32(entry, 8, 1);
    put32(entry, 12, u32::try_from(sectors - 1).unwrap_or(u32::MAX));
    raw[510..].copy_from_slice(&[0x55, 0xaa]);
    raw
}

fn entries(partitions: &[Partition], sectors: u64) -> Vec<u8> {
    let mut raw = vec![0; ENTRIES * ENTRY];
    for (entry, partition) in raw.chunks_exact_mut(ENTRY).zip(partitions) {
        let end = partition.first + partition.sectors;
        assert!(partition.first >= TABLE_SECTORS && end <= sectors - TABLE_SECTORS + 1);
        entry[..16].copy_from_slice(&partition.kind.to_bytes_le());
        entry[16..32].copy_from_slice(&partition.guid.to_bytes_le());
        put64(entry, 32, partition.first);
        put64(entry, 40, end - 1);
        for (slot, unit) in partition.name.encode_utf16().take(36).enumerate() {
            put16(entry, 56 + 2 * slot, unit);
        }
    }
    raw
}

fn header(
    guid: Uuid,
    own: u64,
    other: u64,
    entries: u64,
    sectors: u64,
    entries_crc: u32,
) -> [u8; 512] {
    let mut raw = [0; 512];
    raw[..8].copy_from_slice(b"EFI PART");
    put32(&mut raw, 8, 0x0001_0000);
    put32(&mut raw, 12, low32(HEADER as u64));
    put64(&mut raw, 24, own);
    put64(&mut raw, 32, other);
    put64(&mut raw, 40, TABLE_SECTORS);
    put64(&mut raw, 48, sectors - TABLE_SECTORS);
    raw[56..72].copy_from_slice(&guid.to_bytes_le());
    put64(&mut raw, 72, entries);
    put32(&mut raw, 80, low32(ENTRIES as u64));
    put32(&mut raw, 84, low32(ENTRY as u64));
    put32(&mut raw, 88, entries_crc);
    let crc = crc32fast::hash(&raw[..HEADER]);
    put32(&mut raw, 16, crc);
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_stored_with_its_first_three_fields_swapped() {
        let partition = Partition {
            kind: EFI_SYSTEM,
            guid: Uuid::nil(),
            first: 2048,
            sectors: 10,
            name: "esp",
        };
        let raw = entries(&[partition], 10_000);
        // The bytes that every description of the format gives for the EFI system partition.
        assert_eq!(hex::encode(&raw[..16]), "28732ac11ff8d211ba4b00a0c93ec93b");
        assert_eq!(raw[40..48], 2057u64.to_le_bytes());
        assert_eq!(raw[56..62], [b'e', 0, b's', 0, b'p', 0]);
    }

    #[test]
    fn large_disks_have_a_protective_partition_of_all_ones() {
        assert_eq!(protective_mbr(1 << 40)[458..462], [0xff; 4]);
        assert_eq!(protective_mbr(1001)[458..462], 1000u32.to_le_bytes());
    }
}
