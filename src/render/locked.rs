//! Scripts that hold a layer to its lock file, and those that note what belongs into one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::script::Script;
use crate::recipe::Lock;

const FETCH: &str = include_str!("../../templates/locked.fetch.sh");
const CHECK: &str = include_str!("../../templates/locked.check.sh");
const OPEN: &str = include_str!("../../templates/locked.open.sh");
const PIN: &str = include_str!("../../templates/locked.pin.sh");
const RECORD: &str = include_str!("../../templates/lock.record.sh");

/// Where [`record`] leaves what it found on the machine: a file for each recipe.
pub const RECORDS: &str = "/var/lib/piaas-bake-lock";
/// A script of ours exits with this if something is not as the lock file says.
pub const MISMATCH: i32 = 4;
/// Begins a line of [`pins`] that has a command of ours: what is locked stands in the way, and the command moves it.
pub const MOVE_TOO: &str = "move it too: ";
/// Mirrors can be slow.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1800);
const SHORT_TIMEOUT: Duration = Duration::from_secs(120);

/// Whether a script is one that holds a layer to its lock file.
#[must_use]
pub fn is_guard(id: &str) -> bool {
    id.rsplit('/')
        .next()
        .is_some_and(|name| name.starts_with("lock-"))
}

/// What comes before and what after the other scripts of a layer: with a lock, apt is shown what it names and it is
/// checked in the end that this is what is installed; without one, below others that have one, apt sees its archives
/// again.
#[must_use]
pub fn guards(recipe: &str, lock: Option<&Lock>, below: bool) -> (Option<Script>, Option<Script>) {
    match lock {
        Some(lock) => {
            let title = "What is installed is what is locked".to_owned();
            let text = with_list(CHECK, &lock.lines());
            let check = script(recipe, "002-check", title, text, SHORT_TIMEOUT);
            (Some(fetch(recipe, lock)), Some(check))
        }
        None if below => {
            let title = "Install from the archives again: no lock file".to_owned();
            let open = script(recipe, "001-open", title, OPEN.to_owned(), SHORT_TIMEOUT);
            (Some(open), None)
        }
        None => (None, None),
    }
}

fn fetch(recipe: &str, lock: &Lock) -> Script {
    let title = super::layer::counted_to("Fetch", lock.packages.len(), "locked package");
    let text = with_list(FETCH, &lock.lines());
    script(recipe, "001-fetch", title, text, FETCH_TIMEOUT)
}

/// Without packages there is no line at all, not an empty one.
fn with_list(text: &str, lines: &str) -> String {
    text.replace("@LIST@\n", lines)
}

/// What comes before the other scripts of a layer whose lock file moves in part: it holds apt to all that is locked in
/// the line, but for the packages `moved` of the recipe at its end, which asks for the packages `asked`.
///
/// # Panics
/// The line is empty.
#[must_use]
pub fn pins(line: &[(&str, &Lock)], moved: &[String], asked: &[String]) -> [Script; 2] {
    let (recipe, lock) = *line
        .last()
        .expect("a line has the recipe itself at its end");
    // A layer may have another version of what a layer below has locked.
    let mut pinned = BTreeMap::new();
    for (recipe, lock) in line {
        for package in &lock.without(moved).packages {
            let key = (package.name.clone(), package.architecture.clone());
            pinned.insert(key, (*recipe, package.version.clone()));
        }
    }
    let mut lines = String::new();
    for ((name, architecture), (recipe, version)) in pinned {
        let _infallible = writeln!(lines, "{recipe} {name} {version} {architecture}");
    }
    let mut names = String::new();
    for name in moved {
        let _infallible = writeln!(names, "{name}");
    }
    // What a lock has and what a reader of recipes lets through as a package is a word of the shell as it is.
    let text = with_list(PIN, &lines)
        .replace("@MOVED@\n", &names)
        .replace("@ASKED@", &asked.join(" "))
        .replace("@NAMES@", &moved.join(" "))
        .replace("@RECIPE@", recipe);
    let title = "Pin what stays as it is locked".to_owned();
    let pin = script(recipe, "003-pin", title, text, FETCH_TIMEOUT);
    [fetch(recipe, &lock.without(moved)), pin]
}

/// What notes on the machine, before and after the other scripts of a layer, which packages it installs.
#[must_use]
pub fn record(recipe: &str) -> [Script; 2] {
    let text = |when: &str| RECORD.replace("@WHEN@", when).replace("@LAYER@", recipe);
    let title = |when: &str| format!("Note the packages {when}");
    [
        script(
            recipe,
            "001-before",
            title("before"),
            text("before"),
            SHORT_TIMEOUT,
        ),
        script(
            recipe,
            "002-after",
            title("after"),
            text("after"),
            FETCH_TIMEOUT,
        ),
    ]
}

fn script(recipe: &str, name: &str, title: String, text: String, timeout: Duration) -> Script {
    Script {
        id: format!("{recipe}/lock-{name}"),
        title,
        text,
        env: BTreeMap::new(),
        timeout,
        retries: 0,
        reboot: false,
    }
}
