//! The base image's root: a real Debian 12, made once with mmdebstrap and cached. The root, its archives and its end are
//! mmdebstrap's affair; the packages are unpacked by a hook of ours, all at once (`templates/base.unpack.bash`).
//!
//! It holds what an official Debian cloud image has that a machine here needs (kernel, initrd, systemd-boot, OpenSSH,
//! networkd and resolved), and no identity: no machine-id, no host keys, no host name. Unlike the official image it
//! has no cloud-init.
//!
//! What it is made of depends on what the mirror has that day. So it is noted beside it, and another host makes the same
//! one from that note and the files that it names.

mod flat;

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::nspawn::files::{get_json, make_forest, put_json, remove_dir};
use super::regions::LOCKED_DIGITS;
use crate::debs::{Base, Cache};
use crate::image::SOURCE_DATE;
use crate::parallel;

const SUITE: &str = "bookworm";
const PACKAGES: [&str; 19] = [
    "ca-certificates",
    "curl",
    "dbus",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "netbase",
    "openssh-server",
    "procps",
    "systemd",
    "systemd-boot-efi",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "tzdata",
    "udev",
    "zstd",
];

/// In a machine of the local cloud the network is set up from outside; on a real or emulated one DHCP does it.
const NETWORK: &str = "[Match]\nName=en* eth*\nVirtualization=!container\n\n[Network]\nDHCP=yes\n";

/// Run in the new root when all packages are there. apt's download directories get the owner that apt gives them only
/// where its user can reach the path here. dpkg's list of triggers has the order in which packages came, which is apt's
/// affair.
const FINISH: &str = r#"set -eu
rm -f "$1/etc/hostname" "$1/etc/machine-id" "$1/var/lib/dbus/machine-id" "$1"/etc/ssh/ssh_host_*
: > "$1/etc/machine-id"
printf 'deb %s bookworm main\ndeb %s bookworm-updates main\ndeb %s bookworm-security main\n' "$2" "$2" "$3" > "$1/etc/apt/sources.list"
cp "$4" "$1/etc/systemd/network/80-dhcp.network"
chmod 0644 "$1/etc/systemd/network/80-dhcp.network"
chroot "$1" passwd --quiet --lock root
chroot "$1" chown _apt:root /var/lib/apt/lists/partial /var/cache/apt/archives/partial
chmod 0700 "$1/var/lib/apt/lists/partial" "$1/var/cache/apt/archives/partial"
chroot "$1" systemctl --quiet enable systemd-networkd.service systemd-resolved.service
ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
sort -o "$1/var/lib/dpkg/triggers/File" "$1/var/lib/dpkg/triggers/File"
"#;

/// Notes what is there, as the lock of a layer does, and takes the files of the packages aside: apt would remove them.
const RECORD: &str = r#"set -eu
notes=$1/var/lib/piaas-bake-lock
mkdir "$notes"
: > "$notes/before"
chroot "$1" sh <"$2/note"
mv "$notes/base" "$2/lines"
rm -r "$notes"
chroot "$1" apt-mark showmanual > "$2/asked"
mv "$1"/var/cache/apt/archives/*.deb "$2"
"#;
const NOTE: &str = include_str!("../../templates/lock.record.sh");

/// All that is unpacked goes below `/usr` from the start; the package usrmerge finds its work done.
const SETUP: &str = r#"set -eu
cd "$1"
for name in bin lib lib64 sbin; do
    mkdir -p "usr/$name"
    ln -s "usr/$name" "$name"
done
"#;
/// Downloads, unpacks and configures the packages, with a directory aside and their names.
const UNPACK: &str = include_str!("../../templates/base.unpack.bash");

/// What a base that is made from a note has in the end.
const LIST: &str = r#"set -eu
chroot "$1" dpkg-query --show --showformat='${Package} ${Version} ${Architecture}\n' > "$2/installed"
"#;

/// The base could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("mmdebstrap could not be started: {0}; install it with `apt-get install mmdebstrap`")]
    NotInstalled(io::Error),
    #[error("mmdebstrap failed with {mirror} ({status}); its last lines:\n{last_lines}")]
    Failed {
        mirror: String,
        status: String,
        last_lines: String,
    },
    #[error("{cache} does not have the files of {}", lacks.join(", "))]
    Lacks { cache: PathBuf, lacks: Vec<String> },
    #[error(
        "a base made from what is locked has something else in it: {}; was it locked by another version of piaas-bake?",
        differ.join(", ")
    )]
    Differs { differ: Vec<String> },
}

/// Name of the base's directory in a cache; another way of making it has another name.
#[must_use]
pub fn directory_name() -> String {
    let date = SOURCE_DATE.to_string();
    let packages = PACKAGES.join(",");
    let inputs = [&packages, NETWORK, SETUP, UNPACK, RECORD, FINISH, &date].join("\n");
    let digest = hex::encode(Sha256::digest(inputs));
    format!("{SUITE}-amd64-{}", &digest[..8])
}

/// Whether the base is there.
#[must_use]
pub fn is_made(base: &Path) -> bool {
    base.join("usr/lib/os-release").is_file()
}

/// The security archive that goes with a mirror: Debian's own lies beside its main archive.
#[must_use]
pub fn security_mirror(mirror: &str) -> String {
    format!("{}-security", mirror.trim_end_matches('/'))
}

/// What a base was made of; `None` if it is not noted.
#[must_use]
pub fn record(base: &Path) -> Option<Base> {
    get_json(&note_of(base)).ok()
}

/// The files of packages on this host, beside the directory of the bases.
#[must_use]
pub fn cache(base: &Path) -> Cache {
    let cache = base.parent().and_then(Path::parent);
    Cache::new(cache.unwrap_or(Path::new("/")).join("debs"))
}

/// Where the base of this digest is, or would be, on a host whose own base is `own`: the first digits are enough.
#[must_use]
pub fn place(own: &Path, digest: &str) -> PathBuf {
    if is_made(own) && record(own).is_some_and(|base| base.digest().starts_with(digest)) {
        return own.to_owned();
    }
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    own.with_file_name(format!("{name}-{digest:.LOCKED_DIGITS$}"))
}

/// Beside the root, not in it: it would become a part of images.
fn note_of(base: &Path) -> PathBuf {
    base.with_extension("json")
}

/// Makes the base unless it is there. `base` appears complete or not at all, with the note of what it is made of; a
/// second caller waits for the first. The files of its packages are kept in [`cache`].
///
/// # Errors
/// [`BaseError`]; nothing is left behind.
pub fn ensure(base: &Path, mirror: &str, progress: &dyn Fn(&str)) -> Result<(), BaseError> {
    once(base, |root, aside| {
        by_mirror(root, aside, mirror, &cache(base), progress)
    })
}

/// Makes a base of what the mirror has now, beside the one that is there; gives what it is made of, and it is at its
/// [`place`]. `None`: the mirror's files do not say what they are, and nothing is kept.
///
/// # Errors
/// As [`ensure`].
pub fn renew(own: &Path, mirror: &str, progress: &dyn Fn(&str)) -> Result<Option<Base>, BaseError> {
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    let new = own.with_file_name(format!("{name}-new"));
    remove_dir(&new).map_err(cannot(&new))?;
    once(&new, |root, aside| {
        by_mirror(root, aside, mirror, &cache(own), progress)
    })?;
    let record = record(&new);
    let place = record.as_ref().map(|base| place(own, &base.digest()));
    match place.filter(|place| !is_made(place)) {
        Some(place) => {
            let (from, to) = (note_of(&new), note_of(&place));
            std::fs::rename(&from, &to).map_err(cannot(&to))?;
            std::fs::rename(&new, &place).map_err(cannot(&place))?;
        }
        None => remove_dir(&new).map_err(cannot(&new))?,
    }
    Ok(record)
}

/// Removes the base and those that were made by locks.
///
/// # Errors
/// The file system refuses.
pub fn remove_all(own: &Path) -> io::Result<()> {
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    let beside = super::nspawn::files::subdirectories(own.parent().unwrap_or(Path::new("/")));
    let ours = |dir: &PathBuf| {
        let file = dir.file_name().unwrap_or_default().to_string_lossy();
        let rest = file.strip_prefix(&*name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    beside
        .iter()
        .filter(|dir| ours(dir))
        .try_for_each(|dir| remove_dir(dir))
}

fn by_mirror(
    root: &Path,
    aside: &Path,
    mirror: &str,
    debs: &Cache,
    progress: &dyn Fn(&str),
) -> Result<Option<Base>, BaseError> {
    let mirror = mirror.trim_end_matches('/');
    let security = security_mirror(mirror);
    let note = NOTE.replace("@WHEN@", "after").replace("@LAYER@", "base");
    let path = aside.join("note");
    std::fs::write(&path, note).map_err(cannot(&path))?;
    let recipe = Recipe {
        mirror,
        security: &security,
        packages: PACKAGES.to_vec(),
        sources: vec![
            format!("deb {mirror} {SUITE} main"),
            format!("deb {mirror} {SUITE}-updates main"),
            format!("deb {security} {SUITE}-security main"),
        ],
        hook: hook(aside, "record", &["sh"], RECORD, &[&path_text(aside)])?,
    };
    make(root, aside, &recipe, progress)?;
    for file in flat::debs(aside)? {
        debs.adopt(&file).map_err(cannot(&file))?;
    }
    let read = |name: &str| {
        let path = aside.join(name);
        std::fs::read_to_string(&path).map_err(cannot(&path))
    };
    Ok(Base::read(&read("lines")?, &read("asked")?))
}

/// As [`ensure`], of just the packages of `wanted`, whose files are in [`cache`]; gives where it is: [`place`].
///
/// # Errors
/// As [`ensure`], and [`BaseError::Lacks`] before anything is done.
pub fn ensure_locked(
    own: &Path,
    wanted: &Base,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, BaseError> {
    let debs = cache(own);
    let base = place(own, &wanted.digest());
    if is_made(&base) {
        return Ok(base);
    }
    let mut lacks = Vec::new();
    let holds = parallel::map(&wanted.packages, |package| debs.holds(package));
    for (package, holds) in wanted.packages.iter().zip(holds) {
        let path = debs.path(&package.sha256);
        if !holds.map_err(cannot(&path))? {
            lacks.push(format!("{} {}", package.name, package.version));
        }
    }
    if !lacks.is_empty() {
        let cache = debs.dir().to_owned();
        return Err(BaseError::Lacks { cache, lacks });
    }
    let archive = |suite: &str| wanted.archive(suite).unwrap_or_default();
    once(&base, |root, aside| {
        flat::write(aside, wanted, &debs)?;
        let mirror = archive(SUITE);
        // The same request, as far as it is locked: the order in which packages come follows from it.
        let asked = PACKAGES
            .into_iter()
            .filter(|name| wanted.asked.contains(*name));
        let recipe = Recipe {
            mirror,
            security: archive(&format!("{SUITE}-security")),
            packages: asked.collect(),
            sources: vec![format!("deb [trusted=yes] copy:{} ./", path_text(aside))],
            hook: hook(aside, "list", &["sh"], LIST, &[&path_text(aside)])?,
        };
        make(root, aside, &recipe, progress)?;
        let path = aside.join("installed");
        let installed = std::fs::read_to_string(&path).map_err(cannot(&path))?;
        let differ = flat::differences(&installed, &wanted.packages);
        if !differ.is_empty() {
            return Err(BaseError::Differs { differ });
        }
        Ok(Some(wanted.clone()))
    })?;
    Ok(base)
}

fn cannot(path: &Path) -> impl FnOnce(io::Error) -> BaseError {
    let path = path.to_path_buf();
    move |source| BaseError::Io { path, source }
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Lets `made` fill a root, with a directory aside for what does not belong into it, and puts both in place.
fn once(
    base: &Path,
    made: impl FnOnce(&Path, &Path) -> Result<Option<Base>, BaseError>,
) -> Result<(), BaseError> {
    let parent = base.parent().unwrap_or(Path::new("/"));
    make_forest(parent).map_err(cannot(parent))?;
    let lock_path = base.with_extension("lock");
    let lock = std::fs::File::create(&lock_path).map_err(cannot(&lock_path))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| cannot(&lock_path)(error.into()))?;
    if is_made(base) {
        return Ok(());
    }
    let (half, aside) = (
        base.with_extension("half-made"),
        base.with_extension("aside"),
    );
    for dir in [&half, &aside] {
        remove_dir(dir).map_err(cannot(dir))?;
    }
    std::fs::create_dir(&aside).map_err(cannot(&aside))?;
    let note = note_of(base);
    let done = made(&half, &aside).and_then(|record| {
        // The note first: a base that is there has the note that belongs to it.
        match record {
            Some(record) => put_json(&note, &record).map_err(cannot(&note))?,
            None => match std::fs::remove_file(&note) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(cannot(&note)(error));
                }
                _ => {}
            },
        }
        std::fs::rename(&half, base).map_err(cannot(base))
    });
    // A failure itself is what counts; the next attempt begins by removing these again.
    let _ = remove_dir(&aside);
    if done.is_err() {
        let _ = remove_dir(&half);
    }
    done
}

/// How mmdebstrap is called.
struct Recipe<'a> {
    /// The archives that the base goes on with.
    mirror: &'a str,
    security: &'a str,
    packages: Vec<&'a str>,
    sources: Vec<String>,
    /// Before the last one.
    hook: String,
}

/// A script as mmdebstrap runs it, by a shell, with the root first. It is written to a file in `aside`: mmdebstrap tells
/// each command that it runs.
fn hook(
    aside: &Path,
    name: &str,
    shell: &[&str],
    script: &str,
    values: &[&str],
) -> Result<String, BaseError> {
    let path = aside.join(name);
    std::fs::write(&path, script).map_err(cannot(&path))?;
    let quoted = |words: &[&str]| {
        let quoted = shlex::try_join(words.iter().copied());
        quoted.map_err(|error| cannot(&path)(io::Error::other(error)))
    };
    let script = quoted(&[shell, &[&*path_text(&path)]].concat())?;
    Ok(format!("{script} \"$1\" {}", quoted(values)?))
}

fn make(
    root: &Path,
    aside: &Path,
    recipe: &Recipe<'_>,
    progress: &dyn Fn(&str),
) -> Result<(), BaseError> {
    let Recipe {
        mirror, security, ..
    } = *recipe;
    let setup = hook(aside, "setup", &["sh"], SETUP, &[])?;
    let text = path_text(aside);
    let values = [&[&*text], &*recipe.packages].concat();
    // What it mounts goes with its process.
    let alone = ["unshare", "--mount", "bash"];
    let unpack = hook(aside, "unpack", &alone, UNPACK, &values)?;
    let network = aside.join("network");
    std::fs::write(&network, NETWORK).map_err(cannot(&network))?;
    let values = [mirror, security, &*path_text(&network)];
    let finish = hook(aside, "finish", &["sh"], FINISH, &values)?;
    let mut command = Command::new("mmdebstrap");
    // SAFETY: umask is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            Ok(())
        });
    }
    let mut child = command
        .args([
            // Nothing but what the hooks do.
            "--variant=extract",
            "--architectures=amd64",
            "--aptopt=Acquire::Retries \"3\"",
        ])
        .arg("--aptopt=Apt::Install-Recommends \"false\"")
        .arg(format!("--setup-hook={setup}"))
        .arg(format!("--extract-hook={unpack}"))
        .arg(format!("--extract-hook={}", recipe.hook))
        .arg(format!("--extract-hook={finish}"))
        .arg(SUITE)
        .arg(root)
        .args(&recipe.sources)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        // Not with the kernel and again when all is there: `UNPACK` makes the initial ram disk, once.
        .env("INITRD", "No")
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(BaseError::NotInstalled)?;
    let mut last: VecDeque<String> = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line)
                .trim_end()
                .rsplit('\r')
                .next()
                .unwrap_or_default()
                .to_owned();
            if line.is_empty() {
                continue;
            }
            progress(&line);
            if last.len() == 15 {
                last.pop_front();
            }
            last.push_back(line);
        }
    }
    let status = child.wait().map_err(BaseError::NotInstalled)?;
    if status.success() {
        return Ok(());
    }
    let last_lines = last.into_iter().collect::<Vec<_>>().join("\n");
    Err(BaseError::Failed {
        mirror: mirror.to_owned(),
        status: status.to_string(),
        last_lines,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::debs::Package;

    #[test]
    fn a_base_is_at_its_own_place_if_it_is_what_is_wanted() {
        let cache = tempfile::tempdir().unwrap();
        let own = cache.path().join("base/bookworm-amd64-00000000");
        let mut wanted = Base {
            released: BTreeMap::new(),
            asked: BTreeSet::new(),
            indexes: Vec::new(),
            packages: vec![Package {
                name: "git".into(),
                version: "1".into(),
                architecture: "amd64".into(),
                size: 1,
                sha256: "ab".repeat(32),
                url: "http://m/git.deb".into(),
            }],
        };
        let digest = wanted.digest();
        let beside = own.with_file_name(format!("bookworm-amd64-00000000-{}", &digest[..16]));
        // A note without the base is of no use.
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        put_json(&note_of(&own), &wanted).unwrap();
        assert_eq!(place(&own, &digest), beside);
        std::fs::create_dir_all(own.join("usr/lib")).unwrap();
        std::fs::write(own.join("usr/lib/os-release"), "").unwrap();
        assert_eq!(place(&own, &digest), own);
        assert_eq!(place(&own, &digest[..16]), own);
        wanted.packages[0].version = "2".into();
        let other = place(&own, &wanted.digest());
        assert!(other != own && other != beside);
        // What is missing is told before anything is made.
        let error = ensure_locked(&own, &wanted, &|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("does not have the files of git 2"),
            "{error}"
        );
        std::fs::create_dir_all(&beside).unwrap();
        let foreign = own.with_file_name("bookworm-amd64-000000001");
        std::fs::create_dir_all(&foreign).unwrap();
        remove_all(&own).unwrap();
        assert_eq!(
            (own.exists(), beside.exists(), foreign.exists()),
            (false, false, true)
        );
    }
}
