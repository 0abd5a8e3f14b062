//! Scripts that hold a layer to its lock file, and those that note what belongs into one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::script::Script;
use crate::recipe::Lock;

const FETCH: &str = include_str!("../../templates/locked.fetch.sh");
const CHECK: &str = include_str!("../../templates/locked.check.sh");
const OPEN: &str = include_str!("../../templates/locked.open.sh");
const RECORD: &str = include_str!("../../templates/lock.record.sh");

/// Where [`record`] leaves what it found on the machine: a file for each recipe.
pub const RECORDS: &str = "/var/lib/piaas-bake-lock";
/// A script of ours exits with this if something is not as the lock file says.
pub const MISMATCH: i32 = 4;
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
            // Without packages there is no line at all, not an empty one.
            let with_list = |text: &str| text.replace("@LIST@\n", &lock.lines());
            let count = super::layer::counted_to("Fetch", lock.packages.len(), "locked package");
            let fetch = script(recipe, "001-fetch", count, with_list(FETCH), FETCH_TIMEOUT);
            let title = "What is installed is what is locked".to_owned();
            let check = script(recipe, "002-check", title, with_list(CHECK), SHORT_TIMEOUT);
            (Some(fetch), Some(check))
        }
        None if below => {
            let title = "Install from the archives again: no lock file".to_owned();
            let open = script(recipe, "001-open", title, OPEN.to_owned(), SHORT_TIMEOUT);
            (Some(open), None)
        }
        None => (None, None),
    }
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
