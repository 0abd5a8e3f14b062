//! Settings: flag, then environment, then `piaas-bake.yaml` found upward from here, then the user's config file,
//! then the default. Flags and environment come through clap.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::{Deserialize, Serialize};

use super::args::{AccountId, CloudName, GlobalArgs};
use super::error::CliError;
use super::exit;
use crate::bake::names::BundleStore;

/// Name of the project's config file.
pub const FILE_NAME: &str = "piaas-bake.yaml";

/// Characters of the longest prefix of bundles' keys; a key has 1,024 at most, and ours are behind it.
const PREFIX_LIMIT: usize = 512;

/// The mirror network that Debian itself recommends.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// What a config file may say; every key is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    cloud: Option<CloudName>,
    recipes: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    region: Option<String>,
    profile: Option<String>,
    allow_accounts: Option<Vec<AccountId>>,
    mirror: Option<String>,
    bundle_bucket: Option<String>,
    bundle_prefix: Option<String>,
}

/// A config file that was read, for the places of its keys.
#[derive(Debug, Default)]
struct Loaded {
    path: PathBuf,
    text: String,
    file: ConfigFile,
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Origin {
    /// An option of the command line.
    Flag { flag: &'static str },
    /// A variable of the environment.
    Environment { variable: &'static str },
    /// A key of a config file; lines count from 1.
    File { file: PathBuf, line: usize },
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag } => f.write_str(flag),
            Self::Environment { variable } => f.write_str(variable),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting as `config show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The key in a config file, or what it would be.
    pub name: &'static str,
    pub value: Option<String>,
    pub origin: Origin,
}

/// Tells options that were written from those that the environment gave: clap merges the two.
#[derive(Debug, Default)]
pub struct Written(BTreeSet<String>);

impl Written {
    /// Reads which options were on the command line; those of every verb may stand before it or after it.
    #[must_use]
    pub fn from_matches(matches: &ArgMatches) -> Self {
        let mut written = BTreeSet::new();
        let mut level = Some(matches);
        while let Some(matches) = level {
            let ids = matches.ids().map(clap::Id::as_str);
            written.extend(
                ids.filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine))
                    .map(str::to_owned),
            );
            level = matches.subcommand().map(|(_, below)| below);
        }
        Self(written)
    }
}

/// The settings of this call.
#[derive(Debug, Clone)]
pub struct Settings {
    pub cloud: CloudName,
    pub recipes: PathBuf,
    pub state_dir: PathBuf,
    /// For what can be made again.
    pub cache_dir: PathBuf,
    pub region: Option<String>,
    pub profile: Option<String>,
    /// The only AWS accounts that may be acted on; empty: any.
    pub allow_accounts: Vec<AccountId>,
    /// The agent that goes into images of workers; None: the one beside this program.
    pub worker_agent: Option<PathBuf>,
    /// Debian mirror for the base of the local cloud.
    pub mirror: String,
    /// Where bundles are put for machines to fetch; None: they go in commands.
    pub bundles: Option<BundleStore>,
    /// Config files that were read, the one that wins first.
    pub files: Vec<PathBuf>,
    /// All of them, with where they come from.
    pub shown: Vec<Shown>,
}

/// Finds values: an option, then the environment, then the config files, then the default.
struct Resolver<'a> {
    written: &'a Written,
    files: &'a [Loaded],
    shown: Vec<Shown>,
}

/// One setting's names.
struct Names {
    key: &'static str,
    flag: &'static str,
    variable: &'static str,
}

impl Resolver<'_> {
    /// `given` is what the command line or the environment says.
    fn find<T>(
        &self,
        names: &Names,
        given: Option<T>,
        in_file: impl Fn(&ConfigFile) -> Option<T>,
    ) -> (Option<T>, Origin) {
        if given.is_some() {
            let id = names.flag.trim_start_matches('-').replace('-', "_");
            let origin = if self.written.0.contains(&id) {
                Origin::Flag { flag: names.flag }
            } else {
                Origin::Environment {
                    variable: names.variable,
                }
            };
            return (given, origin);
        }
        for loaded in self.files {
            if let Some(value) = in_file(&loaded.file) {
                let key = format!("{}:", names.key);
                let line = loaded.text.lines().position(|line| line.starts_with(&key));
                let origin = Origin::File {
                    file: loaded.path.clone(),
                    // A quoted key is found by nobody's eye on a line of its own: the file is what counts.
                    line: line.map_or(1, |line| line + 1),
                };
                return (Some(value), origin);
            }
        }
        (None, Origin::Default)
    }

    fn show(&mut self, name: &'static str, value: Option<String>, origin: Origin) {
        self.shown.push(Shown {
            name,
            value,
            origin,
        });
    }
}

const fn names(key: &'static str, flag: &'static str, variable: &'static str) -> Names {
    Names {
        key,
        flag,
        variable,
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

impl Settings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// A config file that cannot be read or parsed (exit code 2), with its path and place.
    pub fn resolve(args: &GlobalArgs, written: &Written) -> Result<Self, CliError> {
        let here = std::env::current_dir().map_err(|error| {
            CliError::failure("cannot tell the current directory").because(&error)
        })?;
        let project = here
            .ancestors()
            .map(|dir| dir.join(FILE_NAME))
            .find(|path| path.is_file());
        let user = xdg_dir("XDG_CONFIG_HOME", ".config")
            .map(|dir| dir.join("config.yaml"))
            .filter(|path| path.is_file());
        let files = [project, user].into_iter().flatten();
        let files: Vec<Loaded> = files.map(load).collect::<Result<_, _>>()?;
        let mut find = Resolver {
            written,
            files: &files,
            shown: Vec::new(),
        };

        let key = names("cloud", "--cloud", "PIAAS_CLOUD");
        let (cloud, origin) = find.find(&key, args.cloud, |file| file.cloud);
        let cloud = cloud.unwrap_or(CloudName::Local);
        find.show(key.key, Some(cloud.to_string()), origin);

        let key = names("recipes", "--recipes", "PIAAS_RECIPES");
        let (recipes, origin) = find.find(&key, args.recipes.clone(), |file| file.recipes.clone());
        let recipes = recipes.unwrap_or_else(|| PathBuf::from("recipes"));
        find.show(key.key, Some(path_text(&recipes)), origin);

        let key = names("state_dir", "--state-dir", "PIAAS_STATE_DIR");
        let (dir, origin) = find.find(&key, args.state_dir.clone(), |file| file.state_dir.clone());
        let dir = match dir {
            Some(dir) => dir,
            None => xdg_dir("XDG_STATE_HOME", ".local/state").ok_or_else(|| {
                CliError::new(
                    exit::USAGE,
                    "no place to keep state: neither XDG_STATE_HOME nor HOME is set",
                )
                .hint("pass --state-dir DIR or set PIAAS_STATE_DIR")
            })?,
        };
        let state_dir = std::path::absolute(&dir).unwrap_or(dir);
        find.show(key.key, Some(path_text(&state_dir)), origin);

        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let (dir, origin) = match variable("PIAAS_CACHE_DIR") {
            Some(dir) => (
                PathBuf::from(dir),
                Origin::Environment {
                    variable: "PIAAS_CACHE_DIR",
                },
            ),
            None => (
                xdg_dir("XDG_CACHE_HOME", ".cache").unwrap_or_else(|| state_dir.join("cache")),
                Origin::Default,
            ),
        };
        let cache_dir = std::path::absolute(&dir).unwrap_or(dir);
        find.show("cache_dir", Some(path_text(&cache_dir)), origin);

        // Without one of ours, the AWS configuration has the word; `config variables` names its variables.
        let key = names("region", "--region", "AWS_REGION");
        let (region, origin) = find.find(&key, args.region.clone(), |file| file.region.clone());
        find.show(key.key, region.clone(), origin);

        let key = names("profile", "--profile", "AWS_PROFILE");
        let (profile, origin) = find.find(&key, args.profile.clone(), |file| file.profile.clone());
        find.show(key.key, profile.clone(), origin);

        let key = names("allow_accounts", "--allow-account", "PIAAS_ALLOW_ACCOUNTS");
        let given = Some(args.allow_account.clone()).filter(|given| !given.is_empty());
        let (accounts, origin) = find.find(&key, given, |file| file.allow_accounts.clone());
        let allow_accounts = accounts.unwrap_or_default();
        let list: Vec<&str> = allow_accounts.iter().map(|one| one.0.as_str()).collect();
        let list = Some(list.join(", ")).filter(|list| !list.is_empty());
        find.show(key.key, list, origin);

        let key = names("worker_agent", "--worker-agent", "PIAAS_WORKER");
        let (worker_agent, origin) = find.find(&key, args.worker_agent.clone(), |_| None);
        let agent = worker_agent.as_deref().map(path_text);
        find.show(key.key, agent, origin);

        let key = names("mirror", "", "PIAAS_MIRROR");
        let given = std::env::var("PIAAS_MIRROR").ok();
        let given = given.filter(|value| !value.is_empty());
        let (mirror, origin) = find.find(&key, given, |file| file.mirror.clone());
        let mirror = mirror.unwrap_or_else(|| DEFAULT_MIRROR.to_owned());
        find.show(key.key, Some(mirror.clone()), origin);

        let bundles = bundle_store(&mut find)?;

        let shown = find.shown;
        Ok(Self {
            cloud,
            recipes,
            state_dir,
            cache_dir,
            region,
            profile,
            allow_accounts,
            worker_agent,
            mirror,
            bundles,
            files: files.into_iter().map(|loaded| loaded.path).collect(),
            shown,
        })
    }

    /// The root of the local cloud's base image: a cache, shared by all state directories.
    #[must_use]
    pub fn base_dir(&self) -> PathBuf {
        self.cache_dir
            .join("base")
            .join(crate::localcloud::base::directory_name())
    }

    /// Where the local cloud lives.
    #[must_use]
    pub fn cloud_dir(&self) -> PathBuf {
        self.state_dir.join("cloud")
    }
}

/// The bucket for bundles, with what their keys begin with.
fn bundle_store(find: &mut Resolver<'_>) -> Result<Option<BundleStore>, CliError> {
    let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let refused = |what: &str, value: &str, origin: &Origin| {
        CliError::new(
            exit::USAGE,
            format!("{what} `{value}` ({origin}) cannot be used"),
        )
    };
    let key = names("bundle_bucket", "", "PIAAS_BUNDLE_BUCKET");
    let (bucket, from) = find.find(&key, given(key.variable), |file| file.bundle_bucket.clone());
    if let Some(bucket) = &bucket
        && !crate::localcloud::s3::is_bucket_name(bucket)
    {
        return Err(refused(key.key, bucket, &from).hint(
            "a bucket has 3 to 63 small letters, digits, dots and hyphens, and is named without s3://",
        ));
    }
    find.show(key.key, bucket.clone(), from);
    let key = names("bundle_prefix", "", "PIAAS_BUNDLE_PREFIX");
    let (prefix, from) = find.find(&key, given(key.variable), |file| file.bundle_prefix.clone());
    let prefix = prefix.map(|prefix| prefix.trim_matches('/').to_owned());
    if let Some(prefix) = &prefix {
        // No quoting anywhere, neither in commands that people are shown nor in policies.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
        if prefix.len() > PREFIX_LIMIT || !prefix.chars().all(plain) {
            return Err(refused(key.key, prefix, &from).hint(format!(
                "it has at most {PREFIX_LIMIT} letters, digits and /-_."
            )));
        }
        if bucket.is_none() {
            return Err(refused(key.key, prefix, &from).hint("it needs a bundle_bucket"));
        }
    }
    find.show(key.key, prefix.clone(), from);
    Ok(bucket.map(|bucket| BundleStore {
        bucket,
        prefix: prefix.unwrap_or_default(),
    }))
}

fn xdg_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    // The XDG specification: a relative path in these variables is invalid and ignored.
    set(variable)
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(below_home)))
        .map(|dir| dir.join("piaas-bake"))
}

fn load(path: PathBuf) -> Result<Loaded, CliError> {
    let refused = |error: &dyn std::error::Error| {
        CliError::new(
            exit::USAGE,
            format!("cannot use the config file {}", path.display()),
        )
        .because(error)
        .hint(
            "its keys are cloud, recipes, state_dir, region, profile, allow_accounts, mirror, bundle_bucket and \
             bundle_prefix",
        )
    };
    let text = std::fs::read_to_string(&path).map_err(|error| refused(&error))?;
    let mut file = if text.trim().is_empty() {
        ConfigFile::default()
    } else {
        serde_yaml::from_str(&text).map_err(|error| refused(&error))?
    };
    // Paths in a file are relative to it, not to where the command is run.
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    for dir in [&mut file.recipes, &mut file.state_dir]
        .into_iter()
        .flatten()
    {
        *dir = base.join(&*dir);
    }
    Ok(Loaded { path, text, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_config_file_are_relative_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, "recipes: infra/recipes\ncloud: aws\n").unwrap();
        let file = load(path).unwrap().file;
        assert_eq!(file.recipes, Some(dir.path().join("infra/recipes")));
        assert_eq!(file.cloud, Some(CloudName::Aws));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_file_and_the_known_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, "clod: aws\n").unwrap();
        let error = load(path).unwrap_err();
        assert_eq!(error.code, exit::USAGE);
        assert!(error.message.contains("piaas-bake.yaml"));
        assert!(error.causes[0].contains("clod"), "{error:?}");
    }
}
