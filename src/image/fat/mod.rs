//! A FAT32 file system: what UEFI firmware reads its boot loader from.
//!
//! Source: Microsoft's "FAT: General Overview of On-Disk Format", version 1.03, section numbers as there; UEFI
//! specification 2.10, 13.3. Clusters are given out in order, so every file is in one piece.

mod entry;

use std::collections::BTreeMap;

use super::bytes::{high16, low8, low16, low32, put16, put32};
use super::tree::Content;
use super::{ImageError, Region, Result};
use entry::{Entry, encode};

const SECTOR: u64 = 512;
const RESERVED_SECTORS: u64 = 32;
const FATS: u64 = 2;
/// A FAT with fewer clusters is a FAT16, whatever it says.
const LEAST_CLUSTERS: u64 = 65_525;
const ROOT_CLUSTER: u32 = 2;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
/// The first boot sector's copy.
const BACKUP_BOOT_SECTOR: u64 = 6;

/// What a file system is told beside its contents.
#[derive(Debug, Clone)]
pub struct Options {
    /// The volume's serial number.
    pub serial: u32,
    /// Volume label: at most 11 upper-case letters and digits.
    pub label: &'static str,
    /// All time stamps, seconds since the epoch; FAT begins in 1980.
    pub source_date: i64,
    /// Sectors of the disk before the file system.
    pub hidden_sectors: u32,
}

/// Files by path; directories come of themselves.
#[derive(Debug, Clone, Default)]
pub struct Files(BTreeMap<String, (u64, Content)>);

impl Files {
    /// Adds a file of `size` bytes under a path such as `EFI/BOOT/BOOTX64.EFI`.
    pub fn add(&mut self, path: impl Into<String>, size: u64, content: Content) {
        self.0.insert(path.into(), (size, content));
    }

    /// Adds a file from memory.
    pub fn add_text(&mut self, path: impl Into<String>, text: String) {
        self.add(path, text.len() as u64, Content::Bytes(text.into_bytes()));
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|(size, _)| size).sum()
    }

    /// Paths and sizes, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0
            .iter()
            .map(|(path, (size, _))| (path.as_str(), *size))
    }
}

/// Writes a file system into `region`, which must read as zeros.
///
/// # Errors
/// The files do not fit, or one has a name that FAT cannot hold.
pub fn write<'a>(files: &'a Files, region: Region<'_, 'a>, options: &Options) -> Result<()> {
    let layout = Layout::new(region.length())?;
    let mut writer = Writer {
        region,
        layout,
        options,
        fat: vec![0x0fff_fff8, END_OF_CHAIN],
    };
    let root = directories(files);
    let needed = writer.layout.clusters_of(&root);
    if needed > writer.layout.clusters {
        let missing = (needed - writer.layout.clusters) * writer.layout.cluster_bytes();
        let missing_mib = missing.div_ceil(1 << 20);
        return Err(ImageError::Full {
            what: "EFI system partition",
            missing_mib,
        });
    }
    writer.directory(&root, None)?;
    writer.tables();
    Ok(())
}

/// A directory: names to files or directories.
#[derive(Default)]
struct Directory<'a> {
    children: BTreeMap<&'a str, Child<'a>>,
}

enum Child<'a> {
    Directory(Directory<'a>),
    File(u64, &'a Content),
}

fn directories(files: &Files) -> Directory<'_> {
    let mut root = Directory::default();
    for (path, (size, content)) in &files.0 {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut place = &mut root;
        for part in directory.split('/').filter(|part| !part.is_empty()) {
            let child = place
                .children
                .entry(part)
                .or_insert_with(|| Child::Directory(Directory::default()));
            place = match child {
                Child::Directory(directory) => directory,
                Child::File(..) => panic!("a path is a file or a directory, not both"),
            };
        }
        place.children.insert(name, Child::File(*size, content));
    }
    root
}

/// Sizes and places (section 3).
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    sectors: u64,
    sectors_per_cluster: u64,
    fat_sectors: u64,
    clusters: u64,
}

impl Layout {
    /// The largest clusters up to 4 KiB with which this is still a FAT32.
    fn new(bytes: u64) -> Result<Self> {
        let sectors = bytes / SECTOR;
        for sectors_per_cluster in [8, 4, 2, 1] {
            let most = sectors.saturating_sub(RESERVED_SECTORS) / sectors_per_cluster;
            let fat_sectors = ((most + 2) * 4).div_ceil(SECTOR);
            let tables = RESERVED_SECTORS + FATS * fat_sectors;
            let clusters = sectors.saturating_sub(tables) / sectors_per_cluster;
            if clusters >= LEAST_CLUSTERS {
                return Ok(Self {
                    sectors,
                    sectors_per_cluster,
                    fat_sectors,
                    clusters,
                });
            }
        }
        let least_bytes = 34 << 20;
        Err(ImageError::DiskTooSmall {
            size_bytes: bytes,
            least_bytes,
        })
    }

    fn cluster_bytes(&self) -> u64 {
        self.sectors_per_cluster * SECTOR
    }

    fn offset(&self, cluster: u32) -> u64 {
        let data = RESERVED_SECTORS + FATS * self.fat_sectors;
        (data + u64::from(cluster - ROOT_CLUSTER) * self.sectors_per_cluster) * SECTOR
    }

    /// Clusters that a directory and everything in it take.
    fn clusters_of(&self, directory: &Directory<'_>) -> u64 {
        let own = self.clusters_for(directory_bytes(directory));
        let children = directory.children.values().map(|child| match child {
            Child::Directory(directory) => self.clusters_of(directory),
            Child::File(size, _) => size.div_ceil(self.cluster_bytes()),
        });
        own + children.sum::<u64>()
    }

    /// Clusters of a directory of so many bytes; it has at least one.
    fn clusters_for(&self, bytes: usize) -> u64 {
        (bytes as u64).div_ceil(self.cluster_bytes()).max(1)
    }
}

/// Bytes of a directory's entries, with room for a label or `.` and `..`.
fn directory_bytes(directory: &Directory<'_>) -> usize {
    let entries: usize = directory
        .children
        .keys()
        .map(|name| entry::slots(name))
        .sum();
    (entries + 2) * entry::BYTES
}

struct Writer<'p, 'a> {
    region: Region<'p, 'a>,
    layout: Layout,
    options: &'p Options,
    fat: Vec<u32>,
}

impl<'a> Writer<'_, 'a> {
    /// Takes clusters in one piece and returns the first, or 0 for none.
    fn take(&mut self, clusters: u64) -> u32 {
        let first = low32(self.fat.len() as u64);
        for index in 0..clusters {
            let next = first + low32(index) + 1;
            self.fat.push(if index + 1 == clusters {
                END_OF_CHAIN
            } else {
                next
            });
        }
        if clusters == 0 { 0 } else { first }
    }

    /// Writes a directory and what is in it. `parent` is its directory's cluster, 0 for the root (section 6.5);
    /// the root itself has none. Returns the directory's cluster.
    fn directory(&mut self, directory: &Directory<'a>, parent: Option<u32>) -> Result<u32> {
        let own = self.take(self.layout.clusters_for(directory_bytes(directory)));
        let date = self.options.source_date;
        let mut raw = match parent {
            None => entry::label(self.options.label, date),
            Some(parent) => entry::dots(own, parent, date),
        };
        let mut taken: Vec<_> = directory
            .children
            .keys()
            .filter_map(|name| entry::short(name))
            .collect();
        for (name, child) in &directory.children {
            let (cluster, size) = match child {
                Child::Directory(child) => {
                    let parent = if parent.is_none() { 0 } else { own };
                    (self.directory(child, Some(parent))?, None)
                }
                Child::File(size, content) => (self.file(*size, content, name)?, Some(*size)),
            };
            let entry = Entry {
                name,
                cluster,
                size: size.map(low32),
            };
            raw.extend_from_slice(&encode(&entry, date, &mut taken)?);
        }
        self.region.write(self.layout.offset(own), raw);
        Ok(own)
    }

    fn file(&mut self, size: u64, content: &'a Content, name: &str) -> Result<u32> {
        if size > u64::from(u32::MAX) {
            return Err(ImageError::unsupported(
                name.as_bytes(),
                "files on FAT end at 4 GiB",
            ));
        }
        let cluster = self.take(size.div_ceil(self.layout.cluster_bytes()));
        if cluster != 0 {
            let offset = self.layout.offset(cluster);
            self.region.copy(offset, content, 0, size);
        }
        Ok(cluster)
    }

    /// Boot sectors, their `FSInfo` and both FATs (sections 3 to 5).
    fn tables(&self) {
        let boot = self.boot_sector();
        let info = self.info_sector();
        for first in [0, BACKUP_BOOT_SECTOR] {
            self.region.write(first * SECTOR, boot);
            self.region.write((first + 1) * SECTOR, info);
        }
        let fat: Vec<u8> = self
            .fat
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        for copy in 0..FATS {
            self.region.write(
                (RESERVED_SECTORS + copy * self.layout.fat_sectors) * SECTOR,
                fat.as_slice(),
            );
        }
    }

    fn boot_sector(&self) -> [u8; 512] {
        let mut raw = [0; 512];
        raw[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
        raw[3..11].copy_from_slice(b"MSWIN4.1"); // the name the specification recommends
        put16(&mut raw, 11, low16(low32(SECTOR)));
        raw[13] = low8(self.layout.sectors_per_cluster);
        put16(&mut raw, 14, low16(low32(RESERVED_SECTORS)));
        raw[16] = low8(FATS);
        raw[21] = 0xf8; // fixed disk
        put16(&mut raw, 24, 63);
        put16(&mut raw, 26, 255);
        put32(&mut raw, 28, self.options.hidden_sectors);
        put32(&mut raw, 32, low32(self.layout.sectors));
        put32(&mut raw, 36, low32(self.layout.fat_sectors));
        put32(&mut raw, 44, ROOT_CLUSTER);
        put16(&mut raw, 48, 1); // FSInfo
        put16(&mut raw, 50, low16(low32(BACKUP_BOOT_SECTOR)));
        raw[64] = 0x80;
        raw[66] = 0x29;
        put32(&mut raw, 67, self.options.serial);
        raw[71..82].copy_from_slice(&entry::padded_label(self.options.label));
        raw[82..90].copy_from_slice(b"FAT32   ");
        raw[510..].copy_from_slice(&[0x55, 0xaa]);
        raw
    }

    fn info_sector(&self) -> [u8; 512] {
        let mut raw = [0; 512];
        let used = self.fat.len() as u64 - u64::from(ROOT_CLUSTER);
        put32(&mut raw, 0, 0x4161_5252);
        put32(&mut raw, 484, 0x6141_7272);
        put32(&mut raw, 488, low32(self.layout.clusters - used));
        put32(&mut raw, 492, low32(self.fat.len() as u64));
        put32(&mut raw, 508, 0xaa55_0000);
        raw
    }
}

/// Puts a cluster into a directory entry's two halves.
fn put_cluster(raw: &mut [u8], cluster: u32) {
    put16(raw, 20, high16(cluster));
    put16(raw, 26, low16(cluster));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_as_large_as_fat32_allows() {
        let layout = Layout::new(256 << 20).unwrap();
        assert_eq!(layout.sectors_per_cluster, 4);
        assert_eq!(Layout::new(512 << 20).unwrap().sectors_per_cluster, 8);
        assert!(Layout::new(34 << 20).is_ok());
        assert!(matches!(
            Layout::new(16 << 20),
            Err(ImageError::DiskTooSmall { .. })
        ));
    }

    #[test]
    fn too_much_says_how_much_is_missing() {
        let pieces = crate::image::Pieces::default();
        let region = Region::new(&pieces, 0, 64 << 20);
        let options = Options {
            serial: 1,
            label: "ESP",
            source_date: 0,
            hidden_sectors: 0,
        };
        let mut files = Files::default();
        files.add("big", 70 << 20, Content::Bytes(Vec::new()));
        let error = write(&files, region, &options).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::Full {
                    missing_mib: 7..=9,
                    ..
                }
            ),
            "{error}"
        );
    }
}
