//! Texts that a pattern matches, for a lint to render with: built along the pattern, as short as it gets.

use regex_syntax::hir::{Class, Hir, HirKind};

/// The longest sample, in bytes; repetitions multiply.
const LONGEST: usize = 64 * 1024;

/// Texts that `pattern` may match as a whole: one with each optional part once, then the shortest. Whether one does match
/// is for the regular expression to say: what it asserts about a place, such as `\b`, is not looked at here.
pub fn samples(pattern: &str) -> Vec<String> {
    let Ok(hir) = regex_syntax::parse(pattern) else {
        return Vec::new();
    };
    [1, 0]
        .into_iter()
        .filter_map(|least| text(&hir, least))
        .collect()
}

/// A text along `hir`, with each part at least `least` times if it may be there as often.
fn text(hir: &Hir, least: u32) -> Option<String> {
    let text = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => String::new(),
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok()?,
        HirKind::Class(class) => character(class)?.to_string(),
        HirKind::Repetition(repetition) => {
            let times = least
                .min(repetition.max.unwrap_or(least))
                .max(repetition.min);
            if times == 0 {
                return Some(String::new());
            }
            let one = text(&repetition.sub, least)?;
            let times = usize::try_from(times).ok()?;
            if one.len().saturating_mul(times) > LONGEST {
                return None;
            }
            one.repeat(times)
        }
        HirKind::Capture(capture) => text(&capture.sub, least)?,
        HirKind::Concat(parts) => parts
            .iter()
            .map(|part| text(part, least))
            .collect::<Option<String>>()?,
        HirKind::Alternation(branches) => branches
            .iter()
            .filter_map(|branch| text(branch, least))
            .min_by_key(|text| (least > 0 && text.is_empty(), text.len()))?,
    };
    (text.len() <= LONGEST).then_some(text)
}

/// A character of a class: the plainest that it has. No value has a NUL.
fn character(class: &Class) -> Option<char> {
    let ranges: Vec<(char, char)> = match class {
        Class::Unicode(class) => class.iter().map(|one| (one.start(), one.end())).collect(),
        Class::Bytes(class) => class
            .iter()
            .filter(|one| one.start().is_ascii())
            .map(|one| (one.start().into(), one.end().min(b'\x7f').into()))
            .collect(),
    };
    let has = |c: &char| ranges.iter().any(|(start, end)| (start..=end).contains(&c));
    let plain = "a1A".chars().chain('\x20'..='\x7e');
    let other = ranges
        .iter()
        .map(|(start, end)| if *start == '\0' { *end } else { *start });
    let mut all = plain.filter(has).chain(other);
    all.find(|c| *c != '\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_a_sample_that_it_matches() {
        for pattern in [
            "^[0-9]+$",
            "[0-9]*",
            r"-?\d{3}",
            "a|b|",
            "",
            ".*",
            "[a-f0-9]{40}",
            r"(?i)release-[vV]\d+\.\d+(-rc\d)?",
            "ami-(?:[0-9a-f]{8}|[0-9a-f]{17})",
            "[^a-zA-Z0-9 ]",
            r"[^\x00-\x7f]{2}",
            r"\bfoo\b",
            r"\Bx?",
            "((a{2}){3}b?){4}",
            r"(?-u:[[:alpha:]])\s",
            r"\p{Greek}+",
            "[^/]+/[^/]+",
            "(x*)*y",
        ] {
            let whole = regex::Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
            let found = samples(pattern);
            assert!(
                found
                    .iter()
                    .any(|text| whole.is_match(text) && !text.contains('\0')),
                "{pattern}: {found:?}"
            );
        }
        assert_eq!(samples("[0-9]*"), ["1", ""]);
        assert_eq!(samples("a{50}{50}{50}"), [] as [&str; 0]);
        assert_eq!(samples("[a&&b]"), [] as [&str; 0]);
    }
}
