//! `diff`: what is another in one image than in the other, by the tree manifests that the local cloud keeps, or by what
//! machines list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::json;

use super::compared;
use super::diff_args::DiffArgs;
use super::images::{disk, find, no_disk, tree};
use crate::bake::images::Image;
use crate::cli::args::{CloudName, Format};
use crate::cli::context::{Connected, Context};
use crate::cli::error::{CliError, CliResult};
use crate::cli::view::text::bytes;
use crate::cli::{exit, output};
use crate::image::compare::{self, Aspect, Bytes, Comparison, FileChange, UnitState};
use crate::image::tree::{Entry, EntryType, TreeManifest, split};

/// Lines of a list that are shown without `--all`.
const SHOWN: usize = 40;

pub async fn run(context: &Context, args: &DiffArgs) -> CliResult {
    let DiffArgs { a, b, .. } = args;
    if args.on_machines || context.settings.cloud == CloudName::Aws {
        return compared::diff(context, args).await;
    }
    if args.like.is_some() {
        let what = "--like says how machines are launched, and here disks are read";
        return Err(CliError::new(exit::USAGE, what).hint("--on-machines lets machines list"));
    }
    let connected = context.connect().await?;
    let before = listed(&connected, a).await?;
    let after = listed(&connected, b).await?;
    let found = compare::compare(&before.tree, &after.tree);
    match context.format {
        Format::Json => {
            let images = [("from", before.side()), ("to", after.side())];
            output::json(&document(&found, found.is_same(), images)?)?;
        }
        Format::Human if found.is_same() => output::data(&format!("the same: {}\n", after.digest))?,
        Format::Human => output::data(&format!(
            "{} {} -> {} {}\n{}",
            before.image.id,
            before.image.name,
            after.image.id,
            after.image.name,
            text(&found, args.all)
        ))?,
    }
    Ok(if args.exit_code && !found.is_same() {
        exit::MISMATCH
    } else {
        exit::DONE
    })
}

/// What machines are told of two images, each by its key.
///
/// # Errors
/// It cannot be written as JSON.
pub fn document(
    found: &Comparison<'_>,
    same: bool,
    images: [(&str, Side<'_>); 2],
) -> Result<serde_json::Value, CliError> {
    let mut value = serde_json::to_value(found)
        .map_err(|error| CliError::failure("cannot write the result as JSON").because(&error))?;
    for (key, image) in images {
        value[key] = image.to_json();
    }
    value["same"] = json!(same);
    Ok(value)
}

/// An image with the digest of what is compared of it, in hex.
pub struct Side<'a> {
    pub image: &'a Image,
    pub digest: &'a str,
}

impl Side<'_> {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "image_id": self.image.id,
            "name": self.image.name,
            "digest": self.image.digest(),
            "tree_digest": self.digest,
        })
    }
}

/// An image with what is in it.
pub struct Listed {
    pub image: Image,
    /// SHA-256 of the tree manifest, in hex.
    pub digest: String,
    pub tree: TreeManifest,
    /// Where its disk is kept.
    pub disk: PathBuf,
}

impl Listed {
    /// It, as machines are told of it.
    #[must_use]
    pub fn side(&self) -> Side<'_> {
        Side {
            image: &self.image,
            digest: &self.digest,
        }
    }
}

/// An image of the local cloud with its manifest.
///
/// # Errors
/// There is no such image, or it has no manifest.
pub async fn listed(connected: &Connected, word: &str) -> Result<Listed, CliError> {
    let image = find(connected, word).await?;
    let Some(disk) = disk(connected, &image)? else {
        return Err(no_disk(&image)
            .hint("only images that the local cloud has made are compared so, not its base image")
            .hint("--on-machines lists what is in them on a machine of each"));
    };
    let (digest, tree) = tree(&disk)?;
    Ok(Listed {
        image,
        disk,
        digest,
        tree,
    })
}

/// The differences for people. Without `all` lists are cut, and a directory that came or went stands for what is in it.
pub fn text(found: &Comparison<'_>, all: bool) -> String {
    let packages = found.packages.iter().map(|one| {
        let how = match (&one.from, &one.to) {
            (Some(from), Some(to)) => format!("{from} -> {to}"),
            (None, to) => format!("+ {}", to.as_deref().unwrap_or_default()),
            (Some(from), None) => format!("- {from}"),
        };
        vec![one.package.clone(), how]
    });
    let services = found.services.iter().map(|one| {
        let how = format!("{} -> {}", state(one.from), state(one.to));
        vec![one.unit.to_string(), how]
    });
    let (of_packages, others): (Vec<_>, Vec<_>) = found
        .files
        .iter()
        .partition(|one| one.changed_package.is_some());
    let other_sizes = found.directories.iter();
    let other_sizes = other_sizes.filter(|(_, bytes)| bytes.from != bytes.to);
    let directories = other_sizes
        .map(|(name, bytes)| vec![format!("/{}", name.trim_start_matches('/')), grown(*bytes)]);
    let mut out = String::new();
    let mut list = |title: &str, count: usize, lines: Vec<String>| {
        if count == 0 {
            return;
        }
        out.push_str(&format!("\n{title}: {count}\n"));
        out.push_str(&shown(lines, all));
    };
    let nothing = |_: &FileChange<'_>| String::new();
    list("packages", found.packages.len(), columns(packages));
    list("services", found.services.len(), columns(services));
    let title = "files of no changed package";
    list(title, others.len(), files(&others, all, &nothing));
    let lines = if all {
        files(&of_packages, all, &nothing)
    } else {
        vec!["--all shows them".to_owned()]
    };
    list("files of changed packages", of_packages.len(), lines);
    out.push_str(&format!("\nsize: {}\n", grown(found.total)));
    for line in columns(directories) {
        out.push_str(&format!("  {line}\n"));
    }
    out
}

/// The lines of a list, cut without `all`.
#[must_use]
pub fn shown(lines: Vec<String>, all: bool) -> String {
    let most = if all { lines.len() } else { SHOWN };
    let more = lines.len().saturating_sub(most);
    let lines = lines.iter().take(most);
    let mut out: String = lines.map(|line| format!("  {line}\n")).collect();
    if more > 0 {
        out.push_str(&format!("  and {more} more; --all shows them\n"));
    }
    out
}

fn columns(rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let table = output::table(&rows.collect::<Vec<_>>());
    table.lines().map(str::to_owned).collect()
}

fn state(state: UnitState) -> &'static str {
    match state {
        UnitState::Disabled => "disabled",
        UnitState::Enabled => "enabled",
        UnitState::Masked => "masked",
    }
}

fn grown(Bytes { from, to }: Bytes) -> String {
    if from == to {
        return format!("{}, as before", bytes(to));
    }
    let sign = if to < from { '-' } else { '+' };
    let difference = bytes(from.abs_diff(to));
    format!("{} -> {} ({sign}{difference})", bytes(from), bytes(to))
}

/// What a directory that came or went has in it.
#[derive(Default)]
struct Within {
    files: usize,
    bytes: u64,
}

/// A line for each change, ended by what `more` says of it. Without `all` a directory that came or went stands for what is
/// in it.
pub fn files<'a>(
    changes: &[&FileChange<'a>],
    all: bool,
    more: &dyn Fn(&FileChange<'a>) -> String,
) -> Vec<String> {
    let one_sided = |change: &FileChange<'_>| change.from.is_none() || change.to.is_none();
    let directories = changes
        .iter()
        .filter(|change| !all && one_sided(change) && change.entry().kind == EntryType::Directory);
    let directories: BTreeSet<(bool, &[u8])> = directories.map(|change| side(change)).collect();
    let mut within: BTreeMap<(bool, &[u8]), Within> = BTreeMap::new();
    let mut shown = Vec::new();
    for change in changes.iter().copied() {
        match highest(side(change), &directories).filter(|_| one_sided(change)) {
            Some(above) => {
                let entry = change.entry();
                let within = within.entry(above).or_default();
                within.files += usize::from(entry.kind != EntryType::Directory);
                within.bytes += entry.size.unwrap_or(0);
            }
            None => shown.push(change),
        }
    }
    let shown = shown.into_iter().map(|change| {
        let sign = match (change.from, change.to) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        let path = &change.entry().path;
        let mut line = format!("{sign} /{path}");
        let how = match (change.from, change.to) {
            (Some(from), Some(to)) => differences(change, from, to),
            _ => what(change.entry(), within.get(&side(change))),
        };
        if change.entry().kind == EntryType::Directory && !path.0.is_empty() {
            line.push('/');
        }
        if !how.is_empty() {
            line.push_str(&format!("  {how}"));
        }
        line.push_str(&more(change));
        line
    });
    shown.collect()
}

/// Whether a path came, and the path.
fn side<'a>(change: &FileChange<'a>) -> (bool, &'a [u8]) {
    match (change.from, change.to) {
        (None, Some(to)) => (true, &to.path.0),
        (Some(from), _) => (false, &from.path.0),
        (None, None) => unreachable!("a path that changed is in one of the trees"),
    }
}

/// The highest directory above a path that came or went like it.
fn highest<'a>(
    (came, path): (bool, &'a [u8]),
    directories: &BTreeSet<(bool, &[u8])>,
) -> Option<(bool, &'a [u8])> {
    let above = std::iter::successors(Some(split(path).0), |path| {
        (!path.is_empty()).then(|| split(path).0)
    });
    let above = above.map(|path| (came, path));
    above.filter(|one| directories.contains(one)).last()
}

/// What came or went.
fn what(entry: &Entry, within: Option<&Within>) -> String {
    match (within, &entry.target, entry.size) {
        (Some(within), ..) => {
            let files = if within.files == 1 { "file" } else { "files" };
            format!("{} {files}, {}", within.files, bytes(within.bytes))
        }
        (None, Some(target), _) => format!("-> {target}"),
        (None, None, Some(size)) => bytes(size),
        (None, None, None) => String::new(),
    }
}

fn differences(change: &FileChange<'_>, from: &Entry, to: &Entry) -> String {
    let texts = change.differs.iter().map(|aspect| match aspect {
        Aspect::Type => format!("{} -> {}", kind(from.kind), kind(to.kind)),
        Aspect::Content => "content".to_owned(),
        Aspect::Size => {
            let size = |entry: &Entry| entry.size.unwrap_or(0);
            format!("{} -> {} bytes", size(from), size(to))
        }
        Aspect::Target => {
            let target = |entry: &Entry| entry.target.as_ref().map(ToString::to_string);
            let (from, to) = (target(from), target(to));
            format!(
                "target {} -> {}",
                from.unwrap_or_default(),
                to.unwrap_or_default()
            )
        }
        Aspect::Device => {
            let (from, to) = (
                from.device.unwrap_or_default(),
                to.device.unwrap_or_default(),
            );
            format!("device {}:{} -> {}:{}", from.0, from.1, to.0, to.1)
        }
        Aspect::Mode => format!("mode {:04o} -> {:04o}", from.mode, to.mode),
        Aspect::Owner => format!("owner {}:{} -> {}:{}", from.uid, from.gid, to.uid, to.gid),
        Aspect::Time => format!("time {} -> {}", time(from.mtime), time(to.mtime)),
        Aspect::Xattrs => {
            let only = |a: &Entry, b: &Entry| {
                let pairs = a.xattrs.iter().filter(|pair| !b.xattrs.contains(pair));
                pairs
                    .map(|(name, _)| name.to_string())
                    .collect::<BTreeSet<_>>()
            };
            let names: Vec<_> = only(from, to).union(&only(to, from)).cloned().collect();
            format!("attributes {}", names.join(" "))
        }
        Aspect::HardLink => match &to.hard_link {
            Some(first) => format!("hard link to /{first}"),
            None => "no hard link any more".to_owned(),
        },
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn kind(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Directory => "directory",
        EntryType::File => "file",
        EntryType::Symlink => "symlink",
        EntryType::CharDevice | EntryType::BlockDevice => "device",
        EntryType::Fifo => "fifo",
    }
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::compare::tests::{link, manifest};
    use crate::image::tree::{ByteString, Kind, Node};

    fn trees() -> (TreeManifest, TreeManifest) {
        let file = |text: &str| Node::file(text, 0o644, 0);
        let list = ("var/lib/dpkg/info/jq.list", file("/usr/bin/jq\n"));
        let from = vec![
            ("etc/gone", file("x")),
            ("etc/hosts", file("one")),
            ("etc/link", link("hosts")),
            (
                "etc/null",
                Node::new(Kind::CharDevice { major: 1, minor: 3 }, 0o666, 0),
            ),
            ("etc/pipe", file("")),
            (
                "etc/systemd/system/multi-user.target.wants/a.service",
                link("/lib/a.service"),
            ),
            ("etc/tool", file("tool")),
            ("etc/zwin", file("tool")),
            ("usr/bin/jq", file("old")),
            list.clone(),
        ];
        let mut tool = file("tool");
        (tool.uid, tool.mode, tool.mtime) = (7, 0o4755, 60);
        tool.xattrs = [(b"security.capability".to_vec(), vec![1, 255])].into();
        let to = vec![
            ("etc/hosts", file("three")),
            ("etc/link", link("hosts\u{1b}[2J")),
            (
                "etc/null",
                Node::new(Kind::CharDevice { major: 1, minor: 5 }, 0o666, 0),
            ),
            ("etc/pipe", Node::new(Kind::Fifo, 0o644, 0)),
            (
                "etc/systemd/system/multi-user.target.wants/b.service",
                link("/lib/b.service"),
            ),
            ("etc/tool", tool),
            ("etc/zwin", file("tool")),
            ("opt/runner/bin/run", file(&"r".repeat(3 << 19))),
            ("opt/runner/readme", file("read")),
            ("usr/bin/jq", file("new, and larger")),
            list,
        ];
        let mut to = manifest(&[("jq", "1.7"), ("zip", "3.0-13")], to);
        let place = to
            .entries
            .iter()
            .position(|one| one.path.0 == b"etc/zwin")
            .unwrap();
        to.entries[place].hard_link = Some(ByteString(b"etc/tool".to_vec()));
        (manifest(&[("jq", "1.6"), ("nano", "7.2-1")], from), to)
    }

    #[test]
    fn people_read_packages_first_and_a_new_directory_as_one_line() {
        let (from, to) = trees();
        let expected = "
packages: 3
  jq    1.6 -> 1.7
  nano  - 7.2-1
  zip   + 3.0-13

services: 2
  a.service  enabled -> disabled
  b.service  disabled -> enabled

files of no changed package: 15
  - /etc/gone  1 B
  ~ /etc/hosts  content, 3 -> 5 bytes
  ~ /etc/link  target hosts -> hosts\\u{1b}[2J
  ~ /etc/null  device 1:3 -> 1:5
  ~ /etc/pipe  file -> fifo
  - /etc/systemd/system/multi-user.target.wants/a.service  -> /lib/a.service
  + /etc/systemd/system/multi-user.target.wants/b.service  -> /lib/b.service
  ~ /etc/tool  mode 0644 -> 4755, owner 0:0 -> 7:0, time 1970-01-01T00:00:00Z -> 1970-01-01T00:01:00Z, \
attributes security.capability
  ~ /etc/zwin  hard link to /etc/tool
  + /opt/  2 files, 1.5 MiB
  ~ /var/lib/dpkg/status  content

files of changed packages: 1
  --all shows them

size: 180 B -> 1.5 MiB (+1.5 MiB)
  /etc  12 B -> 9 B (-3 B)
  /opt  0 B -> 1.5 MiB (+1.5 MiB)
  /usr  3 B -> 15 B (+12 B)
";
        assert_eq!(text(&compare::compare(&from, &to), false), expected);
    }

    #[test]
    fn all_shows_each_file_and_what_is_long_is_counted_without() {
        let (from, to) = trees();
        let found = text(&compare::compare(&from, &to), true);
        for line in [
            "  + /opt/\n  + /opt/runner/\n  + /opt/runner/bin/\n  + /opt/runner/bin/run  1.5 MiB\n",
            "files of changed packages: 1\n  ~ /usr/bin/jq  content, 3 -> 15 bytes\n",
        ] {
            assert!(found.contains(line), "{found}");
        }
        let names: Vec<String> = (0..50).map(|number| format!("etc/{number}")).collect();
        let nodes = |text: &str| {
            let node = |name| (name, Node::file(text, 0o644, 0));
            names.iter().map(|name| node(name.as_str())).collect()
        };
        let (from, to) = (manifest(&[], nodes("a")), manifest(&[], nodes("b")));
        let found = compare::compare(&from, &to);
        let short = text(&found, false);
        assert!(
            short.contains("  and 10 more; --all shows them\n"),
            "{short}"
        );
        assert!(short.ends_with("\nsize: 50 B, as before\n"), "{short}");
        assert_eq!(text(&found, true).matches("  ~ /etc/").count(), 50);
    }
}
