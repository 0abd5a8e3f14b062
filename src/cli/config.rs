//! Settings: flag, then environment, then `piaas-bake.yaml` found upward from here, then the user's config file,
//! then the default. Flags and environment come through clap.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::args::{CloudName, GlobalArgs};
use super::error::CliError;
use super::exit;

/// Name of the project's config file.
pub const FILE_NAME: &str = "piaas-bake.yaml";

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
    mirror: Option<String>,
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
    /// The agent that goes into images of workers; None: the one beside this program.
    pub worker_agent: Option<PathBuf>,
    /// Debian mirror for the base of the local cloud.
    pub mirror: Option<String>,
}

impl Settings {
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
        let files = [load(project.as_deref())?, load(user.as_deref())?];
        let first = |get: fn(&ConfigFile) -> Option<PathBuf>| files.iter().find_map(get);
        let text = |get: fn(&ConfigFile) -> Option<String>| files.iter().find_map(get);
        let state_dir = match args
            .state_dir
            .clone()
            .or_else(|| first(|file| file.state_dir.clone()))
        {
            Some(dir) => dir,
            None => xdg_dir("XDG_STATE_HOME", ".local/state").ok_or_else(|| {
                CliError::new(
                    exit::USAGE,
                    "no place to keep state: neither XDG_STATE_HOME nor HOME is set",
                )
                .hint("pass --state-dir DIR or set PIAAS_STATE_DIR")
            })?,
        };
        let cache_dir = std::env::var_os("PIAAS_CACHE_DIR")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
            .or_else(|| xdg_dir("XDG_CACHE_HOME", ".cache"))
            .unwrap_or_else(|| state_dir.join("cache"));
        Ok(Self {
            cloud: args
                .cloud
                .or_else(|| files.iter().find_map(|file| file.cloud))
                .unwrap_or(CloudName::Local),
            recipes: args
                .recipes
                .clone()
                .or_else(|| first(|file| file.recipes.clone()))
                .unwrap_or_else(|| PathBuf::from("recipes")),
            state_dir: std::path::absolute(&state_dir).unwrap_or(state_dir),
            cache_dir: std::path::absolute(&cache_dir).unwrap_or(cache_dir),
            region: args
                .region
                .clone()
                .or_else(|| text(|file| file.region.clone())),
            profile: args
                .profile
                .clone()
                .or_else(|| text(|file| file.profile.clone())),
            worker_agent: args.worker_agent.clone(),
            mirror: std::env::var("PIAAS_MIRROR")
                .ok()
                .filter(|value| !value.is_empty())
                .or_else(|| text(|file| file.mirror.clone())),
        })
    }

    /// The root of the local cloud's base image: a cache, shared by all state directories.
    #[must_use]
    pub fn base_dir(&self) -> PathBuf {
        self.cache_dir
            .join("base")
            .join(crate::localcloud::base::directory_name())
    }

    /// The Debian mirror that the base is made from.
    #[must_use]
    pub fn mirror(&self) -> String {
        self.mirror
            .clone()
            .unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
    }

    /// Where the local cloud lives.
    #[must_use]
    pub fn cloud_dir(&self) -> PathBuf {
        self.state_dir.join("cloud")
    }
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

fn load(path: Option<&Path>) -> Result<ConfigFile, CliError> {
    let Some(path) = path else {
        return Ok(ConfigFile::default());
    };
    let refused = |error: &dyn std::error::Error| {
        CliError::new(
            exit::USAGE,
            format!("cannot use the config file {}", path.display()),
        )
        .because(error)
        .hint("its keys are cloud, recipes, state_dir, region, profile and mirror")
    };
    let text = std::fs::read_to_string(path).map_err(|error| refused(&error))?;
    if text.trim().is_empty() {
        return Ok(ConfigFile::default());
    }
    let mut file: ConfigFile = serde_yaml::from_str(&text).map_err(|error| refused(&error))?;
    // Paths in a file are relative to it, not to where the command is run.
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    for dir in [&mut file.recipes, &mut file.state_dir]
        .into_iter()
        .flatten()
    {
        *dir = base.join(&*dir);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_config_file_are_relative_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, "recipes: infra/recipes\ncloud: aws\n").unwrap();
        let file = load(Some(&path)).unwrap();
        assert_eq!(file.recipes, Some(dir.path().join("infra/recipes")));
        assert_eq!(file.cloud, Some(CloudName::Aws));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_file_and_the_known_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, "clod: aws\n").unwrap();
        let error = load(Some(&path)).unwrap_err();
        assert_eq!(error.code, exit::USAGE);
        assert!(error.message.contains("piaas-bake.yaml"));
        assert!(error.causes[0].contains("clod"), "{error:?}");
    }
}
