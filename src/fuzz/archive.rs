//! What an apt archive and a builder say: index files, versions, the note of what is installed.

use std::cmp::Ordering;

use crate::bake::packages::{self, Record, Release, compare, offers};

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(release) = Release::parse(&text) {
        let forms = release.forms("main/binary-amd64/Packages");
        assert!(forms.len() <= 3);
    }
    for (package, version) in offers(&text) {
        assert!(!package.contains('\n') && !version.contains('\n'));
        assert_eq!(compare(&version, &version), Ordering::Equal);
    }
    let words: Vec<&str> = text.split_whitespace().take(16).collect();
    for pair in words.windows(2) {
        assert_eq!(
            compare(pair[0], pair[1]),
            compare(pair[1], pair[0]).reverse()
        );
    }
    for three in words.windows(3) {
        let mut sorted = [three[0], three[1], three[2]];
        sorted.sort_by(|a, b| compare(a, b));
        assert_ne!(
            compare(sorted[0], sorted[2]),
            Ordering::Greater,
            "{sorted:?}"
        );
    }
    if let Some(part) = packages::read(&text) {
        let record = Record::after(None, part);
        assert_eq!(Record::from_json(&record.to_json()), Some(record));
    }
    if let Some(record) = Record::from_json(&text) {
        assert_eq!(Record::from_json(&record.to_json()), Some(record));
    }
}
