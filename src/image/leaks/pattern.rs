//! Patterns of paths, as sh expands them: `*` and `?` are of one name, and not of its first dot.

/// A pattern of absolute paths. One without `*` and `?` is a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Name>);

/// One name of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Plain(Vec<u8>),
    Glob(Vec<Piece>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    /// `?`
    One,
    /// `*`
    Any,
}

impl Pattern {
    #[must_use]
    pub fn new(text: &str) -> Self {
        let name = |name: &[u8]| {
            if name.iter().any(|byte| b"*?".contains(byte)) {
                Name::Glob(name.iter().map(piece).collect())
            } else {
                Name::Plain(name.to_vec())
            }
        };
        Self(names(text.as_bytes()).map(name).collect())
    }

    /// Whether it is a pattern of just this path; whether that begins with a slash does not matter.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.covers(path) && names(path).count() == self.depth()
    }

    /// Whether it is a pattern of this path or of a directory above it.
    #[must_use]
    pub fn covers(&self, path: &[u8]) -> bool {
        // Most paths of a system differ from most patterns in the first name.
        if let Some(Name::Plain(first)) = self.0.first() {
            let slashes = path.iter().take_while(|byte| **byte == b'/').count();
            let path = &path[slashes..];
            if !path.starts_with(first) {
                return false;
            }
        }
        let mut below = names(path);
        self.0
            .iter()
            .all(|name| below.next().is_some_and(|other| name.is(other)))
    }

    /// Whether there may be a path that is, or is below, a path of each of the two.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|(one, other)| one.meets(other))
    }

    /// How many names its paths have.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.len()
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = path.split(|byte| *byte == b'/');
    names.filter(|name| !name.is_empty())
}

fn piece(byte: &u8) -> Piece {
    match byte {
        b'?' => Piece::One,
        b'*' => Piece::Any,
        other => Piece::Byte(*other),
    }
}

impl Name {
    fn is(&self, name: &[u8]) -> bool {
        match self {
            Self::Plain(plain) => plain == name,
            Self::Glob(glob) => {
                let name: Vec<Piece> = name.iter().copied().map(Piece::Byte).collect();
                meet(glob, &name)
            }
        }
    }

    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(name), one) | (one, Self::Plain(name)) => one.is(name),
            (Self::Glob(one), Self::Glob(other)) => meet(one, other),
        }
    }
}

/// Whether there is a name that both stand for. In time of the product of their lengths, whatever stars they have.
fn meet(a: &[Piece], b: &[Piece]) -> bool {
    let dot = Some(&Piece::Byte(b'.'));
    let hidden = |one: &[Piece], other: &[Piece]| {
        matches!(one.first(), Some(Piece::One | Piece::Any)) && other.first() == dot
    };
    if hidden(a, b) || hidden(b, a) {
        return false;
    }
    // For the first pieces of `a`, and as many as the place of `b`: whether these meet.
    let mut row: Vec<bool> = vec![true];
    row.extend(b.iter().scan(true, |all, piece| {
        *all &= *piece == Piece::Any;
        Some(*all)
    }));
    for x in a {
        let mut next = vec![*x == Piece::Any && row[0]];
        for (at, y) in b.iter().enumerate() {
            next.push(if *x == Piece::Any || *y == Piece::Any {
                next[at] || row[at + 1]
            } else {
                row[at] && (x == y || *x == Piece::One || *y == Piece::One)
            });
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_match_what_sh_expands_them_to() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a/.b", "a/b", "a/b-1", "a/b.c", "ab/b", "a/b*", "a/.bc"];
        for path in paths {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        for text in [
            "a/*", "a/b?*", "*/b", "a/.*", "a/.b", "?/b", "a/*b*", "a/b*c", "a/?",
        ] {
            // `[.]` and such are not expanded by us: a dot is a dot.
            let script = format!("for one in {text}; do [ ! -f \"$one\" ] || echo \"$one\"; done");
            let said = std::process::Command::new("/bin/sh")
                .args(["-c", &script])
                .current_dir(dir.path())
                .output()
                .unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            let mut by_sh: Vec<&str> = said.lines().collect();
            by_sh.sort_unstable();
            let pattern = Pattern::new(text);
            let mut ours = paths.to_vec();
            ours.retain(|path| pattern.matches(path.as_bytes()));
            ours.sort_unstable();
            assert_eq!(ours, by_sh, "{text}");
        }
    }

    #[test]
    fn what_is_below_is_covered_and_two_patterns_may_share_a_path() {
        let covers = |text, path: &str| Pattern::new(text).covers(path.as_bytes());
        assert!(covers("/etc/pki", "etc/pki/a/b") && covers("/etc/*", "/etc/a/b"));
        assert!(!covers("/etc/pki", "/etc/pkix") && !covers("/etc/pki/a", "/etc/pki"));
        let overlap = |a, b| Pattern::new(a).overlaps(&Pattern::new(b));
        for (a, b, shared) in [
            ("/etc/*.key", "/etc/a*", true),
            ("/etc/*.key", "/etc/a.pem", false),
            ("/etc/*a*", "/etc/*b*", true),
            ("/var/lib/*/x", "/var/lib/mysql", true),
            ("/etc/*", "/etc/.x", false),
            ("/etc/a?c*", "/etc/ab*d", true),
        ] {
            assert_eq!(overlap(a, b), shared, "{a} {b}");
            assert_eq!(overlap(b, a), shared, "{b} {a}");
        }
        let stars = "*a".repeat(2000);
        assert!(!overlap(&format!("/{stars}"), &format!("/{stars}b")));
    }
}
