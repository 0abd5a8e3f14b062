//! Settings: option, then environment, then `piaas-bake.yaml` found upward from here, then the user's config file,
//! then the default. A variable that is empty is not set: that is how a workflow passes on what nobody has set.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
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
pub(crate) struct ConfigFile {
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

impl ConfigFile {
    pub(crate) fn parse(text: &str) -> Result<Self, serde_yaml::Error> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_yaml::from_str(text)
    }
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
    /// A profile of the AWS configuration.
    AwsProfile { profile: String },
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag } => f.write_str(flag),
            Self::Environment { variable } => f.write_str(variable),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::AwsProfile { profile } => write!(f, "profile {profile} of the AWS configuration"),
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
    files: &'a [Loaded],
    shown: Vec<Shown>,
}

/// One setting's names.
struct Names {
    key: &'static str,
    flag: &'static str,
    /// The one that wins first.
    variables: &'static [&'static str],
}

impl Resolver<'_> {
    /// `option` is what the command line says; `read` reads what a variable says.
    fn find<T>(
        &self,
        names: &Names,
        option: Option<T>,
        read: impl Fn(&OsStr) -> Result<T, String>,
        in_file: impl Fn(&ConfigFile) -> Option<T>,
    ) -> Result<(Option<T>, Origin), CliError> {
        if option.is_some() {
            return Ok((option, Origin::Flag { flag: names.flag }));
        }
        for name in names.variables {
            if let Some(value) = variable(name) {
                let value = read(&value).map_err(|why| {
                    let value = value.display();
                    CliError::new(
                        exit::USAGE,
                        format!("{name} is `{value}`, which cannot be used: {why}"),
                    )
                })?;
                return Ok((Some(value), Origin::Environment { variable: name }));
            }
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
                return Ok((Some(value), origin));
            }
        }
        Ok((None, Origin::Default))
    }

    fn show(&mut self, name: &'static str, value: Option<String>, origin: Origin) {
        self.shown.push(Shown {
            name,
            value,
            origin,
        });
    }
}

const fn names(key: &'static str, flag: &'static str, variables: &'static [&'static str]) -> Names {
    Names {
        key,
        flag,
        variables,
    }
}

/// A variable of the environment; one that is empty is not set.
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[expect(clippy::unnecessary_wraps, reason = "others refuse some values")]
fn path(value: &OsStr) -> Result<PathBuf, String> {
    Ok(PathBuf::from(value))
}

fn text(value: &OsStr) -> Result<String, String> {
    value
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| "it is not UTF-8".to_owned())
}

fn cloud_name(value: &OsStr) -> Result<CloudName, String> {
    CloudName::from_str(&text(value)?, false).map_err(|_| "it is local or aws".to_owned())
}

fn accounts(value: &OsStr) -> Result<Vec<AccountId>, String> {
    text(value)?.split(',').map(str::parse).collect()
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

impl Settings {
    /// The profile, if somebody chose it: `default` is what everybody has.
    #[must_use]
    pub fn chosen_profile(&self) -> Option<&str> {
        self.profile.as_deref().filter(|name| *name != "default")
    }

    /// Resolves the settings.
    ///
    /// # Errors
    /// A config file that cannot be read or parsed (exit code 2), with its path and place.
    pub fn resolve(args: &GlobalArgs) -> Result<Self, CliError> {
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
            files: &files,
            shown: Vec::new(),
        };

        let key = names("cloud", "--cloud", &["PIAAS_CLOUD"]);
        let (cloud, origin) = find.find(&key, args.cloud, cloud_name, |file| file.cloud)?;
        let cloud = cloud.unwrap_or(CloudName::Local);
        find.show(key.key, Some(cloud.to_string()), origin);

        let key = names("recipes", "--recipes", &["PIAAS_RECIPES"]);
        let (recipes, origin) = find.find(&key, args.recipes.clone(), path, |file| {
            file.recipes.clone()
        })?;
        let recipes = recipes.unwrap_or_else(|| PathBuf::from("recipes"));
        find.show(key.key, Some(path_text(&recipes)), origin);

        let key = names("state_dir", "--state-dir", &["PIAAS_STATE_DIR"]);
        let (dir, origin) = find.find(&key, args.state_dir.clone(), path, |file| {
            file.state_dir.clone()
        })?;
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

        // Without one of these, the profile of the AWS configuration has the word, on AWS.
        let key = names("region", "--region", &["AWS_REGION", "AWS_DEFAULT_REGION"]);
        let (region, origin) =
            find.find(&key, args.region.clone(), text, |file| file.region.clone())?;
        let local = cloud == CloudName::Local;
        let default = local.then(|| crate::localcloud::DEFAULT_REGION.to_owned());
        find.show(key.key, region.clone().or(default), origin);

        let key = names("profile", "--profile", &["AWS_PROFILE"]);
        let (profile, origin) = find.find(&key, args.profile.clone(), text, |file| {
            file.profile.clone()
        })?;
        // The SDK takes an empty AWS_PROFILE for a name.
        let profile = profile.or_else(|| (!local).then(|| "default".to_owned()));
        find.show(key.key, profile.clone(), origin);

        let key = names(
            "allow_accounts",
            "--allow-account",
            &["PIAAS_ALLOW_ACCOUNTS"],
        );
        let given = Some(args.allow_account.clone()).filter(|given| !given.is_empty());
        let (accounts, origin) =
            find.find(&key, given, accounts, |file| file.allow_accounts.clone())?;
        let allow_accounts = accounts.unwrap_or_default();
        let list: Vec<&str> = allow_accounts.iter().map(|one| one.0.as_str()).collect();
        let list = Some(list.join(", ")).filter(|list| !list.is_empty());
        find.show(key.key, list, origin);

        let key = names("worker_agent", "--worker-agent", &["PIAAS_WORKER"]);
        let (worker_agent, origin) = find.find(&key, args.worker_agent.clone(), path, |_| None)?;
        let agent = worker_agent.as_deref().map(path_text);
        find.show(key.key, agent, origin);

        let key = names("mirror", "", &["PIAAS_MIRROR"]);
        let (mirror, origin) = find.find(&key, None, text, |file| file.mirror.clone())?;
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
    let refused = |what: &str, value: &str, origin: &Origin| {
        CliError::new(
            exit::USAGE,
            format!("{what} `{value}` ({origin}) cannot be used"),
        )
    };
    let key = names("bundle_bucket", "", &["PIAAS_BUNDLE_BUCKET"]);
    let (bucket, from) = find.find(&key, None, text, |file| file.bundle_bucket.clone())?;
    if let Some(bucket) = &bucket
        && !crate::localcloud::s3::is_bucket_name(bucket)
    {
        return Err(refused(key.key, bucket, &from).hint(
            "a bucket has 3 to 63 small letters, digits, dots and hyphens, and is named without s3://",
        ));
    }
    find.show(key.key, bucket.clone(), from);
    let key = names("bundle_prefix", "", &["PIAAS_BUNDLE_PREFIX"]);
    let (prefix, from) = find.find(&key, None, text, |file| file.bundle_prefix.clone())?;
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

fn xdg_dir(name: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name: &str| variable(name).map(PathBuf::from);
    // The XDG specification: a relative path in these variables is invalid and ignored.
    set(name)
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
    let mut file = ConfigFile::parse(&text).map_err(|error| refused(&error))?;
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
