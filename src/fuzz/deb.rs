//! What is said of packages. The parts of the input are divided by NUL: the lines that a machine notes of what is installed;
//! the names of what was asked for; what `dpkg-deb` says of a package; and an index of an archive, packed.

use crate::bake::lock;
use crate::bake::packages::archive::{resolve, unpack};
use crate::bake::packages::index::Packing;
use crate::debs::{Base, Line, index_entry};
use crate::recipe::lock::Lock;

/// What an archive says of a file itself.
const OWN: [(&str, &str); 3] = [
    ("Priority", "optional"),
    ("Filename", "./x.deb"),
    ("SHA256", "00"),
];

pub fn run(input: &[u8]) {
    let mut parts = input.splitn(4, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (notes, asked, fields) = (part(), part(), part());
    let packed = part();
    noted(
        &String::from_utf8_lossy(notes),
        &String::from_utf8_lossy(asked),
    );
    entry(&String::from_utf8_lossy(fields));
    for packing in [Packing::Plain, Packing::Gzip, Packing::Xz] {
        if let Ok(bytes) = unpack(packing, packed)
            && packing == Packing::Plain
        {
            assert_eq!(bytes, packed);
        }
    }
    let target = String::from_utf8_lossy(asked);
    if target.lines().count() == 1 {
        let from = "http://mirror/debian/dists/x/InRelease";
        let to = resolve(from, &target);
        assert!(to.ends_with(&*target));
        let elsewhere = target.contains("://") || target.starts_with("//");
        assert!(elsewhere || to.starts_with("http://mirror/"));
    }
}

/// What a machine has noted is read whole or not at all, in whatever order, and can be written into a lock file.
fn noted(text: &str, asked: &str) {
    for line in text.lines() {
        if let Some(Line::Package(package)) = Line::read(line) {
            assert_eq!(package.fault(), None);
            // Nothing of it is more than a word in a shell.
            let words = [&package.name, &package.version, &package.architecture];
            for word in words.into_iter().chain([&package.sha256, &package.url]) {
                let quoted =
                    word.contains(|c: char| c.is_whitespace() || "'\"\\`$|&<>(){}".contains(c));
                assert!(!word.is_empty() && !quoted, "{word:?}");
            }
        }
    }
    if let Some(recorded) = lock::parse("web", text) {
        let lines = recorded.packages.len() + recorded.indexes.len() + recorded.local.len();
        assert!(lines <= text.lines().count());
        let asked = asked.lines().map(str::to_owned);
        super::lock::judge(&Lock::new(
            "web",
            asked,
            recorded.indexes,
            recorded.packages,
        ));
    }
    if let Some(base) = Base::read(text, asked) {
        assert_eq!(base.fault(), None);
        let backwards: Vec<&str> = text.lines().rev().collect();
        let other = Base::read(&backwards.join("\n"), asked).expect("the lines are the same");
        assert_eq!(other.digest(), base.digest());
        let mut lock = Lock::new("web", [], Vec::new(), Vec::new());
        lock.local_base = Some(base);
        super::lock::judge(&lock);
    }
}

/// What a package says of itself makes one package in an index, and says nothing that the archive says.
fn entry(fields: &str) {
    let Ok(entry) = index_entry(fields, &OWN) else {
        return;
    };
    let body = entry.strip_suffix("\n\n").expect("an empty line ends it");
    let is_blank = |line: &str| line.trim_matches([' ', '\t']).is_empty();
    assert!(!body.split('\n').any(is_blank), "{entry:?}");
    for (name, value) in OWN {
        let named = body.split('\n').filter_map(|line| line.split_once(':'));
        let values: Vec<&str> = named
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect();
        assert_eq!(values, [value], "{entry:?}");
    }
}
