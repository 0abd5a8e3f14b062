//! A whole disk: partition table, EFI system partition, root file system.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::bytes::low32;
use super::gpt::{self, Partition, SECTOR};
use super::manifest::{BLOCK_BYTES, Block, BlockManifest};
use super::output::{Disk, DiskFile};
use super::tree::{Known, KnownBlock, Made, Survey, Tree};
use super::{ImageError, Pieces, Region, Result, ext4, fat, loader, output};

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
/// [`BLOCK_BYTES`] in memory.
const BLOCK: usize = 512 << 10;

/// What a disk is told beside its tree.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// Size of the disk; what is beyond a whole MiB is cut off.
    pub size_bytes: u64,
    /// All identifiers come from this, and all checksums of metadata start from these: give it what stays when the
    /// content changes a little, or every block with metadata in it changes too.
    pub seed: [u8; 32],
    /// Time stamp of the file systems, seconds since the epoch.
    pub source_date: i64,
}

impl DiskSpec {
    /// In whole MiB.
    fn size_bytes(&self) -> u64 {
        self.size_bytes / MIB * MIB
    }
}

/// What has been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    pub size_bytes: u64,
    /// SHA-256 of the disk's bytes, in hex.
    pub disk_sha256: String,
    /// Digest of the tree ([`Tree::digest`]), in hex: SHA-256 of its manifest.
    pub tree_digest: String,
    /// Bytes of the disk that are not holes, in pages of 4 KiB.
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

/// A written disk, with what it is to be known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub report: DiskReport,
    pub blocks: BlockManifest,
    /// The manifest of the tree ([`Tree::manifest`]).
    pub tree: String,
}

/// A disk that is in its place, and whose checksum is still to be made: of 8 GiB, mostly holes, that takes longer than the
/// writing.
#[derive(Debug)]
pub struct Laid<D> {
    disk: D,
    report: DiskReport,
    pub blocks: BlockManifest,
    /// The manifest of the tree ([`Tree::manifest`]).
    pub tree: String,
    made: Vec<(Made, KnownBlock)>,
}

impl<D: Disk> Laid<D> {
    /// Remembers its blocks.
    pub fn note(&mut self, known: &mut Known) {
        known.add_blocks(std::mem::take(&mut self.made));
    }

    /// Makes the checksum; `None` if it was stopped, for which each block is a chance.
    ///
    /// # Errors
    /// The disk could not be read back.
    pub fn finish(self, stop: &dyn Fn() -> bool) -> Result<Option<Written>> {
        let size_bytes = self.report.size_bytes;
        let sha256 = hash(&self.disk, &self.blocks.blocks, size_bytes, stop)
            .map_err(ImageError::io("read", self.disk.path()))?;
        Ok(sha256.map(|sha256| Written {
            report: DiskReport {
                disk_sha256: hex::encode(sha256),
                ..self.report
            },
            blocks: self.blocks,
            tree: self.tree,
        }))
    }
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

/// Writes a disk that UEFI firmware boots (x86-64) to `out`, a sparse file, and hashes it and its blocks. The disk is
/// written beside `out` and put in its place when it is complete.
///
/// # Errors
/// As [`lay`].
pub fn write(tree: &Tree, spec: &DiskSpec, out: &Path) -> Result<Written> {
    let contents = tree.survey()?;
    let (partial, file) = create_beside(out)?;
    file.set_len(spec.size_bytes())
        .map_err(ImageError::io("extend", out))?;
    let disk = DiskFile {
        file,
        path: out.to_owned(),
    };
    let laid = lay(tree, contents, spec, disk, &Known::default())?;
    partial
        .persist(out)
        .map_err(|error| ImageError::io("create", out)(error.error))?;
    let written = laid.finish(&|| false)?;
    Ok(written.expect("nobody stops it"))
}

/// As [`write`], but for the checksum of the whole, which may come later. `contents` is what [`Tree::survey`] tells; blocks
/// that are known, and that `disk` has, are not made.
///
/// The same tree and spec give the same bytes. The tree must not change meanwhile, for files are read again while they are
/// written; one that shrinks is an error.
///
/// # Errors
/// The tree has no kernel or boot loader, does not fit, or could not be read; the disk could not be written.
pub fn lay<D: Disk>(
    tree: &Tree,
    contents: Vec<Survey>,
    spec: &DiskSpec,
    disk: D,
    known: &Known,
) -> Result<Laid<D>> {
    let size_bytes = spec.size_bytes();
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

    let pieces = Pieces::default();
    let whole = Region::new(&pieces, 0, size_bytes);
    gpt::write(&whole, disk_guid, &partitions);
    let region = |index: usize| {
        let Partition { first, sectors, .. } = partitions[index];
        Region::new(&pieces, first * SECTOR, sectors * SECTOR)
    };
    let esp = fat::Options {
        serial: identifier(&spec.seed, "esp serial").as_fields().0,
        label: "ESP",
        source_date: spec.source_date,
        hidden_sectors: low32(ESP_START / SECTOR),
    };
    fat::write(&loader.files, region(0), &esp)?;

    let root = ext4::Options {
        uuid: identifier(&spec.seed, "root file system"),
        hash_seed: identifier(&spec.seed, "directory hash"),
        label: "root".to_owned(),
        source_date: spec.source_date,
    };
    let tree = std::thread::scope(|scope| {
        let manifest = scope.spawn(|| tree.manifest(&contents));
        ext4::write(tree, &contents, region(1), &root)?;
        manifest
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    drop(contents);

    let written = write_pieces(pieces, &disk, size_bytes, known)?;
    let report = DiskReport {
        size_bytes,
        disk_sha256: String::new(),
        tree_digest: hex::encode(Sha256::digest(&tree)),
        data_bytes: written.data_bytes,
        disk_guid: disk_guid.to_string(),
        partitions: partitions.iter().map(report).collect(),
        root_uuid: root.uuid.to_string(),
        kernels: loader.kernels,
        command_line: loader.command_line,
    };
    Ok(Laid {
        disk,
        report,
        blocks: written.blocks,
        tree,
        made: written.made,
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

/// The blocks of a disk, as they have been written.
struct Blocks {
    /// Bytes that are not holes.
    data_bytes: u64,
    blocks: BlockManifest,
    made: Vec<(Made, KnownBlock)>,
}

fn write_pieces(
    pieces: Pieces<'_>,
    disk: &impl Disk,
    size_bytes: u64,
    known: &Known,
) -> Result<Blocks> {
    let mut all = Blocks {
        data_bytes: 0,
        blocks: BlockManifest {
            block_bytes: BLOCK_BYTES,
            size_bytes,
            blocks: Vec::new(),
        },
        made: Vec::new(),
    };
    output::write(pieces, disk, known, |written| {
        let output::Written {
            data_bytes,
            block,
            made,
        } = written;
        let sha256 = block.1;
        all.made
            .extend(made.map(|made| (made, KnownBlock { sha256, data_bytes })));
        if data_bytes > 0 {
            all.data_bytes += data_bytes;
            all.blocks.blocks.push(block);
        }
    })?;
    Ok(all)
}

/// SHA-256 of a disk of this size, with data in these blocks alone.
///
/// The checksum of the whole is the one thing here that cannot be shared out, and most of what it goes through are holes.
/// So it comes last: until then all cores write.
fn hash(
    disk: &impl Disk,
    blocks: &[Block],
    size_bytes: u64,
    stop: &dyn Fn() -> bool,
) -> std::io::Result<Option<[u8; 32]>> {
    let (zeros, mut bytes) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut hash = Sha256::new();
    let mut data = blocks.iter().peekable();
    // A disk has whole MiB, so no block goes past its end.
    for block in 0..size_bytes / BLOCK_BYTES {
        if stop() {
            return Ok(None);
        }
        if let Some(block) = data.next_if(|next| next.0 == block) {
            disk.get(block, &mut bytes)?;
            hash.update(&bytes);
        } else {
            hash.update(&zeros);
        }
    }
    Ok(Some(hash.finalize().into()))
}
