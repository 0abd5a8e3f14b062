//! Everything that can be wrong with a recipe, and what is said about it.

use std::time::{Duration, Instant};

use super::Kitchen;
use super::cases;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/recipe/tests/bad_input.txt"
);

/// `UPDATE_EXPECTED=1 cargo test bad_input` writes what is said now; read the difference before you keep it.
#[test]
fn every_message_is_as_expected() {
    let text = std::fs::read_to_string(FILE).unwrap();
    let (head, _) = text.split_once("=== ").unwrap();
    let mut now = head.to_owned();
    let mut wrong = Vec::new();
    for case in cases::read(&text) {
        let kitchen = Kitchen::new();
        case.write(kitchen.dir());
        let begin = Instant::now();
        let said = kitchen.complaint("a").trim_end().to_owned();
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{} took {:?}",
            case.title,
            begin.elapsed()
        );
        if said != case.expected {
            wrong.push(format!("=== {}\n{said}\n", case.title));
        }
        now.push_str(&format!(
            "=== {}\n{}---\n{said}\n\n",
            case.title, case.input
        ));
    }
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(FILE, now.trim_end().to_owned() + "\n").unwrap();
    } else {
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
