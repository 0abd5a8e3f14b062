//! `make bench`: how fast this is, beside a rival or beside what was promised. No part of the tests: a busy host is no
//! fault.
//!
//! With `--trees BEFORE AFTER…`, directories with a Debian system each, it measures nothing but how many blocks of
//! 512 KiB of a disk change from the first to each of the others. Two copies of a root, one of them after
//! `chroot COPY dpkg -i PACKAGE.deb`, tell what the update of a package costs.
//!
//! It is compiled as everything else here is (`cargo bench --profile dev`): with another profile the AWS SDK would be
//! compiled a second time, and what people run is this one.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use piaas_bake::image::SOURCE_DATE;
use piaas_bake::image::disk::{self, DiskSpec};
use piaas_bake::image::tree::{Node, Tree};
use piaas_bake::{digest, parallel, recipe, render};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const MIB: usize = 1 << 20;

/// One line of the table.
struct Line {
    what: String,
    ours: String,
    rival: String,
    ratio: f64,
    /// The ratio that is promised, at least.
    least: f64,
}

fn main() -> ExitCode {
    let trees: Vec<_> = std::env::args_os()
        .skip_while(|argument| argument != "--trees")
        .skip(1)
        .collect();
    if !trees.is_empty() {
        changed_blocks(&trees);
        return ExitCode::SUCCESS;
    }
    let mut lines = tree_digests();
    lines.push(disk_of_two_gib());
    lines.extend(many_recipes());
    lines.push(start());
    println!(
        "{:<58} {:>12} {:>24} {:>7} {:>7}",
        "what", "ours", "rival or promise", "ratio", "least"
    );
    for Line {
        what,
        ours,
        rival,
        ratio,
        least,
    } in &lines
    {
        let missed = if ratio < least { "  missed" } else { "" };
        println!("{what:<58} {ours:>12} {rival:>24} {ratio:>7.2} {least:>7.2}{missed}");
    }
    ExitCode::from(u8::from(lines.iter().any(|line| line.ratio < line.least)))
}

/// The median of some runs, after one that fills caches.
fn median(runs: usize, mut run: impl FnMut()) -> Duration {
    run();
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed()
        })
        .collect();
    times.sort();
    times[runs / 2]
}

/// The digest of a directory tree, beside `sha256sum` of the same files.
fn tree_digests() -> Vec<Line> {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let bytes = put_tree(dir.path());
    let ours = || {
        let tree = Tree::scan(dir.path(), 0).expect("the tree can be read");
        black_box(tree.digest().expect("the files can be read"));
    };
    let rival = || {
        let status = Command::new("sh")
            .args([
                "-c",
                "find . -type f -print0 | sort -z | xargs -0 sha256sum",
            ])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .status()
            .expect("sh can be started");
        assert!(status.success());
    };
    let all = sched_getaffinity(None).expect("the kernel tells the cores");
    let first = (0..CpuSet::MAX_CPU)
        .find(|cpu| all.is_set(*cpu))
        .expect("there is a core");
    let mut one = CpuSet::new();
    one.set(first);
    // Children inherit it.
    sched_setaffinity(None, &one).expect("fewer cores can be had");
    let (ours_one, rival_one) = (median(5, ours), median(5, rival));
    sched_setaffinity(None, &all).expect("these cores were there");
    let ours_all = median(5, ours);
    let speed = |time: Duration| {
        format!(
            "{:.0} MiB/s",
            bytes as f64 / MIB as f64 / time.as_secs_f64()
        )
    };
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    vec![
        Line {
            what: format!("digest of a tree of {} MiB, one core", bytes / MIB),
            ours: speed(ours_one),
            rival: format!("{} sha256sum", speed(rival_one)),
            ratio: ratio(rival_one, ours_one),
            least: 0.9,
        },
        Line {
            what: format!("the same on {} cores", all.count()),
            ours: speed(ours_all),
            rival: format!("{} on one", speed(ours_one)),
            ratio: ratio(ours_one, ours_all),
            least: if all.count() > 1 { 1.2 } else { 0.0 },
        },
    ]
}

/// Four large files and four thousand small ones.
fn put_tree(dir: &Path) -> usize {
    let mut noise = 1_u32;
    let block: Vec<u8> = (0..MIB)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.to_be_bytes()[0]
        })
        .collect();
    for n in 0..4 {
        fs::write(dir.join(format!("large-{n}")), block.repeat(64)).expect("a file can be written");
    }
    for n in 0..4000 {
        let below = dir.join(format!("small/{}", n % 40));
        fs::create_dir_all(&below).expect("a directory can be made");
        let start = n * 100;
        fs::write(below.join(n.to_string()), &block[start..start + 8192])
            .expect("a file can be written");
    }
    4 * 64 * MIB + 4000 * 8192
}

fn disk_spec(gib: u64) -> DiskSpec {
    DiskSpec {
        size_bytes: gib << 30,
        seed: [0; 32],
        source_date: SOURCE_DATE,
    }
}

/// How many blocks change from the first tree's disk to the others'.
fn changed_blocks(trees: &[std::ffi::OsString]) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made");
    let mut manifests = trees.iter().map(|root| {
        let tree = Tree::scan(root.as_ref(), SOURCE_DATE).expect("the tree can be read");
        let written = disk::write(&tree, &disk_spec(8), &dir.path().join("disk"));
        written
            .expect("it is the tree of a system that boots")
            .blocks
    });
    let before = manifests.next().expect("there is a first tree");
    for (after, root) in manifests.zip(&trees[1..]) {
        let (changed, all) = (after.changed_since(&before).len(), after.blocks.len());
        println!(
            "{}: {changed} of {all} blocks changed, {:.2} %",
            root.display(),
            100.0 * changed as f64 / all as f64
        );
    }
}

/// A disk with its manifests, beside `dd` of the same bytes and `sha256sum`. What is not yet on the host's disk is
/// written there first: nobody's figure has it.
fn disk_of_two_gib() -> Line {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made");
    let (disk, copy) = (dir.path().join("disk"), dir.path().join("copy"));
    let tree = put_system(dir.path());
    let sync = || rustix::fs::sync();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        sync();
        let begin = Instant::now();
        let written = disk::write(&tree, &disk_spec(2), &disk);
        black_box(written.expect("the disk can be written"));
        ours.push(begin.elapsed());
        sync();
        let begin = Instant::now();
        let status = Command::new("sh")
            .args([
                "-c",
                "dd if=\"$1\" of=\"$2\" bs=1M status=none && sha256sum \"$2\"",
                "sh",
            ])
            .args([&disk, &copy])
            .stdout(Stdio::null())
            .status()
            .expect("sh can be started");
        assert!(status.success());
        theirs.push(begin.elapsed());
        fs::remove_file(&copy).expect("it is there");
        fs::remove_file(&disk).expect("it is there");
    }
    ours.sort();
    theirs.sort();
    let speed = |time: Duration| format!("{:.0} MiB/s", 2048.0 / time.as_secs_f64());
    Line {
        what: "a disk of 2 GiB with its manifests".to_owned(),
        ours: speed(ours[1]),
        rival: format!("{} dd + sha256sum", speed(theirs[1])),
        ratio: theirs[1].as_secs_f64() / ours[1].as_secs_f64(),
        least: 0.5,
    }
}

/// A tree that a disk can be made of, of 1.4 GiB: five times the large and small files of [`put_tree`].
fn put_system(dir: &Path) -> Tree {
    let files = dir.join("files");
    fs::create_dir(&files).expect("a directory can be made");
    put_tree(&files);
    let files = Tree::scan(&files, 0).expect("the tree can be read");
    let mut tree = Tree::new(Node::directory(0o755, 0));
    let loader = "usr/lib/systemd/boot/efi";
    for (end, _) in loader.match_indices('/').chain([(loader.len(), "")]) {
        tree.insert(&loader.as_bytes()[..end], Node::directory(0o755, 0));
    }
    tree.insert(b"boot", Node::directory(0o755, 0));
    for path in [
        "boot/vmlinuz-1",
        "boot/initrd.img-1",
        "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
    ] {
        tree.insert(path.as_bytes(), Node::file("no kernel", 0o644, 0));
    }
    for copy in 0..5 {
        for (path, id) in files.names() {
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let path = [format!("copy-{copy}").as_bytes(), slash, path].concat();
            tree.insert(&path, files.node(id).clone());
        }
    }
    tree
}

/// A thousand recipes in a hundred lines of ten, each with a parameter, a file and a few steps.
fn many_recipes() -> [Line; 2] {
    let dir = tempfile::tempdir().expect("a directory can be made");
    for line in 0..100 {
        for level in 0..10 {
            let home = dir.path().join(format!("line-{line:02}-{level}"));
            fs::create_dir_all(&home).expect("a directory can be made");
            let from = match level {
                0 => "{ ssm: /aws/service/debian/release/12/latest/amd64 }".to_owned(),
                _ => format!("{{ recipe: line-{line:02}-{}, version: ^1 }}", level - 1),
            };
            let text = format!(
                "schema: piaas-bake/v1\nname: line-{line:02}-{level}\nversion: 1.2.{level}\ndescription: Level {level}.\n\
                 from: {from}\nparameters:\n  port_{level}: {{ type: integer, default: 80{level} }}\nlabels: {{ level: \"{level}\" }}\n\
                 packages: [git, curl]\nfiles:\n  - {{ path: /etc/level-{level}, content: \"{{{{ port_{level} }}}}\\n\" }}\n\
                 steps:\n  - name: Use it\n    run: |\n      printf '%s\\n' {{{{ port_{level} }}}} >/etc/port-{level}\n      systemctl daemon-reload\n\
                 validate:\n  - {{ name: It is there, run: test -e /etc/level-{level} }}\n"
            );
            fs::write(home.join(recipe::FILE), text).expect("a file can be written");
        }
    }
    let names = recipe::names(dir.path()).expect("the directory can be read");
    assert_eq!(names.len(), 1000);
    let lint = median(5, || {
        let done = Command::new(env!("CARGO_BIN_EXE_piaas-bake"))
            .arg("lint")
            .arg("--recipes")
            .arg(dir.path())
            .stdout(Stdio::null())
            .status();
        assert!(done.expect("the program can be started").success());
    });
    let digests = median(5, || {
        let given = recipe::Given::default();
        black_box(parallel::map(&names, |name| {
            let resolved = recipe::load(dir.path(), name, &given).expect("it is sound");
            let layers = render::render(&resolved, &[]).expect("it is sound");
            digest::chain(&resolved, &layers)
        }));
    });
    let promised = Duration::from_secs(1);
    let line = |what: &str, time: Duration| Line {
        what: what.to_owned(),
        ours: format!("{} ms", time.as_millis()),
        rival: format!("{} ms", promised.as_millis()),
        ratio: promised.as_secs_f64() / time.as_secs_f64(),
        least: 1.0,
    };
    [
        line("`lint` of 1000 recipes, ten deep", lint),
        line("plan of 1000 recipes, ten deep, up to the digest", digests),
    ]
}

/// From nothing to help.
fn start() -> Line {
    let time = median(31, || {
        let output = Command::new(env!("CARGO_BIN_EXE_piaas-bake"))
            .arg("--help")
            .output()
            .expect("the program can be started");
        assert!(output.status.success() && !output.stdout.is_empty());
    });
    let promised = Duration::from_millis(20);
    Line {
        what: "start: piaas-bake --help".to_owned(),
        ours: format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        rival: format!("{} ms", promised.as_millis()),
        ratio: promised.as_secs_f64() / time.as_secs_f64(),
        least: 1.0,
    }
}
