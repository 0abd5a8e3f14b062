//! Cases in a text file: what a recipe says, and what is said about it, side by side.
//!
//! `=== TITLE` begins a case. Lines that begin with `!` make files below the directory of the recipes:
//! `!recipe NAME` and `!on NAME FROM` a recipe with a head of five lines and the lines that follow,
//! `!file PATH` with the lines that follow, `!bytes PATH HEX`, `!sparse PATH SIZE`, `!link PATH TARGET`,
//! `!pipe PATH`, `!repeat PATH COUNT TEXT`, `!many DIRECTORY COUNT` files. `\\xNN` in PATH and TARGET is a byte. `!set NAME=VALUE` and `!values PATH` are given beside the
//! recipe. `---` ends them; what follows is expected. In it `\t` and `\xNN` are written so.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One case.
#[derive(Debug)]
pub struct Case {
    pub title: String,
    /// As it stands in the file.
    pub input: String,
    pub expected: String,
}

/// A path with `\xNN` for bytes that do not stand in a text.
fn raw(path: &str) -> PathBuf {
    let mut pieces = path.split("\\x");
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (byte, rest) = piece.split_at(2);
        bytes.push(u8::from_str_radix(byte, 16).unwrap());
        bytes.extend(rest.bytes());
    }
    OsString::from_vec(bytes).into()
}

/// All cases of a file.
pub fn read(text: &str) -> Vec<Case> {
    text.split("=== ")
        .skip(1)
        .map(|case| {
            let (title, rest) = case.split_once('\n').expect("a title is a line");
            let (input, expected) = rest.split_once("---\n").expect("a case has two parts");
            Case {
                title: title.to_owned(),
                input: input.to_owned(),
                expected: expected.trim_end().to_owned(),
            }
        })
        .collect()
}

impl Case {
    /// Makes the files of the input below `dir`.
    pub fn write(&self, dir: &Path) {
        let mut blocks = self.input.split("\n!");
        let first = blocks.next().and_then(|block| block.strip_prefix('!'));
        for block in first.into_iter().chain(blocks) {
            let (command, lines) = block.split_once('\n').unwrap_or((block, ""));
            let mut words = command.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (kind, name, rest) = (word(), word(), word());
            // The line end before the next block was taken off with it.
            let lines = if lines.is_empty() || lines.ends_with('\n') {
                lines.to_owned()
            } else {
                format!("{lines}\n")
            };
            let lines = lines.replace("\\t", "\t");
            let put = |path: &str, bytes: &[u8]| {
                let path = dir.join(raw(path));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            };
            let head = |from: &str| {
                format!(
                    "schema: piaas-bake/v1\nname: {name}\nversion: 1.2.3\ndescription: A test.\nfrom: {from}\n{lines}"
                )
            };
            match kind {
                "recipe" => put(
                    &format!("{name}/recipe.yaml"),
                    head("{ ami: ami-0123456789abcdef0 }").as_bytes(),
                ),
                "on" => put(&format!("{name}/recipe.yaml"), head(rest).as_bytes()),
                "file" => put(name, lines.as_bytes()),
                "bytes" => {
                    let bytes: Vec<u8> = rest
                        .split(' ')
                        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
                        .collect();
                    put(name, &bytes);
                }
                "repeat" => {
                    let (count, text) = rest.split_once(' ').unwrap();
                    let count: usize = count.parse().unwrap();
                    let text: String = (0..count)
                        .map(|n| text.replace('#', &n.to_string()).replace("\\n", "\n"))
                        .collect();
                    put(name, text.as_bytes());
                }
                "many" => {
                    fs::create_dir_all(dir.join(name)).unwrap();
                    for n in 0..rest.parse().unwrap() {
                        put(&format!("{name}/{n:04}"), b"");
                    }
                }
                "set" | "values" => {}
                "pipe" => {
                    let path = dir.join(name);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o644.into()).unwrap();
                }
                "sparse" => {
                    put(name, b"");
                    let file = fs::File::create(dir.join(name)).unwrap();
                    file.set_len(rest.parse().unwrap()).unwrap();
                }
                "link" => {
                    let path = dir.join(name);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::os::unix::fs::symlink(raw(rest), path).unwrap();
                }
                other => panic!("{}: unknown command {other}", self.title),
            }
        }
    }
}
