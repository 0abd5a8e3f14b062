//! The file that says how a fleet is run: `fleet.yaml`. Strict: what it does not know is an error with its place.

use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;

use super::demand::buildbot::Buildbot;
use super::demand::command::Script;
use super::demand::{Nobody, Source};
use super::policy::Policy;
use crate::recipe::diagnostic::{Diagnostic, Diagnostics};
use crate::recipe::node::{Document, Entry, Node};
use crate::recipe::units;

/// What the file begins with.
pub const SCHEMA: &str = "piaas-bake/fleet/v1";

const KEYS: [&str; 13] = [
    "schema",
    "group",
    "demand",
    "idle_after",
    "min_idle",
    "spare",
    "queue_percent",
    "launch_most",
    "cordon_most",
    "drain_percent",
    "boot_deadline",
    "leak_after",
    "interval",
];

/// Where the demand is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Nobody,
    Buildbot {
        url: String,
        worker: String,
        builders: Vec<String>,
        /// Environment variable with the value of the header `Authorization`.
        authorization_env: Option<String>,
    },
    Command(String),
}

/// A fleet as its file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the Auto Scaling group.
    pub group: Option<String>,
    pub demand: Wanted,
    pub policy: Policy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: None,
            demand: Wanted::Nobody,
            policy: Policy::default(),
        }
    }
}

impl Wanted {
    /// Somebody to ask. `env` gives environment variables.
    ///
    /// # Errors
    /// What is missing.
    pub fn source(&self, env: impl Fn(&str) -> Option<String>) -> Result<Box<dyn Source>, String> {
        Ok(match self {
            Self::Nobody => Box::new(Nobody),
            Self::Command(command) => Box::new(Script::new(command.clone())),
            Self::Buildbot {
                url,
                worker,
                builders,
                authorization_env,
            } => {
                let authorization = match authorization_env {
                    Some(name) => Some(env(name).ok_or_else(|| {
                        format!(
                            "the environment variable {name} is not set, and authorization_env names it"
                        )
                    })?),
                    None => None,
                };
                let buildbot = Buildbot::new(url, worker, builders.clone(), authorization)?;
                Box::new(buildbot)
            }
        })
    }
}

/// Reads a file's text.
///
/// # Errors
/// All that is wrong with it, each with its place.
pub fn parse(file: &Path, text: String) -> Result<Config, Diagnostics> {
    if text.trim().is_empty() {
        let help = format!("begin with `schema: {SCHEMA}` and `group: NAME`");
        let message = format!("{} is empty", file.display());
        return Err(Diagnostic::new(message, help).into());
    }
    let document = Document::parse(file, text)?;
    let mut found = Diagnostics::default();
    let config = read(document.root(), &mut found);
    found.or(config)
}

fn read(root: Node<'_>, found: &mut Diagnostics) -> Config {
    let mut config = Config::default();
    let fields = root.fields(&KEYS, found);
    let help = format!("begin the file with `schema: {SCHEMA}`");
    if let Some(schema) = fields.require("schema", &help, found) {
        schema.checked(
            "a schema that is known here",
            |text| text == SCHEMA,
            &help,
            found,
        );
    }
    config.group = fields.get("group").and_then(|node| {
        // XmlStringMaxLen255 of the Auto Scaling API.
        let fits = |name: &str| !name.is_empty() && name.chars().count() <= 255;
        node.checked(
            "the name of an Auto Scaling group",
            fits,
            "write 1 to 255 characters",
            found,
        )
    });
    if let Some(node) = fields.get("demand") {
        config.demand = demand(node, found).unwrap_or(Wanted::Nobody);
    }
    let policy = &mut config.policy;
    let mut count = |key: &str, least: u32, most: u32, value: &mut u32| {
        let Some(node) = fields.get(key) else { return };
        match node.count(most, found) {
            Some(count) if count >= least => *value = count,
            Some(_) => found.push(node.diagnostic(
                format!("`{key}` is at least {least}"),
                format!("write a number from {least} to {most}"),
            )),
            None => {}
        }
    };
    count("min_idle", 0, 1000, &mut policy.min_idle);
    count("spare", 0, 1000, &mut policy.spare);
    count("queue_percent", 1, 100, &mut policy.queue_percent);
    count(
        "launch_most",
        1,
        super::memory::LAUNCH_MOST,
        &mut policy.launch_most,
    );
    count("cordon_most", 1, 50, &mut policy.cordon_most);
    count("drain_percent", 1, 100, &mut policy.drain_percent);
    let mut time = |key: &str| -> Option<Duration> {
        fields.get(key)?.parsed("a length of time", length, found)
    };
    let signed = |time: Duration| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    let lengths = [
        (&mut policy.idle_after, time("idle_after")),
        (&mut policy.boot_deadline, time("boot_deadline")),
        (&mut policy.leak_after, time("leak_after")),
    ];
    for (value, given) in lengths {
        if let Some(given) = given {
            *value = signed(given);
        }
    }
    if let Some(interval) = time("interval") {
        policy.interval = interval;
    }
    config
}

fn length(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|_| {
        "write a number with its unit, such as 30s, 10m or 1h30m; 1s to 48h".to_owned()
    })
}

fn demand(node: Node<'_>, found: &mut Diagnostics) -> Option<Wanted> {
    let choices = ["buildbot", "command"];
    let fields = node.fields(&choices, found);
    let Entry { key, node, .. } = fields.one_of(&choices, found)?;
    if key == "command" {
        let help = "write a shell command that prints {\"queued\": N}";
        let some = |text: &str| !text.trim().is_empty();
        return Some(Wanted::Command(node.checked(
            "a command",
            some,
            help,
            found,
        )?));
    }
    let known = ["url", "worker", "builders", "authorization_env"];
    let fields = node.fields(&known, found);
    let url = fields.require(
        "url",
        "write the master's address, such as http://localhost:8010",
        found,
    );
    let url = url.and_then(|node| {
        let help = "write http:// or https:// and the host of the master's web server";
        node.checked("an address", is_url, help, found)
    });
    let worker = fields.get("worker").map_or_else(
        || Some("ci-{instance}".to_owned()),
        |node| {
            let help = "write the name of a worker, with {instance} for the instance id";
            let has = |text: &str| text.matches("{instance}").count() == 1;
            node.checked("a worker's name with {instance} in it", has, help, found)
        },
    );
    let mut builders = Vec::new();
    for item in fields
        .get("builders")
        .map(|node| node.items(found))
        .unwrap_or_default()
    {
        builders.extend(item.text(found).map(str::to_owned));
    }
    let authorization_env = fields.get("authorization_env").and_then(|node| {
        let help = "write its name, such as BUILDBOT_AUTHORIZATION";
        node.checked(
            "the name of an environment variable",
            units::is_env_name,
            help,
            found,
        )
    });
    Some(Wanted::Buildbot {
        url: url?,
        worker: worker?,
        builders,
        authorization_env,
    })
}

fn is_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Config, String> {
        parse(Path::new("fleet.yaml"), text.to_owned()).map_err(|found| found.to_string())
    }

    #[test]
    fn a_file_is_read_and_what_it_leaves_out_has_its_default() {
        let config = read_text(
            "schema: piaas-bake/fleet/v1\ngroup: ci workers\ndemand:\n  buildbot:\n    url: http://localhost:8010\n\
             idle_after: 90s\nmin_idle: 2\n",
        )
        .unwrap();
        assert_eq!(config.group.as_deref(), Some("ci workers"));
        assert_eq!(config.policy.idle_after.as_secs(), 90);
        assert_eq!((config.policy.min_idle, config.policy.spare), (2, 1));
        assert!(
            matches!(config.demand, Wanted::Buildbot { worker, .. } if worker == "ci-{instance}")
        );
    }

    #[test]
    fn the_shipped_file_is_valid() {
        let path = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/recipes/ci-worker/fleet.yaml"
        ));
        let config = parse(path, std::fs::read_to_string(path).unwrap());
        assert!(config.is_ok(), "{}", config.unwrap_err());
    }

    #[test]
    fn what_is_wrong_has_its_place_and_a_way_out() {
        for (line, message, help) in [
            ("idle_afer: 1m", "3:1", "did you mean `idle_after`?"),
            ("idle_after: 10", "3:13", "1s to 48h"),
            ("min_idle: -1", "3:11", "write a number"),
            ("launch_most: 0", "3:14", "from 1 to 50"),
            ("interval: 49h", "3:11", "1s to 48h"),
            ("demand: {}", "3:9", "exactly one of"),
            ("demand: {buildbot: {url: localhost}}", "3:26", "http://"),
            (
                "demand: {buildbot: {url: 'http://h', worker: w}}",
                "3:46",
                "{instance}",
            ),
            ("demand: {command: ''}", "3:19", "a shell command"),
        ] {
            let text = format!("schema: piaas-bake/fleet/v1\ngroup: g\n{line}\n");
            let found = read_text(&text).unwrap_err();
            assert!(
                found.contains(&format!("fleet.yaml:{message}")),
                "{line}: {found}"
            );
            assert!(found.contains(help), "{line}: {found}");
        }
        assert!(
            read_text("group: g\n")
                .unwrap_err()
                .contains("`schema` is missing")
        );
        assert!(read_text("").unwrap_err().contains("is empty"));
        assert!(
            read_text("schema: piaas-bake/fleet/v9\n")
                .unwrap_err()
                .contains("v9")
        );
    }

    #[test]
    fn a_secret_comes_from_the_environment() {
        let wanted = Wanted::Buildbot {
            url: "http://localhost:1".into(),
            worker: "ci-{instance}".into(),
            builders: vec![],
            authorization_env: Some("TOKEN".into()),
        };
        assert!(wanted.source(|_| None).is_err());
        assert!(wanted.source(|_| Some("Bearer x".into())).is_ok());
    }
}
