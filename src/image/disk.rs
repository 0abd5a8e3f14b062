//! A whole disk: partition table, EFI system partition, root file system.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::SeekFrom;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::bytes::{low8, low32};
use super::gpt::{self, Partition, SECTOR};
use super::tree::Tree;
use super::{ImageError, Region, Result, ext4, fat, loader};

const MIB: u64 = 1 << 20;
/// Partitions start and end on multiples of this.
const ALIGNMENT: u64 = MIB;
const ESP_START: u64 = ALIGNMENT;
/// Room for two large kernels and initrds; holes where there is none.
const ESP_BYTES: u64 = 256 * MIB;
/// Left for the tables of the EFI system partition when deciding how many kernels fit.
const ESP_SLACK: u64 = 8 * MIB;
const ROOT_START: u64 = ESP_START + ESP_BYTES;
/// The smallest disk: a root file system of 64 MiB.
const LEAST_BYTES: u64 = ROOT_START + 65 * MIB;
/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Share of the progress that copying takes; hashing the disk takes the rest.
const COPY_PERCENT: u64 = 60;

/// What a disk is told beside its tree.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// Size of the disk; what is beyond a whole MiB is cut off.
    pub size_bytes: u64,
    /// All identifiers come from this: give it what identifies the image, such as the recipe's digest.
    pub seed: [u8; 32],
    /// Time stamp of the file systems, seconds since the epoch.
    pub source_date: i64,
}

/// What has been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    pub size_bytes: u64,
    /// SHA-256 of the disk's bytes, in hex.
    pub disk_sha256: String,
    /// Digest of the tree ([`Tree::digest`]), in hex.
    pub tree_digest: String,
    /// Bytes of the disk that are not holes.
    pub data_bytes: u64,
    /// Identifier of the partition table.
    pub disk_guid: String,
    pub partitions: Vec<PartitionReport>,
    /// Identifier of the root file system.
    pub root_uuid: String,
    /// Versions of the kernels that can be booted, the default first.
    pub kernels: Vec<String>,
    /// The kernel's command line.
    pub command_line: String,
}

/// A partition of a written disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    pub name: String,
    /// `PARTUUID`.
    pub guid: String,
    pub start_bytes: u64,
    pub size_bytes: u64,
}

/// Writes a disk that UEFI firmware boots (x86-64) to `out`, a sparse file, and hashes it. `progress` is told
/// percents, never falling, 100 last.
///
/// The disk is written beside `out` and put in its place when it is complete. The same tree and spec give the same
/// bytes. The tree should not change meanwhile; a file that grows or shrinks is an error.
///
/// # Errors
/// The tree has no kernel or boot loader, does not fit, or could not be read; the disk could not be written.
pub fn write(
    tree: &Tree,
    spec: &DiskSpec,
    out: &Path,
    progress: &dyn Fn(u8),
) -> Result<DiskReport> {
    let size_bytes = spec.size_bytes / MIB * MIB;
    if size_bytes < LEAST_BYTES {
        return Err(ImageError::DiskTooSmall {
            size_bytes,
            least_bytes: LEAST_BYTES,
        });
    }
    let disk_guid = identifier(&spec.seed, "disk");
    let partitions = layout(&spec.seed, size_bytes);
    let root_guid = partitions[1].guid;
    let loader = loader::files(tree, root_guid, ESP_BYTES - ESP_SLACK)?;

    let (partial, file) = create_beside(out)?;
    let file = &file;
    file.set_len(size_bytes)
        .map_err(ImageError::io("extend", out))?;

    gpt::write(
        &Region::new(file, out, 0, size_bytes),
        disk_guid,
        &partitions,
    )?;
    let region = |index: usize| {
        let Partition { first, sectors, .. } = partitions[index];
        Region::new(file, out, first * SECTOR, sectors * SECTOR)
    };
    let esp = fat::Options {
        serial: identifier(&spec.seed, "esp serial").as_fields().0,
        label: "ESP",
        source_date: spec.source_date,
        hidden_sectors: low32(ESP_START / SECTOR),
    };
    fat::write(&loader.files, &region(0), &esp)?;

    let root = ext4::Options {
        uuid: identifier(&spec.seed, "root file system"),
        hash_seed: identifier(&spec.seed, "directory hash"),
        label: "root".to_owned(),
        source_date: spec.source_date,
    };
    let total = tree.content_bytes().max(1);
    let mut done = 0;
    let contents = ext4::write(tree, region(1), &root, &mut |bytes| {
        done += bytes;
        progress(low8((done * COPY_PERCENT / total).min(COPY_PERCENT)));
    })?;
    let tree_digest = tree.digest_with(&contents);
    let (disk_sha256, data_bytes) = hash(file, out, size_bytes, progress)?;
    partial
        .persist(out)
        .map_err(|error| ImageError::io("create", out)(error.error))?;
    progress(100);
    Ok(DiskReport {
        size_bytes,
        disk_sha256: hex::encode(disk_sha256),
        tree_digest: hex::encode(tree_digest),
        data_bytes,
        disk_guid: disk_guid.to_string(),
        partitions: partitions.iter().map(report).collect(),
        root_uuid: root.uuid.to_string(),
        kernels: loader.kernels,
        command_line: loader.command_line,
    })
}

/// A new file next to `out` that vanishes unless it is moved there. Its name is fixed, so a writer that was killed
/// leaves one file, which the next one takes over.
fn create_beside(out: &Path) -> Result<(tempfile::TempPath, File)> {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    let path = std::path::absolute(&name).map_err(ImageError::io("create", out))?;
    let created = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path);
    let file = created.map_err(ImageError::io("create", &path))?;
    let partial = tempfile::TempPath::try_from_path(path).map_err(ImageError::io("create", out))?;
    Ok((partial, file))
}

/// The root comes last and takes the rest, so that it can grow with the disk.
fn layout(seed: &[u8; 32], size_bytes: u64) -> [Partition; 2] {
    let end = (size_bytes - gpt::TABLE_SECTORS * SECTOR) / ALIGNMENT * ALIGNMENT;
    let partition = |kind, name, start, bytes| Partition {
        kind,
        guid: identifier(seed, name),
        first: start / SECTOR,
        sectors: bytes / SECTOR,
        name,
    };
    [
        partition(gpt::EFI_SYSTEM, "esp", ESP_START, ESP_BYTES),
        partition(gpt::LINUX_ROOT_X86_64, "root", ROOT_START, end - ROOT_START),
    ]
}

fn report(partition: &Partition) -> PartitionReport {
    PartitionReport {
        name: partition.name.to_owned(),
        guid: partition.guid.to_string(),
        start_bytes: partition.first * SECTOR,
        size_bytes: partition.sectors * SECTOR,
    }
}

/// An identifier for one purpose: the first half of a SHA-256 in the form of a version 8 UUID (RFC 9562, 5.8).
fn identifier(seed: &[u8; 32], purpose: &str) -> Uuid {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(seed)
        .chain_update(purpose)
        .finalize()
        .into();
    let half = digest.first_chunk::<16>().expect("a digest has 32 bytes");
    uuid::Builder::from_custom_bytes(*half).into_uuid()
}

/// SHA-256 of the file, its holes not read, and the bytes that are not holes.
fn hash(file: &File, path: &Path, size: u64, progress: &dyn Fn(u8)) -> Result<([u8; 32], u64)> {
    let (mut hash, mut buffer, zeros) = (Sha256::new(), vec![0; CHUNK], vec![0; CHUNK]);
    let (mut position, mut data) = (0, 0);
    let tell = |position: u64| {
        progress(low8(COPY_PERCENT + position * (99 - COPY_PERCENT) / size));
    };
    while position < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => size,
            Err(error) => return Err(ImageError::io("read", path)(error.into())),
        };
        while position < start {
            let count = (start - position).min(CHUNK as u64);
            hash.update(&zeros[..count as usize]);
            position += count;
            tell(position);
        }
        if start == size {
            break;
        }
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))
            .map_err(|error| ImageError::io("read", path)(error.into()))?;
        rustix::fs::seek(file, SeekFrom::Start(start))
            .map_err(|error| ImageError::io("read", path)(error.into()))?;
        data += end - start;
        while position < end {
            let count = (end - position).min(CHUNK as u64);
            let piece = &mut buffer[..count as usize];
            let mut reader = file;
            reader
                .read_exact(piece)
                .map_err(ImageError::io("read", path))?;
            hash.update(&*piece);
            position += count;
            tell(position);
        }
    }
    Ok((hash.finalize().into(), data))
}
