//! Everything that can be wrong with a recipe, and what is said about it.

use std::path::Path;
use std::time::Duration;

use super::Kitchen;
use super::cases;
use crate::process::within;
use crate::recipe::Given;
use crate::render::load;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/recipe/tests/bad_input.txt"
);

/// What is given beside the recipe, if anything is.
fn given(case: &cases::Case, dir: &Path) -> Option<Given> {
    let mut given = Given::default();
    for line in case.input.lines() {
        let set = line.strip_prefix("!set ");
        let set = set.and_then(|set| set.split_once('='));
        let set = set.map(|(name, value)| (name.to_owned(), value.replace("\\0", "\0")));
        given.sets.extend(set);
        let file = line.strip_prefix("!values ");
        given.values.extend(file.map(|path| dir.join(path)));
    }
    (!given.sets.is_empty() || !given.values.is_empty()).then_some(given)
}

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
        let limit = Duration::from_secs(10);
        let said = within(limit, &case.title, || match given(&case, kitchen.dir()) {
            Some(given) => kitchen.said(load(kitchen.dir(), "a", &given).map(|_| ())),
            None => kitchen.complaint("a"),
        });
        let said = said.trim_end().to_owned();
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
